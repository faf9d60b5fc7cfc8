//! The plots of a report, as SVG.

use std::cmp::Reverse;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ReportError;
use shike_infer::metrics::{Calibration, ClassRow, Evaluation, Metric, Scores, Shot};

/// Blue, orange, green, purple, red, brown: told apart by most who see colours in another way
/// (Okabe and Ito 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
];
const GREY: RGBColor = RGBColor(150, 150, 150);
const FONT: (&str, i32) = ("sans-serif", 13);
const SMALL: (&str, i32) = ("sans-serif", 9);

type Failed = Box<dyn std::error::Error>;

/// A line by its name. An epoch without a value was not scored, and the line goes on to the next that
/// was; at a value that is not a number it has a gap.
pub(super) struct Line {
    pub name: String,
    /// (epoch over both stages, value)
    pub points: Vec<(f64, Option<f64>)>,
}

/// Draws a plot.
fn draw(
    size: (u32, u32),
    paint: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Failed>,
) -> Result<String, ReportError> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let drawn = paint(&area).and_then(|()| Ok(area.present()?));
    drop(area);
    drawn.map_err(|error| ReportError::Plot(error.to_string()))?;
    Ok(svg)
}

const TITLE: (&str, i32) = ("sans-serif", 15);
const MARGIN: i32 = 8;
/// Height of the title, and of each row of a legend.
const ROW: i32 = 20;
/// Width of the sign of a legend's entry, with the space behind it.
const SIGN: i32 = 20;

/// Draws the title and below it the legend, in as many rows as it needs, and gives the rest: so a
/// legend covers no data.
fn head<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    title: &str,
    entries: &[(&str, RGBColor)],
) -> Result<DrawingArea<SVGBackend<'a>, Shift>, Failed> {
    let width = area.dim_in_pixel().0 as i32;
    let font = FONT.into_text_style(area);
    let mut places = Vec::new();
    let (mut x, mut y) = (MARGIN, MARGIN + ROW);
    for (name, colour) in entries {
        let wide = SIGN + area.estimate_text_size(name, &font)?.0 as i32 + 14;
        if x > MARGIN && x + wide > width {
            (x, y) = (MARGIN, y + ROW);
        }
        places.push((x, y, *name, *colour));
        x += wide;
    }
    let rows = if entries.is_empty() { 0 } else { ROW };
    let (top, rest) = area.split_vertically(y + rows);
    top.draw(&Text::new(
        title,
        (MARGIN, MARGIN),
        TITLE.into_text_style(area),
    ))?;
    for (x, y, name, colour) in places {
        let corners = [(x, y + ROW / 2 - 5), (x + 14, y + ROW / 2 + 5)];
        top.draw(&Rectangle::new(corners, colour.filled()))?;
        top.draw(&Text::new(name, (x + SIGN, y + 4), font.clone()))?;
    }
    Ok(rest)
}

/// A chart with room for its axes.
fn chart<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, Shift>,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut chart = ChartBuilder::on(area);
    chart
        .margin(MARGIN)
        .margin_right(2 * MARGIN)
        .x_label_area_size(32)
        .y_label_area_size(48);
    chart
}

/// Shot groups, for a legend.
fn shots() -> [(&'static str, RGBColor); 3] {
    Shot::ALL.map(|shot| (shot.name(), colour(shot)))
}

/// The range of numbers, widened a little; something to draw in where there are none.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return 0.0..1.0;
    }
    let margin = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
    low - margin..high + margin
}

/// Lines over epochs. `stages` are the epochs at which a stage ends.
pub(super) fn lines(
    title: &str,
    y: &str,
    all: &[Line],
    stages: &[f64],
    size: (u32, u32),
) -> Result<String, ReportError> {
    let values = all.iter().flat_map(|line| line.points.iter());
    let last = values.clone().map(|(x, _)| *x).fold(1.0, f64::max);
    let heights = range(values.filter_map(|(_, value)| *value));
    let colours = || COLOURS.iter().copied().cycle();
    let names = all.iter().map(|line| line.name.as_str());
    let mut legend: Vec<_> = names.zip(colours()).collect();
    if legend.len() == 1 {
        // The title says it.
        legend.clear();
    }
    draw(size, |area| {
        let area = head(area, title, &legend)?;
        let mut chart = chart(&area).build_cartesian_2d(0.5..last + 0.5, heights.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .x_labels(8)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_labels(6)
            .x_desc("epoch")
            .y_desc(y)
            .draw()?;
        for stage in stages.iter().filter(|stage| **stage < last) {
            let x = stage + 0.5;
            let ends = [(x, heights.start), (x, heights.end)];
            chart.draw_series([PathElement::new(ends, GREY)])?;
        }
        for (line, colour) in all.iter().zip(colours()) {
            let style = colour.stroke_width(2);
            let scored: Vec<(f64, f64)> = line
                .points
                .iter()
                .filter_map(|(x, value)| value.map(|value| (*x, value)))
                .collect();
            // Between epochs that were not scored the line is only a guess: dots show what was.
            let sparse = scored.windows(2).any(|pair| pair[1].0 - pair[0].0 > 1.0);
            // A stage has a loss of its own: its line does not join the one before.
            let joined = |a: &(f64, f64), b: &(f64, f64)| {
                let parted = stages.iter().any(|stage| a.0 <= *stage && b.0 > *stage);
                a.1.is_finite() && b.1.is_finite() && !parted
            };
            for part in scored.chunk_by(joined) {
                if !part[0].1.is_finite() {
                    continue;
                }
                if sparse || part.len() == 1 {
                    let dots = part.iter().map(|dot| Circle::new(*dot, 2, colour.filled()));
                    chart.draw_series(dots)?;
                }
                chart.draw_series(LineSeries::new(part.iter().copied(), style))?;
            }
        }
        Ok(())
    })
}

fn colour(shot: Shot) -> RGBColor {
    COLOURS[shot as usize]
}

/// Accuracy of each class against its training images.
pub(super) fn classes(rows: &[ClassRow]) -> Result<String, ReportError> {
    let most = rows.iter().map(|row| row.train_count).max().unwrap_or(1);
    draw((560, 320), |area| {
        let area = head(area, "accuracy of each class", &shots())?;
        let mut chart =
            chart(&area).build_cartesian_2d((0.8..most as f64 * 1.25).log_scale(), -3.0..103.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .x_desc("training images")
            .y_desc("accuracy, %")
            .draw()?;
        for shot in Shot::ALL {
            let points = rows
                .iter()
                .filter(|row| row.shot == shot)
                .filter_map(|row| {
                    row.accuracy
                        .map(|accuracy| (row.train_count.max(1) as f64, accuracy))
                });
            let style = colour(shot).mix(0.6).filled();
            chart.draw_series(points.map(|point| Circle::new(point, 3, style)))?;
        }
        Ok(())
    })
}

/// Accuracy against confidence.
pub(super) fn reliability(calibration: &Calibration) -> Result<String, ReportError> {
    draw((400, 320), |area| {
        let title = format!("reliability (error {:.1} points)", calibration.error);
        let area = head(area, &title, &[])?;
        let mut chart = chart(&area).build_cartesian_2d(0.0..100.0, 0.0..100.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .x_labels(6)
            .y_labels(6)
            .x_desc("confidence, % (above the bars: images)")
            .y_desc("accuracy, %")
            .draw()?;
        let width = 100.0 / calibration.bins.len() as f64;
        let bins = calibration.bins.iter().enumerate();
        let filled = || bins.clone().filter(|(_, bin)| bin.images > 0);
        chart.draw_series(filled().map(|(i, bin)| {
            let left = i as f64 * width;
            let corners = [(left, 0.0), (left + width, bin.accuracy)];
            Rectangle::new(corners, COLOURS[0].mix(0.6).filled())
        }))?;
        chart.draw_series([PathElement::new([(0.0, 0.0), (100.0, 100.0)], GREY)])?;
        // A bar of three images tells little.
        let above = Pos::new(HPos::Center, VPos::Bottom);
        let style = SMALL.into_text_style(&area).pos(above);
        chart.draw_series(filled().map(|(i, bin)| {
            let at = ((i as f64 + 0.5) * width, bin.accuracy.min(96.0));
            Text::new(bin.images.to_string(), at, style.clone())
        }))?;
        Ok(())
    })
}

/// Classes of a drawn confusion matrix, at most: with more a cell is smaller than a pixel.
const MOST_CELLS: usize = 500;

/// The confusion matrix, from the most frequent class to the rarest; none with too many classes. The darker a cell,
/// the larger its share of the class's test images.
pub(super) fn confusion(evaluation: &Evaluation) -> Option<Result<String, ReportError>> {
    let mut order: Vec<&ClassRow> = evaluation.per_class.iter().collect();
    order.sort_by_key(|row| (Reverse(row.train_count), row.class));
    let side = order.len();
    if !(2..=MOST_CELLS).contains(&side) {
        return None;
    }
    let matrix = evaluation.confusion_matrix();
    let cells = order.iter().enumerate().flat_map(|(y, class)| {
        let row = &matrix[class.class];
        order.iter().enumerate().filter_map(move |(x, predicted)| {
            let images = row[predicted.class];
            (images > 0).then(|| (x, y, images as f64 / class.test_count as f64))
        })
    });
    // Where a group ends and the next begins.
    let ends = (1..side).filter(|&i| order[i - 1].shot != order[i].shot);
    Some(draw((560, 560), |area| {
        let title = "confusion matrix, classes from frequent to rare";
        let area = head(area, title, &[])?;
        let mut chart = chart(&area).build_cartesian_2d(0.0..side as f64, side as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .label_style(FONT)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .x_desc("taken for")
            .y_desc("class")
            .draw()?;
        chart.draw_series(cells.map(|(x, y, share)| {
            let (x, y) = (x as f64, y as f64);
            // The palest of them can be seen, too.
            let style = COLOURS[0].mix(0.1 + 0.9 * share).filled();
            Rectangle::new([(x, y), (x + 1.0, y + 1.0)], style)
        }))?;
        for end in ends {
            let (end, side) = (end as f64, side as f64);
            let lines = [[(end, 0.0), (end, side)], [(0.0, end), (side, end)]];
            chart.draw_series(lines.map(|line| PathElement::new(line, GREY)))?;
        }
        Ok(())
    }))
}

/// Bars of many-, medium- and few-shot accuracy; a group of bars for each scorer.
pub(super) fn groups(scorers: &[(String, &Scores)]) -> Result<String, ReportError> {
    draw((560, 320), |area| {
        let area = head(area, "accuracy by group", &shots())?;
        let mut chart = chart(&area).build_cartesian_2d(0.0..scorers.len() as f64, 0.0..100.0)?;
        let name = |x: &f64| {
            let place = (x - 0.5).round();
            let near = (x - 0.5 - place).abs() < 1e-6 && place >= 0.0;
            let name = near.then(|| scorers.get(place as usize)).flatten();
            name.map_or_else(String::new, |(name, _)| name.clone())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .x_labels(2 * scorers.len() + 1)
            .x_label_formatter(&name)
            .y_desc("accuracy, %")
            .draw()?;
        for shot in Shot::ALL {
            let style = colour(shot).mix(0.8).filled();
            let bars = scorers.iter().enumerate().filter_map(|(i, (_, scores))| {
                let left = i as f64 + 0.14 + 0.24 * shot as usize as f64;
                let value = scores.get(Metric::group(shot));
                value.map(|value| Rectangle::new([(left, 0.0), (left + 0.22, value)], style))
            });
            chart.draw_series(bars)?;
        }
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use shike_infer::metrics::{Evaluator, ShotThresholds};

    use super::*;

    /// The heights of all points of the thick lines, and of the texts with this content.
    fn heights(svg: &str, name: &str) -> (Vec<f64>, Vec<f64>) {
        let after = |text: &str, key: &str| {
            let (_, rest) = text.split_once(key)?;
            Some(rest.split('"').next()?.to_owned())
        };
        let lines = svg
            .split("<polyline")
            .filter(|e| e.contains("stroke-width=\"2\""));
        let points = lines.filter_map(|e| after(e, "points=\""));
        let ys = |points: String| -> Vec<f64> {
            let points = points.split_whitespace().map(|p| p.rsplit(',').next());
            points.map(|y| y.unwrap().parse().unwrap()).collect()
        };
        let texts = svg
            .split("<text")
            .filter(|e| e.split('\n').any(|line| line == name));
        let texts = texts.filter_map(|e| after(e, " y=\"")?.parse().ok());
        (points.flat_map(ys).collect(), texts.collect())
    }

    #[test]
    fn scores_of_every_fifth_epoch_are_joined_within_a_stage() {
        let top1 = |x: u32| match x {
            20 => Some(f64::NAN),
            5 | 10 | 15 | 25 | 30 | 35 => Some(f64::from(x)),
            _ => None,
        };
        let points = (1..=35).map(|x| (f64::from(x), top1(x))).collect();
        let line = Line {
            name: "top-1".into(),
            points,
        };
        let svg = lines("accuracy", "%", &[line], &[25.0], (560, 320)).unwrap();
        let thick = |e: &&str| e.contains("stroke-width=\"2\"");
        let lengths: Vec<usize> = svg
            .split("<polyline")
            .filter(thick)
            .map(|e| e.split("points=\"").nth(1).unwrap())
            .map(|e| e.split('"').next().unwrap().split_whitespace().count())
            .collect();
        // Up to the gap at 20, alone behind it, and the second stage.
        assert_eq!(lengths, [3, 1, 2], "{svg}");
        assert_eq!(svg.matches("<circle").count(), 6, "{svg}");
    }

    #[test]
    fn a_confusion_matrix_goes_from_frequent_to_rare() {
        // Of the rare class 0 two of three images are taken for the frequent class 1.
        let thresholds = ShotThresholds::default();
        let mut evaluator = Evaluator::new(&[5, 200], thresholds, 1).unwrap();
        let logits = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
        evaluator.add_batch(&[&logits], &[0, 0, 0, 1]).unwrap();
        let evaluation = evaluator.finish().unwrap();
        let svg = confusion(&evaluation).unwrap().unwrap();
        let opacity = |cell: &str| {
            let (_, rest) = cell.split_once("opacity=\"")?;
            rest.split('"').next()?.parse::<f64>().ok()
        };
        let cells = svg.split("<rect").filter(|rect| rect.contains("#0072B2"));
        let found: Vec<f64> = cells.filter_map(opacity).collect();
        // Class 1 is all right; of class 0, two thirds to the left and a third on the diagonal.
        let expected = [1.0, 0.7, 0.4];
        assert_eq!(found.len(), 3, "{svg}");
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 0.01, "{found} {expected}");
        }
    }

    #[test]
    fn a_legend_lies_above_all_data() {
        // Twelve names need several rows; values touch all corners.
        let line = |i: usize| Line {
            name: format!("expert number {i}"),
            points: vec![(1.0, Some(i as f64)), (2.0, Some(11.0 - i as f64))],
        };
        let all: Vec<Line> = (0..12).map(line).collect();
        let svg = lines("accuracy", "%", &all, &[], (560, 320)).unwrap();
        let (_, last) = heights(&svg, "expert number 11");
        assert_eq!(last.len(), 1, "{svg}");
        let (points, first) = heights(&svg, "expert number 0");
        assert!(last[0] > first[0] + f64::from(ROW));
        // Twelve lines of two points.
        assert_eq!(points.len(), 24);
        let highest = |ys: &[f64]| ys.iter().copied().fold(f64::NAN, f64::min);
        assert!(last[0] + f64::from(ROW) / 2.0 < highest(&points), "{svg}");
    }
}

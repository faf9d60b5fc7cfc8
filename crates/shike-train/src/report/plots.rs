//! The plots of a report, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::metrics::{Calibration, ClassRow, Shot};

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

type Failed = Box<dyn std::error::Error>;

/// A line by its name; where a value is missing it has a gap.
pub(super) struct Line {
    pub name: String,
    /// (epoch over both stages, value)
    pub points: Vec<(f64, Option<f64>)>,
}

fn draw(
    size: (u32, u32),
    paint: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Failed>,
) -> Result<String, Failed> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        paint(&area)?;
        area.present()?;
    }
    Ok(svg)
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
) -> Result<String, Failed> {
    let values = all.iter().flat_map(|line| line.points.iter());
    let last = values.clone().map(|(x, _)| *x).fold(1.0, f64::max);
    let heights = range(values.filter_map(|(_, value)| *value));
    draw(size, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(48)
            .build_cartesian_2d(0.5..last + 0.5, heights.clone())?;
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
        for (line, colour) in all.iter().zip(COLOURS.iter().cycle()) {
            let colour = *colour;
            let style = colour.stroke_width(2);
            // A stage has a loss of its own: its line does not join the one before.
            let joined = |a: &(f64, Option<f64>), b: &(f64, Option<f64>)| {
                let parted = stages.iter().any(|stage| a.0 <= *stage && b.0 > *stage);
                a.1.is_some() && b.1.is_some() && !parted
            };
            let mut legend = true;
            for part in line.points.chunk_by(joined) {
                let part: Vec<(f64, f64)> = part
                    .iter()
                    .filter_map(|(x, value)| value.map(|value| (*x, value)))
                    .filter(|(_, value)| value.is_finite())
                    .collect();
                if part.len() == 1 {
                    chart.draw_series([Circle::new(part[0], 2, colour.filled())])?;
                }
                let series = chart.draw_series(LineSeries::new(part, style))?;
                if legend {
                    series
                        .label(&line.name)
                        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
                    legend = false;
                }
            }
        }
        if all.len() > 1 {
            chart
                .configure_series_labels()
                .label_font(FONT)
                .background_style(WHITE.mix(0.8))
                .position(SeriesLabelPosition::UpperLeft)
                .draw()?;
        }
        Ok(())
    })
}

fn colour(shot: Shot) -> RGBColor {
    COLOURS[shot as usize]
}

/// Accuracy of each class against its training images.
pub(super) fn classes(rows: &[ClassRow]) -> Result<String, Failed> {
    let most = rows.iter().map(|row| row.train_count).max().unwrap_or(1);
    draw((560, 320), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("accuracy of each class", ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(48)
            .build_cartesian_2d((0.8..most as f64 * 1.25).log_scale(), -3.0..103.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .x_desc("training images")
            .y_desc("accuracy, %")
            .draw()?;
        for shot in [Shot::Many, Shot::Medium, Shot::Few] {
            let points = rows
                .iter()
                .filter(|row| row.shot == shot)
                .filter_map(|row| {
                    row.accuracy
                        .map(|accuracy| (row.train_count.max(1) as f64, accuracy))
                });
            let style = colour(shot).mix(0.6).filled();
            chart
                .draw_series(points.map(|point| Circle::new(point, 3, style)))?
                .label(shot.name())
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, style));
        }
        chart
            .configure_series_labels()
            .label_font(FONT)
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::LowerRight)
            .draw()?;
        Ok(())
    })
}

/// Accuracy against confidence.
pub(super) fn reliability(calibration: &Calibration) -> Result<String, Failed> {
    draw((400, 320), |area| {
        let title = format!("reliability (error {:.1} points)", calibration.error);
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..100.0, 0.0..100.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(FONT)
            .x_labels(6)
            .y_labels(6)
            .x_desc("confidence, %")
            .y_desc("accuracy, %")
            .draw()?;
        let width = 100.0 / calibration.bins.len() as f64;
        let filled = calibration.bins.iter().enumerate();
        let filled = filled.filter(|(_, bin)| bin.images > 0);
        chart.draw_series(filled.map(|(i, bin)| {
            let left = i as f64 * width;
            let corners = [(left, 0.0), (left + width, bin.accuracy)];
            Rectangle::new(corners, COLOURS[0].mix(0.6).filled())
        }))?;
        chart.draw_series([PathElement::new([(0.0, 0.0), (100.0, 100.0)], GREY)])?;
        Ok(())
    })
}

/// Bars of many-, medium- and few-shot accuracy; a group of bars for each scorer.
pub(super) fn groups(scorers: &[(String, [Option<f64>; 3])]) -> Result<String, Failed> {
    draw((560, 320), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("accuracy by group", ("sans-serif", 15))
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..scorers.len() as f64, 0.0..100.0)?;
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
        for shot in [Shot::Many, Shot::Medium, Shot::Few] {
            let style = colour(shot).mix(0.8).filled();
            let bars = scorers.iter().enumerate().filter_map(|(i, (_, values))| {
                let left = i as f64 + 0.14 + 0.24 * shot as usize as f64;
                values[shot as usize]
                    .map(|value| Rectangle::new([(left, 0.0), (left + 0.22, value)], style))
            });
            chart
                .draw_series(bars)?
                .label(shot.name())
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], style));
        }
        chart
            .configure_series_labels()
            .label_font(FONT)
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
        Ok(())
    })
}

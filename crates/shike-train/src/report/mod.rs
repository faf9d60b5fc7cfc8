//! `report.html`: what a finished run came to, in one file without anything from outside.

pub mod compare;
mod plots;

use shike_data::Part;
use std::fmt::Write;
use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, RgbImage};
use shike_data::{Dataset, DecodeLimits};
use thiserror::Error;

use crate::config::TrainConfig;
use crate::learner::progress::clean;
use crate::run::RunConfig;
use crate::run::checkpoint::{WriteError, atomic_write};
use crate::run::{Classes, EpochRow, RowScores, RunDirError, RunPaths};
use shike_infer::metrics::{Accuracy, ByShot, Confusion, Evaluation, Interval};

/// Why there is no report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file of the run cannot be read.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The report cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A plot could not be drawn.
    #[error("report: a plot failed: {0}")]
    Plot(String),
}

/// Confusions that are listed.
const CONFUSIONS: usize = 12;
/// Example pictures of each.
const EXAMPLES: usize = 4;
/// Side of an example picture in pixels, at most.
const SIDE: u32 = 96;
/// Classes that are listed, worst first.
const CLASSES: usize = 20;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:2em auto;max-width:1180px;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.2em .7em;border-bottom:1px solid #eee;text-align:right}
th{font-weight:600;background:#fafafa}td:first-child,th:first-child{text-align:left}
td.text,th.text{text-align:left}.plots{display:flex;flex-wrap:wrap;gap:12px}.note{color:#666}
.examples img{margin-right:4px;vertical-align:middle}pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:13px}";

/// Text that may hold anything, for HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in clean(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.1}"))
}

fn range(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "–".into(), |interval| interval.to_string())
}

/// Writes the report of a run whose last scoring is `evaluation`, on the images `scored`, to `out`
/// ([`RunPaths::report`], or elsewhere).
///
/// # Errors
/// If a file of the run cannot be read, or the report cannot be written. Runs from before
/// receipts existed have none; the report says so.
pub fn write_report(
    paths: &RunPaths,
    evaluation: &Evaluation,
    scored: &Dataset,
    out: &Path,
) -> Result<(), ReportError> {
    let html = html(paths, evaluation, scored)?;
    Ok(atomic_write(out, |writer| {
        writer.write_all(html.as_bytes())
    })?)
}

fn html(
    paths: &RunPaths,
    evaluation: &Evaluation,
    scored: &Dataset,
) -> Result<String, ReportError> {
    let classes = paths.read_classes()?;
    let rows = paths.read_rows()?;
    let config = RunConfig::read(paths)?;
    let receipt = paths.receipt_if_any()?;
    let split = receipt.as_ref().and_then(|receipt| receipt.scored);
    let split = split.map_or_else(|| "scored".to_owned(), |split| split.to_string());
    let name = paths.root().file_name().unwrap_or_default();
    let name = escape(&name.to_string_lossy());
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1>{name}</h1>\n<p>{}</p>\n",
        about(&config.train, &classes)
    );
    page += &summary(evaluation, &split);
    page += "<h2>Training</h2><div class=\"plots\">";
    page += &curves(&rows).map_err(plot_failed)?;
    page += "</div>\n<h2>Classes</h2><div class=\"plots\">";
    page += &plots::classes(&evaluation.per_class).map_err(plot_failed)?;
    let scorer = |name: String, a: &Accuracy| (name, a.groups);
    let mut scorers = vec![scorer("ensemble".into(), &evaluation.ensemble)];
    if evaluation.experts.len() > 1 {
        let experts = evaluation.experts.iter().enumerate();
        scorers.extend(experts.map(|(i, a)| scorer(format!("expert {i}"), a)));
    }
    page += &plots::groups(&scorers).map_err(plot_failed)?;
    if let Some(calibration) = evaluation.calibration(None) {
        page += &plots::reliability(&calibration).map_err(plot_failed)?;
    }
    page += "</div>\n";
    page += &worst_classes(evaluation, &classes);
    let upright = config.train.eval_pipeline.is_upright();
    let examples = |of: Confusion| examples(evaluation, of, scored, upright);
    let list = |title, none, all| confusions(title, none, all, &classes, &examples);
    page += &list(
        "Largest confusions",
        "Every image was named rightly.",
        evaluation.largest_confusions(),
    );
    page += &list(
        "Rare classes taken for more frequent ones",
        "No image was taken for one of a larger group.",
        evaluation.tail_to_head(),
    );
    let receipt = receipt.map_or_else(
        || "<p>This run has none.</p>".to_owned(),
        |receipt| format!("<pre>{}</pre>", json(&receipt)),
    );
    let _ = write!(
        page,
        "<h2>Receipt</h2><p class=\"note\">Results can be compared where class order, thresholds and \
         scored lists agree.</p>{receipt}\n<h2>Configuration</h2><details><summary>every \
         setting</summary><pre>{}</pre></details></body></html>\n",
        json(&config),
    );
    Ok(page)
}

/// Indented JSON, for HTML.
fn json(value: &impl serde::Serialize) -> String {
    escape(&serde_json::to_string_pretty(value).unwrap_or_default())
}

#[allow(clippy::needless_pass_by_value)]
fn plot_failed(error: Box<dyn std::error::Error>) -> ReportError {
    ReportError::Plot(error.to_string())
}

/// Method, network, epochs and data in a line.
fn about(config: &TrainConfig, classes: &Classes) -> String {
    let model = &config.model;
    let network = model.backbone.name();
    let method = match (model.is_plain(), model.experts) {
        (true, _) => "a plain network".to_owned(),
        (false, 1) => "SHIKE with 1 expert".to_owned(),
        (false, experts) => format!("SHIKE with {experts} experts"),
    };
    let epochs = match config.stage(2) {
        Some(second) => format!("{} + {}", config.stage1.epochs, second.epochs),
        None => config.stage1.epochs.to_string(),
    };
    let size = config.train_pipeline.output_size();
    let counts = &classes.train_counts;
    format!(
        "{method}, {}{}, {epochs} epochs, {} training images of {} classes ({} to {} a class)",
        network.unwrap_or("a network of its own"),
        size.map_or_else(String::new, |size| format!(" at {size} pixels")),
        counts.iter().sum::<usize>(),
        counts.len(),
        counts.iter().max().unwrap_or(&0),
        counts.iter().min().unwrap_or(&0),
    )
}

/// The table of accuracies on a split.
fn summary(evaluation: &Evaluation, split: &str) -> String {
    let mut table = String::from(
        "<table><tr><th>accuracy, %</th><th>top-1</th><th>top-5</th><th>class averaged</th>\
         <th>many</th><th>medium</th><th>few</th></tr>",
    );
    let mut row = |name: &str, a: &Accuracy| {
        let _ = write!(
            table,
            "<tr><td>{name}</td><td>{:.1}</td><td>{:.1}</td><td>{:.1}</td><td>{}</td><td>{}</td>\
             <td>{}</td></tr>",
            a.top1,
            a.top5,
            a.class_averaged,
            percent(a.groups.many),
            percent(a.groups.medium),
            percent(a.groups.few),
        );
    };
    row("<b>ensemble</b>", &evaluation.ensemble);
    for (i, expert) in evaluation.experts.iter().enumerate() {
        if evaluation.experts.len() > 1 {
            row(&format!("expert {i}"), expert);
        }
    }
    let ByShot { many, medium, few } =
        ByShot::of(|shot| range(evaluation.averaged_interval(Some(shot))));
    let _ = write!(
        table,
        "<tr><td>95 % interval</td><td>{}</td><td></td><td>{}</td><td>{many}</td><td>{medium}</td>\
         <td>{few}</td></tr>",
        range(evaluation.top1_interval()),
        range(evaluation.averaged_interval(None)),
    );
    let error = |shot| percent(evaluation.calibration(shot).map(|c| c.error));
    let ByShot { many, medium, few } = ByShot::of(|shot| error(Some(shot)));
    let _ = write!(
        table,
        "<tr><td>calibration error</td><td>{}</td><td></td><td></td><td>{many}</td><td>{medium}</td>\
         <td>{few}</td></tr></table>",
        error(None),
    );
    let too_few = evaluation
        .per_class
        .iter()
        .filter(|row| row.too_few())
        .count();
    let _ = writeln!(
        table,
        "<p class=\"note\">{} {split} images of {} classes; many: more than {} training images, few: fewer than \
         {}. Groups are averaged over classes. {too_few} classes have too few images here to tell.</p>",
        evaluation.images,
        evaluation.per_class.len(),
        evaluation.thresholds.many_above,
        evaluation.thresholds.few_below,
    );
    table
}

/// Losses, their terms, and accuracies over both stages: of the validation set where there is one, and of
/// the test set where it was scored more than once.
fn curves(rows: &[EpochRow]) -> Result<String, Box<dyn std::error::Error>> {
    let ends: Vec<f64> = rows
        .windows(2)
        .zip(1..)
        .filter(|(pair, _)| pair[0].stage != pair[1].stage)
        .map(|(_, epoch)| f64::from(epoch))
        .collect();
    let line = |name: &str, value: &dyn Fn(&EpochRow) -> Option<f64>| plots::Line {
        name: name.into(),
        points: rows
            .iter()
            .zip(1..)
            .map(|(row, x)| (f64::from(x), value(row)))
            .collect(),
    };
    let size = (560, 320);
    // SHIKE's training loss is a sum over experts and terms: no scale for both.
    let training = [line("training", &|row| Some(row.train_loss))];
    let mut all = plots::lines("training loss", "", &training, &ends, size)?;
    let validated = rows.iter().any(|row| row.scores.val.is_some());
    for part in [Part::Val, Part::Test] {
        let of = |row: &EpochRow, score: fn(&RowScores) -> Option<f64>| {
            row.scores.on(part)[0].and_then(score)
        };
        // Beside validation images, test images that were scored at the end alone make no curve.
        let least = 1 + usize::from(part == Part::Test && validated);
        if rows
            .iter()
            .filter(|row| row.scores.on(part)[0].is_some())
            .count()
            < least
        {
            continue;
        }
        let losses = [
            line("all images", &|row| of(row, |s| Some(s.loss))),
            line("class average", &|row| {
                of(row, |s| Some(s.class_averaged_loss))
            }),
        ];
        let title = format!("cross-entropy, {part} images");
        all += &plots::lines(&title, "", &losses, &ends, size)?;
        let mut accuracies = vec![
            line("top-1", &|row| of(row, |s| Some(s.top1))),
            line("many", &|row| of(row, |s| s.groups.many)),
            line("medium", &|row| of(row, |s| s.groups.medium)),
            line("few", &|row| of(row, |s| s.groups.few)),
        ];
        if rows.iter().any(|row| row.scores.on(part)[1].is_some()) {
            let top1 = |row: &EpochRow| Some(row.scores.on(part)[1]?.top1);
            accuracies.push(line("top-1, averaged weights", &top1));
        }
        let title = format!("accuracy, {part} images");
        all += &plots::lines(&title, "%", &accuracies, &ends, size)?;
        let scored = rows.iter().filter_map(|row| row.scores.on(part)[0]);
        let experts = scored.map(|scores| scores.experts.len()).max().unwrap_or(0);
        if experts > 1 {
            let expert = |i: usize| {
                let top1 = |row: &EpochRow| row.scores.on(part)[0]?.experts.get(i).copied();
                line(&format!("expert {i}"), &top1)
            };
            let lines: Vec<_> = (0..experts).map(expert).collect();
            let title = format!("top-1 of each expert, {part} images");
            all += &plots::lines(&title, "%", &lines, &ends, size)?;
        }
    }
    let mut terms: Vec<&String> = rows.iter().flat_map(|row| row.loss_terms.keys()).collect();
    terms.sort();
    terms.dedup();
    if !terms.is_empty() {
        // A row of their own.
        all += "</div><div class=\"plots\">";
    }
    for term in terms {
        let values = [line(term, &|row| row.loss_terms.get(term).copied())];
        let title = format!("{} term of the loss", term.replace('_', " "));
        all += &plots::lines(&title, "", &values, &ends, (373, 240))?;
    }
    Ok(all)
}

/// The classes with the lowest accuracy.
fn worst_classes(evaluation: &Evaluation, classes: &Classes) -> String {
    let mut rows: Vec<_> = evaluation
        .per_class
        .iter()
        .filter(|r| r.test_count > 0)
        .collect();
    rows.sort_by(|a, b| {
        let accuracy = |row: &shike_infer::metrics::ClassRow| row.accuracy.unwrap_or_default();
        accuracy(a)
            .total_cmp(&accuracy(b))
            .then(a.class.cmp(&b.class))
    });
    let mut table = String::from(
        "<h2>Worst classes</h2><table><tr><th>class</th><th>training images</th><th>group</th>\
         <th>right</th><th>accuracy, %</th><th>95 % interval</th><th></th></tr>",
    );
    for row in rows.iter().take(CLASSES) {
        let name = classes.names.get(row.class).map_or("", String::as_str);
        let _ = write!(
            table,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{} of {}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(name),
            row.train_count,
            row.shot,
            row.correct,
            row.test_count,
            percent(row.accuracy),
            range(row.interval()),
            if row.too_few() {
                "too few images to tell"
            } else {
                ""
            },
        );
    }
    table + "</table>\n"
}

/// Classes that are taken for others, with pictures; `none` is said where there are none.
fn confusions(
    title: &str,
    none: &str,
    all: Vec<Confusion>,
    classes: &Classes,
    examples: &dyn Fn(Confusion) -> String,
) -> String {
    let mut table = format!("<h2>{title}</h2>");
    if all.is_empty() {
        let _ = writeln!(table, "<p class=\"note\">{none}</p>");
        return table;
    }
    table += "<table class=\"examples\"><tr><th>class</th><th class=\"text\">taken for</th><th>images</th>\
              <th>share, %</th><th class=\"text\">some of them</th></tr>";
    for confusion in all.into_iter().take(CONFUSIONS) {
        let name = |class: u32| {
            let name = classes.names.get(class as usize).map_or("", String::as_str);
            let count = classes.train_counts.get(class as usize).unwrap_or(&0);
            format!("{} <span class=\"note\">({count})</span>", escape(name))
        };
        let _ = write!(
            table,
            "<tr><td>{}</td><td class=\"text\">{}</td><td>{} of {}</td><td>{:.0}</td>\
             <td class=\"text\">{}</td></tr>",
            name(confusion.label),
            name(confusion.predicted),
            confusion.images,
            confusion.of,
            confusion.share(),
            examples(confusion),
        );
    }
    table + "</table>\n<p class=\"note\">In parentheses: training images of the class.</p>\n"
}

/// Some pictures of a confusion, turned `upright` where the run turned them.
fn examples(evaluation: &Evaluation, of: Confusion, scored: &Dataset, upright: bool) -> String {
    let those = evaluation
        .scores
        .iter()
        .enumerate()
        .filter(|(_, score)| score.label == of.label && score.predicted == Some(of.predicted));
    let mut pictures = String::new();
    for (image, score) in those.take(EXAMPLES) {
        // A picture that cannot be read any more is no reason to have no report.
        let Some(pixels) = picture(scored, image, upright) else {
            continue;
        };
        if let Some(data) = thumbnail(&pixels) {
            let _ = write!(
                pictures,
                "<img alt=\"\" title=\"{} ({:.0} %)\" src=\"data:image/jpeg;base64,{data}\">",
                escape(&scored.origin(image)),
                100.0 * score.confidence,
            );
        }
    }
    pictures
}

/// An image of the scored ones, turned `upright` where the run turned them.
fn picture(scored: &Dataset, image: usize, upright: bool) -> Option<RgbImage> {
    let limits = DecodeLimits::default();
    let pixels = match upright {
        true => scored.image_upright(image, &limits),
        false => scored.image(image, &limits),
    };
    pixels.ok()
}

/// A small JPEG, as base64.
fn thumbnail(image: &RgbImage) -> Option<String> {
    let (width, height) = image.dimensions();
    // Small ones are made larger, so that something can be seen.
    let scale = f64::from(SIDE) / f64::from(width.max(height));
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    let small = resize(image, side(width), side(height), FilterType::Triangle);
    let mut bytes = Cursor::new(Vec::new());
    small.write_to(&mut bytes, ImageFormat::Jpeg).ok()?;
    Some(STANDARD.encode(bytes.into_inner()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text() {
        assert_eq!(
            escape("a<b>&'\u{202E}\"\u{1b}"),
            "a&lt;b&gt;&amp;&#39;?&quot;?"
        );
    }

    #[test]
    fn examples_are_turned_as_the_run_turned_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cat/1.jpg");
        std::fs::create_dir(dir.path().join("cat")).unwrap();
        RgbImage::new(12, 8).save(&file).unwrap();
        // An EXIF block behind the first marker: orientation 6.
        let exif = b"\xFF\xE1\0\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut bytes = std::fs::read(&file).unwrap();
        bytes.splice(2..2, exif.iter().copied());
        std::fs::write(&file, bytes).unwrap();
        let scored = shike_data::image_folder(dir.path()).unwrap();
        let size = |upright| picture(&scored, 0, upright).unwrap().dimensions();
        assert_eq!((size(false), size(true)), ((12, 8), (8, 12)));
        assert!(picture(&scored, 1, true).is_none());
    }
}

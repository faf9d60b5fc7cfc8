//! What a report shows, before it is formatted.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::Path;

use image::imageops::{FilterType, resize};
use image::{ImageFormat, RgbImage};
use shike_data::{Dataset, DecodeLimits, Decoding, Part};
use shike_infer::Predictor;
use shike_infer::metrics::{ClassRow, Confusion, Evaluation, ImageScore, Metric, Table, cell};

use super::ReportError;
use super::folds::Folds;
use super::looks::looks;
use super::plots::{self, Line, lines as lines_of};
use crate::config::TrainConfig;
use crate::run::receipt::Receipt;
use crate::run::{Classes, EpochRow, RunConfig, RunPaths};

/// Confusions that are listed.
const CONFUSIONS: usize = 12;
/// Example pictures of each.
const EXAMPLES: usize = 4;
/// Confusions of which it is shown where experts look.
const LOOKED_AT: usize = 6;
const LOOKS: &str = "A picture of each of the largest confusions as the network gets it; then where the model, or each of \
                     its experts, sees its own class, and where the class that it was taken for (class activation maps; \
                     the stronger the shade, the more speaks for the class, each map by its own strongest place).";
/// Side of an example picture in pixels, at most.
const SIDE: u32 = 96;
/// Classes that are listed, worst first.
const CLASSES: usize = 20;

pub(super) struct View {
    pub title: String,
    pub blocks: Vec<Block>,
}

pub(super) enum Block {
    Heading(String),
    Text(String),
    Note(String),
    /// SVG.
    Plots(Vec<String>),
    /// With pictures for each row, or none.
    Table(Table, Vec<Vec<Picture>>),
    Pre(String),
    /// Shown when its summary is clicked.
    Details(&'static str, String),
}

pub(super) struct Picture {
    pub title: String,
    pub jpeg: Vec<u8>,
}

impl View {
    /// Of a run whose last scoring is `evaluation`, on the images `scored`.
    pub fn new(
        paths: &RunPaths,
        evaluation: &Evaluation,
        scored: &Dataset,
        predictor: &Predictor,
    ) -> Result<Self, ReportError> {
        let config = RunConfig::read(paths)?;
        let receipt = paths.receipt_if_any()?;
        let subject = Subject {
            evaluation,
            scored,
            classes: paths.read_classes()?,
            decoding: config.train.eval_pipeline.decoding(),
        };
        let heading = |text: &str| Block::Heading(text.into());
        let part = receipt.as_ref().and_then(|receipt| receipt.scored);
        let part = part.map_or_else(|| "scored".to_owned(), |part| part.to_string());
        let weights = config.train.weights_origin.iter();
        let weights =
            weights.map(|origin| format!("the weights that it started from are {origin}"));
        let early = receipt.iter().flat_map(|receipt| &receipt.ended_early);
        let known = weights.chain(early.map(ToString::to_string));
        let known = known.chain(left_out(receipt.as_ref()));
        let mut blocks = vec![Block::Text(about(&config.train, &subject.classes))];
        blocks.extend(known.map(Block::Note));
        blocks.extend([
            Block::Heading(format!("Accuracy on the {part} images")),
            Block::Table(evaluation.table(), vec![]),
        ]);
        blocks.extend(evaluation.notes().into_iter().map(Block::Note));
        match paths.read_heads()? {
            Some(choice) => {
                blocks.push(heading("Heads, compared on held-out training images"));
                blocks.push(Block::Pre(choice.to_string()));
            }
            None => {
                blocks.push(heading("Training"));
                blocks.extend(curves(&paths.read_rows()?)?.map(Block::Plots));
            }
        }
        blocks.extend(subject.blocks()?);
        if let Some(table) = subject.looks(predictor) {
            blocks.push(heading(match evaluation.experts.len() {
                0 | 1 => "Where the model looks",
                _ => "Where experts look",
            }));
            blocks.push(table);
            blocks.push(Block::Note(LOOKS.into()));
        }
        let comparable =
            "Results can be compared where class order, thresholds and scored lists agree.";
        let none = || Block::Text("This run has none.".into());
        blocks.extend([
            heading("Receipt"),
            Block::Note(comparable.into()),
            receipt.map_or_else(none, |receipt| Block::Pre(json(&receipt))),
            heading("Configuration"),
            Block::Details("every setting", json(&config)),
        ]);
        Ok(Self {
            title: title(paths.root()),
            blocks,
        })
    }

    /// Of runs that hold out one part of the pictures each, with the pictures `scored` by each; `table` has means and
    /// intervals.
    pub fn of_folds(folds: &Folds, scored: &Dataset, folder: &Path) -> Result<Self, ReportError> {
        let first = RunPaths::new(&folds.runs[0]);
        let config = RunConfig::read(&first)?.train;
        let evaluation = &folds.all;
        let subject = Subject {
            evaluation,
            scored,
            classes: Classes {
                names: folds.class_names.clone(),
                train_counts: evaluation
                    .per_class
                    .iter()
                    .map(|row| row.train_count)
                    .collect(),
            },
            decoding: config.eval_pipeline.decoding(),
        };
        let left_out = left_out(first.receipt_if_any()?.as_ref());
        let heading = |text: &str| Block::Heading(text.into());
        let mut blocks = vec![
            Block::Text(format!(
                "{} folds: {}",
                folds.runs.len(),
                about(&config, &subject.classes)
            )),
            Block::Note(folds.sum()),
        ];
        blocks.extend(left_out.into_iter().map(Block::Note));
        blocks.extend([
            heading("Accuracy on the pictures that were held out"),
            Block::Table(folds.table(), vec![]),
            Block::Table(folds.runs(), vec![]),
            heading("All pictures together"),
            Block::Table(evaluation.table(), vec![]),
        ]);
        blocks.extend(evaluation.notes().into_iter().map(Block::Note));
        blocks.extend(subject.blocks()?);
        blocks.extend([
            heading("All classes"),
            Block::Table(folds.classes(usize::MAX), vec![]),
            heading("Configuration"),
            Block::Details("every setting, of the first run", json(&config)),
        ]);
        Ok(Self {
            title: title(folder),
            blocks,
        })
    }
}

/// The name of a folder.
fn title(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into()
}

/// What lay in the folders and was not taken, in lines.
fn left_out(receipt: Option<&Receipt>) -> Vec<String> {
    let left_out = receipt.iter().flat_map(|receipt| &receipt.left_out);
    left_out
        .map(|(part, left_out)| format!("{part} folders: {left_out}"))
        .collect()
}

/// Indented JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Method, network, epochs and data in a line.
fn about(config: &TrainConfig, classes: &Classes) -> String {
    let model = &config.model;
    let network = model.backbone.name();
    let method = match (model.is_plain(), model.experts) {
        (true, _) if config.frozen.is_some() => "a head on a frozen trunk".to_owned(),
        (true, _) => "a plain network".to_owned(),
        (false, 1) => "SHIKE with 1 expert".to_owned(),
        (false, experts) => format!("SHIKE with {experts} experts"),
    };
    let epochs = match (&config.frozen, config.stage(2)) {
        (Some(_), _) => String::new(),
        (None, Some(second)) => format!(" {} + {} epochs,", config.stage1.epochs, second.epochs),
        (None, None) => format!(" {} epochs,", config.stage1.epochs),
    };
    let size = config.train_pipeline.output_size();
    let counts = &classes.train_counts;
    format!(
        "{method}, {}{},{epochs} {} training images of {} classes ({} to {} a class)",
        network.unwrap_or("a network of its own"),
        size.map_or_else(String::new, |size| format!(" at {size} pixels")),
        counts.iter().sum::<usize>(),
        counts.len(),
        counts.iter().max().unwrap_or(&0),
        counts.iter().min().unwrap_or(&0),
    )
}

/// Whether a plot has the curve of a metric.
type Belongs = fn(&Metric) -> bool;

/// Losses, accuracies and the terms of the loss over both stages: of the validation set where there is one, and
/// of the test set where it was scored more than once.
fn curves(rows: &[EpochRow]) -> Result<[Vec<String>; 2], ReportError> {
    let ends: Vec<f64> = rows
        .windows(2)
        .zip(1..)
        .filter(|(pair, _)| pair[0].stage != pair[1].stage)
        .map(|(_, epoch)| f64::from(epoch))
        .collect();
    let line = |name: &str, value: &dyn Fn(&EpochRow) -> Option<f64>| {
        let values = rows.iter().map(value);
        Line {
            name: name.into(),
            points: (1..).map(f64::from).zip(values).collect(),
        }
    };
    let plot = |title: &str, unit, lines: &[Line]| lines_of(title, unit, lines, &ends, (560, 320));
    // SHIKE's training loss is a sum over experts and terms: no scale for both.
    let training = line("training", &|row| Some(row.train_loss));
    let mut plots = vec![plot("training loss", "", &[training])?];
    let validated = rows.iter().any(|row| row.scores.val.is_some());
    for part in [Part::Val, Part::Test] {
        let scored = rows.iter().filter_map(|row| row.scores.on(part)[0]);
        // Beside validation images, test images that were scored at the end alone make no curve.
        if scored.clone().count() < 1 + usize::from(part == Part::Test && validated) {
            continue;
        }
        let of = |metric, weights: usize, row: &EpochRow| {
            row.scores.on(part)[weights]?.ensemble.get(metric)
        };
        let kinds: [(&str, &str, Belongs); 3] = [
            ("cross-entropy", "", |m| m.unit().is_empty()),
            ("accuracy", "%", |m| m.unit() == "%" && m.shot.is_none()),
            ("accuracy by group", "%", |m| m.shot.is_some()),
        ];
        for (kind, unit, belongs) in kinds {
            let curve = |metric: Metric| line(metric.title, &|row| of(metric, 0, row));
            let mut lines: Vec<Line> = Metric::logged().filter(belongs).map(curve).collect();
            let averaged = line("top-1, averaged weights", &|row| of(Metric::TOP1, 1, row));
            if belongs(&Metric::TOP1) && averaged.points.iter().any(|(_, y)| y.is_some()) {
                lines.push(averaged);
            }
            plots.push(plot(&format!("{kind}, {part} images"), unit, &lines)?);
        }
        let experts = scored.map(|scores| scores.experts.len()).max().unwrap_or(0);
        let top1 = |row: &EpochRow, i| row.scores.on(part)[0]?.experts.get(i).copied();
        let expert = |i| line(&format!("expert {i}"), &|row| top1(row, i));
        let lines: Vec<Line> = (0..experts).map(expert).collect();
        if experts > 1 {
            let title = format!("top-1 of each expert, {part} images");
            plots.push(plot(&title, "%", &lines)?);
        }
    }
    let terms: BTreeSet<&String> = rows.iter().flat_map(|row| row.loss_terms.keys()).collect();
    let term = |term: &String| {
        let values = line(term, &|row| row.loss_terms.get(term).copied());
        let title = format!("{} term of the loss", term.replace('_', " "));
        lines_of(&title, "", &[values], &ends, (373, 240))
    };
    let terms = terms.into_iter().map(term).collect::<Result<_, _>>()?;
    Ok([plots, terms])
}

/// What tables of classes and pictures are made of.
struct Subject<'a> {
    evaluation: &'a Evaluation,
    scored: &'a Dataset,
    classes: Classes,
    /// What became of pixels in the run.
    decoding: Decoding,
}

impl Subject<'_> {
    fn name(&self, class: usize) -> &str {
        self.classes.names.get(class).map_or("", String::as_str)
    }

    /// Classes and confusions.
    fn blocks(&self) -> Result<Vec<Block>, ReportError> {
        let heading = |text: &str| Block::Heading(text.into());
        let mut blocks = vec![
            heading("Classes"),
            Block::Plots(self.plots()?),
            heading("Worst classes"),
            Block::Table(self.worst_classes(), vec![]),
            heading("Largest confusions"),
        ];
        let all = self.evaluation.largest_confusions();
        blocks.extend(self.confusions("Every image was named rightly.", all));
        blocks.push(heading("Rare classes taken for more frequent ones"));
        let none = "No image was taken for one of a larger group.";
        blocks.extend(self.confusions(none, self.evaluation.tail_to_head()));
        Ok(blocks)
    }

    /// Accuracy by class, by group and by confidence.
    fn plots(&self) -> Result<Vec<String>, ReportError> {
        let evaluation = self.evaluation;
        let experts = evaluation.experts.iter().enumerate();
        let experts = experts.map(|(i, scores)| (format!("expert {i}"), scores));
        let mut scorers = vec![(evaluation.answerer().to_owned(), &evaluation.ensemble)];
        scorers.extend(experts.filter(|_| evaluation.experts.len() > 1));
        let calibration = evaluation.calibration();
        let plots = [
            Some(plots::classes(&evaluation.per_class)),
            Some(plots::groups(&scorers)),
            calibration.map(|calibration| plots::reliability(&calibration)),
            plots::confusion(evaluation),
        ];
        plots.into_iter().flatten().collect()
    }

    /// The classes with the lowest accuracy.
    fn worst_classes(&self) -> Table {
        let rows = self.evaluation.per_class.iter();
        let mut rows: Vec<(f64, &ClassRow)> =
            rows.filter_map(|row| Some((row.accuracy?, row))).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut table = Table::default();
        let head = "training images|group|right|accuracy [%]|95 % interval|";
        table.row("class", head.split('|').map(Into::into));
        for (accuracy, row) in rows.into_iter().take(CLASSES) {
            let interval = row.interval().map(|interval| interval.to_string());
            let few = row.too_few().then_some("too few images to tell");
            let cells = [
                row.train_count.to_string(),
                row.shot.to_string(),
                format!("{} of {}", row.correct, row.test_count),
                cell(Some(accuracy)),
                interval.unwrap_or_default(),
                few.unwrap_or_default().into(),
            ];
            table.row(self.name(row.class), cells.into_iter());
        }
        table
    }

    /// Classes that are taken for others, with pictures; `none` is said where there are none.
    fn confusions(&self, none: &str, mut all: Vec<Confusion>) -> Vec<Block> {
        if all.is_empty() {
            return vec![Block::Note(none.into())];
        }
        all.truncate(CONFUSIONS);
        let name = |class: u32| {
            let count = self.classes.train_counts.get(class as usize).unwrap_or(&0);
            format!("{} ({count})", self.name(class as usize))
        };
        let mut table = Table::default();
        table.row(
            "class",
            "taken for|images|share [%]".split('|').map(Into::into),
        );
        for confusion in &all {
            let images = format!("{} of {}", confusion.images, confusion.of);
            let share = format!("{:.0}", confusion.share());
            let cells = [name(confusion.predicted), images, share];
            table.row(name(confusion.label), cells.into_iter());
        }
        let pictures = all.iter().map(|of| self.examples(of)).collect();
        vec![
            Block::Table(table, pictures),
            Block::Note("In parentheses: training images of the class.".into()),
        ]
    }

    /// A picture of each of the largest confusions, with what each expert sees in it.
    fn looks(&self, predictor: &Predictor) -> Option<Block> {
        let mut table = Table::default();
        table.row("class", ["taken for".to_owned()].into_iter());
        let mut pictures = vec![];
        for of in self.evaluation.largest_confusions().iter().take(LOOKED_AT) {
            let scores = &self.evaluation.scores;
            let wrong = |s: &ImageScore| s.label == of.label && s.predicted == Some(of.predicted);
            let Some(pixels) = scores
                .iter()
                .position(wrong)
                .and_then(|image| picture(self.scored, image, &self.decoding))
            else {
                continue;
            };
            let mut row = vec![];
            for class in [of.label, of.predicted] {
                let name = self.name(class as usize);
                let drawn = looks(predictor, pixels.clone(), class as usize)?;
                for (i, image) in drawn.iter().enumerate() {
                    // The picture itself stands first, once.
                    let title = match i {
                        0 if !row.is_empty() => continue,
                        0 => "as the network gets it".to_owned(),
                        _ if drawn.len() == 2 => name.to_owned(),
                        _ => format!("expert {}: {name}", i - 1),
                    };
                    row.extend(thumbnail(image).map(|jpeg| Picture { title, jpeg }));
                }
            }
            let taken = self.name(of.predicted as usize).to_owned();
            table.row(self.name(of.label as usize), [taken].into_iter());
            pictures.push(row);
        }
        (!pictures.is_empty()).then_some(Block::Table(table, pictures))
    }

    /// Some pictures of a confusion. One that cannot be read any more is no reason to have no report.
    fn examples(&self, of: &Confusion) -> Vec<Picture> {
        let scores = self.evaluation.scores.iter().enumerate();
        let those = scores
            .filter(|(_, score)| score.label == of.label && score.predicted == Some(of.predicted));
        let picture = |(image, score): (usize, &ImageScore)| {
            let (file, sure) = (self.scored.origin(image), 100.0 * score.confidence);
            let pixels = picture(self.scored, image, &self.decoding)?;
            Some(Picture {
                title: format!("{file} ({sure:.0} %)"),
                jpeg: thumbnail(&pixels)?,
            })
        };
        those.take(EXAMPLES).filter_map(picture).collect()
    }
}

/// An image of the scored ones, as the run decoded them.
pub(super) fn picture(scored: &Dataset, image: usize, decoding: &Decoding) -> Option<RgbImage> {
    let limits = DecodeLimits::default();
    scored.image_as(image, &limits, decoding).ok()
}

/// A small JPEG.
pub(super) fn thumbnail(image: &RgbImage) -> Option<Vec<u8>> {
    let (width, height) = image.dimensions();
    // Small ones are made larger, so that something can be seen.
    let scale = f64::from(SIDE) / f64::from(width.max(height));
    let side = |length: u32| ((f64::from(length) * scale).round() as u32).max(1);
    let small = resize(image, side(width), side(height), FilterType::Triangle);
    let mut bytes = Cursor::new(Vec::new());
    small.write_to(&mut bytes, ImageFormat::Jpeg).ok()?;
    Some(bytes.into_inner())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
        let decoding = |upright| Decoding {
            upright,
            ..Decoding::default()
        };
        let size = |upright| {
            let picture = picture(&scored, 0, &decoding(upright));
            picture.unwrap().dimensions()
        };
        assert_eq!((size(false), size(true)), ((12, 8), (8, 12)));
        assert!(picture(&scored, 1, &decoding(true)).is_none());
    }
}

//! `shike eval`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::Args;
use rayon::prelude::*;
use serde_json::json;
use shike_data::dataset::images_below;
use shike_data::{Dataset, Part, image_folder_with_classes, list_file};
use shike_infer::metrics::{Evaluation, ShotThresholds};
use shike_infer::{Prediction, Predictor, Tta};
use shike_train::{DataSource, RunConfig};

use super::model::unsure;
use super::scoring::{ScoringArgs, same_images, still_there};
use super::{CliError, ModelArgs, Status, print, print_json, say, writable};

/// Score a model: accuracy by many-, medium- and few-shot classes, intervals, calibration.
///
/// Exit status: 0 scored, 1 error, 2 wrong arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike eval runs/first
  shike eval runs/first --data pictures --list other_test.txt --per-class classes.csv
  shike eval runs/first --model best --split val --prior train --json")]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images: a folder with the model's class folders (or with them in `test/`), or the root of the
    /// list's paths. Default: those of the run.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// List of images, `path label` a line. Default: the run's own test images.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Which of the run's own images, where neither --data nor --list is given.
    #[arg(long, value_enum, conflicts_with_all = ["data", "list"])]
    split: Option<Part>,
    /// Classes with more training images than this are many-shot. Default: as in the run, or 100.
    #[arg(long, value_name = "N")]
    many_above: Option<usize>,
    /// Classes with fewer training images than this are few-shot. Default: as in the run, or 20.
    #[arg(long, value_name = "N")]
    few_below: Option<usize>,
    /// Write a CSV row a class.
    #[arg(long, value_name = "FILE")]
    per_class: Option<PathBuf>,
    /// Write the confusion matrix as CSV: a row a class, a column for what its images were taken for.
    #[arg(long, value_name = "FILE")]
    confusion: Option<PathBuf>,
    /// Write a CSV row an image.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Images of no class: how well the highest probability tells them from the others.
    #[arg(long, value_name = "DIR")]
    unknown: Option<PathBuf>,
    /// Sets of classes that hold the right one with this probability, such as 0.9: how often they do, and how
    /// large they are.
    #[arg(long, value_name = "SHARE")]
    coverage: Option<f64>,
    /// Score once more with each image looked at in several ways and the logits averaged, and print that beside the
    /// plain score: `flip` looks at the mirror image as well. Not for text, signs, and whatever has a left and a
    /// right.
    #[arg(long)]
    tta: Option<Tta>,
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scoring: ScoringArgs,
}

impl EvalArgs {
    /// The images, and what they are called above the table.
    fn images(
        &self,
        recorded: Option<&RunConfig>,
        names: &[String],
    ) -> Result<(Dataset, String), CliError> {
        let source = recorded.and_then(|config| config.data.as_ref());
        if let Some(list) = &self.list {
            let root = match (&self.data, source) {
                (Some(data), _) => data,
                (None, Some(DataSource::Lists { root, .. })) => root,
                (None, Some(DataSource::Folder { dir })) => dir,
                _ => {
                    let message = "--list needs --data, the folder that its paths are below";
                    return Err(CliError::Usage(message.into()));
                }
            };
            let images = list_file(root, list, None, Some(names.to_vec()))?;
            return Ok((images, list.display().to_string()));
        }
        if let Some(data) = &self.data {
            let test = data.join("test");
            let folder = if test.is_dir() { &test } else { data };
            let images = image_folder_with_classes(folder, names)?;
            return Ok((images, folder.display().to_string()));
        }
        let Some(source) = source else {
            let message =
                "this model knows no images of its own: give --data, or --data and --list";
            return Err(CliError::Usage(message.into()));
        };
        let data = source.open_with_classes(names)?;
        let none = |part: &str| CliError::Absent(format!("the run has no {part} images"));
        let scored = || {
            [Part::Test, Part::Val]
                .into_iter()
                .find(|part| data.get(*part).is_some())
        };
        let part = self.split.or_else(scored);
        let part = part.ok_or_else(|| none("test or validation"))?;
        let images = data.get(part).ok_or_else(|| none(&part.to_string()))?;
        still_there(images, "give --data (and --list, where the run has lists)")?;
        if let Some(paths) = self.model.paths() {
            same_images(&paths, part, images, names)?;
        }
        Ok((images.clone(), format!("the run's {part} images")))
    }

    /// How many of the images that the user named were trained on, in the folder of the run or, where it
    /// was moved, in the one that is named. None are if the run's own images are in neither.
    fn trained_on(&self, recorded: Option<&RunConfig>, images: &Dataset) -> usize {
        let source = recorded.and_then(|config| config.data.as_ref());
        let Some(source) = source.filter(|_| self.data.is_some() || self.list.is_some()) else {
            return 0;
        };
        let moved = self.data.as_ref().map(|dir| source.clone().moved_to(dir));
        let places = [Some(source.clone()), moved];
        let names = images.class_names();
        let places = places.into_iter().flatten();
        let opened = places.map(|source| source.open_with_classes(names));
        let trained: HashSet<PathBuf> = opened
            .flatten()
            .flat_map(|data| files(&data.train).collect::<Vec<_>>())
            .collect();
        files(images).filter(|file| trained.contains(file)).count()
    }
}

/// The files of the images, resolved, so that one is recognised however its folder was named.
fn files(images: &Dataset) -> impl Iterator<Item = PathBuf> + '_ {
    (0..images.len()).filter_map(|i| fs::canonicalize(images.origin(i)).ok())
}

impl EvalArgs {
    /// The highest probability of each image below a folder.
    fn others(&self, dir: &Path, predictor: &Predictor) -> Result<Vec<f32>, CliError> {
        let (images, left_out) = images_below(dir)?;
        if !left_out.is_empty() {
            say(&left_out.to_string());
        }
        let mut highest = Vec::with_capacity(images.len());
        for images in images.chunks(self.scoring.batch_size()) {
            let read = images
                .par_iter()
                .map(|image| predictor.read(&dir.join(image)));
            let read: Vec<_> = read.collect::<Result<_, _>>()?;
            let predictions = predictor.predict_prepared(&read)?;
            highest.extend(predictions.iter().map(Prediction::confidence));
        }
        match highest.is_empty() {
            true => Err(CliError::Absent(format!(
                "{}: holds no image",
                dir.display()
            ))),
            false => Ok(highest),
        }
    }

    /// Scores a model.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        for out in [&self.per_class, &self.confusion, &self.predictions]
            .into_iter()
            .flatten()
        {
            writable(out)?;
        }
        let recorded = self.model.recorded()?;
        let predictor = self.model.load()?;
        let (images, name) = self.images(recorded.as_ref(), &predictor.info().class_names)?;
        if !images.left_out().is_empty() {
            say(&images.left_out().to_string());
        }
        let trained_on = self.trained_on(recorded.as_ref(), &images);
        if trained_on > 0 {
            say(&format!(
                "warning: {trained_on} of the {} images are among those that the run was trained on; \
                 the accuracy on new images is lower",
                images.len()
            ));
        }
        let header = format!(
            "{} on {name}, {} classes",
            self.model.file()?.display(),
            predictor.info().class_names.len()
        );
        let recorded = recorded.map_or_else(ShotThresholds::default, |c| c.train.thresholds);
        let thresholds = ShotThresholds {
            many_above: self.many_above.unwrap_or(recorded.many_above),
            few_below: self.few_below.unwrap_or(recorded.few_below),
        };
        thresholds
            .validate()
            .map_err(|error| CliError::Usage(error.to_string()))?;
        let sets = self
            .coverage
            .map(|coverage| predictor.sets(coverage, thresholds));
        let sets = sets.transpose()?;
        let others = match &self.unknown {
            Some(dir) => Some(self.others(dir, &predictor)?),
            None => None,
        };
        let evaluation = self.scoring.score(&predictor, &images, thresholds)?;
        let mut tables = vec![];
        let mut predictor = predictor;
        if let Some(tta) = self.tta {
            let again = predictor.with_tta(Some(tta));
            let evaluation = self.scoring.score(&again, &images, thresholds)?;
            let name = tta.name();
            let text = format!(
                "--tta {name}: the logits of each image and of its mirror image averaged
{evaluation}"
            );
            let scores = json!({ "kind": name, "scores": evaluation.to_json() });
            tables.push(("tta", scores, text));
            predictor = again.with_tta(None);
        }
        if let Some(sets) = &sets {
            let score = evaluation.coverage(sets).ok_or_else(|| {
                let message =
                    "sets of so many images and classes do not fit into memory: score fewer images";
                CliError::Absent(message.into())
            })?;
            tables.push(("coverage", json!(score), score.to_table().to_string()));
            sets.unsure.iter().for_each(|shot| say(&unsure(*shot)));
        }
        if let Some(others) = &others {
            let score = evaluation.unknown(others);
            tables.push(("unknown", json!(score), score.to_table().to_string()));
        }
        let create = |path: &Path| File::create(path).map_err(CliError::file(path));
        let names = &predictor.info().class_names;
        if let Some(path) = &self.confusion {
            let written = evaluation.write_confusion_csv(create(path)?, names);
            written.map_err(CliError::file(path))?;
        }
        if let Some(path) = &self.per_class {
            let written = evaluation.write_per_class_csv(create(path)?, names);
            written.map_err(CliError::file(path))?;
        }
        if let Some(path) = &self.predictions {
            let written = evaluation.write_predictions_csv(create(path)?, |i| images.origin(i));
            written.map_err(CliError::file(path))?;
        }
        match self.json {
            true => {
                let mut json = as_json(&evaluation, &predictor);
                for (name, score, _) in tables {
                    json[name] = score;
                }
                json["left_out"] = json!(images.left_out());
                print_json(&json)
            }
            false => {
                let first = format!("{header}\n{evaluation}");
                let others = tables.into_iter().map(|(.., table)| table);
                let tables: Vec<String> = std::iter::once(first).chain(others).collect();
                let tables: Vec<&str> = tables.iter().map(|table| table.trim_end()).collect();
                print(&tables.join("\n\n"))
            }
        }?;
        Ok(Status::Success)
    }
}

fn as_json(evaluation: &Evaluation, predictor: &Predictor) -> serde_json::Value {
    let mut json = json!(evaluation.to_json());
    json["class_names"] = json!(predictor.info().class_names);
    json["calibration"] = json!(evaluation.calibration());
    let tail_to_head = evaluation.tail_to_head().into_iter().take(20);
    json["tail_to_head"] = json!(tail_to_head.collect::<Vec<_>>());
    json["evaluation"] = json!(evaluation);
    json
}

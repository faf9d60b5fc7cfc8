//! Images put through a network, and their scores for programs.

use std::path::Path;

use clap::Args;
use serde_json::json;
use shike_data::dataset::some_names;
use shike_data::{Dataset, Loader, LoaderConfig, Part};
use shike_infer::Predictor;
use shike_infer::metrics::{Evaluation, ShotThresholds};
use shike_train::TrainError;
use shike_train::run::RunPaths;

use super::model::say_resized;
use super::{CliError, say};

/// How images are put through a network.
#[derive(Args, Clone, Copy, Debug)]
pub struct ScoringArgs {
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Threads that decode; 0 takes one for each core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
}

impl ScoringArgs {
    /// Images of a batch.
    pub(super) fn batch_size(&self) -> usize {
        self.batch_size.max(1)
    }

    /// Scores a model on these images.
    pub(super) fn score(
        self,
        predictor: &Predictor,
        images: &Dataset,
        thresholds: ShotThresholds,
    ) -> Result<Evaluation, CliError> {
        let config = LoaderConfig {
            batch_size: self.batch_size,
            workers: self.workers,
            ..LoaderConfig::default()
        };
        let sizes = (0..images.len()).filter_map(|i| images.header_size(i).ok());
        say_resized(predictor, sizes);
        let pipeline = predictor.pipeline().clone();
        let loader = Loader::new(images.clone(), pipeline, config, 0)?;
        Ok(predictor.evaluate(&loader, thresholds)?)
    }
}

/// Refuses a run's images that are not where they were, with what to do.
pub(super) fn still_there(images: &Dataset, advice: &str) -> Result<(), CliError> {
    let (Some(root), false) = (images.root(), images.is_empty()) else {
        return Ok(());
    };
    let mut some = (0..images.len()).step_by(images.len().div_ceil(8));
    if some.any(|i| Path::new(&images.origin(i)).exists()) {
        return Ok(());
    }
    let call = match root.is_relative() {
        true => "call this from the folder that the run was trained from, or ",
        false => "",
    };
    Err(CliError::Absent(format!(
        "the run's images are not where they were: there is no {}; {call}{advice}",
        images.origin(0)
    )))
}

/// Refuses images with other classes than the run, and says so where the images of a part are not those that it had.
pub(super) fn same_images(
    paths: &RunPaths,
    part: Part,
    images: &Dataset,
    names: &[String],
) -> Result<(), CliError> {
    same_classes(images, names)?;
    if let Some(receipt) = paths.receipt_if_any()?
        && let Some(differ) = receipt.other_images(part, images)?
    {
        say(&format!("warning: {differ}"));
    }
    Ok(())
}

/// Refuses images with other classes than the run.
pub(super) fn same_classes(images: &Dataset, names: &[String]) -> Result<(), CliError> {
    let now = images.class_names();
    if now == names {
        return Ok(());
    }
    let behind = |word, all: &[String], known: &[String]| {
        let others = all.iter().filter(|name| !known.contains(name));
        let others: Vec<&String> = others.collect();
        (!others.is_empty()).then(|| format!("{word}: {}", some_names(&others)))
    };
    let differ = [behind("gone", names, now), behind("new", now, names)];
    let differ: Vec<String> = differ.into_iter().flatten().collect();
    let message = match differ.is_empty() {
        true => "the classes of the images have another order than those of the run".into(),
        false => format!(
            "the images have other classes than the run ({})",
            differ.join("; ")
        ),
    };
    Err(TrainError::Mismatch(message).into())
}

/// The scores of the ensemble with their 95 % intervals, for programs.
pub(super) fn scores(evaluation: &Evaluation) -> serde_json::Value {
    let mut json = evaluation.to_json();
    json.insert("images".into(), json!(evaluation.images));
    json.into()
}

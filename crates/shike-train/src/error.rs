//! What can end a run.

use std::path::PathBuf;

use burn::store::RecordError;
use shike_data::DataError;
use shike_model::weights::WeightsError;
use thiserror::Error;

use crate::config::TrainConfigError;
use crate::recipe::RecipeError;
use crate::run::RunDirError;
use crate::run::checkpoint::{CheckpointError, WriteError};
use shike_infer::device::memory::gib;
use shike_infer::metrics::MetricsError;

/// A run that cannot start or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A field of the configuration is out of range.
    #[error("configuration: {0}")]
    Config(#[from] TrainConfigError),
    /// A recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A model cannot be scored or written.
    #[error(transparent)]
    Infer(#[from] shike_infer::InferError),
    /// The images cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data does not fit the configuration or the run.
    #[error("{0}")]
    Mismatch(String),
    /// The run's folder cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Weights cannot be read or do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tensors inside a checkpoint are not those of this network.
    #[error("{path}: the checkpoint is of another network: {source}", path = path.display())]
    Record {
        /// The checkpoint.
        path: PathBuf,
        /// What Burn says.
        source: RecordError,
    },
    /// A head cannot be fitted.
    #[error(transparent)]
    Head(#[from] shike_heads::HeadError),
    /// Scoring failed.
    #[error("evaluation: {0}")]
    Metrics(#[from] MetricsError),
    /// The loss is NaN or infinite.
    #[error(
        "{term} is {value} at step {step} (stage {stage}, epoch {}, learning rate {lr}): \
         training has diverged; begin another run with a lower learning rate, a longer warm-up or \
         `clip_norm`",
        epoch + 1
    )]
    NonFinite {
        /// Which term of the loss.
        term: String,
        /// What it was.
        value: f64,
        /// Optimizer steps before, over both stages.
        step: u64,
        /// Stage, from 1.
        stage: usize,
        /// Epoch within the stage, from 0.
        epoch: usize,
        /// The learning rate.
        lr: f64,
    },
    /// A step does not fit into the memory.
    #[error("{}", out_of_memory(*batch_size, *needed, *available, *fits, cause.as_deref()))]
    OutOfMemory {
        /// Images of a batch.
        batch_size: usize,
        /// Estimate of what a step needs, in bytes.
        needed: u64,
        /// What there is, in bytes.
        available: u64,
        /// The largest batch that the estimate says fits; 0 if none does.
        fits: usize,
        /// What the backend said, where it was tried.
        cause: Option<String>,
    },
    /// The features of the training images do not fit into the memory.
    #[error("{}", too_many_features(*images, *needed, *available, *fits))]
    TooManyFeatures {
        /// Training images.
        images: usize,
        /// Estimate of what heads on their features need, in bytes.
        needed: u64,
        /// What the machine has, in bytes.
        available: u64,
        /// The most images of a class with which they fit; 0 if not even one does.
        fits: usize,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The loader ended before the epoch did.
    #[error("the loader gave {found} of {expected} batches of the epoch and no error")]
    ShortEpoch {
        /// Batches that came.
        found: usize,
        /// Batches that the epoch has.
        expected: usize,
    },
}

fn out_of_memory(
    batch_size: usize,
    needed: u64,
    available: u64,
    fits: usize,
    cause: Option<&str>,
) -> String {
    let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    let advice = match fits {
        0 => "not even a batch of 1 fits: take a smaller network or smaller images".to_owned(),
        fits => {
            let accumulate = batch_size.div_ceil(fits);
            format!(
                "try `loader.batch_size` = {fits} (with `accumulation` = {accumulate} a step still sees \
                 about {batch_size} images)"
            )
        }
    };
    format!(
        "out of memory{cause}: a step with batch {batch_size} needs about {}, and {} are there; \
         {advice}",
        gib(needed),
        gib(available)
    )
}

fn too_many_features(images: usize, needed: u64, available: u64, fits: usize) -> String {
    let advice = match fits {
        0 => "take a smaller network".to_owned(),
        fits => format!(
            "try `max_images` = {fits}: with so many of a class at most they fit, and the small classes lose none"
        ),
    };
    format!(
        "out of memory: heads on the features of {images} training images need about {}, and {} are there; {advice}",
        gib(needed),
        gib(available)
    )
}

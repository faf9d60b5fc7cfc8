//! What can end a run.

use std::path::PathBuf;

use burn::store::RecordError;
use shike_data::DataError;
use shike_model::loss::BalancedSoftmaxError;
use shike_model::weights::WeightsError;
use thiserror::Error;

use crate::checkpoint::{CheckpointError, WriteError};
use crate::config::TrainConfigError;
use crate::metrics::MetricsError;
use crate::run_dir::RunDirError;

/// A run that cannot start or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A field of the configuration is out of range.
    #[error("configuration: {0}")]
    Config(#[from] TrainConfigError),
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
    /// A class has no training image.
    #[error("stage 2: {0}")]
    Prior(#[from] BalancedSoftmaxError),
    /// Scoring failed.
    #[error("evaluation: {0}")]
    Metrics(#[from] MetricsError),
    /// The loss is NaN or infinite.
    #[error(
        "{term} is {value} at step {step} (stage {stage}, epoch {epoch}, learning rate {lr}): \
         training has diverged; try a lower learning rate, a longer warm-up or --clip-norm, and go \
         on from an earlier checkpoint"
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
    /// The loader ended before the epoch did.
    #[error("the loader gave {found} of {expected} batches of the epoch and no error")]
    ShortEpoch {
        /// Batches that came.
        found: usize,
        /// Batches that the epoch has.
        expected: usize,
    },
}

//! What can go wrong with a model in use.

use std::path::PathBuf;

use shike_data::DataError;
use shike_data::write::WriteError;
use shike_model::weights::WeightsError;
use thiserror::Error;

use crate::metrics::MetricsError;
use crate::metrics::prior::PriorError;

/// A model that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InferError {
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// What was given does not fit the model.
    #[error("{0}")]
    Mismatch(String),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Weights cannot be read or do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The class frequencies that a model is to be used under are wrong.
    #[error("prior: {0}")]
    ClassPrior(#[from] PriorError),
    /// Scoring failed.
    #[error("evaluation: {0}")]
    Metrics(#[from] MetricsError),
    /// A trained network gives no numbers.
    #[error(
        "{path}: the model's logits are NaN or infinite: its weights are broken, as those of a run that \
         diverged; take another model, or train it again with a lower learning rate",
        path = path.display()
    )]
    NotANumber {
        /// The model file.
        path: PathBuf,
    },
    /// A trunk gives no numbers.
    #[error(
        "{origin}: its features at {depth} are NaN or infinite: the trunk's weights are broken, or not those of \
         its preprocessing"
    )]
    NotAFeature {
        /// The picture.
        origin: String,
        /// The depth, such as `layer3`.
        depth: String,
    },
    /// A picture is another than it was when the embedding began.
    #[error("{0}: has changed while it was embedded; start again when it is at rest")]
    Changed(String),
    /// It was asked to stop.
    #[error("stopped after {done} of {total} pictures")]
    Stopped {
        /// Pictures that are done.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// The loader ended before all images were read.
    #[error("the loader gave {found} of {expected} batches and no error")]
    ShortEpoch {
        /// Batches that came.
        found: usize,
        /// Batches that there are.
        expected: usize,
    },
}

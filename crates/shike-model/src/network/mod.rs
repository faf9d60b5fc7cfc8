//! Networks: blocks, backbones, knowledge fusion, classifiers, and [`Shike`], which joins them.

pub(crate) mod backbone;
mod batch_norm;
mod classifier;
mod conv;
mod decoupled;
mod dkf;
mod parts;
mod shike;
mod statistics;
mod summary;
mod trunk;

pub use backbone::{BackboneConfig, Block, FeatureMap, FeatureShape, Layer, resnet};
pub use batch_norm::{BatchNorm, BatchNormConfig};
pub use classifier::{Classifier, ClassifierConfig, CosineClassifier, CosineClassifierConfig};
pub use conv::ConvInit;
pub use decoupled::ScaledLinear;
pub use dkf::{Dkf, DkfConfig, StridedConv};
pub use parts::Part;
pub use shike::{Expert, ExpertFeatures, ExpertLogits, Features, Head, Shike, ShikeConfig};
pub use summary::{ModelSummary, PartSummary};
pub use trunk::Trunk;

use thiserror::Error;

/// A configuration that no network can be built from.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field holds a value outside what it may be.
    #[error("{field}: {found} is not possible; it must be {expected}")]
    Field {
        /// Name of the configuration field.
        field: &'static str,
        /// What it held.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A network whose weights no machine could hold.
    #[error("a network of {found} numbers is not possible; it must have at most 10000000000")]
    Size {
        /// How many it would have.
        found: u64,
    },
    /// Stride-2 convolutions cannot bring the shallow map to the deep map's size.
    #[error(
        "knowledge fusion: no number of stride-2 convolutions brings a {shallow} map to {deep} \
         (each halves a side, rounding up)"
    )]
    Fusion {
        /// Shape of the shallow map.
        shallow: FeatureShape,
        /// Shape of the deep map.
        deep: FeatureShape,
    },
}

/// Refuses a size outside 1 to `most`.
fn within(field: &'static str, found: usize, most: usize) -> Result<(), ConfigError> {
    match (1..=most).contains(&found) {
        true => Ok(()),
        false => Err(ConfigError::Field {
            field,
            found: found.to_string(),
            expected: format!("1 to {most}"),
        }),
    }
}

//! A trained SHIKE model in use: on a device, from a file, on new images, and how good it is.
//!
//! Nothing here trains, draws plots or reads recipes: a program that only uses models needs this crate and what
//! is below it (`shike-data`, `shike-model`).
//!
//! | module | what lives there |
//! |---|---|
//! | [`device`] | devices by name, their memory, batches of bytes as tensors on them |
//! | [`features`] | pictures as vectors of a frozen trunk: [`Embedder`] |
//! | [`metrics`] | accuracies of a long-tailed test set, calibration, confusions, class priors |
//! | [`model`] | model files, [`Predictor`], scoring a network on a data set |

pub mod device;
pub mod error;
pub mod features;
pub mod metrics;
pub mod model;
#[doc(hidden)]
pub use device::batch::{Precision, Upload};
pub use device::burn_loader::{BurnLoader, ImageBatch};
pub use error::InferError;
pub use features::{EmbedEvent, Embedder, FeatureCache, Features};
pub use metrics::prior::Prior;
pub use model::file::{ModelInfo, load_model, save_model};
pub use model::network::Network;
pub use model::origin::Origin;
pub use model::predictor::{ActivationMap, Prediction, Predictor, Prepared};
pub use model::scorer::{Scorer, Tta};

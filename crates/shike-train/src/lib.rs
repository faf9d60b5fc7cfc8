//! Two-stage training of [SHIKE](shike_model) on long-tailed images.
//!
//! The crate has a training loop of its own rather than burn-train's, because a run has to survive
//! being killed at any moment: one file holds the network, the running statistics, the momentum
//! and the position inside the epoch, and a run that is resumed from it gives the same weights, bit
//! for bit, as one that was never stopped.
//!
//! Data flows one way: data set → sampler → loader → [`batch`] → model → loss → [`learner`] →
//! [`metrics`] → [`run_dir`].

pub mod auto;
pub mod batch;
pub mod checkpoint;
pub mod compare;
pub mod config;
pub mod data_loader;
pub mod data_source;
pub mod device;
pub mod diff;
pub mod ema;
pub mod error;
pub mod evaluate;
pub mod inference;
pub mod learner;
pub mod memory;
pub mod method;
pub mod metrics;
pub mod model_file;
pub mod optim;
pub mod prior;
pub mod progress;
pub mod receipt;
pub mod recipe;
pub mod report;
pub mod run_dir;
pub mod schedule;
mod strict;

pub use batch::{Precision, Upload};
pub use config::{ScoreTest, StageConfig, TrainConfig, TrainConfigError};
pub use data_loader::{BurnLoader, ImageBatch};
pub use data_source::{DataSource, RunConfig, TrainData};
pub use ema::Ema;
pub use error::TrainError;
pub use evaluate::evaluate;
pub use inference::{Prediction, Predictor};
pub use learner::{DryRun, FinalScores, Learner, Outcome};
pub use method::{Loss, Stage2};
pub use model_file::{ModelInfo, load_model, save_model};
pub use prior::Prior;
pub use progress::Progress;
pub use receipt::Receipt;
pub use recipe::{Recipe, RecipeError};
pub use run_dir::RunDir;
pub use schedule::Schedule;

//! Two-stage training of [SHIKE](shike_model) on long-tailed images.
//!
//! The crate has a training loop of its own rather than burn-train's, because a run has to survive
//! being killed at any moment: one file holds the network, the running statistics, the momentum
//! and the position inside the epoch, and a run that is resumed from it gives the same weights, bit
//! for bit, as one that was never stopped.
//!
//! Data flows one way: data set → sampler → loader → model → loss → [`learner`] → metrics → [`run`] →
//! [`report`]. A module may use those above it in this table, and none below:
//!
//! | module | what lives there |
//! |---|---|
//! | [`config`] | what a run does: stages, schedules, sources of images, and how two of them differ |
//! | [`recipe`] | how people write it, and [what fits their pictures](recipe::auto) |
//! | [`run`] | what lies in a run's folder: configuration, rows, checkpoints, receipt |
//! | [`ranks`] | processes that train together |
//! | [`learner`] | what changes weights |
//! | [`report`] | what people look at: pages, plots, comparisons |
//! | [`text`] | names of others, made safe to show; all may use it |

pub mod config;
pub mod error;
pub mod learner;
pub mod ranks;
pub mod recipe;
pub mod report;
pub mod run;
pub mod text;

pub use config::{
    AdamWConfig, DataSource, OptimizerConfig, Schedule, ScoreTest, SgdConfig, Stage2, StageConfig,
    TrainConfig, TrainConfigError, TrainData,
};
pub use error::TrainError;
pub use learner::{
    Deadline, DryRun, Ema, FinalScores, Learner, NoTime, Outcome, Pace, Progress, RunTime, Session,
};
pub use recipe::{Recipe, RecipeError};
pub use run::receipt::Receipt;
pub use run::{RunConfig, RunDir};

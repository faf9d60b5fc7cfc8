//! `shike train`.

mod args;
mod auto;
mod kinds;
mod preset;
mod run;
mod trained;

pub use args::TrainArgs;
pub use kinds::{Arch, BadImagesKind, Baseline, PrecisionKind};
pub use preset::{Base, ImagePreset, Preset};
pub use run::{OutputArgs, RecipeArgs, train, train_with};
pub use trained::Trained;

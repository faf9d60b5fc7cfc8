//! `shike train`.

mod args;
mod kinds;
mod preset;
mod run;

pub use args::TrainArgs;
pub use kinds::{Arch, BadImagesKind, Baseline, LossKind, PrecisionKind};
pub use preset::{Base, ImagePreset, Preset};
pub use run::{RecipeArgs, train, train_recipe, train_with};

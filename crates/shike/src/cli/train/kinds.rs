//! Values that options take by name.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use shike_model::LossConfig;
use shike_model::loss::NamedLoss;

/// What SHIKE is compared with.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// A plain network with a linear classifier, cross-entropy, for the epochs of both stages.
    Ce,
    /// One expert, with fusion and both stages.
    Single,
}

/// Losses by name.
pub(super) fn losses() -> impl TypedValueParser<Value = NamedLoss> {
    let values = LossConfig::NAMED.map(|loss| PossibleValue::new(loss.name).help(loss.about));
    PossibleValuesParser::new(values).map(|name| {
        let mut losses = LossConfig::NAMED.into_iter();
        losses
            .find(|loss| loss.name == name)
            .expect("the parser takes no other name")
    })
}

/// Classifiers.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassifierKind {
    /// Cosine with scale 30.
    Cosine,
    /// Linear with a bias.
    Linear,
}

/// Class weights.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsKind {
    /// One over the number of images.
    Inverse,
    /// One over the effective number of images.
    EffectiveNumber,
}

/// What stage 2 does to the classifiers.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage2Kind {
    /// Trains new ones with the balanced softmax, as SHIKE does.
    Retrain,
    /// Trains new ones with cross-entropy and class-balanced sampling.
    Crt,
    /// Trains a factor on the logit of each class, otherwise as crt; for linear classifiers.
    Lws,
    /// Divides weights by a power of their length, without training; for linear classifiers.
    TauNorm,
}

/// What is done about training images that cannot be read.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadImagesKind {
    /// Stop, with the path and what is wrong.
    Fail,
    /// Take another image of the same class, and list the bad ones in `bad_images.csv`.
    Skip,
}

/// A value as the command line has it.
pub(super) fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

//! Values that options take by name.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use shike_data::Sampling;
use shike_infer::Precision;
use shike_model::loss::NamedLoss;
use shike_model::{BackboneConfig, ConfigError, LossConfig};

/// Networks: for small images (ResNet-8, 14, 20, 32, 44, 56, 110, those for CIFAR) and for large ones
/// (ResNet-10, 18, 34, 50, 101, 152, ResNeXt-50).
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arch {
    Resnet8,
    Resnet10,
    Resnet14,
    Resnet18,
    Resnet20,
    Resnet32,
    Resnet34,
    Resnet44,
    Resnet50,
    Resnet56,
    Resnet101,
    Resnet110,
    Resnet152,
    /// ResNeXt-50 (32×4d).
    Resnext50,
}

impl Arch {
    /// The backbone.
    ///
    /// # Errors
    /// None: every network here is one that can be built.
    pub fn backbone(self) -> Result<BackboneConfig, ConfigError> {
        BackboneConfig::named(&name(&self))
    }
}

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

/// Types of float.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrecisionKind {
    /// 32 bits.
    F32,
    /// bfloat16, 16 bits.
    Bf16,
}

impl From<PrecisionKind> for Precision {
    fn from(kind: PrecisionKind) -> Self {
        match kind {
            PrecisionKind::F32 => Self::F32,
            PrecisionKind::Bf16 => Self::Bf16,
        }
    }
}

/// How images are drawn.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplingKind {
    /// Each image once an epoch.
    Instance,
    /// Each class equally often.
    ClassBalanced,
    /// Classes by the square root of their size.
    SquareRoot,
    /// From instance to class-balanced over the epochs.
    ProgressivelyBalanced,
}

impl From<SamplingKind> for Sampling {
    fn from(kind: SamplingKind) -> Self {
        match kind {
            SamplingKind::Instance => Self::Instance,
            SamplingKind::ClassBalanced => Self::ClassBalanced,
            SamplingKind::SquareRoot => Self::SquareRoot,
            SamplingKind::ProgressivelyBalanced => Self::ProgressivelyBalanced,
        }
    }
}

/// A value as the command line has it.
pub(super) fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

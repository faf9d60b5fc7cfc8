//! Values that options take by name.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use shike_data::BadImages;
use shike_model::loss::{ClassWeights, NamedLoss};
use shike_model::{ClassifierConfig, LossConfig};
use shike_train::Stage2;
use shike_train::config::NamedMethod;

/// What SHIKE is compared with.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// A plain network with a linear classifier, cross-entropy, for the epochs of both stages.
    Ce,
    /// One expert, with fusion and both stages.
    Single,
}

/// Values by name, with what each is.
fn named<T: Clone + Send + Sync + 'static>(
    values: impl IntoIterator<Item = (&'static str, &'static str, T)>,
) -> impl TypedValueParser<Value = T> {
    let values: Vec<_> = values.into_iter().collect();
    let names = values
        .iter()
        .map(|(name, about, _)| PossibleValue::new(*name).help(*about));
    PossibleValuesParser::new(names.collect::<Vec<_>>()).map(move |name| {
        let found = values.iter().find(|(known, ..)| *known == name);
        found.expect("the parser takes no other name").2.clone()
    })
}

/// Losses.
pub(super) fn losses() -> impl TypedValueParser<Value = NamedLoss> {
    named(LossConfig::NAMED.map(|loss| (loss.name, loss.about, loss)))
}

/// What stage 2 does to the classifiers.
pub(super) fn methods() -> impl TypedValueParser<Value = NamedMethod> {
    named(Stage2::NAMED.map(|method| (method.name, method.about, method)))
}

/// Classifiers.
pub(super) fn classifiers() -> impl TypedValueParser<Value = ClassifierConfig> {
    named([
        ("cosine", "Cosine with scale 30", ClassifierConfig::cosine()),
        ("linear", "Linear with a bias", ClassifierConfig::Linear),
    ])
}

/// Class weights.
pub(super) fn class_weights() -> impl TypedValueParser<Value = ClassWeights> {
    let inverse = ClassWeights::InverseFrequency {};
    let effective = ClassWeights::effective_number();
    named([
        ("inverse", "One over the number of images", inverse),
        (
            "effective-number",
            "One over the effective number of images",
            effective,
        ),
    ])
}

/// What is done about training images that cannot be read.
pub(super) fn bad_images() -> impl TypedValueParser<Value = BadImages> {
    let fail = "Stop, with the path and what is wrong";
    let skip = "Take another image of the same class, and list the bad ones in `bad_images.csv`";
    named([
        ("fail", fail, BadImages::Fail),
        ("skip", skip, BadImages::Skip { max_share: 0.01 }),
    ])
}

//! Values that options take by name.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use shike_data::BadImages;
use shike_data::read::read_to_string;
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

/// Class weights: `inverse`, `inverse^0.5`, `effective-number`, or a file.
pub(super) fn class_weights(text: &str) -> Result<ClassWeights, String> {
    let inverse = |power: &str| match power.parse() {
        Ok(power) => Ok(ClassWeights::InverseFrequency { power }),
        Err(_) => Err(format!("`{power}` is no number, as in inverse^0.5")),
    };
    match text {
        "inverse" => Ok(ClassWeights::inverse_frequency()),
        "effective-number" => Ok(ClassWeights::effective_number()),
        _ => match text.strip_prefix("inverse^") {
            Some(power) => inverse(power),
            None => weights_file(Path::new(text)),
        },
    }
}

/// Weights from a file with a line for each class, `name<TAB>weight`; classes that it does not name have 1.
fn weights_file(path: &Path) -> Result<ClassWeights, String> {
    let shown = path.display();
    if !path.exists() {
        return Err(format!(
            "it must be inverse (one over the number of images), inverse^0.5 (a power of that), effective-number, or a \
             file, and there is no file {shown}"
        ));
    }
    let text = read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let mut classes = BTreeMap::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |problem: &str| {
            format!(
                "{shown}, line {}: {problem}; a line is `class name<TAB>weight`",
                number + 1
            )
        };
        let (name, weight) = line
            .rsplit_once('\t')
            .ok_or_else(|| wrong("there is no tab"))?;
        let weight: f64 = weight
            .trim()
            .parse()
            .map_err(|_| wrong(&format!("`{}` is no number", weight.trim())))?;
        if classes.insert(name.to_owned(), weight).is_some() {
            return Err(wrong(&format!("class `{name}` comes twice")));
        }
    }
    let base = None;
    Ok(ClassWeights::Named { classes, base })
}

/// Reads `wasp=2`; the name may have an `=` in it.
pub(super) fn class_weight(text: &str) -> Result<(String, f64), String> {
    let (name, weight) = text
        .rsplit_once('=')
        .ok_or("it must be NAME=WEIGHT, such as wasp=2")?;
    let weight = weight
        .parse()
        .map_err(|_| format!("`{weight}` is no number"))?;
    Ok((name.to_owned(), weight))
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

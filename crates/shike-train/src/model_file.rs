//! A finished model in one file: weights, architecture, class names and preparation of images.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use shike_data::{Normalization, Pipeline};
use shike_model::weights::{self, WeightsError};
use shike_model::{Head, Shike, ShikeConfig};

use crate::checkpoint::atomic_write;
use crate::error::TrainError;
use crate::prior;
use crate::strict::strict;

/// All that is needed to use a network's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Version of this description.
    pub format_version: u32,
    /// The network.
    #[serde(deserialize_with = "strict")]
    pub model: ShikeConfig,
    /// The heads that were trained last.
    pub head: Head,
    /// Class names, in the order of the logits.
    pub class_names: Vec<String>,
    /// Training images of each class.
    pub train_counts: Vec<usize>,
    /// Preparation of an image.
    pub pipeline: Pipeline,
    /// From 0–255 to the network's input.
    pub normalization: Normalization,
    /// The class frequencies that the logits stand for, `[classes]`
    /// ([`TrainConfig::logit_prior`](crate::TrainConfig::logit_prior)).
    pub prior: Vec<f64>,
    /// Optimizer steps that led here; exported as `num_batches_tracked`.
    pub steps: u64,
    /// The power of the lengths that the stage-2 heads' weights were divided by, where
    /// τ-normalisation made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
}

impl ModelInfo {
    /// What does not fit together.
    fn problem(&self) -> Option<String> {
        let classes = self.model.num_classes;
        for (name, given) in [
            ("class names", self.class_names.len()),
            ("training counts", self.train_counts.len()),
        ] {
            if given != classes {
                return Some(format!("{given} {name} for a network of {classes} classes"));
            }
        }
        if let Err(error) = prior::total(&self.prior, classes) {
            return Some(format!("a prior in which {error}"));
        }
        (self.head == Head::Stage2 && !self.model.stage2_heads)
            .then(|| "the stage-2 heads of a network that has none".to_owned())
    }
}

/// The version of [`ModelInfo`] that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Key in the safetensors metadata.
const KEY: &str = "shike";

/// Writes a model file: safetensors under the reference's names with a [`ModelInfo`] in its
/// metadata. An older file is replaced in one step.
///
/// Factors of learnable weight scaling are folded into their classifiers.
///
/// # Errors
/// If `info` is not of this network, or the file cannot be written; the one that was there is then
/// untouched.
pub fn save_model(path: &Path, model: &Shike, info: &ModelInfo) -> Result<(), TrainError> {
    let heads = model.experts.iter().all(|expert| expert.head2.is_some());
    let problem = info.problem().or_else(|| {
        (heads != info.model.stage2_heads).then(|| {
            let has = if heads { "has" } else { "has no" };
            format!("the network {has} stage-2 heads, and model.stage2_heads says otherwise")
        })
    });
    if let Some(problem) = problem {
        return Err(TrainError::Mismatch(format!(
            "{}: {problem}",
            path.display()
        )));
    }
    let model = &model.clone().fold_head_scales();
    let text = serde_json::to_string(info)
        .map_err(|error| WeightsError::Serialize(format!("model description: {error}")))?;
    let metadata = BTreeMap::from([(KEY.to_owned(), text)]);
    let steps = i64::try_from(info.steps).unwrap_or(i64::MAX);
    let bytes = weights::to_safetensors(model, steps, &metadata)?;
    Ok(atomic_write(path, |writer| writer.write_all(&bytes))?)
}

/// Reads a model file onto a device.
///
/// # Errors
/// If the file cannot be read, is no model file of this program, or is of a newer version.
pub fn load_model(path: &Path, device: &Device) -> Result<(Shike, ModelInfo), TrainError> {
    let format = |problem: String| {
        TrainError::from(WeightsError::Format {
            path: path.to_owned(),
            problem,
        })
    };
    let (state, metadata) = weights::read_safetensors(path)?;
    let text = metadata.get(KEY).ok_or_else(|| {
        format(format!(
            "its metadata has no `{KEY}` entry, so this is not a model that a run has saved \
             (model.safetensors or best.safetensors of a run folder is)"
        ))
    })?;
    let version = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|info| info["format_version"].as_u64());
    if version.is_some_and(|version| version > FORMAT_VERSION.into()) {
        return Err(format(format!(
            "model format {}; this program reads up to {FORMAT_VERSION}: use a newer release",
            version.unwrap_or_default()
        )));
    }
    let info: ModelInfo = serde_json::from_str(text)
        .map_err(|error| format(format!("the model's description is damaged: {error}")))?;
    if let Some(problem) = info.problem() {
        return Err(format(format!("its description is of {problem}")));
    }
    let model = info
        .model
        .init(device)
        .map_err(|error| format(error.to_string()))?;
    let model = weights::load_state_dict(model, state, path)?;
    Ok((model, info))
}

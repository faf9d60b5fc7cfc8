//! A finished model in one file: weights, architecture, class names and preparation of images.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use shike_data::{Normalization, Pipeline};
use shike_heads::{Description, FittedHead, Stored};
use shike_model::weights::{self, Checksum, StateFile, WeightsError};
use shike_model::{Head, ShikeConfig};

use crate::error::InferError;
use crate::metrics::confidence::Confidence;
use crate::metrics::prior;
use crate::model::network::Network;
use crate::model::origin::Origin;
use shike_data::write::write_bytes;

/// All that is needed to use a network's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Version of this description.
    pub format_version: u32,
    /// The network.
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
    /// (`TrainConfig::logit_prior` of shike-train).
    pub prior: Vec<f64>,
    /// Optimizer steps that led here; exported as `num_batches_tracked`.
    pub steps: u64,
    /// The power of the lengths that the stage-2 heads' weights were divided by, where
    /// τ-normalisation made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Where the weights come from that it started from, and their licence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_origin: Option<Origin>,
    /// What the validation pictures said, where nothing was chosen on them. Logits are divided by its temperature
    /// before anything else, and `prior` is of what that leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// The head on a frozen trunk; the network is then a plain one, whose classifier it stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenInfo>,
}

/// A head on a frozen trunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenInfo {
    /// The head, but for its numbers, which are tensors of the file.
    pub head: Description,
    /// Name of the file that the trunk's weights are from, and its SHA-256.
    pub weights: String,
    /// Hexadecimal digits.
    pub weights_sha256: String,
}

impl ModelInfo {
    /// What logits are divided by.
    pub(crate) fn temperature(&self) -> f64 {
        Confidence::temperature_of(self.confidence.as_ref())
    }

    /// Checks every field, as a recipe's are, and that they fit together.
    fn check(&self) -> Result<(), String> {
        self.model
            .validate()
            .map_err(|error| format!("model: {error}"))?;
        let pipeline = self.pipeline.validate();
        pipeline.map_err(|error| format!("pipeline: {error}"))?;
        let normalization = self.normalization.validate();
        normalization.map_err(|error| format!("normalization.{error}"))?;
        if let Some(tau) = self.tau.filter(|tau| !(tau.is_finite() && *tau >= 0.0)) {
            return Err(format!("tau = {tau}: it must be 0 or more"));
        }
        let classes = self.model.num_classes;
        for (name, given) in [
            ("class names", self.class_names.len()),
            ("training counts", self.train_counts.len()),
        ] {
            if given != classes {
                return Err(format!("{given} {name} for a network of {classes} classes"));
            }
        }
        if let Err(error) = prior::total(&self.prior, classes) {
            return Err(format!("a prior in which {error}"));
        }
        if let Some(confidence) = &self.confidence {
            confidence.check(classes)?;
        }
        if self
            .train_counts
            .iter()
            .any(|count| u32::try_from(*count).is_err())
        {
            return Err("more training images of a class than there can be".to_owned());
        }
        if self.frozen.is_some() && !self.model.is_plain() {
            return Err("a head on a frozen trunk, and experts".to_owned());
        }
        match self.head == Head::Stage2 && !self.model.stage2_heads {
            true => Err("the stage-2 heads of a network that has none".to_owned()),
            false => Ok(()),
        }
    }
}

impl ModelInfo {
    /// Numbers of the network that this describes.
    fn num_values(&self) -> Result<u64, String> {
        let Some(frozen) = &self.frozen else {
            return self.model.num_values().map_err(|error| error.to_string());
        };
        let numbers = |(_, shape): (String, Vec<usize>)| {
            let mut sides = shape.into_iter().map(|side| side as u64);
            sides.try_fold(1, u64::checked_mul)
        };
        let head = frozen.head.tensors().into_iter().map(numbers);
        let head = head.sum::<Option<u64>>();
        let all = head.and_then(|head| head.checked_add(self.model.backbone.num_values()));
        all.ok_or_else(|| "a head beyond all numbers".to_owned())
    }

    /// Checks that this is of the network.
    fn fits(&self, network: &Network) -> Result<(), String> {
        match (network, &self.frozen) {
            (Network::Experts(model, _), None) => {
                let heads = model.experts.iter().all(|expert| expert.head2.is_some());
                if heads != self.model.stage2_heads {
                    let has = if heads { "has" } else { "has no" };
                    return Err(format!(
                        "the network {has} stage-2 heads, and model.stage2_heads says otherwise"
                    ));
                }
            }
            (Network::Frozen(trunk, head), Some(_)) => {
                let (classes, named) = (head.classes(), self.class_names.len());
                if classes != named {
                    return Err(format!("a head of {classes} classes, and {named} names"));
                }
                let widths = trunk.config().widths();
                let width: usize = widths.iter().map(|(_, width)| width).sum();
                if head.width() != width {
                    let found = head.width();
                    return Err(format!(
                        "a head on {found} features, and the trunk gives {width}"
                    ));
                }
            }
            (Network::Experts(..), Some(_)) => return Err("a head, and no trunk".to_owned()),
            (Network::Frozen(..), None) => return Err("a trunk without its head".to_owned()),
        }
        Ok(())
    }
}

/// The version of model files that this program writes and reads.
pub const FORMAT_VERSION: u32 = 2;

/// Key in the safetensors metadata.
pub(super) const KEY: &str = "shike";

/// Writes a model file: safetensors under the reference's names with a [`ModelInfo`] and a
/// [checksum](weights::file) in its metadata. An older file is replaced in one step.
///
/// Factors of learnable weight scaling are folded into their classifiers.
///
/// # Errors
/// If `info` is not of this network, or the file cannot be written; the one that was there is then
/// untouched.
pub fn save_model(path: &Path, network: &Network, info: &ModelInfo) -> Result<(), InferError> {
    let fits = info.check().and_then(|()| info.fits(network));
    fits.map_err(|problem| InferError::Mismatch(format!("{}: {problem}", path.display())))?;
    let text = serde_json::to_string(info)
        .map_err(|error| WeightsError::Serialize(format!("model description: {error}")))?;
    let metadata = BTreeMap::from([(KEY.to_owned(), text)]);
    let steps = i64::try_from(info.steps).unwrap_or(i64::MAX);
    let bytes = weights::pack(network.tensors(), steps, &metadata, true)?;
    Ok(write_bytes(path, &bytes)?)
}

/// Reads a model file onto a device. Nothing is built before the file was compared with its checksum, and
/// its description with the tensors that it holds.
///
/// # Errors
/// If the file cannot be read, is damaged, is no model file of this program, or is of another version.
pub fn load_model(path: &Path, device: &Device) -> Result<(Network, ModelInfo), InferError> {
    let format = |problem: String| {
        InferError::from(WeightsError::Format {
            path: path.to_owned(),
            problem,
        })
    };
    let mut file = StateFile::open(path)?;
    let text = file.metadata().get(KEY).ok_or_else(|| {
        format(format!(
            "its metadata has no `{KEY}` entry, so this is not a model that a run has saved \
             (model.safetensors or best.safetensors of a run folder is)"
        ))
    })?;
    let version = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|info| info["format_version"].as_u64());
    match version {
        Some(version) if version > FORMAT_VERSION.into() => {
            return Err(format(format!(
                "model format {version}; this program reads {FORMAT_VERSION}: use a newer release"
            )));
        }
        Some(version @ 1) => {
            return Err(format(format!(
                "model format {version} has no checksum, and this program reads {FORMAT_VERSION}: train \
                 it again, or start a new run from it (`weights`)"
            )));
        }
        _ => {}
    }
    match file.checksum() {
        Checksum::Right => {}
        Checksum::Wrong => {
            return Err(format(
                "its checksum is of other content: it is damaged, or another program has changed it; \
                 copy it again if it is a copy"
                    .into(),
            ));
        }
        Checksum::Absent => {
            return Err(format(
                "it has no checksum, so another program has written it: take the file that the run has \
                 saved, or start a new run from it (`weights`)"
                    .into(),
            ));
        }
    }
    let info: ModelInfo = serde_json::from_str(text)
        .map_err(|error| format(format!("the model's description is damaged: {error}")))?;
    let wrong = |problem: String| format(format!("its description is wrong: {problem}"));
    info.check().map_err(wrong)?;
    let described = info.num_values().map_err(wrong)?;
    let held = file.num_values();
    if described != held {
        return Err(wrong(format!(
            "it is of a network of {described} numbers, and the file holds {held}"
        )));
    }
    let network = match &info.frozen {
        None => {
            let model = info.model.init(device);
            let model = model.map_err(|error| wrong(error.to_string()))?;
            Network::Experts(weights::load_file(model, file, path)?, info.head)
        }
        Some(frozen) => {
            let tensors = frozen.head.tensors().into_iter().map(|(name, shape)| {
                let values = file.take(&name)?.iter::<f32>().collect();
                Ok(shike_heads::Tensor {
                    name,
                    shape,
                    values,
                })
            });
            let stored = Stored {
                description: frozen.head.clone(),
                tensors: tensors.collect::<Result<_, WeightsError>>()?,
            };
            let head = FittedHead::try_from(stored).map_err(|error| wrong(error.to_string()))?;
            let trunk = info.model.backbone.init(device);
            let trunk = trunk.map_err(|error| wrong(error.to_string()))?;
            Network::Frozen(weights::load_trunk_file(trunk, file, path)?, head)
        }
    };
    info.fits(&network).map_err(wrong)?;
    Ok((network, info))
}

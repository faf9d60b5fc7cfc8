//! A run that trains a head on the features of a frozen trunk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shike_heads::heads;
use shike_model::loss::ClassWeights;

use super::{TrainConfig, TrainConfigError};

/// The head on a frozen trunk; `[frozen]` in a recipe. The trunk is `model.backbone` with `weights`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FrozenConfig {
    /// Heads that are compared on the training images, by the names of [`shike_heads::heads`]; none: all.
    pub heads: Vec<String>,
    /// Depths whose features they see, such as `layer6`; none: all side by side, and the deepest alone.
    pub depths: Vec<String>,
    /// Parts of the training images that are held out one after another to compare heads; as many as their number
    /// asks for unless it is given.
    pub folds: Option<usize>,
    /// Factors on the probabilities of single classes, by name, as if pictures of the class were so many times as frequent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub class_weights: BTreeMap<String, f64>,
    /// Seconds after which no other head is tried.
    pub seconds: Option<f64>,
}

impl FrozenConfig {
    /// The class weights, if there are any.
    pub(crate) fn weights(&self) -> Option<ClassWeights> {
        let classes = self.class_weights.clone();
        (!classes.is_empty()).then_some(ClassWeights::Named {
            classes,
            base: None,
        })
    }

    pub(super) fn validate(&self, config: &TrainConfig) -> Result<(), TrainConfigError> {
        let check = TrainConfigError::check;
        let weights = config.weights.is_some();
        check("weights", weights, &"none", "given for a frozen trunk")?;
        let plain = config.model.is_plain();
        let expected = "a plain network where the trunk is frozen: experts train their own layers";
        check("model", plain, &"experts", expected)?;
        for head in &self.heads {
            let expected = "one of the heads that docs/HEADS.md lists";
            check("frozen.heads", heads::head(head).is_ok(), head, expected)?;
        }
        let widths = config.model.backbone.widths();
        for depth in &self.depths {
            let known = widths.iter().any(|(name, _)| name == depth);
            let expected =
                "a depth of this network whose features are kept, such as its last layer";
            check("frozen.depths", known, depth, expected)?;
        }
        let weights = self.weights().map_or(Ok(()), |weights| weights.validate());
        weights.map_err(TrainConfigError::HeadWeights)?;
        let folds = self.folds.unwrap_or(2);
        check(
            "frozen.folds",
            (2..=100).contains(&folds),
            &folds,
            "2 to 100",
        )?;
        let seconds = self.seconds.unwrap_or(1.0);
        let positive = seconds.is_finite() && seconds > 0.0;
        check("frozen.seconds", positive, &seconds, "above 0")
    }
}

/// Fields of a [`TrainConfig`] that say how a network is trained: without effect on a frozen
/// trunk.
pub const TRAINING: [&str; 18] = [
    "lr_factors",
    "freeze",
    "ema_decay",
    "ema_features",
    "precision",
    "stage1",
    "stage2",
    "freeze_batch_norm",
    "optimizer",
    "clip_norm",
    "accumulation",
    "bad_images",
    "train_pipeline",
    "evaluate_every",
    "patience",
    "score_test",
    "checkpoint_seconds",
    "keep_checkpoints",
];

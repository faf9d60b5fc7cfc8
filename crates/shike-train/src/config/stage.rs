//! What stage 2 does to the classifiers. docs/METHODS.md lists the methods with their equations.

use serde::{Deserialize, Serialize};

use crate::config::StageConfig;

/// What stage 2 does to the classifiers, on features that stay as they are. In text a table whose
/// `method` is the name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Stage2 {
    /// New classifiers are trained: SHIKE's stage 2 with the balanced softmax; classifier re-training
    /// (cRT; Kang et al. 2020, arXiv 1910.09217) with cross-entropy and class-balanced sampling.
    Retrain(StageConfig),
    /// Learnable weight scaling (LWS, same source): one factor on the logit of each class is trained,
    /// the linear classifier of stage 1 stays. The factors end in the stage-2 classifiers.
    Lws(StageConfig),
    /// τ-normalisation (same source): nothing is trained; the linear classifiers of stage 1 are divided
    /// by a power of their weights' lengths.
    TauNorm {
        /// τ. Of several, the one with the best class-averaged accuracy on the validation set is taken
        /// (the first of equals). An empty list stands for [`usual_taus`](Stage2::usual_taus), and without
        /// a validation set for [`TAU`](Stage2::TAU).
        #[serde(default)]
        taus: Vec<f64>,
    },
}

impl Stage2 {
    /// The power of τ-normalisation where none is given and there is no validation set to choose one on:
    /// between the classifiers as they are (0) and equal lengths (1).
    pub const TAU: f64 = 0.7;

    /// The powers of τ-normalisation that are tried where none is given: 0, 0.1, … 2, as in `tau_norm.py` of
    /// facebookresearch/classifier-balancing.
    pub fn usual_taus() -> Vec<f64> {
        (0..=20).map(|tenths| f64::from(tenths) / 10.0).collect()
    }

    /// The epochs, where the method trains.
    pub fn training(&self) -> Option<&StageConfig> {
        match self {
            Self::Retrain(config) | Self::Lws(config) => Some(config),
            Self::TauNorm { .. } => None,
        }
    }

    /// The epochs, where the method trains.
    pub fn training_mut(&mut self) -> Option<&mut StageConfig> {
        match self {
            Self::Retrain(config) | Self::Lws(config) => Some(config),
            Self::TauNorm { .. } => None,
        }
    }
}

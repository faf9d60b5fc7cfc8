//! What stage 2 does to the classifiers. docs/METHODS.md lists the methods with their equations.

use serde::{Deserialize, Serialize};
use shike_data::Sampling;
use shike_model::{ClassifierConfig, ConfigError, LossConfig, Shike};

use super::{StageConfig, TrainConfigError};

/// What stage 2 does to the classifiers, on features that stay as they are. In text a table whose
/// `method` is the name. All that depends on the method is in this file, but for the search of τ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
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

/// A method of stage 2 by the name that programs know it by; see [`Stage2::NAMED`].
#[derive(Clone, Copy, Debug)]
pub struct NamedMethod {
    /// The name.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// The loss and the sampling of its source; none if it trains nothing.
    pub trains: Option<(fn() -> LossConfig, Sampling)>,
    make: fn(StageConfig) -> Stage2,
}

impl NamedMethod {
    /// The method with the loss and the sampling of its source, for as long as `stage` is.
    pub fn init(&self, mut stage: StageConfig) -> Stage2 {
        if let Some((loss, sampling)) = self.trains {
            (stage.loss, stage.sampling) = (loss(), sampling);
        }
        (self.make)(stage)
    }
}

impl Stage2 {
    /// Methods by name: each `method`, and settings that papers name.
    pub const NAMED: [NamedMethod; 4] = [
        NamedMethod {
            name: "retrain",
            about: "Trains new ones with the balanced softmax, as SHIKE does",
            trains: Some((LossConfig::balanced_softmax, Sampling::Instance)),
            make: Self::Retrain,
        },
        NamedMethod {
            name: "crt",
            about: "Trains new ones with cross-entropy and class-balanced sampling",
            trains: Some((LossConfig::cross_entropy, Sampling::ClassBalanced)),
            make: Self::Retrain,
        },
        NamedMethod {
            name: "lws",
            about: "Trains a factor on the logit of each class, otherwise as crt; for linear classifiers",
            trains: Some((LossConfig::cross_entropy, Sampling::ClassBalanced)),
            make: Self::Lws,
        },
        NamedMethod {
            name: "tau-norm",
            about: "Divides weights by a power of their length, without training; for linear classifiers",
            trains: None,
            make: |_| Self::TauNorm { taus: vec![] },
        },
    ];

    /// The power of τ-normalisation where none is given and there is no validation set to choose one on:
    /// between the classifiers as they are (0) and equal lengths (1).
    pub const TAU: f64 = 0.7;

    /// The powers of τ-normalisation that are tried where none is given: 0, 0.1, … 2, as in `tau_norm.py` of
    /// facebookresearch/classifier-balancing.
    pub fn usual_taus() -> Vec<f64> {
        (0..=20).map(|tenths| f64::from(tenths) / 10.0).collect()
    }

    /// The method of this name in text.
    pub(crate) fn method(name: &str) -> Option<NamedMethod> {
        let mut methods = Self::NAMED.into_iter();
        methods.find(|method| method.name.replace('-', "_") == name)
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

    /// Checks what the method asks of a network, and its own fields.
    pub(super) fn validate(&self, classifier: &ClassifierConfig) -> Result<(), TrainConfigError> {
        let check = TrainConfigError::check;
        let name = match self {
            Self::Retrain(_) => return Ok(()),
            Self::Lws(_) => "lws",
            Self::TauNorm { taus } => {
                let wrong = taus.iter().find(|tau| !(tau.is_finite() && **tau >= 0.0));
                let found = wrong.copied().unwrap_or_default();
                check("stage2.taus", wrong.is_none(), &found, "0 or more")?;
                "tau_norm"
            }
        };
        let expected = "retrain, or the network's classifier linear (model.classifier): the norm of a \
                        cosine classifier's weights has no effect";
        let linear = *classifier == ClassifierConfig::Linear;
        check("stage2.method", linear, &name, expected)
    }

    /// The network as the method begins with it.
    pub(crate) fn begin(&self, model: Shike) -> Result<Shike, ConfigError> {
        match self {
            Self::Lws(_) => model.scale_stage1_heads(),
            Self::Retrain(_) | Self::TauNorm { .. } => Ok(model),
        }
    }
}

//! What the stages train with: losses, and what stage 2 does to the classifiers. docs/METHODS.md lists
//! them with their equations.

use serde::{Deserialize, Serialize};
use shike_model::loss::{
    ClassWeights, CrossEntropyLossConfig, FocalLossConfig, LdamLossConfig, LossError,
};
use shike_model::{BalancedSoftmaxLoss, ClassifierConfig, DktLossConfig};

use crate::config::StageConfig;
use shike_infer::strict::complete;

/// The loss of a stage, summed over experts. In text a table whose `kind` is the name; fields that are
/// left out have their defaults. Class counts come from the training set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// SHIKE's dynamic knowledge transfer. A single expert has no partner to learn from, but keeps
    /// the non-target term.
    Dkt(#[serde(deserialize_with = "complete")] DktLossConfig),
    /// Cross-entropy, with label smoothing and class weights; with those of the effective number the
    /// class-balanced loss.
    CrossEntropy(#[serde(deserialize_with = "complete")] CrossEntropyLossConfig),
    /// Focal loss, with class weights.
    Focal(#[serde(deserialize_with = "complete")] FocalLossConfig),
    /// Label-distribution-aware margins on a cosine classifier, with class weights.
    Ldam(#[serde(deserialize_with = "complete")] LdamLossConfig),
    /// Balanced softmax.
    BalancedSoftmax {},
    /// The logit-adjusted loss; with `tau = 1` the balanced softmax.
    LogitAdjustment {
        /// The power of the class frequencies.
        #[serde(default = "one")]
        tau: f64,
    },
}

/// Below so many classes, the term that the released DKT takes from the classes other than the target
/// works against the cross-entropy.
pub(crate) const FEW_CLASSES: usize = 20;

fn one() -> f64 {
    1.0
}

impl Loss {
    /// Every `kind`.
    pub(crate) const KINDS: [&str; 6] = [
        "dkt",
        "cross_entropy",
        "focal",
        "ldam",
        "balanced_softmax",
        "logit_adjustment",
    ];

    /// Cross-entropy without weights or smoothing.
    pub fn cross_entropy() -> Self {
        Self::CrossEntropy(CrossEntropyLossConfig::new())
    }

    /// The class weights, where the loss can have some, and the epoch that they begin with.
    pub fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        match self {
            Self::CrossEntropy(loss) => Some((&mut loss.weights, &mut loss.weights_from_epoch)),
            Self::Focal(loss) => Some((&mut loss.weights, &mut loss.weights_from_epoch)),
            Self::Ldam(loss) => Some((&mut loss.weights, &mut loss.weights_from_epoch)),
            Self::Dkt(_) | Self::BalancedSoftmax {} | Self::LogitAdjustment { .. } => None,
        }
    }

    /// Whether it makes up for the classes' frequencies, wholly or in part: by priors or by weights
    /// that come from the counts.
    pub fn balances(&self) -> bool {
        match self {
            Self::BalancedSoftmax {} => true,
            Self::LogitAdjustment { tau } => *tau > 0.0,
            Self::CrossEntropy(CrossEntropyLossConfig { weights, .. })
            | Self::Focal(FocalLossConfig { weights, .. })
            | Self::Ldam(LdamLossConfig { weights, .. }) => match weights {
                // β = 0 is no weighting.
                Some(ClassWeights::EffectiveNumber { beta }) => *beta > 0.0,
                Some(ClassWeights::InverseFrequency {}) => true,
                _ => false,
            },
            Self::Dkt(_) => false,
        }
    }

    /// What a person should know of this loss at this number of classes.
    pub fn note(&self, classes: usize) -> Option<String> {
        match self {
            Self::Dkt(loss)
                if classes < FEW_CLASSES
                    && !loss.exclude_target
                    && loss.non_target_weight > 0.0 =>
            {
                Some(format!(
                    "at {classes} classes, fewer than {FEW_CLASSES}, the non-target term of DKT as released \
                     pushes the logits of wrong classes up (docs/METHODS.md, \"Few classes\"); as the paper \
                     reads (dkt-paper; `exclude_target`) it does not"
                ))
            }
            _ => None,
        }
    }

    /// Logarithms of what the loss multiplies the drawn class frequencies by in what its logits stand for,
    /// `[classes]`: `log w` of class weights that hold in `epoch` (from 0), `−τ log n` of a prior in the
    /// loss. The margins of LDAM, the focal loss's power and label smoothing have no such factor and are left
    /// out.
    ///
    /// # Errors
    /// If the loss cannot be had for these training counts.
    pub fn log_prior_factors(&self, counts: &[usize], epoch: usize) -> Result<Vec<f64>, LossError> {
        let power = |tau: f64| {
            BalancedSoftmaxLoss::with_tau(counts, tau)?;
            Ok(counts.iter().map(|&n| -tau * (n as f64).ln()).collect())
        };
        match self {
            Self::BalancedSoftmax {} => power(1.0),
            Self::LogitAdjustment { tau } => power(*tau),
            Self::CrossEntropy(CrossEntropyLossConfig {
                weights: Some(weights),
                weights_from_epoch: from,
                ..
            })
            | Self::Focal(FocalLossConfig {
                weights: Some(weights),
                weights_from_epoch: from,
                ..
            })
            | Self::Ldam(LdamLossConfig {
                weights: Some(weights),
                weights_from_epoch: from,
                ..
            }) if epoch >= *from => {
                let weights = weights.compute(counts)?;
                Ok(weights.into_iter().map(f64::ln).collect())
            }
            _ => Ok(vec![0.0; counts.len()]),
        }
    }

    /// Checks all that needs no class counts, for a stage of so many epochs on a network with this
    /// classifier.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn validate(&self, epochs: usize, classifier: &ClassifierConfig) -> Result<(), LossError> {
        let field = |field, found: String, expected: String| {
            Err(LossError::Field {
                field,
                found,
                expected,
            })
        };
        match self {
            Self::Dkt(_) | Self::BalancedSoftmax {} => {}
            Self::CrossEntropy(loss) => loss.validate()?,
            Self::Focal(loss) => loss.validate()?,
            Self::Ldam(loss) => {
                if *classifier == ClassifierConfig::Linear {
                    let expected = "another loss, or the network's classifier cosine: LDAM's \
                                    margins are differences of cosines";
                    return field("kind", "ldam".into(), expected.into());
                }
                loss.validate()?;
            }
            Self::LogitAdjustment { tau } => drop(BalancedSoftmaxLoss::with_tau(&[1, 1], *tau)?),
        }
        match self.clone().weights_mut() {
            Some((Some(_), from)) if *from >= epochs => field(
                "weights_from_epoch",
                from.to_string(),
                format!("below the epochs of the stage, {epochs}"),
            ),
            Some((None, from)) if *from > 0 => field(
                "weights_from_epoch",
                from.to_string(),
                "0 where the loss has no weights".into(),
            ),
            _ => Ok(()),
        }
    }
}

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_released_dkt_is_noted_at_few_classes() {
        let note = |loss: DktLossConfig, classes| Loss::Dkt(loss).note(classes);
        let released = DktLossConfig::new;
        let said = note(released(), 19).unwrap();
        assert!(said.contains("at 19 classes"), "{said}");
        assert!(note(released().with_cifar100_strength(2), 2).is_some());
        for (loss, classes) in [
            (released(), 20),
            (DktLossConfig::paper(), 2),
            (released().with_non_target_weight(0.0), 2),
        ] {
            assert_eq!(note(loss, classes), None);
        }
        assert_eq!(Loss::cross_entropy().note(2), None);
    }

    #[test]
    fn losses_are_read_with_their_defaults_and_refuse_typos() {
        let read = |text: &str| serde_json::from_str::<Loss>(text);
        let cases = [
            (r#"{"kind":"dkt"}"#, Loss::Dkt(DktLossConfig::new())),
            (r#"{"kind":"cross_entropy"}"#, Loss::cross_entropy()),
            (
                r#"{"kind":"cross_entropy","label_smoothing":0.1}"#,
                Loss::CrossEntropy(CrossEntropyLossConfig::new().with_label_smoothing(0.1)),
            ),
            (
                r#"{"kind":"focal","gamma":1,"weights":{"kind":"inverse_frequency"}}"#,
                Loss::Focal(
                    FocalLossConfig::new()
                        .with_gamma(1.0)
                        .with_weights(Some(ClassWeights::InverseFrequency {})),
                ),
            ),
            (
                r#"{"kind":"ldam","weights":{"kind":"effective_number","beta":0.9999},
                    "weights_from_epoch":160}"#,
                Loss::Ldam(
                    LdamLossConfig::new()
                        .with_weights(Some(ClassWeights::effective_number()))
                        .with_weights_from_epoch(160),
                ),
            ),
            (r#"{"kind":"balanced_softmax"}"#, Loss::BalancedSoftmax {}),
            (
                r#"{"kind":"logit_adjustment"}"#,
                Loss::LogitAdjustment { tau: 1.0 },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).unwrap(), expected, "{text}");
            let again = serde_json::to_string(&expected).unwrap();
            assert_eq!(read(&again).unwrap(), expected, "{again}");
        }
        let wrong = [
            (r#"{"kind":"focal","gama":1}"#, "unknown field `gama`"),
            (r#"{"kind":"focal","gamma":"two"}"#, "gamma: invalid type"),
            (r#"{"kind":"dkt","gamma":1}"#, "unknown field `gamma`"),
            (
                r#"{"kind":"balanced_softmax","tau":1}"#,
                "unknown field `tau`",
            ),
            (r#"{"kind":"arcface"}"#, "unknown variant `arcface`"),
            (
                r#"{"kind":"focal","weights":{"kind":"inverse_frequency","beta":0.9}}"#,
                "unknown field `beta`",
            ),
        ];
        for (text, expected) in wrong {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

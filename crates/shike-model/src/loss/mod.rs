//! Losses on experts' logits: dynamic knowledge transfer, the balanced softmax, and the losses that
//! SHIKE is compared with.
//!
//! Each has a file of its own, with its settings (`…LossConfig`) and what is computed of them. All are made in
//! the same way, by `init` for a [`LossContext`], and answer in the same way: [`Loss::forward`] gives a
//! [`LossOutput`]. [`LossConfig`] is any one of them; a new loss is a file and a line in its list below.

mod balanced;
mod class_weights;
mod cross_entropy;
mod dkt;
mod error;
mod focal;
mod ldam;

pub use balanced::{BalancedSoftmaxLoss, BalancedSoftmaxLossConfig, LogitAdjustmentLossConfig};
pub use class_weights::ClassWeights;
pub use cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig};
pub use dkt::{DktLoss, DktLossConfig, DktTerms, FEW_CLASSES, KlReduction, NonTargetTeacher};
pub use error::LossError;
pub use focal::{FocalLoss, FocalLossConfig};
pub use ldam::{LdamLoss, LdamLossConfig};
pub use shike_kernels::LossLabels;

use core::fmt::Debug;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use error::count_logs;
use serde::{Deserialize, Serialize};
use shike_kernels::cross_entropy_terms;

use crate::network::{ClassifierConfig, ExpertLogits};

/// The list of losses: variant, settings, `kind` in text.
macro_rules! losses {
    ($($(#[$doc:meta])* $variant:ident($config:ty) = $kind:literal,)*) => {
        /// The settings of any loss. In text a table whose `kind` is the name; fields that are left out have
        /// their defaults.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        #[non_exhaustive]
        pub enum LossConfig {
            $($(#[$doc])* #[serde(rename = $kind)] $variant($config),)*
        }

        impl LossConfig {
            /// Every loss with its defaults.
            pub fn all() -> Vec<Self> {
                vec![$(Self::$variant(<$config>::default())),*]
            }

            fn settings(&self) -> &dyn Settings {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }

            fn settings_mut(&mut self) -> &mut dyn Settings {
                match self {
                    $(Self::$variant(config) => config,)*
                }
            }

            /// The loss.
            ///
            /// # Errors
            /// If a field is out of range, or the loss cannot be had for these classes or this classifier.
            pub fn init(&self, context: &LossContext) -> Result<Box<dyn Loss>, LossError> {
                Ok(match self {
                    $(Self::$variant(config) => Box::new(config.init(context)?),)*
                })
            }
        }
    };
}

losses! {
    /// SHIKE's dynamic knowledge transfer. A single expert has no partner to learn from, but keeps
    /// the non-target term.
    Dkt(DktLossConfig) = "dkt",
    /// Cross-entropy, with label smoothing and class weights; with those of the effective number the
    /// class-balanced loss.
    CrossEntropy(CrossEntropyLossConfig) = "cross_entropy",
    /// Focal loss, with class weights.
    Focal(FocalLossConfig) = "focal",
    /// Label-distribution-aware margins on a cosine classifier, with class weights.
    Ldam(LdamLossConfig) = "ldam",
    /// Balanced softmax.
    BalancedSoftmax(BalancedSoftmaxLossConfig) = "balanced_softmax",
    /// The logit-adjusted loss; with `tau = 1` the balanced softmax.
    LogitAdjustment(LogitAdjustmentLossConfig) = "logit_adjustment",
}

/// A loss by the name that programs know it by; see [`LossConfig::NAMED`].
#[derive(Clone, Copy, Debug)]
pub struct NamedLoss {
    /// The name.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// Its settings.
    pub config: fn() -> LossConfig,
}

const fn named(name: &'static str, about: &'static str, config: fn() -> LossConfig) -> NamedLoss {
    NamedLoss {
        name,
        about,
        config,
    }
}

impl LossConfig {
    /// Losses by name: each kind with its defaults, and settings that papers name.
    pub const NAMED: [NamedLoss; 9] = [
        named(
            "dkt",
            "Dynamic knowledge transfer as in the authors' code",
            || Self::Dkt(DktLossConfig::default()),
        ),
        named(
            "dkt-paper",
            "Dynamic knowledge transfer as the paper reads",
            || Self::Dkt(DktLossConfig::paper()),
        ),
        named(
            "cross-entropy",
            "Cross-entropy of each expert",
            Self::cross_entropy,
        ),
        named(
            "class-balanced",
            "Cross-entropy weighted by the effective number of images",
            || {
                let weights = Some(ClassWeights::effective_number());
                Self::CrossEntropy(CrossEntropyLossConfig::default().with_weights(weights))
            },
        ),
        named("focal", "Focal loss", || {
            Self::Focal(FocalLossConfig::default())
        }),
        named(
            "ldam",
            "Label-distribution-aware margins, on a cosine classifier",
            || Self::Ldam(LdamLossConfig::default()),
        ),
        named("ldam-drw", "LDAM with deferred re-weighting", || {
            let weights = Some(ClassWeights::effective_number());
            Self::Ldam(LdamLossConfig::default().with_weights(weights))
        }),
        named(
            "balanced-softmax",
            "Balanced softmax",
            Self::balanced_softmax,
        ),
        named("logit-adjustment", "Logit adjustment", || {
            Self::LogitAdjustment(LogitAdjustmentLossConfig::default())
        }),
    ];

    /// Cross-entropy without weights or smoothing.
    pub fn cross_entropy() -> Self {
        Self::CrossEntropy(CrossEntropyLossConfig::default())
    }

    /// Balanced softmax.
    pub fn balanced_softmax() -> Self {
        Self::BalancedSoftmax(BalancedSoftmaxLossConfig::default())
    }

    /// The class weights, where the loss can have some, and the epoch that they begin with.
    pub fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        self.settings_mut().weights_mut()
    }

    /// As [`weights_mut`](Self::weights_mut).
    fn weights(&self) -> Option<(Option<ClassWeights>, usize)> {
        let mut copy = self.clone();
        let (weights, from_epoch) = copy.weights_mut()?;
        Some((weights.take(), *from_epoch))
    }

    /// Whether it makes up for the classes' frequencies, wholly or in part: by priors or by weights
    /// that come from the counts.
    pub fn balances(&self) -> bool {
        let weights = self.weights().and_then(|(weights, _)| weights);
        self.settings().prior_power() > 0.0 || weights.is_some_and(|weights| weights.balance())
    }

    /// What a person should know of this loss at this number of classes.
    pub fn note(&self, classes: usize) -> Option<String> {
        self.settings().note(classes)
    }

    /// Logarithms of what the loss multiplies the drawn class frequencies by in what its logits stand for,
    /// `[classes]`: `log w` of class weights that hold in `epoch` (from 0), `−τ log n` of a prior in the
    /// loss. The margins of LDAM, the focal loss's power and label smoothing have no such factor and are left
    /// out.
    ///
    /// # Errors
    /// If the loss cannot be had for these training counts.
    pub fn log_prior_factors(&self, counts: &[usize], epoch: usize) -> Result<Vec<f64>, LossError> {
        let power = self.settings().prior_power();
        let mut factors = match power {
            0.0 => vec![0.0; counts.len()],
            _ => {
                let logs = count_logs(counts, balanced::NO_PRIOR)?;
                logs.into_iter().map(|log| -power * log).collect()
            }
        };
        if let Some((Some(weights), from)) = self.weights()
            && epoch >= from
        {
            let weights = weights.compute(counts)?;
            let factors = factors.iter_mut().zip(weights);
            factors.for_each(|(factor, weight)| *factor += weight.ln());
        }
        Ok(factors)
    }

    /// Checks all that needs no class counts, for a stage of so many epochs on a network with this
    /// classifier.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn validate(&self, epochs: usize, classifier: &ClassifierConfig) -> Result<(), LossError> {
        self.settings().check(classifier)?;
        let expected = match self.weights() {
            Some((Some(_), from)) if from >= epochs => {
                format!("below the epochs of the stage, {epochs}")
            }
            Some((None, from)) if from > 0 => "0 where the loss has no weights".to_owned(),
            _ => return Ok(()),
        };
        let from = self.weights().map_or(0, |(_, from)| from);
        LossError::check("weights_from_epoch", false, &from, &expected)
    }
}

/// What the settings of a loss say of it.
trait Settings {
    /// Checks all that needs no counts.
    fn check(&self, classifier: &ClassifierConfig) -> Result<(), LossError>;

    /// The class weights, where the loss can have some, and the epoch that they begin with.
    fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        None
    }

    /// The power of the class frequencies that the loss adds to logits.
    fn prior_power(&self) -> f64 {
        0.0
    }

    /// What a person should know of it at this number of classes.
    fn note(&self, _classes: usize) -> Option<String> {
        None
    }
}

/// What a loss is made for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LossContext<'a> {
    /// Training images of each class.
    pub counts: &'a [usize],
    /// The epoch, from 0.
    pub epoch: usize,
    /// The network's classifier.
    pub classifier: ClassifierConfig,
}

impl<'a> LossContext<'a> {
    /// The first epoch on classes with these training counts, of a network with the reference's classifier.
    pub fn new(counts: &'a [usize]) -> Self {
        Self {
            counts,
            epoch: 0,
            classifier: ClassifierConfig::cosine(),
        }
    }
}

setters!(LossContext<'_> {
    with_epoch epoch: usize,
    with_classifier classifier: ClassifierConfig,
});

/// A loss on the logits of experts. It holds no tensors, and works on any device and float type.
pub trait Loss: Debug + Send + Sync {
    /// The loss for class indices, `[batch]`.
    fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> LossOutput;

    /// The loss of a batch that is mixed with itself in reverse and of which each image kept `share`: the
    /// losses of both labels in proportion, where a loss has no better answer.
    fn forward_mixed(
        &self,
        logits: &ExpertLogits,
        labels: Tensor<1, Int>,
        share: f64,
    ) -> LossOutput {
        let partners = self.forward(logits, labels.clone().flip([0]));
        let own = self.forward(logits, labels);
        let mix = |own: Tensor<1>, partners: Tensor<1>| {
            own.mul_scalar(share) + partners.mul_scalar(1.0 - share)
        };
        LossOutput {
            total: mix(own.total, partners.total),
            per_expert: mix(own.per_expert, partners.per_expert),
            terms: vec![],
        }
    }
}

/// A loss of a batch.
#[derive(Clone, Debug)]
pub struct LossOutput {
    total: Tensor<1>,
    /// What each expert adds to the total, `[experts]`.
    pub per_expert: Tensor<1>,
    /// The terms by name, `[1]` each, summed over experts and before their weights; none where the loss is a
    /// single term.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

impl LossOutput {
    /// A loss of a single term, from that of each expert, `[experts]`.
    pub fn of_experts(per_expert: Tensor<1>) -> Self {
        Self {
            total: per_expert.clone().sum(),
            per_expert,
            terms: vec![],
        }
    }

    /// What is minimised, `[1]`: the sum over experts.
    pub fn total(&self) -> Tensor<1> {
        self.total.clone()
    }
}

/// One-hot labels, `[batch, classes]`, of class indices, `[batch]`, in the float type of `like`. An index
/// that is no class gives a row of zeros, and its image counts in no loss but as a part of the batch: to
/// look for one would make every step wait for the device.
pub fn one_hot(labels: Tensor<1, Int>, like: &Tensor<2>) -> Tensor<2> {
    let [_, classes] = like.dims();
    is_class(labels.unsqueeze_dim(1), classes)
        .float()
        .cast(like.dtype())
}

/// `[batch, classes]`: whether the column is the class that `index`, `[batch, 1]`, names.
fn is_class(index: Tensor<2, Int>, classes: usize) -> Tensor<2, burn::tensor::Bool> {
    let columns = Tensor::<1, Int>::arange(0..classes as i64, (&index.device(), index.dtype()));
    let columns = columns.unsqueeze_dim::<2>(0);
    index.equal(columns)
}

/// Cross-entropy of soft labels, mean over the batch: `−Σ y · log p / batch`, `[1]`.
///
/// Means in this crate multiply by a reciprocal: Burn 0.22 rounds the divisor of `div_scalar` to
/// float32 in its backward pass, which costs float64 gradients half of their digits.
fn soft_cross_entropy(log_probs: Tensor<2>, labels: &Tensor<2>) -> Tensor<1> {
    let [batch, _] = log_probs.dims();
    (log_probs * labels.clone())
        .sum()
        .mul_scalar(-1.0 / batch as f64)
}

/// Cross-entropy of `logits + prior` of each expert, mean over the batch, `[experts]`: in one pass where
/// there is a kernel for it, else in Burn's operations. Soft labels need not sum to 1: a row is
/// weighted by its sum.
fn cross_entropy(
    experts: &[Tensor<2>],
    labels: LossLabels,
    prior: Option<&TensorData>,
) -> Tensor<1> {
    let [batch, classes] = experts[0].dims();
    let row = || match prior {
        Some(prior) => prior.iter::<f32>().collect(),
        None => vec![0.0; classes],
    };
    if let Some(terms) = cross_entropy_terms(experts, &labels, row) {
        return terms.mul_scalar(1.0 / batch as f64);
    }
    let labels = match labels {
        LossLabels::Hard(labels) => one_hot(labels, &experts[0]),
        LossLabels::Soft(labels) => labels,
    };
    let prior = prior.map(|prior| class_weights::row(prior, &experts[0]));
    let terms = experts.iter().map(|logits| {
        let logits = match &prior {
            Some(prior) => logits.clone() + prior.clone(),
            None => logits.clone(),
        };
        soft_cross_entropy(log_softmax(logits, 1), &labels)
    });
    Tensor::cat(terms.collect(), 0)
}

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::class_weights::{in_epoch, row};
use super::{
    ClassWeights, Loss, LossContext, LossError, LossOutput, Settings, one_hot, soft_cross_entropy,
};
use crate::network::{ClassifierConfig, ExpertLogits};

/// Configuration of [`FocalLoss`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FocalLossConfig {
    /// γ, 0 or more: how fast the loss of images that are already classified well fades. 0 is
    /// cross-entropy.
    pub gamma: f64,
    /// Weights of the classes; with [`ClassWeights::EffectiveNumber`] the class-balanced focal loss.
    pub weights: Option<ClassWeights>,
    /// The epoch, from 0, from which on the weights hold (deferred re-weighting).
    pub weights_from_epoch: usize,
}

/// Focal loss (Lin et al. 2017, arXiv 1708.02002, equation 5) over the softmax, mean over the batch:
/// `−w_y · (1 − p_y)^γ · log p_y`. Weights do not change the divisor, as in the paper's α. (LDAM's
/// published code puts the weight into `p_y` as well, which is not followed.)
#[derive(Clone, Debug)]
pub struct FocalLoss {
    gamma: f64,
    /// `[1, classes]`.
    weights: Option<TensorData>,
}

/// Bound on `1 − p` from below: a power below 1 has no derivative at 0.
const SMALLEST: f64 = 1e-12;

impl Default for FocalLossConfig {
    fn default() -> Self {
        Self {
            gamma: 2.0,
            weights: None,
            weights_from_epoch: 0,
        }
    }
}

impl FocalLossConfig {
    /// The loss.
    ///
    /// # Errors
    /// If a field is out of range, or weights are asked for and a class has no image.
    pub fn init(&self, context: &LossContext) -> Result<FocalLoss, LossError> {
        self.check(&context.classifier)?;
        Ok(FocalLoss {
            gamma: self.gamma,
            weights: in_epoch(self.weights.as_ref(), self.weights_from_epoch, context)?,
        })
    }
}

setters!(FocalLossConfig {
    with_gamma gamma: f64,
    with_weights weights: Option<ClassWeights>,
    with_weights_from_epoch weights_from_epoch: usize,
});

impl Settings for FocalLossConfig {
    fn check(&self, _: &ClassifierConfig) -> Result<(), LossError> {
        let valid = self.gamma.is_finite() && self.gamma >= 0.0;
        LossError::check("gamma", valid, &self.gamma, "0 or more")?;
        self.weights.as_ref().map_or(Ok(()), ClassWeights::validate)
    }

    fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        Some((&mut self.weights, &mut self.weights_from_epoch))
    }
}

impl Loss for FocalLoss {
    fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> LossOutput {
        self.forward_soft(logits, one_hot(labels, &logits.experts[0]))
    }
}

impl FocalLoss {
    /// The loss for label distributions, `[batch, classes]`, whose rows sum to 1: the mean over them of the
    /// classes' losses.
    pub fn forward_soft(&self, logits: &ExpertLogits, labels: Tensor<2>) -> LossOutput {
        let labels = match &self.weights {
            None => labels,
            Some(weights) => {
                let weights = row(weights, &labels);
                labels * weights
            }
        };
        let terms = logits.experts.iter().map(|logits| {
            let log_p = log_softmax(logits.clone(), 1);
            let rest = log_p.clone().exp().neg().add_scalar(1.0);
            let factor = rest.clamp_min(SMALLEST).powf_scalar(self.gamma);
            soft_cross_entropy(factor * log_p, &labels)
        });
        LossOutput::of_experts(Tensor::cat(terms.collect(), 0))
    }
}

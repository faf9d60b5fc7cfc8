use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use shike_kernels::LossLabels;

use super::class_weights::in_epoch;
use super::{
    ClassWeights, Loss, LossContext, LossError, LossOutput, Settings, count_logs, cross_entropy,
};
use crate::network::{ClassifierConfig, ExpertLogits};

/// Configuration of [`BalancedSoftmaxLoss`] as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BalancedSoftmaxLossConfig {
    /// Weights of the classes, not from their counts: with a weight of 2 the classifier answers as if the class were twice as
    /// frequent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<ClassWeights>,
    /// The epoch, from 0, from which on the weights hold.
    #[serde(skip_serializing_if = "is_first")]
    pub weights_from_epoch: usize,
}

/// Configuration of [`BalancedSoftmaxLoss`] with a power of the priors: the logit-adjusted loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogitAdjustmentLossConfig {
    /// The power of the class frequencies: 1 is the balanced softmax, 0 cross-entropy.
    pub tau: f64,
    /// As those of [`BalancedSoftmaxLossConfig`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<ClassWeights>,
    /// The epoch, from 0, from which on the weights hold.
    #[serde(skip_serializing_if = "is_first")]
    pub weights_from_epoch: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_first(epoch: &usize) -> bool {
    *epoch == 0
}

/// Balanced softmax (Ren et al. 2020, arXiv 2007.10740): cross-entropy of `logits + log n`, where
/// `n` are the training counts of the classes; with a power τ of them the logit-adjusted
/// loss (Menon et al. 2021, arXiv 2007.07314, equation 10), cross-entropy of `logits + τ log π`, whose
/// class frequencies `π` differ from `n` by a factor that the softmax does not see. With class weights `w` it is that of
/// `logits + τ log n − log w`: the logits stand for frequencies in proportion to `w`. Summed over
/// experts, as the reference's stage 2 (`mix_outputs` with `balance=True`, which has no distillation
/// terms).
#[derive(Clone, Debug)]
pub struct BalancedSoftmaxLoss {
    log_prior: TensorData,
}

/// What a class without an image means.
pub(super) const NO_PRIOR: &str = "its prior log(0) is −∞";

setters!(LogitAdjustmentLossConfig {
    with_tau tau: f64,
    with_weights weights: Option<ClassWeights>,
});

impl Default for LogitAdjustmentLossConfig {
    fn default() -> Self {
        Self {
            tau: 1.0,
            weights: None,
            weights_from_epoch: 0,
        }
    }
}

impl BalancedSoftmaxLossConfig {
    /// The loss. The logarithms of the counts are taken in float64. (The reference takes them in float32, which
    /// moves its float64 loss by up to 1e-7.)
    ///
    /// # Errors
    /// If a class has no image.
    pub fn init(&self, context: &LossContext) -> Result<BalancedSoftmaxLoss, LossError> {
        let adjustment = LogitAdjustmentLossConfig {
            weights: self.weights.clone(),
            weights_from_epoch: self.weights_from_epoch,
            ..LogitAdjustmentLossConfig::default()
        };
        adjustment.init(context)
    }
}

impl LogitAdjustmentLossConfig {
    /// The loss, as [`BalancedSoftmaxLossConfig::init`].
    ///
    /// # Errors
    /// If a class has no image or `tau` is not a number of at least 0.
    pub fn init(&self, context: &LossContext) -> Result<BalancedSoftmaxLoss, LossError> {
        self.check(&context.classifier)?;
        let logs = count_logs(context.counts, NO_PRIOR)?;
        let mut values: Vec<f64> = logs.into_iter().map(|log| self.tau * log).collect();
        if let Some(weights) = in_epoch(self.weights.as_ref(), self.weights_from_epoch, context)? {
            let weights = weights.iter::<f64>();
            values
                .iter_mut()
                .zip(weights)
                .for_each(|(log, w)| *log -= w.ln());
        }
        let shape = [1, values.len()];
        Ok(BalancedSoftmaxLoss {
            log_prior: TensorData::new(values, shape),
        })
    }
}

/// Refuses weights that come from the counts: the prior makes up for those already.
fn check_weights(weights: Option<&ClassWeights>) -> Result<(), LossError> {
    let Some(weights) = weights else {
        return Ok(());
    };
    weights.validate()?;
    let expected = "named or given ones, as the prior makes up for the counts already";
    LossError::check("weights", !weights.balance(), &"from the counts", expected)
}

impl Settings for BalancedSoftmaxLossConfig {
    fn check(&self, _: &ClassifierConfig) -> Result<(), LossError> {
        check_weights(self.weights.as_ref())
    }

    fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        Some((&mut self.weights, &mut self.weights_from_epoch))
    }

    fn prior_power(&self) -> f64 {
        1.0
    }
}

impl Settings for LogitAdjustmentLossConfig {
    fn check(&self, _: &ClassifierConfig) -> Result<(), LossError> {
        let valid = self.tau.is_finite() && self.tau >= 0.0;
        LossError::check("tau", valid, &self.tau, "0 or more")?;
        check_weights(self.weights.as_ref())
    }

    fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        Some((&mut self.weights, &mut self.weights_from_epoch))
    }

    fn prior_power(&self) -> f64 {
        self.tau
    }
}

impl BalancedSoftmaxLoss {
    /// The loss for label distributions, `[batch, classes]`, whose rows sum to 1.
    pub fn forward_soft(&self, logits: &ExpertLogits, labels: Tensor<2>) -> LossOutput {
        self.output(logits, LossLabels::Soft(labels))
    }

    fn output(&self, logits: &ExpertLogits, labels: LossLabels) -> LossOutput {
        let prior = Some(&self.log_prior);
        LossOutput::of_experts(cross_entropy(&logits.experts, labels, prior))
    }
}

impl Loss for BalancedSoftmaxLoss {
    /// # Panics
    /// If the logits are of another number of classes than the counts.
    fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> LossOutput {
        self.output(logits, LossLabels::Hard(labels))
    }
}

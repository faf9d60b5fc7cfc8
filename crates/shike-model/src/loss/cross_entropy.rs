use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use shike_kernels::LossLabels;

use super::class_weights::{in_epoch, row};
use super::{
    ClassWeights, Loss, LossContext, LossError, LossOutput, Settings, cross_entropy, one_hot,
};
use crate::network::{ClassifierConfig, ExpertLogits};

/// Configuration of [`CrossEntropyLoss`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CrossEntropyLossConfig {
    /// Label smoothing: the share ε of a label that is spread evenly over all classes, in [0, 1).
    pub label_smoothing: f64,
    /// Weights of the classes; with [`ClassWeights::EffectiveNumber`] the class-balanced loss.
    pub weights: Option<ClassWeights>,
    /// The epoch, from 0, from which on the weights hold (deferred re-weighting).
    pub weights_from_epoch: usize,
}

/// Cross-entropy with class weights `w` and label smoothing ε, mean over the batch, as
/// `torch.nn.CrossEntropyLoss(weight=w, label_smoothing=ε)`:
/// `Σᵢ Σ_c w_c · t_ic · (−log p_ic) / Σᵢ w_yᵢ` with `t = (1 − ε) · y + ε / C`. For label distributions the
/// divisor is the batch, as in PyTorch. The default has neither weights nor smoothing.
#[derive(Clone, Debug, Default)]
pub struct CrossEntropyLoss {
    label_smoothing: f64,
    /// `[1, classes]`.
    weights: Option<TensorData>,
}

impl CrossEntropyLossConfig {
    /// The loss.
    ///
    /// # Errors
    /// If a field is out of range, or weights are asked for and a class has no image.
    pub fn init(&self, context: &LossContext) -> Result<CrossEntropyLoss, LossError> {
        self.check(&context.classifier)?;
        Ok(CrossEntropyLoss {
            label_smoothing: self.label_smoothing,
            weights: in_epoch(self.weights.as_ref(), self.weights_from_epoch, context)?,
        })
    }
}

setters!(CrossEntropyLossConfig {
    with_label_smoothing label_smoothing: f64,
    with_weights weights: Option<ClassWeights>,
    with_weights_from_epoch weights_from_epoch: usize,
});

impl Settings for CrossEntropyLossConfig {
    fn check(&self, _: &ClassifierConfig) -> Result<(), LossError> {
        let smoothing = self.label_smoothing;
        LossError::check(
            "label_smoothing",
            (0.0..1.0).contains(&smoothing),
            &smoothing,
            "at least 0 and below 1",
        )?;
        self.weights.as_ref().map_or(Ok(()), ClassWeights::validate)
    }

    fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        Some((&mut self.weights, &mut self.weights_from_epoch))
    }
}

impl Loss for CrossEntropyLoss {
    fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> LossOutput {
        if self.weights.is_none() && self.label_smoothing == 0.0 {
            let labels = LossLabels::Hard(labels);
            return LossOutput::of_experts(cross_entropy(&logits.experts, labels, None));
        }
        let labels = one_hot(labels, &logits.experts[0]);
        let targets = self.targets(labels.clone());
        let targets = match &self.weights {
            None => targets,
            Some(weights) => mean_weight_1(targets, labels, weights),
        };
        let targets = LossLabels::Soft(targets);
        LossOutput::of_experts(cross_entropy(&logits.experts, targets, None))
    }
}

impl CrossEntropyLoss {
    /// The loss for label distributions, `[batch, classes]`, whose rows sum to 1.
    pub fn forward_soft(&self, logits: &ExpertLogits, labels: Tensor<2>) -> LossOutput {
        let targets = LossLabels::Soft(self.targets(labels));
        LossOutput::of_experts(cross_entropy(&logits.experts, targets, None))
    }

    /// Smoothed and weighted labels.
    fn targets(&self, labels: Tensor<2>) -> Tensor<2> {
        let [_, classes] = labels.dims();
        let smoothed = match self.label_smoothing {
            0.0 => labels,
            epsilon => labels
                .mul_scalar(1.0 - epsilon)
                .add_scalar(epsilon / classes as f64),
        };
        match &self.weights {
            None => smoothed,
            Some(weights) => {
                let weights = row(weights, &smoothed);
                smoothed * weights
            }
        }
    }
}

/// Weighted targets scaled so that the labels' weights have the mean 1: a mean over the batch then is
/// one over the weights.
pub(super) fn mean_weight_1(
    targets: Tensor<2>,
    labels: Tensor<2>,
    weights: &TensorData,
) -> Tensor<2> {
    let [batch, _] = labels.dims();
    let weights = row(weights, &labels);
    let sum = (labels * weights).sum();
    targets * sum.recip().mul_scalar(batch as f64).unsqueeze()
}

use burn::tensor::{Int, Tensor, TensorData};
use shike_kernels::LossLabels;

use super::{LossError, count_logs, cross_entropy};
use crate::network::ExpertLogits;

/// Balanced softmax (Ren et al. 2020, arXiv 2007.10740): cross-entropy of `logits + log n`, where
/// `n` are the training counts of the classes; with [`with_tau`](Self::with_tau) the logit-adjusted
/// loss (Menon et al. 2021, arXiv 2007.07314, equation 10), cross-entropy of `logits + τ log π`, whose
/// class frequencies `π` differ from `n` by a factor that the softmax does not see. Summed over
/// experts, as the reference's stage 2 (`mix_outputs` with `balance=True`, which has no distillation
/// terms).
#[derive(Clone, Debug)]
pub struct BalancedSoftmaxLoss {
    log_prior: TensorData,
}

/// Balanced softmax of every expert.
#[derive(Clone, Debug)]
pub struct BalancedSoftmaxOutput {
    /// Sum over the experts, `[1]`.
    pub total: Tensor<1>,
    /// One value an expert, `[experts]`.
    pub cross_entropy: Tensor<1>,
}

impl BalancedSoftmaxLoss {
    /// A loss for classes with these training counts, whose logarithms are taken in float64. (The
    /// reference takes them in float32, which moves its float64 loss by up to 1e-7.)
    ///
    /// # Errors
    /// If a class has no image.
    pub fn new(counts: &[usize]) -> Result<Self, LossError> {
        Self::with_tau(counts, 1.0)
    }

    /// The logit-adjusted loss, whose priors are raised to the power `tau`: 1 is the balanced softmax,
    /// 0 cross-entropy.
    ///
    /// # Errors
    /// If a class has no image or `tau` is not a number of at least 0.
    pub fn with_tau(counts: &[usize], tau: f64) -> Result<Self, LossError> {
        let valid = tau.is_finite() && tau >= 0.0;
        LossError::check("tau", valid, &tau, "0 or more")?;
        let logs = count_logs(counts, "its prior log(0) is −∞")?;
        let values: Vec<f64> = logs.into_iter().map(|log| tau * log).collect();
        let shape = [1, values.len()];
        Ok(Self {
            log_prior: TensorData::new(values, shape),
        })
    }

    /// The loss for class indices, `[batch]`.
    ///
    /// # Panics
    /// If the logits are of another number of classes than the counts.
    pub fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> BalancedSoftmaxOutput {
        self.output(logits, LossLabels::Hard(labels))
    }

    /// The loss for label distributions, `[batch, classes]`, whose rows sum to 1.
    pub fn forward_soft(&self, logits: &ExpertLogits, labels: Tensor<2>) -> BalancedSoftmaxOutput {
        self.output(logits, LossLabels::Soft(labels))
    }

    fn output(&self, logits: &ExpertLogits, labels: LossLabels) -> BalancedSoftmaxOutput {
        let cross_entropy = cross_entropy(&logits.experts, labels, Some(&self.log_prior));
        BalancedSoftmaxOutput {
            total: cross_entropy.clone().sum(),
            cross_entropy,
        }
    }
}

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use shike_kernels::{LossLabels, cross_entropy_terms};
use thiserror::Error;

use super::{one_hot, soft_cross_entropy};
use crate::network::ExpertLogits;

/// Balanced softmax (Ren et al. 2020, arXiv 2007.10740): cross-entropy of `logits + log n`, where
/// `n` are the training counts of the classes. Summed over experts, as the reference's stage 2
/// (`mix_outputs` with `balance=True`, which has no distillation terms).
#[derive(Clone, Debug)]
pub struct BalancedSoftmaxLoss {
    log_prior: TensorData,
}

/// Counts that have no balanced softmax.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BalancedSoftmaxError {
    /// log 0 would make the loss infinite.
    #[error(
        "class {class} has no training image, so its balanced-softmax prior log(0) is −∞; \
         remove the class or give it an image"
    )]
    EmptyClass {
        /// Index of the class.
        class: usize,
    },
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
    pub fn new(counts: &[usize]) -> Result<Self, BalancedSoftmaxError> {
        if let Some(class) = counts.iter().position(|&count| count == 0) {
            return Err(BalancedSoftmaxError::EmptyClass { class });
        }
        let values: Vec<f64> = counts.iter().map(|&n| (n as f64).ln()).collect();
        let shape = [1, values.len()];
        Ok(Self {
            log_prior: TensorData::new(values, shape),
        })
    }

    /// The log priors, `[1, classes]`, in the device's type or that of `like`.
    fn log_prior(&self, device: &Device, like: &Tensor<2>) -> Tensor<2> {
        Tensor::from_data(self.log_prior.clone(), (device, like.dtype()))
    }

    /// The loss for class indices, `[batch]`.
    pub fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> BalancedSoftmaxOutput {
        let known = LossLabels::Hard(labels.clone());
        self.kernel(logits, &known)
            .unwrap_or_else(|| self.by_definition(logits, one_hot(labels, &logits.experts[0])))
    }

    /// The loss for label distributions, `[batch, classes]`, whose rows sum to 1.
    pub fn forward_soft(&self, logits: &ExpertLogits, labels: Tensor<2>) -> BalancedSoftmaxOutput {
        let known = LossLabels::Soft(labels.clone());
        self.kernel(logits, &known)
            .unwrap_or_else(|| self.by_definition(logits, labels))
    }

    /// All experts in one pass, where there is a kernel for it.
    fn kernel(&self, logits: &ExpertLogits, labels: &LossLabels) -> Option<BalancedSoftmaxOutput> {
        let prior = || self.log_prior.iter::<f32>().collect();
        let terms = cross_entropy_terms(&logits.experts, labels, prior)?;
        let [batch, _] = logits.experts[0].dims();
        let cross_entropy = terms.mul_scalar(1.0 / batch as f64);
        Some(BalancedSoftmaxOutput {
            total: cross_entropy.clone().sum(),
            cross_entropy,
        })
    }

    /// The definition, in Burn's operations.
    fn by_definition(&self, logits: &ExpertLogits, labels: Tensor<2>) -> BalancedSoftmaxOutput {
        let first = &logits.experts[0];
        let prior = self.log_prior(&first.device(), first);
        let terms = logits.experts.iter().map(|logits| {
            soft_cross_entropy(log_softmax(logits.clone() + prior.clone(), 1), &labels)
        });
        let cross_entropy = Tensor::cat(terms.collect(), 0);
        BalancedSoftmaxOutput {
            total: cross_entropy.clone().sum(),
            cross_entropy,
        }
    }
}

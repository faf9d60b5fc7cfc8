//! Losses on experts' logits: dynamic knowledge transfer, the balanced softmax, and the losses that
//! SHIKE is compared with.

mod balanced;
mod class_weights;
mod cross_entropy;
mod dkt;
mod error;
mod focal;
mod ldam;

pub use balanced::{BalancedSoftmaxLoss, BalancedSoftmaxOutput};
pub use class_weights::ClassWeights;
pub use cross_entropy::{CrossEntropyLoss, CrossEntropyLossConfig};
pub use dkt::{DktLoss, DktLossConfig, DktLossOutput, KlReduction, NonTargetTeacher};
pub use error::LossError;
pub use focal::{FocalLoss, FocalLossConfig};
pub use ldam::{LdamLoss, LdamLossConfig};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use error::count_logs;
use shike_kernels::{LossLabels, cross_entropy_terms};

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

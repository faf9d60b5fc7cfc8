//! Losses on experts' logits: dynamic knowledge transfer for stage 1, balanced softmax for stage 2.

mod balanced;
mod dkt;

pub use balanced::{BalancedSoftmaxError, BalancedSoftmaxLoss, BalancedSoftmaxOutput};
pub use dkt::{DktLoss, DktLossConfig, DktLossOutput, KlReduction, NonTargetTeacher};

use burn::tensor::{Int, Tensor};

/// One-hot labels, `[batch, classes]`, of class indices, `[batch]`, in the float type of `like`.
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

//! Convolution, and batch normalisation with residual and ReLU, as fast on a CPU as the processor
//! allows.
//!
//! Burn's CPU backend Flex spends most of a training step moving data around: into and out of
//! channels-last order, through im2col matrices, and once more for each of the element-wise steps
//! that batch normalisation is made of. The kernels here read pictures where they lie, and do
//! normalisation, residual and ReLU in one pass forward and two backward.
//!
//! [`conv2d`], [`batch_norm_train`] and [`batch_norm`] may be called with any tensor. The kernels
//! run where the feature `flex` is on and the tensors are float32 on Flex, plain or with autodiff
//! without gradient checkpointing; a convolution must have neither bias nor dilation and its padding
//! given in numbers. Everywhere else Burn's own modules answer, with the same result up to rounding.
//! [`stats`] tells how often which of the two happened.
//!
//! Results are equal bit for bit from run to run, and for any number of threads: sums are cut into
//! parts by the shapes alone. Another processor may have other vectors (AVX-512, AVX2, or plain Rust
//! are chosen when the program runs) and round differently.
//!
//! [`set_enabled`], or the environment variable `SHIKE_KERNELS=off`, turns the kernels off.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::tensor::activation::relu;
use burn::tensor::module::BatchNormTrainOutput;
use burn::tensor::{DType, FloatDType, Int, Tensor};

#[cfg(feature = "flex")]
mod flex;
mod stats;

#[cfg(feature = "flex")]
#[doc(hidden)]
pub use flex::Simd;
use stats::{Kernel, count};
pub use stats::{Stats, stats};

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether the kernels are used where they can be. Until [`set_enabled`] is called, the environment
/// variable `SHIKE_KERNELS` decides: `off` or `0` turns them off.
pub fn enabled() -> bool {
    match STATE.load(Relaxed) {
        UNKNOWN => {
            let off = std::env::var("SHIKE_KERNELS").is_ok_and(|v| v == "off" || v == "0");
            set_enabled(!off);
            !off
        }
        state => state == ON,
    }
}

/// Turns the kernels on or off for the whole program. What was computed before keeps the backward
/// pass that it began with.
pub fn set_enabled(enabled: bool) {
    STATE.store(if enabled { ON } else { OFF }, Relaxed);
}

/// What follows a batch normalisation in the same pass.
// Passed on and used at once: a box would only cost.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// ReLU.
    Relu,
    /// The sum with a residual of the input's shape, then ReLU.
    AddRelu(Tensor<4>),
}

impl Then {
    /// The same with Burn's own operations.
    fn apply(self, output: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Nothing => output,
            Self::Relu => relu(output),
            Self::AddRelu(residual) => relu(output + residual),
        }
    }
}

/// The convolution `conv` of `input`, in the input's type: a float32 weight is cast for a bfloat16
/// input, and gets its gradient in float32.
///
/// # Shapes
/// - `input`: `[batch, channels_in, height, width]`
/// - output: `[batch, channels_out, height_out, width_out]`
pub fn conv2d(conv: &Conv2d, input: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if enabled() && flex::conv2d_fits(conv, &input) {
        return flex::conv2d(conv, input);
    }
    count(Kernel::Fallback);
    let weight = conv.weight.val();
    if weight.dtype() == input.dtype() {
        return conv.forward(input);
    }
    let mut in_type = conv.clone();
    in_type.weight = Param::initialized(conv.weight.id, as_type(weight, input.dtype()));
    in_type.forward(input)
}

/// The tensor in another type of float; gradients come back in its own.
fn as_type<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => tensor.cast(FloatDType::from(dtype)),
    }
}

/// Batch normalisation with the statistics of the batch, and what follows it:
/// `γ · (x − mean) / √(variance + ε) + β`. Mean and *biased* variance come out too; no gradient
/// flows through them. A bfloat16 input is normalised in the type of `gamma`, which mean and variance
/// have too, and comes out in its own.
///
/// # Shapes
/// - `input` and output: `[batch, channels, height, width]`
/// - `gamma`, `beta`, mean and variance: `[channels]`
pub fn batch_norm_train(
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    then: Then,
) -> BatchNormTrainOutput<4> {
    #[cfg(feature = "flex")]
    if enabled() && flex::batch_norm_fits(&input, &[&gamma, &beta], &then) {
        return flex::batch_norm_train(input, gamma, beta, epsilon, then);
    }
    count(Kernel::Fallback);
    let dtype = input.dtype();
    let input = as_type(input, gamma.dtype());
    let mut normalised = burn::tensor::module::batch_norm_train(input, gamma, beta, epsilon);
    normalised.output = then.apply(as_type(normalised.output, dtype));
    normalised
}

/// Batch normalisation with given statistics, and what follows it. Gradients flow to `input`,
/// `gamma`, `beta` and the residual, not to the statistics. Types are as for [`batch_norm_train`].
///
/// # Shapes
/// - `input` and output: `[batch, channels, height, width]`
/// - `gamma`, `beta`, `mean` and `variance`: `[channels]`
pub fn batch_norm(
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
    epsilon: f64,
    then: Then,
) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if enabled() && flex::batch_norm_fits(&input, &[&gamma, &beta, &mean, &variance], &then) {
        return flex::batch_norm(input, gamma, beta, mean, variance, epsilon, then);
    }
    count(Kernel::Fallback);
    let (mean, variance) = (mean.detach(), variance.detach());
    let dtype = input.dtype();
    let input = as_type(input, gamma.dtype());
    let output = burn::tensor::module::batch_norm(input, gamma, beta, mean, variance, epsilon);
    then.apply(as_type(output, dtype))
}

/// The labels of a loss.
#[derive(Clone, Debug)]
pub enum LossLabels {
    /// Class indices, `[batch]`.
    Hard(Tensor<1, Int>),
    /// Distributions, `[batch, classes]`; no gradient flows to them.
    Soft(Tensor<2>),
}

/// What the terms of dynamic knowledge transfer leave open; see `DktLossConfig` of shike-model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DktOptions {
    /// Teachers are constants.
    pub detach_teacher: bool,
    /// The target class takes no part in the non-target distributions.
    pub exclude_target: bool,
}

/// The terms of dynamic knowledge transfer, each summed over the batch and divided by nothing: the
/// cross-entropy of each expert, the non-target distillation into each, and row by row the mutual
/// distillation, `[experts + experts + experts²]`. shike-model's `DktLoss` defines them; `None` where
/// the kernel cannot work, and that definition has to.
///
/// One pass over the logits computes all values, a second one, in the backward pass, the gradient;
/// nothing but the logits is kept in between.
///
/// # Shapes
/// - `logits`: `[batch, classes]` of each expert
#[allow(unused_variables)]
pub fn dkt_terms(
    logits: &[Tensor<2>],
    labels: &LossLabels,
    options: DktOptions,
) -> Option<Tensor<1>> {
    #[cfg(feature = "flex")]
    if enabled()
        && let Some(terms) = flex::dkt(logits, labels, options)
    {
        return Some(terms);
    }
    count(Kernel::Fallback);
    None
}

/// The cross-entropy of `logits + prior`, summed over the batch, of each expert, `[experts]`; `None`
/// where the kernel cannot work.
///
/// # Shapes
/// - `logits`: `[batch, classes]` of each expert
/// - `prior`: `[classes]`
#[allow(unused_variables)]
pub fn cross_entropy_terms(
    logits: &[Tensor<2>],
    labels: &LossLabels,
    prior: impl FnOnce() -> Vec<f32>,
) -> Option<Tensor<1>> {
    #[cfg(feature = "flex")]
    if enabled()
        && let Some(terms) = flex::cross_entropy(logits, labels, prior())
    {
        return Some(terms);
    }
    count(Kernel::Fallback);
    None
}

/// A step of stochastic gradient descent with momentum and weight decay:
/// `v ← momentum · v + (g + decay · w); w ← w − lr · v`, the first velocity being `g + decay · w`. Gives
/// weight and velocity, which must not be tracked for gradients.
///
/// # Shapes
/// - `weight`, `gradient` and `velocity`: the same
pub fn sgd_step<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
    lr: f64,
    momentum: f64,
    decay: f64,
) -> (Tensor<D>, Tensor<D>) {
    #[cfg(feature = "flex")]
    if enabled() && flex::sgd_fits(&weight, &gradient, velocity.as_ref()) {
        let rates = [lr, momentum, decay].map(|rate| rate as f32);
        return flex::sgd_step(weight, gradient, velocity, rates);
    }
    count(Kernel::Fallback);
    let gradient = match decay {
        0.0 => gradient,
        decay => gradient + weight.clone().mul_scalar(decay),
    };
    let velocity = match velocity {
        Some(velocity) => velocity.mul_scalar(momentum) + gradient,
        None => gradient,
    };
    (weight - velocity.clone().mul_scalar(lr), velocity)
}

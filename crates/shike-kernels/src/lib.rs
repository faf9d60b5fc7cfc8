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

use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use burn::tensor::module::BatchNormTrainOutput;

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
// It is moved once a layer; a box would cost an allocation.
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

/// The convolution `conv` of `input`.
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
    conv.forward(input)
}

/// Batch normalisation with the statistics of the batch, and what follows it:
/// `γ · (x − mean) / √(variance + ε) + β`. Mean and *biased* variance come out too; no gradient
/// flows through them.
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
    let mut normalised = burn::tensor::module::batch_norm_train(input, gamma, beta, epsilon);
    normalised.output = then.apply(normalised.output);
    normalised
}

/// Batch normalisation with given statistics, and what follows it. Gradients flow to `input`,
/// `gamma`, `beta` and the residual, not to the statistics.
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
    let output = burn::tensor::module::batch_norm(input, gamma, beta, mean, variance, epsilon);
    then.apply(output)
}

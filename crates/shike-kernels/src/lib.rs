//! Convolution, batch normalisation with residual and ReLU, and the layers of transformers, as fast on a
//! CPU as the processor allows.
//!
//! Burn's CPU backend Flex spends most of a training step moving data around: into and out of
//! channels-last order, through im2col matrices, and once more for each of the element-wise steps
//! that batch normalisation is made of. The kernels here read pictures where they lie, and do
//! normalisation, residual and ReLU in one pass forward and two backward.
//!
//! [`conv2d`], [`conv2d_norm`], [`batch_norm_train`], [`batch_norm`], [`max_pool2d`], and for transformers [`linear`],
//! [`layer_norm`], [`gelu`] and [`attention`] may be called with any tensor. The kernels run where the
//! feature `flex` is on and the tensors are float32 on Flex, plain or with autodiff without gradient
//! checkpointing; a convolution must have no dilation and its padding given in numbers, a pooling no dilation, no ceil mode, the
//! same padding on opposite sides, and at most 256 pixels in a window. Those for transformers, a convolution with a bias, and
//! both steps of [`conv2d_norm`] in one pass ask that nothing is tracked for gradients. Everywhere else Burn's own modules
//! answer, with the same result up to rounding; a value that is not finite may reach one row and one column more of a 3×3
//! convolution's output, and all of a channel's taps in the weight gradient of a convolution of each channel by itself.
//! [`stats`] tells how often which of the two happened.
//!
//! Results are equal bit for bit from run to run, and for any number of threads: sums are cut into
//! parts by the shapes alone. Another processor may have other vectors (AVX2 or plain Rust is chosen
//! when the program runs) and round differently.
//!
//! [`set_enabled`], or the environment variable `SHIKE_KERNELS=off`, turns the kernels off; see
//! [`enabled`].

#[cfg(feature = "slices")]
mod flex;
#[cfg(feature = "burn")]
mod stats;
#[cfg(feature = "burn")]
mod tensors;
#[cfg(feature = "burn")]
mod transformer;

#[cfg(feature = "slices")]
#[doc(hidden)]
pub use flex::{Simd, conv};
#[cfg(feature = "burn")]
pub use stats::{Stats, stats};
#[cfg(feature = "burn")]
pub use tensors::{
    FixedNorm, LossLabels, Then, batch_norm, batch_norm_train, conv2d, conv2d_norm,
    cross_entropy_terms, dkt_terms, enabled, has_bf16, in_bf16, instructions, keep_memory,
    max_pool2d, path, set_enabled, sgd_step,
};
#[cfg(feature = "burn")]
pub use transformer::{ThenLinear, attention, gelu, layer_norm, linear};

/// What the terms of dynamic knowledge transfer leave open; see `DktLossConfig` of shike-model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DktOptions {
    /// Teachers are constants.
    pub detach_teacher: bool,
    /// The target class takes no part in the non-target distributions.
    pub exclude_target: bool,
}

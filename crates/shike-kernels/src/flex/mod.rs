//! The kernels for Burn's CPU backend Flex. All but `ops`, `loss_op`, `pool_op` and `transformer_op` work on slices and know nothing
//! of Burn, so that Miri can run them.
#![cfg_attr(not(feature = "flex"), allow(dead_code))]

mod attention;
mod bf16;
mod buffer;
pub mod conv;
mod gemm;
mod linear;
mod loss;
#[cfg(feature = "flex")]
mod loss_op;
mod math;
mod norm;
#[cfg(feature = "flex")]
mod ops;
mod pool;
#[cfg(feature = "flex")]
mod pool_op;
mod shuffle;
pub(crate) mod simd;
#[cfg(test)]
mod tests;
#[cfg(feature = "flex")]
mod transformer_op;

#[cfg(feature = "flex")]
pub(crate) use buffer::keep_memory;
#[cfg(feature = "flex")]
pub(crate) use loss_op::{cross_entropy, dkt};
#[cfg(feature = "flex")]
pub(crate) use ops::{
    batch_norm, batch_norm_fits, batch_norm_train, conv2d, conv2d_fits, conv2d_norm,
    conv2d_norm_fits, sgd_fits, sgd_step, untracked,
};
#[cfg(feature = "flex")]
pub(crate) use pool_op::{max_pool2d, max_pool2d_fits};
pub use simd::Simd;
#[cfg(feature = "flex")]
pub(crate) use transformer_op::{
    attention, gelu, layer_norm, layer_norm_fits, linear, linear_fits,
};

//! The kernels for Burn's CPU backend Flex. All but `ops` and `loss_op` work on slices and know nothing
//! of Burn, so that Miri can run them.
#![cfg_attr(not(feature = "flex"), allow(dead_code))]

mod buffer;
mod conv;
mod gemm;
mod loss;
#[cfg(feature = "flex")]
mod loss_op;
mod norm;
#[cfg(feature = "flex")]
mod ops;
pub(crate) mod simd;
#[cfg(test)]
mod tests;

#[cfg(feature = "flex")]
pub(crate) use loss_op::{cross_entropy, dkt};
#[cfg(feature = "flex")]
pub(crate) use ops::{
    batch_norm, batch_norm_fits, batch_norm_train, conv2d, conv2d_fits, conv2d_norm,
    conv2d_norm_fits, sgd_fits, sgd_step,
};
pub use simd::Simd;

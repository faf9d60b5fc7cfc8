//! The kernels for Burn's CPU backend Flex.

mod buffer;
mod conv;
mod gemm;
mod loss;
mod loss_op;
mod norm;
mod ops;
pub(crate) mod simd;

pub(crate) use loss_op::{cross_entropy, dkt};
pub(crate) use ops::{
    batch_norm, batch_norm_fits, batch_norm_train, conv2d, conv2d_fits, sgd_fits, sgd_step,
};
pub use simd::Simd;

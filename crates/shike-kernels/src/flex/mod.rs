//! The kernels for Burn's CPU backend Flex.

mod buffer;
mod conv;
mod gemm;
mod norm;
mod ops;
pub(crate) mod simd;

pub(crate) use ops::{batch_norm, batch_norm_fits, batch_norm_train, conv2d, conv2d_fits};
pub use simd::Simd;

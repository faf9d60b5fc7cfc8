//! Random tensors, and the comparison with Burn's own operations in float64.
#![allow(dead_code, clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor, TensorData};
use proptest::test_runner::{Config as ProptestConfig, RngSeed};
use shike_kernels::Simd;

/// A generator that is the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Uniform in [−1, 1).
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    pub fn tensor<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let data = TensorData::new(self.values(shape.iter().product()), shape);
        Tensor::from_data(data, device)
    }
}

/// The same tensor, which is on an autodiff device, in float64 and without a history.
pub fn double<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(tensor.clone().inner().cast(DType::F64))
}

pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn doubles<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.cast(DType::F64).into_data().try_to_vec().unwrap()
}

/// Largest difference, relative to the largest value that is expected, or to `least` where that
/// is more: the size of terms that may cancel each other.
pub fn difference<const D: usize>(found: Tensor<D>, expected: Tensor<D>, least: f64) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (doubles(found), doubles(expected));
    let scale = expected
        .iter()
        .fold(least.max(1e-3), |max, v| max.max(v.abs()));
    let largest = found.iter().zip(&expected).fold(0.0f64, |max, (a, b)| {
        let difference = (a - b).abs();
        if difference.is_nan() {
            f64::INFINITY
        } else {
            max.max(difference)
        }
    });
    largest / scale
}

/// The nearest numbers in bfloat16, in the tensor's own type.
pub fn coarse<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let dtype = tensor.dtype();
    tensor.cast(DType::BF16).cast(dtype)
}

/// The paths of bfloat16 that this processor has: plain Rust, and its own instructions.
pub fn bf16_paths() -> Vec<Simd> {
    let mut paths: Vec<_> = Simd::available()
        .into_iter()
        .filter_map(Simd::in_bf16)
        .collect();
    paths.dedup();
    paths
}

/// Runs `f` on every instruction set that this processor has, in float32.
pub fn on_every_path(f: impl FnMut(Simd)) {
    on_paths(Simd::available(), f);
}

/// Runs `f` on every instruction set that this processor has, in float32 and in bfloat16.
pub fn in_every_type(f: impl FnMut(Simd)) {
    on_paths([Simd::available(), bf16_paths()].concat(), f);
}

/// Runs `f` on these instruction sets.
pub fn on_paths(paths: Vec<Simd>, mut f: impl FnMut(Simd)) {
    // Whatever the environment says.
    shike_kernels::set_enabled(true);
    for simd in paths {
        simd.with(|| f(simd));
    }
}

/// Runs `f` with this number of threads.
pub fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(f)
}

/// The same cases in every run, so that what lands was tested as it lands; `PROPTEST_RNG_SEED`
/// draws others.
pub fn proptest_config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig::with_cases(cases);
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(2304);
    }
    config
}

//! Functions of vectors, and what is made of them value by value: GELU, softmax, layer normalisation.

use rayon::prelude::*;

use super::buffer::{Shared, Target};
use super::gemm::load;
use super::norm::moments;
use super::simd::{Simd, Vector, simd_entry};

/// `e^x` to a relative 2e-7; of x below −87, almost nothing.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = x.max(V::splat(-87.0)).min(V::splat(88.0));
        // x = n · ln 2 + r with a whole n, which adding and subtracting 1.5 · 2^23 rounds to; ln 2 in two
        // parts, of which the first has few digits.
        let magic = V::splat(12_582_912.0);
        let n = x
            .mul_add(V::splat(core::f32::consts::LOG2_E), magic)
            .sub(magic);
        let r = n.mul_add(V::splat(-0.693_359_4), x);
        let r = n.mul_add(V::splat(2.121_944_4e-4), r);
        // Taylor's series is good enough on ±ln 2 / 2.
        let mut sum = V::splat(1.0 / 5040.0);
        for term in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
            sum = sum.mul_add(r, V::splat(1.0 / term));
        }
        sum.mul_add(n.power_of_two(), V::splat(0.0))
    }
}

/// Where Φ, the normal distribution's function, is taken for 0 and 1.
const FAR: f32 = 5.4;

/// `(Φ(x) − ½) / x` as a polynomial in `u = 2 · (x / FAR)² − 1`, lowest power first: the smallest largest
/// error of GELU on ±[`FAR`], a hair more than that so that Φ reaches 0 and 1.
const PHI: [f32; 15] = [
    0.130_928_14,
    -0.065_327_995,
    0.048_499_413,
    -0.039_209_332,
    0.032_121_036,
    -0.025_721_831,
    0.019_608_788,
    -0.014_064_842,
    0.009_786_772,
    -0.006_515_178,
    0.003_408_021,
    -0.001_373_313_8,
    0.001_099_310_1,
    -0.000_962_009_25,
    0.000_315_630_72,
];

/// `x · Φ(x)`, with an error of 3e-7 in Φ.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
unsafe fn gelu_of<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let near = x.max(V::splat(-FAR)).min(V::splat(FAR));
        let square = near.mul_add(near, zero);
        let u = square.mul_add(V::splat(2.0 / (FAR * FAR)), V::splat(-1.0));
        let mut sum = V::splat(PHI[PHI.len() - 1]);
        for i in (0..PHI.len() - 1).rev() {
            sum = sum.mul_add(u, V::splat(PHI[i]));
        }
        let phi = near.mul_add(sum, V::splat(0.5)).max(zero).min(one);
        x.mul_add(phi, zero)
    }
}

/// Floats that one task of [`gelu`] takes.
const PART: usize = 1 << 14;

/// GELU of every value; `y` may be `x`.
///
/// # Panics
/// If lengths differ.
///
/// # Safety
/// No one else uses `y`, or writes to `x`.
pub(crate) unsafe fn gelu(simd: Simd, x: Shared<'_>, y: Target<'_>) {
    let len = x.len();
    assert_eq!(len, y.len());
    (0..len.div_ceil(PART)).into_par_iter().for_each(|i| {
        let part = PART.min(len - i * PART);
        // SAFETY: each task has a part of its own.
        unsafe { gelu_run(simd, x.at(i * PART), y.at(i * PART), part) };
    });
}

simd_entry! {
    /// GELU of `len` values.
    ///
    /// # Safety
    /// They can be read from `x` and written to `y`, which may be `x`.
    pub(crate) unsafe fn gelu_run(x: *const f32, y: *mut f32, len: usize) = gelu_with
}

#[inline(always)]
unsafe fn gelu_with<V: Vector, const MR: usize>(x: *const f32, y: *mut f32, len: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut at = 0;
        while at < len {
            let lanes = V::LANES.min(len - at);
            let value = gelu_of(load::<V>(x.add(at), lanes));
            match lanes == V::LANES {
                true => value.store(y.add(at)),
                false => value.store_part(y.add(at), lanes),
            }
            at += lanes;
        }
    }
}

simd_entry! {
    /// Writes `e^(scale · (x − max))` over each of `rows` rows of `len` values, `stride` floats apart, and
    /// one over each row's sum to `inverse`.
    ///
    /// # Safety
    /// `stride` is `len` rounded up to whole vectors. All of it can be written, and no one else uses it.
    pub(crate) unsafe fn softmax(
        data: *mut f32,
        rows: usize,
        len: usize,
        stride: usize,
        scale: f32,
        inverse: &mut [f32],
    ) = softmax_with
}

#[inline(always)]
unsafe fn softmax_with<V: Vector, const MR: usize>(
    data: *mut f32,
    rows: usize,
    len: usize,
    stride: usize,
    scale: f32,
    inverse: &mut [f32],
) {
    // SAFETY: a row has whole vectors.
    unsafe {
        for (row, inverse) in inverse[..rows].iter_mut().enumerate() {
            let row = data.add(row * stride);
            for at in len..stride {
                *row.add(at) = f32::NEG_INFINITY;
            }
            let mut largest = V::splat(f32::NEG_INFINITY);
            for at in (0..stride).step_by(V::LANES) {
                largest = V::load(row.add(at)).max(largest);
            }
            let mut lanes = [f32::NEG_INFINITY; 16];
            largest.store(lanes.as_mut_ptr());
            let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let (scale, largest) = (V::splat(scale), V::splat(largest));
            let mut sum = V::splat(0.0);
            for at in (0..stride).step_by(V::LANES) {
                let value = V::load(row.add(at))
                    .sub(largest)
                    .mul_add(scale, V::splat(0.0));
                let value = exp(value);
                value.store(row.add(at));
                sum = sum.add(value);
            }
            *inverse = (1.0 / sum.sum()) as f32;
        }
    }
}

/// Layer normalisation of rows; see [`layer_norm`].
#[derive(Clone, Copy)]
pub(crate) struct LayerNorm<'a> {
    /// Whole rows.
    pub x: &'a [f32],
    /// A value for each column.
    pub gamma: &'a [f32],
    pub beta: Option<&'a [f32]>,
    pub epsilon: f64,
}

/// `γ · (x − mean) / √(var + ε) + β` with mean and biased variance of each row.
///
/// # Panics
/// If lengths do not fit each other.
///
/// # Safety
/// No one else uses `y`.
pub(crate) unsafe fn layer_norm(simd: Simd, norm: LayerNorm<'_>, y: Target<'_>) {
    let LayerNorm { x, gamma, beta, .. } = norm;
    let width = gamma.len();
    assert!(width > 0 && x.len().is_multiple_of(width));
    assert_eq!(
        [x.len(), width],
        [y.len(), beta.map_or(width, <[f32]>::len)]
    );
    let per_task = PART.div_ceil(width);
    let tasks = x.par_chunks(per_task * width).enumerate();
    tasks.for_each(|(i, rows)| {
        for (row, x) in rows.chunks_exact(width).enumerate() {
            // SAFETY: each task has rows of its own.
            unsafe { norm_row(simd, &norm, x, y.at((i * per_task + row) * width)) };
        }
    });
}

/// # Safety
/// A row of the norm's width can be written at `y`, which no one else uses.
unsafe fn norm_row(simd: Simd, norm: &LayerNorm<'_>, x: &[f32], y: *mut f32) {
    let n = x.len() as f64;
    // The variance from differences from the mean, whose own rounding comes off again.
    let (mut sums, mut squares) = ([0.0; 2], [0.0; 2]);
    // SAFETY: the row is a slice; the caller's promise.
    unsafe {
        moments(simd, x, 0.0, &mut sums);
        let mean = (sums[0] / n) as f32;
        moments(simd, x, mean, &mut squares);
        let rest = squares[0] / n;
        let variance = squares[1] / n - rest * rest;
        let variance = if variance < 0.0 { 0.0 } else { variance };
        let inverse = (1.0 / (variance + norm.epsilon).sqrt()) as f32;
        let row = Row {
            x,
            mean,
            inverse,
            gamma: norm.gamma,
            beta: norm.beta,
        };
        scale_row(simd, row, y);
    }
}

/// A row to normalise.
struct Row<'a> {
    x: &'a [f32],
    mean: f32,
    inverse: f32,
    gamma: &'a [f32],
    beta: Option<&'a [f32]>,
}

simd_entry! {
    unsafe fn scale_row(row: Row<'_>, y: *mut f32) = scale_row_with
}

#[inline(always)]
unsafe fn scale_row_with<V: Vector, const MR: usize>(row: Row<'_>, y: *mut f32) {
    // SAFETY: gamma and beta are as long as the row, for which there is room at `y`.
    unsafe {
        let (mean, inverse, zero) = (V::splat(row.mean), V::splat(row.inverse), V::splat(0.0));
        let mut at = 0;
        while at < row.x.len() {
            let lanes = V::LANES.min(row.x.len() - at);
            let gamma = load::<V>(row.gamma.as_ptr().add(at), lanes);
            let beta = row
                .beta
                .map_or(zero, |beta| load(beta.as_ptr().add(at), lanes));
            let x = load::<V>(row.x.as_ptr().add(at), lanes).sub(mean);
            let value = x.mul_add(inverse, zero).mul_add(gamma, beta);
            match lanes == V::LANES {
                true => value.store(y.add(at)),
                false => value.store_part(y.add(at), lanes),
            }
            at += lanes;
        }
    }
}

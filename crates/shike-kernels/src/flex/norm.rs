//! Batch normalisation with an optional residual and ReLU on slices in NCHW order.
//!
//! `y = [relu](γ · (x − mean) / √(var + ε) + β [+ residual])`, where ReLU may have a ceiling, as ReLU6 does.

use core::ops::Range;

use rayon::prelude::*;

use super::buffer::{Shared, Target};
use super::simd::{Simd, Vector, simd_entry};

/// Batch, channels, and pixels in a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims {
    pub batch: usize,
    pub channels: usize,
    pub area: usize,
}

impl Dims {
    /// Channels that a task takes: whole ones, and of small pictures several, so that what it reads
    /// in one go is a few KiB.
    fn channel_blocks(&self) -> impl IndexedParallelIterator<Item = Range<usize>> {
        let length = 1024usize.div_ceil(self.area.max(1)).max(1);
        let channels = self.channels;
        (0..channels.div_ceil(length))
            .into_par_iter()
            .map(move |i| i * length..channels.min((i + 1) * length))
    }

    fn image(&self) -> usize {
        self.channels * self.area
    }

    /// Panics if a tensor's number of values is another: what follows reads and writes by it.
    fn check<const N: usize>(&self, lengths: [usize; N]) {
        assert_eq!(lengths, [self.batch * self.image(); N]);
    }

    /// Values of a channel.
    pub fn count(&self) -> f64 {
        (self.batch * self.area) as f64
    }
}

/// What one value of a channel is multiplied with and added to: `(x − mean) · scale + shift`.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl Affine {
    /// From statistics; `inverse` is `1 / √(var + ε)`.
    pub fn new(mean: &[f32], inverse: &[f32], gamma: &[f32], beta: &[f32]) -> Self {
        let scale = gamma.iter().zip(inverse).map(|(g, i)| g * i);
        Self {
            mean: mean.to_vec(),
            scale: scale.collect(),
            shift: beta.to_vec(),
        }
    }
}

/// `1 / √(var + ε)`
pub(crate) fn inverse_deviation(variance: &[f32], epsilon: f64) -> Vec<f32> {
    let inverse = |&v: &f32| (1.0 / (f64::from(v) + epsilon).sqrt()) as f32;
    variance.iter().map(inverse).collect()
}

/// Mean and biased variance of every channel.
pub(crate) fn statistics(simd: Simd, dims: Dims, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let blocks: Vec<Vec<(f32, f32)>> = dims
        .channel_blocks()
        .map(|block| {
            // Sums are of differences from the mean of the first image, so that a mean far from 0
            // costs no digits; they are short in f32 and collected in f64.
            let mut totals = vec![[0.0f64; 2]; block.len()];
            let mut pivots = vec![0.0f32; block.len()];
            for n in 0..dims.batch {
                for (i, c) in block.clone().enumerate() {
                    let run = &x[n * dims.image() + c * dims.area..][..dims.area];
                    if n == 0 {
                        let mut sums = [0.0; 2];
                        // SAFETY: the run is a slice.
                        unsafe { moments(simd, run, 0.0, &mut sums) };
                        let mean = (sums[0] / dims.area as f64) as f32;
                        // An infinite or NaN pivot must not hide behind a difference.
                        pivots[i] = mean;
                    }
                    // SAFETY: as above.
                    unsafe { moments(simd, run, pivots[i], &mut totals[i]) };
                }
            }
            let n = dims.count();
            let finish = |(&[sum, squares], &pivot): (&[f64; 2], &f32)| {
                let mean = sum / n;
                let variance = squares / n - mean * mean;
                // `max` would swallow NaN.
                let variance = if variance < 0.0 { 0.0 } else { variance };
                ((f64::from(pivot) + mean) as f32, variance as f32)
            };
            totals.iter().zip(&pivots).map(finish).collect()
        })
        .collect();
    blocks.into_iter().flatten().unzip()
}

simd_entry! {
    /// Adds `Σ (x − pivot)` and `Σ (x − pivot)²` to the totals.
    pub(super) unsafe fn moments(run: &[f32], pivot: f32, totals: &mut [f64; 2]) = moments_with
}

/// Vectors of a short sum in f32, before it goes into one of f64.
const SHORT: usize = 64;

#[inline(always)]
unsafe fn moments_with<V: Vector, const MR: usize>(run: &[f32], pivot: f32, totals: &mut [f64; 2]) {
    // SAFETY: all reads are inside of `part`.
    unsafe {
        let pivot = V::splat(pivot);
        let zero = V::splat(0.0);
        for part in run.chunks(SHORT * V::LANES) {
            let (mut sum, mut squares) = ([zero; 2], [zero; 2]);
            let mut at = 0;
            while at + 2 * V::LANES <= part.len() {
                for i in 0..2 {
                    let d = V::load(part.as_ptr().add(at + i * V::LANES)).sub(pivot);
                    sum[i] = sum[i].add(d);
                    squares[i] = d.mul_add(d, squares[i]);
                }
                at += 2 * V::LANES;
            }
            if at + V::LANES <= part.len() {
                let d = V::load(part.as_ptr().add(at)).sub(pivot);
                sum[0] = sum[0].add(d);
                squares[0] = d.mul_add(d, squares[0]);
                at += V::LANES;
            }
            totals[0] += sum[0].add(sum[1]).sum();
            totals[1] += squares[0].add(squares[1]).sum();
            if at < part.len() {
                let mut lanes = [0.0f32; 16];
                pivot.store(lanes.as_mut_ptr());
                for &value in &part[at..] {
                    let d = f64::from(value - lanes[0]);
                    totals[0] += d;
                    totals[1] += d * d;
                }
            }
        }
    }
}

/// What is read and written by [`apply`].
#[derive(Clone, Copy)]
pub(crate) struct Apply<'a> {
    pub dims: Dims,
    pub affine: &'a Affine,
    /// The ceiling of ReLU, if there is one.
    pub relu: Option<f32>,
    /// Whole tensors; `y` may be `x`.
    pub x: Shared<'a>,
    pub residual: Option<Shared<'a>>,
    pub y: Target<'a>,
}

/// Writes all of `y`.
///
/// # Panics
/// If a tensor is not of `dims`.
///
/// # Safety
/// No one else uses `y`, or writes to `x` or the residual.
pub(crate) unsafe fn apply(simd: Simd, a: Apply<'_>) {
    let runs = a.dims.batch * a.dims.channels;
    a.dims.check([
        a.x.len(),
        a.y.len(),
        a.residual.map_or(a.y.len(), Shared::len),
    ]);
    let per_task = (1usize << 14).div_ceil(a.dims.area.max(1));
    (0..runs.div_ceil(per_task)).into_par_iter().for_each(|i| {
        let runs = i * per_task..runs.min((i + 1) * per_task);
        // SAFETY: each task has runs of its own.
        unsafe { apply_runs(simd, &a, runs) }
    });
}

simd_entry! {
    unsafe fn apply_runs(a: &Apply<'_>, runs: Range<usize>) = apply_with
}

#[inline(always)]
unsafe fn apply_with<V: Vector, const MR: usize>(a: &Apply<'_>, runs: Range<usize>) {
    let area = a.dims.area;
    // SAFETY: runs lie in the tensors; see `apply`.
    unsafe {
        for run in runs {
            let c = run % a.dims.channels;
            let mean = V::splat(a.affine.mean[c]);
            let scale = V::splat(a.affine.scale[c]);
            let shift = V::splat(a.affine.shift[c]);
            let x = a.x.at(run * area);
            let y = a.y.at(run * area);
            let residual = a.residual.map(|r| r.at(run * area));
            let ceiling = a.relu.map(|ceiling| V::splat(ceiling));
            let value = |x, residual| finish([mean, scale, shift], x, residual, ceiling);
            let mut at = 0;
            while at + V::LANES <= area {
                let residual = residual.map(|r| V::load(r.add(at)));
                value(V::load(x.add(at)), residual).store(y.add(at));
                at += V::LANES;
            }
            let rest = area - at;
            if rest > 0 {
                let residual = residual.map(|r| V::load_part(r.add(at), rest));
                value(V::load_part(x.add(at), rest), residual).store_part(y.add(at), rest);
            }
        }
    }
}

/// A value of the output: `mean`, `scale` and `shift` in this order.
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(crate) unsafe fn finish<V: Vector>(
    [mean, scale, shift]: [V; 3],
    x: V,
    residual: Option<V>,
    ceiling: Option<V>,
) -> V {
    let mut value = x.sub(mean).mul_add(scale, shift);
    if let Some(residual) = residual {
        value = value.add(residual);
    }
    match ceiling {
        // SAFETY: the caller's promise.
        Some(ceiling) => value.max(unsafe { V::splat(0.0) }).min(ceiling),
        None => value,
    }
}

/// How the backward pass finds out where ReLU let a value through. Its ceiling comes second.
#[derive(Clone, Copy)]
pub(crate) enum Mask<'a> {
    /// There was no ReLU.
    None,
    /// Works the output out again from `x`, which has to be read anyway.
    Recompute(&'a Affine, f32),
    /// Looks at the output: with a residual there is no other way.
    Output(&'a [f32], f32),
}

impl Mask<'_> {
    /// The gradient before ReLU.
    ///
    /// # Safety
    /// `at` and `x` must be a place and value of the tensors, of which `count` floats can be read.
    #[inline(always)]
    unsafe fn pass<V: Vector>(
        &self,
        constants: &[V; 4],
        dy: V,
        x: V,
        at: usize,
        count: usize,
    ) -> V {
        let [mean, scale, shift, ceiling] = *constants;
        let y = match self {
            Self::None => return dy,
            Self::Recompute(..) => x.sub(mean).mul_add(scale, shift),
            // SAFETY: the caller's promise.
            Self::Output(y, _) => unsafe {
                match count == V::LANES {
                    true => V::load(y.as_ptr().add(at)),
                    false => V::load_part(y.as_ptr().add(at), count),
                }
            },
        };
        dy.where_positive(y).where_positive(ceiling.sub(y))
    }

    /// # Safety
    /// The processor has the instructions.
    #[inline(always)]
    unsafe fn constants<V: Vector>(&self, c: usize) -> [V; 4] {
        let [mean, scale, shift, ceiling] = match self {
            Self::Recompute(affine, ceiling) => {
                [affine.mean[c], affine.scale[c], affine.shift[c], *ceiling]
            }
            Self::Output(_, ceiling) => [0.0, 0.0, 0.0, *ceiling],
            Self::None => [0.0; 4],
        };
        // SAFETY: the caller's promise.
        unsafe {
            [
                V::splat(mean),
                V::splat(scale),
                V::splat(shift),
                V::splat(ceiling),
            ]
        }
    }

    /// Values that it looks at, if it does.
    fn len(&self) -> Option<usize> {
        match self {
            Self::Output(y, _) => Some(y.len()),
            _ => None,
        }
    }
}

/// `Σ dy'` and `Σ dy' · (x − mean)` of every channel, where `dy'` is the gradient before ReLU.
pub(crate) fn gradient_sums(
    simd: Simd,
    dims: Dims,
    x: &[f32],
    dy: &[f32],
    mean: &[f32],
    mask: Mask<'_>,
) -> Vec<[f64; 2]> {
    dims.check([x.len(), dy.len(), mask.len().unwrap_or(x.len())]);
    let blocks: Vec<Vec<[f64; 2]>> = dims
        .channel_blocks()
        .map(|block| {
            let mut totals = vec![[0.0; 2]; block.len()];
            for n in 0..dims.batch {
                for (i, c) in block.clone().enumerate() {
                    let at = n * dims.image() + c * dims.area;
                    let sums = GradientRun {
                        x,
                        dy,
                        mean: mean[c],
                        mask,
                        channel: c,
                        run: at..at + dims.area,
                    };
                    // SAFETY: the run lies in the tensors, whose lengths were checked.
                    unsafe { run_sums(simd, &sums, &mut totals[i]) };
                }
            }
            totals
        })
        .collect();
    blocks.into_iter().flatten().collect()
}

struct GradientRun<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    mean: f32,
    mask: Mask<'a>,
    channel: usize,
    run: Range<usize>,
}

simd_entry! {
    unsafe fn run_sums(run: &GradientRun<'_>, totals: &mut [f64; 2]) = run_sums_with
}

#[inline(always)]
unsafe fn run_sums_with<V: Vector, const MR: usize>(run: &GradientRun<'_>, totals: &mut [f64; 2]) {
    let (x, dy) = (run.x.as_ptr(), run.dy.as_ptr());
    let mut start = run.run.start;
    // SAFETY: the run lies in the tensors.
    unsafe {
        let constants = run.mask.constants::<V>(run.channel);
        let mean = V::splat(run.mean);
        let zero = V::splat(0.0);
        while start < run.run.end {
            let end = run.run.end.min(start + SHORT * V::LANES);
            let (mut sum, mut products) = ([zero; 2], [zero; 2]);
            let mut at = start;
            while at + 2 * V::LANES <= end {
                for i in 0..2 {
                    let at = at + i * V::LANES;
                    let x = V::load(x.add(at));
                    let dy = V::load(dy.add(at));
                    let dy = run.mask.pass(&constants, dy, x, at, V::LANES);
                    sum[i] = sum[i].add(dy);
                    products[i] = x.sub(mean).mul_add(dy, products[i]);
                }
                at += 2 * V::LANES;
            }
            while at < end {
                let count = V::LANES.min(end - at);
                // Lanes past the end have gradient 0, but x − mean there is not used: `x` is the
                // mean itself.
                let (x, dy) = match count == V::LANES {
                    true => (V::load(x.add(at)), V::load(dy.add(at))),
                    false => (
                        V::load_part(x.add(at), count),
                        V::load_part(dy.add(at), count),
                    ),
                };
                let dy = run.mask.pass(&constants, dy, x, at, count);
                sum[0] = sum[0].add(dy);
                products[0] = x.sub(mean).mul_add(dy, products[0]);
                at += count;
            }
            totals[0] += sum[0].add(sum[1]).sum();
            totals[1] += products[0].add(products[1]).sum();
            start = end;
        }
    }
}

/// What is read and written by [`gradients`]:
/// `dx = dy' · by_gradient + (x − mean) · by_value + constant` for each channel.
#[derive(Clone, Copy)]
pub(crate) struct Gradients<'a> {
    pub dims: Dims,
    pub x: &'a [f32],
    /// A whole tensor.
    pub dy: Shared<'a>,
    pub mask: Mask<'a>,
    pub mean: &'a [f32],
    pub factors: &'a [Factors],
    /// Whole tensors; one of them may be `dy`.
    pub dx: Option<Target<'a>>,
    pub residual: Option<Target<'a>>,
}

/// See [`Gradients`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    pub by_gradient: f32,
    pub by_value: f32,
    pub constant: f32,
}

/// Writes all of the gradients for `x` and the residual.
///
/// # Panics
/// If a tensor is not of `dims`.
///
/// # Safety
/// No one else uses what is written, or writes to `dy`.
pub(crate) unsafe fn gradients(simd: Simd, g: Gradients<'_>) {
    let runs = g.dims.batch * g.dims.channels;
    let written = [g.dx, g.residual].map(|to| to.map(Target::len));
    let [dx, residual, mask] =
        [written[0], written[1], g.mask.len()].map(|n| n.unwrap_or(g.x.len()));
    g.dims.check([g.x.len(), g.dy.len(), dx, residual, mask]);
    let per_task = (1usize << 14).div_ceil(g.dims.area.max(1));
    (0..runs.div_ceil(per_task)).into_par_iter().for_each(|i| {
        let runs = i * per_task..runs.min((i + 1) * per_task);
        // SAFETY: each task has runs of its own.
        unsafe { gradient_runs(simd, &g, runs) }
    });
}

simd_entry! {
    unsafe fn gradient_runs(g: &Gradients<'_>, runs: Range<usize>) = gradient_runs_with
}

#[inline(always)]
unsafe fn gradient_runs_with<V: Vector, const MR: usize>(g: &Gradients<'_>, runs: Range<usize>) {
    let area = g.dims.area;
    // SAFETY: see `gradients`.
    unsafe {
        for run in runs {
            let c = run % g.dims.channels;
            let constants = g.mask.constants::<V>(c);
            let mean = V::splat(g.mean[c]);
            let factors = g.factors[c];
            let by_gradient = V::splat(factors.by_gradient);
            let by_value = V::splat(factors.by_value);
            let constant = V::splat(factors.constant);
            let mut at = run * area;
            let end = at + area;
            while at < end {
                let count = V::LANES.min(end - at);
                let whole = count == V::LANES;
                let load = |from: *const f32| match whole {
                    true => V::load(from),
                    false => V::load_part(from, count),
                };
                let store = |value: V, to: *mut f32| match whole {
                    true => value.store(to),
                    false => value.store_part(to, count),
                };
                let x = load(g.x.as_ptr().add(at));
                let dy = load(g.dy.at(at));
                let dy = g.mask.pass(&constants, dy, x, at, count);
                if let Some(dx) = g.dx {
                    let value = x.sub(mean).mul_add(by_value, constant);
                    store(dy.mul_add(by_gradient, value), dx.at(at));
                }
                if let Some(residual) = g.residual {
                    store(dy, residual.at(at));
                }
                at += count;
            }
        }
    }
}

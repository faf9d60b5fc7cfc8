//! The gradient for the weights of a convolution of each channel by itself.

use rayon::prelude::*;

use super::super::frame::Frame;
use super::super::{Shape, images_together};
use crate::flex::buffer::{filled, scratch};
use crate::flex::gemm::load;
use crate::flex::simd::{Simd, Vector, simd_entry};

/// Rows and columns of taps whose sums are in registers at once. Vectors of the frame serve a column of them, and those
/// of the output's gradient all.
const SIDE: usize = 3;

/// Pixels of the output whose frames are filled together, about.
const PIXELS: usize = 1 << 12;

/// Products that a lane adds up in float32, about; their sums are added in float64.
const PRODUCTS: usize = 1 << 9;

/// As `weight_gradient` of the module above; lengths were checked there.
pub(in super::super) fn weight_gradient(simd: Simd, s: &Shape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let job = Job {
        frame: Frame::of(s),
        blocks: Block::all(s),
        shape: *s,
        x,
        dy,
    };
    // SAFETY: the tasks write the weights of every channel.
    unsafe {
        filled(s.channels * s.taps(), |dw| {
            (0..s.channels).into_par_iter().for_each(|channel| {
                let sums = &mut vec![0.0; s.taps()];
                run(simd, &job, channel, sums);
                for (tap, sum) in sums.iter().enumerate() {
                    *dw.at(channel * s.taps() + tap) = *sum as f32;
                }
            });
        })
    }
}

struct Job<'a> {
    shape: Shape,
    frame: Frame,
    blocks: Vec<Block>,
    x: &'a [f32],
    dy: &'a [f32],
}

/// Up to [`SIDE`] taps in each direction, from a row and a column on. Between its rows lies the stride, so that the same
/// row of the frame meets one row of the output in each.
struct Block {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

impl Block {
    fn all(s: &Shape) -> Vec<Self> {
        let [height, width] = s.kernel;
        let mut blocks = Vec::new();
        for class in 0..height.min(s.stride[0]) {
            for row in (class..height).step_by(SIDE * s.stride[0]) {
                for column in (0..width).step_by(SIDE) {
                    blocks.push(Self {
                        row,
                        rows: (height - row).div_ceil(s.stride[0]).min(SIDE),
                        column,
                        columns: (width - column).min(SIDE),
                    });
                }
            }
        }
        blocks
    }
}

/// Sums of the taps of a channel over all images.
fn run(simd: Simd, job: &Job<'_>, channel: usize, sums: &mut [f64]) {
    let s = &job.shape;
    let [height, width] = s.out();
    let (plane_in, plane_out) = (s.size[0] * s.size[1], height * width);
    let frame_len = job.frame.len(1);
    let together = images_together(PIXELS, plane_out, frame_len).min(s.batch);
    scratch(together * frame_len, |frames| {
        // Lanes behind a row's last pixel meet zeros of the gradient, and have to be numbers.
        frames.fill(0.0);
        for first in (0..s.batch).step_by(together) {
            let planes = (first..s.batch.min(first + together)).map(|i| i * s.channels + channel);
            let pairs: Vec<Pair<'_>> = frames
                .chunks_exact_mut(frame_len)
                .zip(planes)
                .map(|(frame, plane)| {
                    job.frame
                        .fill(simd, frame, &job.x[plane * plane_in..], 1, s.size);
                    Pair {
                        frame,
                        dy: &job.dy[plane * plane_out..][..plane_out],
                    }
                })
                .collect();
            for block in &job.blocks {
                // SAFETY: the frames have the taps of every pixel, and room for a vector behind the last.
                unsafe { add(simd, job, block, &pairs, sums) };
            }
        }
    });
}

/// A plane's frame, and its output's gradient.
struct Pair<'a> {
    frame: &'a [f32],
    dy: &'a [f32],
}

simd_entry! {
    /// Adds a block's taps over some planes.
    ///
    /// # Safety
    /// Each frame has the taps of every pixel, and a vector behind the last.
    unsafe fn add(job: &Job<'_>, block: &Block, pairs: &[Pair<'_>], sums: &mut [f64]) = add_with
}

#[inline(always)]
unsafe fn add_with<V: Vector, const MR: usize>(
    job: &Job<'_>,
    block: &Block,
    pairs: &[Pair<'_>],
    sums: &mut [f64],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        match (block.rows, block.columns) {
            (1, 1) => tile::<V, 1, 1>(job, block, pairs, sums),
            (1, 2) => tile::<V, 1, 2>(job, block, pairs, sums),
            (1, _) => tile::<V, 1, 3>(job, block, pairs, sums),
            (2, 1) => tile::<V, 2, 1>(job, block, pairs, sums),
            (2, 2) => tile::<V, 2, 2>(job, block, pairs, sums),
            (2, _) => tile::<V, 2, 3>(job, block, pairs, sums),
            (_, 1) => tile::<V, 3, 1>(job, block, pairs, sums),
            (_, 2) => tile::<V, 3, 2>(job, block, pairs, sums),
            _ => tile::<V, 3, 3>(job, block, pairs, sums),
        }
    }
}

/// [`add`] of a block of `R` rows and `C` columns.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const C: usize>(
    job: &Job<'_>,
    block: &Block,
    pairs: &[Pair<'_>],
    sums: &mut [f64],
) {
    let s = &job.shape;
    let [height, width] = s.out();
    let step = s.stride[0] * job.frame.row;
    let mut columns = [0; C];
    for (c, at) in columns.iter_mut().enumerate() {
        *at = job.frame.tap(block.row, block.column + c);
    }
    // SAFETY: a row of the frame that is read is one of a tap and a pixel of the output; the caller's promise.
    unsafe {
        let zero = V::splat(0.0);
        let mut sum = [[zero; C]; R];
        let mut products = 0;
        for (i, pair) in pairs.iter().enumerate() {
            for x in (0..width).step_by(V::LANES) {
                let lanes = V::LANES.min(width - x);
                // The gradient's rows that meet the frame's: the newest with the first row of taps.
                let mut rows = [zero; R];
                let mut dy = pair.dy.as_ptr().add(x);
                let mut frame = pair.frame.as_ptr().add(x);
                for y in 0..height + R - 1 {
                    for i in (1..R).rev() {
                        rows[i] = rows[i - 1];
                    }
                    rows[0] = match y < height {
                        true => load(dy, lanes),
                        false => zero,
                    };
                    for c in 0..C {
                        let value = V::load(frame.add(columns[c]));
                        for i in 0..R {
                            sum[i][c] = value.mul_add(rows[i], sum[i][c]);
                        }
                    }
                    dy = dy.wrapping_add(width);
                    frame = frame.wrapping_add(step);
                }
                products += height;
                let last = i + 1 == pairs.len() && x + V::LANES >= width;
                if products < PRODUCTS && !last {
                    continue;
                }
                products = 0;
                for (r, sum) in sum.iter_mut().enumerate() {
                    let row = (block.row + r * s.stride[0]) * s.kernel[1] + block.column;
                    for (c, sum) in sum.iter_mut().enumerate() {
                        sums[row + c] += sum.sum();
                        *sum = zero;
                    }
                }
            }
        }
    }
}

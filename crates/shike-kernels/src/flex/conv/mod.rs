//! Convolution and its two gradients on slices in NCHW order.
//!
//! All three are one product ([`Product`]) whose second factor is read through tables of offsets:
//!
//! - forward: rows are output channels, k runs over (input channel, tap), columns are pixels of the
//!   output. Images are copied into a padded scratch image whose columns are sorted by their
//!   remainder modulo the stride, so that neighbouring outputs read neighbouring floats.
//! - input gradient: the same on the output's gradient; the input's pixels are taken class by class
//!   modulo the stride, each with those taps that reach it, so that no product with zero is formed.
//! - weight gradient: rows are output channels, k runs over pixels, columns over (tap, channel) of a
//!   padded scratch image with its channels innermost.
//!
//! Sums are cut into blocks by shape alone, never by the number of threads.

mod class;
mod forward;
mod frame;
mod input_gradient;
mod shuffle;
mod weight_gradient;

use super::gemm::{KC, Range2, TILE_VECTORS};
use super::simd::Simd;

pub(crate) use forward::forward;
pub(crate) use input_gradient::input_gradient;
pub(crate) use weight_gradient::weight_gradient;

/// Everything about a convolution but its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub batch: usize,
    /// Input channels of all groups.
    pub channels: usize,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Output channels of all groups.
    pub filters: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Rows of zeros above, columns of zeros on the left.
    pub pad: [usize; 2],
    /// Rows of zeros below, columns of zeros on the right.
    pub pad_end: [usize; 2],
    pub groups: usize,
}

impl Shape {
    /// Height and width of the output; none where the kernel does not fit.
    pub fn output(&self) -> Option<[usize; 2]> {
        let side = |i: usize| {
            let room =
                (self.size[i] + self.pad[i] + self.pad_end[i]).checked_sub(self.kernel[i])?;
            Some(room / self.stride[i] + 1)
        };
        Some([side(0)?, side(1)?])
    }

    fn out(&self) -> [usize; 2] {
        self.output().expect("checked before any kernel is called")
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    fn group_filters(&self) -> usize {
        self.filters / self.groups
    }

    fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.pad == [0, 0] && self.pad_end == [0, 0]
    }
}

/// Rows of A from which a panel of B is worth its copy.
const PACK_FROM: usize = 48;

/// Where tasks get their images: batches are cut so that each thread has a few tasks, each of them
/// with enough pixels to use a block of weights more than once. Results do not depend on it.
fn images_per_task(batch: usize, pixels: usize) -> usize {
    let enough = 512usize.div_ceil(pixels.max(1));
    let fair = batch.div_ceil(4 * rayon::current_num_threads());
    enough.min(fair).max(1)
}

/// Floats of a panel of B.
fn panel_len(simd: Simd) -> usize {
    KC * TILE_VECTORS * simd.lanes()
}

/// Cuts `panels` of A into parts where there are fewer tasks than threads.
fn panel_parts(panels: usize, tasks: usize) -> usize {
    rayon::current_num_threads()
        .div_ceil(tasks)
        .min(panels)
        .max(1)
}

fn part(count: usize, parts: usize, index: usize) -> Range2 {
    Range2 {
        start: count * index / parts,
        end: count * (index + 1) / parts,
    }
}

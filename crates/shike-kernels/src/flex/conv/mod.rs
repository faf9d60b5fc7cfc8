//! Convolution and its two gradients on slices in NCHW order.
//!
//! All three are one product (`Product`) whose second factor is read through tables of offsets:
//!
//! - forward: rows are output channels, k runs over (input channel, tap), columns are pixels of the
//!   output. Images are copied into a padded scratch image whose columns are sorted by their
//!   remainder modulo the stride, so that neighbouring outputs read neighbouring floats.
//! - input gradient: the same on the output's gradient; the input's pixels are taken class by class
//!   modulo the stride, each with those taps that reach it, so that no product with zero is formed.
//! - weight gradient: rows are output channels, k runs over pixels, columns over (tap, channel) of a
//!   padded scratch image with its channels innermost.
//!
//! A convolution of each channel by itself needs no product: `depthwise`. One of 3×3 with many channels needs fewer:
//! `winograd`.
//!
//! Sums are cut into blocks by shape alone, never by the number of threads.

mod class;
mod depthwise;
mod forward;
mod frame;
mod input_gradient;
mod weight_gradient;
mod winograd;

pub use super::gemm::Epilogue;
use super::gemm::{Range2, TILE_VECTORS};
use super::simd::Simd;

pub use forward::forward;
pub use input_gradient::input_gradient;
pub use weight_gradient::weight_gradient;

/// Everything about a convolution but its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images.
    pub batch: usize,
    /// Input channels of all groups.
    pub channels: usize,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Output channels of all groups.
    pub filters: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Rows and columns from one output to the next.
    pub stride: [usize; 2],
    /// Rows of zeros above, columns of zeros on the left.
    pub pad: [usize; 2],
    /// Rows of zeros below, columns of zeros on the right.
    pub pad_end: [usize; 2],
    /// Parts of the channels that see one another.
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

    /// Whether the kernels compute it: nothing is empty, and groups come out even.
    pub fn fits(&self) -> bool {
        let counts = [self.batch, self.channels, self.filters, self.groups];
        let sides = [self.size, self.kernel, self.stride];
        let padded = |i: usize| self.size[i] + self.pad[i] + self.pad_end[i];
        let padded = padded(0).saturating_mul(padded(1));
        !counts.contains(&0)
            && !sides.as_flattened().contains(&0)
            && self.channels.is_multiple_of(self.groups)
            && self.filters.is_multiple_of(self.groups)
            // Offsets are 32 bits wide, and up to 512 images share a table.
            && padded.saturating_mul(self.channels.max(self.filters)) < 1 << 22
            && self.output().is_some()
    }

    /// Floats of input, weight and output.
    ///
    /// # Panics
    /// If the kernels do not compute this shape.
    fn lens(&self) -> [usize; 3] {
        assert!(self.fits(), "{self:?}");
        let [height, width] = self.out();
        [
            self.batch * self.channels * self.size[0] * self.size[1],
            self.filters * self.group_channels() * self.taps(),
            self.batch * self.filters * height * width,
        ]
    }

    fn out(&self) -> [usize; 2] {
        self.output().expect("`fits` was asked before")
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

    /// Whether each filter sees one channel, and each channel one filter.
    fn is_depthwise(&self) -> bool {
        self.group_channels() == 1 && self.group_filters() == 1
    }

    fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.pad == [0, 0] && self.pad_end == [0, 0]
    }

    /// The convolution of the output's gradient, with its weights turned around, that gives the input's.
    fn turned(&self) -> Option<Self> {
        let room = |pad: [usize; 2]| {
            let room = |d: usize| (self.kernel[d] - 1).checked_sub(pad[d]);
            Some([room(0)?, room(1)?])
        };
        let turned = Self {
            channels: self.filters,
            filters: self.channels,
            size: self.out(),
            pad: room(self.pad)?,
            pad_end: room(self.pad_end)?,
            ..*self
        };
        (self.stride == [1, 1]).then_some(turned)
    }

    /// The path that computes it, and the shape as it is computed there: in bfloat16 without groups, pixels in a
    /// single row where each is computed by itself.
    fn on(&self, simd: Simd) -> (Simd, Self) {
        let simd = match self.groups {
            1 => simd,
            _ => simd.in_f32(),
        };
        let flat = self.is_pointwise() && self.stride == [1, 1] && simd.values() > 1;
        let size = match flat {
            true => [1, self.size[0] * self.size[1]],
            false => self.size,
        };
        (simd, Self { size, ..*self })
    }
}

/// Rows of A from which a panel of B is worth its copy.
const PACK_FROM: usize = 48;

/// Floats of the frames that one task fills at once. Large kernels on deep maps have large frames
/// for few pixels.
const FRAMES: usize = 1 << 22;

/// How many images have so many pixels together, if there is room for their frames.
fn images_together(enough: usize, pixels: usize, frame_len: usize) -> usize {
    enough
        .div_ceil(pixels)
        .min(FRAMES / frame_len.max(1))
        .max(1)
}

/// Where tasks get their images: batches are cut so that each thread has a few tasks, each of them
/// with enough pixels to use a block of weights more than once. Results do not depend on it.
fn images_per_task(batch: usize, pixels: usize, frame_len: usize) -> usize {
    let enough = images_together(512, pixels, frame_len);
    let fair = batch.div_ceil(4 * rayon::current_num_threads());
    enough.min(fair).max(1)
}

/// Floats of a panel of B, and of a vector behind it.
fn panel_len(simd: Simd) -> usize {
    (simd.longest() * TILE_VECTORS + 1) * simd.lanes()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_deep_maps_are_few() {
        // A 7×7 kernel on 7×7×2048: 100,368 floats for one pixel of output.
        assert_eq!(images_together(512, 1, 7 * 7 * 2048 + 16), 41);
        assert_eq!(images_together(512, 1, 1 << 23), 1);
        // Usual layers take what hides the update of C: the last stage of a ResNet-50, and its
        // first.
        assert_eq!(images_together(512, 49, 9 * 9 * 512 + 16), 11);
        assert_eq!(images_together(512, 56 * 56, 58 * 58 * 64 + 16), 1);
    }
}

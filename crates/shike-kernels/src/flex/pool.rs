//! Maximum pooling of planes.

use rayon::prelude::*;

use super::buffer::{scratch, zeroed};
use super::shuffle::strided;

/// Everything about a pooling but its numbers.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Height and width of a plane.
    pub size: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Rows above and below, and columns on both sides, that are never the maximum.
    pub pad: [usize; 2],
}

impl Windows {
    /// Height and width of the output, if every window has a pixel and a byte tells which of its pixels is the largest.
    pub fn output(&self) -> Option<[usize; 2]> {
        let side = |d: usize| {
            let padded = self.size[d] + 2 * self.pad[d];
            let inside = self.pad[d] < self.kernel[d] && self.size[d] > 0;
            let room = padded.checked_sub(self.kernel[d]).filter(|_| inside)?;
            Some(room.checked_div(self.stride[d])? + 1)
        };
        let taps = self.kernel[0].checked_mul(self.kernel[1])?;
        Some([side(0)?, side(1)?]).filter(|_| taps <= 256)
    }

    fn plane(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// The first tap of an output that is a pixel.
    fn first(&self, d: usize, output: usize) -> usize {
        self.pad[d].saturating_sub(output * self.stride[d])
    }

    /// Outputs along an axis that see a pixel with this tap, and the pixel that the first of them sees.
    fn seen(&self, d: usize, tap: usize, outputs: usize) -> (usize, usize, usize) {
        let (pad, stride) = (self.pad[d], self.stride[d]);
        let first = pad.saturating_sub(tap).div_ceil(stride).min(outputs);
        let end = (self.size[d] + pad).saturating_sub(tap).div_ceil(stride);
        (first, end.clamp(first, outputs), first * stride + tap)
    }
}

/// The maximum of each window, and which of its pixels that is: the first of equal ones, the last that is not a number.
///
/// # Panics
/// Where the windows have no [`output`](Windows::output), or `x` is no number of planes.
pub fn forward(s: &Windows, x: &[f32]) -> (Vec<f32>, Vec<u8>) {
    let [height, width] = s.output().expect("windows that have an output");
    assert!(x.len().is_multiple_of(s.plane()));
    let area = height * width;
    let outputs = x.len() / s.plane() * area;
    let (mut y, mut taps) = (vec![0.0; outputs], vec![0; outputs]);
    let planes = y.par_chunks_exact_mut(area);
    let planes = planes.zip(taps.par_chunks_exact_mut(area));
    let planes = planes.zip(x.par_chunks_exact(s.plane()));
    planes.for_each(|((y, taps), x)| {
        scratch(width, |row| {
            y.fill(f32::NEG_INFINITY);
            for (i, tap) in taps.iter_mut().enumerate() {
                // The first pixel of the window, should none be larger than that.
                let [ky, kx] = [s.first(0, i / width), s.first(1, i % width)];
                *tap = (ky * s.kernel[1] + kx) as u8;
            }
            for tap in 0..s.kernel[0] * s.kernel[1] {
                let (ky, kx) = (tap / s.kernel[1], tap % s.kernel[1]);
                let (top, bottom, _) = s.seen(0, ky, height);
                let (left, right, x0) = s.seen(1, kx, width);
                for oy in top..bottom {
                    let from = &x[(oy * s.stride[0] + ky - s.pad[0]) * s.size[1]..][..s.size[1]];
                    let row = &mut row[..right - left];
                    if !row.is_empty() {
                        strided(row, &from[x0 - s.pad[1]..], s.stride[1]);
                    }
                    let at = oy * width + left;
                    let y = y[at..].iter_mut().zip(&mut taps[at..]);
                    for ((y, to), &value) in y.zip(&*row) {
                        let larger = value > *y || value.is_nan();
                        *to = if larger { tap as u8 } else { *to };
                        *y = if larger { value } else { *y };
                    }
                }
            }
        });
    });
    (y, taps)
}

/// The gradient for `x`, given that of the output, and which pixels were the largest.
///
/// # Panics
/// Where `dy` and `taps` are not from the same windows.
pub fn backward(s: &Windows, dy: &[f32], taps: &[u8]) -> Vec<f32> {
    let [height, width] = s.output().expect("windows that have an output");
    let area = height * width;
    assert!(dy.len() == taps.len() && dy.len().is_multiple_of(area));
    // From where a window begins, which may be outside.
    let offsets = (0..s.kernel[0] * s.kernel[1]).map(|tap| {
        let [y, x] = [tap / s.kernel[1], tap % s.kernel[1]];
        (y * s.size[1] + x) as isize - (s.pad[0] * s.size[1] + s.pad[1]) as isize
    });
    let offsets: Vec<isize> = offsets.collect();
    let mut dx = zeroed(dy.len() / area * s.plane());
    let planes = dx.par_chunks_exact_mut(s.plane());
    let planes = planes.zip(dy.par_chunks_exact(area).zip(taps.par_chunks_exact(area)));
    planes.for_each(|(dx, (dy, taps))| {
        let rows = dy.chunks_exact(width).zip(taps.chunks_exact(width));
        for (oy, (dy, taps)) in rows.enumerate() {
            let row = oy * s.stride[0] * s.size[1];
            for (ox, (&dy, &tap)) in dy.iter().zip(taps).enumerate() {
                let at = (row + ox * s.stride[1]).wrapping_add_signed(offsets[usize::from(tap)]);
                dx[at] += dy;
            }
        }
    });
    dx
}

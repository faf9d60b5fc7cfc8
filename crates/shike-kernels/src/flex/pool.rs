//! Maximum pooling of planes.

use core::ops::Range;

use rayon::prelude::*;

use super::buffer::zeroed;
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

    /// Outputs of a part of a row that see a pixel with this tap, and the pixel that the first of them sees.
    fn seen(&self, tap: usize, part: &Range<usize>) -> (Range<usize>, usize) {
        let (pad, stride) = (self.pad[1], self.stride[1]);
        let first = pad.saturating_sub(tap).div_ceil(stride).max(part.start);
        let end = (self.size[1] + pad).saturating_sub(tap).div_ceil(stride);
        (
            first..end.clamp(first, part.end.max(first)),
            first * stride + tap,
        )
    }
}

/// Outputs of a row that are worked out together.
const PART: usize = 64;

/// The maximum of each window, and which of its pixels that is: the first of equal ones, the last that is not a number.
///
/// # Panics
/// Where the windows have no [`output`](Windows::output), or `x` is not a whole number of planes.
pub fn forward(s: &Windows, x: &[f32]) -> (Vec<f32>, Vec<u8>) {
    let [height, width] = s.output().expect("windows that have an output");
    assert!(x.len().is_multiple_of(s.plane()));
    let area = height * width;
    let outputs = x.len() / s.plane() * area;
    let (mut y, mut taps) = (zeroed(outputs), vec![0; outputs]);
    let planes = y.par_chunks_exact_mut(area);
    let planes = planes.zip(taps.par_chunks_exact_mut(area));
    let planes = planes.zip(x.par_chunks_exact(s.plane()));
    planes.for_each(|((y, taps), x)| {
        let rows = y.chunks_exact_mut(width).zip(taps.chunks_exact_mut(width));
        for (oy, (y, taps)) in rows.enumerate() {
            let parts = y.chunks_mut(PART).zip(taps.chunks_mut(PART));
            for (i, (y, taps)) in parts.enumerate() {
                let part = i * PART..(i * PART + y.len());
                let (largest, which) = row(s, x, oy, part);
                y.copy_from_slice(&largest[..y.len()]);
                for (tap, which) in taps.iter_mut().zip(which) {
                    *tap = which as u8;
                }
            }
        }
    });
    (y, taps)
}

/// A part of row `oy`. Arrays of one length and numbers of one width: the compiler makes vectors of them, if nothing
/// asks for a branch.
fn row(s: &Windows, x: &[f32], oy: usize, part: Range<usize>) -> ([f32; PART], [u32; PART]) {
    let (mut largest, mut which) = ([f32::NEG_INFINITY; PART], [0; PART]);
    let top = s.first(0, oy);
    for (which, ox) in which.iter_mut().zip(part.clone()) {
        // The first pixel, should none be larger than that.
        *which = (top * s.kernel[1] + s.first(1, ox)) as u32;
    }
    for ky in top..s.kernel[0] {
        let y = oy * s.stride[0] + ky - s.pad[0];
        if y >= s.size[0] {
            break;
        }
        let from = &x[y * s.size[1]..][..s.size[1]];
        for kx in 0..s.kernel[1] {
            let (seen, pixel) = s.seen(kx, &part);
            if seen.is_empty() {
                continue;
            }
            let mut values = [f32::NEG_INFINITY; PART];
            let to = &mut values[seen.start - part.start..seen.end - part.start];
            strided(to, &from[pixel - s.pad[1]..], s.stride[1]);
            let tap = (ky * s.kernel[1] + kx) as u32;
            for i in 0..PART {
                let value = values[i];
                let larger = (value > largest[i]) | value.is_nan();
                let mask = u32::from(larger).wrapping_neg();
                which[i] = which[i] & !mask | tap & mask;
                largest[i] = if larger { value } else { largest[i] };
            }
        }
    }
    (largest, which)
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

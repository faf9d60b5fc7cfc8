//! Padded copies of an image, which the products read through tables of offsets.

use super::Shape;
use crate::flex::bf16::{pair, pair_rows};
use crate::flex::buffer::scratch;
use crate::flex::shuffle::{strided, transpose};
use crate::flex::simd::Simd;

/// A scratch image, `[channel][row][column mod stride][column / stride]`, or the image itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Zeros before the first row and column (negative: rows and columns left out).
    top: isize,
    left: isize,
    stride: [usize; 2],
    /// Rows and columns modulo the stride that are read at all.
    used: [usize; 2],
    /// Floats in one class of columns, in a row, in a channel.
    class: usize,
    pub row: usize,
    pub plane: usize,
}

impl Frame {
    pub fn new(
        top: isize,
        left: isize,
        height: usize,
        width: usize,
        stride: [usize; 2],
        kernel: [usize; 2],
    ) -> Self {
        let used = [stride[0].min(kernel[0]), stride[1].min(kernel[1])];
        let class = width.div_ceil(stride[1]);
        let row = class * used[1];
        Self {
            top,
            left,
            stride,
            used,
            class,
            row,
            plane: row * height,
        }
    }

    /// Floats for an image, with what vectors read behind its last pixel.
    pub fn len(&self, channels: usize) -> usize {
        channels * self.plane + 3 * 16
    }

    /// Copies an image, `[channels][size]`.
    pub fn fill(&self, to: &mut [f32], from: &[f32], channels: usize, size: [usize; 2]) {
        let [height, width] = size;
        for channel in 0..channels {
            let from = &from[channel * height * width..][..height * width];
            let plane = &mut to[channel * self.plane..][..self.plane];
            if self.stride == [1, 1] && self.left >= 0 && self.top >= 0 {
                self.fill_plane(plane, from, width);
                continue;
            }
            for (r, row) in plane.chunks_exact_mut(self.row).enumerate() {
                if r % self.stride[0] >= self.used[0] {
                    continue;
                }
                let y = r as isize - self.top;
                if y < 0 || y >= height as isize {
                    row.fill(0.0);
                    continue;
                }
                let from = &from[y as usize * width..][..width];
                for (class, to) in row.chunks_exact_mut(self.class).enumerate() {
                    self.fill_class(to, from, class);
                }
            }
        }
    }

    /// A plane without stride. Rows are short: a call for each copy would cost as much as the copy.
    fn fill_plane(&self, plane: &mut [f32], from: &[f32], width: usize) {
        let (top, left) = (self.top as usize, self.left as usize);
        let height = from.len() / width;
        plane[..top * self.row].fill(0.0);
        plane[(top + height) * self.row..].fill(0.0);
        let rows = plane[top * self.row..].chunks_exact_mut(self.row);
        for (row, from) in rows.zip(from.chunks_exact(width)) {
            for zero in &mut row[..left] {
                *zero = 0.0;
            }
            for zero in &mut row[left + width..] {
                *zero = 0.0;
            }
            let row = &mut row[left..left + width];
            let (eights, rest) = from.as_chunks::<8>();
            let (to_eights, to_rest) = row.as_chunks_mut::<8>();
            for (to, from) in to_eights.iter_mut().zip(eights) {
                *to = *from;
            }
            for (to, from) in to_rest.iter_mut().zip(rest) {
                *to = *from;
            }
        }
    }

    fn fill_class(&self, to: &mut [f32], from: &[f32], class: usize) {
        let stride = self.stride[1];
        // The columns q with 0 ≤ q · stride + class − left < width.
        let shift = self.left - class as isize;
        let begin = usize::try_from(shift)
            .map_or(0, |shift| shift.div_ceil(stride))
            .min(to.len());
        let end = usize::try_from(from.len() as isize + shift)
            .map_or(0, |end| end.div_ceil(stride))
            .clamp(begin, to.len());
        to[..begin].fill(0.0);
        to[end..].fill(0.0);
        if begin == end {
            return;
        }
        let first = ((begin * stride) as isize - shift) as usize;
        let to = &mut to[begin..end];
        strided(to, &from[first..], stride);
    }

    /// Offset of a tap.
    pub fn tap(&self, y: usize, x: usize) -> usize {
        let stride = self.stride[1];
        y * self.row + x % stride * self.class + x / stride
    }
}

/// Floats for what [`fill_frame`] writes: a frame, or an image of so many floats itself, if that is to lie in pairs.
pub(super) fn frame_len(frame: Option<Frame>, image: usize, channels: usize, pairs: bool) -> usize {
    match frame {
        Some(frame) => frame.len(channels),
        None if pairs => image + 3 * 16,
        None => 0,
    }
}

/// Copies an image, `[channels][size]`, to its frame, in pairs of channels on a path of bfloat16. These have room in
/// `paired`.
pub(super) fn fill_frame(
    simd: Simd,
    frame: Option<Frame>,
    to: &mut [f32],
    paired: &mut [f32],
    from: &[f32],
    channels: usize,
    size: [usize; 2],
) {
    let plane = size[0] * size[1];
    match frame {
        Some(frame) if paired.is_empty() => frame.fill(to, from, channels, size),
        Some(frame) => {
            pair_rows(simd, paired, from, plane);
            frame.fill(to, paired, channels.div_ceil(2), size);
        }
        None => pair_rows(simd, to, from, plane),
    }
}

/// A padded scratch image of a group with its channels innermost: `[row][column][channel]`.
pub(super) struct Rows {
    /// Floats in a row.
    pub row: usize,
    height: usize,
    /// Rows and columns from one output pixel to the next.
    pub step_y: usize,
    pub step_x: usize,
    /// Only every such row and column of the input is taken.
    take: [usize; 2],
}

impl Rows {
    pub fn new(s: &Shape) -> Self {
        let cg = s.group_channels();
        let [out_h, out_w] = s.out();
        // A 1×1 kernel looks at the pixels of its stride alone.
        if s.is_pointwise() {
            return Self {
                row: out_w * cg,
                height: out_h,
                step_y: 1,
                step_x: 1,
                take: s.stride,
            };
        }
        Self {
            row: (s.size[1] + s.pad[1] + s.pad_end[1]) * cg,
            height: s.size[0] + s.pad[0] + s.pad_end[0],
            step_y: s.stride[0],
            step_x: s.stride[1],
            take: [1, 1],
        }
    }

    pub fn len(&self, _: &Shape) -> usize {
        self.row * self.height + 16
    }

    /// Copies an image. On a path of bfloat16 each value is in a pair with that of the next output's pixel.
    pub fn fill(&self, simd: Simd, s: &Shape, to: &mut [f32], from: &[f32]) {
        let rows = to.chunks_exact_mut(self.row).take(self.height);
        match simd.values() {
            1 => rows
                .enumerate()
                .for_each(|(r, to)| self.fill_row(s, to, from, r)),
            _ => scratch(self.row, |row| {
                for (r, to) in rows.enumerate() {
                    self.fill_row(s, row, from, r);
                    let next = self.row.min(self.step_x * s.group_channels());
                    pair(simd, to, row, &row[next..]);
                }
            }),
        }
    }

    fn fill_row(&self, s: &Shape, row: &mut [f32], from: &[f32], r: usize) {
        let cg = s.group_channels();
        let [height, width] = s.size;
        let plane = height * width;
        let y = (r * self.take[0]).wrapping_sub(s.pad[0]);
        if y >= height {
            row.fill(0.0);
            return;
        }
        let left = s.pad[1] * cg;
        row[..left].fill(0.0);
        let count = width.div_ceil(self.take[1]);
        let count = count.min((self.row - left) / cg);
        let end = left + count * cg;
        row[end..].fill(0.0);
        let from = &from[y * width..];
        if self.take[1] == 1 {
            transpose(&mut row[left..end], cg, from, plane, cg, count);
        } else {
            for c in 0..cg {
                for x in 0..count {
                    row[left + x * cg + c] = from[c * plane + x * self.take[1]];
                }
            }
        }
    }
}

//! Padded copies of an image, which the products read through tables of offsets.

use super::Shape;
use crate::flex::bf16::{pair, pair_rows};
use crate::flex::buffer::scratch;
use crate::flex::gemm::load;
use crate::flex::shuffle::transpose;
use crate::flex::simd::{Simd, Vector, simd_entry};

/// A scratch image, `[channel][row][column mod stride][column / stride]`, or the image itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Zeros before the first row and column.
    top: usize,
    left: usize,
    stride: [usize; 2],
    /// Rows and columns modulo the stride that are read at all.
    used: [usize; 2],
    /// Floats in one class of columns, in a row, in a channel.
    class: usize,
    pub row: usize,
    pub plane: usize,
}

impl Frame {
    /// A convolution's input with its padding.
    pub fn of(s: &Shape) -> Self {
        let length = core::array::from_fn(|d| s.size[d] + s.pad[d] + s.pad_end[d]);
        Self::new(s.pad, length, s.stride, s.kernel)
    }

    pub fn new(
        [top, left]: [usize; 2],
        [height, width]: [usize; 2],
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

    /// Copies an image, `[channels][size]`. Writes a part of a vector behind the last pixel as well.
    pub fn fill(
        &self,
        simd: Simd,
        to: &mut [f32],
        from: &[f32],
        channels: usize,
        size: [usize; 2],
    ) {
        assert!(to.len() >= self.len(channels) && from.len() >= channels * size[0] * size[1]);
        assert!((self.top + size[0]) * self.row <= self.plane);
        assert!(self.left + size[1] <= self.class * self.stride[1]);
        // SAFETY: the assertion; rows and columns of the image lie inside the frame.
        unsafe { fill(simd, self, to.as_mut_ptr(), from, channels, size) };
    }

    /// Offset of a tap.
    pub fn tap(&self, y: usize, x: usize) -> usize {
        let stride = self.stride[1];
        y * self.row + x % stride * self.class + x / stride
    }
}

simd_entry! {
    /// See [`Frame::fill`].
    ///
    /// # Safety
    /// There is room for the frame, and a vector behind it; `from` has the channels, which lie inside the frame.
    unsafe fn fill(
        frame: &Frame,
        to: *mut f32,
        from: &[f32],
        channels: usize,
        size: [usize; 2],
    ) = fill_with
}

/// Every store is a whole vector. Behind a run it writes zeros, over which the next run writes, if it is not left out.
#[inline(always)]
unsafe fn fill_with<V: Vector, const MR: usize>(
    frame: &Frame,
    mut to: *mut f32,
    from: &[f32],
    channels: usize,
    [height, width]: [usize; 2],
) {
    let Frame { stride, used, .. } = *frame;
    let rows = frame.plane / frame.row;
    // Of a class c are the columns q with left ≤ q · stride + c < left + width.
    let [first, end] = [frame.left, frame.left + width].map(|at| (at / stride[1], at % stride[1]));
    let skips = used[0] < stride[0];
    // SAFETY: passed on to the caller.
    unsafe {
        for channel in 0..channels {
            for r in 0..rows {
                let row = to;
                to = to.add(frame.row);
                if skips && r % stride[0] >= used[0] {
                    continue;
                }
                let y = r.wrapping_sub(frame.top);
                if y >= height {
                    zeros::<V>(row, 0, frame.row);
                    continue;
                }
                let from = from.as_ptr().add((channel * height + y) * width);
                for class in 0..used[1] {
                    let to = row.add(class * frame.class);
                    let begin = first.0 + usize::from(class < first.1);
                    let end = end.0 + usize::from(class < end.1);
                    zeros::<V>(to, 0, begin);
                    if begin < end {
                        let from = from.add(begin * stride[1] + class - frame.left);
                        copy::<V>(to.add(begin), from, end - begin, stride[1]);
                    }
                    zeros::<V>(to, end, frame.class);
                }
            }
        }
    }
}

/// # Safety
/// The floats from `at` to `end` can be written, and a vector behind them.
#[inline(always)]
unsafe fn zeros<V: Vector>(to: *mut f32, at: usize, end: usize) {
    for at in (at..end).step_by(V::LANES) {
        // SAFETY: the caller's promise.
        unsafe { V::splat(0.0).store(to.add(at)) };
    }
}

/// Every `stride`th float, `count` of them.
///
/// # Safety
/// They can be read, and as many written with a vector behind them.
#[inline(always)]
pub(super) unsafe fn copy<V: Vector>(to: *mut f32, from: *const f32, count: usize, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        for at in (0..count).step_by(V::LANES) {
            let lanes = V::LANES.min(count - at);
            let to = to.add(at);
            match stride {
                1 => load::<V>(from.add(at), lanes).store(to),
                2 => {
                    let from = from.add(2 * at);
                    // The last float has no neighbour.
                    let floats = 2 * lanes - usize::from(at + lanes == count);
                    let low = load::<V>(from, floats.min(V::LANES));
                    let high = load(from.wrapping_add(V::LANES), floats.saturating_sub(V::LANES));
                    low.unzip(high).0.store(to);
                }
                _ => {
                    for i in 0..lanes {
                        *to.add(i) = *from.add((at + i) * stride);
                    }
                }
            }
        }
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
        Some(frame) if paired.is_empty() => frame.fill(simd, to, from, channels, size),
        Some(frame) => {
            pair_rows(simd, paired, from, plane);
            frame.fill(simd, to, paired, channels.div_ceil(2), size);
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

    pub fn len(&self) -> usize {
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

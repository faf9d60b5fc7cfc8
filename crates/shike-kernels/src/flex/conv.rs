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

use core::ops::Range;

use rayon::prelude::*;

use super::buffer::{SharedMut, filled, scratch};
use super::gemm::{Columns, KC, Product, Range2, Source, TILE_VECTORS, k_blocks, multiply};
use super::simd::Simd;

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

/// A's panels for all blocks of k: `[group][block][panel][k][MR]`.
struct Weights {
    data: Vec<f32>,
    m: usize,
    panels: usize,
    rows: usize,
    k: usize,
}

impl Weights {
    /// `fill(to, group, first row, rows, k)` writes a panel of a block of k; see [`interleave`].
    fn pack(
        simd: Simd,
        groups: usize,
        m: usize,
        k: usize,
        fill: impl Fn(&mut [f32], usize, usize, usize, Range<usize>) + Sync,
    ) -> Self {
        let rows = simd.rows();
        let panels = m.div_ceil(rows);
        let pack = |data: SharedMut| {
            (0..groups * panels).into_par_iter().for_each(|task| {
                let (group, panel) = (task / panels, task % panels);
                let first = panel * rows;
                for block in k_blocks(k).filter(|block| !block.is_empty()) {
                    let at =
                        (group * panels * k + panels * block.start + panel * block.len()) * rows;
                    // SAFETY: each (group, panel, block) has this part to itself.
                    let to = unsafe { data.slice(at, rows * block.len()) };
                    fill(to, group, first, rows.min(m - first), block);
                }
            });
        };
        // SAFETY: the parts are all of it, and `fill` writes the whole of its part.
        let data = unsafe { filled(groups * panels * rows * k, pack) };
        Self {
            data,
            m,
            panels,
            rows,
            k,
        }
    }

    fn block(&self, group: usize, block: &Range<usize>) -> (*const f32, usize) {
        let at = (group * self.k + block.start) * self.panels * self.rows;
        (self.data[at..].as_ptr(), self.rows * block.len())
    }
}

/// A scratch image, `[channel][row][column mod stride][column / stride]`, or the image itself.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Zeros before the first row and column (negative: rows and columns left out).
    top: isize,
    left: isize,
    stride: [usize; 2],
    /// Rows and columns modulo the stride that are read at all.
    used: [usize; 2],
    /// Floats in one class of columns, in a row, in a channel.
    class: usize,
    row: usize,
    plane: usize,
}

impl Frame {
    fn new(
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
    fn len(&self, channels: usize) -> usize {
        channels * self.plane + 3 * 16
    }

    /// Copies an image, `[channels][size]`.
    fn fill(&self, to: &mut [f32], from: &[f32], channels: usize, size: [usize; 2]) {
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
        match stride {
            1 => to.copy_from_slice(&from[first..][..to.len()]),
            2 => every_second(to, &from[first..]),
            _ => {
                for (to, from) in to.iter_mut().zip(from[first..].iter().step_by(stride)) {
                    *to = *from;
                }
            }
        }
    }

    /// Offset of a tap.
    fn tap(&self, y: usize, x: usize) -> usize {
        let stride = self.stride[1];
        y * self.row + x % stride * self.class + x / stride
    }
}

/// Vectors that cover a grid of pixels row by row.
fn grid_columns(lanes: usize, height: usize, width: usize, row_stride: usize) -> Vec<Columns> {
    (0..height)
        .flat_map(|y| {
            (0..width).step_by(lanes).map(move |x| Columns {
                source: y * row_stride + x,
                target: y * width + x,
                lanes: lanes.min(width - x),
            })
        })
        .collect()
}

/// One class of output pixels of a correlation: which taps it takes and which grid it fills.
struct Class {
    weights: Weights,
    /// Offset of each k in a group's part of the frame.
    rows: Vec<u32>,
    /// Where the grid begins in the frame.
    origin: usize,
    height: usize,
    width: usize,
    row_stride: usize,
    columns: Option<Vec<Columns>>,
}

impl Class {
    #[allow(clippy::too_many_arguments)]
    fn new(
        simd: Simd,
        weights: Weights,
        rows: Vec<u32>,
        origin: usize,
        [height, width]: [usize; 2],
        row_stride: usize,
        framed: bool,
    ) -> Self {
        let lanes = simd.lanes();
        // Vectors straight from the frame pay where few rows of A share a panel of B and vectors
        // are full.
        let vectors = width.div_ceil(lanes);
        let direct = framed && weights.m < PACK_FROM && 4 * width >= 3 * vectors * lanes;
        let columns = direct.then(|| grid_columns(lanes, height, width, row_stride));
        Self {
            weights,
            rows,
            origin,
            height,
            width,
            row_stride,
            columns,
        }
    }

    /// One block of k for all panels of `panels`.
    ///
    /// # Safety
    /// `image` is a frame (or image) of the kind that the class was made for; `c` has room for
    /// `m` rows of the grid, and no one else uses the rows of these panels.
    #[allow(clippy::too_many_arguments)]
    unsafe fn block(
        &self,
        simd: Simd,
        group: usize,
        k: &Range<usize>,
        panels: Range2,
        image: *const f32,
        c: *mut f32,
        panel: &mut [f32],
    ) {
        if k.is_empty() {
            // No tap reaches these pixels.
            let rows = panels.start * self.weights.rows
                ..self.weights.m.min(panels.end * self.weights.rows);
            let pixels = self.height * self.width;
            // SAFETY: the rows of these panels are the caller's.
            return unsafe {
                c.add(rows.start * pixels)
                    .write_bytes(0, rows.len() * pixels)
            };
        }
        let (a, a_stride) = self.weights.block(group, k);
        let product = Product {
            a,
            a_stride,
            panels,
            m: self.weights.m,
            // SAFETY: the origin lies in the frame.
            b: unsafe { image.add(self.origin) },
            rows: &self.rows[k.clone()],
            source: match &self.columns {
                Some(columns) => Source::Direct(columns),
                None => Source::Grid {
                    height: self.height,
                    width: self.width,
                    row_stride: self.row_stride,
                },
            },
            c,
            c_stride: self.height * self.width,
            add: k.start > 0,
            panel: panel.as_mut_ptr(),
        };
        // SAFETY: the caller's promise, and tables were made for this frame.
        unsafe { multiply(simd, &product) }
    }
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

/// `y = x ⋆ w`: `x` `[batch, channels, height, width]`, `w` `[filters, channels / groups, kernel]`.
pub(crate) fn forward(simd: Simd, shape: &Shape, x: &[f32], w: &[f32]) -> Vec<f32> {
    let s = shape;
    let [out_h, out_w] = s.out();
    let pixels = out_h * out_w;
    let (cg, mg) = (s.group_channels(), s.group_filters());
    let k = cg * s.taps();
    let [height, width] = s.size;
    let frame = (!(s.is_pointwise() && s.stride == [1, 1])).then(|| {
        Frame::new(
            s.pad[0] as isize,
            s.pad[1] as isize,
            height + s.pad[0] + s.pad_end[0],
            width + s.pad[1] + s.pad_end[1],
            s.stride,
            s.kernel,
        )
    });
    let plane = frame.map_or(height * width, |frame| frame.plane);
    let mut rows = Vec::with_capacity(k);
    for c in 0..cg {
        for y in 0..s.kernel[0] {
            for x in 0..s.kernel[1] {
                let tap = frame.map_or(0, |frame| frame.tap(y, x));
                rows.push((c * plane + tap) as u32);
            }
        }
    }
    let mr = simd.rows();
    let weights = Weights::pack(simd, s.groups, mg, k, |to, group, first, rows, block| {
        let from = &w[(group * mg + first) * k + block.start..];
        interleave(to, mr, from, k, rows, block.len());
    });
    let row_stride = frame.map_or(width, |frame| s.stride[0] * frame.row);
    let class = Class::new(
        simd,
        weights,
        rows,
        0,
        [out_h, out_w],
        row_stride,
        frame.is_some(),
    );
    let image_len = s.channels * height * width;
    let frame_len = frame.map_or(0, |frame| frame.len(s.channels));
    let per_task = images_per_task(s.batch, pixels);
    let chunks = s.batch.div_ceil(per_task);
    let parts = panel_parts(class.weights.panels, chunks);
    let run = |y: SharedMut, task: usize| {
        let first = task / parts * per_task;
        let images = per_task.min(s.batch - first);
        let panels = part(class.weights.panels, parts, task % parts);
        scratch(images * frame_len + panel_len(simd), |buffer| {
            let (panel, frames) = buffer.split_at_mut(panel_len(simd));
            let at = |i: usize| &x[(first + i) * image_len..][..image_len];
            if let Some(frame) = &frame {
                for (i, to) in frames.chunks_exact_mut(frame_len).take(images).enumerate() {
                    frame.fill(to, at(i), s.channels, s.size);
                }
            }
            for group in 0..s.groups {
                for block in k_blocks(k) {
                    for i in 0..images {
                        let source = match frame {
                            Some(_) => &frames[i * frame_len..],
                            None => at(i),
                        };
                        let target = ((first + i) * s.filters + group * mg) * pixels;
                        // SAFETY: the frame has the size that the class was made for and the
                        // group's channels begin there; this task alone writes these filters of
                        // this image.
                        unsafe {
                            class.block(
                                simd,
                                group,
                                &block,
                                panels,
                                source.as_ptr().add(group * cg * plane),
                                y.at(target),
                                panel,
                            );
                        }
                    }
                }
            }
        });
    };
    // SAFETY: the tasks write every filter of every image (the first block of k overwrites), and
    // read only what they wrote.
    unsafe {
        filled(s.batch * s.filters * pixels, |y| {
            (0..chunks * parts)
                .into_par_iter()
                .for_each(|task| run(y, task));
        })
    }
}

/// The gradient for `x`, given that of `y`.
pub(crate) fn input_gradient(simd: Simd, shape: &Shape, dy: &[f32], w: &[f32]) -> Vec<f32> {
    let s = shape;
    let out = s.out();
    let (cg, mg) = (s.group_channels(), s.group_filters());
    let (taps, plane_in) = (s.taps(), s.size[0] * s.size[1]);
    // The input pixel i of class c = (i + pad) mod stride gets tap c + stride · j from the output
    // pixel q − j, where q = (i + pad − c) / stride.
    let axis: [Vec<AxisClass>; 2] = core::array::from_fn(|d| {
        (0..s.stride[d].min(s.size[d]))
            .map(|first| {
                let class = (first + s.pad[d]) % s.stride[d];
                AxisClass {
                    class,
                    first,
                    count: (s.size[d] - first).div_ceil(s.stride[d]),
                    taps: s.kernel[d].saturating_sub(class).div_ceil(s.stride[d]),
                    q: (first + s.pad[d] - class) / s.stride[d],
                }
            })
            .collect()
    });
    // Zeros around the gradient so that every q − j is inside.
    let around = |d: usize| {
        let before = axis[d]
            .iter()
            .map(|a| a.taps as isize - 1 - a.q as isize)
            .max();
        let end = axis[d].iter().map(|a| a.q + a.count).max();
        let before = before.unwrap_or(0).max(0) as usize;
        (before, end.unwrap_or(0).max(out[d]) + before)
    };
    let ((top, height), (left, width)) = (around(0), around(1));
    let framed = !(taps == 1 && [height, width] == out);
    let frame =
        framed.then(|| Frame::new(top as isize, left as isize, height, width, [1, 1], [1, 1]));
    let plane = height * width;
    let mut classes = Vec::new();
    for ay in &axis[0] {
        for ax in &axis[1] {
            let (ty, tx) = (ay.taps, ax.taps);
            let k = mg * ty * tx;
            let tap_offsets: Vec<usize> = (0..ty * tx)
                .map(|tap| {
                    let y = ay.class + s.stride[0] * (tap / tx);
                    let x = ax.class + s.stride[1] * (tap % tx);
                    y * s.kernel[1] + x
                })
                .collect();
            let mr = simd.rows();
            let weights = Weights::pack(simd, s.groups, cg, k, |to, group, first, rows, block| {
                let mut tap = block.start % (ty * tx);
                let mut filter = group * mg + block.start / (ty * tx);
                for to in to.chunks_exact_mut(mr) {
                    let from = &w[(filter * cg + first) * taps + tap_offsets[tap]..];
                    for (to, from) in to.iter_mut().zip(from.iter().step_by(taps)).take(rows) {
                        *to = *from;
                    }
                    to[rows..].fill(0.0);
                    tap += 1;
                    if tap == ty * tx {
                        tap = 0;
                        filter += 1;
                    }
                }
            });
            // Offsets count from the tap that reaches furthest back.
            let origin =
                (ay.q + top + 1).saturating_sub(ty) * width + (ax.q + left + 1).saturating_sub(tx);
            let mut rows = Vec::with_capacity(k);
            for filter in 0..mg {
                for y in 0..ty {
                    for x in 0..tx {
                        rows.push((filter * plane + (ty - 1 - y) * width + tx - 1 - x) as u32);
                    }
                }
            }
            let class = Class::new(
                simd,
                weights,
                rows,
                origin,
                [ay.count, ax.count],
                width,
                framed,
            );
            classes.push((ay, ax, class));
        }
    }
    let image_len = s.filters * out[0] * out[1];
    let frame_len = frame.map_or(0, |frame| frame.len(s.filters));
    let per_task = images_per_task(s.batch, plane_in);
    let chunks = s.batch.div_ceil(per_task);
    let panels = cg.div_ceil(simd.rows());
    let parts = panel_parts(panels, chunks);
    let strided = s.stride != [1, 1];
    let largest = classes
        .iter()
        .map(|(_, _, class)| class.height * class.width);
    let temporary = if strided {
        per_task * cg * largest.max().unwrap_or(0)
    } else {
        0
    };
    let run = |dx: SharedMut, task: usize| {
        let first = task / parts * per_task;
        let images = per_task.min(s.batch - first);
        let range = part(panels, parts, task % parts);
        let channels = range.start * simd.rows()..cg.min(range.end * simd.rows());
        let length = images * frame_len + panel_len(simd) + temporary;
        scratch(length, |buffer| {
            let (panel, rest) = buffer.split_at_mut(panel_len(simd));
            let (temporary, frames) = rest.split_at_mut(temporary);
            let at = |i: usize| &dy[(first + i) * image_len..][..image_len];
            if let Some(frame) = &frame {
                for (i, to) in frames.chunks_exact_mut(frame_len).take(images).enumerate() {
                    frame.fill(to, at(i), s.filters, out);
                }
            }
            for group in 0..s.groups {
                for (ay, ax, class) in &classes {
                    let pixels = class.height * class.width;
                    let target = |i: usize| ((first + i) * s.channels + group * cg) * plane_in;
                    for block in k_blocks(class.weights.k) {
                        for i in 0..images {
                            let source = match frame {
                                Some(_) => &frames[i * frame_len..],
                                None => at(i),
                            };
                            // SAFETY: as in `forward`; with a stride the task's own temporary
                            // image is written.
                            unsafe {
                                let c = if strided {
                                    temporary[i * cg * pixels..].as_mut_ptr()
                                } else {
                                    dx.at(target(i))
                                };
                                class.block(
                                    simd,
                                    group,
                                    &block,
                                    range,
                                    source.as_ptr().add(group * mg * plane),
                                    c,
                                    panel,
                                );
                            }
                        }
                    }
                    if strided {
                        for i in 0..images {
                            for c in channels.clone() {
                                let from = &temporary[(i * cg + c) * pixels..][..pixels];
                                // SAFETY: this task alone writes these channels of this image, and
                                // each class other pixels of it.
                                unsafe {
                                    spread(s, ay, ax, from, dx.at(target(i) + c * plane_in));
                                }
                            }
                        }
                    }
                }
            }
        });
    };
    // SAFETY: the classes are all pixels of the input; where one has no tap, its product over no k
    // writes zeros. So every float is written before it is read.
    unsafe {
        filled(s.batch * s.channels * plane_in, |dx| {
            (0..chunks * parts)
                .into_par_iter()
                .for_each(|task| run(dx, task));
        })
    }
}

/// The input's rows (or columns) of one class modulo the stride.
struct AxisClass {
    /// The first tap that reaches them.
    class: usize,
    /// The first of them.
    first: usize,
    /// How many they are.
    count: usize,
    /// How many taps reach them.
    taps: usize,
    /// The output row that the first tap connects with the first of them.
    q: usize,
}

/// Writes a class of pixels to their places.
///
/// # Safety
/// `to` is a plane of the input that no one else writes the class's pixels of.
unsafe fn spread(s: &Shape, ay: &AxisClass, ax: &AxisClass, from: &[f32], to: *mut f32) {
    for (y, from) in from.chunks_exact(ax.count).enumerate() {
        let row = (ay.first + y * s.stride[0]) * s.size[1] + ax.first;
        for (x, &value) in from.iter().enumerate() {
            // SAFETY: the class's pixels lie in the plane.
            unsafe { *to.add(row + x * s.stride[1]) = value };
        }
    }
}

/// Floats of partial weight gradients that may be alive at once.
const PARTIALS: usize = 1 << 22;

/// Pixels of a step of the weight gradient: enough to hide the update of C.
const STEP: usize = 512;

/// The gradient for `w`, given that of `y`.
pub(crate) fn weight_gradient(simd: Simd, shape: &Shape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let s = shape;
    let [out_h, out_w] = s.out();
    let pixels = out_h * out_w;
    let (cg, mg) = (s.group_channels(), s.group_filters());
    let [kernel_h, kernel_w] = s.kernel;
    let lanes = simd.lanes();
    // Channels are innermost in the frame, so that the taps of a kernel's row lie in one run.
    let run_len = kernel_w * cg;
    let columns_row = run_len.next_multiple_of(lanes);
    let columns = kernel_h * columns_row;
    let partial = s.groups * mg * columns;
    // Only shape decides how the batch is cut.
    let chunks = (PARTIALS / partial.max(1)).clamp(1, 16).min(s.batch);
    let chunks = 1 << chunks.ilog2();
    let split_images = chunks > 1;
    let pointwise = s.is_pointwise();
    let frame = Rows::new(s);
    let frame_len = match pointwise {
        true => pixels * columns,
        false => frame.len(s),
    };
    let image_len = s.channels * s.size[0] * s.size[1];
    let panels = mg.div_ceil(simd.rows());
    let a_rows = panels * simd.rows();
    let step = STEP.div_ceil(pixels).clamp(1, s.batch);
    // Offsets of all pixels of a step's images.
    let mut offsets = Vec::with_capacity(step * pixels);
    for i in 0..step {
        for y in 0..out_h {
            for x in 0..out_w {
                let at = y * frame.step_y * frame.row + x * frame.step_x * cg;
                offsets.push((i * frame_len + at) as u32);
            }
        }
    }
    let mut table = Vec::new();
    for y in 0..kernel_h {
        for v in (0..columns_row).step_by(lanes) {
            table.push(Columns {
                source: y * frame.row + v,
                target: y * columns_row + v,
                lanes,
            });
        }
    }
    // The frame of a 1×1 kernel is written in the order of panels at once.
    let wide = TILE_VECTORS * lanes;
    let source = match (pointwise, mg < PACK_FROM) {
        (true, _) => Source::Panels(&table, wide * step * pixels),
        (_, true) => Source::Direct(&table),
        (_, false) => Source::Packed(&table),
    };
    let product = |a: &[f32],
                   b: &[f32],
                   panels: Range2,
                   c: *mut f32,
                   panel: &mut [f32],
                   count: usize,
                   add: bool| {
        let total = count * pixels;
        for block in k_blocks(total) {
            let source = match source {
                Source::Panels(table, apart) => {
                    // A narrow last panel has shorter rows.
                    let narrow = columns % wide;
                    let (first, last) = table.split_at(table.len() - narrow / lanes);
                    let parts = [(first, wide, 0), (last, narrow, first.len() / TILE_VECTORS)];
                    for (table, width, panels_before) in parts {
                        if table.is_empty() {
                            continue;
                        }
                        let b = &b[panels_before * apart + block.start * width..];
                        let product = Product {
                            a: a[block.start * simd.rows()..].as_ptr(),
                            a_stride: step * pixels * simd.rows(),
                            panels,
                            m: mg,
                            b: b.as_ptr(),
                            rows: &offsets[block.clone()],
                            source: Source::Panels(table, apart),
                            c,
                            c_stride: columns,
                            add: add || block.start > 0,
                            panel: panel.as_mut_ptr(),
                        };
                        // SAFETY: `fill_x` wrote these panels; C is the caller's own.
                        unsafe { multiply(simd, &product) }
                    }
                    continue;
                }
                other => other,
            };
            let product = Product {
                a: a[block.start * simd.rows()..].as_ptr(),
                a_stride: step * pixels * simd.rows(),
                panels,
                m: mg,
                b: b.as_ptr(),
                rows: &offsets[block.clone()],
                source,
                c,
                c_stride: columns,
                add: add || block.start > 0,
                panel: panel.as_mut_ptr(),
            };
            // SAFETY: the tables were made for these frames; C is the caller's own.
            unsafe { multiply(simd, &product) }
        }
    };
    let plane = s.size[0] * s.size[1];
    let fill_x = |to: SharedMut, slot: usize, image: usize, group: usize| {
        let from = &x[image * image_len + group * cg * plane..];
        if !pointwise {
            // SAFETY: each slot has this part to itself.
            frame.fill(s, unsafe { to.slice(slot * frame_len, frame_len) }, from);
            return;
        }
        for first in (0..columns).step_by(wide) {
            let width = wide.min(columns - first);
            let at = first * step * pixels + slot * pixels * width;
            // SAFETY: each panel and slot has this part to itself.
            let to = unsafe { to.slice(at, pixels * width) };
            let rows = width.min(cg - first);
            let from = &from[first * plane..];
            if s.stride == [1, 1] {
                interleave(to, width, from, plane, rows, pixels);
                continue;
            }
            for (i, to) in to.chunks_exact_mut(width).enumerate() {
                let at = i / out_w * s.stride[0] * s.size[1] + i % out_w * s.stride[1];
                for (to, from) in to
                    .iter_mut()
                    .zip(from[at..].iter().step_by(plane))
                    .take(rows)
                {
                    *to = *from;
                }
                to[rows..].fill(0.0);
            }
        }
    };
    let fill_dy = |to: SharedMut, slot: usize, image: usize, group: usize| {
        let from = &dy[(image * s.filters + group * mg) * pixels..][..mg * pixels];
        for panel in 0..panels {
            let at = (panel * step + slot) * pixels * simd.rows();
            // SAFETY: each panel and slot has this part to itself.
            let to = unsafe { to.slice(at, pixels * simd.rows()) };
            let first = panel * simd.rows();
            let rows = (mg - first).min(simd.rows());
            interleave(
                to,
                simd.rows(),
                &from[first * pixels..],
                pixels,
                rows,
                pixels,
            );
        }
    };
    let a_len = step * pixels * a_rows;
    let b_len = step * frame_len;
    let images = |chunk: usize| chunk * s.batch / chunks..(chunk + 1) * s.batch / chunks;
    let run = |shared: SharedMut| {
        if split_images {
            (0..chunks).into_par_iter().for_each(|chunk| {
                scratch(a_len + b_len + panel_len(simd), |buffer| {
                    let (panel, rest) = buffer.split_at_mut(panel_len(simd));
                    let (a, b) = rest.split_at_mut(a_len);
                    for group in 0..s.groups {
                        // SAFETY: every chunk and group has its own part of the partial sums.
                        let c = unsafe { shared.at(chunk * partial + group * mg * columns) };
                        let all = images(chunk);
                        for first in all.clone().step_by(step) {
                            let count = step.min(all.end - first);
                            for slot in 0..count {
                                fill_x(SharedMut::new(b), slot, first + slot, group);
                                fill_dy(SharedMut::new(a), slot, first + slot, group);
                            }
                            product(a, b, (0..panels).into(), c, panel, count, first > all.start);
                        }
                    }
                });
            });
        } else {
            // Large weights: images are prepared by all threads, then filters are shared out.
            scratch(a_len + b_len, |buffer| {
                let (a, b) = buffer.split_at_mut(a_len);
                for group in 0..s.groups {
                    for first in (0..s.batch).step_by(step) {
                        let count = step.min(s.batch - first);
                        let a_shared = SharedMut::new(a);
                        let b_shared = SharedMut::new(b);
                        (0..count).into_par_iter().for_each(|slot| {
                            fill_x(b_shared, slot, first + slot, group);
                            fill_dy(a_shared, slot, first + slot, group);
                        });
                        let parts = panels.min(2 * rayon::current_num_threads());
                        let (a, b) = (&*a, &*b);
                        (0..parts).into_par_iter().for_each(|index| {
                            scratch(panel_len(simd), |panel| {
                                // SAFETY: each part writes rows of its own.
                                let c = unsafe { shared.at(group * mg * columns) };
                                product(
                                    a,
                                    b,
                                    part(panels, parts, index),
                                    c,
                                    panel,
                                    count,
                                    first > 0,
                                );
                            });
                        });
                    }
                }
            });
        }
    };
    // SAFETY: each chunk has an image at least, and its first product writes all columns.
    let partials = unsafe { filled(chunks * partial, run) };
    let taps = kernel_h * kernel_w;
    if chunks == 1 && taps == 1 && columns == cg {
        return partials;
    }
    let gather = |filter: usize, to: &mut [f32]| {
        for tap in 0..taps {
            let from = filter * columns + tap / kernel_w * columns_row + tap % kernel_w * cg;
            for c in 0..cg {
                let parts = partials[from + c..].iter().step_by(partial).take(chunks);
                to[c * taps + tap] = parts.sum();
            }
        }
    };
    let k = cg * taps;
    let gather_all = |dw: SharedMut| {
        (0..s.filters)
            .into_par_iter()
            .with_min_len(4)
            .for_each(|filter| {
                // SAFETY: each filter has its own part; `gather` writes all of it.
                gather(filter, unsafe { dw.slice(filter * k, k) });
            });
    };
    // SAFETY: the filters are all of it.
    unsafe { filled(s.filters * k, gather_all) }
}

/// A padded scratch image of a group with its channels innermost: `[row][column][channel]`.
struct Rows {
    /// Floats in a row.
    row: usize,
    height: usize,
    /// Rows and columns from one output pixel to the next.
    step_y: usize,
    step_x: usize,
    /// Only every such row and column of the input is taken.
    take: [usize; 2],
}

impl Rows {
    fn new(s: &Shape) -> Self {
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

    fn len(&self, _: &Shape) -> usize {
        self.row * self.height + 16
    }

    fn fill(&self, s: &Shape, to: &mut [f32], from: &[f32]) {
        let cg = s.group_channels();
        let [height, width] = s.size;
        let plane = height * width;
        for r in 0..self.height {
            let row = &mut to[r * self.row..][..self.row];
            let y = (r * self.take[0]).wrapping_sub(s.pad[0]);
            if y >= height {
                row.fill(0.0);
                continue;
            }
            let left = s.pad[1] * cg;
            row[..left].fill(0.0);
            let count = width.div_ceil(self.take[1]);
            let count = count.min((self.row - left) / cg);
            let end = left + count * cg;
            row[end..].fill(0.0);
            let from = &from[y * width..];
            if self.take[1] == 1 {
                transpose(&mut row[left..end], cg, from, plane, count);
            } else {
                for c in 0..cg {
                    for x in 0..count {
                        row[left + x * cg + c] = from[c * plane + x * self.take[1]];
                    }
                }
            }
        }
    }
}

/// `to[x · channels + c] = from[c · stride + x]`
fn transpose(to: &mut [f32], channels: usize, from: &[f32], stride: usize, count: usize) {
    let whole = channels / 4 * 4;
    for c in (0..whole).step_by(4) {
        let rows: [&[f32]; 4] = core::array::from_fn(|i| &from[(c + i) * stride..][..count]);
        transpose4(&mut to[c..], channels, rows, count);
    }
    for c in whole..channels {
        let from = &from[c * stride..][..count];
        for (x, &value) in from.iter().enumerate() {
            to[x * channels + c] = value;
        }
    }
}

/// `to[k · mr + row] = from[row · stride + k]` for `rows ≤ mr` rows; the others become zero.
fn interleave(to: &mut [f32], mr: usize, from: &[f32], stride: usize, rows: usize, length: usize) {
    if rows < mr {
        to.fill(0.0);
    }
    let whole = rows / 4 * 4;
    for r in (0..whole).step_by(4) {
        let four: [&[f32]; 4] = core::array::from_fn(|i| &from[(r + i) * stride..][..length]);
        transpose4(&mut to[r..], mr, four, length);
    }
    for r in whole..rows {
        for (k, &value) in from[r * stride..][..length].iter().enumerate() {
            to[k * mr + r] = value;
        }
    }
}

/// `to[i] = from[2 · i]`
fn every_second(to: &mut [f32], from: &[f32]) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::*;
        while done + 4 <= to.len() && 2 * done + 8 <= from.len() {
            // SAFETY: SSE is part of every x86-64; the condition keeps both accesses inside.
            unsafe {
                let from = from.as_ptr().add(2 * done);
                let low = _mm_loadu_ps(from);
                let high = _mm_loadu_ps(from.add(4));
                let even = _mm_shuffle_ps::<0b10_00_10_00>(low, high);
                _mm_storeu_ps(to.as_mut_ptr().add(done), even);
            }
            done += 4;
        }
    }
    for (to, from) in to[done..]
        .iter_mut()
        .zip(from[2 * done..].iter().step_by(2))
    {
        *to = *from;
    }
}

/// `to[k · step + i] = rows[i][k]`
#[inline]
fn transpose4(to: &mut [f32], step: usize, rows: [&[f32]; 4], count: usize) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::*;
        assert!(rows.iter().all(|row| row.len() >= count));
        assert!(count == 0 || to.len() >= (count - 1) * step + 4);
        while done + 4 <= count {
            // SAFETY: SSE is part of every x86-64; the two assertions keep all accesses inside.
            unsafe {
                let mut a = _mm_loadu_ps(rows[0].as_ptr().add(done));
                let mut b = _mm_loadu_ps(rows[1].as_ptr().add(done));
                let mut c = _mm_loadu_ps(rows[2].as_ptr().add(done));
                let mut d = _mm_loadu_ps(rows[3].as_ptr().add(done));
                _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
                let to = to.as_mut_ptr().add(done * step);
                _mm_storeu_ps(to, a);
                _mm_storeu_ps(to.add(step), b);
                _mm_storeu_ps(to.add(2 * step), c);
                _mm_storeu_ps(to.add(3 * step), d);
            }
            done += 4;
        }
    }
    for k in done..count {
        for (i, row) in rows.iter().enumerate() {
            to[k * step + i] = row[k];
        }
    }
}

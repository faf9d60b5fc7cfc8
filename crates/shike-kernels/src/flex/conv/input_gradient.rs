//! The gradient for the input.

use rayon::prelude::*;

use super::class::{Class, Weights, panel_rows};
use super::frame::{Frame, fill_frame, frame_len};
use super::{Shape, depthwise, images_per_task, panel_len, panel_parts, part, winograd};
use crate::flex::bf16;
use crate::flex::buffer::{Target, filled, scratch};
use crate::flex::gemm::k_blocks;
use crate::flex::simd::Simd;

/// The gradient for `x`, given that of `y`.
pub fn input_gradient(simd: Simd, shape: &Shape, dy: &[f32], w: &[f32]) -> Vec<f32> {
    let (simd, s) = shape.on(simd);
    let s = &s;
    let [x_len, w_len, y_len] = s.lens();
    assert_eq!([dy.len(), w.len()], [y_len, w_len]);
    let out = s.out();
    if s.is_depthwise() {
        return depthwise::input_gradient(simd, s, dy, w);
    }
    if let Some(turned) = s.turned().filter(|turned| winograd::serves(simd, turned)) {
        return winograd::input_gradient(simd, &turned, dy, w);
    }
    // Filters in pairs, if the operands are.
    let pairs = simd.values() == 2;
    let filters = s.filters.div_ceil(simd.values());
    let (cg, mg) = (s.group_channels(), filters / s.groups);
    let paired = pairs.then(|| bf16::pair_filters(simd, w, w_len / s.filters));
    let w = paired.as_deref().unwrap_or(w);
    let (taps, plane_in) = (s.taps(), s.size[0] * s.size[1]);
    let axes = Axes::new(s);
    let frame = (!(taps == 1 && axes.length == out)).then(|| axes.frame());
    let framed = pairs || frame.is_some();
    let [_, width] = axes.length;
    let plane = axes.length[0] * width;
    let mr = panel_rows(simd, framed, cg, mg, s.size[1].div_ceil(s.stride[1]));
    let mut classes = Vec::new();
    for ay in &axes.classes[0] {
        for ax in &axes.classes[1] {
            let (ty, tx) = (ay.taps, ax.taps);
            let k = mg * ty * tx;
            let (tap_offsets, in_frame) = axes.taps(s, ay, ax);
            let weights = Weights::pack(
                simd,
                mr,
                s.groups,
                [cg, k],
                |to, group, first, rows, block| {
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
                },
            );
            let mut rows = Vec::with_capacity(k);
            for filter in 0..mg {
                rows.extend(in_frame.iter().map(|&tap| (filter * plane) as u32 + tap));
            }
            let class = Class::new(
                simd,
                weights,
                rows,
                axes.origin(ay, ax),
                [ay.count, ax.count],
                width,
                framed,
            );
            classes.push((ay, ax, class));
        }
    }
    let image_len = s.filters * out[0] * out[1];
    let pairs_len = if pairs { filters * out[0] * out[1] } else { 0 };
    let frame_len = frame_len(frame, pairs_len, filters, pairs);
    let per_task = images_per_task(s.batch, plane_in, frame_len);
    let chunks = s.batch.div_ceil(per_task);
    let panels = cg.div_ceil(mr);
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
    let run = |dx: Target<'_>, task: usize| {
        let first = task / parts * per_task;
        let images = per_task.min(s.batch - first);
        let range = part(panels, parts, task % parts);
        let channels = range.start * mr..cg.min(range.end * mr);
        let length = images * frame_len + panel_len(simd) + temporary + pairs_len;
        scratch(length, |buffer| {
            let (panel, rest) = buffer.split_at_mut(panel_len(simd));
            let (temporary, rest) = rest.split_at_mut(temporary);
            let (paired, frames) = rest.split_at_mut(pairs_len);
            let at = |i: usize| &dy[(first + i) * image_len..][..image_len];
            if framed {
                for (i, to) in frames.chunks_exact_mut(frame_len).take(images).enumerate() {
                    fill_frame(simd, frame, to, paired, at(i), s.filters, out);
                }
            }
            for group in 0..s.groups {
                for (ay, ax, class) in &classes {
                    let pixels = class.height * class.width;
                    let target = |i: usize| ((first + i) * s.channels + group * cg) * plane_in;
                    for block in k_blocks(simd, class.weights.k) {
                        for i in 0..images {
                            let source = match framed {
                                true => &frames[i * frame_len..],
                                false => at(i),
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
                                    None,
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
        filled(x_len, |dx| {
            (0..chunks * parts)
                .into_par_iter()
                .for_each(|task| run(dx, task));
        })
    }
}

/// The input's rows (or columns) of one class modulo the stride.
pub(super) struct AxisClass {
    /// The first tap that reaches them.
    class: usize,
    /// The first of them.
    first: usize,
    /// How many they are.
    pub count: usize,
    /// How many taps reach them.
    taps: usize,
    /// The output row that the first tap connects with the first of them.
    q: usize,
}

/// The input's pixels by rows and columns modulo the stride, and the output's gradient with zeros around it, so that
/// every tap of each is inside.
pub(super) struct Axes {
    pub classes: [Vec<AxisClass>; 2],
    /// Rows above and columns on the left of the gradient.
    before: [usize; 2],
    /// Rows and columns with those.
    length: [usize; 2],
}

impl Axes {
    /// The input pixel i of class c = (i + pad) mod stride gets tap c + stride · j from the output pixel q − j, where
    /// q = (i + pad − c) / stride.
    pub fn new(s: &Shape) -> Self {
        let classes: [Vec<AxisClass>; 2] = core::array::from_fn(|d| {
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
        let out = s.out();
        let before = core::array::from_fn(|d| {
            let before = classes[d].iter().map(|a| (a.taps).saturating_sub(a.q + 1));
            before.max().unwrap_or(0)
        });
        let length = core::array::from_fn(|d| {
            let end = classes[d].iter().map(|a| a.q + a.count).max();
            end.unwrap_or(0).max(out[d]) + before[d]
        });
        Self {
            classes,
            before,
            length,
        }
    }

    /// The gradient with zeros around it.
    pub fn frame(&self) -> Frame {
        Frame::new(self.before, self.length, [1, 1], [1, 1])
    }

    /// Where the pixels of a class begin in the frame: the offset of the tap that reaches furthest back.
    pub fn origin(&self, ay: &AxisClass, ax: &AxisClass) -> usize {
        let [y, x] = [(ay, 0), (ax, 1)].map(|(a, d)| a.q + self.before[d] + 1 - a.taps.max(1));
        y * self.length[1] + x
    }

    /// The taps of a class: their numbers in the kernel, and their offsets in the frame from the origin on.
    pub fn taps(&self, s: &Shape, ay: &AxisClass, ax: &AxisClass) -> (Vec<usize>, Vec<u32>) {
        let taps = (0..ay.taps).flat_map(|y| (0..ax.taps).map(move |x| (y, x)));
        let tap = |(y, x)| {
            let number = (ay.class + s.stride[0] * y) * s.kernel[1] + ax.class + s.stride[1] * x;
            let at = (ay.taps - 1 - y) * self.length[1] + ax.taps - 1 - x;
            (number, at as u32)
        };
        taps.map(tap).unzip()
    }
}

/// Writes a class of pixels to their places.
///
/// # Safety
/// `to` is a plane of the input that no one else writes the class's pixels of.
pub(super) unsafe fn spread(s: &Shape, ay: &AxisClass, ax: &AxisClass, from: &[f32], to: *mut f32) {
    for (y, from) in from.chunks_exact(ax.count).enumerate() {
        let row = (ay.first + y * s.stride[0]) * s.size[1] + ax.first;
        for (x, &value) in from.iter().enumerate() {
            // SAFETY: the class's pixels lie in the plane.
            unsafe { *to.add(row + x * s.stride[1]) = value };
        }
    }
}

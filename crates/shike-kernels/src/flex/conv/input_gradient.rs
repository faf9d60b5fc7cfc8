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
    if let Some(turned) = s.turned() {
        if s.is_depthwise() {
            let w: Vec<f32> = w
                .chunks_exact(s.taps())
                .flat_map(|w| w.iter().rev())
                .copied()
                .collect();
            return depthwise::forward(simd, &turned, dy, &w, None);
        }
        if winograd::serves(simd, &turned) {
            return winograd::input_gradient(simd, &turned, dy, w);
        }
    }
    // Filters in pairs, if the operands are.
    let pairs = simd.values() == 2;
    let filters = s.filters.div_ceil(simd.values());
    let (cg, mg) = (s.group_channels(), filters / s.groups);
    let paired = pairs.then(|| bf16::pair_filters(simd, w, w_len / s.filters));
    let w = paired.as_deref().unwrap_or(w);
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
    let frame = (!(taps == 1 && [height, width] == out))
        .then(|| Frame::new(top as isize, left as isize, height, width, [1, 1], [1, 1]));
    let framed = pairs || frame.is_some();
    let plane = height * width;
    let mr = panel_rows(simd, framed, cg, mg, s.size[1].div_ceil(s.stride[1]));
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

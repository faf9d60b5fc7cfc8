//! The convolution itself.

use rayon::prelude::*;

use super::class::{Class, Weights, panel_rows};
use super::frame::{Frame, fill_frame, frame_len};
use super::{Epilogue, Shape, depthwise, images_per_task, panel_len, panel_parts, part, winograd};
use crate::flex::bf16;
use crate::flex::buffer::{Target, filled, scratch};
use crate::flex::gemm::{By, k_blocks};
use crate::flex::shuffle::interleave;
use crate::flex::simd::Simd;

/// `y = x ⋆ w`, and what follows in the same pass: `x` `[batch, channels, height, width]`, `w`
/// `[filters, channels / groups, kernel]`.
pub fn forward(
    simd: Simd,
    shape: &Shape,
    x: &[f32],
    w: &[f32],
    epilogue: Option<Epilogue<'_>>,
) -> Vec<f32> {
    let (simd, s) = shape.on(simd);
    let s = &s;
    let [x_len, w_len, y_len] = s.lens();
    assert_eq!([x.len(), w.len()], [x_len, w_len]);
    if let Some(epilogue) = &epilogue {
        epilogue.check(s.filters, y_len);
    }
    if s.is_depthwise() {
        return depthwise::forward(simd, s, x, w, epilogue);
    }
    if winograd::serves(simd, s) {
        return winograd::forward(simd, s, x, w, epilogue);
    }
    let [out_h, out_w] = s.out();
    let pixels = out_h * out_w;
    // Channels in pairs, if the operands are.
    let pairs = simd.values() == 2;
    let channels = s.channels.div_ceil(simd.values());
    let (cg, mg) = (channels / s.groups, s.group_filters());
    let k = cg * s.taps();
    let paired = pairs.then(|| bf16::pair_channels(simd, w, s.channels, s.taps()));
    let w = paired.as_deref().unwrap_or(w);
    let [height, width] = s.size;
    let frame = (!(s.is_pointwise() && s.stride == [1, 1])).then(|| Frame::of(s));
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
    let framed = pairs || frame.is_some();
    let mr = panel_rows(simd, framed, mg, cg, out_w);
    let weights = Weights::pack(
        simd,
        mr,
        s.groups,
        [mg, k],
        |to, group, first, rows, block| {
            let from = &w[(group * mg + first) * k + block.start..];
            interleave(to, mr, from, k, rows, block.len());
        },
    );
    let row_stride = frame.map_or(width, |frame| s.stride[0] * frame.row);
    let class = Class::new(simd, weights, rows, 0, [out_h, out_w], row_stride, framed);
    let image_len = s.channels * height * width;
    let pairs_len = if pairs { channels * height * width } else { 0 };
    let frame_len = frame_len(frame, pairs_len, channels, pairs);
    let per_task = images_per_task(s.batch, pixels, frame_len);
    let chunks = s.batch.div_ceil(per_task);
    let parts = panel_parts(class.weights.panels, chunks);
    let run = |y: Target<'_>, task: usize| {
        let first = task / parts * per_task;
        let images = per_task.min(s.batch - first);
        let panels = part(class.weights.panels, parts, task % parts);
        let length = images * frame_len + panel_len(simd) + pairs_len;
        scratch(length, |buffer| {
            let (panel, rest) = buffer.split_at_mut(panel_len(simd));
            let (paired, frames) = rest.split_at_mut(pairs_len);
            let at = |i: usize| &x[(first + i) * image_len..][..image_len];
            if framed {
                for (i, to) in frames.chunks_exact_mut(frame_len).take(images).enumerate() {
                    fill_frame(simd, frame, to, paired, at(i), s.channels, s.size);
                }
            }
            for group in 0..s.groups {
                for block in k_blocks(simd, k) {
                    for i in 0..images {
                        let source = match framed {
                            true => &frames[i * frame_len..],
                            false => at(i),
                        };
                        let target = ((first + i) * s.filters + group * mg) * pixels;
                        let finish = epilogue.map(|e| e.at(By::Row, group * mg, target));
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
                                finish,
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
        filled(y_len, |y| {
            (0..chunks * parts)
                .into_par_iter()
                .for_each(|task| run(y, task));
        })
    }
}

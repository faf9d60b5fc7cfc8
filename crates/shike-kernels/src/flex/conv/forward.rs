//! The convolution itself.

use rayon::prelude::*;

use super::class::{Class, Weights, panel_rows};
use super::frame::Frame;
use super::{Epilogue, Shape, depthwise, images_per_task, panel_len, panel_parts, part};
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
    let s = shape;
    let [x_len, w_len, y_len] = s.lens();
    assert_eq!([x.len(), w.len()], [x_len, w_len]);
    if let Some(epilogue) = &epilogue {
        epilogue.check(s.filters, y_len);
    }
    if s.is_depthwise() {
        return depthwise::forward(simd, s, x, w, epilogue);
    }
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
    let mr = panel_rows(simd, frame.is_some(), mg, cg, out_w);
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
    let per_task = images_per_task(s.batch, pixels, frame_len);
    let chunks = s.batch.div_ceil(per_task);
    let parts = panel_parts(class.weights.panels, chunks);
    let run = |y: Target<'_>, task: usize| {
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
                for block in k_blocks(simd, k) {
                    for i in 0..images {
                        let source = match frame {
                            Some(_) => &frames[i * frame_len..],
                            None => at(i),
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

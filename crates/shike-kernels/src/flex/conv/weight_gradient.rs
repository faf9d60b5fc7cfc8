//! The gradient for the weights.

use rayon::prelude::*;

use super::frame::Rows;
use super::{PACK_FROM, Shape, depthwise, images_together, panel_len, part, winograd};
use crate::flex::bf16;
use crate::flex::buffer::{SharedMut, Target, filled, scratch, zeroed};
use crate::flex::gemm::{Columns, Product, Range2, Source, TILE_VECTORS, k_blocks, multiply};
use crate::flex::shuffle::{interleave, strided};
use crate::flex::simd::Simd;

/// Floats of partial weight gradients that may be alive at once.
const PARTIALS: usize = 1 << 22;

/// Pixels of a step of the weight gradient: enough to hide the update of C.
const STEP: usize = 512;

/// The gradient for `w`, given that of `y`.
pub fn weight_gradient(simd: Simd, shape: &Shape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let (simd, s) = shape.on(simd);
    let s = &s;
    let [x_len, w_len, y_len] = s.lens();
    assert_eq!([x.len(), dy.len()], [x_len, y_len]);
    if s.is_depthwise() {
        return depthwise::weight_gradient(simd, s, x, dy);
    }
    if winograd::serves_weights(simd, s) {
        return winograd::weight_gradient(simd, s, x, dy);
    }
    let [out_h, out_w] = s.out();
    let area = out_h * out_w;
    // What k counts: pixels, or pairs of them in each row.
    let pairs = simd.values() == 2;
    let pixels = out_h * out_w.div_ceil(simd.values());
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
        false => frame.len(),
    };
    let image_len = s.channels * s.size[0] * s.size[1];
    let panels = mg.div_ceil(simd.rows());
    let a_rows = panels * simd.rows();
    let step = images_together(STEP, pixels, frame_len).min(s.batch.div_ceil(chunks));
    // Offsets of all pixels of a step's images.
    let mut offsets = Vec::with_capacity(step * pixels);
    for i in 0..step {
        for y in 0..out_h {
            for x in (0..out_w).step_by(simd.values()) {
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
        for block in k_blocks(simd, total) {
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
                            finish: None,
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
                finish: None,
            };
            // SAFETY: the tables were made for these frames; C is the caller's own.
            unsafe { multiply(simd, &product) }
        }
    };
    let plane = s.size[0] * s.size[1];
    let fill_x = |to: SharedMut<'_>, slot: usize, image: usize, group: usize| {
        let from = &x[image * image_len + group * cg * plane..];
        if !pointwise {
            // SAFETY: each slot has this part to itself.
            let to = unsafe { to.slice(slot * frame_len, frame_len) };
            frame.fill(simd, s, to, from);
            return;
        }
        for first in (0..columns).step_by(wide) {
            let width = wide.min(columns - first);
            let at = first * step * pixels + slot * pixels * width;
            // SAFETY: each panel and slot has this part to itself.
            let to = unsafe { to.slice(at, pixels * width) };
            let rows = width.min(cg - first);
            let from = &from[first * plane..];
            let pack = |to: &mut [f32], from: &[f32], stride: usize| match pairs {
                true => bf16::interleave(simd, to, width, from, stride, rows, [out_h, out_w]),
                false => interleave(to, width, from, stride, rows, pixels),
            };
            if s.stride == [1, 1] {
                pack(to, from, plane);
                continue;
            }
            scratch(rows * area, |taken| {
                for (to, from) in taken.chunks_exact_mut(area).zip(from.chunks(plane)) {
                    let lines = from.chunks(s.stride[0] * s.size[1]);
                    for (to, from) in to.chunks_exact_mut(out_w).zip(lines) {
                        strided(to, from, s.stride[1]);
                    }
                }
                pack(to, taken, area);
            });
        }
    };
    let fill_dy = |to: SharedMut<'_>, slot: usize, image: usize, group: usize| {
        let from = &dy[(image * s.filters + group * mg) * area..][..mg * area];
        for panel in 0..panels {
            let at = (panel * step + slot) * pixels * simd.rows();
            // SAFETY: each panel and slot has this part to itself.
            let to = unsafe { to.slice(at, pixels * simd.rows()) };
            let first = panel * simd.rows();
            let rows = (mg - first).min(simd.rows());
            let from = &from[first * area..];
            match pairs {
                true => bf16::interleave(simd, to, simd.rows(), from, area, rows, [out_h, out_w]),
                false => interleave(to, simd.rows(), from, pixels, rows, pixels),
            }
        }
    };
    let a_len = step * pixels * a_rows;
    let b_len = step * frame_len;
    let images = |chunk: usize| chunk * s.batch / chunks..(chunk + 1) * s.batch / chunks;
    let run = |shared: Target<'_>| {
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
    let mut partials = unsafe { filled(chunks * partial, run) };
    let taps = kernel_h * kernel_w;
    if chunks == 1 && taps == 1 && columns == cg {
        return partials;
    }
    let (sums, others) = partials.split_at_mut(partial);
    let parts = sums.par_chunks_mut(4096).enumerate();
    parts.for_each(|(i, sums)| {
        for other in others.chunks_exact(partial) {
            let other = &other[4096 * i..][..sums.len()];
            sums.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
        }
    });
    let sums = &*sums;
    let gather = |filter: usize, to: &mut [f32]| {
        for tap in 0..taps {
            let from = filter * columns + tap / kernel_w * columns_row + tap % kernel_w * cg;
            for (c, sum) in sums[from..][..cg].iter().enumerate() {
                to[c * taps + tap] = *sum;
            }
        }
    };
    let mut dw = zeroed(w_len);
    let filters = dw.par_chunks_exact_mut(cg * taps).enumerate();
    filters
        .with_min_len(4)
        .for_each(|(filter, to)| gather(filter, to));
    dw
}

//! The product of rows with a matrix, and what follows it.

use rayon::prelude::*;

use super::bf16;
use super::buffer::{SharedMut, Target, filled, scratch, zeroed};
use super::gemm::{By, Epilogue, Panels, Product, k_blocks, longest_block, multiply, pack_a};
use super::math::gelu_run;
use super::simd::Simd;

/// Rows that a task takes, at most: with a block of k they stay in a second-level cache.
const ROWS: usize = 96;

/// `[gelu](x · w …)`: `x` `[rows, inputs]`, `w` `[inputs, outputs]`.
///
/// # Panics
/// If lengths do not fit each other.
pub(crate) fn forward(
    simd: Simd,
    [rows, inputs, outputs]: [usize; 3],
    x: &[f32],
    w: &[f32],
    epilogue: Epilogue<'_>,
    gelu: bool,
) -> Vec<f32> {
    assert!(inputs > 0 && outputs > 0);
    assert_eq!([x.len(), w.len()], [rows * inputs, inputs * outputs]);
    epilogue.check(outputs, rows * outputs);
    // Neighbours along k in pairs, if the operands are.
    let pairs = simd.values() == 2;
    let depth = inputs.div_ceil(simd.values());
    let panels = Panels::new(simd, depth, outputs);
    let mut packed = zeroed(panels.len());
    let shared = SharedMut::new(&mut packed);
    (0..panels.count()).into_par_iter().for_each(|panel| {
        // SAFETY: each panel is filled once.
        unsafe {
            match pairs {
                true => panels.pack_row_pairs(shared, panel, w, outputs),
                false => panels.pack_rows(shared, panel, w, outputs),
            }
        }
    });
    let k: Vec<u32> = vec![0; depth];
    let mr = simd.rows();
    let fair = rows.div_ceil(2 * rayon::current_num_threads());
    let per_task = fair.clamp(1, ROWS).next_multiple_of(mr);
    let run = |y: Target<'_>, task: usize| {
        let first = task * per_task;
        let count = per_task.min(rows - first);
        let room = per_task * longest_block(simd, depth);
        let pairs_len = if pairs { per_task * depth } else { 0 };
        scratch(room + pairs_len, |buffer| {
            let (a, paired) = buffer.split_at_mut(room);
            let mut x = &x[first * inputs..][..count * inputs];
            if pairs {
                for (to, from) in paired.chunks_exact_mut(depth).zip(x.chunks_exact(inputs)) {
                    bf16::pair_neighbours(simd, to, from);
                }
                x = paired;
            }
            for block in k_blocks(simd, depth) {
                pack_a(a, mr, x, depth, count, &block);
                let (b, source) = panels.source(&packed, &block);
                let complete = block.end == depth;
                let at = first * outputs;
                // SAFETY: A was filled for these rows, B for this block; this task alone writes these rows
                // of the output, and reads them after it wrote them.
                unsafe {
                    multiply(
                        simd,
                        &Product {
                            a: a.as_ptr(),
                            a_stride: mr * block.len(),
                            panels: (0..count.div_ceil(mr)).into(),
                            m: count,
                            b,
                            rows: &k[block.clone()],
                            source,
                            c: y.at(at),
                            c_stride: outputs,
                            add: block.start > 0,
                            panel: core::ptr::null_mut(),
                            finish: complete.then(|| epilogue.at(By::Column, 0, at)),
                        },
                    );
                    if complete && gelu {
                        gelu_run(simd, y.at(at), y.at(at), count * outputs);
                    }
                }
            }
        });
    };
    // SAFETY: the tasks write every row.
    unsafe {
        filled(rows * outputs, |y| {
            let tasks = rows.div_ceil(per_task);
            (0..tasks).into_par_iter().for_each(|task| run(y, task));
        })
    }
}

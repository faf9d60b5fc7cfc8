//! Attention: a block of queries against all keys at a time, so that no more of the scores exists than that.

use core::ops::Range;

use rayon::prelude::*;

use super::buffer::{SharedMut, Target, filled, scratch};
use super::gemm::{By, Finish, Panels, Product, k_blocks, longest_block, multiply, pack_a};
use super::math::softmax;
use super::norm::Affine;
use super::simd::Simd;

/// Queries of a block.
const QUERIES: usize = 64;

/// Everything about attention but its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    /// Values of a head.
    pub width: usize,
}

/// `softmax(q · kᵀ / √width) · v` for each head: `qkv` is `[batch, tokens, 3, heads, width]`, the result
/// `[batch, tokens, heads, width]`.
///
/// # Panics
/// If `qkv` has another length, or there is nothing in it.
pub(crate) fn forward(simd: Simd, s: Shape, qkv: &[f32]) -> Vec<f32> {
    let simd = simd.in_f32();
    let all = s.heads * s.width;
    assert_eq!(qkv.len(), s.batch * s.tokens * 3 * all);
    assert!(s.tokens > 0 && s.width > 0);
    let mr = simd.rows();
    let keys = Panels::new(simd, s.width, s.tokens);
    let values = Panels::new(simd, s.tokens, s.width);
    let offsets = vec![0u32; s.width.max(s.tokens)];
    let queries = QUERIES.min(s.tokens.next_multiple_of(mr));
    // The panels of a block of queries, and later of its scores.
    let rows = queries * s.width.max(longest_block(simd, s.tokens));
    let room = [keys.len(), values.len(), rows, queries * keys.width()];
    let run = |y: Target<'_>, task: usize| {
        let (image, head) = (task / s.heads, task % s.heads);
        let part = |i: usize| &qkv[image * s.tokens * 3 * all + i * all + head * s.width..];
        let [q, k, v] = [part(0), part(1), part(2)];
        scratch(room.iter().sum(), |buffer| {
            let (packed_keys, rest) = buffer.split_at_mut(room[0]);
            let (packed_values, rest) = rest.split_at_mut(room[1]);
            let (rows, scores) = rest.split_at_mut(room[2]);
            // SAFETY: the buffers are this task's alone.
            unsafe {
                for panel in 0..keys.count() {
                    keys.pack_columns(SharedMut::new(packed_keys), panel, k, 3 * all);
                }
                for panel in 0..values.count() {
                    values.pack_rows(SharedMut::new(packed_values), panel, v, 3 * all);
                }
            }
            let mut affine = Affine {
                mean: vec![0.0; queries],
                scale: vec![0.0; queries],
                shift: vec![0.0; queries],
            };
            let scale = 1.0 / (s.width as f32).sqrt();
            for first in (0..s.tokens).step_by(queries) {
                let count = queries.min(s.tokens - first);
                // SAFETY: A and B are filled for every block before it is used; the scores have room for the
                // whole block, and the output for this head of these queries, which this task alone writes.
                unsafe {
                    let product =
                        |a: &[f32], (b, source), block: &Range<usize>, c, c_stride, finish| {
                            multiply(
                                simd,
                                &Product {
                                    a: a.as_ptr(),
                                    a_stride: mr * block.len(),
                                    panels: (0..count.div_ceil(mr)).into(),
                                    m: count,
                                    b,
                                    rows: &offsets[block.clone()],
                                    source,
                                    c,
                                    c_stride,
                                    add: block.start > 0,
                                    panel: core::ptr::null_mut(),
                                    finish,
                                },
                            );
                        };
                    for block in k_blocks(simd, s.width) {
                        pack_a(rows, mr, &q[first * 3 * all..], 3 * all, count, &block);
                        let b = keys.source(packed_keys, &block);
                        product(rows, b, &block, scores.as_mut_ptr(), keys.width(), None);
                    }
                    softmax(
                        simd,
                        scores.as_mut_ptr(),
                        count,
                        s.tokens,
                        keys.width(),
                        scale,
                        &mut affine.scale,
                    );
                    for block in k_blocks(simd, s.tokens) {
                        pack_a(rows, mr, scores, keys.width(), count, &block);
                        let finish = (block.end == s.tokens).then_some(Finish {
                            affine: &affine,
                            by: By::Row,
                            first: 0,
                            residual: None,
                            relu: None,
                        });
                        let b = values.source(packed_values, &block);
                        let c = y.at((image * s.tokens + first) * all + head * s.width);
                        product(rows, b, &block, c, all, finish);
                    }
                }
            }
        });
    };
    // SAFETY: the tasks write every head of every token.
    unsafe {
        filled(s.batch * s.tokens * all, |y| {
            let tasks = s.batch * s.heads;
            (0..tasks).into_par_iter().for_each(|task| run(y, task));
        })
    }
}

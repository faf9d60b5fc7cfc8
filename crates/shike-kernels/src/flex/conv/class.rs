//! A correlation's weights, packed, and the grid of pixels that they are applied to.

use core::ops::Range;

use rayon::prelude::*;

use super::PACK_FROM;
use crate::flex::buffer::{SharedMut, zeroed};
use crate::flex::gemm::{Columns, Finish, Product, Range2, Source, k_blocks, multiply};
use crate::flex::simd::Simd;

/// A's panels for all blocks of k: `[group][block][panel][k][MR]`.
pub(super) struct Weights {
    data: Vec<f32>,
    m: usize,
    pub panels: usize,
    rows: usize,
    pub k: usize,
}

impl Weights {
    /// `fill(to, group, first row, rows, k)` writes a panel of a block of k; see [`interleave`](crate::flex::shuffle::interleave).
    pub fn pack(
        simd: Simd,
        groups: usize,
        m: usize,
        k: usize,
        fill: impl Fn(&mut [f32], usize, usize, usize, Range<usize>) + Sync,
    ) -> Self {
        let rows = simd.rows();
        let panels = m.div_ceil(rows);
        let mut data = zeroed(groups * panels * rows * k);
        let shared = SharedMut::new(&mut data);
        (0..groups * panels).into_par_iter().for_each(|task| {
            let (group, panel) = (task / panels, task % panels);
            let first = panel * rows;
            for block in k_blocks(k).filter(|block| !block.is_empty()) {
                let at = (group * panels * k + panels * block.start + panel * block.len()) * rows;
                // SAFETY: each (group, panel, block) has this part to itself.
                let to = unsafe { shared.slice(at, rows * block.len()) };
                fill(to, group, first, rows.min(m - first), block);
            }
        });
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
pub(super) struct Class {
    pub weights: Weights,
    /// Offset of each k in a group's part of the frame.
    rows: Vec<u32>,
    /// Where the grid begins in the frame.
    origin: usize,
    pub height: usize,
    pub width: usize,
    row_stride: usize,
    columns: Option<Vec<Columns>>,
}

impl Class {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
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
    pub unsafe fn block(
        &self,
        simd: Simd,
        group: usize,
        k: &Range<usize>,
        panels: Range2,
        image: *const f32,
        c: *mut f32,
        panel: &mut [f32],
        finish: Option<Finish<'_>>,
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
            finish: finish.filter(|_| k.end == self.weights.k),
        };
        // SAFETY: the caller's promise, and tables were made for this frame.
        unsafe { multiply(simd, &product) }
    }
}

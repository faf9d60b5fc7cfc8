//! A correlation's weights, packed, and the grid of pixels that they are applied to.

use core::ops::Range;

use rayon::prelude::*;

use super::PACK_FROM;
use crate::flex::buffer::{SharedMut, zeroed};
use crate::flex::gemm::{
    Columns, Finish, Product, Range2, Source, TURNED, TURNED_COLUMNS, k_blocks, multiply,
};
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
    /// Panels of so many `rows`; `fill(to, group, first row, rows, k)` writes a panel of a block of k; see [`interleave`](crate::flex::shuffle::interleave).
    pub fn pack(
        simd: Simd,
        rows: usize,
        groups: usize,
        [m, k]: [usize; 2],
        fill: impl Fn(&mut [f32], usize, usize, usize, Range<usize>) + Sync,
    ) -> Self {
        let panels = m.div_ceil(rows);
        let mut data = zeroed(groups * panels * rows * k);
        let shared = SharedMut::new(&mut data);
        (0..groups * panels).into_par_iter().for_each(|task| {
            let (group, panel) = (task / panels, task % panels);
            let first = panel * rows;
            for block in k_blocks(simd, k).filter(|block| !block.is_empty()) {
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

    /// Whether filters lie in the lanes; see [`panel_rows`].
    fn are_turned(&self, simd: Simd) -> bool {
        self.rows > simd.rows()
    }

    fn block(&self, group: usize, block: &Range<usize>) -> (*const f32, usize) {
        let at = (group * self.k + block.start) * self.panels * self.rows;
        (self.data[at..].as_ptr(), self.rows * block.len())
    }
}

/// Rows of a panel of A for a correlation of `m` filters with `depth` channels. In a frame, with wide vectors, enough
/// filters to fill them and enough channels to hide the turning of the sums, filters lie in the lanes
/// ([`Source::Turned`]).
pub(super) fn panel_rows(simd: Simd, framed: bool, m: usize, depth: usize, width: usize) -> usize {
    let whole = TURNED * simd.lanes();
    let fills = m.is_multiple_of(whole) || m > 3 * whole;
    let turned = simd.lanes() == 16 && fills && depth >= 32 && !is_direct(simd, m, width);
    match framed && turned {
        true => whole,
        false => simd.rows(),
    }
}

/// Whether vectors straight from a frame pay: few rows of A share a panel of B, and vectors are full.
fn is_direct(simd: Simd, m: usize, width: usize) -> bool {
    let vectors = width.div_ceil(simd.lanes());
    m < PACK_FROM && 4 * width >= 3 * vectors * simd.lanes()
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
        let direct = framed && is_direct(simd, weights.m, width);
        let turned = weights.are_turned(simd);
        // Rows of a map in tiles of equal width.
        let in_tile = width.div_ceil(width.div_ceil(TURNED_COLUMNS));
        let lanes = if turned { in_tile } else { lanes };
        let columns = (direct || turned).then(|| grid_columns(lanes, height, width, row_stride));
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
                Some(columns) if self.weights.are_turned(simd) => Source::Turned(columns),
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

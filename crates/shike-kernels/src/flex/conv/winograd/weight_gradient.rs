//! The weight gradient. Channels lie in the lanes, and tiles are summed over.

use core::ops::Range;

use rayon::prelude::*;

use super::{APART, PLACES, differences};
use crate::flex::buffer::{Target, scratch, zeroed};
use crate::flex::conv::{PACK_FROM, Shape, panel_len, panel_parts, part};
use crate::flex::gemm::{Columns, Product, Source, k_blocks, multiply, store};
use crate::flex::shuffle::{interleave, transpose};
use crate::flex::simd::{Simd, Vector, simd_entry};

/// Tiles of a step, about: enough to hide the update of the sums.
const STEP: usize = 256;

/// Floats of a step's transformed images, about: they stay in a third-level cache.
const FLOATS: usize = 1 << 21;

/// Tiles that a task transforms.
const TASK: usize = 64;

/// As `weight_gradient`.
pub(in super::super) fn weight_gradient(simd: Simd, s: &Shape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let [down, across] = super::tiles(s);
    let tiles = down * across;
    let (mr, lanes) = (simd.rows(), simd.lanes());
    let panels = s.filters.div_ceil(mr);
    let (panel_filters, channels) = (panels * mr, s.channels.next_multiple_of(lanes));
    let most = FLOATS / (PLACES * (panel_filters + channels) * tiles);
    let step = STEP.div_ceil(tiles).min(most).clamp(1, s.batch);
    let together = step * tiles;
    let job = Job {
        simd,
        shape: s,
        across,
        panel_filters,
        vector_channels: channels,
        together,
    };
    let band = TASK.div_ceil(across).min(down);
    let bands = down.div_ceil(band);
    let columns: Vec<Columns> = (0..s.channels)
        .step_by(lanes)
        .map(|at| Columns {
            source: at,
            target: at,
            lanes: lanes.min(s.channels - at),
        })
        .collect();
    let rows: Vec<u32> = (0..together).map(|t| (t * channels) as u32).collect();
    let source = match s.filters < PACK_FROM {
        true => Source::Direct(&columns),
        false => Source::Packed(&columns),
    };
    let [of_dy, of_x, of_sums] = [
        job.of_filters(),
        job.of_channels(),
        s.filters * channels + APART,
    ];
    let mut dw = zeroed(s.filters * s.channels * 9);
    scratch(PLACES * (of_dy + of_x + of_sums), |buffer| {
        let (a, rest) = buffer.split_at_mut(PLACES * of_dy);
        let (b, sums) = rest.split_at_mut(PLACES * of_x);
        for first in (0..s.batch).step_by(step) {
            let images = step.min(s.batch - first);
            let [to_a, to_b] = [&mut *a, &mut *b].map(Target::new);
            (0..images * bands).into_par_iter().for_each(|task| {
                let (slot, from) = (task / bands, task % bands * band);
                let rows = from..down.min(from + band);
                // SAFETY: the tiles of these rows of the image are this task's.
                unsafe {
                    job.spread_dy(dy, first + slot, slot * tiles, rows.clone(), to_a);
                    job.spread_x(x, first + slot, slot * tiles, rows, to_b);
                }
            });
            let (a, b) = (&*a, &*b);
            let to = Target::new(sums);
            let parts = panel_parts(panels, PLACES);
            (0..PLACES * parts).into_par_iter().for_each(|task| {
                let (place, panels) = (task / parts, part(panels, parts, task % parts));
                scratch(panel_len(simd), |panel| {
                    for block in k_blocks(simd, images * tiles) {
                        let product = Product {
                            a: a[place * of_dy + block.start * mr..].as_ptr(),
                            a_stride: together * mr,
                            panels,
                            m: s.filters,
                            b: b[place * of_x..].as_ptr(),
                            rows: &rows[block.clone()],
                            source,
                            // SAFETY: the place lies inside.
                            c: unsafe { to.at(place * of_sums) },
                            c_stride: channels,
                            add: first > 0 || block.start > 0,
                            panel: panel.as_mut_ptr(),
                            finish: None,
                        };
                        // SAFETY: tiles of the step's images were written; each task has its panels' rows of the place to
                        // itself.
                        unsafe { multiply(simd, &product) };
                    }
                });
            });
        }
        let sums = &*sums;
        let filters = dw.par_chunks_exact_mut(9 * s.channels).enumerate();
        filters.with_min_len(4).for_each(|(filter, to)| {
            let place = |place: usize| &sums[place * of_sums + filter * channels..][..s.channels];
            scratch(9 * s.channels, |taps| {
                untransformed(core::array::from_fn(place), taps);
                transpose(to, 9, taps, s.channels, 9, s.channels);
            });
        });
    });
    dw
}

/// What the tasks of a step have in common.
struct Job<'a> {
    simd: Simd,
    shape: &'a Shape,
    /// Tiles in a row of an image.
    across: usize,
    /// Filters and channels, with those that fill panels and vectors.
    panel_filters: usize,
    vector_channels: usize,
    /// Tiles of a step.
    together: usize,
}

impl Job<'_> {
    /// Floats of a place of the output's gradient, `[panel][tile][MR]`.
    fn of_filters(&self) -> usize {
        self.together * self.panel_filters + APART
    }

    /// Floats of a place of the input, `[tile][channel]`.
    fn of_channels(&self) -> usize {
        self.together * self.vector_channels + APART
    }

    /// Transforms some rows of tiles of an image of the output's gradient, whose first tile is `first` in the step.
    ///
    /// # Safety
    /// No one else uses these tiles of `to`, which has room for all places.
    unsafe fn spread_dy(
        &self,
        dy: &[f32],
        image: usize,
        first: usize,
        rows: Range<usize>,
        to: Target<'_>,
    ) {
        let s = self.shape;
        let [height, width] = s.out();
        let mr = self.simd.rows();
        // Two rows of pixels, `[row][column][MR]`, zeros where tiles are larger than the image, and what a vector reads
        // behind them.
        let row = 2 * self.across * mr;
        scratch(2 * row + mr, |two| {
            for panel in 0..self.panel_filters / mr {
                let filter = panel * mr;
                let count = mr.min(s.filters - filter);
                let from = &dy[(image * s.filters + filter) * height * width..];
                for ty in rows.clone() {
                    for (i, to) in two.chunks_exact_mut(row).enumerate() {
                        let y = 2 * ty + i;
                        if y >= height {
                            to.fill(0.0);
                            continue;
                        }
                        let (to, margin) = to.split_at_mut(width * mr);
                        margin.fill(0.0);
                        let from = &from[y * width..];
                        interleave(to, mr, from, height * width, count, width);
                    }
                    let tile = panel * self.together + first + ty * self.across;
                    // SAFETY: two rows were filled; the rest is the caller's promise.
                    unsafe { spread_row(self.simd, self, two, tile, to) };
                }
            }
        });
    }

    /// Transforms some rows of tiles of an image of the input, whose first tile is `first` in the step.
    ///
    /// # Safety
    /// No one else uses these tiles of `to`, which has room for all places.
    unsafe fn spread_x(
        &self,
        x: &[f32],
        image: usize,
        first: usize,
        rows: Range<usize>,
        to: Target<'_>,
    ) {
        let s = self.shape;
        let [height, width] = s.size;
        let row = (2 * self.across + 2) * self.vector_channels;
        let from = &x[image * s.channels * height * width..];
        scratch((2 * rows.len() + 2) * row, |frame| {
            for (r, to) in frame.chunks_exact_mut(row).enumerate() {
                let y = (2 * rows.start + r).wrapping_sub(s.pad[0]);
                if y >= height {
                    to.fill(0.0);
                    continue;
                }
                let (left, rest) = to.split_at_mut(s.pad[1] * self.vector_channels);
                let (to, right) = rest.split_at_mut(width * self.vector_channels);
                left.fill(0.0);
                right.fill(0.0);
                let from = &from[y * width..];
                transpose(
                    to,
                    self.vector_channels,
                    from,
                    height * width,
                    s.channels,
                    width,
                );
            }
            let first = first + rows.start * self.across;
            // SAFETY: the frame has the rows of the tiles; the rest is the caller's promise.
            unsafe { spread(self.simd, self, rows.len(), frame, first, to) };
        });
    }
}

simd_entry! {
    /// Transforms so many rows of tiles, the first of which is `first`, of a frame `[row][column][channel]`.
    ///
    /// # Safety
    /// The frame has two rows and two columns more than the tiles; no one else uses these tiles of `to`.
    unsafe fn spread(job: &Job<'_>, rows: usize, frame: &[f32], first: usize, to: Target<'_>) = spread_with
}

#[inline(always)]
unsafe fn spread_with<V: Vector, const MR: usize>(
    job: &Job<'_>,
    rows: usize,
    frame: &[f32],
    first: usize,
    to: Target<'_>,
) {
    let row = (2 * job.across + 2) * job.vector_channels;
    assert!(frame.len() >= (2 * rows + 2) * row);
    // SAFETY: the frame is large enough; the rest is the caller's promise.
    unsafe {
        for c in (0..job.vector_channels).step_by(V::LANES) {
            for ty in 0..rows {
                let from = frame.as_ptr().add(2 * ty * row + c);
                let step = job.vector_channels;
                let mut left = [column::<V>(from, row), column::<V>(from.add(step), row)];
                for tx in 0..job.across {
                    let from = from.add((2 * tx + 2) * step);
                    let right = [column::<V>(from, row), column::<V>(from.add(step), row)];
                    let tile = first + ty * job.across + tx;
                    for i in 0..4 {
                        let four = [left[0][i], left[1][i], right[0][i], right[1][i]];
                        for (j, value) in differences(four).into_iter().enumerate() {
                            let at =
                                (4 * i + j) * job.of_channels() + tile * job.vector_channels + c;
                            value.store(to.at(at));
                        }
                    }
                    left = right;
                }
            }
        }
    }
}

simd_entry! {
    /// Transforms two rows of pixels of the output's gradient, `A d Aᵀ`, to a row of tiles from `first` on.
    ///
    /// # Safety
    /// A row of a panel can be read behind `two`; no one else uses these tiles of `to`.
    unsafe fn spread_row(job: &Job<'_>, two: &[f32], first: usize, to: Target<'_>) = spread_row_with
}

// A vector is two rows of a panel; the second is written over by the next.
#[inline(always)]
unsafe fn spread_row_with<V: Vector, const MR: usize>(
    job: &Job<'_>,
    two: &[f32],
    first: usize,
    to: Target<'_>,
) {
    const { assert!(V::LANES == 2 * MR) };
    assert!(two.len() >= (4 * job.across + 1) * MR);
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(0.0);
        for tx in 0..job.across {
            let top = two.as_ptr().add(2 * tx * MR);
            let bottom = top.add(2 * job.across * MR);
            let left = four(V::load(top), V::load(bottom), zero);
            let right = four(V::load(top.add(MR)), V::load(bottom.add(MR)), zero);
            for y in 0..4 {
                for (x, value) in four(left[y], right[y], zero).into_iter().enumerate() {
                    let to = to.at((4 * y + x) * job.of_filters() + (first + tx) * MR);
                    store(value, to, if tx + 1 < job.across { V::LANES } else { MR });
                }
            }
        }
    }
}

/// [`differences`] of four neighbours in a column.
///
/// # Safety
/// So many vectors can be read, `row` floats apart, and the processor has the instructions.
#[inline(always)]
unsafe fn column<V: Vector>(from: *const f32, row: usize) -> [V; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        differences([
            V::load(from),
            V::load(from.add(row)),
            V::load(from.add(2 * row)),
            V::load(from.add(3 * row)),
        ])
    }
}

/// `A d`
#[inline(always)]
fn four<V: Vector>(a: V, b: V, zero: V) -> [V; 4] {
    [a, a.add(b), a.sub(b), zero.sub(b)]
}

/// `Gᵀ u G` of the sums of all channels: `[tap][channel]`.
fn untransformed(places: [&[f32]; PLACES], taps: &mut [f32]) {
    let channels = places[0].len();
    let three = |a: f32, b: f32, c: f32, d: f32| {
        let (sum, difference) = (0.5 * (b + c), 0.5 * (b - c));
        [a + sum, difference, sum + d]
    };
    let mut taps = taps.chunks_exact_mut(channels);
    let taps: [_; 9] = core::array::from_fn(|_| taps.next().unwrap_or_default());
    for c in 0..channels {
        let u = |place: usize| places[place][c];
        let columns: [[f32; 3]; 4] =
            core::array::from_fn(|x| three(u(x), u(4 + x), u(8 + x), u(12 + x)));
        for y in 0..3 {
            let [p, q, r, s] = columns.map(|column| column[y]);
            for (x, value) in three(p, q, r, s).into_iter().enumerate() {
                taps[3 * y + x][c] = value;
            }
        }
    }
}

//! The output, and the input gradient, which is the output of another convolution. Tiles lie in the lanes.

use core::ops::Range;

use rayon::prelude::*;

use super::{APART, PLACES, differences, tiles};
use crate::flex::buffer::{Target, filled, scratch, zeroed};
use crate::flex::conv::frame::copy;
use crate::flex::conv::{Epilogue, Shape, panel_parts, part};
use crate::flex::gemm::{By, Columns, Product, Range2, Source, k_blocks, multiply, store};
use crate::flex::simd::{Simd, Vector, simd_entry};

/// Tiles that a task transforms at once, about: what the product of a place reads and writes stays in a second-level cache.
const TILES: usize = 112;

/// Channels whose rows are fetched before they are needed: bands of rows are too short for the processor to foresee the
/// next channel's.
const AHEAD: usize = 2;

/// Floats of a place of [`weights`].
fn place_of_weights(simd: Simd, m: usize, k: usize) -> usize {
    m.next_multiple_of(simd.rows()) * k + APART
}

/// Transformed weights of `m` filters and `k` channels in panels of A for each place: `[place][panel][k][MR]`.
/// `fill(to, first, rows)` writes those of a panel as they are, `[k][tap][MR]`.
pub(super) fn weights(
    simd: Simd,
    [m, k]: [usize; 2],
    fill: impl Fn(&mut [f32], usize, usize) + Sync,
) -> Vec<f32> {
    let mr = simd.rows();
    let panels = m.div_ceil(mr);
    let of_place = place_of_weights(simd, m, k);
    let mut data = zeroed(PLACES * of_place);
    let shared = Target::new(&mut data);
    (0..panels).into_par_iter().for_each(|panel| {
        let first = panel * mr;
        // Vectors read behind the last rows.
        scratch((k * 9 + 1) * mr, |taps| {
            fill(&mut taps[..k * 9 * mr], first, mr.min(m - first));
            // SAFETY: the taps of the panel were filled; each panel has its part of each place to itself.
            unsafe { transform(simd, taps, k, shared, panel * k * mr, of_place) };
        });
    });
    data
}

simd_entry! {
    /// Transforms a panel of weights, `G g Gᵀ`, for places that are so far `apart`.
    ///
    /// # Safety
    /// `taps` has `k` times nine rows and one behind them; `to` has room for all places, and no one else uses the panel, which
    /// begins at `first` in each.
    unsafe fn transform(taps: &[f32], k: usize, to: Target<'_>, first: usize, apart: usize) = transform_with
}

// A vector is two rows of a panel; the second is written over by the next.
#[inline(always)]
unsafe fn transform_with<V: Vector, const MR: usize>(
    taps: &[f32],
    k: usize,
    to: Target<'_>,
    first: usize,
    apart: usize,
) {
    const { assert!(V::LANES == 2 * MR) };
    // SAFETY: the caller's promise.
    unsafe {
        let (half, zero) = (V::splat(0.5), V::splat(0.0));
        for at in 0..k {
            let taps = taps[at * 9 * MR..].as_ptr();
            let mut columns = [[zero; 4]; 3];
            for (x, column) in columns.iter_mut().enumerate() {
                let taps = taps.add(x * MR);
                let [a, b, c] = [taps, taps.add(3 * MR), taps.add(6 * MR)];
                *column = four([V::load(a), V::load(b), V::load(c)], half, zero);
            }
            let lanes = if at + 1 < k { V::LANES } else { MR };
            for y in 0..4 {
                let [a, b, c] = columns;
                let row = four([a[y], b[y], c[y]], half, zero);
                for (x, value) in row.into_iter().enumerate() {
                    let to = to.at((4 * y + x) * apart + first + at * MR);
                    store(value, to, lanes);
                }
            }
        }
    }
}

/// `G g`
#[inline(always)]
fn four<V: Vector>([a, b, c]: [V; 3], half: V, zero: V) -> [V; 4] {
    let (even, odd) = (a.add(c).mul_add(half, zero), b.mul_add(half, zero));
    [a, even.add(odd), even.sub(odd), c]
}

/// What all tasks have in common.
struct Job<'a> {
    shape: &'a Shape,
    x: &'a [f32],
    weights: &'a [f32],
    epilogue: Option<Epilogue<'a>>,
    /// Offset of each channel in a place.
    rows: Vec<u32>,
    /// Tiles in a row of an image.
    across: usize,
    /// Floats from one channel, or filter, to the next.
    stride: usize,
    /// Floats from one place to the next, of pixels and of sums.
    places: [usize; 2],
}

/// Tiles of a task: some rows of them of some images.
struct Tiles {
    images: Range<usize>,
    rows: Range<usize>,
}

/// As `forward`, with [`weights`].
pub(super) fn correlate(
    simd: Simd,
    s: &Shape,
    x: &[f32],
    weights: &[f32],
    epilogue: Option<Epilogue<'_>>,
) -> Vec<f32> {
    let [height, width] = s.out();
    let [down, across] = tiles(s);
    let bands = (down * across).div_ceil(TILES);
    let band = down.div_ceil(bands);
    let bands = down.div_ceil(band);
    let fair = s.batch.div_ceil(4 * rayon::current_num_threads());
    let together = (TILES / (band * across)).clamp(1, fair);
    let tasks = s.batch.div_ceil(together) * bands;
    let panels = s.filters.div_ceil(simd.rows());
    let parts = panel_parts(panels, tasks);
    let stride = (together * band * across).next_multiple_of(16);
    let job = Job {
        shape: s,
        x,
        weights,
        epilogue,
        rows: (0..s.channels).map(|c| (c * stride) as u32).collect(),
        across,
        stride,
        places: [s.channels, s.filters].map(|rows| rows * stride + APART),
    };
    let run = |y: Target<'_>, index: usize| {
        let (task, panels) = (index / parts, part(panels, parts, index % parts));
        let (first, from) = (task / bands * together, task % bands * band);
        let tiles = Tiles {
            images: first..s.batch.min(first + together),
            rows: from..down.min(from + band),
        };
        // SAFETY: this task alone writes these filters of these rows.
        unsafe { job.run(simd, &tiles, panels, y) };
    };
    // SAFETY: the tasks write every row of every filter and image.
    unsafe {
        filled(s.batch * s.filters * height * width, |y| {
            (0..tasks * parts)
                .into_par_iter()
                .for_each(|index| run(y, index));
        })
    }
}

impl Job<'_> {
    /// Floats of each of the four parts of a plane: even rows, odd rows, and both again from the third column on. There,
    /// pixels of tiles lie side by side from row to row, followed by what vectors read behind the last.
    fn part(&self, tiles: &Tiles) -> usize {
        (tiles.rows.len() + 1) * 2 * self.across + 2 * 16
    }

    /// # Safety
    /// No one else may use these rows of the filters of these panels.
    unsafe fn run(&self, simd: Simd, tiles: &Tiles, panels: Range2, y: Target<'_>) {
        let s = self.shape;
        let mr = simd.rows();
        let lanes = simd.lanes();
        let count = tiles.images.len() * tiles.rows.len() * self.across;
        let columns: Vec<Columns> = (0..count)
            .step_by(lanes)
            .map(|at| Columns {
                source: at,
                target: at,
                lanes,
            })
            .collect();
        let plane = 4 * self.part(tiles);
        let (k, m) = (s.channels, s.filters);
        let lines = 2 * (2 * self.stride + 16);
        let [of_pixels, of_sums] = self.places;
        let length = plane + PLACES * (of_pixels + of_sums) + lines;
        scratch(length, |buffer| {
            let (plane, rest) = buffer.split_at_mut(plane);
            let (lines, rest) = rest.split_at_mut(lines);
            let (pixels, sums) = rest.split_at_mut(PLACES * of_pixels);
            // SAFETY: the buffers have room for the tiles of all places.
            unsafe { spread(simd, self, tiles, plane, pixels) };
            let of_weights = place_of_weights(simd, m, k);
            for place in 0..PLACES {
                for block in k_blocks(simd, k) {
                    let product = Product {
                        a: self.weights[place * of_weights + block.start * mr..].as_ptr(),
                        a_stride: k * mr,
                        panels,
                        m,
                        b: pixels[place * of_pixels..].as_ptr(),
                        rows: &self.rows[block.clone()],
                        source: Source::Direct(&columns),
                        c: sums[place * of_sums..].as_mut_ptr(),
                        c_stride: self.stride,
                        add: block.start > 0,
                        panel: core::ptr::null_mut(),
                        finish: None,
                    };
                    // SAFETY: A, the table and C were made for these sizes; vectors of tiles end with their channel's
                    // part, which is as long as whole vectors; C is this task's own.
                    unsafe { multiply(simd, &product) };
                }
            }
            let filters = panels.start * mr..m.min(panels.end * mr);
            // SAFETY: the products wrote these filters; the output is the caller's promise.
            unsafe { gather(simd, self, tiles, filters, sums, lines, y) };
        });
    }
}

simd_entry! {
    /// Transforms the pixels of tiles, `[place][channel][tile]`, image by image, row by row.
    ///
    /// # Safety
    /// `plane` has four of [`Job::part`], and `to` has room for all places.
    unsafe fn spread(job: &Job<'_>, tiles: &Tiles, plane: &mut [f32], to: &mut [f32]) = spread_with
}

#[inline(always)]
unsafe fn spread_with<V: Vector, const MR: usize>(
    job: &Job<'_>,
    tiles: &Tiles,
    plane: &mut [f32],
    to: &mut [f32],
) {
    let s = job.shape;
    let [height, width] = s.size;
    let across = job.across;
    let count = tiles.rows.len();
    let apart = job.part(tiles);
    // Tiles of several rows fill a vector.
    let together = (V::LANES / across).max(1);
    let of_image = count * across;
    // What lies outside the image stays zero.
    plane.fill(0.0);
    // SAFETY: rows and tiles lie in the buffers, as the caller promises; images are cut to their size.
    unsafe {
        for (slot, image) in tiles.images.clone().enumerate() {
            for channel in 0..s.channels {
                let from = &job.x[(image * s.channels + channel) * height * width..];
                let from = &from[..height * width];
                for r in 0..2 * count + 2 {
                    let y = (2 * tiles.rows.start + r).wrapping_sub(s.pad[0]);
                    if y >= height {
                        continue;
                    }
                    let from = from[y * width..][..width].as_ptr();
                    V::prefetch(from.wrapping_add(AHEAD * height * width));
                    let to = plane.as_mut_ptr().add(r % 2 * apart + r / 2 * 2 * across);
                    for (to, column) in [(to, 0), (to.add(2 * apart), 2)] {
                        // The first pixel, and zeros before it.
                        let first = column.max(s.pad[1]) - s.pad[1];
                        let zeros = s.pad[1].saturating_sub(column).min(2 * across);
                        let pixels = width.saturating_sub(first).min(2 * across - zeros);
                        // Zeros behind the last pixel fall on a margin, or on rows that are written later.
                        copy::<V>(to.add(zeros), from.wrapping_add(first), pixels, 1);
                    }
                }
                let to = to[channel * job.stride..].as_mut_ptr();
                let mut x = 0;
                while x < across {
                    // The last vector ends with the row. What a vector writes behind a shorter row, the next row or image
                    // writes over.
                    let first = x.min(across.saturating_sub(V::LANES));
                    let mut from = plane.as_ptr().add(2 * first);
                    let mut above = two::<V>(from, apart);
                    for ty in (0..count).step_by(together) {
                        if ty > 0 && together > 1 {
                            above = two::<V>(from, apart);
                        }
                        let below = two::<V>(from.add(2 * across), apart);
                        let at = slot * of_image + ty * across + first;
                        let lanes = V::LANES.min(job.stride - at);
                        for i in 0..4 {
                            let four = [above[0][i], above[1][i], below[0][i], below[1][i]];
                            for (j, value) in differences(four).into_iter().enumerate() {
                                let place = 4 * j + i;
                                let to = to.add(place * job.places[0] + at);
                                store(value, to, lanes);
                            }
                        }
                        from = from.wrapping_add(together * 2 * across);
                        above = below;
                    }
                    x += V::LANES;
                }
            }
        }
    }
}

/// [`differences`] of four neighbours in a row, for tiles one after another: of their first row and of their second.
///
/// # Safety
/// Two vectors can be read in each of four parts that are so far `apart`, and the processor has the instructions.
#[inline(always)]
unsafe fn two<V: Vector>(from: *const f32, apart: usize) -> [[V; 4]; 2] {
    // SAFETY: the caller's promise.
    unsafe { [horizontal(from, apart), horizontal(from.add(apart), apart)] }
}

/// # Safety
/// As for [`two`].
#[inline(always)]
unsafe fn horizontal<V: Vector>(from: *const f32, apart: usize) -> [V; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = V::load(from).unzip(V::load(from.add(V::LANES)));
        let from = from.add(2 * apart);
        let (c, d) = V::load(from).unzip(V::load(from.add(V::LANES)));
        differences([a, b, c, d])
    }
}

simd_entry! {
    /// Transforms sums back, and writes what becomes of them.
    ///
    /// # Safety
    /// `sums` are those of the tiles; `lines` has room for two rows of the outputs of all tiles, with 16 floats behind each; no
    /// one else uses these filters of their rows.
    unsafe fn gather(
        job: &Job<'_>,
        tiles: &Tiles,
        filters: Range<usize>,
        sums: &[f32],
        lines: &mut [f32],
        y: Target<'_>,
    ) = gather_with
}

#[inline(always)]
unsafe fn gather_with<V: Vector, const MR: usize>(
    job: &Job<'_>,
    tiles: &Tiles,
    filters: Range<usize>,
    sums: &[f32],
    lines: &mut [f32],
    y: Target<'_>,
) {
    let s = job.shape;
    let [height, width] = s.out();
    let count = tiles.images.len() * tiles.rows.len() * job.across;
    let half = lines.len() / 2;
    let finish = job.epilogue.map(|epilogue| epilogue.at(By::Row, 0, 0));
    // SAFETY: sums and lines have room for whole vectors; rows of the output are the caller's promise.
    unsafe {
        let lines = lines.as_mut_ptr();
        for filter in filters {
            let from = sums[filter * job.stride..].as_ptr();
            for tile in (0..count).step_by(V::LANES) {
                let from = from.add(tile);
                let mut columns = [[V::splat(0.0); 2]; 4];
                for (x, column) in columns.iter_mut().enumerate() {
                    let mut m = [V::splat(0.0); 4];
                    for (y, m) in m.iter_mut().enumerate() {
                        *m = V::load(from.add((4 * y + x) * job.places[1]));
                    }
                    *column = outputs(m);
                }
                for i in 0..2 {
                    let [a, b, c, d] = columns;
                    let [left, right] = outputs([a[i], b[i], c[i], d[i]]);
                    let (first, second) = left.zip(right);
                    let to = lines.add(i * half + 2 * tile);
                    first.store(to);
                    second.store(to.add(V::LANES));
                }
            }
            // A closure would not be inlined where the instructions are allowed.
            #[allow(clippy::manual_map)]
            let constants = match &finish {
                Some(finish) => Some(finish.constants::<V>(filter, None)),
                None => None,
            };
            let mut tile = 0;
            for image in tiles.images.clone() {
                for ty in tiles.rows.clone() {
                    for i in 0..2.min(height - 2 * ty) {
                        let from = lines.add(i * half + 2 * tile);
                        let at = ((image * s.filters + filter) * height + 2 * ty + i) * width;
                        for x in (0..width).step_by(V::LANES) {
                            let lanes = V::LANES.min(width - x);
                            let mut value = V::load(from.add(x));
                            if let (Some(finish), Some(constants)) = (&finish, constants) {
                                value = finish.apply(constants, value, at + x, lanes);
                            }
                            store(value, y.at(at + x), lanes);
                        }
                    }
                    tile += job.across;
                }
            }
        }
    }
}

/// `Aᵀ m`
#[inline(always)]
fn outputs<V: Vector>(m: [V; 4]) -> [V; 2] {
    [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3])]
}

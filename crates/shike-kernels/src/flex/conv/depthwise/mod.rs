//! The convolution of each channel by itself, and its gradients. A number that is not finite may reach all taps of its
//! channel's weight gradient.

mod weight_gradient;

use rayon::prelude::*;

use super::frame::Frame;
use super::input_gradient::{Axes, spread};
use super::{Epilogue, Shape};
use crate::flex::buffer::{filled, scratch};
use crate::flex::gemm::{By, Columns, Finish, store};
use crate::flex::simd::{Simd, Vector, simd_entry};

pub(super) use weight_gradient::weight_gradient;

/// Vectors of the output that are summed at once: enough to hide the latency of an addition.
const VECTORS: usize = 8;

/// Pixels for a task, about.
const TASK: usize = 1 << 15;

/// Floats of the frames that are filled before the first is read: they lie in the first-level cache, and no load has to
/// wait for a store.
const FILLED: usize = 1 << 12;

/// Runs `each(frame, plane)` for every plane, with its frame filled from `from`.
fn for_planes(
    simd: Simd,
    frame: &Frame,
    from: &[f32],
    size: [usize; 2],
    each: impl Fn(&[f32], usize) + Sync,
) {
    let pixels = size[0] * size[1];
    let planes = from.len() / pixels;
    let per_task = TASK.div_ceil(pixels);
    let frame_len = frame.len(1);
    let together = (FILLED / frame_len).clamp(1, per_task);
    (0..planes.div_ceil(per_task))
        .into_par_iter()
        .for_each(|i| {
            let planes = i * per_task..planes.min((i + 1) * per_task);
            scratch(together * frame_len, |frames| {
                for first in planes.clone().step_by(together) {
                    let planes = first..planes.end.min(first + together);
                    let rooms = frames.chunks_exact_mut(frame_len);
                    for (room, plane) in rooms.zip(planes.clone()) {
                        frame.fill(simd, room, &from[plane * pixels..], 1, size);
                    }
                    for (frame, plane) in frames.chunks_exact(frame_len).zip(planes) {
                        each(frame, plane);
                    }
                }
            });
        });
}

/// Pixels of a plane that take the same taps of a frame.
struct Grid {
    columns: Vec<Columns>,
    /// Offset of each tap.
    taps: Vec<u32>,
    pixels: usize,
}

impl Grid {
    /// Pixels from `origin` on, `row_stride` floats from one row to the next.
    fn new(
        lanes: usize,
        [height, width]: [usize; 2],
        origin: usize,
        row_stride: usize,
        taps: Vec<u32>,
    ) -> Self {
        let pixels = height * width;
        // What a vector writes behind its row, the next row writes over.
        let columns = (0..height).flat_map(|y| {
            (0..width).step_by(lanes).map(move |x| Columns {
                source: origin + y * row_stride + x,
                target: y * width + x,
                lanes: lanes.min(pixels - y * width - x),
            })
        });
        Self {
            columns: columns.collect(),
            taps,
            pixels,
        }
    }
}

/// As `forward` of the module above; lengths were checked there.
pub(super) fn forward(
    simd: Simd,
    s: &Shape,
    x: &[f32],
    w: &[f32],
    epilogue: Option<Epilogue<'_>>,
) -> Vec<f32> {
    let frame = Frame::of(s);
    let taps = (0..s.taps()).map(|tap| frame.tap(tap / s.kernel[1], tap % s.kernel[1]) as u32);
    let row_stride = s.stride[0] * frame.row;
    let grid = Grid::new(simd.lanes(), s.out(), 0, row_stride, taps.collect());
    // SAFETY: every plane is written, by one task each. The grid was made for the frame, which has a vector's room behind
    // it; `forward` checked the lengths of weights and residual.
    unsafe {
        filled(s.batch * s.channels * grid.pixels, |y| {
            for_planes(simd, &frame, x, s.size, |frame, plane| {
                let channel = plane % s.channels;
                let w = &w[channel * s.taps()..][..s.taps()];
                let at = plane * grid.pixels;
                let finish = epilogue.map(|epilogue| epilogue.at(By::Row, channel, at));
                correlate(simd, &grid, frame, w, finish, y.at(at));
            });
        })
    }
}

/// As `input_gradient` of the module above; lengths were checked there.
pub(super) fn input_gradient(simd: Simd, s: &Shape, dy: &[f32], w: &[f32]) -> Vec<f32> {
    let axes = Axes::new(s);
    let frame = axes.frame();
    let mut classes = Vec::new();
    for ay in &axes.classes[0] {
        for ax in &axes.classes[1] {
            let (numbers, taps) = axes.taps(s, ay, ax);
            let w = w.chunks_exact(s.taps());
            let w = w.flat_map(|w| numbers.iter().map(|&tap| w[tap]));
            let w: Vec<f32> = w.collect();
            let size = [ay.count, ax.count];
            let grid = Grid::new(simd.lanes(), size, axes.origin(ay, ax), frame.row, taps);
            classes.push((ay, ax, grid, w));
        }
    }
    let plane_in = s.size[0] * s.size[1];
    // SAFETY: every plane is written, of which the classes are all pixels, by one task each. The grids were made for the
    // frame, which has a vector's room behind it.
    unsafe {
        filled(s.batch * s.channels * plane_in, |dx| {
            for_planes(simd, &frame, dy, s.out(), |frame, plane| {
                let channel = plane % s.channels;
                let dx = dx.at(plane * plane_in);
                for (ay, ax, grid, w) in &classes {
                    let w = &w[channel * grid.taps.len()..][..grid.taps.len()];
                    if s.stride == [1, 1] {
                        correlate(simd, grid, frame, w, None, dx);
                        continue;
                    }
                    scratch(grid.pixels, |class| {
                        correlate(simd, grid, frame, w, None, class.as_mut_ptr());
                        spread(s, ay, ax, class, dx);
                    });
                }
            });
        })
    }
}

simd_entry! {
    /// The sums of a grid's pixels, and what becomes of them.
    ///
    /// # Safety
    /// The frame has the taps of every lane of the grid's columns, and there is a weight for each tap; the residual of
    /// `finish` has so many pixels as the grid, which can be written at `y`.
    unsafe fn correlate(grid: &Grid, frame: &[f32], w: &[f32], finish: Option<Finish<'_>>, y: *mut f32) = correlate_with
}

#[inline(always)]
unsafe fn correlate_with<V: Vector, const MR: usize>(
    grid: &Grid,
    frame: &[f32],
    w: &[f32],
    finish: Option<Finish<'_>>,
    y: *mut f32,
) {
    let (whole, rest) = grid.columns.as_chunks::<VECTORS>();
    // SAFETY: the caller's promise.
    unsafe {
        for columns in whole {
            strip::<V, VECTORS>(&grid.taps, columns, frame, w, &finish, y);
        }
        let (pairs, rest) = rest.as_chunks::<2>();
        for columns in pairs {
            strip::<V, 2>(&grid.taps, columns, frame, w, &finish, y);
        }
        for columns in rest.as_chunks::<1>().0 {
            strip::<V, 1>(&grid.taps, columns, frame, w, &finish, y);
        }
    }
}

/// # Safety
/// As for [`correlate`].
#[inline(always)]
unsafe fn strip<V: Vector, const N: usize>(
    taps: &[u32],
    columns: &[Columns; N],
    frame: &[f32],
    w: &[f32],
    finish: &Option<Finish<'_>>,
    y: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut from = [frame.as_ptr(); N];
        for v in 0..N {
            from[v] = frame.as_ptr().add(columns[v].source);
        }
        let mut sum = [[V::splat(0.0); N]];
        V::rounds::<1, N, false, false>(&mut sum, w.as_ptr(), from, taps);
        for v in 0..N {
            let Columns { target, lanes, .. } = columns[v];
            let mut value = sum[0][v];
            if let Some(finish) = finish {
                value = finish.apply(finish.constants(0, None), value, target, lanes);
            }
            store(value, y.add(target), lanes);
        }
    }
}

//! The convolution of each channel by itself.

use core::ops::Range;

use rayon::prelude::*;

use super::frame::Frame;
use super::{Epilogue, Shape};
use crate::flex::buffer::{Target, filled, scratch};
use crate::flex::gemm::{load, store};
use crate::flex::norm;
use crate::flex::simd::{Simd, Vector, simd_entry};

/// Vectors of a row of the output that are summed at once.
const VECTORS: usize = 4;

/// Pixels of the output for a task, about.
const TASK: usize = 1 << 15;

struct Depthwise<'a> {
    shape: Shape,
    frame: Frame,
    /// Offsets of the taps in the frame.
    taps: Vec<u32>,
    x: &'a [f32],
    w: &'a [f32],
    epilogue: Option<Epilogue<'a>>,
}

/// As `forward`; lengths were checked there.
pub(super) fn forward(
    simd: Simd,
    s: &Shape,
    x: &[f32],
    w: &[f32],
    epilogue: Option<Epilogue<'_>>,
) -> Vec<f32> {
    let frame = Frame::new(
        s.pad[0] as isize,
        s.pad[1] as isize,
        s.size[0] + s.pad[0] + s.pad_end[0],
        s.size[1] + s.pad[1] + s.pad_end[1],
        s.stride,
        s.kernel,
    );
    let [height, width] = s.out();
    let taps = (0..s.taps()).map(|tap| frame.tap(tap / s.kernel[1], tap % s.kernel[1]) as u32);
    let job = Depthwise {
        shape: *s,
        frame,
        taps: taps.collect(),
        x,
        w,
        epilogue,
    };
    let planes = s.batch * s.channels;
    let per_task = TASK.div_ceil(height * width);
    // SAFETY: the tasks write every plane.
    unsafe {
        filled(planes * height * width, |y| {
            (0..planes.div_ceil(per_task))
                .into_par_iter()
                .for_each(|i| {
                    let planes = i * per_task..planes.min((i + 1) * per_task);
                    scratch(frame.len(1), |room| run(simd, &job, planes, room, y));
                })
        })
    }
}

simd_entry! {
    /// # Safety
    /// No one else may use these planes of the output.
    unsafe fn run(
        job: &Depthwise<'_>,
        planes: Range<usize>,
        room: &mut [f32],
        y: Target<'_>,
    ) = run_with
}

#[inline(always)]
unsafe fn run_with<V: Vector, const MR: usize>(
    job: &Depthwise<'_>,
    planes: Range<usize>,
    room: &mut [f32],
    y: Target<'_>,
) {
    let s = &job.shape;
    let [height, width] = s.out();
    let (taps, plane_in) = (s.taps(), s.size[0] * s.size[1]);
    let ceiling = job.epilogue.and_then(|epilogue| epilogue.relu);
    for plane in planes {
        job.frame.fill(room, &job.x[plane * plane_in..], 1, s.size);
        let channel = plane % s.channels;
        let affine = job.epilogue.map(|epilogue| {
            let affine = epilogue.affine;
            [
                affine.mean[channel],
                affine.scale[channel],
                affine.shift[channel],
            ]
        });
        // SAFETY: the processor has the instructions; the output has this plane, whose rows are as long as
        // the strips together; the frame was filled, and has room behind it for a vector's last lanes.
        unsafe {
            let affine = affine.map(|[a, b, c]| [V::splat(a), V::splat(b), V::splat(c)]);
            let strip = Strip {
                taps: &job.taps,
                w: job.w[channel * taps..][..taps].as_ptr(),
                affine,
                ceiling: ceiling.map(|ceiling| V::splat(ceiling)),
            };
            for row in 0..height {
                let from = room.as_ptr().add(row * s.stride[0] * job.frame.row);
                let at = (plane * height + row) * width;
                let residual = job.epilogue.and_then(|epilogue| epilogue.residual);
                let residual = residual.map(|residual| residual[at..][..width].as_ptr());
                let mut x = 0;
                while x < width {
                    let left = width - x;
                    let from = from.add(x);
                    let to = y.at(at + x);
                    let residual = residual.map(|residual| residual.wrapping_add(x));
                    match left.div_ceil(V::LANES) {
                        1 => strip.sum::<1>(from, residual, to, left),
                        2 => strip.sum::<2>(from, residual, to, left),
                        3 => strip.sum::<3>(from, residual, to, left),
                        _ => strip.sum::<VECTORS>(from, residual, to, left),
                    }
                    x += VECTORS * V::LANES;
                }
            }
        }
    }
}

/// What the strips of a plane have in common.
struct Strip<'a, V> {
    taps: &'a [u32],
    /// A weight for each tap.
    w: *const f32,
    affine: Option<[V; 3]>,
    ceiling: Option<V>,
}

impl<V: Vector> Strip<'_, V> {
    /// `N` vectors of a row, or what is `left` of them.
    ///
    /// # Safety
    /// Every tap of every lane can be read from `from`, the residual where lanes are left, which can be
    /// written at `to`.
    #[inline(always)]
    unsafe fn sum<const N: usize>(
        &self,
        from: *const f32,
        residual: Option<*const f32>,
        to: *mut f32,
        left: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            // The last vector ends with the row, and takes some of the one before again.
            let mut starts = [0; N];
            for (v, start) in starts.iter_mut().enumerate() {
                *start = (v * V::LANES).min(left.saturating_sub(V::LANES));
            }
            let mut sources = [from; N];
            for v in 0..N {
                sources[v] = from.add(starts[v]);
            }
            let mut sum = [[V::splat(0.0); N]];
            V::rounds::<1, N, false, false>(&mut sum, self.w, sources, self.taps);
            let lanes = V::LANES.min(left);
            for v in 0..N {
                let mut value = sum[0][v];
                if let Some(affine) = self.affine {
                    let residual = residual.map(|residual| load(residual.add(starts[v]), lanes));
                    value = norm::finish(affine, value, residual, self.ceiling);
                }
                store(value, to.add(starts[v]), lanes);
            }
        }
    }
}

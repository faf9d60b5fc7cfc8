//! Operands of products in bfloat16: pairs that are neighbours along k, each in the place of a float.

use rayon::prelude::*;

use super::buffer::scratch;
use super::shuffle::transpose;
use super::simd::{Simd, Vector, simd_entry};

/// Rows that are transposed together.
const TOGETHER: usize = 8;

/// The bits of the nearest bfloat16, to even in the middle; NaN stays NaN.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    match value.is_nan() {
        true => bits >> 16 | 0x40,
        false => nearest,
    }
}

/// `to[i] = (low[i], high[i])`, with zeros where `high` has ended.
pub(super) fn pair(simd: Simd, to: &mut [f32], low: &[f32], high: &[f32]) {
    let low = &low[..to.len()];
    let (both, alone) = to.split_at_mut(high.len().min(to.len()));
    let (low, low_alone) = low.split_at(both.len());
    // SAFETY: they are slices of one length.
    unsafe { pair_both(simd, both, low, &high[..both.len()]) };
    for (to, low) in alone.iter_mut().zip(low_alone) {
        *to = f32::from_bits(rounded(*low));
    }
}

simd_entry! {
    /// # Safety
    /// None is asked for.
    unsafe fn pair_both(to: &mut [f32], low: &[f32], high: &[f32]) = pair_both_with
}

#[inline(always)]
unsafe fn pair_both_with<V: Vector, const MR: usize>(to: &mut [f32], low: &[f32], high: &[f32]) {
    for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
        *to = f32::from_bits(rounded(*low) | rounded(*high) << 16);
    }
}

/// Pairs of neighbours: `to[i] = (from[2 · i], from[2 · i + 1])`, with a zero behind an odd number.
pub(super) fn pair_neighbours(simd: Simd, to: &mut [f32], from: &[f32]) {
    assert_eq!(to.len(), from.len().div_ceil(2));
    let (pairs, rest) = from.as_chunks::<2>();
    // SAFETY: nothing is asked for.
    unsafe { pair_chunks(simd, &mut to[..pairs.len()], pairs) };
    if let [last] = rest {
        to[pairs.len()] = f32::from_bits(rounded(*last));
    }
}

simd_entry! {
    /// # Safety
    /// None is asked for.
    unsafe fn pair_chunks(to: &mut [f32], from: &[[f32; 2]]) = pair_chunks_with
}

#[inline(always)]
unsafe fn pair_chunks_with<V: Vector, const MR: usize>(to: &mut [f32], from: &[[f32; 2]]) {
    for (to, [low, high]) in to.iter_mut().zip(from) {
        *to = f32::from_bits(rounded(*low) | rounded(*high) << 16);
    }
}

/// Pairs of rows that are `length` long: `[rows / 2][length]`, the last with zeros if they are odd.
pub(super) fn pair_rows(simd: Simd, to: &mut [f32], from: &[f32], length: usize) {
    let pairs = from.chunks(2 * length);
    for (to, from) in to.chunks_exact_mut(length).zip(pairs) {
        let (low, high) = from.split_at(length);
        pair(simd, to, low, high);
    }
}

/// A convolution's weights `[filters, channels, taps]` in pairs of channels, `[filters, channels / 2, taps]`.
pub(super) fn pair_channels(simd: Simd, w: &[f32], channels: usize, taps: usize) -> Vec<f32> {
    let row = channels.div_ceil(2) * taps;
    let mut to = vec![0.0; w.len() / (channels * taps) * row];
    let filters = to
        .par_chunks_exact_mut(row)
        .zip(w.par_chunks_exact(channels * taps));
    filters.with_min_len(16).for_each(|(to, from)| match taps {
        1 => pair_neighbours(simd, to, from),
        _ => pair_rows(simd, to, from, taps),
    });
    to
}

/// A convolution's weights `[filters, row]` in pairs of filters, `[filters / 2, row]`.
pub(super) fn pair_filters(simd: Simd, w: &[f32], row: usize) -> Vec<f32> {
    let mut to = vec![0.0; (w.len() / row).div_ceil(2) * row];
    let filters = to.par_chunks_exact_mut(row).zip(w.par_chunks(2 * row));
    filters
        .with_min_len(16)
        .for_each(|(to, from)| pair_rows(simd, to, from, row));
    to
}

/// As [`shuffle::interleave`](super::shuffle::interleave) with `lines` that are `width` long in each row, in pairs of
/// neighbours in a line.
pub(super) fn interleave(
    simd: Simd,
    to: &mut [f32],
    mr: usize,
    from: &[f32],
    stride: usize,
    rows: usize,
    [lines, width]: [usize; 2],
) {
    if rows < mr {
        to.fill(0.0);
    }
    let half = width.div_ceil(2);
    let length = lines * half;
    scratch(TOGETHER * length, |paired| {
        for first in (0..rows).step_by(TOGETHER) {
            let count = TOGETHER.min(rows - first);
            for (r, to) in paired.chunks_exact_mut(length).take(count).enumerate() {
                let from = &from[(first + r) * stride..][..lines * width];
                // Lines of an even length are one.
                match width % 2 {
                    0 => pair_neighbours(simd, to, from),
                    _ => {
                        for (to, from) in to.chunks_exact_mut(half).zip(from.chunks_exact(width)) {
                            pair_neighbours(simd, to, from);
                        }
                    }
                }
            }
            transpose(&mut to[first..], mr, paired, length, count, length);
        }
    });
}

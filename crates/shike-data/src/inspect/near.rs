//! Pictures that look alike: a hash of how a picture looks, and a search for near ones.

use std::f32::consts::PI;
use std::sync::LazyLock;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use rayon::prelude::*;

use crate::together::Together;

/// Bits of 128 by which the [hashes](looks_like) of near-duplicates differ at most. Photographs that are compressed again,
/// made smaller (down to 28 pixels) or brighter differ by 9 and less in 95 of 100, those that lose 3 % of each side by 8 in
/// the median and 5 % by 14; among 32 million pairs of other pictures two differ by less than 25.
pub const NEAR: u32 = 15;

/// Side of what is left of a picture.
const SIDE: usize = 32;

/// Waves in each direction.
const WAVES: usize = 16;

/// Standard deviation of grey levels below which a picture is flat, and its hash that of its noise.
const FLAT: f32 = 2.0;

/// Waves over the side of a picture, as in a JPEG's.
static COSINES: LazyLock<[[f32; SIDE]; WAVES]> = LazyLock::new(|| {
    let wave = |u: usize, x: usize| (PI * ((2 * x + 1) * u) as f32 / (2 * SIDE) as f32).cos();
    std::array::from_fn(|u| std::array::from_fn(|x| wave(u, x)))
});

/// The 128 longest waves but the mean, and the bit of each: neighbours are far from one another.
static ORDER: LazyLock<Vec<(usize, usize)>> = LazyLock::new(|| {
    let mut order: Vec<_> = (1..WAVES * WAVES).map(|i| (i / WAVES, i % WAVES)).collect();
    order.sort_by_key(|&(u, v)| (u + v, u));
    order.truncate(128);
    order
});

/// A hash of how a picture looks: the signs of the 128 longest waves of its grey levels at 32 × 32 pixels (as pHash
/// does, with more of them). `None` of a picture that is flat. Hashes of pictures that look alike differ in [`NEAR`]
/// bits and fewer.
pub fn looks_like(image: &RgbImage) -> Option<u128> {
    let grey = small(image)?;
    let mean = grey.iter().flatten().sum::<f32>() / (SIDE * SIDE) as f32;
    let squares: f32 = grey
        .iter()
        .flatten()
        .map(|value| (value - mean).powi(2))
        .sum();
    if squares < FLAT * FLAT * (SIDE * SIDE) as f32 {
        return None;
    }
    let along = |wave: &[f32; SIDE], row: &[f32; SIDE]| -> f32 {
        wave.iter().zip(row).map(|(a, b)| a * b).sum()
    };
    let rows: [[f32; SIDE]; WAVES] =
        std::array::from_fn(|v| std::array::from_fn(|y| along(&COSINES[v], &grey[y])));
    let mut hash = 0;
    for (bit, &(u, v)) in ORDER.iter().enumerate() {
        // Bits of one sixteenth are as different as can be.
        let place = bit % 8 * 16 + bit / 8;
        hash |= u128::from(along(&COSINES[u], &rows[v]) > 0.0) << place;
    }
    Some(hash)
}

/// Grey levels at 32 × 32 pixels, each a weighted mean of what it covers.
fn small(image: &RgbImage) -> Option<[[f32; SIDE]; SIDE]> {
    let (width, height) = image.dimensions();
    let source = TypedImageRef::<U8x3>::from_buffer(width, height, image.as_raw()).ok()?;
    let mut small = TypedImage::<U8x3>::new(SIDE as u32, SIDE as u32);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new()
        .resize_typed(&source, &mut small, &options)
        .ok()?;
    let grey = |pixel: &U8x3| {
        let [r, g, b] = pixel.0.map(f32::from);
        0.299 * r + 0.587 * g + 0.114 * b
    };
    let pixels = small.pixels();
    Some(std::array::from_fn(|y| {
        std::array::from_fn(|x| grey(&pixels[y * SIDE + x]))
    }))
}

/// Groups of those that differ by [`NEAR`] bits and fewer from another of the group, by their places.
///
/// Of eight sixteenths of two such hashes one differs in one bit at most. So the hashes are sorted by each
/// sixteenth in turn, and only those compared that have it in common but for one bit.
pub fn near_groups(hashes: &[Option<u128>]) -> Vec<Vec<usize>> {
    let together = Together::new(hashes.len());
    let mut known: Vec<(u128, usize)> = hashes
        .iter()
        .zip(0..)
        .filter_map(|(hash, i)| Some(((*hash)?, i)))
        .collect();
    known.sort_unstable();
    for pair in known.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        together.join(pair[0].1, pair[1].1);
    }
    known.dedup_by_key(|(hash, _)| *hash);
    for part in 0..8 {
        let key = |hash: u128| (hash >> (16 * part)) as u16;
        known.par_sort_unstable_by_key(|&(hash, _)| key(hash));
        let mut starts = vec![0; (1 << 16) + 1];
        for &(hash, _) in &known {
            starts[usize::from(key(hash)) + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let with = |key: u16| &known[starts[usize::from(key)]..starts[usize::from(key) + 1]];
        (0..=u16::MAX).into_par_iter().for_each(|key| {
            let own = with(key);
            let compare = |one: &(u128, usize), others: &[(u128, usize)]| {
                for other in others
                    .iter()
                    .filter(|other| (one.0 ^ other.0).count_ones() <= NEAR)
                {
                    together.join(one.1, other.1);
                }
            };
            for (i, one) in own.iter().enumerate() {
                compare(one, &own[i + 1..]);
                // The others look here.
                for bit in (0..16).map(|bit| 1 << bit).filter(|bit| key & bit == 0) {
                    compare(one, with(key | bit));
                }
            }
        });
    }
    together.groups()
}

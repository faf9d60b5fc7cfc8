//! Convolutions of 3×3 without stride with fewer products: Winograd's F(2×2, 3×3) (Lavin & Gray 2016, arXiv
//! 1509.09308, section 4.1). Four outputs take 16 products for each channel and filter instead of 36.
//!
//! Tiles of 2×2 outputs see 4×4 pixels. These are transformed; then each of the 16 places of a tile is a product of
//! matrices, over channels for the output and the input gradient, over tiles for the weight gradient; its results are
//! transformed back. Coefficients are 1, −1, ½ and ¼, so that little precision is lost. A number that is not finite reaches all
//! outputs of its tiles.

mod correlate;
mod weight_gradient;

use super::{Epilogue, Shape};
use crate::flex::shuffle::interleave;
use crate::flex::simd::{Simd, Vector};

pub(super) use weight_gradient::weight_gradient;

/// Places of a tile, numbered row by row.
const PLACES: usize = 16;

/// Floats between two places that would lie a power of two apart: stores to all of them would meet in one set of a
/// cache.
const APART: usize = 16;

/// Rows of tiles, and tiles in a row.
fn tiles(s: &Shape) -> [usize; 2] {
    s.out().map(|side| side.div_ceil(2))
}

/// Whether Winograd's tiles can compute a shape and are faster: transformations have to be few beside products, for which
/// there have to be enough channels and filters, and tiles must not lie in the margin. The batch does not count, though few
/// tiles are slower: what comes of an image must not depend on the other images.
pub(super) fn serves(simd: Simd, s: &Shape) -> bool {
    let [height, width] = s.out();
    let [down, across] = tiles(s);
    s.kernel == [3, 3]
        && s.stride == [1, 1]
        && s.groups == 1
        && simd.values() == 1
        && s.channels.min(s.filters) >= 32
        && 8 * down * across <= 3 * height * width
}

/// Whether the weight gradient is faster as well: there are enough tiles to be worth the sums of all places, and neither the
/// transformed tiles of an image, of which a step holds one at least, nor the sums take more than 32 MiB.
pub(super) fn serves_weights(simd: Simd, s: &Shape) -> bool {
    const MOST: usize = 1 << 23;
    let [down, across] = tiles(s);
    serves(simd, s)
        && s.batch * down * across >= s.channels.min(s.filters)
        && PLACES * (s.channels + s.filters) * down * across <= MOST
        && PLACES * s.channels * s.filters <= MOST
}

/// As `forward`.
pub(super) fn forward(
    simd: Simd,
    s: &Shape,
    x: &[f32],
    w: &[f32],
    epilogue: Option<Epilogue<'_>>,
) -> Vec<f32> {
    let (k, mr) = (9 * s.channels, simd.rows());
    let fill = |to: &mut [f32], first: usize, rows: usize| {
        interleave(to, mr, &w[first * k..], k, rows, k);
    };
    let weights = correlate::weights(simd, [s.filters, s.channels], fill);
    correlate::correlate(simd, s, x, &weights, epilogue)
}

/// As `input_gradient`; the convolution of the output's gradient that gives it is `turned`.
pub(super) fn input_gradient(simd: Simd, turned: &Shape, dy: &[f32], w: &[f32]) -> Vec<f32> {
    let (channels, mr) = (turned.filters, simd.rows());
    let fill = |to: &mut [f32], first: usize, rows: usize| {
        for (filter, to) in to.chunks_exact_mut(9 * mr).enumerate() {
            let from = &w[(filter * channels + first) * 9..][..9 * rows];
            for (tap, to) in to.chunks_exact_mut(mr).enumerate() {
                to[rows..].fill(0.0);
                for (to, from) in to.iter_mut().zip(from.chunks_exact(9)) {
                    *to = from[8 - tap];
                }
            }
        }
    };
    let weights = correlate::weights(simd, [channels, turned.channels], fill);
    correlate::correlate(simd, turned, dy, &weights, None)
}

/// `Bᵀ d`
#[inline(always)]
fn differences<V: Vector>(d: [V; 4]) -> [V; 4] {
    [
        d[0].sub(d[2]),
        d[1].add(d[2]),
        d[2].sub(d[1]),
        d[1].sub(d[3]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::conv;
    use crate::flex::norm::Affine;

    /// Too few channels to be served.
    const SAME: Shape = Shape {
        batch: 2,
        channels: 3,
        size: [5, 8],
        filters: 5,
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        pad_end: [1, 1],
        groups: 1,
    };

    #[test]
    fn what_is_served() {
        let shape = Shape {
            batch: 1,
            channels: 64,
            size: [56, 56],
            filters: 32,
            ..SAME
        };
        for simd in Simd::available() {
            for batch in [1, 64] {
                assert!(serves(simd, &Shape { batch, ..shape }));
            }
            assert!(serves_weights(simd, &shape));
            let large = Shape {
                channels: 1024,
                filters: 1024,
                ..shape
            };
            assert!(serves(simd, &large) && !serves_weights(simd, &large));
            let few = Shape {
                filters: 31,
                ..shape
            };
            let strided = Shape {
                stride: [2, 2],
                ..shape
            };
            let line = Shape {
                size: [1, 56],
                ..shape
            };
            let grouped = Shape { groups: 2, ..shape };
            for shape in [few, strided, line, grouped] {
                assert!(!serves(simd, &shape), "{shape:?}");
            }
            if let Some(simd) = simd.in_bf16() {
                assert!(!serves(simd, &shape));
            }
        }
    }

    /// Small enough for Miri, too small to be served.
    #[test]
    fn agrees_with_the_direct_products() {
        let uneven = Shape {
            size: [3, 6],
            filters: 9,
            pad: [0, 2],
            pad_end: [2, 1],
            ..SAME
        };
        // Rows of more tiles than a vector has lanes.
        let wide = Shape {
            batch: 1,
            size: [2, 37],
            ..SAME
        };
        // Two images in a task, and one in the last.
        let several = Shape {
            batch: 9,
            size: [3, 4],
            ..SAME
        };
        // A step of the weight gradient for each image.
        let steps = Shape {
            size: [31, 32],
            ..several
        };
        // Miri takes minutes for the larger ones.
        let shapes = [SAME, uneven, wide, several, steps].into_iter();
        for s in shapes.filter(|s| !cfg!(miri) || s.size[1] <= 6) {
            let numbers = |count: usize, seed: usize| -> Vec<f32> {
                let number = |i| ((i * 37 + seed) % 101) as f32 / 50.0 - 1.0;
                (0..count).map(number).collect()
            };
            let [height, width] = s.out();
            let x = numbers(s.batch * s.channels * s.size[0] * s.size[1], 3);
            let w = numbers(s.filters * s.channels * 9, 17);
            let dy = numbers(s.batch * s.filters * height * width, 29);
            let affine = Affine {
                mean: numbers(s.filters, 31),
                scale: numbers(s.filters, 41),
                shift: numbers(s.filters, 43),
            };
            let epilogue = Some(Epilogue {
                affine: &affine,
                residual: Some(&dy),
                relu: Some(0.5),
            });
            for simd in Simd::available() {
                assert!(!serves(simd, &s));
                let turned = s.turned().expect("without stride");
                let found = [
                    forward(simd, &s, &x, &w, None),
                    forward(simd, &s, &x, &w, epilogue),
                    input_gradient(simd, &turned, &dy, &w),
                    weight_gradient(simd, &s, &x, &dy),
                ];
                // Miri looks at memory alone, and at the direct products elsewhere.
                if cfg!(miri) {
                    continue;
                }
                let expected = [
                    conv::forward(simd, &s, &x, &w, None),
                    conv::forward(simd, &s, &x, &w, epilogue),
                    conv::input_gradient(simd, &s, &dy, &w),
                    conv::weight_gradient(simd, &s, &x, &dy),
                ];
                for (found, expected) in found.iter().zip(expected) {
                    assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(expected) {
                        let most = 1e-4 * expected.abs().max(1.0);
                        assert!((found - expected).abs() < most, "{simd:?} {s:?}");
                    }
                }
            }
        }
    }
}

//! The kernels on slices, without Burn, and small enough for Miri (docs/TESTING.md). What they compute
//! is tested at large in `tests/`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::attention;
use super::bf16;
use super::buffer::{Shared, SharedMut, Target, filled};
use super::conv::{self, Shape};
use super::gemm::Epilogue;
use super::linear;
use super::loss::{self, Labels};
use super::math;
use super::norm::{self, Affine, Apply, Dims, Factors, Gradients, Mask};
use super::simd::Simd;
use crate::DktOptions;

/// Numbers in [−1, 1), the same everywhere.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Every path, and whether its operands are rounded to bfloat16 where they can be.
fn paths() -> Vec<(Simd, bool)> {
    let available = Simd::available();
    let mut rounding: Vec<_> = available.iter().filter_map(|simd| simd.in_bf16()).collect();
    rounding.dedup();
    let exact = available.into_iter().map(|simd| (simd, false));
    exact
        .chain(rounding.into_iter().map(|simd| (simd, true)))
        .collect()
}

/// The nearest numbers in bfloat16.
fn coarse(values: &[f32]) -> Vec<f32> {
    let nearest = |x: &f32| {
        let bits = x.to_bits();
        // Below and above, by what is left; in the middle the even one.
        let (below, rest) = (bits >> 16, bits & 0xffff);
        let up = rest > 0x8000 || rest == 0x8000 && below % 2 == 1;
        f32::from_bits((below + u32::from(up)) << 16)
    };
    values.iter().map(nearest).collect()
}

fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let difference = (f64::from(*found) - expected).abs();
        assert!(difference < 1e-4, "{what}: {found} for {expected}");
    }
}

fn panics<R>(f: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// Output, input gradient and weight gradient by definition.
fn by_definition(s: &Shape, x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f64>; 3] {
    let mut found = [dy.len(), x.len(), w.len()].map(|len| vec![0.0; len]);
    let [out_h, out_w] = s.output().expect("it fits");
    let (cg, fg) = (s.channels / s.groups, s.filters / s.groups);
    let [height, width] = s.size;
    for n in 0..s.batch * s.filters * out_h * out_w * cg * s.kernel[0] * s.kernel[1] {
        let (n, kx) = (n / s.kernel[1], n % s.kernel[1]);
        let (n, ky) = (n / s.kernel[0], n % s.kernel[0]);
        let (at_y, c) = (n / cg, n % cg);
        let (n, ox) = (at_y / out_w, at_y % out_w);
        let (n, oy) = (n / out_h, n % out_h);
        let (image, filter) = (n / s.filters, n % s.filters);
        let iy = (oy * s.stride[0] + ky).wrapping_sub(s.pad[0]);
        let ix = (ox * s.stride[1] + kx).wrapping_sub(s.pad[1]);
        if iy >= height || ix >= width {
            continue;
        }
        let channel = filter / fg * cg + c;
        let at_x = ((image * s.channels + channel) * height + iy) * width + ix;
        let at_w = ((filter * cg + c) * s.kernel[0] + ky) * s.kernel[1] + kx;
        let [x, w, dy] = [x[at_x], w[at_w], dy[at_y]].map(f64::from);
        found[0][at_y] += x * w;
        found[1][at_x] += dy * w;
        found[2][at_w] += dy * x;
    }
    found
}

#[test]
fn convolutions() {
    let same = Shape {
        batch: 2,
        channels: 2,
        size: [4, 5],
        filters: 5,
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        pad_end: [1, 1],
        groups: 1,
    };
    let unpadded = Shape {
        pad: [0, 0],
        pad_end: [0, 0],
        ..same
    };
    let shapes = [
        same,
        // One image: its filters are shared out.
        Shape {
            batch: 1,
            filters: 9,
            ..same
        },
        Shape {
            stride: [2, 2],
            ..same
        },
        Shape {
            batch: 1,
            size: [7, 6],
            kernel: [7, 7],
            stride: [3, 2],
            pad: [3, 2],
            ..same
        },
        Shape {
            kernel: [1, 1],
            ..unpadded
        },
        Shape {
            kernel: [1, 1],
            stride: [2, 2],
            ..unpadded
        },
        Shape {
            channels: 4,
            filters: 6,
            groups: 2,
            ..same
        },
        Shape {
            pad: [0, 2],
            pad_end: [2, 0],
            ..same
        },
        // Each channel by itself: rows of several vectors, of one, and of less.
        Shape {
            batch: 1,
            size: [2, 42],
            channels: 3,
            filters: 3,
            groups: 3,
            ..same
        },
        Shape {
            batch: 1,
            size: [3, 11],
            channels: 2,
            filters: 2,
            groups: 2,
            stride: [2, 2],
            pad: [0, 0],
            ..same
        },
        Shape {
            size: [7, 1],
            channels: 3,
            filters: 3,
            groups: 3,
            stride: [2, 2],
            ..same
        },
        // Taps in blocks of three by three, and less; with a stride every other row of them.
        Shape {
            batch: 3,
            size: [5, 9],
            kernel: [4, 4],
            pad: [2, 1],
            channels: 2,
            filters: 2,
            groups: 2,
            ..same
        },
        Shape {
            batch: 1,
            size: [9, 8],
            kernel: [5, 5],
            stride: [2, 2],
            pad: [2, 2],
            channels: 2,
            filters: 2,
            groups: 2,
            ..same
        },
        // Whole vectors of every other column.
        Shape {
            batch: 1,
            size: [3, 67],
            stride: [2, 2],
            channels: 2,
            filters: 2,
            groups: 2,
            ..same
        },
        // A stride that jumps over pixels, and classes of them without taps.
        Shape {
            batch: 1,
            size: [4, 50],
            kernel: [1, 1],
            stride: [2, 2],
            channels: 2,
            filters: 2,
            groups: 2,
            ..unpadded
        },
        Shape {
            batch: 1,
            size: [5, 40],
            kernel: [1, 2],
            stride: [2, 3],
            pad: [0, 1],
            channels: 2,
            filters: 2,
            groups: 2,
            ..same
        },
        // Wide rows are read straight from the frame, many filters through a panel.
        Shape {
            batch: 1,
            size: [3, 16],
            ..same
        },
        Shape {
            batch: 1,
            size: [2, 3],
            filters: 50,
            ..same
        },
        // Filters in the lanes of wide vectors: tiles of 8 columns, and of 14.
        Shape {
            batch: 1,
            channels: 32,
            size: [1, 3],
            filters: 32,
            kernel: [1, 1],
            ..same
        },
        Shape {
            batch: 1,
            channels: 32,
            size: [1, 10],
            filters: 32,
            kernel: [1, 1],
            pad: [0, 0],
            pad_end: [0, 1],
            ..same
        },
    ];
    for (i, mut s) in shapes.into_iter().enumerate() {
        // Miri takes seconds for what takes microseconds: it sees several images of the first shape alone, and of single
        // channels.
        if cfg!(miri) && i > 0 && s.kernel != [4, 4] {
            s.batch = 1;
        }
        let [height, width] = s.output().expect("it fits");
        let x = values(1, s.batch * s.channels * s.size[0] * s.size[1]);
        let taps = s.kernel[0] * s.kernel[1];
        let w = values(2, s.filters * s.channels / s.groups * taps);
        let dy = values(3, s.batch * s.filters * height * width);
        // Miri looks at memory; what it takes for numbers is saved.
        let expected = (!cfg!(miri)).then(|| by_definition(&s, &x, &w, &dy));
        let rounded = (!cfg!(miri))
            .then(|| by_definition(&s, &coarse(&x), &coarse(&w), &coarse(&dy)))
            .filter(|_| s.groups == 1)
            .or_else(|| expected.clone());
        let [mean, scale, shift] = [4, 5, 6].map(|seed| values(seed, s.filters));
        let affine = Affine { mean, scale, shift };
        let epilogue = Epilogue {
            affine: &affine,
            residual: Some(&dy),
            relu: Some(0.5),
        };
        let finish = |[y, ..]: &[Vec<f64>; 3]| -> Vec<f64> {
            let value = |(i, (y, residual)): (usize, (&f64, &f32))| {
                let c = i / (height * width) % s.filters;
                let [mean, scale, shift] = [affine.mean[c], affine.scale[c], affine.shift[c]];
                let y = (y - f64::from(mean)) * f64::from(scale) + f64::from(shift);
                (y + f64::from(*residual)).clamp(0.0, 0.5)
            };
            y.iter().zip(&dy).enumerate().map(value).collect()
        };
        for (simd, rounds) in paths() {
            // Groups are computed in float32, as on the path before.
            if cfg!(miri) && rounds && s.groups > 1 {
                continue;
            }
            let expected = if rounds { &rounded } else { &expected };
            let found = conv::forward(simd, &s, &x, &w, Some(epilogue));
            if let Some(expected) = expected {
                assert_close(&found, &finish(expected), &format!("{simd:?} {s:?}"));
            }
            let short = Epilogue {
                residual: Some(&dy[1..]),
                ..epilogue
            };
            assert!(panics(|| conv::forward(simd, &s, &x, &w, Some(short))));
            let gradients = [
                conv::input_gradient(simd, &s, &dy, &w),
                conv::weight_gradient(simd, &s, &x, &dy),
            ];
            if let Some([output, expected @ ..]) = expected {
                let found = conv::forward(simd, &s, &x, &w, None);
                assert_close(&found, output, &format!("{simd:?} {s:?}"));
                for (found, expected) in gradients.iter().zip(expected) {
                    assert_close(found, expected, &format!("{simd:?} {s:?}"));
                }
            }
        }
    }
}

#[test]
fn slices_of_another_shape_are_refused() {
    let s = Shape {
        batch: 1,
        channels: 3,
        size: [2, 2],
        filters: 3,
        kernel: [1, 1],
        stride: [1, 1],
        pad: [0, 0],
        pad_end: [0, 0],
        groups: 1,
    };
    let (map, weight) = ([0.0; 12], [0.0; 9]);
    for (simd, _) in paths() {
        for (a, b) in [(1, 0), (0, 1)] {
            let (first, weight, map) = (&map[a..], &weight[b..], &map[b..]);
            assert!(panics(|| conv::forward(simd, &s, first, weight, None)));
            assert!(panics(|| conv::input_gradient(simd, &s, first, weight)));
            assert!(panics(|| conv::weight_gradient(simd, &s, first, map)));
        }
        let uneven = Shape { groups: 2, ..s };
        assert!(panics(|| conv::forward(simd, &uneven, &map, &weight, None)));
    }
}

#[test]
fn normalisation_in_place_and_not() {
    // Pixels that fill no vector, several, and some of one.
    for area in [3, 32, 37] {
        let dims = Dims {
            batch: 3,
            channels: 2,
            area,
        };
        let len = 6 * area;
        let [x, residual, dy] = [1, 2, 3].map(|seed| values(seed, len));
        for simd in Simd::available() {
            let (mean, variance) = norm::statistics(simd, dims, &x);
            let inverse = norm::inverse_deviation(&variance, 1e-5);
            let affine = Affine::new(&mean, &inverse, &[1.5, 0.5], &[0.1, -0.2]);
            let apply = |x: Shared<'_>, y: Target<'_>| {
                let residual = Some(Shared::new(&residual));
                let apply = Apply {
                    dims,
                    affine: &affine,
                    relu: Some(f32::INFINITY),
                    x,
                    residual,
                    y,
                };
                // SAFETY: `y` is no one else's.
                unsafe { norm::apply(simd, apply) }
            };
            // SAFETY: every float is written.
            let y = unsafe { filled(len, |y| apply(Shared::new(&x), y)) };
            let mut over = x.clone();
            let shared = SharedMut::new(&mut over);
            apply(shared.shared(), shared.target());
            assert_eq!(over, y);
            let expected: Vec<f64> = (0..len)
                .map(|i| {
                    let c = i / area % 2;
                    let x = (x[i] - mean[c]) * affine.scale[c] + affine.shift[c];
                    f64::from(x + residual[i]).max(0.0)
                })
                .collect();
            assert_close(&y, &expected, "output");
            assert!(panics(|| {
                let mut short = x[1..].to_vec();
                apply(Shared::new(&x), SharedMut::new(&mut short).target());
            }));

            let mask = Mask::Output(&y, f32::INFINITY);
            let passed: Vec<f64> = (0..len)
                .map(|i| f64::from(if y[i] > 0.0 { dy[i] } else { 0.0 }))
                .collect();
            let sums = norm::gradient_sums(simd, dims, &x, &dy, &mean, mask);
            let total: f64 = sums.iter().map(|sums| sums[0]).sum();
            assert!((total - passed.iter().sum::<f64>()).abs() < 1e-4);
            let factors = [0.5, 2.0].map(|by_gradient| Factors {
                by_gradient,
                by_value: 0.0,
                constant: 0.0,
            });
            let gradients =
                |dy: Shared<'_>, mask: Mask<'_>, dx: Target<'_>, residual: Option<Target<'_>>| {
                    let gradients = Gradients {
                        dims,
                        x: &x,
                        dy,
                        mask,
                        mean: &mean,
                        factors: &factors,
                        dx: Some(dx),
                        residual,
                    };
                    // SAFETY: what is written is no one else's.
                    unsafe { norm::gradients(simd, gradients) }
                };
            let mut over = dy.clone();
            let shared = SharedMut::new(&mut over);
            // SAFETY: every float is written.
            let dx = unsafe {
                filled(len, |dx| {
                    gradients(shared.shared(), mask, dx, Some(shared.target()));
                })
            };
            assert_close(&over, &passed, "the residual's gradient");
            let scaled = (0..len).map(|i| passed[i] * f64::from(factors[i / area % 2].by_gradient));
            assert_close(&dx, &scaled.collect::<Vec<_>>(), "input gradient");
            // An output, a mask or a gradient of another length.
            assert!(panics(|| {
                norm::gradient_sums(
                    simd,
                    dims,
                    &x,
                    &dy,
                    &mean,
                    Mask::Output(&y[1..], f32::INFINITY),
                )
            }));
            for (dy_len, mask_len, dx_len) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
                assert!(panics(|| {
                    let mut dx = vec![0.0; len - dx_len];
                    let mask = Mask::Output(&y[mask_len..], f32::INFINITY);
                    let dx = SharedMut::new(&mut dx).target();
                    gradients(Shared::new(&dy[dy_len..]), mask, dx, None);
                }));
            }
        }
    }
}

#[test]
fn pairs_of_bfloat16() {
    let exact = |bits: u32| f32::from_bits(bits << 16);
    let between = |bits: u32, more: u32| f32::from_bits((bits << 16) + more);
    let from = [
        1.0,
        // In the middle, to even: down, up; just beside the middle.
        between(0x3f80, 0x8000),
        between(0x3f81, 0x8000),
        between(0x3f80, 0x8001),
        between(0xbf81, 0x7fff),
        f32::MAX,
        f32::NEG_INFINITY,
        -0.0,
        // Bits of no number alone in the half that is cut off.
        f32::from_bits(0x7f80_0001),
    ];
    let expected = [
        0x3f80, 0x3f80, 0x3f82, 0x3f81, 0xbf81, 0x7f80, 0xff80, 0x8000, 0x7fc0,
    ];
    let word = |low: u32, high: u32| low | high << 16;
    for (simd, _) in paths() {
        let mut pairs = [0.0; 5];
        bf16::pair_neighbours(simd, &mut pairs, &from);
        let high = |i: usize| *expected.get(2 * i + 1).unwrap_or(&0);
        let words: Vec<u32> = (0..5).map(|i| word(expected[2 * i], high(i))).collect();
        assert_eq!(pairs.map(f32::to_bits).to_vec(), words, "{simd:?}");
        // The other half ends before.
        let mut pairs = [0.0; 9];
        bf16::pair(simd, &mut pairs, &from, &from[1..]);
        let next = |i: usize| *expected.get(i + 1).unwrap_or(&0);
        let words: Vec<u32> = (0..9).map(|i| word(expected[i], next(i))).collect();
        assert_eq!(pairs.map(f32::to_bits).to_vec(), words, "{simd:?}");
    }
    // Three channels of one tap and of two.
    let simd = Simd::available()[0];
    let w = [1, 2, 3, 4, 5, 6].map(|bits| exact(0x4000 + bits));
    let bits = |pairs: Vec<f32>| pairs.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let pair = |low: u32, high: u32| word(0x4000 + low, if high > 0 { 0x4000 + high } else { 0 });
    assert_eq!(
        bits(bf16::pair_channels(simd, &w, 3, 1)),
        [pair(1, 2), pair(3, 0), pair(4, 5), pair(6, 0)]
    );
    assert_eq!(
        bits(bf16::pair_channels(simd, &w, 3, 2)),
        [pair(1, 3), pair(2, 4), pair(5, 0), pair(6, 0)]
    );
    assert_eq!(
        bits(bf16::pair_filters(simd, &w, 2)),
        [pair(1, 3), pair(2, 4), pair(5, 0), pair(6, 0)]
    );
}

#[test]
fn products() {
    // Rows and columns that fill no tile, and more of k than a block.
    let cases = [[1, 3, 1], [9, 5, 30], [3, 290, 9]];
    // Miri takes minutes for the last one, which goes the same ways.
    let cases = if cfg!(miri) { &cases[..2] } else { &cases[..] };
    for &[rows, inputs, outputs] in cases {
        let (x, w) = (values(1, rows * inputs), values(2, inputs * outputs));
        let residual = values(3, rows * outputs);
        let [mean, scale, shift] = [4, 5, 6].map(|seed| values(seed, outputs));
        let affine = Affine { mean, scale, shift };
        let epilogue = Epilogue {
            affine: &affine,
            residual: Some(&residual),
            relu: None,
        };
        let by_definition = |x: &[f32], w: &[f32]| -> Vec<f64> {
            let value = |i: usize| {
                let (row, column) = (i / outputs, i % outputs);
                let terms = (0..inputs)
                    .map(|k| [x[row * inputs + k], w[k * outputs + column]].map(f64::from));
                let sum: f64 = terms.map(|[x, w]| x * w).sum();
                let [mean, scale, shift] =
                    [&affine.mean, &affine.scale, &affine.shift].map(|of| f64::from(of[column]));
                (sum - mean) * scale + shift + f64::from(residual[i])
            };
            (0..rows * outputs).map(value).collect()
        };
        let expected = by_definition(&x, &w);
        let rounded = by_definition(&coarse(&x), &coarse(&w));
        let dims = [rows, inputs, outputs];
        for (simd, rounds) in paths() {
            let expected = if rounds { &rounded } else { &expected };
            let found = linear::forward(simd, dims, &x, &w, epilogue, false);
            assert_close(&found, expected, &format!("{simd:?} {dims:?}"));
            let curved = linear::forward(simd, dims, &x, &w, epilogue, true);
            let mut over = found;
            let shared = SharedMut::new(&mut over);
            // SAFETY: no one else uses the values.
            unsafe { math::gelu(simd, shared.shared(), shared.target()) };
            assert_eq!(curved, over);
            let forward = |x, w, epilogue| linear::forward(simd, dims, x, w, epilogue, true);
            let short = Epilogue {
                residual: Some(&residual[1..]),
                ..epilogue
            };
            assert!(panics(|| forward(&x[1..], &w, epilogue)));
            assert!(panics(|| forward(&x, &w[1..], epilogue)));
            assert!(panics(|| forward(&x, &w, short)));
        }
    }
}

#[test]
fn attentions() {
    for [batch, tokens, heads, width] in [[1, 1, 1, 1], [2, 5, 2, 3], [1, 66, 1, 3]] {
        let shape = attention::Shape {
            batch,
            tokens,
            heads,
            width,
        };
        let all = heads * width;
        let qkv = values(1, batch * tokens * 3 * all);
        let at = |n: usize, token: usize, part: usize, i: usize| {
            f64::from(qkv[((n * tokens + token) * 3 + part) * all + i])
        };
        let mut expected = vec![0.0; batch * tokens * all];
        // Miri looks at memory; what it takes for numbers is saved.
        let rows = if cfg!(miri) {
            0
        } else {
            batch * tokens * heads
        };
        for i in 0..rows {
            let (n, query, head) = (i / heads / tokens, i / heads % tokens, i % heads * width);
            let score = |key: usize| {
                let product = |i| at(n, query, 0, head + i) * at(n, key, 1, head + i);
                ((0..width).map(product).sum::<f64>() / (width as f64).sqrt()).exp()
            };
            let total: f64 = (0..tokens).map(score).sum();
            for key in 0..tokens {
                for j in 0..width {
                    expected[i * width + j] += score(key) / total * at(n, key, 2, head + j);
                }
            }
        }
        for (simd, _) in paths() {
            let found = attention::forward(simd, shape, &qkv);
            if !cfg!(miri) {
                assert_close(&found, &expected, &format!("{simd:?} {shape:?}"));
            }
            assert!(panics(|| attention::forward(simd, shape, &qkv[1..])));
        }
    }
}

#[test]
fn layer_normalisations() {
    for width in [1, 8, 37] {
        let x = values(1, 3 * width);
        let [gamma, beta] = [2, 3].map(|seed| values(seed, width));
        let norm = math::LayerNorm {
            x: &x,
            gamma: &gamma,
            beta: Some(&beta),
            epsilon: 1e-3,
        };
        let expected: Vec<f64> = (0..3 * width)
            .map(|i| {
                let row = x[i / width * width..][..width]
                    .iter()
                    .map(|&x| f64::from(x));
                let mean = row.clone().sum::<f64>() / width as f64;
                let variance = row.map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
                let value = (f64::from(x[i]) - mean) / (variance + 1e-3).sqrt();
                value * f64::from(gamma[i % width]) + f64::from(beta[i % width])
            })
            .collect();
        for simd in Simd::available() {
            // SAFETY: every value is written.
            let run = |norm| unsafe { filled(3 * width, |y| math::layer_norm(simd, norm, y)) };
            assert_close(&run(norm), &expected, &format!("{simd:?} {width}"));
            let beta = Some(&beta[1..]);
            assert!(panics(|| run(math::LayerNorm { beta, ..norm })));
        }
    }
}

#[test]
fn losses() {
    let dims @ [batch, classes] = [3, 19];
    let experts: Vec<Vec<f32>> = (0..2).map(|seed| values(seed, batch * classes)).collect();
    let logits: Vec<&[f32]> = experts.iter().map(Vec::as_slice).collect();
    let soft = vec![1.0 / classes as f32; batch * classes];
    for labels in [Labels::Hard(&[0, 7, 18]), Labels::Soft(&soft)] {
        let prior = values(9, classes);
        let (terms, rows) = loss::cross_entropy_forward(&logits, dims, labels, &prior);
        let backward = |rows: &[_]| {
            loss::cross_entropy_backward(&logits, dims, labels, &prior, rows, &[1.0, 0.5])
        };
        assert_eq!(terms.len(), 2);
        for gradient in backward(&rows) {
            for row in gradient.chunks_exact(classes) {
                assert!(row.iter().sum::<f32>().abs() < 1e-5);
            }
        }
        // Sums of one row too few: a row of the gradient would stay unwritten.
        let short: Vec<_> = rows.iter().map(|rows| rows[1..].to_vec()).collect();
        assert!(panics(|| backward(&short)));
        for flag in [false, true] {
            let options = DktOptions {
                detach_teacher: flag,
                exclude_target: flag,
            };
            let terms = loss::dkt_forward(&logits, dims, labels, options);
            let ones = vec![1.0; terms.len()];
            let gradient = loss::dkt_backward(&logits, dims, labels, options, &ones);
            assert!(gradient.iter().flatten().all(|slope| slope.is_finite()));
        }
    }
}

#[test]
fn parts_lie_inside() {
    let mut data = [0.0; 4];
    let shared = SharedMut::new(&mut data);
    // SAFETY: no other part is in use.
    unsafe {
        assert_eq!(shared.slice(1, 3).len(), 3);
        assert!(panics(|| shared.slice(2, 3).len()));
        assert!(panics(|| shared.slice(usize::MAX, 2).len()));
    }
}

#[test]
fn a_panic_leaves_the_choice_of_instructions() {
    let [first, second] = [Simd::available()[0], Simd::available()[1]];
    first.with(|| {
        assert!(panics(|| second.with(|| panic!("in it"))));
        assert_eq!(Simd::current(), first);
    });
}

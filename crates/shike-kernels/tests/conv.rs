//! The convolution against Burn's own in float64.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::module::Param;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{DType, Device, Tensor};
use common::{
    Random, bf16_paths, coarse, difference, double, floats, in_every_type, on_every_path, on_paths,
    proptest_config, with_threads,
};
use proptest::prelude::*;
use shike_kernels::{FixedNorm, Simd, Then, batch_norm, conv2d, conv2d_norm, stats};

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    /// Channels and filters of one group.
    group: [usize; 2],
    groups: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Top, left, bottom, right.
    pad: [usize; 4],
}

impl Case {
    fn new(batch: usize, channels: [usize; 2], side: usize, kernel: usize, stride: usize) -> Self {
        Self {
            batch,
            group: channels,
            groups: 1,
            size: [side, side],
            kernel: [kernel, kernel],
            stride: [stride, stride],
            pad: [kernel / 2; 4],
        }
    }

    /// A convolution of each channel by itself, padded as TensorFlow's `SAME`.
    fn depthwise(batch: usize, channels: usize, side: usize, kernel: usize, stride: usize) -> Self {
        let pad = ((side.div_ceil(stride) - 1) * stride + kernel).saturating_sub(side);
        let (before, after) = (pad / 2, pad - pad / 2);
        Self {
            pad: [before, before, after, after],
            ..Self::new(batch, [1, 1], side, kernel, stride).with_groups(channels)
        }
    }

    fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    fn fits(&self) -> bool {
        (0..2).all(|d| self.size[d] + self.pad[d] + self.pad[d + 2] >= self.kernel[d])
    }

    fn input(&self, random: &mut Random, device: &Device) -> Tensor<4> {
        let [height, width] = self.size;
        random.tensor(
            [self.batch, self.group[0] * self.groups, height, width],
            device,
        )
    }

    fn conv(&self, random: &mut Random, device: &Device) -> Conv2d {
        let channels = self.group.map(|c| c * self.groups);
        let [top, left, bottom, right] = self.pad;
        let mut conv = Conv2dConfig::new(channels, self.kernel)
            .with_stride(self.stride)
            .with_groups(self.groups)
            .with_padding(PaddingConfig2d::Explicit(top, left, bottom, right))
            .with_bias(false)
            .init(device);
        let shape = [channels[1], self.group[0], self.kernel[0], self.kernel[1]];
        conv.weight = Param::from_tensor(random.tensor(shape, device));
        conv
    }
}

/// Output and gradients for input and weight, for a fixed gradient of the output.
fn run(
    conv: &Conv2d,
    x: Tensor<4>,
    forward: impl Fn(&Conv2d, Tensor<4>) -> Tensor<4>,
) -> [Tensor<4>; 3] {
    let x = x.require_grad();
    let y = forward(conv, x.clone());
    let mut random = Random::new(99);
    let dy = coarse(random.tensor(y.dims(), &y.device())).cast(y.dtype());
    let grads = (y.clone() * dy).sum().backward();
    let dx = x.grad(&grads).unwrap();
    let dw = conv.weight.val().grad(&grads).unwrap();
    [y.inner(), dx, dw]
}

/// On paths of bfloat16 with operands that need no rounding.
fn check(case: Case, seed: u64) {
    let device = Device::flex().autodiff();
    let mut random = Random::new(seed);
    let mut conv = case.conv(&mut random, &device);
    let x = case.input(&mut random, &device);
    check_on(Simd::available(), case, &conv, x.clone());
    let leaf = |tensor: Tensor<4>| Tensor::from_inner(coarse(tensor.inner()));
    conv.weight = Param::from_tensor(leaf(conv.weight.val()));
    check_on(bf16_paths(), case, &conv, leaf(x));
}

fn check_on(paths: Vec<Simd>, case: Case, conv: &Conv2d, x: Tensor<4>) {
    let mut exact = conv.clone();
    exact.weight = Param::from_tensor(double(&conv.weight.val()));
    let expected = run(&exact, double(&x), |conv, x| conv.forward(x));
    let [images, _, height, width] = expected[0].dims();
    let window = case.kernel[0] * case.kernel[1];
    let terms = [
        case.group[0] * window,
        case.group[1] * window,
        images * height * width,
    ];
    on_paths(paths, |simd| {
        let before = stats();
        let found = run(conv, x.clone(), conv2d);
        let after = stats();
        assert_eq!(after.conv2d, before.conv2d + 1, "the kernel did not run");
        assert_eq!(after.conv2d_backward, before.conv2d_backward + 1);
        for (i, (what, terms)) in ["output", "input gradient", "weight gradient"]
            .into_iter()
            .zip(terms)
            .enumerate()
        {
            // A sum of so many products of numbers in [−1, 1) is as large as this, usually.
            let typical = (terms as f64).sqrt() / 3.0;
            let difference = difference(found[i].clone(), expected[i].clone(), typical);
            assert!(
                difference < 1e-5,
                "{what} {difference:e} on {simd:?} of {case:?}"
            );
        }
        // Without autodiff.
        let plain = Device::flex();
        let mut conv = conv.clone();
        conv.weight = Param::from_tensor(conv.weight.val().inner());
        let y = conv2d(&conv, x.clone().inner());
        assert_eq!(y.device(), plain);
        assert_eq!(
            floats(y),
            floats(found[0].clone()),
            "plain and autodiff on {simd:?}"
        );
    });
}

fn case() -> impl Strategy<Value = Case> {
    let channels = prop_oneof![4 => 1usize..12, 1 => 12usize..80];
    let kernel = prop_oneof![1 => Just(1usize), 3 => Just(3), 1 => 1usize..8];
    (
        1usize..5,
        [channels.clone(), channels],
        prop_oneof![3 => Just(1usize), 1 => 2usize..5],
        [1usize..20, 1usize..40],
        [kernel.clone(), kernel],
        [1usize..4, 1usize..4],
        [0usize..4, 0usize..4, 0usize..4, 0usize..4],
        any::<bool>(),
        prop_oneof![3 => Just(false), 1 => Just(true)],
    )
        .prop_map(
            |(batch, group, groups, size, kernel, stride, pad, none, depthwise)| Case {
                batch,
                group: if depthwise { [1, 1] } else { group },
                groups: if depthwise { group[0] } else { groups },
                size,
                kernel,
                stride,
                pad: if none { [0; 4] } else { pad },
            },
        )
        .prop_filter("the kernel has to fit", Case::fits)
}

proptest! {
    #![proptest_config(proptest_config(150))]

    #[test]
    fn agrees_with_burn_in_float64(case in case(), seed in 0u64..1000) {
        check(case, seed);
    }
}

#[test]
fn the_models_shapes_agree_with_burn_in_float64() {
    for case in [
        // CIFAR ResNets.
        Case::new(3, [3, 16], 32, 3, 1),
        Case::new(9, [16, 16], 32, 3, 1),
        Case::new(3, [16, 32], 32, 3, 2),
        Case::new(3, [16, 32], 32, 1, 2),
        Case::new(5, [32, 32], 16, 3, 1),
        Case::new(9, [64, 64], 8, 3, 1),
        // ResNet-50, in part of its channels.
        Case::new(1, [3, 64], 64, 7, 2),
        Case::new(2, [64, 64], 56, 3, 1),
        Case::new(2, [32, 48], 56, 1, 1),
        Case::new(2, [64, 64], 28, 3, 2),
        Case::new(2, [96, 128], 14, 1, 1),
        Case::new(2, [128, 96], 7, 3, 1),
        Case::new(2, [40, 100], 20, 3, 1),
        Case::new(2, [32, 64], 15, 3, 2),
        Case::new(2, [32, 32], 11, 3, 1).with_groups(2),
        Case::new(3, [512, 128], 7, 1, 1),
        // Fewer products: odd sides, unequal margins, channels that do not fill a vector, rows of many tiles, more
        // channels than a run of k, images in several steps.
        Case::new(6, [128, 96], 7, 3, 1),
        Case {
            size: [12, 15],
            pad: [0, 2, 1, 0],
            ..Case::new(3, [33, 50], 13, 3, 1)
        },
        Case {
            size: [2, 70],
            pad: [2, 1, 1, 1],
            ..Case::new(1, [40, 32], 70, 3, 1)
        },
        // Bands of unequal height; margins that are wider than the kernel.
        Case::new(2, [40, 40], 25, 3, 1),
        Case {
            size: [6, 9],
            pad: [5, 3, 0, 4],
            ..Case::new(2, [40, 36], 9, 3, 1)
        },
        Case::new(1, [600, 32], 14, 3, 1),
        Case::new(13, [256, 264], 9, 3, 1),
        // Large weights: the weight gradient is shared out by filters.
        Case::new(2, [512, 520], 7, 3, 1),
        // Large frames for one pixel each: they do not all fit into a step of the weight gradient.
        Case {
            pad: [0; 4],
            ..Case::new(45, [2048, 24], 7, 7, 1)
        },
        // EfficientNet-Lite0's depthwise layers, in part of their channels; one channel, one pixel, one
        // column, odd sides.
        Case::depthwise(2, 5, 112, 3, 1),
        Case::depthwise(1, 3, 112, 3, 2),
        Case::depthwise(2, 5, 56, 5, 2),
        Case::depthwise(1, 12, 28, 5, 1),
        Case::depthwise(3, 40, 14, 3, 1),
        Case::depthwise(2, 24, 14, 5, 2),
        Case::depthwise(2, 70, 7, 5, 1),
        Case::depthwise(1, 1, 15, 3, 2),
        Case::depthwise(1, 1, 1, 5, 1),
        Case {
            size: [9, 1],
            ..Case::depthwise(1, 5, 9, 3, 2)
        },
        // ResNeXt-50, fusion with unequal strides, whole numbers of nothing.
        Case::new(2, [4, 4], 28, 3, 1).with_groups(32),
        Case::new(2, [8, 8], 28, 3, 2).with_groups(16),
        Case {
            stride: [2, 1],
            ..Case::new(2, [16, 32], 9, 3, 1)
        },
        Case {
            size: [1, 1],
            ..Case::new(1, [1, 1], 1, 3, 2)
        },
        Case {
            size: [7, 1],
            ..Case::new(1, [5, 7], 7, 3, 1)
        },
    ] {
        check(case, 7);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let device = Device::flex().autodiff();
    for case in [
        Case::new(17, [16, 16], 32, 3, 1),
        Case::new(5, [16, 32], 15, 3, 2),
        Case::new(33, [64, 64], 8, 3, 1),
        Case::new(5, [64, 128], 15, 3, 2),
        Case::new(1, [64, 64], 28, 3, 1),
        Case::new(3, [512, 520], 7, 3, 1),
        Case::new(2, [256, 64], 28, 1, 1),
        Case::new(3, [4, 4], 14, 3, 1).with_groups(32),
        Case::depthwise(3, 50, 14, 5, 2),
        Case::depthwise(2, 5, 112, 3, 2),
        // The weight gradient's last group of images is not whole.
        Case::depthwise(3, 2, 56, 3, 1),
    ] {
        let mut random = Random::new(5);
        let conv = case.conv(&mut random, &device);
        let x = case.input(&mut random, &device);
        in_every_type(|simd| {
            let bits = |threads: usize| {
                with_threads(threads, || {
                    simd.with(|| {
                        run(&conv, x.clone(), conv2d)
                            .map(|t| floats(t).into_iter().map(f32::to_bits).collect::<Vec<_>>())
                    })
                })
            };
            let one = bits(1);
            for threads in [2, 3, 8, 33] {
                assert!(
                    bits(threads) == one,
                    "{threads} threads on {simd:?} of {case:?}"
                );
            }
        });
    }
}

#[test]
fn what_comes_of_an_image_does_not_depend_on_the_others() {
    let device = Device::flex().autodiff();
    let case = Case::new(9, [64, 64], 8, 3, 1);
    let mut random = Random::new(11);
    let conv = case.conv(&mut random, &device);
    let x = case.input(&mut random, &device);
    let dy = case.input(&mut random, &device).inner();
    let run = |x: Tensor<4>, dy: Tensor<4>| {
        let x = x.detach().require_grad();
        let y = conv2d(&conv, x.clone());
        let grads = (y.clone() * Tensor::from_inner(dy)).sum().backward();
        [y.inner(), x.grad(&grads).unwrap()]
    };
    on_every_path(|simd| {
        let together = run(x.clone(), dy.clone());
        for threads in [1, 8] {
            for image in 0..9 {
                let alone = with_threads(threads, || {
                    let of = |tensor: &Tensor<4>| tensor.clone().narrow(0, image, 1);
                    simd.with(|| run(of(&x), of(&dy)))
                });
                for (alone, together) in alone.into_iter().zip(&together) {
                    let together = together.clone().narrow(0, image, 1);
                    assert_eq!(floats(alone), floats(together));
                }
            }
        }
    });
}

/// Normalisation for the output of a convolution.
fn norm(random: &mut Random, channels: usize, device: &Device) -> FixedNorm {
    let mut channel = || random.tensor([channels], device);
    FixedNorm {
        gamma: channel() + 2.0,
        beta: channel(),
        mean: channel(),
        variance: channel() + 1.5,
        epsilon: 1e-3,
    }
}

#[test]
fn normalisation_in_the_same_pass_gives_the_same_bits() {
    for (place, device) in [
        ("plain", Device::flex()),
        ("autodiff", Device::flex().autodiff()),
    ] {
        for case in [
            Case::new(2, [16, 96], 28, 1, 1),
            Case::new(3, [320, 70], 7, 1, 1),
            Case::new(2, [3, 32], 29, 3, 2),
            Case::new(2, [40, 70], 14, 3, 1),
            Case::new(2, [3, 5], 9, 3, 1).with_groups(4),
            Case::depthwise(2, 5, 56, 3, 1),
            Case::depthwise(1, 9, 29, 5, 2),
            Case::depthwise(2, 24, 7, 5, 1),
        ] {
            let mut random = Random::new(11);
            let mut conv = case.conv(&mut random, &device);
            conv.weight = Param::from_tensor(conv.weight.val().detach()).set_require_grad(false);
            let x = case.input(&mut random, &device);
            let shape = conv2d(&conv, x.clone()).dims();
            let norm = norm(&mut random, shape[1], &device);
            let residual = random.tensor(shape, &device);
            for then in [
                Then::Nothing,
                Then::Relu,
                Then::Relu6,
                Then::Add(residual.clone()),
                Then::AddRelu(residual),
            ] {
                in_every_type(|simd| {
                    let before = stats();
                    let found = conv2d_norm(&conv, x.clone(), norm.clone(), then.clone());
                    let after = stats();
                    assert_eq!(after.conv2d_norm, before.conv2d_norm + 1);
                    assert_eq!(after.conv2d, before.conv2d);
                    let y = conv2d(&conv, x.clone());
                    let expected = batch_norm(y, norm.clone(), then.clone());
                    assert_eq!(found.device(), expected.device());
                    let bits = |y| floats(y).into_iter().map(f32::to_bits).collect::<Vec<_>>();
                    assert!(
                        bits(found) == bits(expected),
                        "{place} {simd:?} {case:?} {then:?}"
                    );
                });
            }
        }
    }
}

#[test]
fn a_bias_is_added_where_nothing_is_tracked() {
    let device = Device::flex();
    let mut random = Random::new(13);
    // A transformer's patches, and what has nothing to do with it.
    for (side, kernel, stride) in [(32, 16, 16), (28, 14, 14), (9, 3, 2)] {
        let case = Case {
            pad: [0; 4],
            ..Case::new(2, [3, 20], side, kernel, stride)
        };
        let mut conv = case.conv(&mut random, &device);
        let x = case.input(&mut random, &device);
        let without = conv2d(&conv, x.clone());
        let bias = random.tensor([20], &device);
        conv.bias = Some(Param::from_tensor(bias.clone()));
        let before = stats();
        let found = conv2d(&conv, x);
        assert_eq!(stats().conv2d, before.conv2d + 1);
        let expected = without + bias.reshape([1, 20, 1, 1]);
        assert_eq!(floats(found), floats(expected));
    }
}

#[test]
fn what_is_tracked_is_normalised_by_itself() {
    let device = Device::flex().autodiff();
    let mut random = Random::new(12);
    let case = Case::depthwise(2, 5, 9, 3, 2);
    let conv = case.conv(&mut random, &device);
    let x = case.input(&mut random, &device).require_grad();
    let norm = norm(&mut random, 5, &device);
    let before = stats();
    let by = |y: Tensor<4>| {
        let grads = (y.clone() * y.detach()).sum().backward();
        let dw = conv.weight.val().grad(&grads).unwrap();
        (floats(x.grad(&grads).unwrap()), floats(dw))
    };
    let found = by(conv2d_norm(&conv, x.clone(), norm.clone(), Then::Relu6));
    assert_eq!(stats().conv2d_norm, before.conv2d_norm);
    let y = batch_norm(conv2d(&conv, x.clone()), norm.clone(), Then::Relu6);
    assert_eq!(found, by(y));
    // Another type: Burn's own modules.
    let mut exact = conv.clone();
    exact.weight = Param::from_tensor(double(&conv.weight.val()));
    let norm = FixedNorm {
        gamma: double(&norm.gamma),
        beta: double(&norm.beta),
        mean: double(&norm.mean),
        variance: double(&norm.variance),
        ..norm
    };
    let y = conv2d_norm(&exact, double(&x), norm, Then::Relu6);
    assert_eq!(y.dtype(), DType::F64);
}

#[test]
fn views_are_read_as_what_they_are() {
    let device = Device::flex().autodiff();
    let mut random = Random::new(3);
    let case = Case::new(2, [5, 6], 9, 3, 1);
    let conv = case.conv(&mut random, &device);
    let wide = random.tensor::<4>([4, 9, 5, 11], &device);
    let views = [
        wide.clone()
            .permute([0, 2, 1, 3])
            .slice([1..3, 0..5, 0..9, 1..10]),
        wide.clone()
            .permute([0, 2, 1, 3])
            .slice([0..4, 0..5, 0..9, 0..9]),
        wide.swap_dims(1, 2).flip([3]),
    ];
    for view in views {
        let copy = Tensor::from_data(view.to_data(), &device);
        for (a, b) in run(&conv, view, conv2d)
            .into_iter()
            .zip(run(&conv, copy, conv2d))
        {
            assert_eq!(floats(a), floats(b));
        }
    }
    // A gradient that arrives as a view, of which nothing is stored in order.
    let x = case.input(&mut random, &device).require_grad();
    let dy = random.tensor::<4>([9, 9, 6, 2], &device);
    let by = |dy: Tensor<4>| {
        let y = conv2d(&conv, x.clone()).permute([3, 2, 1, 0]);
        let grads = (y * dy).sum().backward();
        floats(x.grad(&grads).unwrap())
    };
    let straight = {
        let dy = dy.clone().permute([3, 2, 1, 0]);
        let grads = (conv2d(&conv, x.clone()) * dy).sum().backward();
        floats(x.grad(&grads).unwrap())
    };
    assert_eq!(by(dy), straight);
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    let device = Device::flex().autodiff();
    let mut random = Random::new(4);
    let case = Case::new(2, [3, 4], 6, 3, 1);
    let mut conv = case.conv(&mut random, &device);
    let x = case.input(&mut random, &device);
    // Images: no gradient for them.
    let grads = conv2d(&conv, x.clone()).sum().backward();
    assert!(x.grad(&grads).is_none());
    assert!(conv.weight.val().grad(&grads).is_some());
    // Frozen weights.
    conv.weight = Param::from_tensor(conv.weight.val().detach()).set_require_grad(false);
    let x = x.require_grad();
    let grads = conv2d(&conv, x.clone()).sum().backward();
    assert!(x.grad(&grads).is_some());
    assert!(conv.weight.val().grad(&grads).is_none());
    // Nothing at all.
    assert!(!conv2d(&conv, x.detach()).is_require_grad());
}

#[test]
fn nan_and_infinity_reach_the_outputs_that_see_them() {
    let device = Device::flex();
    let mut random = Random::new(8);
    // Few channels; and enough for tiles of 2×2 outputs, all of which a value reaches that one of them sees.
    for (channels, filters, tile) in [(4, 20, 1), (32, 40, 2)] {
        let case = Case::new(2, [channels, filters], 8, 3, 1);
        let conv = case.conv(&mut random, &device);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut data = random.values(2 * channels * 64);
            // Image 1, channel 2, row 3, column 7.
            data[(channels + 2) * 64 + 3 * 8 + 7] = bad;
            let data = burn::tensor::TensorData::new(data, [2, channels, 8, 8]);
            let y = floats(conv2d(&conv, Tensor::from_data(data, &device)));
            for (i, y) in y.iter().enumerate() {
                let (image, row, column) = (i / (filters * 64), i / 8 % 8, i % 8);
                let sees = image == 1 && (2..=4).contains(&row) && column >= 6;
                assert!(!sees || !y.is_finite(), "{bad} at {i}");
                let tiles = |row: usize| (row / tile * tile)..(row / tile * tile + tile);
                let near = |row: usize| tiles(row).any(|row| (2..=4).contains(&row));
                let may = image == 1 && near(row) && tiles(column).any(|x| x >= 6);
                assert!(may || y.is_finite(), "{bad} at {i}");
            }
        }
    }
}

#[test]
fn what_the_kernels_cannot_do_burn_does() {
    let device = Device::flex().autodiff();
    let mut random = Random::new(4);
    let case = Case::new(2, [4, 6], 8, 3, 1);
    let conv = case.conv(&mut random, &device);
    let x = case.input(&mut random, &device);
    let falls_back = |conv: &Conv2d, x: Tensor<4>| {
        let before = stats();
        let y = conv2d(conv, x.clone());
        assert_eq!(stats().fallback, before.fallback + 1);
        assert_eq!(stats().conv2d, before.conv2d);
        assert!(difference(y, conv.forward(x), 0.0) < 1e-6);
    };
    let config = Conv2dConfig::new([4, 6], [3, 3]);
    falls_back(&config.init(&device), x.clone()); // a bias
    let config = config.with_bias(false);
    falls_back(
        &config.clone().with_dilation([2, 1]).init(&device),
        x.clone(),
    );
    falls_back(
        &config.with_padding(PaddingConfig2d::Same).init(&device),
        x.clone(),
    );
    let mut exact = conv.clone();
    exact.weight = Param::from_tensor(double(&conv.weight.val()));
    falls_back(&exact, double(&x));
    assert_eq!(conv2d(&exact, double(&x)).dtype(), DType::F64);
    // Another checkpointing strategy.
    let device = Device::flex().autodiff().gradient_checkpointing();
    let conv = case.conv(&mut random, &device);
    falls_back(&conv, case.input(&mut random, &device));
}

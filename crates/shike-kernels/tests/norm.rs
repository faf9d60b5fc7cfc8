//! Batch normalisation, residual and ReLU against Burn's own operations in float64.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor};
use common::{Random, difference, double, floats, on_every_path, proptest_config, with_threads};
use proptest::prelude::*;
use shike_kernels::{FixedNorm, Then, batch_norm, batch_norm_train, stats};

const EPSILON: f64 = 1e-5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Tail {
    Nothing,
    Relu,
    Relu6,
    Add,
    AddRelu,
}

const TAILS: [Tail; 5] = [
    Tail::Nothing,
    Tail::Relu,
    Tail::Relu6,
    Tail::Add,
    Tail::AddRelu,
];

/// Inputs of both kinds of batch normalisation, all with gradients.
#[derive(Clone)]
struct Inputs {
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    residual: Tensor<4>,
    mean: Tensor<1>,
    variance: Tensor<1>,
}

impl Inputs {
    fn new(shape: [usize; 4], offset: f32, seed: u64, device: &Device) -> Self {
        let mut random = Random::new(seed);
        let channels = [shape[1]];
        Self {
            x: random.tensor(shape, device) + offset,
            // Large enough for ReLU6's ceiling.
            gamma: random.tensor(channels, device) * 4.0 + 0.5,
            beta: random.tensor(channels, device),
            residual: random.tensor(shape, device),
            mean: random.tensor(channels, device) + offset,
            variance: random.tensor(channels, device) + 1.5,
        }
    }

    fn double(&self) -> Self {
        Self {
            x: double(&self.x),
            gamma: double(&self.gamma),
            beta: double(&self.beta),
            residual: double(&self.residual),
            mean: double(&self.mean),
            variance: double(&self.variance),
        }
    }

    fn tracked(self) -> Self {
        Self {
            x: self.x.require_grad(),
            gamma: self.gamma.require_grad(),
            beta: self.beta.require_grad(),
            residual: self.residual.require_grad(),
            ..self
        }
    }

    fn then(&self, tail: Tail) -> Then {
        match tail {
            Tail::Nothing => Then::Nothing,
            Tail::Relu => Then::Relu,
            Tail::Relu6 => Then::Relu6,
            Tail::Add => Then::Add(self.residual.clone()),
            Tail::AddRelu => Then::AddRelu(self.residual.clone()),
        }
    }

    fn fixed(&self) -> FixedNorm {
        FixedNorm {
            gamma: self.gamma.clone(),
            beta: self.beta.clone(),
            mean: self.mean.clone(),
            variance: self.variance.clone(),
            epsilon: EPSILON,
        }
    }

    /// Output, mean, variance, and gradients for x, gamma, beta and the residual. The gradient of
    /// the output is 0 where ReLU's kink is too near for float32 to tell the side.
    fn run(self, batch: bool, tail: Tail, kernels: bool, kinks: Tensor<4>) -> Results {
        let i = self.tracked();
        let (x, gamma, beta) = (i.x.clone(), i.gamma.clone(), i.beta.clone());
        let (mean, variance) = (i.mean.clone(), i.variance.clone());
        let (y, mean, variance) = match (batch, kernels) {
            (true, true) => {
                let out = batch_norm_train(x, gamma, beta, EPSILON, i.then(tail));
                (out.output, out.mean, out.variance)
            }
            (true, false) => {
                let out = burn::tensor::module::batch_norm_train(x, gamma, beta, EPSILON);
                (i.burns_tail(out.output, tail), out.mean, out.variance)
            }
            (false, true) => {
                let y = batch_norm(x, i.fixed(), i.then(tail));
                (y, mean, variance)
            }
            (false, false) => {
                let (m, v) = (mean.clone(), variance.clone());
                let y = burn::tensor::module::batch_norm(x, gamma, beta, m, v, EPSILON);
                (i.burns_tail(y, tail), mean, variance)
            }
        };
        let dy = Random::new(77)
            .tensor(y.dims(), &y.device())
            .cast(y.dtype())
            * kinks.cast(y.dtype());
        let grads = (y.clone() * dy).sum().backward();
        Results {
            maps: [
                y.inner(),
                i.x.grad(&grads).unwrap(),
                i.residual
                    .grad(&grads)
                    .unwrap_or_else(|| i.residual.clone().inner().zeros_like()),
            ],
            channels: [
                mean.inner(),
                variance.inner(),
                i.gamma.grad(&grads).unwrap(),
                i.beta.grad(&grads).unwrap(),
            ],
        }
    }

    fn burns_tail(&self, y: Tensor<4>, tail: Tail) -> Tensor<4> {
        match tail {
            Tail::Nothing => y,
            Tail::Relu => relu(y),
            Tail::Relu6 => y.clamp(0.0, 6.0),
            Tail::Add => y + self.residual.clone(),
            Tail::AddRelu => relu(y + self.residual.clone()),
        }
    }

    /// 1 where the value before ReLU is not near 0, or ReLU6's ceiling.
    fn kinks(&self, batch: bool, tail: Tail) -> Tensor<4> {
        let i = self.double();
        let y = match batch {
            true => {
                burn::tensor::module::batch_norm_train(
                    i.x.clone(),
                    i.gamma.clone(),
                    i.beta.clone(),
                    EPSILON,
                )
                .output
            }
            false => burn::tensor::module::batch_norm(
                i.x.clone(),
                i.gamma.clone(),
                i.beta.clone(),
                i.mean.clone(),
                i.variance.clone(),
                EPSILON,
            ),
        };
        let y = match tail {
            Tail::AddRelu => y + i.residual,
            _ => y,
        };
        let far = |y: Tensor<4>| y.abs().greater_elem(1e-4).float();
        far(y.clone()) * far(y - 6.0)
    }
}

struct Results {
    maps: [Tensor<4>; 3],
    channels: [Tensor<1>; 4],
}

/// What is added up in the mean and in the gradients for x, gamma and beta, largest over the
/// channels. The terms may cancel; the rounding of each stays.
fn magnitudes(inputs: &Inputs, statistics: &[Tensor<1>; 4], kinks: Tensor<4>) -> [f64; 4] {
    let [_, channels, _, _] = inputs.x.dims();
    let wide = |t: &Tensor<1>| t.clone().reshape([1, channels, 1, 1]);
    let i = inputs.double();
    let x = i.x.inner();
    let over_sigma = wide(&statistics[1]).add_scalar(EPSILON).sqrt().recip();
    let x_hat = (x.clone() - wide(&statistics[0])) * over_sigma.clone();
    let dy = double(&Random::new(77).tensor(x.dims(), &i.gamma.device())).inner()
        * kinks.inner().cast(DType::F64);
    let over_channels = |t: Tensor<4>| {
        let sums = t.abs().sum_dim(0).sum_dim(2).sum_dim(3);
        sums.max().into_scalar::<f64>()
    };
    let slope = (wide(&i.gamma.inner()) * over_sigma).abs();
    let largest = (slope * dy.clone().abs()).max().into_scalar::<f64>();
    let count = x.dims().iter().product::<usize>() / channels;
    [
        over_channels(x) / count as f64,
        largest,
        over_channels(dy.clone() * x_hat),
        over_channels(dy),
    ]
}

fn check(shape: [usize; 4], offset: f32, seed: u64) {
    let device = Device::flex().autodiff();
    let inputs = Inputs::new(shape, offset, seed, &device);
    for batch in [true, false] {
        for tail in TAILS {
            let kinks = inputs.kinks(batch, tail);
            let expected = inputs.double().run(batch, tail, false, kinks.clone());
            let [mean, x, gamma, beta] = magnitudes(&inputs, &expected.channels, kinks.clone());
            on_every_path(|simd| {
                let before = stats();
                let found = inputs.clone().run(batch, tail, true, kinks.clone());
                let after = stats();
                match batch {
                    true => assert_eq!(after.batch_norm_train, before.batch_norm_train + 1),
                    false => assert_eq!(after.batch_norm, before.batch_norm + 1),
                }
                assert_eq!(after.batch_norm_backward, before.batch_norm_backward + 1);
                let at = format!("{shape:?} + {offset}, batch: {batch}, {tail:?}, {simd:?}");
                // A mean far from 0 costs digits of the input itself.
                let allowed = 2e-5 * f64::from(offset.abs().max(1.0));
                for (i, (what, least)) in [("output", 0.0), ("x", x), ("residual", 0.0)]
                    .into_iter()
                    .enumerate()
                {
                    let d = difference(found.maps[i].clone(), expected.maps[i].clone(), least);
                    assert!(d < allowed, "{what} {d:e} of {at}");
                }
                let channels = [
                    ("mean", mean),
                    ("variance", 0.0),
                    ("gamma", gamma),
                    ("beta", beta),
                ];
                for (i, (what, least)) in channels.into_iter().enumerate() {
                    let (found, expected) = (&found.channels[i], &expected.channels[i]);
                    let d = difference(found.clone(), expected.clone(), least);
                    assert!(d < allowed, "{what} {d:e} of {at}");
                }
            });
        }
    }
}

proptest! {
    #![proptest_config(proptest_config(60))]

    #[test]
    fn agrees_with_burn_in_float64(
        batch in 1usize..6,
        channels in 1usize..40,
        size in [1usize..12, 1usize..40],
        seed in 0u64..1000,
    ) {
        // A variance needs values: with very few of them, 1/σ is large and so are the errors.
        prop_assume!(batch * size[0] * size[1] >= 8);
        check([batch, channels, size[0], size[1]], 0.0, seed);
    }
}

#[test]
fn large_maps_and_means_agree_with_burn_in_float64() {
    check([4, 5, 56, 57], 0.0, 1);
    check([6, 70, 7, 7], 0.0, 2);
    check([3, 4, 16, 16], 30.0, 3);
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let device = Device::flex().autodiff();
    for shape in [[17, 16, 32, 32], [5, 130, 7, 7], [1, 3, 100, 101]] {
        let inputs = Inputs::new(shape, 0.5, 6, &device);
        let kinks = Tensor::ones(shape, &device);
        on_every_path(|simd| {
            let bits = |threads: usize| {
                with_threads(threads, || {
                    simd.with(|| {
                        let r = inputs.clone().run(true, Tail::AddRelu, true, kinks.clone());
                        let maps = r.maps.into_iter().flat_map(floats);
                        let all = maps.chain(r.channels.into_iter().flat_map(floats));
                        all.map(f32::to_bits).collect::<Vec<_>>()
                    })
                })
            };
            let one = bits(1);
            for threads in [2, 3, 8] {
                assert!(
                    bits(threads) == one,
                    "{threads} threads on {simd:?} of {shape:?}"
                );
            }
        });
    }
}

#[test]
fn nothing_that_others_hold_is_written_over() {
    let device = Device::flex();
    let inputs = Inputs::new([2, 3, 5, 7], 0.0, 9, &device);
    let (x, residual) = (floats(inputs.x.clone()), floats(inputs.residual.clone()));
    for tail in TAILS {
        let run = |x: Tensor<4>| {
            let i = inputs.clone();
            floats(batch_norm(x, i.fixed(), i.then(tail)))
        };
        let shared = run(inputs.x.clone());
        assert_eq!(floats(inputs.x.clone()), x);
        assert_eq!(floats(inputs.residual.clone()), residual);
        // A tensor that no one else holds is written over, with the same result.
        let owned = Tensor::from_data(inputs.x.to_data(), &device);
        assert_eq!(run(owned), shared);
        // Views.
        let data = inputs.x.to_data();
        let view = Tensor::<4>::from_data(data, &device).permute([0, 2, 3, 1]);
        let view = Tensor::<4>::from_data(view.to_data(), &device).permute([0, 3, 1, 2]);
        assert_eq!(run(view), shared);
    }
    // A gradient that two operations share.
    let device = Device::flex().autodiff();
    let inputs = Inputs::new([2, 3, 5, 7], 0.0, 9, &device).tracked();
    let bn = |i: &Inputs| {
        let (x, gamma, beta) = (i.x.clone(), i.gamma.clone(), i.beta.clone());
        batch_norm_train(x, gamma, beta, EPSILON, i.then(Tail::AddRelu)).output
    };
    let twice = (bn(&inputs) + bn(&inputs)).sum().backward();
    let once = bn(&inputs).sum().backward();
    let grad = |grads| floats(inputs.residual.grad(grads).unwrap());
    let doubled: Vec<f32> = grad(&once).iter().map(|v| 2.0 * v).collect();
    assert_eq!(grad(&twice), doubled);
}

#[test]
fn nan_is_not_swallowed() {
    let device = Device::flex();
    on_every_path(|simd| {
        let i = Inputs::new([1, 2, 3, 11], 0.0, 9, &device);
        let nan = Tensor::<4>::full([1, 1, 1, 1], f32::NAN, &device);
        let x = i.x.clone().slice_assign([0..1, 1..2, 2..3, 10..11], nan);
        for tail in TAILS {
            let j = i.clone();
            let then = j.then(tail);
            let (g, b) = (j.gamma.clone(), j.beta.clone());
            let out = batch_norm_train(x.clone(), g, b, EPSILON, then.clone());
            let y = floats(out.output);
            assert!(y[..33].iter().all(|y| y.is_finite()), "{simd:?}");
            assert!(y[33..].iter().all(|y| y.is_nan()), "{simd:?}");
            assert!(floats(out.mean)[1].is_nan() && floats(out.variance)[1].is_nan());
            let y = floats(batch_norm(x.clone(), j.fixed(), then));
            assert_eq!(y.iter().filter(|y| y.is_nan()).count(), 1, "{simd:?}");
            assert!(y[65].is_nan());
        }
    });
}

#[test]
fn what_the_kernels_cannot_do_burn_does() {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let i = Inputs::new([2, 3, 4, 5], 0.0, 1, &device);
    for batch in [true, false] {
        let before = stats();
        let kinks = i.x.ones_like().inner();
        let found = i.clone().run(batch, Tail::AddRelu, true, kinks.clone());
        let after = stats();
        assert_eq!(after.fallback, before.fallback + 1);
        assert_eq!(after.batch_norm_train, before.batch_norm_train);
        assert_eq!(after.batch_norm, before.batch_norm);
        let expected = i.clone().run(batch, Tail::AddRelu, false, kinks);
        for (found, expected) in found.maps.into_iter().zip(expected.maps) {
            assert_eq!(floats(found), floats(expected));
        }
    }
}

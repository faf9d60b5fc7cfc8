//! The layers of a transformer against Burn's own operations in float64.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor};
use common::{
    Random, bf16_paths, coarse, difference, double, floats, in_every_type, on_every_path, on_paths,
    proptest_config, with_threads,
};
use proptest::prelude::*;
use shike_kernels::{Simd, ThenLinear, attention, gelu, layer_norm, linear, stats};

/// What each function is given.
#[derive(Clone)]
struct Inputs {
    x: Tensor<3>,
    layer: Linear,
    scale: Tensor<1>,
    residual: Tensor<3>,
}

impl Inputs {
    fn new([batch, tokens, inputs, outputs]: [usize; 4], bias: bool, device: &Device) -> Self {
        let mut random = Random::new((batch + tokens + inputs + outputs) as u64);
        Self {
            x: random.tensor([batch, tokens, inputs], device),
            layer: Linear {
                weight: fixed(random.tensor([inputs, outputs], device)),
                bias: bias.then(|| fixed(random.tensor([outputs], device))),
            },
            scale: random.tensor([outputs], device),
            residual: random.tensor([batch, tokens, outputs], device),
        }
    }

    fn double(&self) -> Self {
        Self {
            x: self.x.clone().cast(DType::F64),
            layer: Linear {
                weight: fixed(self.layer.weight.val().cast(DType::F64)),
                bias: self
                    .layer
                    .bias
                    .as_ref()
                    .map(|b| fixed(b.val().cast(DType::F64))),
            },
            scale: self.scale.clone().cast(DType::F64),
            residual: self.residual.clone().cast(DType::F64),
        }
    }

    fn thens(&self) -> [ThenLinear<3>; 4] {
        let add = |scale| ThenLinear::Add {
            residual: self.residual.clone(),
            scale,
        };
        [
            ThenLinear::Nothing,
            ThenLinear::Gelu,
            add(None),
            add(Some(self.scale.clone())),
        ]
    }

    /// With operands that need no rounding to bfloat16.
    fn coarse(&self) -> Self {
        let mut all = self.clone();
        all.x = coarse(all.x);
        all.layer.weight = fixed(coarse(all.layer.weight.val()));
        all
    }

    fn check(&self) {
        self.check_on(Simd::available());
        self.coarse().check_on(bf16_paths());
    }

    fn check_on(&self, paths: Vec<Simd>) {
        let exact = self.double();
        let typical = (self.x.dims()[2] as f64).sqrt() / 3.0;
        for (then, exact_then) in self.thens().into_iter().zip(exact.thens()) {
            let expected = linear(&exact.layer, exact.x.clone(), exact_then);
            on_paths(paths.clone(), |simd| {
                let before = stats();
                let found = linear(&self.layer, self.x.clone(), then.clone());
                assert_eq!(stats().linear, before.linear + 1, "the kernel did not run");
                let difference = difference(found, expected.clone(), typical);
                let at = [self.x.dims(), self.residual.dims()];
                assert!(difference < 1e-5, "{difference:e} {simd:?} {at:?}");
            });
        }
    }
}

fn fixed<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(tensor).set_require_grad(false)
}

/// Attention by definition.
fn by_definition(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, all] = qkv.dims();
    let width = all / 3 / heads;
    let part = |i: usize| {
        let from = i * heads * width;
        let part = qkv.clone().slice_dim(2, from..from + heads * width);
        part.reshape([batch, tokens, heads, width]).swap_dims(1, 2)
    };
    let scores = part(0).matmul(part(1).swap_dims(2, 3)) / (width as f64).sqrt();
    let output = softmax(scores, 3).matmul(part(2));
    output
        .swap_dims(1, 2)
        .reshape([batch, tokens, heads * width])
}

fn check_attention([batch, tokens, heads, width]: [usize; 4], size: f32) {
    let device = Device::flex();
    let mut random = Random::new((tokens * width) as u64);
    let qkv = random.tensor([batch, tokens, 3 * heads * width], &device) * size;
    let expected = by_definition(qkv.clone().cast(DType::F64), heads);
    on_every_path(|simd| {
        let before = stats();
        let found = attention(qkv.clone(), heads);
        assert_eq!(stats().attention, before.attention + 1);
        let difference = difference(found, expected.clone(), 0.0);
        let at = [batch, tokens, heads, width];
        assert!(difference < 1e-5, "{difference:e} {simd:?} {at:?}");
    });
}

fn check_layer_norm(shape: [usize; 3], offset: f32, beta: bool) {
    let device = Device::flex();
    let mut random = Random::new(shape.iter().sum::<usize>() as u64);
    let x = random.tensor(shape, &device) + offset;
    let gamma = random.tensor([shape[2]], &device);
    let beta = beta.then(|| random.tensor([shape[2]], &device));
    let wide = |t: &Tensor<1>| t.clone().cast(DType::F64);
    let exact = x.clone().cast(DType::F64);
    let expected = layer_norm(exact, wide(&gamma), beta.as_ref().map(wide), 1e-6);
    on_every_path(|simd| {
        let before = stats();
        let found = layer_norm(x.clone(), gamma.clone(), beta.clone(), 1e-6);
        assert_eq!(stats().layer_norm, before.layer_norm + 1);
        let difference = difference(found, expected.clone(), 0.0);
        let allowed = 1e-5 * f64::from(offset.abs().max(1.0));
        assert!(difference < allowed, "{difference:e} {simd:?} {shape:?}");
    });
}

proptest! {
    #![proptest_config(proptest_config(60))]

    #[test]
    fn linear_layers_agree_with_burn_in_float64(
        sides in [1usize..4, 1usize..40, 1usize..70, 1usize..70],
        bias in any::<bool>(),
    ) {
        Inputs::new(sides, bias, &Device::flex()).check();
    }

    #[test]
    fn attention_agrees_with_its_definition_in_float64(
        sides in [1usize..4, 1usize..150, 1usize..4, 1usize..40],
    ) {
        check_attention(sides, 3.0);
    }

    #[test]
    fn layer_normalisation_agrees_with_burn_in_float64(
        // The variance of few values may be small, and so be what it is divided by.
        shape in [1usize..4, 1usize..20, 6usize..100],
        beta in any::<bool>(),
    ) {
        check_layer_norm(shape, 0.0, beta);
    }
}

#[test]
fn the_models_shapes_agree_with_burn_in_float64() {
    let device = Device::flex();
    for sides in [
        [1, 197, 384, 1152],
        [2, 50, 1536, 384],
        [1, 7, 768, 3072],
        [1, 1, 3072, 768],
    ] {
        Inputs::new(sides, true, &device).check();
    }
    check_attention([2, 197, 3, 64], 4.0);
    check_attention([1, 257, 2, 64], 1.0);
    // More tokens than a block of the sum over them, and heads wider than one.
    check_attention([1, 700, 1, 64], 1.0);
    check_attention([1, 9, 1, 600], 1.0);
    // Scores of hundreds.
    check_attention([1, 33, 2, 64], 20.0);
    check_layer_norm([2, 197, 384], 0.0, true);
    check_layer_norm([1, 50, 768], 30.0, true);
}

#[test]
fn gelu_is_exact() {
    let device = Device::flex();
    let values: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
    let x = Tensor::<1>::from_floats(values.as_slice(), &device);
    let exact = x.clone().cast(DType::F64);
    let expected = burn::tensor::activation::gelu(exact);
    on_every_path(|simd| {
        let before = stats();
        let found = gelu(x.clone());
        assert_eq!(stats().gelu, before.gelu + 1);
        let off = (found.clone().cast(DType::F64) - expected.clone()).abs();
        // As far from it as PyTorch in float32.
        let largest = off.max().into_scalar::<f64>();
        assert!(largest < 1.5e-6, "{largest:e} {simd:?}");
        let ends = Tensor::<1>::from_floats([f32::NAN, 1e6, -1e6, 0.0], &device);
        let ends = floats(gelu(ends));
        assert!(ends[0].is_nan(), "{simd:?}");
        assert_eq!(ends[1..], [1e6, 0.0, 0.0], "{simd:?}");
    });
    // What others hold is not written over; what no one holds is, with the same result.
    assert_eq!(floats(x.clone()), values);
    let owned = Tensor::<1>::from_floats(values.as_slice(), &device);
    assert_eq!(floats(gelu(owned)), floats(gelu(x)));
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let device = Device::flex();
    let inputs = Inputs::new([3, 65, 300, 50], true, &device);
    let qkv = Random::new(5).tensor::<3>([2, 70, 3 * 24], &device);
    in_every_type(|simd| {
        let bits = |threads: usize| {
            with_threads(threads, || {
                simd.with(|| {
                    let x = inputs.x.clone();
                    let y = linear(&inputs.layer, x.clone(), ThenLinear::Gelu);
                    let gamma = Tensor::ones([300], &device);
                    let norm = layer_norm(x, gamma, None, 1e-6);
                    let heads = attention(qkv.clone(), 3);
                    let all = [floats(y), floats(norm), floats(heads)].concat();
                    all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                })
            })
        };
        let one = bits(1);
        for threads in [2, 3, 8] {
            assert!(bits(threads) == one, "{threads} threads on {simd:?}");
        }
    });
}

#[test]
fn views_and_untracked_tensors_are_read_as_what_they_are() {
    let plain = Inputs::new([2, 5, 12, 9], true, &Device::flex());
    let expected = floats(linear(&plain.layer, plain.x.clone(), ThenLinear::Nothing));
    let turned = |t: Tensor<2>| {
        let t = t.transpose();
        Tensor::<2>::from_data(t.to_data(), &t.device()).transpose()
    };
    let mut layer = plain.layer.clone();
    layer.weight = fixed(turned(layer.weight.val()));
    let x = plain.x.clone().swap_dims(0, 1);
    let x = Tensor::<3>::from_data(x.to_data(), &x.device()).swap_dims(0, 1);
    assert_eq!(floats(linear(&layer, x, ThenLinear::Nothing)), expected);
    // Autodiff's device, nothing tracked.
    let device = Device::flex().autodiff();
    let lifted = Inputs::new([2, 5, 12, 9], true, &device);
    let before = stats();
    let y = linear(&lifted.layer, lifted.x.clone(), ThenLinear::Nothing);
    assert_eq!(stats().linear, before.linear + 1);
    assert_eq!(y.device(), lifted.x.device());
    assert_eq!(floats(y), expected);
}

#[test]
fn what_is_tracked_goes_to_burn() {
    let device = Device::flex().autodiff();
    let inputs = Inputs::new([2, 5, 12, 12], true, &device);
    let fallbacks = |run: &dyn Fn(Tensor<3>) -> Tensor<3>| {
        let before = stats();
        let x = inputs.x.clone().require_grad();
        let y = run(x.clone());
        let mut after = before;
        after.fallback += 1;
        assert_eq!(stats(), after);
        let grads = (y.clone() * y.detach()).sum().backward();
        x.grad(&grads).unwrap()
    };
    for then in inputs.thens() {
        fallbacks(&|x| linear(&inputs.layer, x, then.clone()));
    }
    fallbacks(&|x| gelu(x));
    fallbacks(&|x| layer_norm(x, inputs.scale.clone(), None, 1e-6));
    let found = fallbacks(&|x| attention(x, 2));
    let exact = double(&inputs.x).require_grad();
    let y = by_definition(exact.clone(), 2);
    let grads = (y.clone() * y.detach()).sum().backward();
    let expected = exact.grad(&grads).unwrap();
    let difference = difference(found, expected, 0.0);
    assert!(difference < 1e-5, "{difference:e}");
    // A weight that is trained.
    let mut layer = inputs.layer.clone();
    layer.weight = Param::from_tensor(layer.weight.val());
    let before = stats();
    let y = linear(&layer, inputs.x.clone(), ThenLinear::Nothing);
    assert_eq!(stats().fallback, before.fallback + 1);
    assert!(layer.weight.val().grad(&y.sum().backward()).is_some());
    // Another type.
    let half = inputs.x.clone().cast(DType::BF16);
    let y = linear(&inputs.layer, half.clone(), ThenLinear::Gelu);
    assert_eq!(y.dtype(), DType::BF16);
    let y = layer_norm(half, inputs.scale.clone(), None, 1e-6);
    assert_eq!(y.dtype(), DType::BF16);
}

//! Maximum pooling against Burn's own.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::nn::PaddingConfig2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::tensor::{Device, Tensor, TensorData};
use common::{Random, floats, with_threads};
use shike_kernels::{max_pool2d, set_enabled, stats};

fn pool(kernel: [usize; 2], stride: [usize; 2], [t, l, b, r]: [usize; 4]) -> MaxPool2d {
    MaxPool2dConfig::new(kernel)
        .with_strides(stride)
        .with_padding(PaddingConfig2d::Explicit(t, l, b, r))
        .init()
}

/// Output and input gradient as bits, numbers that are none as one.
fn run(
    pool: &MaxPool2d,
    x: &Tensor<4>,
    forward: impl Fn(&MaxPool2d, Tensor<4>) -> Tensor<4>,
) -> [Vec<u32>; 2] {
    let bits = |tensor: Tensor<4>| {
        let bits = |x: f32| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
        floats(tensor).into_iter().map(bits).collect()
    };
    let x = x.clone().require_grad();
    let y = forward(pool, x.clone());
    let dy = Random::new(3).tensor(y.dims(), &y.device());
    let grads = (y.clone() * dy).sum().backward();
    [bits(y.inner()), bits(x.grad(&grads).unwrap())]
}

#[test]
fn gives_what_burn_gives() {
    set_enabled(true);
    let device = Device::flex().autodiff();
    for (size, kernel, stride, pad) in [
        ([112, 112], [3, 3], [2, 2], [1; 4]),
        ([7, 9], [3, 3], [2, 2], [1; 4]),
        ([6, 10], [2, 2], [2, 2], [0; 4]),
        ([5, 40], [3, 5], [1, 3], [2, 4, 2, 4]),
        ([1, 1], [3, 3], [2, 2], [1; 4]),
        ([3, 20], [2, 16], [1, 1], [0; 4]),
        // Rows in several parts.
        ([4, 150], [3, 3], [1, 1], [1; 4]),
        ([5, 263], [3, 3], [2, 2], [1; 4]),
    ] {
        let shape = [2, 3, size[0], size[1]];
        let mut values = Random::new(7).values(shape.iter().product());
        // Many that are equal, some that are no numbers.
        for (i, value) in values.iter_mut().enumerate() {
            *value = match i % 29 {
                3 => f32::NAN,
                5 => f32::NEG_INFINITY,
                _ => (*value * 4.0).round(),
            };
        }
        values[..size[0] * size[1]].fill(f32::NEG_INFINITY);
        let x = Tensor::from_data(TensorData::new(values, shape), &device);
        let pool = pool(kernel, stride, pad);
        let expected = run(&pool, &x, |pool, x| pool.forward(x));
        for threads in [1, 3] {
            let found = with_threads(threads, || {
                let before = stats().max_pool2d;
                let found = run(&pool, &x, max_pool2d);
                assert_eq!(stats().max_pool2d, before + 1, "the kernel did not run");
                found
            });
            assert!(found == expected, "{size:?} {kernel:?}");
        }
        // Without autodiff, and with the last two sides in another order.
        let plain = floats(max_pool2d(&pool, x.clone().inner().swap_dims(2, 3)));
        let burn = floats(pool.forward(x.inner().swap_dims(2, 3)));
        assert_eq!(plain.len(), burn.len());
        assert!(
            plain
                .iter()
                .zip(&burn)
                .all(|(a, b)| a == b || a.is_nan() && b.is_nan())
        );
    }
}

#[test]
fn what_the_kernel_cannot_do_burn_does() {
    set_enabled(true);
    let x = Random::new(1).tensor([1, 2, 20, 20], &Device::flex());
    let config = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]);
    for pool in [
        config.clone().with_dilation([2, 2]).init(),
        config.clone().with_ceil_mode(true).init(),
        config.with_padding(PaddingConfig2d::Same).init(),
        pool([3, 3], [2, 2], [1, 0, 0, 1]),
        pool([17, 16], [1, 1], [0; 4]),
    ] {
        let before = stats();
        let found = floats(max_pool2d(&pool, x.clone()));
        assert_eq!(stats().fallback, before.fallback + 1);
        assert_eq!(found, floats(pool.forward(x.clone())));
    }
}

//! The switch is the whole program's: a test program of its own.
#![cfg(feature = "flex")]

use burn::nn::conv::Conv2dConfig;
use burn::tensor::{Device, Tensor};
use shike_kernels::{conv2d, enabled, set_enabled, stats};

#[test]
fn turns_the_kernels_off_and_on() {
    let device = Device::flex();
    let conv = Conv2dConfig::new([2, 3], [3, 3])
        .with_bias(false)
        .init(&device);
    let run = |on: bool| {
        set_enabled(on);
        assert_eq!(enabled(), on);
        let before = stats();
        conv2d(&conv, Tensor::ones([1, 2, 5, 5], &device));
        let after = stats();
        (
            after.conv2d - before.conv2d,
            after.fallback - before.fallback,
        )
    };
    assert_eq!(run(true), (1, 0));
    assert_eq!(run(false), (0, 1));
    assert_eq!(run(true), (1, 0));
}

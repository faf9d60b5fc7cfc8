//! The optimizer's step against Burn's own operations, bit for bit.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Distribution, Tensor};
use shike_kernels::{set_enabled, sgd_step, stats};

/// Burn's own operations: float64 is not the kernels' business, and neither is a tensor of their
/// result.
fn by_definition<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
) -> (Tensor<D>, Tensor<D>) {
    let gradient = gradient + weight.clone().mul_scalar(DECAY);
    let velocity = match velocity {
        Some(velocity) => velocity.mul_scalar(MOMENTUM) + gradient,
        None => gradient,
    };
    (weight - velocity.clone().mul_scalar(LR), velocity)
}

const LR: f64 = 0.05;
const MOMENTUM: f64 = 0.9;
const DECAY: f64 = 5e-4;

#[test]
fn steps_are_equal_bit_for_bit() {
    // Whatever the environment says.
    set_enabled(true);
    let device = Device::flex();
    let normal = Distribution::Normal(0.0, 1.0);
    // More than one task, a ragged end, and a transposed weight.
    for (rows, columns, transposed) in [(300, 331, false), (1, 1, false), (37, 53, true)] {
        let random = || Tensor::<2>::random([rows, columns], normal, &device);
        let weight = match transposed {
            true => Tensor::<2>::random([columns, rows], normal, &device).transpose(),
            false => random(),
        };
        let kept = weight.clone();
        let before = weight.to_data();
        let (mut found, mut expected) = ((weight.clone(), None), (weight, None));
        for _ in 0..3 {
            let gradient = random();
            let shared = gradient.clone();
            let ran = stats().sgd;
            let (w, v) = sgd_step(found.0, gradient, found.1, LR, MOMENTUM, DECAY, false);
            assert_eq!(stats().sgd, ran + 1);
            found = (w, Some(v));
            let (w, v) = by_definition(expected.0, shared, expected.1);
            expected = (w, Some(v));
            found.0.to_data().assert_eq(&expected.0.to_data(), true);
            let velocity =
                |side: &(Tensor<2>, Option<Tensor<2>>)| side.1.as_ref().unwrap().to_data();
            velocity(&found).assert_eq(&velocity(&expected), true);
        }
        // Someone else's handle on the first weight still sees it.
        kept.into_data().assert_eq(&before, true);
    }
}

#[test]
fn other_types_are_left_to_burn() {
    let device = Device::flex();
    let ones = || Tensor::<1>::from_data([1.0f64, 2.0], (&device, DType::F64));
    let (weight, velocity) = sgd_step(ones(), ones(), None, LR, MOMENTUM, 0.0, false);
    assert_eq!(weight.dtype(), DType::F64);
    let velocity: Vec<f64> = velocity.into_data().try_into_vec().unwrap();
    assert_eq!(velocity, [1.0, 2.0]);
}

/// With `SHIKE_KERNELS=on` and with `conv2d,batch_norm,loss`, in turns (docs/BENCHMARKS.md).
#[test]
#[ignore = "a measurement of the whole process: alone"]
fn a_step_of_130_million_parameters() {
    let device = Device::flex();
    // As a large ResNet has them: 52 convolutions.
    let shape = [1250, 2000];
    let tensor = || Tensor::<2>::random(shape, Distribution::Default, &device);
    let mut state: Vec<_> = (0..52).map(|_| (tensor(), tensor())).collect();
    let mut seconds = vec![];
    for _ in 0..9 {
        let gradients: Vec<_> = state.iter().map(|_| tensor()).collect();
        let start = std::time::Instant::now();
        let steps = state.into_iter().zip(gradients);
        let step = |((weight, velocity), gradient)| {
            sgd_step(weight, gradient, Some(velocity), LR, MOMENTUM, DECAY, false)
        };
        state = steps.map(step).collect();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!("median {:.0} ms, {peak:?}", 1e3 * seconds[4]);
}

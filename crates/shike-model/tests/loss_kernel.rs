//! The losses in one pass (float32 on the CPU backend) against their definition in float64, which no
//! kernel computes.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use shike_kernels::{set_enabled, stats};
use shike_model::loss::{
    BalancedSoftmaxLossConfig, CrossEntropyLossConfig, KlReduction, LossLabels,
};
use shike_model::{DktLossConfig, ExpertLogits, Loss as _, LossContext};

struct Random(u64);

impl Random {
    /// In [-1, 1).
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() + 1.0) / 2.0 * bound as f64) as usize
    }
}

/// One batch, in the types of both sides.
struct Batch {
    logits: Vec<Vec<f32>>,
    hard: Vec<i64>,
    soft: Vec<f32>,
    shape: [usize; 2],
}

impl Batch {
    fn new(random: &mut Random, experts: usize, shape: [usize; 2], size: f64) -> Self {
        let [batch, classes] = shape;
        let logits = (0..experts)
            .map(|_| {
                (0..batch * classes)
                    .map(|_| (size * random.next()) as f32)
                    .collect()
            })
            .collect();
        let hard: Vec<i64> = (0..batch).map(|_| random.below(classes) as i64).collect();
        let mut soft = vec![0.0; batch * classes];
        for (image, &label) in hard.iter().enumerate() {
            let share = 0.5 + 0.25 * (random.next() as f32 + 1.0);
            soft[image * classes + label as usize] += share;
            soft[image * classes + random.below(classes)] += 1.0 - share;
        }
        Self {
            logits,
            hard,
            soft,
            shape,
        }
    }

    fn logits(&self, device: &Device, dtype: DType) -> ExpertLogits {
        let tensor = |values: &Vec<f32>| {
            let data = TensorData::new(values.clone(), self.shape).convert_dtype(dtype);
            Tensor::<2>::from_data(data, (device, dtype)).require_grad()
        };
        ExpertLogits {
            experts: self.logits.iter().map(tensor).collect(),
        }
    }

    fn hard(&self, device: &Device) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(self.hard.clone(), [self.shape[0]]), device)
    }

    fn soft(&self, device: &Device, dtype: DType) -> Tensor<2> {
        let data = TensorData::new(self.soft.clone(), self.shape).convert_dtype(dtype);
        Tensor::from_data(data, (device, dtype))
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Terms and the gradient of their sum with weights that are all different.
fn terms_and_gradient(logits: &ExpertLogits, terms: Vec<Tensor<1>>) -> (Vec<f64>, Vec<f64>) {
    let terms = Tensor::cat(terms, 0);
    let dtype = terms.dtype();
    let count = terms.dims()[0];
    let weights: Vec<f64> = (0..count).map(|i| 0.3 + (i * 7 % 5) as f64).collect();
    let weights = TensorData::new(weights, [count]).convert_dtype(dtype);
    let weights = Tensor::<1>::from_data(weights, (&terms.device(), dtype));
    let gradients = (terms.clone() * weights).sum().backward();
    let gradient = logits.experts.iter();
    let gradient = gradient.flat_map(|logits| floats(logits.grad(&gradients).unwrap()));
    let gradient = gradient.collect();
    (floats(terms), gradient)
}

fn compare(what: &str, found: (Vec<f64>, Vec<f64>), expected: (Vec<f64>, Vec<f64>)) {
    for (i, (found, expected)) in found.0.iter().zip(&expected.0).enumerate() {
        let difference = (found - expected).abs() / expected.abs().max(0.01);
        assert!(
            difference < 2e-6,
            "{what}: term {i} is {found}, not {expected}"
        );
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = found.1.iter().zip(&expected.1);
    let difference = norm(&mut pairs.map(|(a, b)| a - b)) / norm(&mut expected.1.iter().copied());
    assert!(
        difference < 3e-6,
        "{what}: gradient differs by {difference:.1e}"
    );
}

#[test]
fn every_option_agrees_with_the_definition() {
    // Whatever the environment says.
    set_enabled(true);
    let device = Device::flex().autodiff();
    let mut random = Random(11);
    let shapes = [
        (3, [8, 100]),
        (1, [3, 17]),
        (6, [2, 33]),
        (3, [2, 8142]),
        (2, [5, 3]),
    ];
    for (experts, shape) in shapes {
        for (case, size) in [(0, 4.0), (1, 30.0), (2, 4.0), (3, 4.0), (4, 1e-3)] {
            let batch = Batch::new(&mut random, experts, shape, size);
            for soft in [false, true] {
                let config = DktLossConfig::default()
                    .with_detach_teacher(case == 2)
                    .with_exclude_target(case >= 2)
                    .with_reduction(match case {
                        3 => KlReduction::BatchMean,
                        _ => KlReduction::ElementMean,
                    });
                let compute = |dtype: DType| {
                    let logits = batch.logits(&device, dtype);
                    let before = stats();
                    let loss = config.init(&LossContext::new(&[])).unwrap();
                    let output = match soft {
                        true => loss.terms(&logits, LossLabels::Soft(batch.soft(&device, dtype))),
                        false => loss.terms(&logits, LossLabels::Hard(batch.hard(&device))),
                    };
                    let ran = u64::from(dtype == DType::F32);
                    assert_eq!(stats().loss, before.loss + ran);
                    assert_eq!(stats().fallback, before.fallback + 1 - ran);
                    let terms = vec![
                        (output.cross_entropy.clone().sum()
                            + output.non_target.clone().sum().mul_scalar(10.0)
                            + output.mutual.clone().sum())
                        .mul_scalar(0.1),
                        output.cross_entropy,
                        output.non_target,
                        output.mutual.reshape([experts * experts]),
                    ];
                    terms_and_gradient(&logits, terms)
                };
                let what = format!("{experts} experts, {shape:?}, case {case}, soft {soft}");
                compare(&what, compute(DType::F32), compute(DType::F64));
            }
        }
    }
}

#[test]
fn balanced_softmax_and_cross_entropy_agree_with_the_definition() {
    let device = Device::flex().autodiff();
    let mut random = Random(12);
    for (experts, shape) in [(3, [8, 100]), (6, [4, 1000]), (1, [3, 2])] {
        let batch = Batch::new(&mut random, experts, shape, 8.0);
        let counts: Vec<usize> = (0..shape[1]).map(|c| 1 + 500 / (c + 1)).collect();
        let balanced = BalancedSoftmaxLossConfig::default()
            .init(&LossContext::new(&counts))
            .unwrap();
        let plain = CrossEntropyLossConfig::default()
            .init(&LossContext::new(&counts))
            .unwrap();
        for kind in 0..3 {
            let compute = |dtype: DType| {
                let logits = batch.logits(&device, dtype);
                let terms = match kind {
                    0 => balanced.forward(&logits, batch.hard(&device)).per_expert,
                    1 => {
                        let labels = batch.soft(&device, dtype);
                        balanced.forward_soft(&logits, labels).per_expert
                    }
                    _ => plain.forward(&logits, batch.hard(&device)).per_expert,
                };
                terms_and_gradient(&logits, vec![terms])
            };
            let what = format!("{experts} experts, {shape:?}, kind {kind}");
            compare(&what, compute(DType::F32), compute(DType::F64));
        }
    }
}

#[test]
fn the_value_without_gradients_is_the_same() {
    let mut random = Random(13);
    let batch = Batch::new(&mut random, 3, [6, 40], 5.0);
    let total = |device: &Device| {
        let data = |values: &Vec<f32>| TensorData::new(values.clone(), batch.shape);
        let experts = batch.logits.iter();
        let experts = experts.map(|values| Tensor::<2>::from_data(data(values), device));
        let logits = ExpertLogits {
            experts: experts.collect(),
        };
        let loss = DktLossConfig::default()
            .init(&LossContext::new(&[]))
            .unwrap();
        floats(loss.forward(&logits, batch.hard(device)).total())
    };
    assert_eq!(total(&Device::flex()), total(&Device::flex().autodiff()));
}

#[test]
fn a_label_that_is_no_class_counts_as_in_the_definition() {
    let device = Device::flex().autodiff();
    let mut random = Random(14);
    let mut batch = Batch::new(&mut random, 2, [3, 5], 1.0);
    batch.hard[1] = 5;
    let compute = |dtype: DType| {
        let logits = batch.logits(&device, dtype);
        let output = DktLossConfig::default()
            .init(&LossContext::new(&[]))
            .unwrap()
            .terms(&logits, LossLabels::Hard(batch.hard(&device)));
        terms_and_gradient(&logits, vec![output.cross_entropy, output.non_target])
    };
    compare("label 5 of 5", compute(DType::F32), compute(DType::F64));
}

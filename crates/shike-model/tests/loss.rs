//! The losses by numbers worked out by hand, and where the released float32 code fails.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::*;
use shike_model::loss::{BalancedSoftmaxLossConfig, KlReduction, LossLabels};
use shike_model::{DktLossConfig, ExpertLogits, Loss as _, LossContext};

fn logits(values: &[[[f32; 3]; 2]], device: &Device) -> ExpertLogits {
    let read = |v: &[[f32; 3]; 2]| {
        Tensor::<2>::from_data(*v, device).set_require_grad(device.is_autodiff())
    };
    ExpertLogits {
        experts: values.iter().map(read).collect(),
    }
}

/// Σ p log(p/q) of two logit vectors.
fn kl(teacher: &[f64], student: &[f64]) -> f64 {
    let log_softmax = |x: &[f64]| -> Vec<f64> {
        let sum: f64 = x.iter().map(|v| v.exp()).sum();
        x.iter().map(|v| v - sum.ln()).collect()
    };
    let (t, s) = (log_softmax(teacher), log_softmax(student));
    t.iter().zip(&s).map(|(t, s)| t.exp() * (t - s)).sum()
}

const A: [[f32; 3]; 2] = [[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]];
const B: [[f32; 3]; 2] = [[3.0, -1.0, 0.0], [1.0, 1.5, -2.0]];

#[test]
fn terms_by_hand() {
    let device = Device::flex();
    let both = logits(&[A, B], &device);
    let labels = Tensor::<1, Int>::from_data([0, 1], &device);
    let dkt = DktLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap();
    let output = dkt.forward(&both, labels.clone());
    let loss = dkt.terms(&both, LossLabels::Hard(labels));

    // Image 0, target 0: mean logits (2, .5, −.5), hardest 1; maxima (3, 2, 0).
    // Image 1, target 1: mean logits (.75, .75, .5), hardest 0; maxima (1, 1.5, 3).
    let teachers = [[0.0, 0.5, 0.0], [0.75, 0.0, 3.0]];
    let students = [
        [[-30.0, 2.0, -1.0], [0.5, -30.0, 3.0]],
        [[-30.0, -1.0, 0.0], [1.0, -30.0, -2.0]],
    ];
    let found = floats(loss.non_target.clone());
    for (k, student) in students.iter().enumerate() {
        let expected = (kl(&teachers[0], &student[0]) + kl(&teachers[1], &student[1])) / 6.0;
        assert_rel(&format!("non-target {k}"), found[k], expected, 1e-5);
    }
    let row = |x: [f32; 3]| x.map(f64::from);
    let mutual = floats(loss.mutual.clone());
    let into_a = (kl(&row(B[0]), &row(A[0])) + kl(&row(B[1]), &row(A[1]))) / 6.0;
    assert_rel("mutual 0<-1", mutual[1], into_a, 1e-5);
    assert_eq!((mutual[0], mutual[3]), (0.0, 0.0));
    let ce = floats(loss.cross_entropy.clone());
    let total =
        ce.iter().sum::<f64>() + 10.0 * found.iter().sum::<f64>() + mutual.iter().sum::<f64>();
    assert_rel("total", floats(output.total())[0], total, 1e-6);
}

#[test]
fn batch_mean_is_classes_times_element_mean() {
    let device = Device::flex();
    let both = logits(&[A, B], &device);
    let labels = || Tensor::<1, Int>::from_data([0, 1], &device);
    let element = DktLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap()
        .terms(&both, LossLabels::Hard(labels()));
    let batch = DktLossConfig::default()
        .with_reduction(KlReduction::BatchMean)
        .init(&LossContext::new(&[]))
        .unwrap()
        .terms(&both, LossLabels::Hard(labels()));
    let ratio = floats(batch.non_target)[0] / floats(element.non_target)[0];
    assert_rel("ratio", ratio, 3.0, 1e-6);
    // The weights that keep the published strength are the same loss under both reductions.
    let total = |reduction| {
        let config = DktLossConfig::default().with_reduction(reduction);
        let loss = config
            .with_cifar100_strength(3)
            .init(&LossContext::new(&[]))
            .unwrap();
        floats(loss.forward(&both, labels()).total())[0]
    };
    let (element, batch) = (
        total(KlReduction::ElementMean),
        total(KlReduction::BatchMean),
    );
    assert_rel("same strength", element, batch, 1e-6);
}

#[test]
fn an_excluded_target_makes_equal_experts_free() {
    let device = Device::flex();
    // Equal experts of equal non-target logits: the teacher is the student's distribution.
    let same = [[5.0, 1.0, 1.0], [2.0, 9.0, 2.0]];
    let both = logits(&[same, same], &device);
    let labels = || Tensor::<1, Int>::from_data([0, 1], &device);
    let released = DktLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap()
        .terms(&both, LossLabels::Hard(labels()));
    assert!(floats(released.non_target)[0] > 0.01);
    let paper = DktLossConfig::paper()
        .init(&LossContext::new(&[]))
        .unwrap()
        .terms(&both, LossLabels::Hard(labels()));
    assert_below("paper", floats(paper.non_target)[0].abs(), 1e-6);
    assert_below("mutual", floats(paper.mutual)[1].abs(), 1e-6);
}

#[test]
fn a_detached_teacher_changes_gradients_not_values() {
    let device = Device::flex().autodiff();
    let labels = || Tensor::<1, Int>::from_data([0, 1], &device);
    let run = |detach| {
        let both = logits(&[A, B], &device);
        let loss = DktLossConfig::default()
            .with_detach_teacher(detach)
            .init(&LossContext::new(&[]))
            .unwrap();
        let total = loss.forward(&both, labels()).total();
        let gradients = total.backward();
        let gradient = floats(both.experts[0].grad(&gradients).unwrap());
        (floats(total)[0], gradient)
    };
    let ((value, through), (detached_value, detached)) = (run(false), run(true));
    assert_eq!(value, detached_value);
    assert!(relative_l2(&detached, &through) > 0.02);
}

#[test]
fn stays_finite_at_large_logits() {
    let device = Device::flex().autodiff();
    let a = [[60.0, -60.0, 0.0], [-60.0, 60.0, -60.0]];
    let b = [[-60.0, 60.0, 60.0], [60.0, -60.0, 0.0]];
    let labels = Tensor::<1, Int>::from_data([0, 0], &device);
    for config in [DktLossConfig::default(), DktLossConfig::paper()] {
        let both = logits(&[a, b], &device);
        let loss = config
            .init(&LossContext::new(&[]))
            .unwrap()
            .forward(&both, labels.clone());
        let gradients = loss.total().backward();
        assert!(floats(loss.total())[0].is_finite());
        for logits in &both.experts {
            let gradient = floats(logits.grad(&gradients).unwrap());
            assert!(gradient.iter().all(|x| x.is_finite()), "{gradient:?}");
        }
    }
}

#[test]
fn one_expert_has_no_mutual_term() {
    let device = Device::flex();
    let one = logits(&[A], &device);
    let labels = Tensor::<1, Int>::from_data([0, 1], &device);
    let loss = DktLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap()
        .terms(&one, LossLabels::Hard(labels));
    assert_eq!(floats(loss.mutual), [0.0]);
}

#[test]
fn balanced_softmax_shifts_by_the_log_prior() {
    let device = Device::flex();
    let one = logits(&[A], &device);
    let labels = Tensor::<1, Int>::from_data([0, 1], &device);
    let loss = BalancedSoftmaxLossConfig::default()
        .init(&LossContext::new(&[6, 3, 1]))
        .unwrap();
    let found = floats(loss.forward(&one, labels).total())[0];
    let ce = |x: [f64; 3], y: usize| {
        let weighted = [6.0 * x[0].exp(), 3.0 * x[1].exp(), x[2].exp()];
        -(weighted[y] / weighted.iter().sum::<f64>()).ln()
    };
    let expected = (ce([1.0, 2.0, -1.0], 0) + ce([0.5, 0.0, 3.0], 1)) / 2.0;
    assert_rel("balanced", found, expected, 1e-6);
    let error = BalancedSoftmaxLossConfig::default()
        .init(&LossContext::new(&[5, 0, 2]))
        .unwrap_err();
    assert!(error.to_string().contains("class 1"), "{error}");
}

/// The passes of the kernel run side by side over logits and prior.
#[test]
fn a_loss_of_other_classes_is_refused() {
    for counts in [&[5][..], &[5, 3], &[5, 3, 2, 1]] {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let panic = std::panic::catch_unwind(|| {
                let labels = Tensor::<1, Int>::from_data([0, 1], &device);
                let loss = BalancedSoftmaxLossConfig::default()
                    .init(&LossContext::new(counts))
                    .unwrap();
                loss.forward(&logits(&[A, B], &device), labels)
            });
            let panic = panic.unwrap_err();
            let said = panic.downcast_ref::<String>().unwrap();
            let classes = format!("a loss made for {} classes got logits of 3", counts.len());
            assert!(said.contains(&classes), "{said}");
        }
    }
}

/// Normal numbers of standard deviation 3 (Box and Muller on a linear congruence).
fn random_logits(experts: usize, batch: usize, classes: usize, device: &Device) -> ExpertLogits {
    let mut state = 1u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 33) as f64 + 0.5) / 2f64.powi(31)
    };
    let mut expert = || {
        let values = (0..batch * classes).map(|_| {
            let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), uniform());
            (3.0 * radius * (std::f64::consts::TAU * angle).cos()) as f32
        });
        let values = TensorData::new(values.collect::<Vec<_>>(), [batch, classes]);
        Tensor::from_data(values, device).require_grad()
    };
    ExpertLogits {
        experts: (0..experts).map(|_| expert()).collect(),
    }
}

/// The table in docs/METHODS.md: what the non-target term of three experts weighs beside their
/// cross-entropy, and what each does to the logits of the wrong classes (the sum of its gradient over
/// them; above 0 they are pushed down).
#[test]
fn at_few_classes_the_released_non_target_term_pushes_wrong_classes_up() {
    let device = Device::flex().autodiff();
    const BATCH: usize = 8000;
    let labels = Tensor::<1, Int>::zeros([BATCH], &device);
    let of = |classes: usize, config: DktLossConfig| {
        [true, false].map(|cross_entropy| {
            let logits = random_logits(3, BATCH, classes, &device);
            let loss = config
                .init(&LossContext::new(&[]))
                .unwrap()
                .terms(&logits, LossLabels::Hard(labels.clone()));
            let term = match cross_entropy {
                true => loss.cross_entropy.sum(),
                false => loss.non_target.sum().mul_scalar(config.non_target_weight),
            };
            let gradients = term.backward();
            let wrong = logits.experts.iter().map(|expert| {
                let wrong = expert.grad(&gradients)?.narrow(1, 1, classes - 1);
                Some(wrong.sum().into_scalar::<f32>())
            });
            let wrong: f32 = wrong.flatten().sum();
            [floats(term)[0], f64::from(wrong)]
        })
    };
    // Classes; cross-entropy; the term as released, with CIFAR-100's strength, and as the paper reads.
    let table = [
        (2, [5.5, 1.5], [209.0, -66.0], [4.2, -1.3], 0.0),
        (3, [8.3, 2.0], [55.0, -28.0], [1.7, -0.84], 0.37),
        (5, [11.4, 2.4], [17.3, -4.5], [0.86, -0.22], 0.62),
        (10, [15.3, 2.7], [8.5, -0.37], [0.85, -0.04], 0.82),
        (20, [18.6, 2.8], [4.8, -0.04], [0.95, -0.01], 0.95),
        (100, [25.4, 3.0], [1.2, 0.0], [1.2, 0.0], 1.2),
    ];
    for (classes, cross_entropy, released, kept, paper) in table {
        let near = |what: &str, found: [f64; 2], expected: [f64; 2]| {
            for (found, expected) in found.into_iter().zip(expected) {
                let off = (found - expected).abs();
                let bound = 0.05 * expected.abs() + 0.01;
                assert!(
                    off < bound,
                    "{classes} classes, {what}: {found}, not {expected}"
                );
            }
        };
        let [ce, term] = of(classes, DktLossConfig::default());
        near("cross-entropy", ce, cross_entropy);
        near("released", term, released);
        let config = DktLossConfig::default().with_cifar100_strength(classes);
        near("kept", of(classes, config)[1], kept);
        near(
            "paper",
            of(classes, DktLossConfig::paper())[1],
            [paper, 0.0],
        );
    }
}

//! The losses by numbers worked out by hand, and where the released float32 code fails.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{Device, Int, Tensor};
use common::*;
use shike_model::loss::KlReduction;
use shike_model::{BalancedSoftmaxLoss, DktLossConfig, ExpertLogits};

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
    let loss = DktLossConfig::new().init().forward(&both, labels);

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
    assert_rel("total", floats(loss.total)[0], total, 1e-6);
}

#[test]
fn batch_mean_is_classes_times_element_mean() {
    let device = Device::flex();
    let both = logits(&[A, B], &device);
    let labels = || Tensor::<1, Int>::from_data([0, 1], &device);
    let element = DktLossConfig::new().init().forward(&both, labels());
    let batch = DktLossConfig::new()
        .with_reduction(KlReduction::BatchMean)
        .init()
        .forward(&both, labels());
    let ratio = floats(batch.non_target)[0] / floats(element.non_target)[0];
    assert_rel("ratio", ratio, 3.0, 1e-6);
    // The weights that keep the published strength are the same loss under both reductions.
    let total = |reduction| {
        let config = DktLossConfig::new().with_reduction(reduction);
        let loss = config.with_cifar100_strength(3).init();
        floats(loss.forward(&both, labels()).total)[0]
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
    let released = DktLossConfig::new().init().forward(&both, labels());
    assert!(floats(released.non_target)[0] > 0.01);
    let paper = DktLossConfig::paper().init().forward(&both, labels());
    assert_below("paper", floats(paper.non_target)[0].abs(), 1e-6);
    assert_below("mutual", floats(paper.mutual)[1].abs(), 1e-6);
}

#[test]
fn a_detached_teacher_changes_gradients_not_values() {
    let device = Device::flex().autodiff();
    let labels = || Tensor::<1, Int>::from_data([0, 1], &device);
    let run = |detach| {
        let both = logits(&[A, B], &device);
        let loss = DktLossConfig::new().with_detach_teacher(detach).init();
        let total = loss.forward(&both, labels()).total;
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
    for config in [DktLossConfig::new(), DktLossConfig::paper()] {
        let both = logits(&[a, b], &device);
        let loss = config.init().forward(&both, labels.clone());
        let gradients = loss.total.backward();
        assert!(floats(loss.total)[0].is_finite());
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
    let loss = DktLossConfig::new().init().forward(&one, labels);
    assert_eq!(floats(loss.mutual), [0.0]);
}

#[test]
fn balanced_softmax_shifts_by_the_log_prior() {
    let device = Device::flex();
    let one = logits(&[A], &device);
    let labels = Tensor::<1, Int>::from_data([0, 1], &device);
    let loss = BalancedSoftmaxLoss::new(&[6, 3, 1]).unwrap();
    let found = floats(loss.forward(&one, labels).total)[0];
    let ce = |x: [f64; 3], y: usize| {
        let weighted = [6.0 * x[0].exp(), 3.0 * x[1].exp(), x[2].exp()];
        -(weighted[y] / weighted.iter().sum::<f64>()).ln()
    };
    let expected = (ce([1.0, 2.0, -1.0], 0) + ce([0.5, 0.0, 3.0], 1)) / 2.0;
    assert_rel("balanced", found, expected, 1e-6);
    let error = BalancedSoftmaxLoss::new(&[5, 0, 2]).unwrap_err();
    assert!(error.to_string().contains("class 1"), "{error}");
}

/// The passes of the kernel run side by side over logits and prior.
#[test]
fn a_loss_of_other_classes_is_refused() {
    for counts in [&[5][..], &[5, 3], &[5, 3, 2, 1]] {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let panic = std::panic::catch_unwind(|| {
                let labels = Tensor::<1, Int>::from_data([0, 1], &device);
                let loss = BalancedSoftmaxLoss::new(counts).unwrap();
                loss.forward(&logits(&[A, B], &device), labels)
            });
            let panic = panic.unwrap_err();
            let said = panic.downcast_ref::<String>().unwrap();
            let classes = format!("a loss made for {} classes got logits of 3", counts.len());
            assert!(said.contains(&classes), "{said}");
        }
    }
}

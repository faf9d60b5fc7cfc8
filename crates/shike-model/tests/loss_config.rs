//! Losses as settings: what is read, what is noted, and what is made of mixed batches.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use shike_model::loss::{
    ClassWeights, CrossEntropyLossConfig, FocalLossConfig, LdamLossConfig,
    LogitAdjustmentLossConfig, one_hot,
};
use shike_model::{DktLossConfig, ExpertLogits, Loss, LossConfig, LossContext, LossOutput};

#[test]
fn the_released_dkt_is_noted_at_few_classes() {
    let note = |loss: DktLossConfig, classes| LossConfig::Dkt(loss).note(classes);
    let released = DktLossConfig::default;
    let said = note(released(), 19).unwrap();
    assert!(said.contains("at 19 classes"), "{said}");
    assert!(note(released().with_cifar100_strength(2), 2).is_some());
    for (loss, classes) in [
        (released(), 20),
        (DktLossConfig::paper(), 2),
        (released().with_non_target_weight(0.0), 2),
    ] {
        assert_eq!(note(loss, classes), None);
    }
    assert_eq!(LossConfig::cross_entropy().note(2), None);
}

#[test]
fn losses_are_read_with_their_defaults_and_refuse_typos() {
    let read = |text: &str| serde_json::from_str::<LossConfig>(text);
    let cases = [
        (
            r#"{"kind":"dkt"}"#,
            LossConfig::Dkt(DktLossConfig::default()),
        ),
        (r#"{"kind":"cross_entropy"}"#, LossConfig::cross_entropy()),
        (
            r#"{"kind":"cross_entropy","label_smoothing":0.1}"#,
            LossConfig::CrossEntropy(CrossEntropyLossConfig::default().with_label_smoothing(0.1)),
        ),
        (
            r#"{"kind":"focal","gamma":1,"weights":{"kind":"inverse_frequency"}}"#,
            LossConfig::Focal(
                FocalLossConfig::default()
                    .with_gamma(1.0)
                    .with_weights(Some(ClassWeights::inverse_frequency())),
            ),
        ),
        (
            r#"{"kind":"ldam","weights":{"kind":"effective_number","beta":0.9999},
                "weights_from_epoch":160}"#,
            LossConfig::Ldam(
                LdamLossConfig::default()
                    .with_weights(Some(ClassWeights::effective_number()))
                    .with_weights_from_epoch(160),
            ),
        ),
        (
            r#"{"kind":"balanced_softmax"}"#,
            LossConfig::balanced_softmax(),
        ),
        (
            r#"{"kind":"logit_adjustment"}"#,
            LossConfig::LogitAdjustment(LogitAdjustmentLossConfig::default().with_tau(1.0)),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text).unwrap(), expected, "{text}");
        let again = serde_json::to_string(&expected).unwrap();
        assert_eq!(read(&again).unwrap(), expected, "{again}");
    }
    let wrong = [
        (r#"{"kind":"focal","gama":1}"#, "unknown field `gama`"),
        (
            r#"{"kind":"focal","gamma":"two"}"#,
            "invalid type: string \"two\", expected f64",
        ),
        (r#"{"kind":"dkt","gamma":1}"#, "unknown field `gamma`"),
        (
            r#"{"kind":"balanced_softmax","tau":1}"#,
            "unknown field `tau`",
        ),
        (r#"{"kind":"arcface"}"#, "unknown variant `arcface`"),
        (
            r#"{"kind":"focal","weights":{"kind":"inverse_frequency","beta":0.9}}"#,
            "unknown field `beta`",
        ),
    ];
    for (text, expected) in wrong {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn every_loss_has_a_name_and_answers_in_the_same_way() {
    let device = Device::flex();
    let counts = [5, 3, 1];
    let logits = ExpertLogits {
        experts: vec![
            Tensor::ones([2, 3], &device),
            Tensor::zeros([2, 3], &device),
        ],
    };
    for loss in LossConfig::all() {
        let default = LossConfig::NAMED
            .iter()
            .any(|named| (named.config)() == loss);
        assert!(default, "{loss:?}");
    }
    for named in LossConfig::NAMED {
        let loss = (named.config)().init(&LossContext::new(&counts)).unwrap();
        let labels = Tensor::<1, Int>::from_ints([2, 0], &device);
        for output in [
            loss.forward(&logits, labels.clone()),
            loss.forward_mixed(&logits, labels, 0.7),
        ] {
            assert_eq!(output.per_expert.dims(), [2], "{}", named.name);
            let sum = output.per_expert.clone().sum().into_scalar::<f32>();
            let total = output.total().into_scalar::<f32>();
            assert!(
                (sum - total).abs() < 1e-5 * total.abs(),
                "{}: {sum} {total}",
                named.name
            );
        }
    }
}

#[test]
fn a_mixed_cross_entropy_is_that_of_soft_labels() {
    let device = Device::flex();
    let values = |seed: f32| {
        let values = [0.3, -1.0, 2.0, 0.7, 0.1, -0.4, 1.5, 0.2, 0.9].map(|x: f32| x * seed);
        Tensor::<1>::from_floats(values, &device).reshape([3, 3])
    };
    let logits = ExpertLogits {
        experts: vec![values(1.0), values(-0.5)],
    };
    let config = CrossEntropyLossConfig::default().with_label_smoothing(0.1);
    let loss = config.init(&LossContext::new(&[5, 5, 5])).unwrap();
    // The loss smooths them itself. The partners of 2, 0, 1 are 1, 0, 2.
    let soft = [[0.0, 0.3, 0.7], [1.0, 0.0, 0.0], [0.0, 0.7, 0.3]];
    let expected = loss.forward_soft(&logits, Tensor::from_floats(soft, &device));

    let labels = Tensor::<1, Int>::from_ints([2, 0, 1], &device);
    let mixed = loss.forward_mixed(&logits, labels, 0.7);
    let read = |loss: LossOutput| loss.total().into_scalar::<f32>();
    let (found, expected) = (read(mixed), read(expected));
    assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
}

/// Softmax, and the released loss by its definition in plain numbers, for soft labels.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| x.exp()).sum();
    logits.iter().map(|x| x.exp() / sum).collect()
}

fn divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

fn released(experts: &[Vec<Vec<f64>>], labels: &[Vec<f64>]) -> f64 {
    let (batch, classes) = (labels.len() as f64, labels[0].len());
    let mut total = 0.0;
    for (image, label) in labels.iter().enumerate() {
        let rows: Vec<&Vec<f64>> = experts.iter().map(|expert| &expert[image]).collect();
        let of = |f: &dyn Fn(usize) -> f64| (0..classes).map(f).collect::<Vec<f64>>();
        let mean = of(&|c| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64);
        let masked = of(&|c| -30.0 * label[c] + mean[c] * (1.0 - label[c]));
        let hardest = (0..classes)
            .max_by(|&a, &b| masked[a].total_cmp(&masked[b]))
            .unwrap();
        let largest = of(&|c| rows.iter().map(|row| row[c]).fold(f64::MIN, f64::max));
        let teacher = of(&|c| match c == hardest {
            true => masked[c],
            false => largest[c] * (1.0 - label[c]),
        });
        for (i, row) in rows.iter().enumerate() {
            let p = softmax(row);
            total -= (0..classes).map(|c| label[c] * p[c].ln()).sum::<f64>() / batch;
            let student = of(&|c| row[c] * (1.0 - label[c]) - 30.0 * label[c]);
            let mut terms = 10.0 * divergence(&softmax(&teacher), &softmax(&student));
            for (j, other) in rows.iter().enumerate() {
                if j != i {
                    terms += divergence(&softmax(other), &p);
                }
            }
            total += terms / (batch * classes as f64);
        }
    }
    total
}

#[test]
fn a_mixed_transfer_loss_is_that_of_soft_labels() {
    let device = Device::flex();
    // Three images of four classes; the partner of the first, of class 3, looks like it too.
    let experts = [
        vec![
            vec![3.0, -1.0, 0.5, 4.0],
            vec![0.2, 1.0, -0.3, 0.0],
            vec![2.0, 0.1, 0.4, 3.5],
        ],
        vec![
            vec![2.5, 0.3, -0.5, 3.0],
            vec![-0.2, 0.6, 0.3, 1.0],
            vec![1.0, -0.1, 0.9, 2.5],
        ],
    ];
    let labels = [0, 1, 3];
    let share = 0.6;
    let soft: Vec<Vec<f64>> = (0..3)
        .map(|image| {
            let mut row = vec![0.0; 4];
            row[labels[image]] += share;
            row[labels[2 - image]] += 1.0 - share;
            row
        })
        .collect();
    let logits = |dtype: FloatDType| ExpertLogits {
        experts: experts
            .iter()
            .map(|rows| {
                let values: Vec<f64> = rows.concat();
                let data = TensorData::new(values, [3, 4]);
                Tensor::<2>::from_data(data, (&device, DType::F64)).cast(dtype)
            })
            .collect(),
    };
    let expected = released(&experts, &soft);
    let loss = DktLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap();
    let ints = labels.map(|label| label as i64);
    let labels = || Tensor::<1, Int>::from_ints(ints, &device);
    // Float32 takes the kernel, float64 the definition in tensors.
    for (dtype, tolerance) in [(FloatDType::F32, 1e-5), (FloatDType::F64, 1e-6)] {
        let mixed = loss.forward_mixed(&logits(dtype), labels(), share);
        let found = mixed.total().into_scalar::<f64>();
        assert!(
            (found / expected - 1.0).abs() < tolerance,
            "{found} {expected}"
        );
        assert_eq!(mixed.terms.len(), 3);
    }
    // A mix with an image of the same class, or with nothing, is no mix.
    let same = || Tensor::<1, Int>::from_ints([3, 1, 3], &device);
    let hard = |labels| loss.forward(&logits(FloatDType::F64), labels).total();
    let mixed = |labels, share| {
        loss.forward_mixed(&logits(FloatDType::F64), labels, share)
            .total()
    };
    let read = |loss: Tensor<1>| loss.into_scalar::<f64>();
    assert_eq!(read(mixed(same(), 0.3)), read(hard(same())));
    assert_eq!(read(mixed(labels(), 1.0)), read(hard(labels())));
    // The partner's class is no hard negative, as it would be beside the label alone.
    let hardest = |labels: Tensor<2>| -> Vec<i64> {
        let teacher = loss.teacher(&logits(FloatDType::F64), labels);
        teacher.hardest.into_data().iter::<i64>().collect()
    };
    let like = &logits(FloatDType::F64).experts[0];
    let own = one_hot(labels(), like);
    let partners = one_hot(labels().flip([0]), like);
    assert_eq!(hardest(own.clone())[0], 3);
    let both = own.mul_scalar(share) + partners.mul_scalar(1.0 - share);
    assert!([1, 2].contains(&hardest(both)[0]));
}

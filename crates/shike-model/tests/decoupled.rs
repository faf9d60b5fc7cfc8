//! τ-normalisation and learnable weight scaling, by numbers worked out by hand.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Int, Tensor};
use common::*;
use shike_model::loss::{CrossEntropyLossConfig, Loss as _, LossContext};
use shike_model::network::Classifier;
use shike_model::{ClassifierConfig, Head, Shike, ShikeConfig};

fn network(device: &Device) -> Shike {
    device.seed(2);
    let config = ShikeConfig::cifar_plain(8, 3).unwrap();
    config.with_stage2_heads(true).init(device).unwrap()
}

fn linear(model: &Shike, head: Head) -> &Linear {
    match model.experts[0].head(head) {
        Classifier::Linear(linear) => linear,
        other => panic!("{other:?}"),
    }
}

fn images(device: &Device) -> Tensor<4> {
    let values = Tensor::<1, Int>::arange(0..2 * 3 * 64, device).float();
    values.sin().reshape([2, 3, 8, 8])
}

#[test]
fn tau_takes_a_power_of_the_length_from_each_class() {
    let device = Device::flex();
    let mut model = network(&device);
    let mut head = LinearConfig::new(2, 3).init(&device);
    // One column a class; lengths 5, 2 and 0.
    let weight = Tensor::from_data([[3.0, 0.0, 0.0], [4.0, 2.0, 0.0]], &device);
    head.weight = Param::from_tensor(weight);
    head.bias = Some(Param::from_tensor(Tensor::ones([3], &device)));
    model.experts[0].head1 = Classifier::Linear(head);
    let root = 5f64.sqrt();
    let cases = [
        (0.0, [3.0, 0.0, 0.0, 4.0, 2.0, 0.0]),
        (1.0, [0.6, 0.0, 0.0, 0.8, 1.0, 0.0]),
        (0.5, [3.0 / root, 0.0, 0.0, 4.0 / root, 2f64.sqrt(), 0.0]),
    ];
    for (tau, expected) in cases {
        let normalized = model.clone().tau_normalize(tau).unwrap();
        let head = linear(&normalized, Head::Stage2);
        let found = floats(head.weight.val());
        assert_below(&format!("tau {tau}"), max_abs(&found, &expected), 1e-6);
        let bias = head.bias.as_ref().unwrap().val();
        assert_eq!(floats(bias), [0.0; 3]);
    }
}

#[test]
fn scaling_trains_the_factors_alone_and_folds_into_the_head() {
    let device = Device::flex().autodiff();
    let model = network(&device).scale_stage1_heads().unwrap();
    let before = model.clone();
    let mut model = model.freeze_for_stage2(true);
    assert_eq!(model.trainable_params(), 3);
    let labels = || Tensor::<1, Int>::from_data([0, 2], &device);
    let mut optimizer = SgdConfig::new().init();
    let mut losses = vec![];
    for _ in 0..5 {
        let logits = model.forward(images(&device), Head::Stage2);
        let loss = CrossEntropyLossConfig::default()
            .init(&LossContext::new(&[]))
            .unwrap()
            .forward(&logits, labels())
            .total();
        losses.push(floats(loss.clone())[0]);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.1, model, gradients);
    }
    assert!(losses[4] < losses[0], "{losses:?}");
    let weights = |model: &Shike| floats(linear(model, Head::Stage1).weight.val());
    assert_eq!(weights(&model), weights(&before));

    let Some(Classifier::Scaled(scaled)) = &model.experts[0].head2 else {
        panic!("the head has factors until they are folded");
    };
    let factors = floats(scaled.scale.val());
    assert!(factors.iter().all(|factor| *factor != 1.0), "{factors:?}");
    let folded = model.clone().fold_head_scales();
    let expected: Vec<f64> = weights(&model)
        .iter()
        .zip(factors.iter().cycle())
        .map(|(weight, factor)| weight * factor)
        .collect();
    let found = floats(linear(&folded, Head::Stage2).weight.val());
    assert_below("folded", max_abs(&found, &expected), 1e-7);
    let logits = |model: &Shike| {
        let images = images(&device).inner();
        floats(model.valid().forward(images, Head::Stage2).mean())
    };
    let difference = max_abs(&logits(&folded), &logits(&model));
    assert_below("logits", difference, 1e-5);
}

#[test]
fn a_cosine_classifier_has_no_length() {
    let device = Device::flex();
    let config = ShikeConfig::cifar_plain(8, 3).unwrap();
    let config = config.with_classifier(ClassifierConfig::cosine());
    let model = config.init(&device).unwrap();
    for result in [model.clone().tau_normalize(1.0), model.scale_stage1_heads()] {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("classifier: the cosine classifier"),
            "{error}"
        );
    }
}

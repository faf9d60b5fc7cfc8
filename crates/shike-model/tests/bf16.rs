//! A network in bfloat16: what is computed in which type, and how far gradients are off.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Distribution, FloatDType, Int, Tensor};
use common::*;
use shike_model::{DktLossConfig, Head, Loss as _, LossContext, Shike, ShikeConfig};

struct Gradients<'a> {
    gradients: &'a burn::tensor::Gradients,
    found: Vec<(DType, Vec<f64>)>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            self.found.push((gradient.dtype(), floats(gradient)));
        }
    }
}

fn gradients(model: &Shike, images: Tensor<4>) -> Vec<(DType, Vec<f64>)> {
    let labels = Tensor::<1, Int>::from_data([0, 1, 2, 3, 0, 1, 2, 3], &images.device());
    let logits = model.forward(images, Head::Stage1);
    assert_eq!(logits.experts[0].dtype(), DType::F32);
    let loss = DktLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap()
        .forward(&logits, labels)
        .total();
    println!("loss {}", loss.clone().into_scalar::<f32>());
    let gradients = loss.backward();
    let mut visitor = Gradients {
        gradients: &gradients,
        found: vec![],
    };
    model.visit(&mut visitor);
    visitor.found
}

#[test]
fn weights_and_their_gradients_stay_float32() {
    let device = Device::flex().autodiff();
    device.seed(2);
    let model = ShikeConfig::cifar(8, 4).unwrap().init(&device).unwrap();
    let normal = Distribution::Normal(0.0, 1.0);
    let images = Tensor::<4>::random([8, 3, 16, 16], normal, &device);
    let wide = gradients(&model, images.clone());
    let features = model.features(images.clone().cast(FloatDType::BF16));
    assert_eq!(
        features.shared[0].clone().into_pyramid().dtype(),
        DType::BF16
    );
    assert_eq!(features.experts[0].pooled.dtype(), DType::F32);
    let narrow = gradients(&model, images.cast(FloatDType::BF16));
    assert_eq!(wide.len(), narrow.len());
    let mut off = vec![];
    for ((_, wide), (dtype, narrow)) in wide.iter().zip(&narrow) {
        assert_eq!(*dtype, DType::F32);
        off.push(relative_l2(narrow, wide));
    }
    off.sort_by(f64::total_cmp);
    let (median, worst) = (off[off.len() / 2], off[off.len() - 1]);
    println!("gradients are off by {median:.3} (median), {worst:.3} (worst)");
    // PyTorch's autocast is off by as much on such a network: 0.09 and 0.20.
    assert_below("median gradient", median, 0.15);
    assert_below("worst gradient", worst, 0.4);
    assert!(worst > 1e-3, "bfloat16 must round");
}

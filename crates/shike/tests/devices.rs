//! Every other device of this binary computes what the CPU backend computes.
//!
//! With the default features there is no other device, and the test is ignored; the commands for GPUs
//! are in `docs/TESTING.md`.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use shike::data::Normalization;
use shike::infer::device;
use shike::infer::device::batch::{Upload, normalized};
use shike::model::network::Trunk;
use shike::model::{
    BackboneConfig, DktLossConfig, Head, Loss as _, LossContext, Shike, ShikeConfig, weights,
};
use shike::train::learner::optim::Sgd;

struct Gradients<'a> {
    gradients: &'a burn::tensor::Gradients,
    found: Vec<Vec<f32>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            self.found.push(gradient.into_data().iter().collect());
        }
    }
}

/// Eval logits, gradients of the first step, and the loss of each of a few steps.
struct Computed {
    logits: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    losses: Vec<f32>,
}

const BATCH: usize = 8;

fn numbers(count: usize) -> Vec<f32> {
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    let mut state = 7;
    std::iter::from_fn(|| next(&mut state))
        .take(count)
        .collect()
}

fn compute(device: &Device, start: &weights::StateDict) -> Computed {
    let device = device.clone().autodiff();
    let config = ShikeConfig::cifar(8, 10).unwrap();
    let model = config.init(&device).unwrap();
    let mut model: Shike =
        weights::load_state_dict(model, start.clone(), "weights".as_ref()).unwrap();
    let images = TensorData::new(numbers(BATCH * 3 * 32 * 32), [BATCH, 3, 32, 32]);
    let images = Tensor::<4>::from_data(images, &device);
    let labels: Vec<i64> = (0..BATCH as i64).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [BATCH]), &device);

    let logits = model.valid().forward(images.clone().inner(), Head::Stage1);
    let logits = logits.mean().into_data().iter().collect();
    let loss = DktLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap();
    let mut optimizer = Sgd::new(0.9, 5e-4).init();
    let (mut losses, mut first) = (vec![], None);
    for _ in 0..5 {
        let output = loss.forward(&model.forward(images.clone(), Head::Stage1), labels.clone());
        losses.push(output.total().into_scalar::<f32>());
        let gradients = output.total().backward();
        first.get_or_insert_with(|| {
            let mut visitor = Gradients {
                gradients: &gradients,
                found: vec![],
            };
            model.visit(&mut visitor);
            visitor.found
        });
        let gradients = GradientsParams::from_grads(gradients, &model);
        model = optimizer.step(0.05, model, gradients);
    }
    Computed {
        logits,
        gradients: first.unwrap(),
        losses,
    }
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = found.iter().zip(expected);
    let difference = norm(&mut pairs.map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|&v| f64::from(v))).max(1e-12)
}

/// The other devices of this binary that work.
fn others() -> Vec<(&'static str, Device)> {
    let names = device::available().into_iter();
    let mut absent = vec![];
    let opened = |name| match device::parse(name) {
        Ok(device) => Some((name, device)),
        Err(error) => {
            absent.push(format!("{name}: {error}"));
            None
        }
    };
    let devices: Vec<_> = names
        .filter(|name| *name != "flex")
        .filter_map(opened)
        .collect();
    println!("not compared: {absent:?}");
    assert!(!devices.is_empty(), "no other device works: {absent:?}");
    devices
}

#[test]
#[cfg_attr(
    not(any(
        feature = "cuda",
        feature = "rocm",
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "cpu"
    )),
    ignore = "this build has no other device"
)]
fn other_devices_agree_with_the_cpu() {
    let devices = others();
    networks_train_alike(&devices);
    trunks_embed_alike(&devices);
}

fn networks_train_alike(devices: &[(&str, Device)]) {
    let flex = Device::flex();
    flex.seed(3);
    let model = ShikeConfig::cifar(8, 10).unwrap().init(&flex).unwrap();
    let start = weights::state_dict(&model).into_iter().collect();
    let expected = compute(&flex, &start);
    for (name, device) in devices {
        let found = compute(device, &start);
        let logits = relative(&found.logits, &expected.logits);
        let pairs = found.gradients.iter().zip(&expected.gradients);
        let gradients = pairs.map(|(found, expected)| relative(found, expected));
        let gradients = gradients.fold(0.0, f64::max);
        let losses = relative(&found.losses, &expected.losses);
        let bytes: Vec<u8> = (0..2 * 5 * 7 * 3).map(|i| (i * 41 % 256) as u8).collect();
        let images = |upload, device: &Device| -> Vec<f32> {
            let images = normalized(&bytes, [5, 7], &Normalization::IMAGENET, upload, device);
            images.into_data().iter().collect()
        };
        let uploaded = images(Upload::U8, device);
        let difference = relative(&uploaded, &images(Upload::F32, &flex));
        assert!(
            difference < 1e-6,
            "{name}: images of bytes differ by {difference:.1e}"
        );
        println!(
            "{name}: relative difference of logits {logits:.1e}, of the worst gradient \
             {gradients:.1e}, of the losses of 5 steps {losses:.1e}"
        );
        // CUDA takes TF32 products, of 10 bits, for those of float32, and small changes turn units of ReLU on and off.
        // PyTorch with products rounded so, over eight seeds: logits up to 6.8e-4, gradients 5.3e-2 to 1.6e-1, losses
        // 1.4e-2 to 1.7e-1.
        let limits = match *name {
            "cuda" => [5e-3, 0.25, 0.25],
            _ => [1e-4, 1e-3, 1e-3],
        };
        let found = [logits, gradients, losses];
        for ((what, found), limit) in ["logits", "gradients", "losses"]
            .iter()
            .zip(found)
            .zip(limits)
        {
            assert!(found < limit, "{name}: {what} differ by {found:.1e}");
        }
    }
}

fn trunks_embed_alike(devices: &[(&str, Device)]) {
    let flex = Device::flex();
    flex.seed(5);
    for (backbone, side) in [
        ("resnet18", 64),
        ("efficientnet_lite0", 64),
        ("vit_s16", 64),
        ("dinov2_s14_reg", 56),
    ] {
        let config = BackboneConfig::named(backbone).unwrap();
        let trunk = config.init(&flex).unwrap();
        // Norms of zero and one would hide a mistake.
        let state = weights::trunk_state_dict(&trunk).into_iter();
        let moved = |(name, data): (String, TensorData)| {
            let shape = data.shape().clone();
            let values = data.iter::<f32>().zip(numbers(shape.num_elements()));
            let values: Vec<f32> = values.map(|(value, by)| value + 0.05 * by).collect();
            (name, TensorData::new(values, shape))
        };
        let state: weights::StateDict = state.map(moved).collect();
        let embed = |device: &Device| -> Vec<Vec<f32>> {
            let trunk = config.init(device).unwrap();
            let trunk: Trunk =
                weights::load_trunk(trunk, state.clone(), "weights".as_ref()).unwrap();
            let images = TensorData::new(numbers(2 * 3 * side * side), [2, 3, side, side]);
            let depths = trunk.embed(Tensor::from_data(images, device));
            let depths = depths.into_iter().map(|depth| depth.into_data());
            depths.map(|depth| depth.iter().collect()).collect()
        };
        let expected = embed(&flex);
        for (name, device) in devices {
            let worst = |(found, expected): (&Vec<f32>, &Vec<f32>)| {
                let pairs = found.iter().zip(expected);
                let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let largest = expected.iter().map(|v| v.abs()).fold(0.0, f32::max);
                difference / largest
            };
            let found = embed(device);
            let worst = found.iter().zip(&expected).map(worst);
            let worst = worst.fold(0.0, f32::max);
            println!("{name}: {backbone}: features differ by {worst:.1e} of the largest");
            // TF32 products, which GPUs take for float32 convolutions, have 10 bits.
            let limit = if *name == "cuda" { 2e-2 } else { 1e-3 };
            assert!(worst < limit, "{name}: {backbone}: {worst:.1e}");
        }
    }
}

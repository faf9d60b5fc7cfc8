//! SHIKE's network and losses inside a training loop of one's own: no data crate, no learner.

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use shike::model::loss::BalancedSoftmaxLossConfig;
use shike::model::{DktLossConfig, Head, Loss, LossContext, ShikeConfig};

const CLASSES: usize = 10;
const STEPS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().any(|arg| arg == "--help" || arg == "-h") {
        println!("library_use: trains a small SHIKE in a loop of its own, on made-up images\n");
        println!("Usage: cargo run --example library_use");
        return Ok(());
    }
    // Any Burn device: `Device::cuda(0)`, `Device::vulkan(..)`, …
    let device = Device::flex().autodiff();
    device.seed(0);
    let mut model = ShikeConfig::cifar(8, CLASSES)?
        .with_experts(2)
        .init(&device)?;
    println!("{}\n", model.describe([32, 32]));

    // Stage 1: features and classifiers together, with dynamic knowledge transfer.
    let counts: Vec<usize> = (0..CLASSES).map(|class| 500 >> class.min(6)).collect();
    let context = LossContext::new(&counts);
    let loss = DktLossConfig::default()
        .with_cifar100_strength(CLASSES)
        .init(&context)?;
    let mut optimizer = SgdConfig::new().init();
    for step in 0..STEPS {
        let (images, labels) = batch(&device);
        let loss = loss.forward(&model.forward(images, Head::Stage1), labels);
        if step % 5 == 0 {
            let total: f32 = loss.total().into_scalar();
            print!("stage 1, step {step}: loss {total:.3}");
            for (name, term) in &loss.terms {
                print!(", {name} {:.3}", term.clone().into_scalar::<f32>());
            }
            println!();
        }
        let gradients = GradientsParams::from_grads(loss.total().backward(), &model);
        model = optimizer.step(0.05, model, gradients);
    }

    // Stage 2: new classifiers on frozen features, balanced by the classes' training counts.
    let loss = BalancedSoftmaxLossConfig::default().init(&context)?;
    model = model.freeze_for_stage2(false);
    let mut optimizer = SgdConfig::new().init();
    for step in 0..STEPS {
        let (images, labels) = batch(&device);
        let loss = loss.forward(&model.forward(images, Head::Stage2), labels);
        if step % 5 == 0 {
            let total: f32 = loss.total().into_scalar();
            println!("stage 2, step {step}: loss {total:.3}");
        }
        let gradients = GradientsParams::from_grads(loss.total().backward(), &model);
        model = optimizer.step(0.05, model, gradients);
    }

    // Inference: the mean of the experts' logits.
    let (images, _) = batch(&device);
    let logits = model.valid().forward(images.inner(), Head::Stage2).mean();
    println!("predicted classes: {}", logits.argmax(1).into_data());
    Ok(())
}

/// Images whose brightness tells their class.
fn batch(device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let labels = Tensor::<1, Int>::arange(0..CLASSES as i64, device);
    let level = labels.clone().float().reshape([CLASSES, 1, 1, 1]);
    let noise = Tensor::<4>::random([CLASSES, 3, 32, 32], Distribution::Normal(0.0, 0.3), device);
    (noise + level.div_scalar(5.0).sub_scalar(1.0), labels)
}

//! Training in bfloat16 follows training in float32.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use common::random;
use shike_data::{Dataset, Pipeline};
use shike_infer::Precision;
use shike_model::kernels::{self, Simd};
use shike_model::{ClassifierConfig, ShikeConfig};
use shike_train::{Learner, Progress, RunDir, Schedule, Session, TrainConfig, TrainData};

const SEEDS: u64 = 4;

/// Images of 16×16 whose brightness and stripes tell their class, with noise.
fn images() -> Dataset {
    const SIDE: usize = 16;
    let (mut pixels, mut labels) = (vec![], vec![]);
    let mut state = 5u32;
    for image in 0..96 {
        let class = image % 4;
        labels.push(class as u32);
        for at in 0..SIDE * SIDE {
            let stripe = if class % 2 == 0 { at % SIDE } else { at / SIDE };
            for _ in 0..3 {
                let noise = (random(&mut state) >> 26) as usize;
                let value = 40 + 60 * (class / 2) + 50 * (stripe / 2 % 2) + noise;
                pixels.push(value as u8);
            }
        }
    }
    Dataset::from_pixels(pixels, SIDE, SIDE, labels, 4).unwrap()
}

/// Losses of the epochs of both stages, the mean of a few seeds: single ones differ by up to 10 %.
fn losses(precision: Precision) -> Vec<f64> {
    let runs: Vec<_> = (0..SEEDS).map(|seed| losses_of(precision, seed)).collect();
    let mean = |epoch| runs.iter().map(|run| run[epoch]).sum::<f64>() / SEEDS as f64;
    (0..runs[0].len()).map(mean).collect()
}

fn losses_of(precision: Precision, seed: u64) -> Vec<f64> {
    // A small scale of the cosine and a low rate: otherwise training itself blows up any difference,
    // of whatever size.
    let model = ShikeConfig::cifar(8, 4)
        .unwrap()
        .with_experts(2)
        .with_classifier(ClassifierConfig::Cosine { scale: 4.0 });
    let mut config = TrainConfig::cifar(model, [4, 1]);
    config.stage1.schedule = Schedule::Constant { lr: 0.002 };
    config.seed = seed;
    config.precision = precision;
    config.loader.batch_size = 8;
    config.loader.workers = 1;
    config.train_pipeline = Pipeline::default();
    config.eval_pipeline = Pipeline::default();
    let data = TrainData {
        train: images(),
        val: None,
        test: None,
    };
    let learner = Learner::new(config, data, Device::flex()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let mut run: RunDir = learner.create_run(&path, None, None, None).unwrap();
    let stop = AtomicBool::new(false);
    learner
        .run(&mut Session::new(&mut run, &mut Progress::silent(), &stop))
        .unwrap();
    let receipt = std::fs::read_to_string(run.paths().receipt()).unwrap();
    let rounds = precision == Precision::Bf16;
    assert_eq!(receipt.contains("bf16)"), rounds, "{receipt}");
    let text = std::fs::read_to_string(run.paths().metrics_jsonl()).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let loss = |row: serde_json::Value| row["train_loss"].as_f64().unwrap();
    rows.map(loss).collect()
}

#[test]
fn the_loss_in_bfloat16_follows_that_in_float32() {
    let wide = losses(Precision::F32);
    // A processor without instructions for it computes it in plain Rust.
    let narrow = match kernels::has_bf16() {
        true => losses(Precision::Bf16),
        false => Simd::available()[0].with(|| losses(Precision::Bf16)),
    };
    println!("float32 {wide:.3?}\nbfloat16 {narrow:.3?}");
    assert_eq!(wide.len(), 5);
    assert!(wide[3] < 0.8 * wide[0], "float32 learns: {wide:?}");

    for (wide, narrow) in wide.iter().zip(&narrow) {
        assert!((narrow / wide - 1.0).abs() < 0.05, "{wide} and {narrow}");
    }
    assert_ne!(wide, narrow, "bfloat16 must round");
}

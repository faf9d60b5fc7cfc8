//! A whole training step (forward, loss, backward, SGD) and an evaluation, with the CPU kernels on
//! and off by turns, in medians.
//!
//! ```sh
//! RAYON_NUM_THREADS=2 cargo bench -p shike-train --bench step -- [cifar|resnet50] [on|off|both] [rounds]
//! ```
//!
//! Beside the wall time stands the processor time, which is less disturbed by other programs.
//! Peak memory is the process's: it says something with `on` or `off` alone.

use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Int, Tensor};
use shike_model::{DktLossConfig, Head, Shike, ShikeConfig};
use shike_train::optim::Sgd;

struct Work {
    config: ShikeConfig,
    batch: usize,
    side: usize,
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or(default.into());
    let work = match arg(0, "cifar").as_str() {
        "cifar" => Work {
            config: ShikeConfig::cifar(32, 100).expect("a depth that exists"),
            batch: 128,
            side: 32,
        },
        "resnet50" => Work {
            config: ShikeConfig::plain(
                shike_model::BackboneConfig::resnet(50).expect("a depth that exists"),
                1000,
            ),
            batch: 16,
            side: 224,
        },
        other => panic!("no such work: {other}"),
    };
    let modes: &[bool] = match arg(1, "both").as_str() {
        "on" => &[true],
        "off" => &[false],
        _ => &[true, false],
    };
    let rounds: usize = arg(2, "7").parse().expect("a number of rounds");

    let device = Device::flex().autodiff();
    device.seed(0);
    let mut model = work.config.init(&device).expect("a valid configuration");
    let shape = [work.batch, 3, work.side, work.side];
    let images = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let labels = Tensor::<1, Int>::arange(0..work.batch as i64, &device)
        .remainder_scalar(work.config.num_classes as i64);
    let loss = DktLossConfig::new().init();
    let mut optimizer = Sgd::new(0.9, 5e-4).init();
    let mut times: Vec<[Vec<[f64; 2]>; 2]> = vec![Default::default(); 2];
    let mut split = vec![[Vec::new(), Vec::new(), Vec::new()]; 2];
    for round in 0..=rounds {
        for &on in modes {
            shike_model::kernels::set_enabled(on);
            let clock = Clock::start();
            let logits = model.forward(images.clone(), Head::Stage1);
            let value = match work.config.is_plain() {
                true => {
                    let loss = burn::nn::loss::CrossEntropyLossConfig::new().init(&device);
                    loss.forward(logits.experts[0].clone(), labels.clone())
                }
                false => loss.forward(&logits, labels.clone()).total,
            };
            let number: f32 = value.clone().into_scalar();
            assert!(number.is_finite());
            let forward = clock.stop()[0];
            let grads = GradientsParams::from_grads(value.backward(), &model);
            let backward = clock.stop()[0] - forward;
            model = optimizer.step(1e-3, model, grads);
            let step = clock.stop();
            let clock = Clock::start();
            evaluate(&model, images.clone().inner());
            let evaluation = clock.stop();
            // The first round warms up.
            if round > 0 {
                let slot = usize::from(on);
                times[slot][0].push(step);
                times[slot][1].push(evaluation);
                for (part, value) in [forward, backward, step[0] - forward - backward]
                    .into_iter()
                    .enumerate()
                {
                    split[slot][part].push(value);
                }
            }
        }
    }
    for &on in modes {
        let slot = usize::from(on);
        let name = if on { "on " } else { "off" };
        for (what, samples) in ["step", "evaluation"].iter().zip(&times[slot]) {
            let [wall, cpu] = [0, 1].map(|i| median(samples.iter().map(|s| s[i]).collect()));
            println!("kernels {name} {what:10} {wall:7.3} s wall {cpu:7.2} s processor");
        }
        let [f, b, o] = [0, 1, 2].map(|i| median(split[slot][i].clone()));
        println!("kernels {name} forward {f:.3} s, backward {b:.3} s, optimizer {o:.3} s");
    }
    println!("peak memory {} MiB", status("VmHWM:") / 1024);
}

fn evaluate(model: &Shike, images: Tensor<4>) {
    let logits = model.clone().valid().forward(images, Head::Stage1).mean();
    let sum: f32 = logits.sum().into_scalar();
    assert!(sum.is_finite());
}

struct Clock(Instant, f64);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), processor())
    }

    /// Wall and processor seconds.
    fn stop(&self) -> [f64; 2] {
        [self.0.elapsed().as_secs_f64(), processor() - self.1]
    }
}

/// Seconds that this process has computed; 0 where the system does not tell.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks: Vec<f64> = fields
        .skip(12)
        .take(2)
        .filter_map(|f| f.parse().ok())
        .collect();
    ticks.iter().sum::<f64>() / 100.0
}

/// A line of `/proc/self/status`; 0 where there is none.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    value.unwrap_or(0)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

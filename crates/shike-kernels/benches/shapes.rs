//! The convolutions of the models one by one, GFLOP/s of output, input gradient and weight gradient, and
//! the layers of transformers, GFLOP/s of the output (for those that are no product: values a nanosecond), with
//! the kernels on each instruction set of this processor, in float32 and in bfloat16. Behind each convolution stands its share, in percent, of the
//! smaller of two limits: multiplications and additions in registers alone, and the memory's bandwidth for what has to
//! be read and written once; both are measured first. Winograd's tiles form fewer products than are counted here, and may go
//! beyond 100 %.
//!
//! ```sh
//! RAYON_NUM_THREADS=2 cargo bench --workspace --bench shapes -- [part of a name]
//! ```

use std::time::Instant;

use burn::nn::LinearConfig;
use burn::tensor::{Device, Distribution, Tensor};
use rayon::prelude::*;
use shike_kernels::conv::{Shape, forward, input_gradient, weight_gradient};
use shike_kernels::{
    Simd, ThenLinear, attention, gelu, keep_memory, layer_norm, linear, set_enabled,
};

/// Name, batch, channels, filters, side, kernel, stride, groups.
type Case = (&'static str, [usize; 7]);

const CASES: [Case; 31] = [
    ("cifar stem", [128, 3, 16, 32, 3, 1, 1]),
    ("cifar stage 1", [128, 16, 16, 32, 3, 1, 1]),
    ("cifar to stage 2", [128, 16, 32, 32, 3, 2, 1]),
    ("cifar shortcut to stage 2", [128, 16, 32, 32, 1, 2, 1]),
    ("cifar stage 2", [128, 32, 32, 16, 3, 1, 1]),
    ("cifar to stage 3", [128, 32, 64, 16, 3, 2, 1]),
    ("cifar stage 3", [128, 64, 64, 8, 3, 1, 1]),
    ("resnet stem", [16, 3, 64, 224, 7, 2, 1]),
    ("resnet stage 1 1x1", [16, 64, 64, 56, 1, 1, 1]),
    ("resnet stage 1 3x3", [16, 64, 64, 56, 3, 1, 1]),
    ("resnet stage 1 1x1 up", [16, 64, 256, 56, 1, 1, 1]),
    ("resnet stage 1 1x1 down", [16, 256, 64, 56, 1, 1, 1]),
    ("resnet to stage 2 3x3", [16, 128, 128, 56, 3, 2, 1]),
    ("resnet shortcut to stage 2", [16, 256, 512, 56, 1, 2, 1]),
    ("resnet stage 2 3x3", [16, 128, 128, 28, 3, 1, 1]),
    ("resnet stage 2 1x1 up", [16, 128, 512, 28, 1, 1, 1]),
    ("resnet stage 3 3x3", [16, 256, 256, 14, 3, 1, 1]),
    ("resnet stage 3 1x1 down", [16, 1024, 256, 14, 1, 1, 1]),
    ("resnet stage 4 3x3", [16, 512, 512, 7, 3, 1, 1]),
    ("resnet stage 4 1x1 up", [16, 512, 2048, 7, 1, 1, 1]),
    ("fusion from stage 1", [4, 256, 512, 56, 3, 2, 1]),
    ("fusion from stage 3", [4, 1024, 2048, 14, 3, 2, 1]),
    ("resnext stage 1", [16, 128, 128, 56, 3, 1, 32]),
    ("resnext stage 4", [16, 1024, 1024, 7, 3, 1, 32]),
    ("lite0 depthwise 112 3x3", [32, 32, 32, 112, 3, 1, 32]),
    ("lite0 depthwise 56 5x5 /2", [32, 144, 144, 56, 5, 2, 144]),
    ("lite0 depthwise 28 5x5", [32, 240, 240, 28, 5, 1, 240]),
    ("lite0 depthwise 14 3x3", [32, 480, 480, 14, 3, 1, 480]),
    ("lite0 depthwise 7 5x5", [32, 1152, 1152, 7, 5, 1, 1152]),
    ("lite0 expand 112", [32, 16, 96, 112, 1, 1, 1]),
    ("lite0 head", [32, 320, 1280, 7, 1, 1, 1]),
];

/// Name, batch, tokens and width of vision transformers.
const TRANSFORMERS: [(&str, [usize; 3]); 3] = [
    ("vit-s/16", [8, 197, 384]),
    ("vit-b/16", [8, 197, 768]),
    ("dinov2-s/14", [8, 257, 384]),
];

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    // The first two are plain Rust.
    let mut paths = Simd::available().split_off(2);
    paths.extend(paths.last().and_then(|simd| simd.in_bf16()));
    let paths = &paths[..];
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted));
    keep_memory();
    set_enabled(true);
    convolutions(paths, is_wanted);
    for (name, [batch, tokens, width]) in TRANSFORMERS {
        let device = Device::flex();
        let x = Tensor::<3>::random([batch, tokens, width], Distribution::Default, &device);
        let wide = Tensor::<3>::random([batch, tokens, 4 * width], Distribution::Default, &device);
        let qkv = wide.clone().narrow(2, 0, 3 * width).mul_scalar(1.0);
        let layer = |from, to| LinearConfig::new(from, to).init(&device);
        let (up, down) = (layer(width, 4 * width), layer(4 * width, width));
        let ones = Tensor::<1>::ones([width], &device);
        let values = batch * tokens * width;
        let add = |residual: &Tensor<3>| ThenLinear::Add {
            residual: residual.clone(),
            scale: None,
        };
        type Run<'a> = &'a dyn Fn() -> Tensor<3>;
        let cases: [(&str, usize, Run<'_>); 5] = [
            ("linear, gelu", 8 * values * width, &|| {
                linear(&up, x.clone(), ThenLinear::Gelu)
            }),
            ("linear, add", 8 * values * width, &|| {
                linear(&down, wide.clone(), add(&x))
            }),
            ("attention", 4 * values * tokens, &|| {
                attention(qkv.clone(), width / 64)
            }),
            ("layer norm", values, &|| {
                layer_norm(x.clone(), ones.clone(), Some(ones.clone()), 1e-6)
            }),
            ("gelu", 4 * values, &|| gelu(wide.clone())),
        ];
        for (what, work, run) in cases {
            let name = format!("{name} {what}");
            if !is_wanted(&name) {
                continue;
            }
            print!("{name:28}");
            let show = || {
                let seconds = median(|| timed(run));
                print!(" {:35.1} ", work as f64 / seconds * 1e-9);
            };
            paths.iter().for_each(|simd| simd.with(show));
            println!();
        }
    }
}

fn convolutions(paths: &[Simd], is_wanted: impl Fn(&str) -> bool) {
    let bandwidth = bandwidth();
    let peaks: Vec<f64> = paths.iter().map(|simd| peak(*simd)).collect();
    println!("memory: {bandwidth:.1} GB/s");
    for (simd, peak) in paths.iter().zip(&peaks) {
        println!("{}: {peak:.0} GFLOP/s in registers", simd.name());
    }
    print!("{:28}", "GFLOP/s of output, dx, dw");
    for simd in paths {
        print!(" {:>35} ", simd.name());
    }
    println!();
    for (name, case) in CASES {
        if !is_wanted(name) {
            continue;
        }
        let [batch, channels, filters, side, kernel, stride, groups] = case;
        let pad = [kernel / 2; 2];
        let shape = Shape {
            batch,
            channels,
            size: [side; 2],
            filters,
            kernel: [kernel; 2],
            stride: [stride; 2],
            pad,
            pad_end: pad,
            groups,
        };
        let out = side.div_ceil(stride);
        let [x, w, y] = [
            batch * channels * side * side,
            filters * channels / groups * kernel * kernel,
            batch * filters * out * out,
        ];
        let work = (2 * w * batch * out * out) as f64;
        let seconds = 4.0 * (x + w + y) as f64 / bandwidth * 1e-9;
        let [x, w, y] = [x, w, y].map(numbers);
        print!("{name:28}");
        for (simd, peak) in paths.iter().zip(&peaks) {
            let limit = (work / seconds * 1e-9).min(*peak);
            let times = [
                median(|| timed(|| forward(*simd, &shape, &x, &w, None))),
                median(|| timed(|| input_gradient(*simd, &shape, &y, &w))),
                median(|| timed(|| weight_gradient(*simd, &shape, &x, &y))),
            ];
            for seconds in times {
                let speed = work / seconds * 1e-9;
                print!(" {speed:6.1} {:3.0}%", 100.0 * speed / limit);
            }
            print!(" ");
        }
        println!();
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 37 % 101) as f32 - 50.0).collect()
}

/// GFLOP/s of all threads in registers alone.
fn peak(simd: Simd) -> f64 {
    const ROUNDS: usize = 1 << 22;
    let threads = rayon::current_num_threads();
    let work = simd.spin(1) * ROUNDS as f64 * threads as f64;
    let run = || {
        rayon::broadcast(|_| simd.spin(ROUNDS));
    };
    work / median(|| timed(run)) * 1e-9
}

/// GB/s of `x += 1` on 256 MB, what is read and what is written.
fn bandwidth() -> f64 {
    let mut data = vec![0.0f32; 1 << 26];
    let bytes = 8.0 * data.len() as f64;
    let run = || {
        let parts = data.par_chunks_mut(1 << 16);
        parts.for_each(|part| part.iter_mut().for_each(|x| *x += 1.0));
    };
    let mut run = run;
    bytes / median(|| timed(&mut run)) * 1e-9
}

/// Seconds until a result is there; it is dropped later.
fn timed<R>(run: impl FnOnce() -> R) -> f64 {
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed();
    drop(result);
    seconds.as_secs_f64()
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    run();
    let mut samples: Vec<f64> = (0..5).map(|_| run()).collect();
    samples.sort_by(f64::total_cmp);
    samples[2]
}

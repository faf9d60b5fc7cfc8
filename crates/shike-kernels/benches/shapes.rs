//! The convolutions of the models one by one, GFLOP/s of output, input gradient and weight gradient, and
//! the layers of transformers, GFLOP/s of the output (for those that are no product: values a nanosecond), with
//! the kernels on each instruction set of this processor, and with Burn's own operations.
//!
//! ```sh
//! RAYON_NUM_THREADS=2 cargo bench --workspace --bench shapes -- [part of a name]
//! ```

use std::time::Instant;

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Distribution, Tensor};
use shike_kernels::{Simd, ThenLinear, attention, conv2d, gelu, layer_norm, linear, set_enabled};

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
    let paths = &Simd::available()[2..];
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted));
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
                let seconds = median(|| {
                    let start = Instant::now();
                    let y = run();
                    let seconds = start.elapsed();
                    drop(y);
                    seconds.as_secs_f64()
                });
                print!(" {:26.1} ", work as f64 / seconds * 1e-9);
            };
            set_enabled(true);
            paths.iter().for_each(|simd| simd.with(show));
            set_enabled(false);
            show();
            println!();
        }
    }
}

fn convolutions(paths: &[Simd], is_wanted: impl Fn(&str) -> bool) {
    print!("{:28}", "GFLOP/s of output, dx, dw");
    for simd in paths {
        print!(" {:>26} ", format!("{simd:?}"));
    }
    println!(" {:>26}", "Burn's own");
    for (name, case) in CASES {
        if !is_wanted(name) {
            continue;
        }
        let [batch, channels, filters, side, kernel, stride, groups] = case;
        let device = Device::flex().autodiff();
        let pad = kernel / 2;
        let conv = Conv2dConfig::new([channels, filters], [kernel, kernel])
            .with_stride([stride, stride])
            .with_groups(groups)
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_bias(false)
            .init(&device);
        let shape = [batch, channels, side, side];
        let x = Tensor::<4>::random(shape, Distribution::Default, &device);
        let out = side.div_ceil(stride);
        let work = 2 * batch * filters * out * out * channels / groups * kernel * kernel;
        print!("{name:28}");
        let show = |seconds: [f64; 3]| {
            for seconds in seconds {
                print!(" {:8.1}", work as f64 / seconds * 1e-9);
            }
            print!(" ");
        };
        set_enabled(true);
        for simd in paths {
            show(simd.with(|| times(&conv, &x)));
        }
        set_enabled(false);
        show(times(&conv, &x));
        println!();
    }
}

/// Seconds for output, input gradient and weight gradient.
fn times(conv: &Conv2d, x: &Tensor<4>) -> [f64; 3] {
    let weight = conv.weight.val().detach();
    let fixed = Conv2d {
        weight: Param::from_tensor(Tensor::from_inner(weight.inner())).set_require_grad(false),
        ..conv.clone()
    };
    let output = median(|| {
        let start = Instant::now();
        let y = conv2d(&fixed, x.clone());
        let seconds = start.elapsed();
        drop(y);
        seconds.as_secs_f64()
    });
    let backward = |conv: &Conv2d, x: Tensor<4>| {
        let y = conv2d(conv, x);
        // The sum's gradient is a view of a single value, which the kernels copy and Burn's read.
        let loss = (y.clone() * y.detach()).sum();
        let start = Instant::now();
        drop(loss.backward());
        start.elapsed().as_secs_f64()
    };
    let dx = median(|| backward(&fixed, x.clone().require_grad()));
    let dw = median(|| backward(conv, x.clone()));
    [output, dx, dw]
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    run();
    let mut samples: Vec<f64> = (0..5).map(|_| run()).collect();
    samples.sort_by(f64::total_cmp);
    samples[2]
}

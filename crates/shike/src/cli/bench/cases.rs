//! The work that is timed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use shike_data::write::write_bytes;
use shike_data::{Dataset, Loader, LoaderConfig, Normalization, Pipeline};
use shike_infer::Precision;
use shike_infer::device::batch::{Upload, to_tensors};
use shike_model::{
    BackboneConfig, ConfigError, DktLossConfig, ExpertLogits, Head, LossConfig, LossContext, Shike,
    ShikeConfig, weights,
};
use shike_train::learner::optim::Sgd;
use shike_train::learner::step::{Inputs, Step, Trained};

use super::{BenchArgs, unknown};
use crate::cli::CliError;

/// Work that can be done again and again.
pub(super) struct Case {
    /// Images that one run sees; 0 where there are none.
    pub images: usize,
    /// Floating-point operations of one run (two a multiply-add, backward counted as twice the
    /// forward pass), where convolutions are all there is to count.
    pub flops: Option<f64>,
    /// Does the work and gives a number that depends on it: a loss, say. The device may still be at it.
    pub run: Box<dyn FnMut() -> Result<f64, CliError>>,
}

/// A network that steps and scorings are timed with.
#[derive(Clone, Copy)]
struct Network {
    name: &'static str,
    /// Images of a batch, and the sides of one.
    batch: usize,
    side: usize,
    /// Whether its steps are timed, too.
    trained: bool,
    config: fn(&str) -> Result<ShikeConfig, ConfigError>,
}

const fn network(name: &'static str, batch: usize, side: usize) -> Network {
    Network {
        name,
        batch,
        side,
        trained: false,
        config: |name| Ok(ShikeConfig::plain(BackboneConfig::named(name)?, 1000)),
    }
}

const SHIKE_RESNET32: Network = Network {
    trained: true,
    config: |_| ShikeConfig::cifar(32, 100),
    ..network("shike-resnet32", 128, 32)
};

const NETWORKS: [Network; 6] = [
    SHIKE_RESNET32,
    Network {
        trained: true,
        ..network("resnet50", 16, 224)
    },
    Network {
        trained: true,
        config: |_| ShikeConfig::resnet(50, 1000),
        ..network("shike-resnet50", 16, 224)
    },
    network("efficientnet_lite0", 32, 224),
    network("vit_s16", 32, 224),
    network("dinov2_s14", 32, 224),
];

/// A convolution of the networks: channels in and out, kernel, stride, groups, side of the input,
/// images.
const CONVOLUTIONS: [[usize; 7]; 12] = [
    [16, 16, 3, 1, 1, 32, 128],
    [16, 32, 3, 2, 1, 32, 128],
    [32, 32, 3, 1, 1, 16, 128],
    [64, 64, 3, 1, 1, 8, 128],
    [3, 64, 7, 2, 1, 224, 16],
    [64, 64, 3, 1, 1, 56, 16],
    [256, 64, 1, 1, 1, 56, 16],
    [128, 128, 3, 2, 1, 56, 16],
    [256, 1024, 1, 1, 1, 14, 16],
    [512, 512, 3, 1, 1, 7, 16],
    [1024, 2048, 3, 2, 1, 14, 16],
    [128, 128, 3, 1, 32, 56, 16],
];

const LOSSES: [(usize, usize); 6] = [
    (3, 100),
    (3, 1000),
    (3, 8142),
    (6, 100),
    (6, 1000),
    (6, 8142),
];

fn convolution_name([from, to, kernel, stride, groups, side, _]: [usize; 7]) -> String {
    let groups = match groups {
        1 => String::new(),
        groups => format!("g{groups}"),
    };
    format!("conv/{kernel}x{kernel}s{stride}{groups}-{from}-{to}-{side}")
}

/// The names of all cases, in the order of the report.
pub(super) fn names() -> Vec<String> {
    let mut names = Vec::new();
    for Network { name, trained, .. } in NETWORKS {
        names.extend(trained.then(|| format!("step/{name}")));
        names.push(format!("eval/{name}"));
    }
    names.extend(["epoch/from-loader", "epoch/from-memory"].map(str::to_owned));
    for (experts, classes) in LOSSES {
        names.push(format!("dkt/{experts}x{classes}"));
        names.push(format!("balanced/{experts}x{classes}"));
    }
    names.extend(CONVOLUTIONS.map(convolution_name));
    names
}

/// Prepares a case on a device, as the options say.
pub(super) fn prepare(name: &str, device: &Device, args: &BenchArgs) -> Result<Case, CliError> {
    device.seed(0);
    let unknown = || unknown(name);
    let (kind, what) = name.split_once('/').ok_or_else(unknown)?;
    let network = NETWORKS.into_iter().find(|network| network.name == what);
    match (kind, network) {
        ("step", Some(network)) if network.trained => step(network, device, args),
        ("eval", Some(network)) => eval(network, device, args),
        ("epoch", _) if what == "from-loader" => epoch(true, device, args),
        ("epoch", _) if what == "from-memory" => epoch(false, device, args),
        ("dkt" | "balanced", _) => {
            let found = LOSSES
                .into_iter()
                .find(|(experts, classes)| what == format!("{experts}x{classes}"));
            loss(kind == "dkt", found.ok_or_else(unknown)?, device, args)
        }
        ("conv", _) => {
            let found = CONVOLUTIONS
                .into_iter()
                .find(|shape| convolution_name(*shape) == name);
            Ok(convolution(found.ok_or_else(unknown)?, device, args))
        }
        _ => Err(unknown()),
    }
}

/// Labels of all classes.
fn labels(batch: usize, classes: usize) -> TensorData {
    let label = |image| (image * 37 % classes) as i64;
    TensorData::new((0..batch).map(label).collect::<Vec<_>>(), [batch])
}

/// A network with running statistics of a network that has seen images, its images and labels.
fn prepared(
    network: Network,
    device: &Device,
    args: &BenchArgs,
) -> Result<(Shike, Tensor<4>, Tensor<1, Int>), CliError> {
    let device = device.clone().autodiff();
    let config = (network.config)(network.name).map_err(CliError::failed)?;
    let model = config.init(&device).map_err(CliError::failed)?;
    let (batch, side) = (args.batch.unwrap_or(network.batch), network.side);
    let normal = Distribution::Normal(0.0, 1.0);
    let images = Tensor::<4>::random([batch, 3, side, side], normal, &device);
    let labels = labels(batch, config.num_classes);
    if let Some(folder) = &args.exchange {
        let tensors = [("images", images.to_data()), ("labels", labels.clone())];
        exchange(folder, tensors.map(|(name, data)| (name.into(), data)))?;
        weights::export(&model, folder.join("weights.safetensors"), 0)?;
    }
    let precision = args.precision.check(&device);
    precision.map_err(|reason| CliError::Failed(format!("bf16: {reason}")))?;
    let labels = Tensor::<1, Int>::from_data(labels, &device);
    Ok((model, images, labels))
}

/// Writes what another program needs to do the same work.
fn exchange(
    folder: &Path,
    tensors: impl IntoIterator<Item = (String, TensorData)>,
) -> Result<(), CliError> {
    fs::create_dir_all(folder).map_err(CliError::file(folder))?;
    let tensors = tensors.into_iter().collect();
    let bytes = weights::pack(tensors, 0, &BTreeMap::new(), false)?;
    Ok(write_bytes(&folder.join("batch.safetensors"), bytes)?)
}

/// The number that a loss holds; reading it waits for the device.
fn value(loss: Tensor<1>) -> Result<f64, CliError> {
    let data = loss
        .try_into_data()
        .map_err(|error| CliError::Failed(format!("{error:?}")))?;
    Ok(data.iter::<f64>().next().unwrap_or(f64::NAN))
}

/// A network that is trained as a run trains it: forward, DKT loss (cross-entropy for the plain network),
/// backward, SGD with momentum.
struct Training {
    /// `None` while a step is under way, and after one that failed.
    trained: Option<Trained>,
    step: Step,
}

impl Training {
    fn new(model: Shike, precision: Precision) -> Result<Self, CliError> {
        let loss = match model.experts.len() {
            1 => LossConfig::cross_entropy(),
            _ => LossConfig::Dkt(DktLossConfig::default()),
        };
        let loss = loss
            .init(&LossContext::new(&[]))
            .map_err(CliError::failed)?;
        Ok(Self {
            trained: Some(Trained {
                model,
                optimizer: Sgd::new(0.9, 5e-4).init(),
                ema: None,
            }),
            step: Step::new(Head::Stage1, loss, 0.01).with_precision(precision),
        })
    }

    /// A step, and its loss; reading it waits for the device.
    fn step(&mut self, images: Tensor<4>, labels: Tensor<1, Int>) -> Result<f64, CliError> {
        let failed = || CliError::Failed("a step before failed".into());
        let trained = self.trained.take().ok_or_else(failed)?;
        let [batch] = labels.dims();
        let inputs = Inputs {
            images,
            labels,
            share: None,
        };
        let (trained, losses) = self.step.run(trained, batch, [Ok::<_, CliError>(inputs)])?;
        self.trained = Some(trained);
        let loss = losses.first().ok_or_else(failed)?.read();
        Ok(loss.first().map_or(f64::NAN, |(_, value)| *value))
    }
}

fn step(network: Network, device: &Device, args: &BenchArgs) -> Result<Case, CliError> {
    let (model, images, labels) = prepared(network, device, args)?;
    let macs = model.describe([network.side; 2]).macs();
    let batch = images.dims()[0];
    let mut training = Training::new(model, args.precision)?;
    Ok(Case {
        images: batch,
        flops: Some(6.0 * macs as f64 * batch as f64),
        run: Box::new(move || training.step(images.clone(), labels.clone())),
    })
}

/// Steps of an epoch case.
const EPOCH_STEPS: usize = 10;

/// Steps of SHIKE-ResNet-32: on batches that the loader makes meanwhile of images in memory, with the
/// reference's augmentation; or on one batch that is there.
fn epoch(from_loader: bool, device: &Device, args: &BenchArgs) -> Result<Case, CliError> {
    let (model, images, labels) = prepared(SHIKE_RESNET32, device, args)?;
    let macs = model.describe([SHIKE_RESNET32.side; 2]).macs();
    let batch = images.dims()[0];
    let count = EPOCH_STEPS * batch;
    let mut training = Training::new(model, args.precision)?;
    let device = device.clone().autodiff();
    let mut numbers = 0u32..;
    let noise = (0..count * 3072).map(|_| {
        let number = numbers.next().unwrap_or_default();
        (number.wrapping_mul(0x9E37_79B9) >> 24) as u8
    });
    let of_class = (0..count).map(|i| (i % 100) as u32).collect();
    let data = Dataset::from_pixels(noise.collect(), 32, 32, of_class, 100)?;
    let config = LoaderConfig {
        batch_size: batch,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(data, Pipeline::cifar_train(), config, 0)?;
    let run = move || {
        let mut last = f64::NAN;
        if !from_loader {
            for _ in 0..EPOCH_STEPS {
                last = training.step(images.clone(), labels.clone())?;
            }
            return Ok(last);
        }
        for batch in loader.epoch(0, (0..count as u32).collect(), 0) {
            let upload = Upload::default();
            let (images, labels) = to_tensors(&batch?, &Normalization::CIFAR10, upload, &device);
            last = training.step(images, labels)?;
        }
        Ok(last)
    };
    Ok(Case {
        images: count,
        flops: Some(6.0 * macs as f64 * count as f64),
        run: Box::new(run),
    })
}

/// The forward pass of scoring.
fn eval(network: Network, device: &Device, args: &BenchArgs) -> Result<Case, CliError> {
    let (model, images, _) = prepared(network, device, args)?;
    let macs = model.describe([network.side; 2]).macs();
    let (model, images) = (model.valid(), images.inner());
    let batch = images.dims()[0];
    let precision = args.precision;
    let run = move || {
        let forward = |images| model.forward(images, Head::Stage1);
        let logits = precision.compute(images.clone(), forward).mean();
        value(logits.abs().mean())
    };
    Ok(Case {
        images: batch,
        flops: Some(2.0 * macs as f64 * batch as f64),
        run: Box::new(run),
    })
}

/// Value and gradient of a loss with respect to the logits.
fn loss(
    dkt: bool,
    (experts, classes): (usize, usize),
    device: &Device,
    args: &BenchArgs,
) -> Result<Case, CliError> {
    let batch = args.batch.unwrap_or(512);
    let device = device.clone().autodiff();
    let logits: Vec<Tensor<2>> = (0..experts)
        .map(|_| {
            let uniform = Distribution::Uniform(-10.0, 10.0);
            Tensor::random([batch, classes], uniform, &device).require_grad()
        })
        .collect();
    let labels = Tensor::<1, Int>::from_data(labels(batch, classes), &device);
    let counts: Vec<usize> = (0..classes).map(|class| 1 + 1280 / (class + 1)).collect();
    let loss = match dkt {
        true => LossConfig::Dkt(DktLossConfig::default()),
        false => LossConfig::balanced_softmax(),
    };
    let loss = loss
        .init(&LossContext::new(&counts))
        .map_err(CliError::failed)?;
    if let Some(folder) = &args.exchange {
        let data = logits.iter().map(Tensor::to_data).enumerate();
        exchange(folder, data.map(|(i, data)| (format!("logits{i}"), data)))?;
    }
    let run = move || {
        let logits = ExpertLogits {
            experts: logits.clone(),
        };
        let total = loss.forward(&logits, labels.clone()).total();
        let gradients = total.backward();
        drop(logits.experts[0].grad(&gradients));
        value(total)
    };
    Ok(Case {
        images: batch,
        flops: None,
        run: Box::new(run),
    })
}

/// A convolution, forward and backward.
fn convolution(shape: [usize; 7], device: &Device, args: &BenchArgs) -> Case {
    let [from, to, kernel, stride, groups, side, images] = shape;
    let batch = args.batch.unwrap_or(images);
    let device = device.clone().autodiff();
    let pad = kernel / 2;
    let conv: Conv2d = Conv2dConfig::new([from, to], [kernel, kernel])
        .with_stride([stride, stride])
        .with_groups(groups)
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
        .init(&device);
    let normal = Distribution::Normal(0.0, 1.0);
    let input = Tensor::<4>::random([batch, from, side, side], normal, &device).require_grad();
    let area = side.div_ceil(stride).pow(2);
    let macs = batch * to * (from / groups) * kernel * kernel * area;
    let out = Tensor::<4>::random(
        [batch, to, side.div_ceil(stride), side.div_ceil(stride)],
        normal,
        &device,
    );
    let run = move || {
        let output = shike_model::kernels::conv2d(&conv, input.clone());
        let total = (output * out.clone()).sum();
        let gradients = total.backward();
        drop(input.grad(&gradients));
        value(total)
    };
    Case {
        images: batch,
        flops: Some(6.0 * macs as f64),
        run: Box::new(run),
    }
}

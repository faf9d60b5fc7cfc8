//! The work that is timed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use shike_data::{Dataset, Loader, LoaderConfig, Normalization, Pipeline};
use shike_infer::Precision;
use shike_infer::device::batch::{Upload, to_tensors};
use shike_model::network::resnet::ResnetConfig;
use shike_model::{
    BackboneConfig, DktLossConfig, ExpertLogits, Head, LossConfig, LossContext, Shike, ShikeConfig,
    weights,
};
use shike_train::learner::optim::Sgd;
use shike_train::learner::step::{BatchLoss, Inputs, Step, Trained};

use super::unknown;
use crate::cli::CliError;

/// What a case is given beside its name.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub device: Device,
    /// Images of a batch, where it is not the case's own number.
    pub batch: Option<usize>,
    /// Type of float of convolutions and activations in networks.
    pub precision: Precision,
    /// A folder that weights and batch are written to, for another program to do the same work.
    pub exchange: Option<std::path::PathBuf>,
}

/// Work that can be done again and again.
pub(super) struct Case {
    /// Images that one run sees; 0 where there are none.
    pub images: usize,
    /// Floating-point operations of one run (two a multiply-add, backward counted as twice the
    /// forward pass), where convolutions are all there is to count.
    pub flops: Option<f64>,
    /// Does the work and gives a number that depends on it: a loss, say.
    pub run: Box<dyn FnMut() -> Result<f64, CliError>>,
}

/// A network that steps and scorings are timed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    ShikeResnet32,
    Resnet50,
    ShikeResnet50,
    /// A trunk that is seldom trained here, by its name.
    Trunk(&'static str),
}

impl Network {
    fn config(self) -> Result<ShikeConfig, CliError> {
        let config = match self {
            Self::Trunk(name) => {
                BackboneConfig::named(name).map(|backbone| ShikeConfig::plain(backbone, 1000))
            }
            Self::ShikeResnet32 => ShikeConfig::cifar(32, 100),
            Self::Resnet50 => {
                ResnetConfig::imagenet(50).map(|backbone| ShikeConfig::plain(backbone, 1000))
            }
            Self::ShikeResnet50 => ShikeConfig::resnet(50, 1000),
        };
        config.map_err(|error| CliError::Failed(error.to_string()))
    }

    fn batch(self) -> usize {
        match self {
            Self::ShikeResnet32 => 128,
            Self::Trunk(_) => 32,
            _ => 16,
        }
    }

    fn side(self) -> usize {
        match self {
            Self::ShikeResnet32 => 32,
            _ => 224,
        }
    }
}

const NETWORKS: [(&str, Network); 6] = [
    ("shike-resnet32", Network::ShikeResnet32),
    ("resnet50", Network::Resnet50),
    ("shike-resnet50", Network::ShikeResnet50),
    ("efficientnet_lite0", Network::Trunk("efficientnet_lite0")),
    ("vit_s16", Network::Trunk("vit_s16")),
    ("dinov2_s14", Network::Trunk("dinov2_s14")),
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
    for (name, network) in NETWORKS {
        if !matches!(network, Network::Trunk(_)) {
            names.push(format!("step/{name}"));
        }
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

/// Prepares a case.
pub(super) fn prepare(name: &str, setting: &Setting) -> Result<Case, CliError> {
    setting.device.seed(0);
    let unknown = || unknown(name);
    let (kind, what) = name.split_once('/').ok_or_else(unknown)?;
    let network = NETWORKS.iter().find(|(known, _)| *known == what);
    match (kind, network) {
        ("step", Some((_, Network::Trunk(_)))) => Err(unknown()),
        ("step", Some((_, network))) => step(*network, setting),
        ("eval", Some((_, network))) => eval(*network, setting),
        ("epoch", _) => match what {
            "from-loader" => epoch(true, setting),
            "from-memory" => epoch(false, setting),
            _ => Err(unknown()),
        },
        ("dkt" | "balanced", _) => {
            let found = LOSSES
                .iter()
                .find(|(experts, classes)| what == format!("{experts}x{classes}"));
            let (experts, classes) = found.ok_or_else(unknown)?;
            loss(kind == "dkt", *experts, *classes, setting)
        }
        ("conv", _) => {
            let found = CONVOLUTIONS
                .into_iter()
                .find(|shape| convolution_name(*shape) == name);
            Ok(convolution(found.ok_or_else(unknown)?, setting))
        }
        _ => Err(unknown()),
    }
}

/// A network with running statistics of a network that has seen images, its images and labels.
fn network(
    network: Network,
    setting: &Setting,
) -> Result<(Shike, Tensor<4>, Tensor<1, Int>), CliError> {
    let device = setting.device.clone().autodiff();
    let config = network.config()?;
    let model = config
        .init(&device)
        .map_err(|error| CliError::Failed(error.to_string()))?;
    let (batch, side) = (setting.batch.unwrap_or(network.batch()), network.side());
    let normal = Distribution::Normal(0.0, 1.0);
    let images = Tensor::<4>::random([batch, 3, side, side], normal, &device);
    let labels: Vec<i64> = (0..batch)
        .map(|image| (image * 37 % config.num_classes) as i64)
        .collect();
    let labels = TensorData::new(labels, [batch]);
    if let Some(folder) = &setting.exchange {
        exchange(folder, &model, &images, &labels)?;
    }
    let precision = setting.precision.check(&device);
    precision.map_err(|reason| CliError::Failed(format!("bf16: {reason}")))?;
    let labels = Tensor::<1, Int>::from_data(labels, &device);
    Ok((model, images, labels))
}

/// Writes what another program needs to do the same work.
fn exchange(
    folder: &Path,
    model: &Shike,
    images: &Tensor<4>,
    labels: &TensorData,
) -> Result<(), CliError> {
    let failed =
        |error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let path = folder.join("weights.safetensors");
    weights::export(model, path, 0).map_err(|error| failed(&error))?;
    let images = images.to_data();
    let shape = images.shape().to_vec();
    let view = |dtype, shape, bytes| {
        safetensors::tensor::TensorView::new(dtype, shape, bytes).map_err(|error| failed(&error))
    };
    let tensors = BTreeMap::from([
        (
            "images",
            view(safetensors::Dtype::F32, shape, images.as_bytes())?,
        ),
        (
            "labels",
            view(
                safetensors::Dtype::I64,
                labels.shape().to_vec(),
                labels.as_bytes(),
            )?,
        ),
    ]);
    let bytes = safetensors::serialize(tensors, None).map_err(|error| failed(&error))?;
    fs::write(folder.join("batch.safetensors"), bytes).map_err(|error| failed(&error))
}

/// The number that a loss holds; reading it waits for the device.
fn value(loss: Tensor<1>) -> Result<f64, CliError> {
    let data = loss
        .try_into_data()
        .map_err(|error| CliError::Failed(format!("{error:?}")))?;
    Ok(data.iter::<f64>().next().unwrap_or(f64::NAN))
}

/// The loss of a step; reading it waits for the device.
fn total(loss: &BatchLoss) -> f64 {
    loss.read().first().map_or(f64::NAN, |(_, value)| *value)
}

fn synchronise(device: &Device) -> Result<(), CliError> {
    device
        .sync()
        .map_err(|error| CliError::Failed(format!("{error:?}")))
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
            .map_err(|error| CliError::Failed(error.to_string()))?;
        Ok(Self {
            trained: Some(Trained {
                model,
                optimizer: Sgd::new(0.9, 5e-4).init(),
                ema: None,
            }),
            step: Step::new(Head::Stage1, loss, 0.01).with_precision(precision),
        })
    }

    fn step(&mut self, images: Tensor<4>, labels: Tensor<1, Int>) -> Result<BatchLoss, CliError> {
        let failed = || CliError::Failed("a step before failed".into());
        let trained = self.trained.take().ok_or_else(failed)?;
        let [batch] = labels.dims();
        let inputs = Inputs {
            images,
            labels,
            share: None,
        };
        let (trained, mut losses) = self.step.run(trained, batch, [Ok::<_, CliError>(inputs)])?;
        self.trained = Some(trained);
        losses.pop().ok_or_else(failed)
    }
}

fn step(which: Network, setting: &Setting) -> Result<Case, CliError> {
    let (model, images, labels) = network(which, setting)?;
    let summary = model.describe([which.side(), which.side()]);
    let batch = images.dims()[0];
    let mut training = Training::new(model, setting.precision)?;
    let device = setting.device.clone();
    let run = move || {
        let loss = training.step(images.clone(), labels.clone())?;
        synchronise(&device)?;
        Ok(total(&loss))
    };
    Ok(Case {
        images: batch,
        flops: Some(6.0 * summary.macs() as f64 * batch as f64),
        run: Box::new(run),
    })
}

/// Steps of an epoch case.
const EPOCH_STEPS: usize = 10;

/// Steps of SHIKE-ResNet-32: on batches that the loader makes meanwhile of images in memory, with the
/// reference's augmentation; or on one batch that is there.
fn epoch(from_loader: bool, setting: &Setting) -> Result<Case, CliError> {
    let which = Network::ShikeResnet32;
    let (model, images, labels) = network(which, setting)?;
    let macs = model.describe([which.side(), which.side()]).macs();
    let batch = images.dims()[0];
    let count = EPOCH_STEPS * batch;
    let mut training = Training::new(model, setting.precision)?;
    let device = setting.device.clone();
    let failed = |error: shike_data::DataError| CliError::Failed(error.to_string());
    let mut numbers = 0u32..;
    let noise = (0..count * 3072).map(|_| {
        let number = numbers.next().unwrap_or_default();
        (number.wrapping_mul(0x9E37_79B9) >> 24) as u8
    });
    let of_class = (0..count).map(|i| (i % 100) as u32).collect();
    let data = Dataset::from_pixels(noise.collect(), 32, 32, of_class, 100).map_err(failed)?;
    let config = LoaderConfig {
        batch_size: batch,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(data, Pipeline::cifar_train(), config, 0).map_err(failed)?;
    let run = move || {
        let mut last = f64::NAN;
        match from_loader {
            true => {
                for batch in loader.epoch(0, (0..count as u32).collect(), 0) {
                    let batch = batch.map_err(failed)?;
                    let autodiff = device.clone().autodiff();
                    let normalization = Normalization::CIFAR10;
                    let (images, labels) =
                        to_tensors(&batch, &normalization, Upload::default(), &autodiff);
                    last = total(&training.step(images, labels)?);
                }
            }
            false => {
                for _ in 0..EPOCH_STEPS {
                    last = total(&training.step(images.clone(), labels.clone())?);
                }
            }
        }
        synchronise(&device)?;
        Ok(last)
    };
    Ok(Case {
        images: count,
        flops: Some(6.0 * macs as f64 * count as f64),
        run: Box::new(run),
    })
}

/// The forward pass of scoring.
fn eval(which: Network, setting: &Setting) -> Result<Case, CliError> {
    let (model, images, _) = network(which, setting)?;
    let summary = model.describe([which.side(), which.side()]);
    let (model, images) = (model.valid(), images.inner());
    let batch = images.dims()[0];
    let (device, precision) = (setting.device.clone(), setting.precision);
    let run = move || {
        let forward = |images| model.forward(images, Head::Stage1);
        let logits = precision.compute(images.clone(), forward).mean();
        synchronise(&device)?;
        value(logits.abs().mean())
    };
    Ok(Case {
        images: batch,
        flops: Some(2.0 * summary.macs() as f64 * batch as f64),
        run: Box::new(run),
    })
}

/// Value and gradient of a loss with respect to the logits.
fn loss(dkt: bool, experts: usize, classes: usize, setting: &Setting) -> Result<Case, CliError> {
    let batch = setting.batch.unwrap_or(512);
    let device = setting.device.clone().autodiff();
    let logits: Vec<Tensor<2>> = (0..experts)
        .map(|_| {
            let uniform = Distribution::Uniform(-10.0, 10.0);
            Tensor::random([batch, classes], uniform, &device).require_grad()
        })
        .collect();
    let labels: Vec<i64> = (0..batch)
        .map(|image| (image * 37 % classes) as i64)
        .collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [batch]), &device);
    let counts: Vec<usize> = (0..classes).map(|class| 1 + 1280 / (class + 1)).collect();
    let loss = match dkt {
        true => LossConfig::Dkt(DktLossConfig::default()),
        false => LossConfig::balanced_softmax(),
    };
    let loss = loss
        .init(&LossContext::new(&counts))
        .map_err(|error| CliError::Failed(error.to_string()))?;
    if let Some(folder) = &setting.exchange {
        fs::create_dir_all(folder)
            .map_err(|error| CliError::Failed(format!("{}: {error}", folder.display())))?;
        let data: Vec<TensorData> = logits.iter().map(Tensor::to_data).collect();
        let views = data.iter().enumerate().map(|(expert, data)| {
            let shape = data.shape().to_vec();
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, data.as_bytes())
                .map(|view| (format!("logits{expert}"), view))
        });
        let written = views
            .collect::<Result<Vec<_>, _>>()
            .and_then(|views| safetensors::serialize(views, None))
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                let path = folder.join("batch.safetensors");
                fs::write(path, bytes).map_err(|error| error.to_string())
            });
        written.map_err(CliError::Failed)?;
    }
    let sync = setting.device.clone();
    let run = move || {
        let logits = ExpertLogits {
            experts: logits.clone(),
        };
        let total = loss.forward(&logits, labels.clone()).total();
        let gradients = total.backward();
        let gradient = logits.experts[0].grad(&gradients);
        synchronise(&sync)?;
        drop(gradient);
        value(total)
    };
    Ok(Case {
        images: batch,
        flops: None,
        run: Box::new(run),
    })
}

/// A convolution, forward and backward.
fn convolution(shape: [usize; 7], setting: &Setting) -> Case {
    let [from, to, kernel, stride, groups, side, images] = shape;
    let batch = setting.batch.unwrap_or(images);
    let device = setting.device.clone().autodiff();
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
    let sync = setting.device.clone();
    let run = move || {
        let output = shike_model::kernels::conv2d(&conv, input.clone());
        let total = (output * out.clone()).sum();
        let gradients = total.backward();
        let gradient = input.grad(&gradients);
        synchronise(&sync)?;
        drop(gradient);
        value(total)
    };
    Case {
        images: batch,
        flops: Some(6.0 * macs as f64),
        run: Box::new(run),
    }
}

//! ResNets (He et al. 2016, arXiv 1512.03385), for CIFAR as the SHIKE reference builds them and for ImageNet as
//! torchvision does, and ResNeXt-50.

mod block;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use shike_kernels::{Then, max_pool2d};

use super::{Block, Family, FeatureShape, Layer};
use crate::network::conv::{ConvInit, Cost, conv_cost, conv_norm_values};
use crate::network::{BatchNorm, BatchNormConfig, ConfigError, within};

pub use block::{BasicBlock, BasicBlockConfig, Bottleneck, BottleneckConfig, Projection};

/// The two kinds of first layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StemKind {
    /// 3×3 convolution of stride 1: the size stays.
    #[serde(rename = "cifar", alias = "Cifar")]
    Cifar,
    /// 7×7 convolution of stride 2 and 3×3 maximum pooling of stride 2: a quarter of the size.
    #[serde(rename = "imagenet", alias = "ImageNet")]
    ImageNet,
}

/// The first layers of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StemConfig {
    /// Channels that the stem puts out.
    pub channels: usize,
    /// What it is made of.
    pub kind: StemKind,
}

/// The kind of a layer's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BlockKind {
    /// Two 3×3 convolutions: [`BasicBlock`].
    #[default]
    #[serde(alias = "Basic")]
    Basic,
    /// 1×1, 3×3, 1×1: [`Bottleneck`].
    #[serde(alias = "Bottleneck")]
    Bottleneck {
        /// Channels of the 3×3 convolution. A ResNet has a quarter of the layer's channels, a
        /// ResNeXt-50 (32×4d) half of them.
        width: usize,
        /// Groups of the 3×3 convolution; 1 in a ResNet.
        groups: usize,
    },
}

/// One layer, `layer1` … in PyTorch's names: blocks of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// Channels that the layer puts out.
    pub channels: usize,
    /// Number of residual blocks.
    pub blocks: usize,
    /// Stride of the first block.
    pub stride: usize,
    /// What the blocks are.
    #[serde(default)]
    pub block: BlockKind,
}

/// A residual network without its classifier: a stem and layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResnetConfig {
    /// The first layers.
    pub stem: StemConfig,
    /// The layers, shallow to deep.
    #[serde(alias = "stages")]
    pub layers: Vec<LayerConfig>,
    /// How the weights of its convolutions are drawn.
    #[serde(default)]
    pub conv_init: ConvInit,
}

impl StemConfig {
    /// A stem of this kind.
    pub fn new(channels: usize, kind: StemKind) -> Self {
        Self { channels, kind }
    }
}

impl LayerConfig {
    /// A layer of basic blocks.
    pub fn new(channels: usize, blocks: usize, stride: usize) -> Self {
        Self {
            channels,
            blocks,
            stride,
            block: BlockKind::Basic,
        }
    }
}

setters!(LayerConfig { with_block block: BlockKind });
setters!(ResnetConfig { with_conv_init conv_init: ConvInit });

impl ResnetConfig {
    /// A network that is spelt out, with the reference's random weights.
    pub fn new(stem: StemConfig, layers: Vec<LayerConfig>) -> Self {
        Self {
            stem,
            layers,
            conv_init: ConvInit::FanIn,
        }
    }

    /// The network of a name in [`NAMES`]: an ImageNet [ResNet](Self::imagenet) of 10, 18, 34, 50, 101 or 152
    /// layers, [`resnext50`](Self::resnext50), or else a [CIFAR ResNet](Self::cifar).
    pub(super) fn named(name: &str) -> Option<Self> {
        if !NAMES.contains(&name) {
            return None;
        }
        match name.strip_prefix("resnet") {
            Some(depth) => {
                let depth = depth.parse().ok()?;
                Self::imagenet(depth).or_else(|_| Self::cifar(depth)).ok()
            }
            None => Some(Self::resnext50()),
        }
    }

    /// The CIFAR ResNet of depth `6n + 2` (20, 32, 44, 56, …): a 3×3 stem of 16 channels and three
    /// layers of `n` basic blocks with 16, 32 and 64 channels.
    ///
    /// # Errors
    /// If `depth` is not `6n + 2` with `n ≥ 1`.
    pub fn cifar(depth: usize) -> Result<Self, ConfigError> {
        if depth < 8 || !(depth - 2).is_multiple_of(6) {
            return Err(ConfigError::Field {
                field: "depth",
                found: depth.to_string(),
                expected: "6n + 2, such as 8, 14, 20, 32, 44 or 56".into(),
            });
        }
        let blocks = (depth - 2) / 6;
        let layer = |channels, stride| LayerConfig::new(channels, blocks, stride);
        Ok(Self::new(
            StemConfig::new(16, StemKind::Cifar),
            vec![layer(16, 1), layer(32, 2), layer(64, 2)],
        ))
    }

    /// The ResNet of He et al. for ImageNet (arXiv 1512.03385) with 10, 18, 34, 50, 101 or 152
    /// layers, as torchvision builds it: bottlenecks from 50 layers on, whose 3×3 convolution
    /// carries the stride ("V1.5").
    ///
    /// # Errors
    /// If there is no such depth.
    pub fn imagenet(depth: usize) -> Result<Self, ConfigError> {
        let (blocks, bottleneck) = match depth {
            10 => ([1, 1, 1, 1], false),
            18 => ([2, 2, 2, 2], false),
            34 => ([3, 4, 6, 3], false),
            50 => ([3, 4, 6, 3], true),
            101 => ([3, 4, 23, 3], true),
            152 => ([3, 8, 36, 3], true),
            _ => {
                return Err(ConfigError::Field {
                    field: "depth",
                    found: depth.to_string(),
                    expected: "10, 18, 34, 50, 101 or 152".into(),
                });
            }
        };
        Ok(Self::of_four(blocks, |planes| match bottleneck {
            true => (
                4 * planes,
                BlockKind::Bottleneck {
                    width: planes,
                    groups: 1,
                },
            ),
            false => (planes, BlockKind::Basic),
        }))
    }

    /// ResNeXt-50 (32×4d) of Xie et al. (arXiv 1611.05431), as torchvision builds it.
    pub fn resnext50() -> Self {
        Self::of_four([3, 4, 6, 3], |planes| {
            let block = BlockKind::Bottleneck {
                width: 2 * planes,
                groups: 32,
            };
            (4 * planes, block)
        })
    }

    /// Four layers of 64, 128, 256 and 512 planes; `layer` gives channels and blocks for them.
    fn of_four(blocks: [usize; 4], layer: impl Fn(usize) -> (usize, BlockKind)) -> Self {
        let layers = blocks.into_iter().enumerate().map(|(i, blocks)| {
            let (channels, block) = layer(64 << i);
            LayerConfig::new(channels, blocks, if i == 0 { 1 } else { 2 }).with_block(block)
        });
        Self::new(StemConfig::new(64, StemKind::ImageNet), layers.collect())
            .with_conv_init(ConvInit::FanOut)
    }

    /// Channels that come into a layer, counted from 1.
    fn channels_before(&self, layer: usize) -> usize {
        let before = layer.checked_sub(2);
        before.map_or(self.stem.channels, |i| self.layers[i].channels)
    }
}

/// Every name of a ResNet.
pub(super) const NAMES: [&str; 14] = [
    "resnet8",
    "resnet10",
    "resnet14",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnext50",
];

/// Channels of a layer: far more than any network has, and products of them are still numbers.
const CHANNELS: usize = 65_536;

impl Family for ResnetConfig {
    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn image_size(&self) -> usize {
        match self.stem.kind {
            StemKind::Cifar => 32,
            StemKind::ImageNet => 224,
        }
    }

    fn shapes(&self, [height, width]: [usize; 2]) -> Vec<FeatureShape> {
        let image = FeatureShape {
            channels: 3,
            height,
            width,
        };
        let mut shape = match self.stem.kind {
            StemKind::Cifar => image.strided(self.stem.channels, 1),
            // Two strides of 2 round up one after the other.
            StemKind::ImageNet => image.strided(3, 2).strided(self.stem.channels, 2),
        };
        let mut shapes = vec![shape];
        shapes.extend(self.layers.iter().map(|layer| {
            shape = shape.strided(layer.channels, layer.stride);
            shape
        }));
        shapes
    }

    fn num_values(&self, depth: usize) -> u64 {
        match depth {
            0 => self.stem.num_values(),
            _ => self.layers[depth - 1].num_values(self.channels_before(depth)),
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        within("backbone.stem.channels", self.stem.channels, CHANNELS)?;
        within("backbone.layers", self.layers.len(), 16)?;
        for layer in &self.layers {
            within("backbone.layers.channels", layer.channels, CHANNELS)?;
            within("backbone.layers.blocks", layer.blocks, 1000)?;
            within("backbone.layers.stride", layer.stride, 16)?;
            if let BlockKind::Bottleneck { width, groups } = layer.block {
                within("backbone.layers.block.width", width, CHANNELS)?;
                within("backbone.layers.block.groups", groups, CHANNELS)?;
                if !width.is_multiple_of(groups) {
                    return Err(ConfigError::Field {
                        field: "backbone.layers.block.width",
                        found: width.to_string(),
                        expected: format!("a multiple of the block's groups, {groups}"),
                    });
                }
            }
        }
        Ok(())
    }

    fn init(&self, depth: usize, device: &Device) -> Layer {
        match depth {
            0 => Layer {
                blocks: vec![Block::Stem(self.stem.init(self.conv_init, device))],
            },
            _ => {
                let from = self.channels_before(depth);
                self.layers[depth - 1].init(from, self.conv_init, device)
            }
        }
    }

    /// The reference's names for CIFAR networks, torchvision's for the others.
    fn state_name(&self, depth: usize, block: usize, path: &[&str]) -> String {
        let rest = path.join(".");
        if depth == 0 {
            return match rest.split_once('.') {
                Some((layer, leaf)) => format!("{layer}1.{leaf}"),
                None => rest,
            };
        }
        let projection = match self.stem.kind {
            StemKind::Cifar => "shortcut",
            StemKind::ImageNet => "downsample",
        };
        let rest = rest
            .replace("shortcut.conv.", &format!("{projection}.0."))
            .replace("shortcut.bn.", &format!("{projection}.1."));
        format!("layer{depth}.{block}.{rest}")
    }

    /// As the reference's `ResNet_MoE` has it: `layer3s.0.…` for `layer3.…`.
    fn expert_state_name(&self, name: &str, expert: usize) -> String {
        name.replacen('.', &format!("s.{expert}."), 1)
    }

    fn classifier_name(&self) -> &'static str {
        match self.stem.kind {
            StemKind::Cifar => "linear",
            StemKind::ImageNet => "fc",
        }
    }
}

/// Convolution, batch normalisation, ReLU and, in the stem for large images, maximum pooling.
#[derive(Module, Debug)]
pub struct Stem {
    /// From RGB.
    pub conv: Conv2d,
    /// After `conv`.
    pub bn: BatchNorm,
    /// 3×3, stride 2; none for small images.
    pub pool: Option<MaxPool2d>,
}

impl StemConfig {
    /// Parameters and running statistics.
    fn num_values(&self) -> u64 {
        let kernel = match self.kind {
            StemKind::Cifar => 3,
            StemKind::ImageNet => 7,
        };
        conv_norm_values([3, self.channels], kernel, 1)
    }

    /// Initialises the stem.
    fn init(&self, conv_init: ConvInit, device: &Device) -> Stem {
        let channels = [3, self.channels];
        let (conv, pool) = match self.kind {
            StemKind::Cifar => (conv_init.conv(channels, 3, 1, 1, device), None),
            StemKind::ImageNet => {
                let pool = MaxPool2dConfig::new([3, 3])
                    .with_strides([2, 2])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
                let conv = conv_init.conv(channels, 7, 2, 1, device);
                (conv, Some(pool.init()))
            }
        };
        Stem {
            conv,
            bn: BatchNormConfig::new(self.channels).init(device),
            pool,
        }
    }
}

impl Stem {
    /// `[batch, 3, height, width]` → `[batch, channels, height, width]`, with a quarter of the
    /// height and width where there is pooling.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let out = self.bn.after(&self.conv, images, Then::Relu);
        match &self.pool {
            Some(pool) => max_pool2d(pool, out),
            None => out,
        }
    }

    pub(super) fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        vec![&mut self.bn]
    }

    /// Cost for one image of this size, and the size that comes out.
    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let (cost, size) = conv_cost(&self.conv, size);
        let stride = if self.pool.is_some() { 2 } else { 1 };
        (cost, size.map(|side| side.div_ceil(stride)))
    }
}

impl LayerConfig {
    /// Parameters and running statistics behind a layer that puts out `from` channels.
    fn num_values(&self, from: usize) -> u64 {
        let to = self.channels;
        let block = |from: usize, stride: usize| {
            let layers = match self.block {
                BlockKind::Basic => {
                    conv_norm_values([from, to], 3, 1) + conv_norm_values([to, to], 3, 1)
                }
                BlockKind::Bottleneck { width, groups } => {
                    conv_norm_values([from, width], 1, 1)
                        + conv_norm_values([width, width], 3, groups)
                        + conv_norm_values([width, to], 1, 1)
                }
            };
            match stride != 1 || from != to {
                true => layers + conv_norm_values([from, to], 1, 1),
                false => layers,
            }
        };
        let rest = self.blocks.saturating_sub(1) as u64;
        block(from, self.stride) + rest * block(to, 1)
    }

    /// Initialises the layer behind one that puts out `from` channels.
    fn init(&self, from: usize, conv_init: ConvInit, device: &Device) -> Layer {
        let block = |index| {
            let (from, stride) = match index {
                0 => (from, self.stride),
                _ => (self.channels, 1),
            };
            let channels = [from, self.channels];
            match self.block {
                BlockKind::Basic => Block::Basic(
                    BasicBlockConfig::new(channels)
                        .with_stride(stride)
                        .with_conv_init(conv_init)
                        .init(device),
                ),
                BlockKind::Bottleneck { width, groups } => Block::Bottleneck(
                    BottleneckConfig::new(channels, width)
                        .with_stride(stride)
                        .with_groups(groups)
                        .with_conv_init(conv_init)
                        .init(device),
                ),
            }
        };
        Layer {
            blocks: (0..self.blocks).map(block).collect(),
        }
    }
}

use core::fmt;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use shike_kernels::conv2d;

use super::block::{ConvInit, Cost, conv_cost};
use super::{BasicBlockConfig, BatchNorm, BatchNormConfig, Block, BottleneckConfig, ConfigError};

/// Shape of one image's feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureShape {
    /// Channels.
    pub channels: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

impl fmt::Display for FeatureShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}×{}", self.channels, self.height, self.width)
    }
}

impl FeatureShape {
    /// The shape after a "same"-padded layer of this stride with `channels` outputs.
    pub(super) fn strided(self, channels: usize, stride: usize) -> Self {
        Self {
            channels,
            height: self.height.div_ceil(stride),
            width: self.width.div_ceil(stride),
        }
    }
}

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

/// The kind of a stage's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BlockKind {
    /// Two 3×3 convolutions: [`BasicBlock`](super::BasicBlock).
    #[default]
    #[serde(alias = "Basic")]
    Basic,
    /// 1×1, 3×3, 1×1: [`Bottleneck`](super::Bottleneck).
    #[serde(alias = "Bottleneck")]
    Bottleneck {
        /// Channels of the 3×3 convolution. A ResNet has a quarter of the stage's channels, a
        /// ResNeXt-50 (32×4d) half of them.
        width: usize,
        /// Groups of the 3×3 convolution; 1 in a ResNet.
        groups: usize,
    },
}

/// One stage: blocks of equal width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Channels that the stage puts out.
    pub channels: usize,
    /// Number of residual blocks.
    pub blocks: usize,
    /// Stride of the first block.
    pub stride: usize,
    /// What the blocks are.
    #[serde(default)]
    pub block: BlockKind,
}

/// A residual network without its classifier: a stem and stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// The first layers.
    pub stem: StemConfig,
    /// The stages, shallow to deep.
    pub stages: Vec<StageConfig>,
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

impl StageConfig {
    /// A stage of basic blocks.
    pub fn new(channels: usize, blocks: usize, stride: usize) -> Self {
        Self {
            channels,
            blocks,
            stride,
            block: BlockKind::Basic,
        }
    }
}

setters!(StageConfig { with_block block: BlockKind });
setters!(BackboneConfig { with_conv_init conv_init: ConvInit });

impl BackboneConfig {
    /// A network that is spelt out, with the reference's random weights.
    pub fn new(stem: StemConfig, stages: Vec<StageConfig>) -> Self {
        Self {
            stem,
            stages,
            conv_init: ConvInit::FanIn,
        }
    }

    /// Every name that [`named`](Self::named) knows.
    pub const NAMES: [&'static str; 14] = [
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

    /// The name that [`named`](Self::named) knows this network by; none for one that was spelt out.
    pub fn name(&self) -> Option<&'static str> {
        let is_it = |name: &&str| Self::named(name).as_ref() == Ok(self);
        Self::NAMES.into_iter().find(is_it)
    }

    /// The network of a name in [`NAMES`](Self::NAMES): an ImageNet [ResNet](Self::resnet) of 10, 18,
    /// 34, 50, 101 or 152 layers, [`resnext50`](Self::resnext50), or else a [CIFAR ResNet](Self::cifar).
    ///
    /// # Errors
    /// If there is no network of this name.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        let depth = name.strip_prefix("resnet").and_then(|d| d.parse().ok());
        match (Self::NAMES.contains(&name), depth) {
            (true, Some(depth)) => Self::resnet(depth).or_else(|_| Self::cifar(depth)),
            (true, None) => Ok(Self::resnext50()),
            (false, _) => Err(ConfigError::Field {
                field: "arch",
                found: name.to_owned(),
                expected: Self::NAMES.join(", "),
            }),
        }
    }

    /// The CIFAR ResNet of depth `6n + 2` (20, 32, 44, 56, …): a 3×3 stem of 16 channels and three
    /// stages of `n` basic blocks with 16, 32 and 64 channels.
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
        let stage = |channels, stride| StageConfig::new(channels, blocks, stride);
        Ok(Self::new(
            StemConfig::new(16, StemKind::Cifar),
            vec![stage(16, 1), stage(32, 2), stage(64, 2)],
        ))
    }

    /// The ResNet of He et al. for ImageNet (arXiv 1512.03385) with 10, 18, 34, 50, 101 or 152
    /// layers, as torchvision builds it: bottlenecks from 50 layers on, whose 3×3 convolution
    /// carries the stride ("V1.5").
    ///
    /// # Errors
    /// If there is no such depth.
    pub fn resnet(depth: usize) -> Result<Self, ConfigError> {
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
        Ok(Self::imagenet(blocks, |planes| match bottleneck {
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
        Self::imagenet([3, 4, 6, 3], |planes| {
            let block = BlockKind::Bottleneck {
                width: 2 * planes,
                groups: 32,
            };
            (4 * planes, block)
        })
    }

    /// Four stages of 64, 128, 256 and 512 planes; `stage` gives channels and blocks for them.
    fn imagenet(blocks: [usize; 4], stage: impl Fn(usize) -> (usize, BlockKind)) -> Self {
        let stages = blocks.into_iter().enumerate().map(|(i, blocks)| {
            let (channels, block) = stage(64 << i);
            StageConfig::new(channels, blocks, if i == 0 { 1 } else { 2 }).with_block(block)
        });
        Self::new(StemConfig::new(64, StemKind::ImageNet), stages.collect())
            .with_conv_init(ConvInit::FanOut)
    }

    /// Shapes of the stem's output and of each stage's output, for one image of `[height, width]`.
    pub fn feature_shapes(&self, [height, width]: [usize; 2]) -> (FeatureShape, Vec<FeatureShape>) {
        let image = FeatureShape {
            channels: 3,
            height,
            width,
        };
        let stem = match self.stem.kind {
            StemKind::Cifar => image.strided(self.stem.channels, 1),
            // Two strides of 2 round up one after the other.
            StemKind::ImageNet => image.strided(3, 2).strided(self.stem.channels, 2),
        };
        let mut shape = stem;
        let stages = self.stages.iter().map(|stage| {
            shape = shape.strided(stage.channels, stage.stride);
            shape
        });
        let stages = stages.collect();
        (stem, stages)
    }

    /// Channels that come into a stage, counted from 0.
    pub(super) fn channels_before(&self, stage: usize) -> usize {
        let before = stage.checked_sub(1);
        before.map_or(self.stem.channels, |i| self.stages[i].channels)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("backbone.stem.channels", self.stem.channels, CHANNELS)?;
        within("backbone.stages", self.stages.len(), 16)?;
        for stage in &self.stages {
            within("backbone.stages.channels", stage.channels, CHANNELS)?;
            within("backbone.stages.blocks", stage.blocks, 1000)?;
            within("backbone.stages.stride", stage.stride, 16)?;
            if let BlockKind::Bottleneck { width, groups } = stage.block {
                within("backbone.stages.block.width", width, CHANNELS)?;
                within("backbone.stages.block.groups", groups, CHANNELS)?;
                if !width.is_multiple_of(groups) {
                    return Err(ConfigError::Field {
                        field: "backbone.stages.block.width",
                        found: width.to_string(),
                        expected: format!("a multiple of the block's groups, {groups}"),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Channels of a layer: far more than any network has, and products of them are still numbers.
const CHANNELS: usize = 65_536;

/// Refuses a size outside 1 to `most`.
pub(super) fn within(field: &'static str, found: usize, most: usize) -> Result<(), ConfigError> {
    match (1..=most).contains(&found) {
        true => Ok(()),
        false => Err(ConfigError::Field {
            field,
            found: found.to_string(),
            expected: format!("1 to {most}"),
        }),
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

/// Numbers in a convolution of square kernels without bias and in the normalisation behind it.
pub(super) fn conv_norm_values(channels: [usize; 2], kernel: usize, groups: usize) -> u64 {
    let [from, to] = channels.map(|channels| channels as u64);
    from / groups as u64 * to * (kernel * kernel) as u64 + 4 * to
}

impl StemConfig {
    /// Parameters and running statistics.
    pub(super) fn num_values(&self) -> u64 {
        let kernel = match self.kind {
            StemKind::Cifar => 3,
            StemKind::ImageNet => 7,
        };
        conv_norm_values([3, self.channels], kernel, 1)
    }

    /// Initialises the stem.
    pub fn init(&self, conv_init: ConvInit, device: &Device) -> Stem {
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
        let out = self.bn.forward_relu(conv2d(&self.conv, images));
        match &self.pool {
            Some(pool) => pool.forward(out),
            None => out,
        }
    }

    /// Cost for one image of this size, and the size that comes out.
    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let (cost, size) = conv_cost(&self.conv, size);
        let stride = if self.pool.is_some() { 2 } else { 1 };
        (cost, size.map(|side| side.div_ceil(stride)))
    }
}

/// Residual blocks, one after the other.
#[derive(Module, Debug)]
pub struct Stage {
    /// The blocks; the first carries the stride.
    pub blocks: Vec<Block>,
}

impl StageConfig {
    /// Parameters and running statistics behind a layer that puts out `from` channels.
    pub(super) fn num_values(&self, from: usize) -> u64 {
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

    /// Initialises the stage behind a layer that puts out `from` channels.
    pub fn init(&self, from: usize, conv_init: ConvInit, device: &Device) -> Stage {
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
        Stage {
            blocks: (0..self.blocks).map(block).collect(),
        }
    }
}

impl Stage {
    /// `[batch, from, height, width]` → `[batch, channels, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        self.blocks.iter().fold(input, |x, block| block.forward(x))
    }

    /// Cost for one image with this input size, and the size that comes out.
    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let start = (Cost::default(), size);
        self.blocks.iter().fold(start, |(sum, size), block| {
            let (cost, size) = block.cost(size);
            (sum + cost, size)
        })
    }
}

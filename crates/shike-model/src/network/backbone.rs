use core::fmt;

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::block::{conv, conv_macs};
use super::{BasicBlock, BasicBlockConfig, BatchNorm, BatchNormConfig, ConfigError};

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

/// The first layers of a network.
#[derive(Config, Debug, PartialEq)]
pub struct StemConfig {
    /// Channels that the stem puts out.
    pub channels: usize,
}

/// One stage: blocks of equal width.
#[derive(Config, Debug, PartialEq)]
pub struct StageConfig {
    /// Channels that the stage puts out.
    pub channels: usize,
    /// Number of residual blocks.
    pub blocks: usize,
    /// Stride of the first block.
    pub stride: usize,
}

/// A residual network without its classifier: a stem and stages.
#[derive(Config, Debug, PartialEq)]
pub struct BackboneConfig {
    /// The first layers.
    pub stem: StemConfig,
    /// The stages, shallow to deep.
    pub stages: Vec<StageConfig>,
}

impl BackboneConfig {
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
            StemConfig::new(16),
            vec![stage(16, 1), stage(32, 2), stage(64, 2)],
        ))
    }

    /// Shapes of the stem's output and of each stage's output, for one image of `[height, width]`.
    pub fn feature_shapes(&self, [height, width]: [usize; 2]) -> (FeatureShape, Vec<FeatureShape>) {
        let stem = FeatureShape {
            channels: self.stem.channels,
            height,
            width,
        };
        let mut shape = stem;
        let stages = self.stages.iter().map(|stage| {
            shape = shape.strided(stage.channels, stage.stride);
            shape
        });
        let stages = stages.collect();
        (stem, stages)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let zero = |field, value: usize| match value {
            0 => Err(ConfigError::Field {
                field,
                found: "0".into(),
                expected: "at least 1".into(),
            }),
            _ => Ok(()),
        };
        zero("backbone.stem.channels", self.stem.channels)?;
        zero("backbone.stages", self.stages.len())?;
        for stage in &self.stages {
            zero("backbone.stages.channels", stage.channels)?;
            zero("backbone.stages.blocks", stage.blocks)?;
            zero("backbone.stages.stride", stage.stride)?;
        }
        Ok(())
    }
}

/// 3×3 convolution, batch normalisation, ReLU: the stem for small images.
#[derive(Module, Debug)]
pub struct Stem {
    /// 3×3, stride 1, from RGB.
    pub conv: Conv2d,
    /// After `conv`.
    pub bn: BatchNorm,
}

impl StemConfig {
    /// Initialises the stem.
    pub fn init(&self, device: &Device) -> Stem {
        Stem {
            conv: conv([3, self.channels], 3, [1, 1], device),
            bn: BatchNormConfig::new(self.channels).init(device),
        }
    }
}

impl Stem {
    /// `[batch, 3, height, width]` → `[batch, channels, height, width]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        relu(self.bn.forward(self.conv.forward(images)))
    }

    pub(super) fn macs(&self, size: [usize; 2]) -> u64 {
        conv_macs(&self.conv, size)
    }
}

/// Residual blocks, one after the other.
#[derive(Module, Debug)]
pub struct Stage {
    /// The blocks; the first carries the stride.
    pub blocks: Vec<BasicBlock>,
}

impl StageConfig {
    /// Initialises the stage behind a layer that puts out `from` channels.
    pub fn init(&self, from: usize, device: &Device) -> Stage {
        let block = |index| {
            let (from, stride) = match index {
                0 => (from, self.stride),
                _ => (self.channels, 1),
            };
            BasicBlockConfig::new([from, self.channels])
                .with_stride(stride)
                .init(device)
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

    /// Multiply-adds for one image with this input size, and the size that comes out.
    pub(super) fn macs(&self, mut size: [usize; 2]) -> (u64, [usize; 2]) {
        let mut macs = 0;
        for block in &self.blocks {
            size = size.map(|side| side.div_ceil(block.stride()));
            macs += block.macs(size);
        }
        (macs, size)
    }
}

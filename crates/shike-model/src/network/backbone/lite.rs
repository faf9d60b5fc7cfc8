//! EfficientNet-Lite0 to Lite2: the EfficientNets (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation
//! and with ReLU6, as TensorFlow's `lite/efficientnet_lite_builder.py` builds them. Their convolutions have
//! TensorFlow's "same" padding: `⌈side / stride⌉` comes out, and an odd row or column of zeros is put at the end.

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use shike_kernels::Then;

use super::{Block, Family, FeatureShape, Layer};
use crate::network::conv::{ConvInit, Cost, chain_cost, conv_norm_values};
use crate::network::{BatchNorm, BatchNormConfig, ConfigError};

/// Which of the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LiteConfig {
    /// For images of 224 pixels; 4.7 million parameters.
    Lite0,
    /// For images of 240 pixels; 5.4 million parameters.
    Lite1,
    /// For images of 260 pixels; 6.1 million parameters.
    Lite2,
}

/// Every name of an EfficientNet-Lite.
pub(super) const NAMES: [&str; 3] = [
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
];

/// Blocks of equal width, as the paper's table 1 has them.
#[derive(Clone, Copy)]
struct Stage {
    channels: usize,
    blocks: usize,
    kernel: usize,
    stride: usize,
    expansion: usize,
}

const fn stage(channels: usize, blocks: usize, kernel: usize, stride: usize) -> Stage {
    Stage {
        channels,
        blocks,
        kernel,
        stride,
        expansion: 6,
    }
}

const FIRST: Stage = Stage {
    expansion: 1,
    ..stage(16, 1, 3, 1)
};

/// The layers: what lies between two halvings of the sides is one.
const LAYERS: [&[Stage]; 5] = [
    &[FIRST],
    &[stage(24, 2, 3, 2)],
    &[stage(40, 2, 5, 2)],
    &[stage(80, 3, 3, 2), stage(112, 3, 5, 1)],
    &[stage(192, 4, 5, 2), stage(320, 1, 3, 1)],
];

/// Channels of the stem and of the last convolution, whatever the width.
const STEM: usize = 32;
const HEAD: usize = 1280;

/// One block.
struct Inverted {
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    expansion: usize,
}

impl Inverted {
    fn inner(&self) -> usize {
        self.channels[0] * self.expansion
    }

    fn num_values(&self) -> u64 {
        let [from, to] = self.channels;
        let inner = self.inner();
        let expand = match self.expansion {
            1 => 0,
            _ => conv_norm_values([from, inner], 1, 1),
        };
        expand
            + conv_norm_values([inner, inner], self.kernel, inner)
            + conv_norm_values([inner, to], 1, 1)
    }

    fn init(&self, device: &Device) -> InvertedResidual {
        let [from, to] = self.channels;
        let inner = self.inner();
        let conv = |channels, kernel, stride, groups| {
            ConvNorm::init(channels, kernel, stride, groups, device)
        };
        InvertedResidual {
            expand: (self.expansion != 1).then(|| conv([from, inner], 1, 1, 1)),
            depthwise: conv([inner, inner], self.kernel, self.stride, inner),
            project: conv([inner, to], 1, 1, 1),
            residual: self.stride == 1 && from == to,
        }
    }
}

impl LiteConfig {
    pub(super) fn named(name: &str) -> Option<Self> {
        let at = NAMES.iter().position(|known| *known == name)?;
        Some([Self::Lite0, Self::Lite1, Self::Lite2][at])
    }

    /// Factors of width and depth.
    fn scales(self) -> (f64, f64) {
        match self {
            Self::Lite0 => (1.0, 1.0),
            Self::Lite1 => (1.0, 1.1),
            Self::Lite2 => (1.1, 1.2),
        }
    }

    /// Scaled and rounded to a multiple of 8, at most a tenth less.
    fn channels(self, channels: usize) -> usize {
        let scaled = channels as f64 * self.scales().0;
        let rounded = ((scaled + 4.0) as usize / 8 * 8).max(8);
        match (rounded as f64) < 0.9 * scaled {
            true => rounded + 8,
            false => rounded,
        }
    }

    /// Blocks of a stage. The first and the last keep their depth.
    fn repeats(self, stage: &Stage) -> usize {
        match stage.blocks {
            1 => 1,
            blocks => (blocks as f64 * self.scales().1).ceil() as usize,
        }
    }

    /// The blocks of a layer, counted from 1.
    fn blocks(self, layer: usize) -> Vec<Inverted> {
        let mut from = match layer {
            1 => STEM,
            _ => self.channels(LAYERS[layer - 2].last().map_or(0, |stage| stage.channels)),
        };
        let mut blocks = Vec::new();
        for stage in LAYERS[layer - 1] {
            let to = self.channels(stage.channels);
            for i in 0..self.repeats(stage) {
                blocks.push(Inverted {
                    channels: [from, to],
                    kernel: stage.kernel,
                    stride: if i == 0 { stage.stride } else { 1 },
                    expansion: stage.expansion,
                });
                from = to;
            }
        }
        blocks
    }

    /// Channels that come into the last convolution.
    fn last_channels(self) -> usize {
        self.channels(320)
    }
}

impl Family for LiteConfig {
    /// Five layers of blocks, and the last convolution.
    fn layers(&self) -> usize {
        LAYERS.len() + 1
    }

    fn image_size(&self) -> usize {
        match self {
            Self::Lite0 => 224,
            Self::Lite1 => 240,
            Self::Lite2 => 260,
        }
    }

    fn shapes(&self, [height, width]: [usize; 2]) -> Vec<FeatureShape> {
        let image = FeatureShape {
            channels: 3,
            height,
            width,
        };
        let mut shape = image.strided(STEM, 2);
        let mut shapes = vec![shape];
        for (i, stages) in LAYERS.iter().enumerate() {
            let channels = self.blocks(i + 1).last().map_or(0, |b| b.channels[1]);
            shape = shape.strided(channels, stages[0].stride);
            shapes.push(shape);
        }
        shapes.push(shape.strided(HEAD, 1));
        shapes
    }

    fn num_values(&self, depth: usize) -> u64 {
        match depth {
            0 => conv_norm_values([3, STEM], 3, 1),
            _ if depth == self.layers() => conv_norm_values([self.last_channels(), HEAD], 1, 1),
            _ => self.blocks(depth).iter().map(Inverted::num_values).sum(),
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn init(&self, depth: usize, device: &Device) -> Layer {
        let conv = |channels, kernel, stride| {
            let conv = ConvNorm::init(channels, kernel, stride, 1, device);
            vec![Block::ConvNorm(conv)]
        };
        let blocks = match depth {
            0 => conv([3, STEM], 3, 2),
            _ if depth == self.layers() => conv([self.last_channels(), HEAD], 1, 1),
            _ => {
                let blocks = self.blocks(depth).into_iter();
                let blocks = blocks.map(|block| Block::Inverted(block.init(device)));
                blocks.collect()
            }
        };
        Layer { blocks }
    }

    /// The names of `efficientnet_lite_pytorch`, the port that has TensorFlow's weights.
    fn state_name(&self, depth: usize, block: usize, path: &[&str]) -> String {
        let (conv, norm, rest) = match path {
            ["expand", rest @ ..] => ("_expand_conv", "_bn0", rest),
            ["depthwise", rest @ ..] => ("_depthwise_conv", "_bn1", rest),
            ["project", rest @ ..] => ("_project_conv", "_bn2", rest),
            rest if depth == 0 => ("_conv_stem", "_bn0", rest),
            rest => ("_conv_head", "_bn1", rest),
        };
        let name = match rest {
            ["bn", leaf] => format!("{norm}.{leaf}"),
            rest => format!("{conv}.{}", rest.last().unwrap_or(&"")),
        };
        if depth == 0 || depth == self.layers() {
            return name;
        }
        let before: usize = (1..depth).map(|layer| self.blocks(layer).len()).sum();
        format!("_blocks.{}.{name}", before + block)
    }

    /// timm's name.
    fn alias(&self, name: &str) -> Option<String> {
        if let Some(leaf) = name.strip_prefix("_conv_stem.") {
            return Some(format!("conv_stem.{leaf}"));
        }
        if let Some(leaf) = name.strip_prefix("_conv_head.") {
            return Some(format!("conv_head.{leaf}"));
        }
        let Some(rest) = name.strip_prefix("_blocks.") else {
            let (norm, leaf) = name.split_once('.')?;
            let at = ["_bn0", "_bn1"].iter().position(|known| *known == norm)?;
            return Some(format!("bn{}.{leaf}", at + 1));
        };
        let (number, rest) = rest.split_once('.')?;
        let (module, leaf) = rest.split_once('.')?;
        let mut block: usize = number.parse().ok()?;
        let stages = LAYERS
            .into_iter()
            .flatten()
            .map(|stage| self.repeats(stage));
        for (stage, count) in stages.enumerate() {
            if block >= count {
                block -= count;
                continue;
            }
            // Of the first stage's block, which does not widen, the modules count from the depthwise one.
            let names = [
                "_expand_conv",
                "_bn0",
                "_depthwise_conv",
                "_bn1",
                "_project_conv",
                "_bn2",
            ];
            let at = names.iter().position(|known| *known == module)?;
            let theirs = match stage {
                0 => ["", "", "conv_dw", "bn1", "conv_pw", "bn2"],
                _ => ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"],
            };
            return Some(format!("blocks.{stage}.{block}.{}.{leaf}", theirs[at]));
        }
        None
    }

    fn classifier_name(&self) -> &'static str {
        "_fc"
    }
}

/// Convolution and batch normalisation.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// Without bias.
    pub conv: Conv2d,
    /// After `conv`.
    pub bn: BatchNorm,
}

impl ConvNorm {
    fn init(
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
        groups: usize,
        device: &Device,
    ) -> Self {
        let mut conv = ConvInit::FanOut.conv(channels, kernel, stride, groups, device);
        if stride > 1 {
            conv.padding = PaddingConfig2d::Same;
        }
        let bn = BatchNormConfig::new(channels[1])
            .with_epsilon(1e-3)
            .with_momentum(0.01);
        Self {
            conv,
            bn: bn.init(device),
        }
    }

    /// With ReLU6: `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        self.forward_then(input, Then::Relu6)
    }

    fn forward_then(&self, input: Tensor<4>, then: Then) -> Tensor<4> {
        let mut conv = self.conv.clone();
        if let PaddingConfig2d::Same = conv.padding {
            // TensorFlow's, of which the smaller half comes first.
            let [_, _, height, width] = input.dims();
            let padding = |side: usize, at: usize| {
                let (kernel, stride) = (conv.kernel_size[at], conv.stride[at]);
                let all = (side.div_ceil(stride) - 1) * stride + kernel;
                let all = all.saturating_sub(side);
                [all / 2, all - all / 2]
            };
            let ([top, bottom], [left, right]) = (padding(height, 0), padding(width, 1));
            conv.padding = PaddingConfig2d::Explicit(top, left, bottom, right);
        }
        self.bn.after(&conv, input, then)
    }

    pub(super) fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        vec![&mut self.bn]
    }

    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        chain_cost([&self.conv], size)
    }
}

/// An inverted residual block (MobileNetV2): 1×1 to more channels, depthwise, 1×1 to the output's channels without
/// activation; the input is added where shapes agree.
#[derive(Module, Debug)]
pub struct InvertedResidual {
    /// 1×1, ReLU6; none where the block does not widen.
    pub expand: Option<ConvNorm>,
    /// Depthwise, carries the stride, ReLU6.
    pub depthwise: ConvNorm,
    /// 1×1, without activation.
    pub project: ConvNorm,
    residual: bool,
}

impl InvertedResidual {
    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let out = match &self.expand {
            Some(expand) => expand.forward(input.clone()),
            None => input.clone(),
        };
        let then = match self.residual {
            true => Then::Add(input),
            false => Then::Nothing,
        };
        self.project.forward_then(self.depthwise.forward(out), then)
    }

    pub(super) fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        let convs = [&mut self.depthwise, &mut self.project].into_iter();
        let all = convs.chain(&mut self.expand);
        all.map(|conv| &mut conv.bn).collect()
    }

    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let expand = self.expand.iter().map(|expand| &expand.conv);
        chain_cost(
            expand.chain([&self.depthwise.conv, &self.project.conv]),
            size,
        )
    }
}

use std::f64::consts::SQRT_2;

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use shike_kernels::conv2d;

use super::{BatchNorm, BatchNormConfig};

/// How the weights of a backbone's convolutions are drawn: `kaiming_normal` with gain √2 in one of
/// its modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvInit {
    /// Variance `2 / fan_in`: what the SHIKE reference's `_weights_init` gives its networks.
    #[default]
    #[serde(alias = "FanIn")]
    FanIn,
    /// Variance `2 / fan_out`: what torchvision gives its ResNets.
    #[serde(alias = "FanOut")]
    FanOut,
}

impl ConvInit {
    /// A convolution without bias, "same" padding for odd kernels.
    pub(super) fn conv(
        self,
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
        groups: usize,
        device: &Device,
    ) -> Conv2d {
        let mut conv = conv_config(channels, kernel, [stride, stride])
            .with_groups(groups)
            .init(device);
        let [from, to] = channels;
        let area = kernel * kernel;
        // PyTorch counts the outputs of all groups; Burn's `init` those of one.
        let (fan_in, fan_out) = (from / groups * area, to * area);
        conv.weight = Initializer::KaimingNormal {
            gain: SQRT_2,
            fan_out_only: self == Self::FanOut,
        }
        .init_with(
            [to, from / groups, kernel, kernel],
            Some(fan_in),
            Some(fan_out),
            device,
        );
        conv
    }
}

/// A convolution with "same" padding for odd kernels and Burn's default initialiser, which is
/// PyTorch's default (`kaiming_uniform` with a = √5, that is U(±1/√fan_in)).
pub(super) fn conv_config(channels: [usize; 2], kernel: usize, stride: [usize; 2]) -> Conv2dConfig {
    let pad = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride(stride)
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
}

/// What convolutions cost for one image.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Multiply-adds.
    pub macs: u64,
    /// Values that the convolutions put out.
    pub activations: u64,
}

impl core::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            macs: self.macs + other.macs,
            activations: self.activations + other.activations,
        }
    }
}

/// Cost of a "same"-padded convolution for an input of this height and width, and the size that
/// comes out.
pub(super) fn conv_cost(conv: &Conv2d, [height, width]: [usize; 2]) -> (Cost, [usize; 2]) {
    let size = [
        height.div_ceil(conv.stride[0]),
        width.div_ceil(conv.stride[1]),
    ];
    let area = (size[0] * size[1]) as u64;
    let weights = conv.weight.lazy_shape();
    let cost = Cost {
        macs: weights.num_elements() as u64 * area,
        activations: weights[0] as u64 * area,
    };
    (cost, size)
}

/// Cost of convolutions one after the other.
pub(super) fn chain_cost<'a>(
    convs: impl IntoIterator<Item = &'a Conv2d>,
    size: [usize; 2],
) -> (Cost, [usize; 2]) {
    let start = (Cost::default(), size);
    convs.into_iter().fold(start, |(sum, size), conv| {
        let (cost, size) = conv_cost(conv, size);
        (sum + cost, size)
    })
}

/// A residual block of either kind.
// A network has few blocks, and all those of a stage are of one kind.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Block {
    /// Two 3×3 convolutions.
    Basic(BasicBlock),
    /// 1×1, 3×3, 1×1.
    Bottleneck(Bottleneck),
}

impl Block {
    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Basic(block) => block.forward(input),
            Self::Bottleneck(block) => block.forward(input),
        }
    }

    /// Every batch normalisation.
    pub(super) fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        let (mut norms, shortcut) = match self {
            Self::Basic(block) => (vec![&mut block.bn1, &mut block.bn2], &mut block.shortcut),
            Self::Bottleneck(block) => (
                vec![&mut block.bn1, &mut block.bn2, &mut block.bn3],
                &mut block.shortcut,
            ),
        };
        norms.extend(shortcut.iter_mut().map(|shortcut| &mut shortcut.bn));
        norms
    }

    /// Cost for one image with this input size, and the size that comes out.
    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let ((cost, out), shortcut) = match self {
            Self::Basic(block) => (
                chain_cost([&block.conv1, &block.conv2], size),
                &block.shortcut,
            ),
            Self::Bottleneck(block) => (
                chain_cost([&block.conv1, &block.conv2, &block.conv3], size),
                &block.shortcut,
            ),
        };
        let projection = shortcut.iter().map(|projection| &projection.conv);
        (cost + chain_cost(projection, size).0, out)
    }
}

/// Configuration of [`BasicBlock`]; see [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct BasicBlockConfig {
    /// Channels of the input and of the output.
    pub channels: [usize; 2],
    /// Stride of the first convolution.
    #[config(default = 1)]
    pub stride: usize,
    /// How weights are drawn.
    #[config(default = "ConvInit::FanIn")]
    pub conv_init: ConvInit,
}

/// Two 3×3 convolutions with batch normalisation and a shortcut (He et al. 2016, arXiv 1512.03385):
/// `relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`.
#[derive(Module, Debug)]
pub struct BasicBlock {
    /// 3×3, carries the stride.
    pub conv1: Conv2d,
    /// After `conv1`.
    pub bn1: BatchNorm,
    /// 3×3, stride 1.
    pub conv2: Conv2d,
    /// After `conv2`.
    pub bn2: BatchNorm,
    /// The identity where shapes agree, else a projection ("option B").
    pub shortcut: Option<Projection>,
}

/// Configuration of [`Bottleneck`]; see [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct BottleneckConfig {
    /// Channels of the input and of the output.
    pub channels: [usize; 2],
    /// Channels of the 3×3 convolution.
    pub width: usize,
    /// Groups of the 3×3 convolution.
    #[config(default = 1)]
    pub groups: usize,
    /// Stride of the 3×3 convolution.
    #[config(default = 1)]
    pub stride: usize,
    /// How weights are drawn.
    #[config(default = "ConvInit::FanOut")]
    pub conv_init: ConvInit,
}

/// 1×1, 3×3 and 1×1 convolutions with batch normalisation and a shortcut, the stride in the 3×3
/// convolution ("V1.5", as in torchvision; the paper has it in the first):
/// `relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut(x))`.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// 1×1, to the inner width.
    pub conv1: Conv2d,
    /// After `conv1`.
    pub bn1: BatchNorm,
    /// 3×3, carries the stride and the groups.
    pub conv2: Conv2d,
    /// After `conv2`.
    pub bn2: BatchNorm,
    /// 1×1, to the output's channels.
    pub conv3: Conv2d,
    /// After `conv3`.
    pub bn3: BatchNorm,
    /// The identity where shapes agree, else a projection ("option B").
    pub shortcut: Option<Projection>,
}

/// Projection shortcut: strided 1×1 convolution and batch normalisation.
#[derive(Module, Debug)]
pub struct Projection {
    /// 1×1, carries the stride.
    pub conv: Conv2d,
    /// After `conv`.
    pub bn: BatchNorm,
}

impl Projection {
    /// The shortcut of a block; none where the identity fits.
    fn init(
        channels: [usize; 2],
        stride: usize,
        conv_init: ConvInit,
        device: &Device,
    ) -> Option<Self> {
        let [from, to] = channels;
        (stride != 1 || from != to).then(|| Self {
            conv: conv_init.conv(channels, 1, stride, 1, device),
            bn: BatchNormConfig::new(to).init(device),
        })
    }

    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        self.bn.forward(conv2d(&self.conv, input))
    }
}

impl BasicBlockConfig {
    /// Initialises the block.
    pub fn init(&self, device: &Device) -> BasicBlock {
        let (init, [from, to]) = (self.conv_init, self.channels);
        let norm = || BatchNormConfig::new(to).init(device);
        BasicBlock {
            conv1: init.conv([from, to], 3, self.stride, 1, device),
            bn1: norm(),
            conv2: init.conv([to, to], 3, 1, 1, device),
            bn2: norm(),
            shortcut: Projection::init(self.channels, self.stride, init, device),
        }
    }
}

impl BasicBlock {
    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let out = self.bn1.forward_relu(conv2d(&self.conv1, input.clone()));
        let out = conv2d(&self.conv2, out);
        self.bn2
            .forward_add_relu(out, shortcut(&self.shortcut, input))
    }
}

impl BottleneckConfig {
    /// Initialises the block.
    ///
    /// # Panics
    /// If `width` is not a multiple of `groups`.
    pub fn init(&self, device: &Device) -> Bottleneck {
        let (init, [from, to], width) = (self.conv_init, self.channels, self.width);
        let norm = |channels| BatchNormConfig::new(channels).init(device);
        Bottleneck {
            conv1: init.conv([from, width], 1, 1, 1, device),
            bn1: norm(width),
            conv2: init.conv([width, width], 3, self.stride, self.groups, device),
            bn2: norm(width),
            conv3: init.conv([width, to], 1, 1, 1, device),
            bn3: norm(to),
            shortcut: Projection::init(self.channels, self.stride, init, device),
        }
    }
}

impl Bottleneck {
    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let out = self.bn1.forward_relu(conv2d(&self.conv1, input.clone()));
        let out = self.bn2.forward_relu(conv2d(&self.conv2, out));
        let out = conv2d(&self.conv3, out);
        self.bn3
            .forward_add_relu(out, shortcut(&self.shortcut, input))
    }
}

fn shortcut(projection: &Option<Projection>, input: Tensor<4>) -> Tensor<4> {
    match projection {
        Some(projection) => projection.forward(input),
        None => input,
    }
}

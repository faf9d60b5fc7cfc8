use std::f64::consts::SQRT_2;

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use super::{BatchNorm, BatchNormConfig};

/// A convolution without bias, "same" padding for odd kernels, `kaiming_normal` in fan-in mode
/// with gain √2: what the reference's `_weights_init` gives the backbone.
pub(super) fn conv(
    [from, to]: [usize; 2],
    kernel: usize,
    stride: [usize; 2],
    device: &Device,
) -> Conv2d {
    conv_config([from, to], kernel, stride)
        .with_initializer(Initializer::KaimingNormal {
            gain: SQRT_2,
            fan_out_only: false,
        })
        .init(device)
}

/// The same convolution with Burn's default initialiser, which is PyTorch's default
/// (`kaiming_uniform` with a = √5, that is U(±1/√fan_in)).
pub(super) fn conv_config(channels: [usize; 2], kernel: usize, stride: [usize; 2]) -> Conv2dConfig {
    let pad = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride(stride)
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
}

/// Multiply-adds of a convolution without bias that writes `[to, height, width]`.
pub(super) fn conv_macs(conv: &Conv2d, [height, width]: [usize; 2]) -> u64 {
    (conv.weight.lazy_shape().num_elements() * height * width) as u64
}

/// Configuration of [`BasicBlock`]; see [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct BasicBlockConfig {
    /// Channels of the input and of the output.
    pub channels: [usize; 2],
    /// Stride of the first convolution.
    #[config(default = 1)]
    pub stride: usize,
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

/// Projection shortcut: strided 1×1 convolution and batch normalisation.
#[derive(Module, Debug)]
pub struct Projection {
    /// 1×1, carries the stride.
    pub conv: Conv2d,
    /// After `conv`.
    pub bn: BatchNorm,
}

impl BasicBlockConfig {
    /// Initialises the block.
    pub fn init(&self, device: &Device) -> BasicBlock {
        let [from, to] = self.channels;
        let strides = [self.stride, self.stride];
        let projected = self.stride != 1 || from != to;
        BasicBlock {
            conv1: conv([from, to], 3, strides, device),
            bn1: BatchNormConfig::new(to).init(device),
            conv2: conv([to, to], 3, [1, 1], device),
            bn2: BatchNormConfig::new(to).init(device),
            shortcut: projected.then(|| Projection {
                conv: conv([from, to], 1, strides, device),
                bn: BatchNormConfig::new(to).init(device),
            }),
        }
    }
}

impl BasicBlock {
    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let out = relu(self.bn1.forward(self.conv1.forward(input.clone())));
        let out = self.bn2.forward(self.conv2.forward(out));
        let shortcut = match &self.shortcut {
            Some(projection) => projection.bn.forward(projection.conv.forward(input)),
            None => input,
        };
        relu(out + shortcut)
    }

    /// Multiply-adds for one image whose output has the given height and width.
    pub(super) fn macs(&self, size: [usize; 2]) -> u64 {
        let projection = self
            .shortcut
            .as_ref()
            .map_or(0, |p| conv_macs(&p.conv, size));
        conv_macs(&self.conv1, size) + conv_macs(&self.conv2, size) + projection
    }

    pub(super) fn stride(&self) -> usize {
        self.conv1.stride[0]
    }
}

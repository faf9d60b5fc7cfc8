use std::f64::consts::SQRT_2;

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

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
    pub(crate) fn conv(
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
pub(crate) fn conv_config(channels: [usize; 2], kernel: usize, stride: [usize; 2]) -> Conv2dConfig {
    let pad = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel])
        .with_stride(stride)
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
}

/// What convolutions cost for one image.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
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
pub(crate) fn conv_cost(conv: &Conv2d, [height, width]: [usize; 2]) -> (Cost, [usize; 2]) {
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
pub(crate) fn chain_cost<'a>(
    convs: impl IntoIterator<Item = &'a Conv2d>,
    size: [usize; 2],
) -> (Cost, [usize; 2]) {
    let start = (Cost::default(), size);
    convs.into_iter().fold(start, |(sum, size), conv| {
        let (cost, size) = conv_cost(conv, size);
        (sum + cost, size)
    })
}

/// Numbers in a convolution of square kernels without bias and in the normalisation behind it.
pub(crate) fn conv_norm_values(channels: [usize; 2], kernel: usize, groups: usize) -> u64 {
    let [from, to] = channels.map(|channels| channels as u64);
    from / groups as u64 * to * (kernel * kernel) as u64 + 4 * to
}

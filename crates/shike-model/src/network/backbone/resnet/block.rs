use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use shike_kernels::Then;

use crate::network::conv::{ConvInit, Cost, chain_cost};
use crate::network::{BatchNorm, BatchNormConfig};

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
        self.bn.after(&self.conv, input, Then::Nothing)
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
    pub(in crate::network) fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        let shortcut = self.shortcut.iter_mut().map(|shortcut| &mut shortcut.bn);
        [&mut self.bn1, &mut self.bn2]
            .into_iter()
            .chain(shortcut)
            .collect()
    }

    /// Cost for one image with this input size, and the size that comes out.
    pub(in crate::network) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        with_shortcut(
            chain_cost([&self.conv1, &self.conv2], size),
            &self.shortcut,
            size,
        )
    }

    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let out = self.bn1.after(&self.conv1, input.clone(), Then::Relu);
        let residual = shortcut(&self.shortcut, input);
        self.bn2.after(&self.conv2, out, Then::AddRelu(residual))
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
    pub(in crate::network) fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        let shortcut = self.shortcut.iter_mut().map(|shortcut| &mut shortcut.bn);
        let norms = [&mut self.bn1, &mut self.bn2, &mut self.bn3];
        norms.into_iter().chain(shortcut).collect()
    }

    /// Cost for one image with this input size, and the size that comes out.
    pub(in crate::network) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let convs = [&self.conv1, &self.conv2, &self.conv3];
        with_shortcut(chain_cost(convs, size), &self.shortcut, size)
    }

    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let out = self.bn1.after(&self.conv1, input.clone(), Then::Relu);
        let out = self.bn2.after(&self.conv2, out, Then::Relu);
        let residual = shortcut(&self.shortcut, input);
        self.bn3.after(&self.conv3, out, Then::AddRelu(residual))
    }
}

fn shortcut(projection: &Option<Projection>, input: Tensor<4>) -> Tensor<4> {
    match projection {
        Some(projection) => projection.forward(input),
        None => input,
    }
}

fn with_shortcut(
    (cost, out): (Cost, [usize; 2]),
    shortcut: &Option<Projection>,
    size: [usize; 2],
) -> (Cost, [usize; 2]) {
    let projection = shortcut.iter().map(|projection| &projection.conv);
    (cost + chain_cost(projection, size).0, out)
}

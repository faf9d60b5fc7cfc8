use core::fmt;

use burn::module::Module;
use burn::nn::LayerNorm;
use burn::tensor::{DType, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use super::lite::{ConvNorm, InvertedResidual};
use super::resnet::{BasicBlock, Bottleneck, Stem};
use super::vit::{Encoder, PatchEmbedding, norm};
use crate::network::BatchNorm;
use crate::network::conv::Cost;

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
    pub(crate) fn strided(self, channels: usize, stride: usize) -> Self {
        Self {
            channels,
            height: self.height.div_ceil(stride),
            width: self.width.div_ceil(stride),
        }
    }
}

/// What a depth of a backbone puts out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FeatureMap {
    /// Of a network whose sides shrink from depth to depth: `[batch, channels, height, width]`.
    Pyramid(Tensor<4>),
    /// Of a transformer.
    Tokens {
        /// `[batch, tokens, channels]`; the first token is the class token.
        tokens: Tensor<3>,
        /// How many tokens stand before those of the patches.
        prefix: usize,
    },
}

impl FeatureMap {
    /// The map of a pyramid, `[batch, channels, height, width]`.
    ///
    /// # Panics
    /// For tokens: the blocks of one network are of one kind.
    pub fn into_pyramid(self) -> Tensor<4> {
        match self {
            Self::Pyramid(map) => map,
            Self::Tokens { .. } => panic!("tokens where a map with a height and a width is needed"),
        }
    }

    /// One vector an image, in float32 at least, `[batch, channels]`: the mean over height and width, or the
    /// class token.
    pub fn pooled(&self) -> Tensor<2> {
        match self {
            Self::Pyramid(map) => {
                let [batch, channels, height, width] = map.dims();
                widened(map.clone())
                    .reshape([batch, channels, height * width])
                    .mean_dim(2)
                    .reshape([batch, channels])
            }
            Self::Tokens { tokens, .. } => {
                let [batch, _, channels] = tokens.dims();
                let class = tokens.clone().slice([0..batch, 0..1]);
                widened(class).reshape([batch, channels])
            }
        }
    }
}

impl FeatureMap {
    /// All that one vector an image can hold, in float32 at least, `[batch, width]`: the mean over height and width,
    /// or the class token and the mean of the patches' tokens side by side.
    pub fn vector(&self) -> Tensor<2> {
        match self {
            Self::Pyramid(_) => self.pooled(),
            Self::Tokens { tokens, prefix } => {
                let [batch, count, channels] = tokens.dims();
                let patches = widened(tokens.clone().slice([0..batch, *prefix..count]));
                let mean = patches.mean_dim(1).reshape([batch, channels]);
                Tensor::cat(vec![self.pooled(), mean], 1)
            }
        }
    }
}

/// Classifiers, softmax and losses are computed in float32 where features are narrower.
fn widened<const D: usize>(features: Tensor<D>) -> Tensor<D> {
    match features.dtype() {
        DType::BF16 | DType::F16 => features.cast(FloatDType::F32),
        _ => features,
    }
}

/// A block of any family.
// A network has few blocks, and all those of a layer are of one kind.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
#[non_exhaustive]
pub enum Block {
    /// The first layers of a ResNet.
    Stem(Stem),
    /// Two 3×3 convolutions.
    Basic(BasicBlock),
    /// 1×1, 3×3, 1×1.
    Bottleneck(Bottleneck),
    /// The first and the last layers of an EfficientNet-Lite.
    ConvNorm(ConvNorm),
    /// A block of an EfficientNet-Lite.
    Inverted(InvertedResidual),
    /// The first layers of a transformer.
    Patches(PatchEmbedding),
    /// A block of a transformer.
    Encoder(Encoder),
    /// The last normalisation of a transformer.
    Norm(LayerNorm),
}

impl Block {
    /// What the block makes of the output of the one before, or of images `[batch, 3, height, width]`.
    pub fn forward(&self, input: FeatureMap) -> FeatureMap {
        use FeatureMap::{Pyramid, Tokens};
        match (self, input) {
            (Self::Stem(block), Pyramid(x)) => Pyramid(block.forward(x)),
            (Self::Basic(block), Pyramid(x)) => Pyramid(block.forward(x)),
            (Self::Bottleneck(block), Pyramid(x)) => Pyramid(block.forward(x)),
            (Self::ConvNorm(block), Pyramid(x)) => Pyramid(block.forward(x)),
            (Self::Inverted(block), Pyramid(x)) => Pyramid(block.forward(x)),
            (Self::Patches(block), Pyramid(x)) => Tokens {
                tokens: block.forward(x),
                prefix: block.prefix(),
            },
            (Self::Encoder(block), Tokens { tokens, prefix }) => Tokens {
                tokens: block.forward(tokens),
                prefix,
            },
            (Self::Norm(block), Tokens { tokens, prefix }) => Tokens {
                tokens: norm(block, tokens),
                prefix,
            },
            (block, _) => panic!("{block}: its input is of another family"),
        }
    }

    /// Every batch normalisation.
    pub(crate) fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        match self {
            Self::Stem(block) => block.norms_mut(),
            Self::Basic(block) => block.norms_mut(),
            Self::Bottleneck(block) => block.norms_mut(),
            Self::ConvNorm(block) => block.norms_mut(),
            Self::Inverted(block) => block.norms_mut(),
            Self::Patches(_) | Self::Encoder(_) | Self::Norm(_) => vec![],
        }
    }

    /// Cost for one image with this input size, and the size that comes out.
    pub(crate) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        match self {
            Self::Stem(block) => block.cost(size),
            Self::Basic(block) => block.cost(size),
            Self::Bottleneck(block) => block.cost(size),
            Self::ConvNorm(block) => block.cost(size),
            Self::Inverted(block) => block.cost(size),
            Self::Patches(block) => block.cost(size),
            Self::Encoder(block) => block.cost(size),
            Self::Norm(_) => (Cost::default(), size),
        }
    }
}

/// Blocks, one after the other: a depth of a network.
#[derive(Module, Debug)]
pub struct Layer {
    /// The blocks; in a pyramid the first carries the stride.
    pub blocks: Vec<Block>,
}

impl Layer {
    /// What the layer makes of the output of the one before, or of images `[batch, 3, height, width]`.
    pub fn forward(&self, input: FeatureMap) -> FeatureMap {
        self.blocks.iter().fold(input, |x, block| block.forward(x))
    }

    /// Cost for one image with this input size, and the size that comes out.
    pub(crate) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let start = (Cost::default(), size);
        self.blocks.iter().fold(start, |(sum, size), block| {
            let (cost, size) = block.cost(size);
            (sum + cost, size)
        })
    }
}

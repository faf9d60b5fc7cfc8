//! Vision transformers: timm's ViT-S/16 and ViT-B/16 (Dosovitskiy et al. 2021, arXiv 2010.11929) and DINOv2's
//! S/14 and B/14 (Oquab et al. 2023, arXiv 2304.07193) without and with registers (arXiv 2309.16588).

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use shike_kernels::{ThenLinear, attention, conv2d, layer_norm, linear};

use super::{Block, Family, FeatureShape, Layer};
use crate::network::ConfigError;
use crate::network::conv::Cost;

/// A vision transformer of twelve blocks; see [`BackboneConfig::named`](super::BackboneConfig::named).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VitConfig {
    /// Numbers in a token.
    width: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Trained on 224 pixels with patches of 16.
    Vit,
    /// Trained last on 518 pixels with patches of 14; its residual branches are scaled.
    DinoV2 { registers: usize },
}

/// Every name of a vision transformer.
pub(super) const NAMES: [&str; 6] = [
    "vit_s16",
    "vit_b16",
    "dinov2_s14",
    "dinov2_b14",
    "dinov2_s14_reg",
    "dinov2_b14_reg",
];

const BLOCKS: usize = 12;
/// Numbers of a token that one head sees.
const HEAD_WIDTH: usize = 64;
/// Added to the variance under the root of a layer normalisation.
const EPSILON: f64 = 1e-6;

impl VitConfig {
    pub(super) fn named(name: &str) -> Option<Self> {
        let at = NAMES.iter().position(|known| *known == name)?;
        let kind = match at / 2 {
            0 => Kind::Vit,
            1 => Kind::DinoV2 { registers: 0 },
            _ => Kind::DinoV2 { registers: 4 },
        };
        let width = [384, 768][at % 2];
        Some(Self { width, kind })
    }

    /// Whether it is one of DINOv2's.
    pub fn is_dinov2(&self) -> bool {
        matches!(self.kind, Kind::DinoV2 { .. })
    }

    fn patch(&self) -> usize {
        match self.kind {
            Kind::Vit => 16,
            Kind::DinoV2 { .. } => 14,
        }
    }

    fn registers(&self) -> usize {
        match self.kind {
            Kind::Vit => 0,
            Kind::DinoV2 { registers } => registers,
        }
    }

    /// Patches in a row, and in a column, of the table of positions.
    fn table(&self) -> usize {
        match self.kind {
            Kind::Vit => 14,
            Kind::DinoV2 { .. } => 37,
        }
    }

    /// How the table of positions is brought to another size: as timm does, and as DINOv2's authors do.
    fn resampling(&self) -> Resampling {
        let plain_dino = matches!(self.kind, Kind::DinoV2 { registers: 0 });
        Resampling {
            antialias: !plain_dino,
            offset: if plain_dino { 0.1 } else { 0.0 },
        }
    }
}

impl Family for VitConfig {
    /// One a block.
    fn layers(&self) -> usize {
        BLOCKS
    }

    fn image_size(&self) -> usize {
        224
    }

    fn step(&self) -> usize {
        self.patch()
    }

    fn is_pyramid(&self) -> bool {
        false
    }

    fn shapes(&self, image_size: [usize; 2]) -> Vec<FeatureShape> {
        let [height, width] = image_size.map(|side| side / self.patch());
        let shape = FeatureShape {
            channels: self.width,
            height,
            width,
        };
        vec![shape; BLOCKS + 1]
    }

    fn depths(&self) -> Vec<usize> {
        (3..=BLOCKS).step_by(3).collect()
    }

    fn num_values(&self, depth: usize) -> u64 {
        let (width, patch) = (self.width as u64, self.patch() as u64);
        let linear = |from: u64, to: u64| from * to + to;
        if depth == 0 {
            let places = (self.table() * self.table() + 1) as u64;
            return linear(3 * patch * patch, width)
                + (1 + self.registers() as u64 + places) * width;
        }
        let scales = if self.kind == Kind::Vit { 0 } else { 2 };
        let norms = if depth == BLOCKS { 6 } else { 4 };
        linear(width, 3 * width)
            + linear(width, width)
            + linear(width, 4 * width)
            + linear(4 * width, width)
            + (norms + scales) * width
    }

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn init(&self, depth: usize, device: &Device) -> Layer {
        let width = self.width;
        if depth == 0 {
            let normal = Initializer::Normal {
                mean: 0.0,
                std: 0.02,
            };
            let tokens = |count| normal.init([1, count, width], device);
            let patch = [self.patch(); 2];
            let embedding = PatchEmbedding {
                proj: Conv2dConfig::new([3, width], patch)
                    .with_stride(patch)
                    .init(device),
                cls_token: tokens(1),
                pos_embed: tokens(1 + self.table() * self.table()),
                register_tokens: (self.registers() > 0).then(|| tokens(self.registers())),
                resampling: self.resampling(),
            };
            return Layer {
                blocks: vec![Block::Patches(embedding)],
            };
        }
        let norm = || {
            let norm = LayerNormConfig::new(width).with_epsilon(EPSILON);
            norm.init(device)
        };
        let linear = |from, to| {
            let linear = LinearConfig::new(from, to)
                .with_initializer(Initializer::XavierUniform { gain: 1.0 });
            linear.init(device)
        };
        let scale = || {
            let small = Initializer::Constant { value: 1e-5 };
            (self.kind != Kind::Vit).then(|| LayerScale {
                gamma: small.init([width], device),
            })
        };
        let encoder = Encoder {
            norm1: norm(),
            attn: Attention {
                qkv: linear(width, 3 * width),
                proj: linear(width, width),
            },
            ls1: scale(),
            norm2: norm(),
            mlp: Mlp {
                fc1: linear(width, 4 * width),
                fc2: linear(4 * width, width),
            },
            ls2: scale(),
        };
        let mut blocks = vec![Block::Encoder(encoder)];
        if depth == BLOCKS {
            blocks.push(Block::Norm(norm()));
        }
        Layer { blocks }
    }

    /// The names that timm and DINOv2 share.
    fn state_name(&self, depth: usize, block: usize, path: &[&str]) -> String {
        let rest = path.join(".");
        match (depth, block) {
            (0, _) if path[0] == "proj" => format!("patch_embed.{rest}"),
            (0, _) => rest,
            (_, 0) => format!("blocks.{}.{rest}", depth - 1),
            _ => format!("norm.{rest}"),
        }
    }

    /// timm has no position of the class token where there are registers: it has added it to the token.
    fn may_lack_rows(&self, name: &str) -> bool {
        name == "pos_embed"
    }

    /// timm calls registers otherwise than DINOv2.
    fn alias(&self, name: &str) -> Option<String> {
        (name == "register_tokens").then(|| "reg_token".into())
    }

    fn classifier_name(&self) -> &'static str {
        "head"
    }
}

/// How a table of positions is brought to another size, by bicubic interpolation.
#[derive(Clone, Copy, Debug)]
struct Resampling {
    /// Whether places of a smaller table are means over all that they stand for.
    antialias: bool,
    /// Added to the new side where the step between two places is worked out.
    offset: f64,
}

impl Resampling {
    /// What each of `to` places is made of, `[to, from]`: PyTorch's `interpolate` along one side.
    fn weights(self, from: usize, to: usize) -> Vec<f32> {
        let step = from as f64 / (to as f64 + self.offset);
        // PyTorch has the cubic of -0.5 with antialiasing, and that of -0.75 without.
        let (a, support) = match self.antialias {
            true => (-0.5, step.max(1.0)),
            false => (-0.75, 1.0),
        };
        let cubic = |x: f64| match x.abs() {
            x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
            _ => 0.0,
        };
        let last = from as i64 - 1;
        let mut rows = vec![0.0; to * from];
        for (place, row) in rows.chunks_exact_mut(from).enumerate() {
            let centre = (place as f64 + 0.5) * step - 0.5;
            let reach = (2.0 * support).ceil() as i64;
            let near = centre.floor() as i64 - reach..=centre.floor() as i64 + reach + 1;
            // Beyond the border lies its last value, or, with antialiasing, nothing.
            let near = near.filter(|i| !self.antialias || (0..=last).contains(i));
            let near: Vec<_> = near
                .map(|i| (i, cubic((i as f64 - centre) / support)))
                .collect();
            let sum: f64 = near.iter().map(|(_, weight)| weight).sum();
            for (i, weight) in near {
                row[i.clamp(0, last) as usize] += (weight / sum) as f32;
            }
        }
        rows
    }
}

/// Patches of an image as tokens: a class token, registers, patches, with their positions.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// A patch to a token.
    pub proj: Conv2d,
    /// `[1, 1, width]`.
    pub cls_token: Param<Tensor<3>>,
    /// Of the class token and the patches, row by row: `[1, 1 + side², width]`.
    pub pos_embed: Param<Tensor<3>>,
    /// `[1, registers, width]`.
    pub register_tokens: Option<Param<Tensor<3>>>,
    #[module(skip)]
    resampling: Resampling,
}

impl PatchEmbedding {
    /// `[batch, 3, height, width]` → `[batch, 1 + registers + patches, width]`. What is left of a side behind its
    /// last whole patch is not seen.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let patches = conv2d(&self.proj, images);
        let [batch, width, rows, columns] = patches.dims();
        let patches = patches
            .reshape([batch, width, rows * columns])
            .swap_dims(1, 2);
        let table = self.pos_embed.val();
        let class = self.cls_token.val() + table.clone().slice([0..1, 0..1]);
        let patches = patches + self.positions(table, [rows, columns]);
        let mut tokens = vec![class.expand([batch, 1, width])];
        if let Some(registers) = &self.register_tokens {
            let registers = registers.val();
            let count = registers.dims()[1];
            tokens.push(registers.expand([batch, count, width]));
        }
        tokens.push(patches);
        Tensor::cat(tokens, 1)
    }

    /// Number of tokens before those of the patches.
    pub(super) fn prefix(&self) -> usize {
        let registers = self.register_tokens.as_ref();
        1 + registers.map_or(0, |tokens| tokens.lazy_shape()[1])
    }

    /// The positions of `rows` × `columns` patches, `[1, rows · columns, width]`.
    fn positions(&self, table: Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<3> {
        let [_, count, width] = table.dims();
        let side = (count - 1).isqrt();
        let patches = table.slice([0..1, 1..count]);
        if [rows, columns] == [side, side] {
            return patches;
        }
        let device = patches.device();
        let weights = |to: usize| {
            let weights = self.resampling.weights(side, to);
            Tensor::<2>::from_data(TensorData::new(weights, [to, side]), &device)
        };
        // Row by row, then the places of each row.
        let by_rows = weights(rows).matmul(patches.reshape([side, side * width]));
        let by_rows = by_rows.reshape([rows, side, width]);
        let positions = weights(columns).unsqueeze::<3>().matmul(by_rows);
        positions.reshape([1, rows * columns, width])
    }

    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let size = [size[0] / self.proj.stride[0], size[1] / self.proj.stride[1]];
        let (weights, patches) = (self.proj.weight.lazy_shape(), (size[0] * size[1]) as u64);
        let cost = Cost {
            macs: weights.num_elements() as u64 * patches,
            activations: weights[0] as u64 * patches,
        };
        (cost, size)
    }
}

/// A transformer block that normalises first: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct Encoder {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// Multi-head self-attention.
    pub attn: Attention,
    /// Scales what the attention adds.
    pub ls1: Option<LayerScale>,
    /// Before the perceptron.
    pub norm2: LayerNorm,
    /// Perceptron of two layers, token by token.
    pub mlp: Mlp,
    /// Scales what the perceptron adds.
    pub ls2: Option<LayerScale>,
}

/// Multi-head self-attention with heads of 64 numbers.
#[derive(Module, Debug)]
pub struct Attention {
    /// To queries, keys and values, side by side.
    pub qkv: Linear,
    /// Of all heads' answers, side by side.
    pub proj: Linear,
}

/// Linear, GELU, linear.
#[derive(Module, Debug)]
pub struct Mlp {
    /// To four times the width.
    pub fc1: Linear,
    /// And back.
    pub fc2: Linear,
}

/// A factor for each channel.
#[derive(Module, Debug)]
pub struct LayerScale {
    /// `[width]`.
    pub gamma: Param<Tensor<1>>,
}

impl Encoder {
    /// `[batch, tokens, width]` → the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let add = |residual, scale: &Option<LayerScale>| ThenLinear::Add {
            residual,
            scale: scale.as_ref().map(|scale| scale.gamma.val()),
        };
        let heads = x.dims()[2] / HEAD_WIDTH;
        let qkv = linear(
            &self.attn.qkv,
            norm(&self.norm1, x.clone()),
            ThenLinear::Nothing,
        );
        let x = linear(&self.attn.proj, attention(qkv, heads), add(x, &self.ls1));
        let inner = linear(
            &self.mlp.fc1,
            norm(&self.norm2, x.clone()),
            ThenLinear::Gelu,
        );
        linear(&self.mlp.fc2, inner, add(x, &self.ls2))
    }

    pub(super) fn cost(&self, size: [usize; 2]) -> (Cost, [usize; 2]) {
        let width = self.attn.proj.weight.lazy_shape()[0] as u64;
        let tokens = (size[0] * size[1]) as u64 + 1;
        let scores = width / HEAD_WIDTH as u64 * tokens * tokens;
        let cost = Cost {
            macs: 12 * width * width * tokens + 2 * width * tokens * tokens,
            activations: 9 * width * tokens + scores,
        };
        (cost, size)
    }
}

/// A layer normalisation, token by token.
pub(super) fn norm(norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
    let beta = norm.beta.as_ref().map(|beta| beta.val());
    layer_norm(x, norm.gamma.val(), beta, EPSILON)
}

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use shike_kernels::Then;

use super::conv::{Cost, chain_cost, conv_config, conv_norm_values};
use super::{BatchNorm, BatchNormConfig, ConfigError, FeatureShape};

/// Configuration of [`Dkf`]: the two feature maps to be fused; see [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct DkfConfig {
    /// Shape of the shallow map.
    pub shallow: FeatureShape,
    /// Shape of the deep map, which the shallow one is brought to.
    pub deep: FeatureShape,
}

/// Depth-wise knowledge fusion (SHIKE, section 3.2): the expert's deep map times, element by
/// element, a shallow map of another depth that strided 3×3 convolutions have brought to its shape.
///
/// Number, strides and channels of the convolutions follow from the two shapes: each halves a side
/// (rounding up) until it fits, and channels grow geometrically, which doubles them at each step in
/// every ResNet.
///
/// As released, the second convolution has no ReLU (`use_relu = (k != 1)` in the reference's
/// `ShallowExpert`), so that a shallow map through two convolutions may be negative and one through
/// a single convolution may not.
#[derive(Module, Debug)]
pub struct Dkf {
    /// The aligning convolutions, in order.
    pub convs: Vec<StridedConv>,
}

/// 3×3 convolution, batch normalisation and, but for the second of a [`Dkf`], ReLU.
#[derive(Module, Debug)]
pub struct StridedConv {
    /// 3×3, without bias; PyTorch's default initialisation, as in the reference.
    pub conv: Conv2d,
    /// After `conv`.
    pub bn: BatchNorm,
    relu: bool,
}

/// Position of the aligning convolution that the released code leaves without ReLU.
const WITHOUT_RELU: usize = 1;

/// How many halvings, rounding up, lead from one length to another.
fn halvings(mut from: usize, to: usize) -> Option<usize> {
    let mut count = 0;
    while from > to && from > 1 {
        from = from.div_ceil(2);
        count += 1;
    }
    (from == to).then_some(count)
}

/// One of the convolutions.
struct Step {
    stride: [usize; 2],
    channels: [usize; 2],
}

impl DkfConfig {
    /// Stride and channels of each convolution.
    fn steps(&self) -> Result<Vec<Step>, ConfigError> {
        let (shallow, deep) = (self.shallow, self.deep);
        let (rows, columns) = halvings(shallow.height, deep.height)
            .zip(halvings(shallow.width, deep.width))
            .ok_or(ConfigError::Fusion { shallow, deep })?;
        let mut count = rows.max(columns);
        if count == 0 && shallow.channels != deep.channels {
            count = 1;
        }
        let growth = deep.channels as f64 / shallow.channels as f64;
        let channels = |step: usize| {
            let part = step as f64 / count as f64;
            (shallow.channels as f64 * growth.powf(part)).round() as usize
        };
        let step = |step: usize| {
            let stride = |steps: usize| 1 + usize::from(step < steps);
            Step {
                stride: [stride(rows), stride(columns)],
                channels: [channels(step), channels(step + 1)],
            }
        };
        Ok((0..count).map(step).collect())
    }

    /// Parameters and running statistics.
    pub(super) fn num_values(&self) -> Result<u64, ConfigError> {
        let steps = self.steps()?.into_iter();
        Ok(steps
            .map(|step| conv_norm_values(step.channels, 3, 1))
            .sum())
    }

    /// Initialises the module.
    ///
    /// # Errors
    /// [`ConfigError::Fusion`] if halving the shallow map never gives the deep map's size.
    pub fn init(&self, device: &Device) -> Result<Dkf, ConfigError> {
        let steps = self.steps()?.into_iter().enumerate();
        let convs = steps.map(|(i, step)| StridedConv {
            conv: conv_config(step.channels, 3, step.stride).init(device),
            bn: BatchNormConfig::new(step.channels[1]).init(device),
            relu: i != WITHOUT_RELU,
        });
        Ok(Dkf {
            convs: convs.collect(),
        })
    }
}

impl StridedConv {
    /// `[batch, from, height, width]` → `[batch, to, ⌈height/stride⌉, ⌈width/stride⌉]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let then = if self.relu { Then::Relu } else { Then::Nothing };
        self.bn.after(&self.conv, input, then)
    }
}

impl Dkf {
    /// Brings the shallow map, `[batch, channels, height, width]`, to the deep map's shape.
    pub fn align(&self, shallow: Tensor<4>) -> Tensor<4> {
        self.convs.iter().fold(shallow, |x, conv| conv.forward(x))
    }

    /// Makes the aligned map 1 everywhere, whatever the shallow one is, so that [`forward`](Self::forward)
    /// leaves the deep map as it is: the last normalisation has scale 0 and shift 1, and scale 1 would be
    /// a step away, since the scale has a gradient at once. Without convolutions there is nothing to set.
    pub(crate) fn start_as_identity(&mut self) {
        let Some(StridedConv { bn, .. }) = self.convs.last_mut() else {
            return;
        };
        let filled = |param: &Param<Tensor<1>>, value: f64| {
            let id = param.id;
            param
                .clone()
                .transform_for_load(param.val().full_like(value), id)
        };
        (bn.gamma, bn.beta) = (filled(&bn.gamma, 0.0), filled(&bn.beta, 1.0));
    }

    /// The fused map, of the deep map's shape.
    pub fn forward(&self, deep: Tensor<4>, shallow: Tensor<4>) -> Tensor<4> {
        deep * self.align(shallow)
    }

    /// Cost for one shallow map of the given height and width.
    pub(super) fn cost(&self, size: [usize; 2]) -> Cost {
        chain_cost(self.convs.iter().map(|step| &step.conv), size).0
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shape(channels: usize, height: usize, width: usize) -> FeatureShape {
        FeatureShape {
            channels,
            height,
            width,
        }
    }

    fn check(shallow: FeatureShape, deep: FeatureShape, channels: &[usize]) {
        let device = Device::flex();
        let dkf = DkfConfig::new(shallow, deep).init(&device).unwrap();
        let found: Vec<usize> = dkf.convs.iter().map(|c| c.conv.weight.dims()[0]).collect();
        assert_eq!(found, channels, "{shallow} to {deep}");
        let x = Tensor::<4>::ones(
            [2, shallow.channels, shallow.height, shallow.width],
            &device,
        );
        assert_eq!(
            dkf.align(x).dims(),
            [2, deep.channels, deep.height, deep.width]
        );
    }

    #[test]
    fn works_out_the_convolutions_from_the_shapes() {
        // CIFAR ResNet: layers 1 and 2 to layer 3.
        check(shape(16, 32, 32), shape(64, 8, 8), &[32, 64]);
        check(shape(32, 16, 16), shape(64, 8, 8), &[64]);
        // A bottleneck ResNet's ratios, in a quarter of its channels: layers 1, 2, 3 to layer 4.
        check(shape(64, 56, 56), shape(512, 7, 7), &[128, 256, 512]);
        check(shape(128, 28, 28), shape(512, 7, 7), &[256, 512]);
        check(shape(256, 14, 14), shape(512, 7, 7), &[512]);
        // Odd and unequal sides, equal sizes, equal shapes.
        check(shape(8, 25, 13), shape(32, 7, 7), &[16, 32]);
        check(shape(8, 5, 5), shape(12, 5, 5), &[12]);
        check(shape(8, 5, 5), shape(8, 5, 5), &[]);
    }

    #[test]
    fn says_which_shapes_do_not_meet() {
        let error = DkfConfig::new(shape(8, 10, 10), shape(8, 4, 4))
            .init(&Device::flex())
            .unwrap_err();
        assert!(
            error.to_string().contains("8×10×10 map to 8×4×4"),
            "{error}"
        );
    }

    #[test]
    fn the_second_convolution_may_be_negative() {
        let device = Device::flex();
        let dkf = DkfConfig::new(shape(4, 16, 16), shape(32, 2, 2))
            .init(&device)
            .unwrap();
        assert_eq!(
            dkf.convs.iter().map(|c| c.relu).collect::<Vec<_>>(),
            [true, false, true]
        );
    }
}

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{ConfigError, ScaledLinear};

/// Which classifier sits on an expert's features. In text a table whose `kind` is the name, or the name alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ClassifierConfig {
    /// [`CosineClassifier`].
    Cosine {
        /// Factor on the cosine; the reference's experts use 30.
        scale: f64,
    },
    /// A linear layer with bias.
    Linear,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[serde(alias = "Cosine")]
    Cosine,
    #[serde(alias = "Linear")]
    Linear,
}

/// Fields of every kind of classifier.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kind: Option<Kind>,
    scale: Option<f64>,
    /// Format 2 of model files and checkpoints has `{"Cosine": {"scale": 30}}`, too.
    #[serde(rename = "Cosine")]
    cosine: Option<Scale>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scale {
    scale: f64,
}

impl<'de> Deserialize<'de> for ClassifierConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = ClassifierConfig;

            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("a classifier's name, or a table with its `kind`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(match Kind::deserialize(StrDeserializer::new(name))? {
                    Kind::Cosine => ClassifierConfig::cosine(),
                    Kind::Linear => ClassifierConfig::Linear,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                match (table.kind, table.scale, table.cosine) {
                    (Some(Kind::Cosine), None, None) => Ok(ClassifierConfig::cosine()),
                    (Some(Kind::Cosine), Some(scale), None)
                    | (None, None, Some(Scale { scale })) => Ok(ClassifierConfig::Cosine { scale }),
                    (Some(Kind::Linear), None, None) => Ok(ClassifierConfig::Linear),
                    (None, ..) => Err(A::Error::missing_field("kind")),
                    (Some(_), ..) => Err(A::Error::unknown_field("scale", &["kind"])),
                }
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

impl ClassifierConfig {
    /// The reference's classifier: cosine with scale 30.
    pub fn cosine() -> Self {
        Self::Cosine { scale: 30.0 }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Cosine { scale } if !(scale.is_finite() && *scale > 0.0) => {
                Err(ConfigError::Field {
                    field: "classifier.scale",
                    found: scale.to_string(),
                    expected: "a finite number above 0".into(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Initialises a classifier from `features` inputs to `classes` logits.
    pub fn init(&self, features: usize, classes: usize, device: &Device) -> Classifier {
        match self {
            Self::Cosine { scale } => Classifier::Cosine(
                CosineClassifierConfig::new(features, classes)
                    .with_scale(*scale)
                    .init(device),
            ),
            // The reference's `_weights_init` reaches linear layers too; the bias keeps PyTorch's
            // default, U(±1/√features).
            Self::Linear => {
                let mut linear = LinearConfig::new(features, classes).init(device);
                linear.weight = Initializer::KaimingNormal {
                    gain: core::f64::consts::SQRT_2,
                    fan_out_only: false,
                }
                .init_with(
                    [features, classes],
                    Some(features),
                    Some(classes),
                    device,
                );
                Classifier::Linear(linear)
            }
        }
    }
}

/// A classifier: features to logits.
#[derive(Module, Debug)]
pub enum Classifier {
    /// Scaled cosine similarity.
    Cosine(CosineClassifier),
    /// Linear layer with bias.
    Linear(Linear),
    /// Linear layer with a learnt factor on each logit; only while
    /// [learnable weight scaling](super::Shike::scale_stage1_heads) trains.
    Scaled(ScaledLinear),
}

impl Classifier {
    /// `[batch, features]` → logits `[batch, classes]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Cosine(cosine) => cosine.forward(features),
            Self::Linear(linear) => linear.forward(features),
            Self::Scaled(scaled) => scaled.forward(features),
        }
    }

    /// Where in a feature map, `[batch, features, height, width]`, the logit of a class comes from (class activation
    /// maps, Zhou et al., CVPR 2016): `[batch, height, width]`, whose mean, with a linear layer's bias, is the logit of
    /// the map's mean.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn activation(&self, map: Tensor<4>, class: usize) -> Tensor<3> {
        let [batch, features, height, width] = map.dims();
        let column = |weight: Tensor<2>| weight.narrow(1, class, 1).reshape([1, features, 1, 1]);
        let weight = match self {
            Self::Cosine(cosine) => {
                let pooled = map.clone().mean_dims(&[2, 3]).reshape([batch, features]);
                let length = pooled.square().sum_dim(1).clamp_min(1e-24).sqrt();
                let weight = normalize(cosine.weight.val(), 0).mul_scalar(cosine.scale);
                column(weight) / length.reshape([batch, 1, 1, 1])
            }
            Self::Linear(linear) => column(linear.weight.val()),
            Self::Scaled(scaled) => column(scaled.fold().weight.val()),
        };
        let evidence = (map * weight).sum_dim(1);
        evidence.reshape([batch, height, width])
    }

    /// Multiply-adds for one image.
    pub(super) fn macs(&self) -> u64 {
        let weight = match self {
            Self::Cosine(cosine) => &cosine.weight,
            Self::Linear(linear) => &linear.weight,
            Self::Scaled(scaled) => &scaled.linear.weight,
        };
        weight.lazy_shape().num_elements() as u64
    }
}

/// Configuration of [`CosineClassifier`]; see [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct CosineClassifierConfig {
    /// Length of a feature vector.
    pub features: usize,
    /// Number of classes.
    pub classes: usize,
    /// Factor on the cosine.
    #[config(default = 30.0)]
    pub scale: f64,
}

/// Cosine classifier: `scale · x/‖x‖ · W/‖W‖` with no bias, norms over the feature axis and kept
/// at 1e-12 or above (the reference's `NormedLinear`, times its constant `s`).
#[derive(Module, Debug)]
pub struct CosineClassifier {
    /// `[features, classes]`, one column a class. PyTorch's `nn.Linear` stores the transpose; the
    /// reference's `NormedLinear` does not.
    pub weight: Param<Tensor<2>>,
    scale: f64,
}

impl CosineClassifierConfig {
    /// Initialises the classifier: columns uniform in direction from U(−1, 1), of length 1.
    pub fn init(&self, device: &Device) -> CosineClassifier {
        let shape = [self.features, self.classes];
        let weight = Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, require_grad| {
                let weight = Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device);
                normalize(weight, 0).set_require_grad(require_grad)
            },
            device.clone(),
            true,
            shape.into(),
        );
        CosineClassifier {
            weight,
            scale: self.scale,
        }
    }
}

impl CosineClassifier {
    /// `[batch, features]` → logits `[batch, classes]` in `[−scale, scale]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let cosine = normalize(features, 1).matmul(normalize(self.weight.val(), 0));
        cosine.mul_scalar(self.scale)
    }
}

/// Divides by the Euclidean norm over `dim`, as PyTorch's `F.normalize`.
fn normalize(x: Tensor<2>, dim: usize) -> Tensor<2> {
    // Clamping under the root is the same bound on the norm, and keeps the gradient of a zero
    // vector 0 instead of 0/0.
    let squared = x.clone().square().sum_dim(dim).clamp_min(1e-24);
    x / squared.sqrt()
}

//! Backbones: networks without their classifiers, as a stem and layers of blocks.
//!
//! A family of backbones (ResNets, say) is a configuration that implements [`Family`], and blocks of its own in
//! [`Block`]. Nothing else asks which family a network is of.

mod layer;
pub mod lite;
pub mod resnet;
pub mod vit;

use burn::tensor::Device;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;
pub use layer::{Block, FeatureMap, FeatureShape, Layer};
use lite::LiteConfig;
use resnet::ResnetConfig;
use vit::VitConfig;

/// A network without its classifier. In text, a name of [`names`](Self::names), or the fields of a
/// [`ResnetConfig`] for a ResNet that has no name.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BackboneConfig {
    /// A residual network.
    Resnet(ResnetConfig),
    /// An EfficientNet-Lite.
    Lite(LiteConfig),
    /// A vision transformer.
    Vit(VitConfig),
}

/// What a family of backbones says of its networks. Depth 0 is the stem; the layers behind it count from 1.
pub(crate) trait Family {
    /// Number of layers behind the stem.
    fn layers(&self) -> usize;

    /// Side of the square images that the network is made for, in pixels.
    fn image_size(&self) -> usize;

    /// The shape that each depth puts out for one image of `[height, width]`: the stem's first.
    fn shapes(&self, image_size: [usize; 2]) -> Vec<FeatureShape>;

    /// Pixels that sides of images are multiples of: what is left of a side is not seen.
    fn step(&self) -> usize {
        1
    }

    /// Whether depths put out maps, [`FeatureMap::Pyramid`], and no tokens.
    fn is_pyramid(&self) -> bool {
        true
    }

    /// The layers whose features are worth keeping, shallow to deep.
    fn depths(&self) -> Vec<usize> {
        (1..=self.layers()).collect()
    }

    /// Parameters and running statistics of a depth.
    fn num_values(&self, depth: usize) -> u64;

    /// Checks every field.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Initialises a depth.
    fn init(&self, depth: usize, device: &Device) -> Layer;

    /// The name that PyTorch's state dicts have for the tensor at this path in a block, in a plain network.
    fn state_name(&self, depth: usize, block: usize, path: &[&str]) -> String;

    /// The name that another program gives to the tensor that is called `name` here.
    fn alias(&self, _name: &str) -> Option<String> {
        None
    }

    /// Whether the tensor that is called `name` here, `[1, rows, width]`, is there with fewer rows where other programs
    /// have added the first ones, which are then zeros, to something else.
    fn may_lack_rows(&self, _name: &str) -> bool {
        false
    }

    /// What becomes of that name where the tensor is one expert's own.
    fn expert_state_name(&self, name: &str, expert: usize) -> String {
        format!("experts.{expert}.{name}")
    }

    /// The name that PyTorch's state dicts have for the classifier of a plain network.
    fn classifier_name(&self) -> &'static str;
}

impl BackboneConfig {
    /// Every name that [`named`](Self::named) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let families = [&resnet::NAMES[..], &lite::NAMES, &vit::NAMES];
        families.into_iter().flatten().copied()
    }

    /// The network of a name in [`names`](Self::names).
    ///
    /// # Errors
    /// If there is no network of this name.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        let resnet = ResnetConfig::named(name).map(Self::Resnet);
        let lite = || LiteConfig::named(name).map(Self::Lite);
        let vit = || VitConfig::named(name).map(Self::Vit);
        let found = resnet.or_else(lite).or_else(vit);
        found.ok_or_else(|| ConfigError::Field {
            field: "arch",
            found: name.to_owned(),
            expected: Self::names().collect::<Vec<_>>().join(", "),
        })
    }

    /// The name that [`named`](Self::named) knows this network by; none for one that was spelt out.
    pub fn name(&self) -> Option<&'static str> {
        let is_it = |name: &&str| Self::named(name).as_ref() == Ok(self);
        Self::names().find(is_it)
    }

    pub(crate) fn family(&self) -> &dyn Family {
        match self {
            Self::Resnet(config) => config,
            Self::Lite(config) => config,
            Self::Vit(config) => config,
        }
    }

    /// Number of layers behind the stem.
    pub fn layers(&self) -> usize {
        self.family().layers()
    }

    /// Side of the square images that the network is made for, in pixels.
    pub fn image_size(&self) -> usize {
        self.family().image_size()
    }

    /// Pixels that sides of images are multiples of: what is left of a side is not seen. Otherwise any rectangle goes
    /// through any network.
    pub fn step(&self) -> usize {
        self.family().step()
    }

    /// The layers whose features are worth keeping, shallow to deep: every one of a pyramid, every third of a
    /// transformer.
    pub fn depths(&self) -> Vec<usize> {
        self.family().depths()
    }

    /// Whether the network is made for photographs rather than for pictures of 32 pixels.
    pub fn is_for_photographs(&self) -> bool {
        self.image_size() > 64
    }

    /// The shapes of the stem's output and of each layer's, for one image of `[height, width]`.
    pub fn shapes(&self, image_size: [usize; 2]) -> Vec<FeatureShape> {
        self.family().shapes(image_size)
    }
}

impl From<ResnetConfig> for BackboneConfig {
    fn from(config: ResnetConfig) -> Self {
        Self::Resnet(config)
    }
}

impl Serialize for BackboneConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.name(), self) {
            (None, Self::Resnet(config)) => config.serialize(serializer),
            (name, _) => name.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BackboneConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrFields;

        impl<'de> Visitor<'de> for NameOrFields {
            type Value = BackboneConfig;

            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str("the name of a network, or a table with its fields")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<BackboneConfig, E> {
                BackboneConfig::named(name).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BackboneConfig, A::Error> {
                ResnetConfig::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
            }
        }

        deserializer.deserialize_any(NameOrFields)
    }
}

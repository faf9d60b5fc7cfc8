use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::shike::draw;
use super::{BackboneConfig, ConfigError, FeatureMap, ModelSummary, Shike};

/// A whole backbone without experts and classifiers: what embeds images. See [`BackboneConfig::init`].
#[derive(Module, Debug)]
pub struct Trunk {
    /// Layers alone: no experts.
    pub(crate) network: Shike,
}

impl BackboneConfig {
    /// Numbers in the whole backbone, parameters and running statistics.
    pub fn num_values(&self) -> u64 {
        let values = |depth| self.family().num_values(depth);
        (0..=self.layers()).map(values).sum()
    }

    /// Name and width of each vector of [`Trunk::embed`], such as `layer4`.
    pub fn widths(&self) -> Vec<(String, usize)> {
        let shapes = self.shapes([self.image_size(); 2]);
        let vectors = if self.family().is_pyramid() { 1 } else { 2 };
        let width = |depth: usize| (format!("layer{depth}"), vectors * shapes[depth].channels);
        self.depths().into_iter().map(width).collect()
    }

    /// Initialises the whole backbone with random weights, as [`ShikeConfig::init`](super::ShikeConfig::init) does.
    ///
    /// # Errors
    /// If a field is out of range.
    pub fn init(&self, device: &Device) -> Result<Trunk, ConfigError> {
        self.family().validate()?;
        let trunk = self.lazy(device);
        draw(&trunk.network, None);
        Ok(trunk)
    }

    /// The whole backbone, whose weights are not drawn until they are used.
    pub(crate) fn lazy(&self, device: &Device) -> Trunk {
        let layer = |depth| self.family().init(depth, device);
        let layers = (1..=self.layers()).map(layer).collect();
        Trunk {
            network: Shike::of(self, layer(0), layers, vec![]),
        }
    }
}

impl Trunk {
    /// Parameters and multiply-adds by part, for images of `[height, width]`.
    pub fn describe(&self, image_size: [usize; 2]) -> ModelSummary {
        self.network.describe(image_size)
    }

    /// The configuration.
    pub fn config(&self) -> &BackboneConfig {
        self.network.backbone()
    }

    /// What each layer puts out for normalised `images`, `[batch, 3, height, width]`; the last is the deepest.
    pub fn forward(&self, images: Tensor<4>) -> Vec<FeatureMap> {
        self.network.features(images).shared
    }

    /// One vector an image for each layer of [`BackboneConfig::depths`], `[batch, width]`.
    pub fn embed(&self, images: Tensor<4>) -> Vec<Tensor<2>> {
        // Maps are dropped as soon as the next layer has seen them.
        let depths = self.config().depths();
        let mut map = self.network.stem.forward(FeatureMap::Pyramid(images));
        let mut vectors = Vec::with_capacity(depths.len());
        for (layer, depth) in self.network.shared.iter().zip(1..) {
            map = layer.forward(map);
            if depths.contains(&depth) {
                vectors.push(map.vector());
            }
        }
        vectors
    }
}

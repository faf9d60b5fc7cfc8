use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::backbone::resnet::ResnetConfig;
use super::{
    BackboneConfig, Classifier, ClassifierConfig, ConfigError, Dkf, DkfConfig, FeatureMap, Layer,
    within,
};

/// Which of an expert's two classifiers answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// Trained together with the features (stage 1).
    Stage1,
    /// Re-trained on frozen features (stage 2).
    Stage2,
}

/// Configuration of [`Shike`]; see [`init`](Self::init), [`cifar`](Self::cifar) and
/// [`cifar_plain`](Self::cifar_plain).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShikeConfig {
    /// Stem and layers.
    pub backbone: BackboneConfig,
    /// Number of classes.
    pub num_classes: usize,
    /// Number of experts, at least 1.
    pub experts: usize,
    /// How many layers, counted from the stem, all experts share; the others each expert owns.
    #[serde(alias = "shared_stages")]
    pub shared_layers: usize,
    /// Shared layers (1 is the first) whose outputs are fused: expert `k` takes entry
    /// `k mod length`. Empty: no fusion.
    #[serde(alias = "fused_stages")]
    pub fused_layers: Vec<usize>,
    /// The classifier.
    pub classifier: ClassifierConfig,
    /// Whether experts have a second classifier for stage 2.
    pub stage2_heads: bool,
}

/// The most experts that a network may have.
const EXPERTS: usize = 100;
/// The most classes.
const CLASSES: usize = 1_000_000;
/// The most numbers: 40 GB of float32.
const VALUES: u64 = 10_000_000_000;

/// Fusion depends on the ratio of the sides alone; 224 is divisible by every stride in use.
const FUSION_SIZE: [usize; 2] = [224, 224];

impl ShikeConfig {
    /// SHIKE on any backbone, as the released code builds it on its own: three experts that own
    /// the last layer and share the others, and are fused in turn with the outputs of the first
    /// shared layer (the most strided convolutions away), the second, …; cosine classifiers.
    pub fn on(backbone: impl Into<BackboneConfig>, num_classes: usize) -> Self {
        let backbone = backbone.into();
        let shared_layers = backbone.layers().saturating_sub(1);
        // Tokens have no sides that could be brought to those of another depth.
        let fused_layers = match backbone.family().is_pyramid() {
            true => (1..=shared_layers).collect(),
            false => vec![],
        };
        Self {
            backbone,
            num_classes,
            experts: 3,
            shared_layers,
            fused_layers,
            classifier: ClassifierConfig::cosine(),
            stage2_heads: true,
        }
    }

    /// The plain network: one path, no fusion, one linear classifier.
    pub fn plain(backbone: impl Into<BackboneConfig>, num_classes: usize) -> Self {
        Self {
            experts: 1,
            fused_layers: vec![],
            classifier: ClassifierConfig::Linear,
            stage2_heads: false,
            ..Self::on(backbone, num_classes)
        }
    }

    /// SHIKE on a CIFAR ResNet as released: three experts, layers 1 and 2 shared, fused in turn
    /// with the outputs of layer 1 (through two strided convolutions) and layer 2 (through one),
    /// cosine classifiers.
    ///
    /// # Errors
    /// If `depth` is not `6n + 2` with `n ≥ 1`.
    pub fn cifar(depth: usize, num_classes: usize) -> Result<Self, ConfigError> {
        Ok(Self::on(ResnetConfig::cifar(depth)?, num_classes))
    }

    /// The plain CIFAR ResNet: one path, no fusion, one linear classifier.
    ///
    /// # Errors
    /// If `depth` is not `6n + 2` with `n ≥ 1`.
    pub fn cifar_plain(depth: usize, num_classes: usize) -> Result<Self, ConfigError> {
        Ok(Self::plain(ResnetConfig::cifar(depth)?, num_classes))
    }

    /// SHIKE on an ImageNet [ResNet](ResnetConfig::imagenet): three experts, layers 1 to 3 shared,
    /// fused in turn with the outputs of layers 1, 2 and 3 through three, two and one strided
    /// convolutions; cosine classifiers. The paper's networks for ImageNet-LT, iNaturalist and
    /// Places-LT, whose code was not released: the rule is that of the released CIFAR network.
    ///
    /// # Errors
    /// If there is no ResNet of this depth.
    pub fn resnet(depth: usize, num_classes: usize) -> Result<Self, ConfigError> {
        Ok(Self::on(ResnetConfig::imagenet(depth)?, num_classes))
    }

    /// Whether this is one path without fusion: no mixture of experts.
    pub fn is_plain(&self) -> bool {
        self.experts == 1 && self.fused_layers.is_empty()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that no network can be built from.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.backbone.family().validate()?;
        self.classifier.validate()?;
        let check = |field, ok: bool, found: usize, expected: String| match ok {
            true => Ok(()),
            false => Err(ConfigError::Field {
                field,
                found: found.to_string(),
                expected,
            }),
        };
        let layers = self.backbone.layers();
        let shared = self.shared_layers;
        check(
            "num_classes",
            (2..=CLASSES).contains(&self.num_classes),
            self.num_classes,
            format!("2 to {CLASSES}"),
        )?;
        within("experts", self.experts, EXPERTS)?;
        check(
            "shared_layers",
            shared < layers,
            shared,
            format!("below the number of layers, {layers}"),
        )?;
        check(
            "fused_layers",
            self.fused_layers.is_empty() || self.backbone.family().is_pyramid(),
            self.fused_layers.len(),
            "empty: knowledge fusion needs maps, and this network has tokens".into(),
        )?;
        for &layer in &self.fused_layers {
            check(
                "fused_layers",
                (1..=shared).contains(&layer),
                layer,
                format!("a shared layer, 1 to {shared}"),
            )?;
        }
        // Beyond it lie sums of fields each of which is possible.
        match self.num_values()? {
            0..=VALUES => Ok(()),
            found => Err(ConfigError::Size { found }),
        }
    }

    /// Numbers in the network, parameters and running statistics: what its weights take before any are
    /// made.
    ///
    /// # Errors
    /// [`ConfigError::Fusion`] for layers that cannot be fused.
    pub fn num_values(&self) -> Result<u64, ConfigError> {
        let backbone = self.backbone.family();
        let values = |depth: usize| backbone.num_values(depth);
        let layers = backbone.layers();
        let shared: u64 = (0..=self.shared_layers).map(values).sum();
        let own: u64 = (self.shared_layers + 1..=layers).map(values).sum();
        let shapes = backbone.shapes(FUSION_SIZE);
        let last = shapes[layers];
        let (features, classes) = (last.channels as u64, self.num_classes as u64);
        let head = match self.classifier {
            ClassifierConfig::Cosine { .. } => features * classes,
            ClassifierConfig::Linear => features * classes + classes,
        };
        let heads = head * (1 + u64::from(self.stage2_heads));
        let mut sum = shared;
        for expert in 0..self.experts {
            let fusion = self
                .fused_layer(expert)
                .map(|s| DkfConfig::new(shapes[s], last));
            let fusion = fusion.map(|fusion| fusion.num_values()).transpose()?;
            sum += own + heads + fusion.unwrap_or_default();
        }
        Ok(sum)
    }

    /// The layer that is fused into an expert, counted from 1.
    fn fused_layer(&self, expert: usize) -> Option<usize> {
        let fused = &self.fused_layers;
        (!fused.is_empty()).then(|| fused[expert % fused.len()])
    }

    /// Initialises the network with random weights from the device's generator
    /// ([`Device::seed`]). Weights are drawn here, in a fixed order, so that the same seed gives
    /// the same network, as long as no other thread draws from the generator meanwhile: see
    /// [`init_seeded`](Self::init_seeded).
    ///
    /// # Errors
    /// If a field is out of range; see [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Shike, ConfigError> {
        let model = self.lazy(device)?;
        draw(&model, None);
        Ok(model)
    }

    /// Seeds the device's generator and initialises the network: the same seed gives the same network, whatever
    /// networks other threads initialise meanwhile.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn init_seeded(&self, device: &Device, seed: u64) -> Result<Shike, ConfigError> {
        let model = self.lazy(device)?;
        draw(&model, Some((device, seed)));
        Ok(model)
    }

    /// The network, whose weights are not drawn until they are used.
    fn lazy(&self, device: &Device) -> Result<Shike, ConfigError> {
        self.validate()?;
        let backbone = self.backbone.family();
        let build = |depths: core::ops::RangeInclusive<usize>| -> Vec<Layer> {
            depths.map(|depth| backbone.init(depth, device)).collect()
        };
        let shapes = backbone.shapes(FUSION_SIZE);
        let (shared, last) = (self.shared_layers, backbone.layers());
        let expert = |k: usize| -> Result<Expert, ConfigError> {
            let source = self.fused_layer(k);
            let head = || {
                self.classifier
                    .init(shapes[last].channels, self.num_classes, device)
            };
            Ok(Expert {
                layers: build(shared + 1..=last),
                fusion: source
                    .map(|s| DkfConfig::new(shapes[s], shapes[last]).init(device))
                    .transpose()?,
                fused_layer: source.unwrap_or(0),
                head1: head(),
                head2: self.stage2_heads.then(head),
            })
        };
        let (stem, shared) = (backbone.init(0, device), build(1..=shared));
        let experts = (0..self.experts).map(expert).collect::<Result<_, _>>()?;
        Ok(Shike::of(&self.backbone, stem, shared, experts))
    }
}

setters!(ShikeConfig {
    with_experts experts: usize,
    with_classifier classifier: ClassifierConfig,
    with_stage2_heads stage2_heads: bool,
});

/// Draws the random weights, in the order of the modules: Burn would when they are first used, and so in the order
/// of the first forward pass. The generator is the process's: one network at a time.
pub(super) fn draw(model: &Shike, seed: Option<(&Device, u64)>) {
    static DRAWING: Mutex<()> = Mutex::new(());
    struct Materialize;

    impl ModuleVisitor for Materialize {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }

    let _alone = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((device, seed)) = seed {
        device.seed(seed);
    }
    model.visit(&mut Materialize);
}

/// A network with experts: a stem and layers that all share, then experts with layers of
/// their own, [knowledge fusion](Dkf) and classifiers. With one expert and no fusion it is the
/// plain network.
#[derive(Module, Debug)]
pub struct Shike {
    /// The first layers.
    pub stem: Layer,
    /// The layers that all experts share.
    pub shared: Vec<Layer>,
    /// The experts.
    pub experts: Vec<Expert>,
    #[module(skip)]
    backbone: BackboneConfig,
}

/// One expert: its own deep layers, its fusion, its two classifiers.
#[derive(Module, Debug)]
pub struct Expert {
    /// Own layers, behind the shared ones.
    pub layers: Vec<Layer>,
    /// Knowledge fusion; none in a plain network.
    pub fusion: Option<Dkf>,
    /// The shared layer whose output is fused, counted from 1.
    fused_layer: usize,
    /// Stage-1 classifier.
    pub head1: Classifier,
    /// Stage-2 classifier.
    pub head2: Option<Classifier>,
}

/// Feature maps and vectors of one forward pass.
#[derive(Clone, Debug)]
pub struct Features {
    /// The stem's output.
    pub stem: FeatureMap,
    /// The output of each shared layer.
    pub shared: Vec<FeatureMap>,
    /// What each expert makes of them.
    pub experts: Vec<ExpertFeatures>,
}

/// Features of one expert.
#[derive(Clone, Debug)]
pub struct ExpertFeatures {
    /// Output of the expert's own layers.
    pub deep: FeatureMap,
    /// The aligned shallow map, of the same shape, where there is fusion.
    pub shallow: Option<Tensor<4>>,
    /// The (fused) map, [pooled](FeatureMap::pooled), `[batch, channels]`.
    pub pooled: Tensor<2>,
}

/// Logits of every expert.
#[derive(Clone, Debug)]
pub struct ExpertLogits {
    /// One tensor an expert, `[batch, classes]`.
    pub experts: Vec<Tensor<2>>,
}

impl ExpertLogits {
    /// The ensemble: the mean of the experts' logits (not of their probabilities),
    /// `[batch, classes]`, as the reference's `validate` scores it.
    pub fn mean(&self) -> Tensor<2> {
        let count = self.experts.len() as f64;
        let mut experts = self.experts.iter().cloned();
        let first = experts.next().expect("a network has at least one expert");
        experts
            .fold(first, |sum, logits| sum + logits)
            .mul_scalar(1.0 / count)
    }
}

impl Shike {
    pub(super) fn of(
        backbone: &BackboneConfig,
        stem: Layer,
        shared: Vec<Layer>,
        experts: Vec<Expert>,
    ) -> Self {
        Self {
            stem,
            shared,
            experts,
            backbone: backbone.clone(),
        }
    }

    /// The network without experts and classifiers.
    pub fn backbone(&self) -> &BackboneConfig {
        &self.backbone
    }

    /// Every feature map of `images`, `[batch, 3, height, width]`.
    pub fn features(&self, images: Tensor<4>) -> Features {
        let stem = self.stem.forward(FeatureMap::Pyramid(images));
        let mut shared = Vec::with_capacity(self.shared.len());
        let mut map = stem.clone();
        for layer in &self.shared {
            map = layer.forward(map);
            shared.push(map.clone());
        }
        let experts = self
            .experts
            .iter()
            .map(|expert| expert.features(&map, &shared));
        let experts = experts.collect();
        Features {
            stem,
            shared,
            experts,
        }
    }

    /// Logits of every expert for normalised `images`, `[batch, 3, height, width]`. The images' type is
    /// that of the computation: for bfloat16 images, convolutions and activations are bfloat16, while
    /// weights, batch-normalisation statistics and everything behind the pooled features stay float32.
    ///
    /// # Panics
    /// If `head` is [`Head::Stage2`] and the network was configured without stage-2 heads.
    pub fn forward(&self, images: Tensor<4>, head: Head) -> ExpertLogits {
        let features = self.features(images).experts;
        let experts = self.experts.iter().zip(features);
        ExpertLogits {
            experts: experts
                .map(|(expert, features)| expert.head(head).forward(features.pooled))
                .collect(),
        }
    }

    /// Where each expert sees a class in normalised `images`, `[batch, 3, height, width]`: an
    /// [activation map](Classifier::activation) of its fused features an expert. None of a transformer, whose vectors are
    /// no mean over an image.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and if there is no such class.
    pub fn activation_maps(
        &self,
        images: Tensor<4>,
        head: Head,
        class: usize,
    ) -> Option<Vec<Tensor<3>>> {
        let features = self.features(images).experts;
        let experts = self.experts.iter().zip(features);
        let map = |(expert, features): (&Expert, ExpertFeatures)| {
            let FeatureMap::Pyramid(deep) = features.deep else {
                return None;
            };
            let fused = match features.shallow {
                Some(shallow) => deep * shallow,
                None => deep,
            };
            Some(expert.head(head).activation(fused, class))
        };
        experts.map(map).collect()
    }

    /// Stops gradients everywhere but in the stage-2 heads, which the reference does before stage
    /// 2. Batch normalisation goes on tracking statistics; with `freeze_batch_norm` it uses its
    /// running ones and leaves them alone.
    pub fn freeze_for_stage2(self, freeze_batch_norm: bool) -> Self {
        let mut model = if freeze_batch_norm {
            self.freeze()
        } else {
            self.no_grad()
        };
        for expert in &mut model.experts {
            expert.head2 = expert.head2.take().map(Classifier::unfreeze_for_stage2);
        }
        model
    }

    /// Number of trainable values: none on a device without autodiff.
    pub fn trainable_params(&self) -> usize {
        struct Count(usize);
        impl ModuleVisitor for Count {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if param.val().is_require_grad() {
                    self.0 += param.lazy_shape().num_elements();
                }
            }
        }
        let mut count = Count(0);
        self.visit(&mut count);
        count.0
    }
}

impl Expert {
    fn features(&self, shared: &FeatureMap, all: &[FeatureMap]) -> ExpertFeatures {
        let own = self.layers.iter();
        let deep = own.fold(shared.clone(), |x, layer| layer.forward(x));
        let shallow = self.fusion.as_ref().map(|fusion| {
            let shallow = all[self.fused_layer - 1].clone();
            fusion.align(shallow.into_pyramid())
        });
        let pooled = match &shallow {
            Some(shallow) => {
                FeatureMap::Pyramid(deep.clone().into_pyramid() * shallow.clone()).pooled()
            }
            None => deep.pooled(),
        };
        ExpertFeatures {
            deep,
            shallow,
            pooled,
        }
    }

    /// The classifier of a stage.
    ///
    /// # Panics
    /// If `head` is [`Head::Stage2`] and there is none.
    pub fn head(&self, head: Head) -> &Classifier {
        match head {
            Head::Stage1 => &self.head1,
            Head::Stage2 => self
                .head2
                .as_ref()
                .expect("this network was configured with `stage2_heads: false`"),
        }
    }

    /// The shared layer that is fused, counted from 1, where there is fusion.
    pub fn fused_layer(&self) -> Option<usize> {
        self.fusion.as_ref().map(|_| self.fused_layer)
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_counted_before_they_are_made() {
        struct Count(u64);
        impl ModuleVisitor for Count {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 += param.lazy_shape().num_elements() as u64;
            }
        }
        for name in ["resnet8", "resnet20", "resnet18", "resnet50", "resnext50"] {
            let backbone = BackboneConfig::named(name).unwrap();
            let mut configs = vec![
                ShikeConfig::on(backbone.clone(), 7),
                ShikeConfig::plain(backbone.clone(), 7),
                ShikeConfig::on(backbone.clone(), 3)
                    .with_experts(2)
                    .with_stage2_heads(false),
            ];
            let linear = ShikeConfig::on(backbone, 5).with_classifier(ClassifierConfig::Linear);
            if name == "resnet8" {
                let mut odd = ResnetConfig::cifar(8).unwrap();
                odd.layers[1].channels = 50;
                odd.layers[0].stride = 2;
                configs.push(ShikeConfig {
                    backbone: odd.into(),
                    shared_layers: 1,
                    fused_layers: vec![1],
                    ..linear.clone()
                });
            }
            configs.push(linear);
            for config in configs {
                let mut count = Count(0);
                config.init(&Device::flex()).unwrap().visit(&mut count);
                assert_eq!(config.num_values().unwrap(), count.0, "{config:?}");
            }
        }
    }

    #[test]
    fn activation_maps_add_up_to_the_logits() {
        use burn::tensor::Distribution;
        let device = Device::flex();
        device.seed(3);
        let images = Tensor::random([2, 3, 16, 24], Distribution::Normal(0.0, 1.0), &device);
        let backbone = BackboneConfig::named("resnet8").unwrap();
        for classifier in [ClassifierConfig::cosine(), ClassifierConfig::Linear] {
            let config = ShikeConfig::on(backbone.clone(), 5).with_classifier(classifier);
            let model = config.init(&device).unwrap().valid();
            let logits = model.forward(images.clone(), Head::Stage1).experts;
            let maps = model
                .activation_maps(images.clone(), Head::Stage1, 3)
                .unwrap();
            assert_eq!(maps.len(), 3);
            for ((map, logits), expert) in maps.into_iter().zip(logits).zip(&model.experts) {
                assert_eq!(map.dims(), [2, 4, 6]);
                let bias = match &expert.head1 {
                    Classifier::Linear(linear) => linear.bias.as_ref().map(|bias| bias.val()),
                    _ => None,
                };
                let bias = bias.map_or(0.0, |bias| bias.into_data().iter::<f32>().nth(3).unwrap());
                let found: Vec<f32> = map.mean_dims(&[1, 2]).into_data().iter().collect();
                let logits: Vec<f32> = logits.narrow(1, 3, 1).into_data().iter().collect();
                for (found, logit) in found.iter().zip(&logits) {
                    assert!(
                        (found + bias - logit).abs() < 1e-4,
                        "{found} {bias} {logit}"
                    );
                }
            }
        }
        let vit = ShikeConfig::plain(BackboneConfig::named("vit_s16").unwrap(), 2);
        let vit = vit.init(&device).unwrap().valid();
        let images = Tensor::zeros([1, 3, 32, 32], &device);
        assert!(vit.activation_maps(images, Head::Stage1, 0).is_none());
    }

    #[test]
    fn no_size_is_beyond_all_machines() {
        let refused = |change: fn(&mut ShikeConfig, &mut ResnetConfig), says: &str| {
            let mut config = ShikeConfig::cifar(8, 10).unwrap();
            let mut backbone = ResnetConfig::cifar(8).unwrap();
            change(&mut config, &mut backbone);
            config.backbone = backbone.into();
            let error = config.init(&Device::flex()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        refused(
            |c, _| c.experts = 1_000_000_000,
            "experts: 1000000000 is not possible; it must be 1 to 100",
        );
        refused(|c, _| c.experts = 0, "1 to 100");
        refused(|c, _| c.num_classes = usize::MAX, "2 to 1000000");
        refused(|_, b| b.stem.channels = 1 << 40, "1 to 65536");
        refused(|_, b| b.layers[2].blocks = 1 << 53, "1 to 1000");
        refused(|_, b| b.layers[2].stride = usize::MAX, "1 to 16");
        // Each is possible, and all together are not.
        refused(
            |c, b| {
                c.experts = 100;
                b.layers[2].channels = 65_536;
                b.layers[2].blocks = 1000;
            },
            "it must have at most 10000000000",
        );
    }
}

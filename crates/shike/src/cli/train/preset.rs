//! What a run does where nothing is asked for.

use shike_data::{Normalization, Pipeline, Transform};
use shike_model::ShikeConfig;
use shike_train::config::TrainConfigError;
use shike_train::{Recipe, Stage2, TrainConfig, TrainError};

use super::Arch;
use crate::cli::CliError;

/// What the options of a run change.
#[derive(Clone, Debug)]
pub enum Base {
    /// Settings of the program.
    Preset(Preset),
    /// Settings from a file.
    Recipe(Box<Recipe>),
}

/// What a run does where nothing else is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// Network.
    pub arch: Arch,
    /// Epochs of both stages.
    pub epochs: [usize; 2],
    /// Batch size.
    pub batch_size: usize,
    /// Peak learning rate of both stages, where it is not the reference's.
    pub lr: Option<f64>,
    /// What is done with images.
    pub images: ImagePreset,
}

/// Augmentation where `--image-size` and `--crop-scale` do not ask for another.
#[derive(Clone, Debug, PartialEq)]
pub enum ImagePreset {
    /// The reference's, for images of 32×32.
    Cifar,
    /// Random resized crops that keep at least this share of a picture's area.
    ResizedCrop {
        /// Side of the crop in pixels.
        size: u32,
        /// The smallest share.
        scale: f64,
    },
    /// Crops of one scale, for pictures that are all a little larger than the crop.
    Crop {
        /// The shorter side of the pictures in pixels.
        from: u32,
        /// Side of the crop in pixels.
        size: u32,
    },
}

impl Preset {
    /// SHIKE on ResNet-50 at 224 pixels, as ImageNet-LT is measured: 180 + 20 epochs.
    pub fn imagenet() -> Self {
        Self {
            arch: Arch::Resnet50,
            epochs: [180, 20],
            batch_size: 64,
            lr: None,
            images: ImagePreset::ResizedCrop {
                size: 224,
                scale: 0.08,
            },
        }
    }

    /// The published experiment for CIFAR.
    pub fn cifar() -> Self {
        Self {
            arch: Arch::Resnet32,
            epochs: [180, 20],
            batch_size: 128,
            lr: None,
            images: ImagePreset::Cifar,
        }
    }

    /// The configuration of SHIKE on `arch`, for so many classes.
    pub(super) fn config(&self, arch: Arch, num_classes: usize) -> Result<TrainConfig, CliError> {
        let invalid = |error| CliError::Train(TrainError::from(TrainConfigError::from(error)));
        let backbone = arch.backbone().map_err(invalid)?;
        let model = ShikeConfig::on(backbone, num_classes);
        let mut config = TrainConfig::for_model(model, self.epochs);
        if let Some(lr) = self.lr {
            config.stage1.schedule.set_peak(lr);
            if let Some(stage2) = config.stage2.as_mut().and_then(Stage2::training_mut) {
                stage2.schedule.set_peak(lr);
            }
        }
        config.loader.batch_size = self.batch_size;
        Ok(config)
    }
}

impl ImagePreset {
    /// With another size or another smallest share, where they are given.
    pub(super) fn changed(&self, size: Option<u32>, scale: Option<f64>) -> Result<Self, CliError> {
        match (self, size, scale) {
            (images, None, None) => Ok(images.clone()),
            (Self::Cifar, ..) => {
                let message = "--image-size and --crop-scale are for pictures; CIFAR has its own \
                               augmentation";
                Err(CliError::Usage(message.into()))
            }
            (Self::ResizedCrop { size: old, scale }, size, new) => Ok(Self::ResizedCrop {
                size: size.unwrap_or(*old),
                scale: new.unwrap_or(*scale),
            }),
            (Self::Crop { size: old, .. }, size, scale) => Ok(Self::ResizedCrop {
                size: size.unwrap_or(*old),
                scale: scale.unwrap_or(0.25),
            }),
        }
    }

    /// Sets pipelines and normalisation.
    pub(super) fn apply(&self, config: &mut TrainConfig) {
        let (train, eval) = match *self {
            Self::Cifar => (Pipeline::cifar_train(), Pipeline::cifar_eval()),
            Self::ResizedCrop { size, scale } => {
                let mut train = Pipeline::photo_train(size);
                set_crop_scale(&mut train, scale);
                (train, Pipeline::photo_eval(size))
            }
            Self::Crop { from, size } => {
                let resize = Transform::Resize { short_side: from };
                let train = vec![
                    resize.clone(),
                    Transform::RandomCrop { size, padding: 0 },
                    Transform::HorizontalFlip { p: 0.5 },
                ];
                let eval = vec![resize, Transform::CenterCrop { size }];
                (
                    Pipeline { transforms: train },
                    Pipeline { transforms: eval },
                )
            }
        };
        config.train_pipeline = train;
        config.eval_pipeline = eval;
        config.normalization = match self {
            Self::Cifar => Normalization::CIFAR10,
            _ => Normalization::IMAGENET,
        };
    }
}

/// Sets the smallest share of the area that random crops keep; says whether there are such crops.
pub(super) fn set_crop_scale(pipeline: &mut Pipeline, scale: f64) -> bool {
    let mut found = false;
    for transform in &mut pipeline.transforms {
        if let Transform::RandomResizedCrop { scale: range, .. } = transform {
            range[0] = scale;
            found = true;
        }
    }
    found
}

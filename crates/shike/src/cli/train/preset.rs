//! What a run does where nothing is asked for.

use shike_train::DataSource;

use super::Arch;

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
    /// Crops without resizing, for pictures that are all a little larger than the crop.
    Crop {
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

    /// The published experiment for CIFAR; for pictures, the same network and schedule at 64
    /// pixels.
    pub fn for_source(source: &DataSource) -> Self {
        let cifar = matches!(source, DataSource::Cifar { .. });
        Self {
            arch: Arch::Resnet32,
            epochs: [180, 20],
            batch_size: 128,
            lr: None,
            images: match cifar {
                true => ImagePreset::Cifar,
                false => ImagePreset::ResizedCrop {
                    size: 64,
                    scale: 0.25,
                },
            },
        }
    }
}

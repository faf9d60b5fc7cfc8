//! From 8-bit values to the network's input.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// Mean and standard deviation of each channel (R, G, B), of values from 0 to 1.
///
/// Batches travel as `u8` and are normalised on the device; [`Normalization::normalize`] is the
/// definition of what the device has to compute.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Subtracted.
    pub mean: [f32; 3],
    /// Divided by, afterwards.
    pub std: [f32; 3],
}

impl Normalization {
    /// The constants that the reference uses for CIFAR-10 and for CIFAR-100. They are those of
    /// CIFAR-10, with standard deviations averaged over images.
    pub const CIFAR10: Self = Self {
        mean: [0.4914, 0.4822, 0.4465],
        std: [0.2023, 0.1994, 0.2010],
    };

    /// ImageNet's, also used for Places.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    /// iNaturalist 2018's, as in the code of Kang et al. 2020 and its successors.
    pub const INATURALIST: Self = Self {
        mean: [0.466, 0.471, 0.380],
        std: [0.195, 0.194, 0.192],
    };

    /// Every name that [`named`](Self::named) knows.
    pub const NAMES: [&'static str; 3] = ["cifar10", "imagenet", "inaturalist"];

    /// The constants of a name in [`NAMES`](Self::NAMES).
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "cifar10" => Some(Self::CIFAR10),
            "imagenet" => Some(Self::IMAGENET),
            "inaturalist" => Some(Self::INATURALIST),
            _ => None,
        }
    }

    /// Checks that what comes out are numbers.
    ///
    /// # Errors
    /// [`DataError::Field`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field: &str, found: [f32; 3], expected| {
            DataError::field(
                field,
                format!("is {found:?}, must be three numbers{expected}"),
            )
        };
        if !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return Err(wrong("std", self.std, " above 0"));
        }
        match self.mean.iter().all(|mean| mean.is_finite()) {
            true => Ok(()),
            false => Err(wrong("mean", self.mean, "")),
        }
    }

    /// What [`normalize`](Self::normalize) makes of each value of each channel.
    fn tables(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            let (mean, std) = (self.mean[c], self.std[c]);
            std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std)
        })
    }

    /// [`normalize`](Self::normalize) of a batch: `[n, 3, height, width]` of bytes,
    /// `[n, height, width, 3]`, with `plane` = height x width. `values` is overwritten; its memory is
    /// used again.
    pub fn normalize_batch(&self, bytes: &[u8], plane: usize, values: &mut Vec<f32>) {
        let [red, green, blue] = self.tables();
        values.resize(bytes.len(), 0.0);
        let images = bytes.chunks_exact(3 * plane);
        for (image, out) in images.zip(values.chunks_exact_mut(3 * plane)) {
            let (out_red, rest) = out.split_at_mut(plane);
            let (out_green, out_blue) = rest.split_at_mut(plane);
            let planes = out_red.iter_mut().zip(out_green).zip(out_blue);
            for (pixel, ((r, g), b)) in image.chunks_exact(3).zip(planes) {
                *r = red[usize::from(pixel[0])];
                *g = green[usize::from(pixel[1])];
                *b = blue[usize::from(pixel[2])];
            }
        }
    }

    /// `(value / 255 - mean) / std` as `[3, height, width]`, in f32 like torchvision's `ToTensor`
    /// and `Normalize`.
    pub fn normalize(&self, image: &RgbImage) -> Vec<f32> {
        let mut out = Vec::with_capacity(image.as_raw().len());
        for c in 0..3 {
            let (mean, std) = (self.mean[c], self.std[c]);
            out.extend(
                image
                    .chunks_exact(3)
                    .map(|pixel| (f32::from(pixel[c]) / 255.0 - mean) / std),
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn channels_come_first() {
        let image = RgbImage::from_fn(2, 1, |x, _| Rgb([255 * x as u8, 51, 0]));
        let plain = Normalization {
            mean: [0.0, 0.2, 0.5],
            std: [1.0, 1.0, 0.5],
        };
        assert_eq!(plain.normalize(&image), [0.0, 1.0, 0.0, 0.0, -1.0, -1.0]);
    }
}

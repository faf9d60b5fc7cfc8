//! Augmentation of 8-bit RGB images, with Pillow's arithmetic.
//!
//! Published long-tail results were obtained through Pillow, whose operations truncate, use fixed
//! point and leave borders in their own way. All operations here were compared with its output
//! and agree **bit for bit**: the moves, look-up tables, blends and the antialiased resize.
//!
//! Two things differ on purpose. Random numbers come from this crate's generator, so a seed gives
//! other draws than in Python (the distributions are the same). And JPEG decoders differ by a
//! fraction of a grey level on average, which no arithmetic behind them can undo.

mod autoaugment;
mod color;
mod geometry;
mod normalize;
mod ops;
mod pipeline;
mod randaugment;
mod resize;
mod timm;

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use self::normalize::Normalization;
use self::pillow::*;
pub use self::pipeline::Pipeline;
pub use self::resize::{CropBox, Interpolation, random_resized_crop_box};
pub(crate) use self::resize::{center_crop_corner, resized_size};
use crate::error::{DataError, Result};
use crate::rng::Draw;
use crate::scratch;

/// The single operations, which repeat Pillow's arithmetic bit for bit, and the policies made of them.
pub mod pillow {
    pub use super::autoaugment::{CIFAR10_POLICY, SubPolicy, auto_augment_cifar10};
    pub use super::color::{
        autocontrast, brightness, color, contrast, equalize, gaussian_blur, grayscale, hue, invert,
        posterize, sharpness, solarize, solarize_add,
    };
    pub use super::geometry::{
        Affine, affine_bicubic, affine_bilinear, affine_nearest, crop, cutout, hflip, rotate,
    };
    pub use super::ops::Op;
    pub use super::randaugment::{RandAugmentOp, rand_augment};
    pub use super::resize::{center_crop, resize, resize_short_side, resized_crop};
    pub use super::timm::{TimmOp, rand_augment_timm};
}

/// No side of an output may be longer: a slip of the keyboard shall not ask for gigabytes.
const MAX_SIDE: u32 = 16_384;

/// One step between the decoded image and the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Transform {
    /// Turns the picture as its EXIF data say; the first transform, if at all. It is applied where
    /// the file is decoded, and changes nothing about pixels in memory.
    ExifOrientation,
    /// Pads with black on all sides, then cuts out a square at a random place.
    RandomCrop {
        /// Side of the square, in pixels.
        size: u32,
        /// Width of the border, in pixels.
        padding: u32,
    },
    /// Mirrors left and right with probability `p`.
    HorizontalFlip {
        /// Probability, 0 to 1.
        p: f64,
    },
    /// One sub-policy of [`CIFAR10_POLICY`].
    AutoAugmentCifar10,
    /// [`rand_augment`].
    RandAugment {
        /// Operations in a row.
        num_ops: u32,
        /// Level, 0 to 30.
        magnitude: u32,
    },
    /// [`rand_augment_timm`].
    RandAugmentTimm {
        /// Operations in a row.
        num_ops: u32,
        /// Mean magnitude, 0 to 10.
        magnitude: f64,
        /// Standard deviation of the magnitude.
        magnitude_std: f64,
        /// Colour that moves leave behind.
        fill: [u8; 3],
    },
    /// torchvision's `ColorJitter`: brightness, contrast, saturation and hue in random order, each
    /// by a uniform random factor.
    ColorJitter {
        /// Factor from `1 - brightness` (at least 0) to `1 + brightness`.
        brightness: f64,
        /// Likewise.
        contrast: f64,
        /// Likewise.
        saturation: f64,
        /// Turn of the hue from `-hue` to `hue`, at most 0.5.
        hue: f64,
        /// Probability that there is a jitter at all.
        p: f64,
    },
    /// Makes the image grey with probability `p`.
    Grayscale {
        /// Probability, 0 to 1.
        p: f64,
    },
    /// [`gaussian_blur`] with probability `p`.
    GaussianBlur {
        /// Probability, 0 to 1.
        p: f64,
        /// Smallest and largest standard deviation, in pixels.
        sigma: [f64; 2],
    },
    /// Paints a square black whose centre is anywhere in the image (DeVries & Taylor 2017). It
    /// acts before normalisation, so the square is black and not the mean, as in the reference.
    Cutout {
        /// Side of the square, in pixels; of an odd number one less, as in the reference.
        size: u32,
    },
    /// Cuts out a box of random area and shape and resizes it to a square.
    RandomResizedCrop {
        /// Side of the square, in pixels.
        size: u32,
        /// Smallest and largest share of the area.
        scale: [f64; 2],
        /// Smallest and largest ratio of width to height.
        ratio: [f64; 2],
    },
    /// Resizes so that the shorter side has this length.
    Resize {
        /// Length, in pixels.
        short_side: u32,
        /// How values between pixels are found.
        #[serde(default, skip_serializing_if = "Interpolation::is_bilinear")]
        interpolation: Interpolation,
    },
    /// Cuts out the square in the middle; pads with black where the image is smaller.
    CenterCrop {
        /// Side of the square, in pixels.
        size: u32,
    },
}

impl Transform {
    /// The name in a configuration (`kind`).
    pub fn name(&self) -> &'static str {
        match self {
            Self::ExifOrientation => "exif_orientation",
            Self::RandomCrop { .. } => "random_crop",
            Self::HorizontalFlip { .. } => "horizontal_flip",
            Self::AutoAugmentCifar10 => "auto_augment_cifar10",
            Self::RandAugment { .. } => "rand_augment",
            Self::RandAugmentTimm { .. } => "rand_augment_timm",
            Self::ColorJitter { .. } => "color_jitter",
            Self::Grayscale { .. } => "grayscale",
            Self::GaussianBlur { .. } => "gaussian_blur",
            Self::Cutout { .. } => "cutout",
            Self::RandomResizedCrop { .. } => "random_resized_crop",
            Self::Resize { .. } => "resize",
            Self::CenterCrop { .. } => "center_crop",
        }
    }

    /// What is wrong with the parameters, if anything: (parameter, problem).
    fn problem(&self) -> Option<(&'static str, String)> {
        let side = |field, n: u32| {
            (!(1..=MAX_SIDE).contains(&n))
                .then(|| (field, format!("is {n}, must be 1 to {MAX_SIDE}")))
        };
        let range = |field, [low, high]: [f64; 2], max: f64| {
            (!(0.0 < low && low <= high && high <= max)).then(|| {
                (
                    field,
                    format!("is [{low}, {high}], must be 0 < low <= high <= {max}"),
                )
            })
        };
        let probability = |p: f64| {
            (!(0.0..=1.0).contains(&p))
                .then(|| ("p", format!("is {p}, must be a probability from 0 to 1")))
        };
        let at_most = |field, v: f64, max: f64| {
            (!(0.0..=max).contains(&v)).then(|| (field, format!("is {v}, must be 0 to {max}")))
        };
        let few = |num_ops: u32| {
            (num_ops > 100).then(|| ("num_ops", format!("is {num_ops}, must be 0 to 100")))
        };
        match *self {
            Self::RandomCrop { size, padding } => side("size", size).or_else(|| {
                (padding > MAX_SIDE).then(|| {
                    (
                        "padding",
                        format!("is {padding}, must be at most {MAX_SIDE}"),
                    )
                })
            }),
            Self::HorizontalFlip { p } | Self::Grayscale { p } => probability(p),
            Self::ExifOrientation | Self::AutoAugmentCifar10 => None,
            Self::RandAugment { num_ops, magnitude } => (magnitude > 30)
                .then(|| ("magnitude", format!("is {magnitude}, must be 0 to 30")))
                .or_else(|| few(num_ops)),
            Self::RandAugmentTimm {
                num_ops,
                magnitude,
                magnitude_std,
                ..
            } => at_most("magnitude", magnitude, 10.0)
                .or_else(|| at_most("magnitude_std", magnitude_std, 100.0))
                .or_else(|| few(num_ops)),
            Self::ColorJitter {
                brightness,
                contrast,
                saturation,
                hue,
                p,
            } => at_most("brightness", brightness, 10.0)
                .or_else(|| at_most("contrast", contrast, 10.0))
                .or_else(|| at_most("saturation", saturation, 10.0))
                .or_else(|| at_most("hue", hue, 0.5))
                .or_else(|| probability(p)),
            Self::GaussianBlur { p, sigma } => {
                probability(p).or_else(|| range("sigma", sigma, 100.0))
            }
            Self::Cutout { size } | Self::CenterCrop { size } => side("size", size),
            Self::Resize { short_side, .. } => side("short_side", short_side),
            Self::RandomResizedCrop { size, scale, ratio } => side("size", size)
                .or_else(|| range("scale", scale, 1.0))
                .or_else(|| range("ratio", ratio, 1000.0)),
        }
    }

    fn apply(&self, image: RgbImage, rng: &mut ChaCha8Rng) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        Ok(match *self {
            Self::ExifOrientation => image,
            Self::RandomCrop { size, padding } => {
                let room = |side: u32| (side + 2 * padding).checked_sub(size);
                let (Some(down), Some(across)) = (room(height), room(width)) else {
                    return Err(DataError::Transform {
                        transform: "random_crop",
                        problem: format!(
                            "cannot cut {size}x{size} out of {width}x{height} padded by {padding}; \
                             put a resize before it"
                        ),
                    });
                };
                let top = i64::from(rng.below(down + 1)) - i64::from(padding);
                let left = i64::from(rng.below(across + 1)) - i64::from(padding);
                replaced(image, |image| crop(image, top, left, size, size))
            }
            Self::HorizontalFlip { p } if rng.coin(p) => hflip(image),
            Self::HorizontalFlip { .. } => image,
            Self::AutoAugmentCifar10 => auto_augment_cifar10(image, rng),
            Self::RandAugment { num_ops, magnitude } => {
                rand_augment(image, num_ops, magnitude, rng)
            }
            Self::RandAugmentTimm {
                num_ops,
                magnitude,
                magnitude_std,
                fill,
            } => rand_augment_timm(image, num_ops, magnitude, magnitude_std, fill, rng),
            Self::ColorJitter {
                brightness,
                contrast,
                saturation,
                hue,
                p,
            } if rng.coin(p) => color_jitter(image, [brightness, contrast, saturation], hue, rng),
            Self::Grayscale { p } if rng.coin(p) => grayscale(image),
            Self::GaussianBlur { p, sigma } if rng.coin(p) => {
                gaussian_blur(image, rng.between(sigma[0], sigma[1]))
            }
            Self::ColorJitter { .. } | Self::Grayscale { .. } | Self::GaussianBlur { .. } => image,
            Self::Cutout { size } => {
                let (y, x) = (rng.below(height), rng.below(width));
                cutout(image, y, x, size / 2)
            }
            Self::RandomResizedCrop { size, scale, ratio } => {
                let area = random_resized_crop_box(width, height, scale, ratio, rng);
                replaced(image, |image| {
                    resized_crop(image, area, size, size, Interpolation::Bilinear)
                })
            }
            Self::Resize {
                short_side,
                interpolation,
            } => {
                resized_size(width, height, short_side)?;
                resize_short_side(image, short_side, interpolation)
            }
            Self::CenterCrop { size } if (width, height) == (size, size) => image,
            Self::CenterCrop { size } => replaced(image, |image| center_crop(image, size)),
        })
    }
}

/// torchvision's `ColorJitter`: the order is drawn first, then the factors of brightness, contrast
/// and saturation (`spread` around 1, not below 0) and the turn of the hue. What has no spread is
/// left out.
fn color_jitter(
    mut image: RgbImage,
    spread: [f64; 3],
    turn: f64,
    draw: &mut ChaCha8Rng,
) -> RgbImage {
    let mut order = [0, 1, 2, 3];
    draw.shuffle(&mut order);
    let factors = spread.map(|s| draw.between((1.0 - s).max(0.0), 1.0 + s));
    let turned = draw.between(-turn, turn);
    for which in order {
        image = match which {
            0 if spread[0] > 0.0 => brightness(image, factors[0]),
            1 if spread[1] > 0.0 => contrast(image, factors[1]),
            2 if spread[2] > 0.0 => color(image, factors[2]),
            3 if turn > 0.0 => hue(image, turned),
            _ => image,
        };
    }
    image
}

/// What `make` makes of `image`, whose memory is kept for the next picture.
fn replaced(image: RgbImage, make: impl FnOnce(&RgbImage) -> RgbImage) -> RgbImage {
    let made = make(&image);
    scratch::recycle(image);
    made
}

/// An image of `raw` bytes, of which there are `width * height * 3`.
fn from_raw(width: u32, height: u32, raw: Vec<u8>) -> RgbImage {
    RgbImage::from_raw(width, height, raw).expect("the caller wrote every pixel")
}

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
mod size;
mod timm;

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use self::normalize::Normalization;
use self::pillow::*;
pub use self::pipeline::Pipeline;
pub use self::resize::{CropBox, Fit, Interpolation, random_resized_crop_box};
pub(crate) use self::resize::{Taken, center_crop_corner, on_canvas};
pub use self::size::Size;
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
    pub use super::resize::{center_crop, resize, resized_crop};
    pub use super::timm::{TimmOp, rand_augment_timm};
}

/// What surrounds a picture that does not fill its place: the mean colour of ImageNet's, which most networks see as
/// zeros.
pub const PADDING: [u8; 3] = [124, 116, 104];

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
    /// What becomes of 16 bits a channel: values up to `low` are black, from `high` on white. It stands before all
    /// that is done with pixels, is applied where the file is decoded, and changes nothing about 8 bits.
    Range {
        /// The value that becomes 0.
        low: u16,
        /// The value that becomes 255, above `low`.
        high: u16,
    },
    /// Lays transparent pixels over a colour; without it alpha is dropped. It stands before all that is done with
    /// pixels, and is applied where the file is decoded.
    Background {
        /// Red, green and blue.
        color: [u8; 3],
    },
    /// Pads with black on all sides, then cuts out a box at a random place.
    RandomCrop {
        /// Its size, in pixels.
        size: Size,
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
    /// Cuts out a box of random area and shape and resizes it.
    RandomResizedCrop {
        /// Size that comes out, in pixels.
        size: Size,
        /// Smallest and largest share of the area.
        scale: [f64; 2],
        /// Smallest and largest ratio of width to height, over that of the size that comes out; where all of a picture
        /// is to be seen, over that of the picture.
        ratio: [f64; 2],
        /// How the box becomes that size.
        #[serde(default, skip_serializing_if = "Fit::is_crop")]
        fit: Fit,
    },
    /// Resizes so that the shorter side has this length.
    Resize {
        /// Length, in pixels.
        short_side: u32,
        /// How values between pixels are found.
        #[serde(default, skip_serializing_if = "Interpolation::is_bilinear")]
        interpolation: Interpolation,
    },
    /// Resizes so that a box of this size is covered.
    Cover {
        /// The box, in pixels.
        size: Size,
        /// How values between pixels are found.
        #[serde(default, skip_serializing_if = "Interpolation::is_bilinear")]
        interpolation: Interpolation,
    },
    /// Resizes the whole image to this size, whatever its shape.
    Squash {
        /// The size, in pixels.
        size: Size,
        /// How values between pixels are found.
        #[serde(default, skip_serializing_if = "Interpolation::is_bilinear")]
        interpolation: Interpolation,
    },
    /// Resizes the whole image so that it fits into this size, in the middle of [`PADDING`].
    Pad {
        /// The size, in pixels.
        size: Size,
        /// How values between pixels are found.
        #[serde(default, skip_serializing_if = "Interpolation::is_bilinear")]
        interpolation: Interpolation,
    },
    /// Cuts out the box in the middle; pads with black where the image is smaller.
    CenterCrop {
        /// Its size, in pixels.
        size: Size,
    },
}

impl Transform {
    /// The name in a configuration (`kind`).
    pub fn name(&self) -> &'static str {
        match self {
            Self::ExifOrientation => "exif_orientation",
            Self::Range { .. } => "range",
            Self::Background { .. } => "background",
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
            Self::Cover { .. } => "cover",
            Self::Squash { .. } => "squash",
            Self::Pad { .. } => "pad",
            Self::CenterCrop { .. } => "center_crop",
        }
    }

    /// What is wrong with the parameters, if anything: (parameter, problem).
    fn problem(&self) -> Option<(&'static str, String)> {
        let side = |field, n: u32| {
            (!(1..=MAX_SIDE).contains(&n))
                .then(|| (field, format!("is {n}, must be 1 to {MAX_SIDE}")))
        };
        let both = |size: Size| side("size", size.width).or_else(|| side("size", size.height));
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
            Self::RandomCrop { size, padding } => both(size).or_else(|| {
                (padding > MAX_SIDE).then(|| {
                    (
                        "padding",
                        format!("is {padding}, must be at most {MAX_SIDE}"),
                    )
                })
            }),
            Self::HorizontalFlip { p } | Self::Grayscale { p } => probability(p),
            Self::ExifOrientation | Self::Background { .. } | Self::AutoAugmentCifar10 => None,
            Self::Range { low, high } => (low >= high).then(|| {
                let problem = format!("is {high}, must be above `low`, which is {low}");
                ("high", problem)
            }),
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
            Self::Cutout { size } => side("size", size),
            Self::CenterCrop { size }
            | Self::Cover { size, .. }
            | Self::Squash { size, .. }
            | Self::Pad { size, .. } => both(size),
            Self::Resize { short_side, .. } => side("short_side", short_side),
            Self::RandomResizedCrop {
                size, scale, ratio, ..
            } => both(size)
                .or_else(|| range("scale", scale, 1.0))
                .or_else(|| range("ratio", ratio, 1000.0)),
        }
    }

    /// The part of an image that it resizes, and to what; none if it does not resize.
    ///
    /// # Errors
    /// [`DataError::Transform`] if the image would become too large.
    pub(crate) fn takes(
        &self,
        width: u32,
        height: u32,
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<Taken>> {
        Ok(Some(match *self {
            Self::RandomResizedCrop {
                size,
                scale,
                ratio,
                fit,
            } => {
                let shape = match fit {
                    Fit::Crop => f64::from(size.width) / f64::from(size.height),
                    Fit::Pad | Fit::Squash => f64::from(width) / f64::from(height),
                };
                let ratio = ratio.map(|ratio| ratio * shape);
                let area = random_resized_crop_box(width, height, scale, ratio, rng);
                Taken::part(area, size, fit == Fit::Pad)
            }
            Self::Resize {
                short_side,
                interpolation,
            } => Taken::covering(width, height, short_side.into(), interpolation)?,
            Self::Cover {
                size,
                interpolation,
            } => Taken::covering(width, height, size, interpolation)?,
            Self::Squash {
                size,
                interpolation,
            } => Taken::part(CropBox::whole(width, height), size, false).by(interpolation),
            Self::Pad {
                size,
                interpolation,
            } => Taken::part(CropBox::whole(width, height), size, true).by(interpolation),
            _ => return Ok(None),
        }))
    }

    /// Whether it is applied where a file is decoded.
    pub(crate) fn is_of_decoding(&self) -> bool {
        matches!(
            self,
            Self::ExifOrientation | Self::Range { .. } | Self::Background { .. }
        )
    }

    fn apply(&self, image: RgbImage, rng: &mut ChaCha8Rng) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        if let Some(taken) = self.takes(width, height, rng)? {
            return Ok(taken.of(image));
        }
        Ok(match *self {
            Self::ExifOrientation | Self::Range { .. } | Self::Background { .. } => image,
            Self::RandomCrop { size, padding } => {
                let room = |side: u32, of: u32| (side + 2 * padding).checked_sub(of);
                let rooms = (room(height, size.height), room(width, size.width));
                let (Some(down), Some(across)) = rooms else {
                    return Err(DataError::Transform {
                        transform: "random_crop",
                        problem: format!(
                            "cannot cut {}x{} out of {width}x{height} padded by {padding}; \
                             put a resize before it",
                            size.width, size.height,
                        ),
                    });
                };
                let top = i64::from(rng.below(down + 1)) - i64::from(padding);
                let left = i64::from(rng.below(across + 1)) - i64::from(padding);
                replaced(image, |image| {
                    crop(image, top, left, size.height, size.width)
                })
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
            Self::RandomResizedCrop { .. }
            | Self::Resize { .. }
            | Self::Cover { .. }
            | Self::Squash { .. }
            | Self::Pad { .. } => unreachable!("these resize"),
            Self::CenterCrop { size } if (width, height) == (size.width, size.height) => image,
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

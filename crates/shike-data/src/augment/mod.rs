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
mod randaugment;
mod resize;
mod timm;

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use self::autoaugment::{CIFAR10_POLICY, SubPolicy, auto_augment_cifar10};
pub use self::color::{
    autocontrast, brightness, color, contrast, equalize, gaussian_blur, grayscale, hue, invert,
    posterize, sharpness, solarize, solarize_add,
};
pub use self::geometry::{
    Affine, affine_bicubic, affine_bilinear, affine_nearest, crop, cutout, hflip, rotate,
};
pub use self::normalize::Normalization;
pub use self::ops::Op;
pub use self::randaugment::{RandAugmentOp, rand_augment};
pub use self::resize::{
    CropBox, center_crop, random_resized_crop_box, resize, resize_short_side, resized_crop,
};
pub(crate) use self::resize::{center_crop_corner, resized_size};
pub use self::timm::{Interpolation, TimmOp, rand_augment_timm};
use crate::error::{DataError, Result};
use crate::rng::Draw;
use crate::scratch;

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
        /// Side of the square, in pixels.
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
            Self::Resize { short_side } => side("short_side", short_side),
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
                replaced(image, |image| resized_crop(image, area, size, size))
            }
            Self::Resize { short_side } => {
                resized_size(width, height, short_side)?;
                resize_short_side(image, short_side)
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

/// Transforms in the order in which they are applied.
///
/// ```
/// use shike_data::augment::Pipeline;
///
/// let eval: Pipeline = serde_json::from_str(
///     r#"{"transforms": [{"kind": "resize", "short_side": 256},
///                        {"kind": "center_crop", "size": 224}]}"#,
/// )?;
/// assert_eq!(eval, Pipeline::photo_eval(224));
/// assert_eq!(eval.output_size(), Some(224));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// First to last.
    pub transforms: Vec<Transform>,
}

impl Pipeline {
    /// Every name that [`named`](Self::named) knows.
    pub const NAMES: [&'static str; 7] = [
        "cifar_train",
        "cifar_eval",
        "photo_train",
        "photo_eval",
        "basic",
        "randcls",
        "sim",
    ];

    /// The pipeline of a name in [`NAMES`](Self::NAMES), for square images of `size` pixels; those of
    /// CIFAR are for 32 pixels, whatever the size. `None` if there is none of this name.
    pub fn named(name: &str, size: u32) -> Option<Self> {
        Some(match name {
            "cifar_train" => Self::cifar_train(),
            "cifar_eval" => Self::cifar_eval(),
            "photo_train" => Self::photo_train(size),
            "photo_eval" => Self::photo_eval(size),
            "basic" => Self::basic(size),
            "randcls" => Self::randcls(size),
            "sim" => Self::sim(size),
            _ => return None,
        })
    }

    /// The same pipeline for another size: crops, their borders, resizes and cut-outs in proportion. One
    /// that takes images as large as they are resizes them first. Unchanged if its size depends on the
    /// input.
    pub fn resized(&self, size: u32) -> Self {
        let old = match self.output_size() {
            Some(old) if old != size as usize => old,
            _ => return self.clone(),
        };
        let scaled = |n: &mut u32| {
            *n = (f64::from(*n) * f64::from(size) / old as f64).round() as u32;
        };
        let mut pipeline = self.clone();
        for transform in &mut pipeline.transforms {
            match transform {
                Transform::RandomCrop { size, padding } => {
                    scaled(size);
                    scaled(padding);
                }
                Transform::Cutout { size }
                | Transform::RandomResizedCrop { size, .. }
                | Transform::Resize { short_side: size }
                | Transform::CenterCrop { size } => scaled(size),
                _ => {}
            }
        }
        let resizes = |transform: &Transform| {
            matches!(
                transform,
                Transform::Resize { .. } | Transform::RandomResizedCrop { .. }
            )
        };
        if !pipeline.transforms.iter().any(resizes) {
            let resize = Transform::Resize { short_side: size };
            pipeline
                .transforms
                .insert(usize::from(self.is_upright()), resize);
        }
        pipeline
    }

    /// The reference's training transforms on CIFAR: RandomCrop(32, 4), flip, AutoAugment,
    /// Cutout(16), in that order.
    pub fn cifar_train() -> Self {
        Self {
            transforms: vec![
                Transform::RandomCrop {
                    size: 32,
                    padding: 4,
                },
                Transform::HorizontalFlip { p: 0.5 },
                Transform::AutoAugmentCifar10,
                Transform::Cutout { size: 16 },
            ],
        }
    }

    /// Evaluation on CIFAR: nothing is done to a 32x32 image.
    pub fn cifar_eval() -> Self {
        Self {
            transforms: vec![Transform::CenterCrop { size: 32 }],
        }
    }

    /// Training on photographs: RandomResizedCrop(size) and flip, with torchvision's defaults.
    pub fn photo_train(size: u32) -> Self {
        Self {
            transforms: vec![
                Transform::RandomResizedCrop {
                    size,
                    scale: [0.08, 1.0],
                    ratio: [3.0 / 4.0, 4.0 / 3.0],
                },
                Transform::HorizontalFlip { p: 0.5 },
            ],
        }
    }

    /// `basic` of the published recipes (RIDE, SADE): RandomResizedCrop(size), flip, jitter by 0.4 of
    /// brightness, contrast and saturation.
    pub fn basic(size: u32) -> Self {
        let mut pipeline = Self::photo_train(size);
        pipeline.transforms.push(Transform::ColorJitter {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.0,
            p: 1.0,
        });
        pipeline
    }

    /// `randcls` of the published recipes (PaCo, NCL): RandomResizedCrop(size), flip, jitter by 0.4
    /// of brightness, contrast and saturation, timm's `rand-m10-n2-mstd0.5` with ImageNet's mean
    /// colour behind its moves.
    pub fn randcls(size: u32) -> Self {
        let mut pipeline = Self::basic(size);
        pipeline.transforms.push(Transform::RandAugmentTimm {
            num_ops: 2,
            magnitude: 10.0,
            magnitude_std: 0.5,
            fill: [124, 116, 104],
        });
        pipeline
    }

    /// `sim` of the published recipes (PaCo, NCL), the augmentation of contrastive learning:
    /// RandomResizedCrop(size), with probability 0.8 a jitter by 0.4 and of the hue by 0.1, grey
    /// with probability 0.2, a blur of 0.1 to 2 pixels with probability 0.5, flip.
    pub fn sim(size: u32) -> Self {
        let mut pipeline = Self::photo_train(size);
        // The flip comes last.
        pipeline.transforms.splice(
            1..1,
            [
                Transform::ColorJitter {
                    brightness: 0.4,
                    contrast: 0.4,
                    saturation: 0.4,
                    hue: 0.1,
                    p: 0.8,
                },
                Transform::Grayscale { p: 0.2 },
                Transform::GaussianBlur {
                    p: 0.5,
                    sigma: [0.1, 2.0],
                },
            ],
        );
        pipeline
    }

    /// Evaluation on photographs: short side to `round(size * 256 / 224)`, then the middle.
    pub fn photo_eval(size: u32) -> Self {
        let short_side = (f64::from(size) * 256.0 / 224.0).round() as u32;
        Self {
            transforms: vec![
                Transform::Resize { short_side },
                Transform::CenterCrop { size },
            ],
        }
    }

    /// Applies all transforms to one image.
    ///
    /// # Errors
    /// [`DataError::Transform`] if the image is too small for a crop.
    pub fn apply(&self, image: RgbImage, rng: &mut ChaCha8Rng) -> Result<RgbImage> {
        Self::apply_all(&self.transforms, image, rng)
    }

    pub(crate) fn apply_all(
        transforms: &[Transform],
        image: RgbImage,
        rng: &mut ChaCha8Rng,
    ) -> Result<RgbImage> {
        transforms
            .iter()
            .try_fold(image, |image, transform| transform.apply(image, rng))
    }

    /// Side of the square images that come out, or `None` if their size depends on the input.
    pub fn output_size(&self) -> Option<usize> {
        self.transforms
            .iter()
            .fold(None, |known, transform| match *transform {
                Transform::RandomCrop { size, .. }
                | Transform::RandomResizedCrop { size, .. }
                | Transform::CenterCrop { size } => Some(size as usize),
                // A square stays one.
                Transform::Resize { short_side } => known.map(|_: usize| short_side as usize),
                _ => known,
            })
    }

    /// Whether files are turned as their EXIF data say.
    pub fn is_upright(&self) -> bool {
        self.transforms.first() == Some(&Transform::ExifOrientation)
    }

    /// Checks the parameters of every transform.
    ///
    /// # Errors
    /// [`DataError::Config`] naming the transform and the parameter.
    pub fn validate(&self) -> Result<()> {
        for (i, transform) in self.transforms.iter().enumerate() {
            if i > 0 && *transform == Transform::ExifOrientation {
                return Err(DataError::Config {
                    field: format!("transforms[{i}] (exif_orientation)"),
                    problem: "must be the first transform".into(),
                });
            }
            if let Some((parameter, problem)) = transform.problem() {
                return Err(DataError::Config {
                    field: format!("transforms[{i}] ({}).{parameter}", transform.name()),
                    problem,
                });
            }
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::{Purpose, rng};
    use image::Rgb;

    fn random_source() -> ChaCha8Rng {
        rng(0, 0, 0, Purpose::Augment)
    }

    #[test]
    fn sizes_that_come_out() {
        let cases = [
            (Pipeline::cifar_train(), Some(32)),
            (Pipeline::cifar_eval(), Some(32)),
            (Pipeline::photo_train(224), Some(224)),
            (Pipeline::photo_eval(224), Some(224)),
            (Pipeline::randcls(96), Some(96)),
            (Pipeline::sim(96), Some(96)),
            (Pipeline::default(), None),
        ];
        for (pipeline, want) in cases {
            pipeline.validate().unwrap();
            assert_eq!(pipeline.output_size(), want);
            if let Some(side) = want {
                let side = side as u32;
                for (w, h) in [(32, 32), (500, 333), (40, 90)] {
                    let out = pipeline.apply(RgbImage::new(w, h), &mut random_source());
                    assert_eq!(out.unwrap().dimensions(), (side, side));
                }
            }
        }
        assert_eq!(
            Pipeline::photo_eval(112).transforms[0],
            Transform::Resize { short_side: 128 }
        );
    }

    #[test]
    fn names_and_sizes() {
        for name in Pipeline::NAMES {
            let pipeline = Pipeline::named(name, 96).unwrap();
            let small = pipeline.resized(48);
            assert_eq!(small.output_size(), Some(48), "{name}");
            if !name.starts_with("cifar") {
                assert_eq!(Some(small), Pipeline::named(name, 48));
            }
        }
        assert_eq!(Pipeline::named("simm", 96), None);
        assert_eq!(Pipeline::cifar_train().resized(32), Pipeline::cifar_train());
        let larger = Pipeline::cifar_train().resized(64);
        assert_eq!(larger.transforms[0], Transform::Resize { short_side: 64 });
        let crop = &larger.transforms[1];
        assert_eq!(
            *crop,
            Transform::RandomCrop {
                size: 64,
                padding: 8
            }
        );
        assert_eq!(Pipeline::default().resized(64), Pipeline::default());
    }

    #[test]
    fn crop_and_flip_reach_every_place() {
        let image = RgbImage::from_fn(4, 4, |x, y| Rgb([x as u8 + 1, y as u8 + 1, 0]));
        let pipeline = Pipeline {
            transforms: vec![
                Transform::RandomCrop {
                    size: 4,
                    padding: 1,
                },
                Transform::HorizontalFlip { p: 0.5 },
            ],
        };
        let mut seen = std::collections::HashSet::new();
        let mut random = random_source();
        for _ in 0..400 {
            seen.insert(
                pipeline
                    .apply(image.clone(), &mut random)
                    .unwrap()
                    .into_raw(),
            );
        }
        assert_eq!(seen.len(), 3 * 3 * 2);
    }

    #[test]
    fn an_image_too_small_is_an_error() {
        let error = Pipeline::cifar_train()
            .apply(RgbImage::new(20, 32), &mut random_source())
            .unwrap_err();
        assert!(error.to_string().contains("32x32 out of 20x32"), "{error}");
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (text, says) in [
            (
                r#"{"kind":"cutout","size":0}"#,
                "transforms[0] (cutout).size",
            ),
            (r#"{"kind":"horizontal_flip","p":1.5}"#, ".p: is 1.5"),
            (r#"{"kind":"center_crop","size":99999}"#, ".size"),
            (
                r#"{"kind":"random_resized_crop","size":8,"scale":[0.5,0.1],"ratio":[1,1]}"#,
                ".scale",
            ),
            (
                r#"{"kind":"rand_augment","num_ops":2,"magnitude":31}"#,
                ".magnitude",
            ),
            (
                r#"{"kind":"random_crop","size":8,"padding":4000000000}"#,
                ".padding",
            ),
        ] {
            let transform: Transform = serde_json::from_str(text).unwrap();
            let pipeline = Pipeline {
                transforms: vec![transform],
            };
            let error = pipeline.validate().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for text in [
            r#"{"kind":"cutout"}"#,
            r#"{"kind":"cutout","size":8,"sise":9}"#,
            r#"{"kind":"cut_out","size":8}"#,
        ] {
            assert!(serde_json::from_str::<Transform>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn configurations_survive_writing_and_reading() {
        for pipeline in [
            Pipeline::cifar_train(),
            Pipeline::photo_train(160),
            Pipeline::randcls(160),
            Pipeline::sim(160),
        ] {
            let text = serde_json::to_string(&pipeline).unwrap();
            assert_eq!(serde_json::from_str::<Pipeline>(&text).unwrap(), pipeline);
            for transform in &pipeline.transforms {
                assert!(text.contains(transform.name()), "{text}");
            }
        }
    }
}

//! Transforms one after the other, and the pipelines that have a name.

use image::RgbImage;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Fit, Interpolation, Size, Transform};
use crate::decode::Decoding;
use crate::error::{DataError, Result};

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
/// assert_eq!(eval.output_size(), Some(224.into()));
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

    /// The pipeline of a name in [`NAMES`](Self::NAMES), for images of `size` pixels; those of CIFAR are
    /// [`resized`](Self::resized) to it. `None` if there is none of this name.
    pub fn named(name: &str, size: impl Into<Size>) -> Option<Self> {
        let size = size.into();
        Some(match name {
            "cifar_train" => Self::cifar_train().resized(size),
            "cifar_eval" => Self::cifar_eval().resized(size),
            "photo_train" => Self::photo_train(size),
            "photo_eval" => Self::photo_eval(size),
            "basic" => Self::basic(size),
            "randcls" => Self::randcls(size),
            "sim" => Self::sim(size),
            _ => return None,
        })
    }

    /// The same pipeline for another size: crops, their borders, resizes and cut-outs in proportion. One
    /// that takes images as large as they are resizes them first ([`resizing`](Self::resizing)). Unchanged
    /// if its size depends on the input, or is the same.
    pub fn resized(&self, size: impl Into<Size>) -> Self {
        let size = size.into();
        let old = match self.output_size() {
            Some(old) if old != size => old,
            _ => return self.clone(),
        };
        // Those of photographs have a rounding of their own, which is not to add up.
        let photo = |name: &&str| {
            !name.starts_with("cifar") && Self::named(name, old).as_ref() == Some(self)
        };
        if let Some(named) = Self::NAMES.into_iter().find(photo) {
            return Self::named(named, size).unwrap_or_default();
        }
        let scaled = |n: u32, new: u32, old: u32| {
            (f64::from(n) * f64::from(new) / f64::from(old)).round() as u32
        };
        let both = |n: Size| Size {
            width: scaled(n.width, size.width, old.width),
            height: scaled(n.height, size.height, old.height),
        };
        let short = |n: u32| scaled(n, size.short(), old.short());
        let mut pipeline = self.clone();
        for transform in &mut pipeline.transforms {
            match transform {
                Transform::RandomCrop { size, padding } => {
                    *size = both(*size);
                    *padding = short(*padding);
                }
                Transform::Cutout { size } => *size = short(*size),
                Transform::RandomResizedCrop { size, .. }
                | Transform::Cover { size, .. }
                | Transform::Squash { size, .. }
                | Transform::Pad { size, .. }
                | Transform::CenterCrop { size } => *size = both(*size),
                Transform::Resize {
                    short_side,
                    interpolation,
                } => *transform = covering(both((*short_side).into()), *interpolation),
                _ => {}
            }
        }
        pipeline.resizing()
    }

    /// The size of the images that it takes whole, where it cuts a box out of them and resizes nothing: of larger
    /// ones it would see a part, at another scale. `None` if it resizes, or if its size depends on the input.
    pub fn fixed_size(&self) -> Option<Size> {
        match self.fit() {
            Some(_) => None,
            None => self.output_size(),
        }
    }

    /// The same pipeline for images of any size: where it has a [`fixed_size`](Self::fixed_size), images are made
    /// to cover that first, which leaves those of that size as they are.
    pub fn resizing(&self) -> Self {
        let mut pipeline = self.clone();
        if let Some(size) = self.fixed_size() {
            let first = self.transforms.len() - self.of_pixels().len();
            let resize = covering(size, Interpolation::Bilinear);
            pipeline.transforms.insert(first, resize);
        }
        pipeline
    }

    /// How images of another shape than those that come out become these; `None` where nothing is resized.
    pub fn fit(&self) -> Option<Fit> {
        self.transforms
            .iter()
            .find_map(|transform| match transform {
                Transform::RandomResizedCrop { fit, .. } => Some(*fit),
                Transform::Resize { .. } | Transform::Cover { .. } => Some(Fit::Crop),
                Transform::Squash { .. } => Some(Fit::Squash),
                Transform::Pad { .. } => Some(Fit::Pad),
                _ => None,
            })
    }

    /// The same pipeline with images of other shapes brought to its size as `fit` says. Unchanged where nothing is
    /// resized, or that is so already. In place of a resize and the crop from its middle comes one that brings all of
    /// the image to the size of the crop, and the other way round as in [`photo_eval`](Self::photo_eval).
    pub fn fitted(&self, fit: Fit) -> Self {
        let mut pipeline = self.clone();
        if self.fit() == Some(fit) {
            return pipeline;
        }
        let all = &mut pipeline.transforms;
        let mut at = 0;
        while at < all.len() {
            let crop = match all.get(at + 1) {
                Some(Transform::CenterCrop { size }) => Some(*size),
                _ => None,
            };
            let (size, interpolation) = match &mut all[at] {
                Transform::RandomResizedCrop { fit: old, .. } => {
                    *old = fit;
                    break;
                }
                Transform::Resize {
                    short_side,
                    interpolation,
                } => ((*short_side).into(), *interpolation),
                Transform::Cover {
                    size,
                    interpolation,
                }
                | Transform::Squash {
                    size,
                    interpolation,
                }
                | Transform::Pad {
                    size,
                    interpolation,
                } => (*size, *interpolation),
                _ => {
                    at += 1;
                    continue;
                }
            };
            let size = crop.unwrap_or(size);
            let last = at + 1 == all.len();
            all.drain(at..=at + usize::from(crop.is_some()));
            let whole = |transform| vec![transform];
            let instead = match fit {
                Fit::Squash => whole(Transform::Squash {
                    size,
                    interpolation,
                }),
                Fit::Pad => whole(Transform::Pad {
                    size,
                    interpolation,
                }),
                Fit::Crop if last || crop.is_some() => {
                    vec![
                        covering(size.map(wider), interpolation),
                        Transform::CenterCrop { size },
                    ]
                }
                // What follows cuts the box out.
                Fit::Crop => whole(covering(size, interpolation)),
            };
            all.splice(at..at, instead);
            break;
        }
        pipeline
    }

    /// The reference's training transforms on CIFAR: RandomCrop(32, 4), flip, AutoAugment,
    /// Cutout(16), in that order.
    pub fn cifar_train() -> Self {
        Self {
            transforms: vec![
                Transform::RandomCrop {
                    size: 32.into(),
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
            transforms: vec![Transform::CenterCrop { size: 32.into() }],
        }
    }

    /// Training on photographs: RandomResizedCrop(size) and flip, with torchvision's defaults.
    pub fn photo_train(size: impl Into<Size>) -> Self {
        Self {
            transforms: vec![
                Transform::RandomResizedCrop {
                    size: size.into(),
                    scale: [0.08, 1.0],
                    ratio: [3.0 / 4.0, 4.0 / 3.0],
                    fit: Fit::Crop,
                },
                Transform::HorizontalFlip { p: 0.5 },
            ],
        }
    }

    /// `basic` of the published recipes (RIDE, SADE): RandomResizedCrop(size), flip, jitter by 0.4 of
    /// brightness, contrast and saturation.
    pub fn basic(size: impl Into<Size>) -> Self {
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
    pub fn randcls(size: impl Into<Size>) -> Self {
        let mut pipeline = Self::basic(size);
        pipeline.transforms.push(Transform::RandAugmentTimm {
            num_ops: 2,
            magnitude: 10.0,
            magnitude_std: 0.5,
            fill: [124, 116, 104],
        });
        pipeline
    }

    /// `sim` of the published recipes (PaCo, NCL; `augmentation_sim`): RandomResizedCrop(size), jitter by
    /// 0.4 of brightness, contrast and saturation, grey with probability 0.2, a blur of 0.1 to 2 pixels
    /// with probability 0.5, flip.
    pub fn sim(size: impl Into<Size>) -> Self {
        let mut pipeline = Self::photo_train(size);
        // The flip comes last.
        pipeline.transforms.splice(
            1..1,
            [
                Transform::ColorJitter {
                    brightness: 0.4,
                    contrast: 0.4,
                    saturation: 0.4,
                    hue: 0.0,
                    p: 1.0,
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
    pub fn photo_eval(size: impl Into<Size>) -> Self {
        let size = size.into();
        Self {
            transforms: vec![
                covering(size.map(wider), Interpolation::Bilinear),
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

    /// Size of the images that come out, or `None` if it depends on the input.
    pub fn output_size(&self) -> Option<Size> {
        self.transforms
            .iter()
            .fold(None, |known, transform| match *transform {
                Transform::RandomCrop { size, .. }
                | Transform::RandomResizedCrop { size, .. }
                | Transform::Squash { size, .. }
                | Transform::Pad { size, .. }
                | Transform::CenterCrop { size } => Some(size),
                // A square stays one.
                Transform::Resize { short_side, .. } => known
                    .filter(|known| known.width == known.height)
                    .map(|_| short_side.into()),
                Transform::Cover { .. } => None,
                _ => known,
            })
    }

    /// The transforms of pixels: those behind what is applied where files are decoded.
    pub(crate) fn of_pixels(&self) -> &[Transform] {
        let pixels = self.transforms.iter().position(|t| !t.is_of_decoding());
        &self.transforms[pixels.unwrap_or(self.transforms.len())..]
    }

    /// What becomes of pixels while files are decoded.
    pub fn decoding(&self) -> Decoding {
        let mut decoding = Decoding::default();
        for transform in &self.transforms {
            match *transform {
                Transform::ExifOrientation => decoding.upright = true,
                Transform::Range { low, high } => decoding.range = [low, high],
                Transform::Background { color } => decoding.background = Some(color),
                _ => break,
            }
        }
        decoding
    }

    /// The same pipeline with files decoded in this way.
    pub fn decoded(&self, decoding: &Decoding) -> Self {
        let mut transforms = Vec::new();
        if decoding.upright {
            transforms.push(Transform::ExifOrientation);
        }
        let [low, high] = decoding.range;
        if decoding.range != Decoding::default().range {
            transforms.push(Transform::Range { low, high });
        }
        transforms.extend(
            decoding
                .background
                .map(|color| Transform::Background { color }),
        );
        transforms.extend_from_slice(self.of_pixels());
        Self { transforms }
    }

    /// Checks the parameters of every transform.
    ///
    /// # Errors
    /// [`DataError::Field`] naming the transform and the parameter.
    pub fn validate(&self) -> Result<()> {
        for (i, transform) in self.transforms.iter().enumerate() {
            let before = &self.transforms[..i];
            let kind = std::mem::discriminant(transform);
            let late = before.iter().any(|t| !t.is_of_decoding())
                || before.iter().any(|t| std::mem::discriminant(t) == kind);
            if late && transform.is_of_decoding() {
                return Err(DataError::field(
                    format!("transforms[{i}] ({})", transform.name()),
                    "must come before all that is done with pixels, and once",
                ));
            }
            if let Some((parameter, problem)) = transform.problem() {
                return Err(DataError::field(
                    format!("transforms[{i}] ({}).{parameter}", transform.name()),
                    problem,
                ));
            }
        }
        Ok(())
    }
}

/// A resize that covers `size`: a square by its short side.
fn covering(size: Size, interpolation: Interpolation) -> Transform {
    match size.width == size.height {
        true => Transform::Resize {
            short_side: size.width,
            interpolation,
        },
        false => Transform::Cover {
            size,
            interpolation,
        },
    }
}

/// What a side is resized to before a crop from the middle.
fn wider(side: u32) -> u32 {
    (f64::from(side) * 256.0 / 224.0).round() as u32
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
            assert_eq!(pipeline.output_size(), want.map(Size::from));
            assert_eq!(
                pipeline.fit().is_some(),
                want == Some(224) || want == Some(96)
            );
            if let Some(side) = want {
                for (w, h) in [(32, 32), (500, 333), (40, 90)] {
                    let out = pipeline.apply(RgbImage::new(w, h), &mut random_source());
                    assert_eq!(out.unwrap().dimensions(), (side, side));
                }
            }
        }
        let resize = |short_side| Transform::Resize {
            short_side,
            interpolation: Interpolation::Bilinear,
        };
        assert_eq!(Pipeline::photo_eval(112).transforms[0], resize(128));
    }

    #[test]
    fn names_and_sizes() {
        for name in Pipeline::NAMES {
            let pipeline = Pipeline::named(name, 96).unwrap();
            let small = pipeline.resized(48);
            assert_eq!(small.output_size(), Some(48.into()), "{name}");
            assert_eq!(Some(small), Pipeline::named(name, 48));
        }
        assert_eq!(Pipeline::named("simm", 96), None);
        assert_eq!(Pipeline::cifar_train().resized(32), Pipeline::cifar_train());
        let larger = Pipeline::cifar_train().resized(64);
        let resize: Transform =
            serde_json::from_str(r#"{"kind": "resize", "short_side": 64}"#).unwrap();
        assert_eq!(larger.transforms[0], resize);
        let crop = &larger.transforms[1];
        assert_eq!(
            *crop,
            Transform::RandomCrop {
                size: 64.into(),
                padding: 8
            }
        );
        assert_eq!(Pipeline::default().resized(64), Pipeline::default());
    }

    #[test]
    fn images_of_any_size_come_to_one_scale() {
        let eval = Pipeline::cifar_eval();
        assert_eq!(eval.fixed_size(), Some(32.into()));
        assert_eq!(eval.resizing().fixed_size(), None);
        for whole in [Pipeline::photo_eval(32), Pipeline::default()] {
            assert_eq!((whole.fixed_size(), whole.resizing()), (None, whole));
        }
        let image = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 7, y as u8 * 7, 90]));
        let same = eval.resizing().apply(image.clone(), &mut random_source());
        assert_eq!(same.unwrap(), image);
        // Of a picture ten times as large, all of it and not its middle.
        let large = crate::augment::resize(&image, 320, 320, Interpolation::Bilinear);
        let seen = eval.resizing().apply(large, &mut random_source()).unwrap();
        let pairs = seen.as_raw().iter().zip(image.as_raw());
        assert!(pairs.into_iter().all(|(a, b)| a.abs_diff(*b) <= 8));
    }

    #[test]
    fn crop_and_flip_reach_every_place() {
        let image = RgbImage::from_fn(4, 4, |x, y| Rgb([x as u8 + 1, y as u8 + 1, 0]));
        let pipeline = Pipeline {
            transforms: vec![
                Transform::RandomCrop {
                    size: 4.into(),
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
            Pipeline {
                transforms: vec![Transform::Resize {
                    short_side: 9,
                    interpolation: Interpolation::Bicubic,
                }],
            },
        ] {
            let text = serde_json::to_string(&pipeline).unwrap();
            assert_eq!(serde_json::from_str::<Pipeline>(&text).unwrap(), pipeline);
            for transform in &pipeline.transforms {
                assert!(text.contains(transform.name()), "{text}");
            }
        }
    }
}

//! RandAugment as timm has it (`rand-m10-n2-mstd0.5` and the like), which is what the published
//! long-tail recipes for photographs name. It is not torchvision's
//! ([`rand_augment`](super::rand_augment)): other operations, other magnitudes, each applied with
//! probability 1/2, and moves that interpolate.

use image::RgbImage;

use super::color;
use super::geometry::{Affine, affine_bicubic, affine_bilinear, rotate_by};
use super::{Interpolation, replaced};
use crate::rng::Draw;

/// The highest magnitude.
const MAX: f64 = 10.0;

/// One operation of timm's `_RAND_TRANSFORMS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimmOp {
    /// Stretching of each channel to the whole range.
    AutoContrast,
    /// Equalised histogram of each channel.
    Equalize,
    /// Negative.
    Invert,
    /// Rotation by degrees, counter-clockwise.
    Rotate,
    /// Fewer bits; a higher magnitude keeps more.
    Posterize,
    /// Inversion of light values; a higher magnitude inverts fewer.
    Solarize,
    /// An addition to values below 128.
    SolarizeAdd,
    /// Saturation.
    Color,
    /// Contrast.
    Contrast,
    /// Brightness.
    Brightness,
    /// Sharpness.
    Sharpness,
    /// Horizontal shear about the corner (0, 0).
    ShearX,
    /// Vertical shear about the corner (0, 0).
    ShearY,
    /// Horizontal shift by a share of the width.
    TranslateXRel,
    /// Vertical shift by a share of the height.
    TranslateYRel,
}

impl TimmOp {
    /// All operations, in timm's order.
    pub const ALL: [Self; 15] = [
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Rotate,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Color,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateXRel,
        Self::TranslateYRel,
    ];

    /// The operation's argument at a magnitude from 0 to 10, before its sign: degrees, bits, a
    /// threshold, an addition, a factor, a shear or a share of the side. 0 for those without one.
    pub fn argument(self, magnitude: f64) -> f64 {
        let share = magnitude / MAX;
        match self {
            Self::AutoContrast | Self::Equalize | Self::Invert => 0.0,
            Self::Rotate => share * 30.0,
            Self::Posterize => (share * 4.0).trunc(),
            Self::Solarize => (share * 256.0).trunc().min(256.0),
            Self::SolarizeAdd => (share * 110.0).trunc().min(128.0),
            Self::Color | Self::Contrast | Self::Brightness | Self::Sharpness => share * 1.8 + 0.1,
            Self::ShearX | Self::ShearY => share * 0.3,
            Self::TranslateXRel | Self::TranslateYRel => share * 0.45,
        }
    }

    /// Whether the argument gets a random sign.
    pub fn is_signed(self) -> bool {
        matches!(
            self,
            Self::Rotate | Self::ShearX | Self::ShearY | Self::TranslateXRel | Self::TranslateYRel
        )
    }

    /// Applies the operation with a signed argument; `fill` is what moves leave behind. The size
    /// stays.
    pub fn apply(
        self,
        image: RgbImage,
        argument: f64,
        interpolation: Interpolation,
        fill: [u8; 3],
    ) -> RgbImage {
        let (width, height) = image.dimensions();
        let a = argument;
        let transform = |image: &RgbImage, matrix: &Affine| match interpolation {
            Interpolation::Bilinear => affine_bilinear(image, matrix, fill),
            Interpolation::Bicubic => affine_bicubic(image, matrix, fill),
        };
        let moved = |image, matrix| replaced(image, |image| transform(image, &matrix));
        match self {
            Self::AutoContrast => color::autocontrast(image),
            Self::Equalize => color::equalize(image),
            Self::Invert => color::invert(image),
            Self::Rotate => replaced(image, |image| rotate_by(image, a, transform)),
            Self::Posterize => color::posterize(image, a as u32),
            Self::Solarize => color::solarize(image, a),
            Self::SolarizeAdd => color::solarize_add(image, a as u8, 128),
            Self::Color => color::color(image, a),
            Self::Contrast => color::contrast(image, a),
            Self::Brightness => color::brightness(image, a),
            Self::Sharpness => color::sharpness(image, a),
            Self::ShearX => moved(image, [1.0, a, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => moved(image, [1.0, 0.0, 0.0, a, 1.0, 0.0]),
            Self::TranslateXRel => moved(image, [1.0, 0.0, a * f64::from(width), 0.0, 1.0, 0.0]),
            Self::TranslateYRel => moved(image, [1.0, 0.0, 0.0, 0.0, 1.0, a * f64::from(height)]),
        }
    }
}

/// Draws `num_ops` operations, each applied with probability 1/2 at a magnitude that is normal
/// around `magnitude` and cut to 0–10. timm's `rand-m10-n2-mstd0.5` is `(2, 10.0, 0.5)`.
pub fn rand_augment_timm(
    mut image: RgbImage,
    num_ops: u32,
    magnitude: f64,
    magnitude_std: f64,
    fill: [u8; 3],
    draw: &mut impl Draw,
) -> RgbImage {
    for _ in 0..num_ops {
        let op = TimmOp::ALL[draw.below(TimmOp::ALL.len() as u32) as usize];
        if !draw.coin(0.5) {
            continue;
        }
        let magnitude = (magnitude + magnitude_std * draw.normal()).clamp(0.0, MAX);
        let mut argument = op.argument(magnitude);
        let mut interpolation = Interpolation::Bilinear;
        if op.is_signed() {
            if draw.coin(0.5) {
                argument = -argument;
            }
            if draw.coin(0.5) {
                interpolation = Interpolation::Bicubic;
            }
        }
        image = op.apply(image, argument, interpolation, fill);
    }
    image
}

//! RandAugment (Cubuk et al. 2020, arXiv 1909.13719) as torchvision has it, for training on
//! photographs. The reference does not use it; many later long-tail recipes do.

use image::RgbImage;

use super::geometry::{affine_nearest, rotate};
use super::{color, replaced};
use crate::rng::Draw;

/// Levels that a magnitude can have: 0 to 30.
const BINS: u32 = 31;

/// One operation of RandAugment. Moves use the nearest neighbour and leave black behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RandAugmentOp {
    /// The image itself.
    Identity,
    /// Horizontal shear about the corner (0, 0).
    ShearX,
    /// Vertical shear about the corner (0, 0).
    ShearY,
    /// Horizontal shift by whole pixels.
    TranslateX,
    /// Vertical shift by whole pixels.
    TranslateY,
    /// Rotation by degrees, counter-clockwise.
    Rotate,
    /// Brightness.
    Brightness,
    /// Saturation.
    Color,
    /// Contrast.
    Contrast,
    /// Sharpness.
    Sharpness,
    /// Fewer bits.
    Posterize,
    /// Inversion of light values.
    Solarize,
    /// Stretching of each channel to the whole range.
    AutoContrast,
    /// Equalised histogram of each channel.
    Equalize,
}

impl RandAugmentOp {
    /// All operations, in torchvision's order.
    pub const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Color,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// The magnitude of `level` (0 to 30, higher counts as 30) for an image of this size.
    pub fn magnitude(self, level: u32, width: u32, height: u32) -> f64 {
        let level = level.min(BINS - 1);
        // torch.linspace works in f32, from the nearer end.
        let linspace = |start: f64, stop: f64| {
            let (start, stop) = (start as f32, stop as f32);
            let step = (stop - start) / (BINS - 1) as f32;
            f64::from(if level < BINS / 2 {
                step.mul_add(level as f32, start)
            } else {
                (-step).mul_add((BINS - 1 - level) as f32, stop)
            })
        };
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize => 0.0,
            Self::ShearX | Self::ShearY => linspace(0.0, 0.3),
            Self::TranslateX => linspace(0.0, 150.0 / 331.0 * f64::from(width)),
            Self::TranslateY => linspace(0.0, 150.0 / 331.0 * f64::from(height)),
            Self::Rotate => linspace(0.0, 30.0),
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => linspace(0.0, 0.9),
            Self::Posterize => {
                8.0 - (f64::from(level) / (f64::from(BINS - 1) / 4.0)).round_ties_even()
            }
            Self::Solarize => linspace(255.0, 0.0),
        }
    }

    /// Whether the magnitude gets a random sign.
    pub fn is_signed(self) -> bool {
        !matches!(
            self,
            Self::Identity | Self::Posterize | Self::Solarize | Self::AutoContrast | Self::Equalize
        )
    }

    /// Applies the operation with a signed magnitude. The size stays.
    pub fn apply(self, image: RgbImage, magnitude: f64) -> RgbImage {
        let m = magnitude;
        let moved = |image, matrix| replaced(image, |image| affine_nearest(image, &matrix, [0; 3]));
        match self {
            Self::Identity => image,
            // torchvision makes the shear an angle and takes its tangent again.
            Self::ShearX => moved(image, [1.0, through_angle(m), 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => moved(image, [1.0, 0.0, 0.0, through_angle(m), 1.0, 0.0]),
            Self::TranslateX => moved(image, [1.0, 0.0, -m.trunc(), 0.0, 1.0, 0.0]),
            Self::TranslateY => moved(image, [1.0, 0.0, 0.0, 0.0, 1.0, -m.trunc()]),
            Self::Rotate => replaced(image, |image| rotate(image, m, [0; 3])),
            Self::Brightness => color::brightness(image, 1.0 + m),
            Self::Color => color::color(image, 1.0 + m),
            Self::Contrast => color::contrast(image, 1.0 + m),
            Self::Sharpness => color::sharpness(image, 1.0 + m),
            Self::Posterize => color::posterize(image, m as u32),
            Self::Solarize => color::solarize(image, m),
            Self::AutoContrast => color::autocontrast(image),
            Self::Equalize => color::equalize(image),
        }
    }
}

fn through_angle(shear: f64) -> f64 {
    shear.atan().to_degrees().to_radians().tan()
}

/// Applies `num_ops` operations at level `magnitude` (0 to 30), each drawn anew. The size stays.
pub fn rand_augment(
    mut image: RgbImage,
    num_ops: u32,
    magnitude: u32,
    draw: &mut impl Draw,
) -> RgbImage {
    for _ in 0..num_ops {
        let ops = RandAugmentOp::ALL;
        let op = ops[draw.below(ops.len() as u32) as usize];
        let mut m = op.magnitude(magnitude, image.width(), image.height());
        if op.is_signed() && draw.below(2) == 1 {
            m = -m;
        }
        image = op.apply(image, m);
    }
    image
}

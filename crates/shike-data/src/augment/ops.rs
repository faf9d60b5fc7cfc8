//! The operations of AutoAugment, as the reference's `autoaugment.py` builds them from Pillow.

use image::RgbImage;

use super::geometry::{affine_bicubic, affine_nearest, rotate};
use super::{color, replaced};

/// The colour that AutoAugment's moves leave behind.
const FILL: [u8; 3] = [128; 3];

/// One operation of AutoAugment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Horizontal shear about the corner (0, 0), bicubic.
    ShearX,
    /// Vertical shear about the corner (0, 0), bicubic.
    ShearY,
    /// Horizontal shift by a share of the width, nearest neighbour.
    TranslateX,
    /// Vertical shift by a share of the height, nearest neighbour.
    TranslateY,
    /// Rotation by degrees, counter-clockwise, nearest neighbour.
    Rotate,
    /// Saturation.
    Color,
    /// Fewer bits.
    Posterize,
    /// Inversion of light values.
    Solarize,
    /// Contrast.
    Contrast,
    /// Sharpness.
    Sharpness,
    /// Brightness.
    Brightness,
    /// Stretching of each channel to the whole range.
    AutoContrast,
    /// Equalised histogram of each channel.
    Equalize,
    /// Negative.
    Invert,
}

impl Op {
    /// All operations, in the order of the reference's tables.
    pub const ALL: [Self; 14] = [
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Color,
        Self::Posterize,
        Self::Solarize,
        Self::Contrast,
        Self::Sharpness,
        Self::Brightness,
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
    ];

    /// The name in the reference's code.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShearX => "shearX",
            Self::ShearY => "shearY",
            Self::TranslateX => "translateX",
            Self::TranslateY => "translateY",
            Self::Rotate => "rotate",
            Self::Color => "color",
            Self::Posterize => "posterize",
            Self::Solarize => "solarize",
            Self::Contrast => "contrast",
            Self::Sharpness => "sharpness",
            Self::Brightness => "brightness",
            Self::AutoContrast => "autocontrast",
            Self::Equalize => "equalize",
            Self::Invert => "invert",
        }
    }

    /// The magnitude of a level from 0 to 9 (higher levels count as 9), from the reference's
    /// `np.linspace` tables.
    pub fn magnitude(self, level: u8) -> f64 {
        let linspace = |start: f64, stop: f64| match level {
            9.. => stop,
            _ => f64::from(level) * ((stop - start) / 9.0) + start,
        };
        match self {
            Self::ShearX | Self::ShearY => linspace(0.0, 0.3),
            Self::TranslateX | Self::TranslateY => linspace(0.0, 150.0 / 331.0),
            Self::Rotate => linspace(0.0, 30.0),
            Self::Color | Self::Contrast | Self::Sharpness | Self::Brightness => linspace(0.0, 0.9),
            Self::Posterize => linspace(8.0, 4.0).round_ties_even(),
            Self::Solarize => linspace(256.0, 0.0),
            Self::AutoContrast | Self::Equalize | Self::Invert => 0.0,
        }
    }

    /// Whether the reference gives the magnitude a random sign. Rotation, posterisation and
    /// solarisation always go one way there.
    pub fn is_signed(self) -> bool {
        matches!(
            self,
            Self::ShearX
                | Self::ShearY
                | Self::TranslateX
                | Self::TranslateY
                | Self::Color
                | Self::Contrast
                | Self::Sharpness
                | Self::Brightness
        )
    }

    /// Applies the operation with a signed magnitude. The size stays.
    pub fn apply(self, image: RgbImage, magnitude: f64) -> RgbImage {
        let (width, height) = image.dimensions();
        let m = magnitude;
        match self {
            Self::ShearX => replaced(image, |image| {
                affine_bicubic(image, &[1.0, m, 0.0, 0.0, 1.0, 0.0], FILL)
            }),
            Self::ShearY => replaced(image, |image| {
                affine_bicubic(image, &[1.0, 0.0, 0.0, m, 1.0, 0.0], FILL)
            }),
            Self::TranslateX => {
                let shift = m * f64::from(width);
                replaced(image, |image| {
                    affine_nearest(image, &[1.0, 0.0, shift, 0.0, 1.0, 0.0], FILL)
                })
            }
            Self::TranslateY => {
                let shift = m * f64::from(height);
                replaced(image, |image| {
                    affine_nearest(image, &[1.0, 0.0, 0.0, 0.0, 1.0, shift], FILL)
                })
            }
            // The reference rotates an RGBA copy and lays it over grey; alpha is 0 or 255, so
            // that is a fill.
            Self::Rotate => replaced(image, |image| rotate(image, m, FILL)),
            Self::Color => color::color(image, 1.0 + m),
            Self::Posterize => color::posterize(image, m as u32),
            Self::Solarize => color::solarize(image, m),
            Self::Contrast => color::contrast(image, 1.0 + m),
            Self::Sharpness => color::sharpness(image, 1.0 + m),
            Self::Brightness => color::brightness(image, 1.0 + m),
            Self::AutoContrast => color::autocontrast(image),
            Self::Equalize => color::equalize(image),
            Self::Invert => color::invert(image),
        }
    }
}

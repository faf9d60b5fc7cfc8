//! The CIFAR-10 policy of AutoAugment (Cubuk et al. 2019, arXiv 1805.09501), as the reference's
//! `CIFAR10Policy` has it.

use image::RgbImage;

use super::ops::Op;
use crate::rng::Draw;

/// Two operations, each with the probability that it is applied and its level (0 to 9).
pub type SubPolicy = [(f64, Op, u8); 2];

/// The 25 sub-policies found on CIFAR-10; also used for CIFAR-100.
#[rustfmt::skip]
pub const CIFAR10_POLICY: [SubPolicy; 25] = [
    [(0.1, Op::Invert, 7), (0.2, Op::Contrast, 6)],
    [(0.7, Op::Rotate, 2), (0.3, Op::TranslateX, 9)],
    [(0.8, Op::Sharpness, 1), (0.9, Op::Sharpness, 3)],
    [(0.5, Op::ShearY, 8), (0.7, Op::TranslateY, 9)],
    [(0.5, Op::AutoContrast, 8), (0.9, Op::Equalize, 2)],
    [(0.2, Op::ShearY, 7), (0.3, Op::Posterize, 7)],
    [(0.4, Op::Color, 3), (0.6, Op::Brightness, 7)],
    [(0.3, Op::Sharpness, 9), (0.7, Op::Brightness, 9)],
    [(0.6, Op::Equalize, 5), (0.5, Op::Equalize, 1)],
    [(0.6, Op::Contrast, 7), (0.6, Op::Sharpness, 5)],
    [(0.7, Op::Color, 7), (0.5, Op::TranslateX, 8)],
    [(0.3, Op::Equalize, 7), (0.4, Op::AutoContrast, 8)],
    [(0.4, Op::TranslateY, 3), (0.2, Op::Sharpness, 6)],
    [(0.9, Op::Brightness, 6), (0.2, Op::Color, 8)],
    [(0.5, Op::Solarize, 2), (0.0, Op::Invert, 3)],
    [(0.2, Op::Equalize, 0), (0.6, Op::AutoContrast, 0)],
    [(0.2, Op::Equalize, 8), (0.6, Op::Equalize, 4)],
    [(0.9, Op::Color, 9), (0.6, Op::Equalize, 6)],
    [(0.8, Op::AutoContrast, 4), (0.2, Op::Solarize, 8)],
    [(0.1, Op::Brightness, 3), (0.7, Op::Color, 0)],
    [(0.4, Op::Solarize, 5), (0.9, Op::AutoContrast, 3)],
    [(0.9, Op::TranslateY, 9), (0.7, Op::TranslateY, 9)],
    [(0.9, Op::AutoContrast, 2), (0.8, Op::Solarize, 3)],
    [(0.8, Op::Equalize, 8), (0.1, Op::Invert, 3)],
    [(0.7, Op::TranslateY, 9), (0.9, Op::AutoContrast, 1)],
];

/// Applies one sub-policy of [`CIFAR10_POLICY`], each equally likely. The size stays.
///
/// The draws come in the reference's order: the sub-policy, then for each operation whether it is
/// applied and, where it has one, its sign.
pub fn auto_augment_cifar10(mut image: RgbImage, draw: &mut impl Draw) -> RgbImage {
    let policy = &CIFAR10_POLICY[draw.below(CIFAR10_POLICY.len() as u32) as usize];
    for &(probability, op, level) in policy {
        if draw.coin(probability) {
            let mut magnitude = op.magnitude(level);
            if op.is_signed() && draw.below(2) == 0 {
                magnitude = -magnitude;
            }
            image = op.apply(image, magnitude);
        }
    }
    image
}

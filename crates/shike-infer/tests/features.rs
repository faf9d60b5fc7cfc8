//! Pictures as vectors of a frozen trunk.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;
use shike_data::{
    Dataset, Decoding, Fit, LoaderConfig, Normalization, Pipeline, Size, Threads, Transform,
    image_folder,
};
use shike_infer::model::preprocessing::preprocessing;
use shike_infer::{EmbedEvent, Embedder, Features, InferError};
use shike_model::BackboneConfig;

/// A picture of 40x32 that differs from all of other numbers.
fn picture(number: u32) -> RgbImage {
    RgbImage::from_fn(40, 32, |x, y| {
        let value = |k: u32| ((x * (3 + number) + y * (7 + k) + number * 40) % 256) as u8;
        image::Rgb([value(0), value(5), value(11)])
    })
}

/// Pictures `0..count` in two class folders.
fn folder(dir: &Path, count: u32) -> Dataset {
    for number in 0..count {
        let class = dir.join(["cat", "dog"][number as usize % 2]);
        std::fs::create_dir_all(&class).unwrap();
        let path = class.join(format!("{number:02}.png"));
        picture(number).save(path).unwrap();
    }
    image_folder(dir).unwrap()
}

fn embedder(name: &str, size: impl Into<Size>, seed: u64) -> Embedder {
    let device = Device::flex();
    device.seed(seed);
    let backbone = BackboneConfig::named(name).unwrap();
    let trunk = backbone.init(&device).unwrap();
    let (pipeline, normalization) = preprocessing(&backbone);
    Embedder::new(&trunk, &pipeline.resized(size), normalization, &device).unwrap()
}

fn config(batch_size: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size,
        ..LoaderConfig::default()
    }
}

fn embed(embedder: &Embedder, data: &Dataset, batch_size: usize, workers: usize) -> Features {
    let threads = Threads::new(workers).unwrap();
    let config = config(batch_size);
    let made = embedder.embed(data, &threads, config, None, &mut |_| {}, &|| false);
    made.unwrap()
}

#[test]
fn rows_are_the_vectors_of_all_depths_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let data = folder(dir.path(), 5);
    let embedder = embedder("resnet8", 32, 1);
    let features = embed(&embedder, &data, 2, 1);
    let depths = [("layer1", 16), ("layer2", 32), ("layer3", 64)];
    let depths = depths.map(|(name, width)| (name.to_owned(), width));
    assert_eq!(features.source.depths, depths);
    assert_eq!(features.rows.len(), 5 * 112);
    assert_eq!(features.class_names, ["cat", "dog"]);
    assert_eq!(features.labels, [0, 0, 0, 1, 1]);
    assert_eq!(features.names[3], "dog/01.png");
    assert_eq!(features.source.weights.len(), 32);
    // Number 1 is the fourth.
    let seen = image::imageops::crop_imm(&picture(1), 4, 0, 32, 32).to_image();
    assert_eq!(
        embedder.embed_batch(seen.as_raw(), [32, 32]),
        features.row(3)
    );
}

#[test]
fn neither_batches_nor_threads_change_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let data = folder(dir.path(), 5);
    for (name, size) in [("resnet8", 32), ("efficientnet_lite0", 32), ("vit_s16", 32)] {
        let embedder = embedder(name, size, 1);
        let one = embed(&embedder, &data, 1, 1);
        for (batch_size, workers) in [(2, 1), (3, 4), (5, 2)] {
            let other = embed(&embedder, &data, batch_size, workers);
            assert_eq!(one, other, "{name}, {batch_size}");
        }
    }
}

/// Rectangles go through every family, and pictures that are fitted in another way are other features.
#[test]
fn shapes_and_fits_are_part_of_what_features_are() {
    let dir = tempfile::tempdir().unwrap();
    let data = folder(dir.path(), 2);
    let size: Size = "64x32".parse().unwrap();
    for name in ["resnet8", "resnet18", "efficientnet_lite0", "vit_s16"] {
        let features = embed(&embedder(name, size, 1), &data, 2, 1);
        assert_eq!(features.source.pipeline.output_size(), Some(size), "{name}");
        assert!(
            features.rows.iter().all(|value| value.is_finite()),
            "{name}"
        );
    }
    let device = Device::flex();
    device.seed(1);
    let trunk = BackboneConfig::named("resnet8")
        .unwrap()
        .init(&device)
        .unwrap();
    let decoding = Decoding {
        range: [0, 4095],
        ..Decoding::default()
    };
    let usual = Pipeline::photo_eval(32);
    let pipelines = [
        usual.clone(),
        usual.fitted(Fit::Pad),
        usual.fitted(Fit::Squash),
        usual.decoded(&decoding),
    ];
    let sources = pipelines.map(|pipeline| {
        let made = Embedder::new(&trunk, &pipeline, Normalization::IMAGENET, &device);
        serde_json::to_string(made.unwrap().source()).unwrap()
    });
    // The cache goes by this text.
    let different: std::collections::HashSet<_> = sources.iter().collect();
    assert_eq!(different.len(), 4);
}

#[test]
fn equal_pictures_are_embedded_once() {
    let pixels = |numbers: &[u32]| {
        let pictures = numbers.iter().map(|&n| picture(n).into_raw());
        let labels = vec![0; numbers.len()];
        Dataset::from_pixels(pictures.flatten().collect(), 32, 40, labels, 1).unwrap()
    };
    let embedder = embedder("resnet8", 32, 1);
    let threads = Threads::new(1).unwrap();
    let mut last = None;
    let mut tell = |event| last = Some(event);
    let data = pixels(&[4, 1, 4, 4, 2]);
    let features = embedder
        .embed(&data, &threads, config(2), None, &mut tell, &|| false)
        .unwrap();
    let (done, embedded, total) = (5, 3, 5);
    let end = EmbedEvent::Progress {
        done,
        embedded,
        total,
    };
    assert_eq!(last, Some(end));
    assert_eq!(features.row(0), features.row(3));
    assert_ne!(features.row(0), features.row(1));
    assert_eq!(
        features.rows[112..],
        embed(&embedder, &pixels(&[1, 4, 4, 2]), 4, 1).rows
    );
    assert_eq!(features.names[1], "memory record 1");
}

#[test]
fn what_cannot_be_embedded_is_named() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 3);
    let bad = dir.path().join("dog").join("bad.png");
    std::fs::write(&bad, "no picture").unwrap();
    let data = image_folder(dir.path()).unwrap();
    let embedder = embedder("resnet8", 32, 1);
    let run = |stop: bool| {
        let threads = Threads::new(1).unwrap();
        embedder
            .embed(&data, &threads, config(1), None, &mut |_| {}, &|| stop)
            .unwrap_err()
    };
    let message = run(false).to_string();
    assert!(
        message.starts_with(bad.display().to_string().as_str()),
        "{message}"
    );
    assert!(matches!(
        run(true),
        InferError::Stopped { done: 0, total: 4 }
    ));
}

#[test]
fn a_trunk_that_gives_no_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let data = folder(dir.path(), 2);
    let device = Device::flex();
    let trunk = BackboneConfig::named("resnet8").unwrap();
    let trunk = trunk.init(&device).unwrap();
    let mut state = shike_model::weights::trunk_state_dict(&trunk);
    let last = state.pop().unwrap();
    let broken = vec![f32::NAN; last.1.num_elements()];
    state.push((
        last.0,
        burn::tensor::TensorData::new(broken, last.1.shape().clone()),
    ));
    let state = state.into_iter().collect();
    let trunk = shike_model::weights::load_trunk(trunk, state, Path::new("memory")).unwrap();
    let normalization = Normalization::CIFAR10;
    let embedder = Embedder::new(&trunk, &Pipeline::cifar_eval(), normalization, &device).unwrap();
    let threads = Threads::new(1).unwrap();
    let error = embedder.embed(&data, &threads, config(4), None, &mut |_| {}, &|| false);
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("00.png: its features at layer3 are NaN"),
        "{message}"
    );
}

#[test]
fn preprocessing_that_draws_or_leaves_sizes_open_is_refused() {
    let device = Device::flex();
    let trunk = BackboneConfig::named("resnet8").unwrap();
    let trunk = trunk.init(&device).unwrap();
    let resize = serde_json::from_str(r#"{"kind": "resize", "short_side": 32}"#).unwrap();
    let open = Pipeline {
        transforms: vec![resize],
    };
    let wrong = Pipeline {
        transforms: vec![Transform::CenterCrop { size: 0.into() }],
    };
    for (pipeline, says) in [
        (Pipeline::cifar_train(), "random_crop is for training"),
        (open, "pictures of several sizes"),
        (wrong, "is 0"),
    ] {
        let made = Embedder::new(&trunk, &pipeline, Normalization::CIFAR10, &device);
        let message = made.unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let trunk = BackboneConfig::named("vit_s16").unwrap();
    let trunk = trunk.init(&device).unwrap();
    let small = Pipeline::cifar_eval().resized(15);
    let made = Embedder::new(&trunk, &small, Normalization::CIFAR10, &device);
    let message = made.unwrap_err().to_string();
    assert_eq!(
        message,
        "pipeline: pictures of 15 pixels are smaller than a patch"
    );
    let size: Size = "64x40".parse().unwrap();
    let rest = Pipeline::photo_eval(size);
    let made = Embedder::new(&trunk, &rest, Normalization::CIFAR10, &device);
    let message = made.unwrap_err().to_string();
    assert!(
        message.contains("64x40 pixels are no multiples of 16") && message.ends_with("take 64x32"),
        "{message}"
    );
}

//! Model files that are damaged, or describe something else than they hold.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use image::RgbImage;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use shike_data::{Dataset, Loader, LoaderConfig, Normalization, Pipeline};
use shike_infer::Network;
use shike_infer::metrics::{Evaluator, ShotThresholds};
use shike_infer::model::file::{FORMAT_VERSION, ModelInfo, load_model, save_model};
use shike_infer::{InferError, Predictor, Scorer, Upload};
use shike_model::network::Block;
use shike_model::network::resnet::{LayerConfig, ResnetConfig, StemConfig, StemKind};
use shike_model::weights::file::{self, Entry};
use shike_model::{Head, Shike, ShikeConfig};
use tempfile::TempDir;

fn config() -> ShikeConfig {
    let stages = vec![LayerConfig::new(2, 1, 1), LayerConfig::new(4, 1, 2)];
    let backbone = ResnetConfig::new(StemConfig::new(2, StemKind::Cifar), stages);
    ShikeConfig::on(backbone, 3).with_experts(2)
}

fn info() -> ModelInfo {
    let value = json!({
        "format_version": FORMAT_VERSION,
        "model": config(),
        "head": "stage2",
        "class_names": ["a", "b", "c"],
        "train_counts": [50, 20, 5],
        "pipeline": Pipeline::photo_eval(16),
        "normalization": Normalization::CIFAR10,
        "prior": [50.0, 20.0, 5.0],
        "steps": 7,
    });
    serde_json::from_value(value).unwrap()
}

fn saved(change: impl FnOnce(Shike) -> Shike) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let device = Device::flex();
    device.seed(1);
    let model = change(config().init(&device).unwrap());
    let network = Network::Experts(model, info().head);
    save_model(&path, &network, &info()).unwrap();
    (folder, path)
}

/// Writes the tensors of a file again, under a description that `change` has changed.
fn described_anew(bytes: &[u8], path: &Path, sealed: bool, change: impl FnOnce(&mut Value)) {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let text = &header.metadata().as_ref().unwrap()["shike"];
    let mut description = serde_json::from_str(text).unwrap();
    change(&mut description);
    let views = tensors.tensors();
    let entries = views.iter().map(|(name, view)| Entry {
        name,
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data(),
    });
    let metadata = [
        ("format", "pt".to_owned()),
        ("shike", description.to_string()),
    ];
    let metadata = metadata.map(|(key, text)| (key.to_owned(), text));
    let mut out = Vec::new();
    file::write(
        &mut out,
        entries.collect(),
        &BTreeMap::from(metadata),
        sealed,
    )
    .unwrap();
    fs::write(path, out).unwrap();
}

/// What the model says of an image, if it can be used.
fn answer(path: &Path) -> Result<Vec<f32>, InferError> {
    let predictor = Predictor::load(path, &Device::flex())?;
    let image = RgbImage::from_fn(20, 18, |x, y| image::Rgb([x as u8, y as u8, 7]));
    Ok(predictor.predict_pixels(image)?.probabilities)
}

fn refused(path: &Path) -> String {
    let error = load_model(path, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    error
}

#[test]
fn every_flipped_bit_and_every_cut_is_an_error() {
    let (_folder, path) = saved(|model| model);
    let mut bytes = fs::read(&path).unwrap();
    answer(&path).unwrap();
    // One bit of each byte, at places that go round.
    for at in 0..bytes.len() {
        let bit = 1 << (at * 5 % 8);
        bytes[at] ^= bit;
        fs::write(&path, &bytes).unwrap();
        refused(&path);
        bytes[at] ^= bit;
    }
    for len in (0..bytes.len()).step_by(61) {
        fs::write(&path, &bytes[..len]).unwrap();
        refused(&path);
    }
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    refused(&path);
}

#[test]
fn a_file_without_a_checksum_is_refused_with_what_to_do() {
    let (_folder, path) = saved(|model| model);
    let bytes = fs::read(&path).unwrap();
    let before = answer(&path).unwrap();
    described_anew(&bytes, &path, false, |_| ());
    let error = refused(&path);
    assert!(
        error.contains("has no checksum") && error.contains("`weights`"),
        "{error}"
    );
    described_anew(&bytes, &path, false, |info| {
        info["format_version"] = json!(1)
    });
    let error = refused(&path);
    assert!(
        error.contains("model format 1 has no checksum") && error.contains("train it again"),
        "{error}"
    );
    described_anew(&bytes, &path, true, |info| {
        info["format_version"] = json!(3)
    });
    assert!(refused(&path).contains("use a newer release"));
    described_anew(&bytes, &path, true, |_| ());
    assert_eq!(answer(&path).unwrap(), before);
}

#[test]
fn a_description_is_checked_before_anything_is_built() {
    let (_folder, path) = saved(|model| model);
    let bytes = fs::read(&path).unwrap();
    for (field, value, says) in [
        (
            "/pipeline/transforms/1/size",
            json!(0),
            "pipeline: transforms[1]",
        ),
        ("/pipeline/transforms/1/size", json!(30_000), ".size"),
        ("/pipeline/transforms/1/size", json!(1_000_000_000), ".size"),
        ("/pipeline/transforms/0/short_side", json!(0), "short_side"),
        ("/model/experts", json!(1_000_000_000), "1 to 100"),
        ("/model/experts", json!(100), "numbers, and the file holds"),
        ("/model/num_classes", json!(1u64 << 53), "2 to 1000000"),
        (
            "/model/backbone/layers/1/channels",
            json!(65_536),
            "is not possible",
        ),
        (
            "/model/backbone/layers/1/channels",
            json!(8),
            "numbers, and the file holds",
        ),
        (
            "/model/backbone/layers/0/blocks",
            json!(1u64 << 53),
            "1 to 1000",
        ),
        ("/model/backbone/layers/0/stride", json!(1000), "1 to 16"),
        ("/normalization/std/0", json!(0.0), "normalization.std"),
        ("/normalization/mean/1", json!(1e300), "number out of range"),
        ("/class_names", json!(["a", "b"]), "2 class names"),
        ("/train_counts", json!([1, 2, 3, 4]), "4 training counts"),
        ("/train_counts/0", json!(u64::MAX), "more training images"),
    ] {
        described_anew(&bytes, &path, true, |info| {
            *info.pointer_mut(field).unwrap() = value
        });
        let error = refused(&path);
        assert!(error.contains(says), "{field}: {error}");
    }
}

/// Whatever number of a description is another one: an error, or an answer that is one.
#[test]
fn no_number_in_a_description_breaks_the_program() {
    fn numbers(value: &Value, at: String, into: &mut Vec<String>) {
        match value {
            Value::Number(_) => into.push(at),
            Value::Array(all) => {
                let all = all.iter().enumerate();
                all.for_each(|(i, value)| numbers(value, format!("{at}/{i}"), into));
            }
            Value::Object(all) => {
                all.iter()
                    .for_each(|(key, value)| numbers(value, format!("{at}/{key}"), into));
            }
            _ => {}
        }
    }
    let (_folder, path) = saved(|model| model);
    let bytes = fs::read(&path).unwrap();
    let mut fields = vec![];
    numbers(&json!(info()), String::new(), &mut fields);
    assert!(fields.len() > 20);
    let (mut answers, mut errors) = (0, 0);
    for field in fields {
        let mut last = String::new();
        for value in [
            json!(-1),
            json!(0),
            json!(1),
            json!(2),
            json!(3),
            json!(16_384),
            json!(4_294_967_295u64),
            json!(1u64 << 53),
            json!(u64::MAX),
            json!(1e-300),
            json!(1e300),
        ] {
            described_anew(&bytes, &path, true, |info| {
                *info.pointer_mut(&field).unwrap() = value.clone();
            });
            match answer(&path) {
                Ok(answer) => {
                    answers += 1;
                    let sum: f32 = answer.iter().sum();
                    assert!((sum - 1.0).abs() < 1e-4, "{field} = {value}: {answer:?}");
                }
                Err(error) => {
                    errors += 1;
                    last = error.to_string();
                }
            }
        }
        assert!(!last.contains("panicked"), "{field}: {last}");
    }
    println!("{answers} answers, {errors} errors");
    assert!(errors > answers);
}

#[test]
fn logits_that_are_no_numbers_are_an_error_that_names_the_model() {
    for wrong in [f32::NAN, f32::INFINITY] {
        let (_folder, path) = saved(|mut model| {
            let weight = &mut model.experts[1].head2.as_mut().unwrap();
            **weight = weight.clone().map(&mut Spoil(wrong));
            model
        });
        let error = answer(&path).unwrap_err();
        assert!(matches!(error, InferError::NotANumber { .. }), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        let data = Dataset::from_pixels(vec![9; 3 * 768], 16, 16, vec![0, 1, 2], 3).unwrap();
        let predictor = Predictor::load(&path, &Device::flex()).unwrap();
        assert_eq!(predictor.info().head, Head::Stage2);
        let pipeline = predictor.info().pipeline.clone();
        let loader = Loader::new(data, pipeline, LoaderConfig::default(), 0).unwrap();
        let error = predictor
            .evaluate(&loader, ShotThresholds::default())
            .unwrap_err();
        assert!(matches!(error, InferError::NotANumber { .. }), "{error}");
    }
}

#[test]
fn a_network_in_training_is_scored_as_it_answers() {
    let device = Device::flex().autodiff();
    device.seed(1);
    let model = config().init(&device).unwrap();
    // As far as this network's batches go, its running statistics are not theirs.
    let pixels: Vec<u8> = (0..3 * 768u32).map(|i| (i * 7 % 251) as u8).collect();
    let data = Dataset::from_pixels(pixels, 16, 16, vec![0, 1, 2], 3).unwrap();
    let loader = Loader::new(data, Pipeline::photo_eval(16), LoaderConfig::default(), 0).unwrap();
    let score = |model: &Shike| {
        let upload = Upload::default();
        let scorer = Scorer::new(
            &Network::Experts(model.clone(), Head::Stage2),
            Normalization::CIFAR10,
            upload,
            &device,
        );
        let evaluator = Evaluator::new(&[50, 20, 5], ShotThresholds::default(), 2).unwrap();
        scorer.score(&loader, evaluator).unwrap()
    };
    let mean = |model: &Shike| match &model.stem.blocks[0] {
        Block::Stem(stem) => stem.bn.running_mean.value().into_data(),
        other => panic!("{other:?}"),
    };
    let before = mean(&model);
    assert_eq!(score(&model), score(&model.valid()));
    assert_eq!(mean(&model), before);
}

/// Replaces every weight.
struct Spoil(f32);

impl burn::module::ModuleMapper for Spoil {
    fn map_float<const D: usize>(
        &mut self,
        param: burn::module::Param<burn::tensor::Tensor<D>>,
    ) -> burn::module::Param<burn::tensor::Tensor<D>> {
        param.map(|tensor| tensor.mul_scalar(0.0).add_scalar(self.0))
    }
}

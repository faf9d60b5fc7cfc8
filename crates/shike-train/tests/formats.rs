//! One stored example of each file that a run reads again. `formats/` was written by the first version that has
//! these formats, and is never written anew: what it holds has to be read by every later one.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use image::RgbImage;
use safetensors::SafeTensors;
use shike_data::split::SplitRecord;
use shike_data::{Pipeline, Sampling};
use shike_infer::load_model;
use shike_model::network::ConvInit;
use shike_model::network::resnet::{BlockKind, LayerConfig, ResnetConfig, StemConfig, StemKind};
use shike_model::{ClassifierConfig, DktLossConfig, Head, LossConfig, Part, ShikeConfig, weights};
use shike_train::run::RunPaths;
use shike_train::run::receipt::ChosenOn;
use shike_train::{DataSource, Learner, Progress, Recipe, RunConfig, RunDir, Session, TrainConfig};

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/formats")
        .join(name)
}

/// The network of the examples: spelt out, with both kinds of blocks.
fn network() -> ShikeConfig {
    let stages = vec![
        LayerConfig::new(2, 1, 1),
        LayerConfig::new(4, 1, 2).with_block(BlockKind::Bottleneck {
            width: 2,
            groups: 2,
        }),
    ];
    let backbone = ResnetConfig::new(StemConfig::new(2, StemKind::ImageNet), stages)
        .with_conv_init(ConvInit::FanOut);
    ShikeConfig::on(backbone, 2)
        .with_experts(2)
        .with_classifier(ClassifierConfig::Cosine { scale: 16.0 })
}

fn settings() -> TrainConfig {
    let mut config = TrainConfig::imagenet(network(), [1, 1]);
    config.train_pipeline = Pipeline::photo_train(16);
    config.eval_pipeline = Pipeline::photo_eval(16);
    config.loader.batch_size = 4;
    config.stage1.loss = LossConfig::Dkt(DktLossConfig::paper());
    config.stage1.sampling = Sampling::SquareRoot;
    config.lr_factors.insert(Part::Layer(1), 0.5);
    config.freeze = vec![Part::Stem];
    config.ema_decay = Some(0.9);
    config
}

fn source() -> DataSource {
    DataSource::Folder {
        dir: "pictures".into(),
    }
}

/// The pictures that the run of the examples saw, but for their pixels.
fn pictures(dir: &Path) {
    for (part, counts) in [("train", [6, 3]), ("val", [2, 2]), ("test", [2, 2])] {
        for (class, count) in ["cat", "dog"].into_iter().zip(counts) {
            let folder = dir.join("pictures").join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                let image = RgbImage::from_fn(24, 20, |x, y| {
                    image::Rgb([(11 * x + i) as u8, (12 * y) as u8, 40 * class.len() as u8])
                });
                image.save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
}

/// A folder with the run of the examples as it was after its first step.
fn begun_run(dir: &Path) -> PathBuf {
    let run = dir.join("run");
    let checkpoint = "checkpoints/step-00000001.safetensors";
    fs::create_dir_all(run.join("checkpoints")).unwrap();
    for name in ["config.json", "classes.json", "receipt.json", checkpoint] {
        fs::copy(stored(name), run.join(name)).unwrap();
    }
    run
}

#[test]
fn a_model_file_is_read() {
    let path = stored("model.safetensors");
    let (loaded, info) = load_model(&path, &Device::flex()).unwrap();
    let model = loaded.into_experts().unwrap();
    assert_eq!(info.model, network());
    assert_eq!((info.head, info.steps, info.tau), (Head::Stage2, 6, None));
    assert_eq!(info.class_names, ["cat", "dog"]);
    assert_eq!(info.train_counts, [6, 3]);
    assert_eq!(info.pipeline, Pipeline::photo_eval(16));
    assert_eq!(info.prior, [0.5, 0.5]);

    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let state = weights::state_dict(&model);
    let counts = file
        .names()
        .iter()
        .filter(|name| name.ends_with("num_batches_tracked"))
        .count();
    assert_eq!(file.len(), state.len() + counts);
    for (name, data) in state {
        assert_eq!(
            file.tensor(&name).unwrap().data(),
            data.as_bytes(),
            "{name}"
        );
    }
}

#[test]
fn a_begun_run_goes_on_to_the_same_end() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let mut run = RunDir::open(begun_run(dir.path())).unwrap();
    let config = RunConfig::read(run.paths()).unwrap();
    assert_eq!(config.train, settings());
    assert_eq!(config.data, Some(source()));
    let receipt = run.paths().read_receipt().unwrap();
    assert_eq!(
        (receipt.train.images, receipt.version.as_str()),
        (9, "0.1.0")
    );
    assert_eq!(receipt.best_chosen_on, Some(ChosenOn::Validation));

    let data = source()
        .moved_to(&dir.path().join("pictures"))
        .open()
        .unwrap();
    let learner = Learner::new(config.train, data, Device::flex()).unwrap();
    learner
        .run(&mut Session::new(
            &mut run,
            &mut Progress::silent(),
            &AtomicBool::new(false),
        ))
        .unwrap();
    let end = |path: PathBuf| {
        let (network, _) = load_model(&path, &Device::flex()).unwrap();
        network.tensors()
    };
    // Other processors add in another order.
    for ((name, found), (_, expected)) in end(run.paths().model())
        .into_iter()
        .zip(end(stored("model.safetensors")))
    {
        for (found, expected) in found.iter::<f32>().zip(expected.iter::<f32>()) {
            assert!(
                (found - expected).abs() < 1e-3,
                "{name}: {found} and not {expected}"
            );
        }
    }
    let header = |path: PathBuf| {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        header(run.paths().metrics_csv()),
        header(stored("metrics.csv"))
    );
}

#[test]
fn rows_of_metrics_are_read() {
    let rows = RunPaths::new(stored("")).read_rows().unwrap();
    let places: Vec<_> = rows.iter().map(|row| (row.stage, row.epoch)).collect();
    assert_eq!(places, [(1, 0), (2, 0)]);
    assert_eq!(rows[0].train_loss, 12.950291275978088);
    assert_eq!(rows[0].loss_terms["mutual"], 19.605697061452602);
}

#[test]
fn a_recipe_is_read() {
    let recipe = Recipe::read(stored("recipe.toml")).unwrap();
    assert_eq!(recipe.config(2).unwrap(), settings());
    assert_eq!(
        recipe.layout().unwrap(),
        Some(DataSource::Folder { dir: "".into() })
    );
}

#[test]
fn the_record_of_a_split_is_read() {
    let text = fs::read_to_string(stored("split.json")).unwrap();
    let record: SplitRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (record.format.as_str(), record.format_version),
        ("shike-split", 1)
    );
    assert_eq!(record.data, Path::new("pictures"));
    let lists: Vec<_> = record
        .lists
        .values()
        .map(|list| (list.file.as_str(), list.images))
        .collect();
    assert_eq!(lists, [("train.txt", 10), ("val.txt", 2), ("test.txt", 3)]);
    assert_eq!(record.classes[0].name, "cat");
}

//! Every method of docs/METHODS.md trains, and gives the same bytes when it is stopped after each step
//! and resumed; its model file needs nothing that others do not.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;
mod small;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};
use shike_data::{Loader, LoaderConfig, Pipeline};
use shike_infer::metrics::{Evaluator, Metric};
use shike_infer::{Network, Predictor, Scorer, load_model};
use shike_model::network::Classifier;
use shike_model::{ClassifierConfig, Head, ShikeConfig};
use shike_train::report::write_run_report;
use shike_train::run::{RunDir, RunPaths};
use shike_train::{
    AdamWConfig, Learner, OptimizerConfig, Outcome, Progress, ScoreTest, Session, Stage2,
    TrainConfig, TrainData, TrainError,
};
use small::dataset;

/// Training images of the classes.
const COUNTS: [usize; 3] = [5, 3, 2];

/// The device's generator is one for all tests.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn data(val: bool) -> TrainData {
    TrainData {
        train: dataset(COUNTS, 1),
        val: val.then(|| dataset([2, 2, 2], 2)),
        test: Some(dataset([2, 2, 2], 3)),
    }
}

fn plain(classifier: ClassifierConfig, stage2_heads: bool) -> ShikeConfig {
    let config = ShikeConfig::cifar_plain(8, 3).unwrap();
    config
        .with_classifier(classifier)
        .with_stage2_heads(stage2_heads)
}

fn experts(classifier: ClassifierConfig) -> ShikeConfig {
    let config = ShikeConfig::cifar(8, 3).unwrap();
    config.with_experts(2).with_classifier(classifier)
}

/// Two epochs of one step each, and where there is a stage 2, as many there.
fn config(model: ShikeConfig, loss: Value, stage2: Option<Value>) -> TrainConfig {
    let mut config = small::config(model, 16);
    config.stage1.loss = serde_json::from_value(loss).unwrap();
    let stage1 = serde_json::to_value(&config.stage1).unwrap();
    config.stage2 = stage2.map(|mut stage2| {
        // What it does not name is stage 1's.
        if stage2["method"] != "tau_norm" {
            for (field, value) in stage1.as_object().unwrap() {
                let fields = stage2.as_object_mut().unwrap();
                fields.entry(field.clone()).or_insert(value.clone());
            }
        }
        serde_json::from_value(stage2).unwrap()
    });
    config
}

fn learner(config: &TrainConfig, val: bool) -> Result<Learner, TrainError> {
    Learner::new(config.clone(), data(val), Device::flex())
}

fn run(learner: &Learner, folder: &Path, from: Option<&Path>) -> RunPaths {
    let from = from.map(Path::to_owned);
    let mut run = learner
        .create_run(folder, None, from.clone(), None)
        .unwrap();
    let (mut progress, stop) = (Progress::silent(), AtomicBool::new(false));
    let outcome = match from {
        None => learner.run(&mut Session::new(&mut run, &mut progress, &stop)),
        Some(from) => learner.run_stage2_from(
            &RunPaths::new(from),
            &mut Session::new(&mut run, &mut progress, &stop),
        ),
    };
    let Outcome::Finished(Some(scores)) = outcome.unwrap() else {
        panic!("it has not ended");
    };
    write_run_report(run.paths(), &scores, learner.data(), learner.device()).unwrap();
    RunPaths::new(folder)
}

/// A run that is stopped after each step.
fn run_in_pieces(learner: &Learner, folder: &Path, steps: usize) -> RunPaths {
    let stop = AtomicBool::new(true);
    drop(learner.create_run(folder, None, None, None).unwrap());
    let mut stops = 0;
    loop {
        let mut run = RunDir::open(folder).unwrap();
        let outcome = learner.run(&mut Session::new(&mut run, &mut Progress::silent(), &stop));
        match outcome.unwrap() {
            Outcome::Interrupted => stops += 1,
            Outcome::Finished(_) => break,
        }
        assert!(stops <= steps, "the run does not end");
    }
    assert_eq!(stops, steps);
    RunPaths::new(folder)
}

#[test]
fn every_method_trains_and_resumes_to_the_same_bytes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (cosine, linear) = (ClassifierConfig::cosine, || ClassifierConfig::Linear);
    let weights = json!({ "kind": "effective_number", "beta": 0.99 });
    let ce = || json!({ "kind": "cross_entropy" });
    let shike = || {
        config(
            experts(cosine()),
            json!({ "kind": "dkt" }),
            Some(json!({ "method": "retrain", "loss": { "kind": "balanced_softmax" } })),
        )
    };
    let mut mixed = shike();
    mixed.stage1.mixing.mixup_alpha = 0.3;
    mixed.stage1.mixing.cutmix_alpha = 1.0;
    let cases: [(&str, TrainConfig); 13] = [
        ("shike", shike()),
        ("shike-mixed", mixed),
        (
            "smoothed-weighted",
            config(
                plain(linear(), false),
                json!({ "kind": "cross_entropy", "label_smoothing": 0.1, "weights": weights }),
                None,
            ),
        ),
        (
            "focal-on-experts",
            config(experts(cosine()), json!({ "kind": "focal" }), None),
        ),
        (
            "ldam-drw",
            config(
                plain(cosine(), false),
                json!({ "kind": "ldam", "weights": weights, "weights_from_epoch": 1 }),
                None,
            ),
        ),
        (
            "logit-adjustment",
            config(
                plain(linear(), false),
                json!({ "kind": "logit_adjustment", "tau": 0.5 }),
                None,
            ),
        ),
        (
            "crt",
            config(
                plain(linear(), true),
                ce(),
                Some(json!({ "method": "retrain", "sampling": "class_balanced" })),
            ),
        ),
        (
            "crt-ldam",
            config(
                plain(cosine(), true),
                ce(),
                Some(json!({ "method": "retrain", "loss": { "kind": "ldam" } })),
            ),
        ),
        (
            "lws",
            config(
                plain(linear(), true),
                ce(),
                Some(json!({ "method": "lws", "sampling": "class_balanced" })),
            ),
        ),
        (
            "lws-on-experts",
            config(
                experts(linear()),
                json!({ "kind": "dkt" }),
                Some(json!({ "method": "lws", "loss": { "kind": "balanced_softmax" } })),
            ),
        ),
        (
            "tau-norm",
            config(
                plain(linear(), true),
                ce(),
                Some(json!({ "method": "tau_norm", "taus": [0.0, 0.5, 1.0] })),
            ),
        ),
        (
            "tau-norm-of-0",
            config(
                plain(linear(), true),
                ce(),
                Some(json!({ "method": "tau_norm", "taus": [0.0] })),
            ),
        ),
        (
            "tau-norm-on-experts",
            config(
                experts(linear()),
                ce(),
                Some(json!({ "method": "tau_norm", "taus": [0.7] })),
            ),
        ),
    ];
    for (name, config) in cases {
        let trained = [1, 2].map(|stage| config.stage(stage).map_or(0, |c| c.epochs));
        let learner = learner(&config, name == "tau-norm").unwrap();
        let whole = run(&learner, &folder.path().join(name), None);
        let steps = trained.iter().sum();
        let pieces = folder.path().join(format!("{name}-pieces"));
        let pieces = run_in_pieces(&learner, &pieces, steps);
        let bytes = |run: &RunPaths| std::fs::read(run.model()).unwrap();
        assert!(bytes(&whole) == bytes(&pieces), "{name}");
        let rows = whole.read_rows().unwrap();
        let scored = usize::from(matches!(config.stage2, Some(Stage2::TauNorm { .. })));
        assert_eq!(rows.len(), steps + scored, "{name}");
        let validated = name == "tau-norm";
        let scored = rows.iter().map(|row| row.scores.val.is_some() == validated);
        assert!(scored.into_iter().all(|scored| scored), "{name}");
        let losses = rows.iter().take(steps).map(|row| row.train_loss);
        assert!(losses.into_iter().all(f64::is_finite), "{name}");

        // The file is an ordinary one: as the configuration says, heads and all.
        let (network, info) = load_model(&whole.model(), &Device::flex()).unwrap();
        let model = network.into_experts().unwrap();
        assert_eq!(info.model, config.model, "{name}");
        let stage2 = config.stage2.is_some();
        let head = if stage2 { Head::Stage2 } else { Head::Stage1 };
        assert_eq!(info.head, head, "{name}");
        // A power of 0 leaves what stage 1 has taught.
        let taught = 1 + usize::from(stage2 && info.tau != Some(0.0));
        let last = config.stage(taught);
        let last = last.map_or(0, |last| last.epochs - 1);
        let prior = config.logit_prior(taught, last, &COUNTS);
        assert_eq!(info.prior, prior.unwrap(), "{name}");
        let images = Tensor::ones([1, 3, 8, 8], &Device::flex());
        let logits = model.forward(images, info.head).mean();
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        assert!(logits.iter().all(|x| x.is_finite()), "{name}: {logits:?}");
        match name {
            "tau-norm" => assert!([0.0, 0.5, 1.0].contains(&info.tau.unwrap())),
            "tau-norm-of-0" => {
                assert_eq!(info.tau, Some(0.0));
                assert!(info.prior[0] > info.prior[COUNTS.len() - 1], "{info:?}");
            }
            "tau-norm-on-experts" => assert_eq!(info.tau, Some(0.7)),
            _ => assert_eq!(info.tau, None),
        }
    }
    let weights = |name| std::fs::read(RunPaths::new(folder.path().join(name)).model()).unwrap();
    assert_ne!(weights("shike"), weights("shike-mixed"));
}

#[test]
fn stage_2_works_on_the_averaged_features() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(
        experts(ClassifierConfig::cosine()),
        json!({ "kind": "dkt" }),
        Some(json!({ "method": "retrain", "loss": { "kind": "balanced_softmax" } })),
    );
    config.ema_decay = Some(0.5);
    // So that what stage 1 has made can be scored again after stage 2.
    config.freeze_batch_norm = true;
    for features in [true, false] {
        config.ema_features = features;
        let learner = learner(&config, true).unwrap();
        let at = |name: &str| folder.path().join(format!("{name}-{features}"));
        let whole = run(&learner, &at("whole"), None);
        let loss = |file: &Path| {
            let (network, info) = load_model(file, &Device::flex()).unwrap();
            let model = network.into_experts().unwrap();
            let loader = LoaderConfig::default();
            let val = data(true).val.unwrap();
            let loader = Loader::new(val, config.eval_pipeline.clone(), loader, 0).unwrap();
            let evaluator = Evaluator::new(&info.train_counts, config.thresholds, 2).unwrap();
            let (head, upload, device) = (Head::Stage1, config.upload, Device::flex());
            let scorer = Scorer::new(
                &Network::Experts(model.clone(), head),
                info.normalization,
                upload,
                &device,
            );
            let evaluation = scorer.score(&loader, evaluator).unwrap();
            evaluation.get(Metric::LOSS).unwrap()
        };
        let rows = whole.read_rows().unwrap();
        let end = &rows[1].scores;
        let [trained, averaged] = [&end.val, &end.val_ema].map(|scores| {
            let scores = scores.as_ref().unwrap();
            scores.ensemble.get(Metric::LOSS).unwrap()
        });
        assert_ne!(trained, averaged);
        let expected = if features { averaged } else { trained };
        assert!((loss(&whole.model()) - expected).abs() < 1e-6, "{features}");
        // The averaged model has the features of the trained one, and classifiers of its own.
        assert_eq!(loss(&whole.ema()), loss(&whole.model()), "{features}");
        let bytes = |file: PathBuf| std::fs::read(file).unwrap();
        assert_ne!(bytes(whole.ema()), bytes(whole.model()));
        let pieces = run_in_pieces(&learner, &at("pieces"), 4);
        for file in [RunPaths::model, RunPaths::ema, RunPaths::best] {
            assert!(bytes(file(&whole)) == bytes(file(&pieces)), "{features}");
        }
    }

    // A stage 1 without an average has no such features.
    config.ema_features = true;
    let mut without = config.clone();
    (without.ema_decay, without.stage2) = (None, None);
    without.freeze_batch_norm = false;
    let source = run(
        &learner(&without, false).unwrap(),
        &folder.path().join("source"),
        None,
    );
    let other = learner(&config, false).unwrap();
    let mut run = other
        .create_run(&folder.path().join("other"), None, None, None)
        .unwrap();
    let stop = AtomicBool::new(false);
    let result = other.run_stage2_from(
        &source,
        &mut Session::new(&mut run, &mut Progress::silent(), &stop),
    );
    let error = result.unwrap_err().to_string();
    assert!(
        error.contains("its stage 1 has no averaged weights"),
        "{error}"
    );
    // Nor has the field a meaning there, or the time of a score without images.
    without.ema_features = false;
    let error = learner(&without, false).unwrap_err().to_string();
    assert!(
        error.contains("ema_features = false: it must be true"),
        "{error}"
    );
    (without.ema_features, without.score_test) = (true, Some(ScoreTest::End));
    let images = TrainData {
        test: None,
        ..data(true)
    };
    let error = Learner::new(without, images, Device::flex());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("there is no test set"), "{error}");
}

#[test]
fn curves_are_of_the_validation_set_and_the_test_set_is_scored_at_the_end() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let shike = config(
        plain(ClassifierConfig::Linear, true),
        json!({ "kind": "cross_entropy" }),
        Some(json!({ "method": "retrain" })),
    );
    let tau = config(
        plain(ClassifierConfig::Linear, true),
        json!({ "kind": "cross_entropy" }),
        Some(json!({ "method": "tau_norm", "taus": [0.5, 1.0] })),
    );
    let (no, yes) = (false, true);
    // Which of the epochs have scores on the test set.
    let cases = [
        (&shike, yes, None, vec![no, no, no, yes]),
        (&shike, yes, Some(ScoreTest::Every), vec![yes; 4]),
        (&shike, no, None, vec![yes; 4]),
        (&shike, no, Some(ScoreTest::End), vec![no, no, no, yes]),
        (&tau, yes, None, vec![no, no, yes]),
    ];
    for (number, (config, val, score_test, expected)) in cases.into_iter().enumerate() {
        let mut config = config.clone();
        config.score_test = score_test;
        let learner = learner(&config, val).unwrap();
        let run = run(&learner, &folder.path().join(number.to_string()), None);
        let rows = run.read_rows().unwrap();
        let tested: Vec<bool> = rows.iter().map(|row| row.scores.test.is_some()).collect();
        assert_eq!(tested, expected, "{number}");
        let validated = rows.iter().all(|row| row.scores.val.is_some() == val);
        assert!(validated, "{number}");
        let csv = std::fs::read_to_string(run.metrics_csv()).unwrap();
        let header = csv.lines().next().unwrap();
        assert_eq!(header.contains(",val_top1,"), val, "{header}");
        assert!(header.contains(",test_top1,"), "{header}");
        let report = std::fs::read_to_string(run.report()).unwrap();
        let curve = |split: &str| report.contains(&format!("accuracy, {split} images"));
        assert_eq!(curve("validation"), val, "{number}");
        // At the end alone it is no curve, but all that there is without a validation set.
        let times = tested.iter().filter(|tested| **tested).count();
        assert_eq!(curve("test"), times > 1 || !val, "{number}");
    }
}

#[test]
fn balancing_twice_is_said() {
    let _alone = alone();
    let notes = |sampling: &str, loss: Value| {
        let stage2 = json!({ "method": "retrain", "sampling": sampling, "loss": loss });
        let model = plain(ClassifierConfig::Linear, true);
        let config = config(model, json!({ "kind": "cross_entropy" }), Some(stage2));
        learner(&config, false).unwrap().notes().to_vec()
    };
    let balanced = || json!({ "kind": "balanced_softmax" });
    let half = || json!({ "kind": "logit_adjustment", "tau": 0.5 });
    let weights = json!({ "kind": "inverse_frequency" });
    let weighted = || json!({ "kind": "cross_entropy", "weights": weights });
    for (sampling, loss, factor) in [
        ("class_balanced", balanced(), Some("2.5 times")),
        ("square_root", balanced(), Some("1.6 times")),
        ("class_balanced", weighted(), Some("2.5 times")),
        ("class_balanced", half(), Some("1.6 times")),
        ("square_root", half(), None),
        ("instance", balanced(), None),
        ("class_balanced", json!({ "kind": "cross_entropy" }), None),
    ] {
        let notes = notes(sampling, loss);
        assert_eq!(notes.len(), usize::from(factor.is_some()), "{notes:?}");
        if let Some(factor) = factor {
            let note = &notes[0];
            assert!(note.starts_with("stage2: sampling and loss both"), "{note}");
            assert!(note.contains("`2` (2 training images)"), "{note}");
            assert!(note.contains(factor), "{note}");
        }
    }
}

/// Columns of a linear head and their lengths.
fn columns(classifier: &Classifier) -> Vec<Vec<f32>> {
    let Classifier::Linear(linear) = classifier else {
        panic!("{classifier:?}");
    };
    let [_, classes] = linear.weight.dims();
    let values: Vec<f32> = linear.weight.val().into_data().iter::<f32>().collect();
    let column = |class| {
        values
            .iter()
            .skip(class)
            .step_by(classes)
            .copied()
            .collect()
    };
    (0..classes).map(column).collect()
}

fn length(column: &[f32]) -> f32 {
    column.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn one_stage_1_takes_every_stage_2() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ce = || json!({ "kind": "cross_entropy" });
    // It was to have no second stage, and has no heads for one.
    let source = config(plain(ClassifierConfig::Linear, false), ce(), None);
    let source = run(&learner(&source, false).unwrap(), &at("source"), None);
    let first = load_model(&source.model(), &Device::flex()).unwrap().0;
    let first = first.into_experts().unwrap();
    let first = columns(&first.experts[0].head1);

    let with = |name: &str, stage2: Value| {
        let config = config(plain(ClassifierConfig::Linear, true), ce(), Some(stage2));
        let run = run(
            &learner(&config, false).unwrap(),
            &at(name),
            Some(source.root()),
        );
        let rows = run.read_rows().unwrap();
        assert!(rows.iter().all(|row| row.stage == 2), "{name}");
        let model = load_model(&run.model(), &Device::flex()).unwrap().0;
        let model = model.into_experts().unwrap();
        let expert = &model.experts[0];
        assert_eq!(columns(&expert.head1), first, "{name}");
        columns(expert.head(Head::Stage2))
    };
    let crt = with("crt", json!({ "method": "retrain" }));
    assert_ne!(crt, first);
    // Each column is the old one times a factor.
    let cosine = |a: &[f32], b: &[f32]| {
        let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        dot / (length(a) * length(b))
    };
    let lws = with("lws", json!({ "method": "lws" }));
    let tau = with("tau", json!({ "method": "tau_norm", "taus": [1.0] }));
    for ((lws, tau), first) in lws.iter().zip(&tau).zip(&first) {
        assert!((cosine(lws, first) - 1.0).abs() < 1e-5);
        assert!((cosine(tau, first) - 1.0).abs() < 1e-5);
        assert!((length(tau) - 1.0).abs() < 1e-5);
        assert_ne!(length(lws), length(first));
    }

    // Pictures that are prepared otherwise are told.
    let retrain = Some(json!({ "method": "retrain" }));
    let mut other = config(plain(ClassifierConfig::Linear, true), ce(), retrain);
    for (name, mean, told) in [("as it was", 0.0, false), ("otherwise", 0.1, true)] {
        other.normalization.mean[0] += mean;
        let learner = learner(&other, false).unwrap();
        let mut run = learner.create_run(&at(name), None, None, None).unwrap();
        let said = at(&format!("{name}.txt"));
        let mut progress = Progress::lines(std::fs::File::create(&said).unwrap());
        let stop = AtomicBool::new(true);
        let outcome =
            learner.run_stage2_from(&source, &mut Session::new(&mut run, &mut progress, &stop));
        outcome.unwrap();
        let said = std::fs::read_to_string(said).unwrap();
        assert_eq!(said.contains("prepared otherwise"), told, "{said}");
    }

    // Another network is still refused.
    let other = config(
        plain(ClassifierConfig::cosine(), true),
        ce(),
        Some(json!({ "method": "retrain" })),
    );
    let learner = learner(&other, false).unwrap();
    let mut run = learner.create_run(&at("other"), None, None, None).unwrap();
    let stop = AtomicBool::new(false);
    let result = learner.run_stage2_from(
        &source,
        &mut Session::new(&mut run, &mut Progress::silent(), &stop),
    );
    let error = result.unwrap_err().to_string();
    assert!(error.contains("its network is not that"), "{error}");
}

#[test]
fn tau_is_swept_on_the_validation_set_unless_it_is_given() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let ce = || json!({ "kind": "cross_entropy" });
    let source = config(plain(ClassifierConfig::Linear, false), ce(), None);
    let source = run(&learner(&source, true).unwrap(), &at("source"), None);
    let normalized = |name: &str, stage2: Value, val: bool| {
        let config = config(plain(ClassifierConfig::Linear, true), ce(), Some(stage2));
        let learner = learner(&config, val).unwrap();
        let mut run = learner.create_run(&at(name), None, None, None).unwrap();
        let (mut progress, stop) = (Progress::silent(), AtomicBool::new(false));
        let outcome =
            learner.run_stage2_from(&source, &mut Session::new(&mut run, &mut progress, &stop));
        let Outcome::Finished(Some(scores)) = outcome.unwrap() else {
            panic!("{name} was scored");
        };
        let tau = load_model(&run.paths().model(), &Device::flex())
            .unwrap()
            .1
            .tau;
        (
            tau.unwrap(),
            scores
                .scores
                .val
                .and_then(|val| val.get(Metric::CLASS_AVERAGED)),
        )
    };
    // The first of the best of 21, each of which is scored alone.
    let mut best = (f64::NAN, f64::NEG_INFINITY);
    for tenths in 0..=20 {
        let tau = f64::from(tenths) / 10.0;
        let alone = json!({ "method": "tau_norm", "taus": [tau] });
        let (taken, score) = normalized(&format!("tau{tenths}"), alone, true);
        assert_eq!(taken, tau);
        if score.unwrap() > best.1 {
            best = (tau, score.unwrap());
        }
    }
    let none = || json!({ "method": "tau_norm" });
    assert_eq!(normalized("swept", none(), true), (best.0, Some(best.1)));
    assert_eq!(normalized("unscored", none(), false), (0.7, None));
}

#[test]
fn a_model_of_images_of_one_size_sees_all_of_a_larger_one() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let ce = || json!({ "kind": "cross_entropy" });
    let mut config = config(plain(ClassifierConfig::Linear, false), ce(), None);
    let crop = |size: u32| Pipeline {
        transforms: vec![shike_data::Transform::CenterCrop { size: size.into() }],
    };
    // Of 8x8 pixels training would see the middle alone.
    config.eval_pipeline = crop(6);
    let error = learner(&config, false).unwrap_err().to_string();
    let expected = "eval_pipeline cuts 6×6 pixels out of images as they are, and ";
    assert!(
        error.contains(expected) && error.contains("of 8×8"),
        "{error}"
    );
    config.eval_pipeline = crop(6).resizing();
    learner(&config, false).unwrap();
    config.eval_pipeline = crop(8);
    let run = run(
        &learner(&config, false).unwrap(),
        &folder.path().join("run"),
        None,
    );

    let predictor = Predictor::load(&run.model(), &Device::flex()).unwrap();
    let small = image::RgbImage::from_fn(8, 8, |x, y| {
        image::Rgb([40 * (x / 2) as u8, 250 - 30 * y as u8, 9])
    });
    let large = image::RgbImage::from_fn(80, 120, |x, y| match (20..100).contains(&y) {
        true => *small.get_pixel(x / 10, (y - 20) / 10),
        false => image::Rgb([0; 3]),
    });
    assert_eq!(*predictor.prepare(small.clone()).unwrap().pixels(), small);
    // All of it but the black borders, a little blurred; not its middle, which has one colour.
    let seen = predictor.prepare(large.clone()).unwrap();
    let pairs = || seen.pixels().as_raw().iter().zip(small.as_raw());
    assert!(pairs().all(|(a, b)| a.abs_diff(*b) <= 40), "{seen:?}");
    let probabilities = |image| predictor.predict_pixels(image).unwrap().probabilities;
    let (large, small) = (probabilities(large), probabilities(small));
    assert!(large.iter().zip(&small).all(|(a, b)| (a - b).abs() < 0.05));
}

#[test]
fn what_cannot_be_trained_is_refused_before_the_run() {
    let refused = |config: &TrainConfig, val: bool, expected: &str| {
        let error = learner(config, val).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected} is not in: {error}");
    };
    let ce = || json!({ "kind": "cross_entropy" });
    let linear = || plain(ClassifierConfig::Linear, true);
    let tau = |taus: Value| Some(json!({ "method": "tau_norm", "taus": taus }));
    refused(
        &config(linear(), ce(), tau(json!([0.5, 1.0]))),
        false,
        "stage2.taus has 2 entries",
    );
    refused(
        &config(linear(), json!({ "kind": "ldam" }), None),
        false,
        "stage1.loss: kind = ldam: it must be another loss, or the network's classifier cosine",
    );
    refused(
        &config(
            experts(ClassifierConfig::cosine()),
            ce(),
            Some(json!({ "method": "lws" })),
        ),
        false,
        "stage2.method = lws",
    );
    let weights = json!({ "kind": "given", "values": [1.0, 2.0] });
    refused(
        &config(
            linear(),
            json!({ "kind": "cross_entropy", "weights": weights }),
            None,
        ),
        false,
        "stage1.loss: weights.values = 2 numbers: it must be 3",
    );
    refused(
        &config(
            linear(),
            json!({ "kind": "focal", "weights_from_epoch": 1 }),
            None,
        ),
        false,
        "stage1.loss: weights_from_epoch = 1: it must be 0",
    );
    // A class without images, in a loss that only stage 2 has.
    let config = config(
        linear(),
        ce(),
        Some(json!({ "method": "retrain", "loss": { "kind": "balanced_softmax" } })),
    );
    let mut data = data(false);
    data.train = dataset([5, 0, 2], 1);
    let error = Learner::new(config, data, Device::flex()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("stage2.loss: class 1 has no training image"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let ce = json!({ "kind": "cross_entropy" });
    let config = config(plain(ClassifierConfig::Linear, false), ce, None);

    // No batch, no training.
    let mut none = config.clone();
    none.loader.drop_last = true;
    let error = learner(&none, false).unwrap_err().to_string();
    assert!(
        error.contains("10 training images make no batch of 16"),
        "{error}"
    );

    // A run goes on with its own settings alone.
    let stop = AtomicBool::new(true);
    let mut begun = learner(&config, false)
        .unwrap()
        .create_run(&folder.path().join("run"), None, None, None)
        .unwrap();
    let mut other = config.clone();
    other.optimizer = OptimizerConfig::AdamW(AdamWConfig::default());
    let error = learner(&other, false)
        .unwrap()
        .run(&mut Session::new(
            &mut begun,
            &mut Progress::silent(),
            &stop,
        ))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("begun with other settings (optimizer)"),
        "{error}"
    );

    // A model file is of its network.
    let paths = run(
        &learner(&config, false).unwrap(),
        &folder.path().join("done"),
        None,
    );
    let (network, info) = load_model(&paths.model(), &Device::flex()).unwrap();
    let model = network.into_experts().unwrap();
    let file = folder.path().join("wrong.safetensors");
    let wrong = |model: &shike_model::Shike, change: &dyn Fn(&mut shike_infer::ModelInfo)| {
        let mut info = info.clone();
        change(&mut info);
        let error =
            shike_infer::save_model(&file, &Network::Experts(model.clone(), info.head), &info)
                .unwrap_err();
        assert!(!file.exists());
        error.to_string()
    };
    let error = wrong(&model, &|info| info.class_names.truncate(2));
    assert!(
        error.contains("2 class names for a network of 3"),
        "{error}"
    );
    let error = wrong(&model, &|info| info.head = Head::Stage2);
    assert!(error.contains("of a network that has none"), "{error}");
    let error = wrong(&model.clone().tau_normalize(1.0).unwrap(), &|_| ());
    assert!(error.contains("the network has stage-2 heads"), "{error}");
    let predictor = shike_infer::Predictor::load(&paths.model(), &Device::flex()).unwrap();
    let error = predictor.with_prior(&shike_infer::Prior::Weights(vec![1.0; 2]));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("2 frequencies for a model of 3")
    );
    let typed = json!({ "expert": 9 });
    let mut text = serde_json::to_value(&config).unwrap();
    text["model"]["expert"] = typed["expert"].clone();
    assert!(serde_json::from_value::<TrainConfig>(text).is_err());
}

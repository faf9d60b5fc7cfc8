//! Pictures of no class, sets of classes and temperature: from training to `predict` and `eval`.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{failure, shike, success};
use serde_json::Value;
use shike::data::synthetic::{SyntheticConfig, generate};
use shike::infer::load_model;

fn works(arguments: &str) -> (String, String) {
    success(&shike(&arguments.split_whitespace().collect::<Vec<_>>()))
}

fn fails(status: i32, arguments: &str) -> String {
    let output = shike(&arguments.split_whitespace().collect::<Vec<_>>());
    failure(status, &output)
}

#[test]
fn a_model_says_how_sure_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let set = |name: &str, seed| {
        let config = SyntheticConfig {
            classes: 3,
            n_max: 20,
            imbalance_factor: 4.0,
            test_per_class: 10,
            size: 40,
            seed,
            ..SyntheticConfig::default()
        };
        generate(&dir.path().join(name), &config).unwrap()
    };
    let (known, other) = (set("known", 0), set("other", 9));
    let root = known.root.display();
    // Ten pictures of each class for validation, and the same ones to score.
    let lists = format!(
        "--data {root} --train-list {} --val-list {} --test-list {}",
        known.train_list.display(),
        known.test_list.display(),
        known.test_list.display()
    );
    let run = dir.path().join("run");
    let run = run.display();
    let small = "--arch resnet8 --image-size 32 --epochs 2 --stage2-epochs 1 --batch-size 16";
    works(&format!("train {lists} --run {run} {small} --device flex"));

    let file = dir.path().join("run/model.safetensors");
    let (_, info) = load_model(&file, &shike::infer::device::parse("flex").unwrap()).unwrap();
    let temperature = info.confidence.as_ref().unwrap().temperature;
    assert!(temperature > 0.1 && temperature < 10.0 && temperature != 1.0);

    // What a run reports of the test set is what `eval` says of it.
    let reported: Value = serde_json::from_str(&works(&format!("eval {run} --json")).0).unwrap();
    let last = fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    let [evaluated, reported] = [&reported["evaluation"]["loss"], &last["test"]["loss"]];
    let difference = evaluated.as_f64().unwrap() - reported.as_f64().unwrap();
    assert!(difference.abs() < 1e-6, "{evaluated} {reported}");

    let unknown = other.root.display();
    let (out, _) = works(&format!("eval {run} --coverage 0.8 --unknown {unknown}"));
    for row in [
        "sets of classes",
        "coverage [%]",
        "against images of no class",
        "images of no class",
        "AUROC [%]",
        "  95 % interval",
    ] {
        assert!(out.contains(row), "{out}");
    }
    // One blank line between two tables.
    let (out, _) = works(&format!(
        "eval {run} --coverage 0.8 --unknown {unknown} --tta flip"
    ));
    for table in [
        "--tta flip",
        "sets of classes",
        "against images of no class",
    ] {
        assert!(out.contains(&format!("\n\n{table}")), "{table}: {out}");
    }
    assert!(!out.contains("\n\n\n"), "{out}");
    let (out, _) = works(&format!(
        "eval {run} --coverage 0.8 --unknown {unknown} --json"
    ));
    let json: Value = serde_json::from_str(&out).unwrap();
    // The pictures are those that the bounds are of, but for the folds.
    assert!(
        json["coverage"]["all"]["coverage"].as_f64().unwrap() >= 76.0,
        "{out}"
    );
    assert!(json["unknown"]["all"]["auroc"].as_f64().unwrap() > 0.0);

    let picture = fs::read_to_string(&known.test_list).unwrap();
    let picture = known.root.join(picture.split(' ').next().unwrap());
    let picture = picture.display();
    let (out, _) = works(&format!(
        "predict {run} {picture} --unknown=0.999 --coverage 0.8 --json"
    ));
    let json: Value = serde_json::from_str(&out).unwrap();
    let most: f64 = json["classes"][0]["probability"].as_f64().unwrap();
    assert!(json["set"].as_array().unwrap().len() <= 3 && most > 1.0 / 3.0);
    assert!(json["unknown"].is_boolean());
    let table = dir.path().join("p.csv");
    let table = table.display();
    works(&format!(
        "predict {run} {picture} --unknown --coverage 0.8 --top 1 --out {table}"
    ));
    let csv = fs::read_to_string(dir.path().join("p.csv")).unwrap();
    assert!(
        csv.starts_with("image,class1,probability1,unknown,set\n"),
        "{csv}"
    );

    // The best epoch was chosen on these pictures, and another prior makes other probabilities.
    for (more, says) in [
        ("--model best", "nothing is known of its probabilities"),
        ("--prior train", "give no prior"),
    ] {
        let error = fails(1, &format!("predict {run} {picture} --unknown {more}"));
        assert!(error.contains(says), "{error}");
    }
    let error = fails(1, &format!("predict {run} {picture} --coverage 0.999"));
    assert!(error.contains("takes 999 validation pictures"), "{error}");
    let error = fails(2, &format!("predict {run} {picture} --unknown=2"));
    assert!(error.contains("give a share"), "{error}");
}

//! The program starts from imported weights, trains parts at rates of their own, averages weights,
//! and says beforehand what a run needs.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

use burn::tensor::Device;
use shike::data::synthetic::{SyntheticConfig, generate};
use shike::infer::load_model;
use shike::model::weights::{self, StateDict};
use shike::train::run::RunPaths;

/// Images, and weights of a plain ResNet-10 with other classes.
struct Fixture {
    folder: tempfile::TempDir,
    images: Vec<String>,
    weights: PathBuf,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let config = SyntheticConfig {
        classes: 4,
        n_max: 20,
        imbalance_factor: 4.0,
        test_per_class: 2,
        size: 40,
        ..SyntheticConfig::default()
    };
    let set = generate(&folder.path().join("images"), &config).unwrap();
    let path = folder.path().join("resnet10.safetensors");
    common::resnet10_weights(&path);
    Fixture {
        images: common::lists(&set),
        weights: path,
        folder,
    }
}

impl Fixture {
    /// `more` replaces what it names of the common arguments.
    fn command(&self, run: &Path, more: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
        let common = "--device flex --arch resnet10 --experts 2 --image-size 32 --batch-size 8 \
                      --epochs 2 --stage2-epochs 1 --warmup-epochs 1 --stage2-warmup-epochs 1 \
                      --workers 2";
        command.arg("train").args(&self.images);
        let common: Vec<&str> = common.split_whitespace().collect();
        // Where no stage 2 trains, its options are refused.
        let one = ["--stage2-epochs 0", "tau-norm"]
            .iter()
            .any(|no| more.contains(no));
        let idle = |pair: &[&str]| one && pair[0].starts_with("--stage2");
        let kept = common.chunks(2);
        let kept = kept.filter(|pair| !more.contains(pair[0]) && !idle(pair));
        command.args(kept.flatten());
        command.args(more.split_whitespace()).arg("--run").arg(run);
        command
    }

    fn run(&self, name: &str, more: &str) -> (RunPaths, Output) {
        let run = self.folder.path().join(name);
        let output = self.command(&run, more).output().unwrap();
        (RunPaths::new(run), output)
    }

    fn fine_tuning(&self) -> String {
        format!(
            "--weights {} --freeze stem,layer1 --lr 0.01 --lr-backbone 0.001 --part-lr heads=2 \
             --ema 0.9",
            self.weights.display()
        )
    }
}

fn state(path: &Path) -> StateDict {
    weights::read_state_dict(path).unwrap()
}

#[test]
fn trains_from_imported_weights_and_averages() {
    let fixture = fixture();
    let (run, output) = fixture.run("reference", &fixture.fine_tuning());
    let said = common::said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("resnet10.safetensors: "), "{said}");
    assert!(said.contains("averaged weights: top-1"), "{said}");

    let start = state(&fixture.weights);
    let end = state(&run.model());
    for (name, value) in &start {
        if name.contains("num_batches_tracked") || name.starts_with("fc.") {
            continue;
        }
        let frozen = ["conv1.", "bn1.", "layer1."];
        if frozen.iter().any(|part| name.starts_with(part)) {
            assert_eq!(&end[name], value, "{name} is frozen");
        } else if name.starts_with("layer4.") {
            for expert in 0..2 {
                let own = name.replace("layer4.", &format!("layer4s.{expert}."));
                assert_ne!(&end[&own], value, "{own} is trained");
            }
        } else {
            assert_ne!(&end[name], value, "{name} is trained");
        }
    }

    let (network, info) = load_model(&run.ema(), &Device::flex()).unwrap();
    let average = network.into_experts().unwrap();
    assert_eq!(average.experts.len(), 2);
    assert_eq!(info.class_names.len(), 4);
    let averaged = state(&run.ema());
    assert_eq!(averaged["conv1.weight"], end["conv1.weight"]);
    assert_ne!(
        averaged["rt_classifiers.0.weight"],
        end["rt_classifiers.0.weight"]
    );
    let csv = fs::read_to_string(run.metrics_csv()).unwrap();
    let header = csv.lines().next().unwrap();
    assert!(header.contains(",test_ema_top1,"));
    let columns = header.split(',').count();
    assert!(csv.lines().all(|line| line.split(',').count() == columns));
}

#[test]
fn without_a_second_training_the_average_is_that_of_stage_1() {
    let fixture = fixture();
    let base = "--arch resnet8 --ema 0.9 --epochs 2";
    let tau = "--classifier linear --stage2-method tau-norm --stage2-tau 0.5";
    for (name, more) in [
        ("one", format!("{base} --stage2-epochs 0")),
        ("tau", format!("{base} {tau}")),
    ] {
        let (run, output) = fixture.run(name, &more);
        assert!(output.status.success(), "{more}: {}", common::said(&output));
        let (end, averaged) = (state(&run.model()), state(&run.ema()));
        // τ-normalisation works on the averaged weights, and leaves one model.
        let same = averaged["conv1.weight"] == end["conv1.weight"];
        assert_eq!(same, name == "tau", "{more}");
        // It is the one that was scored, and is so once more where the run is only scored again.
        let score = || {
            let output = Command::new(env!("CARGO_BIN_EXE_shike"))
                .args(["eval", "--model", "ema", "--json"])
                .arg(run.root())
                .output()
                .unwrap();
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            json["evaluation"]["ensemble"]["top1"].as_f64().unwrap()
        };
        let rows = fs::read_to_string(run.root().join("metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
        if let Some(during) = last["test_ema"]["top1"].as_f64() {
            assert!((score() - during).abs() < 1e-6, "{more}");
        }
        let before = fs::read(run.ema()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_shike"))
            .args(["train", "--resume"])
            .arg(run.root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{more}: {}", common::said(&output));
        assert!(fs::read(run.ema()).unwrap() == before, "{more}");
    }
}

#[test]
fn the_average_of_a_run_that_was_killed_is_that_of_one_that_was_not() {
    let fixture = fixture();
    let small = "--arch resnet8 --ema 0.9 --checkpoint-seconds 0";
    let (run, output) = fixture.run("reference", small);
    assert!(output.status.success(), "{}", common::said(&output));
    let killed = RunPaths::new(fixture.folder.path().join("killed"));
    let mut child = fixture.command(killed.root(), small).spawn().unwrap();
    let checkpoints = || fs::read_dir(killed.checkpoints()).map_or(0, Iterator::count);
    for _ in 0..24_000 {
        if checkpoints() >= 2 {
            break;
        }
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !killed.model().exists(),
        "it was to be killed before its end"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_shike"))
        .args(["train", "--device", "flex", "--resume"])
        .arg(killed.root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", common::said(&output));
    for path in [RunPaths::model, RunPaths::ema] {
        let bytes = |run: &RunPaths| fs::read(path(run)).unwrap();
        assert!(bytes(&killed) == bytes(&run));
    }
}

#[test]
fn a_dry_run_says_what_a_run_needs_and_writes_nothing() {
    let fixture = fixture();
    let (run, output) = fixture.run("dry", "--dry-run");
    let said = common::said(&output);
    assert!(output.status.success(), "{said}");
    for words in [
        "expert1.fusion",
        "a step of 8 needs:",
        "stage 1: ",
        "stage 2: ",
        "all of it:",
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    assert!(!run.root().exists());
    // Fewer images than a step sees: they are gone through again.
    let (_, output) = fixture.run("dry", "--dry-run --batch-size 64");
    let said = common::said(&output);
    assert!(output.status.success() && !said.contains("NaN"), "{said}");
    assert!(said.contains("(median of 3), 1 steps"), "{said}");

    #[cfg(target_os = "linux")]
    {
        let (_, output) = fixture.run("huge", "--batch-size 100000000");
        let said = common::said(&output);
        assert!(!output.status.success());
        assert!(said.contains("out of memory"), "{said}");
        assert!(said.contains("(--batch-size, --accumulate)"), "{said}");
    }
}

#[test]
fn wrong_weights_and_parts_are_errors_that_say_what_is_right() {
    let fixture = fixture();
    let cases = [
        (
            format!("--arch resnet18 --weights {}", fixture.weights.display()),
            "layer1.1.conv1.weight",
        ),
        ("--weights nowhere.pth".into(), "nowhere.pth"),
        ("--freeze stage9".into(), "stage9"),
        ("--freeze heads".into(), "cannot be frozen"),
        ("--freeze neck".into(), "stem, layer1"),
        ("--part-lr layer4".into(), "layer4=0.1"),
        ("--part-lr layer4=0".into(), "above 0"),
        (
            "--freeze layer4 --part-lr layer4=2".into(),
            "layer4 is in both",
        ),
        ("--ema 1.5".into(), "between 0 and 1"),
        ("--crop-scale 5".into(), "random_resized_crop"),
        ("--many-above 5 --few-below 10".into(), "overlap"),
    ];
    for (more, expected) in cases {
        let (_, output) = fixture.run("wrong", &more);
        let said = common::said(&output);
        assert!(!output.status.success(), "{more}\n{said}");
        assert!(said.contains(expected), "{more}: {expected} not in\n{said}");
        let run = fixture.folder.path().join("wrong");
        assert!(!run.exists(), "{more} left a folder");
    }
}

//! `shike inspect` as scripts meet it: exit codes, JSON, and lists that `shike train` reads.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use shike::data::synthetic::{SyntheticConfig, generate};

fn shike(folder: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    command.current_dir(folder).args(words.split_whitespace());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8(text).unwrap()
}

/// `pictures/<class>/*.JPEG`, three classes of 20, 8 and 4.
fn pictures(folder: &Path) {
    let config = SyntheticConfig {
        classes: 3,
        n_max: 20,
        imbalance_factor: 5.0,
        ..SyntheticConfig::default()
    };
    generate(&folder.join("drawn"), &config).unwrap();
    fs::rename(folder.join("drawn/train"), folder.join("pictures")).unwrap();
}

#[test]
fn exit_codes_and_json() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let run = |words: &str| shike(dir.path(), words);
    let code = |words: &str| run(words).status.code();

    let fine = run("inspect pictures --strict");
    assert_eq!(fine.status.code(), Some(0), "{}", said(&fine));
    assert!(
        said(&fine).contains("imbalance factor 5.0"),
        "{}",
        said(&fine)
    );
    assert_eq!(code("inspect nowhere"), Some(1));
    assert_eq!(code("inspect"), Some(2));
    assert_eq!(code("inspect pictures --split val=10%"), Some(2));
    assert_eq!(
        code("inspect pictures --split val=60%,test=60% --out lists"),
        Some(2)
    );
    assert_eq!(code("inspect pictures --few-below 200"), Some(2));
    assert_eq!(
        code("inspect . --train-list missing.txt --split val=9% --out x"),
        Some(2)
    );

    fs::write(dir.path().join("pictures/broken.txt"), "").unwrap();
    let folders = fs::read_dir(dir.path().join("pictures")).unwrap();
    let folders = folders
        .map(|e| e.unwrap().path())
        .filter(|path| path.is_dir());
    // The smallest class.
    let class = folders.max().unwrap();
    fs::write(class.join("broken.jpg"), "no picture").unwrap();
    assert_eq!(code("inspect pictures"), Some(0));
    assert_eq!(code("inspect pictures --quick --strict"), Some(3));
    let refused = run("inspect pictures --strict --split test=20% --out lists");
    let problems = "problems\n  unreadable files: training";
    assert!(said(&refused).contains(problems), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(3));
    assert!(said(&refused).contains("nothing was split") && !dir.path().join("lists").exists());

    let output = run("inspect pictures --json");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["format_version"], 1);
    assert_eq!(found["data"], "pictures");
    assert_eq!(found["tail"]["largest"], 20);
    assert_eq!(found["tail"]["images"], 20 + 8 + 5);
    assert_eq!(found["problems"], serde_json::json!(["unreadable"]));
    assert_eq!(found["split"], serde_json::Value::Null);
}

#[test]
fn splits_are_found_by_every_name_that_training_takes() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::rename(dir.path().join("pictures"), data.join("train")).unwrap();
    fs::rename(dir.path().join("drawn/test"), data.join("valid")).unwrap();
    let output = shike(dir.path(), "inspect data --json");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["subsets"][1]["subset"], "val");

    // A name that nobody reads is no class, and is not left out without a word.
    fs::rename(data.join("valid"), data.join("tests")).unwrap();
    for command in ["inspect data", "train --data data"] {
        let output = shike(dir.path(), command);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(
            said(&output).contains("data/tests: is not read"),
            "{}",
            said(&output)
        );
    }
    fs::rename(data.join("tests"), data.join("Test")).unwrap();
    fs::rename(data.join("train"), data.join("Train")).unwrap();
    if !data.join("train").exists() {
        for command in ["inspect data", "train --data data"] {
            let output = shike(dir.path(), command);
            assert_eq!(output.status.code(), Some(1), "{command}");
            let text = said(&output);
            assert!(
                text.contains("Test and Train here are no classes"),
                "{text}"
            );
        }
    }
}

#[test]
fn the_printed_command_takes_the_lists() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let split = "inspect pictures --split val=10%,test=20% --out lists --json";
    let output = shike(dir.path(), split);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let command = found["split"]["command"].as_str().unwrap();
    assert_eq!(
        command,
        "shike train --data pictures --train-list lists/train.txt --val-list lists/val.txt \
         --test-list lists/test.txt --run runs/first"
    );
    let other = "inspect pictures --split val=10%,test=20% --out others --few-below 5";
    let text = said(&shike(dir.path(), other));
    assert!(
        text.contains("of the classes in the training list are"),
        "{text}"
    );
    let again = shike(dir.path(), split);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("already"), "{}", said(&again));

    // The lists are a data set of their own, without an image in two of them.
    let lists = command
        .trim_start_matches("shike train --data ")
        .replace("--run runs/first", "");
    let output = shike(dir.path(), &format!("inspect {lists} --strict --json"));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&shike(dir.path(), &format!("inspect {lists}")));
    assert!(
        text.contains("train: class names are those of lists/classes.txt"),
        "{text}"
    );
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (part, list) in read["subsets"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["train", "val", "test"])
    {
        assert_eq!(part["subset"], list);
        assert_eq!(
            part["images"],
            found["split"]["record"]["lists"][list]["images"]
        );
    }
    let dry_run = command.trim_start_matches("shike ").to_owned()
        + " --arch resnet8 --experts 2 --image-size 32 --batch-size 4 --dry-run";
    let output = shike(dir.path(), &dry_run);
    assert!(output.status.success(), "{}", said(&output));
    fs::write(dir.path().join("names.txt"), "one\ntwo\ntwo\n").unwrap();
    let output = shike(dir.path(), &(dry_run + " --class-names names.txt"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("names.txt:3: the class \"two\""),
        "{}",
        said(&output)
    );
}

#[test]
fn every_subcommand_shows_an_example() {
    for command in [
        "train", "inspect", "predict", "eval", "report", "export", "compare", "backends", "bench",
    ] {
        let output = shike(Path::new("."), &format!("{command} --help"));
        assert_eq!(output.status.code(), Some(0));
        let text = said(&output);
        let (_, examples) = text.split_once("\nExample").unwrap();
        assert!(examples.contains(&format!("\n  shike {command}")), "{text}");
    }
}

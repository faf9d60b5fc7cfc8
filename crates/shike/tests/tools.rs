//! The program's commands on a run that it trained: predict, eval, export, compare, backends.
#![cfg(all(feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{failure, shike, success, text};
use serde_json::Value;
use shike::data::synthetic::{SyntheticConfig, generate};
use shike::train::Receipt;
use shike::train::report::compare::ScoredRun;

fn works(arguments: &[&str]) -> String {
    success(&shike(arguments)).0
}

fn fails(status: i32, arguments: &[&str]) -> String {
    failure(status, &shike(arguments))
}

fn train(data: &Path, run: &Path, more: &str) {
    success(&shike_train(data, run, more));
}

fn shike_train(data: &Path, run: &Path, more: &str) -> Output {
    let data = data.to_str().unwrap();
    let list = |name: &str| format!("{data}/{name}");
    let (train, test) = (list("train.txt"), list("test.txt"));
    let mut arguments = vec![
        "train",
        "--data",
        data,
        "--train-list",
        &train,
        "--test-list",
        &test,
        "--run",
        run.to_str().unwrap(),
    ];
    arguments.extend(
        "--arch resnet8 --epochs 1 --stage2-epochs 1 --image-size 32 --batch-size 16 --device flex"
            .split(' '),
    );
    arguments.extend(more.split_whitespace());
    shike(&arguments)
}

#[test]
fn a_bad_training_image_ends_a_run_or_is_replaced_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = SyntheticConfig {
        classes: 3,
        n_max: 8,
        imbalance_factor: 2.0,
        test_per_class: 2,
        ..SyntheticConfig::default()
    };
    let set = generate(&data, &config).unwrap();
    fs::copy(&set.train_list, data.join("train.txt")).unwrap();
    fs::copy(&set.test_list, data.join("test.txt")).unwrap();
    let list = fs::read_to_string(data.join("train.txt")).unwrap();
    let (name, label) = list.lines().next().unwrap().rsplit_once(' ').unwrap();
    let bad = data.join(name);
    let bytes = fs::read(&bad).unwrap();
    fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    let bad = bad.to_str().unwrap();

    let run = |policy: &str| dir.path().join(policy);
    let output = shike_train(&data, &run("fail"), "--bad-images fail");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains(&format!("{bad}: the file is cut off")),
        "{error}"
    );
    assert!(!run("fail").join("bad_images.csv").exists());

    // One image in so few is more than the share that is allowed unless told; by default, too.
    let error = text(&shike_train(&data, &run("default"), "").stderr);
    assert!(error.contains("1 of "), "{error}");
    let output = shike_train(&data, &run("strict"), "--bad-images skip");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let images = list.lines().count();
    assert!(
        error.contains(&format!("1 of {images} training images")),
        "{error}"
    );
    assert!(run("strict").join("bad_images.csv").exists());

    let skip = "--bad-images skip --max-bad-share 0.2";
    train(&data, &run("skip"), skip);
    let listed = fs::read_to_string(run("skip").join("bad_images.csv")).unwrap();
    let rows: Vec<&str> = listed.lines().collect();
    assert_eq!(rows.len(), 2, "{listed}");
    assert_eq!(rows[0], "path,label,problem");
    assert!(rows[1].starts_with(&format!("{bad},{label},")), "{listed}");
    assert!(rows[1].contains("the file is cut off"), "{listed}");

    // Looking at all images first finds it before the first step, and stops if nothing may be bad.
    let output = shike_train(&data, &run("checked"), "--check-images --bad-images fail");
    let error = text(&output.stderr);
    assert!(
        error.contains(&format!("1 of the {images} training images cannot be used")),
        "{error}"
    );
    assert!(!run("checked").exists());
}

#[test]
fn a_run_predicts_is_scored_exported_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = SyntheticConfig {
        classes: 4,
        n_max: 20,
        imbalance_factor: 4.0,
        test_per_class: 6,
        ..SyntheticConfig::default()
    };
    let set = generate(&data, &config).unwrap();
    fs::copy(&set.train_list, data.join("train.txt")).unwrap();
    fs::copy(&set.test_list, data.join("test.txt")).unwrap();
    let run = |name: &str| dir.path().join(name);
    let path = |name: &str| run(name).to_str().unwrap().to_owned();
    // What does not go together is a usage error, and the option of a wrong field is named.
    for (options, status, says) in [
        ("--focal-gamma 1", 2, "--focal-gamma is for the focal loss"),
        (
            "--loss class-balanced --drw-epoch 9",
            2,
            "below the epochs of the stage, 1 (--drw-epoch)",
        ),
        ("--lr=-1", 2, "(--lr)"),
    ] {
        let output = shike_train(&data, &run("none"), options);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{error}");
        assert!(error.contains(says), "{error}");
    }
    train(&data, &run("a0"), "--seed 0");
    train(&data, &run("a1"), "--seed 1");
    train(&data, &run("ce"), "--seed 0 --baseline ce");
    let a0 = path("a0");

    // Predictions: the same in every form.
    let images = fs::read_dir(data.join("test")).unwrap();
    let folder = images
        .map(|e| e.unwrap().path())
        .find(|p| p.is_dir())
        .unwrap();
    let folder = folder.to_str().unwrap();
    let lines = works(&["predict", &a0, folder, "--json", "--top", "4", "--logits"]);
    let lines: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 6);
    let probabilities = |line: &Value| -> f64 {
        let classes = line["classes"].as_array().unwrap();
        assert_eq!(classes.len(), 4);
        classes
            .iter()
            .map(|c| c["probability"].as_f64().unwrap())
            .sum()
    };
    assert!(lines.iter().all(|l| (probabilities(l) - 1.0).abs() < 1e-5));
    let csv = path("out.csv");
    works(&[
        "predict",
        &a0,
        folder,
        "--out",
        &csv,
        "--experts",
        "--batch-size",
        "4",
    ]);
    let mut reader = csv::Reader::from_path(&csv).unwrap();
    for (row, line) in reader.records().map(Result::unwrap).zip(&lines) {
        assert_eq!(row[0], line["image"]);
        assert_eq!(row[1], line["classes"][0]["class"]);
        let probability: f64 = row[2].parse().unwrap();
        assert!((probability - line["classes"][0]["probability"].as_f64().unwrap()).abs() < 1e-5);
        assert_eq!(row[row.len() - 1].split("; ").count(), 3);
    }
    let tensors = path("out.safetensors");
    // What would have no effect is refused.
    for words in [["--logits"].as_slice(), &["--out", &tensors, "--top", "2"]] {
        let error = fails(2, &[&["predict", &a0, folder], words].concat());
        assert!(
            error.contains(words[words.len() - 1]) || error.contains("--top"),
            "{error}"
        );
    }
    works(&["predict", &a0, folder, "--out", &tensors]);
    let bytes = fs::read(&tensors).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("logits").unwrap().shape(), [6, 3, 4]);
    assert_eq!(file.tensor("probabilities").unwrap().shape(), [6, 4]);

    // The same pictures from lists of every kind; labels do not matter.
    let mut stems: Vec<String> = lines
        .iter()
        .map(|l| l["image"].as_str().unwrap().into())
        .collect();
    stems.sort();
    let listed = |name: &str, text: String| {
        let list = path(name);
        fs::write(&list, text).unwrap();
        let out = works(&["predict", &a0, "--list", &list, "--root", "/", "--top", "1"]);
        assert_eq!(out.lines().count(), stems.len(), "{name}");
        out
    };
    let below = |end: &str| -> String { stems.iter().map(|s| format!("{s}{end}\n")).collect() };
    let plain = listed("p.txt", below(" 3"));
    assert_eq!(plain, listed("p.tsv", below("\t3")));
    assert_eq!(plain, listed("p.lst", below("")));
    assert_eq!(
        plain,
        listed("p.csv", format!("file,label\n{}", below(",ant")))
    );

    // A screen that takes nothing is an error, not a crash.
    #[cfg(target_os = "linux")]
    {
        let full = || {
            fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap()
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
        let status = command
            .args(["train", "--resume", &a0])
            .stdout(full())
            .status();
        assert_eq!(status.unwrap().code(), Some(1));
        let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
        let command = command
            .args(["predict", &a0, folder, "nowhere.jpg"])
            .stderr(full());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(text(&output.stdout).lines().count(), lines.len());
    }

    // Other names for the classes.
    let names = dir.path().join("names.txt");
    fs::write(&names, "a\nb\nc\nd\n").unwrap();
    let names = names.to_str().unwrap();
    let renamed = works(&["predict", &a0, folder, "--class-names", names, "--top", "1"]);
    assert!(
        renamed
            .lines()
            .all(|line| "abcd".contains(line.chars().last().unwrap())),
        "{renamed}"
    );
    // The model's own names in another order are no accident.
    let own: Value =
        serde_json::from_str(&fs::read_to_string(run("a0").join("classes.json")).unwrap()).unwrap();
    let own = own["names"].as_array().unwrap().iter().rev();
    let turned: Vec<&str> = own.map(|name| name.as_str().unwrap()).collect();
    let file = dir.path().join("turned.txt");
    fs::write(&file, turned.join("\n")).unwrap();
    let output = shike(&[
        "predict",
        &a0,
        folder,
        "--class-names",
        file.to_str().unwrap(),
    ]);
    let told = text(&output.stderr);
    assert!(told.contains("turned.txt: line 1 names class 0"), "{told}");
    // A prior knows the classes by these names, too.
    let prior = dir.path().join("renamed.txt");
    fs::write(&prior, "a\t1\nb\t1e-30\nc\t1e-30\nd\t1e-30\n").unwrap();
    let prior = prior.to_str().unwrap();
    let all = [
        "predict",
        &a0,
        folder,
        "--class-names",
        names,
        "--prior",
        prior,
        "--top",
        "1",
    ];
    assert!(works(&all).lines().all(|line| line.ends_with(" a")));
    for arguments in [
        ["predict", &a0, folder, "--out", "no/such/folder.csv"],
        ["eval", &a0, "--per-class", "no/such/folder.csv", "--json"],
    ] {
        assert!(fails(2, &arguments).contains("cannot be written"));
    }
    let scores = run("a0").join("predictions.csv");
    for command in [
        ["eval", "--predictions"],
        ["predict", "--out"],
        ["report", "--out"],
    ] {
        let [command, option] = command;
        let out = [option, scores.to_str().unwrap()];
        let images = if command == "predict" {
            vec![folder]
        } else {
            vec![]
        };
        let all = [&[command, a0.as_str()], &images[..], &out[..]].concat();
        assert!(fails(2, &all).contains("belongs to a run"));
    }
    let file = run("a0").join("model.safetensors");
    fails(2, &["eval", file.to_str().unwrap(), "--model", "best"]);
    fs::write(names, "a\nb\nc\n").unwrap();
    let error = fails(2, &["predict", &a0, folder, "--class-names", names]);
    assert!(
        error.contains("3 class names for a model of 4 classes"),
        "{error}"
    );

    // Bad images are named; the others are predicted. One of them makes a decoder panic.
    let bad = path("bad.jpg");
    fs::write(&bad, "no picture").unwrap();
    let panic = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/indexed_trns.png");
    let output = shike(&["predict", &a0, &bad, panic, "/dev/zero", folder]);
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    for said in ["bad.jpg: ", "indexed_trns.png: ", "/dev/zero: is a device"] {
        assert!(error.contains(said), "{error}");
    }
    assert!(!error.contains("thread '"), "{error}");
    assert_eq!(text(&output.stdout).lines().count(), 6);
    assert!(fails(2, &["predict", &a0]).contains("no image"));
    // What a folder holds besides is passed over as in training, and told.
    let more = dir.path().join("more");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("b.heic"), "").unwrap();
    let more_images = more.to_str().unwrap();
    let error = fails(2, &["predict", &a0, more_images]);
    assert!(
        error.contains("JPEG, PNG, WebP, TIFF, BMP and GIF files are read (skipped: 1 .heic"),
        "{error}"
    );
    fs::write(more.join("._x.jpg"), "").unwrap();
    fs::write(more.join("notes.txt"), "").unwrap();
    let image = fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::copy(image, more.join("a.jpg")).unwrap();
    let output = shike(&["predict", &a0, more_images, "--json"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        text(&output.stderr).trim(),
        "skipped: 1 .heic, 1 hidden, 1 other (convert it first, as with ImageMagick: `magick in.heic out.jpg`)"
    );
    let lines = text(&output.stdout);
    let last: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    let files = serde_json::json!({".heic": 1, "hidden": 1, "other": 1});
    assert_eq!(last["left_out"]["files"], files);
    fs::remove_file(more.join("b.heic")).unwrap();
    works(&["predict", &a0, more_images]);
    assert!(fails(2, &["predict", &a0, folder, "--out", "x.txt"]).contains(".csv or .safetensors"));
    assert!(fails(1, &["predict", &path("data"), folder]).contains("not the folder of a run"));
    assert!(fails(1, &["predict", &a0, folder, "--model", "best"]).contains("validation images"));

    // The report: plots, nothing from outside, nothing that runs.
    let report = fs::read_to_string(run("a0").join("report.html")).unwrap();
    assert!(report.matches("<svg").count() >= 8);
    // But for the bytes of pictures.
    let pieces = report.split("base64,");
    let words: String = pieces
        .map(|piece| {
            piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+/=".contains(c))
        })
        .collect();
    for absent in ["<script", "href=", "src=\"http", "NaN", "url("] {
        assert!(!words.contains(absent), "{absent}");
    }
    for wanted in [
        "SHIKE with 3 experts, resnet8 at 32 pixels",
        "Largest confusions",
        "Rare classes taken for more frequent ones",
        "Where experts look",
        "expert 2: ",
        "accuracy, test images",
    ] {
        assert!(report.contains(wanted), "{wanted}");
    }

    // A single expert is the model.
    let plain = fs::read_to_string(run("ce").join("report.html")).unwrap();
    for wanted in ["accuracy by group", ">model<", "Where the model looks"] {
        assert!(plain.contains(wanted), "{wanted}");
    }
    assert!(report.contains(">ensemble<"));
    assert!(!plain.contains("ensemble") && !plain.contains("expert 0"));

    // Written anew, it is the same; also for a run from before reports and receipts existed.
    let other = path("report.html");
    let said = works(&["report", &a0, "--out", &other]);
    assert_eq!(said.trim(), other);
    assert_eq!(fs::read_to_string(&other).unwrap(), report);
    fs::create_dir(run("old")).unwrap();
    for file in [
        "config.json",
        "classes.json",
        "metrics.jsonl",
        "model.safetensors",
    ] {
        fs::copy(run("a0").join(file), run("old").join(file)).unwrap();
    }
    works(&["report", &path("old")]);
    let old = fs::read_to_string(run("old").join("report.html")).unwrap();
    assert!(old.contains("This run has none.") && old.contains("Largest confusions"));
    fs::remove_file(run("old").join("model.safetensors")).unwrap();
    assert!(fails(1, &["report", &path("old")]).contains("has not ended"));
    assert!(fails(1, &["report", &path("data")]).contains("not the folder of a run"));

    // Scores: those of the run itself.
    let table = works(&["eval", &a0]);
    assert!(
        table.contains("95 % interval") && table.contains("calibration error"),
        "{table}"
    );
    let header = "model.safetensors on the run's test images, 4 classes\n";
    assert!(table.contains(header), "{table}");
    let json: Value = serde_json::from_str(&works(&["eval", &a0, "--json"])).unwrap();
    let rows = fs::read_to_string(run("a0").join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
    assert_eq!(json["evaluation"]["ensemble"]["top1"], last["test"]["top1"]);
    assert_eq!(json["evaluation"]["images"], 24);
    // Mirror images: beside the plain score.
    let flip = ["--tta", "flip"];
    let both = works(&["eval", &a0, flip[0], flip[1]]);
    assert!(both.starts_with(table.trim_end()), "{both}");
    let said = "--tta flip: the logits of each image and of its mirror image averaged";
    assert!(both.contains(said), "{both}");
    let json = works(&["eval", &a0, flip[0], flip[1], "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["tta"]["kind"], "flip");
    assert!(json["tta"]["scores"].is_object());
    let first = fs::read_to_string(data.join("test.txt")).unwrap();
    let first = first.lines().next().unwrap().rsplit_once(' ').unwrap().0;
    let picture = data.join(first).display().to_string();
    let words = ["predict", &a0, &picture, "--json", "--logits"];
    assert_ne!(works(&words), works(&[&words[..], &flip].concat()));
    let undecided = [&words[..], &flip, &["--unknown"]].concat();
    assert!(fails(2, &undecided).contains("--tta"));
    // A prior that wants one class only gets it.
    let prior = dir.path().join("prior.txt");
    fs::write(&prior, "1\n1e-30\n1e-30\n1e-30\n").unwrap();
    let prior = prior.to_str().unwrap();
    let json = works(&["eval", &a0, "--prior", prior, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["evaluation"]["per_class"][0]["accuracy"], 100.0);
    assert_eq!(json["evaluation"]["ensemble"]["top1"], 25.0);
    let list = data.join("test.txt");
    let output = shike(&["eval", &a0, "--list", list.to_str().unwrap()]);
    assert!(output.status.success() && output.stderr.is_empty());
    assert!(text(&output.stdout).contains("test.txt, 4 classes\n"));
    // Training pictures by another way to them, a test picture among them.
    let folder = format!("{}/../data", data.display());
    let mixed = path("mixed.txt");
    let of = |list: &str| fs::read_to_string(data.join(list)).unwrap();
    let test = of("test.txt").lines().next().unwrap().to_owned();
    fs::write(&mixed, of("train.txt") + &test).unwrap();
    let output = shike(&["eval", &a0, "--data", &folder, "--list", &mixed]);
    let trained = of("train.txt").lines().count();
    let warning = format!("{trained} of the {} images are among those", trained + 1);
    assert!(
        text(&output.stderr).contains(&warning),
        "{}",
        text(&output.stderr)
    );
    assert!(fails(1, &["eval", &a0, "--split", "val"]).contains("no validation images"));

    // Exported weights are read again.
    let weights = path("weights.safetensors");
    works(&["export", &a0, "--safetensors", &weights]);
    let bytes = fs::read(&weights).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(
        file.names()
            .iter()
            .any(|name| name.ends_with("running_var"))
    );
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let of = |key: &str| serde_json::from_str::<Value>(&metadata[key]).unwrap();
    assert_eq!(metadata["format"], "pt");
    assert_eq!(of("class_names").as_array().unwrap().len(), 4);
    assert!(of("normalization")["mean"].is_array(), "{metadata:?}");
    assert!(of("pipeline")["transforms"].is_array(), "{metadata:?}");
    // A run stands for its model, also as what training starts from.
    let starts = |weights: &str| {
        let run = path("started");
        let output = shike_train(
            &data,
            run.as_ref(),
            &format!("--weights {weights} --dry-run"),
        );
        (output.status.success(), text(&output.stderr))
    };
    let (fine, told) = starts(&a0);
    assert!(fine, "{told}");
    let (fine, told) = starts(&path("data"));
    assert!(!fine && told.contains("not the folder of a run"), "{told}");

    // Not over what the run needs.
    for own in ["model.safetensors", "config.json"] {
        let own = run("a0").join(own);
        let before = fs::read(&own).unwrap();
        let error = fails(2, &["export", &a0, "--safetensors", own.to_str().unwrap()]);
        assert!(error.contains("belongs to a run"), "{error}");
        assert!(fs::read(&own).unwrap() == before);
    }
    let wrong = ["--many-above", "5", "--few-below", "50"];
    fails(2, &[&["eval", a0.as_str()], &wrong[..]].concat());

    // Comparison: two seeds are one method.
    let (a1, ce) = (path("a1"), path("ce"));
    let json: Value = serde_json::from_str(&works(&["compare", &ce, &a0, &a1, "--json"])).unwrap();
    assert_eq!(json["methods"].as_array().unwrap().len(), 2);
    assert_eq!(json["methods"][1]["seeds"], serde_json::json!([0, 1]));
    let top1 = |name: &str| {
        let rows = fs::read_to_string(run(name).join("metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
        last["test"]["top1"].as_f64().unwrap()
    };
    let mean = (top1("a0") + top1("a1")) / 2.0;
    assert!((json["methods"][1]["mean"]["top1"].as_f64().unwrap() - mean).abs() < 1e-9);
    let difference = &json["differences"][0];
    let points = difference["points"]["top1"].as_f64().unwrap();
    assert!((points - (mean - top1("ce"))).abs() < 1e-9);
    let end = |which: &str| difference[which]["top1"].as_f64().unwrap();
    assert!(end("low") <= points && points <= end("high"));
    let compared = works(&["compare", &ce, &a0, &a1]);
    assert!(compared.contains("2 less 1"), "{compared}");
    assert!(compared.contains("other settings: "), "{compared}");
    assert!(compared.contains("a0 (2 seeds)"), "{compared}");
    let twice = data.join("../a0");
    let error = fails(1, &["compare", &a0, twice.to_str().unwrap()]);
    assert!(error.contains("given twice"), "{error}");
    // Not on other images, nor before the end.
    let scored = ScoredRun::read(&a0).unwrap();
    let mut other = scored.receipt.clone();
    other
        .test
        .as_mut()
        .unwrap()
        .sha256
        .replace_range(..4, "0000");
    let write = |receipt: &Receipt| {
        let json = serde_json::to_vec(receipt).unwrap();
        fs::write(run("a1").join("receipt.json"), json).unwrap();
    };
    // A seed once more is no seed more; other training images are another method.
    let mut again = scored.receipt.clone();
    write(&again);
    let compared = works(&["compare", &a0, &a1]);
    assert!(compared.contains("a0 (2 runs, 1 seed)"), "{compared}");
    again.train.sha256.replace_range(..4, "0000");
    write(&again);
    let compared = works(&["compare", &a0, &a1]);
    assert!(
        compared.contains("other settings: training images\n"),
        "{compared}"
    );
    // What another list chose a checkpoint on does not matter.
    again.train = scored.receipt.train.clone();
    again.val = again.test.clone();
    write(&again);
    works(&["compare", &a0, &a1]);
    write(&other);
    assert!(fails(1, &["compare", &a0, &a1]).contains("test lists differ"));
    fs::remove_file(run("a1").join("predictions.csv")).unwrap();
    assert!(fails(1, &["compare", &a0, &a1]).contains("has no scores yet"));
}

#[test]
fn backends_are_checked() {
    let line = works(&["backends", "--json"]);
    let found: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    assert_eq!(found["backend"], "flex");
    assert_eq!(found["works"], true);
    assert!(found["gflops"].as_f64().unwrap() > 0.1);
    let kernels = found["kernels"].as_str().unwrap();
    assert!(
        kernels.ends_with(": conv2d, batch_norm, loss, sgd, transformer, max_pool"),
        "{kernels}"
    );
    let mut portable = Command::new(env!("CARGO_BIN_EXE_shike"));
    portable
        .arg("backends")
        .env("SHIKE_KERNELS", "portable,conv2d");
    let said = portable.output().unwrap();
    assert!(
        String::from_utf8(said.stdout)
            .unwrap()
            .contains("kernels portable: conv2d\n")
    );
}

#[test]
#[cfg(not(feature = "mpi"))]
fn several_processes_need_the_feature() {
    let run = |words: &str, size| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
        command.args(words.split_whitespace());
        let output = command.env("OMPI_COMM_WORLD_SIZE", size).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for words in [
        "train --data nowhere --run nowhere-run",
        "embed nowhere --weights none --out nowhere.safetensors",
    ] {
        let (status, said) = run(words, "2");
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("the feature `mpi`"), "{said}");
        let (_, said) = run(words, "1");
        assert!(!said.contains("mpi") && said.contains("nowhere"), "{said}");
    }
}

//! From a folder of pictures and trained weights to a model, by a head on the frozen trunk.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{failure, resnet10_weights, said, success, text};
use serde_json::Value;
use shike::data::synthetic::{SyntheticConfig, generate};
use shike::infer::{Network, load_model};
use shike::train::run::RunPaths;

/// The program, which keeps features in a folder of their own.
fn shike<A: AsRef<std::ffi::OsStr>>(arguments: &[A]) -> std::process::Output {
    static CACHE: std::sync::LazyLock<tempfile::TempDir> =
        std::sync::LazyLock::new(|| tempfile::tempdir().unwrap());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shike"));
    command.env("SHIKE_CACHE", CACHE.path());
    command.args(arguments).output().unwrap()
}

/// Pictures in folders, and weights of a ResNet-10 that saw none of them.
fn fixture() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let config = SyntheticConfig {
        classes: 3,
        n_max: 12,
        imbalance_factor: 4.0,
        test_per_class: 3,
        size: 40,
        ..SyntheticConfig::default()
    };
    let drawn = generate(&folder.path().join("drawn"), &config).unwrap();
    let pictures = folder.path().join("pictures");
    for (part, list) in [("train", &drawn.train_list), ("test", &drawn.test_list)] {
        for line in fs::read_to_string(list).unwrap().lines() {
            let (path, class) = line.rsplit_once(' ').unwrap();
            let into = pictures.join(part).join(format!("class{class}"));
            fs::create_dir_all(&into).unwrap();
            let name = path.replace('/', "_");
            fs::copy(drawn.root.join(path), into.join(name)).unwrap();
        }
    }
    let path = folder.path().join("weights.safetensors");
    resnet10_weights(&path);
    (folder, pictures, path)
}

fn train(pictures: &Path, more: &str) -> std::process::Output {
    let mut words = vec![
        "train",
        "--data",
        pictures.to_str().unwrap(),
        "--image-size",
        "32",
    ];
    words.extend(["--device", "flex", "--workers", "2"]);
    words.extend(more.split_whitespace());
    shike(&words)
}

#[test]
fn one_command_from_pictures_to_a_model_and_predictions() {
    let (folder, pictures, weights) = fixture();
    let run = folder.path().join("run");
    let (run_name, weights) = (run.display(), weights.display());
    let output = train(&pictures, &format!("--weights {weights} --run {run_name}"));
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    for line in [
        "stays frozen",
        "resnet10",
        "chosen: ",
        "embedding the training set",
        "top-1",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let paths = RunPaths::new(&run);
    let (network, info) = load_model(&paths.model(), &Device::flex()).unwrap();
    let Network::Frozen(_, head) = network else {
        panic!("experts");
    };
    assert_eq!((head.classes(), head.width()), (3, 64 + 128 + 256 + 512));
    assert_eq!(info.model.backbone.name(), Some("resnet10"));
    let heads: Value = serde_json::from_str(&fs::read_to_string(paths.heads()).unwrap()).unwrap();
    assert!(heads["rows"].as_array().unwrap().len() > 20);

    // What was scored is what the model answers.
    let scored = fs::read_to_string(paths.predictions_csv()).unwrap();
    let test = pictures.join("test");
    let predicted = shike(&[
        "predict",
        run.to_str().unwrap(),
        test.to_str().unwrap(),
        "--json",
    ]);
    let (predicted, _) = success(&predicted);
    let lines = predicted
        .lines()
        .filter(|line| line.contains("probabilit"))
        .count();
    assert!(lines > 0 && scored.lines().count() == 10, "{predicted}");
    let (evaluated, _) = success(&shike(&["eval", run.to_str().unwrap(), "--json"]));
    let evaluated: Value = serde_json::from_str(&evaluated).unwrap();
    let top1 = format!("{:.2}", evaluated["top1"].as_f64().unwrap_or(f64::NAN));
    assert!(text(&output.stdout).contains(&top1), "{top1}: {told}");
    success(&shike(&["report", run.to_str().unwrap()]));
    let report = fs::read_to_string(paths.report()).unwrap();
    assert!(report.contains("compared on held-out") && report.contains("chosen: "));
    assert!(report.contains("from weights.safetensors, licence unknown"));

    // The same from the recipe that was written and from features that were kept; the files are equal bit for bit.
    let again = folder.path().join("again");
    let recipe = paths.recipe();
    let words = [
        "train",
        recipe.to_str().unwrap(),
        "--run",
        again.to_str().unwrap(),
    ];
    let (_, told) = success(&shike(&words));
    assert!(told.contains("21 images, 0 of them embedded now"), "{told}");
    let model = |run: &Path| fs::read(RunPaths::new(run).model()).unwrap();
    // Nothing is taken from the cache where it is to be left alone, or may not hold anything.
    for (name, option) in [("apart", "--no-cache"), ("small", "--cache-limit=0")] {
        let apart = folder.path().join(name);
        let words = [
            "train",
            recipe.to_str().unwrap(),
            "--run",
            apart.to_str().unwrap(),
            option,
        ];
        let (_, told) = success(&shike(&words));
        let now = if name == "apart" { 21 } else { 0 };
        let line = format!("21 images, {now} of them embedded now");
        assert!(told.contains(&line), "{line}: {told}");
        assert!(model(&run) == model(&apart));
    }
    assert!(model(&run) == model(&again));
    // The only expert is the model.
    assert!(!told.contains("expert 0"), "{told}");
    let recipe = fs::read_to_string(&recipe).unwrap();
    let known = "[weights_origin]\n# what is known of these weights";
    assert!(recipe.contains(known), "{recipe}");
    // There is nothing to do in one that is finished.
    let resume = ["train", "--resume", again.to_str().unwrap()];
    let before = fs::metadata(RunPaths::new(&again).model())
        .unwrap()
        .modified()
        .unwrap();
    let (_, told) = success(&shike(&resume));
    assert!(
        told.contains("is finished") && !told.contains("comparing"),
        "{told}"
    );
    let after = fs::metadata(RunPaths::new(&again).model())
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
    let mut longer = resume.to_vec();
    longer.extend(["--epochs", "5"]);
    let refused = failure(2, &shike(&longer));
    assert!(refused.contains("--epochs"), "{refused}");
    // And from the start of a run that was killed.
    fs::remove_file(RunPaths::new(&again).model()).unwrap();
    success(&shike(&["train", "--resume", again.to_str().unwrap()]));
    assert!(model(&run) == model(&again));
}

#[test]
fn heads_are_compared_without_what_belongs_together() {
    let (folder, pictures, weights) = fixture();
    let folder = folder.path();
    // Each picture twice.
    let twice = folder.join("twice");
    for class in ["class0", "class1", "class2"] {
        fs::create_dir_all(twice.join(class)).unwrap();
        for entry in fs::read_dir(pictures.join("train").join(class)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            for copy in ["", "again-"] {
                let into = twice.join(class).join(format!("{copy}{name}"));
                fs::copy(entry.path(), into).unwrap();
            }
        }
    }
    let run = folder.join("run");
    let (weights, run_name) = (weights.display(), run.display());
    let output = train(&twice, &format!("--weights {weights} --run {run_name}"));
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    let paths = RunPaths::new(&run);
    let trained = fs::read_to_string(paths.lists().join("train.txt")).unwrap();
    let pairs = trained.lines().count() / 2;
    let compared = format!(
        "heads on {} training pictures, 5 folds with {pairs} groups kept together",
        2 * pairs
    );
    assert!(told.contains(&compared), "{compared}: {told}");
    let heads: Value = serde_json::from_str(&fs::read_to_string(paths.heads()).unwrap()).unwrap();
    assert_eq!(heads["groups"], pairs);
    // So it is from the recipe, from the lists, on the pictures of folds, and where validation pictures are added.
    let lists = paths.lists();
    let list = |part: &str| lists.join(part).display().to_string();
    let recipe = paths.recipe();
    for (name, words) in [
        ("recipe", format!("train {}", recipe.display())),
        (
            "lists",
            format!(
                "train --data {} --train-list {} --test-list {} --weights {weights} --image-size 32",
                twice.display(),
                list("train.txt"),
                list("test.txt")
            ),
        ),
        ("refit", format!("train --refit {run_name}")),
        (
            "folds",
            format!(
                "train --data {} --weights {weights} --image-size 32 --folds 2",
                twice.display()
            ),
        ),
    ] {
        let other = folder.join(name);
        let words = format!("{words} --device flex --run {}", other.display());
        let words: Vec<&str> = words.split_whitespace().collect();
        let (_, told) = success(&shike(&words));
        assert!(told.contains("groups kept together"), "{name}: {told}");
    }
}

#[test]
fn options_about_training_fine_tune_and_contradict_a_frozen_recipe() {
    let (folder, pictures, weights) = fixture();
    let run = folder.path().join("run");
    let (weights, run_name) = (weights.display(), run.display());
    let tuned = format!(
        "--weights {weights} --epochs 1 --stage2-epochs 0 --experts 1 --batch-size 8 --run {run_name}"
    );
    let output = train(&pictures, &tuned);
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("stays frozen"), "{told}");
    assert!(RunPaths::new(&run).metrics_csv().exists());

    let output = train(&pictures, &format!("{tuned}2 --no-cache"));
    let refused = failure(2, &output);
    assert!(refused.contains("--no-cache has no effect"), "{refused}");

    let recipe = folder.path().join("frozen.toml");
    let frozen = format!("--weights {weights} --write-recipe {}", recipe.display());
    let output = train(&pictures, &frozen);
    assert!(output.status.success(), "{}", said(&output));
    let words = |more: &[&str]| {
        let mut words = vec!["train", recipe.to_str().unwrap()];
        words.extend(more);
        shike(&words)
    };
    let refused = failure(2, &words(&["--epochs", "3", "--run", "x"]));
    assert!(
        refused.contains("--epochs has no effect on a frozen trunk"),
        "{refused}"
    );
    let refused = failure(2, &words(&["--set", "stage1.epochs=3", "--run", "x"]));
    assert!(refused.contains("no effect beside `frozen`"), "{refused}");
    let refused = failure(
        2,
        &words(&["--set", "frozen.heads=[\"forest\"]", "--run", "x"]),
    );
    assert!(refused.contains("frozen.heads"), "{refused}");
    let refused = failure(
        2,
        &words(&["--set", "frozen.depths=[\"layer9\"]", "--run", "x"]),
    );
    assert!(refused.contains("layer9"), "{refused}");
    let (planned, _) = success(&words(&["--dry-run"]));
    assert!(planned.contains("images at"), "{planned}");
    // Weights of classes are looked up by name, and the trunk stays frozen.
    let weighted = folder.path().join("weighted");
    let weights = format!("--weights {weights} --run {}", weighted.display());
    let output = train(&pictures, &format!("{weights} --class-weight class3=2"));
    let refused = failure(2, &output);
    let names = "`class3`: it must be the name of a class, such as `class0`, `class1`, `class2`";
    assert!(refused.contains(names), "{refused}");
    let output = train(&pictures, &format!("{weights} --class-weight class1=1e6"));
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("stays frozen"), "{}", said(&output));
    let recipe_of = fs::read_to_string(RunPaths::new(&weighted).recipe()).unwrap();
    assert!(recipe_of.contains("class1 = 1000000"), "{recipe_of}");
    let predicted = fs::read_to_string(RunPaths::new(&weighted).predictions_csv()).unwrap();
    let predicted = predicted
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(3).unwrap());
    assert!(
        predicted.into_iter().all(|class| class == "1"),
        "all are class1"
    );
    // One head, at one depth.
    let one = folder.path().join("one");
    let set = [
        "--set",
        "frozen.heads=[\"class-means\"]",
        "--set",
        "frozen.depths=[\"layer4\"]",
    ];
    let mut more = set.to_vec();
    more.extend(["--run", one.to_str().unwrap()]);
    success(&words(&more));
    let heads = fs::read_to_string(RunPaths::new(&one).heads()).unwrap();
    assert!(
        heads.contains("layer4") && !heads.contains("layer3"),
        "{heads}"
    );
}

/// What the program says at a terminal where a person gives this answer; `None` where no terminal can be had.
fn at_a_terminal(folder: &Path, words: &str, answer: &str) -> Option<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let program = env!("CARGO_BIN_EXE_shike");
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{program} {words}"), "/dev/null"]);
    command.current_dir(folder).env("TORCH_HOME", folder);
    command.env("HF_HOME", folder).env("HF_HUB_OFFLINE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let mut input = child.stdin.take().unwrap();
    input.write_all(answer.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    Some(text(&output.stdout))
}

#[test]
fn a_person_at_a_terminal_is_asked_once() {
    let (folder, _, _) = fixture();
    let folder = folder.path();
    let checkpoints = folder.join("hub/checkpoints");
    fs::create_dir_all(&checkpoints).unwrap();
    fs::write(checkpoints.join("resnet18-f37072fd.pth"), "no weights").unwrap();
    let words = "train --data pictures --device flex --dry-run";
    let Some(told) = at_a_terminal(folder, words, "\n") else {
        println!("SKIPPED: there is no program `script`, which makes a terminal");
        return;
    };
    let question = "the weights resnet18 lie on this machine; fit a head on them? [y/N]";
    assert_eq!(told.matches(question).count(), 1, "{told}");
    assert!(told.contains("training from random weights"), "{told}");
    let told = at_a_terminal(folder, words, "y\n").unwrap();
    assert!(
        told.contains("resnet18-f37072fd.pth: the file is damaged"),
        "{told}"
    );
    // What says how to train, or names weights, leaves nothing to ask.
    for more in ["--weights none", "--arch resnet8 --epochs 1"] {
        let told = at_a_terminal(folder, &format!("{words} {more}"), "y\n").unwrap();
        assert!(!told.contains("[y/N]"), "{more}: {told}");
    }
    // Nor is anything asked without a terminal.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shike"));
    command
        .current_dir(folder)
        .env("TORCH_HOME", folder)
        .args(words.split_whitespace());
    let (_, told) = success(&command.output().unwrap());
    assert!(
        !told.contains("[y/N]") && told.contains("here lie resnet18"),
        "{told}"
    );
}

//! Pictures of one's own, from a folder to predictions, as somebody new would go: with nothing but
//! `--data`.
#![cfg(all(feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{failure, shike_in, success};
use serde_json::Value;
use shike::data::synthetic::{SyntheticConfig, generate};
use shike::train::run::RunPaths;

fn works(folder: &Path, words: &str) -> (String, String) {
    success(&shike_in(folder, words))
}

fn fails(folder: &Path, status: i32, words: &str) -> String {
    failure(status, &shike_in(folder, words))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// `pictures/<class>/*.JPEG`, long-tailed: 24, 12, 6 and 3 of them, a file that is no picture, a
/// picture that is there twice, and a class of one picture.
fn pictures(folder: &Path) {
    let config = SyntheticConfig {
        classes: 4,
        n_max: 24,
        imbalance_factor: 8.0,
        test_per_class: 1,
        ..SyntheticConfig::default()
    };
    generate(&folder.join("drawn"), &config).unwrap();
    let pictures = folder.join("pictures");
    fs::rename(folder.join("drawn/train"), &pictures).unwrap();
    let mut classes: Vec<_> = fs::read_dir(&pictures)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    classes.sort_by_key(|class| fs::read_dir(class).unwrap().count());
    let largest = classes.pop().unwrap();
    let mut files: Vec<_> = fs::read_dir(&largest)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    fs::write(largest.join("a broken one.jpg"), "<html>not found</html>").unwrap();
    fs::write(largest.join("phone.heic"), "").unwrap();
    fs::copy(&files[0], largest.join("copy.jpg")).unwrap();
    fs::create_dir(pictures.join("one only")).unwrap();
    fs::copy(&files[1], pictures.join("one only/single.jpg")).unwrap();
    fs::remove_file(&files[1]).unwrap();
}

/// As little as can be.
const TINY: &str =
    "--arch resnet8 --experts 2 --image-size 16 --epochs 1 --stage2-epochs 1 --device flex";

#[test]
fn from_a_folder_to_predictions() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);

    let (found, _) = works(dir, "inspect pictures");
    assert!(found.contains("files that cannot be read: 1"), "{found}");
    assert!(found.contains("a broken one.jpg: is HTML"), "{found}");

    let train = format!("train --data pictures --run run {TINY} --json");
    let (out, said) = works(dir, &train);
    // Each setting with its reason; what was asked for is said to be.
    for line in [
        "loader.batch_size",
        "train_pipeline",
        "are soon learnt by heart",
        "makes up for the frequencies of the classes",
        "--no-flip",
        "no class has more than 100 training images",
        "split: 1 picture cannot be read and is in no list",
        "split: 1 group of equal pictures",
        "not to be measured: one only",
        "class names are those of run/lists/classes.txt",
    ] {
        assert!(said.contains(line), "{line}:\n{said}");
    }
    let given = said
        .lines()
        .find(|line| line.starts_with("stage1.epochs"))
        .unwrap();
    assert!(given.ends_with("  by an option"), "{given}");

    // One object on standard output.
    let result = json(&out);
    assert_eq!(result["run"], "run");
    assert_eq!(result["outcome"], "finished");
    assert_eq!(result["scored"], "test");
    assert_eq!(result["best"]["stage"], 2);
    let test = &result["test"];
    assert!(test["groups"]["few"]["accuracy"].is_number(), "{result}");
    assert!(test["groups"]["few"]["interval"][1].is_number(), "{result}");
    assert!(result["val"]["top1"].is_number());

    // What was left out stays with the run, also of one that begins with its lists.
    let paths = RunPaths::new(dir.join("run"));
    let again = format!("train {} --run again --json", paths.recipe().display());
    works(dir, &again);
    let refit = "train --refit run --run refit --device flex";
    let (_, told) = works(dir, refit);
    assert!(
        told.contains("skipped: 1 .heic, 1 that cannot be read"),
        "{told}"
    );
    for run in ["run", "again", "refit"] {
        let paths = RunPaths::new(dir.join(run));
        let receipt = json(&fs::read_to_string(paths.receipt()).unwrap());
        let files = &receipt["left_out"]["train"]["files"];
        assert_eq!(
            files,
            &serde_json::json!({".heic": 1, "that cannot be read": 1})
        );
        let report = fs::read_to_string(paths.report()).unwrap();
        let line = "training folders: skipped: 1 .heic, 1 that cannot be read";
        assert!(report.contains(line), "{report}");
    }

    // No picture is in two lists, no broken one in any, and each class in the first.
    let list = |name: &str| fs::read_to_string(dir.join("run/lists").join(name)).unwrap();
    let lists = ["train.txt", "val.txt", "test.txt"].map(list);
    let all = lists.concat();
    assert!(!all.contains("a broken one"));
    // 24 + 12 + 6 + 3, and the copy.
    assert_eq!(all.lines().count(), 46);
    let unique: std::collections::BTreeSet<&str> = all.lines().collect();
    assert_eq!(unique.len(), 46);
    for label in 0..5 {
        assert!(
            lists[0]
                .lines()
                .any(|line| line.ends_with(&format!(" {label}")))
        );
    }
    assert_eq!(test["images"], lists[2].lines().count());

    // The recipe repeats the run to the byte, from another folder and without --data.
    let elsewhere = dir.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let recipe = "train ../run/recipe.toml --run again --device flex";
    let (table, said) = works(&elsewhere, recipe);
    assert!(
        table.contains("validation set, last epoch") && table.contains("\ntest set"),
        "{table}"
    );
    let model = |run: &str| fs::read(dir.join(run).join("model.safetensors")).unwrap();
    assert!(model("run") == model("elsewhere/again"), "{said}");
    // As does the same command.
    assert!(fails(dir, 1, &train).contains("already holds a run"));

    let (report, _) = works(dir, "report run --out report.html");
    assert_eq!(report.trim(), "report.html");
    let class = fs::read_dir(dir.join("pictures")).unwrap().next().unwrap();
    let class = class.unwrap().file_name().into_string().unwrap();
    if !class.contains(' ') {
        let (lines, _) = works(dir, &format!("predict run pictures/{class} --top 1 --json"));
        let classes = list("classes.txt");
        for line in lines.lines().map(json) {
            let named = line["classes"][0]["class"].as_str().unwrap();
            assert!(classes.lines().any(|class| class == named), "{named}");
        }
    }

    // Settings without a run, to be edited.
    works(
        dir,
        &format!("train --data pictures --write-recipe mine.toml {TINY}"),
    );
    let mine = fs::read_to_string(dir.join("mine.toml")).unwrap();
    assert!(mine.contains("\n# by an option\nepochs = 1\n"), "{mine}");
    assert!(dir.join("mine-lists/split.json").is_file());
    assert_eq!(
        fs::read_to_string(dir.join("mine-lists/train.txt")).unwrap(),
        lists[0]
    );
    let error = fails(
        dir,
        2,
        &format!("train --data pictures --write-recipe mine.toml {TINY}"),
    );
    assert!(error.contains("mine.toml exists already"), "{error}");
    // Any field of what is chosen, and what people try instead of --data.
    let set = "--write-recipe set.toml --set stage1.loss.kind=balanced_softmax";
    works(dir, &format!("train --data pictures {set} {TINY}"));
    let chosen = fs::read_to_string(dir.join("set.toml")).unwrap();
    assert!(chosen.contains("kind = \"balanced_softmax\""), "{chosen}");
    // A recipe is written with what options change of it; each setting says where it is from, as in a run.
    let merge =
        "train mine.toml --batch-size 8 --no-flip --set clip_norm=2 --write-recipe merged.toml";
    works(dir, merge);
    let merged = fs::read_to_string(dir.join("merged.toml")).unwrap();
    for line in [
        "# --batch-size\nbatch_size = 8\n",
        "# mine.toml\nepochs = 1\n",
        "# --no-flip\ntrain_pipeline = [",
        "# --set clip_norm=2\nclip_norm = 2.0\n",
    ] {
        assert!(merged.contains(line), "{line}\n{merged}");
    }
    works(dir, "train merged.toml --write-recipe same.toml");
    let again = fs::read_to_string(elsewhere.join("again/recipe.toml")).unwrap();
    assert!(
        again.contains("# ../run/recipe.toml\nepochs = 1\n"),
        "{again}"
    );
    let wrong = format!("train --data pictures --set stage1.epoch=3 {TINY}");
    assert!(fails(dir, 2, &wrong).contains("did you mean `epochs`?"));
    let error = fails(dir, 2, "train --data pictures --imbalance-factor 10");
    assert!(error.contains("cut CIFAR"), "{error}");
    let error = fails(dir, 2, "train pictures");
    assert!(error.contains("is it --data pictures?"), "{error}");

    works(dir, &format!("train --data pictures --dry-run {TINY}"));
    assert!(!dir.join("runs").exists());
    // A picture that is named and not there is told before the run.
    works(dir, "inspect pictures --split test=20% --out lists");
    let list = fs::read_to_string(dir.join("lists/train.txt")).unwrap();
    let lost = list.lines().next().unwrap().rsplit_once(' ').unwrap().0;
    fs::remove_file(dir.join("pictures").join(lost)).unwrap();
    let lists = "--train-list lists/train.txt --test-list lists/test.txt --max-bad-share 0.2";
    let dry = format!("train --data pictures {lists} --bad-images skip --dry-run {TINY}");
    let (_, said) = works(dir, &dry);
    assert!(
        said.contains("images cannot be used and will be replaced"),
        "{said}"
    );
}

#[test]
fn lists_of_ones_own_are_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    fs::create_dir_all(dir.join("project/lists")).unwrap();
    let own = dir.join("project/lists/train.txt");
    let other = dir.join("project/README");
    for path in [&own, &other] {
        fs::write(path, "my own").unwrap();
    }
    let train = |run: &str| format!("train --data pictures --run {run} {TINY}");
    assert!(fails(dir, 1, &train("project")).contains("not empty"));
    // A folder with nothing but a split is free for a run, of that split.
    fs::remove_file(&other).unwrap();
    fs::write(dir.join("project/lists/split.json"), "{}").unwrap();
    let error = fails(dir, 2, &train("project"));
    assert!(error.contains("holds lists of another split"), "{error}");
    assert_eq!(fs::read_to_string(&own).unwrap(), "my own");
    fs::rename(dir.join("project"), dir.join("mine-lists")).unwrap();
    fs::rename(
        dir.join("mine-lists/lists/train.txt"),
        dir.join("mine-lists/train.txt"),
    )
    .unwrap();
    let error = fails(
        dir,
        2,
        &format!("train --data pictures --write-recipe mine.toml {TINY}"),
    );
    assert!(
        error.contains("mine-lists holds lists of another split"),
        "{error}"
    );

    // Pictures that moved are found by their folder alone.
    works(dir, &train("run"));
    fs::rename(dir.join("pictures"), dir.join("moved")).unwrap();
    works(dir, "report run --data moved");
    works(dir, "train --resume run --data moved");

    // A limit is changed where there is one, and the policy that is there is not made stricter.
    let share = |more: &str| {
        let words = format!("train --data moved --write-recipe new.toml {more} {TINY}");
        works(dir, &words);
        let recipe = fs::read_to_string(dir.join("new.toml")).unwrap();
        fs::remove_file(dir.join("new.toml")).unwrap();
        fs::remove_dir_all(dir.join("new-lists")).unwrap();
        let (_, share) = recipe.split_once("max_share = ").unwrap();
        share.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(share("--bad-images skip"), "0.05");
    assert_eq!(share("--max-bad-share 0.2"), "0.2");
}

#[test]
fn several_seeds_go_on_where_they_were_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let train = format!("train --data pictures --run all --seeds 2 {TINY}");
    let (out, _) = works(dir, &format!("{train} --json"));
    let result = json(&out);
    assert_eq!(result["seeds"], serde_json::json!([0, 1]));
    assert_eq!(
        result["runs"],
        serde_json::json!(["all/seed0", "all/seed1"])
    );
    let top1 = |run: &str| {
        let rows = fs::read_to_string(dir.join(run).join("metrics.jsonl")).unwrap();
        json(rows.lines().last().unwrap())["test"]["top1"]
            .as_f64()
            .unwrap()
    };
    let (a, b) = (top1("all/seed0"), top1("all/seed1"));
    let number = |key: &str| result[key]["top1"].as_f64().unwrap();
    assert!((number("mean") - (a + b) / 2.0).abs() < 1e-9);
    // Of two numbers, with n - 1.
    assert!((number("deviation") - (a - b).abs() / 2f64.sqrt()).abs() < 1e-9);

    // A run that ended stays as it is; one that had not ended is trained again from its checkpoint.
    let model = |seed: u64| dir.join(format!("all/seed{seed}/model.safetensors"));
    let before = [0, 1].map(|seed| fs::read(model(seed)).unwrap());
    let time = fs::metadata(model(0)).unwrap().modified().unwrap();
    fs::remove_file(model(1)).unwrap();
    fs::remove_file(dir.join("all/seed1/receipt.json")).unwrap();
    let stage1 = dir.join("all/seed1/checkpoints");
    for entry in fs::read_dir(&stage1)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if entry
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("step-")
        {
            fs::remove_file(entry).unwrap();
        }
    }
    // Pictures that have come since do not matter: the split is there.
    fs::copy(
        dir.join("pictures/one only/single.jpg"),
        dir.join("pictures/one only/new.jpg"),
    )
    .unwrap();
    let (table, said) = works(dir, &train);
    assert!(said.contains("seed 0: all/seed0 has ended"), "{said}");
    assert!(said.contains("resuming at stage 2"), "{said}");
    assert!(table.contains('±'), "{table}");
    assert_eq!(time, fs::metadata(model(0)).unwrap().modified().unwrap());
    assert!(before == [0, 1].map(|seed| fs::read(model(seed)).unwrap()));

    // The folder of all is no run, and says which are.
    let error = fails(dir, 1, "predict all pictures");
    assert!(
        error.contains("it holds runs: name one, as all/seed0"),
        "{error}"
    );

    // Pictures that were moved: what to do, and that they were trained on.
    fs::rename(dir.join("pictures"), dir.join("moved")).unwrap();
    for command in ["eval", "report"] {
        let error = fails(dir, 1, &format!("{command} all/seed0"));
        assert!(error.contains("are not where they were"), "{error}");
        assert!(error.contains("give --data"), "{error}");
    }
    works(dir, "report all/seed0 --data moved");
    let lists = fs::read_to_string(dir.join("all/lists/train.txt")).unwrap();
    let warning = format!("warning: {} of the", lists.lines().count());
    // One of them is broken.
    let said = fails(dir, 1, "eval all/seed0 --data moved");
    assert!(said.contains(&warning), "{said}");
    let test = "eval all/seed0 --data moved --list all/lists/test.txt";
    let (_, said) = works(dir, test);
    assert!(!said.contains("warning"), "{said}");
    fs::rename(dir.join("moved"), dir.join("pictures")).unwrap();

    // Other settings are refused before anything is trained.
    let error = fails(dir, 2, &format!("{train} --lr 0.5"));
    assert!(
        error.contains("all/seed0 was begun with other settings (stage1.schedule"),
        "{error}"
    );
    let error = fails(dir, 2, &format!("train --data pictures --seeds 2 {TINY}"));
    assert!(error.contains("--run"), "{error}");
    // Nor are other pictures passed over because there is a split.
    fs::rename(dir.join("drawn/test"), dir.join("other")).unwrap();
    let other = format!("train --data other --run all --seeds 3 {TINY}");
    let error = fails(dir, 2, &other);
    assert!(error.contains("train on the split of pictures"), "{error}");
}

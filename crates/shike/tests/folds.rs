//! Folds, and a last run on the validation pictures as well.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{failure, resnet10_weights, success};
use serde_json::Value;
use shike::train::RunConfig;
use shike::train::run::RunPaths;

const TINY: &str =
    "--arch resnet8 --image-size 32 --epochs 1 --stage2-epochs 1 --experts 1 --batch-size 8";

fn shike(dir: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    command
        .current_dir(dir)
        .env("SHIKE_CACHE", dir.join("cache"));
    command.args(words.split_whitespace());
    command
        .args(["--device", "flex", "--workers", "1"])
        .output()
        .unwrap()
}

/// Pictures in folders: class, number, red. The first two of a class are equal.
fn pictures(dir: &Path, classes: &[(&str, u32, u32)]) {
    for &(class, number, red) in classes {
        let folder = dir.join("pictures").join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..number {
            let i = i.max(1);
            let shade = |x, y| image::Rgb([(x * red) as u8, (y * 5) as u8, (i * 11) as u8]);
            let image = image::RgbImage::from_fn(40, 40, shade);
            let name = if i == 1 && !folder.join("1.png").exists() {
                1
            } else {
                i
            };
            let name = if folder.join(format!("{name}.png")).exists() {
                0
            } else {
                name
            };
            image.save(folder.join(format!("{name}.png"))).unwrap();
        }
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_picture_is_held_out_once_and_the_counts_are_those_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir, &[("ant", 10, 7), ("bee", 6, 3), ("cicada", 1, 1)]);
    fs::write(dir.join("pictures/ant/phone.heic"), "not read").unwrap();
    fs::create_dir(dir.join("pictures/dodo")).unwrap();
    let words = format!("train --data pictures {TINY} --folds 3 --run cv --json");
    let (json, told) = success(&shike(dir, &words));
    let found: Value = serde_json::from_str(&json).unwrap();
    assert!(told.contains("17 pictures in 3 folds"), "{told}");
    // Nothing is left out without a word.
    assert!(told.contains("skipped: 1 .heic"), "{told}");
    assert!(told.contains("without an image: dodo"), "{told}");
    assert!(
        told.contains("trained on in every fold, and so not to be measured"),
        "{told}"
    );

    // Each picture but the cicada is in one test list, and equal ones are in the same.
    let mut held = BTreeMap::new();
    for fold in 0..3 {
        let lists = dir.join(format!("cv/lists/fold{fold}"));
        let [train, test] = ["train.txt", "test.txt"].map(|name| lines(&lists.join(name)));
        assert_eq!(train.len() + test.len(), 17);
        assert!(train.contains(&"cicada/1.png 2".to_owned()), "{train:?}");
        for line in test {
            assert!(!train.contains(&line));
            assert_eq!(held.insert(line, fold), None);
        }
    }
    assert_eq!(held.len(), 16);
    for (class, label) in [("ant", 0), ("bee", 1)] {
        let fold = |number| held[&format!("{class}/{number}.png {label}")];
        assert_eq!(fold(0), fold(1));
    }
    // Counts are those of the runs together.
    let mut right = [0, 0, 0];
    for fold in 0..3 {
        let run = RunPaths::new(dir.join(format!("cv/fold{fold}")));
        assert!(run.report().is_file());
        for (_, score) in run.read_predictions().unwrap() {
            right[score.label as usize] += usize::from(score.is_correct());
        }
    }
    assert_eq!(found["images"], 16);
    for (class, (right, images)) in right.into_iter().zip([10, 6, 0]).enumerate() {
        let row = &found["per_class"][class];
        assert_eq!(
            (&row["correct"], &row["test_count"]),
            (&right.into(), &images.into())
        );
    }
    let share = 100.0 * (right[0] + right[1]) as f64 / 16.0;
    let top1 = found["all"]["top1"].as_f64().unwrap();
    assert!((top1 - share).abs() < 1e-9, "{top1} {share}");
    assert_eq!(found["scores"].as_array().unwrap().len(), 3);
    assert_eq!(lines(&dir.join("cv/predictions.csv")).len(), 17);
    let by_class = lines(&dir.join("cv/per_class.csv"));
    assert_eq!(by_class.len(), 4);
    // Predictions do not tell it.
    assert!(by_class[0].ends_with("precision,f1"), "{by_class:?}");
    let report = fs::read_to_string(dir.join("cv/report.html")).unwrap();
    for text in [
        "3 folds: ",
        "16 pictures, each scored once by the run that held it out; 1 class was in no test",
        "training folders: skipped: 1 .heic",
        "Accuracy on the pictures that were held out",
        "All pictures together",
        "95 % interval",
        "fold2",
        "<td>cicada</td>",
    ] {
        assert!(report.contains(text), "{text}");
    }
    assert!(!report.contains("NaN"));

    // The same command does nothing again, and another number of folds is refused.
    let (again, told) = success(&shike(dir, &words));
    assert_eq!(told.matches("has ended").count(), 3, "{told}");
    assert_eq!(again, json);
    let refused = failure(2, &shike(dir, &words.replace("folds 3", "folds 4")));
    assert!(refused.contains("was dealt into 3 folds"), "{refused}");
    let (text, _) = success(&shike(dir, &words.replace(" --json", "")));
    for part in [
        "3 folds",
        "all pictures",
        "95 % interval",
        "cicada",
        "1 class was in no test",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_frozen_trunk_is_folded_and_refitted_with_features_that_are_embedded_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir, &[("ant", 20, 7), ("bee", 20, 3)]);
    resnet10_weights(&dir.join("weights.safetensors"));
    let common = "train --data pictures --weights weights.safetensors --image-size 32";
    let (_, told) = success(&shike(dir, &format!("{common} --folds 2 --run cv")));
    let embedded = told.matches(" 0 of them embedded now").count();
    assert_eq!(embedded, 2, "the second fold knows all: {told}");

    let (_, told) = success(&shike(dir, &format!("{common} --run one")));
    assert!(told.contains("0 of them embedded now"), "{told}");
    let (_, told) = success(&shike(dir, "train --refit one --run all"));
    assert!(
        told.contains("28 training and 4 validation pictures together"),
        "{told}"
    );
    let paths = RunPaths::new(dir.join("all"));
    assert_eq!(paths.read_classes().unwrap().train_counts, [16, 16]);
    let receipt = paths.read_receipt().unwrap();
    assert_eq!((receipt.train.images, receipt.val), (32, None));
    assert_eq!(receipt.test.map(|test| test.images), Some(8));
    // The head is that which the run chose.
    let chosen = |run: &str| {
        let heads = fs::read_to_string(dir.join(run).join("heads.json")).unwrap();
        let heads: Value = serde_json::from_str(&heads).unwrap();
        let row = &heads["rows"][heads["chosen"].as_u64().unwrap() as usize];
        (
            row["candidate"]["head"].clone(),
            row["candidate"]["depths"].clone(),
        )
    };
    assert_eq!(chosen("all"), chosen("one"));
}

/// A place of a path is counted from the folder whose folders are classes, in whatever part they lie.
#[test]
fn folds_of_given_parts_keep_groups_over_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (part, sites) in [("train", 0..4), ("val", 2..6)] {
        for (site, class) in sites.flat_map(|site| [(site, "ant"), (site, "bee")]) {
            let folder = dir.join(format!("pictures/{part}/{class}/site{site}"));
            fs::create_dir_all(&folder).unwrap();
            for i in 0..3u8 {
                let colour = image::Rgb([site * 40, i * 50, u8::from(class == "ant") * 90]);
                let image = image::RgbImage::from_pixel(40, 40, colour);
                image.save(folder.join(format!("{part}{i}.png"))).unwrap();
            }
        }
    }
    let (_, told) = success(&shike(
        dir,
        &format!("train --data pictures {TINY} --folds 2 --group-by path:2 --run cv"),
    ));
    assert!(
        told.contains("no group of path:2 lies in two folds"),
        "{told}"
    );
    assert!(!told.contains("folders below others"), "{told}");
    // What is not taken is said, in whatever lists of the parts are written anew.
    for file in ["train/ant/a.heic", "val/bee/b.heic"] {
        fs::write(dir.join("pictures").join(file), "").unwrap();
    }
    let few = format!("train --data pictures {TINY} --max-images 5 --write-recipe few.toml");
    let (_, told) = success(&shike(dir, &few));
    assert_eq!(told.matches("skipped: 2 .heic").count(), 1, "{told}");
    let sites = |list: &str| -> std::collections::BTreeSet<String> {
        let lines = lines(&dir.join("cv/lists").join(list)).into_iter();
        let site = lines.map(|line| line.split('/').nth(2).unwrap().to_owned());
        site.collect()
    };
    for fold in 0..2 {
        let [train, test] = ["train", "test"].map(|list| sites(&format!("fold{fold}/{list}.txt")));
        assert_eq!((train.len(), test.len()), (3, 3));
        assert!(train.is_disjoint(&test), "{train:?} {test:?}");
    }
}

#[test]
fn a_refit_has_the_settings_of_its_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir, &[("ant", 20, 7), ("bee", 20, 3)]);
    success(&shike(
        dir,
        &format!("train --data pictures {TINY} --run one"),
    ));
    let (out, told) = success(&shike(dir, "train --refit one --run all"));
    assert!(told.contains("no validation score belongs to it"), "{told}");
    assert!(
        out.contains("test set, last epoch"),
        "the test pictures are scored: {out}"
    );
    let config = |run: &str| {
        RunConfig::read(&RunPaths::new(dir.join(run)))
            .unwrap()
            .train
    };
    assert_eq!(config("all"), config("one"));
    let paths = RunPaths::new(dir.join("all"));
    let receipt = paths.read_receipt().unwrap();
    assert_eq!((receipt.train.images, receipt.val), (32, None));
    assert_eq!(receipt.scored, Some(shike::data::Part::Test));
    assert!(!paths.best().exists());
    // None of the test pictures was trained on.
    let [train, test] =
        ["train.txt", "test.txt"].map(|name| lines(&dir.join("all/lists").join(name)));
    assert!(test.iter().all(|line| !train.contains(line)) && test.len() == 8);

    let refused = failure(2, &shike(dir, "train --refit one --run x --epochs 3"));
    assert!(
        refused.contains("--refit trains with the settings of one/config.json"),
        "{refused}"
    );
    let refused = failure(2, &shike(dir, "train --refit all --run x"));
    assert!(refused.contains("has no validation pictures"), "{refused}");
    let refused = failure(1, &shike(dir, "train --refit pictures --run x"));
    assert!(refused.contains("not the folder of a run"), "{refused}");
    assert!(!dir.join("x").exists());
}

#[test]
fn a_run_does_not_go_on_with_other_classes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir, &[("ant", 4, 7), ("bee", 4, 3), ("cow", 4, 1)]);
    let given = |part: &str| dir.join("given").join(part);
    for part in ["train", "val"] {
        let copied = pictures_of(&dir.join("pictures"), &given(part));
        assert_eq!(copied, 12);
    }
    success(&shike(dir, &format!("train --data given {TINY} --run one")));
    // Fewer pictures are said, and no obstacle to a refit.
    fs::remove_file(given("train/ant/3.png")).unwrap();
    let (_, told) = success(&shike(dir, "train --refit one --run all"));
    assert!(
        told.contains(
            "the training images are not those of the run, by its receipt.json (12 then, 11 now)"
        ),
        "{told}"
    );
    for part in ["train", "val"] {
        fs::remove_dir_all(given(part).join("bee")).unwrap();
        pictures_of(&dir.join("pictures/bee"), &given(part).join("dog"));
    }
    for words in ["train --refit one --run x", "train --resume one"] {
        let refused = failure(1, &shike(dir, words));
        assert!(
            refused.contains("other classes than the run (gone: bee; new: dog)"),
            "{words}: {refused}"
        );
    }
}

/// Copies a folder of pictures; how many.
fn pictures_of(from: &Path, into: &Path) -> usize {
    fs::create_dir_all(into).unwrap();
    let copy = |entry: fs::DirEntry| {
        let (from, into) = (entry.path(), into.join(entry.file_name()));
        match from.is_dir() {
            true => pictures_of(&from, &into),
            false => fs::copy(from, into).map(|_| 1).unwrap(),
        }
    };
    fs::read_dir(from)
        .unwrap()
        .map(|entry| copy(entry.unwrap()))
        .sum()
}

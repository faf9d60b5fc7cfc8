//! `shike inspect` as scripts meet it: exit codes, JSON, and lists that `shike train` reads.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{said, shike_in};
use shike::data::synthetic::{SyntheticConfig, generate};

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
    let run = |words: &str| shike_in(dir.path(), words);
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
        code("inspect . --train-list missing.txt --test-list missing.txt --split val=9% --out x"),
        Some(2)
    );

    // Pictures of no class.
    let hint = "is a class like any other";
    assert!(!said(&fine).contains(hint), "{}", said(&fine));
    let none = dir.path().join("pictures/None_of-these");
    fs::create_dir(&none).unwrap();
    fs::write(none.join("0.png"), include_bytes!("indexed_trns.png")).unwrap();
    let plan = "train --data pictures --weights none --write-recipe plan.toml";
    for words in ["inspect pictures", plan] {
        let text = said(&run(words));
        assert!(
            text.contains(&format!("`None_of-these` {hint}")),
            "{words}: {text}"
        );
    }
    fs::remove_dir_all(none).unwrap();

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
    let output = shike_in(dir.path(), "inspect data --json");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["subsets"][1]["subset"], "val");

    // A name that nobody reads is no class, and is not left out without a word.
    fs::rename(data.join("valid"), data.join("tests")).unwrap();
    for command in ["inspect data", "train --data data"] {
        let output = shike_in(dir.path(), command);
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
            let output = shike_in(dir.path(), command);
            assert_eq!(output.status.code(), Some(1), "{command}");
            let text = said(&output);
            assert!(
                text.contains("Test and Train here are no classes"),
                "{text}"
            );
        }
    }
}

/// Whatever a folder holds, inspect and train say the same of it.
#[test]
fn folders_mean_one_thing_to_every_command() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let at = |path: &str| dir.path().join(path);
    let class = fs::read_dir(at("pictures")).unwrap().next().unwrap();
    let class = class.unwrap().file_name().into_string().unwrap();
    let both_say = |data: &str, says: &str| {
        for command in ["inspect", "train --data"] {
            let output = shike_in(dir.path(), &format!("{command} {data}"));
            assert_eq!(output.status.code(), Some(1), "{command}");
            assert!(said(&output).contains(says), "{command}: {}", said(&output));
        }
    };
    // A part beside class folders.
    fs::create_dir_all(at("pictures/test")).unwrap();
    fs::rename(
        at("pictures").join(&class),
        at("pictures/test").join(&class),
    )
    .unwrap();
    both_say(
        "pictures",
        "test here is no class: folders of such names are parts",
    );
    fs::rename(
        at("pictures/test").join(&class),
        at("pictures").join(&class),
    )
    .unwrap();
    fs::remove_dir(at("pictures/test")).unwrap();
    // Unlabelled test pictures.
    fs::create_dir_all(at("data/test")).unwrap();
    fs::rename(at("pictures"), at("data/train")).unwrap();
    let image = fs::read_dir(at("data/train").join(&class)).unwrap().next();
    let image = image.unwrap().unwrap().path();
    fs::copy(&image, at("data/test/1.jpg")).unwrap();
    both_say("data", "data/test: holds 1 image in no class folder");

    // Empty class folders, and whatever else lies there.
    fs::create_dir(at("data/test").join(&class)).unwrap();
    for class in ["data/test/first", "data/train/gnu"] {
        fs::create_dir(at(class)).unwrap();
    }
    fs::remove_dir(at("data/test/first")).unwrap();
    fs::copy(&image, at("data/test").join(&class).join("1.jpg")).unwrap();
    fs::write(at("data/train/gnu/a.heic"), "").unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&shike_in(dir.path(), "inspect data --json").stdout).unwrap();
    let wanted = serde_json::json!({
        "train": {"files": {".heic": 1}, "empty_classes": ["gnu"], "folders": []},
        "test": {"files": {"in no class folder": 1}, "empty_classes": [], "folders": []},
    });
    assert_eq!(json["left_out"], wanted);
    assert_eq!(json["pixels"]["looked_at"], 20 + 8 + 4 + 1);
    let tiny = "--arch resnet8 --experts 2 --image-size 32 --batch-size 4 --dry-run";
    let output = shike_in(dir.path(), &format!("train --data data {tiny}"));
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for line in [
        "training: skipped: 1 .heic (convert it first, as with ImageMagick: `magick in.heic out.jpg`); class folders without an image: gnu",
        "test: skipped: 1 in no class folder",
        "test: 1 of 1 images equal training images",
        "32 training images, 3 classes",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }

    // Runs beside class folders would become a class: said before anything is read.
    let output = shike_in(&at("data/train"), "train --data .");
    assert_eq!(output.status.code(), Some(2));
    let text = said(&output);
    assert!(
        text.starts_with("error: the run's folder runs would lie in ."),
        "{text}"
    );
}

/// 12 bits in 16, a turn by EXIF, and the shape.
#[test]
fn pixels_that_are_not_taken_as_they_are_meant_are_told() {
    use image::{ImageBuffer, Luma};
    let dir = tempfile::tempdir().unwrap();
    for class in ["a", "b"] {
        let folder = dir.path().join("deep").join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..12u16 {
            let grey = |x: u32, y: u32| Luma([300 + 10 * i + (x + y) as u16]);
            let image = ImageBuffer::from_fn(80, 40, grey);
            image.save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
    let wide = "are so wide or tall that the square in their middle holds less than two thirds of them (50 % of \
                the median picture)";
    let text = said(&shike_in(dir.path(), "inspect deep"));
    for line in [
        "24 of 24 have 16 bits a channel, of which the upper 8 are taken; 24 of 24 that were decoded use \
         less than an eighth of the range",
        wide,
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let tiny = "--arch resnet8 --experts 2 --image-size 32 --batch-size 4 --dry-run";
    let text = said(&shike_in(dir.path(), &format!("train --data deep {tiny}")));
    for line in ["training pictures: ", wide, "all of each is seen (pad)"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // The values of nearly all of their pixels are stretched, and the lines say so.
    let options = "--range auto --fit squash";
    let text = said(&shike_in(
        dir.path(),
        &format!("train --data deep {options} {tiny}"),
    ));
    for line in [
        "of which the values 308 to 520 become black to white",
        "all of each is seen (squash)",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn the_printed_command_takes_the_lists() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let split = "inspect pictures --split val=10%,test=20% --out lists --json";
    let output = shike_in(dir.path(), split);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let command = found["split"]["command"].as_str().unwrap();
    assert_eq!(
        command,
        "shike train --data pictures --train-list lists/train.txt --val-list lists/val.txt \
         --test-list lists/test.txt --run runs/first"
    );
    let other = "inspect pictures --split val=10%,test=20% --out others --few-below 5";
    let text = said(&shike_in(dir.path(), other));
    assert!(
        text.contains("of the classes in the training list are"),
        "{text}"
    );
    let again = shike_in(dir.path(), split);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("already"), "{}", said(&again));

    // The lists are a data set of their own, without an image in two of them.
    let lists = command
        .trim_start_matches("shike train --data ")
        .replace("--run runs/first", "");
    let output = shike_in(dir.path(), &format!("inspect {lists} --strict --json"));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&shike_in(dir.path(), &format!("inspect {lists}")));
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
    let output = shike_in(dir.path(), &dry_run);
    assert!(output.status.success(), "{}", said(&output));
    fs::write(dir.path().join("names.txt"), "one\ntwo\ntwo\n").unwrap();
    let output = shike_in(dir.path(), &(dry_run + " --class-names names.txt"));
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
        let output = shike_in(Path::new("."), &format!("{command} --help"));
        assert_eq!(output.status.code(), Some(0));
        let text = said(&output);
        let (_, examples) = text.split_once("\nExample").unwrap();
        assert!(examples.contains(&format!("\n  shike {command}")), "{text}");
    }
}

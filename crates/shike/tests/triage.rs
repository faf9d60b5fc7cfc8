//! Which pictures of a run to look at first.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{failure, resnet10_weights, success};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use shike_data::rng::{Draw, Purpose, rng};

/// Blurred noise of a colour.
fn picture(seed: u64, colour: [u32; 3]) -> RgbImage {
    let mut draw = rng(seed, 0, 0, Purpose::Other);
    let coarse = RgbImage::from_fn(9, 7, |_, _| {
        let light = 100 + draw.below(156);
        image::Rgb(colour.map(|part| (part * light as u32 / 255) as u8))
    });
    resize(&coarse, 64, 48, FilterType::CatmullRom)
}

/// Pictures of `red`, `green` and `blue` and one of `white`, among them `wrong-…` that lie in the folder of another class and a
/// smaller copy of a red one that lies in `blue`; and weights of a network that saw none of them.
fn fixture() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = 0;
    let mut save = |class: &str, name: &str, colour| {
        let into = folder.path().join("pictures").join(class);
        fs::create_dir_all(&into).unwrap();
        seed += 1;
        picture(seed, colour).save(into.join(name)).unwrap();
    };
    let (red, green, blue) = ([255, 40, 40], [40, 255, 40], [40, 40, 255]);
    for (class, colour, n) in [("red", red, 24), ("green", green, 12), ("blue", blue, 7)] {
        for i in 0..n {
            save(class, &format!("{i:02}.png"), colour);
        }
    }
    save("white", "0.png", [255; 3]);
    save("green", "wrong-red.png", red);
    save("blue", "wrong-green.png", green);
    save("red", "wrong-blue.png", blue);
    let pictures = folder.path().join("pictures");
    let copied = image::open(pictures.join("red/05.png")).unwrap().to_rgb8();
    let copy = resize(&copied, 40, 30, FilterType::Triangle);
    copy.save(pictures.join("blue/copy.png")).unwrap();
    let path = folder.path().join("weights.safetensors");
    resnet10_weights(&path);
    (folder, path)
}

/// The program in a folder, which keeps features in `cache` there.
fn shike(folder: &Path, words: &str) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shike"));
    command.current_dir(folder);
    command.env("SHIKE_CACHE", folder.join("cache"));
    command.args(words.split_whitespace()).output().unwrap()
}

/// The lines of a CSV file by the names of their columns.
fn lines(file: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(file).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

/// What stands in these columns, in a word each.
fn cells(lines: &[BTreeMap<String, String>], columns: &[&str]) -> Vec<String> {
    let line = |line: &BTreeMap<String, String>| {
        let cells: Vec<&str> = columns.iter().map(|name| &*line[*name]).collect();
        cells.join(" ")
    };
    lines.iter().map(line).collect()
}

#[test]
fn wrong_labels_and_twins_come_first_class_by_class() {
    let (folder, _) = fixture();
    let folder = folder.path();
    let train = "train --data pictures --weights weights.safetensors --image-size 32 --device flex --run run";
    success(&shike(folder, train));
    let receipt = fs::read(folder.join("run/receipt.json")).unwrap();
    // It was whole when it was trained on.
    fs::write(folder.join("pictures/green/03.png"), "cut").unwrap();
    let (told, _) = success(&shike(folder, "triage run --device flex"));
    for line in [
        "46 of 47 pictures were judged",
        "belong together, or there is one: white",
        "look alike under two labels: 1",
        "cannot be read: 1",
        "written: run/triage.csv, run/triage_classes.csv, run/triage.html",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let rows = lines(&folder.join("run/triage.csv"));
    let first: Vec<String> = cells(
        &rows,
        &[
            "path",
            "class",
            "rank",
            "reason",
            "suggested",
            "twin",
            "twin_class",
        ],
    );
    for row in [
        "blue/copy.png blue 1 label+twin red red/05.png red",
        "blue/wrong-green.png blue 2 label green  ",
        "green/wrong-red.png green 1 label red  ",
        "red/wrong-blue.png red 1 label blue  ",
        "red/05.png red 2 twin  blue/copy.png blue",
        "green/03.png green 2 unreadable   ",
    ] {
        assert!(first.contains(&row.to_owned()), "{row}: {first:#?}");
    }
    assert_eq!(rows.len(), 6, "{first:#?}");
    for row in rows.iter().filter(|row| !row["suggested"].is_empty()) {
        let number = |name: &str| row[name].parse::<f64>().unwrap();
        assert!(number("suggested_probability") > number("label_probability"));
    }
    let classes = lines(&folder.join("run/triage_classes.csv"));
    let classes = cells(
        &classes,
        &[
            "class",
            "images",
            "judged",
            "doubted",
            "twins",
            "unreadable",
        ],
    );
    assert_eq!(
        classes,
        [
            "white 1 0 0 0 0",
            "blue 9 9 2 1 0",
            "green 12 12 1 0 1",
            "red 25 25 1 1 0"
        ]
    );
    let page = fs::read_to_string(folder.join("run/triage.html")).unwrap();
    assert_eq!(page.matches("src=\"data:image/jpeg;base64,").count(), 7);
    assert!(!page.contains("http"), "nothing from outside");
    let place = |text: &str| page.find(text).unwrap();
    assert!(place("<h2>blue") < place("<h2>green") && place("<h2>green") < place("<h2>red"));
    assert!(page.contains("looks like red/05.png, which is labelled red"));
    assert_eq!(fs::read(folder.join("run/receipt.json")).unwrap(), receipt);

    // Pictures that were moved, and a page that cannot be written.
    fs::rename(folder.join("pictures"), folder.join("moved")).unwrap();
    let refused = failure(1, &shike(folder, "triage run --device flex"));
    assert!(
        refused.contains("not where they were") && refused.contains("--data"),
        "{refused}"
    );
    let before = fs::read(folder.join("run/triage.csv")).unwrap();
    success(&shike(folder, "triage run --data moved --device flex"));
    assert_eq!(fs::read(folder.join("run/triage.csv")).unwrap(), before);
    fs::remove_file(folder.join("run/triage.html")).unwrap();
    fs::create_dir(folder.join("run/triage.html")).unwrap();
    let refused = failure(1, &shike(folder, "triage run --data moved --device flex"));
    // Before anything is embedded, and with nothing written.
    assert!(
        refused.starts_with("error: cannot write run/triage.html: is a directory"),
        "{refused}"
    );
    fs::remove_dir(folder.join("run/triage.html")).unwrap();

    // For programs.
    let (out, _) = success(&shike(
        folder,
        "triage run --data moved --device flex --json",
    ));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["pairs"], 1);
    assert_eq!(json["files"][2], "run/triage.html");
    let picture = &json["pictures"][0];
    assert_eq!(
        [
            &picture["path"],
            &picture["reason"],
            &picture["part"],
            &picture["twin"]
        ],
        ["blue/copy.png", "label+twin", "val", "red/05.png"]
    );
    assert_eq!(json["pictures"].as_array().unwrap().len(), 6);
    let classes = json["classes"].as_array().unwrap();
    let judged: Vec<u64> = classes
        .iter()
        .map(|class| class["judged"].as_u64().unwrap())
        .collect();
    assert_eq!(judged, [0, 9, 12, 25]);

    // A class of which no picture is left.
    fs::remove_dir_all(folder.join("moved/blue")).unwrap();
    let (told, _) = success(&shike(folder, "triage run --data moved --device flex"));
    for line in [
        "37 of 38 pictures were judged",
        "classes without a picture that can be read, which are left out: blue",
        "cannot be read: 10",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let classes = lines(&folder.join("run/triage_classes.csv"));
    assert_eq!(
        cells(&classes, &["class", "images", "unreadable"]),
        ["white 1 0", "blue 0 9", "green 12 1", "red 25 0"]
    );
}

/// A data set whose parts are given.
#[test]
fn a_class_that_is_gone_from_its_folder_is_left_out() {
    let (folder, _) = fixture();
    let folder = folder.path();
    fs::create_dir_all(folder.join("pictures/train")).unwrap();
    for class in ["red", "green", "blue", "white"] {
        let [from, into, test] =
            ["", "train/", "test/"].map(|part| folder.join(format!("pictures/{part}{class}")));
        fs::rename(from, &into).unwrap();
        fs::create_dir_all(&test).unwrap();
        if class != "white" {
            fs::rename(into.join("00.png"), test.join("00.png")).unwrap();
        }
    }
    let train = "train --data pictures --weights weights.safetensors --image-size 32 --device flex --run run";
    success(&shike(folder, train));
    let (before, _) = success(&shike(folder, "eval run --device flex --json"));
    for gone in ["red/wrong-blue.png", "white/0.png"] {
        fs::remove_file(folder.join("pictures/train").join(gone)).unwrap();
    }
    fs::remove_dir_all(folder.join("pictures/train/blue")).unwrap();
    let (told, warned) = success(&shike(folder, "triage run --device flex"));
    assert!(
        warned.contains(
            "the training images are not those of the run, by its receipt.json (45 then, 35 now)"
        ),
        "{warned}"
    );
    // The test picture of blue is all that there is of it.
    for line in [
        "37 of 38 pictures were judged",
        "belong together, or there is one: blue\n",
        "which are left out: white\n",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let classes = lines(&folder.join("run/triage_classes.csv"));
    assert_eq!(
        cells(&classes, &["class", "training_images", "images"]),
        ["blue 0 1", "white 0 0", "green 12 13", "red 23 24"]
    );
    // What is tested is as it was, and the model has its classes.
    let (after, _) = success(&shike(folder, "eval run --device flex --json"));
    assert_eq!(after, before);
    success(&shike(folder, "report run --device flex"));
    // A class that the run does not know is an error that names it.
    fs::create_dir(folder.join("pictures/train/grey")).unwrap();
    picture(99, [128; 3])
        .save(folder.join("pictures/train/grey/0.png"))
        .unwrap();
    let refused = failure(1, &shike(folder, "triage run --device flex"));
    assert!(
        refused.contains("pictures/train/grey: is no class of the training set"),
        "{refused}"
    );
}

#[test]
fn a_network_that_was_trained_on_the_labels_does_not_judge_them() {
    let (folder, _) = fixture();
    let folder = folder.path();
    let refused = failure(1, &shike(folder, "triage pictures"));
    assert!(refused.contains("pictures"), "{refused}");
    let train = "train --data pictures --weights none --arch resnet8 --image-size 32 --epochs 1 --stage2-epochs 0 \
                 --experts 1 --device flex --run run";
    success(&shike(folder, train));
    for own in ["", " --weights run/model.safetensors"] {
        let words = format!("triage run --device flex{own}");
        let refused = failure(2, &shike(folder, &words));
        assert!(refused.contains("was trained on these labels"), "{refused}");
        assert!(refused.contains("--weights dinov2_s14"), "{refused}");
    }
    success(&shike(
        folder,
        "triage run --device flex --weights weights.safetensors",
    ));
    let rows = lines(&folder.join("run/triage.csv"));
    let doubted: Vec<_> = rows
        .iter()
        .filter(|row| !row["suggested"].is_empty())
        .cloned()
        .collect();
    assert_eq!(
        cells(&doubted, &["path", "suggested"]),
        [
            "blue/copy.png red",
            "blue/wrong-green.png green",
            "green/wrong-red.png red",
            "red/wrong-blue.png blue"
        ]
    );
    // Pictures that a program made.
    let config = folder.join("run/config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["data"] = serde_json::Value::Null;
    fs::write(&config, json.to_string()).unwrap();
    let refused = failure(
        2,
        &shike(
            folder,
            "triage run --device flex --weights weights.safetensors",
        ),
    );
    assert!(
        refused.contains("made by a program") && refused.contains("--data"),
        "{refused}"
    );
}

#[test]
fn what_the_split_kept_together_is_held_out_together() {
    let (folder, _) = fixture();
    let folder = folder.path();
    let train = "train --data pictures --group-by path:(blue)/ --weights weights.safetensors --image-size 32 \
                 --device flex --run run";
    success(&shike(folder, train));
    let (told, _) = success(&shike(folder, "triage run --device flex"));
    // Neither `white` and `blue` nor the red picture that has a twin in `blue`.
    assert!(told.contains("37 of 48 pictures were judged"), "{told}");
    assert!(told.contains("or there is one: white, blue\n"), "{told}");
    let rows = lines(&folder.join("run/triage.csv"));
    let twins = rows.iter().filter(|row| row["reason"] == "twin");
    assert!(twins.clone().all(|row| row["label_probability"].is_empty()));
    assert_eq!(twins.count(), 2);

    // A run that was renamed, and another in its place: lists and groups are its own.
    let scores = |run: &str| success(&shike(folder, &format!("eval {run} --device flex --json"))).0;
    let before = scores("run");
    fs::rename(folder.join("run"), folder.join("old")).unwrap();
    let again = "train --data pictures --min-images 5 --weights weights.safetensors --image-size 32 --device flex --run run";
    success(&shike(folder, again));
    assert_eq!(scores("old"), before);
    let (renamed, _) = success(&shike(folder, "triage old --device flex"));
    assert_eq!(renamed.replace("old/", "run/"), told);
    // Other lists than those that it was trained on.
    let list = folder.join("old/lists/test.txt");
    let lines = fs::read_to_string(&list).unwrap();
    let cut = lines.split_once('\n').unwrap().1;
    fs::write(&list, cut).unwrap();
    let (_, warned) = success(&shike(folder, "eval old --device flex"));
    let images = cut.lines().count();
    let warning = format!(
        "warning: the test images are not those of the run, by its receipt.json ({} then, {images} now)",
        images + 1
    );
    assert!(warned.contains(&warning), "{warned}");
    fs::copy(
        folder.join("run/lists/classes.txt"),
        folder.join("old/lists/classes.txt"),
    )
    .unwrap();
    failure(1, &shike(folder, "eval old --device flex"));
}

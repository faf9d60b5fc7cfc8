//! Runs whose time is bounded.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{failure, resnet10_weights, said, shike_in, success};
use serde_json::Value;

const TINY: &str = "--device flex --workers 1 --image-size 32";

/// Pictures in folders: classes of 12 and 6, split when they are trained on.
fn pictures(dir: &Path) {
    for (class, number, red) in [("ant", 12, 7), ("bee", 6, 3)] {
        let folder = dir.join("pictures").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..number {
            let shade =
                |x: u32, y: u32| image::Rgb([(x * red) as u8, (y * 5) as u8, (i * 13) as u8]);
            let name = folder.join(format!("{i}.png"));
            image::RgbImage::from_fn(40, 40, shade).save(name).unwrap();
        }
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn epochs_follow_from_the_time_and_the_run_is_at_its_end_within_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    let began = Instant::now();
    let long =
        format!("train --data pictures --arch resnet8 {TINY} --epochs 100000 --time 6s --run run");
    let output = shike_in(dir, &long);
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(began.elapsed() < Duration::from_secs(30), "{told}");
    for line in [
        "training from random weights costs 20 to 25 points of accuracy",
        "epochs in place of 100000 + 11111: as many as --time has room for",
        "on this machine (measured on a few pictures) an epoch of stage 1 about",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(dir.join("run/report.html").exists() && dir.join("run/model.safetensors").exists());
    let config = read(&dir.join("run/config.json"));
    let epochs = |stage: &str| config["train"][stage]["epochs"].as_u64().unwrap();
    let [first, second] = ["stage1", "stage2"].map(epochs);
    assert!(
        (1..100_000).contains(&first) && (1..=first.max(5)).contains(&second),
        "{told}"
    );
    let total = config["train"]["stage1"]["schedule"]["total_epochs"].as_u64();
    assert_eq!(total, Some(first));
    // The recipe repeats it without a limit.
    let recipe = std::fs::read_to_string(dir.join("run/recipe.toml")).unwrap();
    assert!(recipe.contains(&format!("epochs = {first}")), "{recipe}");
}

#[test]
fn what_cannot_be_done_in_time_does_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    pictures(dir);
    resnet10_weights(&dir.join("weights.safetensors"));
    for (how, says) in [
        ("--arch resnet8", "one epoch of each stage takes about"),
        (
            "--weights weights.safetensors --epochs 3",
            "one epoch of each stage takes about",
        ),
        (
            "--weights weights.safetensors --no-cache",
            "18 of 18 pictures are to be embedded",
        ),
    ] {
        let words = format!("train --data pictures {how} {TINY} --time 1ms --run run");
        let refused = failure(2, &shike_in(dir, &words));
        assert!(refused.contains("--time does not suffice"), "{refused}");
        assert!(refused.contains(says), "{says}: {refused}");
        assert!(!dir.join("run/config.json").exists());
    }
    let wrong = failure(
        2,
        &shike_in(dir, &format!("train --data pictures {TINY} --time 30")),
    );
    assert!(wrong.contains("--time"), "{wrong}");
    // Features that are kept take no time.
    let cache = dir.join("cache");
    let frozen = |more: &str| {
        let words = format!("train --data pictures --weights weights.safetensors {TINY} {more}");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shike"));
        command.current_dir(dir).env("SHIKE_CACHE", &cache);
        command.args(words.split_whitespace()).output().unwrap()
    };
    let (_, told) = success(&frozen("--time 10m --run one"));
    assert!(
        told.contains("embedding all pictures takes about"),
        "{told}"
    );
    let (told, _) = success(&frozen("--time 10m --dry-run"));
    assert!(told.contains("embedding 0 of 18 images"), "{told}");
}

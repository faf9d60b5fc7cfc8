//! The program as people and scripts meet it: what it says, and how it ends.
#![allow(dead_code, clippy::unwrap_used)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use shike::data::synthetic::SyntheticSet;

pub fn shike<A: AsRef<OsStr>>(arguments: &[A]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    command.args(arguments).output().unwrap()
}

/// In a folder, with words that have no spaces.
pub fn shike_in(folder: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    command.current_dir(folder).args(words.split_whitespace());
    command.output().unwrap()
}

/// The options that name a drawn set.
pub fn lists(set: &SyntheticSet) -> Vec<String> {
    let options = [
        ("--data", &set.root),
        ("--train-list", &set.train_list),
        ("--test-list", &set.test_list),
    ];
    let words = options.map(|(option, path)| [option.to_owned(), path.display().to_string()]);
    words.concat()
}

/// Weights of a ResNet-10 that saw none of the pictures, with other classes.
#[cfg(feature = "flex")]
pub fn resnet10_weights(path: &Path) {
    let backbone = shike::model::BackboneConfig::named("resnet10").unwrap();
    let config = shike::model::ShikeConfig::plain(backbone, 9);
    let device = burn::tensor::Device::flex();
    let model = config.init_seeded(&device, 5).unwrap();
    shike::model::weights::export(&model, path, 0).unwrap();
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output and standard error.
pub fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

/// Standard output and standard error of a command that has to succeed.
#[track_caller]
pub fn success(output: &Output) -> (String, String) {
    assert!(output.status.success(), "{}", said(output));
    (text(&output.stdout), text(&output.stderr))
}

/// Standard error of a command that has to end with this status.
#[track_caller]
pub fn failure(status: i32, output: &Output) -> String {
    assert_eq!(output.status.code(), Some(status), "{}", said(output));
    text(&output.stderr)
}

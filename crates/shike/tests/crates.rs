//! Which crate may use which (docs/DESIGN.md): arrows run down, and those that need no Burn have none.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Every crate of the workspace, with those of the others that it may use, in tests too.
const MAY_USE: &[(&str, &[&str])] = &[
    ("shike-kernels", &[]),
    ("shike-data", &[]),
    ("shike-heads", &["shike-data"]),
    ("shike-hub", &[]),
    ("shike-model", &["shike-kernels"]),
    ("shike-infer", &["shike-data", "shike-heads", "shike-model"]),
    (
        "shike-train",
        &["shike-data", "shike-heads", "shike-model", "shike-infer"],
    ),
    (
        "shike",
        &[
            "shike-data",
            "shike-heads",
            "shike-hub",
            "shike-model",
            "shike-infer",
            "shike-train",
        ],
    ),
];

/// Whether a line of a source has an option's name, outside comments.
fn names_an_option(line: &str) -> bool {
    let code = !line.trim_start().starts_with("//");
    // It begins a word: `models--owner` is none.
    let mut options = line.match_indices("--").map(|(at, _)| line.split_at(at));
    let is_one = |(before, option): (&str, &str)| {
        let begun = !before.ends_with(|c: char| c.is_alphanumeric());
        begun && option[2..].starts_with(|c: char| c.is_ascii_lowercase())
    };
    code && options.any(is_one)
}

fn sources(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The rooms of `shike-train`, in their order: one may use those before it.
const ROOMS: [&str; 5] = ["config", "run", "recipe", "learner", "report"];

#[test]
fn rooms_use_those_before_them() {
    let train = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shike-train/src");
    let mut found = vec![];
    for (at, room) in ROOMS.iter().enumerate() {
        let mut files = vec![];
        sources(&train.join(room), &mut files);
        assert!(files.len() > 3, "{room}");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let up = |line: &&str| {
                ROOMS[at + 1..]
                    .iter()
                    .any(|room| line.contains(&format!("crate::{room}::")))
            };
            found.extend(
                code.filter(up)
                    .map(|line| format!("{}: {line}", file.display())),
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Libraries speak of fields; the program knows which option sets one.
#[test]
fn no_library_names_an_option() {
    assert!(names_an_option("    \"try --batch-size 4\""));
    assert!(!names_an_option("    /// `--batch-size`") && !names_an_option("a -- b"));
    assert!(!names_an_option("\"models--owner\""));
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (mut found, mut read) = (vec![], 0);
    for (name, _) in MAY_USE.iter().filter(|(name, _)| *name != "shike") {
        let mut files = vec![];
        sources(&crates.join(name).join("src"), &mut files);
        for file in files {
            read += 1;
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = text.lines().enumerate();
            let lines = lines.filter(|(_, line)| names_an_option(line));
            found.extend(lines.map(|(n, line)| format!("{}:{}: {line}", file.display(), n + 1)));
        }
    }
    assert!(read > 100, "{read} files are not all");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

#[test]
fn crates_use_only_those_below_them() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {error}");
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = vec![];
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        let row = MAY_USE.iter().find(|(member, _)| *member == name);
        let (_, may_use) = row.unwrap_or_else(|| panic!("{name}: which crates may it use?"));
        for used in list(&package["dependencies"]) {
            let used = text(&used["name"]);
            if MAY_USE.iter().any(|(member, _)| *member == used) {
                assert!(may_use.contains(&used), "{name} may not use {used}");
                found.push((name, used));
            }
        }
    }
    assert!(found.contains(&("shike", "shike-train")), "{found:?}");
}

/// `cargo test` takes dependencies without assertions; each crate of ours has to ask for its own.
#[test]
fn tests_check_assertions_of_every_crate() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let manifest: toml::Value =
        toml::from_str(&std::fs::read_to_string(manifest).unwrap()).unwrap();
    for (name, _) in MAY_USE {
        let settings = &manifest["profile"]["test"]["package"][*name];
        for setting in ["debug-assertions", "overflow-checks"] {
            assert_eq!(settings[setting].as_bool(), Some(true), "{name}: {setting}");
        }
    }
}

#[test]
fn data_and_hub_are_built_without_burn() {
    #[derive(serde::Deserialize)]
    struct Package {
        name: String,
        #[serde(default)]
        dependencies: Vec<String>,
    }
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
    let lock = std::fs::read_to_string(lock).unwrap();
    let mut lock: BTreeMap<String, toml::Value> = toml::from_str(&lock).unwrap();
    let packages: Vec<Package> = lock.remove("package").unwrap().try_into().unwrap();
    // All versions of a package are taken as one.
    let built_from = |name: &str| {
        let (mut names, mut open) = (BTreeSet::new(), vec![name.to_owned()]);
        while let Some(name) = open.pop() {
            let same = packages.iter().filter(|package| package.name == name);
            let used = same.flat_map(|package| &package.dependencies);
            if names.insert(name.clone()) {
                open.extend(used.map(|used| used.split(' ').next().unwrap().to_owned()));
            }
        }
        names
    };
    let burn = |name: &&String| name.starts_with("burn");
    for name in ["shike-data", "shike-hub"] {
        assert_eq!(built_from(name).iter().find(burn), None, "{name}");
    }
    // The search finds what is there.
    assert!(built_from("shike-data").contains("zune-core"));
    assert!(built_from("shike-model").iter().any(|name| burn(&name)));
}

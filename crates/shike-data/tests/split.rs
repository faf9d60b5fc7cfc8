//! Properties of a split, and its files.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shike_data::inspect::{Depth, InspectConfig, inspect};
use shike_data::split::{SplitConfig, SplitError, SplitRecord, assign, plan};
use shike_data::{Dataset, Part, image_folder_as_found, list_file, list_file_like};
use xxhash_rust::xxh3::xxh3_128;

/// Labels, and groups of equal images over some of them.
fn images() -> impl Strategy<Value = (Vec<u32>, Vec<Vec<usize>>)> {
    let labels = prop::collection::vec(0..5u32, 1..200);
    labels.prop_flat_map(|labels| {
        let n = labels.len();
        // Each image draws a group; half of them none.
        let draw = prop::collection::vec(prop::option::of(0..n), n);
        (Just(labels), draw).prop_map(|(labels, drawn)| {
            let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (i, group) in drawn.into_iter().enumerate() {
                if let Some(group) = group {
                    groups.entry(group).or_default().push(i);
                }
            }
            let groups = groups
                .into_values()
                .filter(|group| group.len() > 1)
                .collect();
            (labels, groups)
        })
    })
}

fn config() -> impl Strategy<Value = SplitConfig> {
    (0.0..0.5, 0.001..0.49, 1..4usize, 0..3u64).prop_map(|(val, test, min_per_class, seed)| {
        SplitConfig {
            val,
            test,
            min_per_class,
            seed,
        }
    })
}

/// The same cases in every run; `PROPTEST_RNG_SEED` draws others.
fn cases() -> ProptestConfig {
    let mut config = ProptestConfig::with_cases(200);
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(2304);
    }
    config
}

fn count(labels: &[u32], parts: &[Part], label: u32, part: Part) -> usize {
    labels
        .iter()
        .zip(parts)
        .filter(|&(&l, &p)| l == label && p == part)
        .count()
}

proptest! {
    #![proptest_config(cases())]

    /// Without duplicates a class gets what [`SplitConfig::counts`] says, and that lies within
    /// one image of the shares wherever training has its least number anyway.
    #[test]
    fn shares_hold_within_rounding((labels, _) in images(), config in config()) {
        let parts = assign(&labels, &[], &config).unwrap();
        prop_assert_eq!(parts.len(), labels.len());
        for label in 0..5 {
            let n = labels.iter().filter(|&&l| l == label).count();
            let got = [Part::Train, Part::Val, Part::Test]
                .map(|part| count(&labels, &parts, label, part));
            prop_assert_eq!(got, config.counts(n).unwrap());
            prop_assert_eq!(got.iter().sum::<usize>(), n);
            prop_assert!(got[0] >= config.min_per_class.min(n));
            let shares = [1.0 - config.val - config.test, config.val, config.test];
            if got[0] > config.min_per_class {
                for (count, share) in got.into_iter().zip(shares) {
                    // A millionth of rounding in each share.
                    let off = (count as f64 - share * n as f64).abs();
                    prop_assert!(off < 1.0 + 1e-3, "{got:?} of {n}, {shares:?}");
                }
            }
        }
    }

    /// Equal images are in one part, those of several labels in training; no part but training
    /// gets more than its number; and nothing hangs on anything but the arguments.
    #[test]
    fn duplicates_stay_together((labels, groups) in images(), config in config()) {
        let parts = assign(&labels, &groups, &config).unwrap();
        prop_assert_eq!(&parts, &assign(&labels, &groups, &config).unwrap());
        for group in &groups {
            let held: BTreeSet<Part> = group.iter().map(|&i| parts[i]).collect();
            prop_assert_eq!(held.len(), 1);
            let of: BTreeSet<u32> = group.iter().map(|&i| labels[i]).collect();
            prop_assert!(of.len() == 1 || held.contains(&Part::Train));
        }
        for label in 0..5 {
            let n = labels.iter().filter(|&&l| l == label).count();
            let [_, val, test] = config.counts(n).unwrap();
            prop_assert!(count(&labels, &parts, label, Part::Val) <= val);
            prop_assert!(count(&labels, &parts, label, Part::Test) <= test);
            let train = count(&labels, &parts, label, Part::Train);
            prop_assert!(train >= config.min_per_class.min(n));
        }
    }
}

#[test]
fn groups_fill_up_a_part_and_the_seed_matters() {
    // Fifty pairs: the parts get exactly their shares, as long as pairs fit.
    let pairs: Vec<Vec<usize>> = (0..50).map(|i| vec![2 * i, 2 * i + 1]).collect();
    let config = SplitConfig::default();
    let parts = assign(&[0; 100], &pairs, &config).unwrap();
    let sizes = [Part::Train, Part::Val, Part::Test].map(|p| count(&[0; 100], &parts, 0, p));
    assert_eq!(sizes, [80, 10, 10]);
    let other = SplitConfig { seed: 1, ..config };
    assert_ne!(parts, assign(&[0; 100], &pairs, &other).unwrap());
    // A class has the same split whether others are there or not.
    let labels: Vec<u32> = (0..200).map(|i| i % 2).collect();
    let alone = assign(&[1; 100], &[], &config).unwrap();
    let both = assign(&labels, &[], &config).unwrap();
    let of_1: Vec<Part> = both.into_iter().skip(1).step_by(2).collect();
    assert_eq!(of_1, alone);
}

#[test]
fn the_rule_by_examples() {
    let counts = |val, test, min_per_class, n| {
        let config = SplitConfig {
            val,
            test,
            min_per_class,
            seed: 0,
        };
        config.counts(n).unwrap()
    };
    assert_eq!(counts(0.1, 0.1, 1, 0), [0, 0, 0]);
    assert_eq!(counts(0.1, 0.1, 1, 4), [3, 0, 1]); // .4 each: test first
    assert_eq!(counts(0.1, 0.1, 1, 6), [5, 0, 1]); // 4.8, .6, .6: the .8 first, then test
    assert_eq!(counts(0.1, 0.1, 1, 7), [5, 1, 1]);
    assert_eq!(counts(0.4, 0.4, 1, 2), [1, 0, 1]); // validation gives back
    assert_eq!(counts(0.4, 0.4, 1, 1), [1, 0, 0]);
    assert_eq!(counts(0.3, 0.3, 8, 10), [8, 1, 1]);
    assert_eq!(counts(0.3, 0.3, 20, 10), [10, 0, 0]);
    // 100 * 0.29 is 28.999… in floating point.
    assert_eq!(counts(0.0, 0.29, 1, 100), [71, 0, 29]);
}

#[test]
fn wrong_settings_are_named() {
    let error = |val, test, min_per_class| {
        let config = SplitConfig {
            val,
            test,
            min_per_class,
            seed: 0,
        };
        config.counts(10).unwrap_err().to_string()
    };
    assert!(error(-0.1, 0.1, 1).starts_with("val: is -0.1"));
    assert!(error(f64::NAN, 0.1, 1).starts_with("val: is NaN"));
    assert!(error(0.1, 10.0, 1).starts_with("test: is 10"));
    assert!(error(0.5, 0.5, 1).contains("nothing for training"));
    assert!(error(0.0, 1e-9, 1).contains("nothing to split"));
    assert!(error(0.1, 0.1, 0).starts_with("min_per_class: is 0"));
    let groups = |groups: &[Vec<usize>]| {
        let result = assign(&[0, 0, 0], groups, &SplitConfig::default());
        result.unwrap_err().to_string()
    };
    assert!(groups(&[vec![0, 3]]).contains("image 3 of 3"));
    assert!(groups(&[vec![0, 1], vec![1, 2]]).contains("image 1 is in two groups"));
}

fn picture(path: &Path, number: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let colour = [(number % 256) as u8, (number / 256) as u8, 5];
    RgbImage::from_pixel(8, 8, Rgb(colour)).save(path).unwrap();
}

fn planned(root: &Path, config: &SplitConfig) -> Result<shike_data::split::SplitPlan, SplitError> {
    let data = image_folder_as_found(root, &[]).unwrap();
    let whole = InspectConfig {
        depth: Depth::Full,
        ..InspectConfig::default()
    };
    let found = inspect(&[(Part::Train, data.clone())], &whole, &|_| {}).unwrap();
    plan(&data, &found, config)
}

/// Forty pictures of `big cat`, ten of `hérisson`, two of `rare`, with a label conflict, a
/// duplicate, a broken file, an empty class and a class with broken files only.
fn tree(root: &Path) {
    let mut number = 0;
    for (class, n) in [("big cat", 40), ("hérisson", 10), ("rare", 2)] {
        for i in 0..n {
            number += 1;
            picture(&root.join(class).join(format!("photo {i:02}.png")), number);
        }
    }
    let copy = |from: &str, to: &str| fs::copy(root.join(from), root.join(to)).unwrap();
    copy("big cat/photo 00.png", "big cat/a copy.png");
    copy("big cat/photo 01.png", "hérisson/a copy.png");
    fs::write(root.join("rare/broken.jpg"), "").unwrap();
    fs::create_dir_all(root.join("dodo")).unwrap();
    fs::create_dir_all(root.join("auk")).unwrap();
    fs::write(root.join("auk/1.jpg"), "").unwrap();
}

fn paths(data: &Dataset) -> BTreeSet<String> {
    (0..data.len())
        .map(|i| data.relative_path(i).unwrap().to_owned())
        .collect()
}

#[test]
fn classes_that_are_numbers_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("pictures");
    for class in 0..11 {
        for i in 0..3 {
            picture(&root.join(format!("{class}/{i}.png")), 3 * class + i);
        }
    }
    let config = SplitConfig {
        val: 0.0,
        test: 0.3,
        ..SplitConfig::default()
    };
    let out = dir.path().join("lists");
    planned(&root, &config).unwrap().write(&out, false).unwrap();
    let classes = fs::read_to_string(out.join("classes.txt")).unwrap();
    assert_eq!(classes, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
    let train = list_file(&root, out.join("train.txt"), None, None).unwrap();
    assert_eq!(train.class_names()[9..], ["9", "10"]);
}

#[test]
fn the_lists_are_read_back_and_hold_every_readable_image_once() {
    let dir = tempfile::tempdir().unwrap();
    let (root, out) = (dir.path().join("my pictures"), dir.path().join("lists"));
    tree(&root);
    let config = SplitConfig {
        val: 0.2,
        test: 0.2,
        ..SplitConfig::default()
    };
    let planned_once = planned(&root, &config).unwrap();
    planned_once.write(&out, false).unwrap();

    let train = list_file(&root, out.join("train.txt"), None, None).unwrap();
    let like = |name| list_file_like(&root, out.join(name), &train).unwrap();
    let (val, test) = (like("val.txt"), like("test.txt"));
    assert_eq!(train.class_names(), ["big cat", "hérisson", "rare"]);
    let classes = fs::read_to_string(out.join("classes.txt")).unwrap();
    assert_eq!(classes, "big cat\nhérisson\nrare\n");
    // 41, 11 and 2 images by the rule; a pair across classes is in training.
    assert_eq!(val.class_counts(), [8, 2, 0]);
    assert_eq!(test.class_counts(), [8, 2, 1]);
    assert_eq!(train.class_counts(), [25, 7, 1]);
    let all: Vec<BTreeSet<String>> = [&train, &val, &test].map(paths).into();
    let union: BTreeSet<&String> = all.iter().flatten().collect();
    assert_eq!(union.len(), 54);
    assert_eq!(all.iter().map(BTreeSet::len).sum::<usize>(), 54);
    assert!(all[0].contains("big cat/photo 01.png") && all[0].contains("hérisson/a copy.png"));
    let pair = ["big cat/photo 00.png", "big cat/a copy.png"];
    assert!(
        all.iter()
            .any(|list| pair.iter().all(|&path| list.contains(path)))
    );

    // Nothing is in two lists for an inspection of the result either.
    let subsets = [(Part::Train, train), (Part::Val, val), (Part::Test, test)];
    let found = inspect(&subsets, &InspectConfig::default(), &|_| {}).unwrap();
    assert_eq!(found.problems, []);

    let text = fs::read_to_string(out.join("split.json")).unwrap();
    let record: SplitRecord = serde_json::from_str(&text).unwrap();
    assert_eq!(&record, planned_once.record());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in [
        "format",
        "format_version",
        "data",
        "val",
        "test",
        "min_per_class",
        "seed",
        "lists",
        "classes",
        "duplicates",
        "left_out",
    ] {
        assert!(value.get(key).is_some(), "{key}");
    }
    for (part, name) in [
        ("train", "train.txt"),
        ("val", "val.txt"),
        ("test", "test.txt"),
    ] {
        let bytes = fs::read(out.join(name)).unwrap();
        let hash = format!("{:032x}", xxh3_128(&bytes));
        assert_eq!(value["lists"][part]["xxh3_128"], hash);
        assert_eq!(value["lists"][part]["file"], name);
    }
    assert_eq!(record.left_out.classes, ["auk", "dodo"]);
    let left: Vec<&str> = record
        .left_out
        .images
        .iter()
        .map(|image| &*image.file)
        .collect();
    assert_eq!(left, ["auk/1.jpg", "rare/broken.jpg"]);
    assert_eq!(
        (record.duplicates.groups, record.duplicates.across_classes),
        (2, 1)
    );

    // Again, elsewhere: the same bytes.
    let again = dir.path().join("again");
    planned(&root, &config)
        .unwrap()
        .write(&again, false)
        .unwrap();
    for name in [
        "train.txt",
        "val.txt",
        "test.txt",
        "classes.txt",
        "split.json",
    ] {
        assert_eq!(
            fs::read(out.join(name)).unwrap(),
            fs::read(again.join(name)).unwrap()
        );
    }
}

#[test]
fn a_split_is_not_overwritten_unless_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (root, out) = (dir.path().join("data"), dir.path().join("out"));
    tree(&root);
    planned(&root, &SplitConfig::default())
        .unwrap()
        .write(&out, false)
        .unwrap();
    let before = fs::read(out.join("train.txt")).unwrap();
    let other = planned(
        &root,
        &SplitConfig {
            val: 0.0,
            test: 0.3,
            ..Default::default()
        },
    )
    .unwrap();
    let error = other.write(&out, false).unwrap_err().to_string();
    assert!(error.contains("train.txt exists already"), "{error}");
    assert_eq!(fs::read(out.join("train.txt")).unwrap(), before);
    other.write(&out, true).unwrap();
    assert_ne!(fs::read(out.join("train.txt")).unwrap(), before);
    // The list of a part that is no longer there would belong to another split.
    assert!(!out.join("val.txt").exists());
    let names: BTreeSet<_> = fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn what_cannot_be_split_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    for i in 0..3 {
        picture(&root.join(format!("a/{i}.png")), i);
    }
    let config = SplitConfig::default();
    let error = planned(&root, &config).unwrap_err().to_string();
    assert!(
        error.contains("image to val (the largest has 3)"),
        "{error}"
    );
    let config = SplitConfig {
        val: 0.0,
        test: 0.4,
        ..config
    };
    let plan_of_three = planned(&root, &config).unwrap();
    for inside in ["lists", "a/lists", "not/yet/there"] {
        let error = plan_of_three.write(&root.join(inside), false).unwrap_err();
        assert!(matches!(error, SplitError::Inside { .. }), "{error}");
    }
    assert!(!root.join("lists").exists());
    plan_of_three.write(&root.join(".lists"), false).unwrap();
    plan_of_three.write(&root, false).unwrap();

    fs::write(root.join("a/0.png"), "").unwrap();
    fs::write(root.join("a/1.png"), "").unwrap();
    fs::write(root.join("a/2.png"), "").unwrap();
    let error = planned(&root, &config).unwrap_err().to_string();
    assert_eq!(error, "no image can be read");

    let memory = Dataset::from_pixels(vec![0; 3], 1, 1, vec![0], 1).unwrap();
    let found = inspect(
        &[(Part::Train, memory.clone())],
        &InspectConfig::default(),
        &|_| {},
    );
    let error = plan(&memory, &found.unwrap(), &config)
        .unwrap_err()
        .to_string();
    assert!(error.contains("images in memory"), "{error}");
}

#[cfg(unix)]
#[test]
fn names_that_a_list_cannot_hold_are_refused() {
    for (name, says) in [
        ("line\nbreak", "line break"),
        ("\u{feff}mark", "space"),
        ("c:", "absolute"),
        ("x\\..\\y", "`..`"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        picture(&dir.path().join(name).join("1.png"), 1);
        let config = SplitConfig {
            val: 0.0,
            test: 0.5,
            ..SplitConfig::default()
        };
        let error = planned(dir.path(), &config).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("1.png"), "{error}");
    }
}

#[test]
fn real_photos() {
    let Some(samples) = common::shared("split real_photos", "data/imagenet-samples") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let archive = fs::File::open(samples.join("images.tar")).unwrap();
    tar::Archive::new(archive).unpack(dir.path()).unwrap();
    let mut root = dir.path().to_owned();
    while let [only] = &fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect::<Vec<_>>()[..]
    {
        root = only.clone();
    }
    // Three classes out of many small ones: each would lack images of its own.
    let merged = dir.path().join("merged");
    for (i, class) in fs::read_dir(&root).unwrap().enumerate() {
        let class = class.unwrap().path();
        let into = merged.join(format!("group {}", i % 3));
        fs::create_dir_all(&into).unwrap();
        fs::rename(&class, into.join(class.file_name().unwrap())).unwrap();
    }
    let out = dir.path().join("lists");
    let planned = planned(&merged, &SplitConfig::default()).unwrap();
    planned.write(&out, false).unwrap();
    let train = list_file(&merged, out.join("train.txt"), None, None).unwrap();
    let limits = shike_data::DecodeLimits::default();
    assert!((0..train.len()).all(|i| train.image(i, &limits).is_ok()));
    let total: usize = planned
        .record()
        .lists
        .values()
        .map(|list| list.images)
        .sum();
    assert_eq!(total + planned.record().left_out.images.len(), 167);
}

//! Properties of a split, and its files.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shike_data::dataset::PathRule;
use shike_data::inspect::{Depth, InspectConfig, inspect};
use shike_data::split::{
    ClassSize, GroupBy, MinImages, SplitConfig, SplitError, SplitRecord, assign, bound, folds,
    held_out, held_out_at_most, plan,
};
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
            ..SplitConfig::default()
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
        let parts = assign(&labels, &[], None, &config).unwrap();
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
        let parts = assign(&labels, &groups, None, &config).unwrap();
        prop_assert_eq!(&parts, &assign(&labels, &groups, None, &config).unwrap());
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

/// What one group may hold of a class, at most.
fn largest(labels: &[u32], groups: &[Vec<usize>], label: u32) -> usize {
    let of_class = |group: &Vec<usize>| group.iter().filter(|&&i| labels[i] == label).count();
    groups.iter().map(of_class).max().unwrap_or(0).max(1)
}

proptest! {
    #![proptest_config(cases())]

    /// Groups of a rule are in one part each, training has its least number of each class, and equal images
    /// of several labels are in training with all of their group.
    #[test]
    fn groups_of_a_rule_stay_together((labels, groups) in images(), config in config()) {
        let equal: Vec<Vec<usize>> = groups.iter().map(|group| group[..2].to_vec()).step_by(3).collect();
        let parts = assign(&labels, &equal, Some(&groups), &config).unwrap();
        prop_assert_eq!(&parts, &assign(&labels, &equal, Some(&groups), &config).unwrap());
        for group in &groups {
            let held: BTreeSet<Part> = group.iter().map(|&i| parts[i]).collect();
            prop_assert_eq!(held.len(), 1);
            let unclear = equal.iter().any(|pair| pair[0] == group[0] && labels[pair[0]] != labels[pair[1]]);
            prop_assert!(!unclear || held.contains(&Part::Train));
        }
        for label in 0..5 {
            let n = labels.iter().filter(|&&l| l == label).count();
            prop_assert!(count(&labels, &parts, label, Part::Train) >= config.min_per_class.min(n));
        }
    }

    /// Folds keep groups, and without groups hold as many images of each class, but for one.
    #[test]
    fn folds_keep_groups_and_classes((labels, groups) in images(), k in 2..6usize, seed in 0..3u64) {
        if let Ok(found) = folds(&labels, &groups, k, seed) {
            for group in &groups {
                prop_assert!(group.iter().all(|&i| found[i] == found[group[0]]));
            }
        }
        if labels.len() < k {
            prop_assert!(folds(&labels, &[], k, seed).is_err());
            return Ok(());
        }
        let found = folds(&labels, &[], k, seed).unwrap();
        prop_assert_eq!(&found, &folds(&labels, &[], k, seed).unwrap());
        let size = |wanted: &dyn Fn(usize) -> bool| {
            let mut sizes = vec![0; k];
            (0..labels.len()).filter(|&i| wanted(i)).for_each(|i| sizes[found[i]] += 1);
            sizes.iter().max().unwrap() - sizes.iter().min().unwrap()
        };
        prop_assert!(size(&|_| true) <= 1);
        for label in 0..5 {
            prop_assert!(size(&|i| labels[i] == label) <= 1);
        }
    }
}

/// Subjects whose numbers of pictures, and of classes in them, differ as they do: the sizes are drawn by `next`.
fn subjects(n: usize, classes: u32) -> (Vec<u32>, Vec<Vec<usize>>) {
    let mut state = 12345u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let (mut labels, mut groups) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let size = 1 + next(4) * next(10);
        let usual = next(u64::from(classes)) as u32;
        let mut group = Vec::new();
        for _ in 0..size {
            // Classes have a tail, and a fifth of a subject's pictures are of another class.
            let other =
                (next(u64::from(classes)) * next(u64::from(classes)) / u64::from(classes)) as u32;
            labels.push(if next(5) == 0 { other } else { usual });
            group.push(labels.len() - 1);
        }
        groups.push(group);
    }
    (labels, groups)
}

#[test]
fn groups_of_several_classes_come_near_to_the_shares() {
    let (labels, groups) = subjects(300, 10);
    let config = SplitConfig {
        val: 0.1,
        test: 0.2,
        ..SplitConfig::default()
    };
    let parts = assign(&labels, &[], Some(&groups), &config).unwrap();
    for label in 0..10 {
        let n = labels.iter().filter(|&&l| l == label).count();
        let wanted = config.counts(n).unwrap();
        let got = Part::ALL.map(|part| count(&labels, &parts, label, part));
        let off = wanted
            .iter()
            .zip(got)
            .map(|(a, b)| a.abs_diff(b))
            .max()
            .unwrap();
        // No further than half of what one subject may hold.
        assert!(
            2 * off <= largest(&labels, &groups, label),
            "{label}: {got:?} of {wanted:?}"
        );
        assert!(off * 50 <= n, "{label}: {got:?} of {wanted:?}");
    }
    let other = SplitConfig { seed: 1, ..config };
    assert_ne!(parts, assign(&labels, &[], Some(&groups), &other).unwrap());

    let found = folds(&labels, &groups, 5, 0).unwrap();
    for fold in 0..5 {
        for label in 0..10 {
            let of = |fold: Option<usize>| {
                let both = labels.iter().zip(&found);
                both.filter(|&(&l, &f)| l == label && fold.is_none_or(|fold| f == fold))
                    .count()
            };
            let (n, got) = (of(None), of(Some(fold)));
            assert!(
                got.abs_diff(n / 5) * 20 <= n,
                "{label} in {fold}: {got} of {n}"
            );
        }
    }
}

#[test]
fn few_groups_of_a_class_are_parted_as_few_images_are() {
    // Three patients of 33 pictures: two to train on, one to test on. One patient: none to test on.
    let config = SplitConfig {
        val: 0.1,
        test: 0.2,
        ..SplitConfig::default()
    };
    let patients = |n: usize| {
        (0..n)
            .map(|p| (33 * p..33 * (p + 1)).collect())
            .collect::<Vec<Vec<usize>>>()
    };
    for (n, wanted) in [
        (1, [33, 0, 0]),
        (2, [33, 0, 33]),
        (3, [66, 0, 33]),
        (10, [231, 33, 66]),
    ] {
        let labels = vec![0; 33 * n];
        let parts = assign(&labels, &[], Some(&patients(n)), &config).unwrap();
        let got = Part::ALL.map(|part| count(&labels, &parts, 0, part));
        assert_eq!(got, wanted, "{n} patients");
    }
}

#[test]
fn rules_for_groups_are_read_and_written() {
    for text in [
        "patient",
        "meta/a.csv:patient",
        "path:2",
        "path:(site\\d+):",
        "time:30",
        "near-duplicates",
    ] {
        let by: GroupBy = text.parse().unwrap();
        assert_eq!(by.to_string(), text);
        let json = serde_json::to_string(&by).unwrap();
        assert_eq!(serde_json::from_str::<GroupBy>(&json).unwrap(), by);
    }
    assert_eq!("path:2".parse(), Ok(GroupBy::Path(PathRule::Folder(2))));
    for (text, says) in [
        ("path:0", "counted from 1"),
        ("path:site", "has no group"),
        ("path:(", "unclosed group"),
        ("time:soon", "no number of seconds"),
        ("", "names no column"),
        ("a.csv:", "names no column"),
        ("exif:5", "time:30"),
    ] {
        let error = text.parse::<GroupBy>().unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn groups_fill_up_a_part_and_the_seed_matters() {
    // Fifty pairs: the parts get exactly their shares, as long as pairs fit.
    let pairs: Vec<Vec<usize>> = (0..50).map(|i| vec![2 * i, 2 * i + 1]).collect();
    let config = SplitConfig::default();
    let parts = assign(&[0; 100], &pairs, None, &config).unwrap();
    let sizes = [Part::Train, Part::Val, Part::Test].map(|p| count(&[0; 100], &parts, 0, p));
    assert_eq!(sizes, [80, 10, 10]);
    let other = SplitConfig {
        seed: 1,
        ..config.clone()
    };
    assert_ne!(parts, assign(&[0; 100], &pairs, None, &other).unwrap());
    // A class has the same split whether others are there or not.
    let labels: Vec<u32> = (0..200).map(|i| i % 2).collect();
    let alone = assign(&[1; 100], &[], None, &config).unwrap();
    let both = assign(&labels, &[], None, &config).unwrap();
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
            ..SplitConfig::default()
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
            ..SplitConfig::default()
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
        let result = assign(&[0, 0, 0], groups, None, &SplitConfig::default());
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
fn groups_are_told_by_folders_columns_and_expressions() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let mut number = 0;
    let mut meta = "image,patient\n".to_owned();
    for class in ["cat", "dog"] {
        for subject in 0..15 {
            for i in 0..4 {
                number += 1;
                let file = format!("{class}_s{subject}_{i}");
                picture(&root.join(format!("{class}/s{subject}/{file}.png")), number);
                meta += &format!("{file},p{subject}\n");
            }
        }
    }
    let file = dir.path().join("meta.csv");
    fs::write(&file, &meta).unwrap();
    let with = |rules: &[String]| SplitConfig {
        val: 0.2,
        test: 0.2,
        group_by: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        ..SplitConfig::default()
    };
    let column = format!("{}:patient", file.display());
    for rule in ["path:2", "path:_(s\\d+)_", &column] {
        let found = planned(&root, &with(&[rule.to_owned()])).unwrap();
        let record = found.record();
        let groups = record.groups.as_ref().unwrap();
        // A subject has pictures of both classes.
        assert_eq!(
            (
                groups.groups,
                groups.images,
                groups.largest,
                groups.across_classes
            ),
            (15, 120, 8, 15)
        );
        assert_eq!(groups.silent, [0]);
        for class in &record.classes {
            assert_eq!(Some(&class.images), class.wanted.as_ref(), "{rule}");
        }
        let data = image_folder_as_found(&root, &[]).unwrap();
        let mut of_subject: BTreeMap<&str, BTreeSet<Option<Part>>> = BTreeMap::new();
        for i in 0..data.len() {
            let subject = data.relative_path(i).unwrap().split('/').nth(1).unwrap();
            of_subject
                .entry(subject)
                .or_default()
                .insert(found.parts[i]);
        }
        assert!(of_subject.values().all(|parts| parts.len() == 1), "{rule}");
        let text = serde_json::to_string(record).unwrap();
        assert_eq!(&serde_json::from_str::<SplitRecord>(&text).unwrap(), record);
        assert!(text.contains("\"group_by\""));
    }
    // Rules join one another's groups: here all of them.
    let both = planned(&root, &with(&["path:1".to_owned(), "path:2".to_owned()]));
    let error = both.unwrap_err().to_string();
    assert!(error.contains("to val"), "{error}");
    let fails = |rule: &str| {
        planned(&root, &with(&[rule.to_owned()]))
            .unwrap_err()
            .to_string()
    };
    assert!(fails("path:3").starts_with("group_by path:3: cat/s0/cat_s0_0.png has fewer folders"));
    assert!(fails("path:(zebra)").contains("it matches no path"));
    assert!(fails("time:30").contains("no image has an EXIF time"));
    assert!(fails("patient").contains("there is no list with columns"));
    let other = fails(&column.replace(":patient", ":site"));
    assert!(
        other.contains("meta.csv:1: the header has no column called site"),
        "{other}"
    );
    fs::write(&file, meta.replace("dog_s3_1", "dog_s3_9")).unwrap();
    let missing = fails(&column);
    assert!(
        missing.contains("no line of") && missing.ends_with("is of dog/s3/dog_s3_1.png"),
        "{missing}"
    );
}

/// Folders of `n` pictures, which no other has.
fn classes(root: &Path, sizes: &[(&str, usize)]) {
    let mut number = root.to_string_lossy().len();
    for (class, n) in sizes {
        for i in 0..*n {
            number += 1;
            picture(&root.join(format!("{class}/{i:02}.png")), number);
        }
    }
}

fn named(sizes: &[ClassSize]) -> Vec<(&str, usize)> {
    sizes
        .iter()
        .map(|class| (&*class.name, class.images))
        .collect()
}

#[test]
fn classes_have_as_many_images_as_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    classes(
        &root,
        &[("ant", 30), ("bee", 9), ("cow", 4), ("dog", 2), ("yak", 1)],
    );
    let config = |min: &str, max| SplitConfig {
        val: 0.0,
        test: 0.2,
        min_images: Some(min.parse().unwrap()),
        max_images: max,
        ..SplitConfig::default()
    };
    let sizes = |config: &SplitConfig| {
        let found = planned(&root, config).unwrap();
        let classes = found.record().classes.iter();
        let sizes: Vec<_> = classes
            .map(|c| (c.name.clone(), c.images.values().sum::<usize>()))
            .collect();
        (sizes, found)
    };
    let wanted = |sizes: &[(&str, usize)]| -> Vec<(String, usize)> {
        sizes
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect()
    };
    let (left, found) = sizes(&config("4", Some(10)));
    assert_eq!(left, wanted(&[("ant", 10), ("bee", 9), ("cow", 4)]));
    let record = found.record().sizes.as_ref().unwrap();
    assert_eq!(named(&record.small), [("dog", 2), ("yak", 1)]);
    assert_eq!(
        (named(&record.capped), record.images),
        (vec![("ant", 30)], 23)
    );
    assert_eq!(found.parts.iter().flatten().count(), 23);
    // Others of them by another seed.
    let other = SplitConfig {
        seed: 1,
        ..config("4", Some(10))
    };
    assert_ne!(sizes(&other).1.parts, found.parts);
    assert_eq!(sizes(&config("4", Some(10))).1, found);

    let (merged, found) = sizes(&config("5:other", None));
    assert_eq!(merged, wanted(&[("ant", 30), ("bee", 9), ("other", 7)]));
    assert_eq!(
        named(&found.record().sizes.as_ref().unwrap().small),
        [("cow", 4), ("dog", 2), ("yak", 1)]
    );
    let out = dir.path().join("lists");
    found.write(&out, false).unwrap();
    assert_eq!(
        fs::read_to_string(out.join("classes.txt")).unwrap(),
        "ant\nbee\nother\n"
    );
    assert!(
        fs::read_to_string(out.join("train.txt"))
            .unwrap()
            .contains("yak/00.png 2")
    );
    let read: SplitRecord =
        serde_json::from_str(&fs::read_to_string(out.join("split.json")).unwrap()).unwrap();
    assert_eq!(&read, found.record());
    // Into a class that is there.
    assert_eq!(
        sizes(&config("5:bee", None)).0,
        wanted(&[("ant", 30), ("bee", 16)])
    );
    // Nothing is small.
    let (all, found) = sizes(&config("1:other", None));
    assert_eq!(
        (all.len(), found.record().sizes.as_ref().unwrap().images),
        (5, 0)
    );
    let fails = |min: &str, max| planned(&root, &config(min, max)).unwrap_err().to_string();
    assert_eq!(
        fails("31", None),
        "min_images: leaves no class: the largest has 30 images"
    );
    assert!(fails("0", None).starts_with("min_images: is 0"));
    assert!(fails("1", Some(0)).starts_with("max_images: is 0"));
    for text in ["five", "5:", ":other", "-1"] {
        assert!(text.parse::<MinImages>().is_err(), "{text}");
    }
    assert_eq!(
        "5:my other".parse::<MinImages>().unwrap().to_string(),
        "5:my other"
    );
}

#[test]
fn given_parts_are_bounded_by_their_training_images() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    classes(&root.join("train"), &[("ant", 20), ("bee", 6), ("cow", 2)]);
    classes(&root.join("test"), &[("ant", 12), ("cow", 5)]);
    fs::write(root.join("train/ant/1.heic"), "").unwrap();
    fs::write(root.join("test/ant/2.heic"), "").unwrap();
    fs::write(root.join("test/notes.txt"), "").unwrap();
    let train = image_folder_as_found(root.join("train"), &[]).unwrap();
    let test = image_folder_as_found(root.join("test"), train.class_names()).unwrap();
    let parts = [(Part::Train, train), (Part::Test, test)];
    let config = |min: &str| SplitConfig {
        min_images: Some(min.parse().unwrap()),
        max_images: Some(10),
        ..SplitConfig::default()
    };
    let out = dir.path().join("lists");
    let found = bound(&parts, None, &config("3")).unwrap();
    found.write(&out, false).unwrap();
    let train = list_file(&root, out.join("train.txt"), None, None).unwrap();
    let test = list_file_like(&root, out.join("test.txt"), &train).unwrap();
    assert_eq!(
        (train.class_names().to_vec(), train.class_counts()),
        (vec!["ant".into(), "bee".into()], vec![10, 6])
    );
    assert_eq!(test.class_counts(), [12, 0]);
    assert_eq!(test.relative_path(0), Some("test/ant/00.png"));
    assert!(!out.join("val.txt").exists());
    let sizes = found.record().sizes.as_ref().unwrap();
    assert_eq!(
        (named(&sizes.small), named(&sizes.capped)),
        (vec![("cow", 2)], vec![("ant", 20)])
    );
    let left_out = &found.record().left_out.folder.files;
    assert_eq!((left_out[".heic"], left_out["other"]), (2, 1));
    // Ten of ant, two of cow, and those of cow in the test.
    assert_eq!(sizes.images, 10 + 2 + 5);
    assert_eq!(found.parts.iter().flatten().count(), 16);
    assert_eq!(found.parts.len(), 28);
    let merged = bound(&parts, None, &config("3:rest")).unwrap();
    let rest = &merged.record().classes[2];
    assert_eq!(
        (
            &*rest.name,
            rest.images[&Part::Train],
            rest.images[&Part::Test]
        ),
        ("rest", 2, 5)
    );
}

#[test]
fn groups_of_given_parts_lie_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    for (folder, colour) in [
        ("train/ant/site1", 0),
        ("train/bee/site1", 40),
        ("test/ant/site2", 80),
    ] {
        classes(&root.join(folder), &[("day", 2)]);
        // Equal images are one group in any case.
        for i in 0..2 {
            let file = root.join(format!("{folder}/day/{i:02}.png"));
            RgbImage::from_pixel(8, 8, image::Rgb([colour, i, 9]))
                .save(file)
                .unwrap();
        }
    }
    let planned = |rule: &str| {
        let train = image_folder_as_found(root.join("train"), &[]).unwrap();
        let test = image_folder_as_found(root.join("test"), train.class_names()).unwrap();
        let all = Dataset::side_by_side(&[&train, &test]).unwrap();
        // Paths are those of the parts; the images are where they are.
        assert_eq!(all.relative_path(4), Some("ant/site2/day/00.png"));
        assert!(all.origin(4).ends_with("test/ant/site2/day/00.png"));
        let found = inspect(&[(Part::Train, all)], &InspectConfig::default(), &|_| {}).unwrap();
        let config = SplitConfig {
            group_by: vec![rule.parse().unwrap()],
            ..SplitConfig::default()
        };
        bound(
            &[(Part::Train, train), (Part::Test, test)],
            Some(&found),
            &config,
        )
    };
    let plan = planned("path:2").unwrap();
    let out = dir.path().join("lists");
    plan.write(&out, false).unwrap();
    assert_eq!(
        fs::read_to_string(out.join("groups.txt")).unwrap(),
        "train/ant/site1/day/00.png 0\ntrain/ant/site1/day/01.png 0\ntrain/bee/site1/day/00.png 0\n\
         train/bee/site1/day/01.png 0\ntest/ant/site2/day/00.png 1\ntest/ant/site2/day/01.png 1\n"
    );
    let groups = plan.record().groups.as_ref().unwrap();
    assert_eq!(
        (groups.groups, groups.across_classes, groups.largest),
        (2, 1, 4)
    );
    let error = planned("path:3").unwrap_err().to_string();
    for part in [
        "group_by path:3: 1 of its 1 groups lie in several of the parts",
        "train/ant/site1/day/00.png (training) and ",
        "test/ant/site2/day/00.png (test): move each into one part",
    ] {
        assert!(error.contains(part), "{error}");
    }
    // An image that is equal is no reason to refuse a rule that says nothing of it, and one for likeness.
    fs::copy(
        root.join("train/ant/site1/day/00.png"),
        root.join("test/ant/site2/day/00.png"),
    )
    .unwrap();
    planned("path:2").unwrap();
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
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(
        names.contains(std::ffi::OsStr::new("groups.txt")),
        "{names:?}"
    );
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

#[test]
fn what_would_be_missing_in_training_is_never_held_out() {
    // Class 1 is one burst, in which a picture of class 0 is as well; class 2 has one picture.
    let labels = [0, 0, 0, 0, 1, 1, 0, 2];
    let held = held_out(&labels, &[vec![4, 5, 6], vec![0, 1]], 2, 0).unwrap();
    assert_eq!(held[4..], [None; 4]);
    assert_eq!(held[0], held[1]);
    let folds: BTreeSet<_> = held[..4].iter().collect();
    assert_eq!(folds, BTreeSet::from([&Some(0), &Some(1)]), "{held:?}");
    // Class 2 has one picture and a twin of class 0; all of class 3 belong together.
    let labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 3];
    let groups = [vec![0, 1, 6], vec![5, 10], vec![11, 12]];
    let held = held_out_at_most(&labels, &groups, 5, 0).unwrap();
    assert_eq!((held[0], held[0]), (held[1], held[6]));
    let never: Vec<usize> = (0..13).filter(|&i| held[i].is_none()).collect();
    assert_eq!(never, [5, 10, 11, 12]);
    // One picture a class, and a single group of all.
    assert_eq!(held_out_at_most(&[0, 1], &[], 5, 0).unwrap(), [None; 2]);
    let all = [vec![0, 1, 2]];
    assert_eq!(held_out_at_most(&[0, 1, 1], &all, 5, 0).unwrap(), [None; 3]);
}

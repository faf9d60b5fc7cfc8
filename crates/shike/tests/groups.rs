//! Splits that keep together what belongs together, as people ask for them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use common::{said, shike_in};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use shike_data::rng::{Draw, Purpose, rng};

/// Blurred noise, as photographs are.
fn picture(seed: u64) -> RgbImage {
    let mut draw = rng(seed, 0, 0, Purpose::Other);
    let coarse = RgbImage::from_fn(9, 7, |_, _| {
        image::Rgb([(); 3].map(|()| draw.below(256) as u8))
    });
    resize(&coarse, 64, 48, FilterType::CatmullRom)
}

/// `pictures/<class>/<site>/<n>.jpg`, two classes at twelve sites, and a list of them; at each site a picture that was made
/// smaller once more.
fn sites(folder: &Path) {
    let mut list = "file,class,place\n".to_owned();
    for (c, class) in ["fox", "hare"].into_iter().enumerate() {
        for site in 0..12 {
            for n in 0..4 {
                let path = format!("{class}/site{site}/{n}.jpg");
                let file = folder.join("pictures").join(&path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                let own = (c * 12 + site) as u64 * 10 + n.min(2);
                let seen = picture(own);
                match n {
                    3 => resize(&seen, 40, 30, FilterType::Triangle)
                        .save(file)
                        .unwrap(),
                    _ => seen.save(file).unwrap(),
                }
                list += &format!("{path},{class},p{site}\n");
            }
        }
    }
    fs::write(folder.join("all.csv"), list).unwrap();
}

/// The parts in which the pictures of each group lie, by the lists in a folder.
fn parts(lists: &Path, group: impl Fn(&str) -> String) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut found: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for part in ["train", "val", "test"] {
        let text = fs::read_to_string(lists.join(part).with_extension("txt")).unwrap();
        for line in text.lines() {
            let path = line.rsplit_once(' ').unwrap().0;
            found.entry(group(path)).or_default().insert(part);
        }
    }
    found
}

fn site(path: &str) -> String {
    path.split('/').nth(1).unwrap().to_owned()
}

#[test]
fn groups_lie_in_one_list_each() {
    let dir = tempfile::tempdir().unwrap();
    sites(dir.path());
    let run = |words: &str| shike_in(dir.path(), words);
    let found = run("inspect pictures");
    let text = said(&found);
    assert!(
        text.contains("48 of 96 look like another one without being equal"),
        "{text}"
    );
    assert!(
        text.contains("they lie in 24 folders below others"),
        "{text}"
    );
    assert!(
        text.contains("groups of nearly equal images in one class and part: 24"),
        "{text}"
    );

    // Without a rule every site is in several lists.
    let plain = run("inspect pictures --split val=20%,test=20% --out plain");
    assert_eq!(plain.status.code(), Some(0), "{}", said(&plain));
    let parted = parts(&dir.path().join("plain"), site);
    assert!(parted.values().all(|parts| parts.len() > 1));

    for (words, out) in [
        (
            "inspect pictures --split val=20%,test=20% --group-by path:2 --out folders",
            "folders",
        ),
        (
            "inspect pictures --train-list all.csv --split val=20%,test=20% --group-by place --out column",
            "column",
        ),
        (
            "train --data pictures --group-by path:/(site[0-9]+)/ --weights none --write-recipe own.toml",
            "own-lists",
        ),
        (
            "train --data pictures --train-list all.csv --group-by place --weights none --write-recipe list.toml",
            "list-lists",
        ),
    ] {
        let split = run(words);
        assert_eq!(split.status.code(), Some(0), "{}", said(&split));
        let text = said(&split);
        assert!(
            text.contains(
                "12 of two and more images (96 images, at most 8 each), 12 of them with several"
            ),
            "{text}"
        );
        let parted = parts(&dir.path().join(out), site);
        assert_eq!(parted.len(), 12);
        assert!(parted.values().all(|parts| parts.len() == 1), "{parted:?}");
        let record = fs::read_to_string(dir.path().join(out).join("split.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["groups"]["groups"], 12);
        assert_eq!(record["group_by"].as_array().unwrap().len(), 1);
        let listed = fs::read_to_string(dir.path().join(out).join("groups.txt")).unwrap();
        let numbers: BTreeMap<String, BTreeSet<&str>> =
            listed.lines().fold(BTreeMap::new(), |mut known, line| {
                let (path, number) = line.rsplit_once(' ').unwrap();
                known.entry(site(path)).or_default().insert(number);
                known
            });
        assert_eq!(listed.lines().count(), 96);
        assert!(
            numbers.len() == 12 && numbers.values().all(|of| of.len() == 1),
            "{listed}"
        );
    }
    // Parts that are given keep to it, and the lists of the run know the groups.
    let given = "train --data pictures --train-list folders/train.txt --test-list folders/test.txt";
    let taken = run(&format!(
        "{given} --group-by path:2 --weights none --write-recipe given.toml"
    ));
    assert_eq!(taken.status.code(), Some(0), "{}", said(&taken));
    assert!(
        said(&taken).contains("none of them lies in two of the parts that are given"),
        "{}",
        said(&taken)
    );
    let listed = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    for name in ["train.txt", "test.txt"] {
        assert_eq!(
            listed(&format!("given-lists/{name}")),
            listed(&format!("folders/{name}"))
        );
    }
    let kept = [
        listed("given-lists/train.txt"),
        listed("given-lists/test.txt"),
    ]
    .concat();
    assert_eq!(
        listed("given-lists/groups.txt").lines().count(),
        kept.lines().count()
    );

    // What a rule groups already is no advice any more, and a split says little else.
    let split = "inspect pictures --split test=20% --out";
    for (words, near) in [
        (format!("{split} a"), true),
        (format!("{split} b --group-by path:2"), false),
        (format!("{split} c --group-by near-duplicates"), false),
        (format!("{split} d --group-by path:(1[.]jpg)"), true),
        (
            "train --data pictures --group-by path:2 --weights none --write-recipe e.toml".into(),
            false,
        ),
    ] {
        let text = said(&run(&words));
        let says = text.contains("look like another one");
        assert_eq!(says, near, "{words}: {text}");
        assert!(
            !text.contains("imbalance factor 1.0, Gini"),
            "{words}: {text}"
        );
    }
    // A class of the lists has what is wanted, whoever made them.
    let lists = "train --data pictures --train-list plain/train.txt --test-list plain/test.txt";
    for (words, out, most) in [
        (
            format!("{lists} --max-images 7 --weights none --write-recipe few.toml"),
            "few-lists",
            7,
        ),
        (
            "train --data pictures --max-images 10 --weights none --write-recipe ten.toml".into(),
            "ten-lists",
            7,
        ),
    ] {
        let split = run(&words);
        assert_eq!(split.status.code(), Some(0), "{}", said(&split));
        assert!(said(&split).contains("split: cut to "), "{}", said(&split));
        let list = fs::read_to_string(dir.path().join(out).join("train.txt")).unwrap();
        let of_class = list.lines().filter(|line| line.ends_with(" 1"));
        assert_eq!(of_class.count(), most, "{list}");
    }

    // Labels may be where people put them.
    let own = fs::read_to_string(dir.path().join("all.csv")).unwrap();
    let photos = own.replace("file,class", "photo,animal");
    fs::write(dir.path().join("own.csv"), photos).unwrap();
    let metadata = own.replace("file,class", "file_name,label");
    fs::write(dir.path().join("pictures/metadata.csv"), metadata).unwrap();
    for words in [
        "inspect pictures --train-list own.csv --image-column photo --label-column animal",
        "inspect pictures --label-column path:1",
        "inspect pictures --label-column path:([a-z]+)/site",
        "inspect pictures",
        "inspect pictures --label-column label",
    ] {
        let text = said(&run(words));
        assert!(
            text.contains("96 images in 2 classes") && text.contains("48 to 48"),
            "{words}: {text}"
        );
    }
    // A recipe keeps them.
    let own =
        "train --data pictures --train-list own.csv --image-column photo --label-column animal";
    let written = run(&format!(
        "{own} --weights none --write-recipe own-names.toml"
    ));
    assert_eq!(written.status.code(), Some(0), "{}", said(&written));
    let again = run(
        "train own-names.toml --arch resnet8 --image-size 32 --epochs 1 --stage2-epochs 1 --dry-run",
    );
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    let train = run("train --data pictures --weights none --write-recipe meta.toml");
    let looks = "no validation or test images: looking at 96 pictures";
    assert!(said(&train).contains(looks), "{}", said(&train));
    fs::remove_file(dir.path().join("pictures/metadata.csv")).unwrap();
    let near =
        run("inspect pictures --split test=20% --group-by near-duplicates --out near --json");
    let near: serde_json::Value = serde_json::from_slice(&near.stdout).unwrap();
    assert_eq!(near["split"]["record"]["groups"]["groups"], 24);
    assert_eq!(near["near_duplicates"]["images"], 48);

    for (words, status, says) in [
        ("inspect pictures --group-by path:2", 2, "are for --split"),
        ("inspect pictures --min-images 5", 2, "are for --split"),
        (
            "inspect pictures --split test=20% --out x --min-images 99",
            2,
            "leaves no class: the largest has 48 images",
        ),
        (
            "inspect pictures --label-column animal",
            2,
            "give it with --train-list",
        ),
        (
            "inspect pictures --train-list own.csv",
            1,
            "own.csv:1: the header has no column called path or image or file",
        ),
        (
            "inspect pictures --split test=20% --out x --group-by path:3",
            2,
            "--group-by path:3: fox/site0/0.jpg has fewer",
        ),
        (
            "inspect pictures --split test=20% --out x --group-by place",
            2,
            "there is no list with columns",
        ),
        (
            "inspect pictures --split test=20% --out x --group-by path:x",
            2,
            "has no group",
        ),
        (
            "train --resume nothing --group-by path:2",
            2,
            "are for a run that begins",
        ),
        (
            "train --data pictures --train-list plain/train.txt --test-list plain/test.txt --group-by path:2",
            2,
            "--group-by path:2: 9 of its 12 groups lie in several of the parts that are given, such as that of",
        ),
        (
            "train list.toml --data pictures --train-list all.csv --group-by place",
            2,
            "with a recipe nothing is split",
        ),
    ] {
        let refused = run(words);
        assert_eq!(
            refused.status.code(),
            Some(status),
            "{words}: {}",
            said(&refused)
        );
        assert!(said(&refused).contains(says), "{words}: {}", said(&refused));
    }
}

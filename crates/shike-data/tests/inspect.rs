//! What an inspection finds in a made-up tree, and in real images.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::decode_file;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::json;
use shike_data::inspect::{Depth, InspectConfig, Inspection, Problem, inspect};
use shike_data::rng::{Draw, Purpose, rng};
use shike_data::split::{GroupBy, Groups};
use shike_data::{Cifar, Dataset, DecodeLimits, Part, cifar, image_folder_as_found, list_file};

/// A picture that no other number gives.
fn picture(path: &Path, number: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let colour = |x: u32, y: u32| Rgb([number, (x * 9) as u8, (y * 7) as u8]);
    let format = ImageFormat::from_path(path).unwrap();
    RgbImage::from_fn(24, 16, colour)
        .save_with_format(path, format)
        .unwrap();
}

fn look(subsets: &[(Part, Dataset)], depth: Depth) -> Inspection {
    let config = InspectConfig {
        depth,
        ..InspectConfig::default()
    };
    inspect(subsets, &config, &|_| {}).unwrap()
}

/// Everything that can be wrong, once or twice.
fn tree(root: &Path) -> Vec<(Part, Dataset)> {
    let at = |path: &str| root.join(path);
    for (path, number) in [
        ("train/ant/1.jpg", 1),
        ("train/ant/2.jpg", 2),
        ("train/ant/same as 1.jpg", 1),
        ("train/bee/3.jpg", 3),
        ("train/bee/labelled ant too.jpg", 2),
        ("train/cow/4.png", 4),
        ("test/ant/seen.jpg", 1),
        ("test/ant/10.jpg", 10),
        ("test/bee/11.jpg", 11),
        ("test/yak/12.jpg", 12),
    ] {
        picture(&at(path), number);
    }
    fs::create_dir(at("train/emu")).unwrap();
    fs::write(at("train/emu/readme.txt"), "no picture").unwrap();
    let whole = fs::read(at("train/ant/1.jpg")).unwrap();
    fs::write(at("train/cow/cut.jpg"), &whole[..whole.len() - 20]).unwrap();
    fs::write(at("train/cow/html.jpg"), "<html>404</html>").unwrap();
    // Equal, but unreadable: no duplicates.
    fs::write(at("train/bee/empty.jpg"), "").unwrap();
    fs::write(at("test/bee/empty.jpg"), "").unwrap();
    let train = image_folder_as_found(at("train"), &[]).unwrap();
    let test = image_folder_as_found(at("test"), train.class_names()).unwrap();
    vec![(Part::Train, train), (Part::Test, test)]
}

#[test]
fn everything_that_is_wrong_is_found_once() {
    let dir = tempfile::tempdir().unwrap();
    let subsets = tree(dir.path());
    let found = look(&subsets, Depth::Full);

    let names: Vec<&str> = found.classes.iter().map(|class| &*class.name).collect();
    assert_eq!(names, ["ant", "bee", "cow", "emu", "yak"]);
    assert_eq!(found.empty_classes, [3, 4]);
    let shown = |image: &shike_data::inspect::ImageRef| {
        image
            .file
            .strip_prefix(&dir.path().display().to_string())
            .unwrap()
            .to_owned()
    };
    let bad: Vec<_> = found
        .unreadable
        .iter()
        .map(|bad| shown(&bad.image))
        .collect();
    assert_eq!(
        bad,
        [
            "/train/bee/empty.jpg",
            "/train/cow/cut.jpg",
            "/train/cow/html.jpg",
            "/test/bee/empty.jpg"
        ]
    );
    let cut = &found.unreadable[1].reason;
    assert!(cut.starts_with("the file is cut off"), "{cut}");

    let duplicates = found.duplicates.unwrap();
    let groups: Vec<(Vec<String>, [bool; 3])> = duplicates
        .groups
        .iter()
        .map(|g| {
            let kinds = [g.within_classes, g.across_classes, g.across_subsets];
            (g.images.iter().map(shown).collect(), kinds)
        })
        .collect();
    let strings = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect();
    let leak: Vec<String> = strings(&[
        "/train/ant/1.jpg",
        "/train/ant/same as 1.jpg",
        "/test/ant/seen.jpg",
    ]);
    let conflict: Vec<String> = strings(&["/train/ant/2.jpg", "/train/bee/labelled ant too.jpg"]);
    assert_eq!(
        groups,
        [
            (leak, [true, false, true]),
            (conflict, [false, true, false])
        ]
    );
    assert_eq!(duplicates.images, 5);
    let kinds = (duplicates.within_classes, duplicates.across_classes);
    assert_eq!((kinds, duplicates.across_subsets), ((1, 1), 1));
    let leak = duplicates.leaks[0];
    assert_eq!(
        (leak.from, leak.to, leak.images),
        (Part::Train, Part::Test, 1)
    );
    assert_eq!(
        found.problems,
        [
            Problem::EmptyClasses,
            Problem::Unreadable,
            Problem::DuplicatesAcrossSubsets
        ]
    );
}

/// A JPEG whose EXIF data say when it was taken.
fn taken_at(path: &Path, image: &image::RgbImage, time: &str) {
    image.save(path).unwrap();
    let jpeg = fs::read(path).unwrap();
    // One field of the first folder, DateTime, at 26.
    let mut exif =
        b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x32\0\x02\0\0\0\x14\0\0\0\x1A\0\0\0\0".to_vec();
    exif.extend(time.bytes());
    exif.push(0);
    let length = ((exif.len() + 2) as u16).to_be_bytes();
    fs::write(
        path,
        [&jpeg[..2], &[0xFF, 0xE1], &length, &exif, &jpeg[2..]].concat(),
    )
    .unwrap();
}

/// Blurred noise, as photographs are.
fn blurred(seed: u64) -> image::RgbImage {
    let mut draw = rng(seed, 0, 0, Purpose::Other);
    let coarse = image::RgbImage::from_fn(9, 7, |_, _| {
        image::Rgb([(); 3].map(|()| draw.below(256) as u8))
    });
    resize(&coarse, 90, 70, FilterType::CatmullRom)
}

#[test]
fn pictures_that_look_alike_and_bursts_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for i in 0..4 {
        blurred(i).save(at(&format!("train/ant/{i}.png"))).unwrap();
        blurred(10 + i)
            .save(at(&format!("train/bee/{i}.png")))
            .unwrap();
    }
    let smaller = |seed| resize(&blurred(seed), 45, 35, FilterType::Triangle);
    smaller(0).save(at("train/bee/as ant 0.png")).unwrap();
    smaller(1).save(at("test/ant/as 1.png")).unwrap();
    // A burst of three, one half a minute and a second later, and one in another folder.
    for (name, time) in [
        ("a", "00:58"),
        ("b", "01:20"),
        ("c", "01:50"),
        ("d", "02:21"),
    ] {
        taken_at(
            &at(&format!("train/ant/{name}.jpg")),
            &blurred(name.len() as u64 + 100),
            &format!("2024:01:01 12:{time}"),
        );
    }
    taken_at(&at("train/bee/e.jpg"), &blurred(200), "2024:01:01 12:02:22");
    let train = image_folder_as_found(dir.path().join("train"), &[]).unwrap();
    let test = image_folder_as_found(dir.path().join("test"), train.class_names()).unwrap();
    let parts = [(Part::Train, train.clone()), (Part::Test, test)];
    let found = look(&parts, Depth::Full);
    let near = found.near_duplicates.unwrap();
    let names: Vec<Vec<&str>> = near
        .groups
        .iter()
        .map(|group| {
            group
                .images
                .iter()
                .map(|image| image.file.rsplit('/').next().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(
        names,
        [
            vec!["0.png", "as ant 0.png"],
            vec!["1.png", "as 1.png"],
            vec!["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        ]
    );
    assert_eq!(
        (
            near.across_classes,
            near.across_subsets,
            near.leaks[0].images
        ),
        (1, 1, 1)
    );
    assert_eq!(found.in_bursts, 3);

    // A split keeps what was found together.
    let found = look(&[(Part::Train, train.clone())], Depth::Full);
    let groups = |rules: &[GroupBy]| Groups::new(&train, &found, rules).unwrap();
    let of = |groups: Groups| -> Vec<usize> { groups.groups.iter().map(Vec::len).collect() };
    assert_eq!(of(groups(&[GroupBy::Time(30)])), [3]);
    assert_eq!(of(groups(&[GroupBy::Time(31)])), [4]);
    assert_eq!(groups(&[GroupBy::Time(30)]).silent, [9]);
    assert_eq!(of(groups(&[GroupBy::NearDuplicates])), [2, 4]);
}

#[test]
fn headers_alone_show_files_that_are_no_images() {
    let dir = tempfile::tempdir().unwrap();
    let subsets = tree(dir.path());
    // An APP1 segment of 300 kB cannot be, but five of 65 kB can: the header lies behind them.
    let small = fs::read(dir.path().join("train/ant/1.jpg")).unwrap();
    let mut long = small[..2].to_vec();
    for _ in 0..5 {
        long.extend([0xFF, 0xE1, 0xFF, 0xFF]);
        long.extend(vec![0; 0xFFFF - 2]);
    }
    long.extend(&small[2..]);
    fs::write(dir.path().join("train/ant/2.jpg"), long).unwrap();
    let found = look(&subsets, Depth::Header);
    let bad: Vec<&str> = found
        .unreadable
        .iter()
        .map(|bad| bad.image.file.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(bad, ["empty.jpg", "html.jpg", "empty.jpg"]);
    assert_eq!(found.duplicates, None);
    assert_eq!(found.problems, [Problem::EmptyClasses, Problem::Unreadable]);
}

/// The names and the shape that programs rely on.
#[test]
fn json_form() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display().to_string();
    for (path, number) in [
        ("a/1.png", 1),
        ("a/2.png", 2),
        ("a/3.png", 1),
        ("b/4.png", 4),
    ] {
        picture(&dir.path().join("train").join(path), number);
    }
    picture(&dir.path().join("val/a/1.png"), 1);
    fs::write(dir.path().join("val/a/2.png"), "").unwrap();
    let train = image_folder_as_found(dir.path().join("train"), &[]).unwrap();
    let val = image_folder_as_found(dir.path().join("val"), train.class_names()).unwrap();
    let found = look(&[(Part::Train, train), (Part::Val, val)], Depth::Full);
    let mut value = serde_json::to_value(&found).unwrap();
    let reason = value["unreadable"][0]["reason"].take();
    assert_eq!(reason, "is empty (0 bytes)");
    for width in value["too_small"][0]["by_size"].as_array_mut().unwrap() {
        width["half_width"] = json!(width["half_width"].as_f64().map(f64::round));
    }
    let image = |subset: &str, index: usize, file: &str| {
        json!({"subset": subset, "index": index, "label": 0,
               "file": format!("{root}/{subset}/{file}")})
    };
    assert_eq!(
        value,
        json!({
            "format_version": 1,
            "depth": "full",
            "subsets": [
                {"subset": "train", "images": 4, "classes": 2},
                {"subset": "val", "images": 2, "classes": 1},
            ],
            "tail": {
                "images": 4, "classes": 2, "largest": 3, "median": 3, "smallest": 1,
                "imbalance_factor": 3.0, "gini": 0.25, "head_share": 0.75,
                "many": {"classes": 0, "images": 0},
                "medium": {"classes": 0, "images": 0},
                "few": {"classes": 2, "images": 4},
            },
            "classes": [
                {"label": 0, "name": "a", "images": {"train": 3, "val": 2}, "shot": "few"},
                {"label": 1, "name": "b", "images": {"train": 1, "val": 0}, "shot": "few"},
            ],
            "empty_classes": [],
            "unreadable": [{"subset": "val", "index": 1, "label": 0,
                            "file": format!("{root}/val/a/2.png"), "reason": null}],
            "duplicates": {
                "images": 3, "within_classes": 1, "across_classes": 0, "across_subsets": 1,
                "leaks": [{"from": "train", "to": "val", "images": 1}],
                "groups": [{
                    "within_classes": true, "across_classes": false, "across_subsets": true,
                    "images": [image("train", 0, "a/1.png"), image("train", 2, "a/3.png"),
                               image("val", 0, "a/1.png")],
                }],
            },
            "near_duplicates": {
                "images": 0, "within_classes": 0, "across_classes": 0, "across_subsets": 0,
                "leaks": [], "groups": [],
            },
            "in_bursts": 0,
            "pixels": {
                "looked_at": 5, "sixteen_bits": 0, "ranges": 0, "narrow": 0, "transparent": 0, "several": 0,
                "turned": 0, "elongated": 0,
                "median_kept": 16.0 / 24.0,
            },
            "too_small": [{"subset": "val", "fewer_than": 10, "classes": 2, "by_size": [
                {"images": 0, "half_width": null, "labels": [1]},
                {"images": 2, "half_width": 41.0, "labels": [0]},
            ]}],
            "problems": ["unreadable", "duplicates_across_subsets"],
        })
    );
    let mut back: Inspection =
        serde_json::from_value(serde_json::to_value(&found).unwrap()).unwrap();
    // Times are for splits, and not written.
    back.taken.clone_from(&found.taken);
    assert_eq!(back, found);
}

#[test]
fn parts_that_do_not_belong_together() {
    let tiny = |names: [&str; 2]| {
        let data = Dataset::from_pixels(vec![0; 6], 1, 1, vec![0, 1], 2).unwrap();
        data.with_class_names(names.map(String::from).into())
            .unwrap()
    };
    let look = |subsets: &[(Part, Dataset)]| {
        let error = inspect(subsets, &InspectConfig::default(), &|_| {});
        error.unwrap_err().to_string()
    };
    let ab = || tiny(["a", "b"]);
    assert!(look(&[]).contains("is empty"));
    assert!(look(&[(Part::Val, ab()), (Part::Val, ab())]).contains("val twice"));
    let error = look(&[(Part::Train, ab()), (Part::Test, tiny(["a", "c"]))]);
    assert!(error.contains("class 1 is \"b\" in train"), "{error}");
}

fn untar(archive: impl std::io::Read, into: &Path) {
    tar::Archive::new(archive).unpack(into).unwrap();
}

/// The class folders of a tree of real images.
fn class_folders(root: &Path) -> std::path::PathBuf {
    let mut folder = root.to_owned();
    loop {
        let inside: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        match &inside[..] {
            [only] if only.is_dir() => folder = only.clone(),
            _ => return folder,
        }
    }
}

#[test]
fn real_photos_are_read_and_a_copy_is_found() {
    let Some(samples) = common::shared("real_photos", "data/imagenet-samples") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    untar(
        fs::File::open(samples.join("images.tar")).unwrap(),
        dir.path(),
    );
    let folder = class_folders(dir.path());
    let data = image_folder_as_found(&folder, &[]).unwrap();
    assert_eq!(data.len(), 167);
    let first = folder.join(data.relative_path(0).unwrap());
    fs::copy(&first, first.with_file_name("zz copy.JPEG")).unwrap();
    let data = image_folder_as_found(&folder, &[]).unwrap();
    let found = look(&[(Part::Train, data.clone())], Depth::Full);
    // The decoder, asked one by one, is the judge.
    let limits = DecodeLimits::default();
    let unreadable = (0..data.len())
        .filter(|&i| decode_file(data.origin(i).as_ref(), &limits).is_err())
        .count();
    assert_eq!(found.unreadable.len(), unreadable);
    let copies = found.duplicates.unwrap();
    let copied = copies
        .groups
        .iter()
        .find(|g| Path::new(&g.images[0].file) == first);
    assert_eq!(copied.unwrap().images.len(), 2);
    assert!(copied.unwrap().within_classes && !copied.unwrap().across_subsets);
    let headers = look(&[(Part::Train, data)], Depth::Header);
    assert!(headers.unreadable.len() <= unreadable);
}

#[test]
fn the_tail_of_tiny_imagenet_lt() {
    let Some(folder) = common::shared("tiny_imagenet_lt", "data/tiny-imagenet-lt") else {
        return;
    };
    // The lists alone: with the files not unpacked, every header is missing and named.
    let dir = tempfile::tempdir().unwrap();
    let list = folder.join("TinyImageNet_LT_train.txt");
    let train = list_file(dir.path(), list, None, None).unwrap();
    let found = look(&[(Part::Train, train)], Depth::Header);
    assert_eq!((found.tail.images, found.tail.classes), (21_549, 200));
    assert_eq!(found.tail.imbalance_factor, Some(100.0));
    assert_eq!(found.unreadable.len(), 21_549);
    let reason = &found.unreadable[0].reason;
    assert!(reason.contains("No such file"), "{reason}");
}

#[test]
fn cifar_by_its_pixels() {
    let Some(folder) = common::shared("cifar_by_its_pixels", "data/cifar-100-if10") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for part in ["train", "test"] {
        let bytes = common::unxz(&folder.join(format!("{part}.bin.xz")));
        fs::write(dir.path().join(format!("{part}.bin")), bytes).unwrap();
    }
    let read = |split| cifar(dir.path(), Cifar::Cifar100, split).unwrap();
    let (train, test) = (read(Part::Train), read(Part::Test));
    // An independent count, over whole images.
    let seen: std::collections::HashSet<Vec<u8>> = (0..train.len())
        .map(|i| train.image(i, &DecodeLimits::default()).unwrap().into_raw())
        .collect();
    let leaked = (0..test.len())
        .filter(|&i| seen.contains(test.image(i, &DecodeLimits::default()).unwrap().as_raw()))
        .count();
    let subsets = [(Part::Train, train.clone()), (Part::Test, test.clone())];
    let found = look(&subsets, Depth::Full);
    assert!(found.unreadable.is_empty());
    assert_eq!(found.tail.imbalance_factor, Some(10.0));
    let duplicates = found.duplicates.unwrap();
    let counted: usize = duplicates
        .leaks
        .iter()
        .filter(|leak| leak.from == Part::Train)
        .map(|l| l.images)
        .sum();
    assert_eq!(counted, leaked);
    assert!(found.too_small[0].by_size.is_empty());
}

//! Class counts and selections of the reference, exactly; and the real data sets.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use shike_data::imbalance::{LongTail, class_counts, first_n_per_class};
use shike_data::inspect::Tail;
use shike_data::{
    Cifar, DecodeLimits, Loader, LoaderConfig, Part, Pipeline, Shot, ShotThresholds, cifar,
    image_folder, list_file, list_file_like,
};

#[test]
fn class_counts_of_every_set() {
    let Some(folder) = common::golden("class_counts_of_every_set", "data") else {
        return;
    };
    let json = common::json(&folder.join("data.json"));
    let sets = json["sets"].as_object().unwrap();
    for (name, set) in sets {
        // Such as cifar100_exp_if10.
        let parts: Vec<&str> = name.split('_').collect();
        let (n_max, classes) = match parts[0] {
            "cifar10" => (5000, 10),
            "cifar100" => (500, 100),
            other => panic!("{other}"),
        };
        let profile = match parts[1] {
            "exp" => LongTail::Exponential,
            "step" => LongTail::Step,
            "none" => LongTail::Balanced,
            other => panic!("{other}"),
        };
        let factor: f64 = parts[2].strip_prefix("if").unwrap().parse().unwrap();
        let got = class_counts(profile, n_max, classes, factor).unwrap();
        let want: Vec<usize> = serde_json::from_value(set["counts"].clone()).unwrap();
        assert_eq!(got, want, "{name}");
        assert_eq!(
            got.iter().sum::<usize>() as u64,
            set["total"].as_u64().unwrap()
        );
    }
    println!("GOLDEN data: {} cases ran", sets.len());
}

#[test]
fn selection_is_the_reference_s() {
    let Some(folder) = common::golden("selection_is_the_reference_s", "data") else {
        return;
    };
    let file = folder.join("selection_synthetic.npz");
    let (_, labels) = common::npz::<u8>(&file, "labels");
    let (_, want) = common::npz::<i32>(&file, "selected");
    assert_eq!(labels.len(), 50_000);
    let labels: Vec<u32> = labels.into_iter().map(u32::from).collect();
    let counts = class_counts(LongTail::Exponential, 5000, 10, 100.0).unwrap();
    let got = first_n_per_class(&labels, &counts).unwrap();
    assert!(got.iter().map(|&i| i as i32).eq(want.iter().copied()));
    println!("GOLDEN data selection: {} cases ran", want.len());
}

#[test]
fn real_cifar100_lt() {
    let Some(folder) = common::shared("real_cifar100_lt", "data/cifar-100-if10") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for name in ["train.bin", "test.bin"] {
        let packed = folder.join(format!("{name}.xz"));
        std::fs::write(dir.path().join(name), common::unxz(&packed)).unwrap();
    }
    let names = "fine_label_names.txt";
    std::fs::copy(folder.join(names), dir.path().join(names)).unwrap();

    let train = cifar(dir.path(), Cifar::Cifar100, Part::Train).unwrap();
    assert_eq!(train.len(), 19_573);
    assert_eq!(train.class_names()[0], "apple");
    assert_eq!(train.class_names()[99], "worm");
    for (factor, total) in [(10.0, 19_573), (50.0, 12_608), (100.0, 10_847)] {
        let tail = train.with_long_tail(LongTail::Exponential, factor).unwrap();
        assert_eq!(tail.len(), total);
        assert!(tail.labels().is_sorted());
        let want = class_counts(LongTail::Exponential, 500, 100, factor).unwrap();
        assert_eq!(tail.class_counts(), want);
    }
    let test = cifar(dir.path(), Cifar::Cifar100, Part::Test).unwrap();
    assert_eq!(test.class_counts(), [100; 100]);

    // One batch of real images through the reference's pipeline.
    let config = LoaderConfig {
        workers: 2,
        ..LoaderConfig::default()
    };
    let tail = train.with_long_tail(LongTail::Exponential, 100.0).unwrap();
    let loader = Loader::new(tail, Pipeline::cifar_train(), config, 0).unwrap();
    assert_eq!(loader.batches_per_epoch(10_847), 85);
    let order = (0..10_847).collect();
    let last = loader.epoch(0, order, 84).next().unwrap().unwrap();
    assert_eq!(last.len(), 95);
    println!("GOLDEN cifar-100-if10: 3 cases ran");
}

/// Unpacks a list of `lists/` into `dir`.
fn list(folder: &Path, dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, common::unxz(&folder.join(format!("{name}.xz")))).unwrap();
    path
}

#[test]
fn published_lists() {
    let Some(folder) = common::shared("published_lists", "data/lists") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let unpack = |name| list(&folder, dir.path(), name);

    let train = list_file("/p", unpack("Places_LT_train.txt"), None, None).unwrap();
    assert_eq!((train.len(), train.num_classes()), (62_500, 365));
    let counts = train.class_counts();
    assert_eq!(counts.iter().max(), Some(&4980));
    assert_eq!(counts.iter().min(), Some(&5));
    assert_eq!(train.class_names()[0], "airfield");
    let test = list_file_like("/p", unpack("Places_LT_test.txt"), &train).unwrap();
    assert_eq!(test.len(), 36_500);
    assert_eq!(test.class_counts(), [100; 365]);
    // The other layout: the same labels, and names that are unique although folders repeat.
    let other = unpack("Places_LT_train_data256_layout.txt");
    let other = list_file("/p", other, None, None).unwrap();
    assert_eq!(other.labels(), train.labels());
    let names: std::collections::HashSet<&String> = other.class_names().iter().collect();
    assert_eq!(names.len(), 365);

    let val = list_file("/p", unpack("ImageNet_LT_val.txt"), Some(1000), None).unwrap();
    assert_eq!(val.class_counts(), [20; 1000]);
    let val = list_file("/p", unpack("iNaturalist18_val.txt"), Some(8142), None).unwrap();
    assert_eq!(val.class_counts(), [3; 8142]);
    let path = folder.join("ImageNet_100_LT_train.txt");
    let train = list_file("/p", path, None, None).unwrap();
    assert_eq!((train.len(), train.num_classes()), (12_205, 100));

    // A list with ImageNet-LT's class counts: the groups that its papers report.
    let counts = common::json(&folder.join("imagenet_lt_train_class_counts.json"));
    let counts: Vec<usize> = serde_json::from_value(counts).unwrap();
    let lines: String = (counts.iter().enumerate())
        .flat_map(|(class, &n)| (0..n).map(move |i| format!("train/{class}/{i}.JPEG {class}\n")))
        .collect();
    let path = dir.path().join("ImageNet_LT_train.txt");
    std::fs::write(&path, lines).unwrap();
    let train = list_file("/p", path, None, None).unwrap();
    assert_eq!(train.len(), 115_846);
    assert_eq!(train.class_counts(), counts);
    let tail = Tail::new(&train.class_counts(), ShotThresholds::default());
    let classes = Shot::ALL.map(|shot| tail.groups[shot].classes);
    assert_eq!(classes, [385, 479, 136]);
    println!("GOLDEN lists: 7 cases ran");
}

#[test]
fn real_jpegs_of_a_long_tailed_list() {
    let Some(folder) = common::shared("real_jpegs_of_a_long_tailed_list", "data") else {
        return;
    };
    let tiny = folder.join("tiny-imagenet-lt");
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::open(tiny.join("images.tar.gz")).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    // The archive is as long as the disk is slow: the first files are enough.
    for entry in archive.entries().unwrap().take(400) {
        entry.unwrap().unpack_in(dir.path()).unwrap();
    }
    let path = tiny.join("TinyImageNet_LT_train.txt");
    let train = list_file(dir.path(), path, None, None).unwrap();
    assert_eq!((train.len(), train.num_classes()), (21_549, 200));
    let path = tiny.join("TinyImageNet_LT_test.txt");
    let test = list_file_like(dir.path(), path, &train).unwrap();
    assert_eq!(test.class_counts(), [50; 200]);

    let here: Vec<usize> = (0..train.len())
        .filter(|&i| Path::new(&train.origin(i)).exists())
        .collect();
    assert!(here.len() >= 300, "{}", here.len());
    for &i in &here {
        let image = train.image(i, &DecodeLimits::default()).unwrap();
        assert_eq!(image.dimensions(), (64, 64), "{}", train.origin(i));
    }
    println!("GOLDEN tiny-imagenet-lt: {} cases ran", here.len());
}

#[test]
fn real_photographs_through_the_loader() {
    let Some(folder) = common::shared("real_photographs_through_the_loader", "data") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::open(folder.join("imagenet-samples/images.tar")).unwrap();
    tar::Archive::new(file).unpack(dir.path()).unwrap();
    let data = image_folder(dir.path().join("train")).unwrap();
    assert_eq!(data.len(), 167);
    let config = LoaderConfig {
        batch_size: 32,
        workers: 2,
        ..LoaderConfig::default()
    };
    for pipeline in [Pipeline::photo_train(112), Pipeline::photo_eval(112)] {
        let loader = Loader::new(data.clone(), pipeline, config, 0).unwrap();
        let mut images = 0;
        for batch in loader.sequential() {
            let batch = batch.unwrap();
            assert_eq!(batch.images.len(), batch.len() * 112 * 112 * 3);
            images += batch.len();
        }
        assert_eq!(images, 167);
    }
    println!("GOLDEN imagenet-samples: 167 cases ran");
}

//! The benchmarks' cards: each is read, its network is built, and on a small made tree in its layout it is
//! trained, scored and used by the program.
#![cfg(all(feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{resnet10_weights, success};
use shike::data::Part;
use shike::data::synthetic::{SyntheticConfig, SyntheticSet, generate};
use shike::data::tiny_imagenet::tiny_imagenet_lists;
use shike::data::{Dataset, list_file, list_file_like};
use shike::train::recipe::{Card, Recipe};
use shike::train::run::RunPaths;
use shike::train::{DataSource, OptimizerConfig, TrainData};

const CARDS: [&str; 6] = [
    "cifar100_lt",
    "cifar10_lt",
    "imagenet_lt",
    "inaturalist18",
    "places_lt",
    "tiny_imagenet_lt",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets")
}

fn path(card: &str) -> PathBuf {
    folder().join(format!("{card}.toml"))
}

fn recipe(card: &str) -> (Recipe, Card) {
    let recipe = Recipe::read(path(card)).unwrap_or_else(|error| panic!("{error}"));
    let card = recipe.card().unwrap().unwrap();
    (recipe, card)
}

#[test]
fn every_card_is_complete() {
    let files = fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut names: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|ending| ending == "toml"))
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, CARDS);

    for name in CARDS {
        let (recipe, card) = recipe(name);
        let classes = card.classes.unwrap();
        let config = recipe.config(classes).unwrap();
        let texts = [
            &card.name,
            &card.images,
            &card.url,
            &card.terms,
            &card.layout,
        ];
        assert!(texts.iter().all(|text| !text.is_empty()), "{name}");
        assert_eq!(config.model.experts, 3, "{name}");
        assert!(config.stage(2).is_some(), "{name}");
        // SADE's and NCL's rates are meant for Nesterov's momentum.
        let theirs = ["imagenet_lt", "inaturalist18", "places_lt"].contains(&name);
        let OptimizerConfig::Sgd(sgd) = &config.optimizer else {
            panic!("{name}")
        };
        assert_eq!(sgd.nesterov, theirs, "{name}");
        // SADE fine-tunes all but the classifiers at a tenth of the rate.
        let slow = config.lr_factors.values().filter(|factor| **factor == 0.1);
        let tuned = usize::from(config.weights.is_some());
        assert_eq!(slow.count(), 5 * tuned, "{name}");
        // The lists that training looks for are those that the card describes.
        let known = |part| card.splits.iter().filter(move |split| split.part == part);
        for part in [Part::Train, Part::Test] {
            assert!(known(part).count() > 0, "{name}");
        }
        for split in &card.splits {
            assert!(split.smallest <= split.largest, "{name}");
            let hex =
                |text: &String, n| text.len() == n && text.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(
                split.sha256.as_ref().is_none_or(|hash| hex(hash, 64)),
                "{name}"
            );
            assert!(
                split.git_blob.as_ref().is_none_or(|hash| hex(hash, 40)),
                "{name}"
            );
        }
        if let Some(DataSource::Lists {
            train, val, test, ..
        }) = recipe.layout().unwrap()
        {
            let parts = [
                (Part::Train, Some(train)),
                (Part::Val, val),
                (Part::Test, test),
            ];
            for (part, list) in parts {
                let listed = known(part)
                    .all(|split| split.list.as_deref().map(Path::new) == list.as_deref());
                assert!(listed, "{name}");
            }
        }
        // Weights are drawn when they are used, so a large network costs nothing here.
        let side = config.train_pipeline.output_size().unwrap();
        assert_eq!(config.eval_pipeline.output_size(), Some(side), "{name}");
        config.model.validate().unwrap();
        let shapes = config.model.backbone.shapes(side.height_width());
        let last = shapes.last().unwrap();
        assert!(last.height > 1 && last.height == last.width, "{name}");
    }
}

#[test]
fn recipes_in_the_documentation_can_be_read() {
    let path = folder().join("../docs/RECIPES.md");
    let text = fs::read_to_string(path).unwrap();
    let blocks: Vec<&str> = text.split("```toml\n").skip(1).collect();
    assert!(blocks.len() >= 3);
    for block in blocks {
        let block = block.split("```").next().unwrap();
        let recipe = Recipe::parse("RECIPES.md", block);
        recipe.unwrap_or_else(|error| panic!("{block}\n{error}"));
    }
}

#[test]
fn every_setting_says_where_it_comes_from() {
    for name in CARDS {
        let text = fs::read_to_string(path(name)).unwrap();
        let sources = [
            "authors' ",
            "paper",
            "SADE",
            "NCL",
            "BALMS",
            "own",
            "unknown",
        ];
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let setting = ["epochs", "lr", "schedule", "optimizer", "loader", "loss"];
            let setting = setting.iter().any(|key| line.starts_with(key));
            if setting && !section.starts_with("[[") {
                let comment = line.split_once('#').map_or("", |(_, comment)| comment);
                assert!(
                    sources.iter().any(|source| comment.contains(source)),
                    "{name}: {line}"
                );
            }
        }
    }
}

/// A list of `shared/`, unpacked into `folder`.
fn published(folder: &Path, name: &str) -> PathBuf {
    let lists = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/lists");
    let packed = Path::new(lists).join(name).with_added_extension("xz");
    let file =
        fs::File::open(&packed).unwrap_or_else(|error| panic!("{}: {error}", packed.display()));
    let path = folder.join(name);
    let mut unpacked = fs::File::create(&path).unwrap();
    std::io::copy(&mut liblzma::read::XzDecoder::new(file), &mut unpacked).unwrap();
    path
}

#[test]
fn published_lists_are_recognised_and_others_are_not() {
    if !Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).exists() {
        eprintln!("SKIPPED published_lists_are_recognised: shared/ is not here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open =
        |name: &str| list_file("images", published(folder.path(), name), None, None).unwrap();
    let places = open("Places_LT_train.txt");
    let test = published(folder.path(), "Places_LT_test.txt");
    let test = list_file_like("images", test, &places).unwrap();
    let compare = |card: &str, train: &Dataset, val: Option<&Dataset>, test: Option<&Dataset>| {
        let data = TrainData {
            train: train.clone(),
            val: val.cloned(),
            test: test.cloned(),
        };
        recipe(card).1.compare(&data)
    };
    let expected = [
        "training set: the published split of Places-LT",
        "test set: the published split of Places-LT",
    ];
    assert_eq!(compare("places_lt", &places, None, Some(&test)), expected);
    let other = open("Places_LT_train_data256_layout.txt");
    assert_eq!(compare("places_lt", &other, None, None), expected[..1]);

    let species = open("iNaturalist18_val.txt");
    let lines = compare("inaturalist18", &species, None, Some(&species));
    assert!(
        lines[0].contains("NOT the published split of iNaturalist 2018: 24426 images"),
        "{lines:?}"
    );
    assert_eq!(
        lines[1],
        "test set: the published split of iNaturalist 2018"
    );
    assert!(
        lines[2].contains("only with those on the same images"),
        "{lines:?}"
    );
    let val = open("ImageNet_LT_val.txt");
    let lines = compare("imagenet_lt", &val, Some(&val), None);
    assert_eq!(
        lines[1],
        "validation set: the published split of ImageNet-LT"
    );

    // As many images of each class, in another order.
    let order: Vec<usize> = (0..places.len()).rev().collect();
    let lines = compare("places_lt", &places.select(&order), None, None);
    assert!(
        lines[0].contains("as many images, but others or in another order"),
        "{lines:?}"
    );
}

/// Drawn pictures, and weights of a plain ResNet-10.
struct Fixture {
    folder: tempfile::TempDir,
    drawn: SyntheticSet,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = SyntheticConfig {
            classes: 4,
            n_max: 6,
            imbalance_factor: 3.0,
            test_per_class: 2,
            size: 40,
            ..SyntheticConfig::default()
        };
        let drawn = generate(&folder.path().join("drawn"), &config).unwrap();
        Self { folder, drawn }
    }

    /// Paths and labels of a drawn list.
    fn images(&self, list: &Path) -> Vec<(PathBuf, usize)> {
        let text = fs::read_to_string(list).unwrap();
        let entry = |line: &str| {
            let (path, label) = line.rsplit_once(' ').unwrap();
            (self.drawn.root.join(path), label.parse().unwrap())
        };
        text.lines().map(entry).collect()
    }

    /// A tree with lists: `place` gives the path of the `i`th image of a part with a label.
    fn lists(&self, card: &str, place: impl Fn(&str, usize, usize) -> String) -> PathBuf {
        let (recipe, _) = recipe(card);
        let Some(DataSource::Lists {
            train, val, test, ..
        }) = recipe.layout().unwrap()
        else {
            panic!("{card} has lists");
        };
        let root = self.folder.path().join(card);
        let parts = [
            ("train", Some(train), &self.drawn.train_list),
            ("val", val, &self.drawn.test_list),
            ("test", test, &self.drawn.test_list),
        ];
        for (part, list, drawn) in parts {
            let Some(list) = list else { continue };
            let mut lines = String::new();
            for (i, (image, label)) in self.images(drawn).into_iter().enumerate() {
                let name = place(part, i, label);
                let path = root.join(&name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::copy(image, path).unwrap();
                lines += &format!("{name} {label}\n");
            }
            fs::write(root.join(list), lines).unwrap();
        }
        root
    }

    /// The official archive of Tiny-ImageNet, smaller, with the lists that the project makes of it.
    fn tiny(&self) -> PathBuf {
        let root = self.folder.path().join("tiny-imagenet-200");
        let copy = |image: &Path, name: String| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(image, path).unwrap();
        };
        for (i, (image, label)) in self.images(&self.drawn.train_list).iter().enumerate() {
            copy(
                image,
                format!("train/n{label:08}/images/n{label:08}_{i}.JPEG"),
            );
        }
        let mut annotations = String::new();
        for (i, (image, label)) in self.images(&self.drawn.test_list).iter().enumerate() {
            copy(image, format!("val/images/val_{i}.JPEG"));
            annotations += &format!("val_{i}.JPEG\tn{label:08}\t0\t0\t39\t39\n");
        }
        fs::write(root.join("val/val_annotations.txt"), annotations).unwrap();
        let lists = tiny_imagenet_lists(&root, 3.0).unwrap();
        lists.write(&root).unwrap();
        root
    }

    /// CIFAR's binary files with `n` images a class; colours follow the class.
    fn cifar(
        &self,
        folder: &str,
        files: &[&str],
        classes: usize,
        n: usize,
        head: usize,
    ) -> PathBuf {
        let root = self.folder.path().join(folder);
        fs::create_dir_all(&root).unwrap();
        for file in files {
            let record = |label: usize| {
                let mut record = vec![label as u8; head];
                record.extend((0..3072).map(|i| ((i + 7) * (label + 3) % 251) as u8));
                record
            };
            let records: Vec<u8> = (0..classes * n).flat_map(|i| record(i % classes)).collect();
            fs::write(root.join(file), records).unwrap();
        }
        root
    }

    fn weights(&self) -> PathBuf {
        let path = self.folder.path().join("resnet10.safetensors");
        resnet10_weights(&path);
        path
    }

    /// Two steps of each stage, scoring and prediction.
    fn runs(&self, card: &str, data: &Path, more: &str) {
        let run = self.folder.path().join("runs").join(card);
        let common = "--device flex --workers 2 --experts 2 --epochs 1 --stage2-epochs 1";
        let output = Command::new(env!("CARGO_BIN_EXE_shike"))
            .arg("train")
            .arg(path(card))
            .arg("--data")
            .arg(data)
            .arg("--run")
            .arg(&run)
            .args(common.split_whitespace())
            .args(more.split_whitespace())
            .output()
            .unwrap();
        success(&output);
        let said = common::said(&output);
        assert!(said.contains("training set: NOT "), "{said}");
        assert!(said.contains("a step sees"), "{said}");
        // What options change of a card is shown.
        assert!(said.contains("stage2.epochs"), "{said}");

        let rows = RunPaths::new(&run).read_rows().unwrap();
        let stages: Vec<usize> = rows.iter().map(|row| row.stage).collect();
        assert_eq!(stages, [1, 2], "{card}");
        // Checkpoints are named by the steps that were made.
        let steps = RunPaths::new(&run).step_checkpoints().unwrap();
        let last = steps.iter().map(|(step, _)| *step).max();
        assert_eq!(last, Some(4), "{card}");

        let shike = |arguments: &[&Path]| {
            let output = common::shike(arguments);
            success(&output);
            common::said(&output)
        };
        let said = shike(&[
            Path::new("eval"),
            &run,
            "--device".as_ref(),
            "flex".as_ref(),
        ]);
        assert!(said.contains("few"), "{said}");
        let (image, _) = &self.images(&self.drawn.test_list)[0];
        let device: [&Path; 2] = ["--device".as_ref(), "flex".as_ref()];
        let said = shike(&[Path::new("predict"), &run, image, device[0], device[1]]);
        let classes = RunPaths::new(&run).read_classes().unwrap().names;
        assert!(
            classes.iter().any(|class| said.contains(class.as_str())),
            "{said}"
        );
        // The drawn image is of another size than CIFAR's.
        let resized = said
            .contains("not of the 32×32 pixels that the model was trained on: they are resized");
        assert_eq!(resized, card.starts_with("cifar"), "{said}");
    }
}

#[test]
fn every_card_trains_on_a_small_tree_in_its_layout() {
    let fixture = Fixture::new();
    // 6, 4, 2 and 2 drawn images for training; 2 of each class for testing.
    let drawn = "--image-size 32 --batch-size 7 --many-above 4 --few-below 3";

    let root = fixture.lists("imagenet_lt", |part, i, label| match part {
        "test" => format!("val/n{label:08}/ILSVRC2012_val_{i:08}.JPEG"),
        // The validation list names training images, here others than those that are trained on.
        "val" => format!("train/n{label:08}/n{label:08}_{}.JPEG", 1000 + i),
        _ => format!("train/n{label:08}/n{label:08}_{i}.JPEG"),
    });
    fixture.runs("imagenet_lt", &root, &format!("{drawn} --arch resnet10"));

    let root = fixture.lists("inaturalist18", |_, i, label| {
        format!("train_val2018/Plantae/{label}/{i:032x}{}.jpg", label * 7)
    });
    fixture.runs("inaturalist18", &root, &format!("{drawn} --arch resnet10"));

    let root = fixture.lists("places_lt", |part, i, label| match part {
        "train" => format!("train/scene{label}/{i:08}.jpg"),
        _ => format!("val/scene{label}/Places365_{part}_{i:08}.jpg"),
    });
    let weights = fixture.weights();
    let more = format!("{drawn} --arch resnet10 --weights {}", weights.display());
    fixture.runs("places_lt", &root, &more);

    let root = fixture.tiny();
    fixture.runs(
        "tiny_imagenet_lt",
        &root,
        &format!("{drawn} --arch resnet8"),
    );

    // Two images of a class, of which the tail keeps one: 100 of the first class's size, and so on.
    let files = ["train.bin", "test.bin"];
    let root = fixture.cifar("cifar-100-binary", &files, 100, 2, 2);
    let more = "--arch resnet8 --imbalance-factor 2 --batch-size 60";
    fixture.runs("cifar100_lt", &root, more);
    let files = [
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
        "test_batch.bin",
    ];
    let root = fixture.cifar("cifar-10-batches-bin", &files, 10, 1, 1);
    let more = "--arch resnet8 --imbalance-factor 2 --batch-size 20";
    fixture.runs("cifar10_lt", &root, more);
}

//! Features that are kept between runs, and features in files.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use burn::tensor::Device;
use image::RgbImage;
use shike_data::{Dataset, LoaderConfig, Normalization, Part, Pipeline, Threads, image_folder};
use shike_infer::features::{read_features, write_features};
use shike_infer::{EmbedEvent, Embedder, FeatureCache, Features, InferError};
use shike_model::BackboneConfig;

/// A picture of 32x32 that differs from all of other numbers.
fn draw(folder: &Path, number: u32) {
    let class = folder.join(["cat", "dog"][number as usize % 2]);
    fs::create_dir_all(&class).unwrap();
    let picture = RgbImage::from_fn(32, 32, |x, y| {
        let value = |k: u32| ((x * (3 + number) + y * (7 + k) + number * 40) % 256) as u8;
        image::Rgb([value(0), value(5), value(11)])
    });
    picture
        .save(class.join(format!("{number:02}.png")))
        .unwrap();
}

/// Pictures, a cache and a trunk.
struct Place {
    dir: tempfile::TempDir,
    embedder: Embedder,
}

/// What a run made, how many pictures went through the trunk, and what it warned of.
type Made = (Result<Features, InferError>, usize, Vec<String>);

impl Place {
    fn new(pictures: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self {
            dir,
            embedder: embedder(1, Normalization::CIFAR10),
        };
        (0..pictures).for_each(|number| draw(&place.pictures(), number));
        place
    }

    fn pictures(&self) -> PathBuf {
        self.dir.path().join("pictures")
    }

    fn data(&self) -> Dataset {
        image_folder(self.pictures()).unwrap()
    }

    fn cache(&self, limit: u64) -> FeatureCache {
        FeatureCache::new(&self.dir.path().join("cache"), limit)
    }

    fn run_with(&self, embedder: &Embedder, limit: u64, stop_after: usize) -> Made {
        embed(embedder, &self.data(), &self.cache(limit), stop_after)
    }

    /// Features, and how many pictures were embedded for them; without warnings.
    fn run(&self) -> (Features, usize) {
        let (made, embedded, warnings) = self.run_with(&self.embedder, LARGE, usize::MAX);
        assert_eq!(warnings, Vec::<String>::new());
        (made.unwrap(), embedded)
    }

    /// All files of the cache.
    fn files(&self) -> Vec<PathBuf> {
        let list = |dir: &Path| -> Vec<PathBuf> {
            let found = fs::read_dir(dir).into_iter().flatten();
            found.map(|entry| entry.unwrap().path()).collect()
        };
        let folders = list(&self.dir.path().join("cache/features"));
        let mut files: Vec<PathBuf> = folders.iter().flat_map(|folder| list(folder)).collect();
        files.sort();
        files
    }
}

const LARGE: u64 = 1 << 30;
/// Bytes of a block of that many rows of resnet8.
const fn block(rows: u64) -> u64 {
    32 + 2 * 16 + rows * (16 + 4 * 112)
}

fn embedder(seed: u64, normalization: Normalization) -> Embedder {
    let device = Device::flex();
    device.seed(seed);
    let backbone = BackboneConfig::named("resnet8").unwrap();
    let trunk = backbone.init(&device).unwrap();
    Embedder::new(&trunk, &Pipeline::cifar_eval(), normalization, &device).unwrap()
}

/// Embeds in batches of 2, and stops when `stop_after` pictures were embedded.
fn embed(embedder: &Embedder, data: &Dataset, cache: &FeatureCache, stop_after: usize) -> Made {
    let (threads, stop) = (Threads::new(1).unwrap(), AtomicBool::new(false));
    let config = LoaderConfig {
        batch_size: 2,
        ..LoaderConfig::default()
    };
    let (mut embedded_last, mut warnings) = (0, vec![]);
    let mut tell = |event| match event {
        EmbedEvent::Progress { embedded, .. } => {
            embedded_last = embedded;
            stop.store(embedded >= stop_after, Ordering::Relaxed);
        }
        EmbedEvent::Warning(text) => warnings.push(text),
        _ => {}
    };
    let made = embedder.embed(data, &threads, config, Some(cache), &mut tell, &|| {
        stop.load(Ordering::Relaxed)
    });
    (made, embedded_last, warnings)
}

#[test]
fn a_second_run_embeds_what_is_new_or_has_changed() {
    let place = Place::new(5);
    let (first, embedded) = place.run();
    assert_eq!(embedded, 5);
    assert_eq!(place.files().len(), 1);
    assert_eq!(place.run(), (first.clone(), 0));
    // New pictures, one changed, one gone, one under another name.
    draw(&place.pictures(), 6);
    draw(&place.pictures(), 8);
    let cat = place.pictures().join("cat");
    fs::copy(place.pictures().join("dog/03.png"), cat.join("00.png")).unwrap();
    RgbImage::new(32, 32).save(cat.join("02.png")).unwrap();
    fs::rename(cat.join("04.png"), cat.join("05.png")).unwrap();
    let (second, embedded) = place.run();
    assert_eq!(embedded, 3);
    let names = [
        "cat/00.png",
        "cat/02.png",
        "cat/05.png",
        "cat/06.png",
        "cat/08.png",
    ];
    assert_eq!(second.names[..5], names);
    assert_eq!(second.row(0), first.row(4));
    assert_eq!(second.row(2), first.row(2));
    assert_ne!(second.row(1), first.row(1));
    // As without a cache.
    let empty = FeatureCache::new(&place.dir.path().join("empty"), LARGE);
    let (fresh, ..) = embed(&place.embedder, &place.data(), &empty, usize::MAX);
    assert_eq!(fresh.unwrap(), second);
}

#[test]
fn another_trunk_or_preprocessing_finds_nothing() {
    let place = Place::new(3);
    let (first, _) = place.run();
    for other in [
        embedder(2, Normalization::CIFAR10),
        embedder(1, Normalization::IMAGENET),
    ] {
        let (made, embedded, _) = place.run_with(&other, LARGE, usize::MAX);
        assert_eq!(embedded, 3);
        assert_ne!(made.unwrap().rows, first.rows);
    }
    assert_eq!(place.run(), (first, 0));
}

#[test]
fn a_damaged_block_is_named_and_made_again() {
    let place = Place::new(4);
    let (whole, _) = place.run();
    let block = place.files().remove(0);
    let good = fs::read(&block).unwrap();
    // Every byte that was ever wrong, and every length.
    let flips = (0..good.len()).step_by(13).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        bytes
    });
    let cuts = (0..good.len()).step_by(61).map(|at| good[..at].to_vec());
    for damaged in flips.chain(cuts) {
        fs::write(&block, &damaged).unwrap();
        let (made, embedded, warnings) = place.run_with(&place.embedder, LARGE, usize::MAX);
        assert_eq!(made.unwrap(), whole);
        assert_eq!(embedded, 4);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let name = block.display().to_string();
        assert!(warnings[0].starts_with(&name), "{warnings:?}");
        assert!(warnings[0].ends_with("its pictures are embedded again"));
        assert_eq!(place.files(), std::slice::from_ref(&block));
        assert_eq!(fs::read(&block).unwrap(), good);
    }
}

#[test]
fn what_was_done_when_it_stopped_is_kept() {
    let place = Place::new(7);
    let (made, embedded, _) = place.run_with(&place.embedder, LARGE, 4);
    assert!(matches!(
        made,
        Err(InferError::Stopped { done: 4, total: 7 })
    ));
    assert_eq!(embedded, 4);
    let (features, embedded) = place.run();
    assert_eq!(embedded, 3);
    // A picture that cannot be read ends it, too.
    draw(&place.pictures(), 8);
    draw(&place.pictures(), 10);
    let bad = place.pictures().join("dog/99.png");
    fs::write(&bad, "no picture").unwrap();
    let (made, ..) = place.run_with(&place.embedder, LARGE, usize::MAX);
    let message = made.unwrap_err().to_string();
    assert!(message.contains("99.png"), "{message}");
    fs::remove_file(bad).unwrap();
    let (more, embedded) = place.run();
    assert_eq!((more.labels.len(), embedded), (9, 0));
    assert_eq!(more.row(0), features.row(0));
}

#[test]
fn what_was_not_used_for_the_longest_time_goes_first() {
    let place = Place::new(2);
    let other = embedder(2, Normalization::CIFAR10);
    let third = embedder(3, Normalization::CIFAR10);
    let limit = 2 * block(2);
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    let run = |embedder: &Embedder| {
        let (made, embedded, warnings) = place.run_with(embedder, limit, usize::MAX);
        made.unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        embedded
    };
    assert_eq!(run(&other), 2);
    assert_eq!(run(&place.embedder), 2);
    for (path, seconds) in place.files().iter().zip([0, 1]) {
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(long_ago + Duration::from_secs(seconds))
            .unwrap();
    }
    // Used again, so the other one goes for the third.
    assert_eq!(run(&other), 0);
    assert_eq!(run(&third), 2);
    assert_eq!(place.files().len(), 2);
    assert_eq!(run(&other), 0);
    assert_eq!(run(&place.embedder), 2);
}

#[test]
fn a_run_that_is_larger_than_the_limit_goes_on_without() {
    let place = Place::new(3);
    let (whole, _) = place.run();
    let small = FeatureCache::new(&place.dir.path().join("small"), block(3) - 1);
    let (made, embedded, warnings) = embed(&place.embedder, &place.data(), &small, usize::MAX);
    assert_eq!((made.unwrap(), embedded), (whole, 3));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("limit of"), "{warnings:?}");
    assert!(warnings[0].ends_with("are not kept for the next run"));
}

#[test]
fn a_cache_that_cannot_be_written_is_told_of_once() {
    let place = Place::new(3);
    let (whole, _) = place.run();
    let blocked = place.dir.path().join("file");
    fs::write(&blocked, "").unwrap();
    let cache = FeatureCache::new(&blocked, LARGE);
    let (made, embedded, warnings) = embed(&place.embedder, &place.data(), &cache, usize::MAX);
    assert_eq!((made.unwrap(), embedded), (whole, 3));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("cannot make "), "{warnings:?}");
}

#[test]
fn what_a_killed_process_left_is_swept_away() {
    let place = Place::new(2);
    place.run();
    let half = place.files().remove(0).with_extension("rows.tmp-17");
    let fresh = half.with_extension("tmp-18");
    for (path, age) in [(&half, 7200), (&fresh, 10)] {
        fs::write(path, "half").unwrap();
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age))
            .unwrap();
    }
    draw(&place.pictures(), 2);
    assert_eq!(place.run().1, 1);
    assert!(!half.exists() && fresh.exists());
}

#[test]
fn two_at_once_are_no_harm() {
    let place = Place::new(9);
    let (data, cache) = (place.data(), place.cache(LARGE));
    let run = || embed(&place.embedder, &data, &cache, usize::MAX);
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join().unwrap())
    });
    assert_eq!(first.0.unwrap(), second.0.unwrap());
    assert_eq!((first.2, second.2), (vec![], vec![]));
    assert_eq!(place.run().1, 0);
}

fn write_and_read(features: &Features, dir: &Path) -> PathBuf {
    let path = dir.join("features.safetensors");
    let test = Features {
        names: vec!["a \"b\"\n.png".into()],
        labels: vec![1],
        contents: vec![7 << 100],
        rows: features.row(1).to_vec(),
        ..features.clone()
    };
    let parts = BTreeMap::from([(Part::Train, features.clone()), (Part::Test, test)]);
    write_features(&path, &parts).unwrap();
    assert_eq!(read_features(&path).unwrap(), parts);
    path
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let place = Place::new(4);
    let (features, _) = place.run();
    let path = write_and_read(&features, place.dir.path());
    // Any reader of safetensors takes it.
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let rows = file.tensor("train.features").unwrap();
    assert_eq!(rows.shape(), [4, 112]);
    assert_eq!(rows.data()[..4], features.rows[0].to_le_bytes());
    assert_eq!(file.tensor("test.contents").unwrap().shape(), [1, 16]);
    let names = file.tensor("train.names").unwrap();
    let names: Vec<String> = serde_json::from_slice(names.data()).unwrap();
    assert_eq!(names, features.names);
}

#[test]
fn a_file_that_holds_no_features_is_told_from_one_that_is_damaged() {
    let place = Place::new(3);
    let (features, _) = place.run();
    let path = write_and_read(&features, place.dir.path());
    let good = fs::read(&path).unwrap();
    let says = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let message = read_features(&path).unwrap_err().to_string();
        let name = path.display().to_string();
        assert!(message.starts_with(&name), "{message}");
        message
    };
    assert!(says(b"").contains("not a whole safetensors file"));
    assert!(says(&good[..good.len() - 1]).contains("not a whole safetensors file"));
    for at in (0..good.len()).step_by(11) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        says(&bytes);
    }
    let mut bytes = good.clone();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(says(&bytes).contains("its checksum is of other content"));
    let text = String::from_utf8_lossy(&good[8..300]).into_owned();
    assert!(text.contains(r#"\"format_version\":1,"#), "{text}");
    let replaced = |from: &str, to: &str| {
        let at = good.windows(from.len()).position(|w| w == from.as_bytes());
        let mut bytes = good.clone();
        bytes[at.unwrap()..][..to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let newer = replaced(r#"\"format_version\":1,"#, r#"\"format_version\":2,"#);
    assert!(says(&newer).contains("features of format 2; this program reads 1"));
    let other = replaced("shike_features", "shike_somethin");
    assert!(says(&other).contains("no `shike_features` entry"));
    fs::remove_file(&path).unwrap();
    assert!(read_features(&path).is_err());
}

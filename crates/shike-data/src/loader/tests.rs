#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::*;

/// `n` images of 32x32, all different.
fn data(n: usize) -> Dataset {
    let pixels = (0..n * 3072)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let labels = (0..n as u32).map(|i| i % 7).collect();
    Dataset::from_pixels(pixels, 32, 32, labels, 7).unwrap()
}

fn config(batch_size: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size,
        workers,
        ..LoaderConfig::default()
    }
}

fn loader(n: usize, batch_size: usize, workers: usize) -> Loader {
    let config = config(batch_size, workers);
    Loader::new(data(n), Pipeline::cifar_train(), config, 5).unwrap()
}

/// A loader whose images come from `make`.
fn made_by(
    n: usize,
    config: LoaderConfig,
    make: impl Fn(u32) -> Result<RgbImage> + Send + Sync + 'static,
) -> Loader {
    let make = move |_, _, index| make(index);
    let threads = Threads::new(config.workers).unwrap();
    Loader::from_parts(&threads, data(n), config, Arc::new(make), (32, 32)).unwrap()
}

fn all(epoch: Epoch) -> Vec<Batch> {
    epoch.map(Result::unwrap).collect()
}

/// Waits until `value` has not changed for a while.
fn settled(value: &AtomicUsize) -> usize {
    let mut last = value.load(Ordering::SeqCst);
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(150) {
        std::thread::sleep(Duration::from_millis(5));
        let now = value.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    last
}

#[test]
fn one_worker_or_sixteen() {
    let order: Vec<u32> = (0..100).rev().collect();
    let one = all(loader(100, 16, 1).epoch(3, order.clone(), 0));
    let sixteen = all(loader(100, 16, 16).epoch(3, order.clone(), 0));
    assert_eq!(one, sixteen);
    assert_eq!(one.len(), 7);
    assert_eq!(
        one.iter().map(Batch::len).collect::<Vec<_>>(),
        [16, 16, 16, 16, 16, 16, 4]
    );
    assert_eq!(one[0].indices[..3], [99, 98, 97]);
    assert_eq!(one[0].labels[0], 99 % 7);
    assert_eq!((one[0].height, one[0].width), (32, 32));
    assert_eq!(one[6].images.len(), 4 * 3072);
    // Another epoch is augmented in another way.
    assert_ne!(one, all(loader(100, 16, 1).epoch(4, order, 0)));
}

#[test]
fn resuming_in_the_middle_gives_the_rest() {
    let loader = loader(50, 8, 2);
    let order: Vec<u32> = (0..50).collect();
    let whole = all(loader.epoch(1, order.clone(), 0));
    for start in 0..=7 {
        let mut rest = loader.epoch(1, order.clone(), start);
        assert_eq!(rest.next_batch(), start);
        for want in &whole[start..] {
            assert_eq!(&rest.next().unwrap().unwrap(), want);
        }
        assert!(rest.next().is_none());
        assert!(rest.is_complete());
        assert_eq!(rest.total_batches(), 7);
    }
    assert_eq!(loader.epoch(1, order, 99).count(), 0);
}

#[test]
fn photographs_do_not_depend_on_workers_or_on_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("cat")).unwrap();
    for i in 0..13u32 {
        let (width, height) = (60 + 17 * i, 200 - 11 * i);
        let picture = RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * i) as u8, (y * 3) as u8, (x ^ y) as u8])
        });
        let ending = if i % 5 == 4 { "png" } else { "jpg" };
        let name = format!("{i:02}.{ending}");
        picture.save(dir.path().join("cat").join(name)).unwrap();
    }
    let data = crate::dataset::image_folder(dir.path()).unwrap();
    for pipeline in [Pipeline::randcls(32), Pipeline::sim(32)] {
        let loader = |workers| {
            let config = config(3, workers);
            Loader::new(data.clone(), pipeline.clone(), config, 11).unwrap()
        };
        let order: Vec<u32> = (0..13).chain([4, 4, 0]).rev().collect();
        let one = all(loader(1).epoch(2, order.clone(), 0));
        assert_eq!(one.len(), 6);
        assert_eq!(one, all(loader(16).epoch(2, order.clone(), 0)));
        for start in 1..6 {
            assert_eq!(one[start..], all(loader(3).epoch(2, order.clone(), start)));
        }
        assert_ne!(one, all(loader(1).epoch(3, order.clone(), 0)));
        let pixels = |batches: &[Batch]| -> Vec<u8> {
            batches.iter().flat_map(|b| b.images.clone()).collect()
        };
        let some = all(loader(2).epoch_batches(2, order.clone(), vec![1, 3, 5, 7]));
        assert_eq!(some, [1, 3, 5].map(|number| one[number].clone()));
        let part = all(loader(2).epoch_part(2, order, 2..7));
        assert_eq!([part[0].len(), part[1].len(), part.len()], [3, 2, 2]);
        let image = 3 * 32 * 32;
        assert_eq!(pixels(&part), pixels(&one)[2 * image..7 * image]);
    }
}

#[test]
fn an_image_that_comes_twice_is_augmented_in_two_ways() {
    let batches = all(loader(4, 8, 2).epoch(0, vec![1; 8], 0));
    let images: std::collections::HashSet<&[u8]> = batches[0].images.chunks_exact(3072).collect();
    assert_eq!(images.len(), 8);
}

#[test]
fn the_last_batch() {
    let mut loader = loader(20, 8, 1);
    assert_eq!(loader.batches_per_epoch(20), 3);
    loader.config.drop_last = true;
    assert_eq!(loader.batches_per_epoch(20), 2);
    assert_eq!(all(loader.epoch(0, (0..20).collect(), 0)).len(), 2);
    // Evaluation counts every image all the same.
    let batches = all(loader.sequential());
    let indices: Vec<u32> = batches.iter().flat_map(|b| b.indices.clone()).collect();
    assert!(indices.into_iter().eq(0..20));
    let odd = all(loader.sequential_part(1, 2));
    assert_eq!(odd, [batches[1].clone()]);
    assert!(all(loader.sequential_part(3, 4)).is_empty());
}

#[test]
fn evaluation_does_not_change_the_pixels() {
    let data = data(5);
    let loader = Loader::new(data.clone(), Pipeline::cifar_eval(), config(2, 2), 0).unwrap();
    let images: Vec<u8> = all(loader.sequential())
        .into_iter()
        .flat_map(|b| b.images)
        .collect();
    for (i, got) in images.chunks_exact(3072).enumerate() {
        let want = data.image(i, &DecodeLimits::default()).unwrap();
        assert_eq!(got, want.as_raw().as_slice());
    }
}

#[test]
fn prefetch_is_bounded() {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let config = LoaderConfig {
        prefetch: 2,
        ..config(4, 2)
    };
    let loader = made_by(100, config, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(RgbImage::new(32, 32))
    });
    let mut epoch = loader.epoch(0, (0..100).collect(), 0);
    // Two batches wait and two more want to be handed over.
    assert_eq!(settled(&made), 4 * 4);
    epoch.next().unwrap().unwrap();
    assert_eq!(settled(&made), 5 * 4);
    drop(epoch);
    assert_eq!(settled(&made), 5 * 4);
}

#[test]
fn dropping_stops_the_work_at_once() {
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let loader = made_by(1000, config(1000, 1), move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        Ok(RgbImage::new(32, 32))
    });
    let epoch = loader.epoch(0, (0..1000).collect(), 0);
    while made.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    drop(epoch);
    // The batch of two seconds was left unfinished, and drop waited for the thread.
    let after = made.load(Ordering::SeqCst);
    assert!(after < 1000, "{after}");
    assert_eq!(settled(&made), after);
}

#[test]
fn a_failing_image_ends_the_epoch_with_its_name() {
    let loader = made_by(40, config(8, 4), |index| match index {
        21 | 23 => Err(DataError::Truncated {
            origin: format!("image {index}"),
        }),
        _ => Ok(RgbImage::new(32, 32)),
    });
    for _ in 0..20 {
        let mut epoch = loader.sequential();
        assert!(epoch.next().unwrap().is_ok());
        assert!(epoch.next().unwrap().is_ok());
        // The first of the two, whichever thread was faster.
        let error = epoch.next().unwrap().unwrap_err();
        assert!(error.to_string().starts_with("image 21"), "{error}");
        assert!(epoch.next().is_none());
        assert!(epoch.next().is_none());
        assert!(!epoch.is_complete());
        assert_eq!(epoch.next_batch(), 2);
    }
}

#[test]
fn a_panic_is_an_error() {
    let loader = made_by(40, config(8, 4), |index| {
        assert!(index != 9, "on purpose");
        Ok(RgbImage::new(32, 32))
    });
    let mut epoch = loader.sequential();
    assert!(epoch.next().unwrap().is_ok());
    let error = epoch.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("memory record 9"), "{error}");
    assert!(error.contains("on purpose"), "{error}");
    assert!(epoch.next().is_none() && !epoch.is_complete());
    // The pool has survived.
    assert!(loader.epoch(0, vec![1, 2, 3], 0).all(|batch| batch.is_ok()));
}

#[test]
fn a_thread_that_vanishes_is_an_error() {
    // An index beyond the data set: every image fails before its label is looked up.
    let mut epoch = loader(4, 2, 1).epoch(0, vec![0, 1, 99, 2], 0);
    assert!(epoch.next().unwrap().is_ok());
    let error = epoch.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("is 99, but there are 4 images"), "{error}");
    // The same where making it succeeds: the coordinator panics at the label.
    let loader = made_by(4, config(2, 1), |_| Ok(RgbImage::new(32, 32)));
    let mut epoch = loader.epoch(0, vec![0, 1, 99, 2], 0);
    assert!(epoch.next().unwrap().is_ok());
    let error = epoch.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("stopped after 1 of 2 batches"), "{error}");
    assert!(epoch.next().is_none() && !epoch.is_complete());
}

#[test]
fn sizes_that_differ_are_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("cat")).unwrap();
    for (name, side) in [("a.png", 20), ("b.png", 20), ("c.png", 21)] {
        RgbImage::new(side, 20)
            .save(dir.path().join("cat").join(name))
            .unwrap();
    }
    let data = crate::dataset::image_folder(dir.path()).unwrap();
    let loader = Loader::new(data.clone(), Pipeline::default(), config(2, 2), 0).unwrap();
    let mut epoch = loader.sequential();
    assert_eq!(epoch.next().unwrap().unwrap().images.len(), 2 * 20 * 20 * 3);
    let error = epoch.next().unwrap().unwrap_err().to_string();
    assert!(
        error.contains("c.png: 21x20") && error.contains("20x20"),
        "{error}"
    );

    let loader = Loader::new(data, Pipeline::cifar_train(), config(2, 2), 0).unwrap();
    // 20 + 2 * 4 < 32: too small for the crop, and the file is named.
    let error = loader.sequential().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("a.png: random_crop"), "{error}");
}

#[test]
fn wrong_configurations() {
    let make = |config, pipeline| {
        Loader::new(data(2), pipeline, config, 0)
            .unwrap_err()
            .to_string()
    };
    let pipeline = Pipeline::cifar_eval;
    assert!(make(config(0, 1), pipeline()).starts_with("batch_size"));
    let no_queue = LoaderConfig {
        prefetch: 0,
        ..config(1, 1)
    };
    assert!(make(no_queue, pipeline()).starts_with("prefetch"));
    assert!(make(config(1, 100_000), pipeline()).starts_with("workers"));
    // A batch larger than the data is one batch.
    let huge = Loader::new(data(2), pipeline(), config(usize::MAX, 1), 0).unwrap();
    assert_eq!(all(huge.sequential()).len(), 1);
    let flip = Pipeline {
        transforms: vec![crate::augment::Transform::HorizontalFlip { p: 2.0 }],
    };
    assert!(make(config(1, 1), flip).starts_with("transforms[0]"));
    let empty = data(2).select(&[]);
    assert!(Loader::new(empty, pipeline(), config(1, 1), 0).is_err());
    let text = r#"{"batch_size": 64, "worker": 2}"#;
    assert!(serde_json::from_str::<LoaderConfig>(text).is_err());
}

//! Pictures of other shapes than the network's, and pixels of more than 8 bits. `fit/make.py` asked Pillow.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::prepare_file;
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, Luma, Rgb, RgbImage};
use shike_data::augment::Interpolation;
use shike_data::inspect::value_range;
use shike_data::rng::{Purpose, rng};
use shike_data::{DecodeLimits, Decoding, Fit, Pipeline, Size, Transform, image_folder};

fn picture(name: &str) -> RgbImage {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fit");
    image::open(folder.join(name)).unwrap().into_rgb8()
}

fn apply(pipeline: &Pipeline, image: RgbImage) -> RgbImage {
    pipeline
        .apply(image, &mut rng(0, 0, 0, Purpose::Augment))
        .unwrap()
}

#[test]
fn pad_and_squash_are_those_of_pillow() {
    for name in ["wide", "tall"] {
        for text in ["16x16", "20x9", "64x70"] {
            let size: Size = text.parse().unwrap();
            for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
                let method = match interpolation {
                    Interpolation::Bilinear => "bilinear",
                    Interpolation::Bicubic => "bicubic",
                };
                for transform in [
                    Transform::Pad {
                        size,
                        interpolation,
                    },
                    Transform::Squash {
                        size,
                        interpolation,
                    },
                ] {
                    let expected = format!("{}_{name}_{text}_{method}.png", transform.name());
                    let pipeline = Pipeline {
                        transforms: vec![transform],
                    };
                    assert_eq!(pipeline.output_size(), Some(size));
                    let found = apply(&pipeline, picture(&format!("{name}.png")));
                    assert_eq!(found, picture(&expected), "{expected}");
                }
            }
        }
    }
}

/// An object at one end of a picture of four to one: the crop does not see it.
#[test]
fn what_is_at_the_ends_is_seen_where_nothing_is_cut_off() {
    let object = |left: u32| {
        RgbImage::from_fn(320, 80, |x, y| {
            match (left..left + 40).contains(&x) && y > 20 {
                true => Rgb([250, 10, 10]),
                false => Rgb([90; 3]),
            }
        })
    };
    let red = |image: &RgbImage| {
        let red = |p: &&Rgb<u8>| p.0[0] > p.0[1] + 60;
        image.pixels().filter(red).count()
    };
    for left in [0, 280] {
        let seen = |pipeline: &Pipeline| red(&apply(pipeline, object(left)));
        let crop = Pipeline::photo_eval(48);
        assert_eq!(seen(&crop), 0);
        let pad = seen(&crop.fitted(Fit::Pad));
        // 6 of 48 columns, three quarters of 12 rows.
        assert!((40..=70).contains(&pad), "{pad}");
        let squash = seen(&crop.fitted(Fit::Squash));
        assert!((180..=260).contains(&squash), "{squash}");
        // A rectangle of its own shape loses nothing either.
        let own = seen(&Pipeline::photo_eval("192x48".parse::<Size>().unwrap()));
        assert!(own > 300, "{own}");
    }
    // In training, boxes of the picture's own shape: most of them see it, and none is stretched.
    for fit in [Fit::Pad, Fit::Squash] {
        let train = Pipeline::photo_train(48).fitted(fit);
        let mut seen = 0;
        for i in 0..200 {
            let mut random = rng(3, 0, i, Purpose::Augment);
            let image = train.apply(object(0), &mut random).unwrap();
            assert_eq!(image.dimensions(), (48, 48));
            seen += usize::from(red(&image) > 0);
        }
        assert!((80..160).contains(&seen), "{fit:?}: {seen}");
    }
}

#[test]
fn pipelines_are_fitted_and_brought_back() {
    for pipeline in [
        Pipeline::photo_eval(96),
        Pipeline::randcls(96),
        Pipeline::sim(64),
    ] {
        assert_eq!(pipeline.fit(), Some(Fit::Crop));
        for fit in [Fit::Pad, Fit::Squash] {
            let fitted = pipeline.fitted(fit);
            fitted.validate().unwrap();
            assert_eq!(fitted.fit(), Some(fit));
            assert_eq!(fitted.output_size(), pipeline.output_size());
            assert_eq!(fitted.fitted(Fit::Crop), pipeline);
            assert_eq!(fitted.resized(48).output_size(), Some(48.into()));
        }
    }
    // What is cut out at random is cut out of all of it.
    let cifar = Pipeline::cifar_train().resizing();
    let padded = cifar.fitted(Fit::Pad);
    assert!(matches!(padded.transforms[0], Transform::Pad { size, .. } if size == 32.into()));
    assert_eq!(padded.transforms[1..], cifar.transforms[1..]);
    assert_eq!(padded.fitted(Fit::Crop), cifar);
    // Nothing is resized, so nothing is fitted.
    assert_eq!(
        Pipeline::cifar_eval().fitted(Fit::Pad),
        Pipeline::cifar_eval()
    );
    let wide: Size = "96x32".parse().unwrap();
    for name in Pipeline::NAMES {
        let pipeline = Pipeline::named(name, wide).unwrap();
        assert_eq!(pipeline.output_size(), Some(wide), "{name}");
        let made = apply(&pipeline.resizing(), RgbImage::new(200, 90));
        assert_eq!(made.dimensions(), (96, 32), "{name}");
        assert_eq!(
            pipeline.resized(32).output_size(),
            Some(32.into()),
            "{name}"
        );
    }
}

/// The JPEG of `tests/jpeg` with each of the eight EXIF orientations.
fn turned_files(dir: &Path) -> Vec<(Orientation, PathBuf)> {
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jpeg/baseline_420.jpg");
    let plain = std::fs::read(plain).unwrap();
    (1..=8)
        .map(|orientation| {
            let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
            exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
            let length = exif.len() as u8 + 2;
            let file = [&plain[..2], &[0xFF, 0xE1, 0, length], &exif, &plain[2..]].concat();
            let path = dir.join(format!("{orientation}.jpg"));
            std::fs::write(&path, file).unwrap();
            (Orientation::from_exif(orientation).unwrap(), path)
        })
        .collect()
}

/// The short way of a JPEG turns the few pixels that come out; the long way turns all of it first.
#[test]
fn all_turns_and_fits_take_the_short_way_to_the_same_pixels() {
    let dir = tempfile::tempdir().unwrap();
    let limits = DecodeLimits::default();
    let upright = Decoding {
        upright: true,
        ..Decoding::default()
    };
    let wide: Size = "50x20".parse().unwrap();
    for (turn, path) in turned_files(dir.path()) {
        let stored = image::open(&path).unwrap().into_rgb8();
        let mut whole = DynamicImage::ImageRgb8(stored);
        whole.apply_orientation(turn);
        let whole = whole.into_rgb8();
        for fit in [Fit::Crop, Fit::Pad, Fit::Squash] {
            for pipeline in [
                Pipeline::photo_eval(32),
                Pipeline::photo_eval(wide),
                Pipeline::photo_train(24),
                Pipeline::photo_train(wide),
            ] {
                let pipeline = pipeline.fitted(fit).decoded(&upright);
                for i in 0..10 {
                    let random = || rng(5, 0, i, Purpose::Augment);
                    let short = prepare_file(&path, &pipeline, &limits, &mut random()).unwrap();
                    let exact = pipeline.apply(whole.clone(), &mut random()).unwrap();
                    assert_eq!(short.dimensions(), exact.dimensions());
                    let far = short.iter().zip(exact.iter()).map(|(a, b)| a.abs_diff(*b));
                    // One of rounding, and one where rows are resized before columns.
                    assert!(far.max() <= Some(2), "{turn:?} {fit:?} {pipeline:?}");
                }
            }
        }
        // Without being asked for, it is as it is stored.
        let stored = prepare_file(
            &path,
            &Pipeline::default(),
            &limits,
            &mut rng(0, 0, 0, Purpose::Augment),
        );
        assert_eq!(stored.unwrap().dimensions(), (75, 101));
    }
}

/// 12 bits in 16-bit PNGs: two grey levels are left of them, unless they are stretched.
#[test]
fn twelve_bits_in_sixteen_keep_their_levels_with_a_range() {
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("cells");
    std::fs::create_dir(&class).unwrap();
    let value = |i: u32, x: u32, y: u32| (300 + (x + 10 * y + i) % 120) as u16;
    for i in 0..4 {
        let image = ImageBuffer::from_fn(10, 12, |x, y| Luma([value(i, x, y)]));
        image.save(class.join(format!("{i}.png"))).unwrap();
    }
    let data = image_folder(dir.path()).unwrap();
    let range = value_range([&data]).unwrap();
    assert_eq!(range, [300, 419]);
    let levels = |decoding: &Decoding| {
        let image = data
            .image_as(0, &DecodeLimits::default(), decoding)
            .unwrap();
        let values: std::collections::BTreeSet<u8> = image.iter().copied().collect();
        (values.len(), image)
    };
    let (few, _) = levels(&Decoding::default());
    assert_eq!(few, 2);
    let decoding = |range| Decoding {
        range,
        ..Decoding::default()
    };
    let (all, image) = levels(&decoding(range));
    assert_eq!(all, 120);
    for (x, y, pixel) in image.enumerate_pixels() {
        let wanted = (f64::from(value(0, x, y) - 300) * 255.0 / 119.0).round() as u8;
        assert_eq!(pixel.0, [wanted; 3]);
    }
    // What is beyond is black or white.
    let (_, image) = levels(&decoding([310, 400]));
    assert!(image.contains(&0) && image.contains(&255));
    let pipeline = Pipeline::photo_eval(8).decoded(&decoding([310, 400]));
    pipeline.validate().unwrap();
    assert_eq!(pipeline.decoding(), decoding([310, 400]));
    assert_eq!(
        pipeline.decoded(&Decoding::default()),
        Pipeline::photo_eval(8)
    );
    // 8 bits have no range.
    let eight = tempfile::tempdir().unwrap();
    std::fs::create_dir(eight.path().join("a")).unwrap();
    RgbImage::new(4, 4)
        .save(eight.path().join("a/1.png"))
        .unwrap();
    assert_eq!(value_range([&image_folder(eight.path()).unwrap()]), None);
}

#[test]
fn a_few_bright_dots_do_not_set_the_range() {
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("stars");
    std::fs::create_dir(&class).unwrap();
    // 2 of 10,000 pixels are dots; the others are from 1000 to 1099.
    let sky = |x: u32, y: u32| match (x, y) {
        (5, 5) => 65_535,
        (9, 9) => 3,
        _ => (1000 + x) as u16,
    };
    let image = ImageBuffer::from_fn(100, 100, |x, y| Luma([sky(x, y)]));
    image.save(class.join("1.png")).unwrap();
    let data = image_folder(dir.path()).unwrap();
    assert_eq!(value_range([&data]), Some([1000, 1099]));
}

#[test]
fn what_is_done_while_decoding_comes_first_and_once() {
    let range = |low, high| Transform::Range { low, high };
    let background = Transform::Background { color: [9, 8, 7] };
    let crop = Transform::CenterCrop { size: 8.into() };
    let problem = |transforms: &[Transform]| {
        let pipeline = Pipeline {
            transforms: transforms.to_vec(),
        };
        pipeline.validate().map_err(|error| error.to_string())
    };
    let all = [
        background.clone(),
        range(5, 9),
        Transform::ExifOrientation,
        crop.clone(),
    ];
    assert_eq!(problem(&all), Ok(()));
    for (transforms, says) in [
        (
            &[crop.clone(), range(5, 9)][..],
            "transforms[1] (range): must come before all",
        ),
        (
            &[background.clone(), background],
            "transforms[1] (background): must come before",
        ),
        (
            &[range(9, 9)],
            "transforms[0] (range).high: is 9, must be above `low`",
        ),
    ] {
        let error = problem(transforms).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

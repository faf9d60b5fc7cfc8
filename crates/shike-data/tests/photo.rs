//! The short way of a JPEG against decoding all of it and resizing it exactly.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{decode_file, prepare_file};
use image::RgbImage;
use shike_data::augment::Interpolation;
use shike_data::rng::{Purpose, rng};
use shike_data::{DataError, DecodeLimits, Pipeline, Transform, decode_rgb};

/// Encodings of one picture of 75x101, by Pillow 13: `image.save(name, quality=80, …)` with
/// `subsampling`, `restart_marker_blocks=7`, `progressive`, `keep_rgb`, or in another mode.
const FILES: [&str; 7] = [
    "baseline_420",
    "baseline_422",
    "baseline_444_restart",
    "progressive",
    "grey",
    "cmyk",
    "rgb",
];

fn file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jpeg")).join(format!("{name}.jpg"))
}

/// Bicubic to `short_side`, and the middle of it.
fn bicubic(short_side: u32) -> Pipeline {
    let interpolation = Interpolation::Bicubic;
    Pipeline {
        transforms: vec![
            Transform::Resize {
                short_side,
                interpolation,
            },
            Transform::CenterCrop { size: 32.into() },
        ],
    }
}

/// (greatest difference, share of values that differ) of the two ways.
fn differ(path: &Path, pipeline: &Pipeline, index: u64) -> (u8, f64) {
    let limits = DecodeLimits::default();
    let random = || rng(9, 0, index, Purpose::Augment);
    let short = prepare_file(path, pipeline, &limits, &mut random()).unwrap();
    let whole = decode_file(path, &limits).unwrap();
    let exact = pipeline.apply(whole, &mut random()).unwrap();
    assert_eq!(short.dimensions(), exact.dimensions(), "{path:?}");
    let pairs = || short.iter().zip(exact.iter());
    let most = pairs().map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    let differ = pairs().filter(|(a, b)| a != b).count() as f64;
    (most, differ / exact.len() as f64)
}

#[test]
fn every_encoding_and_every_crop() {
    for name in FILES {
        for index in 0..40 {
            for pipeline in [
                Pipeline::photo_train(24),
                Pipeline::photo_eval(32),
                Pipeline::photo_eval(70),
                bicubic(40),
                bicubic(90),
            ] {
                let (most, share) = differ(&file(name), &pipeline, index);
                assert!(most <= 1, "{name} {index}: {most}");
                // CMYK takes the exact way.
                assert!(name != "cmyk" || most == 0);
                assert!(share < 0.2, "{name} {index}: {share}");
            }
        }
    }
}

/// The same decoders, asked by way of `image`.
#[test]
fn whole_pictures_are_those_of_the_image_crate() {
    for name in FILES {
        let want: RgbImage = image::open(file(name)).unwrap().into_rgb8();
        let got = decode_file(&file(name), &DecodeLimits::default()).unwrap();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn a_cut_picture_is_an_error() {
    let limits = DecodeLimits::default();
    for name in FILES {
        let whole = std::fs::read(file(name)).unwrap();
        for tenths in 1..10 {
            let cut = &whole[..whole.len() * tenths / 10];
            let Err(error) = decode_rgb(cut, "x.jpg", &limits) else {
                panic!("{name}: {tenths}/10 of the file were enough");
            };
            assert!(error.to_string().starts_with("x.jpg: "), "{error}");
        }
    }
}

#[test]
fn photographs() {
    let Some(folder) = common::shared("photographs", "data/imagenet-samples") else {
        return;
    };
    let archive = std::fs::File::open(folder.join("images.tar")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut cases, mut worst) = (0, 0.0f64);
    let mut archive = tar::Archive::new(archive);
    let pictures = archive.entries().unwrap().map(Result::unwrap);
    let pictures = pictures.filter(|entry| entry.header().entry_type().is_file());
    for (index, mut entry) in pictures.step_by(8).enumerate() {
        let path = dir.path().join(format!("{index}.jpg"));
        entry.unpack(&path).unwrap();
        for pipeline in [
            Pipeline::photo_train(224),
            Pipeline::photo_eval(224),
            bicubic(256),
        ] {
            let (most, share) = differ(&path, &pipeline, index as u64);
            assert!(most <= 1, "{index}: {most}");
            worst = worst.max(share);
            cases += 1;
        }
    }
    assert!(cases > 20, "{cases}");
    println!(
        "GOLDEN photographs: {cases} cases ran; at most {worst:.3} of the values are off by 1"
    );
}

/// The pictures that `jpeg/grid.py` wrote into a folder. Returns how many there are.
fn like_libjpeg(folder: &Path) -> usize {
    let limits = DecodeLimits::default();
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let jpegs = paths.filter(|path| path.extension().is_some_and(|e| e == "jpg"));
    let mut number = 0;
    for path in jpegs {
        let name = path.file_name().unwrap().to_str().unwrap();
        let got = decode_file(&path, &limits);
        if name.starts_with("read_") {
            let got = got.unwrap();
            let want = image::open(path.with_extension("png")).unwrap().into_rgb8();
            assert_eq!(got.dimensions(), want.dimensions(), "{name}");
            let differ = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b));
            let sum: f64 = got.iter().zip(want.iter()).map(differ).sum();
            let mean = sum / want.len() as f64;
            assert!(mean <= 2.0, "{name}: {mean}");
        } else if name.starts_with("refused_") {
            // By the header, so that the start of a training finds it, too.
            let error = got.unwrap_err();
            assert!(matches!(error, DataError::NotAnImage { .. }), "{error}");
        } else {
            continue;
        }
        number += 1;
    }
    number
}

#[test]
fn pixels_are_those_of_libjpeg() {
    assert_eq!(like_libjpeg(file("grey").parent().unwrap()), 10);
}

/// All samplings, modes and scan scripts: see `jpeg/grid.py`.
#[test]
#[ignore = "for a folder that grid.py made"]
fn pixels_are_those_of_libjpeg_in_the_whole_grid() {
    let folder = std::env::var_os("SHIKE_JPEG_GRID").unwrap();
    println!("{} files", like_libjpeg(Path::new(&folder)));
}

#[test]
fn half_a_picture_is_an_error_although_its_end_marker_is_there() {
    let limits = DecodeLimits::default();
    let dir = tempfile::tempdir().unwrap();
    for name in FILES {
        let whole = std::fs::read(file(name)).unwrap();
        for tenths in 1..10 {
            let mut half = whole[..whole.len() * tenths / 10].to_vec();
            half.extend([0xFF, 0xD9]);
            let path = dir.path().join(format!("{name}_{tenths}.jpg"));
            std::fs::write(&path, half).unwrap();
            assert!(decode_file(&path, &limits).is_err(), "{path:?}");
            let prepare = |pipeline, index| {
                let mut random = rng(9, 0, index, Purpose::Augment);
                prepare_file(&path, &pipeline, &limits, &mut random)
            };
            assert!(prepare(Pipeline::photo_eval(32), 0).is_err(), "{path:?}");
            // Training stops at the bottom of a crop, and needs no more; missing restart markers are seen
            // before.
            let crops = (0..40).map(|index| prepare(Pipeline::photo_train(24), index).is_ok());
            let good = crops.filter(|good| *good).count();
            assert!(good < 40, "{path:?}");
            if name.starts_with("baseline") && !name.contains("restart") && tenths == 9 {
                assert!(good > 0, "{path:?}");
            }
        }
    }
}

//! The types of image files beside JPEG: pixels as Pillow gives them, and damage. `types/make.py` made the files.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use image::RgbImage;
use shike_data::decode::{FORMATS, decode_as};
use shike_data::inspect::Pixels;
use shike_data::{DataError, DecodeLimits, Decoding, Result, decode_rgb, image_folder};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/types")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn decode(name: &str) -> RgbImage {
    decode_rgb(&bytes(name), name, &DecodeLimits::default()).unwrap()
}

/// The pictures of the types.
fn names() -> Vec<String> {
    let names = std::fs::read_dir(folder()).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str().unwrap().to_owned()
    });
    let mut names: Vec<_> = names
        .filter(|name| !name.ends_with(".png") && !name.ends_with(".py"))
        .collect();
    names.sort_unstable();
    assert_eq!(names.len(), 33);
    names
}

#[test]
fn pixels_are_those_of_pillow() {
    let mut compared = 0;
    for name in names() {
        let expected = format!("{name}.png");
        if !folder().join(&expected).exists() {
            continue;
        }
        compared += 1;
        let (found, expected) = (decode(&name), decode(&expected));
        assert_eq!(found.dimensions(), expected.dimensions(), "{name}");
        let far = found
            .iter()
            .zip(expected.iter())
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert_eq!(far, Some(0), "{name}");
    }
    assert_eq!(compared, 29);
}

#[test]
fn sixteen_bits_are_rounded_and_kept_apart_from_others() {
    let expected = RgbImage::from_fn(23, 17, |x, y| {
        image::Rgb([((x * 2500 + y * 300 + 128) / 257) as u8; 3])
    });
    assert_eq!(decode("deep_grey.tif"), expected);
    assert_eq!(decode("deep_grey.png"), expected);
    let colours = decode("deep_rgb_big_endian.tif");
    for (x, y, pixel) in colours.enumerate_pixels() {
        let grey = |x, y| expected[(x, y)][0];
        assert_eq!(pixel.0, [grey(x, y), grey(x, 16 - y), grey(22 - x, y)]);
    }
}

#[test]
fn a_cut_file_is_an_error_at_every_length() {
    for name in names() {
        let whole = bytes(&name);
        // Pillow fills up pages with zeros.
        let filled = whole.iter().rev().take_while(|byte| **byte == 0).count();
        let needed = match name == "pages.tif" {
            true => whole.len() - filled,
            false => whole.len(),
        };
        for keep in 0..needed {
            let error = match decode_rgb(&whole[..keep], &name, &DecodeLimits::default()) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{name} of {} is read with {keep} bytes", whole.len()),
            };
            assert!(
                error.starts_with(&name) && !error.contains("panicked"),
                "{keep}: {error}"
            );
        }
    }
}

/// As on a disk that lost a block, or a line that lost a bit: nothing is read beyond limits, and nothing panics.
#[test]
fn damage_is_an_error_or_other_pixels() {
    let limits = DecodeLimits {
        max_alloc: 64 << 20,
        ..DecodeLimits::default()
    };
    for name in names() {
        let whole = bytes(&name);
        for at in 0..whole.len() {
            for change in [0xFF, 0x01, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= change;
                if let Err(error) = decode_rgb(&damaged, &name, &limits) {
                    let error = error.to_string();
                    assert!(error.starts_with(&name), "{error}");
                    assert!(!error.contains("panicked"), "{name} at {at}: {error}");
                }
            }
        }
    }
}

#[test]
fn forged_sizes_are_refused_before_anything_is_allocated() {
    let wide = 65_500u32.to_le_bytes();
    let tiff = bytes("rgb.tif");
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    let value = |tag: u16| {
        let mut entries = tiff[directory + 2..].chunks_exact(12);
        let entry = entries.position(|entry| entry[..2] == tag.to_le_bytes());
        directory + 2 + 12 * entry.unwrap() + 8
    };
    for (name, places, value) in [
        // Width, height, and rows of a strip.
        (
            "rgb.tif",
            &[value(256), value(257), value(278)][..],
            &wide[..2],
        ),
        ("rgb.bmp", &[18, 22], &wide[..]),
        ("palette.gif", &[6, 8], &wide[..2]),
        ("turned.webp", &[24, 27], &[0xDC, 0xFF, 0][..]),
    ] {
        let mut forged = bytes(name);
        for &place in places {
            forged[place..place + value.len()].copy_from_slice(value);
        }
        let error = decode_rgb(&forged, name, &DecodeLimits::default()).unwrap_err();
        assert!(matches!(error, DataError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn memory_is_limited() {
    let limits = DecodeLimits {
        max_alloc: 2500,
        ..DecodeLimits::default()
    };
    for name in ["rgb.tif", "rgb.bmp", "palette.gif", "lossless.webp"] {
        let error = decode_rgb(&bytes(name), name, &limits)
            .unwrap_err()
            .to_string();
        assert!(error.contains("Memory limit exceeded"), "{error}");
    }
}

#[test]
fn transparent_pixels_are_laid_over_a_colour() {
    let decoding = Decoding {
        background: Some([255, 240, 10]),
        ..Decoding::default()
    };
    let over =
        |name: &str| decode_as(&bytes(name), name, &DecodeLimits::default(), &decoding).unwrap();
    for name in ["alpha.tif", "alpha_lossless.webp"] {
        assert_eq!(over(name), decode("over.png"), "{name}");
    }
    // What has no alpha stays.
    assert_eq!(over("rgb.tif"), decode("rgb.tif"));
    let found = over("alpha.gif");
    let changed = found
        .pixels()
        .zip(decode("alpha.gif").pixels())
        .filter(|(a, b)| a != b)
        .count();
    assert!(changed > 0 && found.pixels().filter(|p| p.0 == [255, 240, 10]).count() >= changed);
}

#[test]
fn turns_are_applied_where_they_are_asked_for() {
    let decoding = Decoding {
        upright: true,
        ..Decoding::default()
    };
    for name in ["turned.tif", "turned.webp"] {
        assert_eq!(decode(name), decode("rgb.tif"), "{name}");
        let upright = decode_as(&bytes(name), name, &DecodeLimits::default(), &decoding).unwrap();
        assert_eq!(
            upright,
            image::imageops::rotate90(&decode("rgb.tif")),
            "{name}"
        );
    }
}

/// A PNG with EXIF data of this orientation behind its header.
fn with_turn(png: &[u8], orientation: u8) -> Vec<u8> {
    let mut body = b"eXIfMM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    body.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let mut chunk = ((body.len() - 4) as u32).to_be_bytes().to_vec();
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    chunk.extend(body);
    chunk.extend(crc.sum().to_be_bytes());
    // The signature, and IHDR.
    let mut png = png.to_vec();
    png.splice(33..33, chunk);
    png
}

#[test]
fn sixteen_bits_are_turned_as_eight_are() {
    let level = |x: u32, y: u32| {
        let value = (x * 2500 + y * 300).clamp(1000, 41_000) - 1000;
        ((value * 255 + 20_000) / 40_000) as u8
    };
    let stored = RgbImage::from_fn(23, 17, |x, y| image::Rgb([level(x, y); 3]));
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("cat")).unwrap();
    for (orientation, upright) in [
        (3, image::imageops::rotate180(&stored)),
        (6, image::imageops::rotate90(&stored)),
        (8, image::imageops::rotate270(&stored)),
    ] {
        let png = with_turn(&bytes("deep_grey.png"), orientation);
        let decode = |upright| {
            let decoding = Decoding {
                range: [1000, 41_000],
                upright,
                ..Decoding::default()
            };
            decode_as(&png, "a.png", &DecodeLimits::default(), &decoding).unwrap()
        };
        assert_eq!(decode(true), upright, "{orientation}");
        assert_eq!(decode(false), stored, "{orientation}");
        let file = dir.path().join(format!("cat/{orientation}.png"));
        std::fs::write(file, png).unwrap();
    }
    let found = Pixels::of([&image_folder(dir.path()).unwrap()], usize::MAX);
    assert_eq!([found.looked_at, found.sixteen_bits, found.turned], [3; 3]);
}

#[test]
fn headers_tell_what_a_person_should_know() {
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("cat");
    std::fs::create_dir(&class).unwrap();
    for name in names() {
        std::fs::copy(folder().join(&name), class.join(&name)).unwrap();
    }
    let data = image_folder(dir.path()).unwrap();
    let found = Pixels::of([&data], usize::MAX);
    assert_eq!(found.looked_at, 33);
    assert_eq!(found.sixteen_bits, 2);
    assert_eq!(found.ranges, 2);
    // alpha.{bmp,gif,tif}, grey_alpha.tif, multiplied.tif, both WebPs.
    assert_eq!(found.transparent, 7);
    // frames.{gif,webp} and pages.tif.
    assert_eq!(found.several, 3);
    assert_eq!(found.turned, 2);
    for i in 0..33 {
        assert_eq!(data.header_size(i).unwrap(), [23, 17], "{}", data.origin(i));
    }
}

#[test]
fn what_is_not_read_says_how_to_convert_it() {
    let read =
        |bytes: &[u8]| -> Result<RgbImage> { decode_rgb(bytes, "a", &DecodeLimits::default()) };
    for (start, says) in [
        (
            &b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..],
            "a: is a HEIC picture",
        ),
        (
            b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
            "a: is a HEIC picture",
        ),
        (
            b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
            "a: is an AVIF picture",
        ),
    ] {
        let error = read(start).unwrap_err().to_string();
        assert!(
            error.starts_with(says) && error.contains("`magick in.heic out.jpg`"),
            "{error}"
        );
    }
}

/// Whatever lists endings lists those of the table.
#[test]
fn the_documents_name_every_ending() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for document in ["README.md", "docs/FORMATS.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for ending in FORMATS.iter().flat_map(|format| format.endings) {
            assert!(
                text.contains(&format!("`.{ending}`")),
                "{document}: .{ending}"
            );
        }
    }
}

//! What happens to each kind of bad input: the table of docs/BAD_INPUT.md.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use common::decode_file;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use shike_data::{
    BadImageLog, BadImages, Batch, Cifar, DataError, Dataset, DecodeLimits, FileCheck, Loader,
    LoaderConfig, Part, Pipeline, Result, Sampler, Sampling, Transform, cifar, image_folder,
    list_file, list_file_like,
};
use tempfile::TempDir;

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.into().write_to(&mut out, format).unwrap();
    out.into_inner()
}

/// A photograph-like picture of this size, as a JPEG with much in each block.
fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 5 + y) as u8, (y * 7) as u8, (x * y) as u8])
    });
    encoded(image, ImageFormat::Jpeg)
}

/// Writes bits into entropy-coded data.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u32, bits: u32) {
        for i in (0..bits).rev() {
            self.held = (self.held << 1) | ((value >> i) & 1);
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.held as u8);
                if self.held == 0xFF {
                    self.bytes.push(0);
                }
                (self.held, self.count) = (0, 0);
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        while self.count > 0 {
            self.push(1, 1);
        }
        self.bytes
    }
}

/// An 8x8 JPEG of one colour, written by hand: what the encoder of the tests cannot write.
/// `adobe` is the colour transform of an Adobe marker (0 CMYK, 2 YCCK).
fn flat_jpeg(colour: &[u8], progressive: bool, adobe: Option<u8>) -> Vec<u8> {
    let n = colour.len() as u8;
    let mut out = vec![0xFF, 0xD8];
    if let Some(transform) = adobe {
        out.extend([0xFF, 0xEE, 0, 14]);
        out.extend(b"Adobe\0\x64\0\0\0\0");
        out.push(transform);
    }
    // Steps of 8, so that the coefficient for the mean is the mean less 128.
    out.extend([0xFF, 0xDB, 0, 67, 0]);
    out.extend([8; 64]);
    let frame = if progressive { 0xC2 } else { 0xC0 };
    out.extend([0xFF, frame, 0, 8 + 3 * n, 8, 0, 8, 0, 8, n]);
    out.extend((1..=n).flat_map(|id| [id, 0x11, 0]));
    // Sizes 0 to 11 as codes of four bits; the end of a block as one bit.
    out.extend([0xFF, 0xC4, 0, 31, 0x00]);
    out.extend([0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(0..12);
    out.extend([0xFF, 0xC4, 0, 20, 0x10, 1]);
    out.extend([0; 16]);
    let scan = |out: &mut Vec<u8>, ids: &[u8], range: [u8; 2], bits: Bits| {
        out.extend([0xFF, 0xDA, 0, 6 + 2 * ids.len() as u8, ids.len() as u8]);
        out.extend(ids.iter().flat_map(|&id| [id, 0]));
        out.extend([range[0], range[1], 0]);
        out.extend(bits.finish());
    };
    let mut bits = Bits::default();
    for &value in colour {
        let mean = i32::from(value) - 128;
        let size = 32 - mean.unsigned_abs().leading_zeros();
        let code = if mean < 0 {
            mean + (1 << size) - 1
        } else {
            mean
        };
        bits.push(size, 4);
        bits.push(code as u32, size);
        if !progressive {
            bits.push(0, 1);
        }
    }
    let ids: Vec<u8> = (1..=n).collect();
    scan(
        &mut out,
        &ids,
        if progressive { [0, 0] } else { [0, 63] },
        bits,
    );
    for id in ids.into_iter().filter(|_| progressive) {
        let mut bits = Bits::default();
        bits.push(0, 1);
        scan(&mut out, &[id], [1, 63], bits);
    }
    out.extend([0xFF, 0xD9]);
    out
}

const COLOURS: &str = "is a JPEG whose headers differ on its colours, which is not read: save it again as an \
                       ordinary JPEG or a PNG";
const RESTARTS: &str = "not a readable image: Format error decoding Jpeg: a restart marker is missing, and \
                        with it a part of the picture";

fn with_jfif(jpeg: &[u8]) -> Vec<u8> {
    let jfif = b"\xFF\xE0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0";
    [&jpeg[..2], jfif, &jpeg[2..]].concat()
}

/// Of three components, in the frame's and the scan's header.
fn named_rgb(mut jpeg: Vec<u8>) -> Vec<u8> {
    let find = |marker| jpeg.windows(2).position(|w| w == [0xFF, marker]).unwrap();
    let (frame, scan) = (find(0xC0), find(0xDA));
    for (i, &name) in b"RGB".iter().enumerate() {
        jpeg[frame + 10 + 3 * i] = name;
        jpeg[scan + 5 + 2 * i] = name;
    }
    jpeg
}

/// Four times four blocks of the first component.
fn changed_samples(mut jpeg: Vec<u8>) -> Vec<u8> {
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 11] = 0x44;
    jpeg
}

fn without_last_restart(jpeg: &[u8]) -> Vec<u8> {
    let is_restart = |w: &[u8]| w[0] == 0xFF && (0xD0..=0xD7).contains(&w[1]);
    let last = jpeg.windows(2).rposition(is_restart).unwrap();
    [&jpeg[..last], &jpeg[last + 2..]].concat()
}

/// Appends a chunk to a PNG.
fn chunk(png: &mut Vec<u8>, name: &[u8; 4], body: &[u8]) {
    let mut crc = flate2::Crc::new();
    crc.update(name);
    crc.update(body);
    png.extend((body.len() as u32).to_be_bytes());
    png.extend(name);
    png.extend(body);
    png.extend(crc.sum().to_be_bytes());
}

/// A PNG of 2x1 pixels with the colours of a palette.
fn palette_png() -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8; 4], body: &[u8]| chunk(&mut out, name, body);
    chunk(b"IHDR", &[0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0]);
    chunk(b"PLTE", &[10, 20, 30, 200, 100, 50]);
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&[0, 1, 0]).unwrap();
    chunk(b"IDAT", &packed.finish().unwrap());
    chunk(b"IEND", &[]);
    out
}

/// `jpeg` with an EXIF orientation.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut out = jpeg[..2].to_vec();
    out.extend([0xFF, 0xE1, 0, exif.len() as u8 + 2]);
    out.extend(exif);
    out.extend(&jpeg[2..]);
    out
}

/// `jpeg` with another size in its header.
fn with_size(mut jpeg: Vec<u8>, side: u16) -> Vec<u8> {
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let [high, low] = side.to_be_bytes();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[high, low, high, low]);
    jpeg
}

/// `png` with other bytes in a chunk, whose checksum is made right.
fn with_chunk(png: &[u8], name: &[u8; 4], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut png = png.to_vec();
    let at = png.windows(4).position(|w| w == name).unwrap();
    let length = u32::from_be_bytes(png[at - 4..at].try_into().unwrap()) as usize;
    change(&mut png[at + 4..at + 4 + length]);
    let mut crc = flate2::Crc::new();
    crc.update(&png[at..at + 4 + length]);
    png[at + 4 + length..at + 8 + length].copy_from_slice(&crc.sum().to_be_bytes());
    png
}

/// A seed of the fuzzer.
fn seed(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seeds");
    fs::read(Path::new(folder).join(name)).unwrap()
}

enum Want {
    /// Size and the colour at the left top, within 2 of each channel.
    Picture(u32, u32, [u8; 3]),
    /// The message behind the path.
    Error(&'static str),
    /// How the message behind the path begins, and how it ends.
    Starts(&'static str, &'static str),
}
use Want::{Error, Picture, Starts};

const RECODE: &str = "which is not read: rewrite it without loss, as with `jpegtran -copy all`";
const DECODE: &str = "which is not read: save it again as an ordinary JPEG or a PNG";
const CUT: &str = "the file is cut off: its end is missing; download or copy it again";

#[test]
fn files_of_images() {
    let whole = jpeg(64, 48);
    let share = |percent: usize| whole[..whole.len() * percent / 100].to_vec();
    let at_start = image::load_from_memory(&whole).unwrap().to_rgb8()[(0, 0)].0;
    let rgb = |r, g, b| RgbImage::from_pixel(3, 2, Rgb([r, g, b]));
    let grey16 = image::ImageBuffer::from_pixel(3, 2, image::Luma([0x8000_u16]));
    let alpha = image::RgbaImage::from_pixel(3, 2, image::Rgba([9, 8, 7, 0]));
    let marker = |marker| whole.windows(2).position(|w| w == [0xFF, marker]).unwrap();
    let frame = marker(0xC0);
    let changed = |name, offset, value| {
        let mut bytes = whole.clone();
        bytes[marker(name) + offset] = value;
        bytes
    };
    // One byte less than the colour transform would need.
    let short: &[u8] = b"\xFF\xEE\0\x0DAdobe\0\x64\0\0\0\0";
    let short_adobe = [&whole[..2], short, &whole[2..]].concat();
    let mut restarts = include_bytes!("jpeg/baseline_444_restart.jpg").to_vec();
    let lost = restarts.windows(2).position(|w| w == [0xFF, 0xD1]).unwrap();
    let next = restarts.windows(2).position(|w| w == [0xFF, 0xD2]).unwrap();
    restarts.drain(lost..next);
    let cases: Vec<(&str, Vec<u8>, Want)> = vec![
        ("empty.jpg", vec![], Error("is empty (0 bytes)")),
        (
            "page.jpg",
            b"<!DOCTYPE html><html>404</html>".to_vec(),
            Error("is HTML or XML, not an image: a page was saved in place of the picture"),
        ),
        (
            "text.jpg",
            b"not found\n".to_vec(),
            Error("is text, not an image"),
        ),
        (
            "noise.jpg",
            vec![0x80, 1, 2, 3],
            Error("is no image of a type that is read (JPEG, PNG, WebP, TIFF, BMP and GIF)"),
        ),
        (
            "hdr.jpg",
            b"#?RADIANCE\n".to_vec(),
            Error(
                "is a .hdr file by its content; JPEG, PNG, WebP, TIFF, BMP and GIF are read: convert it",
            ),
        ),
        ("cut_1.jpg", share(1), Error(CUT)),
        ("cut_60.jpg", share(60), Error(CUT)),
        ("cut_99.jpg", share(99), Error(CUT)),
        ("no_end.jpg", whole[..whole.len() - 2].to_vec(), Error(CUT)),
        ("whole.jpg", whole.clone(), Picture(64, 48, at_start)),
        (
            "png.JPEG",
            encoded(rgb(1, 2, 3), ImageFormat::Png),
            Picture(3, 2, [1, 2, 3]),
        ),
        (
            "grey.jpg",
            flat_jpeg(&[90], false, None),
            Picture(8, 8, [90; 3]),
        ),
        // Adobe stores 255 less the ink: (55, 155, 205) lightened by 235 of 255. Pillow gives the
        // same for this file and the next one.
        (
            "cmyk.jpg",
            flat_jpeg(&[55, 155, 205, 235], false, Some(0)),
            Picture(8, 8, [51, 143, 189]),
        ),
        // Y = 200 without colour stands for inks of 200: (255 - 200) * 235 / 255.
        (
            "ycck.jpg",
            flat_jpeg(&[200, 128, 128, 235], false, Some(2)),
            Picture(8, 8, [51, 51, 51]),
        ),
        (
            "progressive.jpg",
            flat_jpeg(&[100, 128, 128], true, None),
            Picture(8, 8, [100; 3]),
        ),
        // Red without green and blue; as YCbCr it would be green. JFIF goes before Adobe's marker, as in
        // libjpeg, and its colours are YCbCr.
        (
            "adobe_rgb.jpg",
            flat_jpeg(&[200, 0, 0], false, Some(0)),
            Picture(8, 8, [200, 0, 0]),
        ),
        (
            "jfif_adobe_rgb.jpg",
            with_jfif(&flat_jpeg(&[100, 128, 128], false, Some(0))),
            Picture(8, 8, [100; 3]),
        ),
        (
            "named_rgb.jpg",
            named_rgb(flat_jpeg(&[200, 0, 0], false, None)),
            Picture(8, 8, [200, 0, 0]),
        ),
        (
            "jfif_named_rgb.jpg",
            with_jfif(&named_rgb(flat_jpeg(&[200, 0, 0], false, None))),
            Error(COLOURS),
        ),
        (
            "adobe_ycc_named_rgb.jpg",
            named_rgb(flat_jpeg(&[200, 0, 0], false, Some(1))),
            Error(COLOURS),
        ),
        (
            "adobe_ycc_of_inks.jpg",
            flat_jpeg(&[55, 155, 205, 235], false, Some(1)),
            Error(COLOURS),
        ),
        (
            "no_restarts.jpg",
            [&whole[..2], b"\xFF\xDD\0\x04\0\x02", &whole[2..]].concat(),
            Error(RESTARTS),
        ),
        (
            "last_restart.jpg",
            without_last_restart(include_bytes!("jpeg/baseline_444_restart.jpg")),
            Error(RESTARTS),
        ),
        (
            "many_blocks.jpg",
            changed_samples(flat_jpeg(&[100, 128, 128], false, None)),
            Error(
                "not a readable image: Format error decoding Jpeg: its units have more than ten blocks",
            ),
        ),
        (
            "grey16.png",
            encoded(grey16, ImageFormat::Png),
            Picture(3, 2, [128; 3]),
        ),
        ("palette.png", palette_png(), Picture(2, 1, [200, 100, 50])),
        (
            "alpha.png",
            encoded(alpha, ImageFormat::Png),
            Picture(3, 2, [9, 8, 7]),
        ),
        (
            "exif.jpg",
            with_orientation(&whole, 6),
            Picture(64, 48, at_start),
        ),
        (
            "tiny.png",
            encoded(RgbImage::new(1, 1), ImageFormat::Png),
            Picture(1, 1, [0; 3]),
        ),
        (
            "thin.png",
            encoded(RgbImage::new(1, 10_000), ImageFormat::Png),
            Picture(1, 10_000, [0; 3]),
        ),
        (
            "half.jpg",
            [&share(60)[..], &[0xFF, 0xD9]].concat(),
            Starts(
                "not a readable image: ",
                "its codes end before the picture does, or make no sense",
            ),
        ),
        ("forged.jpg", with_size(whole.clone(), 11_500), Error(CUT)),
        (
            "own_scans.jpg",
            seed("own_scans.jpg"),
            Starts(
                "is a JPEG with a scan of its own for each component, ",
                RECODE,
            ),
        ),
        (
            "coarse_luma.jpg",
            seed("coarse_luma.jpg"),
            Starts(
                "is a JPEG with colours sampled more finely than brightness",
                DECODE,
            ),
        ),
        (
            "arithmetic.jpg",
            include_bytes!("jpeg/refused_37x28_2x2_arithmetic.jpg").to_vec(),
            Starts("is an arithmetic-coded JPEG, ", RECODE),
        ),
        (
            "deep.jpg",
            changed(0xC0, 4, 12),
            Starts("is a JPEG of 12 bits a sample, ", DECODE),
        ),
        (
            "lossless.jpg",
            changed(0xC0, 1, 0xC3),
            Starts("is a lossless or hierarchical JPEG, ", DECODE),
        ),
        (
            "unknown.jpg",
            changed(0xDB, 1, 0xBF),
            Starts("not a readable image: ", "the marker FFBF does not exist"),
        ),
        (
            "two_frames.jpg",
            [&whole[..frame], &whole[frame..frame + 19], &whole[frame..]].concat(),
            Starts("not a readable image: ", "it has two frame headers"),
        ),
        (
            "restart.jpg",
            restarts,
            Starts(
                "not a readable image: ",
                "a restart marker is missing, and with it a part of the picture",
            ),
        ),
        ("short_adobe.jpg", short_adobe, Picture(64, 48, at_start)),
        (
            "adler.png",
            with_chunk(&palette_png(), b"IDAT", |body| {
                *body.last_mut().unwrap() ^= 1
            }),
            Starts("not a readable image: ", ""),
        ),
        (
            "no_iend.png",
            palette_png()[..palette_png().len() - 12].to_vec(),
            Error(CUT),
        ),
        (
            "panic.png",
            seed("indexed_trns.png"),
            Starts("not a readable image: ", ""),
        ),
        (
            "huge.jpg",
            with_size(whole.clone(), 65_500),
            Error("65500x65500 pixels, more than the 178956970 allowed"),
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, want) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let got = decode_file(&path, &DecodeLimits::default());
        match (got, want) {
            (Ok(image), Picture(width, height, colour)) => {
                assert_eq!(image.dimensions(), (width, height), "{name}");
                let near = |(a, b): (&u8, &u8)| a.abs_diff(*b) <= 2;
                let found = image[(0, 0)].0;
                assert!(found.iter().zip(&colour).all(near), "{name}: {found:?}");
            }
            (Err(error), Error(text)) => {
                assert_eq!(error.to_string(), format!("{}: {text}", path.display()));
            }
            (Err(error), Starts(start, end)) => {
                let text = error.to_string();
                let start = format!("{}: {start}", path.display());
                assert!(text.starts_with(&start) && text.ends_with(end), "{text}");
            }
            (Ok(image), Error(_) | Starts(..)) => {
                panic!("{name}: a picture of {:?}", image.dimensions())
            }
            (Err(error), Picture(..)) => panic!("{name}: {error}"),
        }
    }
}

/// Of what stands in the middle of the entropy-coded data, only what is no code at all is seen.
#[test]
fn damage_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let whole = jpeg(64, 48);
    let middle = whole.len() / 2;
    let decoded = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        decode_file(&path, &DecodeLimits::default())
    };
    // Bits that still are codes: another picture.
    let mut bytes = whole.clone();
    for byte in &mut bytes[middle..middle + 8] {
        *byte ^= 0x15;
    }
    let image = decoded("codes.jpg", &bytes).unwrap();
    assert_eq!(image.dimensions(), (64, 48));
    assert_ne!(image, decoded("whole.jpg", &whole).unwrap());
    // No code consists of ones alone: stuffed bytes of 255 are an error.
    bytes[middle..middle + 8].copy_from_slice(&[0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0]);
    match decoded("no_codes.jpg", &bytes) {
        Err(DataError::Decode { origin, .. }) => assert!(origin.ends_with("no_codes.jpg")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_forged_size_costs_neither_time_nor_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.jpg");
    fs::write(&path, with_size(jpeg(64, 48), 65_500)).unwrap();
    let before = Instant::now();
    let error = decode_file(&path, &DecodeLimits::default()).unwrap_err();
    assert!(matches!(error, DataError::TooLarge { .. }), "{error}");
    // 65500x65500 pixels would take 12.9 GB; the header takes no time at all.
    assert!(before.elapsed() < Duration::from_secs(1));
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status
            .lines()
            .find_map(|l| l.strip_prefix("VmHWM:"))
            .unwrap();
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 1 << 20, "{kib} KiB");
    }
}

#[test]
fn exif_orientation_is_applied_where_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let cat = dir.path().join("cat");
    fs::create_dir(&cat).unwrap();
    let plain = jpeg(64, 48);
    fs::write(cat.join("a.jpg"), with_orientation(&plain, 6)).unwrap();
    let data = image_folder(dir.path()).unwrap();
    let first = |transforms| {
        let config = LoaderConfig {
            batch_size: 1,
            workers: 1,
            ..LoaderConfig::default()
        };
        let loader = Loader::new(data.clone(), Pipeline { transforms }, config, 0).unwrap();
        loader.sequential().next().unwrap().unwrap()
    };
    let stored = first(vec![]);
    assert_eq!((stored.width, stored.height), (64, 48));
    let upright = first(vec![Transform::ExifOrientation]);
    assert_eq!((upright.width, upright.height), (48, 64));
    // Orientation 6: turned clockwise, so the left lower corner comes to the left top.
    let lower = 47 * 64 * 3;
    assert_eq!(upright.images[..3], stored.images[lower..lower + 3]);
    let late = Pipeline {
        transforms: vec![
            Transform::HorizontalFlip { p: 0.5 },
            Transform::ExifOrientation,
        ],
    };
    assert!(
        late.validate()
            .unwrap_err()
            .to_string()
            .contains("must come before all that is done with pixels")
    );
}

/// Sides that no photograph has come through the pipelines, or are refused by name.
#[test]
fn extreme_sides_through_the_pipelines() {
    let dir = tempfile::tempdir().unwrap();
    let cat = dir.path().join("cat");
    fs::create_dir(&cat).unwrap();
    for (name, width, height) in [("tiny.png", 1, 1), ("thin.png", 1, 10_000)] {
        let path = cat.join(name);
        RgbImage::new(width, height).save(&path).unwrap();
        let data = image_folder(dir.path()).unwrap();
        let load = |pipeline| {
            let config = LoaderConfig {
                workers: 1,
                ..LoaderConfig::default()
            };
            let loader = Loader::new(data.clone(), pipeline, config, 0).unwrap();
            loader.sequential().next().unwrap()
        };
        let batch = load(Pipeline::photo_train(32)).unwrap();
        assert_eq!((batch.width, batch.height), (32, 32), "{name}");
        let error = load(Pipeline::cifar_train()).unwrap_err().to_string();
        assert!(
            error.contains(name) && error.contains("random_crop"),
            "{error}"
        );
        fs::remove_file(path).unwrap();
    }
}

/// The message of a file that is no image, without the folder it lies in.
fn problem(dir: &Path, error: &DataError) -> String {
    let root = format!("{}/", dir.display());
    error.to_string().replace(&root, "")
}

#[cfg(unix)]
#[test]
fn folders_links_permissions_and_names() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("c/folder.jpg")).unwrap();
    symlink("nowhere.jpg", root.join("c/dangling.jpg")).unwrap();
    fs::write(outside.path().join("real.jpg"), jpeg(8, 8)).unwrap();
    symlink(outside.path().join("real.jpg"), root.join("c/link.jpg")).unwrap();
    fs::write(root.join("c/closed.jpg"), jpeg(8, 8)).unwrap();
    fs::set_permissions(root.join("c/closed.jpg"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(root.join("c/empty.jpg"), b"").unwrap();
    let list = root.join("list.txt");
    let names = ["folder", "dangling", "link", "closed", "empty", "missing"];
    let text: String = names
        .iter()
        .map(|name| format!("c/{name}.jpg 0\n"))
        .collect();
    fs::write(&list, text).unwrap();
    let data = list_file(root, &list, None, None).unwrap();

    let limits = DecodeLimits::default();
    let report = data.check_files(FileCheck::Header, &limits, None).unwrap();
    assert_eq!(report.checked, 6);
    let mut bad: Vec<String> = report.bad.iter().map(|(_, e)| problem(root, e)).collect();
    let root_reads = fs::read(root.join("c/closed.jpg")).is_ok();
    if root_reads {
        eprintln!("the case of a file without permission was left out: root may read all files");
    } else {
        assert_eq!(
            bad.remove(2),
            "c/closed.jpg: Permission denied (os error 13)"
        );
    }
    assert_eq!(
        bad,
        [
            "c/folder.jpg: is a folder, not an image",
            "c/dangling.jpg: is a link to a file that is not there",
            "c/empty.jpg: is empty (0 bytes)",
            "c/missing.jpg: No such file or directory (os error 2)",
        ]
    );
    // A link may lead out of the folder.
    assert_eq!(data.image(2, &limits).unwrap().dimensions(), (8, 8));
    // Without the check, the first use says it.
    let error = data.image(0, &limits).unwrap_err();
    assert_eq!(
        problem(root, &error),
        "c/folder.jpg: Is a directory (os error 21)"
    );

    let odd = root
        .join("c")
        .join(std::ffi::OsStr::from_bytes(b"\xff.jpg"));
    fs::write(&odd, b"").unwrap();
    let error = image_folder(root).unwrap_err().to_string();
    assert!(
        error.ends_with("has a name that is not UTF-8; rename it"),
        "{error}"
    );
}

/// Two classes of eight pictures, each of one colour that tells which it is.
fn colours() -> (TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..16u8 {
        let folder = dir.path().join(format!("class{}", i / 8));
        fs::create_dir_all(&folder).unwrap();
        let image = RgbImage::from_pixel(4, 4, Rgb([i * 10, 0, 0]));
        image
            .save(folder.join(format!("{:02}.png", i % 8)))
            .unwrap();
    }
    let data = image_folder(dir.path()).unwrap();
    (dir, data)
}

fn loader(data: &Dataset, policy: BadImages, workers: usize) -> (Loader, BadImageLog) {
    let config = LoaderConfig {
        batch_size: 4,
        workers,
        ..LoaderConfig::default()
    };
    let pipeline = Pipeline {
        transforms: vec![Transform::CenterCrop { size: 4.into() }],
    };
    let log = BadImageLog::default();
    let loader = Loader::new(data.clone(), pipeline, config, 3).unwrap();
    (loader.with_bad_images(policy, 3, log.clone()).unwrap(), log)
}

fn epoch(loader: &Loader, data: &Dataset, epoch: u64, start: usize) -> Vec<Batch> {
    let sampler = Sampler::new(data.labels(), 2, Sampling::Instance, 3).unwrap();
    let batches = loader.epoch(epoch, sampler.epoch_indices(epoch, 4), start);
    batches.collect::<Result<_>>().unwrap()
}

#[test]
fn a_bad_image_is_replaced_by_another_of_its_class() {
    let (dir, data) = colours();
    let skip = BadImages::Skip { max_share: 0.25 };
    let whole = epoch(&loader(&data, skip, 1).0, &data, 0, 0);
    // One is cut, one vanishes after the data set was read, one becomes a page.
    let path = |name: &str| dir.path().join(name);
    let bytes = fs::read(path("class0/03.png")).unwrap();
    fs::write(path("class0/03.png"), &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_file(path("class1/00.png")).unwrap();
    fs::write(path("class1/07.png"), "<html>").unwrap();
    let bad = [3, 8, 15];

    let (fail, _) = loader(&data, BadImages::Fail, 2);
    let first = fail.sequential().next().unwrap().unwrap_err().to_string();
    assert!(first.contains("class0/03.png"), "{first}");

    let (one, log) = loader(&data, skip, 1);
    let mut orders = Vec::new();
    for number in 0..4 {
        let batches = epoch(&one, &data, number, 0);
        for workers in [2, 8] {
            assert_eq!(
                batches,
                epoch(&loader(&data, skip, workers).0, &data, number, 0)
            );
        }
        for start in 1..4 {
            let rest = epoch(&loader(&data, skip, 2).0, &data, number, start);
            assert_eq!(batches[start..], rest);
        }
        for batch in &batches {
            let shown = batch.images.chunks_exact(48).zip(&batch.indices);
            for ((pixels, &index), &label) in shown.zip(&batch.labels) {
                assert!(!bad.contains(&index));
                assert_eq!((pixels[0], label), (index as u8 * 10, index / 8));
            }
        }
        orders.push(
            batches
                .into_iter()
                .flat_map(|b| b.indices)
                .collect::<Vec<_>>(),
        );
    }
    // What was good before is where it was.
    let before = whole.iter().flat_map(|b| b.indices.clone());
    for (old, new) in before.zip(&orders[0]) {
        assert!(bad.contains(&old) || old == *new);
    }
    let listed: Vec<_> = log
        .entries()
        .iter()
        .map(|b| (b.path.clone(), b.label))
        .collect();
    let wanted = [
        ("class0/03.png", 0),
        ("class1/00.png", 1),
        ("class1/07.png", 1),
    ];
    let wanted = wanted.map(|(name, label)| (path(name).display().to_string(), label));
    assert_eq!(listed, wanted);
    assert!(log.entries()[2].problem.contains("is HTML"));
}

/// What would end the program or hold it up for ever is bad as any other image is, and the others
/// are used.
#[cfg(unix)]
#[test]
fn what_would_break_a_run_is_a_bad_image() {
    let (dir, data) = colours();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("class0/03.png"), seed("indexed_trns.png")).unwrap();
    fs::remove_file(path("class1/00.png")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(path("class1/00.png"))
        .status();
    assert!(made.unwrap().success());
    fs::remove_file(path("class1/06.png")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("class1/06.png")).unwrap();
    let sparse = fs::File::create(path("class1/07.png")).unwrap();
    sparse.set_len(20 << 30).unwrap();

    let wanted = [
        (3, "not a readable image: "),
        (8, "is a pipe"),
        (14, "is a device"),
        (
            15,
            "has 21474836480 bytes, more than the 536870912 that are read",
        ),
    ];
    let limits = DecodeLimits::default();
    for check in [FileCheck::Exists, FileCheck::Header, FileCheck::Decode] {
        let bad = data.check_files(check, &limits, None).unwrap().bad;
        let found: Vec<usize> = bad.iter().map(|(index, _)| *index).collect();
        match check {
            FileCheck::Exists => assert_eq!(found, [8, 14]),
            _ => assert_eq!(found, wanted.map(|(index, _)| index)),
        }
    }
    let (loader, log) = loader(&data, BadImages::Skip { max_share: 0.5 }, 2);
    for number in 0..4 {
        epoch(&loader, &data, number, 0);
    }
    for (entry, (_, problem)) in log.entries().iter().zip(wanted) {
        let text = entry.problem.replace(&format!("{}: ", entry.path), "");
        assert!(text.starts_with(problem), "{}", entry.problem);
    }
    assert_eq!(log.len(), 4);
}

#[test]
fn too_many_bad_images_and_classes_without_a_good_one() {
    let (dir, data) = colours();
    for i in 0..4 {
        fs::write(dir.path().join(format!("class0/0{i}.png")), "").unwrap();
    }
    let run = |max_share| {
        let (loader, log) = loader(&data, BadImages::Skip { max_share }, 2);
        let order = (0..16).collect();
        (loader.epoch(0, order, 0).collect::<Result<Vec<_>>>(), log)
    };
    // 4 of 16 may be bad, 3 may not.
    assert_eq!(run(0.25).0.unwrap().len(), 4);
    let (result, log) = run(0.24);
    assert_eq!(log.len(), 4);
    let error = result.unwrap_err().to_string();
    assert!(
        error.starts_with("4 of 16 training images cannot be read, more than"),
        "{error}"
    );
    for i in 0..8 {
        fs::write(dir.path().join(format!("class0/0{i}.png")), "").unwrap();
    }
    let error = run(1.0).0.unwrap_err().to_string();
    assert!(
        error.contains("no other image of the class \"class0\""),
        "{error}"
    );
    for max_share in [-0.1, 1.1, f64::NAN] {
        assert!(BadImages::Skip { max_share }.validate().is_err());
    }
}

#[test]
fn a_wrong_root_is_told_with_the_right_one() {
    let (dir, data) = colours();
    let list = dir.path().join("list.txt");
    fs::write(&list, "class0/00.png 0\nclass1/00.png 1\n").unwrap();
    let check = |root: &Path| {
        let data = list_file(root, &list, None, None).unwrap();
        data.check_files(FileCheck::Exists, &DecodeLimits::default(), None)
    };
    assert!(check(dir.path()).unwrap().bad.is_empty());
    let error = check(&dir.path().join("class0")).unwrap_err().to_string();
    let wanted = format!(
        "{0}/class0: the images are not below this folder; the first of 2 is class0/00.png (it lies \
         below {0}: give that)",
        dir.path().display()
    );
    assert_eq!(error, wanted);
    let error = check(Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("there is no such folder"), "{error}");
    fs::create_dir_all(dir.path().join("v/class0")).unwrap();
    fs::write(dir.path().join("v/class0/00.png"), "").unwrap();
    // One folder deeper or higher than the list says, as ImageNet's validation images are.
    for (listed, there) in [
        ("v/00.png", "v/class0/00.png"),
        ("class0/deep/00.png", "class0/00.png"),
    ] {
        fs::write(&list, format!("{listed} 0\n")).unwrap();
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("(it lies in {there}: move the images")),
            "{error}"
        );
    }
    // No time is left, but the sample is looked at.
    let limits = DecodeLimits::default();
    let report = data
        .check_files(FileCheck::Decode, &limits, Some(Duration::ZERO))
        .unwrap();
    assert!(report.checked <= data.len() && report.bad.is_empty());
}

#[test]
fn other_formats_in_a_folder_are_counted() {
    let (dir, _) = colours();
    for name in [
        "class0/a.heic",
        "class0/b.HEIC",
        "class1/c.avif",
        "class1/notes.txt",
    ] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let data = image_folder(dir.path()).unwrap();
    let cure = "(convert it first, as with ImageMagick: `magick in.heic out.jpg`)";
    let said = format!("skipped: 2 .heic, 1 .avif, 1 other {cure}");
    assert_eq!(data.notes(), [said]);
    assert_eq!(data.len(), 16);
    // Content decides where a name promises another format, or nothing.
    let image = data.root().unwrap().join(data.relative_path(0).unwrap());
    for name in ["class0/phone.HEIC", "class1/0a1b2c"] {
        fs::copy(&image, dir.path().join(name)).unwrap();
    }
    let again = image_folder(dir.path()).unwrap();
    assert_eq!((again.len(), again.notes()), (18, data.notes()));
    for name in ["class0/phone.HEIC", "class1/0a1b2c"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    fs::create_dir(dir.path().join("class2")).unwrap();
    fs::write(dir.path().join("class2/a.jp2"), "").unwrap();
    let data = image_folder(dir.path()).unwrap();
    assert_eq!(data.class_names(), ["class0", "class1"]);
    let said = format!(
        "skipped: 2 .heic, 1 .avif, 1 .jp2, 1 other {cure}; class folders without an image: class2"
    );
    assert_eq!(data.notes(), [said]);
}

/// What a list file of this name and content comes to, without its folder.
fn read_list(name: &str, content: &[u8]) -> std::result::Result<Dataset, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    list_file("root", &path, None, None).map_err(|e| problem(dir.path(), &e))
}

#[test]
fn lists_that_are_wrong() {
    let rule = "labels run from 0 without gaps, unless the number of classes is given (test lists)";
    let gap = |line: &str| format!("{line}: the label 2 is used, but no image has label 1; {rule}");
    let csv_hint = "; is it CSV? Then its name has to end in .csv, and its first line name the \
                    columns (`path,label`)";
    let shape =
        r#"; wanted {"annotations": [{"fpath": "a/b.jpg", "category_id": 0}], "num_classes": 1}"#;
    let json = |rows: &str| format!("{{\"annotations\": [\n{rows}\n], \"num_classes\": 3}}");
    let cases: Vec<(&str, String, String)> = vec![
        ("l.txt", "".into(), "l.txt: holds no image".into()),
        ("l.txt", "a.jpg\n".into(), "l.txt:1: one field (\"a.jpg\"), wanted `path label`".into()),
        (
            "l.txt",
            "path,label\n".into(),
            format!("l.txt:1: one field (\"path,label\"), wanted `path label`{csv_hint}"),
        ),
        (
            "l.txt",
            "a b.jpg,0\n".into(),
            format!("l.txt:1: the label \"b.jpg,0\" is not a whole number, wanted `path label`{csv_hint}"),
        ),
        (
            "l.txt",
            "a.jpg, 0\n".into(),
            format!("l.txt:1: the path \"a.jpg,\" ends in a separator, wanted `path label`{csv_hint}"),
        ),
        ("l.txt", "a b.jpg;0\n".into(), "l.txt:1: the label \"b.jpg;0\" is not a whole number, wanted `path label`; is it parted by `;`? Write a space or a tab".into()),
        ("l.txt", "a.jpg;0\n".into(), "l.txt:1: one field (\"a.jpg;0\"), wanted `path label`; is it parted by `;`? Write a space or a tab".into()),
        ("l.tsv", "path\tlabel\na.jpg\t0\n".into(), "l.tsv:1: \"path\\tlabel\" is a header line; text has none, a file whose name ends in .csv has".into()),
        ("l.txt", "a.jpg 0\nb.jpg 0 2\n".into(), "l.txt:2: two labels, 0 and 2: an image has one".into()),
        ("l.csv", "path,class\na,cat\nb,cat;dog\n".into(), "l.csv:3: the class \"cat;dog\" is several, parted by `;`: this program gives an image one label".into()),
        ("l.txt", "a 0\nb -1\n".into(), "l.txt:2: the label -1 is negative; labels start at 0".into()),
        ("l.txt", "a 0\nb 2\n".into(), gap("l.txt:2")),
        ("l.txt", "a 0\n\nb 0\n".into(), "l.txt:2: is blank, but more lines follow; blank lines may stand at the end only".into()),
        ("l.txt", "a 0\nb 0\na 0\n".into(), "l.txt:3: \"a\" is listed twice, here and in line 1".into()),
        ("l.txt", "a 0\nb 1\na 1\n".into(), "l.txt:3: \"a\" has label 1 here, but 0 in line 1".into()),
        ("l.txt", "../../etc/passwd 0\n".into(), "l.txt:1: the path \"../../etc/passwd\" leaves the image folder by `..`".into()),
        ("l.txt", "/etc/passwd 0\n".into(), "l.txt:1: the path \"/etc/passwd\" is absolute; paths start at the image folder".into()),
        ("l.txt", "a/x 0\nb 1\na//x 0\n".into(), "l.txt:3: \"a//x\" is listed twice, here and in line 1".into()),
        ("l.txt", "a/x 0\n./a/./x 1\n".into(), "l.txt:2: \"./a/./x\" has label 1 here, but 0 in line 1".into()),
        ("l.csv", "".into(), "l.csv:1: the header has no column called path or image or file (it is \"\"); wanted a first line such as `path,label`".into()),
        ("l.csv", "a.jpg,0\n".into(), "l.csv:1: the header has no column called path or image or file (it is \"a.jpg,0\"); wanted a first line such as `path,label`".into()),
        ("l.csv", "path,label\n".into(), "l.csv: holds no image".into()),
        ("l.csv", "path,label\na,0\nb,c,0\n".into(), "l.csv:3: 3 fields, but the header has 2; quote a field with a comma".into()),
        ("l.csv", "path,label\na,0\nb,cat\n".into(), "l.csv:3: the label \"cat\" is not a whole number, as the labels before are".into()),
        ("l.csv", "path,label\na,cat\nb,3\n".into(), "l.csv:3: the class \"3\" is no name, as the classes before are".into()),
        ("l.csv", "path,label\na,0\nb,-1\n".into(), "l.csv:3: the label -1 is negative; labels start at 0".into()),
        ("l.csv", "path,label\n\"a\nb\",0\nc,2\n".into(), gap("l.csv:4")),
        ("l.csv", "path,label\na,0\na,0\n".into(), "l.csv:3: \"a\" is listed twice, here and in line 2".into()),
        ("l.csv", "path,label\n../a,0\n".into(), "l.csv:2: the path \"../a\" leaves the image folder by `..`".into()),
        ("l.json", "[1]".into(), format!("l.json:1: invalid type: sequence, expected an object{shape}")),
        ("l.json", "{\"annotations\": [\n".into(), format!("l.json:2: annotations[0]: EOF while parsing a list{shape}")),
        ("l.json", "{}".into(), format!("l.json:1: missing field `annotations`{shape}")),
        ("l.json", "{\"annotations\": []}".into(), "l.json: holds no image".into()),
        ("l.json", json(r#"{"fpath": "a"}"#), format!("l.json:2: annotations[0]: missing field `category_id`{shape}")),
        (
            "l.json",
            json("{\"fpath\": \"a\", \"category_id\": 0},\n{\"fpath\": \"b\", \"category_id\": \"1\"}"),
            format!("l.json:3: annotations[1]: invalid type: string \"1\", expected i64{shape}"),
        ),
        (
            "l.json",
            json("{\"fpath\": \"a\", \"category_id\": 0},\n{\"fpath\": \"b\", \"category_id\": -1}"),
            "l.json:3: annotations[1]: the label -1 is negative; labels start at 0".into(),
        ),
        (
            "l.json",
            json("{\"fpath\": \"a\", \"category_id\": 0},\n{\"fpath\": \"b\", \"category_id\": 3}"),
            "l.json:3: annotations[1]: the label 3 is too large for 3 classes (0 to 2)".into(),
        ),
        (
            "l.json",
            json("{\"fpath\": \"a\", \"category_id\": 0},\n{\"fpath\": \"b\", \"category_id\": 1}"),
            format!("l.json: no image has label 2, though there are 3 classes; {rule}"),
        ),
        (
            "l.json",
            json("{\"fpath\": \"a\", \"category_id\": 0},\n{\"fpath\": \"a\", \"category_id\": 0}"),
            "l.json:3: annotations[1]: \"a\" is listed twice, here and in annotations[0]".into(),
        ),
        (
            "l.json",
            json("{\"fpath\": \"a/../../b\", \"category_id\": 0}"),
            "l.json:2: annotations[0]: the path \"a/../../b\" leaves the image folder by `..`".into(),
        ),
    ];
    for (name, content, wanted) in cases {
        assert_eq!(
            read_list(name, content.as_bytes()).unwrap_err(),
            wanted,
            "{content}"
        );
        // A byte order mark changes nothing, nor do Windows line ends.
        let windows = format!("\u{feff}{}", content.replace('\n', "\r\n"));
        if !content.contains("\"a\n") {
            assert_eq!(
                read_list(name, windows.as_bytes()).unwrap_err(),
                wanted,
                "{windows}"
            );
        }
    }
    // What is no list at all is not repeated in the message.
    let long = "a".repeat(3 << 20);
    for (name, content) in [
        ("l.txt", long.clone()),
        ("l.csv", long.clone()),
        (
            "l.json",
            json(&format!(r#"{{"fpath": "/{long}", "category_id": 0}}"#)),
        ),
    ] {
        let error = read_list(name, content.as_bytes()).unwrap_err();
        assert!(error.contains("3145728 bytes") || error.contains("3145729 bytes"));
        assert!(error.len() < 200, "{name}: {} bytes", error.len());
    }
    for name in ["l.txt", "l.csv", "l.json"] {
        let error = read_list(name, b"path,label\n\xE9,0\n").unwrap_err();
        assert!(error.starts_with(&format!("{name}:")), "{error}");
    }
}

#[test]
fn csv_and_json_lists() {
    let data = read_list(
        "l.CSV",
        b"\xEF\xBB\xBFid,Image,Class\r\n1,\"a,b/my \"\"cat\"\".jpg\",cat\r\n2,c/d.jpg,ant\r\n3,e.jpg,cat\r\n",
    )
    .unwrap();
    assert_eq!(data.class_names(), ["ant", "cat"]);
    assert_eq!(data.labels(), [1, 0, 1]);
    assert_eq!(data.origin(0), "root/a,b/my \"cat\".jpg");
    let numbers = read_list("l.csv", b"file,label\ncat/a.jpg,1\ndog/b.jpg,0\n").unwrap();
    assert_eq!(numbers.labels(), [1, 0]);
    assert_eq!(numbers.class_names(), ["dog", "cat"]);

    let json = br#"{"num_classes": 2, "info": {"year": 2023}, "annotations": [
        {"image_id": 7, "im_height": 3, "fpath": "x/a.jpg", "category_id": 1},
        {"image_id": 8, "fpath": "y/b.jpg", "category_id": 0, "category": "b"}]}"#;
    let data = read_list("l.json", json).unwrap();
    assert_eq!(data.labels(), [1, 0]);
    assert_eq!(data.class_names(), ["y", "x"]);
    let named = br#"{"annotations": [{"fpath": "x/a.jpg", "category_id": 0}],
        "categories": [{"id": 0, "name": "bird", "supercategory": "animal"}]}"#;
    assert_eq!(read_list("l.json", named).unwrap().class_names(), ["bird"]);
    for (ids, says) in [
        ([0, 2], "has the id 2 where 1 is due"),
        ([0, 1], "the name \"a\" twice"),
    ] {
        let text = format!(
            r#"{{"annotations": [], "categories": [{{"id": {}, "name": "a"}}, {{"id": {}, "name": "a"}}]}}"#,
            ids[0], ids[1]
        );
        let error = read_list("l.json", text.as_bytes()).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_test_list_of_another_kind_has_the_labels_of_its_training_set() {
    let train = read_list("l.csv", b"path,class\na.jpg,cat\nb.jpg,dog\nc.jpg,ant\n").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let like = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        list_file_like("root", &path, &train).map_err(|e| problem(dir.path(), &e))
    };
    assert_eq!(
        like("t.csv", "path,class\nd.jpg,dog\n").unwrap().labels(),
        [2]
    );
    assert_eq!(
        like("t.txt", "d.jpg 2\n").unwrap().class_names(),
        ["ant", "cat", "dog"]
    );
    // Numbers can be names.
    let numbers = ["1", "10", "2"].map(String::from);
    let folders = || Some(numbers.to_vec());
    std::fs::write(
        dir.path().join("n.csv"),
        "path,class\na.jpg,2\nb.jpg,10\nc.jpg,1\n",
    )
    .unwrap();
    let data = list_file(dir.path(), dir.path().join("n.csv"), None, folders()).unwrap();
    assert_eq!(data.labels(), [2, 1, 0]);
    std::fs::write(dir.path().join("n.csv"), "path,label\na.jpg,2\nb.jpg,0\n").unwrap();
    let data = list_file(dir.path(), dir.path().join("n.csv"), None, folders()).unwrap();
    assert_eq!(data.labels(), [2, 0]);
    let error = like("t.csv", "path,class\nd.jpg,cow\n").unwrap_err();
    assert_eq!(
        error,
        "t.csv:2: the class \"cow\" is none of the training set's"
    );
    let json = r#"{"annotations": [{"fpath": "d.jpg", "category_id": 2}], "num_classes": 4}"#;
    let error = like("t.json", json).unwrap_err();
    assert_eq!(
        error,
        "t.json: has 4 classes, but 3 are wanted (those of the training set)"
    );
    assert_eq!(
        like("t.json", &json.replace('4', "3")).unwrap().labels(),
        [2]
    );
    let other = r#"{"annotations": [{"fpath": "d.jpg", "category_id": 0}], "categories":
        [{"id": 0, "name": "ant"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]}"#;
    let error = like("t.json", other).unwrap_err();
    assert_eq!(
        error,
        "t.json: class 1 is \"dog\" here, but \"cat\" in the training set"
    );
}

#[test]
fn cifar_files_that_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let records = |labels: &[u8]| -> Vec<u8> {
        labels
            .iter()
            .flat_map(|&l| [vec![0, l], vec![0; 3072]].concat())
            .collect()
    };
    let mut long = records(&[1, 2]);
    long.push(0);
    let mut packed = vec![0x1F, 0x8B];
    packed.extend([0; 100]);
    let multiple = |n| {
        format!(
            "test.bin: {n} bytes are not a multiple of the 3074 of a Cifar100 record: the file is cut \
             off, still packed, or of another data set"
        )
    };
    let cases = [
        (vec![], multiple(0)),
        (long, multiple(6149)),
        (packed, multiple(102)),
        (
            records(&[3, 100]),
            "test.bin: record 1 has label 100, but Cifar100 has 100 classes".into(),
        ),
    ];
    for (bytes, wanted) in cases {
        fs::write(dir.path().join("test.bin"), bytes).unwrap();
        let error = cifar(dir.path(), Cifar::Cifar100, Part::Test).unwrap_err();
        assert_eq!(problem(dir.path(), &error), wanted);
    }
}

/// What docs/FORMATS.md says of one image: its pixels, its profile and its comments together.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "a measurement of the whole process: alone, with --test-threads=1"]
fn one_image_stays_within_its_limit() {
    let memory = |field: &str| -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap();
        let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() << 10
    };
    let png =
        |colour: u8, depth: u8, (width, height): (u32, u32), profile: usize, comments: usize| {
            let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
            let mut chunk = |name: &[u8; 4], body: &[u8]| chunk(&mut out, name, body);
            let zeros = |count: usize| {
                let mut packed =
                    flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::copy(
                    &mut std::io::Read::take(std::io::repeat(0), count as u64),
                    &mut packed,
                )
                .unwrap();
                packed.finish().unwrap()
            };
            let [w3, w2, w1, w0] = width.to_be_bytes();
            let [h3, h2, h1, h0] = height.to_be_bytes();
            chunk(
                b"IHDR",
                &[w3, w2, w1, w0, h3, h2, h1, h0, depth, colour, 0, 0, 0],
            );
            if profile > 0 {
                chunk(b"iCCP", &[&b"a\0\0"[..], &zeros(profile)].concat());
            }
            if comments > 0 {
                chunk(b"zTXt", &[&b"a\0\0"[..], &zeros(comments)].concat());
                chunk(b"tEXt", &[&b"a\0"[..], &vec![b'a'; comments / 20]].concat());
            }
            let samples = [1, 0, 3, 1, 2, 0, 4][usize::from(colour)] * usize::from(depth) / 8;
            chunk(
                b"IDAT",
                &zeros((width as usize * samples + 1) * height as usize),
            );
            chunk(b"IEND", &[]);
            out
        };
    // Many comments, and a progressive picture with all its colours.
    let comments = |jpeg: &[u8], number: usize| {
        let comment = [&[0xFF, 0xE1, 0xFF, 0xFF][..], b"Exif\0\0", &vec![0; 65_527]].concat();
        [&jpeg[..2], &comment.repeat(number), &jpeg[2..]].concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("grey 13300x13300", png(0, 8, (13_300, 13_300), 0, 0)),
        ("grey, tall", png(0, 8, (1, 178_000_000), 0, 0)),
        ("grey, wide", png(0, 8, (178_000_000, 1), 0, 0)),
        ("16 bits, 9400x9400", png(2, 16, (9400, 9400), 0, 0)),
        (
            "alpha of 16 bits, 13000x13000",
            png(6, 16, (13_000, 13_000), 0, 0),
        ),
        ("profile of 2 GB", png(2, 8, (4, 4), 2 << 30, 0)),
        ("comments of 2 GB", png(2, 8, (9000, 9000), 0, 2 << 30)),
        (
            "JPEG with 150 MB of comments",
            comments(&jpeg(2000, 2000), 2300),
        ),
        (
            "JPEG with 300 MB of comments",
            comments(&jpeg(2000, 2000), 4600),
        ),
        ("JPEG of 11500x11500", jpeg(11_500, 11_500)),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (i, (name, bytes)) in cases.into_iter().enumerate() {
        let path = dir.path().join(i.to_string());
        fs::write(&path, bytes).unwrap();
        paths.push((name, path));
    }
    let limits = DecodeLimits::default();
    for (name, path) in paths {
        for way in ["decode_file", "photo_eval", "upright"] {
            fs::write("/proc/self/clear_refs", "5").unwrap();
            let before = memory("VmRSS");
            let started = Instant::now();
            let mut random = shike_data::rng::rng(0, 0, 0, shike_data::rng::Purpose::Augment);
            let read = match way {
                "decode_file" => decode_file(&path, &limits).map(drop),
                "upright" => common::decode_file_upright(&path, &limits).map(drop),
                _ => {
                    let pipeline = Pipeline::photo_eval(224);
                    common::prepare_file(&path, &pipeline, &limits, &mut random).map(drop)
                }
            };
            let took = memory("VmHWM") - before;
            let said = read.map_or_else(|e| e.to_string(), |()| "read".into());
            let said = said.rsplit('/').next().unwrap().to_owned();
            println!(
                "{name}, {way}: {} MiB, {:.1?}: {said}",
                took >> 20,
                started.elapsed()
            );
            assert!(
                took <= limits.max_alloc + (4 << 20),
                "{name}, {way}: {took}"
            );
        }
    }
}

/// `cargo test --release -p shike-data --test bad_input -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for a machine that does nothing else"]
fn a_million_lines_load_in_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| (format!("train/n{:08}/n{0:08}_{i}.JPEG", i % 1000), i % 1000);
    let rows = || (0..1_000_000).map(row);
    let text: String = rows()
        .map(|(path, label)| format!("{path} {label}\n"))
        .collect();
    let csv: String = rows()
        .map(|(path, label)| format!("{path},{label}\n"))
        .collect();
    let json: Vec<String> = rows()
        .map(|(path, label)| format!(r#"{{"fpath": "{path}", "category_id": {label}}}"#))
        .collect();
    let files = [
        ("l.txt", text),
        ("l.csv", format!("path,label\n{csv}")),
        (
            "l.json",
            format!("{{\"annotations\": [{}]}}", json.join(",")),
        ),
    ];
    let times = files.map(|(name, content)| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let before = Instant::now();
        let data = list_file("root", &path, None, None).unwrap();
        let took = before.elapsed();
        assert_eq!((data.len(), data.num_classes()), (1_000_000, 1000));
        eprintln!("{name}: a million lines in {took:.2?}");
        took
    });
    // With --release each takes 0.7 to 0.9 seconds on a core of its own; the bound is for a busy one.
    assert!(times.iter().max().unwrap() < &Duration::from_secs(5));
}

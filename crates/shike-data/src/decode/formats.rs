//! The types of image files that are read: all that tells them apart.

use image::metadata::Orientation;
use image::{ImageDecoder, ImageFormat, ImageResult, RgbImage};

use super::convert::{Depth, Rows};
use super::limits::{DecodeLimits, Refused};
use super::{bmp, gif, jpeg, png, tiff, webp};
use crate::scratch;

/// A type of image files.
#[derive(Debug)]
pub struct Format {
    /// What it is called.
    pub name: &'static str,
    /// How names of its files end, in lower case.
    pub endings: &'static [&'static str],
    pub(crate) image: ImageFormat,
    /// Reads the header in the beginning of a file.
    pub(super) header: fn(&[u8]) -> Result<Header, Refused>,
    /// Looks at a whole file as closely as can be without decoding it.
    pub(super) check: fn(&[u8], &DecodeLimits) -> Result<(), Refused>,
    pub(super) decode: fn(&[u8], &DecodeLimits, &dyn Rows) -> Result<RgbImage, Refused>,
    /// The EXIF data.
    pub(super) exif: fn(&[u8]) -> Option<&[u8]>,
}

/// The types that are read: the one place that names them.
pub static FORMATS: [Format; 6] = [
    Format {
        name: "JPEG",
        endings: &["jpg", "jpeg", "jfif"],
        image: ImageFormat::Jpeg,
        header: jpeg::header_of,
        check: jpeg::check,
        decode: |bytes, limits, _| jpeg::to_rgb(bytes, limits),
        exif: jpeg::exif,
    },
    Format {
        name: "PNG",
        endings: &["png"],
        image: ImageFormat::Png,
        header: png::header,
        check: png::check,
        decode: png::decode,
        exif: png::exif,
    },
    Format {
        name: "WebP",
        endings: &["webp"],
        image: ImageFormat::WebP,
        header: webp::header,
        check: webp::check,
        decode: webp::decode,
        exif: webp::exif,
    },
    Format {
        name: "TIFF",
        endings: &["tif", "tiff"],
        image: ImageFormat::Tiff,
        header: tiff::header,
        check: tiff::check,
        decode: tiff::decode,
        exif: |_| None,
    },
    Format {
        name: "BMP",
        endings: &["bmp"],
        image: ImageFormat::Bmp,
        header: bmp::header,
        check: bmp::check,
        decode: bmp::decode,
        exif: |_| None,
    },
    Format {
        name: "GIF",
        endings: &["gif"],
        image: ImageFormat::Gif,
        header: gif::header,
        check: gif::check,
        decode: gif::decode,
        exif: |_| None,
    },
];

/// Endings of images that somebody may expect to be read.
pub(crate) const NOT_READ: &[&str] = &[".avif", ".heic", ".heif", ".jp2", ".jxl"];

/// What to do with an image that is not read.
pub(crate) const CONVERT: &str = "convert it first, as with ImageMagick: `magick in.heic out.jpg`";

/// The names of all types: `JPEG, PNG, WebP, TIFF, BMP and GIF`.
pub fn format_names() -> String {
    let [first @ .., last] = FORMATS.each_ref().map(|format| format.name);
    format!("{} and {last}", first.join(", "))
}

/// What a header says of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Width and height, before it is turned.
    pub(crate) size: (u32, u32),
    /// Whether a channel has 16 bits.
    pub(crate) sixteen_bits: bool,
    /// Whether pixels may be transparent.
    pub(crate) alpha: bool,
    /// Whether the file has more pictures than the first.
    pub(crate) several: bool,
    /// How the picture is turned, where that is said.
    pub(crate) turn: Option<Orientation>,
}

impl Header {
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.size.0) * u64::from(self.size.1)
    }
}

/// All of a picture of 8 bits a sample.
pub(super) fn decode_rows(decoder: impl ImageDecoder, rows: &dyn Rows) -> ImageResult<RgbImage> {
    let (width, height) = decoder.dimensions();
    let samples = usize::from(decoder.color_type().channel_count());
    let mut image = scratch::black(width, height);
    if samples == 3 {
        decoder.read_image(&mut image)?;
        return Ok(image);
    }
    let mut stored = scratch::buffer();
    stored.resize(width as usize * height as usize * samples, 0);
    decoder.read_image(&mut stored)?;
    rows.row(&stored, samples, Depth::Eight, &mut image);
    scratch::keep(stored);
    Ok(image)
}

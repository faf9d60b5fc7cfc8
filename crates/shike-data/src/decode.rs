//! From the bytes of a JPEG or PNG to 8-bit RGB.
//!
//! The format is guessed from the bytes: one ImageNet "JPEG" is a PNG. The size in the header is
//! checked before anything is allocated, because a few forged bytes can announce gigabytes. EXIF
//! orientation is not applied, as in the usual PyTorch pipelines.
//!
//! A JPEG with one or three components goes to zune-jpeg in its strict mode; everything else to the
//! `image` crate with limits on what it allocates.

mod bytes;

use std::io::{Cursor, Read};
use std::path::Path;

use image::error::{DecodingError, LimitError, LimitErrorKind};
use image::{ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use serde::{Deserialize, Serialize};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use self::bytes::Bytes;
use crate::error::{DataError, Result};
use crate::scratch;
use crate::verify::sniff;

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeLimits {
    /// Most pixels that a header may announce. The default is where Pillow refuses: 178,956,970.
    pub max_pixels: u64,
    /// Most bytes that decoding one image may allocate. The default is 512 MiB.
    pub max_alloc: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            max_pixels: 178_956_970,
            max_alloc: 512 << 20,
        }
    }
}

impl DecodeLimits {
    pub(crate) fn check(&self, width: u32, height: u32, origin: &str) -> Result<()> {
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(DataError::TooLarge {
                origin: origin.to_owned(),
                width,
                height,
                max_pixels: self.max_pixels,
            });
        }
        Ok(())
    }
}

/// Reads and decodes one file.
///
/// # Errors
/// [`DataError::Io`] if it cannot be read, else as [`decode_rgb`].
pub fn decode_file(path: &Path, limits: &DecodeLimits) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    decode_rgb(&bytes, &path.display().to_string(), limits)
}

/// Reads a file into `bytes`, whose memory is used again.
pub(crate) fn read_into(path: &Path, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(bytes))
        .map(|_| ())
        .map_err(|e| DataError::io(path, e))
}

/// Decodes a JPEG or PNG to RGB, `[height, width, 3]`.
///
/// Grey is repeated over the channels and alpha is dropped, as Pillow's `convert("RGB")` does.
/// 16-bit images are scaled to 8 bits (Pillow clips 16-bit grey to white). `origin` is the name
/// used in error messages.
///
/// # Errors
/// [`DataError::NotAnImage`] says what else the file is; [`DataError::TooLarge`] by the header alone,
/// [`DataError::Truncated`] for a JPEG without an end-of-image marker (half a picture is not the
/// picture), [`DataError::Decode`] for anything else that is wrong. A JPEG whose middle is damaged
/// so that its codes still make sense is not noticed, nor is it by Pillow.
pub fn decode_rgb(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<RgbImage> {
    sniff(bytes, origin)?;
    if let Some(frame) = plain_jpeg(bytes, origin, limits)? {
        let mut pixels = scratch::buffer();
        pixels.resize(frame.pixels() * 3, 0);
        decode_jpeg(bytes, &frame, ColorSpace::RGB, &mut pixels).map_err(|e| e.of(origin))?;
        return Ok(RgbImage::from_raw(frame.width, frame.height, pixels)
            .expect("the decoder filled the whole buffer"));
    }
    let failed = |source| DataError::Decode {
        origin: origin.to_owned(),
        source,
    };
    let reader = || {
        ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| failed(ImageError::IoError(e)))
    };
    let header = reader()?;
    if header.format() == Some(ImageFormat::Jpeg) && !jpeg_is_complete(bytes) {
        return Err(truncated(origin));
    }
    let (width, height) = header.into_dimensions().map_err(failed)?;
    limits.check(width, height, origin)?;
    let mut body = reader()?;
    let mut decoder_limits = Limits::default();
    decoder_limits.max_alloc = Some(limits.max_alloc);
    body.limits(decoder_limits);
    Ok(body.decode().map_err(failed)?.into_rgb8())
}

fn truncated(origin: &str) -> DataError {
    DataError::Truncated {
        origin: origin.to_owned(),
    }
}

/// What stands in the header of a JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Where the two bytes of the height stand.
    height_at: usize,
    /// Rows of a unit of the code: 8 for each vertical sample.
    unit_rows: u32,
    /// Whether all rows of a picture follow each other in the file.
    rows_in_order: bool,
}

impl Frame {
    fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }
}

/// The header of a JPEG that [`decode_jpeg`] takes: 8 bits, one or three components, Huffman
/// codes. None for any other file.
///
/// # Errors
/// [`DataError::Truncated`], [`DataError::TooLarge`], or [`DataError::Decode`] if decoding would
/// allocate too much.
pub(crate) fn plain_jpeg(
    bytes: &[u8],
    origin: &str,
    limits: &DecodeLimits,
) -> Result<Option<Frame>> {
    let Some(frame) = frame(bytes) else {
        return Ok(None);
    };
    limits.check(frame.width, frame.height, origin)?;
    // Four bytes a pixel come out; out-of-order files keep two more for each coefficient.
    let bytes_a_pixel = if frame.rows_in_order { 4 } else { 4 + 3 * 2 };
    if u64::from(frame.width) * u64::from(frame.height) * bytes_a_pixel > limits.max_alloc {
        return Err(DataError::Decode {
            origin: origin.to_owned(),
            source: ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory)),
        });
    }
    if !jpeg_is_complete(bytes) {
        return Err(truncated(origin));
    }
    Ok(Some(frame))
}

/// Reads the markers of a JPEG up to its first scan.
fn frame(bytes: &[u8]) -> Option<Frame> {
    if !bytes.starts_with(&[0xFF, 0xD8]) {
        return None;
    }
    let mut found: Option<(Frame, usize, bool)> = None;
    let mut at = 2;
    loop {
        if *bytes.get(at)? != 0xFF {
            return None;
        }
        let marker = *bytes.get(at + 1)?;
        if marker == 0xFF {
            at += 1;
            continue;
        }
        let length = usize::from(u16::from_be_bytes([
            *bytes.get(at + 2)?,
            *bytes.get(at + 3)?,
        ]));
        let body = bytes.get(at + 4..at + 2 + length)?;
        match marker {
            // Baseline, extended and progressive, each with Huffman codes.
            0xC0..=0xC2 => {
                let &[8, h1, h0, w1, w0, components @ (1 | 3), ref rest @ ..] = body else {
                    return None;
                };
                let vertical = rest
                    .chunks_exact(3)
                    .map(|component| component[1] & 15)
                    .max()?;
                let frame = Frame {
                    width: u16::from_be_bytes([w1, w0]).into(),
                    height: u16::from_be_bytes([h1, h0]).into(),
                    height_at: at + 5,
                    unit_rows: 8 * u32::from(vertical),
                    rows_in_order: false,
                };
                if frame.width == 0 || frame.height == 0 || !(1..=4).contains(&vertical) {
                    return None;
                }
                found = Some((frame, components.into(), marker != 0xC2));
            }
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xD0..=0xD9 => return None,
            0xDA => {
                let (frame, components, sequential) = found?;
                return Some(Frame {
                    rows_in_order: sequential && usize::from(*body.first()?) == components,
                    ..frame
                });
            }
            _ => {}
        }
        at += 2 + length;
    }
}

/// Why zune-jpeg refused a file, before its name is known.
pub(crate) struct Refused(String);

impl Refused {
    pub(crate) fn of(self, origin: &str) -> DataError {
        DataError::Decode {
            origin: origin.to_owned(),
            source: ImageError::Decoding(DecodingError::new(ImageFormat::Jpeg.into(), self.0)),
        }
    }
}

/// Decodes a [`plain_jpeg`] into all of `out`, with 3 bytes a pixel (`RGB`) or 4 (`RGBA`, the last 255).
fn decode_jpeg(
    bytes: &[u8],
    frame: &Frame,
    colours: ColorSpace,
    out: &mut [u8],
) -> std::result::Result<(), Refused> {
    let refused = |e: zune_jpeg::errors::DecodeErrors| Refused(format!("{e:?}"));
    let side = usize::from(u16::MAX);
    // The decoder picks its conversion of colours while it reads the headers.
    let options = DecoderOptions::default()
        .set_max_width(side)
        .set_max_height(side)
        .jpeg_set_out_colorspace(colours)
        .set_strict_mode(false);
    let mut decoder = JpegDecoder::new_with_options(Bytes::new(bytes), options);
    // Cameras leave stray bytes between the headers; the picture itself has to be whole.
    decoder.decode_headers().map_err(refused)?;
    let stored_rgb = matches!(
        decoder.input_colorspace(),
        // With three components this is what an RGB file is called before it is decoded.
        Some(ColorSpace::RGB | ColorSpace::CMYK)
    );
    let wanted = if stored_rgb { ColorSpace::RGB } else { colours };
    decoder.set_options(
        options
            .set_strict_mode(true)
            .jpeg_set_out_colorspace(wanted),
    );
    let found = decoder.dimensions();
    if found != Some((frame.width as usize, frame.height as usize)) {
        return Err(Refused(format!(
            "two headers that differ: {found:?} and {frame:?}"
        )));
    }
    if wanted == colours {
        return decoder.decode_into(out).map_err(refused);
    }
    let mut rgb = vec![0; frame.pixels() * 3];
    decoder.decode_into(&mut rgb).map_err(refused)?;
    for (to, from) in out.chunks_exact_mut(4).zip(rgb.chunks_exact(3)) {
        to.copy_from_slice(&[from[0], from[1], from[2], 255]);
    }
    Ok(())
}

/// Decodes at least the first `rows` rows of a [`plain_jpeg`] into `out`, 4 bytes a pixel. Returns
/// how many rows there are now; `out` may be longer, because what has once been cleared need not be
/// cleared again.
///
/// A crop rarely reaches the bottom, and rows below it need not be decoded. zune-jpeg has no call
/// for that, so it is told that the picture ends there: the height in the header of `bytes`
/// is lowered. One unit more than needed is kept, because colours are interpolated between units.
pub(crate) fn decode_rows(
    bytes: &mut [u8],
    frame: &Frame,
    rows: u32,
    out: &mut Vec<u8>,
) -> std::result::Result<u32, Refused> {
    let needed = (rows.div_ceil(frame.unit_rows) + 1) * frame.unit_rows;
    let mut part = *frame;
    if frame.rows_in_order {
        part.height = needed.min(frame.height);
    }
    // A JPEG's height has 16 bits, and `frame` read it from this place.
    let height = (part.height as u16).to_be_bytes();
    bytes[frame.height_at..frame.height_at + 2].copy_from_slice(&height);
    let length = part.pixels() * 4;
    if out.len() < length {
        out.resize(length, 0);
    }
    decode_jpeg(bytes, &part, ColorSpace::RGBA, &mut out[..length])?;
    Ok(part.height)
}

/// Whether a JPEG's markers run up to an end-of-image marker.
///
/// It walks the segments instead of looking at the last two bytes: thumbnails hold an end marker
/// of their own, and some cameras write more bytes behind the picture.
pub(crate) fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2; // behind the start-of-image marker
    loop {
        // Anything up to the next 0xFF is entropy-coded data or padding.
        let Some(skip) = bytes.get(at..).and_then(|rest| memchr::memchr(0xFF, rest)) else {
            return false;
        };
        at += skip + 1;
        match bytes.get(at) {
            None => return false,
            Some(0xD9) => return true,
            // 0xFF may fill up before a marker: the same place is looked at again.
            Some(0xFF) => {}
            // A stuffed zero, a restart or another marker without a body.
            Some(0x00 | 0x01 | 0xD0..=0xD8) => at += 1,
            Some(_) => {
                let (Some(&high), Some(&low)) = (bytes.get(at + 1), bytes.get(at + 2)) else {
                    return false;
                };
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use image::{DynamicImage, GrayImage, ImageBuffer, LumaA, Rgb, Rgba};

    fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    fn picture() -> DynamicImage {
        DynamicImage::ImageRgb8(RgbImage::from_fn(40, 30, |x, y| {
            Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8])
        }))
    }

    fn decode(bytes: &[u8]) -> Result<RgbImage> {
        decode_rgb(bytes, "a.jpg", &DecodeLimits::default())
    }

    #[test]
    fn png_is_lossless_and_the_name_does_not_matter() {
        let bytes = encode(&picture(), ImageFormat::Png);
        assert_eq!(decode(&bytes).unwrap(), picture().into_rgb8());
    }

    #[test]
    fn grey_is_repeated_and_alpha_dropped() {
        let grey = DynamicImage::ImageLuma8(GrayImage::from_fn(3, 2, |x, y| {
            image::Luma([(x * 70 + y) as u8])
        }));
        let got = decode(&encode(&grey, ImageFormat::Png)).unwrap();
        assert!(
            got.enumerate_pixels()
                .all(|(x, y, p)| p.0 == [(x * 70 + y) as u8; 3])
        );

        let rgba: ImageBuffer<Rgba<u8>, _> = ImageBuffer::from_pixel(2, 2, Rgba([9, 8, 7, 0]));
        let got = decode(&encode(&rgba.into(), ImageFormat::Png)).unwrap();
        assert!(got.pixels().all(|p| p.0 == [9, 8, 7]));

        let la: ImageBuffer<LumaA<u8>, _> = ImageBuffer::from_pixel(2, 2, LumaA([5, 100]));
        let got = decode(&encode(&la.into(), ImageFormat::Png)).unwrap();
        assert!(got.pixels().all(|p| p.0 == [5, 5, 5]));

        let deep: ImageBuffer<Rgb<u16>, Vec<u16>> =
            ImageBuffer::from_pixel(2, 2, Rgb([0, 32896, 65535]));
        let got = decode(&encode(&deep.into(), ImageFormat::Png)).unwrap();
        assert!(got.pixels().all(|p| p.0 == [0, 128, 255]));
    }

    #[test]
    fn a_cut_file_is_an_error_at_every_length() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let bytes = encode(&picture(), format);
            decode(&bytes).unwrap();
            // The last chunk of a PNG holds no pixels, so it may be lost.
            let last = if format == ImageFormat::Png { 12 } else { 0 };
            for keep in 0..bytes.len() - last {
                let error = decode(&bytes[..keep]).unwrap_err();
                assert!(error.to_string().starts_with("a.jpg: "), "{error}");
            }
        }
    }

    #[test]
    fn bytes_behind_the_picture_are_no_error() {
        let mut bytes = encode(&picture(), ImageFormat::Jpeg);
        let whole = decode(&bytes).unwrap();
        bytes.extend([0; 100]);
        bytes.extend(b"appended by a camera");
        assert_eq!(decode(&bytes).unwrap(), whole);
    }

    #[test]
    fn an_end_marker_in_a_thumbnail_does_not_count() {
        let bytes = encode(&picture(), ImageFormat::Jpeg);
        let mut with_thumbnail = bytes[..2].to_vec();
        with_thumbnail.extend([0xFF, 0xE1, 0, 2 + 6, 0xFF, 0xD8, 1, 2, 0xFF, 0xD9]);
        with_thumbnail.extend(&bytes[2..]);
        decode(&with_thumbnail).unwrap();
        let cut = &with_thumbnail[..with_thumbnail.len() - 20];
        assert!(matches!(decode(cut), Err(DataError::Truncated { .. })));
    }

    #[test]
    fn a_forged_header_is_refused_before_allocating() {
        // 65,500 x 65,500 in the frame header of an otherwise small JPEG.
        let mut jpeg = encode(&picture(), ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
        // The same in a PNG's header chunk, its checksum made right.
        let mut png = encode(&picture(), ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0xFF, 0xDC, 0, 0, 0xFF, 0xDC]);
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        for bytes in [jpeg, png] {
            match decode(&bytes).unwrap_err() {
                DataError::TooLarge { width, height, .. } => {
                    assert_eq!((width, height), (65_500, 65_500));
                }
                other => panic!("{other}"),
            }
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |mut crc, &b| {
            crc ^= u32::from(b);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
            }
            crc
        })
    }

    #[test]
    fn the_allocation_limit_holds() {
        let bytes = encode(&picture(), ImageFormat::Jpeg);
        let limits = DecodeLimits {
            max_alloc: 1000,
            ..DecodeLimits::default()
        };
        assert!(matches!(
            decode_rgb(&bytes, "x", &limits),
            Err(DataError::Decode { .. })
        ));
    }

    #[test]
    fn no_image_at_all() {
        for bytes in [&b""[..], b"<html>404</html>", &[0xFF, 0xD8, 0xFF]] {
            let error = decode(bytes).unwrap_err();
            assert!(error.to_string().starts_with("a.jpg: "), "{error}");
        }
        let error = decode_file(Path::new("/nowhere/x.jpg"), &DecodeLimits::default());
        assert!(error.unwrap_err().to_string().contains("/nowhere/x.jpg"));
    }
}

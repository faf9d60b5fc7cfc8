//! From the bytes of a JPEG or PNG to 8-bit RGB.
//!
//! The format is guessed from the bytes: one ImageNet "JPEG" is a PNG. The size in the header is
//! checked before anything is allocated, because a few forged bytes can announce gigabytes. EXIF
//! orientation is not applied, as in the usual PyTorch pipelines.
//!
//! JPEGs go to zune-jpeg in its strict mode, PNGs to the `png` crate. Neither is trusted: what the
//! header shows that they would get wrong is refused, and a panic of theirs is an error as any other.

mod bytes;
pub(crate) mod jpeg;
pub(crate) mod png;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use image::error::{DecodingError, LimitError, LimitErrorKind};
use image::{ImageError, ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};
use zune_jpeg::zune_core::colorspace::ColorSpace;

use crate::error::{DataError, Result, panic_text};
use crate::scratch;
use crate::verify::sniff;

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeLimits {
    /// Most pixels that a header may announce. The default is where Pillow refuses: 178,956,970.
    pub max_pixels: u64,
    /// Most bytes that one image may take while it is read: its file, what stands in that besides
    /// the picture, and its pixels. The default is 512 MiB.
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
    /// Checks the size of a picture, and how much it takes besides the `bytes` of its file.
    ///
    /// # Errors
    /// [`Refused`] if it is too large.
    pub(crate) fn check(&self, size: (u32, u32), bytes: u64) -> std::result::Result<(), Refused> {
        if u64::from(size.0) * u64::from(size.1) > self.max_pixels {
            return Err(Refused::TooLarge(size, self.max_pixels));
        }
        if bytes > self.max_alloc {
            return Err(Refused::TooMuch);
        }
        Ok(())
    }
}

/// Why an image was refused, before the name of its file is known.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The end is missing.
    CutOff,
    /// Width and height, and the pixels that are allowed.
    TooLarge((u32, u32), u64),
    /// It takes more memory than it may.
    TooMuch,
    /// It is of a kind that is not read.
    Kind(String),
    /// It makes no sense.
    Damaged(ImageFormat, String),
}

impl Refused {
    pub(crate) fn of(self, origin: &str) -> DataError {
        let origin = origin.to_owned();
        let source = match self {
            Self::CutOff => return DataError::Truncated { origin },
            Self::TooLarge((width, height), max_pixels) => {
                return DataError::TooLarge {
                    origin,
                    width,
                    height,
                    max_pixels,
                };
            }
            Self::Kind(problem) => return DataError::NotAnImage { origin, problem },
            Self::TooMuch => {
                ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory))
            }
            Self::Damaged(format, problem) => {
                ImageError::Decoding(DecodingError::new(format.into(), problem))
            }
        };
        DataError::Decode { origin, source }
    }
}

thread_local! {
    /// Whether this thread is in a decoder, whose panics are reported as errors.
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Calls a decoder. A panic of it is an error about the image, and nothing is printed.
pub(crate) fn caught<T>(
    format: ImageFormat,
    decoder: impl FnOnce() -> std::result::Result<T, Refused>,
) -> std::result::Result<T, Refused> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !DECODING.get() {
                report(panic);
            }
        }));
    });
    DECODING.set(true);
    let made = catch_unwind(AssertUnwindSafe(decoder));
    DECODING.set(false);
    made.unwrap_or_else(|panic| {
        let problem = format!("the decoder panicked: {}", panic_text(&*panic));
        Err(Refused::Damaged(format, problem))
    })
}

/// Decodes a JPEG or PNG to RGB, `[height, width, 3]`.
///
/// Grey is repeated over the channels and alpha is dropped, as Pillow's `convert("RGB")` does.
/// 16-bit images are scaled to 8 bits (Pillow clips 16-bit grey to white). `origin` is the name
/// used in error messages.
///
/// # Errors
/// [`DataError::NotAnImage`] says what else the file is, or which kind of a JPEG is not read;
/// [`DataError::TooLarge`] by the header alone; [`DataError::Truncated`] for a picture without its end
/// (half a picture is not the picture); [`DataError::Decode`] for anything else that is wrong, a panic
/// of the decoder too. A JPEG whose middle is damaged so that its codes still make sense is not
/// noticed, nor is it by Pillow.
pub fn decode_rgb(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<RgbImage> {
    let image = match sniff(bytes, origin)? {
        ImageFormat::Jpeg => jpeg_to_rgb(bytes, limits),
        _ => png_to_rgb(bytes, limits),
    };
    image.map_err(|refused| refused.of(origin))
}

fn jpeg_to_rgb(bytes: &[u8], limits: &DecodeLimits) -> std::result::Result<RgbImage, Refused> {
    let frame = jpeg_frame(bytes, limits)?;
    let mut pixels = scratch::black(frame.width, frame.height);
    let mut file = scratch::copy(bytes);
    let decoded = jpeg::decode(&mut file, &frame, ColorSpace::RGB, &mut pixels);
    scratch::keep(file);
    decoded.map(|()| pixels)
}

/// The header of a JPEG that is within the limits.
///
/// # Errors
/// As [`jpeg::frame`].
pub(crate) fn jpeg_frame(
    bytes: &[u8],
    limits: &DecodeLimits,
) -> std::result::Result<jpeg::Frame, Refused> {
    let header = jpeg::header(bytes)?;
    let pixels = u64::from(header.width) * u64::from(header.height);
    // The file, a copy that is decoded, and what the decoder keeps of profiles and comments.
    let file = 3 * bytes.len() as u64;
    let size = (header.width, header.height);
    limits.check(size, pixels * header.bytes_a_pixel() + file)?;
    jpeg::frame(bytes)
}

fn png_to_rgb(bytes: &[u8], limits: &DecodeLimits) -> std::result::Result<RgbImage, Refused> {
    let needed = png_needs(bytes, limits)?;
    png::decode(bytes, limits.max_alloc - needed)
}

/// What a PNG within the limits takes.
pub(crate) fn png_needs(bytes: &[u8], limits: &DecodeLimits) -> std::result::Result<u64, Refused> {
    let size = png::size(bytes)?;
    let needed = png::needed_bytes(size).saturating_add(bytes.len() as u64);
    limits.check(size, needed)?;
    Ok(needed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Cursor;

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
            for keep in 0..bytes.len() {
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
    }
}

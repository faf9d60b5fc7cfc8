//! From the bytes of an image file to 8-bit RGB.
//!
//! [`FORMATS`] are the types that are read. The type is guessed from the bytes: one ImageNet "JPEG" is a PNG.
//! The size in the header is checked before anything is allocated, because a few forged bytes can announce
//! gigabytes.
//!
//! JPEGs go to zune-jpeg in its strict mode, PNGs to the `png` crate, others to `image`; TIFF is read here (`tiff.rs`). None
//! is trusted: what the header shows that they would get wrong is refused, and a panic of theirs is an error as
//! any other.

mod bmp;
mod bytes;
mod convert;
pub(crate) mod exif;
mod formats;
mod gif;
pub(crate) mod header;
pub(crate) mod jpeg;
mod limits;
mod png;
mod tiff;
mod webp;

use std::cell::RefCell;

use image::RgbImage;

use self::convert::Counts;
pub use self::convert::Decoding;
pub(crate) use self::formats::{CONVERT, Header, NOT_READ};
pub use self::formats::{FORMATS, Format, format_names};
pub(crate) use self::header::sniff;
pub use self::limits::DecodeLimits;
pub(crate) use self::limits::caught;
#[cfg(doc)]
use crate::error::DataError;
use crate::error::Result;
use crate::scratch;

/// Decodes an image file to RGB, `[height, width, 3]`, as [`Decoding::default`] says: grey is repeated over the
/// channels, palettes become colours and alpha is dropped, as Pillow's `convert("RGB")` does; 16 bits are scaled
/// to 8 (Pillow clips 16-bit grey to white); EXIF orientation is not applied, as in the usual PyTorch pipelines.
/// Of an animation or of several pages the first is taken. `origin` is the name used in error messages.
///
/// # Errors
/// [`DataError::NotAnImage`] says what else the file is, or which kind of a type is not read;
/// [`DataError::TooLarge`] by the header alone; [`DataError::Truncated`] for a picture without its end
/// (half a picture is not the picture); [`DataError::Decode`] for anything else that is wrong, a panic
/// of the decoder too. A JPEG whose middle is damaged so that its codes still make sense is not
/// noticed, nor is it by Pillow.
pub fn decode_rgb(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<RgbImage> {
    decode_as(bytes, origin, limits, &Decoding::default())
}

/// As [`decode_rgb`], with pixels as `decoding` says.
///
/// # Errors
/// As [`decode_rgb`].
pub fn decode_as(
    bytes: &[u8],
    origin: &str,
    limits: &DecodeLimits,
    decoding: &Decoding,
) -> Result<RgbImage> {
    let format = sniff(bytes, origin)?;
    let decode = || {
        let image = (format.decode)(bytes, limits, decoding)?;
        match decoding.upright {
            true => match (format.header)(bytes)?.turn {
                Some(turn) => exif::turn_upright(image, turn, bytes.len(), limits),
                None => Ok(image),
            },
            false => Ok(image),
        }
    };
    decode().map_err(|refused| refused.of(origin))
}

/// How often each value of 16 bits comes in an image, but for its alpha, `[65536]`; `None` if it has 8 bits, or
/// cannot be read.
pub(crate) fn counts_of_values(bytes: &[u8], limits: &DecodeLimits) -> Option<Vec<u64>> {
    let format = sniff(bytes, "").ok()?;
    if !(format.header)(bytes).ok()?.sixteen_bits {
        return None;
    }
    let counts = Counts(RefCell::new(vec![0; 1 << 16]));
    let black = (format.decode)(bytes, limits, &counts).ok()?;
    scratch::recycle(black);
    Some(counts.0.into_inner())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Cursor;

    use crate::error::DataError;

    use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, LumaA, Rgb, Rgba};

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

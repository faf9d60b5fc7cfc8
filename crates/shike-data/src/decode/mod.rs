//! From the bytes of a JPEG or PNG to 8-bit RGB.
//!
//! The format is guessed from the bytes: one ImageNet "JPEG" is a PNG. The size in the header is
//! checked before anything is allocated, because a few forged bytes can announce gigabytes. EXIF
//! orientation is not applied, as in the usual PyTorch pipelines.
//!
//! JPEGs go to zune-jpeg in its strict mode, PNGs to the `png` crate. Neither is trusted: what the
//! header shows that they would get wrong is refused, and a panic of theirs is an error as any other.

mod bytes;
pub(crate) mod exif;
pub(crate) mod header;
pub(crate) mod jpeg;
mod limits;
pub(crate) mod png;

use image::{ImageFormat, RgbImage};
use zune_jpeg::zune_core::colorspace::ColorSpace;

use self::header::{jpeg_frame, png_needs, sniff};
pub use self::limits::DecodeLimits;
pub(crate) use self::limits::{Refused, caught};
#[cfg(doc)]
use crate::error::DataError;
use crate::error::Result;
use crate::scratch;

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

fn png_to_rgb(bytes: &[u8], limits: &DecodeLimits) -> std::result::Result<RgbImage, Refused> {
    let needed = png_needs(bytes, limits)?;
    png::decode(bytes, limits.max_alloc - needed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Cursor;

    use crate::error::DataError;

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

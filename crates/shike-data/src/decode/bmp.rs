//! BMP.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::{ImageDecoder, ImageError, ImageFormat, RgbImage};

use super::convert::{Rows, cut_off_or};
use super::formats::{Header, decode_rows};
use super::limits::{DecodeLimits, Refused, caught};

fn refused(error: ImageError) -> Refused {
    let damaged = Refused::Damaged(ImageFormat::Bmp, error.to_string());
    match &error {
        ImageError::IoError(io) => cut_off_or(io, damaged),
        _ => damaged,
    }
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, Refused> {
    caught(ImageFormat::Bmp, || {
        let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(refused)?;
        Ok(Header {
            size: decoder.dimensions(),
            alpha: decoder.color_type().has_alpha(),
            ..Header::default()
        })
    })
}

/// What a file says in its header.
///
/// # Errors
/// [`Refused`] for what is cut off there, damaged or too large.
pub(super) fn check(bytes: &[u8], limits: &DecodeLimits) -> Result<(), Refused> {
    let found = header(bytes)?;
    limits.check(found.size, found.pixels() * 7 + bytes.len() as u64)
}

/// # Errors
/// [`Refused`] for what is cut off, damaged or too large.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    rows: &dyn Rows,
) -> Result<RgbImage, Refused> {
    check(bytes, limits)?;
    caught(ImageFormat::Bmp, || {
        let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(refused)?;
        decode_rows(decoder, rows).map_err(refused)
    })
}

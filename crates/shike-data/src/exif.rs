//! EXIF orientation: how a camera was held.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use crate::decode::{DecodeLimits, decode_rgb};
use crate::error::{DataError, Result};

/// Reads and decodes one file and turns it as its EXIF data say, as Pillow's `exif_transpose`.
///
/// # Errors
/// Those of [`decode_file`](crate::decode_file). A file without EXIF data, or with broken ones, is
/// taken as it is.
pub fn decode_file_upright(path: &Path, limits: &DecodeLimits) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    let image = decode_rgb(&bytes, &path.display().to_string(), limits)?;
    Ok(turn_upright(image, &bytes))
}

/// Turns `image`, which was decoded from `file`.
pub(crate) fn turn_upright(image: RgbImage, file: &[u8]) -> RgbImage {
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation(file));
    image.into_rgb8()
}

/// Of a file that was decoded before: its header is within the limits.
fn orientation(bytes: &[u8]) -> Orientation {
    ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .ok()
        .and_then(|reader| reader.into_decoder().ok())
        .and_then(|mut decoder| decoder.orientation().ok())
        .unwrap_or(Orientation::NoTransforms)
}

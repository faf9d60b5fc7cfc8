//! EXIF orientation: how a camera was held.

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, RgbImage};

use super::limits::{DecodeLimits, Refused, caught};
use super::{jpeg, png};

/// Turns `image`, which was decoded from `file`.
///
/// # Errors
/// [`Refused`] if there is no room for the turned picture beside the other.
pub(crate) fn turn_upright(
    image: RgbImage,
    file: &[u8],
    limits: &DecodeLimits,
) -> std::result::Result<RgbImage, Refused> {
    let format = match image::guess_format(file) {
        Ok(ImageFormat::Jpeg) => ImageFormat::Jpeg,
        _ => ImageFormat::Png,
    };
    caught(format, || {
        let orientation = orientation(format, file);
        if orientation == Orientation::NoTransforms {
            return Ok(image);
        }
        let both = 2 * image.as_raw().len() as u64 + file.len() as u64;
        limits.check(image.dimensions(), both)?;
        let mut image = DynamicImage::ImageRgb8(image);
        image.apply_orientation(orientation);
        Ok(image.into_rgb8())
    })
}

/// How the EXIF data in `file`, or in its beginning, say that the picture is turned.
pub(crate) fn orientation(format: ImageFormat, file: &[u8]) -> Orientation {
    let exif = match format {
        ImageFormat::Jpeg => jpeg::exif(file),
        _ => png::exif(file),
    };
    exif.and_then(Orientation::from_exif_chunk)
        .unwrap_or(Orientation::NoTransforms)
}

//! What a file is, before it is decoded.

use image::ImageFormat;

use super::limits::{DecodeLimits, Refused};
use super::{jpeg, png};
use crate::error::{DataError, Result};

/// Refuses what is neither a JPEG nor a PNG, and says what it is instead.
pub(crate) fn sniff(bytes: &[u8], origin: &str) -> Result<ImageFormat> {
    let problem = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png)) => return Ok(format),
        Ok(other) => {
            let name = other.extensions_str().first().unwrap_or(&"other image");
            format!("is a .{name} file by its content; JPEG and PNG are read: convert it")
        }
        Err(_) if bytes.is_empty() => "is empty (0 bytes)".into(),
        Err(_) => {
            let start = String::from_utf8_lossy(&bytes[..bytes.len().min(64)]);
            let start = start.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
            let is_text = |c: char| (!c.is_control() && c != '\u{fffd}') || c.is_whitespace();
            if start.starts_with('<') {
                "is HTML or XML, not an image: a page was saved in place of the picture".into()
            } else if start.chars().all(is_text) {
                "is text, not an image".into()
            } else {
                "is neither a JPEG nor a PNG".into()
            }
        }
    };
    Err(DataError::NotAnImage {
        origin: origin.to_owned(),
        problem,
    })
}

/// What can be told without decoding: the format, the size, whether the end is there, and damage that
/// the headers show.
pub(crate) fn check_header(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<()> {
    let checked = match sniff(bytes, origin)? {
        ImageFormat::Jpeg => jpeg_frame(bytes, limits).map(drop),
        _ => png_needs(bytes, limits).and_then(|_| png::check(bytes, limits)),
    };
    checked.map_err(|refused| refused.of(origin))
}

/// The format, width and height that the header in the beginning of a file tells.
///
/// # Errors
/// [`DataError::Truncated`] if the header is longer, else as [`check_header`].
pub(crate) fn header_in(
    bytes: &[u8],
    origin: &str,
    limits: &DecodeLimits,
) -> Result<(ImageFormat, (u32, u32))> {
    let format = sniff(bytes, origin)?;
    let size = match format {
        ImageFormat::Jpeg => jpeg::header(bytes).map(|frame| (frame.width, frame.height)),
        _ => png::size(bytes),
    };
    let within = size.and_then(|size| limits.check(size, 0).map(|()| size));
    Ok((format, within.map_err(|refused| refused.of(origin))?))
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

/// What a PNG within the limits takes.
pub(crate) fn png_needs(bytes: &[u8], limits: &DecodeLimits) -> std::result::Result<u64, Refused> {
    let size = png::size(bytes)?;
    let needed = png::needed_bytes(size).saturating_add(bytes.len() as u64);
    limits.check(size, needed)?;
    Ok(needed)
}

//! What a file is, before it is decoded.

use std::io::Cursor;

use image::{ImageError, ImageFormat, ImageReader};

use crate::decode::{DecodeLimits, jpeg_is_complete};
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

/// What can be told without decoding: the format, the size, and whether the end is there.
pub(crate) fn check_header(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<()> {
    let format = sniff(bytes, origin)?;
    let complete = match format {
        ImageFormat::Jpeg => jpeg_is_complete(bytes),
        _ => png_is_complete(bytes),
    };
    if !complete {
        return Err(DataError::Truncated {
            origin: origin.to_owned(),
        });
    }
    let failed = |source| DataError::Decode {
        origin: origin.to_owned(),
        source,
    };
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let reader = reader.map_err(|e| failed(ImageError::IoError(e)))?;
    let (width, height) = reader.into_dimensions().map_err(failed)?;
    limits.check(width, height, origin)
}

/// Whether no chunk of a PNG is cut. The last one holds no pixels, and may be missing.
fn png_is_complete(bytes: &[u8]) -> bool {
    let mut at = 8; // behind the signature
    while let Some(length) = bytes.get(at..at + 4) {
        let length = length.iter().fold(0, |sum, &b| (sum << 8) | usize::from(b));
        let is_end = bytes.get(at + 4..at + 8) == Some(b"IEND");
        // The chunk's length and name stand before it, its checksum behind.
        at += 12 + length;
        if is_end {
            return true;
        }
        if at > bytes.len() {
            return false;
        }
    }
    true
}

//! What a file is, before it is decoded.

use image::ImageFormat;

use super::formats::{CONVERT, FORMATS, Format, Header, format_names};
use super::limits::DecodeLimits;
use crate::error::{DataError, Result};

/// Refuses what is of no type that is read, and says what it is instead.
pub(crate) fn sniff(bytes: &[u8], origin: &str) -> Result<&'static Format> {
    let guessed = image::guess_format(bytes);
    if let Ok(guessed) = guessed
        && let Some(format) = FORMATS.iter().find(|format| format.image == guessed)
    {
        return Ok(format);
    }
    let problem = match guessed {
        _ if is_heic(bytes) => format!("is a HEIC picture, which is not read: {CONVERT}"),
        Ok(ImageFormat::Avif) => format!("is an AVIF picture, which is not read: {CONVERT}"),
        Ok(other) => {
            let name = other.extensions_str().first().unwrap_or(&"other image");
            let read = format_names();
            format!("is a .{name} file by its content; {read} are read: convert it")
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
                format!("is no image of a type that is read ({})", format_names())
            }
        }
    };
    Err(DataError::NotAnImage {
        origin: origin.to_owned(),
        problem,
    })
}

/// Whether a file is of the boxes of HEIF with a brand of its pictures.
fn is_heic(bytes: &[u8]) -> bool {
    let brands: [&[u8; 4]; 8] = [
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
    ];
    let brand = bytes.get(8..12).unwrap_or_default();
    bytes.get(4..8) == Some(b"ftyp") && brands.iter().any(|known| known.as_slice() == brand)
}

/// What can be told without decoding: the format, the size, whether the end is there, and damage that
/// the headers show.
pub(crate) fn check_header(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<()> {
    let format = sniff(bytes, origin)?;
    (format.check)(bytes, limits).map_err(|refused| refused.of(origin))
}

/// What the header in the beginning of a file tells.
///
/// # Errors
/// [`DataError::Truncated`] if the header is longer, else as [`check_header`].
pub(crate) fn header_in(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<Header> {
    let header = (sniff(bytes, origin)?.header)(bytes);
    let within = header.and_then(|header| limits.check(header.size, 0).map(|()| header));
    within.map_err(|refused| refused.of(origin))
}

//! What a file is, before it is decoded.

use std::io::Read;
use std::path::Path;

use image::ImageFormat;

use crate::decode::{DecodeLimits, Refused, jpeg, jpeg_frame, png, png_needs};
use crate::error::{DataError, Result};
use crate::read::{MAX_BYTES, open};

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

/// As much of a file as holds its header, unless a camera wrote very much before it.
const START: u64 = 64 << 10;

/// What the header of a file says.
pub(crate) struct Header {
    /// JPEG or PNG.
    pub format: ImageFormat,
    /// Width and height.
    pub size: (u32, u32),
    /// The beginning of the file, with all of the header.
    pub bytes: Vec<u8>,
}

/// Width and height by the header of a file, of which no more is read than that takes.
pub(crate) fn size_in_header(path: &Path, limits: &DecodeLimits) -> Result<(u32, u32)> {
    read_header(path, limits).map(|header| header.size)
}

/// Reads the header of a file, and no more of it than that takes.
pub(crate) fn read_header(path: &Path, limits: &DecodeLimits) -> Result<Header> {
    let failed = |e| DataError::io(path, e);
    let mut file = open(path).map_err(failed)?;
    let origin = path.display().to_string();
    let mut bytes = Vec::new();
    let mut wanted = START;
    loop {
        let more = wanted - bytes.len() as u64;
        let read = file.by_ref().take(more).read_to_end(&mut bytes);
        let is_all = (read.map_err(failed)? as u64) < more;
        let format = sniff(&bytes, &origin)?;
        let size = match format {
            ImageFormat::Jpeg => jpeg::header(&bytes).map(|frame| (frame.width, frame.height)),
            _ => png::size(&bytes),
        };
        match size {
            Err(Refused::CutOff) if !is_all && wanted < MAX_BYTES => wanted *= 8,
            Err(refused) => return Err(refused.of(&origin)),
            Ok(size) => {
                limits.check(size, 0).map_err(|e| e.of(&origin))?;
                return Ok(Header {
                    format,
                    size,
                    bytes,
                });
            }
        }
    }
}

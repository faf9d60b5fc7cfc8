//! One image: can it be read, and what does it hold.

use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::ImageReader;
use xxhash_rust::xxh3::xxh3_128;

use super::{Depth, InspectConfig};
use crate::dataset::Dataset;
use crate::decode::{DecodeLimits, decode_rgb};
use crate::error::{DataError, Result, panic_text};

/// Length and hash of an image's bytes.
pub(super) type Content = (u64, u128);

/// What the image holds, if it was read to its end; or why it cannot be used.
pub(super) type Checked = std::result::Result<Option<Content>, String>;

/// As much of a file as holds its header, unless a camera wrote very much before it.
const HEADER: u64 = 256 << 10;

pub(super) fn check(data: &Dataset, i: usize, config: &InspectConfig) -> Checked {
    let (Some(root), Some(relative)) = (data.root(), data.relative_path(i)) else {
        // Pixels in memory have been decoded.
        let whole = data.pixels(i).filter(|_| config.depth == Depth::Full);
        return Ok(whole.map(content));
    };
    let path = root.join(relative);
    let origin = path.display().to_string();
    // A decoder that panics has found a file that training could not read either.
    let checked = catch_unwind(AssertUnwindSafe(|| match config.depth {
        Depth::Header => check_header(&path, &origin, &config.limits).map(|()| None),
        Depth::Full => check_whole(&path, &origin, &config.limits).map(Some),
    }));
    let checked = checked.unwrap_or_else(|panic| {
        Err(DataError::Panic {
            origin: origin.clone(),
            message: panic_text(&*panic),
        })
    });
    checked.map_err(|error| {
        let text = error.to_string();
        let reason = text
            .strip_prefix(&origin)
            .and_then(|t| t.strip_prefix(": "));
        reason.unwrap_or(&text).to_owned()
    })
}

fn content(bytes: &[u8]) -> Content {
    (bytes.len() as u64, xxh3_128(bytes))
}

fn check_whole(path: &Path, origin: &str, limits: &DecodeLimits) -> Result<Content> {
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    decode_rgb(&bytes, origin, limits)?;
    Ok(content(&bytes))
}

fn check_header(path: &Path, origin: &str, limits: &DecodeLimits) -> Result<()> {
    let mut file = File::open(path).map_err(|e| DataError::io(path, e))?;
    let mut bytes = Vec::new();
    let read = file.by_ref().take(HEADER).read_to_end(&mut bytes);
    read.map_err(|e| DataError::io(path, e))?;
    let (width, height) = match size(&bytes) {
        Ok(size) => size,
        Err(_) if bytes.len() as u64 == HEADER => {
            let read = file.read_to_end(&mut bytes);
            read.map_err(|e| DataError::io(path, e))?;
            size(&bytes).map_err(|e| not_an_image(origin, e))?
        }
        Err(error) => return Err(not_an_image(origin, error)),
    };
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(DataError::TooLarge {
            origin: origin.to_owned(),
            width,
            height,
            max_pixels: limits.max_pixels,
        });
    }
    Ok(())
}

fn not_an_image(origin: &str, source: image::ImageError) -> DataError {
    DataError::Decode {
        origin: origin.to_owned(),
        source,
    }
}

/// Width and height by the header.
fn size(bytes: &[u8]) -> image::ImageResult<(u32, u32)> {
    ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()?
        .into_dimensions()
}

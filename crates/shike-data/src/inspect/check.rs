//! One image: can it be read, and what does it hold.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::{Depth, InspectConfig};
use crate::dataset::Dataset;
use crate::decode::{DecodeLimits, decode_rgb};
use crate::error::{DataError, Result};
use crate::read::read;
use crate::verify::size_in_header;

/// Length and hash of an image's bytes.
pub(super) type Content = (u64, u128);

/// What the image holds, if it was read to its end; or why it cannot be used.
pub(super) type Checked = std::result::Result<Option<Content>, String>;

pub(super) fn check(data: &Dataset, i: usize, config: &InspectConfig) -> Checked {
    let (Some(root), Some(relative)) = (data.root(), data.relative_path(i)) else {
        // Pixels in memory have been decoded.
        let whole = data.pixels(i).filter(|_| config.depth == Depth::Full);
        return Ok(whole.map(content));
    };
    let path = root.join(relative);
    let origin = path.display().to_string();
    let checked = match config.depth {
        Depth::Header => size_in_header(&path, &config.limits).map(|_| None),
        Depth::Full => check_whole(&path, &origin, &config.limits).map(Some),
    };
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
    let bytes = read(path).map_err(|e| DataError::io(path, e))?;
    decode_rgb(&bytes, origin, limits)?;
    Ok(content(&bytes))
}

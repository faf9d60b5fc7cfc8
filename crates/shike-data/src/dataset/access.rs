//! What lies behind an image, for code that looks at files instead of pixels.

use std::path::{Path, PathBuf};

use super::{Dataset, Source, record};
use crate::decode::DecodeLimits;
use crate::error::{DataError, Result};
use crate::verify::size_in_header;

/// Width and height of an image file, from its header.
///
/// # Errors
/// Errors of the file, and [`DataError::Decode`] for a header that cannot be read.
pub fn header_size(path: &Path) -> Result<[u32; 2]> {
    let (width, height) = size_in_header(path, &DecodeLimits::default())?;
    Ok([width, height])
}

impl Dataset {
    /// The folder that the paths of the images start at; `None` for images in memory.
    pub fn root(&self) -> Option<&Path> {
        match &*self.source {
            Source::Files { root, .. } => Some(root),
            Source::Pixels { .. } => None,
        }
    }

    /// The path of image `i` below [`Dataset::root`], with `/` between the parts; `None` for images
    /// in memory, and if there is no image `i`.
    pub fn relative_path(&self, i: usize) -> Option<&str> {
        match &*self.source {
            Source::Files { paths, .. } => Some(&paths[*self.entries.get(i)? as usize]),
            Source::Pixels { .. } => None,
        }
    }

    /// The file of image `i`, where it is one.
    pub(crate) fn file(&self, i: usize) -> Option<PathBuf> {
        Some(self.root()?.join(self.relative_path(i)?))
    }

    /// Width and height of image `i`, from the header where it is a file.
    ///
    /// # Errors
    /// [`DataError::Dataset`] if there is no image `i`; errors of the file, and those of
    /// [`decode_rgb`](crate::decode_rgb) that the header shows.
    pub fn header_size(&self, i: usize) -> Result<[u32; 2]> {
        if let Some((height, width)) = self.image_size() {
            return Ok([width as u32, height as u32]);
        }
        let path = self.file(i).ok_or_else(|| DataError::Dataset {
            field: "index",
            problem: format!("is {i}, but there are {} images", self.len()),
        })?;
        header_size(&path)
    }

    /// The bytes of image `i`, `[height, width, 3]`, if it lies in memory; `None` for files, and if
    /// there is no image `i`.
    pub fn pixels(&self, i: usize) -> Option<&[u8]> {
        match &*self.source {
            Source::Pixels {
                pixels,
                height,
                width,
                ..
            } => Some(record(pixels, [*height, *width], *self.entries.get(i)?)),
            Source::Files { .. } => None,
        }
    }
}

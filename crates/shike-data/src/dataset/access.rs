//! One image of a data set.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::source::header_of;
use super::{Dataset, Raw};
use crate::decode::{DecodeLimits, Decoding, Header};
use crate::error::{DataError, Result};
use crate::scratch;

impl Dataset {
    /// The number of image `i` in its source.
    pub(super) fn entry(&self, i: usize) -> Result<usize> {
        let entry = self.entries.get(i).map(|&entry| entry as usize);
        entry.ok_or_else(|| {
            DataError::field(
                "index",
                format!("is {i}, but there are {} images", self.len()),
            )
        })
    }

    /// Reads image `i` and gives `f` what is stored, and its name for messages.
    pub(crate) fn read<T>(
        &self,
        i: usize,
        f: impl FnOnce(Raw<'_>, &str) -> Result<T>,
    ) -> Result<T> {
        let entry = self.entry(i)?;
        let mut file = scratch::buffer();
        let raw = self.images.read(entry, &mut file);
        let made = raw.and_then(|raw| f(raw, &self.images.origin(entry)));
        scratch::keep(file);
        made
    }

    /// The pixels of image `i`, decoded now where it is a file.
    ///
    /// # Errors
    /// [`DataError::Field`] if there is no image `i`; errors of the file, and those of
    /// [`decode_rgb`](crate::decode_rgb).
    pub fn image(&self, i: usize, limits: &DecodeLimits) -> Result<RgbImage> {
        self.image_as(i, limits, &Decoding::default())
    }

    /// As [`Dataset::image`], with the pixels of a file as `decoding` says.
    ///
    /// # Errors
    /// As [`Dataset::image`].
    pub fn image_as(
        &self,
        i: usize,
        limits: &DecodeLimits,
        decoding: &Decoding,
    ) -> Result<RgbImage> {
        self.read(i, |raw, origin| raw.decode(origin, limits, decoding))
    }

    /// `(height, width)` of every image, where they are known to have the same; `None` for files.
    pub fn image_size(&self) -> Option<(usize, usize)> {
        let (width, height) = self.images.size()?;
        Some((height as usize, width as usize))
    }

    /// Width and height of image `i`, from the header where it is a file.
    ///
    /// # Errors
    /// [`DataError::Field`] if there is no image `i`; errors of the file, and those of
    /// [`decode_rgb`](crate::decode_rgb) that the header shows.
    pub fn header_size(&self, i: usize) -> Result<[u32; 2]> {
        if let Some((width, height)) = self.images.size() {
            return Ok([width, height]);
        }
        let (header, _) = self.header(i, &DecodeLimits::default(), &mut Vec::new())?;
        Ok(header.size.into())
    }

    /// The header of image `i`, which `buffer` then holds, and whether it is a file.
    pub(crate) fn header(
        &self,
        i: usize,
        limits: &DecodeLimits,
        buffer: &mut Vec<u8>,
    ) -> Result<(Header, bool)> {
        header_of(&*self.images, self.entry(i)?, limits, buffer)
    }

    /// Where image `i` comes from, for messages: its path, or `train.bin record 17` (counted
    /// from 0).
    pub fn origin(&self, i: usize) -> String {
        match self.entry(i) {
            Ok(entry) => self.images.origin(entry),
            Err(_) => format!("image {i} of {}", self.len()),
        }
    }

    /// The folder that the paths of the images start at; `None` for images in memory.
    pub fn root(&self) -> Option<&Path> {
        self.images.root()
    }

    /// The path of image `i` below [`Dataset::root`], with `/` between the parts; `None` for images
    /// in memory, and if there is no image `i`.
    pub fn relative_path(&self, i: usize) -> Option<&str> {
        self.images.key(self.entry(i).ok()?)
    }

    /// The folder that holds the images of all these data sets, and their paths below it, one set behind the other;
    /// `None` for images in memory, and without a set.
    pub fn one_folder(sets: &[&Self]) -> Option<(PathBuf, Vec<String>)> {
        let roots: Vec<&Path> = sets.iter().map(|set| set.root()).collect::<Option<_>>()?;
        let holds_all = |root: &&Path| roots.iter().all(|other| other.starts_with(root));
        let root = roots.first()?.ancestors().find(holds_all)?;
        let mut paths = Vec::new();
        for (set, own) in sets.iter().zip(&roots) {
            // Lists have slashes on every system.
            let below = own.strip_prefix(root).ok()?.iter();
            let below: String = below.map(|part| part.to_string_lossy() + "/").collect();
            let path = |i| below.clone() + set.relative_path(i).unwrap_or_default();
            paths.extend((0..set.len()).map(path));
        }
        Some((root.to_owned(), paths))
    }

    /// Bytes of the file of image `i`; `None` for images in memory, and if there is no such file.
    pub fn file_bytes(&self, i: usize) -> Option<u64> {
        self.images.file_bytes(self.entry(i).ok()?)
    }
}

//! Images that are files of a folder: lists and class folders.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::header_of;
use super::{Images, Raw};
use crate::decode::DecodeLimits;
use crate::error::{DataError, Result};
use crate::read::{self, MAX_BYTES, open, read_into};

/// Files below a folder.
#[derive(Debug)]
pub(crate) struct Files {
    pub root: PathBuf,
    /// Below `root`, with `/` between the parts.
    pub paths: Vec<String>,
}

impl Files {
    fn path(&self, i: usize) -> PathBuf {
        self.root.join(&self.paths[i])
    }
}

impl Images for Files {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn read<'a>(&'a self, i: usize, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>> {
        let path = self.path(i);
        read_into(&path, buffer).map_err(|e| DataError::io(&path, e))?;
        Ok(Raw::Encoded(buffer))
    }

    fn start<'a>(&'a self, i: usize, length: u64, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>> {
        start(&self.path(i), length, buffer)
    }

    fn origin(&self, i: usize) -> String {
        self.path(i).display().to_string()
    }

    fn key(&self, i: usize) -> Option<&str> {
        Some(&self.paths[i])
    }

    fn root(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn file_bytes(&self, i: usize) -> Option<u64> {
        let metadata = std::fs::metadata(self.path(i)).ok()?;
        metadata.is_file().then_some(metadata.len())
    }

    fn check(&self, i: usize) -> Result<()> {
        let path = self.path(i);
        let not_an_image = |problem: &str| {
            Err(DataError::NotAnImage {
                origin: path.display().to_string(),
                problem: problem.to_owned(),
            })
        };
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(_) if path.is_symlink() => {
                return not_an_image("is a link to a file that is not there");
            }
            Err(error) => return Err(DataError::io(&path, error)),
        };
        if metadata.is_dir() {
            return not_an_image("is a folder, not an image");
        }
        if metadata.len() == 0 && metadata.is_file() {
            return not_an_image("is empty (0 bytes)");
        }
        match read::kind(&metadata) {
            Some(kind) => not_an_image(&format!("is a {kind}, not an image")),
            None => Ok(()),
        }
    }
}

fn start<'a>(path: &Path, length: u64, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>> {
    buffer.clear();
    let file = open(path).map_err(|e| DataError::io(path, e))?;
    file.take(length)
        .read_to_end(buffer)
        .map_err(|e| DataError::io(path, e))?;
    Ok(Raw::Encoded(buffer))
}

/// Width and height of an image file, from its header.
///
/// # Errors
/// Errors of the file, and [`DataError::Decode`] for a header that cannot be read.
pub fn header_size(path: &Path) -> Result<[u32; 2]> {
    let (limits, mut buffer) = (DecodeLimits::default(), Vec::new());
    let (header, _) = header_of(&OneFile(path), 0, &limits, &mut buffer)?;
    Ok(header.size.into())
}

/// A file, whatever its name.
#[derive(Debug)]
struct OneFile<'p>(&'p Path);

impl Images for OneFile<'_> {
    fn len(&self) -> usize {
        1
    }

    fn read<'a>(&'a self, _: usize, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>> {
        start(self.0, MAX_BYTES, buffer)
    }

    fn start<'a>(&'a self, _: usize, length: u64, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>> {
        start(self.0, length, buffer)
    }

    fn origin(&self, _: usize) -> String {
        self.0.display().to_string()
    }
}

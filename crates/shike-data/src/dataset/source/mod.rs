//! Where the images of a data set come from. A new source is one type that implements [`Images`].

mod files;
mod pixels;

use std::fmt;
use std::path::Path;

use image::RgbImage;

pub use self::files::header_size;
pub(super) use self::{files::Files, pixels::Pixels};
#[cfg(doc)]
use crate::decode::decode_rgb;
use crate::decode::header::header_in;
use crate::decode::{DecodeLimits, Decoding, Header, decode_as};
use crate::error::{DataError, Result};
use crate::read::MAX_BYTES;
use crate::scratch;

/// Images by their number, from 0, as they are stored. Methods may panic for a number that is not
/// below [`Images::len`].
pub trait Images: fmt::Debug + Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads image `i`; `buffer` is memory for it, of any content, that is used again.
    ///
    /// # Errors
    /// [`DataError`] that names the image by its [origin](Images::origin).
    fn read<'a>(&'a self, i: usize, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>>;

    /// As [`Images::read`], but no more than the first `length` bytes are needed: a header.
    ///
    /// # Errors
    /// As [`Images::read`].
    fn start<'a>(&'a self, i: usize, length: u64, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>> {
        let _ = length;
        self.read(i, buffer)
    }

    /// Where image `i` comes from, for messages.
    fn origin(&self, i: usize) -> String;

    /// What stands for image `i` in a published list, by which the data set is told from others: the
    /// path below [`Images::root`]. Without one its bytes are hashed.
    fn key(&self, i: usize) -> Option<&str> {
        let _ = i;
        None
    }

    /// The folder that the keys start at, where images are files.
    fn root(&self) -> Option<&Path> {
        None
    }

    /// Width and height, where all images are known to have the same.
    fn size(&self) -> Option<(u32, u32)> {
        None
    }

    /// Bytes of the file of image `i`, where it is one.
    fn file_bytes(&self, i: usize) -> Option<u64> {
        let _ = i;
        None
    }

    /// Looks whether image `i` is there, as far as that costs next to nothing.
    ///
    /// # Errors
    /// Says what is wrong with it.
    fn check(&self, i: usize) -> Result<()> {
        let _ = i;
        Ok(())
    }
}

/// An image as it is stored.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    /// The bytes of a file of one of the [`FORMATS`](crate::decode::FORMATS).
    Encoded(&'a [u8]),
    /// Pixels, `[height, width, 3]`.
    Rgb {
        /// 8 bits a channel, `3 · width · height` bytes: a source that gives others has a bug, and decoding panics.
        pixels: &'a [u8],
        /// Pixels of a row.
        width: u32,
        /// Number of rows.
        height: u32,
    },
}

impl Raw<'_> {
    /// All bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Encoded(bytes) => bytes,
            Self::Rgb { pixels, .. } => pixels,
        }
    }

    /// The pixels, those of a file as `decoding` says; `origin` is the name used in error messages.
    ///
    /// # Errors
    /// Those of [`decode_rgb`].
    pub(crate) fn decode(
        &self,
        origin: &str,
        limits: &DecodeLimits,
        decoding: &Decoding,
    ) -> Result<RgbImage> {
        match *self {
            Self::Encoded(bytes) => decode_as(bytes, origin, limits, decoding),
            Self::Rgb {
                pixels,
                width,
                height,
            } => Ok(RgbImage::from_raw(width, height, scratch::copy(pixels))
                .expect("a source gives as many bytes as it says")),
        }
    }
}

/// As much of a file as holds its header, unless a camera wrote very much before it.
const START: u64 = 64 << 10;

/// As [`header_in`] of image `i` of a source; `buffer` then holds all of its header, and no more of a file is read
/// than that takes. Also whether it is a file.
pub(crate) fn header_of(
    images: &dyn Images,
    i: usize,
    limits: &DecodeLimits,
    buffer: &mut Vec<u8>,
) -> Result<(Header, bool)> {
    let origin = images.origin(i);
    let mut wanted = START;
    loop {
        let bytes = match images.start(i, wanted, buffer)? {
            Raw::Encoded(bytes) => bytes,
            Raw::Rgb { width, height, .. } => {
                let size = (width, height);
                return Ok((
                    Header {
                        size,
                        ..Header::default()
                    },
                    false,
                ));
            }
        };
        let is_all = (bytes.len() as u64) < wanted;
        match header_in(bytes, &origin, limits) {
            Err(DataError::Truncated { .. }) if !is_all && wanted < MAX_BYTES => wanted *= 8,
            header => return header.map(|header| (header, true)),
        }
    }
}

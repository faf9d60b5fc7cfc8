//! Images in memory.

use super::{Images, Raw};
use crate::error::{DataError, Result};

/// Images of one size in memory.
#[derive(Debug)]
pub(crate) struct Pixels {
    /// `[n, height, width, 3]`.
    pixels: Vec<u8>,
    len: usize,
    height: u32,
    width: u32,
    /// (file name, number of its first record) of what they were read from, in ascending order.
    files: Vec<(String, u32)>,
}

impl Pixels {
    /// # Errors
    /// [`DataError::Field`] if these are not the bytes of `len` images.
    pub fn new(
        pixels: Vec<u8>,
        (height, width): (usize, usize),
        len: usize,
        files: Vec<(String, u32)>,
    ) -> Result<Self> {
        let wrong = |field, problem| DataError::field(field, problem);
        let side = |field, n: usize| {
            u32::try_from(n)
                .ok()
                .filter(|&n| n > 0)
                .ok_or_else(|| wrong(field, format!("is {n}, must be 1 or more")))
        };
        let (h, w) = (side("height", height)?, side("width", width)?);
        let want = len
            .checked_mul(3)
            .and_then(|n| n.checked_mul(height)?.checked_mul(width));
        if want != Some(pixels.len()) {
            return Err(wrong(
                "pixels",
                format!(
                    "holds {} bytes, but {len} labels of {height}x{width}x3 need {}",
                    pixels.len(),
                    want.map_or("more than there can be".into(), |n| n.to_string()),
                ),
            ));
        }
        Ok(Self {
            pixels,
            len,
            height: h,
            width: w,
            files,
        })
    }
}

impl Images for Pixels {
    fn len(&self) -> usize {
        self.len
    }

    fn read<'a>(&'a self, i: usize, _: &'a mut Vec<u8>) -> Result<Raw<'a>> {
        let size = self.height as usize * self.width as usize * 3;
        Ok(Raw::Rgb {
            pixels: &self.pixels[i * size..][..size],
            width: self.width,
            height: self.height,
        })
    }

    /// Such as `train.bin record 17`.
    fn origin(&self, i: usize) -> String {
        let before = |(_, first): &(String, u32)| *first as usize <= i;
        let at = self.files.partition_point(before);
        match self.files.get(at.wrapping_sub(1)) {
            Some((name, first)) => format!("{name} record {}", i - *first as usize),
            None => format!("record {i}"),
        }
    }

    fn size(&self) -> Option<(u32, u32)> {
        Some((self.width, self.height))
    }
}

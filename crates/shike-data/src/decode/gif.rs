//! GIF: its blocks, and the pixels of its first frame.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::{ImageDecoder, ImageFormat, Limits, RgbImage};

use super::convert::Rows;
use super::formats::{Header, decode_rows};
use super::limits::{DecodeLimits, Refused, caught};

const EXTENSION: u8 = 0x21;
const FRAME: u8 = 0x2C;
const END: u8 = 0x3B;
/// Extensions: how the next frame is drawn, and what programs add, such as that frames repeat.
const CONTROL: u8 = 0xF9;
const APPLICATION: u8 = 0xFF;

/// A walk from block to block.
struct Blocks<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Blocks<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Refused> {
        let end = self.at + length;
        let taken = self.bytes.get(self.at..end).ok_or(Refused::CutOff)?;
        self.at = end;
        Ok(taken)
    }

    /// Passes by the colours that `flags` announce.
    fn colours(&mut self, flags: u8) -> Result<(), Refused> {
        match flags & 0x80 {
            0 => Ok(()),
            _ => self.take(3 << ((flags & 7) + 1)).map(drop),
        }
    }

    /// The first of some data blocks, behind whose last it goes on.
    fn data(&mut self) -> Result<&'a [u8], Refused> {
        let mut first = None;
        loop {
            let length = self.take(1)?[0];
            let block = self.take(length.into())?;
            first.get_or_insert(block);
            if length == 0 {
                return Ok(first.unwrap_or_default());
            }
        }
    }
}

/// Reads blocks into what is known of a file, up to its end.
///
/// # Errors
/// [`Refused`] for what is cut off, or no GIF from there on.
fn walk(bytes: &[u8], found: &mut Header) -> Result<(), Refused> {
    let mut blocks = Blocks { bytes, at: 6 };
    let screen = blocks.take(7)?;
    let side = |at: usize| u32::from(u16::from_le_bytes([screen[at], screen[at + 1]]));
    found.size = (side(0), side(2));
    blocks.colours(screen[4])?;
    let mut frames = 0;
    loop {
        match blocks.take(1)?[0] {
            EXTENSION => {
                let kind = blocks.take(1)?[0];
                let data = blocks.data()?;
                match kind {
                    CONTROL if frames == 0 => {
                        found.alpha = data.first().is_some_and(|f| f & 1 == 1)
                    }
                    APPLICATION => found.several |= data.starts_with(b"NETSCAPE"),
                    _ => {}
                }
            }
            FRAME => {
                let place = blocks.take(9)?;
                blocks.colours(place[8])?;
                // The size of the first code.
                blocks.take(1)?;
                blocks.data()?;
                frames += 1;
                found.several |= frames > 1;
            }
            END if frames > 0 => return Ok(()),
            END => return Err(damaged("it has no picture")),
            other => return Err(damaged(format!("no block begins with {other:#04X}"))),
        }
    }
}

fn damaged(problem: impl ToString) -> Refused {
    Refused::Damaged(ImageFormat::Gif, problem.to_string())
}

/// Whether there are several frames is told as far as `bytes` reach.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Refused> {
    let mut found = Header::default();
    match (walk(bytes, &mut found), found.size) {
        (Err(Refused::CutOff), (0, 0)) => Err(Refused::CutOff),
        (_, (0, _) | (_, 0)) => Err(damaged("it has no pixels")),
        _ => Ok(found),
    }
}

/// Looks whether all blocks are there.
///
/// # Errors
/// [`Refused`] for what is cut off, damaged or too large.
pub(super) fn check(bytes: &[u8], limits: &DecodeLimits) -> Result<(), Refused> {
    let found = header(bytes)?;
    limits.check(found.size, found.pixels() * 11 + bytes.len() as u64)?;
    walk(bytes, &mut Header::default())
}

/// # Errors
/// [`Refused`] for what is cut off, damaged or too large.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    rows: &dyn Rows,
) -> Result<RgbImage, Refused> {
    check(bytes, limits)?;
    caught(ImageFormat::Gif, || {
        let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
        let mut most = Limits::default();
        // A frame may be larger than the picture.
        most.max_alloc = Some(limits.max_alloc / 3);
        decoder.set_limits(most).map_err(damaged)?;
        decode_rows(decoder, rows).map_err(damaged)
    })
}

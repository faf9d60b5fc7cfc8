//! WebP: what its chunks tell, and its pixels, or those of the first frame.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};

use super::convert::Rows;
use super::formats::{Header, decode_rows};
use super::limits::{DecodeLimits, Refused, caught};

/// Name and body of each chunk, up to the first that is cut off.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let end = end(bytes).unwrap_or(usize::MAX).min(bytes.len());
    let mut rest = bytes.get(12..end).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&[a, b, c, d, w, x, y, z], body) = rest.split_first_chunk::<8>()?;
        let length = u32::from_le_bytes([w, x, y, z]) as usize;
        let (body, behind) = body.split_at_checked(length)?;
        // Odd lengths are filled up.
        rest = behind.get(length % 2..).unwrap_or_default();
        Some(([a, b, c, d], body))
    })
}

/// Where the file ends, by its first chunk.
fn end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(4..8)?.first_chunk::<4>()?;
    (u32::from_le_bytes(*length) as usize).checked_add(8)
}

fn damaged(problem: impl ToString) -> Refused {
    Refused::Damaged(ImageFormat::WebP, problem.to_string())
}

/// The EXIF data of a file.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let (_, exif) = chunks(bytes).find(|(name, _)| name == b"EXIF")?;
    Some(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif))
}

/// # Errors
/// [`Refused::CutOff`] also where the EXIF data, which stand behind the picture, are not in `bytes`.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Refused> {
    let Some(start) = bytes.get(12..30) else {
        return Err(Refused::CutOff);
    };
    let two = |at: usize| u32::from(start[at]) | u32::from(start[at + 1]) << 8;
    let three = |at: usize| two(at) | u32::from(start[at + 2]) << 16;
    let mut found = Header::default();
    match &start[..4] {
        b"VP8 " => found.size = (two(14) & 0x3FFF, two(16) & 0x3FFF),
        b"VP8L" => {
            let bits = two(9) | two(11) << 16;
            found.size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1);
            found.alpha = bits >> 28 & 1 == 1;
        }
        b"VP8X" => {
            let flag = |bit: u8| start[8] >> bit & 1 == 1;
            found.size = (three(12) + 1, three(15) + 1);
            (found.several, found.alpha) = (flag(1), flag(4));
            if flag(3) {
                match exif(bytes) {
                    Some(exif) => found.turn = Orientation::from_exif_chunk(exif),
                    None => is_whole(bytes)?,
                }
            }
        }
        _ => return Err(damaged("its first chunk holds no picture")),
    }
    match found.size {
        (0, _) | (_, 0) => Err(damaged("it has no pixels")),
        _ => Ok(found),
    }
}

/// Looks whether all chunks are there.
fn is_whole(bytes: &[u8]) -> Result<(), Refused> {
    let end = end(bytes).ok_or(Refused::CutOff)?;
    let held = chunks(bytes).map(|(_, body)| 8 + body.len().next_multiple_of(2));
    // A last odd chunk may lack what fills it up.
    match bytes.len() >= end && 12 + held.sum::<usize>() + 1 >= end {
        true => Ok(()),
        false => Err(Refused::CutOff),
    }
}

/// What a whole file says in its header.
///
/// # Errors
/// [`Refused`] for what is cut off or too large.
pub(super) fn check(bytes: &[u8], limits: &DecodeLimits) -> Result<(), Refused> {
    let found = header(bytes)?;
    // Brightness and colours, or four bytes a pixel twice; and what comes out.
    limits.check(found.size, found.pixels() * 12 + bytes.len() as u64)?;
    is_whole(bytes)
}

/// # Errors
/// [`Refused`] for what is cut off, damaged or too large.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    rows: &dyn Rows,
) -> Result<RgbImage, Refused> {
    check(bytes, limits)?;
    caught(ImageFormat::WebP, || {
        let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damaged)?;
        decode_rows(decoder, rows).map_err(damaged)
    })
}

//! PNG, row by row: what a picture takes is its 8-bit pixels and little more.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};
use png::{DecodeOptions, Decoder, InterlaceInfo, Reader, Transformations};

use super::convert::{Depth, Rows};
use super::formats::Header;
use super::limits::{DecodeLimits, Refused, caught};
use crate::scratch;

/// Name and body of each chunk, up to the first that is cut off.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default(); // behind the signature
    std::iter::from_fn(move || {
        let (&[a, b, c, d, name @ ..], body) = rest.split_first_chunk::<8>()?;
        let (body, behind) = body.split_at_checked(u32::from_be_bytes([a, b, c, d]) as usize)?;
        // A checksum follows.
        rest = behind.get(4..)?;
        Some((name, body))
    })
}

/// The EXIF data of a file.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    chunks(bytes).find_map(|(name, body)| (&name == b"eXIf").then_some(body))
}

/// Width and height stand in the first chunk; what else there is, as far as `bytes` reach.
///
/// # Errors
/// [`Refused::CutOff`] if the first chunk is not there.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Refused> {
    let Some(&[w3, w2, w1, w0, h3, h2, h1, h0, bits, colour]) = bytes.get(16..26) else {
        return Err(Refused::CutOff);
    };
    let (width, height) = ([w3, w2, w1, w0], [h3, h2, h1, h0]);
    let mut found = Header {
        size: (u32::from_be_bytes(width), u32::from_be_bytes(height)),
        sixteen_bits: bits == 16,
        alpha: colour & 4 > 0,
        ..Header::default()
    };
    for (name, body) in chunks(bytes) {
        match &name {
            b"tRNS" => found.alpha = true,
            b"acTL" => found.several = true,
            b"eXIf" => found.turn = found.turn.or_else(|| Orientation::from_exif_chunk(body)),
            _ => {}
        }
    }
    Ok(found)
}

/// Looks whether the last chunk is there.
///
/// # Errors
/// [`Refused::CutOff`].
fn is_whole(bytes: &[u8]) -> Result<(), Refused> {
    match chunks(bytes).any(|(name, _)| &name == b"IEND") {
        true => Ok(()),
        false => Err(Refused::CutOff),
    }
}

/// Reads the chunks before the pixels, and the first row, before which the decoder does not look at
/// palettes; and looks whether the last chunk is there.
///
/// # Errors
/// [`Refused`] for what is cut off or damaged there, or too large.
pub(super) fn check(bytes: &[u8], limits: &DecodeLimits) -> Result<(), Refused> {
    within(bytes, limits)?;
    is_whole(bytes)?;
    caught(ImageFormat::Png, || {
        let mut reader = reader(bytes, limits.max_alloc)?;
        reader.next_row().map(drop).map_err(refused)
    })
}

fn reader(bytes: &[u8], max_alloc: u64) -> Result<Reader<Cursor<&[u8]>>, Refused> {
    let mut options = DecodeOptions::default();
    // Of no use here, and a few bytes can be unpacked to gigabytes.
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    // As libpng and Pillow do: a checksum that is wrong tells of damage.
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(png::Limits {
        bytes: usize::try_from(max_alloc).unwrap_or(usize::MAX),
    });
    // Palettes become colours, and fewer bits than 8 become 8.
    decoder.set_transformations(Transformations::EXPAND);
    decoder.read_info().map_err(refused)
}

fn refused(error: png::DecodingError) -> Refused {
    Refused::Damaged(ImageFormat::Png, error.to_string())
}

/// What [`decode`] takes at most, if that is within the limits.
fn within(bytes: &[u8], limits: &DecodeLimits) -> Result<u64, Refused> {
    let found = header(bytes)?;
    // Few rows at a time, as they are stored and as they come out, of at most eight bytes a pixel.
    let lines = 4 * 8 * u64::from(found.size.0);
    let pixels = found.pixels().saturating_mul(3);
    let needed = pixels.saturating_add(lines + bytes.len() as u64);
    limits.check(found.size, needed)?;
    Ok(needed)
}

/// # Errors
/// [`Refused`] for what is cut off, damaged or too large.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    rows: &dyn Rows,
) -> Result<RgbImage, Refused> {
    let needed = within(bytes, limits)?;
    is_whole(bytes)?;
    caught(ImageFormat::Png, || {
        decode_all(bytes, limits.max_alloc - needed, rows)
    })
}

fn decode_all(bytes: &[u8], max_alloc: u64, rows: &dyn Rows) -> Result<RgbImage, Refused> {
    let mut reader = reader(bytes, max_alloc)?;
    let (width, height) = reader.info().size();
    let (colour, depth) = reader.output_color_type();
    let samples = colour.samples();
    let (depth, size) = match depth {
        png::BitDepth::Sixteen => (Depth::Sixteen(u16::from_be_bytes), 2),
        _ => (Depth::Eight, 1),
    };
    let mut image = scratch::black(width, height);
    let stride = width as usize * 3;
    let mut line = vec![0; stride];
    let mut y = 0;
    while let Some(row) = reader.next_interlaced_row().map_err(refused)? {
        if let InterlaceInfo::Adam7(place) = *row.interlace() {
            let bytes = row.data().len() / samples / size * 3;
            rows.row(row.data(), samples, depth, &mut line[..bytes]);
            png::expand_interlaced_row(&mut image, stride, &line[..bytes], &place, 24);
        } else if let Some(line) = image.get_mut(y * stride..(y + 1) * stride) {
            rows.row(row.data(), samples, depth, line);
            y += 1;
        }
    }
    Ok(image)
}

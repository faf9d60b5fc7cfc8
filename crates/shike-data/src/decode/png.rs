//! PNG, row by row: what a picture takes is its 8-bit pixels and little more.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};
use png::{DecodeOptions, Decoder, InterlaceInfo, Reader, Transformations};

use super::limits::{DecodeLimits, Refused, caught};
use crate::scratch;

/// Width and height, which stand in the first chunk.
///
/// # Errors
/// [`Refused::CutOff`] if they are not there.
pub(crate) fn size(bytes: &[u8]) -> Result<(u32, u32), Refused> {
    let Some(&[w3, w2, w1, w0, h3, h2, h1, h0]) = bytes.get(16..24) else {
        return Err(Refused::CutOff);
    };
    let (width, height) = ([w3, w2, w1, w0], [h3, h2, h1, h0]);
    Ok((u32::from_be_bytes(width), u32::from_be_bytes(height)))
}

/// Whether a channel has 16 bits, by the header.
pub(crate) fn is_sixteen_bits(bytes: &[u8]) -> bool {
    bytes.get(24) == Some(&16)
}

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
pub(crate) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    chunks(bytes).find_map(|(name, body)| (&name == b"eXIf").then_some(body))
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
/// [`Refused`] for what is cut off or damaged there.
pub(crate) fn check(bytes: &[u8], limits: &DecodeLimits) -> Result<(), Refused> {
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

/// What [`decode`] takes at most for a picture of this size, besides the bytes of the file.
pub(crate) fn needed_bytes((width, height): (u32, u32)) -> u64 {
    // Few rows at a time, as they are stored and as they come out, of at most eight bytes a pixel.
    let rows = 4 * 8 * u64::from(width);
    (u64::from(width) * u64::from(height))
        .saturating_mul(3)
        .saturating_add(rows)
}

/// Decodes a PNG, with at most `max_alloc` bytes for what is not pixels.
///
/// # Errors
/// [`Refused`] for what is cut off or damaged.
pub(crate) fn decode(bytes: &[u8], max_alloc: u64) -> Result<RgbImage, Refused> {
    is_whole(bytes)?;
    caught(ImageFormat::Png, || decode_all(bytes, max_alloc))
}

fn decode_all(bytes: &[u8], max_alloc: u64) -> Result<RgbImage, Refused> {
    let mut reader = reader(bytes, max_alloc)?;
    let (width, height) = reader.info().size();
    let (colour, depth) = reader.output_color_type();
    let (samples, deep) = (colour.samples(), depth == png::BitDepth::Sixteen);
    let mut image = scratch::black(width, height);
    let stride = width as usize * 3;
    let mut line = vec![0; stride];
    let mut y = 0;
    while let Some(row) = reader.next_interlaced_row().map_err(refused)? {
        if let InterlaceInfo::Adam7(place) = *row.interlace() {
            let bytes = row.data().len() / samples / (1 + usize::from(deep)) * 3;
            to_rgb(row.data(), samples, deep, &mut line[..bytes]);
            png::expand_interlaced_row(&mut image, stride, &line[..bytes], &place, 24);
        } else if let Some(line) = image.get_mut(y * stride..(y + 1) * stride) {
            to_rgb(row.data(), samples, deep, line);
            y += 1;
        }
    }
    Ok(image)
}

/// Drops alpha, repeats grey, and rounds 16 bits to 8.
fn to_rgb(row: &[u8], samples: usize, deep: bool, out: &mut [u8]) {
    let rounded = |value: &[u8]| {
        let value = u32::from(u16::from_be_bytes([value[0], value[1]]));
        ((value + 128) / 257) as u8
    };
    let out = out.chunks_exact_mut(3);
    match (samples, deep) {
        (1 | 2, false) => {
            for (to, from) in out.zip(row.chunks_exact(samples)) {
                to.fill(from[0]);
            }
        }
        (1 | 2, true) => {
            for (to, from) in out.zip(row.chunks_exact(2 * samples)) {
                to.fill(rounded(from));
            }
        }
        (_, false) => {
            for (to, from) in out.zip(row.chunks_exact(samples)) {
                to.copy_from_slice(&from[..3]);
            }
        }
        (_, true) => {
            for (to, from) in out.zip(row.chunks_exact(2 * samples)) {
                to.copy_from_slice(&[rounded(from), rounded(&from[2..]), rounded(&from[4..])]);
            }
        }
    }
}

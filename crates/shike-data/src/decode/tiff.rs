//! TIFF 6.0: its first page, of 1, 2, 4, 8 or 16 bits a sample, uncompressed or packed without loss.
//!
//! A file is a list of pages. A page is a table of tags, of which some say where its parts lie: strips of rows,
//! or tiles. It is read here: all that the crates do beyond this would have to be refused, such as JPEG within.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use flate2::read::ZlibDecoder;
use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};
use weezl::BitOrder;

use super::convert::{Depth, Rows, by_255, unmultiply};
use super::formats::Header;
use super::limits::{DecodeLimits, Refused, caught};
use crate::scratch;

const CURE: &str =
    "save it again as a TIFF of 8 or 16 bits, grey or RGB, uncompressed or with LZW or Deflate";

fn other(what: &str) -> Refused {
    Refused::Kind(format!("is a TIFF {what}, which is not read: {CURE}"))
}

fn damaged(problem: &str) -> Refused {
    Refused::Damaged(ImageFormat::Tiff, problem.into())
}

/// Tags of a page.
mod tag {
    pub const WIDTH: u16 = 256;
    pub const HEIGHT: u16 = 257;
    pub const BITS: u16 = 258;
    pub const COMPRESSION: u16 = 259;
    pub const MEANING: u16 = 262;
    pub const STRIPS: u16 = 273;
    pub const ORIENTATION: u16 = 274;
    pub const SAMPLES: u16 = 277;
    pub const STRIP_ROWS: u16 = 278;
    pub const STRIP_BYTES: u16 = 279;
    pub const PLANES: u16 = 284;
    pub const PREDICTOR: u16 = 317;
    pub const COLOURS: u16 = 320;
    pub const TILE_WIDTH: u16 = 322;
    pub const TILE_HEIGHT: u16 = 323;
    pub const TILES: u16 = 324;
    pub const TILE_BYTES: u16 = 325;
    pub const EXTRA: u16 = 338;
    pub const NUMBERS: u16 = 339;
}

/// A file, and the order of its bytes.
#[derive(Clone, Copy)]
struct File<'a> {
    bytes: &'a [u8],
    little: bool,
}

impl File<'_> {
    fn two(&self, at: usize) -> Result<u16, Refused> {
        let end = at.checked_add(2).ok_or(Refused::CutOff)?;
        let two = self.bytes.get(at..end).ok_or(Refused::CutOff)?;
        let two = [two[0], two[1]];
        Ok(match self.little {
            true => u16::from_le_bytes(two),
            false => u16::from_be_bytes(two),
        })
    }

    fn four(&self, at: usize) -> Result<u32, Refused> {
        let (first, second) = (u32::from(self.two(at)?), u32::from(self.two(at + 2)?));
        Ok(match self.little {
            true => first | second << 16,
            false => first << 16 | second,
        })
    }

    /// The whole numbers of each tag of the page at this place, and the place of the next one.
    fn page(&self, at: u32) -> Result<(Tags, u32), Refused> {
        let at = at as usize;
        let (mut tags, entries) = (Tags::new(), usize::from(self.two(at)?));
        for entry in (0..entries).map(|i| at + 2 + 12 * i) {
            let (tag, kind) = (self.two(entry)?, self.two(entry + 2)?);
            let count = self.four(entry + 4)? as usize;
            // Bytes, and whole numbers of two and four of them.
            let size = match kind {
                1 => 1,
                3 => 2,
                4 => 4,
                _ => continue,
            };
            let length = count.checked_mul(size).ok_or(Refused::CutOff)?;
            let start = match length <= 4 {
                true => entry + 8,
                false => self.four(entry + 8)? as usize,
            };
            let end = start.checked_add(length).ok_or(Refused::CutOff)?;
            if self.bytes.get(start..end).is_none() {
                return Err(Refused::CutOff);
            }
            let value = |i: usize| match size {
                1 => Ok(self.bytes[start + i].into()),
                2 => self.two(start + 2 * i).map(u32::from),
                _ => self.four(start + 4 * i),
            };
            let values = (0..count).map(value).collect::<Result<_, _>>()?;
            tags.insert(tag, values);
        }
        Ok((tags, self.four(at + 2 + 12 * entries)?))
    }
}

type Tags = BTreeMap<u16, Vec<u32>>;

/// What a page is.
struct Page {
    header: Header,
    tags: Tags,
    bits: usize,
    /// Of a pixel; and as many as are stored together.
    samples: usize,
    together: usize,
    little: bool,
    /// Size of a part; strips are as wide as the page.
    part: (u32, u32),
    /// Where the parts lie, plane after plane.
    parts: Vec<Range<usize>>,
}

/// What samples mean.
const WHITE_IS_ZERO: u32 = 0;
const GREY: u32 = 1;
const RGB: u32 = 2;
const PALETTE: u32 = 3;
const INKS: u32 = 5;

impl Page {
    /// The first page.
    ///
    /// # Errors
    /// [`Refused::CutOff`] if its tags are not in `bytes`, and for what makes no sense.
    fn first(bytes: &[u8]) -> Result<Self, Refused> {
        let file = File {
            bytes,
            little: bytes.starts_with(b"II"),
        };
        let (tags, next) = file.page(file.four(4)?)?;
        let one = |tag: u16, default: u32| match tags.get(&tag).map(Vec::as_slice) {
            None => Ok(default),
            Some([value, ..]) => Ok(*value),
            Some([]) => Err(damaged("a tag has no value")),
        };
        let size = (one(tag::WIDTH, 0)?, one(tag::HEIGHT, 0)?);
        if size.0 == 0 || size.1 == 0 {
            return Err(damaged("it has no pixels"));
        }
        let bits = one(tag::BITS, 1)?;
        if tags
            .get(&tag::BITS)
            .is_some_and(|all| all.iter().any(|b| *b != bits))
        {
            return Err(other("of several numbers of bits"));
        }
        let samples = one(tag::SAMPLES, 1)? as usize;
        let meaning = one(tag::MEANING, GREY)?;
        let alpha = matches!((meaning, samples), (GREY, 2) | (RGB, 4));
        let strips = !tags.contains_key(&tag::TILES);
        let (offsets, lengths, part) = match strips {
            true => {
                let rows = one(tag::STRIP_ROWS, u32::MAX)?.min(size.1);
                (tag::STRIPS, tag::STRIP_BYTES, (size.0, rows))
            }
            false => {
                let part = (one(tag::TILE_WIDTH, 0)?, one(tag::TILE_HEIGHT, 0)?);
                (tag::TILES, tag::TILE_BYTES, part)
            }
        };
        let list = |tag: u16| tags.get(&tag).map_or(&[][..], Vec::as_slice);
        let parts = list(offsets).iter().zip(list(lengths));
        let parts =
            parts.map(|(&offset, &length)| offset as usize..offset as usize + length as usize);
        Ok(Self {
            header: Header {
                size,
                sixteen_bits: bits == 16,
                alpha,
                several: next != 0,
                turn: Orientation::from_exif(one(tag::ORIENTATION, 1)?.min(255) as u8),
            },
            bits: bits as usize,
            samples,
            together: match one(tag::PLANES, 1)? {
                2 => 1,
                _ => samples,
            },
            little: file.little,
            part,
            parts: parts.collect(),
            tags,
        })
    }

    /// The first value of a tag, 1 where there is none: the usual of each that is asked for.
    fn one(&self, tag: u16) -> u32 {
        self.tags
            .get(&tag)
            .and_then(|values| values.first())
            .copied()
            .unwrap_or(1)
    }

    /// Bytes of a row of so many pixels in one plane.
    fn row(&self, width: u32) -> usize {
        (width as usize * self.together * self.bits).div_ceil(8)
    }

    fn planes(&self) -> usize {
        self.samples / self.together
    }

    /// Columns and rows of parts.
    fn grid(&self) -> (usize, usize) {
        let (width, height) = self.header.size;
        let columns = width.div_ceil(self.part.0.max(1));
        (
            columns as usize,
            height.div_ceil(self.part.1.max(1)) as usize,
        )
    }

    /// Looks whether it is of a kind that is read, within the limits, and whole.
    fn check(&self, bytes: usize, limits: &DecodeLimits) -> Result<(), Refused> {
        limits.check(self.header.size, 0)?;
        let meaning = self.one(tag::MEANING);
        match (meaning, self.samples, self.bits) {
            (WHITE_IS_ZERO | GREY, 1, 1 | 2 | 4 | 8 | 16)
            | (GREY, 2, 8 | 16)
            | (RGB, 3 | 4, 8 | 16)
            | (PALETTE, 1, 1 | 2 | 4 | 8)
            | (INKS, 4, 8) => {}
            _ => {
                return Err(other(&format!(
                    "of {} samples of {} bits that mean {meaning}",
                    self.samples, self.bits
                )));
            }
        }
        if self.one(tag::NUMBERS) != 1 {
            return Err(other("of signed or floating-point numbers"));
        }
        if !matches!(self.one(tag::COMPRESSION), 1 | 5 | 8 | 32_773 | 32_946) {
            let compression = self.one(tag::COMPRESSION);
            return Err(other(&format!("of the compression {compression}")));
        }
        let predictor = self.one(tag::PREDICTOR);
        if predictor > 2 || (predictor == 2 && self.bits < 8) {
            return Err(other(&format!("of the predictor {predictor}")));
        }
        if self.part.0 == 0 || self.part.1 == 0 {
            return Err(damaged("its parts have no size"));
        }
        let (width, height) = self.header.size;
        let stored = self.row(width) as u64 * u64::from(height) * self.planes() as u64;
        let part = self.row(self.part.0) as u64 * u64::from(self.part.1);
        // What comes out, what is stored, a part of it, and the file.
        let needed = 3 * self.header.pixels() + stored;
        limits.check(self.header.size, needed.saturating_add(part) + bytes as u64)?;
        let (columns, rows) = self.grid();
        if self.parts.len() < columns * rows * self.planes() {
            return Err(damaged("some of its parts are missing"));
        }
        match self.parts.iter().any(|part| part.end > bytes) {
            true => Err(Refused::CutOff),
            false => Ok(()),
        }
    }

    /// All rows of each plane, unpacked.
    fn unpacked(&self, bytes: &[u8]) -> Result<Vec<u8>, Refused> {
        let (width, height) = self.header.size;
        let (row, part_row) = (self.row(width), self.row(self.part.0));
        let plane = row * height as usize;
        let mut stored = scratch::buffer();
        stored.resize(plane * self.planes(), 0);
        let (columns, rows) = self.grid();
        let mut part = Vec::new();
        for (i, range) in self
            .parts
            .iter()
            .take(columns * rows * self.planes())
            .enumerate()
        {
            let (place, of_plane) = (i % (columns * rows), i / (columns * rows));
            let (top, left) = (
                place / columns * self.part.1 as usize,
                place % columns * part_row,
            );
            // Tiles are whole, the last strip ends with the page.
            let lines = match self.tags.contains_key(&tag::TILES) {
                true => self.part.1 as usize,
                false => (self.part.1 as usize).min(height as usize - top),
            };
            let packed = bytes.get(range.clone()).ok_or(Refused::CutOff)?;
            part.clear();
            part.resize(part_row * lines, 0);
            unpack(packed, self.one(tag::COMPRESSION), &mut part)?;
            if self.one(tag::PREDICTOR) == 2 {
                part.chunks_exact_mut(part_row)
                    .for_each(|row| self.add_up(row));
            }
            let wanted = part_row.min(row - left);
            for (y, line) in part
                .chunks_exact(part_row)
                .enumerate()
                .take(height as usize - top)
            {
                let at = of_plane * plane + (top + y) * row + left;
                stored[at..at + wanted].copy_from_slice(&line[..wanted]);
            }
        }
        if self.one(tag::MEANING) == WHITE_IS_ZERO {
            stored.iter_mut().for_each(|byte| *byte = !*byte);
        }
        Ok(stored)
    }

    /// Each sample is stored as the difference from that on its left.
    fn add_up(&self, row: &mut [u8]) {
        if self.bits == 8 {
            for i in self.together..row.len() {
                row[i] = row[i].wrapping_add(row[i - self.together]);
            }
            return;
        }
        let read = |two: [u8; 2]| match self.little {
            true => u16::from_le_bytes(two),
            false => u16::from_be_bytes(two),
        };
        let write = |value: u16| match self.little {
            true => value.to_le_bytes(),
            false => value.to_be_bytes(),
        };
        let before = 2 * self.together;
        for i in (before..row.len()).step_by(2) {
            let left = read([row[i - before], row[i - before + 1]]);
            let sum = read([row[i], row[i + 1]]).wrapping_add(left);
            row[i..i + 2].copy_from_slice(&write(sum));
        }
    }
}

/// Unpacks a part, of which there are as many bytes as in `out`.
fn unpack(packed: &[u8], compression: u32, out: &mut [u8]) -> Result<(), Refused> {
    let short = || damaged("a part of it ends before its rows do, or makes no sense");
    match compression {
        1 => out.copy_from_slice(packed.get(..out.len()).ok_or_else(short)?),
        5 => {
            let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8);
            let (mut packed, mut done) = (packed, 0);
            while done < out.len() {
                let step = decoder.decode_bytes(packed, &mut out[done..]);
                packed = &packed[step.consumed_in..];
                done += step.consumed_out;
                if step.status.is_err() || (step.consumed_in == 0 && step.consumed_out == 0) {
                    return Err(short());
                }
            }
        }
        32_773 => unpack_bits(packed, out).ok_or_else(short)?,
        _ => ZlibDecoder::new(packed)
            .read_exact(out)
            .map_err(|_| short())?,
    }
    Ok(())
}

/// PackBits: bytes as they are, or one that is repeated.
fn unpack_bits(mut packed: &[u8], mut out: &mut [u8]) -> Option<()> {
    while !out.is_empty() {
        let (&count, rest) = packed.split_first()?;
        let count = i8::from_ne_bytes([count]);
        if count == i8::MIN {
            packed = rest;
            continue;
        }
        let length = usize::from(count.unsigned_abs()) + 1;
        let (to, behind) = std::mem::take(&mut out).split_at_mut_checked(length)?;
        if count >= 0 {
            let (from, rest) = rest.split_at_checked(length)?;
            to.copy_from_slice(from);
            packed = rest;
        } else {
            let (&value, rest) = rest.split_first()?;
            to.fill(value);
            packed = rest;
        }
        out = behind;
    }
    Some(())
}

/// # Errors
/// [`Refused::CutOff`] also where the tags, which may stand at the end, are not in `bytes`.
pub(super) fn header(bytes: &[u8]) -> Result<Header, Refused> {
    Page::first(bytes).map(|page| page.header)
}

/// Looks at the tags, and whether all parts are there, those of later pages too.
///
/// # Errors
/// [`Refused`] for what is cut off, of another kind or too large.
pub(super) fn check(bytes: &[u8], limits: &DecodeLimits) -> Result<(), Refused> {
    whole(bytes, limits).map(drop)
}

fn whole(bytes: &[u8], limits: &DecodeLimits) -> Result<Page, Refused> {
    let page = Page::first(bytes)?;
    page.check(bytes.len(), limits)?;
    let file = File {
        bytes,
        little: page.little,
    };
    let (mut at, mut pages) = (file.four(4)?, 0);
    while at != 0 {
        let (tags, next) = file.page(at)?;
        for (offsets, lengths) in [
            (tag::STRIPS, tag::STRIP_BYTES),
            (tag::TILES, tag::TILE_BYTES),
        ] {
            let list = |tag: u16| tags.get(&tag).into_iter().flatten().map(|&n| u64::from(n));
            let mut ends = list(offsets)
                .zip(list(lengths))
                .map(|(offset, length)| offset + length);
            if ends.any(|end| end > bytes.len() as u64) {
                return Err(Refused::CutOff);
            }
        }
        pages += 1;
        // A loop, or a film.
        at = if pages < MOST_PAGES { next } else { 0 };
    }
    Ok(page)
}

/// Pages that are looked at.
const MOST_PAGES: usize = 1000;

/// # Errors
/// [`Refused`] for what is cut off, damaged, of another kind or too large.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    rows: &dyn Rows,
) -> Result<RgbImage, Refused> {
    caught(ImageFormat::Tiff, || {
        let page = whole(bytes, limits)?;
        let mut stored = page.unpacked(bytes)?;
        let image = page.to_rgb(&mut stored, rows);
        scratch::keep(stored);
        image
    })
}

impl Page {
    fn to_rgb(&self, stored: &mut [u8], rows: &dyn Rows) -> Result<RgbImage, Refused> {
        let (width, height) = self.header.size;
        let (stride, samples) = (self.row(width), self.samples);
        let depth = match (self.bits, self.little) {
            (16, true) => Depth::Sixteen(u16::from_le_bytes),
            (16, false) => Depth::Sixteen(u16::from_be_bytes),
            _ => Depth::Eight,
        };
        let colours = self.tags.get(&tag::COLOURS);
        let multiplied =
            self.header.alpha && self.tags.get(&tag::EXTRA).is_some_and(|e| e[..] == [1]);
        let plane = stride * height as usize;
        let mut image = scratch::black(width, height);
        let out = image.chunks_exact_mut(width as usize * 3);
        let (mut line, sample) = (Vec::new(), self.bits.div_ceil(8));
        for (y, out) in out.enumerate() {
            let mut row = &stored[y * stride..][..stride];
            if self.planes() > 1 {
                line.clear();
                for at in (y * stride..).step_by(sample).take(width as usize) {
                    for place in (at..).step_by(plane).take(samples) {
                        line.extend_from_slice(&stored[place..place + sample]);
                    }
                }
                row = &line;
            }
            match self.one(tag::MEANING) {
                PALETTE => of_palette(row, self.bits, colours, out)?,
                INKS => of_inks(row, out),
                _ if self.bits < 8 => {
                    let most = (1 << self.bits) - 1;
                    for (to, grey) in out.chunks_exact_mut(3).zip(numbers(row, self.bits)) {
                        to.fill((u32::from(grey) * 255 / most) as u8);
                    }
                }
                _ if multiplied => {
                    let mut row = row.to_vec();
                    unmultiply(&mut row, samples, depth);
                    rows.row(&row, samples, depth, out);
                }
                _ => rows.row(row, samples, depth, out),
            }
        }
        Ok(image)
    }
}

/// Numbers of 1, 2, 4 or 8 bits, packed into bytes.
fn numbers(row: &[u8], bits: usize) -> impl Iterator<Item = u8> {
    let most = u8::MAX >> (8 - bits);
    let in_byte = move |byte: &u8| {
        let byte = *byte;
        (0..8 / bits).rev().map(move |i| byte >> (i * bits) & most)
    };
    row.iter().flat_map(in_byte)
}

/// Looks up colours: all reds of the palette, then all greens and all blues, of 16 bits.
fn of_palette(
    row: &[u8],
    bits: usize,
    colours: Option<&Vec<u32>>,
    out: &mut [u8],
) -> Result<(), Refused> {
    let size = 1 << bits;
    let colours = colours.filter(|colours| colours.len() == 3 * size);
    let colours = colours.ok_or_else(|| damaged("its palette is missing, or of another size"))?;
    for (to, number) in out.chunks_exact_mut(3).zip(numbers(row, bits)) {
        for (c, to) in to.iter_mut().enumerate() {
            *to = (colours[c * size + usize::from(number)] >> 8) as u8;
        }
    }
    Ok(())
}

/// Cyan, magenta, yellow and black to RGB, as Pillow does it.
fn of_inks(row: &[u8], out: &mut [u8]) {
    for (to, inks) in out.chunks_exact_mut(3).zip(row.chunks_exact(4)) {
        let light = 255 - inks[3];
        for (to, ink) in to.iter_mut().zip(inks) {
            *to = light - by_255(u32::from(*ink) * u32::from(light));
        }
    }
}

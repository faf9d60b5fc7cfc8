//! JPEG: what its markers tell before it is decoded, and its pixels.
//!
//! zune-jpeg decodes without a word what it cannot decode rightly, and fills what is missing. So the
//! markers are read here first, to the end of the file: what they show to be damaged, or of a kind
//! that the decoder gets wrong, is refused.

use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};
use memchr::memchr;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::bytes::Bytes;
use super::formats::Header;
use super::limits::{DecodeLimits, Refused, caught};
use crate::scratch;

/// What the markers of a JPEG say that [`decode`] takes: 8 bits, Huffman codes, and one, three or four
/// components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// 1 grey, 3 colours, 4 inks.
    pub(crate) components: u8,
    progressive: bool,
    /// Where the two bytes of the height stand.
    height_at: usize,
    /// Rows of a unit of the code: 8 for each vertical sample.
    unit_rows: u32,
    /// Units of all components.
    units: u64,
    scans: u32,
    /// Where the codes of the last scan end.
    end: usize,
    /// A place, and the byte that makes the decoder see there what libjpeg does.
    patch: Option<(usize, u8)>,
}

impl Frame {
    fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }

    /// Most bytes that a pixel takes while it is decoded: four come out, and a progressive file
    /// keeps the coefficients.
    pub(crate) fn bytes_a_pixel(&self) -> u64 {
        match self.progressive {
            true => 4 + 2 * u64::from(self.components),
            false => 4,
        }
    }

    /// Puts ones between the codes of the last scan and the end of the picture, and drops what follows
    /// that. No code consists of ones alone, so a picture whose codes do not suffice is an error;
    /// without them the decoder reads zeros, which mean a grey rest.
    fn guard(&self, bytes: &mut Vec<u8>) {
        bytes.truncate(self.end);
        // The decoder wants the next marker right behind the first scan of a progressive picture.
        if !self.progressive || self.scans > 1 {
            bytes.extend(GUARD);
        }
        bytes.extend([0xFF, EOI]);
        if let Some((at, byte)) = self.patch {
            bytes[at] = byte;
        }
    }
}

/// Stuffed bytes of ones: more than the correction bits that any block reads before its next code.
const GUARD: [u8; 512] = {
    let mut ones = [0; 512];
    let mut i = 0;
    while i < ones.len() {
        ones[i] = 0xFF;
        i += 2;
    }
    ones
};

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SCAN: u8 = 0xDA;
const RESTART_INTERVAL: u8 = 0xDD;
const JFIF: u8 = 0xE0;
const EXIF: u8 = 0xE1;
const ADOBE: u8 = 0xEE;
const COMMENT: u8 = 0xFE;

/// A marker and what belongs to it.
struct Segment<'a> {
    marker: u8,
    body: &'a [u8],
    /// Where the marker stands.
    at: usize,
}

/// The markers of a file, up to the first that is cut off. Entropy-coded data and stray bytes between
/// the markers are skipped, and so are pictures within segments: a thumbnail has an end of its own.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        loop {
            self.at += memchr(0xFF, self.bytes.get(self.at..)?)? + 1;
            let marker = *self.bytes.get(self.at)?;
            let at = self.at - 1;
            match marker {
                // 0xFF may fill up before a marker: the same place is looked at again.
                0xFF => {}
                // A stuffed zero.
                0x00 => self.at += 1,
                0x01 | 0xD0..=EOI => {
                    self.at += 1;
                    let body = &[];
                    return Some(Segment { marker, body, at });
                }
                _ => {
                    let length = self.bytes.get(self.at + 1..self.at + 3)?;
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                    let body = self.bytes.get(self.at + 3..self.at + 1 + length)?;
                    self.at += 1 + length;
                    return Some(Segment { marker, body, at });
                }
            }
        }
    }
}

fn segments(bytes: &[u8]) -> Segments<'_> {
    Segments { bytes, at: 2 } // behind the start-of-image marker
}

/// The EXIF data of a file.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    segments(bytes)
        .take_while(|segment| segment.marker != SCAN)
        .filter(|segment| segment.marker == EXIF)
        .find_map(|segment| segment.body.strip_prefix(b"Exif\0\0"))
}

/// How the EXIF data say that the picture is turned.
pub(crate) fn turn(bytes: &[u8]) -> Option<Orientation> {
    exif(bytes).and_then(Orientation::from_exif_chunk)
}

/// What the markers up to the first scan tell.
///
/// # Errors
/// As [`header`].
pub(super) fn header_of(bytes: &[u8]) -> Result<Header, Refused> {
    let frame = header(bytes)?;
    Ok(Header {
        size: (frame.width, frame.height),
        turn: turn(bytes),
        ..Header::default()
    })
}

/// Reads all markers of a JPEG that is within the limits.
///
/// # Errors
/// As [`frame`].
pub(crate) fn frame_within(bytes: &[u8], limits: &DecodeLimits) -> Result<Frame, Refused> {
    let header = header(bytes)?;
    let pixels = u64::from(header.width) * u64::from(header.height);
    // The file, a copy that is decoded, and what the decoder keeps of profiles and comments.
    let file = 3 * bytes.len() as u64;
    let size = (header.width, header.height);
    limits.check(size, pixels * header.bytes_a_pixel() + file)?;
    frame(bytes)
}

/// # Errors
/// As [`frame_within`].
pub(super) fn check(bytes: &[u8], limits: &DecodeLimits) -> Result<(), Refused> {
    frame_within(bytes, limits).map(drop)
}

/// # Errors
/// As [`frame_within`] and [`decode`].
pub(super) fn to_rgb(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, Refused> {
    let frame = frame_within(bytes, limits)?;
    let mut pixels = scratch::black(frame.width, frame.height);
    let mut file = scratch::copy(bytes);
    let decoded = decode(&mut file, &frame, ColorSpace::RGB, &mut pixels);
    scratch::keep(file);
    decoded.map(|()| pixels)
}

/// Reads the markers up to the first scan, whose codes need not be there.
///
/// # Errors
/// As [`frame`]; [`Refused::CutOff`] also if `bytes` do not suffice.
fn header(bytes: &[u8]) -> Result<Frame, Refused> {
    read(bytes, true)
}

/// Reads all markers.
///
/// # Errors
/// [`Refused`] for what is cut off, or damaged as far as markers tell, or of another kind than
/// [`decode`] takes.
fn frame(bytes: &[u8]) -> Result<Frame, Refused> {
    read(bytes, false)
}

fn read(bytes: &[u8], header_only: bool) -> Result<Frame, Refused> {
    let mut markers = Markers::default();
    for Segment { marker, body, at } in segments(bytes) {
        if matches!(marker, 0xD0..=0xD7) {
            markers.restart(marker)?;
            continue;
        }
        markers.end_of_scan(at)?;
        match marker {
            0xC0..=0xC2 => markers.frame(marker == 0xC2, body, at)?,
            0xC4 => markers.tables(body),
            0xC3 | 0xC5..=0xC7 | 0xDE | 0xDF => {
                return Err(other("is a lossless or hierarchical JPEG", DECODE));
            }
            0xC9..=0xCF => return Err(other("is an arithmetic-coded JPEG", RECODE)),
            SCAN => {
                markers.scan(body, at + 4 + body.len())?;
                if header_only {
                    return markers.found();
                }
            }
            EOI => {
                markers.all_is_sent()?;
                return markers.found();
            }
            RESTART_INTERVAL => match *body {
                [high, low] => markers.interval = u16::from_be_bytes([high, low]),
                _ => return Err(damaged("its restart interval is of the wrong length")),
            },
            JFIF => markers.jfif |= body.starts_with(b"JFIF\0"),
            ADOBE if body.starts_with(b"Adobe") => match body.get(11) {
                Some(&transform) => markers.adobe = Some((at + 4 + 11, transform)),
                // Too short to say anything.
                None => markers.patch = Some((at + 1, COMMENT)),
            },
            // Quantisation, applications' data, comments.
            0x01 | 0xDB | 0xDC | 0xE0..=0xEF | COMMENT => {}
            SOI => return Err(damaged("it starts twice")),
            _ => return Err(damaged(format!("the marker FF{marker:02X} does not exist"))),
        }
    }
    Err(Refused::CutOff)
}

const RESTART_MISSING: &str = "a restart marker is missing, and with it a part of the picture";
const RECODE: &str = "rewrite it without loss, as with `jpegtran -copy all`";
const DECODE: &str = "save it again as an ordinary JPEG or a PNG";

fn other(what: &str, cure: &str) -> Refused {
    Refused::Kind(format!("{what}, which is not read: {cure}"))
}

fn damaged(problem: impl Into<String>) -> Refused {
    Refused::Damaged(ImageFormat::Jpeg, problem.into())
}

/// What was found so far.
#[derive(Default)]
struct Markers {
    frame: Option<Frame>,
    components: Vec<Component>,
    /// A bit for each Huffman table that is there: 0 to 15 for the means of blocks (DC), 16 to 31 for
    /// the rest (AC).
    tables: u32,
    scan: Option<Scan>,
    /// Units of the code between two restart markers; 0 where there are none.
    interval: u16,
    jfif: bool,
    /// Where an Adobe marker tells the transform of the colours, and which: 0 none, 1 YCbCr, 2 YCCK.
    adobe: Option<(usize, u8)>,
    patch: Option<(usize, u8)>,
}

struct Component {
    id: u8,
    /// Its blocks in a unit of all components.
    samples: u8,
    /// Blocks without those that only fill up a unit.
    blocks: u64,
    /// Of a progressive picture: how many low bits of each coefficient are still to come; `ALL`
    /// before the first.
    missing: [u8; 64],
}

const ALL: u8 = u8::MAX;

/// A scan whose codes follow.
struct Scan {
    start: usize,
    /// The codes have no fewer bits.
    bits: u64,
    restarts: u64,
    /// Restart markers that belong between its units.
    expected: u64,
}

impl Markers {
    fn found(&self) -> Result<Frame, Refused> {
        match self.frame {
            Some(frame) if frame.scans > 0 => Ok(Frame {
                patch: self.patch,
                ..frame
            }),
            _ => Err(Refused::CutOff),
        }
    }

    fn frame(&mut self, progressive: bool, body: &[u8], at: usize) -> Result<(), Refused> {
        if self.frame.is_some() {
            return Err(damaged("it has two frame headers"));
        }
        let &[bits, h1, h0, w1, w0, components, ref rest @ ..] = body else {
            return Err(damaged("its frame header is too short"));
        };
        if bits != 8 {
            return Err(other(&format!("is a JPEG of {bits} bits a sample"), DECODE));
        }
        if !matches!(components, 1 | 3 | 4) {
            let what = format!("is a JPEG of {components} components");
            return Err(other(&what, DECODE));
        }
        let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        let samples: Vec<(u8, u8)> = rest
            .chunks_exact(3)
            .map(|component| (component[1] >> 4, component[1] & 15))
            .collect();
        let in_range = |&(h, v): &(u8, u8)| (1..=4).contains(&h) && (1..=4).contains(&v);
        if rest.len() != 3 * usize::from(components)
            || width == 0
            || height == 0
            || !samples.iter().all(in_range)
        {
            return Err(damaged("its frame header makes no sense"));
        }
        let (across, down) = samples[0];
        let is_usual = |&(h, v): &(u8, u8)| {
            h.is_power_of_two() && across.is_multiple_of(h) && down.is_multiple_of(v)
        };
        if !samples.iter().all(is_usual) {
            let what =
                "is a JPEG with colours sampled more finely than brightness, or by odd factors";
            return Err(other(what, DECODE));
        }
        let blocks = |side: u16, part: u8, of: u8| {
            (u64::from(side) * u64::from(part)).div_ceil(8 * u64::from(of))
        };
        self.frame = Some(Frame {
            width: width.into(),
            height: height.into(),
            components,
            progressive,
            height_at: at + 5,
            unit_rows: 8 * u32::from(down),
            units: blocks(width, 1, across) * blocks(height, 1, down),
            scans: 0,
            end: 0,
            patch: None,
        });
        let new = |(component, &(h, v)): (&[u8], &(u8, u8))| Component {
            id: component[0],
            samples: h * v,
            blocks: blocks(width, h, across) * blocks(height, v, down),
            missing: [ALL; 64],
        };
        self.components = rest.chunks_exact(3).zip(&samples).map(new).collect();
        Ok(())
    }

    /// What is wrong with a table, the decoder tells.
    fn tables(&mut self, mut body: &[u8]) {
        while let Some((&id, rest)) = body.split_first()
            && let Some((counts, rest)) = rest.split_at_checked(16)
        {
            self.tables |= 1 << (id & 31);
            let codes = counts.iter().map(|&n| usize::from(n)).sum();
            body = rest.get(codes..).unwrap_or_default();
        }
    }

    fn scan(&mut self, body: &[u8], start: usize) -> Result<(), Refused> {
        let Some(frame) = &mut self.frame else {
            return Err(damaged("a scan comes before the frame header"));
        };
        let n = usize::from(*body.first().unwrap_or(&0));
        let &[first, last, approximation] = body.get(1 + 2 * n..).unwrap_or_default() else {
            return Err(damaged("a scan's header is of the wrong length"));
        };
        let (high, low) = (approximation >> 4, approximation & 15);
        frame.scans += 1;
        if !frame.progressive {
            if n < self.components.len() {
                let what = "is a JPEG with a scan of its own for each component";
                return Err(other(what, RECODE));
            }
            if frame.scans > 1 {
                return Err(damaged("a second scan follows that of all components"));
            }
        } else if (first == 0 && last != 0)
            || last < first
            || last > 63
            || (first > 0 && n != 1)
            || (high > 0 && low != high - 1)
            || low > 13
        {
            return Err(damaged("a scan has impossible progressive parameters"));
        }
        let (mut bits, mut samples, mut units) = (0, 0, 0);
        for component in body[1..=2 * n].chunks_exact(2) {
            let (id, tables) = (component[0], component[1]);
            let Some(component) = self.components.iter_mut().find(|c| c.id == id) else {
                return Err(damaged("a scan is of a component that does not exist"));
            };
            samples += component.samples;
            units = match n {
                1 => component.blocks,
                _ => frame.units,
            };
            if !frame.progressive {
                // A code for the mean, and one at least for the rest.
                bits += 2 * component.blocks;
                continue;
            }
            if first == 0 {
                bits += component.blocks;
            }
            let table = match first {
                0 => tables >> 4,
                _ => 16 + (tables & 15),
            };
            // Bits that refine a mean have no code.
            if (first > 0 || high == 0) && self.tables & (1 << table) == 0 {
                return Err(damaged("a Huffman table is missing"));
            }
            for missing in &mut component.missing[usize::from(first)..=usize::from(last)] {
                if (high == 0) != (*missing == ALL) || (high > 0 && high != *missing) {
                    return Err(damaged("its scans do not follow each other"));
                }
                *missing = low;
            }
        }
        if n > 1 && samples > 10 {
            return Err(damaged("its units have more than ten blocks"));
        }
        self.scan = Some(Scan {
            start,
            bits,
            restarts: 0,
            expected: match u64::from(self.interval) {
                0 => 0,
                interval => units.div_ceil(interval).saturating_sub(1),
            },
        });
        if self.frame.is_some_and(|frame| frame.scans == 1) {
            self.colours()?;
        }
        Ok(())
    }

    /// Which colours the components are: JFIF wins over Adobe's marker, and that over their names,
    /// as in libjpeg. zune-jpeg goes the other way round.
    fn colours(&mut self) -> Result<(), Refused> {
        let ids = self.components.iter().map(|component| component.id);
        let named_rgb = ids.eq(*b"RGB");
        let transform = self.adobe.map(|(_, transform)| transform);
        let contradiction = match self.components.len() {
            3 => named_rgb && (self.jfif || !matches!(transform, None | Some(0))),
            4 => transform == Some(1),
            _ => false,
        };
        if contradiction {
            return Err(other(
                "is a JPEG whose headers differ on its colours",
                DECODE,
            ));
        }
        if let Some((at, 0)) = self.adobe
            && self.jfif
            && self.components.len() == 3
        {
            self.patch = Some((at, 1));
        }
        Ok(())
    }

    fn restart(&mut self, marker: u8) -> Result<(), Refused> {
        let Some(scan) = &mut self.scan else {
            return Ok(());
        };
        if u64::from(marker - 0xD0) != scan.restarts % 8 {
            return Err(damaged(RESTART_MISSING));
        }
        scan.restarts += 1;
        Ok(())
    }

    /// At the marker behind the codes of a scan, if there is one.
    fn end_of_scan(&mut self, at: usize) -> Result<(), Refused> {
        let (Some(scan), Some(frame)) = (self.scan.take(), &mut self.frame) else {
            return Ok(());
        };
        frame.end = at;
        if scan.bits > 8 * (at - scan.start) as u64 {
            return Err(Refused::CutOff);
        }
        match scan.restarts < scan.expected {
            true => Err(damaged(RESTART_MISSING)),
            false => Ok(()),
        }
    }

    /// Whether the scans of a progressive picture brought all of it.
    fn all_is_sent(&self) -> Result<(), Refused> {
        let progressive = self.frame.is_some_and(|frame| frame.progressive);
        let mut missing = self.components.iter().flat_map(|c| c.missing);
        if progressive && missing.any(|missing| missing > 0) {
            return Err(Refused::CutOff);
        }
        Ok(())
    }
}

/// Decodes all of a JPEG into `out`, with 3 bytes a pixel (`RGB`) or 4 (`RGBA`, the last 255).
///
/// # Errors
/// [`Refused`] for what makes no sense to the decoder, and for codes that do not suffice.
fn decode(
    bytes: &mut Vec<u8>,
    frame: &Frame,
    colours: ColorSpace,
    out: &mut [u8],
) -> Result<(), Refused> {
    frame.guard(bytes);
    caught(ImageFormat::Jpeg, || {
        decode_guarded(bytes, frame, colours, out)
    })
}

fn decode_guarded(
    bytes: &[u8],
    frame: &Frame,
    colours: ColorSpace,
    out: &mut [u8],
) -> Result<(), Refused> {
    let refused = |e: zune_jpeg::errors::DecodeErrors| {
        let text = format!("{e:?}");
        // These are the ones behind the last scan.
        match text.contains("Bad Huffman Code 0xFFFF,") {
            true => damaged("its codes end before the picture does, or make no sense"),
            false => damaged(text),
        }
    };
    let side = usize::from(u16::MAX);
    // The decoder picks its conversion of colours while it reads the headers.
    let options = DecoderOptions::default()
        .set_max_width(side)
        .set_max_height(side)
        .jpeg_set_out_colorspace(colours)
        .set_strict_mode(false);
    let mut decoder = JpegDecoder::new_with_options(Bytes::new(bytes), options);
    // Cameras leave stray bytes between the headers; the picture itself has to be whole.
    decoder.decode_headers().map_err(refused)?;
    let stored_rgb = frame.components == 3
        && matches!(
            decoder.input_colorspace(),
            // This is what an RGB file is called before it is decoded.
            Some(ColorSpace::RGB | ColorSpace::CMYK)
        );
    let wanted = if stored_rgb { ColorSpace::RGB } else { colours };
    decoder.set_options(
        options
            .set_strict_mode(true)
            .jpeg_set_out_colorspace(wanted),
    );
    let found = decoder.dimensions();
    if found != Some((frame.width as usize, frame.height as usize)) {
        return Err(damaged(format!(
            "two headers that differ: {found:?} and {frame:?}"
        )));
    }
    if wanted == colours {
        return decoder.decode_into(out).map_err(refused);
    }
    // Three bytes a pixel at the end of the buffer become four from its start on, and never write
    // over what is still to be read.
    let at = frame.pixels();
    decoder.decode_into(&mut out[at..]).map_err(refused)?;
    for pixel in 0..at {
        let from = at + 3 * pixel;
        let rgb = [out[from], out[from + 1], out[from + 2], 255];
        out[4 * pixel..][..4].copy_from_slice(&rgb);
    }
    Ok(())
}

/// Decodes at least the first `rows` rows of a JPEG into `out`, 4 bytes a pixel. Returns
/// how many rows there are now; `out` may be longer, because what has once been cleared need not be
/// cleared again.
///
/// A crop rarely reaches the bottom, and rows below it need not be decoded. zune-jpeg has no call
/// for that, so it is told that the picture ends there: the height in the header of `bytes`
/// is lowered. One unit more than needed is kept, because colours are interpolated between units.
///
/// # Errors
/// As [`decode`], as far as the picture is decoded.
pub(crate) fn decode_rows(
    bytes: &mut Vec<u8>,
    frame: &Frame,
    rows: u32,
    out: &mut Vec<u8>,
) -> Result<u32, Refused> {
    let needed = (rows.div_ceil(frame.unit_rows) + 1) * frame.unit_rows;
    let mut part = *frame;
    if !frame.progressive {
        part.height = needed.min(frame.height);
    }
    // A JPEG's height has 16 bits, and `frame` read it from this place.
    let height = (part.height as u16).to_be_bytes();
    bytes[frame.height_at..frame.height_at + 2].copy_from_slice(&height);
    let length = part.pixels() * 4;
    if out.len() < length {
        out.resize(length, 0);
    }
    decode(bytes, &part, ColorSpace::RGBA, &mut out[..length])?;
    Ok(part.height)
}

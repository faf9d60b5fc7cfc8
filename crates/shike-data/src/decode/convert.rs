//! From the samples of a file to RGB.

use std::cell::RefCell;

use super::limits::Refused;

/// What becomes of pixels while a file is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoding {
    /// Values of 16 bits that become 0 and 255; what is beyond becomes the nearer of them.
    pub range: [u16; 2],
    /// The colour that transparent pixels are laid over; without one, alpha is dropped.
    pub background: Option<[u8; 3]>,
    /// Whether the picture is turned as its EXIF data say.
    pub upright: bool,
}

impl Default for Decoding {
    /// All 16 bits, without alpha, as it is stored.
    fn default() -> Self {
        Self {
            range: [0, u16::MAX],
            background: None,
            upright: false,
        }
    }
}

/// Samples of 8 bits, or of 16 and how two bytes are one.
#[derive(Clone, Copy)]
pub(super) enum Depth {
    Eight,
    Sixteen(fn([u8; 2]) -> u16),
}

/// Is given a picture row by row.
pub(super) trait Rows {
    /// Makes RGB of a row whose pixels are grey (1 sample), grey and alpha (2), colours (3), or colours and
    /// alpha (4).
    fn row(&self, row: &[u8], samples: usize, depth: Depth, out: &mut [u8]);
}

/// Whether sample `i` of a row is an alpha.
fn is_alpha(i: usize, samples: usize) -> bool {
    samples.is_multiple_of(2) && i % samples == samples - 1
}

impl Rows for Decoding {
    fn row(&self, row: &[u8], samples: usize, depth: Depth, out: &mut [u8]) {
        let Depth::Sixteen(value) = depth else {
            return self.bytes(row, samples, out);
        };
        let values = row.chunks_exact(2).map(|two| value([two[0], two[1]]));
        let eight = values
            .enumerate()
            .map(|(i, value)| match is_alpha(i, samples) {
                true => level(value, [0, u16::MAX]),
                false => level(value, self.range),
            });
        self.bytes(&eight.collect::<Vec<_>>(), samples, out);
    }
}

impl Decoding {
    fn bytes(&self, row: &[u8], samples: usize, out: &mut [u8]) {
        let pixels = out.chunks_exact_mut(3).zip(row.chunks_exact(samples));
        match (samples, self.background) {
            (1, _) | (2, None) => pixels.for_each(|(to, from)| to.fill(from[0])),
            (3, _) | (4, None) => pixels.for_each(|(to, from)| to.copy_from_slice(&from[..3])),
            (_, Some(colour)) => {
                for (to, from) in pixels {
                    let alpha = from[samples - 1];
                    for (c, to) in to.iter_mut().enumerate() {
                        let over = u32::from(from[c.min(samples - 2)]) * u32::from(alpha);
                        *to = by_255(over + u32::from(colour[c]) * u32::from(255 - alpha));
                    }
                }
            }
            (_, None) => unreachable!("no picture has so many samples a pixel"),
        }
    }
}

/// Counts how often each value of 16 bits comes, but for alpha; pixels stay black.
pub(super) struct Counts(pub(super) RefCell<Vec<u64>>);

impl Rows for Counts {
    fn row(&self, row: &[u8], samples: usize, depth: Depth, _: &mut [u8]) {
        let Depth::Sixteen(value) = depth else {
            return;
        };
        let mut counts = self.0.borrow_mut();
        for (i, two) in row.chunks_exact(2).enumerate() {
            if !is_alpha(i, samples) {
                counts[usize::from(value([two[0], two[1]]))] += 1;
            }
        }
    }
}

/// A value as one of 8 bits, rounded.
fn level(value: u16, [low, high]: [u16; 2]) -> u8 {
    let span = u32::from(high.saturating_sub(low)).max(1);
    let above = u32::from(value.saturating_sub(low)).min(span);
    ((above * 255 + span / 2) / span) as u8
}

/// `value / 255`, rounded, as Pillow does it.
pub(super) fn by_255(value: u32) -> u8 {
    let value = value + 128;
    (((value >> 8) + value) >> 8) as u8
}

/// Undoes that the colours of a row were multiplied by their alpha, the last of `samples`.
pub(super) fn unmultiply(row: &mut [u8], samples: usize, depth: Depth) {
    // Of 16 bits the upper 8 suffice: what is wanted is 8 bits.
    let (size, upper) = match depth {
        Depth::Eight => (1, 0),
        Depth::Sixteen(value) => (2, usize::from(value([0, 1]) > 1)),
    };
    for pixel in row.chunks_exact_mut(samples * size) {
        let alpha = u32::from(pixel[(samples - 1) * size + upper]);
        for at in (0..samples - 1).map(|i| i * size + upper) {
            let whole = (255 * u32::from(pixel[at])).checked_div(alpha).unwrap_or(0);
            pixel[at] = whole.min(255) as u8;
        }
    }
}

/// An error of reading: the bytes did not suffice, or `damaged`.
pub(super) fn cut_off_or(error: &std::io::Error, damaged: Refused) -> Refused {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Refused::CutOff,
        _ => damaged,
    }
}

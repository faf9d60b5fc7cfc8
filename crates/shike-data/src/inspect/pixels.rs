//! Pixels that are not 8-bit, opaque, upright and nearly square, told by headers.

use image::ImageFormat;
use image::metadata::Orientation;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::decode::exif::taken;
use crate::decode::header::header_in;
use crate::decode::{self, DecodeLimits, caught, counts_of_values};
use crate::error::Result;

/// 16-bit images that are decoded for the range of their values.
const RANGES: usize = 32;

/// The share of a picture that is enough in a crop: one of 3 to 2 keeps two thirds of itself in a square; sides are rounded.
pub const ENOUGH_KEPT: f64 = 0.66;

/// What the headers of some images say of their pixels, beyond 8-bit, opaque and upright.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pixels {
    /// Images whose headers were read.
    pub looked_at: usize,
    /// Images with 16 bits a channel.
    pub sixteen_bits: usize,
    /// Images with 16 bits that were decoded for the range of their values.
    pub ranges: usize,
    /// Of those, images whose values are within an eighth of the range: 32 of 256 levels are left.
    pub narrow: usize,
    /// Images that may have transparent pixels.
    #[serde(default)]
    pub transparent: usize,
    /// Animations, and files of several pages.
    #[serde(default)]
    pub several: usize,
    /// Images that their EXIF data turn.
    pub turned: usize,
    /// Images of which the largest square holds less than two thirds.
    pub elongated: usize,
    /// Share of the median image that the largest square holds; `None` without an image.
    pub median_kept: Option<f64>,
}

/// One file by its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    said: decode::Header,
    /// When it was taken, in seconds.
    pub(super) taken: Option<i64>,
}

impl Pixels {
    /// Reads the headers of at most about `most` images, spread evenly. Images in memory are 8-bit, opaque,
    /// upright and square; a file that cannot be read is not counted.
    pub fn of<'a>(sets: impl IntoIterator<Item = &'a Dataset>, most: usize) -> Self {
        let files = sets.into_iter().filter(|data| data.image_size().is_none());
        let files: Vec<_> = files
            .flat_map(|data| (0..data.len()).map(move |i| (data, i)))
            .collect();
        let step = files.len().div_ceil(most.max(1)).max(1);
        let found = files.par_iter().step_by(step).filter_map(|&(data, i)| {
            let header = Header::read(data, i, &DecodeLimits::default()).ok()??;
            Some((data, i, header))
        });
        Self::told(&found.collect::<Vec<_>>())
    }

    /// What these headers say of image `i` of a data set each.
    pub(super) fn told(found: &[(&Dataset, usize, Header)]) -> Self {
        let count = |is: fn(&decode::Header) -> bool| {
            let headers = found.iter().map(|(.., header)| &header.said);
            headers.filter(|header| is(header)).count()
        };
        let deep = found.iter().filter(|(.., header)| header.said.sixteen_bits);
        let deep: Vec<_> = deep.collect();
        let ranges: Vec<u16> = deep
            .par_iter()
            .step_by(deep.len().div_ceil(RANGES).max(1))
            .filter_map(|(data, i, _)| range(data, *i))
            .collect();
        let mut kept: Vec<f64> = found.iter().map(|(.., header)| header.kept()).collect();
        kept.sort_by(f64::total_cmp);
        Self {
            looked_at: found.len(),
            sixteen_bits: deep.len(),
            ranges: ranges.len(),
            narrow: ranges.iter().filter(|&&range| range < u16::MAX / 8).count(),
            transparent: count(|header| header.alpha),
            several: count(|header| header.several),
            turned: count(|header| header.turn.is_some_and(|t| t != Orientation::NoTransforms)),
            elongated: kept.iter().filter(|&&kept| kept < ENOUGH_KEPT).count(),
            median_kept: kept.get(kept.len() / 2).copied(),
        }
    }
}

impl Header {
    /// That of image `i`; none if it is pixels.
    pub(super) fn read(data: &Dataset, i: usize, limits: &DecodeLimits) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        let (said, is_file) = data.header(i, limits, &mut bytes)?;
        Ok(is_file.then(|| Self::new(&bytes, said)))
    }

    /// That in the bytes of a file.
    pub(super) fn of(bytes: &[u8], origin: &str, limits: &DecodeLimits) -> Result<Self> {
        header_in(bytes, origin, limits).map(|said| Self::new(bytes, said))
    }

    fn new(bytes: &[u8], said: decode::Header) -> Self {
        let taken = caught(ImageFormat::Jpeg, || Ok(taken(bytes)));
        Self {
            said,
            taken: taken.ok().flatten(),
        }
    }

    /// The share that the largest square holds.
    fn kept(&self) -> f64 {
        let (width, height) = self.said.size;
        f64::from(width.min(height)) / f64::from(width.max(height))
    }
}

/// A thousandth of all pixels may be below, and one above a range of values.
const BEYOND: u64 = 1000;

/// Images whose values are counted.
const COUNTED: usize = 1000;

/// The values of 16 bits between which 99.8 % of the pixels of some images are, for
/// [`Transform::Range`](crate::Transform::Range); of about 1000 images, spread evenly. `None` if no image has 16 bits,
/// or all pixels have one value.
pub fn value_range<'a>(sets: impl IntoIterator<Item = &'a Dataset>) -> Option<[u16; 2]> {
    let files = sets.into_iter().filter(|data| data.image_size().is_none());
    let files: Vec<_> = files
        .flat_map(|data| (0..data.len()).map(move |i| (data, i)))
        .collect();
    let step = files.len().div_ceil(COUNTED).max(1);
    let added = |mut sum: Vec<u64>, counts: Vec<u64>| {
        sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        sum
    };
    let counts = files.par_iter().step_by(step);
    let counts = counts.filter_map(|(data, i)| counts_of(data, *i));
    let counts = counts.reduce_with(added)?;
    let beyond = counts.iter().sum::<u64>() / BEYOND;
    let first = |counts: &mut dyn Iterator<Item = &u64>| {
        let mut sum = 0;
        counts
            .take_while(|count| {
                sum += **count;
                sum <= beyond
            })
            .count()
    };
    let low = first(&mut counts.iter());
    let above = first(&mut counts.iter().rev());
    let high = counts.len().checked_sub(1 + above)?;
    match (u16::try_from(low), u16::try_from(high)) {
        (Ok(low), Ok(high)) if low < high => Some([low, high]),
        _ => None,
    }
}

/// How often each value of a 16-bit image comes.
fn counts_of(data: &Dataset, i: usize) -> Option<Vec<u64>> {
    let counts = |raw: crate::Raw<'_>| counts_of_values(raw.bytes(), &DecodeLimits::default());
    data.read(i, |raw, _| Ok(counts(raw))).ok()?
}

/// Largest less smallest value of a 16-bit image, but for its alpha.
fn range(data: &Dataset, i: usize) -> Option<u16> {
    let counts = counts_of(data, i)?;
    let there = |count: &u64| *count > 0;
    let (first, last) = (
        counts.iter().position(there)?,
        counts.iter().rposition(there)?,
    );
    u16::try_from(last - first).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use image::{ImageBuffer, Luma, Rgb, RgbImage, Rgba};

    use super::*;
    use crate::image_folder;

    #[test]
    fn what_headers_say_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join("cat");
        std::fs::create_dir(&class).unwrap();
        let at = |name: &str| class.join(name);
        // 12 bits in 16, alone and beside an alpha that uses all; and one that uses all itself.
        let dark = |x: u32, y: u32| (300 + 40 * (x + y)) as u16;
        let grey = ImageBuffer::from_fn(8, 8, |x, y| Luma([dark(x, y)]));
        grey.save(at("12 bits.png")).unwrap();
        let alpha =
            ImageBuffer::from_fn(8, 8, |x, y| Rgba([dark(x, y), 400, 400, (x * 8191) as u16]));
        alpha.save(at("alpha.png")).unwrap();
        let full = ImageBuffer::from_fn(8, 8, |x, _| Luma([(x * 9000) as u16]));
        full.save(at("16 bits.png")).unwrap();
        RgbImage::new(80, 20).save(at("wide.jpg")).unwrap();
        RgbImage::from_pixel(12, 8, Rgb([9; 3]))
            .save(at("3 to 2.jpg"))
            .unwrap();
        // A JPEG whose EXIF data say: orientation 6.
        let jpeg = std::fs::read(at("3 to 2.jpg")).unwrap();
        let exif = b"Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let length = (exif.len() + 2) as u16;
        let turned = [
            &jpeg[..2],
            &[0xFF, 0xE1],
            &length.to_be_bytes(),
            exif,
            &jpeg[2..],
        ];
        std::fs::write(at("turned.jpg"), turned.concat()).unwrap();
        std::fs::write(at("none.jpg"), "<html>").unwrap();

        let data = image_folder(dir.path()).unwrap();
        let found = Pixels::of([&data], usize::MAX);
        let wanted = Pixels {
            looked_at: 6,
            sixteen_bits: 3,
            ranges: 3,
            narrow: 2,
            transparent: 1,
            several: 0,
            turned: 1,
            elongated: 1,
            median_kept: Some(1.0),
        };
        assert_eq!(found, wanted);
        // Every second one, of which one is no image.
        assert_eq!(Pixels::of([&data], 4).looked_at, 3);
        let memory = Dataset::from_pixels(vec![0; 3], 1, 1, vec![0], 1).unwrap();
        assert_eq!(Pixels::of([&memory], 9), Pixels::default());
    }
}

//! Pillow's antialiased resize, and the crops built on it.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::geometry::crop;
use super::{PADDING, Size, from_raw, replaced};
use crate::error::{DataError, Result};
use crate::rng::Draw;
use crate::scratch;

/// Fractional bits of the filter coefficients: Pillow leaves 8 bits for the value and 2 for
/// overflow of an `i32`.
const BITS: u32 = 32 - 8 - 2;

/// How values between pixels are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// From two by two neighbours.
    #[default]
    Bilinear,
    /// From four by four neighbours, by a cubic: that of a = -1/2 in a resize, of a = -1 in a move, as in Pillow.
    Bicubic,
}

impl Interpolation {
    pub(crate) fn is_bilinear(&self) -> bool {
        *self == Self::Bilinear
    }

    /// How far the filter of a resize reaches, in pixels of the coarser image.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The filter at a distance.
    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Bicubic => 0.0,
        }
    }
}

/// A box of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// First row.
    pub top: u32,
    /// First column.
    pub left: u32,
    /// Number of rows.
    pub height: u32,
    /// Number of columns.
    pub width: u32,
}

impl CropBox {
    /// All of an image.
    pub(crate) fn whole(width: u32, height: u32) -> Self {
        Self {
            top: 0,
            left: 0,
            height,
            width,
        }
    }
}

/// Cuts out `area` and resizes it to `width` x `height` (torchvision's `resized_crop` on Pillow
/// images). The filter does not reach beyond the box. An `area` beyond the image is cut to it.
///
/// The filter is as wide as the reduction, so shrinking does not alias. Columns first,
/// then rows, each rounded to 8 bits, in Pillow's 22-bit fixed point: bit for bit its result.
pub fn resized_crop(
    image: &RgbImage,
    area: CropBox,
    width: u32,
    height: u32,
    interpolation: Interpolation,
) -> RgbImage {
    let left = area.left.min(image.width());
    let top = area.top.min(image.height());
    let in_w = area.width.min(image.width() - left) as usize;
    let in_h = area.height.min(image.height() - top) as usize;
    let (out_w, out_h) = (width as usize, height as usize);
    if in_w == 0 || in_h == 0 || out_w == 0 || out_h == 0 {
        return RgbImage::new(width, height);
    }
    let (left, top) = (left as usize, top as usize);
    let in_row = image.width() as usize * 3;
    let rows = image
        .chunks_exact(in_row)
        .skip(top)
        .take(in_h)
        .map(|row| &row[left * 3..(left + in_w) * 3]);

    let mut columns = scratch::buffer();
    columns.reserve(out_w * 3 * in_h);
    if in_w == out_w {
        rows.for_each(|row| columns.extend_from_slice(row));
    } else {
        let filter = filter(in_w, out_w, interpolation);
        for row in rows {
            for (first, weights) in &filter {
                let mut sum = [1i32 << (BITS - 1); 3];
                let pixels = row[first * 3..].chunks_exact(3);
                for (pixel, &weight) in pixels.zip(weights) {
                    for (s, &v) in sum.iter_mut().zip(pixel) {
                        *s += i32::from(v) * weight;
                    }
                }
                columns.extend(sum.map(clip));
            }
        }
    }
    if in_h == out_h {
        return from_raw(width, height, columns);
    }
    let row = out_w * 3;
    let mut out = scratch::buffer();
    out.reserve(row * out_h);
    let mut sums = vec![0i32; row];
    for (first, weights) in filter(in_h, out_h, interpolation) {
        sums.fill(1 << (BITS - 1));
        for (line, weight) in columns[first * row..].chunks_exact(row).zip(weights) {
            for (s, &v) in sums.iter_mut().zip(line) {
                *s += i32::from(v) * weight;
            }
        }
        out.extend(sums.iter().map(|&s| clip(s)));
    }
    scratch::recycle(from_raw(width, in_h as u32, columns));
    from_raw(width, height, out)
}

/// Resizes the whole image to `width` x `height`. See [`resized_crop`].
pub fn resize(image: &RgbImage, width: u32, height: u32, interpolation: Interpolation) -> RgbImage {
    let whole = CropBox::whole(image.width(), image.height());
    resized_crop(image, whole, width, height, interpolation)
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// For each output position its first input position and the fixed-point weights from there.
fn filter(in_size: usize, out_size: usize, interpolation: Interpolation) -> Vec<(usize, Vec<i32>)> {
    let scale = in_size as f64 / out_size as f64;
    // Enlarging interpolates between neighbours: the filter is never narrower than that.
    let widening = scale.max(1.0);
    let shrink = 1.0 / widening;
    let support = interpolation.support() * widening;
    (0..out_size)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(in_size);
            let weights: Vec<f64> = (0..end - first)
                .map(|x| {
                    let distance = ((x + first) as f64 - centre + 0.5) * shrink;
                    interpolation.weight(distance)
                })
                .collect();
            let total: f64 = weights.iter().sum();
            let fixed = weights
                .iter()
                .map(|w| {
                    let share = if total == 0.0 { *w } else { w / total };
                    (0.5f64.copysign(share) + share * f64::from(1 << BITS)) as i32
                })
                .collect();
            (first, fixed)
        })
        .collect()
}

/// Most pixels that a resize may make: a strip of one pixel by 65,535 would become billions.
const MAX_PIXELS: u64 = 1 << 28;

/// How a picture of another shape becomes what the network sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Its ends are cut off.
    #[default]
    Crop,
    /// All of it, in the middle of a grey.
    Pad,
    /// All of it, with its sides stretched or shrunk.
    Squash,
}

impl Fit {
    pub(crate) fn is_crop(&self) -> bool {
        *self == Self::Crop
    }

    /// The name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Pad => "pad",
            Self::Squash => "squash",
        }
    }
}

/// A part of an image, and what it is resized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub area: CropBox,
    pub to: Size,
    pub interpolation: Interpolation,
    /// The size in whose middle that stands, if it does not fill it.
    pub canvas: Option<Size>,
}

impl Taken {
    /// `area`, resized to `size`, or so that it fits into that (`contained`).
    pub(crate) fn part(area: CropBox, size: Size, contained: bool) -> Self {
        let to = match contained {
            true => contained_size(area.width, area.height, size),
            false => size,
        };
        Self {
            area,
            to,
            interpolation: Interpolation::Bilinear,
            canvas: (to != size).then_some(size),
        }
    }

    /// All of an image, resized so that it covers `size`.
    ///
    /// # Errors
    /// [`DataError::Transform`] if it would become too large.
    pub(crate) fn covering(
        width: u32,
        height: u32,
        size: Size,
        interpolation: Interpolation,
    ) -> Result<Self> {
        let to = covering_size(width, height, size);
        if u64::from(to.width) * u64::from(to.height) > MAX_PIXELS {
            return Err(DataError::Transform {
                transform: "resize",
                problem: format!(
                    "{width}x{height} would become {}x{}; leave out images as narrow as this",
                    to.width, to.height
                ),
            });
        }
        Ok(Self {
            area: CropBox::whole(width, height),
            to,
            interpolation,
            canvas: None,
        })
    }

    pub(crate) fn by(self, interpolation: Interpolation) -> Self {
        Self {
            interpolation,
            ..self
        }
    }

    /// That of an image, with Pillow's arithmetic.
    pub(crate) fn of(&self, image: RgbImage) -> RgbImage {
        let (width, height) = image.dimensions();
        let same = self.area == CropBox::whole(width, height)
            && (self.to.width, self.to.height) == (width, height);
        let resized = match same {
            true => image,
            false => replaced(image, |image| {
                resized_crop(
                    image,
                    self.area,
                    self.to.width,
                    self.to.height,
                    self.interpolation,
                )
            }),
        };
        match self.canvas {
            Some(size) => on_canvas(resized, size),
            None => resized,
        }
    }
}

/// An image in the middle of [`PADDING`], as Pillow's `ImageOps.pad` places it.
pub(crate) fn on_canvas(image: RgbImage, size: Size) -> RgbImage {
    let corner = |room: u32| (f64::from(room) / 2.0).round_ties_even() as usize;
    let left = corner(size.width - image.width());
    let top = corner(size.height - image.height());
    let mut out = scratch::black(size.width, size.height);
    for pixel in out.chunks_exact_mut(3) {
        pixel.copy_from_slice(&PADDING);
    }
    let (row, of_out) = (image.width() as usize * 3, size.width as usize * 3);
    let lines = out.chunks_exact_mut(of_out).skip(top);
    for (line, from) in lines.zip(image.chunks_exact(row)) {
        line[left * 3..][..row].copy_from_slice(from);
    }
    scratch::recycle(image);
    out
}

/// The largest size of this shape that fits into `size`, as Pillow's `ImageOps.contain` has it.
fn contained_size(width: u32, height: u32, size: Size) -> Size {
    let (w, h) = (f64::from(width), f64::from(height));
    let wanted = f64::from(size.width) / f64::from(size.height);
    let side = |length: f64, most: u32| (length.round_ties_even() as u32).clamp(1, most);
    if w / h > wanted {
        Size {
            height: side(h / w * f64::from(size.width), size.height),
            ..size
        }
    } else if w / h < wanted {
        Size {
            width: side(w / h * f64::from(size.height), size.width),
            ..size
        }
    } else {
        size
    }
}

/// The smallest size of this shape that covers `size`. Of a square it is that of torchvision's `Resize(int)`: the
/// longer side is rounded down.
fn covering_size(width: u32, height: u32, size: Size) -> Size {
    let [w, h, across, down] = [width, height, size.width, size.height].map(u64::from);
    let long = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    if w == 0 || h == 0 {
        Size { width, height }
    } else if w * down <= h * across {
        Size {
            height: long(across * h / w).max(size.height),
            ..size
        }
    } else {
        Size {
            width: long(down * w / h).max(size.width),
            ..size
        }
    }
}

/// Where torchvision's `CenterCrop` begins on a side: Python rounds halves to the even number.
/// Below 0 where there is less than `size`.
pub(crate) fn center_crop_corner(side: u32, size: u32) -> i64 {
    let (side, size) = (i64::from(side), i64::from(size));
    if size > side {
        -((size - side) / 2)
    } else {
        ((side - size) as f64 / 2.0).round_ties_even() as i64
    }
}

/// The box of this size in the middle, as torchvision's `CenterCrop`: an image that is smaller is first padded
/// with black.
pub fn center_crop(image: &RgbImage, size: impl Into<Size>) -> RgbImage {
    let size = size.into();
    let top = center_crop_corner(image.height(), size.height);
    let left = center_crop_corner(image.width(), size.width);
    crop(image, top, left, size.height, size.width)
}

/// The box of torchvision's `RandomResizedCrop.get_params`: up to ten tries of a share `scale` of
/// the area and an aspect ratio (width over height, log-uniform in `ratio`), else the largest
/// box in the middle whose ratio is allowed.
pub fn random_resized_crop_box(
    width: u32,
    height: u32,
    scale: [f64; 2],
    ratio: [f64; 2],
    draw: &mut impl Draw,
) -> CropBox {
    let area = f64::from(width) * f64::from(height);
    let log_ratio = ratio.map(f64::ln);
    for _ in 0..10 {
        let target = area * draw.between(scale[0], scale[1]);
        let aspect = draw.between(log_ratio[0], log_ratio[1]).exp();
        let w = (target * aspect).sqrt().round_ties_even() as u32;
        let h = (target / aspect).sqrt().round_ties_even() as u32;
        if 0 < w && w <= width && 0 < h && h <= height {
            return CropBox {
                top: draw.below(height - h + 1),
                left: draw.below(width - w + 1),
                height: h,
                width: w,
            };
        }
    }
    let own = f64::from(width) / f64::from(height);
    let (w, h) = if own < ratio[0] {
        (
            width,
            (f64::from(width) / ratio[0]).round_ties_even() as u32,
        )
    } else if own > ratio[1] {
        (
            (f64::from(height) * ratio[1]).round_ties_even() as u32,
            height,
        )
    } else {
        (width, height)
    };
    // At least one pixel: a strip of one pixel by a thousand has a box too.
    let (w, h) = (w.clamp(1, width.max(1)), h.clamp(1, height.max(1)));
    CropBox {
        top: (height - h.min(height)) / 2,
        left: (width - w.min(width)) / 2,
        height: h,
        width: w,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, rng};
    use image::Rgb;

    #[test]
    fn flat_stays_flat_and_same_size_is_a_copy() {
        let flat = RgbImage::from_pixel(37, 19, Rgb([3, 200, 255]));
        let sizes = [(5, 7), (100, 90), (37, 4), (1, 1)];
        let kinds = [Interpolation::Bilinear, Interpolation::Bicubic];
        for ((w, h), interpolation) in sizes.into_iter().flat_map(|s| kinds.map(|k| (s, k))) {
            let out = resize(&flat, w, h, interpolation);
            assert_eq!(out.dimensions(), (w, h));
            assert!(out.pixels().all(|p| p.0 == [3, 200, 255]));
        }
        let image = RgbImage::from_fn(9, 8, |x, y| Rgb([x as u8 * 20, y as u8 * 30, 1]));
        assert_eq!(resize(&image, 9, 8, Interpolation::Bilinear), image);
    }

    #[test]
    fn halving_averages_with_the_neighbours() {
        // Triangle of width 2 at centre 1: weights 1/8, 3/8, 3/8, 1/8, cut off at the border.
        let image = RgbImage::from_fn(4, 1, |x, _| Rgb([[0, 0, 80, 80][x as usize]; 3]));
        let out = resize(&image, 2, 1, Interpolation::Bilinear);
        // (3*0 + 3*0 + 80) / 7 and (0 + 3*80 + 3*80) / 7.
        assert_eq!((out[(0, 0)][0], out[(1, 0)][0]), (11, 69));
    }

    #[test]
    fn short_side_and_middle() {
        let image = RgbImage::new(100, 75);
        let covering = |width, height, size: Size| {
            Taken::covering(width, height, size, Interpolation::Bilinear)
        };
        let short = |side: u32| {
            let taken = covering(100, 75, side.into()).unwrap();
            taken.of(image.clone()).dimensions()
        };
        assert_eq!(short(50), (66, 50));
        assert_eq!(short(75), (100, 75));
        assert_eq!(short(150), (200, 150));
        assert!(covering(3, 4000, 256.into()).is_ok());
        assert!(covering(1, 65_535, 256.into()).is_err());
        // A box that is no square.
        for (width, height, size, wanted) in [
            (100, 75, "80x20", "80x60"),
            (100, 75, "20x60", "80x60"),
            (100, 75, "4x3", "4x3"),
            (7, 1000, "9x9", "9x1285"),
        ] {
            let taken = covering(width, height, size.parse().unwrap()).unwrap();
            assert_eq!(taken.to, wanted.parse().unwrap());
        }
        let image = RgbImage::from_fn(7, 5, |x, y| Rgb([x as u8, y as u8, 9]));
        // (7-4)/2 = 1.5 rounds to 2, (5-4)/2 = 0.5 rounds to 0.
        assert_eq!(center_crop(&image, 4)[(0, 0)].0, [2, 0, 9]);
        // Padding 1 left and 2 above.
        let padded = center_crop(&image, 9);
        assert_eq!(padded[(1, 2)].0, [0, 0, 9]);
        assert_eq!(padded[(0, 2)].0, [0, 0, 0]);
    }

    #[test]
    fn random_boxes_lie_inside_and_have_the_wanted_shape() {
        let mut r = rng(1, 0, 0, Purpose::Other);
        let ratio = [3.0 / 4.0, 4.0 / 3.0];
        let mut mean_share = 0.0;
        for _ in 0..2000 {
            let b = random_resized_crop_box(500, 375, [0.08, 1.0], ratio, &mut r);
            assert!(b.top + b.height <= 375 && b.left + b.width <= 500);
            let aspect = f64::from(b.width) / f64::from(b.height);
            assert!((0.74..1.35).contains(&aspect), "{b:?}");
            mean_share += f64::from(b.width * b.height) / (500.0 * 375.0) / 2000.0;
        }
        // Uniform over [0.08, 1] has mean 0.54, less what does not fit.
        assert!((0.4..0.54).contains(&mean_share), "{mean_share}");
    }

    #[test]
    fn strips_fall_back_to_the_middle() {
        let mut r = rng(1, 0, 0, Purpose::Other);
        let ratio = [3.0 / 4.0, 4.0 / 3.0];
        let b = random_resized_crop_box(1000, 10, [0.9, 1.0], ratio, &mut r);
        assert_eq!((b.width, b.height, b.left, b.top), (13, 10, 493, 0));
        let b = random_resized_crop_box(1, 1000, [0.9, 1.0], ratio, &mut r);
        assert_eq!((b.width, b.height, b.left, b.top), (1, 1, 0, 499));
    }
}

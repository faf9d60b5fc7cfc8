//! Moving pixels: flips, crops and Pillow's affine transform.

use image::RgbImage;

use super::from_raw;
use crate::scratch;

/// An affine map from output to input positions, as Pillow's `Image.transform` takes it:
/// `x_in = m[0] x + m[1] y + m[2]`, `y_in = m[3] x + m[4] y + m[5]`, at pixel centres.
pub type Affine = [f64; 6];

/// Mirrors left and right.
pub fn hflip(mut image: RgbImage) -> RgbImage {
    let row = image.width() as usize * 3;
    if row > 0 {
        for line in image.chunks_exact_mut(row) {
            let (mut left, mut right) = (0, row - 3);
            while left < right {
                for c in 0..3 {
                    line.swap(left + c, right + c);
                }
                left += 3;
                right -= 3;
            }
        }
    }
    image
}

/// The box of `height` x `width` pixels at (`top`, `left`). What lies outside the image, on any
/// side, is black: so a negative corner pads and crops in one go, as torchvision's
/// `RandomCrop(size, padding)` does.
pub fn crop(image: &RgbImage, top: i64, left: i64, height: u32, width: u32) -> RgbImage {
    let mut out = scratch::black(width, height);
    let (in_w, in_h) = (i64::from(image.width()), i64::from(image.height()));
    // Columns of the output that the image covers.
    let from = (-left).clamp(0, i64::from(width));
    let to = (in_w - left).clamp(from, i64::from(width));
    let (from_byte, bytes) = (from as usize * 3, (to - from) as usize * 3);
    if bytes == 0 {
        return out;
    }
    let (in_row, out_row) = (in_w as usize * 3, width as usize * 3);
    let source = image.as_raw();
    for (y, line) in out.chunks_exact_mut(out_row).enumerate() {
        let y_in = top + y as i64;
        if (0..in_h).contains(&y_in) {
            let start = y_in as usize * in_row + (left + from) as usize * 3;
            line[from_byte..from_byte + bytes].copy_from_slice(&source[start..start + bytes]);
        }
    }
    out
}

/// Paints the box of rows `[y - half, y + half)` and columns `[x - half, x + half)` black, as far
/// as it lies inside the image (the reference's `Cutout` with `half = length / 2`).
pub fn cutout(mut image: RgbImage, y: u32, x: u32, half: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let pixels: &mut [u8] = &mut image;
    let left = x.saturating_sub(half).min(width) as usize * 3;
    let right = x.saturating_add(half).min(width) as usize * 3;
    let row = width as usize * 3;
    for line in y.saturating_sub(half)..y.saturating_add(half).min(height) {
        let start = line as usize * row;
        pixels[start + left..start + right].fill(0);
    }
    image
}

/// Pillow's affine transform with nearest-neighbour sampling; `fill` is the colour outside.
///
/// Like Pillow it has three ways to walk: one for scaling and shifting that adds up in f64, one
/// in 16.16 fixed point, and one in f64 for coordinates that do not fit. Which one is taken
/// decides about single pixels.
pub fn affine_nearest(image: &RgbImage, m: &Affine, fill: [u8; 3]) -> RgbImage {
    let (width, height) = image.dimensions();
    if m[1] == 0.0 && m[3] == 0.0 {
        return scale_nearest(image, m, fill);
    }
    let fits = |x: u32, y: u32| {
        let (x, y) = (f64::from(x), f64::from(y));
        (x * m[0] + y * m[1] + m[2]).abs() < 32768.0 && (x * m[3] + y * m[4] + m[5]).abs() < 32768.0
    };
    let fixed = [(0, 0), (width, height), (0, height), (width, 0)]
        .iter()
        .all(|&(x, y)| fits(x, y));
    let x0 = m[2] + m[0] * 0.5 + m[1] * 0.5;
    let y0 = m[5] + m[3] * 0.5 + m[4] * 0.5;
    if fixed {
        let fix = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
        let steps = [m[0], m[1], m[3], m[4]].map(fix);
        walk(image, [fix(x0), fix(y0)], steps, fill, |v| v >> 16)
    } else {
        walk(
            image,
            [x0, y0],
            [m[0], m[1], m[3], m[4]],
            fill,
            floor_or_outside,
        )
    }
}

/// Pillow's `COORD`: truncation, with everything below zero outside.
fn floor_or_outside(v: f64) -> i64 {
    if v < 0.0 { -1 } else { v as i64 }
}

/// Visits the output row by row, adding the steps `[x per x, x per y, y per x, y per y]` to the
/// input position.
fn walk<T: Copy + std::ops::AddAssign>(
    image: &RgbImage,
    mut start: [T; 2],
    [xx, xy, yx, yy]: [T; 4],
    fill: [u8; 3],
    pixel: impl Fn(T) -> i64,
) -> RgbImage {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let source = image.as_raw();
    let mut out = scratch::buffer();
    out.reserve(source.len());
    for _ in 0..height {
        let [mut x, mut y] = start;
        for _ in 0..width {
            let (px, py) = (pixel(x), pixel(y));
            if (0..width).contains(&px) && (0..height).contains(&py) {
                let at = (py * width + px) as usize * 3;
                out.extend_from_slice(&source[at..at + 3]);
            } else {
                out.extend_from_slice(&fill);
            }
            x += xx;
            y += yx;
        }
        start[0] += xy;
        start[1] += yy;
    }
    from_raw(image.width(), image.height(), out)
}

fn scale_nearest(image: &RgbImage, m: &Affine, fill: [u8; 3]) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let steps = |start: f64, step: f64, n: usize| -> Vec<Option<usize>> {
        let mut v = start;
        (0..n)
            .map(|_| {
                let at = usize::try_from(floor_or_outside(v))
                    .ok()
                    .filter(|&at| at < n);
                v += step;
                at
            })
            .collect()
    };
    let columns = steps(m[2] + m[0] * 0.5, m[0], width);
    let rows = steps(m[5] + m[4] * 0.5, m[4], height);
    let source = image.as_raw();
    let mut out = scratch::buffer();
    out.reserve(source.len());
    for &y in &rows {
        for &x in &columns {
            match (x, y) {
                (Some(x), Some(y)) => {
                    let at = (y * width + x) * 3;
                    out.extend_from_slice(&source[at..at + 3]);
                }
                _ => out.extend_from_slice(&fill),
            }
        }
    }
    from_raw(image.width(), image.height(), out)
}

/// Pillow's affine transform with bicubic sampling (a = -1); `fill` is the colour outside.
pub fn affine_bicubic(image: &RgbImage, m: &Affine, fill: [u8; 3]) -> RgbImage {
    affine_between(image, m, fill, bicubic_pixel)
}

/// Pillow's affine transform with bilinear sampling; `fill` is the colour outside.
pub fn affine_bilinear(image: &RgbImage, m: &Affine, fill: [u8; 3]) -> RgbImage {
    affine_between(image, m, fill, bilinear_pixel)
}

/// Samples between pixels: `pixel` gets the position, counted from the centre of the first pixel.
fn affine_between(
    image: &RgbImage,
    m: &Affine,
    fill: [u8; 3],
    pixel: impl Fn(&RgbImage, f64, f64) -> [u8; 3],
) -> RgbImage {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let (w, h) = (width as f64, height as f64);
    let mut out = scratch::buffer();
    out.reserve(image.as_raw().len());
    for y in 0..height {
        for x in 0..width {
            let (xc, yc) = (x as f64 + 0.5, y as f64 + 0.5);
            let xin = m[0] * xc + m[1] * yc + m[2];
            let yin = m[3] * xc + m[4] * yc + m[5];
            if xin < 0.0 || xin >= w || yin < 0.0 || yin >= h {
                out.extend_from_slice(&fill);
            } else {
                out.extend_from_slice(&pixel(image, xin - 0.5, yin - 0.5));
            }
        }
    }
    from_raw(image.width(), image.height(), out)
}

fn bilinear_pixel(image: &RgbImage, x: f64, y: f64) -> [u8; 3] {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let source = image.as_raw();
    let (x0, y0) = (x.floor(), y.floor());
    let (dx, dy) = (x - x0, y - y0);
    let (x0, y0) = (x0 as i64, y0 as i64);
    let [left, right] = [x0, x0 + 1].map(|x| x.clamp(0, width - 1) as usize * 3);
    let [above, below] = [y0, y0 + 1].map(|y| (y.clamp(0, height - 1) * width) as usize * 3);
    std::array::from_fn(|c| {
        let row = |start: usize| {
            let a = f64::from(source[start + left + c]);
            let b = f64::from(source[start + right + c]);
            a + (b - a) * dx
        };
        let (a, b) = (row(above), row(below));
        // Truncated, not rounded.
        (a + (b - a) * dy) as u8
    })
}

fn bicubic_pixel(image: &RgbImage, x: f64, y: f64) -> [u8; 3] {
    let (width, height) = (i64::from(image.width()), i64::from(image.height()));
    let source = image.as_raw();
    let (x0, y0) = (x.floor(), y.floor());
    let (dx, dy) = (x - x0, y - y0);
    let (x0, y0) = (x0 as i64, y0 as i64);
    let columns = [-1, 0, 1, 2].map(|i| (x0 + i).clamp(0, width - 1) as usize * 3);
    let row = |line: i64, c: usize| {
        let start = line as usize * width as usize * 3 + c;
        let v = columns.map(|at| f64::from(source[start + at]));
        cubic(v, dx)
    };
    let mut out = [0; 3];
    for (c, slot) in out.iter_mut().enumerate() {
        // The first row is the nearest one there is; each later row that does not exist repeats
        // the value before it.
        let mut v = [row((y0 - 1).clamp(0, height - 1), c); 4];
        for i in 1..4 {
            let line = y0 - 1 + i as i64;
            v[i] = if (0..height).contains(&line) {
                row(line, c)
            } else {
                v[i - 1]
            };
        }
        // Truncated, not rounded.
        *slot = cubic(v, dy) as u8;
    }
    out
}

/// The cubic through four neighbours, at `d` between the second and the third.
fn cubic([a, b, c, d]: [f64; 4], t: f64) -> f64 {
    if t == 0.0 {
        return b;
    }
    let p2 = -a + c;
    let p3 = 2.0 * (a - b) + c - d;
    let p4 = -a + b - c + d;
    b + t * (p2 + t * (p3 + t * p4))
}

/// Pillow's `Image.rotate`: counter-clockwise by `degrees` about the centre, nearest neighbour,
/// `fill` outside. Multiples of a right angle are exact.
pub fn rotate(image: &RgbImage, degrees: f64, fill: [u8; 3]) -> RgbImage {
    rotate_by(image, degrees, |image, matrix| {
        affine_nearest(image, matrix, fill)
    })
}

/// As [`rotate`], through another `transform` than the nearest neighbour.
pub(super) fn rotate_by(
    image: &RgbImage,
    degrees: f64,
    transform: impl FnOnce(&RgbImage, &Affine) -> RgbImage,
) -> RgbImage {
    let (width, height) = image.dimensions();
    let degrees = degrees.rem_euclid(360.0);
    if degrees == 0.0 {
        return from_raw(width, height, scratch::copy(image));
    }
    if degrees == 180.0 {
        return image::imageops::rotate180(image);
    }
    if width == height && degrees == 90.0 {
        return image::imageops::rotate270(image); // clockwise, as `image` counts
    }
    if width == height && degrees == 270.0 {
        return image::imageops::rotate90(image);
    }
    let angle = -degrees.to_radians();
    let (sin, cos) = (round15(angle.sin()), round15(angle.cos()));
    let minus_sin = round15(-angle.sin());
    let (cx, cy) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    let x0 = cos * -cx + sin * -cy + 0.0;
    let y0 = minus_sin * -cx + cos * -cy + 0.0;
    transform(image, &[cos, sin, x0 + cx, minus_sin, cos, y0 + cy])
}

/// Rounded to 15 decimals, as Python's `round(v, 15)`; formatting rounds correctly.
fn round15(v: f64) -> f64 {
    format!("{v:.15}").parse().unwrap_or(v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn numbered(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn flip_is_its_own_inverse() {
        for width in [1, 2, 5, 8] {
            let image = numbered(width, 3);
            let flipped = hflip(image.clone());
            assert_eq!(flipped[(0, 2)].0, [width as u8 - 1, 2, 7]);
            assert_eq!(hflip(flipped), image);
        }
    }

    #[test]
    fn crop_pads_with_black_on_every_side() {
        let image = numbered(4, 3);
        assert_eq!(crop(&image, 0, 0, 3, 4), image);
        let all = crop(&image, -2, -3, 8, 10);
        for (x, y, p) in all.enumerate_pixels() {
            let inside = (3..7).contains(&x) && (2..5).contains(&y);
            let want = if inside {
                [x as u8 - 3, y as u8 - 2, 7]
            } else {
                [0; 3]
            };
            assert_eq!(p.0, want, "{x} {y}");
        }
        assert_eq!(crop(&image, 9, 9, 2, 2), RgbImage::new(2, 2));
        assert_eq!(crop(&image, -9, -9, 2, 2), RgbImage::new(2, 2));
        assert_eq!(crop(&image, 1, 2, 2, 2)[(1, 1)].0, [3, 2, 7]);
    }

    #[test]
    fn cutout_stays_inside() {
        // Centre (y, x) and box [y0, y1, x0, x1) as the reference makes it.
        for ((y, x), [y0, y1, x0, x1]) in [
            ((0, 0), [0, 8, 0, 8]),
            ((3, 30), [0, 11, 22, 32]),
            ((16, 16), [8, 24, 8, 24]),
            ((31, 31), [23, 32, 23, 32]),
            ((8, 24), [0, 16, 16, 32]),
        ] {
            let out = cutout(RgbImage::from_pixel(32, 32, Rgb([9; 3])), y, x, 8);
            for (px, py, p) in out.enumerate_pixels() {
                let black = (y0..y1).contains(&py) && (x0..x1).contains(&px);
                assert_eq!(
                    p.0,
                    if black { [0; 3] } else { [9; 3] },
                    "{y} {x}: {py} {px}"
                );
            }
        }
    }

    #[test]
    fn right_angles_are_exact() {
        let image = numbered(4, 4);
        // Counter-clockwise: the right column becomes the top row.
        let turned = rotate(&image, 90.0, [1; 3]);
        assert_eq!(turned[(0, 0)].0, [3, 0, 7]);
        assert_eq!(turned[(3, 0)].0, [3, 3, 7]);
        assert_eq!(rotate(&turned, -90.0, [1; 3]), image);
        assert_eq!(
            rotate(&rotate(&image, 180.0, [1; 3]), -180.0, [1; 3]),
            image
        );
        assert_eq!(rotate(&image, 720.0, [1; 3]), image);
    }

    #[test]
    fn the_three_nearest_walks_agree() {
        let image = numbered(9, 7);
        let shift = affine_nearest(&image, &[1.0, 0.0, 2.25, 0.0, 1.0, -1.25], [1; 3]);
        assert_eq!(shift[(0, 2)].0, [2, 1, 7]);
        assert_eq!(shift[(0, 0)].0, [1; 3]);
        assert_eq!(shift[(8, 5)].0, [1; 3]);
        let tilt = [1.0, 0.25, 0.0, 0.0, 1.0, 0.0];
        let fixed = affine_nearest(&image, &tilt, [1; 3]);
        let float = walk(
            &image,
            [0.5 + 0.125, 0.5],
            [1.0, 0.25, 0.0, 1.0],
            [1; 3],
            floor_or_outside,
        );
        assert_eq!(fixed, float);
        // Far away everything is outside, and nothing overflows.
        let far = affine_nearest(&image, &[1.0, 0.1, 1e12, 0.1, 1.0, -1e12], [5; 3]);
        assert!(far.pixels().all(|p| p.0 == [5; 3]));
    }
}

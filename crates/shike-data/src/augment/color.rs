//! Changing colours: look-up tables and Pillow's `ImageEnhance` blends.

use image::RgbImage;

use crate::scratch;

/// The grey value of a pixel as Pillow's `convert("L")` computes it (ITU-R 601-2, fixed point).
fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Replaces each value by its entry in the table.
fn map(mut image: RgbImage, table: impl Fn(u8) -> u8) -> RgbImage {
    let table: [u8; 256] = std::array::from_fn(|v| table(v as u8));
    for v in image.iter_mut() {
        *v = table[usize::from(*v)];
    }
    image
}

/// Replaces each value by its entry in its channel's table.
fn map_channels(mut image: RgbImage, tables: &[[u8; 256]; 3]) -> RgbImage {
    for pixel in image.chunks_exact_mut(3) {
        for (v, table) in pixel.iter_mut().zip(tables) {
            *v = table[usize::from(*v)];
        }
    }
    image
}

/// The histogram of each channel.
fn histograms(image: &RgbImage) -> [[u32; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in image.chunks_exact(3) {
        for (count, &v) in counts.iter_mut().zip(pixel) {
            count[usize::from(v)] += 1;
        }
    }
    counts
}

/// `255 - v`.
pub fn invert(image: RgbImage) -> RgbImage {
    map(image, |v| 255 - v)
}

/// Inverts the values that are not below `threshold` (0 to 256).
pub fn solarize(image: RgbImage, threshold: f64) -> RgbImage {
    map(
        image,
        |v| if f64::from(v) < threshold { v } else { 255 - v },
    )
}

/// Keeps the highest `bits` bits of each value; 8 or more change nothing.
pub fn posterize(image: RgbImage, bits: u32) -> RgbImage {
    let mask = 0xFFu8.checked_shl(8u32.saturating_sub(bits)).unwrap_or(0);
    map(image, |v| v & mask)
}

/// Stretches each channel so that its darkest value becomes 0 and its lightest 255.
pub fn autocontrast(image: RgbImage) -> RgbImage {
    let tables = histograms(&image).map(|counts| {
        let low = counts.iter().position(|&n| n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|&n| n > 0).unwrap_or(0);
        let scale = 255.0 / high.saturating_sub(low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|v| {
            if high <= low {
                v as u8
            } else {
                // Truncated, and the cast stops at 0 and 255.
                (v as f64 * scale + offset) as u8
            }
        })
    });
    map_channels(image, &tables)
}

/// Equalises the histogram of each channel, with Pillow's whole-number steps.
pub fn equalize(image: RgbImage) -> RgbImage {
    let tables = histograms(&image).map(|counts| {
        let last = counts.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
        // With one value alone the sum is 0 and so is the step.
        let step = (counts.iter().sum::<u32>() - last) / 255;
        let mut sum = step / 2;
        std::array::from_fn(|v| {
            let value = sum
                .checked_div(step)
                .map_or(v as u32, |value| value.min(255));
            sum += counts[v];
            value as u8
        })
    });
    map_channels(image, &tables)
}

/// Pillow's `Image.blend` for one value: from `a` at factor 0 to `b` at factor 1 and beyond, in
/// f32, truncated.
fn blend(a: u8, b: u8, factor: f32) -> u8 {
    // The cast stops at 0 and 255.
    (f32::from(a) + factor * (f32::from(b) - f32::from(a))) as u8
}

/// Brightness: 0 is black, 1 the image itself.
pub fn brightness(image: RgbImage, factor: f64) -> RgbImage {
    map(image, |v| blend(0, v, factor as f32))
}

/// Contrast: 0 is the mean grey value, 1 the image itself.
pub fn contrast(image: RgbImage, factor: f64) -> RgbImage {
    let pixels = image.as_raw().len() / 3;
    let sum: u64 = image
        .chunks_exact(3)
        .map(|p| u64::from(luma(p[0], p[1], p[2])))
        .sum();
    let mean = (sum as f64 / pixels.max(1) as f64 + 0.5) as u8;
    map(image, |v| blend(mean, v, factor as f32))
}

/// Saturation: 0 is the grey image, 1 the image itself.
pub fn color(mut image: RgbImage, factor: f64) -> RgbImage {
    let factor = factor as f32;
    for p in image.chunks_exact_mut(3) {
        let grey = luma(p[0], p[1], p[2]);
        for v in p {
            *v = blend(grey, *v, factor);
        }
    }
    image
}

/// Grey, repeated over the channels (Pillow's `convert("L")`).
pub fn grayscale(mut image: RgbImage) -> RgbImage {
    for p in image.chunks_exact_mut(3) {
        let grey = luma(p[0], p[1], p[2]);
        p.fill(grey);
    }
    image
}

/// Adds `add` to the values below `threshold`, up to 255 (timm's `SolarizeAdd`).
pub fn solarize_add(image: RgbImage, add: u8, threshold: u8) -> RgbImage {
    map(image, |v| {
        if v < threshold {
            v.saturating_add(add)
        } else {
            v
        }
    })
}

/// Turns the hue by `factor` of a whole turn (-0.5 to 0.5), as torchvision's `adjust_hue` does on
/// a Pillow image: through Pillow's 8-bit HSV, there and back.
pub fn hue(mut image: RgbImage, factor: f64) -> RgbImage {
    // numpy's cast of a float to uint8 goes round, and so does the addition.
    let turn = (factor * 255.0) as i32 as u8;
    for p in image.chunks_exact_mut(3) {
        let [h, s, v] = rgb_to_hsv([p[0], p[1], p[2]]);
        p.copy_from_slice(&hsv_to_rgb([h.wrapping_add(turn), s, v]));
    }
    image
}

/// Pillow's `rgb2hsv`, in its mixture of f32 and f64.
fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(max - v) / range);
    let h = if r == max {
        bc - gc
    } else if g == max {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    let h = ((f64::from(h) / 6.0 + 1.0) % 1.0) as f32;
    [
        (f64::from(h) * 255.0) as u8,
        (f64::from(saturation) * 255.0) as u8,
        max,
    ]
}

/// Pillow's `hsv2rgb`.
fn hsv_to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let sixths = f64::from(h) * 6.0 / 255.0;
    let sector = sixths.floor();
    let f = (sixths - sector) as f32;
    let fs = (f64::from(s) / 255.0) as f32;
    let shares = [
        f64::from(fs),
        f64::from(fs * f),
        f64::from(fs) * (1.0 - f64::from(f)),
    ];
    // C's `round` takes halves away from zero, as Rust's does.
    let [p, q, t] = shares.map(|share| (f64::from(v) * (1.0 - share)).round() as u8);
    match sector as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Pillow's `GaussianBlur(radius)`: three box blurs along the rows, then three along the columns,
/// each with a fractional radius and in 24-bit fixed point. `radius` is the standard deviation, in
/// pixels.
pub fn gaussian_blur(image: RgbImage, radius: f64) -> RgbImage {
    const PASSES: usize = 3;
    let box_radius = box_radius(radius as f32, PASSES as f32);
    if box_radius.is_nan() || box_radius <= 0.0 || image.is_empty() {
        return image;
    }
    let (width, height) = (image.width() as usize, image.height() as usize);
    let whole = box_radius as usize;
    let inner = ((1 << 24) as f32 / (box_radius * 2.0 + 1.0)) as u32;
    let outer = ((1 << 24) - (2 * whole as u32 + 1) * inner) / 2;
    let row = width * 3;
    let mut pixels = image.into_raw();
    // One line with its ends repeated, so that the window needs no case for the border.
    let reach = whole + 1;
    let mut line = scratch::buffer();
    let mut blur = |pixels: &mut [u8], start: usize, step: usize, n: usize| {
        for _ in 0..PASSES {
            line.clear();
            line.resize(reach, pixels[start]);
            line.extend((0..n).map(|i| pixels[start + i * step]));
            line.resize(n + 2 * reach, pixels[start + (n - 1) * step]);
            let mut sum: u32 = line[1..2 * whole + 2].iter().map(|&v| u32::from(v)).sum();
            for i in 0..n {
                let far = u32::from(line[i]) + u32::from(line[i + 2 * reach]);
                pixels[start + i * step] = ((sum * inner + far * outer + (1 << 23)) >> 24) as u8;
                sum = sum + u32::from(line[i + 2 * reach]) - u32::from(line[i + 1]);
            }
        }
    };
    for y in 0..height {
        for c in 0..3 {
            blur(&mut pixels, y * row + c, 3, width);
        }
    }
    for at in 0..row {
        blur(&mut pixels, at, row, height);
    }
    scratch::keep(line);
    super::from_raw(width as u32, height as u32, pixels)
}

/// Radius of the box whose repetition has the standard deviation `sigma` (Gwosdek et al. 2011), in
/// Pillow's mixture of f32 and f64.
fn box_radius(sigma: f32, passes: f32) -> f32 {
    let variance = sigma * sigma / passes;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let mut rest = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    rest /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
    whole + rest
}

/// Sharpness: 0 is the image smoothed by a 3x3 kernel, 1 the image itself. The border, one pixel
/// wide, is not smoothed, so it stays.
pub fn sharpness(image: RgbImage, factor: f64) -> RgbImage {
    let factor = factor as f32;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if factor == 1.0 || width < 3 || height < 3 {
        return image;
    }
    const EDGE: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let row = width * 3;
    let source = image.as_raw();
    let mut out = scratch::copy(source);
    for y in 1..height - 1 {
        let line = |y: usize| &source[y * row..(y + 1) * row];
        let (above, here, below) = (line(y - 1), line(y), line(y + 1));
        let target = &mut out[y * row..(y + 1) * row];
        for i in 3..row - 3 {
            // Pillow adds up in f32, the lower row first; another order rounds otherwise.
            let sum3 = |l: &[u8], middle: f32| {
                f32::from(l[i - 3]) * EDGE + f32::from(l[i]) * middle + f32::from(l[i + 3]) * EDGE
            };
            let smooth = 0.5 + sum3(below, EDGE) + sum3(here, MIDDLE) + sum3(above, EDGE);
            target[i] = blend(smooth as u8, here[i], factor);
        }
    }
    let (width, height) = image.dimensions();
    scratch::recycle(image);
    super::from_raw(width, height, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn ramp() -> RgbImage {
        RgbImage::from_fn(16, 16, |x, y| Rgb([(y * 16 + x) as u8; 3]))
    }

    #[test]
    fn luma_of_the_primaries() {
        assert_eq!(luma(255, 0, 0), 76);
        assert_eq!(luma(0, 255, 0), 150);
        assert_eq!(luma(0, 0, 255), 29);
        assert_eq!(luma(255, 255, 255), 255);
    }

    #[test]
    fn tables() {
        assert_eq!(invert(invert(ramp())), ramp());
        assert_eq!(solarize(ramp(), 256.0), ramp());
        assert_eq!(solarize(ramp(), 0.0), invert(ramp()));
        assert_eq!(posterize(ramp(), 8), ramp());
        assert!(posterize(ramp(), 0).iter().all(|&v| v == 0));
        assert_eq!(posterize(ramp(), 4)[(15, 15)].0, [240; 3]);
    }

    #[test]
    fn flat_images_stay() {
        let flat = RgbImage::from_pixel(4, 4, Rgb([5, 100, 250]));
        assert_eq!(autocontrast(flat.clone()), flat);
        assert_eq!(equalize(flat.clone()), flat);
        assert_eq!(sharpness(flat.clone(), 1.9), flat);
        assert_eq!(autocontrast(RgbImage::new(0, 0)), RgbImage::new(0, 0));
        assert_eq!(contrast(RgbImage::new(0, 0), 0.5), RgbImage::new(0, 0));
    }

    #[test]
    fn autocontrast_uses_the_whole_range() {
        let image = RgbImage::from_fn(3, 1, |x, _| Rgb([50 + 10 * x as u8, 7, 0]));
        let out = autocontrast(image);
        assert_eq!(out[(0, 0)].0, [0, 7, 0]);
        assert_eq!(out[(1, 0)].0, [127, 7, 0]);
        assert_eq!(out[(2, 0)].0, [255, 7, 0]);
    }

    #[test]
    fn factor_one_is_the_image() {
        assert_eq!(brightness(ramp(), 1.0), ramp());
        assert_eq!(contrast(ramp(), 1.0), ramp());
        assert_eq!(color(ramp(), 1.0), ramp());
        assert_eq!(sharpness(ramp(), 1.0), ramp());
        assert!(brightness(ramp(), 0.0).iter().all(|&v| v == 0));
        assert_eq!(brightness(ramp(), 9.0)[(15, 15)].0, [255; 3]);
        assert!(contrast(ramp(), 0.0).iter().all(|&v| v == 128));
    }
}

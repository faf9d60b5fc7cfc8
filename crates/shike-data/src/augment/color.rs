//! Changing colours: look-up tables and Pillow's `ImageEnhance` blends.

use image::RgbImage;

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
    let mut out = source.clone();
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
    super::from_raw(image.width(), image.height(), out)
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

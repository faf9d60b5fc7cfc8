//! Where experts look: class activation maps over pictures.

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb, RgbImage};
use shike_infer::{ActivationMap, Predictor};

/// What is seen most is drawn in orange: among the colours of the plots, and in no gradient with green.
const COLOUR: [f32; 3] = [230.0, 81.0, 0.0];

/// A picture as the network takes it, and for each expert the same with a shade over what speaks for the class: the
/// stronger, the more, each expert by its own strongest place. None where the network has no such maps.
pub(super) fn looks(
    predictor: &Predictor,
    picture: RgbImage,
    class: usize,
) -> Option<Vec<RgbImage>> {
    let prepared = predictor.prepare(picture).ok()?;
    let maps = predictor.activation_maps(&prepared, class)?;
    let mut drawn = vec![prepared.pixels().clone()];
    drawn.extend(maps.iter().map(|map| shaded(prepared.pixels(), map)));
    Some(drawn)
}

fn shaded(picture: &RgbImage, map: &ActivationMap) -> RgbImage {
    let highest = map.values.iter().copied().fold(0.0, f32::max);
    // What all of the picture has is no place.
    let lowest = map
        .values
        .iter()
        .copied()
        .fold(f32::INFINITY, f32::min)
        .max(0.0);
    let range = (highest - lowest).max(f32::MIN_POSITIVE);
    let small = ImageBuffer::from_fn(map.width as u32, map.height as u32, |x, y| {
        let value = map.values[y as usize * map.width + x as usize];
        Luma([((value - lowest) / range).max(0.0)])
    });
    let (width, height) = picture.dimensions();
    let strength = resize(&small, width, height, FilterType::Triangle);
    RgbImage::from_fn(width, height, |x, y| {
        let by = 0.75 * strength.get_pixel(x, y).0[0].clamp(0.0, 1.0);
        let Rgb(below) = *picture.get_pixel(x, y);
        Rgb(std::array::from_fn(|c| {
            (f32::from(below[c]) * (1.0 - by) + COLOUR[c] * by).round() as u8
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_place_is_shaded_most_and_what_speaks_against_not_at_all() {
        let picture = RgbImage::from_pixel(40, 20, Rgb([0, 0, 200]));
        let map = |values: [f32; 2]| ActivationMap::new(1, 2, values.to_vec());
        let drawn = shaded(&picture, &map([-3.0, 2.0]));
        assert_eq!(drawn.get_pixel(0, 10), &Rgb([0, 0, 200]));
        assert_eq!(drawn.get_pixel(39, 10), &Rgb([173, 61, 50]));
        // A little everywhere is nowhere.
        assert_eq!(
            shaded(&picture, &map([2.0, 4.0])),
            shaded(&picture, &map([0.0, 2.0]))
        );
        // Nothing speaks for the class.
        assert_eq!(shaded(&picture, &map([-3.0, -2.0])), picture);
    }
}

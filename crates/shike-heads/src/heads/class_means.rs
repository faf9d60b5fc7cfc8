//! Nearest class mean: the cosine between a picture and the mean of a class.

use super::Head;
use crate::error::Result;
use crate::prepare::{Rows, Training, to_unit_length};
use crate::scorer::Scorer;

/// The cosine to each mean.
pub const CLASS_MEANS: Head = Head::new(
    "class-means",
    "nearest class mean (cosine)",
    Rows::UnitLength,
    fit,
);

/// What a cosine is multiplied with before a softmax; the temperature corrects it.
pub(super) const SCALE: f32 = 20.0;

fn fit(training: &Training, _: f64) -> Result<Scorer> {
    let mut weights = training.class_means();
    to_unit_length(&mut weights, training.width);
    weights.iter_mut().for_each(|w| *w *= SCALE);
    Ok(Scorer::linear(
        Rows::UnitLength,
        weights,
        vec![0.0; training.classes()],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::tests_support::fixed;

    #[test]
    fn weights_are_the_directions_of_class_means_by_hand() {
        // Rows of length 1: (1, 0), (0.6, 0.8) of class 0 and (-1, 0) of class 1.
        let training = fixed(&[1.0, 0.0, 0.6, 0.8, -1.0, 0.0], &[0, 0, 1], 2);
        let scorer = (CLASS_MEANS.fit)(&training, 0.0);
        let length = (0.8f32 * 0.8 + 0.4 * 0.4).sqrt();
        let Ok(Scorer::Linear { weights, .. }) = scorer else {
            panic!("{scorer:?}")
        };
        let expected = [16.0 / length, 8.0 / length, -20.0, 0.0];
        for (weight, expected) in weights.iter().zip(expected) {
            assert!((weight - expected).abs() < 1e-5, "{weights:?}");
        }
    }
}

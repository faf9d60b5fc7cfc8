//! Whether a model is right as often as it says.

use serde::{Deserialize, Serialize};

use super::{Evaluation, ImageScore, Shot};

/// Number of bins of confidence, as in Guo et al., ICML 2017.
const BINS: usize = 15;

/// Confidence and accuracy in bins of equal width (Guo et al., "On Calibration of Modern Neural
/// Networks", ICML 2017, eq. 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Calibration {
    /// Expected calibration error, in percent: the distance of confidence and accuracy, averaged over
    /// the images.
    pub error: f64,
    /// From the lowest confidence to the highest.
    pub bins: Vec<Bin>,
}

/// Images of about the same confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bin {
    /// Number of images.
    pub images: usize,
    /// Mean probability of the predicted class, in percent; 0 without images.
    pub confidence: f64,
    /// Share of the predictions that are right, in percent; 0 without images.
    pub accuracy: f64,
}

impl Calibration {
    /// Of these images; `None` without any.
    pub fn of<'a>(scores: impl Iterator<Item = &'a ImageScore>) -> Option<Self> {
        let mut bins = vec![Bin::default(); BINS];
        for score in scores {
            // Bins are open below and closed above.
            let place = (f64::from(score.confidence) * BINS as f64).ceil() as usize;
            let bin = &mut bins[place.clamp(1, BINS) - 1];
            bin.images += 1;
            bin.confidence += 100.0 * f64::from(score.confidence);
            bin.accuracy += 100.0 * f64::from(u8::from(score.is_correct()));
        }
        let total: usize = bins.iter().map(|bin| bin.images).sum();
        let distances = bins
            .iter()
            .map(|bin| (bin.accuracy - bin.confidence).abs())
            .sum::<f64>();
        for bin in &mut bins {
            let images = bin.images.max(1) as f64;
            bin.confidence /= images;
            bin.accuracy /= images;
        }
        (total > 0).then(|| Self {
            error: distances / total as f64,
            bins,
        })
    }
}

impl Evaluation {
    /// Calibration of the ensemble over all images.
    pub fn calibration(&self) -> Option<Calibration> {
        Calibration::of(self.scores.iter())
    }

    /// Mean confidence less accuracy over the images of a group of classes, in points: above 0 the model is surer
    /// than it is right. A group is chosen by the true class, which no model knows: even a perfectly calibrated
    /// one is surer than right on classes that it rarely finds. So this is a signed gap and no calibration error.
    pub fn confidence_gap(&self, shot: Shot) -> Option<f64> {
        let of_group = |score: &&ImageScore| {
            let row = self.per_class.get(score.label as usize);
            row.is_some_and(|row| row.shot == shot)
        };
        let scores = self.scores.iter().filter(of_group);
        let gap = |score: &ImageScore| {
            f64::from(score.confidence) - f64::from(u8::from(score.is_correct()))
        };
        let count = scores.clone().count();
        (count > 0).then(|| 100.0 * scores.map(gap).sum::<f64>() / count as f64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_mean_distance_of_confidence_and_accuracy() {
        let score = |confidence: f32, correct: bool| ImageScore {
            label: 0,
            predicted: Some(u32::from(!correct)),
            confidence,
        };
        // 0.75 and 0.65 lie in different bins of a fifteenth: 3 of 4 right at 75 %, and 0 of 1 at 65 %.
        let scores = [
            score(0.75, true),
            score(0.75, true),
            score(0.75, true),
            score(0.75, false),
            score(0.65, false),
        ];
        let found = Calibration::of(scores.iter()).unwrap();
        assert!((found.error - 65.0 / 5.0).abs() < 1e-5, "{}", found.error);
        assert_eq!(found.bins[11].images, 4);
        assert_eq!(found.bins[9].images, 1);
        assert_eq!(Calibration::of([].iter()), None);
        let certain = Calibration::of([score(1.0, true), score(0.0, false)].iter()).unwrap();
        assert_eq!(certain.error, 0.0);
        assert_eq!((certain.bins[0].images, certain.bins[14].images), (1, 1));
    }
}

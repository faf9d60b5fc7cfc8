//! How well a test set of this size tells an accuracy.

use super::{ClassRow, Evaluation, Shot};

/// The 97.5 % point of the normal distribution: two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// A class whose interval is wider than this many points has too few test images to tell.
pub const TOO_WIDE: f64 = 40.0;

/// A range that holds the true accuracy with 95 % confidence, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Upper less lower end, in points.
    pub fn width(&self) -> f64 {
        self.high - self.low
    }

    /// Wilson's score interval (Wilson 1927) of `correct` out of `images`; `None` without images. It is
    /// right for few images and for shares near 0 and 1, where the normal approximation gives a
    /// width of 0.
    pub fn wilson(correct: usize, images: usize) -> Option<Self> {
        if images == 0 {
            return None;
        }
        let n = images as f64;
        let share = correct as f64 / n;
        let scale = 1.0 / (1.0 + Z * Z / n);
        let centre = (share + Z * Z / (2.0 * n)) * scale;
        let half = Z * scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        Some(Self::around(centre, half))
    }

    fn around(centre: f64, half: f64) -> Self {
        Self {
            low: (100.0 * (centre - half)).max(0.0),
            high: (100.0 * (centre + half)).min(100.0),
        }
    }

    /// Of the unweighted mean of class accuracies, which papers report: classes are independent, so
    /// that their variances add up. Each is taken at (correct + 2) / (images + 4) (Agresti and
    /// Coull 1998), because even a class with all images right is uncertain.
    fn class_averaged<'a>(rows: impl Iterator<Item = &'a ClassRow>) -> Option<Self> {
        let (mut classes, mut mean, mut variance) = (0.0, 0.0, 0.0);
        for row in rows.filter(|row| row.test_count > 0) {
            let images = row.test_count as f64;
            let share = (row.correct as f64 + 2.0) / (images + 4.0);
            classes += 1.0;
            mean += row.correct as f64 / images;
            variance += share * (1.0 - share) / (images + 4.0);
        }
        (classes > 0.0).then(|| Self::around(mean / classes, Z * variance.sqrt() / classes))
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.1}–{:.1}", self.low, self.high))
    }
}

impl ClassRow {
    /// The range of the class's accuracy; `None` without test images.
    pub fn interval(&self) -> Option<Interval> {
        Interval::wilson(self.correct, self.test_count)
    }

    /// Whether the class has too few test images for its accuracy to mean much: an interval wider
    /// than [`TOO_WIDE`], or none.
    pub fn too_few(&self) -> bool {
        self.interval()
            .is_none_or(|interval| interval.width() > TOO_WIDE)
    }
}

impl Evaluation {
    /// The range of the ensemble's top-1 accuracy.
    pub fn top1_interval(&self) -> Option<Interval> {
        let correct = self.per_class.iter().map(|row| row.correct).sum();
        Interval::wilson(correct, self.images)
    }

    /// The range of the ensemble's class-averaged accuracy over a group, or over all classes.
    pub fn averaged_interval(&self, shot: Option<Shot>) -> Option<Interval> {
        let rows = self.per_class.iter();
        Interval::class_averaged(rows.filter(|row| shot.is_none_or(|shot| row.shot == shot)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_values() {
        // Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
        for (correct, images, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let found = Interval::wilson(correct, images).unwrap();
            assert!((found.low / 100.0 - low).abs() < 1e-4, "{found:?}");
            assert!((found.high / 100.0 - high).abs() < 1e-4, "{found:?}");
        }
        assert_eq!(Interval::wilson(0, 0), None);
    }

    #[test]
    fn more_images_and_more_classes_tell_more() {
        let row = |correct, test_count| ClassRow {
            class: 0,
            train_count: 5,
            test_count,
            shot: Shot::Few,
            correct,
            accuracy: None,
        };
        assert!(row(3, 5).too_few() && row(0, 0).too_few());
        assert!(!row(60, 100).too_few());
        let width = |rows: &[ClassRow]| Interval::class_averaged(rows.iter()).unwrap().width();
        let one = width(&[row(6, 10)]);
        assert!(width(&[row(60, 100)]) < one / 2.5);
        let four = width(&[row(6, 10), row(6, 10), row(6, 10), row(6, 10)]);
        assert!((four - one / 2.0).abs() < 1e-9);
        // A class that is always right is not certain.
        assert!(width(&[row(10, 10)]) > 10.0);
    }
}

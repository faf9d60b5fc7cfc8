//! How well a test set of this size tells an accuracy.

use super::{ClassRow, Evaluation, Interval, Measure, Metric, Over};

/// A class whose interval is wider than this many points has too few test images to tell.
pub(super) const TOO_WIDE: f64 = 40.0;

impl ClassRow {
    /// The range of the class's accuracy; `None` without test images.
    pub fn interval(&self) -> Option<Interval> {
        Interval::wilson(self.correct, self.test_count)
    }

    /// Whether the class has too few test images for its accuracy to mean much: an interval wider
    /// than 40 points, or none.
    pub fn too_few(&self) -> bool {
        self.interval()
            .is_none_or(|interval| interval.width() > TOO_WIDE)
    }
}

impl Evaluation {
    /// The 95 % interval of an accuracy of the ensemble; none of a loss, or without images.
    pub fn interval(&self, metric: Metric) -> Option<Interval> {
        let value = self.ensemble.get(metric)?;
        let rows = self.per_class.iter();
        let rows = rows.filter(|row| metric.shot.is_none_or(|shot| row.shot == shot));
        match (metric.over, metric.of) {
            (Over::Images, Measure::Top1 | Measure::Top5) => {
                let images: usize = rows.map(|row| row.test_count).sum();
                let correct = (value * images as f64 / 100.0).round() as usize;
                Interval::wilson(correct, images)
            }
            (Over::Classes, Measure::Top1) => {
                Interval::class_averaged(rows.map(|row| (row.correct, row.test_count)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Shot;

    #[test]
    fn a_class_of_few_images_tells_little() {
        let row = |correct, test_count| ClassRow {
            class: 0,
            train_count: 5,
            test_count,
            shot: Shot::Few,
            correct,
            predicted: 0,
            accuracy: None,
            auroc: None,
            average_precision: None,
        };
        assert!(row(3, 5).too_few() && row(0, 0).too_few());
        assert!(!row(60, 100).too_few());
    }
}

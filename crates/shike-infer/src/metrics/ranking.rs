//! How well probabilities tell the images of a class from all others.

use super::Metric;

/// Numbers that are kept, at most: 256 MiB.
const MOST: usize = 1 << 26;

/// The logarithms of the probabilities of all classes of each image.
#[derive(Clone, Debug)]
pub(super) struct Ranking {
    classes: usize,
    labels: Vec<u32>,
    /// `[images, classes]`
    pub log_probabilities: Vec<f32>,
    /// There were more than can be kept.
    full: bool,
}

/// Of a class against the rest, in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ranked {
    pub auroc: f64,
    pub average_precision: f64,
}

impl Ranking {
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            labels: vec![],
            log_probabilities: vec![],
            full: false,
        }
    }

    /// Keeps the softmax of an image's logits. Those that are not finite rank below all others.
    pub fn add(&mut self, logits: &[f32], label: u32) {
        self.full |= self.log_probabilities.len() + self.classes > MOST;
        if self.full {
            self.log_probabilities = vec![];
            return;
        }
        self.labels.push(label);
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(l - highest).exp()).sum();
        let log = |logit: &f32| match sum.is_finite() {
            true => (f64::from(logit - highest) - sum.ln()) as f32,
            false => f32::NEG_INFINITY,
        };
        self.log_probabilities.extend(logits.iter().map(log));
    }

    /// By class; none where all images are of it or none is, or where there were too many to keep.
    pub fn by_class(&self) -> Vec<Option<Ranked>> {
        if self.full {
            return vec![None; self.classes];
        }
        let mut order: Vec<(f32, bool)> = Vec::with_capacity(self.labels.len());
        let mut ranked = |class: usize| {
            order.clear();
            let rows = self.log_probabilities.chunks_exact(self.classes);
            let rows = rows.zip(&self.labels);
            order.extend(rows.map(|(row, label)| (row[class], *label as usize == class)));
            order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            of_class(&order)
        };
        (0..self.classes).map(&mut ranked).collect()
    }
}

/// The two means over the classes that have a value.
pub(super) fn means(ranked: &[Option<Ranked>]) -> [(Metric, Option<f64>); 2] {
    let mean = |value: fn(&Ranked) -> f64| {
        let values = ranked.iter().flatten().map(value);
        let count = values.clone().count();
        (count > 0).then(|| values.sum::<f64>() / count as f64)
    };
    [
        (Metric::AUROC, mean(|ranked| ranked.auroc)),
        (
            Metric::AVERAGE_PRECISION,
            mean(|ranked| ranked.average_precision),
        ),
    ]
}

/// Of images from the highest probability to the lowest, with whether they are of the class. Images of the same
/// probability come at once, as in scikit-learn's `roc_auc_score` and `average_precision_score`.
pub(super) fn of_class(order: &[(f32, bool)]) -> Option<Ranked> {
    let positive = order.iter().filter(|(_, own)| *own).count() as f64;
    let negative = order.len() as f64 - positive;
    if positive == 0.0 || negative == 0.0 {
        return None;
    }
    let (mut own, mut others, mut area, mut precision) = (0.0, 0.0, 0.0, 0.0);
    for equal in order.chunk_by(|a, b| a.0 == b.0) {
        let hits = equal.iter().filter(|(_, own)| *own).count() as f64;
        let misses = equal.len() as f64 - hits;
        area += misses * (own + hits / 2.0);
        own += hits;
        others += misses;
        precision += hits * own / (own + others);
    }
    Some(Ranked {
        auroc: 100.0 * area / (positive * negative),
        average_precision: 100.0 * precision / positive,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// scikit-learn 1.9: `roc_auc_score(y, s)`, `average_precision_score(y, s)`.
    #[test]
    fn as_scikit_learn() {
        let scored = [0.9, 0.8, 0.8, 0.6, 0.6, 0.6, 0.2, 0.1];
        let own = [1, 0, 1, 1, 0, 0, 1, 0].map(|own| own == 1);
        let order: Vec<(f32, bool)> = scored.into_iter().zip(own).collect();
        let found = of_class(&order).unwrap();
        assert_eq!(found.auroc, 65.625);
        assert!((found.average_precision - 68.452_380_952_380_95).abs() < 1e-12);
        assert_eq!(of_class(&order[..1]), None);
    }

    #[test]
    fn classes_are_ranked_by_probability() {
        let mut ranking = Ranking::new(2);
        // By the logit of class 1 alone the second image would come first.
        for (logits, label) in [([0.0, 1.0], 1), ([5.0, 2.0], 0), ([f32::NAN, 9.0], 1)] {
            ranking.add(&logits, label);
        }
        let ranked = ranking.by_class();
        // Class 0 against the rest: 0.27, 0.95 (its own), none.
        assert_eq!(ranked[0].unwrap().auroc, 100.0);
        // Class 1: 0.73 (own), 0.05, none (own).
        assert_eq!(ranked[1].unwrap().auroc, 50.0);
        let [(_, auroc), _] = means(&ranked);
        assert_eq!(auroc, Some(75.0));
    }
}

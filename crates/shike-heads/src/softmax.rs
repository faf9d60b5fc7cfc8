//! Log-probabilities, their loss, the best temperature, and the loss of a linear layer with its gradient.

use rayon::prelude::*;

use crate::lbfgs::{self, Stop};
use crate::linalg::{self, CHUNK};
use crate::prepare::Training;

/// Turns rows of scores into log-probabilities.
pub(crate) fn log_softmax(rows: &mut [f32], classes: usize) {
    rows.par_chunks_mut(classes).for_each(|row| {
        let log = log_sum(row);
        row.iter_mut().for_each(|v| *v -= log);
    });
}

/// The logarithm of the sum of exponentials.
fn log_sum(row: &[f32]) -> f32 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = row.iter().map(|v| (v - most).exp()).sum();
    most + sum.ln()
}

/// What each class counts in a held-out loss; the sum is 1 (all are 0 if no class has two pictures).
///
/// A class of one picture has no say: without it the class would be unknown. Classes of two, which have one left when the
/// other is held out, speak for up to two of these each; every other class counts the same.
pub(crate) fn class_weights(counts: &[usize]) -> Vec<f64> {
    let of = |pictures: usize| counts.iter().filter(|&&n| n == pictures).count() as f64;
    let two = 1.0 + (of(1) / of(2).max(1.0)).min(2.0);
    let weight = |&count: &usize| match count {
        0 | 1 => 0.0,
        2 => two,
        _ => 1.0,
    };
    let weights: Vec<f64> = counts.iter().map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum.max(1.0)).collect()
}

/// The factor on scores with the lowest loss, and that loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    pub factor: f64,
    pub loss: f64,
}

impl Scale {
    /// No scale that was tried yet.
    pub const NONE: Self = Self {
        factor: 1.0,
        loss: f64::INFINITY,
    };
}

/// A factor on scores `[pictures, classes]`, made smaller where with it the weighted mean of the highest probability of n
/// pictures would be above (n + 1) / (n + 2): where all of them are right, the [best](best_scale) has no end, and n
/// pictures tell no more than that (Laplace's rule of succession).
pub(crate) fn not_too_sure(scores: &[f32], weights: &[f64], classes: usize, factor: f64) -> f64 {
    let n = weights.iter().filter(|weight| **weight > 0.0).count() as f64;
    let highest = |factor: f64| -> f64 {
        let rows = scores.chunks_exact(classes).zip(weights);
        let of = |(row, weight): (&[f32], &f64)| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row
                .iter()
                .map(|v| (factor * f64::from(v - top)).exp())
                .sum();
            weight / sum
        };
        rows.map(of).sum()
    };
    let most = weights.iter().sum::<f64>() * (n + 1.0) / (n + 2.0);
    if highest(factor) <= most {
        return factor;
    }
    let (mut low, mut high) = (0.0, factor);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        match highest(middle) > most {
            true => high = middle,
            false => low = middle,
        }
    }
    low
}

/// The factor that scores `[pictures, classes]` have to be multiplied with so that the weighted log-loss of their softmax
/// is lowest, by Newton's method: the loss is convex in it.
pub(crate) fn best_scale(scores: &[f32], labels: &[u32], weights: &[f64], classes: usize) -> Scale {
    let at = |factor: f64| -> [f64; 3] {
        let part = |rows: std::ops::Range<usize>| {
            let mut sums = [0.0; 3];
            for i in rows.filter(|&i| weights[i] > 0.0) {
                let row = &scores[i * classes..][..classes];
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let (mut sum, mut first, mut second) = (0.0f32, 0.0f32, 0.0f32);
                for v in row.iter().map(|v| v - most) {
                    let p = (v * factor as f32).exp();
                    sum += p;
                    first += p * v;
                    second += p * v * v;
                }
                let (sum, first, second) = (f64::from(sum), f64::from(first), f64::from(second));
                let own = f64::from(row[labels[i] as usize] - most);
                let mean = first / sum;
                let add = [
                    sum.ln() - factor * own,
                    mean - own,
                    second / sum - mean * mean,
                ];
                sums.iter_mut()
                    .zip(add)
                    .for_each(|(s, a)| *s += weights[i] * a);
            }
            sums
        };
        let starts: Vec<usize> = (0..labels.len()).step_by(CHUNK).collect();
        let parts: Vec<[f64; 3]> = starts
            .par_iter()
            .map(|&start| part(start..(start + CHUNK).min(labels.len())))
            .collect();
        parts
            .iter()
            .fold([0.0; 3], |a, b| [a[0] + b[0], a[1] + b[1], a[2] + b[2]])
    };
    let mut best = Scale::NONE;
    let mut factor = 1.0;
    let (mut low, mut high) = (1e-3, 1e3);
    for _ in 0..40 {
        let [loss, slope, bend] = at(factor);
        if loss < best.loss {
            best = Scale { factor, loss };
        }
        if slope > 0.0 {
            high = factor;
        } else {
            low = factor;
        }
        // Newton's step where it stays between what is known to be too low and too high.
        let newton: f64 = factor - slope / bend;
        let next = if newton > low && newton < high {
            newton
        } else {
            (low * high).sqrt()
        };
        if (next / factor - 1.0).abs() < 1e-4 {
            break;
        }
        factor = next;
    }
    best
}

/// Cross-entropy of a linear layer: logits `scale · x · w_c + b_c + offset_c`, the mean over the pictures, plus
/// `penalty · Σ ‖w_c − centre_c‖²`.
pub(crate) struct Layer<'a> {
    pub training: &'a Training,
    /// Added to each class's logit in training only, `[classes]`.
    pub offset: Vec<f32>,
    pub scale: f32,
    /// Whether weights are of length 1 (a cosine head).
    pub unit: bool,
    /// Whether a bias is learnt; without, it stays 0.
    pub bias: bool,
    pub penalty: f64,
    /// What the weights are held to, `[classes, width]`; nothing is 0.
    pub centre: Option<Vec<f32>>,
}

impl Layer<'_> {
    /// Minimises the loss from `start` `[classes, width]`; weights that are ready to multiply rows with, and a bias.
    pub fn fit(&self, start: Vec<f32>, stop: Stop) -> (Vec<f32>, Vec<f32>) {
        let classes = self.training.classes();
        let mut x = start;
        let weights = x.len();
        x.resize(weights + if self.bias { classes } else { 0 }, 0.0);
        let mut logits = vec![0.0; self.training.pictures() * classes];
        lbfgs::minimise(&mut x, stop, |x, gradient| {
            self.loss(x, gradient, &mut logits)
        });
        let mut bias = x.split_off(weights);
        bias.resize(classes, 0.0);
        let (mut scaled, _) = self.directions(&x);
        scaled.iter_mut().for_each(|w| *w *= self.scale);
        (scaled, bias)
    }

    /// The weights that rows are multiplied with, and the lengths that they were divided by.
    fn directions(&self, weights: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let length = |row: &[f32]| linalg::dot(row, row).sqrt().max(1e-12) as f32;
        let rows = weights.chunks_exact(self.training.width);
        if !self.unit {
            return (weights.to_vec(), vec![]);
        }
        let lengths: Vec<f32> = rows.clone().map(length).collect();
        let divide =
            |(row, length): (&[f32], &f32)| row.iter().map(|w| w / length).collect::<Vec<_>>();
        (rows.zip(&lengths).flat_map(divide).collect(), lengths)
    }

    /// The loss at `x`; `logits` `[pictures, classes]` is room to work in.
    fn loss(&self, x: &[f32], gradient: &mut [f32], logits: &mut [f32]) -> f64 {
        let Training {
            values,
            width,
            labels,
            ..
        } = self.training;
        let (pictures, classes) = (labels.len(), self.training.classes());
        let (weights, bias) = x.split_at(classes * width);
        let (directions, lengths) = self.directions(weights);
        linalg::times_transposed(values, &directions, *width, logits);
        // Logits become the loss's slopes along them.
        let share = 1.0 / pictures as f32;
        let losses: Vec<f64> = logits
            .par_chunks_mut(CHUNK * classes)
            .zip(labels.par_chunks(CHUNK))
            .map(|(rows, labels)| {
                let mut loss = 0.0;
                for (row, &label) in rows.chunks_exact_mut(classes).zip(labels) {
                    for (c, v) in row.iter_mut().enumerate() {
                        *v = *v * self.scale + self.offset[c] + bias.get(c).unwrap_or(&0.0);
                    }
                    let log = log_sum(row);
                    loss += f64::from(log - row[label as usize]);
                    row.iter_mut().for_each(|v| *v = (*v - log).exp() * share);
                    row[label as usize] -= share;
                }
                loss
            })
            .collect();
        let (to_weights, to_bias) = gradient.split_at_mut(classes * width);
        if self.bias {
            let mut sums = vec![0.0f64; classes];
            for row in logits.chunks_exact(classes) {
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(s, v)| *s += f64::from(*v));
            }
            to_bias
                .iter_mut()
                .zip(sums)
                .for_each(|(g, s)| *g = s as f32);
        }
        linalg::transposed_times(logits, values, pictures, to_weights);
        to_weights.iter_mut().for_each(|g| *g *= self.scale);
        let along = to_weights
            .chunks_exact_mut(*width)
            .zip(directions.chunks_exact(*width));
        for ((g, direction), length) in along.zip(&lengths) {
            // A change of length changes nothing.
            let part = linalg::dot(g, direction) as f32;
            for (g, d) in g.iter_mut().zip(direction) {
                *g = (*g - part * d) / length;
            }
        }
        let mut distance = 0.0;
        if self.penalty > 0.0 {
            let centre = self
                .centre
                .iter()
                .flatten()
                .copied()
                .chain(std::iter::repeat(0.0));
            for ((g, w), centre) in to_weights.iter_mut().zip(weights).zip(centre) {
                let from = f64::from(w - centre);
                distance += from * from;
                *g += (2.0 * self.penalty * from) as f32;
            }
        }
        losses.iter().sum::<f64>() / pictures as f64 + self.penalty * distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Depth, Features};
    use crate::prepare::Rows;

    #[test]
    fn log_probabilities_add_up_to_one() {
        let mut rows = [0.0, 0.0, 1000.0, -1000.0];
        log_softmax(&mut rows, 2);
        assert!((rows[0] + 2f32.ln()).abs() < 1e-6 && (rows[1] + 2f32.ln()).abs() < 1e-6);
        assert_eq!(rows[2..], [0.0, -2000.0]);
    }

    #[test]
    fn a_class_of_one_has_no_say_and_classes_of_two_speak_for_it() {
        assert_eq!(class_weights(&[3, 9, 5, 4]), [0.25; 4]);
        assert_eq!(class_weights(&[1, 2, 4, 4]), [0.0, 0.5, 0.25, 0.25]);
        // For two of the three, not for all.
        assert_eq!(class_weights(&[1, 1, 1, 2, 9]), [0.0, 0.0, 0.0, 0.75, 0.25]);
        assert_eq!(class_weights(&[1, 1, 1]), [0.0; 3]);
    }

    #[test]
    fn the_best_scale_by_hand() {
        // Scores (1, 0), three of four pictures right: the best probability is 3/4, so the factor is ln 3.
        let scores = [1.0, 0.0].repeat(4);
        let best = best_scale(&scores, &[0, 0, 0, 1], &[0.25; 4], 2);
        assert!((best.factor - 3f64.ln()).abs() < 1e-4, "{best:?}");
        let entropy = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!((best.loss - entropy).abs() < 1e-6, "{best:?}");
        assert_eq!(
            not_too_sure(&scores, &[0.25; 4], 2, best.factor),
            best.factor
        );
        // Three pictures, all right: 4/5, and so the factor is ln 4.
        let found = not_too_sure(&[1.0, 0.0].repeat(3), &[1.0 / 3.0; 3], 2, 60.0);
        assert!((found - 4f64.ln()).abs() < 1e-6, "{found}");
        assert_eq!(not_too_sure(&[1.0, 0.0], &[0.0], 2, 1.0), 1.0);
        // All right: as large as may be. Scores that say nothing, and nobody with a say: finite.
        assert!(best_scale(&[1.0, 0.0], &[0], &[1.0], 2).loss < 1e-6);
        assert!((best_scale(&[0.0, 0.0], &[0], &[1.0], 2).loss - 2f64.ln()).abs() < 1e-6);
        assert_eq!(best_scale(&[1.0, 0.0], &[0], &[0.0], 2).loss, 0.0);
    }

    #[test]
    fn slopes_are_those_of_the_loss() {
        let values = [0.5, -1.0, 2.0, 0.3, -0.7, 1.1, 0.2, 0.9];
        let depths = Depth::side_by_side([("a", 2)]);
        let features =
            Features::new(&values, &[0, 1, 2, 0], 3, &depths).unwrap_or_else(|e| panic!("{e}"));
        let training = Training::of(&features, &[0, 1, 2, 3], &depths, Rows::UnitLength);
        for (unit, bias) in [(false, true), (true, false)] {
            let layer = Layer {
                training: &training,
                offset: vec![0.1, -0.4, 0.2],
                scale: 3.0,
                unit,
                bias,
                penalty: 0.05,
                centre: Some(vec![0.3; 6]),
            };
            let mut x = vec![0.2, -0.5, 0.7, 0.4, -0.3, 0.6];
            if bias {
                x.extend([0.1, 0.0, -0.2]);
            }
            let mut room = vec![0.0; 12];
            let mut slopes = vec![0.0; x.len()];
            layer.loss(&x, &mut slopes, &mut room);
            for i in 0..x.len() {
                let mut at = |step: f32| {
                    let mut x = x.clone();
                    x[i] += step;
                    layer.loss(&x, &mut vec![0.0; x.len()], &mut room)
                };
                let measured = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!(
                    (measured - f64::from(slopes[i])).abs() < 2e-3,
                    "{unit} {i}: {measured} {slopes:?}"
                );
            }
        }
    }
}

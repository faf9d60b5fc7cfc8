//! How a fitted head turns prepared rows into scores.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::linalg::{self, CHUNK};
use crate::prepare::{Rows, to_unit_length};
use crate::softmax::log_softmax;

/// A fitted head without what prepares its rows. Serialised, it is its shape without its numbers: those are tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Scorer {
    /// The same for every class.
    Uniform,
    /// x · w_c + b_c.
    Linear {
        /// How rows are prepared.
        rows: Rows,
        /// `[classes, width]`.
        #[serde(skip)]
        weights: Vec<f32>,
        /// `[classes]`.
        #[serde(skip)]
        bias: Vec<f32>,
    },
    /// The classes of the nearest training pictures.
    Neighbours {
        /// How many have a vote.
        votes: usize,
        /// How many there are.
        pictures: usize,
        /// Their rows, of length 1, `[pictures, width]`.
        #[serde(skip)]
        support: Vec<f32>,
        /// Their classes, `[pictures]`.
        #[serde(skip)]
        labels: Vec<f32>,
    },
    /// Σ_i exp(−γ ‖x − x_i‖²) a_ic over the training pictures.
    Kernel {
        /// γ.
        gamma: f32,
        /// How many there are.
        pictures: usize,
        /// Their rows, of length 1, `[pictures, width]`.
        #[serde(skip)]
        support: Vec<f32>,
        /// `[pictures, classes]`.
        #[serde(skip)]
        coefficients: Vec<f32>,
    },
    /// The average of the log-probabilities of others.
    Average {
        /// The others.
        parts: Vec<Scorer>,
    },
}

/// A scorer's numbers by name, with the shape that they have to have.
pub(crate) struct Slot<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: &'a mut Vec<f32>,
}

impl Scorer {
    pub(crate) fn linear(rows: Rows, weights: Vec<f32>, bias: Vec<f32>) -> Self {
        Self::Linear {
            rows,
            weights,
            bias,
        }
    }

    /// All tensors, whose names begin with `prefix`.
    pub(crate) fn slots(&mut self, prefix: &str, width: usize, classes: usize) -> Vec<Slot<'_>> {
        let slot = |name: &str, shape: [usize; 2], values| Slot {
            name: format!("{prefix}.{name}"),
            // A vector has one length.
            shape: shape.into_iter().filter(|n| *n != 0).collect(),
            values,
        };
        match self {
            Self::Uniform => vec![],
            Self::Linear { weights, bias, .. } => vec![
                slot("weight", [classes, width], weights),
                slot("bias", [classes, 0], bias),
            ],
            Self::Neighbours {
                pictures,
                support,
                labels,
                ..
            } => vec![
                slot("support", [*pictures, width], support),
                slot("labels", [*pictures, 0], labels),
            ],
            Self::Kernel {
                pictures,
                support,
                coefficients,
                ..
            } => vec![
                slot("support", [*pictures, width], support),
                slot("coefficients", [*pictures, classes], coefficients),
            ],
            Self::Average { parts } => {
                let parts = parts.iter_mut().enumerate();
                parts
                    .flat_map(|(at, part)| part.slots(&format!("{prefix}.{at}"), width, classes))
                    .collect()
            }
        }
    }

    /// Scores `[pictures, classes]` of standardised rows `[pictures, width]`.
    pub(crate) fn scores(&self, standardised: &[f32], width: usize, classes: usize) -> Vec<f32> {
        let pictures = standardised.len() / width;
        let mut scores = vec![0.0; pictures * classes];
        let unit = || {
            let mut rows = standardised.to_vec();
            to_unit_length(&mut rows, width);
            rows
        };
        match self {
            Self::Uniform => {}
            Self::Linear {
                rows,
                weights,
                bias,
            } => {
                let rows = match rows {
                    Rows::Standardised => standardised,
                    Rows::UnitLength => &unit(),
                };
                linalg::times_transposed(rows, weights, width, &mut scores);
                scores.par_chunks_mut(classes).for_each(|row| {
                    row.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
                });
            }
            Self::Neighbours {
                votes,
                pictures,
                support,
                labels,
            } => {
                let vote = |near: &mut [f32], scores: &mut [f32]| {
                    scores
                        .par_chunks_mut(classes)
                        .zip(near.par_chunks(*pictures))
                        .for_each(|(scores, near)| vote(near, labels, *votes, scores));
                };
                against(&unit(), support, width, &mut scores, classes, vote);
            }
            Self::Kernel {
                gamma,
                support,
                coefficients,
                pictures,
            } => {
                let sum = |near: &mut [f32], scores: &mut [f32]| {
                    gaussian(near, *gamma);
                    linalg::times(near, coefficients, *pictures, scores);
                };
                against(&unit(), support, width, &mut scores, classes, sum);
            }
            Self::Average { parts } => {
                for part in parts {
                    let mut log = part.scores(standardised, width, classes);
                    log_softmax(&mut log, classes);
                    let share = log.iter().map(|v| v / parts.len() as f32);
                    scores.iter_mut().zip(share).for_each(|(s, v)| *s += v);
                }
            }
        }
        scores
    }
}

/// Gives `then` the products of rows with all of `support`, and the scores to fill, a few rows at a time.
fn against(
    rows: &[f32],
    support: &[f32],
    width: usize,
    scores: &mut [f32],
    classes: usize,
    then: impl Fn(&mut [f32], &mut [f32]),
) {
    let pictures = support.len() / width;
    let height = ((1 << 24) / pictures.max(1)).clamp(1, CHUNK);
    let mut near = vec![];
    for (rows, scores) in rows
        .chunks(height * width)
        .zip(scores.chunks_mut(height * classes))
    {
        near.resize(rows.len() / width * pictures, 0.0);
        linalg::times_transposed(rows, support, width, &mut near);
        then(&mut near, scores);
    }
}

/// exp(−γ ‖a − b‖²) of products of rows of length 1.
pub(crate) fn gaussian(products: &mut [f32], gamma: f32) {
    let of = |product: &mut f32| *product = (2.0 * gamma * (product.min(1.0) - 1.0)).exp();
    products.par_iter_mut().for_each(of);
}

/// The logarithm of each class's votes, smoothed by one vote for all classes together. Of classes with as many votes
/// the one whose pictures are nearer is ahead.
fn vote(near: &[f32], labels: &[f32], votes: usize, scores: &mut [f32]) {
    let mut nearest: Vec<(f32, usize)> = vec![];
    for (picture, &product) in near.iter().enumerate() {
        if nearest.len() == votes && nearest.last().is_some_and(|last| product <= last.0) {
            continue;
        }
        // Behind those that are as near: the order of the pictures decides.
        let at = nearest.partition_point(|other| other.0 >= product);
        nearest.insert(at, (product, picture));
        nearest.truncate(votes);
    }
    let classes = scores.len() as f32;
    scores.fill(1.0 / classes);
    for (product, picture) in nearest {
        if let Some(score) = scores.get_mut(labels[picture] as usize) {
            *score += 1.0 + 1e-3 * product;
        }
    }
    scores
        .iter_mut()
        .for_each(|s| *s = (*s / (votes as f32 + 1.0)).ln());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_by_hand() {
        let scorer = Scorer::Neighbours {
            votes: 3,
            pictures: 5,
            support: vec![1.0, 0.0, 0.8, 0.6, 0.6, 0.8, 0.0, 1.0, -1.0, 0.0],
            labels: vec![0.0, 1.0, 1.0, 2.0, 2.0],
        };
        // Near (1, 0): pictures 0, 1, 2, so one vote for class 0 and two for class 1; of length 10 all the same.
        let scores = scorer.scores(&[10.0, 0.0], 2, 3);
        let expected = [1.0 + 1.0 / 3.0 + 1e-3, 2.0 + 1.0 / 3.0 + 1.4e-3, 1.0 / 3.0];
        for (score, expected) in scores.iter().zip(expected) {
            assert!(
                (score - (expected / 4.0f32).ln()).abs() < 1e-5,
                "{scores:?}"
            );
        }
    }

    #[test]
    fn as_many_votes_go_to_the_nearer() {
        let mut scores = [0.0; 2];
        vote(&[0.5, 0.9], &[0.0, 1.0], 2, &mut scores);
        assert!(scores[1] > scores[0]);
        vote(&[0.9, 0.5], &[0.0, 1.0], 2, &mut scores);
        assert!(scores[0] > scores[1]);
    }

    #[test]
    fn kernels_by_hand() {
        let scorer = Scorer::Kernel {
            gamma: 0.5,
            pictures: 2,
            support: vec![1.0, 0.0, 0.0, 1.0],
            coefficients: vec![2.0, 0.0, 0.0, 4.0],
        };
        let far = (-1.0f32).exp();
        let scores = scorer.scores(&[3.0, 0.0], 2, 2);
        assert!(
            (scores[0] - 2.0).abs() < 1e-6 && (scores[1] - 4.0 * far).abs() < 1e-6,
            "{scores:?}"
        );
    }

    #[test]
    fn averages_are_of_log_probabilities() {
        let linear = |weights: [f32; 2]| {
            Scorer::linear(Rows::Standardised, weights.to_vec(), vec![0.0, 0.0])
        };
        let parts = vec![linear([1.0, 0.0]), linear([0.0, 3.0])];
        let scores = Scorer::Average { parts }.scores(&[1.0], 1, 2);
        let (a, b) = (1f32.exp(), 3f32.exp());
        let expected = [
            ((a / (a + 1.0)).ln() + (1.0 / (b + 1.0)).ln()) / 2.0,
            ((1.0 / (a + 1.0)).ln() + (b / (b + 1.0)).ln()) / 2.0,
        ];
        for (score, expected) in scores.iter().zip(expected) {
            assert!((score - expected).abs() < 1e-6, "{scores:?}");
        }
    }
}

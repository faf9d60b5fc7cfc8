//! Features as heads want them: chosen columns, standardised, of length 1.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::features::{Depth, Features};
use crate::linalg::{self, CHUNK};

/// How a head wants its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// Every column has mean 0 and deviation 1 over the training pictures.
    Standardised,
    /// Standardised, then every row has length 1.
    UnitLength,
}

/// Each column's mean and deviation over the training pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Standardisation {
    /// `[width]`.
    pub mean: Vec<f32>,
    /// One over the deviation, `[width]`; 0 for a column that is constant in training: it says nothing.
    pub inverse: Vec<f32>,
}

impl Standardisation {
    /// Of these pictures and depths.
    fn of(features: &Features, pictures: &[u32], depths: &[Depth]) -> Self {
        let n = pictures.len() as f64;
        let sums = |of: &(dyn Fn(usize, f32) -> f64 + Sync)| {
            let part = |pictures: &[u32]| {
                let mut sums = vec![0.0; width(depths)];
                for &picture in pictures {
                    let row = features.row(picture as usize);
                    for (at, (sum, value)) in sums.iter_mut().zip(columns(row, depths)).enumerate()
                    {
                        *sum += of(at, value);
                    }
                }
                sums
            };
            let parts: Vec<Vec<f64>> = pictures.par_chunks(CHUNK).map(part).collect();
            let add = |mut a: Vec<f64>, b: Vec<f64>| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            };
            parts.into_iter().reduce(add).unwrap_or_default()
        };
        let mut mean = sums(&|_, value| f64::from(value));
        mean.iter_mut().for_each(|sum| *sum /= n);
        let squares = sums(&|at, value| (f64::from(value) - mean[at]).powi(2));
        let inverse = |(square, mean): (f64, &f64)| {
            let deviation = (square / n).sqrt();
            // Rounding makes a deviation of a constant column.
            let constant =
                deviation <= 1e-6 * mean.abs() || deviation < f64::from(f32::MIN_POSITIVE);
            if constant {
                0.0
            } else {
                (1.0 / deviation) as f32
            }
        };
        Self {
            inverse: squares.into_iter().zip(&mean).map(inverse).collect(),
            mean: mean.into_iter().map(|m| m as f32).collect(),
        }
    }

    /// The chosen columns of `row`, standardised.
    pub fn apply(&self, row: &[f32], depths: &[Depth], into: &mut [f32]) {
        let scale = self.mean.iter().zip(&self.inverse);
        for ((into, value), (mean, inverse)) in into.iter_mut().zip(columns(row, depths)).zip(scale)
        {
            // A column with next to no deviation must not make infinity of another picture.
            *into = ((value - mean) * inverse).clamp(-1e6, 1e6);
        }
    }
}

/// The columns of `depths` in a row.
fn columns<'a>(row: &'a [f32], depths: &'a [Depth]) -> impl Iterator<Item = f32> + 'a {
    let of = |depth: &'a Depth| row[depth.columns.clone()].iter().copied();
    depths.iter().flat_map(of)
}

/// The number of columns of `depths`.
pub(crate) fn width(depths: &[Depth]) -> usize {
    depths.iter().map(|d| d.columns.len()).sum()
}

/// Gives every row length 1; a row of zeros stays.
pub(crate) fn to_unit_length(rows: &mut [f32], width: usize) {
    rows.par_chunks_mut(width).for_each(|row| {
        let length = linalg::dot(row, row).sqrt();
        if length > 0.0 {
            row.iter_mut()
                .for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
    });
}

/// Training pictures as a head is fitted on them.
#[derive(Clone, Debug)]
pub struct Training {
    /// Prepared features, `[pictures, width]`.
    pub(crate) values: Vec<f32>,
    /// The number of columns.
    pub(crate) width: usize,
    /// The class of each picture.
    pub(crate) labels: Vec<u32>,
    /// Pictures of each class, none of them 0.
    pub(crate) counts: Vec<usize>,
    pub(crate) standardisation: Standardisation,
    /// What each picture counts where it is left out, `[pictures]`; empty where nothing is chosen.
    pub(crate) weights: Vec<f64>,
    /// Pictures that are left out together, two and more each.
    pub(crate) groups: Vec<Vec<usize>>,
}

impl Training {
    /// Prepares `pictures` of `features`, with the columns of `depths` alone; every class has to be among them.
    pub(crate) fn of(features: &Features, pictures: &[u32], depths: &[Depth], rows: Rows) -> Self {
        let standardisation = Standardisation::of(features, pictures, depths);
        let width = width(depths);
        let mut values = vec![0.0; pictures.len() * width];
        values
            .par_chunks_mut(width)
            .zip(pictures)
            .for_each(|(into, &picture)| {
                standardisation.apply(features.row(picture as usize), depths, into);
            });
        if rows == Rows::UnitLength {
            to_unit_length(&mut values, width);
        }
        let label = |&picture: &u32| features.labels()[picture as usize];
        let labels: Vec<u32> = pictures.iter().map(label).collect();
        let mut counts = vec![0; features.classes()];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        Self {
            values,
            width,
            labels,
            counts,
            standardisation,
            weights: vec![],
            groups: vec![],
        }
    }

    /// The number of pictures.
    pub fn pictures(&self) -> usize {
        self.labels.len()
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.counts.len()
    }

    /// The logarithm of each class's share of the pictures.
    pub fn log_prior(&self) -> Vec<f32> {
        let n = self.pictures() as f64;
        let log = |&count: &usize| (count as f64 / n).ln() as f32;
        self.counts.iter().map(log).collect()
    }

    /// The mean of each class's rows, `[classes, width]`.
    pub fn class_means(&self) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.classes() * self.width];
        for (row, &label) in self.values.chunks_exact(self.width).zip(&self.labels) {
            let sum = &mut sums[label as usize * self.width..][..self.width];
            sum.iter_mut()
                .zip(row)
                .for_each(|(s, v)| *s += f64::from(*v));
        }
        let means = sums.chunks_exact(self.width).zip(&self.counts);
        let mean = |(sums, &count): (&[f64], &usize)| -> Vec<f32> {
            sums.iter().map(|s| (s / count as f64) as f32).collect()
        };
        means.flat_map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_standardised_and_constant_ones_say_nothing() {
        let values = [1.0, 5.0, 7.0, 3.0, 5.0, 7.0];
        let depths = Depth::side_by_side([("a", 2), ("b", 1)]);
        let features =
            Features::new(&values, &[0, 1], 2, &depths).unwrap_or_else(|e| panic!("{e}"));
        let training = Training::of(&features, &[0, 1], &depths, Rows::Standardised);
        assert_eq!(training.values, [-1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        // Another picture's value in a constant column changes nothing.
        let mut row = [0.0; 3];
        training
            .standardisation
            .apply(&[2.0, 99.0, -99.0], &depths, &mut row);
        assert_eq!(row, [0.0, 0.0, 0.0]);
    }

    #[test]
    fn rows_have_length_one_and_zeros_stay() {
        let mut rows = [3.0, 4.0, 0.0, 0.0];
        to_unit_length(&mut rows, 2);
        assert_eq!(rows, [0.6, 0.8, 0.0, 0.0]);
    }

    #[test]
    fn huge_and_tiny_values_stay_finite() {
        let values = [1e38, 1e-38, -1e38, 3e-38, 1e38, 2e-38];
        let depths = Depth::side_by_side([("a", 2)]);
        let features =
            Features::new(&values, &[0, 1, 1], 2, &depths).unwrap_or_else(|e| panic!("{e}"));
        let training = Training::of(&features, &[0, 1, 2], &depths, Rows::UnitLength);
        assert!(training.values.iter().all(|v| v.is_finite()));
        let mut row = [0.0; 2];
        training
            .standardisation
            .apply(&[-3e38, 3e38], &depths, &mut row);
        assert!(row.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn class_means_and_priors_by_hand() {
        let values = [0.0, 1.0, 2.0, 5.0];
        let depths = Depth::side_by_side([("a", 1)]);
        let features =
            Features::new(&values, &[0, 0, 0, 1], 2, &depths).unwrap_or_else(|e| panic!("{e}"));
        let training = Training::of(&features, &[0, 1, 2, 3], &depths, Rows::Standardised);
        // Mean 2, deviation sqrt(3.5).
        let expected = [-1.0 / 3.5f32.sqrt(), 3.0 / 3.5f32.sqrt()];
        for (mean, expected) in training.class_means().iter().zip(expected) {
            assert!((mean - expected).abs() < 1e-6);
        }
        assert_eq!(training.log_prior(), [0.75f32.ln(), 0.25f32.ln()]);
        assert_eq!(training.counts, [3, 1]);
    }
}

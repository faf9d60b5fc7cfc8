//! Which images an epoch shows, and in what order.
//!
//! Decoupled training (Kang et al. 2020, arXiv 1910.09217) draws class `c` with probability
//! `p_c = n_c^q / sum_k n_k^q`: instance-balanced (q = 1), square-root (q = 1/2), class-balanced
//! (q = 0), or a mixture that moves from the first to the last (their equation 3).

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::rng::{Draw, Purpose, rng};

/// How the images of an epoch are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Sampling {
    /// Every image once, in random order: the usual shuffling, and the reference's.
    #[default]
    Instance,
    /// Every class equally often; images drawn with replacement.
    ClassBalanced,
    /// Classes in proportion to the square root of their size; with replacement.
    SquareRoot,
    /// `(1 - t/T)` instance-balanced and `t/T` class-balanced in epoch `t` of `T`; with
    /// replacement.
    ProgressivelyBalanced,
}

impl Sampling {
    /// Whether it makes up for the class frequencies, at least in part.
    pub fn balances(self) -> bool {
        self != Self::Instance
    }

    /// The probability of each class to be drawn in epoch `epoch` (from 0) of `total_epochs`, for classes
    /// of these numbers of images, `[classes]`; sums to 1. A class without an image has 0.
    pub fn shares(self, counts: &[usize], epoch: u64, total_epochs: u64) -> Vec<f64> {
        let power = |q: f64| -> Vec<f64> {
            let weight = |&n: &usize| if n == 0 { 0.0 } else { (n as f64).powf(q) };
            let weights: Vec<f64> = counts.iter().map(weight).collect();
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(|w| w / sum).collect()
        };
        match self {
            Self::Instance => power(1.0),
            Self::ClassBalanced => power(0.0),
            Self::SquareRoot => power(0.5),
            Self::ProgressivelyBalanced => {
                let t = (epoch as f64 / total_epochs.max(1) as f64).min(1.0);
                let (instance, balanced) = (power(1.0), power(0.0));
                instance
                    .iter()
                    .zip(&balanced)
                    .map(|(i, b)| (1.0 - t) * i + t * b)
                    .collect()
            }
        }
    }
}

/// The indices of the images of each class, `[classes]`, from their labels, which are below that.
pub(crate) fn by_class(labels: &[u32], num_classes: usize) -> Vec<Vec<u32>> {
    let mut classes = vec![Vec::new(); num_classes];
    for (i, &label) in (0..).zip(labels) {
        classes[label as usize].push(i);
    }
    classes
}

/// Draws the order of each epoch. Cheap next to an epoch; holds the indices grouped by class.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    len: usize,
    /// Indices of each class that has images.
    classes: Vec<Vec<u32>>,
}

impl Sampler {
    /// A sampler over the images with these `labels`, `[n]`.
    ///
    /// # Errors
    /// [`DataError::Field`] if there is no image or a label is not below `num_classes`.
    pub fn new(labels: &[u32], num_classes: usize, sampling: Sampling, seed: u64) -> Result<Self> {
        let wrong = |problem| DataError::field("labels", problem);
        if labels.is_empty() {
            return Err(wrong("is empty; a sampler needs an image".into()));
        }
        if u32::try_from(labels.len()).is_err() {
            return Err(wrong(format!("has {} entries, too many", labels.len())));
        }
        let outside = |&label: &u32| label as usize >= num_classes;
        if let Some(i) = labels.iter().position(outside) {
            return Err(wrong(format!(
                "image {i} has label {}, but there are {num_classes} classes",
                labels[i]
            )));
        }
        let mut classes = by_class(labels, num_classes);
        classes.retain(|class| !class.is_empty());
        Ok(Self {
            sampling,
            seed,
            len: labels.len(),
            classes,
        })
    }

    /// The indices of epoch `epoch` (from 0) of `total_epochs`: as many as there are images,
    /// whatever the strategy. The same arguments give the same indices.
    pub fn epoch_indices(&self, epoch: u64, total_epochs: u64) -> Vec<u32> {
        let mut draw = rng(self.seed, epoch, 0, Purpose::Shuffle);
        if self.sampling == Sampling::Instance {
            let mut order: Vec<u32> = (0..self.len as u32).collect();
            draw.shuffle(&mut order);
            return order;
        }
        let mut sum = 0.0;
        let sizes: Vec<usize> = self.classes.iter().map(Vec::len).collect();
        let cumulative: Vec<f64> = self
            .sampling
            .shares(&sizes, epoch, total_epochs)
            .into_iter()
            .map(|share| {
                sum += share;
                sum
            })
            .collect();
        (0..self.len)
            .map(|_| {
                let point = draw.unit() * sum;
                // Rounding may put the point on the very end.
                let class = cumulative
                    .partition_point(|&end| end <= point)
                    .min(cumulative.len() - 1);
                let images = &self.classes[class];
                images[draw.below(images.len() as u32) as usize]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Class 1 of 4 has no image.
    const COUNTS: [usize; 4] = [6000, 0, 1500, 500];

    fn labels() -> Vec<u32> {
        COUNTS
            .iter()
            .enumerate()
            .flat_map(|(class, &n)| vec![class as u32; n])
            .collect()
    }

    fn drawn(sampling: Sampling, epoch: u64, total: u64) -> [f64; 4] {
        let labels = labels();
        let order = Sampler::new(&labels, 4, sampling, 1)
            .unwrap()
            .epoch_indices(epoch, total);
        assert_eq!(order.len(), 8000);
        let mut counts = [0.0; 4];
        for i in order {
            counts[labels[i as usize] as usize] += 1.0;
        }
        counts
    }

    #[test]
    fn instance_is_a_permutation_that_changes_every_epoch() {
        let sampler = Sampler::new(&labels(), 4, Sampling::Instance, 1).unwrap();
        let first = sampler.epoch_indices(0, 10);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..8000));
        assert_ne!(first, sorted);
        assert_ne!(first, sampler.epoch_indices(1, 10));
        assert_eq!(first, sampler.epoch_indices(0, 99));
        let other = Sampler::new(&labels(), 4, Sampling::Instance, 2).unwrap();
        assert_ne!(first, other.epoch_indices(0, 10));
    }

    #[test]
    fn classes_come_in_the_wanted_proportion() {
        let root = [6000f64, 1500.0, 500.0].map(f64::sqrt);
        let root_sum: f64 = root.iter().sum();
        let third = 1.0 / 3.0;
        let cases: [(Sampling, u64, [f64; 4]); 5] = [
            (Sampling::ClassBalanced, 0, [third, 0.0, third, third]),
            (
                Sampling::SquareRoot,
                3,
                [
                    root[0] / root_sum,
                    0.0,
                    root[1] / root_sum,
                    root[2] / root_sum,
                ],
            ),
            (
                Sampling::ProgressivelyBalanced,
                0,
                [0.75, 0.0, 0.1875, 0.0625],
            ),
            (
                Sampling::ProgressivelyBalanced,
                5,
                [
                    (0.75 + third) / 2.0,
                    0.0,
                    (0.1875 + third) / 2.0,
                    (0.0625 + third) / 2.0,
                ],
            ),
            (
                Sampling::ProgressivelyBalanced,
                10,
                [third, 0.0, third, third],
            ),
        ];
        for (sampling, epoch, shares) in cases {
            let counts = drawn(sampling, epoch, 10);
            for (count, p) in counts.iter().zip(shares) {
                // Binomial: five standard deviations.
                let deviation = (8000.0 * p * (1.0 - p)).sqrt();
                assert!(
                    (count - 8000.0 * p).abs() <= 5.0 * deviation,
                    "{sampling:?} epoch {epoch}: {counts:?}, wanted {shares:?}"
                );
            }
        }
    }

    #[test]
    fn within_a_class_every_image_is_as_likely() {
        let labels: Vec<u32> = (0..1000).map(|i| u32::from(i >= 990)).collect();
        let sampler = Sampler::new(&labels, 2, Sampling::ClassBalanced, 3).unwrap();
        let mut counts = [0.0f64; 10];
        for epoch in 0..20 {
            for i in sampler.epoch_indices(epoch, 20) {
                if i >= 990 {
                    counts[i as usize - 990] += 1.0;
                }
            }
        }
        // 10,000 draws expected over ten images; nine degrees of freedom.
        let sum: f64 = counts.iter().sum();
        assert!((sum - 10_000.0).abs() < 5.0 * 70.8, "{sum}");
        let chi2: f64 = counts
            .iter()
            .map(|c| (c - sum / 10.0).powi(2) / (sum / 10.0))
            .sum();
        assert!(chi2 < 27.9, "{counts:?}");
    }

    #[test]
    fn wrong_labels() {
        assert!(Sampler::new(&[], 2, Sampling::Instance, 0).is_err());
        let error = Sampler::new(&[0, 2], 2, Sampling::Instance, 0).unwrap_err();
        assert!(error.to_string().contains("image 1 has label 2"), "{error}");
    }
}

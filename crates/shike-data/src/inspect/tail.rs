//! How long a tail is, in numbers.

use serde::{Deserialize, Serialize};

use crate::shots::{ByShot, ShotThresholds};

/// The sizes of classes, in numbers. Classes without an image do not count, but for the groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    /// Training images.
    pub images: usize,
    /// Classes with a training image.
    pub classes: usize,
    /// Images of the largest class.
    pub largest: usize,
    /// Images of the class in the middle (the upper one of two).
    pub median: usize,
    /// Images of the smallest class.
    pub smallest: usize,
    /// Largest over smallest; `None` without an image.
    pub imbalance_factor: Option<f64>,
    /// Gini coefficient of the sizes: 0 if they are equal, towards 1 if one class has all (Yang et
    /// al. 2022, *A Survey on Long-Tailed Visual Recognition*, recommend it, because the imbalance
    /// factor looks at two classes only); `None` without an image.
    pub gini: Option<f64>,
    /// Share of the images that the largest fifth of the classes (rounded up) holds; `None` without
    /// an image.
    pub head_share: Option<f64>,
    /// The groups of classes.
    #[serde(flatten)]
    pub groups: ByShot<GroupSize>,
}

/// The size of a group of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSize {
    /// Its classes.
    pub classes: usize,
    /// Their training images.
    pub images: usize,
}

impl Tail {
    /// The tail of classes with `counts` images, `[classes]`.
    pub fn new(counts: &[usize], thresholds: ShotThresholds) -> Self {
        let mut sizes: Vec<usize> = counts.iter().copied().filter(|&n| n > 0).collect();
        sizes.sort_unstable();
        let (classes, images) = (sizes.len(), sizes.iter().sum::<usize>());
        let total = images as f64;
        let some = |value: f64| (images > 0).then_some(value);
        let group = |shot| {
            let mut size = GroupSize::default();
            for &n in &sizes {
                if thresholds.group(n) == shot {
                    size.classes += 1;
                    size.images += n;
                }
            }
            size
        };
        let largest = sizes.last().copied().unwrap_or(0);
        let smallest = sizes.first().copied().unwrap_or(0);
        // Sorted ascending: G = 2 Σ i·x_i / (n Σ x) - (n + 1) / n, with i from 1.
        let ranked: f64 = (1..)
            .zip(&sizes)
            .map(|(i, &n)| f64::from(i) * n as f64)
            .sum();
        let n = classes as f64;
        let head = &sizes[classes - classes.div_ceil(5)..];
        Self {
            images,
            classes,
            largest,
            median: sizes.get(classes / 2).copied().unwrap_or(0),
            smallest,
            imbalance_factor: some(largest as f64 / smallest as f64),
            gini: some(2.0 * ranked / (n * total) - (n + 1.0) / n),
            head_share: some(head.iter().sum::<usize>() as f64 / total),
            groups: ByShot::of(group),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_of_a_tail() {
        // numpy: x = [1, 2, 3, 14]; |x_i - x_j| summed over all pairs / (2 n² mean) = 0.5
        let tail = Tail::new(
            &[14, 0, 2, 3, 1],
            ShotThresholds {
                many_above: 10,
                few_below: 3,
            },
        );
        assert_eq!((tail.images, tail.classes), (20, 4));
        assert_eq!((tail.largest, tail.median, tail.smallest), (14, 3, 1));
        assert_eq!(tail.imbalance_factor, Some(14.0));
        assert!((tail.gini.unwrap() - 0.5).abs() < 1e-12, "{:?}", tail.gini);
        assert_eq!(tail.head_share, Some(0.7));
        let size = |classes, images| GroupSize { classes, images };
        assert_eq!(tail.groups.many, size(1, 14));
        assert_eq!(tail.groups.medium, size(1, 3));
        // An empty class is in no group, as it is not counted above.
        assert_eq!(tail.groups.few, size(2, 3));
    }

    #[test]
    fn equal_classes_and_none() {
        let tail = Tail::new(&[5; 7], ShotThresholds::default());
        assert!(tail.gini.unwrap().abs() < 1e-12);
        assert_eq!(tail.imbalance_factor, Some(1.0));
        for counts in [&[][..], &[0, 0]] {
            let tail = Tail::new(counts, ShotThresholds::default());
            assert_eq!(
                (tail.imbalance_factor, tail.gini, tail.head_share),
                (None, None, None)
            );
        }
    }
}

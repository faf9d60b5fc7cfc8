//! Long-tail profiles: how many images each class keeps, and which ones.
//!
//! The rule is that of the reference (`datasets/imbalanced_cifar.py`), which goes back to Cui et
//! al. 2019 and Cao et al. 2019 (LDAM): class `c` of `C` keeps
//! `int(n_max * (1 / IF)^(c / (C - 1)))` images, the first ones in file order. IF, the imbalance
//! factor, is the size of the largest class over that of the smallest.

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// The shape of the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum LongTail {
    /// Class sizes fall geometrically from `n_max` to `n_max / IF`.
    #[cfg_attr(feature = "clap", value(name = "exp"))]
    Exponential,
    /// The first half of the classes keeps `n_max` images, the others `n_max / IF`.
    Step,
    /// Every class keeps `n_max` images.
    Balanced,
}

/// The number of images of each class, `[classes]`.
///
/// `n_max` is the size of the largest class, `imbalance_factor` at least 1 (100 for CIFAR100-LT).
/// With an odd number of classes [`LongTail::Step`] puts the middle class into the tail; the
/// reference has one class too few then.
///
/// # Errors
/// [`DataError::Field`] if there is no class, the factor is below 1 or not a number, or a
/// class would be left without an image.
///
/// ```
/// use shike_data::imbalance::{LongTail, class_counts};
///
/// let counts = class_counts(LongTail::Exponential, 500, 100, 100.0)?;
/// assert_eq!((counts[0], counts[99]), (500, 5));
/// assert_eq!(counts.iter().sum::<usize>(), 10_847);
/// # Ok::<(), shike_data::DataError>(())
/// ```
pub fn class_counts(
    profile: LongTail,
    n_max: usize,
    num_classes: usize,
    imbalance_factor: f64,
) -> Result<Vec<usize>> {
    if num_classes == 0 {
        return Err(DataError::field("num_classes", "is 0, must be at least 1"));
    }
    if !(imbalance_factor >= 1.0 && imbalance_factor.is_finite()) {
        return Err(DataError::field(
            "imbalance_factor",
            format!(
                "is {imbalance_factor}, must be at least 1 (largest class over smallest class, \
                 so 100 where the reference writes 0.01)"
            ),
        ));
    }
    let n = n_max as f64;
    // The reference is given the reciprocal; the quotient rounds to the same number.
    let smallest = 1.0 / imbalance_factor;
    let counts: Vec<usize> = (0..num_classes)
        .map(|c| match profile {
            LongTail::Exponential if num_classes > 1 => {
                (n * smallest.powf(c as f64 / (num_classes - 1) as f64)) as usize
            }
            LongTail::Step if num_classes > 1 && c >= num_classes / 2 => (n * smallest) as usize,
            _ => n_max,
        })
        .collect();
    match counts.iter().position(|&count| count == 0) {
        Some(class) => Err(DataError::field(
            "imbalance_factor",
            format!(
                "is {imbalance_factor}, which leaves class {class} without an image when the \
                 largest class has {n_max}; it has to be smaller"
            ),
        )),
        None => Ok(counts),
    }
}

/// The indices of the first `counts[c]` images of each class `c`, in file order, grouped by class
/// in ascending order, as the reference's `gen_imbalanced_data` does.
///
/// # Errors
/// [`DataError::Field`] if a label has no entry in `counts` or a class has too few images.
pub fn first_n_per_class(labels: &[u32], counts: &[usize]) -> Result<Vec<usize>> {
    let mut chosen: Vec<Vec<usize>> = counts.iter().map(|_| Vec::new()).collect();
    for (i, &label) in labels.iter().enumerate() {
        let class = chosen.get_mut(label as usize).ok_or_else(|| {
            DataError::field(
                "counts",
                format!(
                    "has {} classes, but image {i} has label {label}",
                    counts.len()
                ),
            )
        })?;
        if class.len() < counts[label as usize] {
            class.push(i);
        }
    }
    for (class, (found, &wanted)) in chosen.iter().zip(counts).enumerate() {
        if found.len() < wanted {
            return Err(DataError::field(
                "counts",
                format!(
                    "wants {wanted} images of class {class}, which has only {}; apply a profile \
                     to a data set at least as balanced as the profile",
                    found.len()
                ),
            ));
        }
    }
    Ok(chosen.concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn published_sizes() {
        let total = |profile, n, c, f| class_counts(profile, n, c, f).unwrap().iter().sum();
        let cases: [(LongTail, usize, usize, f64, usize); 6] = [
            (LongTail::Exponential, 500, 100, 100.0, 10_847),
            (LongTail::Exponential, 500, 100, 50.0, 12_608),
            (LongTail::Exponential, 500, 100, 10.0, 19_573),
            (LongTail::Exponential, 5000, 10, 100.0, 12_406),
            (LongTail::Step, 500, 100, 100.0, 25_250),
            (LongTail::Balanced, 500, 100, 100.0, 50_000),
        ];
        for (profile, n, c, f, want) in cases {
            let got: usize = total(profile, n, c, f);
            assert_eq!(got, want, "{profile:?} {n} {c} {f}");
        }
    }

    #[test]
    fn few_classes() {
        assert_eq!(class_counts(LongTail::Exponential, 9, 1, 3.0).unwrap(), [9]);
        assert_eq!(class_counts(LongTail::Step, 9, 1, 3.0).unwrap(), [9]);
        assert_eq!(class_counts(LongTail::Step, 9, 3, 3.0).unwrap(), [9, 3, 3]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (n, c, f, field) in [
            (500, 0, 100.0, "num_classes"),
            (500, 100, 0.01, "imbalance_factor"),
            (500, 100, f64::NAN, "imbalance_factor"),
            (500, 100, f64::INFINITY, "imbalance_factor"),
            (50, 100, 100.0, "imbalance_factor"),
            (0, 100, 1.0, "imbalance_factor"),
        ] {
            let error = class_counts(LongTail::Exponential, n, c, f).unwrap_err();
            assert!(error.to_string().starts_with(field), "{error}");
        }
        let error = first_n_per_class(&[0, 0, 1], &[2, 2]).unwrap_err();
        assert!(error.to_string().contains("2 images of class 1"), "{error}");
        let error = first_n_per_class(&[0, 5], &[1]).unwrap_err();
        assert!(error.to_string().contains("image 1 has label 5"), "{error}");
    }

    #[test]
    fn first_ones_in_file_order_grouped_by_class() {
        let labels = [2, 0, 1, 0, 2, 1, 0];
        assert_eq!(
            first_n_per_class(&labels, &[2, 1, 2]).unwrap(),
            [1, 3, 2, 0, 4]
        );
    }
}

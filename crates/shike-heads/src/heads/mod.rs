//! The heads, a file each. A new one is a file here and a line in [`HEADS`].

mod average;
mod class_means;
mod held;
mod kernel;
mod linear;
mod logistic;
mod neighbours;
mod none;
mod ridge;

use crate::error::{HeadError, Result};
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;

/// Every head, in the order of the table; a head that is made of others comes after them.
pub static HEADS: &[Head] = &[
    none::NONE,
    logistic::LOGISTIC,
    neighbours::NEIGHBOURS,
    class_means::CLASS_MEANS,
    held::HELD,
    ridge::USUAL,
    average::AVERAGE,
    ridge::RIDGE,
    linear::CROSS_ENTROPY,
    linear::ADJUSTED,
    linear::BALANCED,
    linear::COSINE,
    linear::COSINE_ADJUSTED,
    linear::COSINE_BALANCED,
    kernel::KERNEL_RIDGE,
];

/// The head that every other has to beat.
pub const DEFAULT: &str = "average";

/// One point of a path of strengths.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Strength {
    /// The factor on the penalty.
    pub strength: f64,
    /// The class-averaged log-loss at the best temperature, each picture and its group left out of its own fit.
    pub log_loss: f64,
}

/// A way to fit a classifier on features.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Head {
    /// What settings and stored heads call it.
    pub name: &'static str,
    /// What it does, in a line for a table.
    pub about: &'static str,
    /// How it wants its rows.
    pub rows: Rows,
    /// The most pictures that it is made for.
    pub most_pictures: Option<usize>,
    /// The heads whose log-probabilities this one is the average of; a head with parts fits nothing of its own.
    pub parts: &'static [&'static str],
    /// The factors on the logarithm of the classes' shares that may be taken off its scores; the best one is chosen
    /// (logit adjustment after training, Menon et al. 2021).
    pub taus: &'static [f32],
    /// Whether its scores stand for classes as frequent as among the training pictures, and not for equal ones.
    pub holds_prior: bool,
    /// The strength of its penalty where none can be chosen.
    pub usual_strength: f64,
    /// How it does with each strength of its penalty, leaving out one picture at a time, or a group of those that belong
    /// together; empty if there is no choice. A decomposition that fails is an error.
    pub path: fn(&Training) -> Result<Vec<Strength>>,
    /// Fits it with a strength of `path`. A decomposition that fails is an error.
    pub fit: fn(&Training, f64) -> Result<Scorer>,
}

impl Head {
    /// For any number of pictures, with nothing to choose, and scores for equal classes.
    const fn new(
        name: &'static str,
        about: &'static str,
        rows: Rows,
        fit: fn(&Training, f64) -> Result<Scorer>,
    ) -> Self {
        Self {
            name,
            about,
            rows,
            most_pictures: None,
            parts: &[],
            taus: &[0.0],
            holds_prior: false,
            usual_strength: 0.0,
            path: |_| Ok(vec![]),
            fit,
        }
    }
}

/// The head of this name.
///
/// # Errors
///
/// A name that no head has; the message lists those that there are.
pub fn head(name: &str) -> Result<&'static Head> {
    let known = HEADS.iter().find(|head| head.name == name);
    known.ok_or_else(|| HeadError::UnknownHead {
        name: name.into(),
        known: HEADS.iter().map(|h| h.name).collect::<Vec<_>>().join(", "),
    })
}

/// Refuses more pictures than a head is made for.
pub(crate) fn refuse_too_many(head: &Head, pictures: usize) -> Result<()> {
    match head.most_pictures {
        Some(most) if pictures > most => Err(HeadError::TooManyPictures {
            head: head.name,
            most,
            pictures,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    use crate::prepare::Training;

    /// Training pictures as they are given, not standardised.
    pub fn fixed(values: &[f32], labels: &[u32], classes: usize) -> Training {
        let mut counts = vec![0; classes];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        let classes = crate::softmax::class_weights(&counts);
        Training {
            values: values.to_vec(),
            width: values.len() / labels.len(),
            labels: labels.to_vec(),
            weights: labels
                .iter()
                .map(|&label| classes[label as usize] / counts[label as usize] as f64)
                .collect(),
            groups: vec![],
            counts,
            standardisation: Default::default(),
        }
    }

    /// Numbers that look random, the same each time.
    pub fn numbers(count: usize) -> Vec<f32> {
        let mut state = 1u64;
        let next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_parts_come_first() {
        for (at, head) in HEADS.iter().enumerate() {
            let before = |name: &str| HEADS[..at].iter().any(|h| h.name == name);
            assert!(!before(head.name), "{}", head.name);
            assert!(head.parts.iter().all(|part| before(part)), "{}", head.name);
        }
        assert!(head(DEFAULT).is_ok());
        let error = head("rigde")
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default();
        assert!(
            error.contains("\"rigde\"") && error.contains("ridge"),
            "{error}"
        );
    }
}

use core::fmt::Display;

use thiserror::Error;

/// A loss that cannot be had with these settings or on these classes.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossError {
    /// A class without an image has no prior, weight or margin.
    #[error(
        "class {class} has no training image: {consequence}; remove the class or give it an image"
    )]
    EmptyClass {
        /// Index of the class.
        class: usize,
        /// What the loss would be made of.
        consequence: &'static str,
    },
    /// A field is out of range.
    #[error("{field} = {found}: it must be {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it held.
        found: String,
        /// What would be right.
        expected: String,
    },
}

impl LossError {
    pub(super) fn check(
        field: &'static str,
        ok: bool,
        found: &dyn Display,
        expected: &str,
    ) -> Result<(), Self> {
        match ok {
            true => Ok(()),
            false => Err(Self::Field {
                field,
                found: found.to_string(),
                expected: expected.to_owned(),
            }),
        }
    }
}

/// The logarithms of training counts, which must not be 0.
pub(super) fn count_logs(
    counts: &[usize],
    consequence: &'static str,
) -> Result<Vec<f64>, LossError> {
    match counts.iter().position(|&count| count == 0) {
        Some(class) => Err(LossError::EmptyClass { class, consequence }),
        None => Ok(counts.iter().map(|&n| (n as f64).ln()).collect()),
    }
}

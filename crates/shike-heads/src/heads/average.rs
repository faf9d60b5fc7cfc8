//! Averages of log-probabilities.
//!
//! Ridge regression and balanced softmax held to class means err on different pictures, and a linear layer with
//! cross-entropy, adjusted for the classes' shares, on others again.

use super::Head;
use super::held::HELD;
use super::linear::CROSS_ENTROPY;
use super::ridge::USUAL;
use crate::error::Result;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;

/// See the module.
pub struct Average {
    name: &'static str,
    about: &'static str,
    rows: Rows,
    parts: &'static [(&'static str, f32)],
}

/// Of two.
pub static TWO: Average = Average {
    name: "average-of-two",
    about: "average of ridge and held to class means",
    rows: Rows::UnitLength,
    parts: &[("ridge-usual", 0.0), ("held-to-means", 0.0)],
};

/// The head that every other has to beat.
pub static THREE: Average = Average {
    name: super::DEFAULT,
    about: "average of ridge, held to class means, linear",
    rows: Rows::Standardised,
    parts: &[
        ("ridge-usual", 0.0),
        ("held-to-means", 0.0),
        ("linear", 1.0),
    ],
};

impl Head for Average {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn rows(&self) -> Rows {
        self.rows
    }

    fn parts(&self) -> &'static [(&'static str, f32)] {
        self.parts
    }

    fn usual_strength(&self) -> f64 {
        USUAL.usual_strength()
    }

    fn fit(&self, training: &Training, strength: f64) -> Result<Scorer> {
        let mut parts = vec![];
        let mut unit = None;
        if self.rows == Rows::Standardised {
            let mut linear = CROSS_ENTROPY.fit(training, 0.0)?;
            linear.shift(&training.log_prior());
            parts.push(linear);
            unit = Some(training.to_unit_length());
        }
        let unit = unit.as_ref().unwrap_or(training);
        parts.extend([USUAL.fit(unit, strength)?, HELD.fit(unit, 0.0)?]);
        Ok(Scorer::Average { parts })
    }
}

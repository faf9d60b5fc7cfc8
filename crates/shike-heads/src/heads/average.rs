//! The average of the log-probabilities of ridge regression and of balanced softmax held to class means.

use super::Head;
use super::held::HELD;
use super::ridge::USUAL;
use crate::error::Result;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;

/// See the module.
pub struct Average;

/// The head that every other has to beat.
pub static AVERAGE: Average = Average;

impl Head for Average {
    fn name(&self) -> &'static str {
        super::DEFAULT
    }

    fn about(&self) -> &'static str {
        "average of ridge and held to class means"
    }

    fn rows(&self) -> Rows {
        Rows::UnitLength
    }

    fn parts(&self) -> &'static [&'static str] {
        &["ridge-usual", "held-to-means"]
    }

    fn usual_strength(&self) -> f64 {
        USUAL.usual_strength()
    }

    fn fit(&self, training: &Training, strength: f64) -> Result<Scorer> {
        let parts = vec![USUAL.fit(training, strength)?, HELD.fit(training, 0.0)?];
        Ok(Scorer::Average { parts })
    }
}

//! The average of the log-probabilities of ridge regression and of balanced softmax held to class means.

use super::Head;
use super::held::HELD;
use super::ridge::USUAL;
use crate::error::Result;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;

/// The head that every other has to beat.
pub const AVERAGE: Head = Head {
    parts: &[USUAL.name, HELD.name],
    usual_strength: USUAL.usual_strength,
    ..Head::new(
        super::DEFAULT,
        "average of ridge and held to class means",
        Rows::UnitLength,
        fit,
    )
};

fn fit(training: &Training, strength: f64) -> Result<Scorer> {
    let parts = vec![(USUAL.fit)(training, strength)?, (HELD.fit)(training, 0.0)?];
    Ok(Scorer::Average { parts })
}

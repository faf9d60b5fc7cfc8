//! The nearest training pictures vote.

use super::Head;
use crate::error::Result;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;

/// See the module.
pub struct Neighbours;

/// The only one.
pub static NEIGHBOURS: Neighbours = Neighbours;

/// Pictures that vote.
const VOTES: usize = 5;

impl Head for Neighbours {
    fn name(&self) -> &'static str {
        "neighbours"
    }

    fn about(&self) -> &'static str {
        "5 nearest neighbours (cosine)"
    }

    fn holds_prior(&self) -> bool {
        true
    }

    fn rows(&self) -> Rows {
        Rows::UnitLength
    }

    fn fit(&self, training: &Training, _: f64) -> Result<Scorer> {
        Ok(Scorer::Neighbours {
            votes: VOTES.min(training.pictures()),
            pictures: training.pictures(),
            support: training.values.clone(),
            labels: training.labels.iter().map(|&label| label as f32).collect(),
        })
    }
}

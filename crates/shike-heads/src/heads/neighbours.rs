//! The nearest training pictures vote.

use super::Head;
use crate::error::Result;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;

/// Cosines say which are near.
pub const NEIGHBOURS: Head = Head {
    holds_prior: true,
    ..Head::new(
        "neighbours",
        "5 nearest neighbours (cosine)",
        Rows::UnitLength,
        fit,
    )
};

/// Pictures that vote.
const VOTES: usize = 5;

fn fit(training: &Training, _: f64) -> Result<Scorer> {
    Ok(Scorer::Neighbours {
        votes: VOTES.min(training.pictures()),
        pictures: training.pictures(),
        support: training.values.clone(),
        labels: training.labels.iter().map(|&label| label as f32).collect(),
    })
}

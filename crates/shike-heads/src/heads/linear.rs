//! A layer that starts from the class means, with cross-entropy or balanced softmax: linear, or of cosines.

use super::Head;
use crate::error::Result;
use crate::lbfgs::Stop;
use crate::linalg::dot;
use crate::prepare::{Rows, Training, to_unit_length};
use crate::scorer::Scorer;
use crate::softmax::Layer;

/// What cosines are multiplied with.
const SCALE: f32 = 16.0;

/// The factors of logit adjustment that are tried.
const TAUS: &[f32] = &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0];

/// With cross-entropy.
pub const CROSS_ENTROPY: Head = Head {
    holds_prior: true,
    ..Head::new(
        "linear",
        "linear, cross-entropy",
        Rows::Standardised,
        |training, _| fit(training, Rows::Standardised, 0.0),
    )
};

/// With cross-entropy, adjusted afterwards.
pub const ADJUSTED: Head = Head {
    name: "linear-adjusted",
    about: "linear, logit adjustment",
    parts: &[CROSS_ENTROPY.name],
    taus: TAUS,
    ..CROSS_ENTROPY
};

/// With balanced softmax (Ren et al. 2020).
pub const BALANCED: Head = Head::new(
    "linear-balanced",
    "linear, balanced softmax",
    Rows::Standardised,
    |training, _| fit(training, Rows::Standardised, 1.0),
);

/// Cosines with cross-entropy.
pub const COSINE: Head = Head {
    holds_prior: true,
    ..Head::new(
        "cosine",
        "cosine, cross-entropy",
        Rows::UnitLength,
        |training, _| fit(training, Rows::UnitLength, 0.0),
    )
};

/// Cosines with cross-entropy, adjusted afterwards.
pub const COSINE_ADJUSTED: Head = Head {
    name: "cosine-adjusted",
    about: "cosine, logit adjustment",
    parts: &[COSINE.name],
    taus: TAUS,
    ..COSINE
};

/// Cosines with balanced softmax.
pub const COSINE_BALANCED: Head = Head::new(
    "cosine-balanced",
    "cosine, balanced softmax",
    Rows::UnitLength,
    |training, _| fit(training, Rows::UnitLength, 1.0),
);

/// A layer of `rows`, trained with `tau` times the logarithm of the classes' shares on its logits; rows of unit length
/// make cosines.
fn fit(training: &Training, rows: Rows, tau: f32) -> Result<Scorer> {
    let cosine = rows == Rows::UnitLength;
    let pictures = training.pictures() as f64;
    let mut start = training.class_means();
    to_unit_length(&mut start, training.width);
    if !cosine {
        // Logits of some size for rows of their usual length.
        let length = (dot(&training.values, &training.values) / pictures).sqrt();
        let scale = (f64::from(super::class_means::SCALE) / length.max(1e-12)) as f32;
        start.iter_mut().for_each(|w| *w *= scale);
    }
    let layer = Layer {
        training,
        offset: training.log_prior().iter().map(|p| tau * p).collect(),
        scale: if cosine { SCALE } else { 1.0 },
        unit: cosine,
        bias: !cosine,
        penalty: if cosine { 0.0 } else { 0.5 / pictures },
        centre: None,
    };
    let stop = Stop {
        steps: 30,
        gradient: 1e-3,
    };
    let (weights, bias) = layer.fit(start, stop);
    Ok(Scorer::linear(rows, weights, bias))
}

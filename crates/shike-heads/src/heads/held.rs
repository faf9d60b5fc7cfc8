//! Balanced softmax that starts from the class means and is held to them.

use super::Head;
use super::class_means::SCALE;
use crate::error::Result;
use crate::lbfgs::Stop;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;
use crate::softmax::Layer;

/// Logits 20 · x·(μ_c + δ_c) + log prior, mean loss + 1e-2 Σ ‖δ_c‖².
pub const HELD: Head = Head::new(
    "held-to-means",
    "balanced softmax held to class means",
    Rows::UnitLength,
    fit,
);

fn fit(training: &Training, _: f64) -> Result<Scorer> {
    let means = training.class_means();
    let layer = Layer {
        training,
        offset: training.log_prior(),
        scale: SCALE,
        unit: false,
        bias: false,
        penalty: 1e-2,
        centre: Some(means.clone()),
    };
    let stop = Stop {
        steps: 100,
        gradient: 1e-4,
    };
    let (weights, bias) = layer.fit(means, stop);
    Ok(Scorer::linear(Rows::UnitLength, weights, bias))
}

//! Plain logistic regression, as everybody runs it on embeddings.

use super::Head;
use crate::error::Result;
use crate::lbfgs::Stop;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;
use crate::softmax::Layer;

/// scikit-learn's `LogisticRegression()`: C = 1, that is Σ loss + ½ Σ ‖w‖², from 0, up to 100 steps.
pub const LOGISTIC: Head = Head {
    holds_prior: true,
    ..Head::new(
        "logistic-regression",
        "logistic regression as scikit-learn's default",
        Rows::Standardised,
        fit,
    )
};

fn fit(training: &Training, _: f64) -> Result<Scorer> {
    let classes = training.classes();
    let layer = Layer {
        training,
        offset: vec![0.0; classes],
        scale: 1.0,
        unit: false,
        bias: true,
        penalty: 0.5 / training.pictures() as f64,
        centre: None,
    };
    let stop = Stop {
        steps: 100,
        gradient: 1e-3,
    };
    let (weights, bias) = layer.fit(vec![0.0; classes * training.width], stop);
    Ok(Scorer::linear(Rows::Standardised, weights, bias))
}

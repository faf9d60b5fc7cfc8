//! A linear layer that starts from the class means, with cross-entropy or balanced softmax.

use super::Head;
use crate::error::Result;
use crate::lbfgs::Stop;
use crate::linalg::dot;
use crate::prepare::{Rows, Training, to_unit_length};
use crate::scorer::Scorer;
use crate::softmax::Layer;

/// See the module.
pub struct Linear {
    name: &'static str,
    about: &'static str,
    /// What the logarithm of a class's share counts in training.
    tau: f32,
    parts: &'static [&'static str],
    taus: &'static [f32],
}

/// The factors of logit adjustment that are tried.
pub(super) const TAUS: &[f32] = &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0];

/// With cross-entropy.
pub static CROSS_ENTROPY: Linear = Linear {
    name: "linear",
    about: "linear, cross-entropy",
    tau: 0.0,
    parts: &[],
    taus: &[0.0],
};

/// With cross-entropy, adjusted afterwards.
pub static ADJUSTED: Linear = Linear {
    name: "linear-adjusted",
    about: "linear, logit adjustment",
    tau: 0.0,
    parts: &["linear"],
    taus: TAUS,
};

/// With balanced softmax (Ren et al. 2020).
pub static BALANCED: Linear = Linear {
    name: "linear-balanced",
    about: "linear, balanced softmax",
    tau: 1.0,
    parts: &[],
    taus: &[0.0],
};

impl Head for Linear {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn holds_prior(&self) -> bool {
        self.tau == 0.0
    }

    fn rows(&self) -> Rows {
        Rows::Standardised
    }

    fn parts(&self) -> &'static [&'static str] {
        self.parts
    }

    fn taus(&self) -> &'static [f32] {
        self.taus
    }

    fn fit(&self, training: &Training, _: f64) -> Result<Scorer> {
        let pictures = training.pictures() as f64;
        let mut start = training.class_means();
        to_unit_length(&mut start, training.width);
        // Logits of some size for rows of their usual length.
        let length = (dot(&training.values, &training.values) / pictures).sqrt();
        let scale = (f64::from(super::class_means::SCALE) / length.max(1e-12)) as f32;
        start.iter_mut().for_each(|w| *w *= scale);
        let layer = Layer {
            training,
            offset: training.log_prior().iter().map(|p| self.tau * p).collect(),
            scale: 1.0,
            unit: false,
            bias: true,
            penalty: 0.5 / pictures,
            centre: None,
        };
        let stop = Stop {
            steps: 30,
            gradient: 1e-3,
        };
        let (weights, bias) = layer.fit(start, stop);
        Ok(Scorer::linear(Rows::Standardised, weights, bias))
    }
}

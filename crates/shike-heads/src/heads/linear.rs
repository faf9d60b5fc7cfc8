//! A layer that starts from the class means, with cross-entropy or balanced softmax: linear, or of cosines.

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
    /// Whether its scores are cosines.
    cosine: bool,
    /// What the logarithm of a class's share counts in training.
    tau: f32,
    parts: &'static [&'static str],
    taus: &'static [f32],
}

/// What cosines are multiplied with.
const SCALE: f32 = 16.0;

/// The factors of logit adjustment that are tried.
const TAUS: &[f32] = &[0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0];

/// With cross-entropy.
pub const CROSS_ENTROPY: Linear = Linear {
    name: "linear",
    about: "linear, cross-entropy",
    cosine: false,
    tau: 0.0,
    parts: &[],
    taus: &[0.0],
};

/// With cross-entropy, adjusted afterwards.
pub static ADJUSTED: Linear = Linear {
    name: "linear-adjusted",
    about: "linear, logit adjustment",
    parts: &["linear"],
    taus: TAUS,
    ..CROSS_ENTROPY
};

/// With balanced softmax (Ren et al. 2020).
pub static BALANCED: Linear = Linear {
    name: "linear-balanced",
    about: "linear, balanced softmax",
    tau: 1.0,
    ..CROSS_ENTROPY
};

/// Cosines with cross-entropy.
pub const COSINE: Linear = Linear {
    name: "cosine",
    about: "cosine, cross-entropy",
    cosine: true,
    ..CROSS_ENTROPY
};

/// Cosines with cross-entropy, adjusted afterwards.
pub static COSINE_ADJUSTED: Linear = Linear {
    name: "cosine-adjusted",
    about: "cosine, logit adjustment",
    parts: &["cosine"],
    taus: TAUS,
    ..COSINE
};

/// Cosines with balanced softmax.
pub static COSINE_BALANCED: Linear = Linear {
    name: "cosine-balanced",
    about: "cosine, balanced softmax",
    tau: 1.0,
    ..COSINE
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
        match self.cosine {
            true => Rows::UnitLength,
            false => Rows::Standardised,
        }
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
        if !self.cosine {
            // Logits of some size for rows of their usual length.
            let length = (dot(&training.values, &training.values) / pictures).sqrt();
            let scale = (f64::from(super::class_means::SCALE) / length.max(1e-12)) as f32;
            start.iter_mut().for_each(|w| *w *= scale);
        }
        let layer = Layer {
            training,
            offset: training.log_prior().iter().map(|p| self.tau * p).collect(),
            scale: if self.cosine { SCALE } else { 1.0 },
            unit: self.cosine,
            bias: !self.cosine,
            penalty: if self.cosine { 0.0 } else { 0.5 / pictures },
            centre: None,
        };
        let stop = Stop {
            steps: 30,
            gradient: 1e-3,
        };
        let (weights, bias) = layer.fit(start, stop);
        Ok(Scorer::linear(self.rows(), weights, bias))
    }
}

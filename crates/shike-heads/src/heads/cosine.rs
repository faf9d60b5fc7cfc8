//! A cosine layer that starts from the class means, with cross-entropy or balanced softmax.

use super::Head;
use super::linear::TAUS;
use crate::error::Result;
use crate::lbfgs::Stop;
use crate::prepare::{Rows, Training, to_unit_length};
use crate::scorer::Scorer;
use crate::softmax::Layer;

/// See the module.
pub struct Cosine {
    name: &'static str,
    about: &'static str,
    /// What the logarithm of a class's share counts in training.
    tau: f32,
    parts: &'static [&'static str],
    taus: &'static [f32],
}

/// What cosines are multiplied with.
const SCALE: f32 = 16.0;

/// With cross-entropy.
pub static CROSS_ENTROPY: Cosine = Cosine {
    name: "cosine",
    about: "cosine, cross-entropy",
    tau: 0.0,
    parts: &[],
    taus: &[0.0],
};

/// With cross-entropy, adjusted afterwards.
pub static ADJUSTED: Cosine = Cosine {
    name: "cosine-adjusted",
    about: "cosine, logit adjustment",
    tau: 0.0,
    parts: &["cosine"],
    taus: TAUS,
};

/// With balanced softmax (Ren et al. 2020).
pub static BALANCED: Cosine = Cosine {
    name: "cosine-balanced",
    about: "cosine, balanced softmax",
    tau: 1.0,
    parts: &[],
    taus: &[0.0],
};

impl Head for Cosine {
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
        Rows::UnitLength
    }

    fn parts(&self) -> &'static [&'static str] {
        self.parts
    }

    fn taus(&self) -> &'static [f32] {
        self.taus
    }

    fn fit(&self, training: &Training, _: f64) -> Result<Scorer> {
        let mut start = training.class_means();
        to_unit_length(&mut start, training.width);
        let layer = Layer {
            training,
            offset: training.log_prior().iter().map(|p| self.tau * p).collect(),
            scale: SCALE,
            unit: true,
            bias: false,
            penalty: 0.0,
            centre: None,
        };
        let stop = Stop {
            steps: 30,
            gradient: 1e-3,
        };
        let (weights, bias) = layer.fit(start, stop);
        Ok(Scorer::linear(Rows::UnitLength, weights, bias))
    }
}

//! How gradients change weights.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TrainConfigError;

/// An optimizer and its settings; [`init`](crate::learner::optim::init) makes it. In text a table whose `kind` is
/// the name; fields that are left out have their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum OptimizerConfig {
    /// Stochastic gradient descent, as [`Sgd`](crate::learner::optim::Sgd).
    Sgd(SgdConfig),
    /// Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).
    #[serde(rename = "adamw")]
    AdamW(AdamWConfig),
}

/// Settings of stochastic gradient descent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// Momentum.
    pub momentum: f64,
    /// Whether momentum is Nesterov's. The authors' code has it plain; the rates of SADE, RIDE and NCL
    /// are meant for Nesterov's.
    pub nesterov: bool,
    /// Weight decay on every trained tensor, batch normalisation included, as in the reference.
    pub weight_decay: f64,
}

/// Settings of AdamW, with PyTorch's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the average of gradients.
    pub beta_1: f64,
    /// Decay of the average of their squares.
    pub beta_2: f64,
    /// Added to the root that is divided by.
    pub epsilon: f64,
    /// Decoupled weight decay on every trained tensor.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self {
            momentum: 0.9,
            nesterov: false,
            weight_decay: 5e-4,
        }
    }
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

impl OptimizerConfig {
    /// Values that it remembers for each weight.
    pub fn values_per_weight(&self) -> u64 {
        match self {
            Self::Sgd(_) => 1,
            Self::AdamW(_) => 2,
        }
    }

    /// Checks that every field is in its range.
    pub(super) fn validate(&self) -> Result<(), TrainConfigError> {
        let check = TrainConfigError::check;
        let decay = |decay: f64| {
            let ok = decay.is_finite() && decay >= 0.0;
            check("optimizer.weight_decay", ok, &decay, "0 or more")
        };
        match self {
            Self::Sgd(sgd) => {
                let momentum = sgd.momentum;
                let ok = (0.0..1.0).contains(&momentum);
                check("optimizer.momentum", ok, &momentum, "in [0, 1)")?;
                let ok = !sgd.nesterov || momentum > 0.0;
                let expected = "false where momentum is 0";
                check("optimizer.nesterov", ok, &true, expected)?;
                decay(sgd.weight_decay)
            }
            Self::AdamW(adam) => {
                for (name, beta) in [
                    ("optimizer.beta_1", adam.beta_1),
                    ("optimizer.beta_2", adam.beta_2),
                ] {
                    check(name, (0.0..1.0).contains(&beta), &beta, "in [0, 1)")?;
                }
                let ok = adam.epsilon.is_finite() && adam.epsilon > 0.0;
                check("optimizer.epsilon", ok, &adam.epsilon, "above 0")?;
                decay(adam.weight_decay)
            }
        }
    }
}

/// Moves SGD's settings from where they stood before there was a table `optimizer`, beside the other fields of a
/// configuration, into it.
pub(crate) fn gather(fields: &mut Map<String, Value>) {
    for name in ["momentum", "nesterov", "weight_decay"] {
        let Some(value) = fields.remove(name) else {
            continue;
        };
        let table = fields
            .entry("optimizer")
            .or_insert_with(|| serde_json::json!({ "kind": "sgd" }));
        if let Some(table) = table.as_object_mut() {
            table.entry(name).or_insert(value);
        }
    }
}

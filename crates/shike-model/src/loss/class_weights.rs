use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{LossContext, LossError, count_logs};

/// Weights of the classes in a loss, from their training counts `n`. In text: `{ kind =
/// "effective_number", beta = 0.9999 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClassWeights {
    /// `1 / nᵖ`, scaled so that they sum to the number of classes.
    InverseFrequency {
        /// p: 1 makes all classes alike, 0.5 goes half the way, 0 is no weighting.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        power: f64,
    },
    /// Class-balanced loss (Cui et al. 2019, arXiv 1901.05555): `(1 − β) / (1 − βⁿ)`, the reciprocal
    /// of the effective number of images, scaled so that they sum to the number of classes. β = 0 is
    /// no weighting, β → 1 is `1 / n`.
    EffectiveNumber {
        /// β, in [0, 1).
        beta: f64,
    },
    /// These, as they are: costs of one's own.
    Given {
        /// One a class, above 0.
        values: Vec<f64>,
    },
    /// Factors of single classes, on top of other weights. They are looked up by
    /// [`for_classes`](Self::for_classes) before the loss is made.
    Named {
        /// A factor above 0 by the name of its class; classes that are not named have 1.
        classes: BTreeMap<String, f64>,
        /// What they are multiplied with; 1 for all classes where there is nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<Box<Self>>,
    },
}

fn one() -> f64 {
    1.0
}

#[allow(clippy::trivially_copy_pass_by_ref, clippy::float_cmp)]
fn is_one(power: &f64) -> bool {
    *power == 1.0
}

impl ClassWeights {
    /// The class-balanced loss with β = 0.9999, which LDAM's deferred re-weighting uses.
    pub fn effective_number() -> Self {
        Self::EffectiveNumber { beta: 0.9999 }
    }

    /// One over the number of images.
    pub fn inverse_frequency() -> Self {
        Self::InverseFrequency { power: 1.0 }
    }

    /// Whether they come from the counts. (β = 0 and a power of 0 are no weighting.)
    pub(super) fn balance(&self) -> bool {
        match self {
            Self::InverseFrequency { power } => *power > 0.0,
            Self::EffectiveNumber { beta } => *beta > 0.0,
            Self::Given { .. } => false,
            Self::Named { base, .. } => base.as_ref().is_some_and(|base| base.balance()),
        }
    }

    /// Checks all that needs no counts.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<(), LossError> {
        match self {
            Self::InverseFrequency { power } => LossError::check(
                "weights.power",
                power.is_finite() && *power >= 0.0,
                power,
                "0 or more",
            ),
            Self::EffectiveNumber { beta } => LossError::check(
                "weights.beta",
                (0.0..1.0).contains(beta),
                beta,
                "at least 0 and below 1",
            ),
            Self::Given { values } => {
                let wrong = values.iter().find(|w| !(w.is_finite() && **w > 0.0));
                let found = wrong.copied().unwrap_or_default();
                LossError::check("weights.values", wrong.is_none(), &found, "above 0")
            }
            Self::Named { classes, base } => {
                let wrong = classes.iter().find(|(_, w)| !(w.is_finite() && **w > 0.0));
                let found = wrong.map_or(String::new(), |(name, w)| format!("{name}={w}"));
                LossError::check("weights.classes", wrong.is_none(), &found, "above 0")?;
                match base.as_deref() {
                    Some(Self::Named { .. }) => {
                        LossError::check("weights.base", false, &"named", "another kind")
                    }
                    base => base.map_or(Ok(()), Self::validate),
                }
            }
        }
    }

    /// The weights for classes with these training counts, `[classes]`.
    ///
    /// # Errors
    /// If a field is out of range, a class has no image, or there are not as many given weights as
    /// classes.
    pub fn compute(&self, counts: &[usize]) -> Result<Vec<f64>, LossError> {
        self.validate()?;
        let weights: Vec<f64> = match self {
            Self::Given { values } => {
                LossError::check(
                    "weights.values",
                    values.len() == counts.len(),
                    &format!("{} numbers", values.len()),
                    &format!("{}, one for each class", counts.len()),
                )?;
                return Ok(values.clone());
            }
            Self::InverseFrequency { power } => {
                let logs = count_logs(counts, "its weight would be infinite")?;
                logs.into_iter().map(|log| (-power * log).exp()).collect()
            }
            Self::Named { .. } => {
                let found = "names";
                let expected = "looked up for the names of the classes first (for_classes)";
                return LossError::check("weights.classes", false, &found, expected)
                    .map(|()| vec![]);
            }
            Self::EffectiveNumber { beta } => {
                count_logs(counts, "its weight would be infinite")?;
                // 1 − βⁿ without cancellation.
                let share = |&n: &usize| -(n as f64 * beta.ln()).exp_m1();
                counts.iter().map(|n| (1.0 - beta) / share(n)).collect()
            }
        };
        let scale = weights.len() as f64 / weights.iter().sum::<f64>();
        Ok(weights.into_iter().map(|weight| weight * scale).collect())
    }
}

impl ClassWeights {
    /// The same for classes of these names and training counts: named factors become numbers by label.
    ///
    /// # Errors
    /// If a class that is named is none of them, with the names that are most like it; as [`compute`](Self::compute).
    pub fn for_classes(&self, names: &[String], counts: &[usize]) -> Result<Self, LossError> {
        let Self::Named { classes, base } = self else {
            return Ok(self.clone());
        };
        self.validate()?;
        let base = base.as_ref().map(|base| base.compute(counts)).transpose()?;
        let mut values = base.unwrap_or_else(|| vec![1.0; names.len()]);
        for (name, factor) in classes {
            let class = names.iter().position(|known| known == name);
            let class = class.ok_or_else(|| LossError::Field {
                field: "weights.classes",
                found: format!("`{name}`"),
                expected: format!("the name of a class{}", like(name, names)),
            })?;
            values[class] *= factor;
        }
        Ok(Self::Given { values })
    }
}

/// The names that are most like one that is none of them.
fn like(name: &str, names: &[String]) -> String {
    let alike = |known: &String| strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase());
    let mut near: Vec<&String> = names.iter().filter(|known| alike(known) > 0.7).collect();
    near.sort_by(|a, b| alike(b).total_cmp(&alike(a)));
    near.truncate(3);
    let near = if near.is_empty() {
        names.iter().take(5).collect()
    } else {
        near
    };
    let near: Vec<String> = near.iter().map(|known| format!("`{known}`")).collect();
    format!(", such as {}", near.join(", "))
}

/// The weights of a loss in an epoch, or none.
pub(super) fn in_epoch(
    weights: Option<&ClassWeights>,
    from_epoch: usize,
    context: &LossContext,
) -> Result<Option<TensorData>, LossError> {
    // Computed in any case: what is wrong is to be said before the weights are needed.
    let values = weights
        .map(|weights| weights.compute(context.counts))
        .transpose()?;
    Ok(values
        .filter(|_| context.epoch >= from_epoch)
        .map(|values| TensorData::new(values, [1, context.counts.len()])))
}

/// `[1, classes]`, on the device and in the type of `like`.
///
/// # Panics
/// If `like`, `[batch, classes]`, is of other classes: a single number would be taken for all of them.
pub(super) fn row(values: &TensorData, like: &Tensor<2>) -> Tensor<2> {
    let (counted, [_, classes]) = (values.shape().num_elements(), like.dims());
    assert_eq!(
        counted, classes,
        "a loss made for {counted} classes got logits of {classes}"
    );
    Tensor::from_data(values.clone(), (&like.device(), like.dtype()))
}

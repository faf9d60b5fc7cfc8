use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{LossContext, LossError, count_logs};

/// Weights of the classes in a loss, from their training counts `n`. In text: `{ kind =
/// "effective_number", beta = 0.9999 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClassWeights {
    /// `1 / n`, scaled so that they sum to the number of classes.
    InverseFrequency {},
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
}

impl ClassWeights {
    /// The class-balanced loss with β = 0.9999, which LDAM's deferred re-weighting uses.
    pub fn effective_number() -> Self {
        Self::EffectiveNumber { beta: 0.9999 }
    }

    /// Whether they come from the counts. (β = 0 is no weighting.)
    pub(super) fn balance(&self) -> bool {
        match self {
            Self::InverseFrequency {} => true,
            Self::EffectiveNumber { beta } => *beta > 0.0,
            Self::Given { .. } => false,
        }
    }

    /// Checks all that needs no counts.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<(), LossError> {
        match self {
            Self::InverseFrequency {} => Ok(()),
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
            Self::InverseFrequency {} => {
                let logs = count_logs(counts, "its weight would be infinite")?;
                logs.into_iter().map(|log| (-log).exp()).collect()
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

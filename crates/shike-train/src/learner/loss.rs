//! The loss of a stage, with its terms by name.

use burn::tensor::{Int, Tensor, Transaction};
use shike_model::loss::{BalancedSoftmaxLoss, DktLoss};
use shike_model::{DktLossConfig, Head, Shike};

use super::state::Position;
use crate::config::Stage1Loss;
use crate::error::TrainError;

/// The loss of one stage.
pub(super) enum StageLoss {
    Dkt(DktLoss),
    CrossEntropy(DktLoss),
    Balanced(BalancedSoftmaxLoss),
}

/// A loss and its terms, summed over experts, before their weights.
pub(super) struct Terms {
    pub total: Tensor<1>,
    terms: Vec<(&'static str, Tensor<1>)>,
}

/// What the total is called among the terms.
pub(super) const TOTAL: &str = "loss";

impl StageLoss {
    pub fn new(stage: usize, loss: &Stage1Loss, counts: &[usize]) -> Result<Self, TrainError> {
        Ok(match (stage, loss) {
            (1, Stage1Loss::Dkt(config)) => Self::Dkt(config.init()),
            (1, Stage1Loss::CrossEntropy) => Self::CrossEntropy(DktLossConfig::new().init()),
            _ => Self::Balanced(BalancedSoftmaxLoss::new(counts)?),
        })
    }

    pub fn forward(&self, model: &Shike, images: Tensor<4>, labels: Tensor<1, Int>) -> Terms {
        match self {
            Self::Dkt(loss) => {
                let loss = loss.forward(&model.forward(images, Head::Stage1), labels);
                Terms {
                    total: loss.total,
                    terms: vec![
                        ("cross_entropy", loss.cross_entropy.sum()),
                        ("non_target", loss.non_target.sum()),
                        ("mutual", loss.mutual.sum()),
                    ],
                }
            }
            Self::CrossEntropy(loss) => Terms {
                total: loss
                    .cross_entropy(&model.forward(images, Head::Stage1), labels)
                    .sum(),
                terms: vec![],
            },
            Self::Balanced(loss) => Terms {
                total: loss
                    .forward(&model.forward(images, Head::Stage2), labels)
                    .total,
                terms: vec![],
            },
        }
    }
}

impl Terms {
    /// The total, then each term, as numbers; one transfer for all.
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let terms = self.terms.iter().map(|(name, term)| (*name, term));
        let all: Vec<_> = std::iter::once((TOTAL, &self.total)).chain(terms).collect();
        let read = all.iter().fold(Transaction::default(), |read, (_, term)| {
            read.register((*term).clone())
        });
        let values = read.execute();
        let value = |data: burn::tensor::TensorData| data.iter::<f64>().next().unwrap_or(f64::NAN);
        let names = all.iter().map(|(name, _)| *name);
        names.zip(values.into_iter().map(value)).collect()
    }
}

/// Stops a run whose loss is NaN or infinite, and names the term that was first.
pub(super) fn check_finite(
    values: &[(&'static str, f64)],
    position: &Position,
    lr: f64,
) -> Result<(), TrainError> {
    // The total follows its terms, so it is named only where none of them is to blame.
    let terms = values.iter().filter(|(name, _)| *name != TOTAL);
    let total = values.iter().filter(|(name, _)| *name == TOTAL);
    match terms.chain(total).find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((name, value)) => Err(TrainError::NonFinite {
            term: match *name {
                TOTAL => "the loss".into(),
                name => format!("the {name} term of the loss"),
            },
            value: *value,
            step: position.step,
            stage: position.stage,
            epoch: position.epoch,
            lr,
        }),
    }
}

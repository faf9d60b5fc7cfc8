//! The loss of a stage, with its terms by name.

use std::time::Instant;

use burn::tensor::{Int, Tensor, Transaction};
use shike_model::loss::{CrossEntropyLoss, FocalLoss, LdamLoss, LossError};
use shike_model::{BalancedSoftmaxLoss, ClassifierConfig, DktLoss, ExpertLogits};

use super::state::Position;
use crate::error::TrainError;
use crate::method::Loss;
use crate::progress::Progress;

/// The loss of one stage in one epoch.
pub(super) enum StageLoss {
    Dkt(DktLoss),
    CrossEntropy(CrossEntropyLoss),
    Focal(FocalLoss),
    Ldam(LdamLoss),
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
    /// The loss in `epoch` for classes with these training counts.
    pub fn new(
        loss: &Loss,
        counts: &[usize],
        classifier: &ClassifierConfig,
        epoch: usize,
    ) -> Result<Self, LossError> {
        Ok(match loss {
            Loss::Dkt(config) => Self::Dkt(config.init()),
            Loss::CrossEntropy(config) => Self::CrossEntropy(config.init(counts, epoch)?),
            Loss::Focal(config) => Self::Focal(config.init(counts, epoch)?),
            Loss::Ldam(config) => {
                let scale = match classifier {
                    ClassifierConfig::Cosine { scale } => *scale,
                    // Refused by `Loss::validate`.
                    ClassifierConfig::Linear => 1.0,
                };
                Self::Ldam(config.init(counts, scale, epoch)?)
            }
            Loss::BalancedSoftmax {} => Self::Balanced(BalancedSoftmaxLoss::new(counts)?),
            Loss::LogitAdjustment { tau } => {
                Self::Balanced(BalancedSoftmaxLoss::with_tau(counts, *tau)?)
            }
        })
    }

    pub fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> Terms {
        let experts = match self {
            Self::Dkt(loss) => {
                let loss = loss.forward(logits, labels);
                return Terms {
                    total: loss.total,
                    terms: vec![
                        ("cross_entropy", loss.cross_entropy.sum()),
                        ("non_target", loss.non_target.sum()),
                        ("mutual", loss.mutual.sum()),
                    ],
                };
            }
            Self::CrossEntropy(loss) => loss.forward(logits, labels),
            Self::Focal(loss) => loss.forward(logits, labels),
            Self::Ldam(loss) => loss.forward(logits, labels),
            Self::Balanced(loss) => loss.forward(logits, labels).cross_entropy,
        };
        Terms {
            total: experts.sum(),
            terms: vec![],
        }
    }
}

impl Terms {
    /// Each term `share` times, and `1 - share` times that of `other`.
    pub fn mixed(self, other: Self, share: f64) -> Self {
        let mix = |own: Tensor<1>, other: Tensor<1>| {
            own.mul_scalar(share) + other.mul_scalar(1.0 - share)
        };
        let pairs = self.terms.into_iter().zip(other.terms);
        Self {
            total: mix(self.total, other.total),
            terms: pairs
                .map(|((name, own), (_, other))| (name, mix(own, other)))
                .collect(),
        }
    }

    /// The total, then each term, to be read later; keeps nothing that is there for gradients.
    pub fn unread(&self) -> Unread {
        let terms = self.terms.iter().map(|(name, term)| (*name, term));
        let all = std::iter::once((TOTAL, &self.total)).chain(terms);
        Unread(
            all.map(|(name, term)| (name, term.clone().inner()))
                .collect(),
        )
    }
}

/// A loss and its terms on the device.
pub(super) struct Unread(Vec<(&'static str, Tensor<1>)>);

impl Unread {
    /// Waits until they are computed; one transfer for all.
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let read = self
            .0
            .iter()
            .fold(Transaction::default(), |read, (_, term)| {
                read.register((*term).clone())
            });
        let values = read.execute();
        let value = |data: burn::tensor::TensorData| data.iter::<f64>().next().unwrap_or(f64::NAN);
        let names = self.0.iter().map(|(name, _)| *name);
        names.zip(values.into_iter().map(value)).collect()
    }
}

/// Losses of an epoch, each read while the device works on the batch after it: reading at once would
/// leave a GPU without work until the next batch has been uploaded and launched.
pub(super) struct Losses {
    lr: f64,
    started: Instant,
    images: usize,
    waiting: Option<Waiting>,
}

struct Waiting {
    batch: usize,
    images: usize,
    step: u64,
    terms: Unread,
}

impl Losses {
    pub fn new(lr: f64) -> Self {
        Self {
            lr,
            started: Instant::now(),
            images: 0,
            waiting: None,
        }
    }

    /// Takes the loss of a batch, and reads the one before.
    pub fn push(
        &mut self,
        batch: usize,
        images: usize,
        terms: Unread,
        position: &mut Position,
        progress: &mut Progress,
    ) -> Result<(), TrainError> {
        self.read(position, progress)?;
        self.waiting = Some(Waiting {
            batch,
            images,
            step: position.step,
            terms,
        });
        Ok(())
    }

    /// Reads what has not been read. Nothing may be saved before: the weights could come of a loss
    /// that is not finite.
    pub fn read(
        &mut self,
        position: &mut Position,
        progress: &mut Progress,
    ) -> Result<(), TrainError> {
        let Some(waiting) = self.waiting.take() else {
            return Ok(());
        };
        let values = waiting.terms.values();
        check_finite(&values, position, waiting.step, self.lr)?;
        position.sums.add(waiting.images, &values);
        self.images += waiting.images;
        let speed = self.images as f64 / self.started.elapsed().as_secs_f64();
        progress.step(waiting.batch + 1, speed, &values);
        Ok(())
    }
}

/// Stops a run whose loss is NaN or infinite, and names the term that was first.
pub(super) fn check_finite(
    values: &[(&'static str, f64)],
    position: &Position,
    step: u64,
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
            step,
            stage: position.stage,
            epoch: position.epoch,
            lr,
        }),
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use shike_data::{Mix, soft_labels};
    use shike_model::loss::CrossEntropyLossConfig;

    #[test]
    fn a_mixed_cross_entropy_is_that_of_soft_labels() {
        let device = Device::flex();
        let values = |seed: f32| {
            let values = [0.3, -1.0, 2.0, 0.7, 0.1, -0.4, 1.5, 0.2, 0.9].map(|x: f32| x * seed);
            Tensor::<1>::from_floats(values, &device).reshape([3, 3])
        };
        let logits = ExpertLogits {
            experts: vec![values(1.0), values(-0.5)],
        };
        let mix = Mix {
            share: 0.7,
            cut: None,
        };
        let config = CrossEntropyLossConfig::new().with_label_smoothing(0.1);
        let loss = config.init(&[5, 5, 5], 0).unwrap();
        // The loss smooths them itself.
        let soft = soft_labels(&[2, 0, 1], Some(&mix), 3, 0.0);
        let soft = Tensor::<1>::from_floats(soft.as_slice(), &device).reshape([3, 3]);
        let expected = loss.forward_soft(&logits, soft).sum();

        let stage = StageLoss::CrossEntropy(loss);
        let labels = Tensor::<1, Int>::from_ints([2, 0, 1], &device);
        let partners = stage.forward(&logits, labels.clone().flip([0]));
        let mixed = stage.forward(&logits, labels).mixed(partners, mix.share);
        let read = |loss: Tensor<1>| loss.into_scalar::<f32>();
        let (found, expected) = (read(mixed.total), read(expected));
        assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
    }
}

//! The loss of a stage, with its terms by name.

use std::time::Instant;

use burn::tensor::{Int, Tensor, Transaction};
use shike_model::loss::{CrossEntropyLoss, DktLossOutput, FocalLoss, LdamLoss, LossError, one_hot};
use shike_model::{BalancedSoftmaxLoss, ClassifierConfig, DktLoss, ExpertLogits};

use super::state::Position;
use crate::config::stage::Loss;
use crate::error::TrainError;
use crate::learner::progress::Progress;

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

    /// The loss of a batch, `[batch]` labels. Of one that is mixed with itself in reverse, `share` is what
    /// each image kept: dynamic knowledge transfer takes the soft labels, because one label's hardest
    /// negative would be the other; the other losses are those of both labels in proportion.
    pub fn forward(
        &self,
        logits: &ExpertLogits,
        labels: Tensor<1, Int>,
        share: Option<f64>,
    ) -> Terms {
        match (self, share) {
            (_, None) => self.hard(logits, labels),
            (Self::Dkt(loss), Some(share)) => {
                let own = one_hot(labels.clone(), &logits.experts[0]);
                let partners = one_hot(labels.flip([0]), &logits.experts[0]);
                // In this form two images of one class have exactly its label.
                let soft = partners.clone() + (own - partners).mul_scalar(share);
                Terms::of_dkt(loss.forward_soft(logits, soft))
            }
            (_, Some(share)) => {
                let partners = self.hard(logits, labels.clone().flip([0]));
                self.hard(logits, labels).mixed(partners, share)
            }
        }
    }

    fn hard(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> Terms {
        let experts = match self {
            Self::Dkt(loss) => return Terms::of_dkt(loss.forward(logits, labels)),
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
    fn of_dkt(loss: DktLossOutput) -> Self {
        Self {
            total: loss.total,
            terms: vec![
                ("cross_entropy", loss.cross_entropy.sum()),
                ("non_target", loss.non_target.sum()),
                ("mutual", loss.mutual.sum()),
            ],
        }
    }

    /// `share` times the total, and `1 - share` times that of `other`; of losses without terms.
    fn mixed(self, other: Self, share: f64) -> Self {
        Self {
            total: self.total.mul_scalar(share) + other.total.mul_scalar(1.0 - share),
            terms: vec![],
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
    use burn::tensor::{DType, Device, FloatDType, TensorData};
    use shike_data::{Mix, Sampling, soft_labels};
    use shike_model::loss::CrossEntropyLossConfig;
    use shike_model::{DktLossConfig, ShikeConfig};

    use crate::config::TrainConfig;

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
        let mixed = stage.forward(&logits, labels, Some(mix.share));
        let read = |loss: Tensor<1>| loss.into_scalar::<f32>();
        let (found, expected) = (read(mixed.total), read(expected));
        assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
    }

    /// Softmax, and the released loss by its definition in plain numbers, for soft labels.
    fn softmax(logits: &[f64]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| x.exp() / sum).collect()
    }

    fn divergence(p: &[f64], q: &[f64]) -> f64 {
        p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
    }

    fn released(experts: &[Vec<Vec<f64>>], labels: &[Vec<f64>]) -> f64 {
        let (batch, classes) = (labels.len() as f64, labels[0].len());
        let mut total = 0.0;
        for (image, label) in labels.iter().enumerate() {
            let rows: Vec<&Vec<f64>> = experts.iter().map(|expert| &expert[image]).collect();
            let of = |f: &dyn Fn(usize) -> f64| (0..classes).map(f).collect::<Vec<f64>>();
            let mean = of(&|c| rows.iter().map(|row| row[c]).sum::<f64>() / rows.len() as f64);
            let masked = of(&|c| -30.0 * label[c] + mean[c] * (1.0 - label[c]));
            let hardest = (0..classes)
                .max_by(|&a, &b| masked[a].total_cmp(&masked[b]))
                .unwrap();
            let largest = of(&|c| rows.iter().map(|row| row[c]).fold(f64::MIN, f64::max));
            let teacher = of(&|c| match c == hardest {
                true => masked[c],
                false => largest[c] * (1.0 - label[c]),
            });
            for (i, row) in rows.iter().enumerate() {
                let p = softmax(row);
                total -= (0..classes).map(|c| label[c] * p[c].ln()).sum::<f64>() / batch;
                let student = of(&|c| row[c] * (1.0 - label[c]) - 30.0 * label[c]);
                let mut terms = 10.0 * divergence(&softmax(&teacher), &softmax(&student));
                for (j, other) in rows.iter().enumerate() {
                    if j != i {
                        terms += divergence(&softmax(other), &p);
                    }
                }
                total += terms / (batch * classes as f64);
            }
        }
        total
    }

    #[test]
    fn a_mixed_transfer_loss_is_that_of_soft_labels() {
        let device = Device::flex();
        // Three images of four classes; the partner of the first, of class 3, looks like it too.
        let experts = [
            vec![
                vec![3.0, -1.0, 0.5, 4.0],
                vec![0.2, 1.0, -0.3, 0.0],
                vec![2.0, 0.1, 0.4, 3.5],
            ],
            vec![
                vec![2.5, 0.3, -0.5, 3.0],
                vec![-0.2, 0.6, 0.3, 1.0],
                vec![1.0, -0.1, 0.9, 2.5],
            ],
        ];
        let labels = [0, 1, 3];
        let share = 0.6;
        let soft: Vec<Vec<f64>> = (0..3)
            .map(|image| {
                let mut row = vec![0.0; 4];
                row[labels[image]] += share;
                row[labels[2 - image]] += 1.0 - share;
                row
            })
            .collect();
        let logits = |dtype: FloatDType| ExpertLogits {
            experts: experts
                .iter()
                .map(|rows| {
                    let values: Vec<f64> = rows.concat();
                    let data = TensorData::new(values, [3, 4]);
                    Tensor::<2>::from_data(data, (&device, DType::F64)).cast(dtype)
                })
                .collect(),
        };
        let expected = released(&experts, &soft);
        let loss = DktLossConfig::new().init();
        let stage = StageLoss::Dkt(loss.clone());
        let ints = labels.map(|label| label as i64);
        let labels = || Tensor::<1, Int>::from_ints(ints, &device);
        // Float32 takes the kernel, float64 the definition in tensors.
        for (dtype, tolerance) in [(FloatDType::F32, 1e-5), (FloatDType::F64, 1e-6)] {
            let mixed = stage.forward(&logits(dtype), labels(), Some(share));
            let found = mixed.total.into_scalar::<f64>();
            assert!(
                (found / expected - 1.0).abs() < tolerance,
                "{found} {expected}"
            );
            assert_eq!(mixed.terms.len(), 3);
        }
        // A mix with an image of the same class, or with nothing, is no mix.
        let same = || Tensor::<1, Int>::from_ints([3, 1, 3], &device);
        let hard = |labels| stage.forward(&logits(FloatDType::F64), labels, None).total;
        let mixed = |labels, share| {
            stage
                .forward(&logits(FloatDType::F64), labels, Some(share))
                .total
        };
        let read = |loss: Tensor<1>| loss.into_scalar::<f64>();
        assert_eq!(read(mixed(same(), 0.3)), read(hard(same())));
        assert_eq!(read(mixed(labels(), 1.0)), read(hard(labels())));
        // The partner's class is no hard negative, as it would be beside the label alone.
        let hardest = |labels: Tensor<2>| -> Vec<i64> {
            let teacher = loss.teacher(&logits(FloatDType::F64), labels);
            teacher.hardest.into_data().iter::<i64>().collect()
        };
        let like = &logits(FloatDType::F64).experts[0];
        let own = one_hot(labels(), like);
        let partners = one_hot(labels().flip([0]), like);
        assert_eq!(hardest(own.clone())[0], 3);
        let both = own.mul_scalar(share) + partners.mul_scalar(1.0 - share);
        assert!([1, 2].contains(&hardest(both)[0]));
    }

    #[test]
    fn what_a_loss_learns_of_pictures_that_tell_nothing_is_the_prior_of_its_logits() {
        let device = Device::flex().autodiff();
        let counts = [16, 4, 1];
        // Batches as each sampling draws them.
        let drawn = [
            (Sampling::Instance, [16, 4, 1]),
            (Sampling::SquareRoot, [4, 2, 1]),
            (Sampling::ClassBalanced, [1, 1, 1]),
        ];
        let losses = [
            r#"{"kind":"cross_entropy"}"#,
            r#"{"kind":"cross_entropy","weights":{"kind":"effective_number","beta":0.9}}"#,
            r#"{"kind":"cross_entropy","weights":{"kind":"given","values":[1,2,4]}}"#,
            r#"{"kind":"balanced_softmax"}"#,
            r#"{"kind":"logit_adjustment","tau":0.5}"#,
            r#"{"kind":"logit_adjustment","tau":1.5}"#,
        ];
        let mut config = TrainConfig::cifar(ShikeConfig::cifar(8, 3).unwrap(), [1, 1]);
        for ((sampling, batch), loss) in drawn.iter().flat_map(|d| losses.map(|loss| (*d, loss))) {
            config.stage1.sampling = sampling;
            config.stage1.loss = serde_json::from_str(loss).unwrap();
            let expected = config.logit_prior(1, 0, &counts).unwrap();
            let classifier = &config.model.classifier;
            let stage = StageLoss::new(&config.stage1.loss, &counts, classifier, 0).unwrap();
            let labels: Vec<i64> = (0..3).flat_map(|c| vec![c as i64; batch[c]]).collect();
            let images = labels.len();
            let labels = Tensor::<1, Int>::from_ints(labels.as_slice(), &device);
            let mut same = Tensor::<2>::zeros([1, 3], &device);
            for _ in 0..400 {
                let leaf = same.detach().require_grad();
                let experts = vec![leaf.clone().repeat_dim(0, images)];
                let terms = stage.forward(&ExpertLogits { experts }, labels.clone(), None);
                let gradient = leaf.grad(&terms.total.backward()).unwrap();
                same = leaf - Tensor::from_inner(gradient).mul_scalar(2.0);
            }
            let found: Vec<f64> = same.into_data().iter::<f64>().collect();
            for (found, expected) in softmax(&found).iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-3,
                    "{sampling:?} {loss}: {found} {expected}"
                );
            }
        }
    }
}

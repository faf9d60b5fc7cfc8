//! Losses of batches, read while the device works on.

use std::ops::Range;
use std::time::Instant;

use super::state::Position;
use super::step::{BatchLoss, TOTAL};
use crate::error::TrainError;
use crate::learner::progress::Progress;
use crate::ranks::Ranks;

/// Losses of an epoch, those of each step read while the device works on the step after it: reading at once would
/// leave a GPU without work until the next batch has been uploaded and launched.
pub(super) struct Losses<'a> {
    ranks: &'a dyn Ranks,
    lr: f64,
    started: Instant,
    images: usize,
    waiting: Option<Waiting>,
}

struct Waiting {
    /// The number of the first batch, and of how many.
    batch: usize,
    parts: usize,
    step: u64,
    /// Those of this process.
    losses: Vec<BatchLoss>,
}

/// A batch's loss as it goes from process to process: its images, and each term with the bits of its value.
type Sent = (usize, Vec<(String, u64)>);

impl<'a> Losses<'a> {
    pub fn new(ranks: &'a dyn Ranks, lr: f64) -> Self {
        Self {
            ranks,
            lr,
            started: Instant::now(),
            images: 0,
            waiting: None,
        }
    }

    /// Takes the losses of a step over `batches`, and reads those of the one before.
    pub fn push(
        &mut self,
        batches: Range<usize>,
        losses: Vec<BatchLoss>,
        position: &mut Position,
        progress: &mut Progress,
    ) -> Result<(), TrainError> {
        self.read(position, progress)?;
        self.waiting = Some(Waiting {
            batch: batches.start,
            parts: batches.len(),
            step: position.step,
            losses,
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
        let mine = waiting.losses.iter().map(|loss| {
            let values = loss.read().into_iter();
            let values = values.map(|(name, value)| (name.to_owned(), value.to_bits()));
            (loss.images, values.collect())
        });
        let mine: Vec<Sent> = mine.collect();
        let all = self
            .ranks
            .gather_json(&mine)
            .map_err(TrainError::Mismatch)?;
        for part in 0..waiting.parts {
            let (rank, turn) = (part % self.ranks.size(), part / self.ranks.size());
            let Some((images, values)) = all.get(rank).and_then(|of| of.get(turn)) else {
                continue;
            };
            let values = values.iter();
            let values = values.map(|(name, bits)| (name.as_str(), f64::from_bits(*bits)));
            let values: Vec<(&str, f64)> = values.collect();
            check_finite(&values, position, waiting.step, self.lr)?;
            position.sums.add(*images, &values);
            self.images += images;
            let speed = self.images as f64 / self.started.elapsed().as_secs_f64();
            progress.step(waiting.batch + part + 1, speed, &values);
        }
        Ok(())
    }
}

/// Stops a run whose loss is NaN or infinite, and names the term that was first.
pub(super) fn check_finite(
    values: &[(&str, f64)],
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
    use burn::tensor::{Device, Int, Tensor};
    use shike_data::Sampling;
    use shike_model::{ExpertLogits, LossContext, ShikeConfig};

    use crate::config::TrainConfig;

    fn softmax(logits: &[f64]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| x.exp() / sum).collect()
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
            let stage = config.stage1.loss.init(&LossContext::new(&counts)).unwrap();
            let labels: Vec<i64> = (0..3).flat_map(|c| vec![c as i64; batch[c]]).collect();
            let images = labels.len();
            let labels = Tensor::<1, Int>::from_ints(labels.as_slice(), &device);
            let mut same = Tensor::<2>::zeros([1, 3], &device);
            for _ in 0..400 {
                let leaf = same.detach().require_grad();
                let experts = vec![leaf.clone().repeat_dim(0, images)];
                let output = stage.forward(&ExpertLogits { experts }, labels.clone());
                let gradient = leaf.grad(&output.total().backward()).unwrap();
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

//! One optimizer step: forward, loss, backward, accumulation, clipping, optimizer, average. Nothing else in the
//! project changes weights.

use burn::optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Int, Tensor, TensorData, Transaction};
use shike_infer::Precision;
use shike_model::{Head, Loss, LossOutput, Shike};

use super::optim::clip_global_norm;
use super::{Ema, bucket};
use crate::ranks::{Ranks, Sums};

/// What steps change.
pub struct Trained {
    /// The network.
    pub model: Shike,
    /// What the optimizer remembers.
    pub optimizer: ModuleOptimizer,
    /// The average of the weights, where there is one.
    pub ema: Option<Ema>,
}

/// A batch as a step takes it.
#[derive(Debug)]
pub struct Inputs {
    /// Normalised images, `[batch, 3, height, width]`.
    pub images: Tensor<4>,
    /// Classes, `[batch]`.
    pub labels: Tensor<1, Int>,
    /// What each image kept of itself, where the batch is mixed with itself in reverse.
    pub share: Option<f64>,
}

/// How the steps of an epoch are taken.
pub struct Step {
    head: Head,
    loss: Box<dyn Loss>,
    rates: ModuleLearningRate,
    clip_norm: Option<f64>,
    precision: Precision,
}

/// The loss of a batch on the device: the total and its terms, by name.
#[derive(Debug)]
pub struct BatchLoss {
    /// Images of the batch.
    pub images: usize,
    values: Vec<(&'static str, Tensor<1>)>,
}

/// What the total is called among the terms.
pub const TOTAL: &str = "loss";

impl Step {
    /// Steps that minimise `loss` of these heads' logits with the learning rate `lr`.
    pub fn new(head: Head, loss: Box<dyn Loss>, lr: f64) -> Self {
        Self {
            head,
            loss,
            rates: ModuleLrScheduler::new(lr).step(),
            clip_norm: None,
            precision: Precision::F32,
        }
    }

    /// The same steps with learning rates for parts of the network.
    #[must_use]
    pub fn with_rates(self, rates: ModuleLearningRate) -> Self {
        Self { rates, ..self }
    }

    /// The same steps with a bound on the common norm of all gradients.
    #[must_use]
    pub fn with_clip_norm(self, clip_norm: Option<f64>) -> Self {
        Self { clip_norm, ..self }
    }

    /// The same steps with networks in another type of float.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Takes one step on the mean loss over the `images` of these batches, and gives the loss of each; it waits
    /// for nothing. Running statistics move by the mean over the batches.
    ///
    /// # Errors
    /// Those of the batches.
    pub fn run<E>(
        &self,
        trained: Trained,
        images: usize,
        batches: impl IntoIterator<Item = Result<Inputs, E>>,
    ) -> Result<(Trained, Vec<BatchLoss>), E> {
        let (gradients, losses) = self.gradients(&trained.model, images, batches)?;
        Ok((self.update(trained, gradients), losses))
    }

    /// The first half of a step: gradients, and the loss of each batch.
    ///
    /// # Errors
    /// Those of the batches.
    pub fn gradients<E>(
        &self,
        model: &Shike,
        images: usize,
        batches: impl IntoIterator<Item = Result<Inputs, E>>,
    ) -> Result<(GradientsParams, Vec<BatchLoss>), E> {
        let mut batches = batches.into_iter().peekable();
        let mut accumulator = GradientsAccumulator::new();
        let (mut losses, mut statistics) = (vec![], vec![]);
        let mut before = None;
        while let Some(inputs) = batches.next() {
            let inputs = inputs?;
            // The step of one batch asks for none of them.
            if before.is_none() && batches.peek().is_some() {
                before = Some(model.running_statistics());
            } else if let Some(before) = &before {
                model.set_running_statistics(before.clone());
            }
            let (gradients, loss) = self.batch(model, images, inputs);
            accumulator.accumulate(model, gradients);
            losses.push(loss);
            if before.is_some() {
                statistics.push(model.running_statistics());
            }
        }
        if let Some(before) = before {
            let moves = statistics.into_iter().map(|after| moved(&before, after));
            let sum = moves.reduce(|sum, more| {
                let both = sum.into_iter().zip(more);
                both.map(|(sum, more)| sum + more).collect()
            });
            move_statistics(model, before, sum.unwrap_or_default(), losses.len());
        }
        Ok((accumulator.grads(), losses))
    }

    /// As [`run`](Self::run) of `parts` batches that are dealt out: `batches` are those of this process, whose losses
    /// are given. It waits for the sums.
    ///
    /// # Errors
    /// Those of the batches.
    pub fn run_shared<E>(
        &self,
        ranks: &dyn Ranks,
        trained: Trained,
        (images, parts): (usize, usize),
        batches: impl IntoIterator<Item = Result<Inputs, E>>,
    ) -> Result<(Trained, Vec<BatchLoss>), E> {
        let model = &trained.model;
        let before = model.running_statistics();
        let mut sums = Sums::new(ranks, bucket::length(model, &before).0);
        let (mut losses, mut batches) = (vec![], batches.into_iter());
        for first in (0..parts).step_by(ranks.size()) {
            let active = ranks.size().min(parts - first);
            let next = (ranks.rank() < active).then(|| batches.next()).flatten();
            let mine = match next {
                None => vec![],
                Some(inputs) => {
                    model.set_running_statistics(before.clone());
                    let (gradients, loss) = self.batch(model, images, inputs?);
                    losses.push(loss);
                    let after = model.running_statistics();
                    let statistics = match parts {
                        1 => after,
                        _ => moved(&before, after),
                    };
                    bucket::pack(model, gradients, statistics)
                }
            };
            sums.add(mine, active);
        }
        let (gradients, statistics) = bucket::unpack(model, &sums.finish(), &before);
        match parts {
            1 => model.set_running_statistics(statistics),
            _ => move_statistics(model, before, statistics, parts),
        }
        Ok((self.update(trained, gradients), losses))
    }

    /// What one batch of a step over so many images adds to its gradients.
    fn batch(&self, model: &Shike, images: usize, inputs: Inputs) -> (GradientsParams, BatchLoss) {
        let [batch] = inputs.labels.dims();
        let forward = |images| model.forward(images, self.head);
        let logits = self.precision.compute(inputs.images, forward);
        let loss = match inputs.share {
            None => self.loss.forward(&logits, inputs.labels),
            Some(share) => self.loss.forward_mixed(&logits, inputs.labels, share),
        };
        let of_batch = BatchLoss::new(batch, &loss);
        // Each batch's loss is a mean; the step's is the mean over all images.
        let total = match batch == images {
            true => loss.total(),
            false => loss.total().mul_scalar(batch as f64 / images as f64),
        };
        let gradients = GradientsParams::from_grads(total.backward(), model);
        (gradients, of_batch)
    }

    /// The second half of a step: the weights, and their average.
    pub fn update(&self, trained: Trained, mut gradients: GradientsParams) -> Trained {
        let Trained {
            model,
            mut optimizer,
            mut ema,
        } = trained;
        if let Some(max_norm) = self.clip_norm {
            gradients = clip_global_norm(gradients, &model, max_norm);
        }
        let model = optimizer.step(self.rates.clone(), model, gradients);
        if let Some(ema) = &mut ema {
            ema.update(&model);
        }
        Trained {
            model,
            optimizer,
            ema,
        }
    }
}

/// How far a batch has moved running statistics.
fn moved(before: &[Tensor<1>], after: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
    let both = after.into_iter().zip(before);
    both.map(|(after, before)| after - before.clone()).collect()
}

/// Moves running statistics by the mean over `parts` batches, each of which began at `before`. What none has moved
/// stays as it is.
fn move_statistics(model: &Shike, before: Vec<Tensor<1>>, sum: Vec<Tensor<1>>, parts: usize) {
    let both = before.into_iter().zip(sum);
    let mean = both.map(|(before, sum)| before + sum.div_scalar(parts as f64));
    model.set_running_statistics(mean.collect());
}

impl BatchLoss {
    /// Keeps nothing that is there for gradients.
    fn new(images: usize, loss: &LossOutput) -> Self {
        let terms = [(TOTAL, loss.total())]
            .into_iter()
            .chain(loss.terms.clone());
        Self {
            images,
            values: terms.map(|(name, term)| (name, term.inner())).collect(),
        }
    }

    /// Waits until it is computed, and gives the total ([`TOTAL`]), then each term; one transfer for all.
    pub fn read(&self) -> Vec<(&'static str, f64)> {
        let register = |read: Transaction, (_, term): &(_, Tensor<1>)| read.register(term.clone());
        let values = self.values.iter().fold(Transaction::default(), register);
        let value = |data: TensorData| data.iter::<f64>().next().unwrap_or(f64::NAN);
        let names = self.values.iter().map(|(name, _)| *name);
        names.zip(values.execute().into_iter().map(value)).collect()
    }
}

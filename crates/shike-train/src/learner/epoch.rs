//! One epoch: batches, steps and checkpoints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{FloatDType, Int, Tensor};
use shike_data::mix::Mix;
use shike_data::{Batch, Loader};
use shike_model::{Loss, Shike};

use super::loss::{Losses, Unread};
use super::stages::stage_seed;
use super::state::Position;
use super::{Learner, State, head};
use crate::error::TrainError;
use crate::learner::optim::clip_global_norm;
use crate::learner::progress::Progress;
use crate::run::RunDir;
use shike_infer::device::batch::{Precision, to_tensors};

impl Learner {
    /// Trains the rest of an epoch. `false` if it was interrupted.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run_epoch(
        &self,
        mut state: State,
        loader: &Loader,
        order: Vec<u32>,
        lr: f64,
        loss: &dyn Loss,
        run: &RunDir,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<(State, bool), TrainError> {
        let images = order.len();
        let batch_size = self.config.loader.batch_size;
        let rates = self.rates(&state.model, lr);
        let total = loader.batches_per_epoch(images);
        // Counted before the loader's threads begin, which may meet the first at once.
        let mut none_yet = self.bad_images.is_empty();
        let mut batches = loader.epoch(state.position.epoch as u64, order, state.position.batch);
        let mut started = Instant::now();
        let mut saved = Instant::now();
        let mut losses = Losses::new(lr);
        while state.position.batch < total {
            let group =
                state.position.batch..(state.position.batch + self.config.accumulation).min(total);
            let group_images = (images - group.start * batch_size).min(group.len() * batch_size);
            let mut accumulator = GradientsAccumulator::new();
            for batch in group.clone() {
                let next = batches.next();
                if none_yet && let Some(first) = self.bad_images.entries().first() {
                    none_yet = false;
                    let list = run.paths().bad_images();
                    progress.message(&format!(
                        "{} cannot be read and is replaced; {} lists all of them, with each checkpoint",
                        first.path,
                        list.display()
                    ));
                }
                let Some(next) = next else {
                    return Err(TrainError::ShortEpoch {
                        found: batch,
                        expected: total,
                    });
                };
                let mut next = next?;
                let mix = self.mix(&mut next, &state.position, batch);
                let (inputs, labels) = self.inputs(&next);
                let logits = state.model.forward(inputs, head(state.position.stage));
                let loss = match mix {
                    None => loss.forward(&logits, labels),
                    Some(mix) => loss.forward_mixed(&logits, labels, mix.share),
                };
                let unread = Unread::from(&loss);
                // Each batch's loss is a mean; the step's is the mean over all their images.
                let total = match group.len() {
                    1 => loss.total(),
                    _ => {
                        let share = next.len() as f64 / group_images as f64;
                        loss.total().mul_scalar(share)
                    }
                };
                let gradients = GradientsParams::from_grads(total.backward(), &state.model);
                accumulator.accumulate(&state.model, gradients);
                losses.push(batch, next.len(), unread, &mut state.position, progress)?;
            }
            let mut gradients = accumulator.grads();
            if let Some(max_norm) = self.config.clip_norm {
                gradients = clip_global_norm(gradients, &state.model, max_norm);
            }
            state.model = state.optimizer.step(rates.clone(), state.model, gradients);
            if let Some(ema) = &mut state.ema {
                ema.update(&state.model);
            }
            state.position.batch = group.end;
            state.position.step += 1;
            state.position.sums.seconds += started.elapsed().as_secs_f64();
            started = Instant::now();

            let stopping = stop.load(Ordering::Relaxed);
            let due = saved.elapsed().as_secs_f64() >= self.config.checkpoint_seconds;
            // The end of an epoch writes its own, with the scores' row.
            if stopping || (due && state.position.batch < total) {
                losses.read(&mut state.position, progress)?;
                self.save(run, &state)?;
                saved = Instant::now();
            }
            if stopping {
                return Ok((state, false));
            }
        }
        losses.read(&mut state.position, progress)?;
        Ok((state, true))
    }

    /// Mixes the images of a batch, if this stage does so and this batch is drawn for it.
    fn mix(&self, batch: &mut Batch, position: &Position, number: usize) -> Option<Mix> {
        let mixing = self.config.stage(position.stage)?.mixing;
        let (height, width) = (batch.height as u32, batch.width as u32);
        let seed = stage_seed(self.config.seed, position.stage);
        let mix = mixing.draw(height, width, seed, position.epoch as u64, number as u64)?;
        let n = batch.len();
        mix.apply(&mut batch.images, n, width as usize);
        Some(mix)
    }

    /// Images in the type that the network computes in, and labels.
    pub(super) fn inputs(&self, batch: &Batch) -> (Tensor<4>, Tensor<1, Int>) {
        let config = &self.config;
        let (images, labels) =
            to_tensors(batch, &config.normalization, config.upload, &self.device);
        let images = match config.precision {
            Precision::F32 => images,
            Precision::Bf16 => images.cast(FloatDType::BF16),
        };
        (images, labels)
    }

    /// The learning rate of each part.
    pub(super) fn rates(&self, model: &Shike, lr: f64) -> ModuleLearningRate {
        let factors = self.config.lr_factors.iter();
        factors
            .fold(ModuleLrScheduler::new(lr), |rates, (part, factor)| {
                rates.with_group(model.param_group(*part), lr * factor)
            })
            .step()
    }
}

//! One epoch: batches, steps and checkpoints.

use std::time::{Duration, Instant};

use burn::optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use shike_data::mix::Mix;
use shike_data::{Batch, Loader};
use shike_infer::device::batch::to_tensors;
use shike_model::Shike;

use super::loss::Losses;
use super::stages::stage_seed;
use super::state::Position;
use super::step::{Inputs, Step};
use super::{Learner, Session, State, head};
use crate::error::TrainError;

/// An epoch of a stage.
pub(super) struct Epoch<'a> {
    /// How its steps are taken.
    pub step: Step,
    /// Its batches.
    pub loader: &'a Loader,
    /// Its images in their order.
    pub order: Vec<u32>,
    /// Its learning rate.
    pub lr: f64,
}

/// How an epoch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All batches are done.
    Whole,
    /// The time of its stage is over.
    OutOfTime,
    /// It was asked to stop, and wrote a checkpoint.
    Stopped,
}

impl Learner {
    /// Trains the rest of an epoch.
    pub(super) fn run_epoch(
        &self,
        mut state: State,
        epoch: Epoch<'_>,
        session: &mut Session<'_>,
    ) -> Result<(State, Ended), TrainError> {
        let Epoch {
            step,
            loader,
            order,
            lr,
        } = epoch;
        let images = order.len();
        let batch_size = self.config.loader.batch_size;
        let total = loader.batches_per_epoch(images);
        // Counted before the loader's threads begin, which may meet the first at once.
        let mut none_yet = self.bad_images.is_empty();
        let ranks = &*self.ranks;
        // The batches of a step go round.
        let is_mine =
            |number: &usize| number % self.config.accumulation % ranks.size() == ranks.rank();
        let numbers: Vec<usize> = (state.position.batch..total).filter(is_mine).collect();
        let mut batches = loader.epoch_batches(state.position.epoch as u64, order, numbers);
        let mut started = Instant::now();
        let mut saved = Instant::now();
        let mut losses = Losses::new(ranks, lr);
        while state.position.batch < total {
            let group =
                state.position.batch..(state.position.batch + self.config.accumulation).min(total);
            let group_images = (images - group.start * batch_size).min(group.len() * batch_size);
            let inputs = group.clone().filter(is_mine).map(|number| {
                let next = batches.next();
                if none_yet && let Some(first) = self.bad_images.entries().first() {
                    none_yet = false;
                    let list = session.run.paths().bad_images();
                    session.message(&format!(
                        "{} cannot be read and is replaced; {} lists all of them, with each checkpoint",
                        first.path,
                        list.display()
                    ));
                }
                let short = TrainError::ShortEpoch {
                    found: number,
                    expected: total,
                };
                Ok::<_, TrainError>(self.inputs(next.ok_or(short)??, &state.position, number))
            });
            let read;
            (state.trained, read) = match ranks.is_alone() {
                true => step.run(state.trained, group_images, inputs)?,
                false => {
                    let step_of = (group_images, group.len());
                    step.run_shared(ranks, state.trained, step_of, inputs)?
                }
            };
            losses.push(group.clone(), read, &mut state.position, session.progress)?;
            state.position.batch = group.end;
            state.position.step += 1;
            state.position.sums.seconds += started.elapsed().as_secs_f64();
            started = Instant::now();

            // What one of the processes is asked, or finds, all do.
            let due = saved.elapsed().as_secs_f64() >= self.config.checkpoint_seconds;
            let over = session.is_over(state.position.stage, Duration::ZERO);
            let found = [session.stopping(), due && ranks.writes(), over];
            let flags = (0u8..)
                .zip(found)
                .map(|(bit, found)| u8::from(found) << bit);
            let flags = ranks.any(flags.sum());
            let [stopping, due, over] = [1, 2, 4].map(|flag| flags & flag != 0);
            // The end of an epoch writes its own, with the scores' row.
            if stopping || (due && state.position.batch < total) {
                losses.read(&mut state.position, session.progress)?;
                self.save_and_tell(session, &state)?;
                saved = Instant::now();
            }
            if stopping {
                return Ok((state, Ended::Stopped));
            }
            let within = state.position.batch < total;
            if within && over {
                losses.read(&mut state.position, session.progress)?;
                return Ok((state, Ended::OutOfTime));
            }
        }
        losses.read(&mut state.position, session.progress)?;
        Ok((state, Ended::Whole))
    }

    /// How the steps of an epoch (from 0) of a stage are taken, at its learning rate.
    pub(super) fn step(
        &self,
        model: &Shike,
        stage: usize,
        epoch: usize,
        lr: f64,
    ) -> Result<Step, TrainError> {
        let step = Step::new(head(stage), self.stage_loss(stage, epoch)?, lr)
            .with_precision(self.config.precision);
        let rates = self.rates(model, lr);
        Ok(step.with_rates(rates).with_clip_norm(self.config.clip_norm))
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

    /// A batch on the device, mixed if its stage does so and it is drawn for that.
    pub(super) fn inputs(&self, mut batch: Batch, position: &Position, number: usize) -> Inputs {
        let mix = self.mix(&mut batch, position, number);
        let config = &self.config;
        let (images, labels) =
            to_tensors(&batch, &config.normalization, config.upload, &self.device);
        Inputs {
            images,
            labels,
            share: mix.map(|mix| mix.share),
        }
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
}

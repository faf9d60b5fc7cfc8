//! A few steps of a run, timed, instead of the run.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use shike_data::Batch;
use shike_model::network::ModelSummary;

use super::loss::check_finite;
use super::memory::stage1_params;
use super::{Learner, State};
use crate::config::StageConfig;
use crate::error::TrainError;
use shike_infer::device::memory::{self, StepMemory, gib};

/// What a run would need; see [`Learner::dry_run`].
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    /// Parameters and multiply-adds.
    pub summary: ModelSummary,
    /// Parameters that stage 1 trains.
    pub trained: usize,
    /// Estimated memory of a stage-1 step.
    pub memory: StepMemory,
    /// The most memory that was held while the steps ran, in bytes, where that can be known.
    pub peak: Option<u64>,
    /// Memory that was available before, in bytes, where that can be known.
    pub available: Option<u64>,
    /// Each stage.
    pub stages: Vec<StageTime>,
}

/// What a stage would take.
#[derive(Clone, Debug, Serialize)]
pub struct StageTime {
    /// Stage, from 1.
    pub stage: usize,
    /// Seconds of each timed step, decoding included; a first one that warms up is left out.
    pub steps: Vec<f64>,
    /// Loss at each step, the first one included.
    pub losses: Vec<f64>,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: usize,
    /// Epochs.
    pub epochs: usize,
}

impl StageTime {
    /// Median of the timed steps, in seconds.
    pub fn step(&self) -> f64 {
        let mut steps = self.steps.clone();
        steps.sort_by(f64::total_cmp);
        steps.get(steps.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Seconds that an epoch would take, without scoring.
    pub fn epoch(&self) -> f64 {
        self.step() * self.steps_per_epoch as f64
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary)?;
        writeln!(f, "trained in stage 1:  {:>12} parameters", self.trained)?;
        let batch = self.memory.batch_size;
        writeln!(f, "a step of {batch} needs:  about {}", self.memory)?;
        if let Some(available) = self.available {
            let fits = self.memory.batch_that_fits(available);
            let available = gib(available);
            writeln!(
                f,
                "available:           {available}, for batches of about {fits}"
            )?;
        }
        if let Some(peak) = self.peak {
            writeln!(f, "measured at most:    {}", gib(peak))?;
        }
        let mut total = 0.0;
        for stage in &self.stages {
            let epoch = stage.epoch();
            total += epoch * stage.epochs as f64;
            writeln!(
                f,
                "stage {}: {:.3} s a step (median of {}), {} steps and about {} an epoch, {} epochs",
                stage.stage,
                stage.step(),
                stage.steps.len(),
                stage.steps_per_epoch,
                human(epoch),
                stage.epochs,
            )?;
        }
        write!(
            f,
            "all of it:           about {}, without scoring",
            human(total)
        )
    }
}

/// A time as people say it, such as `3 minutes`.
pub fn human(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    indicatif::HumanDuration(seconds).to_string()
}

impl Learner {
    /// Takes `steps` timed optimizer steps of each stage (after one that warms up) as
    /// [`run`](Self::run) would, from the start, and says what the whole run would need. Nothing is
    /// written.
    ///
    /// # Errors
    /// If images cannot be read, the loss is not finite, or the memory does not suffice.
    pub fn dry_run(&self, steps: usize) -> Result<DryRun, TrainError> {
        let available = memory::available(&self.device);
        let (mut state, _) = self.start()?;
        let summary = self.summary(&state.trained.model);
        let memory = self.step_memory(&state.trained.model);
        let trained = stage1_params(&state.trained.model, &summary);
        self.check_memory(&state.trained.model)?;
        let stages = self.catch_out_of_memory(&memory, || {
            let mut stages = Vec::new();
            for stage in 1..=2 {
                let Some(config) = self.config.stage(stage) else {
                    continue;
                };
                state.position.stage = stage;
                state.trained.model = self.begin(state.trained.model, stage)?;
                state.trained.optimizer = self.optimizer();
                let timed;
                (state, timed) = self.timed_steps(config, state, steps)?;
                stages.push(timed);
            }
            Ok(stages)
        })?;
        Ok(DryRun {
            summary,
            trained,
            memory,
            peak: memory::peak(&self.device),
            available,
            stages,
        })
    }

    fn timed_steps(
        &self,
        config: &StageConfig,
        mut state: State,
        steps: usize,
    ) -> Result<(State, StageTime), TrainError> {
        let stage = state.position.stage;
        let (sampler, loader) = self.stage_parts(stage, config)?;
        let order = sampler.epoch_indices(0, config.epochs as u64);
        let batches = loader.batches_per_epoch(order.len());
        let group = self.config.accumulation.min(batches);
        let mut timed = StageTime {
            stage,
            steps: vec![],
            losses: vec![],
            steps_per_epoch: batches.div_ceil(group),
            epochs: config.epochs,
        };
        let lr = config.schedule.lr(0);
        let step = self.step(&state.trained.model, stage, 0, lr)?;
        // Small sets are gone through more than once, and each time without a last group that is not whole.
        let mut epoch = loader.epoch(0, order.clone(), 0);
        let groups = batches / group;
        for number in 0..=steps {
            if number > 0 && number.is_multiple_of(groups) {
                epoch = loader.epoch((number / groups) as u64, order.clone(), 0);
            }
            let started = Instant::now();
            let read: Vec<Batch> = epoch.by_ref().take(group).collect::<Result<_, _>>()?;
            if read.len() < group {
                return Err(TrainError::ShortEpoch {
                    found: number % groups * group + read.len(),
                    expected: batches,
                });
            }
            let images = read.iter().map(Batch::len).sum();
            let place = number % groups * group;
            let inputs = (place..).zip(read);
            let inputs = inputs
                .map(|(at, batch)| Ok::<_, TrainError>(self.inputs(batch, &state.position, at)));
            let losses;
            (state.trained, losses) = step.run(state.trained, images, inputs)?;
            let mut sum = 0.0;
            for loss in &losses {
                let values = loss.read();
                check_finite(&values, &state.position, state.position.step, lr)?;
                let total = values.first().map_or(f64::NAN, |(_, value)| *value);
                sum += total * loss.images as f64;
            }
            timed.losses.push(sum / images as f64);
            // What a step has queued is part of its time.
            self.device
                .sync()
                .map_err(|error| TrainError::Device(format!("{error:?}")))?;
            state.position.step += 1;
            if number > 0 {
                timed.steps.push(started.elapsed().as_secs_f64());
            }
        }
        Ok((state, timed))
    }
}

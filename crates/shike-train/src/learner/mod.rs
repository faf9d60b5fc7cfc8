//! The training loop: two stages, checkpoints, scoring.

mod check;
mod dry_run;
mod loss;
mod state;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};
use serde::Serialize;
use shike_data::mix::Mix;
use shike_data::{BadImageLog, Batch, Dataset, FileCheck, Loader, Sampler};
use shike_model::network::ModelSummary;
use shike_model::weights;
use shike_model::{Head, Shike, ShikeConfig};

use crate::batch::to_tensors;
use crate::config::{Precision, StageConfig, TrainConfig, TrainConfigError};
use crate::data_source::{DataSource, RunConfig};
use crate::device;
use crate::ema::Ema;
use crate::error::{TrainError, panic_message};
use crate::evaluate::evaluate;
use crate::memory::{self, StepMemory};
use crate::method::Stage2;
use crate::metrics::{Evaluation, Evaluator};
use crate::model_file::{self, ModelInfo, save_model};
use crate::optim::{Sgd, clip_global_norm};
use crate::progress::Progress;
use crate::receipt::{ChosenOn, Receipt, ScoredSplit, SplitReceipt, class_order};
use crate::report::write_report;
use crate::run_dir::{Classes, EpochRow, RunDir, RunPaths};

pub use dry_run::{DryRun, StageTime};
use loss::{Losses, StageLoss};
pub use state::BestEpoch;
use state::{EpochSums, Position};

/// The images of a run.
#[derive(Clone, Debug)]
pub struct TrainData {
    /// What is trained on.
    pub train: Dataset,
    /// What the best epoch is chosen on, if there is any.
    pub val: Option<Dataset>,
    /// What is reported. Nothing is chosen on it.
    pub test: Option<Dataset>,
}

impl TrainData {
    /// The images of a split that is scored.
    pub fn scored(&self, split: ScoredSplit) -> Option<&Dataset> {
        match split {
            ScoredSplit::Val => self.val.as_ref(),
            ScoredSplit::Test => self.test.as_ref(),
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done; none where nothing was scored.
    Finished(Option<Box<FinalScores>>),
    /// It was asked to stop, and can be resumed.
    Interrupted,
}

/// Scores of the last epoch. [`Display`](std::fmt::Display) prints a table for each set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FinalScores {
    /// On the validation set.
    pub val: Option<Evaluation>,
    /// On the test set.
    pub test: Option<Evaluation>,
    /// The epoch that `best.safetensors` is of; none without a validation set.
    pub best: Option<BestEpoch>,
}

impl FinalScores {
    /// The scores that a result is reported by, and the split that they are of: the test set's, or
    /// else the validation set's.
    pub fn reported(&self) -> Option<(ScoredSplit, &Evaluation)> {
        let val = || self.val.as_ref().map(|val| (ScoredSplit::Val, val));
        let test = self.test.as_ref().map(|test| (ScoredSplit::Test, test));
        test.or_else(val)
    }
}

impl fmt::Display for FinalScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(val) = &self.val {
            write!(f, "validation set")?;
            if let Some(best) = &self.best {
                let BestEpoch { stage, epoch, .. } = best;
                write!(
                    f,
                    ", last epoch (the best was epoch {} of stage {stage}, with a class average of {:.2} %)",
                    epoch + 1,
                    best.accuracy
                )?;
            }
            write!(f, "\n{val}")?;
        }
        if self.val.is_some() && self.test.is_some() {
            write!(f, "\n\n")?;
        }
        match &self.test {
            Some(test) => write!(f, "test set, last epoch\n{test}"),
            None => Ok(()),
        }
    }
}

/// Trains a network as a [`TrainConfig`] says and writes a [`RunDir`].
#[derive(Debug)]
pub struct Learner {
    config: TrainConfig,
    data: TrainData,
    device: Device,
    train_counts: Vec<usize>,
    eval_loaders: Vec<(Split, Loader)>,
    /// Training images that could not be read.
    bad_images: BadImageLog,
    /// What a person should know about the images.
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    Val,
    Test,
}

/// Scores of one epoch.
struct Scores {
    val: Option<Evaluation>,
    test: Option<Evaluation>,
    /// Of the averaged weights, on the test set or else the validation set.
    ema: Option<Evaluation>,
}

/// What training changes.
struct State {
    model: Shike,
    optimizer: ModuleOptimizer,
    ema: Option<Ema>,
    position: Position,
}

impl Learner {
    /// Checks configuration and data against one another, and that the files of the images are
    /// there; validation and test images are read, too, as far as ten seconds allow.
    ///
    /// # Errors
    /// If a field is out of range, the data has other classes than the network, or images cannot be
    /// used ([`DataError::BadImages`](shike_data::DataError::BadImages)).
    pub fn new(config: TrainConfig, data: TrainData, device: Device) -> Result<Self, TrainError> {
        config.validate()?;
        if config.precision == Precision::Bf16 && !device.supports_dtype(DType::BF16) {
            return Err(TrainError::Device(
                "it has no bfloat16: take precision f32, or another device".into(),
            ));
        }
        let classes = data.train.num_classes();
        if config.model.num_classes != classes {
            return Err(TrainError::Mismatch(format!(
                "the network has {} classes, the training set {classes}",
                config.model.num_classes
            )));
        }
        let splits = [(Split::Val, &data.val), (Split::Test, &data.test)];
        let mut eval_loaders = Vec::new();
        for (split, dataset) in splits {
            let Some(dataset) = dataset else { continue };
            if dataset.class_names() != data.train.class_names() {
                return Err(TrainError::Mismatch(format!(
                    "the {split:?} set has other classes, or another order, than the training set"
                )));
            }
            let loader = Loader::new(
                dataset.clone(),
                config.eval_pipeline.clone(),
                // Scoring misses no image.
                shike_data::LoaderConfig {
                    drop_last: false,
                    ..config.loader
                },
                config.seed,
            )?;
            eval_loaders.push((split, loader));
        }
        // What only an epoch's end would meet is refused before the first.
        Loader::new(
            data.train.clone(),
            config.train_pipeline.clone(),
            config.loader,
            config.seed,
        )?;
        let train_counts = data.train.class_counts();
        if let Some(Stage2::TauNorm { taus }) = &config.stage2
            && taus.len() > 1
            && data.val.is_none()
        {
            return Err(TrainError::Mismatch(format!(
                "stage2.taus has {} entries, one of which is chosen on a validation set, and there is \
                 none: give one entry, or a validation set",
                taus.len()
            )));
        }
        Evaluator::new(&train_counts, config.thresholds, config.model.experts)?;
        config.bad_images.validate()?;
        let notes = check::at_start(&data, config.bad_images)?;
        let learner = Self {
            train_counts,
            config,
            data,
            device: device.autodiff(),
            eval_loaders,
            bad_images: BadImageLog::default(),
            notes,
        };
        for stage in 1..=2 {
            learner.stage_loss(stage, 0)?;
        }
        Ok(learner)
    }

    /// Decodes every image of every set.
    ///
    /// # Errors
    /// [`DataError::BadImages`](shike_data::DataError::BadImages) names those that cannot be used;
    /// under [`BadImages::Skip`](shike_data::BadImages::Skip), training images may be among them.
    /// Returns a line on each set.
    pub fn check_images(&self) -> Result<Vec<String>, TrainError> {
        let check = FileCheck::Decode;
        Ok(check::all(
            &self.data,
            self.config.bad_images,
            [check; 2],
            None,
        )?)
    }

    /// The resolved configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Class names and training counts, as a run records them.
    pub fn classes(&self) -> Classes {
        Classes {
            names: self.data.train.class_names().to_vec(),
            train_counts: self.train_counts.clone(),
        }
    }

    /// Starts a run in a new or empty folder. `source` is recorded for
    /// [`open`](DataSource::open)ing it again on a resume, and `stage2_from` so that a resume does
    /// not train stage 1 itself, should there be no checkpoint yet.
    ///
    /// # Errors
    /// If the folder is in use, the initial weights do not fit, or the memory cannot suffice.
    pub fn create_run(
        &self,
        folder: &std::path::Path,
        source: Option<DataSource>,
        stage2_from: Option<std::path::PathBuf>,
    ) -> Result<RunDir, TrainError> {
        // What cannot start leaves no folder behind that would be in the way of the next try.
        let (state, _) = self.start()?;
        self.check_memory(&state.model)?;
        let config = RunConfig {
            data: source,
            train: self.config.clone(),
            stage2_from,
        };
        let run = RunDir::create(folder, &config, self.classes())?;
        Ok(run.keep_last(self.config.keep_checkpoints))
    }

    /// Trains from where the run's newest checkpoint stands, or from the start, until all epochs
    /// are done or `stop` is set; then a last checkpoint is written.
    ///
    /// # Errors
    /// If images cannot be read, the loss is not finite, or a file cannot be written. The newest
    /// checkpoint stays good.
    pub fn run(
        &self,
        run: &mut RunDir,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        let latest = run.latest()?;
        let state = match latest {
            Some(latest) => {
                for warning in &latest.warnings {
                    progress.message(warning);
                }
                let state = self.restore(&latest.checkpoint, &latest.path)?;
                let Position {
                    stage,
                    epoch,
                    batch,
                    ..
                } = state.position;
                if stage <= 2 {
                    progress.message(&format!(
                        "resuming at stage {stage}, epoch {}, batch {batch}",
                        epoch + 1
                    ));
                }
                state
            }
            None => {
                let (state, message) = self.start()?;
                if let Some(message) = message {
                    progress.message(&message);
                }
                state
            }
        };
        let needed = self.step_memory(&state.model);
        self.catch_out_of_memory(&needed, || self.train(state, run, progress, stop))
    }

    /// Re-trains the classifiers on the features of another run's finished stage 1.
    ///
    /// # Errors
    /// As [`run`](Self::run); also if the other run has no finished stage 1, or another network.
    pub fn run_stage2_from(
        &self,
        source: &RunPaths,
        run: &mut RunDir,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        if self.config.stage2.is_none() {
            return Err(TrainError::Mismatch(
                "the configuration has no stage 2 to run".into(),
            ));
        }
        if run.latest()?.is_some() {
            return self.run(run, progress, stop);
        }
        let theirs = source.read_config::<RunConfig>()?.train.model;
        let classes = source.read_classes()?;
        // A stage 1 that was to have no second one can get it here.
        let with_heads = theirs.clone().with_stage2_heads(true);
        if with_heads != self.config.model || classes != self.classes() {
            return Err(TrainError::Mismatch(format!(
                "{}: its network or its classes are not those of this run",
                source.root().display()
            )));
        }
        let path = source.stage_checkpoint(1);
        let checkpoint = crate::checkpoint::read(&path)?;
        let mut state = self.restore_from(&checkpoint, &path, &theirs)?;
        // Its best epoch was chosen among the other run's.
        state.position.best = None;
        self.save(run, &state)?;
        let needed = self.step_memory(&state.model);
        self.catch_out_of_memory(&needed, || self.train(state, run, progress, stop))
    }

    /// A run before its first step, and a line on the weights that it starts from.
    fn start(&self) -> Result<(State, Option<String>), TrainError> {
        let mut model = self.new_model()?;
        let mut message = None;
        if let Some(path) = &self.config.weights {
            let taken;
            (model, taken) = weights::import_pretrained(model, path)?;
            message = Some(format!(
                "{}: {} tensors taken, {} left random",
                path.display(),
                taken.loaded.len(),
                taken.random.len()
            ));
        }
        let model = self.prepare(model, 1);
        let state = State {
            optimizer: self.optimizer(),
            ema: self.ema(&model),
            model,
            position: Position::start(state::fingerprint(&self.data.train)),
        };
        Ok((state, message))
    }

    /// The network with the random weights that a run starts from.
    fn new_model(&self) -> Result<Shike, TrainError> {
        self.device.seed(self.config.seed);
        self.init_model(&self.config.model)
    }

    fn init_model(&self, config: &ShikeConfig) -> Result<Shike, TrainError> {
        let model = config.init(&self.device);
        Ok(model.map_err(TrainConfigError::from)?)
    }

    fn optimizer(&self) -> ModuleOptimizer {
        Sgd::new(self.config.momentum, self.config.weight_decay).init()
    }

    /// An average that starts with this network, where the run has one.
    fn ema(&self, model: &Shike) -> Option<Ema> {
        self.config.ema_decay.map(|decay| Ema::new(decay, model))
    }

    /// Freezes what a stage does not train.
    fn prepare(&self, model: Shike, stage: usize) -> Shike {
        let model = match stage {
            1 => model,
            _ => model.freeze_for_stage2(self.config.freeze_batch_norm),
        };
        let frozen = self.config.freeze.iter();
        frozen.fold(model, |model, part| model.freeze_part(*part))
    }

    /// A network at the start of a stage: what the stage does not train is frozen, and learnable weight
    /// scaling has its factors.
    fn begin(&self, model: Shike, stage: usize) -> Result<Shike, TrainError> {
        let model = match (stage, &self.config.stage2) {
            (2, Some(Stage2::Lws(_))) => {
                model.scale_stage1_heads().map_err(TrainConfigError::from)?
            }
            _ => model,
        };
        Ok(self.prepare(model, stage))
    }

    /// The learning rate of each part.
    fn rates(&self, model: &Shike, lr: f64) -> ModuleLearningRate {
        let factors = self.config.lr_factors.iter();
        factors
            .fold(ModuleLrScheduler::new(lr), |rates, (part, factor)| {
                rates.with_group(model.param_group(*part), lr * factor)
            })
            .step()
    }

    /// Parameters and multiply-adds at the size of the training images.
    fn summary(&self, model: &Shike) -> ModelSummary {
        let size = self.config.train_pipeline.output_size();
        let side = size.unwrap_or(224);
        model.describe([side, side])
    }

    /// Memory of a step of stage 1, which is the larger one.
    fn step_memory(&self, model: &Shike) -> StepMemory {
        let summary = self.summary(model);
        let trained = stage1_params(model, &summary);
        StepMemory::estimate(
            &summary,
            trained,
            self.config.loader.batch_size,
            self.config.ema_decay.is_some(),
            memory::kept_per_value(&self.device, self.config.precision),
        )
    }

    /// Refuses a batch that cannot fit, where the memory can be known: a process that the operating
    /// system kills for its memory says nothing.
    fn check_memory(&self, model: &Shike) -> Result<(), TrainError> {
        let needed = self.step_memory(model);
        match memory::available(&self.device) {
            Some(available) if needed.total() > available => {
                Err(out_of_memory(&needed, available, None))
            }
            _ => Ok(()),
        }
    }

    /// Turns a backend's panic over its memory into an error; any other panic goes on.
    fn catch_out_of_memory<T>(
        &self,
        needed: &StepMemory,
        work: impl FnOnce() -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let panic = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => return result,
            Err(panic) => panic,
        };
        let message = panic_message(panic.as_ref());
        if !memory::tells_of_memory(message) {
            resume_unwind(panic);
        }
        // What the backend's pools came to hold is about what the device has.
        let available = memory::peak(&self.device).unwrap_or_default();
        let cause = message.lines().next().map(str::to_owned);
        Err(out_of_memory(needed, available, cause))
    }

    fn train(
        &self,
        mut state: State,
        run: &mut RunDir,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<Outcome, TrainError> {
        if self.data.val.is_none() {
            progress.message(
                "no validation set: the model of the last epoch is kept, and no best one is chosen",
            );
        }
        for note in &self.notes {
            progress.message(note);
        }
        run.truncate_rows_from(state.position.stage, state.position.epoch)?;
        let mut receipt = self.receipt(run);
        run.write_receipt(&receipt)?;
        for image in run.paths().read_bad_images()? {
            self.bad_images.add(image);
        }
        let mut scores = None;
        while state.position.stage <= 2 {
            let stage = state.position.stage;
            if let Some(config) = self.config.stage(stage) {
                match self.run_stage(config, state, run, progress, stop)? {
                    (after, Some(last)) => {
                        state = after;
                        scores = Some(last);
                    }
                    (_, None) => return Ok(Outcome::Interrupted),
                }
            } else if let (2, Some(Stage2::TauNorm { taus })) = (stage, &self.config.stage2) {
                scores = Some(self.tau_normalize(taus, &mut state, run, progress)?);
            }
            if stage == 2 {
                state.model = state.model.fold_head_scales();
                let last = self.last_stage();
                self.save_model(&run.paths().model(), &state.model, &state.position, last)?;
                if let Some(ema) = &state.ema {
                    self.save_model(&run.paths().ema(), ema.model(), &state.position, last)?;
                }
            }
            state.position.next_stage();
            state.optimizer = self.optimizer();
            state.model = self.prepare(state.model, state.position.stage);
            // Stage 2 trains its classifiers on the features as they are now.
            state.ema = self.ema(&state.model);
            // Before the step's own: a kill between the two must not leave a run that goes on with
            // stage 2 and never gets this file.
            if stage == 1 {
                run.save_stage_checkpoint(1, &self.checkpoint(&state)?)?;
            }
            self.save(run, &state)?;
        }
        // A run that was already finished is only scored again.
        let scores = match scores {
            Some(scores) => scores,
            None => self.score(&state, self.last_stage())?,
        };
        let scores = FinalScores {
            val: scores.val,
            test: scores.test,
            best: state.position.best,
        };
        let reported = scores.reported();
        receipt.scored = reported.map(|(split, _)| split);
        receipt.set_progress(run);
        run.write_receipt(&receipt)?;
        let Some((split, evaluation)) = reported else {
            return Ok(Outcome::Finished(None));
        };
        if let Some(images) = self.data.scored(split) {
            run.write_per_class(evaluation)?;
            run.write_predictions(evaluation, |i| images.origin(i))?;
            let report = run.paths().report();
            write_report(run.paths(), evaluation, images, &report)?;
        }
        Ok(Outcome::Finished(Some(Box::new(scores))))
    }

    /// What the run is obtained with. All images in memory are hashed, and so this is done once.
    fn receipt(&self, run: &RunDir) -> Receipt {
        let mut receipt = Receipt {
            version: env!("CARGO_PKG_VERSION").into(),
            device: device::name(&self.device),
            seed: self.config.seed,
            thresholds: self.config.thresholds,
            class_order: class_order(self.data.train.class_names()),
            train: SplitReceipt::new(&self.data.train),
            val: self.data.val.as_ref().map(SplitReceipt::new),
            test: self.data.test.as_ref().map(SplitReceipt::new),
            model_chosen_on: ChosenOn::LastEpoch,
            best_chosen_on: None,
            scored: None,
            training_seconds: 0.0,
        };
        receipt.set_progress(run);
        receipt
    }

    fn last_stage(&self) -> usize {
        1 + usize::from(self.config.stage2.is_some())
    }

    /// The loss of a stage in an epoch; of one that does not train, stage 1's.
    fn stage_loss(&self, stage: usize, epoch: usize) -> Result<StageLoss, TrainConfigError> {
        let config = self.config.stage(stage).unwrap_or(&self.config.stage1);
        let classifier = &self.config.model.classifier;
        let loss = StageLoss::new(&config.loss, &self.train_counts, classifier, epoch);
        let stage = if stage == 1 { "stage1" } else { "stage2" };
        loss.map_err(|source| TrainConfigError::Loss { stage, source })
    }

    /// Order and batches of a stage.
    fn stage_parts(
        &self,
        stage: usize,
        config: &StageConfig,
    ) -> Result<(Sampler, Loader), TrainError> {
        let seed = stage_seed(self.config.seed, stage);
        let train = &self.data.train;
        let sampler = Sampler::new(train.labels(), train.num_classes(), config.sampling, seed)?;
        let loader = Loader::new(
            train.clone(),
            self.config.train_pipeline.clone(),
            self.config.loader,
            seed,
        )?;
        let log = self.bad_images.clone();
        let loader = loader.with_bad_images(self.config.bad_images, seed, log)?;
        Ok((sampler, loader))
    }

    /// Makes the stage-2 heads of those of stage 1, with the power that scores best on the validation
    /// set where there is a choice, and scores them.
    fn tau_normalize(
        &self,
        taus: &[f64],
        state: &mut State,
        run: &mut RunDir,
        progress: &mut Progress,
    ) -> Result<Scores, TrainError> {
        let started = Instant::now();
        let normalized = |tau| {
            let model = state.model.clone().tau_normalize(tau);
            model.map_err(|error| TrainError::from(TrainConfigError::from(error)))
        };
        let val = self.eval_loaders.iter().find(|(s, _)| *s == Split::Val);
        let mut best: Option<(f64, f64)> = None;
        for &tau in taus {
            let accuracy = match val {
                Some((_, loader)) if taus.len() > 1 => {
                    let scored = self.evaluate(&normalized(tau)?.valid(), 2, loader)?;
                    let accuracy = scored.ensemble.class_averaged;
                    progress.message(&format!(
                        "tau {tau}: class-averaged accuracy {accuracy:.2} % on the validation set"
                    ));
                    accuracy
                }
                _ => 0.0,
            };
            if best.is_none_or(|(_, before)| before < accuracy) {
                best = Some((tau, accuracy));
            }
        }
        // Refused by `TrainConfig::validate`.
        let (tau, _) = best.unwrap_or_default();
        progress.message(&format!("tau-normalisation with tau {tau}"));
        state.model = self.prepare(normalized(tau)?, 2);
        state.ema = self.ema(&state.model);
        state.position.tau = Some(tau);
        let scores = self.score(state, 2)?;
        self.keep_best(state, &scores, run)?;
        let mut row = EpochRow {
            stage: 2,
            // Nothing was trained.
            train_loss: f64::NAN,
            images_per_second: f64::NAN,
            seconds: started.elapsed().as_secs_f64(),
            ..EpochRow::default()
        };
        if let Some(evaluation) = scores.test.as_ref().or(scores.val.as_ref()) {
            progress.message(&evaluation.summary());
            row = row.with_evaluation(evaluation);
        }
        run.append_row(row)?;
        Ok(scores)
    }

    /// Trains the rest of a stage. `None` if it was interrupted, else the last epoch's scores.
    fn run_stage(
        &self,
        config: &StageConfig,
        mut state: State,
        run: &mut RunDir,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<(State, Option<Scores>), TrainError> {
        let stage = state.position.stage;
        let (sampler, loader) = self.stage_parts(stage, config)?;
        if state.position.epoch == 0 && state.position.batch == 0 {
            state.model = self.begin(state.model, stage)?;
            state.ema = self.ema(&state.model);
        }
        let mut scores = None;
        while state.position.epoch < config.epochs {
            let epoch = state.position.epoch;
            let order = sampler.epoch_indices(epoch as u64, config.epochs as u64);
            let lr = config.schedule.lr(epoch);
            let loss = self.stage_loss(stage, epoch)?;
            let total = loader.batches_per_epoch(order.len());
            progress.epoch_start(stage, epoch, config.epochs, total);
            let finished;
            (state, finished) =
                self.run_epoch(state, &loader, order, lr, &loss, run, progress, stop)?;
            if !finished {
                return Ok((state, None));
            }

            let last = epoch + 1 == config.epochs;
            let row = state.position.sums.row(stage, epoch, lr);
            let row = if last || (epoch + 1).is_multiple_of(self.config.evaluate_every) {
                let new = self.score(&state, stage)?;
                self.keep_best(&mut state, &new, run)?;
                let shown = new.test.as_ref().or(new.val.as_ref());
                let summary =
                    shown.map_or_else(String::new, |shown| format!(", {}", shown.summary()));
                progress.epoch_end(&format!("loss {:.4}{summary}", row.train_loss));
                let row = match shown {
                    Some(evaluation) => row.with_evaluation(evaluation),
                    None => row,
                };
                let row = match &new.ema {
                    Some(evaluation) => {
                        let summary = evaluation.summary();
                        progress.message(&format!("averaged weights: {summary}"));
                        row.with_ema(evaluation)
                    }
                    None => row,
                };
                scores = Some(new);
                row
            } else {
                progress.epoch_end(&format!("loss {:.4}", row.train_loss));
                row
            };
            run.append_row(row)?;
            state.position.next_epoch();
            if !last {
                self.save(run, &state)?;
            }
        }
        let scores = match scores {
            Some(scores) => scores,
            None => self.score(&state, stage)?,
        };
        Ok((state, Some(scores)))
    }

    /// Trains the rest of an epoch. `false` if it was interrupted.
    #[allow(clippy::too_many_arguments)]
    fn run_epoch(
        &self,
        mut state: State,
        loader: &Loader,
        order: Vec<u32>,
        lr: f64,
        loss: &StageLoss,
        run: &RunDir,
        progress: &mut Progress,
        stop: &AtomicBool,
    ) -> Result<(State, bool), TrainError> {
        let images = order.len();
        let batch_size = self.config.loader.batch_size;
        let rates = self.rates(&state.model, lr);
        let total = loader.batches_per_epoch(images);
        let mut batches = loader.epoch(state.position.epoch as u64, order, state.position.batch);
        let mut started = Instant::now();
        let mut saved = Instant::now();
        let mut losses = Losses::new(lr);
        let mut listed = self.bad_images.len();
        while state.position.batch < total {
            let group =
                state.position.batch..(state.position.batch + self.config.accumulation).min(total);
            let group_images = (images - group.start * batch_size).min(group.len() * batch_size);
            let mut accumulator = GradientsAccumulator::new();
            for batch in group.clone() {
                let next = batches.next();
                if self.bad_images.len() > listed {
                    let images = self.bad_images.entries();
                    run.write_bad_images(&images)?;
                    if listed == 0 {
                        let list = run.paths().bad_images();
                        let path = &images[0].path;
                        let list = list.display();
                        progress.message(&format!(
                            "{path} cannot be read and is replaced; {list} has all of them"
                        ));
                    }
                    listed = images.len();
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
                let terms = loss.forward(&logits, labels.clone());
                let terms = match mix {
                    // Images are mixed with those of the batch in reverse.
                    Some(mix) => {
                        let partners = loss.forward(&logits, labels.flip([0]));
                        terms.mixed(partners, mix.share)
                    }
                    None => terms,
                };
                let unread = terms.unread();
                // Each batch's loss is a mean; the step's is the mean over all their images.
                let total = match group.len() {
                    1 => terms.total,
                    _ => {
                        let share = next.len() as f64 / group_images as f64;
                        terms.total.mul_scalar(share)
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
    fn inputs(&self, batch: &Batch) -> (Tensor<4>, Tensor<1, Int>) {
        let config = &self.config;
        let (images, labels) =
            to_tensors(batch, &config.normalization, config.upload, &self.device);
        let images = match config.precision {
            Precision::F32 => images,
            Precision::Bf16 => images.cast(FloatDType::BF16),
        };
        (images, labels)
    }

    fn score(&self, state: &State, stage: usize) -> Result<Scores, TrainError> {
        let model = state.model.valid();
        let mut scores = Scores {
            val: None,
            test: None,
            ema: None,
        };
        for (split, loader) in &self.eval_loaders {
            let evaluation = self.evaluate(&model, stage, loader)?;
            match split {
                Split::Val => scores.val = Some(evaluation),
                Split::Test => scores.test = Some(evaluation),
            }
        }
        let shown = |split| self.eval_loaders.iter().find(|(s, _)| *s == split);
        let loader = shown(Split::Test).or_else(|| shown(Split::Val));
        if let (Some(ema), Some((_, loader))) = (&state.ema, loader) {
            scores.ema = Some(self.evaluate(ema.model(), stage, loader)?);
        }
        Ok(scores)
    }

    fn evaluate(
        &self,
        model: &Shike,
        stage: usize,
        loader: &Loader,
    ) -> Result<Evaluation, TrainError> {
        evaluate(
            model,
            head(stage),
            loader,
            &self.config.normalization,
            self.config.upload,
            self.evaluator()?,
            &self.device,
        )
    }

    fn evaluator(&self) -> Result<Evaluator, TrainError> {
        let experts = self.config.model.experts;
        Ok(Evaluator::new(
            &self.train_counts,
            self.config.thresholds,
            experts,
        )?)
    }

    /// Keeps the model of the best epoch of the last stage, judged on the validation set.
    fn keep_best(
        &self,
        state: &mut State,
        scores: &Scores,
        run: &RunDir,
    ) -> Result<(), TrainError> {
        let stage = state.position.stage;
        let Some(val) = &scores.val else {
            return Ok(());
        };
        let accuracy = val.ensemble.class_averaged;
        let better = state
            .position
            .best
            .as_ref()
            .is_none_or(|best| best.stage < stage || best.accuracy < accuracy);
        if better {
            state.position.best = Some(BestEpoch {
                stage,
                epoch: state.position.epoch,
                accuracy,
            });
            self.save_model(&run.paths().best(), &state.model, &state.position, stage)?;
        }
        Ok(())
    }

    fn save_model(
        &self,
        path: &std::path::Path,
        model: &Shike,
        position: &Position,
        stage: usize,
    ) -> Result<(), TrainError> {
        let info = ModelInfo {
            format_version: model_file::FORMAT_VERSION,
            model: self.config.model.clone(),
            head: head(stage),
            class_names: self.data.train.class_names().to_vec(),
            train_counts: self.train_counts.clone(),
            pipeline: self.config.eval_pipeline.clone(),
            normalization: self.config.normalization,
            prior: Some(self.config.logit_prior(stage)),
            steps: position.step,
            tau: position.tau,
        };
        save_model(path, &model.clone().fold_head_scales(), &info)
    }
}

/// Parameters that get gradients in stage 1.
fn stage1_params(model: &Shike, summary: &ModelSummary) -> usize {
    let trainable = model.trainable_params();
    trainable.saturating_sub(summary.stage2_head_params())
}

fn out_of_memory(needed: &StepMemory, available: u64, cause: Option<String>) -> TrainError {
    TrainError::OutOfMemory {
        batch_size: needed.batch_size,
        needed: needed.total(),
        available,
        fits: needed.batch_that_fits(available),
        cause,
    }
}

/// The heads that a stage trains.
fn head(stage: usize) -> Head {
    match stage {
        1 => Head::Stage1,
        _ => Head::Stage2,
    }
}

/// Stages draw orders and augmentations of their own.
fn stage_seed(seed: u64, stage: usize) -> u64 {
    seed.wrapping_add((stage as u64 - 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

impl EpochSums {
    fn row(&self, stage: usize, epoch: usize, lr: f64) -> EpochRow {
        let images = self.images.max(1) as f64;
        EpochRow {
            stage,
            epoch,
            lr,
            train_loss: self.total / images,
            loss_terms: self
                .terms
                .iter()
                .map(|(name, sum)| (name.clone(), sum / images))
                .collect(),
            seconds: self.seconds,
            images_per_second: images / self.seconds.max(f64::MIN_POSITIVE),
            ..EpochRow::default()
        }
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::module::ParamGroup;
    use shike_model::Part;

    fn learner(change: impl FnOnce(&mut TrainConfig)) -> Learner {
        let train = Dataset::from_pixels(vec![0; 4 * 3072], 32, 32, vec![0, 0, 1, 1], 2).unwrap();
        let mut config = TrainConfig::cifar(ShikeConfig::cifar(8, 2).unwrap(), [1, 1]);
        change(&mut config);
        let data = TrainData {
            train,
            val: None,
            test: None,
        };
        Learner::new(config, data, Device::flex()).unwrap()
    }

    #[test]
    fn parts_have_rates_of_their_own() {
        let learner = learner(|config| {
            config.lr_factors.insert(Part::Stem, 0.1);
            config.lr_factors.insert(Part::Stage(3), 2.0);
        });
        let (state, _) = learner.start().unwrap();
        let model = &state.model;
        let rates = learner.rates(model, 0.5);
        let rate = |group: &ParamGroup, id| group.matches(&id, None);
        let deep = &model.experts[1].stages[0].blocks[0];
        let shike_model::network::Block::Basic(deep) = deep else {
            panic!("a CIFAR network has basic blocks");
        };
        let cases = [
            (model.stem.conv.weight.id, Part::Stem, 0.05),
            (deep.conv1.weight.id, Part::Stage(3), 1.0),
            (
                model.experts[0].fusion.as_ref().unwrap().convs[0]
                    .conv
                    .weight
                    .id,
                Part::Fusion,
                0.5,
            ),
        ];
        for (id, part, expected) in cases {
            assert!(rate(&model.param_group(part), id));
            assert!(
                (rates.lr_from_param(id, None) - expected).abs() < 1e-12,
                "{part}"
            );
        }
    }

    #[test]
    fn a_panic_over_memory_becomes_an_error_with_a_batch_that_fits() {
        let learner = learner(|_| ());
        let (state, _) = learner.start().unwrap();
        let needed = learner.step_memory(&state.model);
        let error = learner
            .catch_out_of_memory::<()>(&needed, || {
                panic!("CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"\nbacktrace")
            })
            .unwrap_err();
        let TrainError::OutOfMemory { fits, cause, .. } = &error else {
            panic!("{error}")
        };
        assert!(*fits > 0);
        assert_eq!(
            cause.as_deref(),
            Some("CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"")
        );
        assert!(error.to_string().contains("try --batch-size"), "{error}");

        let other = catch_unwind(AssertUnwindSafe(|| {
            learner.catch_out_of_memory::<()>(&needed, || panic!("a bug"))
        }));
        assert_eq!(panic_message(other.unwrap_err().as_ref()), "a bug");
    }
}

//! The training loop: two stages, checkpoints, scoring.

mod bucket;
mod check;
mod dry_run;
mod ema;
mod epoch;
mod extend;
mod frozen;
mod loss;
mod memory;
pub mod optim;
mod pace;
pub mod progress;
mod scores;
mod session;
mod shared;
mod stages;
mod state;
pub mod step;

use shike_data::Part;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use shike_data::{BadImageLog, FileCheck, Loader, Threads};
use shike_model::weights;
use shike_model::{Head, Shike, ShikeConfig};

use crate::config::diff::differing;
use crate::config::stage::Stage2;
use crate::config::{DataSource, TrainData};
use crate::config::{TrainConfig, TrainConfigError};
use crate::error::TrainError;
use crate::ranks::{Alone, Ranks};
use crate::run::{Classes, RunConfig, RunDir, RunPaths};
use shike_infer::Embedder;
use shike_infer::metrics::Evaluator;

pub use dry_run::{DryRun, StageTime, human};
pub use ema::Ema;
pub use frozen::EmbedTime;
pub use pace::{NoTime, Pace, RunTime};
pub use progress::Progress;
pub use scores::FinalScores;
pub use session::{Deadline, Session};
use state::Position;
pub use state::{BestEpoch, Weights};
use step::Trained;

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done; none where nothing was scored.
    Finished(Option<Box<FinalScores>>),
    /// It was asked to stop, and can be resumed.
    Interrupted,
}

/// Trains a network as a [`TrainConfig`] says and writes a [`RunDir`].
#[derive(Debug)]
pub struct Learner {
    config: TrainConfig,
    /// The same, with class weights as numbers.
    resolved: TrainConfig,
    data: TrainData,
    device: Device,
    train_counts: Vec<usize>,
    eval_loaders: Vec<(Part, Loader)>,
    /// What all loaders share.
    threads: Threads,
    /// Training images that could not be read.
    bad_images: BadImageLog,
    /// How many of them are in the run's list.
    listed: AtomicUsize,
    /// What a person should know about the images.
    notes: Vec<String>,
    /// The state of a run that was created and has not begun: a network is built once.
    begun: Mutex<Begun>,
    /// The frozen trunk, read once.
    embedder: OnceLock<Arc<Embedder>>,
    /// The processes that train together.
    ranks: Arc<dyn Ranks>,
}

/// A run before its first step, and a line on the weights that it starts from.
#[derive(Default)]
struct Begun(Option<(State, Option<String>)>);

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Begun({})", self.0.is_some())
    }
}

/// What training changes.
struct State {
    trained: Trained,
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
        Self::build(config, data, device, true)
    }

    /// `look`: whether the files of the images are looked at.
    fn build(
        config: TrainConfig,
        data: TrainData,
        device: Device,
        look: bool,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        config.precision.check(&device).map_err(|reason| {
            TrainError::Device(format!("{reason}: take precision f32, or another device"))
        })?;
        let classes = data.train.num_classes();
        if config.model.num_classes != classes {
            return Err(TrainError::Mismatch(format!(
                "the network has {} classes, the training set {classes}",
                config.model.num_classes
            )));
        }
        let threads = Threads::new(config.loader.workers)?;
        let mut eval_loaders = Vec::new();
        for (part, dataset) in data.parts().filter(|(part, _)| *part != Part::Train) {
            if dataset.class_names() != data.train.class_names() {
                return Err(TrainError::Mismatch(format!(
                    "the {part} set has other classes, or another order, than the training set"
                )));
            }
            let loader = Loader::on(
                &threads,
                dataset.clone(),
                config.eval_pipeline.clone(),
                // Scoring misses no image.
                shike_data::LoaderConfig {
                    drop_last: false,
                    ..config.loader
                },
                config.seed,
            )?;
            eval_loaders.push((part, loader));
        }
        // What only an epoch's end would meet is refused before the first.
        let loader = Loader::on(
            &threads,
            data.train.clone(),
            config.train_pipeline.clone(),
            config.loader,
            config.seed,
        )?;
        if loader.batches_per_epoch(data.train.len()) == 0 {
            return Err(TrainError::Mismatch(format!(
                "{} training images make no batch of {}: lower loader.batch_size, or unset \
                 loader.drop_last",
                data.train.len(),
                config.loader.batch_size
            )));
        }
        let train_counts = data.train.class_counts();
        let resolved = config.for_classes(data.train.class_names(), &train_counts)?;
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
        if config.patience.is_some() && data.val.is_none() {
            return Err(TrainError::Mismatch(
                "patience is given, and there is no validation set to see on whether epochs get better: leave it out, or \
                 give one"
                    .into(),
            ));
        }
        if config.score_test.is_some() && data.test.is_none() {
            return Err(TrainError::Mismatch(
                "score_test is given, and there is no test set: leave it out".into(),
            ));
        }
        Evaluator::new(&train_counts, config.thresholds, config.model.experts)?;
        config.bad_images.validate()?;
        check::sizes(&data, &config)?;
        let mut notes = match look {
            true => check::at_start(&data, config.bad_images)?,
            false => vec![],
        };
        for stage in 1..=2 {
            let note = config
                .stage(stage)
                .and_then(|s| s.loss.note(train_counts.len()));
            notes.extend(note.map(|note| format!("stage{stage}.loss: {note}")));
        }
        notes.extend(check::double_balancing(&resolved, &data.train));
        let learner = Self {
            train_counts,
            config,
            resolved,
            data,
            device: device.autodiff(),
            eval_loaders,
            threads,
            bad_images: BadImageLog::default(),
            listed: AtomicUsize::new(0),
            notes,
            begun: Mutex::default(),
            embedder: OnceLock::new(),
            ranks: Arc::new(Alone),
        };
        for stage in 1..=2 {
            learner.stage_loss(stage, 0)?;
        }
        if let Some(frozen) = &learner.config.frozen {
            learner.head_weights(frozen)?;
        }
        Ok(learner)
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same with a frozen trunk that a learner of this configuration, but for the seed, has read.
    #[must_use]
    pub fn with_embedder(mut self, embedder: Option<Arc<Embedder>>) -> Self {
        if let Some(embedder) = embedder {
            self.embedder = embedder.into();
        }
        self
    }

    /// The same as one of several processes, each of which calls what follows: a run is created, trained and written as
    /// by one.
    ///
    /// # Errors
    /// [`TrainError::Mismatch`] if another process has other settings, images or another version.
    pub fn on_ranks(mut self, ranks: Arc<dyn Ranks>) -> Result<Self, TrainError> {
        self.ranks = ranks;
        self.check_ranks()?;
        Ok(self)
    }

    /// The images.
    pub fn data(&self) -> &TrainData {
        &self.data
    }

    /// What a person should know of the images (files that were skipped or cannot be used, a set
    /// that was too large to be looked at as a whole) and of losses that do not suit them.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
    /// [`open`](DataSource::open)ing it again on a resume, `stage2_from` so that a resume does
    /// not train stage 1 itself, should there be no checkpoint yet, and `recipe` as the text of
    /// `recipe.toml`.
    ///
    /// # Errors
    /// If the folder is in use, the initial weights do not fit, or the memory cannot suffice.
    pub fn create_run(
        &self,
        folder: &std::path::Path,
        source: Option<DataSource>,
        stage2_from: Option<std::path::PathBuf>,
        recipe: Option<&str>,
    ) -> Result<RunDir, TrainError> {
        if !self.ranks.writes() {
            self.ranks.barrier();
            return Ok(RunDir::watch(folder)?);
        }
        // What cannot start leaves no folder behind that would be in the way of the next try.
        let begun = match self.config.frozen {
            Some(_) => {
                self.embedder()?;
                None
            }
            None => {
                let begun = self.start()?;
                self.check_memory(&begun.0.trained.model)?;
                stage2_from.is_none().then_some(begun)
            }
        };
        let config = RunConfig {
            data: source,
            train: self.config.clone(),
            stage2_from,
        };
        let classes = self.classes();
        let run = RunDir::create(folder, &config, classes, recipe)?;
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).0 = begun;
        self.ranks.barrier();
        Ok(run.keep_last(self.config.keep_checkpoints))
    }

    /// Trains from where the run's newest checkpoint stands, or from the start, until all epochs
    /// are done or `stop` is set; then a last checkpoint is written.
    ///
    /// # Errors
    /// If images cannot be read, the loss is not finite, or a file cannot be written. The newest
    /// checkpoint stays good.
    pub fn run(&self, session: &mut Session<'_>) -> Result<Outcome, TrainError> {
        // Nobody reads what another has yet to write.
        self.ranks.barrier();
        // Folders that other programs made hold configurations of theirs.
        let recorded: serde_json::Value = session.run.paths().read_config()?;
        if recorded.get("train").is_some() {
            let recorded: RunConfig = session.run.paths().read_config()?;
            let differ = differing(&recorded.train, &self.config);
            if !differ.is_empty() {
                return Err(TrainError::Mismatch(format!(
                    "{} was begun with other settings ({}): go on with those of its config.json",
                    session.run.paths().root().display(),
                    differ.join(", ")
                )));
            }
        }
        if *session.run.classes() != self.classes() {
            return Err(TrainError::Mismatch(format!(
                "{}: the class names or the training images of each class are not those that the run began \
                 with; resume with the same data",
                session.run.paths().classes().display()
            )));
        }
        if let Some(frozen) = &self.config.frozen {
            return self.run_frozen(frozen, session);
        }
        let latest = session.run.paths().latest()?;
        let state = match latest {
            Some(latest) => {
                for warning in &latest.warnings {
                    session.message(warning);
                }
                let state = self.restore(latest.checkpoint, &latest.path)?;
                let Position {
                    stage,
                    epoch,
                    batch,
                    step,
                    ..
                } = state.position;
                session.run.remove_old_checkpoints(step)?;
                if stage <= 2 {
                    session.message(&format!(
                        "resuming at stage {stage}, epoch {}, batch {batch}",
                        epoch + 1
                    ));
                }
                self.tell_what_is_gone(&state.position, session)?;
                state
            }
            None => {
                if !session.run.rows().is_empty() {
                    session.message("no checkpoint is left: the run starts from the beginning");
                }
                let begun = self
                    .begun
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
                    .take();
                let (state, message) = match begun {
                    Some(begun) => begun,
                    None => self.start()?,
                };
                if let Some(message) = message {
                    session.message(&message);
                }
                state
            }
        };
        self.same_state(&state)?;
        self.train_and_list(state, session)
    }

    /// Files that a run with a checkpoint has, unless somebody removed or edited them.
    fn tell_what_is_gone(
        &self,
        position: &Position,
        session: &mut Session<'_>,
    ) -> Result<(), TrainError> {
        if session.run.paths().receipt_if_any()?.is_none() {
            session.message(
                "receipt.json is gone: whether images, lists, weights and settings are those that the run \
                 began with cannot be told",
            );
        }
        if let Some(stage) = self.config.stage(position.stage) {
            let rows = session.run.rows().iter().map(|row| (row.stage, row.epoch));
            let rows = rows.filter(|row| row.0 == position.stage && row.1 < position.epoch);
            let epochs = position.epoch.min(stage.epochs);
            if !rows.map(|row| row.1).eq(0..epochs) {
                session.message(
                    "metrics.jsonl has not one row for each epoch before, in their order: curves are \
                     of those that are left",
                );
            }
        }
        Ok(())
    }

    /// Trains; what is known of bad images is listed also where it ends with an error.
    fn train_and_list(
        &self,
        state: State,
        session: &mut Session<'_>,
    ) -> Result<Outcome, TrainError> {
        let needed = self.step_memory(&state.trained.model);
        let outcome = self.catch_out_of_memory(&needed, || self.train(state, session));
        if outcome.is_err() {
            // That error counts, not another one of this list.
            self.list_bad_images(session.run).ok();
        }
        outcome
    }

    /// Writes the list of bad images, if it has grown.
    fn list_bad_images(&self, run: &RunDir) -> Result<(), TrainError> {
        if !self.ranks.writes() {
            return Ok(());
        }
        if self.bad_images.len() > self.listed.load(Ordering::Relaxed) {
            let images = self.bad_images.entries();
            run.write_bad_images(&images)?;
            self.listed.store(images.len(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Re-trains the classifiers on the features of another run's finished stage 1.
    ///
    /// # Errors
    /// As [`run`](Self::run); also if the other run has no finished stage 1, or another network.
    pub fn run_stage2_from(
        &self,
        source: &RunPaths,
        session: &mut Session<'_>,
    ) -> Result<Outcome, TrainError> {
        if self.config.stage2.is_none() {
            return Err(TrainError::Mismatch(
                "the configuration has no stage 2 to run".into(),
            ));
        }
        self.ranks.barrier();
        if session.run.paths().latest()?.is_some() {
            return self.run(session);
        }
        let recorded = RunConfig::read(source)?.train;
        let theirs = recorded.model.clone();
        // A stage 1 that was to have no second one can get it here.
        let with_heads = theirs.clone().with_stage2_heads(true);
        let wrong = match source.read_classes()? == self.classes() {
            _ if with_heads != self.config.model => Some("its network is not that of this run"),
            true => None,
            false => Some(
                "its class names, or the training images of each class, are not those of this run",
            ),
        };
        if let Some(wrong) = wrong {
            return Err(TrainError::Mismatch(format!(
                "{}: {wrong}: give the same data and network as there",
                source.root().display()
            )));
        }
        let prepared = |config: &TrainConfig| (config.eval_pipeline.clone(), config.normalization);
        if prepared(&recorded) != prepared(&self.config) {
            session.message(&format!(
                "stage 1 of {} saw pictures that were prepared otherwise, by their size or their turn \
                 (eval_pipeline, normalization): its features may not suit these",
                source.root().display()
            ));
        }
        let path = source.stage_checkpoint(1);
        let checkpoint = crate::run::checkpoint::read(&path)?;
        if self.config.ema_decay.is_some()
            && self.config.ema_features
            && !checkpoint.records.contains_key(state::EMA)
        {
            return Err(TrainError::Mismatch(format!(
                "{}: its stage 1 has no averaged weights to train classifiers on: unset ema_features or \
                 ema_decay",
                source.root().display()
            )));
        }
        let mut state = self.restore_from(checkpoint, &path, &theirs)?;
        // Its best epoch was chosen among the other run's.
        state.position.best = None;
        self.same_state(&state)?;
        self.save_and_tell(session, &state)?;
        self.train_and_list(state, session)
    }

    /// A run before its first step, and a line on the weights that it starts from.
    fn start(&self) -> Result<(State, Option<String>), TrainError> {
        let mut model = self.new_model()?;
        let mut message = None;
        if let Some(path) = &self.config.weights {
            let taken;
            (model, taken) = weights::import_pretrained(model, path)?;
            let new = match taken.random.len() {
                0 => "none is new".into(),
                new => format!(
                    "{new} that it has not, or in another shape, are new (classifiers are random, \
                     knowledge fusion changes nothing yet)"
                ),
            };
            message = Some(format!(
                "{}: {} tensors taken; {new}",
                path.display(),
                taken.loaded.len()
            ));
        }
        let model = self.prepare(model, 1);
        let state = State {
            trained: Trained {
                optimizer: self.optimizer(),
                ema: self.ema(&model),
                model,
            },
            position: Position::start(state::fingerprint(&self.data.train)),
        };
        Ok((state, message))
    }

    /// The network with the random weights that a run starts from.
    fn new_model(&self) -> Result<Shike, TrainError> {
        self.check_weights()?;
        let (config, seed) = (&self.config.model, self.config.seed);
        let model = config.init_seeded(&self.device, seed);
        Ok(model.map_err(TrainConfigError::from)?)
    }

    fn init_model(&self, config: &ShikeConfig) -> Result<Shike, TrainError> {
        let model = config.init(&self.device);
        Ok(model.map_err(TrainConfigError::from)?)
    }

    fn optimizer(&self) -> ModuleOptimizer {
        optim::init(&self.config.optimizer)
    }

    /// An average that starts with this network, where the run has one.
    fn ema(&self, model: &Shike) -> Option<Ema> {
        self.config.ema_decay.map(|decay| Ema::new(decay, model))
    }

    /// The network that stage 2 takes its features from: averaged, where the run has and wants that.
    fn features(&self, state: &State) -> Shike {
        match &state.trained.ema {
            // Back on the autodiff device, with running statistics of its own.
            Some(ema) if self.config.ema_features => ema.model().clone().train(),
            _ => state.trained.model.clone(),
        }
    }

    /// Freezes what a stage does not train.
    fn prepare(&self, model: Shike, stage: usize) -> Shike {
        // Equal states are to give equal checkpoints.
        let model = model.with_numbered_parameters();
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
            (2, Some(stage2)) => stage2.begin(model).map_err(TrainConfigError::from)?,
            _ => model,
        };
        Ok(self.prepare(model, stage))
    }
}

/// The heads that a stage trains.
fn head(stage: usize) -> Head {
    match stage {
        1 => Head::Stage1,
        _ => Head::Stage2,
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests;

//! Both stages, from where a run stands to its end.

use shike_data::Part;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use shike_data::{Loader, Sampler};
use shike_model::weights::WeightsError;
use shike_model::{Loss, LossContext, Shike};

use super::epoch::{Ended, Epoch};
use super::scores::{CURVES, FinalScores};
use super::state::EpochSums;
use super::{Learner, Outcome, Session, State};
use crate::config::stage::Stage2;
use crate::config::{ScoreTest, StageConfig, TrainConfigError};
use crate::error::TrainError;
use crate::run::receipt::{
    self, Because, ChosenOn, EndedEarly, Receipt, SplitReceipt, class_order,
};
use crate::run::{EpochRow, RowScores, RunDir};
use shike_infer::metrics::{Evaluation, Metric, Scored};

/// The scores at the end of a stage, and why it ended early if it did.
type StageEnd = (Scored<Evaluation>, Option<EndedEarly>);

impl Learner {
    pub(super) fn train(
        &self,
        mut state: State,
        session: &mut Session<'_>,
    ) -> Result<Outcome, TrainError> {
        if self.data.val.is_none() {
            let tested = self.data.test.is_some() && self.config.score_test != Some(ScoreTest::End);
            let curves = if tested {
                "curves are of the test set, "
            } else {
                ""
            };
            session.message(&format!(
                "no validation set: {curves}the model of the last epoch is kept, and no best one is chosen"
            ));
        }
        let mut receipt = self.begin_receipt(state.position.step > 0, session)?;
        session
            .run
            .truncate_rows_from(state.position.stage, state.position.epoch)?;
        // What comes after a checkpoint is done again.
        let done = |early: &EndedEarly| early.stage < state.position.stage;
        receipt.ended_early.retain(done);
        session.run.write_receipt(&mut receipt)?;
        let listed = session.run.paths().read_bad_images()?;
        self.listed.store(listed.len(), Ordering::Relaxed);
        listed
            .into_iter()
            .for_each(|image| self.bad_images.add(image));
        let mut scores = None;
        while state.position.stage <= 2 {
            let stage = state.position.stage;
            if let Some(config) = self.config.stage(stage) {
                match self.run_stage(config, state, session)? {
                    (after, Some((last, early))) => {
                        if let Some(early) = early {
                            receipt.ended_early.push(early);
                            session.run.write_receipt(&mut receipt)?;
                        }
                        if let Some(advice) = stage2_advice(session.run.rows()) {
                            session.message(&advice);
                        }
                        state = after;
                        scores = Some(last);
                    }
                    (_, None) => return Ok(Outcome::Interrupted),
                }
            } else if let (2, Some(Stage2::TauNorm { taus })) = (stage, &self.config.stage2) {
                scores = Some(self.tau_normalize(taus, &mut state, session)?);
            }
            if stage == 2 {
                state.trained.model = state.trained.model.fold_head_scales();
                state.trained.ema = state
                    .trained
                    .ema
                    .map(|ema| ema.map(Shike::fold_head_scales));
                let last = self.last_stage();
                let mut position = state.position.clone();
                // The epoch that it was trained in last.
                position.epoch = position.epoch.saturating_sub(1);
                let scored = match scores.take() {
                    Some(scored) => scored,
                    None => self.score(&state, last, true)?,
                };
                if session.run.writes() {
                    let paths = session.run.writable()?;
                    let (model, at) = (&state.trained.model, &position);
                    self.save_model(&paths.model(), model, at, last, scored.val.as_ref())?;
                    if let Some(ema) = &state.trained.ema {
                        let val = scored.val_ema.as_ref();
                        self.save_model(&paths.ema(), ema.model(), at, last, val)?;
                    }
                }
                scores = Some(scored);
            }
            state.position.next_stage();
            state.trained.optimizer = self.optimizer();
            state.trained.model = self.prepare(state.trained.model, state.position.stage);
            // Before the step's own: a kill between the two must not leave a run that goes on with
            // stage 2 and never gets this file.
            if stage == 1 && session.run.writes() {
                session
                    .run
                    .save_stage_checkpoint(1, &self.checkpoint(&state)?)?;
            }
            self.save_and_tell(session, &state)?;
        }
        // A run that was already finished is only scored again.
        let scores = match scores {
            Some(scores) => scores,
            None => self.score(&state, self.last_stage(), true)?,
        };
        let scores = FinalScores {
            scores,
            best: state.position.best,
        };
        let reported = scores.reported();
        receipt.scored = reported.map(|(part, _)| part);
        session.run.write_receipt(&mut receipt)?;
        let Some((part, evaluation)) = reported else {
            return Ok(Outcome::Finished(None));
        };
        if let Some(images) = self.data.get(part) {
            session.run.write_scores(evaluation, images)?;
        }
        Ok(Outcome::Finished(Some(Box::new(scores))))
    }

    /// Tells the notes, and gives the receipt of a run that begins, or goes on as it began.
    pub(super) fn begin_receipt(
        &self,
        goes_on: bool,
        session: &mut Session<'_>,
    ) -> Result<Receipt, TrainError> {
        for note in self.notes() {
            session.message(note);
        }
        let mut receipt = self.receipt(session.run)?;
        if let Some(begun) = session.run.paths().receipt_if_any()? {
            let notes = receipt.follow(&begun, goes_on);
            let notes = notes.map_err(|problem| {
                TrainError::Mismatch(format!(
                    "{}: {problem}",
                    session.run.paths().root().display()
                ))
            })?;
            notes.iter().for_each(|note| session.message(note));
        }
        Ok(receipt)
    }

    /// What the run is obtained with. All images in memory are hashed, and so this is done once.
    fn receipt(&self, run: &RunDir) -> Result<Receipt, TrainError> {
        // As config.json spells them: another version may spell the same settings otherwise.
        let recorded: Value = run.paths().read_config()?;
        let recorded = recorded.get("train").map(receipt::settings);
        let settings = recorded.unwrap_or_else(|| receipt::settings_of(&self.config));
        let weights = self.config.weights.as_deref().filter(|file| file.is_file());
        let hash = |file: &Path| {
            receipt::file_hash(file).map_err(|source| WeightsError::Io {
                path: file.to_owned(),
                source,
            })
        };
        Ok(Receipt {
            version: env!("CARGO_PKG_VERSION").into(),
            device: match (
                self.config.precision.name_on(&self.device),
                self.ranks.size(),
            ) {
                (name, 1) => name,
                (name, processes) => format!("{name} ({processes} processes)"),
            },
            settings: Some(settings),
            weights: weights.map(hash).transpose()?,
            seed: self.config.seed,
            thresholds: self.config.thresholds,
            class_order: class_order(self.data.train.class_names()),
            train: SplitReceipt::new(&self.data.train)?,
            val: self.data.val.as_ref().map(SplitReceipt::new).transpose()?,
            test: self.data.test.as_ref().map(SplitReceipt::new).transpose()?,
            file_bytes: Part::ALL.map(|part| self.data.get(part).map_or(0, receipt::file_bytes)),
            model_chosen_on: ChosenOn::LastEpoch,
            best_chosen_on: None,
            ended_early: vec![],
            extended: vec![],
            left_out: self.data.left_out(),
            scored: None,
            training_seconds: 0.0,
        })
    }

    fn last_stage(&self) -> usize {
        1 + usize::from(self.config.stage2.is_some())
    }

    /// The loss of a stage in an epoch; of one that does not train, stage 1's.
    pub(super) fn stage_loss(
        &self,
        stage: usize,
        epoch: usize,
    ) -> Result<Box<dyn Loss>, TrainConfigError> {
        let config = &self.resolved;
        let config = config.stage(stage).unwrap_or(&config.stage1);
        let context = LossContext::new(&self.train_counts)
            .with_epoch(epoch)
            .with_classifier(self.config.model.classifier.clone());
        let stage = if stage == 1 { "stage1" } else { "stage2" };
        let loss = config.loss.init(&context);
        loss.map_err(|source| TrainConfigError::Loss { stage, source })
    }

    /// Order and batches of a stage.
    pub(super) fn stage_parts(
        &self,
        stage: usize,
        config: &StageConfig,
    ) -> Result<(Sampler, Loader), TrainError> {
        let seed = stage_seed(self.config.seed, stage);
        let train = &self.data.train;
        let sampler = Sampler::new(train.labels(), train.num_classes(), config.sampling, seed)?;
        let loader = Loader::on(
            &self.threads,
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
    /// set where there is a choice, and scores them. No power given means the usual ones.
    fn tau_normalize(
        &self,
        taus: &[f64],
        state: &mut State,
        session: &mut Session<'_>,
    ) -> Result<Scored<Evaluation>, TrainError> {
        let started = Instant::now();
        state.trained.model = self.features(state);
        let normalize = |model: Shike, tau| {
            let model = model.tau_normalize(tau);
            model.map_err(|error| TrainError::from(TrainConfigError::from(error)))
        };
        let normalized = |tau| normalize(state.trained.model.clone(), tau);
        let val = self.eval_loaders.iter().find(|(s, _)| *s == Part::Val);
        let taus = match (taus, val) {
            ([], Some(_)) => Stage2::usual_taus(),
            ([], None) => {
                session.message(&format!(
                    "no validation set to choose tau on: it is {}, unless stage2.taus names one",
                    Stage2::TAU
                ));
                vec![Stage2::TAU]
            }
            (given, _) => given.to_vec(),
        };
        let chosen_by = Metric::CLASS_AVERAGED;
        let mut best: Option<(f64, f64)> = None;
        for &tau in &taus {
            let accuracy = match val {
                Some((_, loader)) if taus.len() > 1 => {
                    let scored = self.evaluate(&normalized(tau)?, 2, loader, self.evaluator()?)?;
                    let accuracy = scored.get(chosen_by).unwrap_or_default();
                    session.message(&format!(
                        "tau {tau}: class-averaged accuracy {accuracy:.2} % on the validation set"
                    ));
                    accuracy
                }
                _ => 0.0,
            };
            if best.is_none_or(|(_, before)| chosen_by.is_better(accuracy, before)) {
                best = Some((tau, accuracy));
            }
        }
        // At least one was tried.
        let (tau, _) = best.unwrap_or_default();
        session.message(&match taus.len() {
            1 => format!("tau-normalisation with tau {tau}"),
            n => format!("tau-normalisation with tau {tau}, the best of {n} on the validation set"),
        });
        state.trained.model = self.prepare(normalized(tau)?, 2);
        if let Some(ema) = state.trained.ema.take() {
            state.trained.ema = Some(ema.try_map(|model| normalize(model, tau))?);
        }
        state.position.tau = Some(tau);
        let scores = self.score(state, 2, true)?;
        self.keep_best(state, &scores, session.run)?;
        let row = EpochRow {
            stage: 2,
            // Nothing was trained.
            train_loss: f64::NAN,
            images_per_second: f64::NAN,
            seconds: started.elapsed().as_secs_f64(),
            scores: scores.map(RowScores::new),
            ..EpochRow::default()
        };
        if let Some((split, evaluation, _)) = scores.first(CURVES) {
            session.message(&format!("{split} set: {}", evaluation.summary()));
        }
        session.run.append_row(row)?;
        Ok(scores)
    }

    /// Trains the rest of a stage. `None` if it was interrupted, else the last epoch's scores, and why it was not the last of
    /// the configuration.
    fn run_stage(
        &self,
        config: &StageConfig,
        mut state: State,
        session: &mut Session<'_>,
    ) -> Result<(State, Option<StageEnd>), TrainError> {
        let stage = state.position.stage;
        let (sampler, loader) = self.stage_parts(stage, config)?;
        if state.position.epoch == 0 && state.position.batch == 0 {
            let model = match stage {
                1 => state.trained.model,
                _ => self.features(&state),
            };
            state.trained.model = self.begin(model, stage)?;
            // That of stage 1 is in the features, or was only scored.
            state.trained.ema = self.ema(&state.trained.model);
        }
        let (mut scores, mut early) = (None, None);
        let mut scoring = Duration::ZERO;
        while state.position.epoch < config.epochs && early.is_none() {
            let epoch = state.position.epoch;
            let order = sampler.epoch_indices(epoch as u64, config.epochs as u64);
            let lr = config.schedule.lr(epoch);
            let step = self.step(&state.trained.model, stage, epoch, lr)?;
            let total = loader.batches_per_epoch(order.len());
            session
                .progress
                .epoch_start(stage, epoch, config.epochs, total);
            let began = Instant::now();
            let loader = &loader;
            let epoch_of = Epoch {
                step,
                loader,
                order,
                lr,
            };
            let ended;
            (state, ended) = self.run_epoch(state, epoch_of, session)?;
            if ended == Ended::Stopped {
                return Ok((state, None));
            }

            let mut last = epoch + 1 == config.epochs;
            // Another epoch takes as long, and both are scored.
            let next = began.elapsed() + 2 * scoring;
            let over = self.ranks.any(u8::from(session.is_over(stage, next))) != 0;
            if ended == Ended::OutOfTime || !last && over {
                last = true;
                early = Some(Because::Time);
            }
            let mut row = state.position.sums.row(stage, epoch, lr);
            let mut text = format!("training loss {:.4}", row.train_loss);
            let mut averaged = None;
            if last || (epoch + 1).is_multiple_of(self.config.evaluate_every) {
                let began = Instant::now();
                let end = stage == self.last_stage();
                let mut new = self.score(&state, stage, last && end)?;
                scoring = began.elapsed();
                self.keep_best(&mut state, &new, session.run)?;
                if !last
                    && self
                        .config
                        .patience
                        .is_some_and(|n| state.position.since_best() >= n)
                {
                    last = true;
                    early = Some(Because::Patience);
                    if end {
                        // What is scored at the end alone is scored now.
                        new = self.score(&state, stage, true)?;
                    }
                }
                if let Some((split, evaluation, ema)) = new.first(CURVES) {
                    text += &format!("; {split} set: {}", evaluation.summary());
                    averaged = ema.map(Evaluation::summary);
                }
                row.scores = new.map(RowScores::new);
                scores = Some(new);
            }
            session.progress.epoch_end(&text);
            if let Some(summary) = averaged {
                session.message(&format!("averaged weights: {summary}"));
            }
            session.run.append_row(row)?;
            state.position.next_epoch();
            if !last {
                self.save_and_tell(session, &state)?;
            }
        }
        let scores = match scores {
            Some(scores) => scores,
            None => self.score(&state, stage, stage == self.last_stage())?,
        };
        let early = early.map(|because| EndedEarly {
            stage,
            epochs: state.position.epoch,
            because,
        });
        if let Some(early) = &early {
            session.message(&format!("{early} (of {})", config.epochs));
            if stage == 1 {
                state.position.stage1_epochs = Some(early.epochs);
            }
        }
        Ok((state, Some((scores, early))))
    }
}

/// What there is to say where stage 2 ends below stage 1, on the set that the curves are of.
fn stage2_advice(rows: &[EpochRow]) -> Option<String> {
    let end = |stage| {
        let last = rows.iter().rfind(|row| row.stage == stage)?;
        let (split, scores, _) = last.scores.first(CURVES)?;
        Some((split, scores.ensemble.get(Metric::CLASS_AVERAGED)?))
    };
    let ((_, before), (split, after)) = (end(1)?, end(2)?);
    (after < before).then(|| {
        format!(
            "stage 2 ends below stage 1 (class average on the {split} set {after:.2} % after {before:.2} \
             %): its new classifiers may want more epochs (stage2.epochs); stage 2 can be repeated alone"
        )
    })
}

/// Stages draw orders and augmentations of their own.
pub(super) fn stage_seed(seed: u64, stage: usize) -> u64 {
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

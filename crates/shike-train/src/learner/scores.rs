//! Scores of a network, and what they decide.

use std::fmt;

use serde::Serialize;
use shike_data::{Dataset, Loader, Part};
use shike_model::{Head, Shike};

use super::ema::Ema;
use super::state::{BestEpoch, Position, Weights};
use super::{Learner, State, head};
use crate::config::{ScoreTest, Stage2, TrainConfigError};
use crate::error::TrainError;
use crate::run::RunDir;
use shike_infer::metrics::confidence::Confidence;
use shike_infer::metrics::{Evaluation, Evaluator, Metric, Scored, prior};
use shike_infer::model::file::{self, ModelInfo, save_model};
use shike_infer::{Network, Scorer};

/// Scores of the last epoch. [`Display`](std::fmt::Display) prints a table for each set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FinalScores {
    /// On each part.
    #[serde(flatten)]
    pub scores: Scored<Evaluation>,
    /// The epoch that `best.safetensors` is of; none without a validation set.
    pub best: Option<BestEpoch>,
}

impl FinalScores {
    /// The scores that a result is reported by, and the split that they are of: the test set's, or
    /// else the validation set's.
    pub fn reported(&self) -> Option<(Part, &Evaluation)> {
        let scored = self.scores.first([Part::Test, Part::Val]);
        scored.map(|(part, trained, _)| (part, trained))
    }
}

impl fmt::Display for FinalScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for part in [Part::Val, Part::Test] {
            let [trained, averaged] = self.scores.on(part);
            let Some(trained) = trained else { continue };
            write!(f, "{gap}{part} set, last epoch")?;
            if let (Part::Val, Some(best)) = (part, &self.best) {
                write!(f, " ({best})")?;
            }
            write!(f, "\n{trained}")?;
            if let Some(averaged) = averaged {
                write!(f, "\naveraged weights: {}", averaged.summary())?;
            }
            gap = "\n\n";
        }
        Ok(())
    }
}

/// The parts that curves are of: the validation set where it was scored, else the test set.
pub(super) const CURVES: [Part; 2] = [Part::Val, Part::Test];

impl Learner {
    /// Scores the validation set, and the test set at the `end` of a run or where it is scored with it.
    pub(super) fn score(
        &self,
        state: &State,
        stage: usize,
        end: bool,
    ) -> Result<Scored<Evaluation>, TrainError> {
        let every = match self.config.score_test {
            Some(when) => when == ScoreTest::Every,
            // Something has to show how training goes.
            None => self.data.val.is_none(),
        };
        let mut scores = Scored::default();
        // Of the trained weights and of their average. The validation set comes first.
        let mut temperatures = [1.0; 2];
        for (part, loader) in &self.eval_loaders {
            let (trained, averaged) = match part {
                Part::Val => (&mut scores.val, &mut scores.val_ema),
                Part::Test if end || every => (&mut scores.test, &mut scores.test_ema),
                Part::Test | Part::Train => continue,
            };
            let [of_trained, of_averaged] = &mut temperatures;
            let models = [
                (Some(&state.trained.model), trained, of_trained),
                (
                    state.trained.ema.as_ref().map(Ema::model),
                    averaged,
                    of_averaged,
                ),
            ];
            for (model, evaluation, temperature) in models {
                let Some(model) = model else { continue };
                let mut evaluator = self.evaluator()?.with_temperature(*temperature);
                if end {
                    evaluator = evaluator.with_ranking();
                }
                let mut scored = self.evaluate(model, stage, loader, evaluator)?;
                if end && *part == Part::Val {
                    scored.confidence = self.confidence(&scored);
                    *temperature = Confidence::temperature_of(scored.confidence.as_ref());
                }
                *evaluation = Some(scored);
            }
        }
        Ok(scores)
    }

    pub(super) fn evaluate(
        &self,
        model: &Shike,
        stage: usize,
        loader: &Loader,
        evaluator: Evaluator,
    ) -> Result<Evaluation, TrainError> {
        let config = &self.config;
        let head = head(stage);
        let scorer = Scorer::new(
            &Network::Experts(model.clone(), head),
            config.normalization,
            config.upload,
            &self.device,
        );
        match self.ranks.is_alone() {
            true => Ok(scorer.score(loader, evaluator)?),
            false => self.score_shared(&scorer, loader, evaluator),
        }
    }

    /// What the validation pictures say about a model that was not chosen on them.
    pub(super) fn confidence(&self, val: &Evaluation) -> Option<Confidence> {
        let config = &self.config;
        let tau = matches!(&config.stage2, Some(Stage2::TauNorm { taus }) if taus.len() != 1);
        let chosen = tau || config.patience.is_some();
        let groups = || self.data.val.as_ref().map_or(vec![], Dataset::groups);
        (!chosen).then(|| Confidence::fit(val, &groups())).flatten()
    }

    pub(super) fn evaluator(&self) -> Result<Evaluator, TrainError> {
        let experts = self.config.model.experts;
        Ok(Evaluator::new(
            &self.train_counts,
            self.config.thresholds,
            experts,
        )?)
    }

    /// Keeps the model of the best epoch of the last stage: the trained or the averaged weights with the
    /// lowest class-averaged cross-entropy on the validation set.
    pub(super) fn keep_best(
        &self,
        state: &mut State,
        scores: &Scored<Evaluation>,
        run: &RunDir,
    ) -> Result<(), TrainError> {
        let stage = state.position.stage;
        let averaged = state.trained.ema.as_ref().map(|ema| ema.model());
        let candidates = [
            (Weights::Trained, Some(&state.trained.model), &scores.val),
            (Weights::Averaged, averaged, &scores.val_ema),
        ];
        let mut best = state
            .position
            .best
            .clone()
            .filter(|best| best.stage == stage);
        let mut better = None;
        for (weights, model, val) in candidates {
            let Some(val) = val else { continue };
            let chosen_by = Metric::CLASS_AVERAGED_LOSS;
            let loss = val.get(chosen_by).unwrap_or(f64::NAN);
            let before = best.as_ref().map(|best| best.class_averaged_loss);
            if before.is_none_or(|before| chosen_by.is_better(loss, before)) {
                best = Some(BestEpoch {
                    stage,
                    epoch: state.position.epoch,
                    weights,
                    class_averaged_loss: loss,
                    accuracy: val.get(Metric::CLASS_AVERAGED).unwrap_or_default(),
                });
                better = model;
            }
        }
        if let Some(model) = better {
            if run.writes() {
                let best = run.writable()?.best();
                self.save_model(&best, model, &state.position, stage, None)?;
            }
            state.position.best = best;
        }
        Ok(())
    }

    pub(super) fn save_model(
        &self,
        path: &std::path::Path,
        model: &Shike,
        position: &Position,
        stage: usize,
        val: Option<&Evaluation>,
    ) -> Result<(), TrainError> {
        // Divided by their length to the power of 0, the weights are those of stage 1.
        let taught = match position.tau {
            Some(0.0) => 1,
            _ => stage,
        };
        let planned = self.config.stage(taught).map_or(1, |config| config.epochs);
        let early = position.stage1_epochs.filter(|_| taught == 1);
        let epochs = early.unwrap_or(planned);
        let epoch = match position.stage > taught {
            true => epochs - 1,
            false => position.epoch.min(epochs - 1),
        };
        let prior = self.resolved.logit_prior(taught, epoch, &self.train_counts);
        let named = if taught == 1 { "stage1" } else { "stage2" };
        let prior = prior.map_err(|source| TrainConfigError::Loss {
            stage: named,
            source,
        })?;
        let info = ModelInfo {
            steps: position.step,
            tau: position.tau,
            ..self.model_info(head(stage), prior, val)
        };
        Ok(save_model(
            path,
            &Network::Experts(model.clone(), info.head),
            &info,
        )?)
    }

    /// What all model files of the run say, with the prior and confidence that fit the validation images.
    pub(super) fn model_info(
        &self,
        head: Head,
        prior: Vec<f64>,
        val: Option<&Evaluation>,
    ) -> ModelInfo {
        let confidence = val.and_then(|val| val.confidence.clone());
        let prior = match (val, &confidence) {
            (Some(val), Some(found)) => {
                prior::fitted(&prior, &self.train_counts, found.temperature, val)
            }
            _ => prior,
        };
        ModelInfo {
            format_version: file::FORMAT_VERSION,
            model: self.config.model.clone(),
            head,
            class_names: self.data.train.class_names().to_vec(),
            train_counts: self.train_counts.clone(),
            pipeline: self.config.eval_pipeline.clone(),
            normalization: self.config.normalization,
            prior,
            steps: 0,
            tau: None,
            weights_origin: self.config.weights_origin.clone(),
            confidence,
            frozen: None,
        }
    }
}

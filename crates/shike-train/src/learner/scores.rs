//! Scores of a network, and what they decide.

use std::fmt;

use burn::module::Module;
use serde::Serialize;
use shike_data::Loader;
use shike_model::Shike;

use super::state::{BestEpoch, Position};
use super::{Learner, State, head};
use crate::error::TrainError;
use crate::evaluate::evaluate;
use crate::metrics::{Evaluation, Evaluator};
use crate::model_file::{self, ModelInfo, save_model};
use crate::receipt::ScoredSplit;
use crate::run_dir::RunDir;

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

/// The scores of the test set, or else of the validation set.
fn reported<'a>(
    val: Option<&'a Evaluation>,
    test: Option<&'a Evaluation>,
) -> Option<(ScoredSplit, &'a Evaluation)> {
    let val = val.map(|val| (ScoredSplit::Val, val));
    test.map(|test| (ScoredSplit::Test, test)).or(val)
}

impl FinalScores {
    /// The scores that a result is reported by, and the split that they are of: the test set's, or
    /// else the validation set's.
    pub fn reported(&self) -> Option<(ScoredSplit, &Evaluation)> {
        reported(self.val.as_ref(), self.test.as_ref())
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Val,
    Test,
}

/// Scores of one epoch.
pub(super) struct Scores {
    pub val: Option<Evaluation>,
    pub test: Option<Evaluation>,
    /// Of the averaged weights, on the test set or else the validation set.
    pub ema: Option<Evaluation>,
}

impl Scores {
    /// What an epoch is reported by, and the set that it is of.
    pub fn shown(&self) -> Option<(ScoredSplit, &Evaluation)> {
        reported(self.val.as_ref(), self.test.as_ref())
    }

    pub fn class_averaged(&self) -> Option<f64> {
        let (_, shown) = self.shown()?;
        Some(shown.ensemble.class_averaged)
    }
}

impl Learner {
    pub(super) fn score(&self, state: &State, stage: usize) -> Result<Scores, TrainError> {
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

    pub(super) fn evaluate(
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

    pub(super) fn evaluator(&self) -> Result<Evaluator, TrainError> {
        let experts = self.config.model.experts;
        Ok(Evaluator::new(
            &self.train_counts,
            self.config.thresholds,
            experts,
        )?)
    }

    /// Keeps the model of the best epoch of the last stage, judged on the validation set.
    pub(super) fn keep_best(
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

    pub(super) fn save_model(
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

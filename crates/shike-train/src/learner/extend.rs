//! A run that goes on with other epochs than it began with.

use serde_json::json;

use super::Learner;
use super::state::{POSITION, Position};
use crate::config::TrainConfig;
use crate::config::diff::differing;
use crate::error::TrainError;
use crate::run::checkpoint::{self, Checkpoint, CheckpointError};
use crate::run::receipt::{Extended, settings_of};
use crate::run::{RunConfig, RunDir};

impl Learner {
    /// Takes a run that was begun with the configuration `begun` to where it goes on with the epochs and the patience of
    /// this learner, and gives a line on each stage that changes. `stages`: which of the two are to go on.
    ///
    /// A stage 1 that was stopped goes on where it stood, one that was done behind its last epoch, without momentum; from there
    /// its rates are those of a schedule of as many epochs as it has now. Stage 2 is trained anew behind it, and also where its
    /// own epochs change. Everything that the run needs is written; [`run`](Self::run) then does it.
    ///
    /// # Errors
    /// If anything else differs, fewer epochs are asked for than are done, or files cannot be read or written.
    pub fn extend(
        &self,
        run: &RunDir,
        begun: &TrainConfig,
        stages: [bool; 2],
    ) -> Result<Vec<String>, TrainError> {
        let root = run.paths().root().display().to_string();
        if !self.ranks.is_alone() {
            return Err(TrainError::Mismatch(format!(
                "{root}: its length is changed by one process: start it without others, which can come later"
            )));
        }
        let differ = differing(&begun.with_length_of(&self.config), &self.config);
        if !differ.is_empty() {
            return Err(TrainError::Mismatch(format!(
                "{root} can go on with other epochs or another patience alone, and {} differ",
                differ.join(", ")
            )));
        }
        let mut recorded: RunConfig = run.paths().read_config()?;
        recorded.train = self.config.clone();
        let (mut lines, mut extended) = (vec![], vec![]);
        if let (before, Some(now)) = (begun.patience, self.config.patience)
            && before != Some(now)
        {
            lines.push(format!(
                "a stage ends from here on after {now} epochs that are no better"
            ));
        }
        if let Some(latest) = run.paths().latest()? {
            let (mut checkpoint, mut path) = (latest.checkpoint, latest.path);
            let mut position = position_of(&checkpoint, &path)?;
            if position.stage > 1 && stages != [false; 2] {
                // That is what was there when it ended.
                path = run.paths().stage_checkpoint(1);
                checkpoint = checkpoint::read(&path)?;
                position = position_of(&checkpoint, &path)?;
                if stages[0] {
                    position.stage = 1;
                    position.epoch = position.stage1_epochs.take().unwrap_or(begun.stage1.epochs);
                }
            }
            if position.stage > 2 {
                return Err(TrainError::Mismatch(format!(
                    "{root} is finished, and patience has no effect on it: it goes on with more epochs alone"
                )));
            }
            let [before, now] = [begun, &self.config].map(|config| config.stage1.epochs);
            if stages[0] {
                let done = position.epoch;
                if now <= done {
                    return Err(TrainError::Mismatch(format!(
                        "{root} has done {done} epochs of stage 1: it can go on with more, not with {now} in all"
                    )));
                }
                lines.push(format!(
                    "stage 1 goes on behind epoch {done}, to {now} in place of {before}: from here its rates are those of a \
                     schedule of {now} epochs ({:.3e} in the next), and stage 2 is trained behind it",
                    self.config.stage1.schedule.lr(done)
                ));
                extended.push(Extended {
                    stage: 1,
                    after: done,
                    epochs: [before, now],
                });
            }
            if let (true, Some(before), Some(now)) =
                (stages[1], begun.stage(2), self.config.stage(2))
            {
                let epochs = [before.epochs, now.epochs];
                lines.push(format!(
                    "stage 2 is trained anew, with {} epochs in place of {}",
                    epochs[1], epochs[0]
                ));
                extended.push(Extended {
                    stage: 2,
                    after: 0,
                    epochs,
                });
            }
            checkpoint.state[POSITION] = json!(position);
            let state = self.restore_from(checkpoint, &path, &self.config.model)?;
            self.save(run, &state)?;
            if let Some(mut receipt) = run.paths().receipt_if_any()? {
                receipt.settings = Some(settings_of(&self.config));
                receipt
                    .ended_early
                    .retain(|early| early.stage < position.stage);
                // A call that was killed may have written it.
                extended.retain(|change| receipt.extended.last() != Some(change));
                receipt.extended.append(&mut extended);
                receipt.scored = None;
                run.write_receipt(&mut receipt)?;
            }
        }
        // Last: as long as it is not there, the same command does all of it again.
        run.write_config(&recorded)?;
        Ok(lines)
    }
}

fn position_of(checkpoint: &Checkpoint, path: &std::path::Path) -> Result<Position, TrainError> {
    let position = serde_json::from_value(checkpoint.state[POSITION].clone());
    position.map_err(|error| {
        CheckpointError::Foreign {
            path: path.to_owned(),
            reason: format!("its `{POSITION}` entry: {error}"),
        }
        .into()
    })
}

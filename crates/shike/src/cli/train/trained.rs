//! What `shike train` came to, for people and for programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shike_data::Part;
use shike_data::dataset::LeftOut;
use shike_train::report::compare::Comparison;
use shike_train::report::folds::Folds;
use shike_train::{FinalScores, Outcome};

use crate::cli::processes::Processes;
use crate::cli::scoring::scores;
use crate::cli::{CliError, Status, print, print_json};

/// What was trained.
#[derive(Debug)]
pub enum Trained {
    /// Nothing: steps were timed.
    Nothing,
    /// Nothing yet: a recipe was written.
    Recipe(PathBuf),
    /// One run.
    Run {
        /// Its folder.
        folder: PathBuf,
        /// How it ended.
        outcome: Outcome,
        /// What lay in the folders of its images and was not taken, by part.
        left_out: BTreeMap<Part, LeftOut>,
    },
    /// A run for each of several seeds or folds.
    Several {
        /// The folder that they are in.
        folder: PathBuf,
        /// Their folders, as far as they have ended.
        runs: Vec<PathBuf>,
        /// Whether one was asked to stop, and the others have not begun.
        interrupted: bool,
        /// What they came to; none where nothing is scored or not all have ended.
        several: Option<Several>,
    },
}

/// What several runs came to.
#[derive(Debug)]
pub enum Several {
    /// Mean and deviation over seeds.
    Seeds(Box<Comparison>),
    /// All pictures, each held out once.
    Folds(Box<Folds>),
}

impl Trained {
    fn interrupted(&self) -> bool {
        match self {
            Self::Run { outcome, .. } => matches!(outcome, Outcome::Interrupted),
            Self::Several { interrupted, .. } => *interrupted,
            _ => false,
        }
    }

    /// For people; none where there is nothing to say.
    fn text(&self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Recipe(file) => Some(file.display().to_string()),
            Self::Run { outcome, .. } => match outcome {
                Outcome::Finished(scores) => scores.as_ref().map(ToString::to_string),
                Outcome::Interrupted => None,
            },
            Self::Several { several, .. } => several.as_ref().map(|several| match several {
                Several::Seeds(comparison) => comparison.to_string(),
                Several::Folds(folds) => folds.to_string(),
            }),
        }
    }

    fn json(&self) -> Value {
        let outcome = match self.interrupted() {
            true => "interrupted",
            false => "finished",
        };
        let object =
            |folder: &Path| json!({ "format_version": 1, "run": folder, "outcome": outcome });
        match self {
            Self::Nothing | Self::Recipe(_) => Value::Null,
            Self::Run {
                folder,
                outcome,
                left_out,
            } => {
                let mut object = object(folder);
                object["left_out"] = json!(left_out);
                if let Outcome::Finished(Some(scores)) = outcome {
                    add_scores(&mut object, scores);
                }
                object
            }
            Self::Several {
                folder,
                runs,
                several,
                ..
            } => {
                let mut object = object(folder);
                object["runs"] = json!(runs);
                match several {
                    Some(Several::Seeds(comparison)) => {
                        object["images"] = json!(comparison.images);
                        // All of them are one method.
                        let method = &comparison.methods[0];
                        object["seeds"] = json!(method.seeds);
                        object["scores"] = json!(method.scores);
                        object["mean"] = json!(method.mean);
                        object["deviation"] = json!(method.deviation);
                    }
                    Some(Several::Folds(folds)) => {
                        object["images"] = json!(folds.all.images);
                        object["scores"] = json!(folds.scores);
                        object["mean"] = json!(folds.mean);
                        object["deviation"] = json!(folds.deviation);
                        object["all"] = scores(&folds.all);
                        object["class_names"] = json!(folds.class_names);
                        object["per_class"] = json!(folds.all.per_class);
                    }
                    None => {}
                }
                object
            }
        }
    }

    /// Prints it.
    pub fn finish(&self, as_json: bool, processes: &Processes) -> Result<Status, CliError> {
        match (as_json, self.text()) {
            _ if !processes.ranks.writes() => {}
            (true, _) => print_json(&self.json())?,
            (false, Some(text)) => print(&text)?,
            (false, None) => {}
        }
        Ok(match self.interrupted() {
            true => Status::Interrupted,
            false => Status::Success,
        })
    }
}

fn add_scores(object: &mut Value, finals: &FinalScores) {
    object["scored"] = json!(finals.reported().map(|(part, _)| part));
    for (part, evaluation) in finals.scores.named() {
        object[part] = evaluation.map_or(Value::Null, scores);
    }
    object["best"] = json!(finals.best);
}

//! What a result was obtained with: enough to tell whether two results can be compared.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shike_data::Dataset;

use crate::metrics::ShotThresholds;
use crate::run_dir::RunDir;

/// `receipt.json` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version of the program.
    pub version: String,
    /// Where it ran, such as `flex`.
    pub device: String,
    /// Seed of weights, order and augmentation.
    pub seed: u64,
    /// Bounds of many-, medium- and few-shot classes.
    pub thresholds: ShotThresholds,
    /// SHA-256 of the class names in label order, a line each.
    pub class_order: String,
    /// Training images.
    pub train: SplitReceipt,
    /// Validation images.
    pub val: Option<SplitReceipt>,
    /// Test images.
    pub test: Option<SplitReceipt>,
    /// How `model.safetensors` was chosen.
    pub model_chosen_on: ChosenOn,
    /// How `best.safetensors` was chosen; none where there is no such file.
    pub best_chosen_on: Option<ChosenOn>,
    /// Which images `predictions.csv` and `per_class.csv` are of; none before the end of a run.
    pub scored: Option<ScoredSplit>,
    /// Seconds of training, over both stages, without scoring.
    pub training_seconds: f64,
}

/// The images of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitReceipt {
    /// How many.
    pub images: usize,
    /// SHA-256 of the list as the field publishes lists, `path label` a line; of labels and pixels for
    /// images in memory.
    pub sha256: String,
}

/// What a checkpoint was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChosenOn {
    /// Nothing: it is that of the last epoch.
    LastEpoch,
    /// Class-averaged cross-entropy on the validation images.
    Validation,
}

/// A split that was scored at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoredSplit {
    /// The validation images, on which a best epoch was chosen.
    Val,
    /// The test images.
    Test,
}

impl std::fmt::Display for ScoredSplit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Val => "validation",
            Self::Test => "test",
        })
    }
}

impl Receipt {
    /// Takes over how far the run has come.
    pub(crate) fn set_progress(&mut self, run: &RunDir) {
        let best = run.paths().best().exists();
        self.best_chosen_on = best.then_some(ChosenOn::Validation);
        self.training_seconds = run.rows().iter().map(|row| row.seconds).sum();
    }
}

impl SplitReceipt {
    /// Of a data set. Files are not read.
    pub fn new(data: &Dataset) -> Self {
        let mut hash = Sha256::new();
        data.identity(|bytes| hash.update(bytes));
        Self {
            images: data.len(),
            sha256: hex(hash),
        }
    }
}

/// Hash of the class names in label order.
pub fn class_order(names: &[String]) -> String {
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name);
        hash.update("\n");
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    let digits = hash.finalize();
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Where things lie in a run's folder, and how to read them.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use shike_data::BadImage;
use shike_data::read::{self, read_to_string};
use shike_heads::Choice;

use super::{Classes, EpochRow, RunDirError, format_error, io_error, list, read_json};
use crate::run::checkpoint::{self, Checkpoint, CheckpointError};
use crate::run::receipt::{Receipt, class_order};
use shike_infer::metrics::ImageScore;

/// Where things lie in a run's folder; reads without taking the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPaths(PathBuf);

/// The files that a run lives by: their list, and a method for the path of each.
macro_rules! files {
    ($($(#[$doc:meta])* $name:ident = $file:literal,)*) => {
        const OWN: &[&str] = &[$($file),*];

        impl RunPaths {
            $($(#[$doc])* pub fn $name(&self) -> PathBuf {
                self.0.join($file)
            })*
        }
    };
}

files! {
    /// `config.json`.
    config = "config.json",
    /// `classes.json`.
    classes = "classes.json",
    /// `metrics.csv`.
    metrics_csv = "metrics.csv",
    /// `metrics.jsonl`.
    metrics_jsonl = "metrics.jsonl",
    /// `bad_images.csv`: the training images that could not be read and were replaced.
    bad_images = "bad_images.csv",
    /// `per_class.csv`.
    per_class_csv = "per_class.csv",
    /// `confusion.csv`.
    confusion_csv = "confusion.csv",
    /// `predictions.csv`.
    predictions_csv = "predictions.csv",
    /// `receipt.json`.
    receipt = "receipt.json",
    /// `heads.json`: the heads on a frozen trunk that were compared, and the chosen one.
    heads = "heads.json",
    /// `recipe.toml`: the settings, each below where it is from or why it was chosen; it can be edited.
    recipe = "recipe.toml",
    /// `model.safetensors`, the final model.
    model = "model.safetensors",
    /// `ema.safetensors`, the final model with averaged weights.
    ema = "ema.safetensors",
    /// `best.safetensors`, the model of the best epoch.
    best = "best.safetensors",
    /// `run.lock`.
    lock = "run.lock",
}

impl RunPaths {
    /// The paths of the run in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// `report.html`.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// `lists/`: the split that was made for the run.
    pub fn lists(&self) -> PathBuf {
        self.0.join("lists")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// `checkpoints/step-<step, eight digits>.safetensors`.
    pub fn step_checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints()
            .join(format!("step-{step:08}.safetensors"))
    }

    /// `checkpoints/stage<stage>.safetensors`, kept for good.
    pub fn stage_checkpoint(&self, stage: usize) -> PathBuf {
        self.checkpoints().join(format!("stage{stage}.safetensors"))
    }

    /// Whether the folder holds a run.
    pub fn is_run(&self) -> bool {
        self.config().is_file() && self.classes().is_file()
    }

    /// Checks that the folder holds a run.
    ///
    /// # Errors
    ///
    /// [`RunDirError::NotARun`].
    pub fn check(&self) -> Result<(), RunDirError> {
        match self.is_run() {
            true => Ok(()),
            false => Err(RunDirError::NotARun(self.0.clone())),
        }
    }

    /// Whether a file is one of those that a run lives by; its report can be made again.
    pub fn owns(&self, file: &Path) -> bool {
        OWN.iter().any(|own| self.0.join(own) == file)
    }

    /// The configuration of the run.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] or [`RunDirError::Format`], naming the file and the line.
    pub fn read_config<T: DeserializeOwned>(&self) -> Result<T, RunDirError> {
        read_json(&self.config())
    }

    /// The classes of the run: those that it began with, where it has a receipt.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] or [`RunDirError::Format`], naming the file.
    pub fn read_classes(&self) -> Result<Classes, RunDirError> {
        let classes: Classes = read_json(&self.classes())?;
        let (names, counts) = (classes.names.len(), classes.train_counts.len());
        if names != counts {
            let message = format!("{names} class names, but {counts} training counts");
            return Err(format_error(&self.classes(), message));
        }
        let images: usize = classes
            .train_counts
            .iter()
            .fold(0, |sum, n| sum.saturating_add(*n));
        if let Some(receipt) = self.receipt_if_any()?
            && (class_order(&classes.names) != receipt.class_order
                || images != receipt.train.images)
        {
            let message = "its class names or counts are not those that the run began with \
                           (receipt.json has their hash): it was edited or damaged; put it back";
            return Err(format_error(&self.classes(), message.into()));
        }
        Ok(classes)
    }

    /// `heads.json`, which runs with a frozen trunk have.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] or [`RunDirError::Format`], naming the file.
    pub fn read_heads(&self) -> Result<Option<Choice>, RunDirError> {
        let file = self.heads();
        file.exists().then(|| read_json(&file)).transpose()
    }

    /// As [`read_receipt`](Self::read_receipt), of a run that may not have one yet.
    ///
    /// # Errors
    ///
    /// Those of [`read_receipt`](Self::read_receipt).
    pub fn receipt_if_any(&self) -> Result<Option<Receipt>, RunDirError> {
        self.receipt()
            .exists()
            .then(|| self.read_receipt())
            .transpose()
    }

    /// What the run was obtained with.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] or [`RunDirError::Format`], naming the file.
    pub fn read_receipt(&self) -> Result<Receipt, RunDirError> {
        read_json(&self.receipt())
    }

    /// The scores of `predictions.csv`, with the file names that stand there.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] or [`RunDirError::Format`], naming the file and the line.
    pub fn read_predictions(&self) -> Result<Vec<(String, ImageScore)>, RunDirError> {
        let path = self.predictions_csv();
        let text = read_to_string(&path).map_err(io_error(&path))?;
        let mut rows = Vec::new();
        for (number, row) in csv::Reader::from_reader(text.as_bytes())
            .deserialize::<(usize, String, u32, Option<u32>, f32)>()
            .enumerate()
        {
            let row =
                row.map_err(|error| format_error(&path, format!("line {}: {error}", number + 2)))?;
            let (_, file, label, predicted, confidence) = row;
            let score = ImageScore {
                label,
                predicted,
                confidence,
            };
            rows.push((file, score));
        }
        Ok(rows)
    }

    /// All rows of `metrics.jsonl`; none if there is no such file yet.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] or [`RunDirError::Format`], naming the file and the line.
    pub fn read_rows(&self) -> Result<Vec<EpochRow>, RunDirError> {
        let path = self.metrics_jsonl();
        let text = match read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let row = |(number, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|error| format_error(&path, format!("line {}: {error}", number + 1)))
        };
        text.lines().enumerate().map(row).collect()
    }

    /// The images of `bad_images.csv`; none if there is no such file.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] or [`RunDirError::Format`], naming the file and the line.
    pub fn read_bad_images(&self) -> Result<Vec<BadImage>, RunDirError> {
        let path = self.bad_images();
        let file = match read::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&path)(error)),
        };
        let rows = csv::Reader::from_reader(file).into_deserialize();
        rows.collect::<Result<_, _>>()
            .map_err(|error| format_error(&path, error.to_string()))
    }

    /// The step checkpoints, oldest first, with their steps.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`] if the folder is there but cannot be listed.
    pub fn step_checkpoints(&self) -> Result<Vec<(u64, PathBuf)>, RunDirError> {
        self.numbered("step-")
    }

    /// Files `checkpoints/<prefix><number>.safetensors` in the order of their numbers.
    fn numbered(&self, prefix: &str) -> Result<Vec<(u64, PathBuf)>, RunDirError> {
        let mut found = Vec::new();
        for path in list(&self.checkpoints())? {
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name
                .and_then(|name| name.strip_prefix(prefix)?.strip_suffix(".safetensors"))
                .and_then(|number| number.parse().ok());
            if let Some(number) = number {
                found.push((number, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The newest checkpoint that can be read, or `None` if there is none at all.
    ///
    /// A truncated or damaged file is skipped with a warning, and the next older one is taken; the
    /// checkpoints at the ends of stages are tried last.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Checkpoint`] if a checkpoint was written by another version of the program or the system
    /// refuses to read it (going back would lose work for no reason), and
    /// [`RunDirError::NoReadableCheckpoint`] if all are damaged.
    pub fn latest(&self) -> Result<Option<Latest>, RunDirError> {
        let steps = self.numbered("step-")?.into_iter().rev();
        let stages = self.numbered("stage")?.into_iter().rev();
        let mut warnings = Vec::new();
        for (_, path) in steps.chain(stages) {
            match checkpoint::read(&path) {
                Ok(checkpoint) => {
                    return Ok(Some(Latest {
                        checkpoint,
                        path,
                        warnings,
                    }));
                }
                Err(
                    error @ (CheckpointError::NewerVersion { .. }
                    | CheckpointError::OlderVersion { .. }
                    | CheckpointError::Read { .. }),
                ) => return Err(error.into()),
                Err(error) => warnings.push(error.to_string()),
            }
        }
        if warnings.is_empty() {
            return Ok(None);
        }
        Err(RunDirError::NoReadableCheckpoint {
            path: self.checkpoints(),
            problems: warnings,
        })
    }
}

/// The checkpoint that a run resumes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Latest {
    /// Its content.
    pub checkpoint: Checkpoint,
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with newer checkpoints, which were skipped: the user should see it.
    pub warnings: Vec<String>,
}

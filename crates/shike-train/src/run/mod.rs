//! The folder of a run: configuration, log, checkpoints and models in fixed places.
//!
//! ```text
//! run/
//!   config.json          the resolved configuration
//!   recipe.toml          the settings, each below where it is from or why it was chosen; it can be edited
//!   lists/               the split that was made for the data, if nobody gave one
//!   classes.json         class names and training images per class, in label order
//!   metrics.csv, .jsonl  one row an epoch
//!   per_class.csv        the last evaluation by class
//!   confusion.csv        which classes were taken for which
//!   predictions.csv      the last evaluation by image
//!   report.html          curves, classes, calibration, confusions, for a browser
//!   receipt.json         hashes of the lists and the class order, seed, versions
//!   bad_images.csv       training images that were replaced, with --bad-images skip
//!   checkpoints/         step-00001234.safetensors (the newest few), stage1.safetensors
//!   model.safetensors    the final model
//!   best.safetensors     the model of the best epoch
//!   run.lock             locked while a process writes into the run
//! ```
//!
//! [`RunPaths`] only reads, and may do so while another process trains. [`RunDir`] holds the lock
//! and writes; every file but the lock is replaced in one step (see [`atomic_write`]).

pub mod checkpoint;
mod config;
mod paths;
pub mod receipt;
mod rows;
#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use same_file::Handle;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shike_data::read::read_to_string;
use shike_data::split::list_names;
use shike_data::write::{WriteError, atomic_write, write_bytes};
use shike_data::{BadImage, Dataset};
use shike_heads::Choice;
use thiserror::Error;

use self::checkpoint::{Checkpoint, CheckpointError};
pub use self::config::RunConfig;
pub use self::paths::{Latest, RunPaths};
use self::receipt::{ChosenOn, Receipt};
pub use self::rows::{EpochRow, RowScores};
use shike_infer::metrics::{Evaluation, MOST_CLASSES};

/// What is wrong with a run's folder; every message names the path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The path is a file.
    #[error("{} is a file, but a run needs a folder: choose another path", .0.display())]
    NotAFolder(PathBuf),
    /// A new run would mix with other files.
    #[error("folder {} is not empty and is not a run: choose a new or an empty folder", .0.display())]
    NotEmpty(PathBuf),
    /// A new run would overwrite another.
    #[error("folder {} already holds a run: continue it, or choose another folder", .0.display())]
    AlreadyARun(PathBuf),
    /// There is no run to open.
    #[error(
        "{} is not the folder of a run: it has no config.json and classes.json{}",
        .0.display(),
        run_below(.0)
    )]
    NotARun(PathBuf),
    /// The folder was removed or moved while this process was at work, or another one is in its place.
    #[error(
        "{} is no more the folder of this run: it was removed or moved, or another is in its place; nothing \
         more is written (a folder that was moved can be resumed where it is now)",
        .0.display()
    )]
    Gone(PathBuf),
    /// Another process writes into the run.
    #[error(
        "run {} is in use by {}: wait until it ends, or stop it first",
        path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process, where the lock file tells.
        pid: Option<u32>,
    },
    /// Another process is about to begin a run there, or has just done so.
    #[error(
        "another process{} has just begun a run in {}: choose another folder",
        pid.map_or_else(String::new, |pid| format!(" ({pid})")),
        path.display()
    )]
    Begun {
        /// The folder.
        path: PathBuf,
        /// The process, where the lock file tells.
        pid: Option<u32>,
    },
    /// A file of the run is not what it should be.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        message: String,
    },
    /// Checkpoints are there, but not one can be read.
    #[error("no checkpoint in {} can be read: {}", path.display(), problems.join("; "))]
    NoReadableCheckpoint {
        /// The folder of the checkpoints.
        path: PathBuf,
        /// What is wrong with each of them, the newest first.
        problems: Vec<String>,
    },
    /// The newest checkpoint cannot be read, and an older one would not do.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The system refused something else.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The classes of a run, by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classes {
    /// Class names in label order: the order of the logits of every model in the run.
    pub names: Vec<String>,
    /// Training images per class, in the same order.
    pub train_counts: Vec<usize>,
}

/// A run that this process writes to; dropping it releases the lock.
#[derive(Debug)]
pub struct RunDir {
    paths: RunPaths,
    classes: Classes,
    rows: Vec<EpochRow>,
    keep_last: usize,
    /// Unlocked by the system when it is closed, even if the process is killed. None where another process writes.
    lock: Option<Handle>,
}

impl RunDir {
    /// Starts a run in `folder`, which is created if it does not exist, and writes `config.json`, `classes.json`
    /// and, if given, the text of `recipe.toml`.
    ///
    /// # Errors
    ///
    /// [`RunDirError::AlreadyARun`], [`RunDirError::NotEmpty`] or [`RunDirError::NotAFolder`] if
    /// the folder is taken, [`RunDirError::Begun`] if another process is faster, and errors of
    /// writing.
    pub fn create(
        folder: impl Into<PathBuf>,
        config: &impl Serialize,
        classes: Classes,
        recipe: Option<&str>,
    ) -> Result<Self, RunDirError> {
        let paths = RunPaths::new(folder);
        let root = paths.root().to_owned();
        Self::check_free(&root)?;
        fs::create_dir_all(&root).map_err(io_error(&root))?;
        let lock = lock(&paths).map_err(|error| match error {
            RunDirError::Locked { path, pid } => RunDirError::Begun { path, pid },
            other => other,
        })?;
        if paths.is_run() {
            return Err(RunDirError::AlreadyARun(root));
        }
        remove_temporaries(&paths)?;
        // config.json makes it a run, which has all that a resume needs.
        if let Some(recipe) = recipe {
            write_bytes(&paths.recipe(), recipe)?;
        }
        write_json(&paths.classes(), &classes)?;
        write_json(&paths.config(), config)?;
        Self::read(paths, lock)
    }

    /// Whether a run can begin in a folder, before anything is written there.
    ///
    /// # Errors
    ///
    /// [`RunDirError::NotAFolder`], [`RunDirError::AlreadyARun`], [`RunDirError::Begun`], or
    /// [`RunDirError::NotEmpty`] if there is something else in it.
    pub fn check_free(folder: &Path) -> Result<(), RunDirError> {
        let paths = RunPaths::new(folder);
        let root = paths.root().to_owned();
        if root.exists() && !root.is_dir() {
            return Err(RunDirError::NotAFolder(root));
        }
        if paths.is_run() {
            return Err(RunDirError::AlreadyARun(root));
        }
        // What a start that failed may have left is no obstacle: a split may lie there before; the
        // lock comes first, then recipe.toml and classes.json, and config.json makes it a run.
        let started = paths.lock().is_file();
        let of_a_start = |lists: &Path| {
            let written = ["split.json", "classes.txt"];
            // Before those are there, another process may be about to write them.
            let begun = |path: &PathBuf| {
                is_temporary(path) || list_names().iter().any(|name| path.ends_with(name))
            };
            written.iter().any(|file| lists.join(file).is_file())
                || list(lists).is_ok_and(|files| files.iter().all(begun))
        };
        let leftover = |path: &PathBuf| {
            *path == paths.lock()
                || is_temporary(path)
                || (started && [paths.recipe(), paths.classes()].contains(path))
                || (*path == paths.lists() && of_a_start(path))
        };
        if list(&root)?.iter().all(leftover) {
            return Ok(());
        }
        // Between two looks another process may have begun.
        if is_locked(&paths) {
            let pid = locked_by(&paths);
            return Err(RunDirError::Begun { path: root, pid });
        }
        Err(match paths.is_run() {
            true => RunDirError::AlreadyARun(root),
            false => RunDirError::NotEmpty(root),
        })
    }

    /// Opens a run to go on with it, and removes temporary files that a crash has left.
    ///
    /// # Errors
    ///
    /// [`RunDirError::NotARun`], [`RunDirError::Locked`], or [`RunDirError::Format`] if
    /// `classes.json` or `metrics.jsonl` is broken.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, RunDirError> {
        let paths = RunPaths::new(folder);
        paths.check()?;
        let lock = lock(&paths)?;
        remove_temporaries(&paths)?;
        Self::read(paths, lock)
    }

    /// A run that another process of the same job writes: nothing is written here.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), but for the lock.
    pub fn watch(folder: impl Into<PathBuf>) -> Result<Self, RunDirError> {
        let paths = RunPaths::new(folder);
        paths.check()?;
        Self::read(paths, None)
    }

    /// Whether this process writes it.
    pub fn writes(&self) -> bool {
        self.lock.is_some()
    }

    /// The run as its folder says.
    fn read(paths: RunPaths, lock: impl Into<Option<Handle>>) -> Result<Self, RunDirError> {
        Ok(Self {
            classes: paths.read_classes()?,
            rows: paths.read_rows()?,
            paths,
            keep_last: 2,
            lock: lock.into(),
        })
    }

    /// Keeps the newest `count` step checkpoints (at least 1; 2 unless told).
    pub fn keep_last(mut self, count: usize) -> Self {
        self.keep_last = count.max(1);
        self
    }

    /// Where things lie, and how to read them.
    pub fn paths(&self) -> &RunPaths {
        &self.paths
    }

    /// Where things lie, to be written: the folder is still that of this run.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Gone`].
    pub(crate) fn writable(&self) -> Result<&RunPaths, RunDirError> {
        let path = self.paths.lock();
        match Handle::from_path(&path) {
            Ok(lock) if Some(&lock) == self.lock.as_ref() => Ok(&self.paths),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path)(error)),
            _ => Err(RunDirError::Gone(self.paths.root().to_owned())),
        }
    }

    /// The classes of the run.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Writes `config.json` anew.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`].
    pub(crate) fn write_config(&self, config: &impl Serialize) -> Result<(), RunDirError> {
        write_json(&self.writable()?.config(), config)
    }

    /// The rows of the log so far.
    pub(crate) fn rows(&self) -> &[EpochRow] {
        &self.rows
    }

    /// Adds the row of an epoch to `metrics.jsonl` and `metrics.csv`. Rows of the same epoch or a
    /// later one, from before a resume, are replaced.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`]; the files then hold the rows that they held before.
    pub(crate) fn append_row(&mut self, row: EpochRow) -> Result<(), RunDirError> {
        self.rows.retain(|r| r.position() < row.position());
        self.rows.push(row);
        self.write_rows()
    }

    /// Removes the rows from `epoch` of `stage` on: a run that resumes within that epoch, or at
    /// its start, trains them again.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`].
    pub(crate) fn truncate_rows_from(
        &mut self,
        stage: usize,
        epoch: usize,
    ) -> Result<(), RunDirError> {
        let before = self.rows.len();
        self.rows.retain(|row| row.position() < (stage, epoch));
        if self.rows.len() < before {
            self.write_rows()?;
        }
        Ok(())
    }

    /// Both files are written as a whole: a log is small, a torn last line cannot happen, and the CSV
    /// header can gain the loss terms of stage 2.
    fn write_rows(&self) -> Result<(), RunDirError> {
        if !self.writes() {
            return Ok(());
        }
        let paths = self.writable()?;
        atomic_write(&paths.metrics_jsonl(), |writer| {
            for row in &self.rows {
                serde_json::to_writer(&mut *writer, row)?;
                writer.write_all(b"\n")?;
            }
            Ok(())
        })?;
        Ok(atomic_write(&paths.metrics_csv(), |writer| {
            rows::write_csv(writer, &self.rows)
        })?)
    }

    /// Writes `bad_images.csv`.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`].
    pub(crate) fn write_bad_images(&self, images: &[BadImage]) -> Result<(), RunDirError> {
        Ok(atomic_write(&self.writable()?.bad_images(), |writer| {
            let mut writer = csv::Writer::from_writer(writer);
            for image in images {
                writer.serialize(image)?;
            }
            writer.flush()
        })?)
    }

    /// Writes `heads.json`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(crate) fn write_heads(&self, choice: &Choice) -> Result<(), RunDirError> {
        write_json(&self.writable()?.heads(), choice)
    }

    /// Writes `per_class.csv`, `confusion.csv` (up to 1,000 classes) and, with the names of the images that were
    /// scored, `predictions.csv`.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`].
    pub(crate) fn write_scores(
        &self,
        evaluation: &Evaluation,
        images: &Dataset,
    ) -> Result<(), RunDirError> {
        if !self.writes() {
            return Ok(());
        }
        let paths = self.writable()?;
        atomic_write(&paths.per_class_csv(), |writer| {
            evaluation.write_per_class_csv(writer, &self.classes.names)
        })?;
        if self.classes.names.len() <= MOST_CLASSES {
            atomic_write(&paths.confusion_csv(), |writer| {
                evaluation.write_confusion_csv(writer, &self.classes.names)
            })?;
        }
        Ok(atomic_write(&paths.predictions_csv(), |writer| {
            evaluation.write_predictions_csv(writer, |i| images.origin(i))
        })?)
    }

    /// Writes `receipt.json`, with how far the run has come.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`].
    pub(crate) fn write_receipt(&self, receipt: &mut Receipt) -> Result<(), RunDirError> {
        if !self.writes() {
            return Ok(());
        }
        let best = self.paths().best().exists();
        receipt.best_chosen_on = best.then_some(ChosenOn::Validation);
        if !self.rows().is_empty() {
            receipt.training_seconds = self.rows().iter().map(|row| row.seconds).sum();
        }
        write_json(&self.writable()?.receipt(), receipt)
    }

    /// Writes the checkpoint of `step` (steps count on over both stages), then removes the step
    /// checkpoints that are not among the newest [`RunDir::keep_last`]. Those of later steps go
    /// too: the run has been taken back behind them.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`]; no other checkpoint is then touched.
    pub(crate) fn save_checkpoint(
        &self,
        step: u64,
        checkpoint: &Checkpoint,
    ) -> Result<PathBuf, RunDirError> {
        let path = self.paths.step_checkpoint(step);
        self.write_checkpoint(&path, checkpoint)?;
        let steps = self.paths.step_checkpoints()?.into_iter();
        for (_, later) in steps.filter(|(other, _)| *other > step) {
            fs::remove_file(&later).map_err(io_error(&later))?;
        }
        self.remove_old_checkpoints(step)?;
        Ok(path)
    }

    /// Removes the step checkpoints up to `step` that are not among the newest: a kill may have come
    /// before.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Io`].
    pub(crate) fn remove_old_checkpoints(&self, step: u64) -> Result<(), RunDirError> {
        if !self.writes() {
            return Ok(());
        }
        let mut past = self.writable()?.step_checkpoints()?;
        past.retain(|(other, _)| *other <= step);
        past.truncate(past.len().saturating_sub(self.keep_last));
        for (_, old) in past {
            fs::remove_file(&old).map_err(io_error(&old))?;
        }
        Ok(())
    }

    /// Writes `stage<stage>.safetensors`, which is kept for good.
    ///
    /// # Errors
    ///
    /// [`RunDirError::Write`].
    pub(crate) fn save_stage_checkpoint(
        &self,
        stage: usize,
        checkpoint: &Checkpoint,
    ) -> Result<PathBuf, RunDirError> {
        let path = self.paths.stage_checkpoint(stage);
        self.write_checkpoint(&path, checkpoint)?;
        Ok(path)
    }

    fn write_checkpoint(&self, path: &Path, checkpoint: &Checkpoint) -> Result<(), RunDirError> {
        let folder = self.writable()?.checkpoints();
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error(&folder)(error));
            }
            _ => {}
        }
        Ok(checkpoint::write_atomic(path, checkpoint)?)
    }
}

fn lock(paths: &RunPaths) -> Result<Handle, RunDirError> {
    let path = paths.lock();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(RunDirError::Locked {
                path: paths.root().to_owned(),
                pid: locked_by(paths),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(&path)(error)),
    }
    // The number is for the message to another process only.
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(io_error(&path))?;
    Handle::from_file(file).map_err(io_error(&path))
}

/// Whether a process writes into a run.
fn is_locked(paths: &RunPaths) -> bool {
    let tried = File::open(paths.lock()).map(|file| file.try_lock_shared());
    matches!(tried, Ok(Err(TryLockError::WouldBlock)))
}

/// The process that says so in the lock file.
fn locked_by(paths: &RunPaths) -> Option<u32> {
    let pid = fs::read_to_string(paths.lock()).ok()?;
    pid.trim().parse().ok()
}

/// The entries of a folder; none if it does not exist.
fn list(folder: &Path) -> Result<Vec<PathBuf>, RunDirError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error(folder)(error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(io_error(folder))
}

/// What to name in place of a folder whose folders are runs, as that of several seeds.
fn run_below(folder: &Path) -> String {
    let folders = list(folder).unwrap_or_default();
    let runs = folders.iter().filter(|below| RunPaths::new(below).is_run());
    match runs.min() {
        None => String::new(),
        Some(run) => format!("; it holds runs: name one, as {}", run.display()),
    }
}

/// Whether `path` is named `*.tmp-<pid>`, as [`atomic_write`] names its files.
fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.rsplit_once(".tmp-"))
        .is_some_and(|(_, pid)| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
}

/// Only with the lock held, so that no live process can own one.
fn remove_temporaries(paths: &RunPaths) -> Result<(), RunDirError> {
    for folder in [paths.root().to_owned(), paths.checkpoints(), paths.lists()] {
        for path in list(&folder)?.into_iter().filter(|path| is_temporary(path)) {
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
    }
    Ok(())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RunDirError> {
    let text = read_to_string(path).map_err(io_error(path))?;
    serde_json::from_str(&text).map_err(|error| format_error(path, error.to_string()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RunDirError> {
    Ok(atomic_write(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)?;
        writer.write_all(b"\n")
    })?)
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError::Io {
        path: path.clone(),
        source,
    }
}

fn format_error(path: &Path, message: String) -> RunDirError {
    RunDirError::Format {
        path: path.to_owned(),
        message,
    }
}

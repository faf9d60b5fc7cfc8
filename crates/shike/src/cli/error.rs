//! Why a command fails, and how the program ends.

use std::path::{Path, PathBuf};

use shike_data::split::SplitError;
use shike_infer::InferError;
use shike_train::TrainError;
use shike_train::report::ReportError;
use shike_train::report::compare::CompareError;
use shike_train::run::RunDirError;
use thiserror::Error;

use super::options;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// All was done.
    Success = 0,
    /// Something failed.
    Failure = 1,
    /// Arguments are wrong, or do not go together.
    Usage = 2,
    /// All was done, and images were found that a person should look at.
    Findings = 3,
    /// It was asked to stop, and can be continued.
    Interrupted = 130,
}

impl From<Status> for std::process::ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Why a command failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CliError {
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// Something that a run does not have, or not yet.
    #[error("{0}")]
    Absent(String),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something cannot be written in the format that was asked for.
    #[error("{0}")]
    Format(String),
    /// A part of the work could not be done.
    #[error("{0}")]
    Failed(String),
    /// The device is not there.
    #[error("--device {0}")]
    Device(#[from] shike_infer::device::DeviceError),
    /// Weights are not there, or cannot be fetched.
    #[error(transparent)]
    Weights(#[from] shike_hub::HubError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A model that cannot be used.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The report cannot be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Runs cannot be compared.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// A data set could not be split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The result could not be printed.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// Work that failed, in the words of what it failed by.
    pub(super) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// For `map_err` of what is done with the file at `path`.
    pub(super) fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            path: path.clone(),
            source,
        }
    }

    /// What a person reads: with the options for what the libraries say of fields.
    pub fn explain(&self) -> String {
        match self {
            Self::Train(TrainError::Recipe(error)) if options::is_of_set(error) => {
                format!("--set {self}")
            }
            Self::Train(
                TrainError::OutOfMemory { .. }
                | TrainError::TooManyFeatures { .. }
                | TrainError::NonFinite { .. },
            ) => options::with_options(&self.to_string()),
            Self::Train(TrainError::RunDir(RunDirError::AlreadyARun(_))) => {
                format!("{self} (--resume, --run)")
            }
            Self::Train(TrainError::RunDir(RunDirError::Begun { .. })) => {
                format!("{self} (--run)")
            }
            Self::Compare(CompareError::Unfinished(run)) => {
                format!("{self} (shike train --resume {})", run.display())
            }
            Self::Split(SplitError::Exists { .. }) => format!("{self} (--force)"),
            Self::Split(SplitError::Group { .. }) => {
                self.to_string().replacen("group_by", "--group-by", 1)
            }
            Self::Train(TrainError::Config(error)) => match options::of(error) {
                Some(option) => format!("{self} ({option})"),
                None => self.to_string(),
            },
            _ => self.to_string(),
        }
    }

    /// The exit status: that of a wrong use for arguments that are wrong or do not go together.
    pub fn status(&self) -> Status {
        match self {
            Self::Usage(_) | Self::Split(SplitError::Config { .. } | SplitError::Group { .. }) => {
                Status::Usage
            }
            // What an option set, and explain names.
            Self::Train(TrainError::Config(error)) if options::of(error).is_some() => Status::Usage,
            Self::Train(TrainError::Recipe(error)) if options::is_of_set(error) => Status::Usage,
            _ => Status::Failure,
        }
    }
}

/// What the library's own error holds anyway.
macro_rules! of_training {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::Train(error.into())
            }
        })*
    };
}

of_training!(
    shike_data::DataError,
    shike_data::write::WriteError,
    shike_heads::HeadError,
    shike_model::weights::WeightsError,
    shike_train::RecipeError,
    shike_train::TrainConfigError,
    RunDirError,
);

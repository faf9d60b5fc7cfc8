//! Why a command fails, and how the program ends.

use std::path::{Path, PathBuf};

use shike_data::split::SplitError;
use shike_infer::InferError;
use shike_train::TrainError;
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
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A model that cannot be used.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// Runs cannot be compared.
    #[error(transparent)]
    Compare(#[from] shike_train::report::compare::CompareError),
    /// Generating images failed.
    #[error(transparent)]
    Synthetic(#[from] shike_data::synthetic::SyntheticError),
    /// A data set could not be split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The result could not be printed.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// For `map_err` of what is done with the file at `path`.
    pub(super) fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            path: path.clone(),
            source,
        }
    }

    /// What a person reads: where a field of the configuration is wrong, with the option that sets it.
    pub fn explain(&self) -> String {
        match self {
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
            Self::Usage(_) | Self::Split(SplitError::Config { .. }) => Status::Usage,
            // What an option set, and explain names.
            Self::Train(TrainError::Config(error)) if options::of(error).is_some() => Status::Usage,
            Self::Train(TrainError::Recipe(error)) if error.refuses_an_option() => Status::Usage,
            _ => Status::Failure,
        }
    }
}

impl From<shike_data::DataError> for CliError {
    fn from(error: shike_data::DataError) -> Self {
        Self::Train(error.into())
    }
}

impl From<shike_train::run::RunDirError> for CliError {
    fn from(error: shike_train::run::RunDirError) -> Self {
        Self::Train(error.into())
    }
}

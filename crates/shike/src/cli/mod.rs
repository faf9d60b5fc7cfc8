//! Command-line arguments that the program and the examples share.

mod bench;
mod eval;
mod inspect;
mod model;
mod options;
mod plot;
mod predict;
mod report;
mod train;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use shike_data::LongTail;
use shike_data::split::SplitError;
use shike_infer::InferError;
use shike_train::run::RunPaths;
use shike_train::text::clean;
use shike_train::{DataSource, Outcome, Recipe, TrainError};
use thiserror::Error;

pub use bench::{BenchArgs, BenchError, bench};
pub use eval::{BackendsArgs, CompareArgs, EvalArgs, ExportArgs, backends, compare, eval, export};
pub use inspect::{InspectArgs, Shares, inspect};
pub use model::{ModelArgs, Which};
pub use predict::{PredictArgs, predict};
pub use report::{ReportArgs, report};
pub use train::{
    Arch, BadImagesKind, Base, Baseline, ImagePreset, OutputArgs, PrecisionKind, Preset,
    RecipeArgs, TrainArgs, Trained, train, train_with,
};

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
    fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
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

    /// The exit status: 2 for arguments that are wrong or do not go together, 1 for anything else.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Split(SplitError::Config { .. }) => 2,
            // What an option set, and explain names.
            Self::Train(TrainError::Config(error)) if options::of(error).is_some() => 2,
            Self::Train(TrainError::Recipe(error)) if error.refuses_an_option() => 2,
            _ => 1,
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

/// Where the images are.
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    /// Folder with the images: `train/<class>/…` (and `val`, `test`), `<class>/…`, CIFAR's binary
    /// files, or the root of the list files' paths.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// What lies there.
    #[command(flatten)]
    pub layout: LayoutArgs,
}

/// What lies in the folder with the images, beyond what it shows itself.
#[derive(Args, Clone, Debug)]
pub struct LayoutArgs {
    /// List of training images: `path label` a line, or a `.csv` or `.json` file.
    #[arg(long, value_name = "FILE", requires = "data")]
    pub train_list: Option<PathBuf>,
    /// List of validation images, on which the best epoch is chosen.
    #[arg(long, value_name = "FILE", requires = "train_list")]
    pub val_list: Option<PathBuf>,
    /// List of test images. Nothing is chosen on them.
    #[arg(long, value_name = "FILE", requires = "train_list")]
    pub test_list: Option<PathBuf>,
    /// Class names of the lists, one a line, by label. Default: `classes.txt` beside the training list,
    /// if it has as many lines as there are classes; else the folders of the images.
    #[arg(long, value_name = "FILE", requires = "train_list")]
    pub class_names: Option<PathBuf>,
    /// For CIFAR: images of the largest class over those of the smallest [default: 100].
    #[arg(long, value_name = "X")]
    pub imbalance_factor: Option<f64>,
    /// For CIFAR: shape of the tail [default: exp].
    #[arg(long, value_enum)]
    pub profile: Option<Profile>,
}

/// Shape of the tail that CIFAR is cut to.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Class sizes fall exponentially.
    Exp,
    /// Half of the classes are large, half are small.
    Step,
    /// As it is.
    Balanced,
}

impl From<Profile> for LongTail {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Exp => Self::Exponential,
            Profile::Step => Self::Step,
            Profile::Balanced => Self::Balanced,
        }
    }
}

impl DataArgs {
    /// The data source that these arguments name; `None` without `--data`.
    ///
    /// # Errors
    /// If an option is not for these images.
    pub fn source(&self) -> Result<Option<DataSource>, CliError> {
        let source = self.data.as_deref().map(|dir| self.layout.source(dir));
        source
            .iter()
            .try_for_each(|source| self.layout.fits(source))?;
        Ok(source)
    }

    /// Where a run's images are: those that it recorded, in the folder of `--data` if that is given;
    /// others only where more than a folder is named.
    ///
    /// # Errors
    /// If an option is not for these images.
    fn source_of_run(&self, recorded: Option<DataSource>) -> Result<Option<DataSource>, CliError> {
        let source = match (&self.data, recorded) {
            (Some(dir), Some(recorded)) if self.layout.is_default() => Some(recorded.moved_to(dir)),
            (None, Some(recorded)) => Some(self.layout.change(recorded, Path::new(""))),
            (_, recorded) => self.source()?.or(recorded),
        };
        if let Some(source) = &source {
            self.layout.fits(source)?;
        }
        Ok(source)
    }

    /// As [`source`](Self::source), where a recipe says what lies in the folder.
    pub fn source_for(&self, recipe: &Recipe) -> Result<Option<DataSource>, CliError> {
        let own = recipe.data_dir().map_err(TrainError::from)?;
        let Some(dir) = self.data.as_deref().or(own.as_deref()) else {
            return Ok(None);
        };
        let layout = recipe.layout().map_err(TrainError::from)?;
        let source = match layout {
            Some(layout) => layout.below(dir).with_names_beside(),
            None => DataSource::detect(dir),
        };
        let source = self.layout.change(source, dir);
        self.layout.fits(&source)?;
        Ok(Some(source))
    }
}

impl LayoutArgs {
    /// Whether nothing is said.
    fn is_default(&self) -> bool {
        self.train_list.is_none() && self.imbalance_factor.is_none() && self.profile.is_none()
    }

    /// Refuses options that these images have no use for.
    fn fits(&self, source: &DataSource) -> Result<(), CliError> {
        if let (Some(_), Some(Profile::Balanced)) = (self.imbalance_factor, self.profile) {
            let message = "--imbalance-factor has no effect with --profile balanced: leave one out";
            return Err(CliError::Usage(message.into()));
        }
        let cut = self.imbalance_factor.is_some() || self.profile.is_some();
        match (cut, source) {
            (false, _) | (_, DataSource::Cifar { .. }) => Ok(()),
            _ => Err(CliError::Usage(
                "--imbalance-factor and --profile cut CIFAR to a long tail; these images are taken as \
                 they are"
                    .into(),
            )),
        }
    }

    /// The data source in `dir`.
    pub fn source(&self, dir: &Path) -> DataSource {
        self.change(DataSource::detect(dir), dir)
    }

    /// `source` as far as these arguments do not say something else.
    fn change(&self, mut source: DataSource, dir: &Path) -> DataSource {
        if let Some(train) = self.train_list.clone() {
            let lists = DataSource::Lists {
                root: dir.to_owned(),
                train,
                val: self.val_list.clone(),
                test: self.test_list.clone(),
                class_names: self.class_names.clone(),
            };
            return lists.with_names_beside();
        }
        if let DataSource::Cifar {
            profile,
            imbalance_factor,
            ..
        } = &mut source
        {
            *profile = self.profile.map_or(*profile, LongTail::from);
            *imbalance_factor = self.imbalance_factor.unwrap_or(*imbalance_factor);
        }
        source
    }
}

/// How a run begins.
#[derive(Args, Clone, Debug, Default)]
pub struct ResumeArgs {
    /// Folder that the run is written to. Default: `runs/<network>-seed<seed>`.
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Go on with a run that was stopped or killed, with its own settings and data.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "stage2_from"])]
    pub resume: Option<PathBuf>,
    /// Re-train the classifiers (stage 2) on the finished stage 1 of another run.
    #[arg(long, value_name = "RUN")]
    pub stage2_from: Option<PathBuf>,
}

/// Prints what a run came to, and gives the exit status: 0 finished, 1 error, 2 wrong arguments,
/// 130 interrupted.
pub fn exit(result: Result<Outcome, CliError>) -> ExitCode {
    match result {
        Ok(Outcome::Finished(scores)) => {
            let shown = scores.map_or(Ok(()), |scores| print(&scores.to_string()));
            shown.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
        }
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => failed(&error),
    }
}

/// Prints why a command failed, and gives its exit status.
pub fn failed(error: &CliError) -> ExitCode {
    say(&format!("error: {}", error.explain()));
    ExitCode::from(error.status())
}

/// Text on the screen, for people.
fn print(text: &str) -> Result<(), CliError> {
    print_line(&clean(text))
}

/// A JSON object a line, for programs.
fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print_line(&value.to_string())
}

/// That the reader of a pipe has gone is no error to speak of.
fn print_line(line: &str) -> Result<(), CliError> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::file("standard output".as_ref())(error))
        }
        Err(_) => std::process::exit(0),
        Ok(()) => Ok(()),
    }
}

/// Whether a result can be written to `out`, asked before the work that it takes.
fn writable(out: &Path) -> Result<(), CliError> {
    let (folder, shown) = (out.parent().unwrap_or(Path::new("")), out.display());
    let wrong = |problem: &str| Err(CliError::Usage(format!("{shown} {problem}")));
    if out.is_dir() {
        return wrong("is a folder: name a file");
    }
    if folder != Path::new("") && !folder.is_dir() {
        return wrong("cannot be written: its folder is not there");
    }
    let run = RunPaths::new(folder);
    match run.is_run() && run.owns(out) {
        true => wrong("belongs to a run: choose another name"),
        false => Ok(()),
    }
}

/// A line on the standard error output; where that is gone, there is nobody to be told.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", clean(text));
}

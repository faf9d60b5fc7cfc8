//! Where the images are, on the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use shike_data::LongTail;
use shike_train::{DataSource, Recipe, TrainError};

use super::CliError;

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
    pub profile: Option<LongTail>,
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
    pub(super) fn source_of_run(
        &self,
        recorded: Option<DataSource>,
    ) -> Result<Option<DataSource>, CliError> {
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
    pub(super) fn fits(&self, source: &DataSource) -> Result<(), CliError> {
        if let (Some(_), Some(LongTail::Balanced)) = (self.imbalance_factor, self.profile) {
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
            *profile = self.profile.unwrap_or(*profile);
            *imbalance_factor = self.imbalance_factor.unwrap_or(*imbalance_factor);
        }
        source
    }
}

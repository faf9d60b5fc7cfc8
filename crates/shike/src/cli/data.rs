//! Where the images are, on the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use shike_data::LongTail;
use shike_data::dataset::ListColumns;
use shike_data::split::{GroupBy, MinImages, SplitConfig};
use shike_train::{DataSource, Recipe};

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
#[derive(Args, Clone, Debug, Default)]
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
    /// Column of a CSV list with the paths or names of images [default: `path`, `image`, `file`, or else
    /// `file_name`, `image_id` and the like].
    #[arg(long, value_name = "NAME")]
    pub image_column: Option<String>,
    /// Column of a CSV list with the labels [default: `label`, `class`, or else `dx`, `category`, `species`; or a column
    /// a class with a 1 in it]; or the part of each path that is its label: `path:2`, `path:(cat|dog)`.
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
    /// For CIFAR: images of the largest class over those of the smallest [default: 100].
    #[arg(long, value_name = "X")]
    pub imbalance_factor: Option<f64>,
    /// For CIFAR: shape of the tail [default: exp].
    #[arg(long, value_enum)]
    pub profile: Option<LongTail>,
}

/// How pictures are split, and which classes and pictures are taken.
#[derive(Args, Clone, Debug, Default)]
pub struct SplitArgs {
    /// Pictures that are never parted by a split: those with the same value in a column of the list (`patient`) or of
    /// another CSV file (`meta.csv:patient`), in the same folder at a place of their path (`path:2`), with the same
    /// text in a regular expression's group (`path:(site\d+)`), taken within so many seconds of one another in one
    /// folder (`time:30`), or that look alike (`near-duplicates`). Given several times, all hold. Where validation or
    /// test pictures are given, such pictures in two parts are an error.
    #[arg(long, value_name = "RULE")]
    pub group_by: Vec<GroupBy>,
    /// Leave out classes with fewer pictures than N (training pictures, where test pictures are given); as `5:other`
    /// merge them into a class `other`.
    #[arg(long, value_name = "N[:NAME]")]
    pub min_images: Option<MinImages>,
    /// Take at most N pictures of a class (training pictures, where test pictures are given), drawn by the seed of the split.
    #[arg(long, value_name = "N")]
    pub max_images: Option<usize>,
}

impl SplitArgs {
    /// Whether nothing is said.
    pub(super) fn is_empty(&self) -> bool {
        self.group_by.is_empty() && self.min_images.is_none() && self.max_images.is_none()
    }

    /// As a configuration without shares, with the file that columns are of.
    pub(super) fn config(&self, source: &DataSource) -> SplitConfig {
        let list = match source {
            DataSource::Lists { train, .. } if is_csv(train) => Some(train),
            _ => None,
        };
        let rule = |by: &GroupBy| match by {
            GroupBy::Column { file: None, name } => GroupBy::Column {
                file: list.cloned(),
                name: name.clone(),
            },
            other => other.clone(),
        };
        SplitConfig {
            val: 0.0,
            test: 0.0,
            group_by: self.group_by.iter().map(rule).collect(),
            min_images: self.min_images.clone(),
            max_images: self.max_images,
            ..SplitConfig::default()
        }
    }
}

fn is_csv(list: &Path) -> bool {
    list.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
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

    /// As [`source_of_run`](Self::source_of_run), which has to be known.
    pub(super) fn known_source_of_run(
        &self,
        recorded: Option<DataSource>,
    ) -> Result<DataSource, CliError> {
        self.source_of_run(recorded)?.ok_or_else(|| {
            let message =
                "this run's images were made by a program, and are not known here: give --data";
            CliError::Usage(message.into())
        })
    }

    /// As [`source`](Self::source), where a recipe says what lies in the folder.
    pub fn source_for(&self, recipe: &Recipe) -> Result<Option<DataSource>, CliError> {
        let own = recipe.data_dir()?;
        let Some(dir) = self.data.as_deref().or(own.as_deref()) else {
            return Ok(None);
        };
        let layout = recipe.layout()?;
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
        self.train_list.is_none()
            && self.imbalance_factor.is_none()
            && self.profile.is_none()
            && self.columns() == ListColumns::default()
    }

    fn columns(&self) -> ListColumns {
        ListColumns {
            image: self.image_column.clone(),
            label: self.label_column.clone(),
        }
    }

    /// Refuses options that these images have no use for.
    pub(super) fn fits(&self, source: &DataSource) -> Result<(), CliError> {
        if let (Some(_), Some(LongTail::Balanced)) = (self.imbalance_factor, self.profile) {
            let message = "--imbalance-factor has no effect with --profile balanced: leave one out";
            return Err(CliError::Usage(message.into()));
        }
        let named = self.columns() != ListColumns::default();
        if named && !matches!(source, DataSource::Lists { .. }) {
            let message = "--image-column and --label-column say where a list has images and labels: give it with \
                           --train-list; without one, --label-column path:2 takes labels from the paths of all images";
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
        let columns = self.columns();
        let by_path = columns
            .label
            .as_ref()
            .is_some_and(|label| label.starts_with("path:"));
        // Pictures that are labelled by their paths need no list, and a list may lie beside them.
        let beside = || Some(dir.join("metadata.csv")).filter(|file| file.is_file());
        let train = match &self.train_list {
            None if by_path => Some(dir.to_owned()),
            None if columns != ListColumns::default() => beside(),
            list => list.clone(),
        };
        if let Some(train) = train {
            let lists = DataSource::Lists {
                root: dir.to_owned(),
                train,
                val: self.val_list.clone(),
                test: self.test_list.clone(),
                class_names: self.class_names.clone(),
                groups: None,
                columns,
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

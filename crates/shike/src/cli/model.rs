//! Which model a command works with.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use shike_infer::metrics::{Shot, ShotThresholds};
use shike_infer::{InferError, Predictor, Prior, device};
use shike_train::RunConfig;
use shike_train::run::RunPaths;

use super::{CliError, say};

/// A trained model and the conditions that it is used under.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Folder of a run, or a model file of one.
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Which of the run's models.
    #[arg(long, value_enum, default_value_t = Which::Model)]
    pub model: Which,
    /// Class frequencies where the model is used: `uniform`, `train` (as in training), or a file with a
    /// line `class<TAB>frequency` a class. Default: those that its logits stand for.
    #[arg(long, value_name = "uniform|train|FILE")]
    pub prior: Option<String>,
    /// Device: `flex`, `cuda:0`, `vulkan`, … among those compiled in; `auto` takes the first.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

/// The models of a run.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `model.safetensors`, of the last epoch.
    Model,
    /// `best.safetensors`, the best on the validation images.
    Best,
    /// `ema.safetensors`, with averaged weights.
    Ema,
}

/// Says how many images were resized because the model takes those of one size as they are, such as CIFAR's.
pub(super) fn say_resized(predictor: &Predictor, sizes: impl Iterator<Item = [u32; 2]>) {
    let Some(size) = predictor.info().pipeline.fixed_size() else {
        return;
    };
    let others = sizes.filter(|[width, height]| {
        let covers = *width >= size.width && *height >= size.height;
        !(covers && (*width == size.width || *height == size.height))
    });
    match others.count() {
        0 => {}
        n => say(&format!(
            "{n} of the images are not of the {}×{} pixels that the model was trained on: they are resized so \
             that they cover that, and the middle taken",
            size.width, size.height
        )),
    }
}

/// What there is to say of a group whose sets promise nothing.
pub(super) fn unsure(shot: Shot) -> String {
    format!(
        "{shot}-shot classes had too few validation images for this coverage: their sets are made with the bound of all \
         images, and promise nothing"
    )
}

impl ModelArgs {
    /// The bounds of shot groups of the run, or the usual ones.
    pub(super) fn thresholds(&self) -> Result<ShotThresholds, CliError> {
        let recorded = self.recorded()?;
        Ok(recorded.map_or_else(ShotThresholds::default, |c| c.train.thresholds))
    }

    /// The settings of the run, where one is given.
    pub(super) fn recorded(&self) -> Result<Option<RunConfig>, CliError> {
        let Some(paths) = self.paths() else {
            return Ok(None);
        };
        paths.check()?;
        Ok(Some(RunConfig::read(&paths)?))
    }

    /// The folder of the run, where one is given.
    pub(super) fn paths(&self) -> Option<RunPaths> {
        self.run.is_dir().then(|| RunPaths::new(&self.run))
    }

    /// The model file.
    pub(super) fn file(&self) -> Result<PathBuf, CliError> {
        let Some(paths) = self.paths() else {
            if self.model != Which::Model {
                let run = self.run.display();
                let message = format!("--model is for the folder of a run, and {run} is a file");
                return Err(CliError::Usage(message));
            }
            return Ok(self.run.clone());
        };
        model_of(&paths, self.model)
    }

    /// Loads the model onto the device, under the prior.
    pub(super) fn load(&self) -> Result<Predictor, CliError> {
        self.load_with(Ok)
    }

    /// As [`load`](Self::load), changed before the prior is read, which names classes.
    pub(super) fn load_with(
        &self,
        change: impl FnOnce(Predictor) -> Result<Predictor, CliError>,
    ) -> Result<Predictor, CliError> {
        let file = self.file()?;
        let device = device::parse(&self.device)?;
        let predictor = change(Predictor::load(&file, &device)?)?;
        let names = &predictor.info().class_names;
        let prior = match self.prior.as_deref() {
            None => return Ok(predictor),
            Some("uniform") => Prior::Uniform,
            Some("train") => Prior::Train,
            Some(path) => Prior::read(path.as_ref(), names).map_err(InferError::from)?,
        };
        Ok(predictor.with_prior(&prior)?)
    }
}

/// The model file of a run.
pub(super) fn model_of(paths: &RunPaths, which: Which) -> Result<PathBuf, CliError> {
    paths.check()?;
    let file = match which {
        Which::Model => paths.model(),
        Which::Best => paths.best(),
        Which::Ema => paths.ema(),
    };
    if file.is_file() {
        return Ok(file);
    }
    Err(CliError::Absent(format!(
        "{} is not there: {}",
        file.display(),
        match which {
            Which::Model => "the run has not ended (go on with `shike train --resume`)",
            Which::Best => "a best model is kept only where there are validation images",
            Which::Ema => "averaged weights are kept only with `--ema`",
        }
    )))
}

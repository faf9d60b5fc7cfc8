//! Trained weights, and how far parts of the network follow them.

use std::path::PathBuf;

use clap::Args;
use shike_model::Part;
use shike_train::run::RunPaths;
use shike_train::{RunConfig, TrainConfig};

use super::TrainArgs;
use crate::cli::CliError;
use crate::cli::model::{Which, model_of};
use crate::cli::weights::origin;

/// What a run starts from, and how far parts of the network follow.
#[derive(Args, Clone, Debug)]
pub struct TuningArgs {
    /// Start from PyTorch weights of the same network (torchvision's, timm's, DINOv2's, or a model that was
    /// trained here): `.pth` or `.safetensors`, the folder of a run, a name such as `dinov2_s14`,
    /// `hf:OWNER/NAME`, or `none`. Without an option about training the network stays frozen, and a head is
    /// fitted; with one, every expert starts with a copy.
    #[arg(long, value_name = "FILE|NAME|RUN")]
    pub weights: Option<PathBuf>,
    /// Peak learning rate of the stem and the layers that all experts share, in stage 1; the rest
    /// has that of `--lr`.
    #[arg(long, value_name = "X")]
    pub lr_backbone: Option<f64>,
    /// Factor on the learning rate of a part, as `layer4=0.1`; parts are stem, layer1, layer2, …,
    /// fusion, heads.
    #[arg(long, value_name = "PART=X", value_parser = part_lr)]
    pub part_lr: Vec<(Part, f64)>,
    /// Parts that are not trained, as `stem,layer1`.
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub freeze: Vec<Part>,
    /// Keep and score a moving average of the weights with this decay, such as 0.9999.
    #[arg(long, value_name = "DECAY")]
    pub ema: Option<f64>,
}

impl TrainArgs {
    /// Initial weights, and how far parts follow them.
    pub(super) fn set_fine_tuning(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        let named = self.weights_file()?;
        if named.is_some() {
            (config.weights, config.weights_origin) = (named, None);
        }
        if let (Some(file), None) = (&config.weights, &config.weights_origin) {
            config.weights_origin = Some(origin(file));
        }
        if !self.tuning.freeze.is_empty() {
            config.freeze = self.tuning.freeze.clone();
        }
        config.ema_decay = self.tuning.ema.or(config.ema_decay);
        config.precision = self.network.precision.unwrap_or(config.precision);
        if let Some(backbone) = self.tuning.lr_backbone {
            if !(backbone.is_finite() && backbone > 0.0) {
                return Err(CliError::Usage(format!(
                    "--lr-backbone is {backbone}: it must be above 0 (--freeze leaves parts as they are)"
                )));
            }
            let peak = config.stage1.schedule.peak();
            let own = |part: &Part| {
                self.tuning.freeze.contains(part)
                    || self.tuning.part_lr.iter().any(|(other, _)| other == part)
            };
            let shared = config.model.shared_parts();
            if shared.iter().all(own) {
                let message = "--lr-backbone has no effect: every part that the experts share is in \
                               --freeze or --part-lr";
                return Err(CliError::Usage(message.into()));
            }
            for part in shared {
                config.lr_factors.insert(part, backbone / peak);
            }
        }
        config
            .lr_factors
            .extend(self.tuning.part_lr.iter().copied());
        if let Some(part) = self
            .tuning
            .freeze
            .iter()
            .find(|p| self.tuning.part_lr.iter().any(|(q, _)| q == *p))
        {
            let message = format!("{part} is in both --freeze and --part-lr");
            return Err(CliError::Usage(message));
        }
        for part in &self.tuning.freeze {
            config.lr_factors.remove(part);
        }
        Ok(())
    }

    /// The file of the initial weights; of a run, its model.
    fn weights_file(&self) -> Result<Option<PathBuf>, CliError> {
        let file = |path: &PathBuf| match path.is_dir() {
            true => model_of(&RunPaths::new(path), Which::Model),
            false => Ok(path.clone()),
        };
        self.tuning.weights.as_ref().map(file).transpose()
    }

    /// The network, as far as it is given: by its name, or by the run whose weights are taken.
    pub(in crate::cli::train) fn network(&self) -> Result<Option<String>, CliError> {
        let run = self.tuning.weights.as_ref().filter(|path| path.is_dir());
        let (None, Some(run)) = (&self.network.arch, run) else {
            return Ok(self.network.arch.clone());
        };
        self.weights_file()?;
        let config: RunConfig = RunPaths::new(run).read_config()?;
        Ok(config.train.model.backbone.name().map(str::to_owned))
    }
}

/// Reads `layer4=0.1`.
fn part_lr(text: &str) -> Result<(Part, f64), String> {
    let (part, factor) = text
        .split_once('=')
        .ok_or("it must be PART=FACTOR, such as layer4=0.1")?;
    let part = part.parse::<Part>().map_err(|error| error.to_string())?;
    let factor = factor
        .parse()
        .map_err(|_| format!("`{factor}` is no number"))?;
    Ok((part, factor))
}

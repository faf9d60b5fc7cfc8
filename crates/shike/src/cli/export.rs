//! `shike export`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use shike_data::write::write_bytes;
use shike_model::weights;

use super::{CliError, ModelArgs, Status, print, writable};

/// Write a model's weights for PyTorch.
///
/// Exit status: 0 written, 1 error, 2 wrong arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  shike export runs/first --safetensors first.safetensors")]
pub struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// File for the weights under PyTorch's names: torchvision's for a plain ResNet, those that a trunk was read
    /// from, and those of SHIKE's authors otherwise.
    #[arg(long, value_name = "FILE")]
    safetensors: PathBuf,
}

impl ExportArgs {
    /// Writes a model's weights.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        if self.model.prior.is_some() {
            let message = "--prior changes predictions, not weights: leave it out";
            return Err(CliError::Usage(message.into()));
        }
        writable(&self.safetensors)?;
        let there = |path: &Path| fs::canonicalize(path).ok();
        let model = self.model.file()?;
        if there(&self.safetensors).is_some_and(|out| there(&model) == Some(out)) {
            let model = model.display();
            let message = format!("{model} is the model that is exported: choose another name");
            return Err(CliError::Usage(message));
        }
        let predictor = self.model.load()?;
        let info = predictor.info();
        let steps = i64::try_from(info.steps).unwrap_or(i64::MAX);
        // What whoever loads them has to know; values of safetensors metadata are text.
        let entries = [
            ("class_names", serde_json::to_string(&info.class_names)),
            ("pipeline", serde_json::to_string(&info.pipeline)),
            ("normalization", serde_json::to_string(&info.normalization)),
            (
                "weights_origin",
                serde_json::to_string(&info.weights_origin),
            ),
            ("frozen", serde_json::to_string(&info.frozen)),
        ];
        let metadata: serde_json::Result<_> = entries
            .into_iter()
            .map(|(key, text)| Ok((key.to_owned(), text?)))
            .collect();
        let metadata: BTreeMap<_, _> =
            metadata.map_err(|error| CliError::Format(error.to_string()))?;
        let tensors = predictor.network().tensors();
        let bytes = weights::pack(tensors, steps, &metadata, false)?;
        write_bytes(&self.safetensors, &bytes)?;
        print(&self.safetensors.display().to_string())?;
        Ok(Status::Success)
    }
}

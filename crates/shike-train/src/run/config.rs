//! `config.json` of a run.

use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::receipt::settings;
use super::{RunDirError, RunPaths};
use crate::config::optimizer::gather;
use crate::config::{DataSource, TrainConfig};

/// `config.json` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Where the images come from; absent if a program made them.
    pub data: Option<DataSource>,
    /// What is done with them.
    #[serde(deserialize_with = "train_config")]
    pub train: TrainConfig,
    /// The run whose stage 1 this one starts from, if it only re-trains the classifiers.
    #[serde(default)]
    pub stage2_from: Option<PathBuf>,
}

fn train_config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrainConfig, D::Error> {
    let mut fields = Map::deserialize(deserializer)?;
    gather(&mut fields);
    TrainConfig::deserialize(Value::Object(fields)).map_err(Error::custom)
}

impl RunConfig {
    /// Reads `config.json` of a run, and compares its settings with those that the run began with, where it
    /// has a receipt. Lists that were written for the run are looked for where it is now ([`DataSource::of_run`]).
    ///
    /// # Errors
    /// If the file cannot be read, or its settings are others.
    pub fn read(paths: &RunPaths) -> Result<Self, RunDirError> {
        let read: Value = paths.read_config()?;
        let failed = |message: String| RunDirError::Format {
            path: paths.config(),
            message,
        };
        let begun = paths.receipt_if_any()?.and_then(|receipt| receipt.settings);
        if begun.is_some_and(|begun| begun != settings(&read["train"])) {
            let message = "its settings are not those that the run began with (receipt.json has their \
                           hash): it was edited or damaged; put it back";
            return Err(failed(message.into()));
        }
        let mut config = Self::deserialize(read).map_err(|error| failed(error.to_string()))?;
        config.data = config.data.map(|data| data.of_run(paths.root()));
        Ok(config)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use shike_model::ShikeConfig;

    #[test]
    fn what_is_wrong_in_a_configuration_is_named() {
        let config = RunConfig {
            data: None,
            train: TrainConfig::cifar(ShikeConfig::cifar(8, 4).unwrap(), [3, 2]),
            stage2_from: None,
        };
        let mut value = serde_json::to_value(&config).unwrap();
        value["train"]["stage1"]["loss"]["non_target"] = json!(1.0);
        let error = RunConfig::deserialize(value).unwrap_err().to_string();
        assert!(error.contains("unknown field `non_target`"), "{error}");
    }
}

//! Where the weights come from that a model started from.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shike_model::weights::StateFile;

use super::file::{KEY, ModelInfo};

/// Where weights come from, and under which licence: a model that was trained on top of them has to keep to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// A repository of the hub with commit and file, a file of torch.hub, or the name of a file.
    pub source: String,
    /// An SPDX identifier such as `Apache-2.0`, or `unknown`.
    pub licence: String,
}

impl Origin {
    /// What is said of a licence that nobody knows.
    pub const UNKNOWN: &str = "unknown";

    /// That of a model file which a run has written, where it started from trained weights.
    pub fn of_model(path: &Path) -> Option<Self> {
        let file = StateFile::open(path).ok()?;
        let info: ModelInfo = serde_json::from_str(file.metadata().get(KEY)?).ok()?;
        info.weights_origin
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, licence } = self;
        write!(f, "from {source}, licence {licence}")
    }
}

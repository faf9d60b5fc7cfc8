//! The parts of a data set.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a data set by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Part {
    /// What is trained on.
    Train,
    /// What the best epoch is chosen on.
    Val,
    /// What is reported; nothing is chosen on it.
    Test,
}

impl Part {
    /// All parts, in the order in which they are read and written.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// `train`, `val` or `test`: its folder, and its list without the ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// The word before "images" or "set" in messages: `training`, `validation` or `test`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Train => "training",
            Self::Val => "validation",
            Self::Test => "test",
        })
    }
}

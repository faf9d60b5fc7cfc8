//! What is done with all pictures of a run, in training and in scoring: fields of a recipe that both pipelines follow.

use serde::{Deserialize, Serialize};
use shike_data::{Decoding, Fit, Pipeline};

/// Fields beside `image_size`.
pub(super) const FIELDS: [&str; 4] = ["upright", "range", "background", "fit"];

/// The fields; what is not given is as the pipelines have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pictures {
    /// Whether they are turned as their EXIF data say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upright: Option<bool>,
    /// Values of 16 bits that become black and white.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[u16; 2]>,
    /// What transparent pixels are laid over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<[u8; 3]>,
    /// How they become what the network sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
}

impl Pictures {
    /// Those that two pipelines have in common.
    pub fn of(train: &Pipeline, eval: &Pipeline) -> Self {
        fn both<T: PartialEq>(get: impl Fn(&Pipeline) -> T, of: [&Pipeline; 2]) -> Option<T> {
            let [first, second] = of.map(get);
            (first == second).then_some(first)
        }
        let of = [train, eval];
        let usual = Decoding::default();
        Self {
            upright: both(|p| p.decoding().upright, of),
            range: both(|p| p.decoding().range, of).filter(|range| *range != usual.range),
            background: both(|p| p.decoding().background, of).flatten(),
            fit: both(Pipeline::fit, of).flatten(),
        }
    }

    /// A pipeline that follows them.
    pub fn apply(&self, pipeline: &Pipeline) -> Pipeline {
        let old = pipeline.decoding();
        let decoding = Decoding {
            upright: self.upright.unwrap_or(old.upright),
            range: self.range.unwrap_or(old.range),
            background: self.background.or(old.background),
        };
        let pipeline = match decoding == old {
            true => pipeline.clone(),
            false => pipeline.decoded(&decoding),
        };
        match self.fit {
            Some(fit) => pipeline.fitted(fit),
            None => pipeline,
        }
    }
}

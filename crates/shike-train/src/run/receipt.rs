//! What a result was obtained with: enough to tell whether two results can be compared.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shike_data::dataset::LeftOut;
use shike_data::read::open;
use shike_data::{DataError, Dataset, Part};

use crate::config::TrainConfig;
use crate::config::diff::without_speed;
use shike_infer::metrics::ShotThresholds;

/// `receipt.json` of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// Version of the program; of a run that others went on with, all, in turn.
    pub version: String,
    /// Where it ran, such as `flex`; all devices in turn.
    pub device: String,
    /// SHA-256 of the settings in `config.json`, without the seed and those that say how fast and not what.
    /// None in runs from before this was recorded.
    #[serde(default)]
    pub settings: Option<String>,
    /// SHA-256 of the file of weights that it started from.
    #[serde(default)]
    pub weights: Option<String>,
    /// Seed of weights, order and augmentation.
    pub seed: u64,
    /// Bounds of many-, medium- and few-shot classes.
    pub thresholds: ShotThresholds,
    /// SHA-256 of the class names in label order, a line each.
    pub class_order: String,
    /// Training images.
    pub train: SplitReceipt,
    /// Validation images.
    pub val: Option<SplitReceipt>,
    /// Test images.
    pub test: Option<SplitReceipt>,
    /// Bytes of up to 1000 files of each part (training, validation, test), spread evenly over its list: other
    /// pictures under the same names have others.
    #[serde(default)]
    pub file_bytes: [u64; 3],
    /// How `model.safetensors` was chosen.
    pub model_chosen_on: ChosenOn,
    /// How `best.safetensors` was chosen; none where there is no such file.
    pub best_chosen_on: Option<ChosenOn>,
    /// Stages that ended before their last epoch, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended_early: Vec<EndedEarly>,
    /// What was changed in the epochs of a run that had begun, in turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended: Vec<Extended>,
    /// What lay in the folders of the images and was not taken, by part.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<Part, LeftOut>,
    /// Which images `predictions.csv` and `per_class.csv` are of; none before the end of a run.
    pub scored: Option<Part>,
    /// Seconds of training, over both stages, without scoring.
    pub training_seconds: f64,
}

/// The images of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SplitReceipt {
    /// How many.
    pub images: usize,
    /// SHA-256 of the list as the field publishes lists, `path label` a line; of labels and pixels for
    /// images in memory.
    pub sha256: String,
}

/// What a checkpoint was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChosenOn {
    /// Nothing: it is that of the last epoch.
    LastEpoch,
    /// Class-averaged cross-entropy on the validation images.
    Validation,
}

/// A stage that ended before its last epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedEarly {
    /// From 1.
    pub stage: usize,
    /// Epochs that it had begun.
    pub epochs: usize,
    /// Why.
    pub because: Because,
}

/// A change of the epochs of a stage in a run that had begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// From 1. Stage 2 is trained anew behind a stage 1 that goes on, and where its own epochs change.
    pub stage: usize,
    /// Epochs that were done.
    pub after: usize,
    /// Epochs that were planned, and those that took their place.
    pub epochs: [usize; 2],
}

/// Why a stage ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Because {
    /// The run's time was over, or did not suffice for another epoch.
    Time,
    /// No epoch was better on the validation images for as long as was to be waited.
    Patience,
}

impl fmt::Display for EndedEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.because {
            Because::Time => "for want of time",
            Because::Patience => "as no epoch was better on the validation set for a while,",
        };
        write!(
            f,
            "stage {} ends {why} after epoch {}",
            self.stage, self.epochs
        )
    }
}

impl Receipt {
    /// Says that the images of a part are others than those of the run, where they are. Files are not read.
    ///
    /// # Errors
    /// Those of [`Dataset::identity`].
    pub fn other_images(&self, part: Part, images: &Dataset) -> Result<Option<String>, DataError> {
        let begun = match part {
            Part::Train => Some(&self.train),
            Part::Val => self.val.as_ref(),
            Part::Test => self.test.as_ref(),
        };
        let now = SplitReceipt::new(images)?;
        let differ = begun.filter(|begun| **begun != now);
        Ok(differ.map(|begun| {
            format!(
                "the {part} images are not those of the run, by its receipt.json ({} then, {} now)",
                begun.images, now.images
            )
        }))
    }

    /// Takes over what the run was begun with, and says what has changed since. `trained`: it has done a
    /// step, so that its initial weights no longer have an effect.
    ///
    /// # Errors
    /// A text on inputs that differ: to go on with others would make a run that is neither.
    pub(crate) fn follow(&mut self, begun: &Self, trained: bool) -> Result<Vec<String>, String> {
        let mut differ = Vec::new();
        if (&self.settings, self.seed) != (&begun.settings, begun.seed) {
            differ.push("the settings".to_owned());
        }
        if self.class_order != begun.class_order {
            differ.push("the class names or their order".to_owned());
        }
        self.ended_early.clone_from(&begun.ended_early);
        self.extended.clone_from(&begun.extended);
        self.left_out.clone_from(&begun.left_out);
        let images = |split: Option<&SplitReceipt>| split.map_or(0, |split| split.images);
        for (part, now, before) in [
            (Part::Train, Some(&self.train), Some(&begun.train)),
            (Part::Val, self.val.as_ref(), begun.val.as_ref()),
            (Part::Test, self.test.as_ref(), begun.test.as_ref()),
        ] {
            if now != before {
                let (before, now) = (images(before), images(now));
                differ.push(format!("the {part} images ({before} then, {now} now)"));
            }
        }
        let mut notes = Vec::new();
        // A file that is gone is nobody's mistake: the run has taken what it needs.
        if trained && (self.weights.is_none() || begun.weights.is_none()) {
            self.weights.clone_from(&begun.weights);
        }
        if self.weights != begun.weights {
            match trained {
                true => notes.push(
                    "the file of initial weights is another one than the run began with, without effect".into(),
                ),
                false => differ.push("the initial weights".to_owned()),
            }
            self.weights.clone_from(&begun.weights);
        }
        if !differ.is_empty() {
            return Err(format!(
                "{} are not those that the run began with, by its receipt.json; resume with the same data and \
                 settings, or begin another run",
                differ.join(", ")
            ));
        }
        let parts = Part::ALL.into_iter().zip(self.file_bytes);
        for ((part, now), before) in parts.zip(begun.file_bytes) {
            if now != before {
                notes.push(format!(
                    "files of the {part} images have other sizes than when the run began; it goes on with \
                     those that are there now"
                ));
            }
        }
        for (what, now, before) in [
            ("version", &mut self.version, &begun.version),
            ("device", &mut self.device, &begun.device),
        ] {
            if before.rsplit(", ").next() == Some(now) {
                now.clone_from(before);
            } else {
                notes.push(format!(
                    "the run goes on with another {what} ({before} before, {now} now): results may differ a little"
                ));
                *now = format!("{before}, {now}");
            }
        }
        Ok(notes)
    }
}

/// [`settings`] of a configuration that is not written yet: as text, in which a float has fewer digits.
pub(crate) fn settings_of(config: &TrainConfig) -> String {
    let text = serde_json::to_string(config).unwrap_or_default();
    settings(&serde_json::from_str(&text).unwrap_or_default())
}

/// SHA-256 of the settings as they stand in `config.json`, but for the seed and those that say how fast and
/// not what.
pub(crate) fn settings(train: &Value) -> String {
    let mut train = train.clone();
    without_speed(&mut train);
    // It stands beside.
    if let Some(train) = train.as_object_mut() {
        train.remove("seed");
    }
    hex(Sha256::new_with_prefix(train.to_string()))
}

/// SHA-256 of a file.
pub(crate) fn file_hash(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut open(path)?, &mut hash)?;
    Ok(hex(hash))
}

/// Bytes of up to 1000 files of a data set, spread evenly over its list; 0 of images in memory.
pub(crate) fn file_bytes(data: &Dataset) -> u64 {
    let places = (0..data.len()).step_by(data.len().div_ceil(1000).max(1));
    places.filter_map(|i| data.file_bytes(i)).sum()
}

impl SplitReceipt {
    /// Of a data set. Files are not read.
    ///
    /// # Errors
    /// Those of [`Dataset::identity`].
    pub(crate) fn new(data: &Dataset) -> Result<Self, DataError> {
        let mut hash = Sha256::new();
        data.identity(|bytes| hash.update(bytes))?;
        Ok(Self {
            images: data.len(),
            sha256: hex(hash),
        })
    }
}

/// Hash of the class names in label order.
pub(crate) fn class_order(names: &[String]) -> String {
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name);
        hash.update("\n");
    }
    hex(hash)
}

fn hex(hash: Sha256) -> String {
    let digits = hash.finalize();
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let images = |images| SplitReceipt {
            images,
            sha256: format!("list of {images}"),
        };
        Receipt {
            version: "1".into(),
            device: "flex".into(),
            settings: Some("settings".into()),
            weights: Some("weights".into()),
            seed: 0,
            thresholds: ShotThresholds::default(),
            class_order: class_order(&["a".into(), "b".into()]),
            train: images(12),
            val: None,
            test: Some(images(4)),
            file_bytes: [1200, 0, 400],
            model_chosen_on: ChosenOn::LastEpoch,
            best_chosen_on: None,
            ended_early: vec![],
            extended: vec![],
            left_out: BTreeMap::new(),
            scored: None,
            training_seconds: 0.0,
        }
    }

    #[test]
    fn what_a_resume_finds_is_what_the_run_began_with() {
        let begun = receipt();
        assert_eq!(receipt().follow(&begun, true), Ok(vec![]));
        let refused = |change: fn(&mut Receipt), trained, says: &str| {
            let mut now = receipt();
            change(&mut now);
            let problem = now.follow(&begun, trained).unwrap_err();
            assert!(problem.contains(says), "{problem}");
        };
        refused(|r| r.settings = None, true, "the settings are not");
        refused(|r| r.class_order.clear(), true, "the class names");
        refused(
            |r| r.train.sha256.clear(),
            true,
            "training images (12 then, 12 now)",
        );
        refused(
            |r| r.val = r.test.clone(),
            true,
            "validation images (0 then, 4 now)",
        );
        refused(|r| r.test = None, true, "test images (4 then, 0 now)");
        refused(
            |r| r.weights = Some("other".into()),
            false,
            "initial weights",
        );

        let mut now = receipt();
        now.weights = Some("other".into());
        now.version = "2".into();
        now.device = "cuda:0".into();
        let notes = now.follow(&begun, true).unwrap();
        assert_eq!(notes.len(), 3);
        assert!(
            notes[1].contains("another version (1 before, 2 now)"),
            "{notes:?}"
        );
        assert_eq!((&*now.version, &*now.device), ("1, 2", "flex, cuda:0"));
        assert_eq!(now.weights, begun.weights);
        let mut resized = receipt();
        resized.file_bytes[2] -= 1;
        let notes = resized.follow(&begun, true).unwrap();
        assert!(notes[0].contains("files of the test images"), "{notes:?}");
        // What was said once is not said again.
        let mut again = receipt();
        (again.version, again.device) = ("2".into(), "cuda:0".into());
        assert_eq!(again.follow(&now, true), Ok(vec![]));
        assert_eq!(again.version, "1, 2");
        // The file of weights may be gone once they were read.
        let mut gone = receipt();
        gone.weights = None;
        assert_eq!(gone.follow(&begun, true), Ok(vec![]));
        assert_eq!(gone.weights, begun.weights);
    }
}

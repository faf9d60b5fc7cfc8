//! What a run does about an image that cannot be read.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::error::{DataError, Result};
use crate::rng::{Draw, Purpose, rng};
use crate::sampler::by_class;

/// What a run does about a training image that cannot be read. A validation or test image is an
/// error in any case: left out or replaced, it would change the score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BadImages {
    /// Stop, with the path and what is wrong.
    #[default]
    Fail,
    /// Take another image of the same class, and keep a list.
    Skip {
        /// Largest share of the data set that may be bad, 0 to 1.
        max_share: f64,
    },
}

impl BadImages {
    /// Checks the share.
    ///
    /// # Errors
    /// [`DataError::Field`] if it is no share.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Skip { max_share } if !(0.0..=1.0).contains(max_share) => Err(DataError::field(
                "max_share",
                format!("is {max_share}, must be a share from 0 to 1"),
            )),
            _ => Ok(()),
        }
    }
}

/// An image that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadImage {
    /// Its path, or its place in a file.
    pub path: String,
    /// Its class.
    pub label: u32,
    /// What is wrong with it.
    pub problem: String,
}

/// The bad images that a run has met, each once. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct BadImageLog(Arc<Mutex<BTreeMap<String, BadImage>>>);

impl BadImageLog {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, by path.
    pub fn entries(&self) -> Vec<BadImage> {
        self.lock().values().cloned().collect()
    }

    /// Adds one; what is known of the same path stays.
    pub fn add(&self, image: BadImage) {
        self.lock().entry(image.path.clone()).or_insert(image);
    }

    /// A panic elsewhere does not make the list wrong.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BadImage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces bad images. The replacement is a function of (seed, epoch, position) and of which files
/// can be read, so neither threads nor a resume change it.
#[derive(Debug)]
pub(crate) struct Replacer {
    classes: Vec<Vec<u32>>,
    images: usize,
    max_share: f64,
    seed: u64,
    log: BadImageLog,
}

impl Replacer {
    pub fn new(dataset: &Dataset, max_share: f64, seed: u64, log: BadImageLog) -> Self {
        Self {
            classes: by_class(dataset.labels(), dataset.num_classes()),
            images: dataset.len(),
            max_share,
            seed,
            log,
        }
    }

    /// Gives `make` other images of the class of `bad`, in an order drawn for this position, until
    /// one is good. Returns that one.
    ///
    /// # Errors
    /// [`DataError::NoReplacement`] if the class has no good image; any error that is not about one
    /// image.
    pub fn replace(
        &self,
        dataset: &Dataset,
        (epoch, position): (u64, u64),
        bad: u32,
        error: DataError,
        mut make: impl FnMut(u32) -> Result<()>,
    ) -> Result<u32> {
        let label = dataset.label(bad as usize);
        let note = |image: u32, error: &DataError| {
            self.log.add(BadImage {
                path: dataset.origin(image as usize),
                label,
                problem: error.to_string(),
            });
        };
        note(bad, &error);
        let class = &self.classes[label as usize];
        // A shuffle of which only what was drawn is kept: a class may be large, and many of it bad.
        let mut moved = HashMap::new();
        let mut draw = rng(self.seed, epoch, position, Purpose::Replace);
        for i in 0..class.len() {
            let left = (class.len() - i) as u32;
            let drawn = i + draw.below(left) as usize;
            let here = moved.get(&i).copied().unwrap_or(class[i]);
            let candidate = moved.insert(drawn, here).unwrap_or(class[drawn]);
            if candidate == bad {
                continue;
            }
            match make(candidate) {
                Ok(()) => return Ok(candidate),
                Err(error) if is_about_the_image(&error) => note(candidate, &error),
                Err(error) => return Err(error),
            }
        }
        Err(DataError::NoReplacement {
            class: dataset.class_names()[label as usize].clone(),
            source: Box::new(error),
        })
    }

    /// # Errors
    /// [`DataError::TooManyBad`] if more images are bad than may be.
    pub fn check_share(&self) -> Result<()> {
        let bad = self.log.len();
        if bad as f64 <= self.max_share * self.images as f64 {
            return Ok(());
        }
        Err(DataError::TooManyBad {
            bad,
            images: self.images,
            max_share: self.max_share,
            first: self
                .log
                .entries()
                .first()
                .map_or_else(String::new, |b| b.problem.clone()),
        })
    }
}

/// Whether another image may do better. A disk that fails, or a process that has no file
/// descriptors left, says nothing about the image.
pub(crate) fn is_about_the_image(error: &DataError) -> bool {
    match error {
        DataError::NotAnImage { .. }
        | DataError::Decode { .. }
        | DataError::Truncated { .. }
        | DataError::TooLarge { .. }
        | DataError::Transform { .. } => true,
        DataError::Sample { source, .. } => is_about_the_image(source),
        DataError::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::IsADirectory
                | ErrorKind::NotADirectory
                | ErrorKind::InvalidInput
                | ErrorKind::InvalidFilename
                | ErrorKind::FileTooLarge
        ),
        _ => false,
    }
}

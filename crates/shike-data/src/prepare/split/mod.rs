//! Training, validation and test lists from one folder of classes.
//!
//! # The rule
//!
//! For a class with `n` readable images the shares ask for `n · share` images of each part. Each
//! part gets that number rounded down; what is left goes, one image each, to the parts with the
//! largest remainders (Hamilton's method), of equal ones to test before validation before training.
//! Then training gets back what it lacks of `min_per_class` images (or of `n`, if that is less),
//! from the larger of validation and test, of equal ones from validation. Shares are taken to six
//! digits and the rest is whole numbers, so nothing hangs on floating-point rounding.
//!
//! Which images go where is drawn, keyed by seed and label. Equal images (see [`inspect`](crate::inspect)) stay
//! together: groups are dealt before single images, the largest first, each to the part that lacks
//! most images, if it lacks as many as the group has, else to training. So validation and test never
//! get more than their number; they get less only if groups leave no single images to fill up with.
//! Equal images with *different labels* stay in training: an accuracy on them means nothing.
//!
//! With [`SplitConfig::group_by`] larger groups stay together: those of a patient, a place, a burst. Then each part
//! is to get the same numbers of each class, and comes as near as whole groups let it: groups of several classes
//! are dealt first, the largest first, to the part that comes nearest by it (in squares of what is missing, each
//! class by its size); groups of one class as above, and where no part has room for one, it also goes where the
//! parts come nearest; then groups are moved one by one as long as that helps. A class that has fewer than
//! `min_per_class` images in training then gets its smallest groups back. [`folds`] are dealt by the same rule.
//!
//! Unreadable images are left out, and classes without a readable image too; labels close up.

mod assign;
mod deal;
mod group;
mod lists;
mod plan;
mod record;
mod sizes;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::assign::{assign, folds, held_out, held_out_at_most};
pub use self::group::{GroupBy, Groups};
pub use self::lists::{SplitPlan, group_list, is_inside, names as list_names};
pub use self::plan::{bound, plan};
pub use self::record::{
    GroupRecord, LeftOut, LeftOutImage, ListRecord, SplitClass, SplitRecord, Together,
};
pub use self::sizes::{ClassSize, MinImages, SizeRecord};
use crate::error::DataError;
use crate::part::Part;
use crate::write::WriteError;

/// Shares are whole numbers of millionths.
const WHOLE: u64 = 1_000_000;

/// What is kept back, and how it is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Share for validation, from 0 to 1.
    pub val: f64,
    /// Share for test, from 0 to 1.
    pub test: f64,
    /// Images of a class that stay in training at least; 1 or more.
    pub min_per_class: usize,
    /// Another seed draws other images.
    pub seed: u64,
    /// What is kept together, beside equal images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<GroupBy>,
    /// Classes with fewer images are left out or merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_images: Option<MinImages>,
    /// So many images of a class are taken, drawn by the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_images: Option<usize>,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            val: 0.1,
            test: 0.1,
            min_per_class: 1,
            seed: 0,
            group_by: vec![],
            min_images: None,
            max_images: None,
        }
    }
}

/// Why there is no split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// A setting is out of range.
    #[error("{field}: {problem}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The data set is not one that can be split.
    #[error("{0}")]
    Data(String),
    /// A name that a list file cannot hold.
    #[error("{path:?} cannot stand in a list file: {problem}; rename it")]
    Name {
        /// The path below the data set's folder.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Every class is too small for a part.
    #[error(
        "no class is large enough to give an image to {} (the largest has {largest}{}); ask for a \
         larger share, or for none",
        subset.name(),
        if *grouped { ", and groups stay whole" } else { "" }
    )]
    Empty {
        /// The part.
        subset: Part,
        /// Images of the largest class.
        largest: usize,
        /// Whether there are rules for groups.
        grouped: bool,
    },
    /// There is a split already.
    #[error("{} exists already; choose another folder, or replace the split", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The folder for the lists would be taken for a class.
    #[error(
        "{} lies inside the data set and would be taken for a class; write the lists elsewhere",
        path.display()
    )]
    Inside {
        /// The folder for the lists.
        path: PathBuf,
    },
    /// The folder for the lists cannot be made or cleared.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A rule for groups does not fit the images.
    #[error("group_by {by}: {problem}")]
    Group {
        /// The rule.
        by: GroupBy,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A file that a rule names cannot be read.
    #[error(transparent)]
    Read(#[from] DataError),
    /// A list cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl SplitConfig {
    /// Shares of training, validation and test, in millionths.
    fn shares(&self) -> Result<[u64; 3], SplitError> {
        let wrong = |field, problem| SplitError::Config { field, problem };
        let share = |field, value: f64| {
            if (0.0..1.0).contains(&value) {
                Ok((value * WHOLE as f64).round() as u64)
            } else {
                let problem =
                    format!("is {value}, must be at least 0 and below 1 (write 10% or 0.1)");
                Err(wrong(field, problem))
            }
        };
        let (val, test) = (share("val", self.val)?, share("test", self.test)?);
        if val + test >= WHOLE {
            let problem = format!("{} and {} leave nothing for training", self.val, self.test);
            return Err(wrong("val, test", problem));
        }
        if val + test == 0 {
            let problem = "are both 0: there is nothing to split".into();
            return Err(wrong("val, test", problem));
        }
        if self.min_per_class == 0 {
            let problem = "is 0, must be at least 1: a class needs a training image".into();
            return Err(wrong("min_per_class", problem));
        }
        Ok([WHOLE - val - test, val, test])
    }

    /// The images of training, validation and test that a class of `n` is to get.
    ///
    /// # Errors
    /// [`SplitError::Config`] if a setting is out of range.
    ///
    /// ```
    /// use shike_data::split::SplitConfig;
    ///
    /// let config = SplitConfig { val: 0.1, test: 0.1, ..SplitConfig::default() };
    /// assert_eq!(config.counts(100)?, [80, 10, 10]);
    /// assert_eq!(config.counts(5)?, [4, 0, 1]);
    /// assert_eq!(config.counts(3)?, [3, 0, 0]);
    /// # Ok::<(), shike_data::split::SplitError>(())
    /// ```
    pub fn counts(&self, n: usize) -> Result<[usize; 3], SplitError> {
        let [train, val, test] = [0, 1, 2];
        let quotas = self.shares()?.map(|share| n as u64 * share);
        let mut counts = quotas.map(|quota| (quota / WHOLE) as usize);
        let left = n - counts.iter().sum::<usize>();
        let mut order = [test, val, train];
        // Stable: equal remainders stay in this order.
        order.sort_by_key(|&part| std::cmp::Reverse(quotas[part] % WHOLE));
        for &part in order.iter().take(left) {
            counts[part] += 1;
        }
        while counts[train] < self.min_per_class.min(n) {
            let from = if counts[val] >= counts[test] {
                val
            } else {
                test
            };
            counts[from] -= 1;
            counts[train] += 1;
        }
        Ok(counts)
    }
}

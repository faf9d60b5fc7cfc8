//! Results of the parts of the data that are scored.

use serde::{Deserialize, Serialize};
use shike_data::Part;

/// A result of each part of the data that was scored, for the trained weights and for their average
/// (`ema`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored<T> {
    /// On the validation set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<T>,
    /// Of the averaged weights, on the validation set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_ema: Option<T>,
    /// On the test set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<T>,
    /// Of the averaged weights, on the test set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_ema: Option<T>,
}

impl<T> Default for Scored<T> {
    fn default() -> Self {
        Self {
            val: None,
            val_ema: None,
            test: None,
            test_ema: None,
        }
    }
}

impl<T> Scored<T> {
    /// All of them by name.
    pub fn named(&self) -> [(&'static str, Option<&T>); 4] {
        [
            ("val", self.val.as_ref()),
            ("val_ema", self.val_ema.as_ref()),
            ("test", self.test.as_ref()),
            ("test_ema", self.test_ema.as_ref()),
        ]
    }

    /// Those on a part, of the trained weights and of their average; none on the training images.
    pub fn on(&self, part: Part) -> [Option<&T>; 2] {
        match part {
            Part::Train => [None, None],
            Part::Val => [self.val.as_ref(), self.val_ema.as_ref()],
            Part::Test => [self.test.as_ref(), self.test_ema.as_ref()],
        }
    }

    /// The first of these parts that was scored, with what [`on`](Self::on) gives.
    pub fn first(&self, parts: [Part; 2]) -> Option<(Part, &T, Option<&T>)> {
        parts.into_iter().find_map(|part| {
            let [trained, averaged] = self.on(part);
            Some((part, trained?, averaged))
        })
    }

    /// `f` of each.
    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> Scored<U> {
        Scored {
            val: self.val.as_ref().map(&f),
            val_ema: self.val_ema.as_ref().map(&f),
            test: self.test.as_ref().map(&f),
            test_ema: self.test_ema.as_ref().map(&f),
        }
    }
}

//! Which classes are taken for which.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::Evaluation;

/// Classes of a [confusion matrix](Evaluation::write_confusion_csv) that a run writes, at most.
pub const MOST_CLASSES: usize = 1000;

/// Images of one class that were taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Confusion {
    /// Their class.
    pub label: u32,
    /// What they were taken for.
    pub predicted: u32,
    /// How many.
    pub images: usize,
    /// Test images of their class.
    pub of: usize,
}

impl Confusion {
    /// Share of the class's test images, in percent.
    pub fn share(&self) -> f64 {
        100.0 * self.images as f64 / self.of.max(1) as f64
    }
}

impl Evaluation {
    /// All confusions, the largest share of a class first.
    pub fn confusions(&self) -> Vec<Confusion> {
        let mut counts: HashMap<(u32, u32), usize> = HashMap::new();
        for score in self.scores.iter().filter(|score| !score.is_correct()) {
            if let Some(predicted) = score.predicted {
                *counts.entry((score.label, predicted)).or_default() += 1;
            }
        }
        let confusion = |((label, predicted), images)| Confusion {
            label,
            predicted,
            images,
            of: self.per_class[label as usize].test_count,
        };
        let mut all: Vec<_> = counts.into_iter().map(confusion).collect();
        all.sort_by_key(|c| {
            // Shares as whole numbers of a common size, so that the order is exact.
            let share = (c.images * 1_000_000 / c.of.max(1), c.images);
            (Reverse(share), c.label, c.predicted)
        });
        all
    }

    /// Test images by class and by what they were taken for, `[class][predicted]`.
    pub fn confusion_matrix(&self) -> Vec<Vec<usize>> {
        let classes = self.per_class.len();
        let mut matrix = vec![vec![0; classes]; classes];
        for score in &self.scores {
            if let Some(predicted) = score.predicted {
                matrix[score.label as usize][predicted as usize] += 1;
            }
        }
        matrix
    }

    /// Writes the confusion matrix as CSV: a row a class, a column for what its images were taken for, both by
    /// `class_names`; behind the name of the row's class.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_confusion_csv(
        &self,
        writer: impl io::Write,
        class_names: &[String],
    ) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(writer);
        let head = std::iter::once("class \\ taken for");
        csv.write_record(head.chain(class_names.iter().map(String::as_str)))?;
        for (name, row) in class_names.iter().zip(self.confusion_matrix()) {
            let counts = row.iter().map(usize::to_string);
            csv.write_record(std::iter::once(name.clone()).chain(counts))?;
        }
        csv.flush()
    }

    /// All confusions, those of the most images first.
    pub fn largest_confusions(&self) -> Vec<Confusion> {
        let mut all = self.confusions();
        // A stable sort: among equal counts the larger share stays first.
        all.sort_by_key(|c| Reverse(c.images));
        all
    }

    /// Those from a class to one of a group with more training images: what a long tail does.
    pub fn tail_to_head(&self) -> Vec<Confusion> {
        let rank = |class: u32| self.per_class[class as usize].shot as u8;
        let mut all = self.confusions();
        // `Shot` counts from many to few.
        all.retain(|c| rank(c.label) > rank(c.predicted));
        all
    }
}

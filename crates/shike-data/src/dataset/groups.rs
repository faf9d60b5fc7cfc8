//! Images of a data set that belong together.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::Dataset;
use super::list::path_numbers;
use crate::error::Result;

/// The groups of several data sets, one behind the other.
pub(super) fn joined(sets: &[&Dataset]) -> Arc<[Option<u32>]> {
    let (mut of_all, mut next) = (vec![], 0);
    for set in sets {
        let mut own = vec![None; set.len()];
        for group in set.groups() {
            group.iter().for_each(|&i| own[i] = Some(next));
            next += 1;
        }
        of_all.extend(own);
    }
    of_all.into()
}

impl Dataset {
    /// Images that belong together, such as those of a burst: their numbers, two and more each, ascending. What is
    /// chosen or fitted on a part of the images must not be judged on others of the same group.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, &entry) in self.entries.iter().enumerate() {
            if let Some(Some(group)) = self.groups.get(entry as usize) {
                groups.entry(*group).or_default().push(i);
            }
        }
        let groups = groups.into_values();
        groups.filter(|group| group.len() > 1).collect()
    }

    /// The same images with the groups that a list names: text with `path number` a line, as
    /// [`SplitPlan::write`](crate::split::SplitPlan::write) writes it. Images that are not in it stand alone; it may
    /// name others, too.
    ///
    /// # Errors
    /// [`DataError::ListLine`](crate::DataError::ListLine) for a line that is none, and the system's.
    pub fn with_groups(mut self, list: &Path) -> Result<Self> {
        let numbers: HashMap<String, i64> = path_numbers(list)?.into_iter().collect();
        let mut known = BTreeMap::new();
        let mut group = |entry: usize| {
            let number = numbers.get(self.images.key(entry)?)?;
            let next = known.len() as u32;
            Some(*known.entry(*number).or_insert(next))
        };
        self.groups = (0..self.images.len()).map(&mut group).collect();
        Ok(self)
    }

    /// The same images, none of which is said to belong to another.
    #[must_use]
    pub fn without_groups(mut self) -> Self {
        self.groups = Arc::default();
        self
    }
}

//! Images of several data sets, one set behind the other.

use super::Dataset;
use super::source::{Images, Raw};
use crate::error::Result;

/// See the module.
#[derive(Debug)]
pub(super) struct Joined {
    sets: Vec<Dataset>,
    /// The number of the first image of each.
    starts: Vec<usize>,
    len: usize,
    /// Whether an image has the path that it has in its set.
    own_paths: bool,
}

impl Joined {
    pub fn new(sets: &[&Dataset], own_paths: bool) -> Self {
        let mut len = 0;
        let starts = sets.iter().map(|set| {
            len += set.len();
            len - set.len()
        });
        Self {
            starts: starts.collect(),
            len,
            sets: sets.iter().copied().cloned().collect(),
            own_paths,
        }
    }

    /// The set that image `i` is of, and its number there.
    fn at(&self, i: usize) -> (&Dataset, usize) {
        let at = self.starts.partition_point(|&start| start <= i) - 1;
        (&self.sets[at], i - self.starts[at])
    }
}

impl Images for Joined {
    fn len(&self) -> usize {
        self.len
    }

    fn read<'a>(&'a self, i: usize, buffer: &'a mut Vec<u8>) -> Result<Raw<'a>> {
        let (set, i) = self.at(i);
        set.images.read(set.entry(i)?, buffer)
    }

    fn origin(&self, i: usize) -> String {
        let (set, i) = self.at(i);
        set.origin(i)
    }

    fn key(&self, i: usize) -> Option<&str> {
        let (set, i) = self.at(i);
        set.relative_path(i).filter(|_| self.own_paths)
    }

    fn size(&self) -> Option<(u32, u32)> {
        let mut sizes = self.sets.iter().map(|set| set.images.size());
        let first = sizes.next()??;
        sizes.all(|size| size == Some(first)).then_some(first)
    }
}

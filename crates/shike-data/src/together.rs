//! Which of many things belong together, told pair by pair.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers from 0 in groups that grow together (union-find); several threads may join them. What comes out
/// does not depend on the order of the pairs.
pub(crate) struct Together(Vec<AtomicU32>);

impl Together {
    /// Each of `n` numbers alone.
    pub fn new(n: usize) -> Self {
        Self((0..n as u32).map(AtomicU32::new).collect())
    }

    /// The smallest number, as far as is known, of the group of `i`.
    fn first(&self, mut i: u32) -> u32 {
        loop {
            let next = self.0[i as usize].load(Ordering::Relaxed);
            if next == i {
                return i;
            }
            // Shorter for whoever comes next.
            let beyond = self.0[next as usize].load(Ordering::Relaxed);
            self.0[i as usize].fetch_min(beyond, Ordering::Relaxed);
            i = beyond;
        }
    }

    /// The groups of `a` and `b` are one.
    pub fn join(&self, a: usize, b: usize) {
        let (mut a, mut b) = (a as u32, b as u32);
        loop {
            (a, b) = (self.first(a), self.first(b));
            let (low, high) = (a.min(b), a.max(b));
            let order = Ordering::Relaxed;
            let slot = &self.0[high as usize];
            if low == high || slot.compare_exchange(high, low, order, order).is_ok() {
                return;
            }
        }
    }

    /// Joins those that have the same key.
    pub fn join_equal<K: Ord>(&self, keys: impl Iterator<Item = (K, usize)>) {
        let mut seen = BTreeMap::new();
        for (key, i) in keys {
            let first = *seen.entry(key).or_insert(i);
            self.join(first, i);
        }
    }

    /// The groups of two and more, each ascending, in the order of their first numbers.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for i in 0..self.0.len() {
            groups.entry(self.first(i as u32)).or_default().push(i);
        }
        groups
            .into_values()
            .filter(|group| group.len() > 1)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_make_groups() {
        let together = Together::new(8);
        together.join(6, 4);
        together.join(1, 6);
        together.join(0, 7);
        together.join(7, 7);
        together.join_equal([("a", 2), ("b", 5), ("a", 7)].into_iter());
        assert_eq!(together.groups(), [vec![0, 2, 7], vec![1, 4, 6]]);
    }
}

//! Random numbers that depend on what they are for, not on who draws them.
//!
//! The key of every generator is (seed, epoch, index, purpose). So one worker or sixteen, a run
//! that goes through or one that is resumed in the middle of an epoch: image `index` of epoch
//! `epoch` meets the same numbers. The draws below are made from raw 32- and 64-bit words, because
//! the sampling algorithms of the `rand` crate may change between its releases.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers is used for; streams of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// The order of an epoch.
    Shuffle,
    /// The augmentation of one image.
    Augment,
    /// Drawing synthetic data.
    Synthetic,
    /// Mixing the images of a batch.
    Mix,
    /// Which images of a class are kept back for validation and test.
    Split,
    /// Anything of the caller's own.
    Other,
    /// Another image in place of a bad one.
    Replace,
    /// Which images of a class are taken, where it has more than is wanted.
    Cap,
}

impl Purpose {
    /// The number that goes into the key. Never reorder: it decides the results of old seeds.
    fn code(self) -> u64 {
        match self {
            Self::Shuffle => 1,
            Self::Augment => 2,
            Self::Synthetic => 3,
            Self::Other => 4,
            Self::Mix => 5,
            Self::Split => 6,
            Self::Replace => 7,
            Self::Cap => 8,
        }
    }
}

/// The generator for (seed, epoch, index, purpose).
///
/// The four numbers are the 256-bit ChaCha key itself, so different arguments never share one.
///
/// ```
/// use shike_data::rng::{Draw, Purpose, rng};
///
/// let a = rng(0, 3, 17, Purpose::Augment).below(1000);
/// let b = rng(0, 3, 17, Purpose::Augment).below(1000);
/// assert_eq!(a, b);
/// ```
pub fn rng(seed: u64, epoch: u64, index: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (slot, word) in key
        .chunks_exact_mut(8)
        .zip([seed, epoch, index, purpose.code()])
    {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// The draws that this crate makes.
///
/// It is a trait so that a test can replay the random numbers of another program.
pub trait Draw {
    /// A whole number from 0 to `n - 1`, each equally likely; 0 if `n` is 0.
    fn below(&mut self, n: u32) -> u32;

    /// A number of `[0, 1)`.
    fn unit(&mut self) -> f64;

    /// A number of `[low, high)`.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// `true` with probability `p`.
    fn coin(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A normally distributed number with mean 0 and variance 1 (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Puts `items` into a random order, every order equally likely (Fisher–Yates).
    fn shuffle(&mut self, items: &mut [u32])
    where
        Self: Sized,
    {
        for i in (1..items.len()).rev() {
            let j = self.below(u32::try_from(i + 1).unwrap_or(u32::MAX)) as usize;
            items.swap(i, j);
        }
    }
}

impl Draw for ChaCha8Rng {
    fn below(&mut self, n: u32) -> u32 {
        // Lemire's multiply-and-reject: without the rejection small numbers would be more likely.
        let mut product = u64::from(self.next_u32()) * u64::from(n);
        if (product as u32) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u32) < threshold {
                product = u64::from(self.next_u32()) * u64::from(n);
            }
        }
        (product >> 32) as u32
    }

    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_matters() {
        let first = |seed, epoch, index, purpose| rng(seed, epoch, index, purpose).next_u64();
        let values = [
            first(0, 0, 0, Purpose::Shuffle),
            first(1, 0, 0, Purpose::Shuffle),
            first(0, 1, 0, Purpose::Shuffle),
            first(0, 0, 1, Purpose::Shuffle),
            first(0, 0, 0, Purpose::Augment),
            first(0, 0, 0, Purpose::Synthetic),
            first(0, 0, 0, Purpose::Other),
            first(0, 0, 0, Purpose::Mix),
            first(0, 0, 0, Purpose::Split),
            first(0, 0, 0, Purpose::Replace),
        ];
        for (i, a) in values.iter().enumerate() {
            assert!(values[i + 1..].iter().all(|b| a != b), "{values:x?}");
        }
        assert_eq!(values[0], first(0, 0, 0, Purpose::Shuffle));
    }

    #[test]
    fn draws_do_not_change_between_releases() {
        // Computed by a ChaCha8 written in Python; another result changes every user's results.
        let mut r = rng(1, 2, 3, Purpose::Augment);
        let seen: Vec<u32> = (0..8).map(|_| r.below(1000)).collect();
        assert_eq!(seen, [387, 570, 259, 379, 863, 257, 31, 878]);
        assert_eq!(r.unit(), 0.836461886255529);
    }

    #[test]
    fn below_is_uniform() {
        let mut r = rng(5, 0, 0, Purpose::Other);
        let (n, draws) = (7u32, 70_000);
        let mut seen = [0u32; 7];
        for _ in 0..draws {
            seen[r.below(n) as usize] += 1;
        }
        // Six degrees of freedom: chi-square stays below 22.5 with probability 0.999.
        let expected = f64::from(draws) / f64::from(n);
        let chi2: f64 = seen
            .iter()
            .map(|&s| (f64::from(s) - expected).powi(2) / expected)
            .sum();
        assert!(chi2 < 22.5, "{seen:?} chi2 {chi2}");
        assert_eq!(r.below(1), 0);
        assert_eq!(r.below(0), 0);
    }

    #[test]
    fn shuffle_reaches_every_order() {
        let mut r = rng(6, 0, 0, Purpose::Shuffle);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            r.shuffle(&mut items);
            *seen.entry(items).or_insert(0u32) += 1;
        }
        assert_eq!(seen.len(), 6);
        // Standard deviation of each count is 28.9.
        assert!(seen.values().all(|&c| (870..1130).contains(&c)), "{seen:?}");
    }
}

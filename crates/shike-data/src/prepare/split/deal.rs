//! Groups of images are dealt into parts, so that each part gets what it is to have of every class.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::rng::{Draw, Purpose, rng};

/// Images of each class that each part is to get, by label: `[parts]`.
pub(super) type Wanted = BTreeMap<u32, Vec<i64>>;

/// Passes in which groups are moved to where they fit better.
const PASSES: usize = 20;

/// What becomes of a group that no part has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooLarge {
    /// It goes to the first part, and no other gets more than it is to have.
    First,
    /// It goes where it does least harm, and so do groups of several classes; then groups are moved as long as
    /// that brings the parts nearer to what they are to have.
    Nearest,
}

/// A group, and how many images of each class it has.
struct Unit<'a> {
    images: &'a [usize],
    counts: Vec<(u32, i64)>,
}

/// What the parts lack.
struct Lacks {
    lacks: BTreeMap<u32, Vec<i64>>,
    /// 1 / (images of the class)²: every class counts alike, in shares of its size.
    weights: BTreeMap<u32, f64>,
    /// Over all classes.
    all: Vec<i64>,
}

impl Lacks {
    /// How much nearer the parts come to what they are to have if this one gets a group: the squared
    /// deviations, which are what [rounding](super::SplitConfig::counts) keeps smallest, fall by this.
    fn gain(&self, unit: &Unit<'_>, part: usize) -> f64 {
        let of_class = |&(label, n): &(u32, i64)| {
            self.weights[&label] * (n * (2 * self.lacks[&label][part] - n)) as f64
        };
        unit.counts.iter().map(of_class).sum()
    }

    fn give(&mut self, unit: &Unit<'_>, part: usize, sign: i64) {
        for &(label, n) in &unit.counts {
            if let Some(lacks) = self.lacks.get_mut(&label) {
                lacks[part] -= sign * n;
            }
            self.all[part] -= sign * n;
        }
    }

    /// The part that gains most; of equal ones that which lacks most in all, then the last.
    fn nearest(&self, unit: &Unit<'_>) -> usize {
        let key = |&part: &usize| (self.gain(unit, part), self.all[part]);
        let order = |a: &usize, b: &usize| {
            let (a, b) = (key(a), key(b));
            a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
        };
        (0..self.all.len()).max_by(order).unwrap_or(0)
    }
}

/// The part of each image, `[n]`; images in no group stay in the first, and have to be left out of `wanted`.
///
/// Groups are dealt largest first, equal ones in an order drawn by seed and label, each to the part that lacks most of
/// its class, if it lacks as many as the group has.
pub(super) fn deal(
    labels: &[u32],
    groups: &[Vec<usize>],
    wanted: &Wanted,
    too_large: TooLarge,
    seed: u64,
) -> Vec<usize> {
    let parts = wanted.values().next().map_or(1, Vec::len);
    let weight = |counts: &Vec<i64>| 1.0 / (counts.iter().sum::<i64>().max(1) as f64).powi(2);
    let mut lacks = Lacks {
        lacks: wanted.clone(),
        weights: wanted
            .iter()
            .map(|(&l, counts)| (l, weight(counts)))
            .collect(),
        all: (0..parts)
            .map(|part| wanted.values().map(|counts| counts[part]).sum())
            .collect(),
    };
    // Those of one class by their label, the others under none.
    let mut units: BTreeMap<Option<u32>, Vec<Unit<'_>>> = BTreeMap::new();
    for images in groups.iter().filter(|images| !images.is_empty()) {
        let mut counts = BTreeMap::new();
        for &i in images {
            *counts.entry(labels[i]).or_default() += 1;
        }
        let counts: Vec<(u32, i64)> = counts.into_iter().collect();
        let label = (counts.len() == 1).then_some(counts[0].0);
        units
            .entry(label)
            .or_default()
            .push(Unit { images, counts });
    }
    let mut dealt: Vec<(&Unit<'_>, usize)> = Vec::with_capacity(groups.len());
    for (label, units) in &units {
        for unit in drawn(units, seed, *label) {
            let fits = label.and_then(|label| {
                let (lacks, size) = (&lacks.lacks[&label], unit.images.len() as i64);
                // The first of equal ones, so training before validation before test.
                let room = (0..parts).filter(|&part| lacks[part] >= size);
                room.max_by_key(|&part| (lacks[part], Reverse(part)))
            });
            let part = match (fits, too_large) {
                (Some(part), _) => part,
                (None, TooLarge::First) => 0,
                (None, TooLarge::Nearest) => lacks.nearest(unit),
            };
            lacks.give(unit, part, 1);
            dealt.push((unit, part));
        }
    }
    for _ in 0..PASSES {
        let mut moved = false;
        for (unit, part) in dealt.iter_mut().filter(|_| too_large == TooLarge::Nearest) {
            lacks.give(unit, *part, -1);
            let better = lacks.nearest(unit);
            let gained = lacks.gain(unit, better) - lacks.gain(unit, *part);
            if gained > 1e-9 {
                *part = better;
                moved = true;
            }
            lacks.give(unit, *part, 1);
        }
        if !moved {
            break;
        }
    }
    let mut of_image = vec![0; labels.len()];
    for (unit, part) in dealt {
        for &i in unit.images {
            of_image[i] = part;
        }
    }
    of_image
}

/// The groups in a random order, larger ones first.
fn drawn<'a, 'b>(units: &'a [Unit<'b>], seed: u64, label: Option<u32>) -> Vec<&'a Unit<'b>> {
    let mut order: Vec<u32> = (0..units.len() as u32).collect();
    // Beyond all labels.
    let of = label.map_or(1 << 32, u64::from);
    rng(seed, 0, of, Purpose::Split).shuffle(&mut order);
    let mut units: Vec<&Unit<'_>> = order.iter().map(|&unit| &units[unit as usize]).collect();
    units.sort_by_key(|unit| Reverse(unit.images.len()));
    units
}

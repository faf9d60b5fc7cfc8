//! The part of each image, and its fold.

use std::collections::{BTreeMap, BTreeSet};

use super::deal::{TooLarge, Wanted, deal};
use super::{SplitConfig, SplitError};
use crate::part::Part;

/// The part of each image by the rule of the [module](super), `[n]`.
///
/// `labels` is `[n]`; `equal` holds the numbers of equal images, an image in one group at most, and `groups`
/// those of [`SplitConfig::group_by`], which have the equal images in them; none without such a rule.
///
/// # Errors
/// [`SplitError::Config`] if a setting is out of range; [`SplitError::Data`] if a group names an
/// image that is not there, or one that another group has too.
pub fn assign(
    labels: &[u32],
    equal: &[Vec<usize>],
    groups: Option<&[Vec<usize>]>,
    config: &SplitConfig,
) -> Result<Vec<Part>, SplitError> {
    let several = |group: &Vec<usize>| group.iter().any(|&i| labels[i] != labels[group[0]]);
    check_groups(labels, equal)?;
    let mut wanted = Wanted::new();
    for (label, n) in class_sizes(labels) {
        wanted.insert(label, config.counts(n)?.map(|count| count as i64).into());
    }
    // Equal images of several labels, and what is kept together with them.
    let unclear: BTreeSet<usize> = equal
        .iter()
        .filter(|group| several(group))
        .flatten()
        .copied()
        .collect();
    let (kept, mut dealt): (Vec<_>, Vec<_>) = units(labels, groups.unwrap_or(equal))?
        .into_iter()
        .partition(|unit| unit.iter().any(|i| unclear.contains(i)));
    for &i in kept.iter().flatten() {
        if let Some(wanted) = wanted.get_mut(&labels[i]) {
            wanted[0] -= 1;
        }
    }
    let too_large = match groups {
        None => TooLarge::First,
        Some(_) => TooLarge::Nearest,
    };
    let mut parts = deal(labels, &dealt, &wanted, too_large, config.seed);
    if groups.is_some() {
        dealt.sort_by_key(Vec::len);
        give_back(labels, &dealt, config.min_per_class, &mut parts);
    }
    Ok(parts.into_iter().map(|part| Part::ALL[part]).collect())
}

/// `k` parts of equal shares, each of which is to be held out in turn: the fold of each image, `[n]`.
///
/// `groups` stay together, see [`Groups::new`](super::group::Groups::new). Folds hang on nothing but the arguments.
///
/// # Errors
/// [`SplitError::Config`] if there are fewer than 2 folds, or more than groups and single images;
/// [`SplitError::Data`] as [`assign`].
pub fn folds(
    labels: &[u32],
    groups: &[Vec<usize>],
    k: usize,
    seed: u64,
) -> Result<Vec<usize>, SplitError> {
    let units = units(labels, groups)?;
    if k < 2 || k > units.len() {
        let problem = format!(
            "is {k}, must be 2 to {} (groups and single images)",
            units.len()
        );
        return Err(SplitError::Config {
            field: "folds",
            problem,
        });
    }
    let mut wanted = Wanted::new();
    let mut sizes = vec![0; k];
    for (label, n) in class_sizes(labels) {
        let mut counts = vec![(n / k) as i64; k];
        // What is left goes to the folds that are smallest so far.
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by_key(|&fold| sizes[fold]);
        for &fold in order.iter().take(n % k) {
            counts[fold] += 1;
        }
        sizes
            .iter_mut()
            .zip(&counts)
            .for_each(|(size, count)| *size += count);
        wanted.insert(label, counts);
    }
    Ok(deal(labels, &units, &wanted, TooLarge::Nearest, seed))
}

/// As [`held_out`] in at most `k` parts: in as many as there are groups and single images, in none where that is one.
///
/// # Errors
/// As [`folds`].
pub fn held_out_at_most(
    labels: &[u32],
    groups: &[Vec<usize>],
    k: usize,
    seed: u64,
) -> Result<Vec<Option<usize>>, SplitError> {
    match k.min(units(labels, groups)?.len()) {
        0 | 1 => Ok(vec![None; labels.len()]),
        k => held_out(labels, groups, k, seed),
    }
}

/// The part in which each image is held out from training, `[n]`; none for those that have to be trained on every time,
/// as their class would be missing, and for what belongs to them. Else as [`folds`].
///
/// # Errors
/// As [`folds`].
pub fn held_out(
    labels: &[u32],
    groups: &[Vec<usize>],
    k: usize,
    seed: u64,
) -> Result<Vec<Option<usize>>, SplitError> {
    let folds = folds(labels, groups, k, seed)?;
    // A class that lies in one fold would be missing in training there.
    let mut seen: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
    for (&label, &fold) in labels.iter().zip(&folds) {
        seen.entry(label).or_default().insert(fold);
    }
    let mut held: Vec<Option<usize>> = folds.into_iter().map(Some).collect();
    for unit in units(labels, groups)? {
        if unit.iter().any(|&i| seen[&labels[i]].len() < 2) {
            unit.into_iter().for_each(|i| held[i] = None);
        }
    }
    Ok(held)
}

fn class_sizes(labels: &[u32]) -> BTreeMap<u32, usize> {
    let mut sizes = BTreeMap::new();
    for &label in labels {
        *sizes.entry(label).or_default() += 1;
    }
    sizes
}

/// What is dealt as one: the groups, and every other image by itself.
fn units(labels: &[u32], groups: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, SplitError> {
    let grouped = check_groups(labels, groups)?;
    let single = (0..labels.len()).filter(|&i| !grouped[i]).map(|i| vec![i]);
    let groups = groups.iter().filter(|group| !group.is_empty()).cloned();
    Ok(groups.chain(single).collect())
}

/// Which images are in a group, `[n]`.
fn check_groups(labels: &[u32], groups: &[Vec<usize>]) -> Result<Vec<bool>, SplitError> {
    let mut grouped = vec![false; labels.len()];
    for &i in groups.iter().flatten() {
        match grouped.get_mut(i) {
            Some(seen @ false) => *seen = true,
            Some(_) => return Err(SplitError::Data(format!("image {i} is in two groups"))),
            None => {
                let n = labels.len();
                return Err(SplitError::Data(format!("a group has image {i} of {n}")));
            }
        }
    }
    Ok(grouped)
}

/// Moves `units`, the smallest first, to training where a class has fewer images there than it is to keep.
fn give_back(labels: &[u32], units: &[Vec<usize>], min_per_class: usize, parts: &mut [usize]) {
    let mut lacks = class_sizes(labels);
    lacks.values_mut().for_each(|n| *n = min_per_class.min(*n));
    let mut given = |label: u32| {
        let lacks = lacks.entry(label).or_default();
        std::mem::replace(lacks, lacks.saturating_sub(1)) > 0
    };
    let in_training = (0..labels.len()).filter(|&i| parts[i] == 0);
    for i in in_training {
        given(labels[i]);
    }
    for unit in units {
        // All of them count, whichever is wanted.
        let wanted = parts[unit[0]] != 0 && unit.iter().filter(|&&i| given(labels[i])).count() > 0;
        if wanted {
            unit.iter().for_each(|&i| parts[i] = 0);
        }
    }
}

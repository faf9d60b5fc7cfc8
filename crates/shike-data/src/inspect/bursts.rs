//! Pictures that were taken one shortly after the other.

use std::collections::BTreeMap;

use crate::dataset::Dataset;

/// Camera traps and people release several times within such a time.
pub(super) const SECONDS: u32 = 30;

/// Pairs of neighbours in time, of one folder, that are no more than `seconds` apart; `taken` is `[n]`.
pub(crate) fn bursts(data: &Dataset, taken: &[Option<i64>], seconds: u32) -> Vec<[usize; 2]> {
    let mut folders: BTreeMap<&str, Vec<(i64, usize)>> = BTreeMap::new();
    for (i, time) in taken.iter().enumerate() {
        if let (Some(time), Some(path)) = (time, data.relative_path(i)) {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry(folder).or_default().push((*time, i));
        }
    }
    let mut pairs = Vec::new();
    for images in folders.values_mut() {
        images.sort_unstable();
        let near = images
            .windows(2)
            .filter(|pair| pair[1].0 - pair[0].0 <= i64::from(seconds));
        pairs.extend(near.map(|pair| [pair[0].1, pair[1].1]));
    }
    pairs
}

/// How many images are in bursts.
pub(super) fn images(data: &Dataset, taken: &[Option<i64>]) -> usize {
    let mut images = bursts(data, taken, SECONDS).concat();
    images.sort_unstable();
    images.dedup();
    images.len()
}

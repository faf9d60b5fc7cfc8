//! Images that are there more than once.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ImageRef;
use super::check::Content;
use crate::part::Part;

/// Images that are there more than once. Unreadable ones are not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicates {
    /// Images that equal another one.
    pub images: usize,
    /// Groups with two images of one class in one part: they count twice there.
    pub within_classes: usize,
    /// Groups with more than one label: at most one of them is right.
    pub across_classes: usize,
    /// Groups in more than one part.
    pub across_subsets: usize,
    /// The same by pairs of parts.
    pub leaks: Vec<Leak>,
    /// The groups, in the order of their first images.
    pub groups: Vec<DuplicateGroup>,
}

/// Images of one part that are in an earlier one as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// The earlier part.
    pub from: Part,
    /// The part that is measured on.
    pub to: Part,
    /// Images of `to` that equal one of `from`.
    pub images: usize,
}

/// Equal images, two or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuplicateGroup {
    /// Whether two of them are of one class and in one part.
    pub within_classes: bool,
    /// Whether their labels differ.
    pub across_classes: bool,
    /// Whether they are in several parts.
    pub across_subsets: bool,
    /// In the order of the parts and their images.
    pub images: Vec<ImageRef>,
}

impl Duplicates {
    /// Of groups of images.
    pub(super) fn new(groups: impl Iterator<Item = Vec<ImageRef>>) -> Self {
        let mut groups: Vec<DuplicateGroup> = groups.map(group).collect();
        let first = |group: &DuplicateGroup| {
            let image = group.images.first();
            image.map(|image| (image.subset, image.index))
        };
        groups.sort_by_key(first);
        let count = |kind: fn(&DuplicateGroup) -> bool| groups.iter().filter(|g| kind(g)).count();
        Self {
            images: groups.iter().map(|group| group.images.len()).sum(),
            within_classes: count(|group| group.within_classes),
            across_classes: count(|group| group.across_classes),
            across_subsets: count(|group| group.across_subsets),
            leaks: leaks(&groups),
            groups,
        }
    }
}

/// Groups of equal contents, by their places.
pub(super) fn equal(contents: &[Content]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..contents.len()).collect();
    order.sort_by_key(|&place| contents[place]);
    let equal = order.chunk_by(|&a, &b| contents[a] == contents[b]);
    equal
        .filter(|equal| equal.len() > 1)
        .map(<[usize]>::to_vec)
        .collect()
}

fn group(images: Vec<ImageRef>) -> DuplicateGroup {
    let labels: BTreeSet<u32> = images.iter().map(|image| image.label).collect();
    let subsets: BTreeSet<Part> = images.iter().map(|image| image.subset).collect();
    let places: BTreeSet<_> = images.iter().map(|i| (i.subset, i.label)).collect();
    DuplicateGroup {
        within_classes: places.len() < images.len(),
        across_classes: labels.len() > 1,
        across_subsets: subsets.len() > 1,
        images,
    }
}

fn leaks(groups: &[DuplicateGroup]) -> Vec<Leak> {
    let pairs = [
        (Part::Train, Part::Val),
        (Part::Train, Part::Test),
        (Part::Val, Part::Test),
    ];
    let number =
        |group: &DuplicateGroup, subset| group.images.iter().filter(|i| i.subset == subset).count();
    pairs
        .into_iter()
        .map(|(from, to)| Leak {
            from,
            to,
            images: groups
                .iter()
                .filter(|group| number(group, from) > 0)
                .map(|group| number(group, to))
                .sum(),
        })
        .filter(|leak| leak.images > 0)
        .collect()
}

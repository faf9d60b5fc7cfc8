//! A data set before anything is trained on it: how long its tail is, and what is wrong with it.
//!
//! [`inspect`] counts classes, opens every image, and finds images that are there twice. Nothing
//! here prints; [`Inspection`] is plain data that serialises.
//!
//! Equal images are those whose files (or pixels, for CIFAR) are equal byte for byte, told by
//! length and XXH3 with 128 bits. Among a million files two different ones share such a hash with
//! a probability of 10⁻²⁷. A picture that was scaled or compressed again counts as another, but as a near-duplicate: its
//! hash (see [`looks_like`]) is nearly the same.
//!
//! ```
//! use shike_data::Dataset;
//! use shike_data::Part;
//! use shike_data::inspect::{InspectConfig, inspect};
//!
//! let pixels = vec![7, 7, 7, 8, 8, 8, 9, 9, 9];
//! let train = Dataset::from_pixels(pixels, 1, 1, vec![0, 0, 1], 2)?;
//! let test = Dataset::from_pixels(vec![9, 9, 9], 1, 1, vec![1], 2)?;
//! let subsets = [(Part::Train, train), (Part::Test, test)];
//! let found = inspect(&subsets, &InspectConfig::default(), &|_| {})?;
//! assert_eq!(found.tail.imbalance_factor, Some(2.0));
//! // The test image was seen in training.
//! assert_eq!(found.duplicates.unwrap().leaks[0].images, 1);
//! # Ok::<(), shike_data::DataError>(())
//! ```

mod bursts;
mod check;
mod duplicates;
mod near;
mod pixels;
mod tail;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub(crate) use self::bursts::bursts;
pub use self::duplicates::{DuplicateGroup, Duplicates, Leak};
pub use self::near::{NEAR, looks_like, near_groups};
pub use self::pixels::{ENOUGH_KEPT, Pixels, value_range};
pub use self::tail::{GroupSize, Tail};
use crate::dataset::Dataset;
use crate::decode::DecodeLimits;
use crate::error::{DataError, Result};
use crate::part::Part;
use crate::shots::{Interval, Shot, ShotThresholds};

/// The version of the JSON form of [`Inspection`].
pub const FORMAT_VERSION: u32 = 1;

/// How far images are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Only headers are read: missing and foreign files are found, cut ones and duplicates are not.
    Header,
    /// Every image is read, decoded and compared.
    Full,
}

/// What [`inspect`] looks at, and where it draws lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectConfig {
    /// How far images are opened.
    pub depth: Depth,
    /// Larger images count as unreadable.
    pub limits: DecodeLimits,
    /// Where the groups of classes part.
    pub thresholds: ShotThresholds,
    /// Classes with fewer validation or test images than this are too small to measure.
    pub min_measured: usize,
}

impl Default for InspectConfig {
    fn default() -> Self {
        Self {
            depth: Depth::Full,
            limits: DecodeLimits::default(),
            thresholds: ShotThresholds::default(),
            min_measured: 10,
        }
    }
}

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// How far images were opened.
    pub depth: Depth,
    /// The parts of the data set.
    pub subsets: Vec<SubsetSize>,
    /// The training images, as a tail.
    pub tail: Tail,
    /// By label.
    pub classes: Vec<Class>,
    /// Labels of the classes without a training image.
    pub empty_classes: Vec<u32>,
    /// Images that cannot be used, in the order of the subsets and their images.
    pub unreadable: Vec<Unreadable>,
    /// Images that are there more than once; `None` where only headers were read.
    pub duplicates: Option<Duplicates>,
    /// Pictures that look alike without being equal, see [`looks_like`]; joined pair by pair, so that the first and
    /// the last of a group may differ more. `None` where only headers were read.
    #[serde(default)]
    pub near_duplicates: Option<Duplicates>,
    /// Images that were taken within 30 seconds of another one, in one folder and part, by their EXIF data.
    #[serde(default)]
    pub in_bursts: usize,
    /// When each image of the first part was taken, in seconds, by its EXIF data; in no time zone.
    #[serde(skip)]
    pub taken: Vec<Option<i64>>,
    /// What the headers of all images say.
    pub pixels: Pixels,
    /// For `val` and `test`, where they are there: what is too small for an accuracy of its own.
    pub too_small: Vec<TooSmall>,
    /// What training or its results would suffer from.
    pub problems: Vec<Problem>,
}

impl Inspection {
    /// Pairs of neighbours in [`in_bursts`](Self::in_bursts) of the first part, which `data` is.
    pub fn bursts(&self, data: &Dataset) -> Vec<Vec<usize>> {
        let pairs = bursts::bursts(data, &self.taken, bursts::SECONDS);
        pairs.into_iter().map(Vec::from).collect()
    }
}

/// The size of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubsetSize {
    /// The part.
    pub subset: Part,
    /// Its images, unreadable ones too.
    pub images: usize,
    /// Classes that have an image in it.
    pub classes: usize,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Its label.
    pub label: u32,
    /// Its name.
    pub name: String,
    /// Its images in each part, unreadable ones too.
    pub images: BTreeMap<Part, usize>,
    /// Its group by the number of training images.
    pub shot: Shot,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// The part that it is in.
    pub subset: Part,
    /// Its number there, from 0.
    pub index: usize,
    /// Its label.
    pub label: u32,
    /// Its path, or the record of its file.
    pub file: String,
}

impl ImageRef {
    fn new(subset: Part, data: &Dataset, index: usize) -> Self {
        Self {
            subset,
            index,
            label: data.label(index),
            file: data.origin(index),
        }
    }
}

/// An image that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Which one.
    #[serde(flatten)]
    pub image: ImageRef,
    /// Why.
    pub reason: String,
}

/// Classes with too few images for an accuracy of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TooSmall {
    /// Where they are too small.
    pub subset: Part,
    /// The line: [`InspectConfig::min_measured`].
    pub fewer_than: usize,
    /// Their number.
    pub classes: usize,
    /// The same by their number of images, ascending.
    pub by_size: Vec<Uncertainty>,
}

/// What so many images can tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uncertainty {
    /// Images of each of the classes.
    pub images: usize,
    /// Half the width of the 95 % interval of an accuracy, in points, see [`Interval::half_width`];
    /// `None` without an image.
    pub half_width: Option<f64>,
    /// The classes.
    pub labels: Vec<u32>,
}

/// Something that training or its results would suffer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// A class has no training image.
    EmptyClasses,
    /// An image cannot be read.
    Unreadable,
    /// An image is in two parts: what is measured was seen in training.
    DuplicatesAcrossSubsets,
}

/// Looks at every image of a data set, on all cores.
///
/// `subsets` are its parts, each at most once. The part with the most classes names them all; the class
/// names of the others must be the beginning of that list. `progress` is called from several threads, with
/// the number of images so far.
///
/// # Errors
/// [`DataError::Field`] if there is no part, one is there twice, or they disagree on classes. A
/// bad image is no error here but a finding.
pub fn inspect(
    subsets: &[(Part, Dataset)],
    config: &InspectConfig,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Inspection> {
    let names = class_names(subsets)?;
    let done = AtomicUsize::new(0);
    let mut unreadable = Vec::new();
    let mut headers = Vec::new();
    // Of those that were read to their ends.
    let (mut places, mut contents, mut looks) = (Vec::new(), Vec::new(), Vec::new());
    let mut taken = Vec::new();
    for (subset, data) in subsets {
        let checked: Vec<_> = (0..data.len())
            .into_par_iter()
            .map(|i| {
                let checked = check::check(data, i, config);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                checked
            })
            .collect();
        let time =
            |(header, _): &(Option<pixels::Header>, _)| header.and_then(|header| header.taken);
        taken.push(checked.iter().map(time).collect::<Vec<_>>());
        for (index, (header, checked)) in checked.into_iter().enumerate() {
            headers.extend(header.map(|header| (data, index, header)));
            match checked {
                Ok(Some((content, look))) => {
                    places.push((*subset, data, index));
                    contents.push(content);
                    looks.push(look);
                }
                Ok(None) => {}
                Err(reason) => unreadable.push(Unreadable {
                    image: ImageRef::new(*subset, data, index),
                    reason,
                }),
            }
        }
    }
    let image = |place: usize| {
        let (subset, data, index) = places[place];
        ImageRef::new(subset, data, index)
    };
    let named = |groups: Vec<Vec<usize>>| {
        Duplicates::new(
            groups
                .into_iter()
                .map(|group| group.into_iter().map(image).collect()),
        )
    };
    let mut near = near_groups(&looks);
    // Equal images are told already.
    near.retain(|group| group.iter().any(|&i| contents[i] != contents[group[0]]));
    let times = subsets.iter().zip(&taken);
    let in_bursts = times
        .map(|((_, data), taken)| bursts::images(data, taken))
        .sum();
    let full = config.depth == Depth::Full;
    let duplicates = full.then(|| named(duplicates::equal(&contents)));
    let mut found = summary(
        subsets,
        names,
        config,
        unreadable,
        duplicates,
        Pixels::told(&headers),
    );
    found.near_duplicates = full.then(|| named(near));
    found.in_bursts = in_bursts;
    found.taken = taken.into_iter().next().unwrap_or_default();
    Ok(found)
}

/// The names of all classes, if the parts agree on them.
fn class_names(subsets: &[(Part, Dataset)]) -> Result<&[String]> {
    let wrong = |problem| Err(DataError::field("subsets", problem));
    let mut seen = BTreeSet::new();
    if let Some((subset, _)) = subsets.iter().find(|(subset, _)| !seen.insert(*subset)) {
        return wrong(format!("holds {} twice", subset.name()));
    }
    let all = subsets.iter().map(|(_, data)| data.class_names());
    let Some(names) = all.max_by_key(|names| names.len()) else {
        return wrong("is empty, wanted the training images at least".into());
    };
    for (subset, data) in subsets {
        let differs = data
            .class_names()
            .iter()
            .zip(names)
            .position(|(a, b)| a != b);
        if let Some(label) = differs {
            return wrong(format!(
                "class {label} is {:?} in {}, but {:?} elsewhere",
                data.class_names()[label],
                subset.name(),
                names[label],
            ));
        }
    }
    Ok(names)
}

fn summary(
    subsets: &[(Part, Dataset)],
    names: &[String],
    config: &InspectConfig,
    unreadable: Vec<Unreadable>,
    duplicates: Option<Duplicates>,
    pixels: Pixels,
) -> Inspection {
    let counts: BTreeMap<Part, Vec<usize>> = subsets
        .iter()
        .map(|(subset, data)| {
            let mut counts = data.class_counts();
            counts.resize(names.len(), 0);
            (*subset, counts)
        })
        .collect();
    let none = vec![0; names.len()];
    let train = counts.get(&Part::Train).unwrap_or(&none);
    let classes: Vec<Class> = names
        .iter()
        .enumerate()
        .map(|(label, name)| Class {
            label: label as u32,
            name: name.clone(),
            images: counts
                .iter()
                .map(|(&subset, n)| (subset, n[label]))
                .collect(),
            shot: config.thresholds.group(train[label]),
        })
        .collect();
    let empty_classes: Vec<u32> = (0..names.len())
        .filter(|&label| train[label] == 0)
        .map(|label| label as u32)
        .collect();
    let across = duplicates.as_ref().map_or(0, |found| found.across_subsets);
    let problems = [
        (Problem::EmptyClasses, !empty_classes.is_empty()),
        (Problem::Unreadable, !unreadable.is_empty()),
        (Problem::DuplicatesAcrossSubsets, across > 0),
    ];
    Inspection {
        format_version: FORMAT_VERSION,
        depth: config.depth,
        subsets: counts
            .iter()
            .map(|(&subset, counts)| SubsetSize {
                subset,
                images: counts.iter().sum(),
                classes: counts.iter().filter(|&&n| n > 0).count(),
            })
            .collect(),
        tail: Tail::new(train, config.thresholds),
        classes,
        empty_classes,
        unreadable,
        duplicates,
        near_duplicates: None,
        in_bursts: 0,
        taken: vec![],
        pixels,
        too_small: counts
            .iter()
            .filter(|(subset, _)| **subset != Part::Train)
            .map(|(&subset, counts)| too_small(subset, counts, config.min_measured))
            .collect(),
        problems: problems
            .into_iter()
            .filter_map(|(problem, found)| found.then_some(problem))
            .collect(),
    }
}

fn too_small(subset: Part, counts: &[usize], fewer_than: usize) -> TooSmall {
    let mut by_size: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (label, &images) in counts.iter().enumerate() {
        if images < fewer_than {
            by_size.entry(images).or_default().push(label as u32);
        }
    }
    TooSmall {
        subset,
        fewer_than,
        classes: by_size.values().map(Vec::len).sum(),
        by_size: by_size
            .into_iter()
            .map(|(images, labels)| Uncertainty {
                images,
                half_width: Interval::half_width(images),
                labels,
            })
            .collect(),
    }
}

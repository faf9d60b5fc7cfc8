//! Fewest and most images of a class.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{SplitConfig, SplitError};
use crate::rng::{Draw, Purpose, rng};

/// How few images a class may have, and what becomes of one that has fewer.
///
/// As text `5`, for leaving them out, or `5:other`, for merging them into a class `other`, which may be there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinImages {
    /// A class with fewer is small.
    pub images: usize,
    /// The class that small ones are merged into; without, they are left out.
    pub merge: Option<String>,
}

impl FromStr for MinImages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (images, merge) = match text.split_once(':') {
            Some((images, name)) => (images, Some(name)),
            None => (text, None),
        };
        let wrong = || format!("{text:?} is not a number of images, as 5 or 5:other");
        let merge = match merge.map(str::trim) {
            Some("") => return Err(wrong()),
            name => name.map(str::to_owned),
        };
        let images = images.trim().parse().map_err(|_| wrong())?;
        Ok(Self { images, merge })
    }
}

impl fmt::Display for MinImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.merge {
            Some(name) => write!(f, "{}:{name}", self.images),
            None => self.images.fmt(f),
        }
    }
}

/// What the bounds on classes did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeRecord {
    /// Classes with too few images, which were left out or merged.
    pub small: Vec<ClassSize>,
    /// Classes with more images than are taken.
    pub capped: Vec<ClassSize>,
    /// Images that are in no list for it.
    pub images: usize,
}

/// A class before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassSize {
    /// Its name.
    pub name: String,
    /// Its images, of training where the parts were given.
    pub images: usize,
}

/// Classes and labels within bounds.
pub(super) struct Bounded {
    /// Class names by label; there may be a new one at the end.
    pub names: Vec<String>,
    /// By image; none for those that are not taken.
    pub labels: Vec<Option<u32>>,
    /// None where nothing bounds them.
    pub record: Option<SizeRecord>,
}

impl Bounded {
    /// `images` are the labels, and whether an image counts: is of the part that the bounds are for.
    pub fn new(
        names: &[String],
        images: &[(u32, bool)],
        config: &SplitConfig,
    ) -> Result<Self, SplitError> {
        let mut bounded = Self {
            names: names.to_vec(),
            labels: images.iter().map(|(label, _)| Some(*label)).collect(),
            record: None,
        };
        let bounds = [
            (
                "min_images",
                config.min_images.as_ref().map(|min| min.images),
            ),
            ("max_images", config.max_images),
        ];
        if let Some((field, _)) = bounds.iter().find(|(_, bound)| *bound == Some(0)) {
            let problem = "is 0, must be at least 1; leave it out to take all".into();
            return Err(SplitError::Config { field, problem });
        }
        if bounds.iter().all(|(_, bound)| bound.is_none()) {
            return Ok(bounded);
        }
        let mut record = SizeRecord::default();
        let sizes = bounded.sizes(images);
        let size = |label: u32| sizes.get(&label).map_or(0, Vec::len);
        if let Some(min) = &config.min_images {
            let small: Vec<u32> = (0..names.len() as u32)
                .filter(|&label| (1..min.images).contains(&size(label)))
                .collect();
            let target = min
                .merge
                .as_ref()
                .filter(|_| !small.is_empty())
                .map(|name| {
                    let known = bounded.names.iter().position(|own| own == name);
                    known.unwrap_or_else(|| {
                        bounded.names.push(name.clone());
                        names.len()
                    }) as u32
                });
            for label in bounded.labels.iter_mut() {
                if label.is_some_and(|label| small.binary_search(&label).is_ok()) {
                    *label = target;
                }
            }
            record.small = small
                .iter()
                .map(|&label| ClassSize::new(names, label, size(label)))
                .collect();
        }
        if let Some(max) = config.max_images {
            for (label, images) in bounded.sizes(images) {
                if images.len() > max {
                    record
                        .capped
                        .push(ClassSize::new(&bounded.names, label, images.len()));
                    let mut order: Vec<u32> = (0..images.len() as u32).collect();
                    rng(config.seed, 0, u64::from(label), Purpose::Cap).shuffle(&mut order);
                    order[max..]
                        .iter()
                        .for_each(|&place| bounded.labels[images[place as usize]] = None);
                }
            }
        }
        record.images = bounded
            .labels
            .iter()
            .filter(|label| label.is_none())
            .count();
        if record.images == images.len() {
            let largest = sizes.values().map(Vec::len).max().unwrap_or(0);
            let problem = format!("leaves no class: the largest has {largest} images");
            return Err(SplitError::Config {
                field: "min_images",
                problem,
            });
        }
        bounded.record = Some(record);
        Ok(bounded)
    }

    /// The images of each class that count.
    fn sizes(&self, images: &[(u32, bool)]) -> BTreeMap<u32, Vec<usize>> {
        let mut sizes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, (label, (_, counts))) in self.labels.iter().zip(images).enumerate() {
            if let (Some(label), true) = (label, counts) {
                sizes.entry(*label).or_default().push(i);
            }
        }
        sizes
    }
}

impl ClassSize {
    fn new(names: &[String], label: u32, images: usize) -> Self {
        let name = names[label as usize].clone();
        Self { name, images }
    }
}

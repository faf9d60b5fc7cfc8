//! Training, validation and test lists from one folder of classes.
//!
//! # The rule
//!
//! For a class with `n` readable images the shares ask for `n · share` images of each part. Each
//! part gets that number rounded down; what is left goes, one image each, to the parts with the
//! largest remainders (Hamilton's method), of equal ones to test before validation before training.
//! Then training gets back what it lacks of `min_per_class` images (or of `n`, if that is less),
//! from the larger of validation and test, of equal ones from validation. Shares are taken to six
//! digits and the rest is whole numbers, so nothing hangs on floating-point rounding.
//!
//! Which images go where is drawn, keyed by seed and label. Equal images (see [`inspect`](crate::inspect)) stay
//! together: groups are dealt before single images, the largest first, each to the part that lacks
//! most images, if it lacks as many as the group has, else to training. So validation and test never
//! get more than their number; they get less only if groups leave no single images to fill up with.
//! Equal images with *different labels* stay in training: an accuracy on them means nothing.
//!
//! With [`SplitConfig::group_by`] larger groups stay together: those of a patient, a place, a burst. Then each part
//! is to get the same numbers of each class, and comes as near as whole groups let it: groups of several classes
//! are dealt first, the largest first, to the part that comes nearest by it (in squares of what is missing, each
//! class by its size); groups of one class as above, and where no part has room for one, it also goes where the
//! parts come nearest; then groups are moved one by one as long as that helps. A class that has fewer than
//! `min_per_class` images in training then gets its smallest groups back. [`folds`] are dealt by the same rule.
//!
//! Unreadable images are left out, and classes without a readable image too; labels close up.

mod deal;
mod group;
mod sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use self::deal::{TooLarge, Wanted, deal};
pub use self::group::{GroupBy, Groups};
use self::sizes::Bounded;
pub use self::sizes::{ClassSize, MinImages, SizeRecord};
use crate::dataset::{Dataset, check_path};
use crate::error::DataError;
use crate::inspect::Inspection;
use crate::part::Part;
use crate::read::read;
use crate::write::{WriteError, atomic_write};

/// Shares are whole numbers of millionths.
const WHOLE: u64 = 1_000_000;

/// The record of a split, written last.
const RECORD: &str = "split.json";

/// Class names, one a line, by label.
const CLASSES: &str = "classes.txt";

/// What is kept back, and how it is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Share for validation, from 0 to 1.
    pub val: f64,
    /// Share for test, from 0 to 1.
    pub test: f64,
    /// Images of a class that stay in training at least; 1 or more.
    pub min_per_class: usize,
    /// Another seed draws other images.
    pub seed: u64,
    /// What is kept together, beside equal images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<GroupBy>,
    /// Classes with fewer images are left out or merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_images: Option<MinImages>,
    /// So many images of a class are taken, drawn by the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_images: Option<usize>,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            val: 0.1,
            test: 0.1,
            min_per_class: 1,
            seed: 0,
            group_by: vec![],
            min_images: None,
            max_images: None,
        }
    }
}

/// Why there is no split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// A setting is out of range.
    #[error("{field}: {problem}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The data set is not one that can be split.
    #[error("{0}")]
    Data(String),
    /// A name that a list file cannot hold.
    #[error("{path:?} cannot stand in a list file: {problem}; rename it")]
    Name {
        /// The path below the data set's folder.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Every class is too small for a part.
    #[error(
        "no class is large enough to give an image to {} (the largest has {largest}{}); ask for a \
         larger share, or for none",
        subset.name(),
        if *grouped { ", and groups stay whole" } else { "" }
    )]
    Empty {
        /// The part.
        subset: Part,
        /// Images of the largest class.
        largest: usize,
        /// Whether there are rules for groups.
        grouped: bool,
    },
    /// There is a split already.
    #[error("{} exists already; choose another folder, or replace the split", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The folder for the lists would be taken for a class.
    #[error(
        "{} lies inside the data set and would be taken for a class; write the lists elsewhere",
        path.display()
    )]
    Inside {
        /// The folder for the lists.
        path: PathBuf,
    },
    /// The folder for the lists cannot be made or cleared.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A rule for groups does not fit the images.
    #[error("group_by {by}: {problem}")]
    Group {
        /// The rule.
        by: GroupBy,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A file that a rule names cannot be read.
    #[error(transparent)]
    Read(#[from] DataError),
    /// A list cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// `split.json`: what was split, how, and into what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// `shike-split`.
    pub format: String,
    /// 1.
    pub format_version: u32,
    /// The folder that the paths start at, as it was given.
    pub data: PathBuf,
    /// The settings.
    #[serde(flatten)]
    pub config: SplitConfig,
    /// The lists, by part.
    pub lists: BTreeMap<Part, ListRecord>,
    /// The classes, by label in the lists.
    pub classes: Vec<SplitClass>,
    /// Equal images that were kept together.
    pub duplicates: Together,
    /// Groups by rule, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupRecord>,
    /// What bounds on the sizes of classes did, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<SizeRecord>,
    /// What is in no list.
    pub left_out: LeftOut,
}

/// One list file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRecord {
    /// Its name.
    pub file: String,
    /// Its lines.
    pub images: usize,
    /// XXH3 of the file with 128 bits, hexadecimal, as `xxh128sum` prints it.
    pub xxh3_128: String,
}

/// One class of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitClass {
    /// Its name.
    pub name: String,
    /// Its images in each list.
    pub images: BTreeMap<Part, usize>,
    /// What the shares ask for, where groups may not allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<BTreeMap<Part, usize>>,
}

/// Groups that were kept together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Groups of two and more images.
    pub groups: usize,
    /// Images in them.
    pub images: usize,
    /// Images of the largest.
    pub largest: usize,
    /// Groups with images of several classes.
    pub across_classes: usize,
    /// By rule, images of which it says nothing.
    pub silent: Vec<usize>,
}

/// Equal images that were kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Together {
    /// Their groups.
    pub groups: usize,
    /// Groups with more than one label, which stayed in training.
    pub across_classes: usize,
}

/// What is in no list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Images that cannot be read.
    pub images: Vec<LeftOutImage>,
    /// Classes without an image that can be read.
    pub classes: Vec<String>,
}

/// An image that is in no list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutImage {
    /// Its path below the data set's folder.
    pub file: String,
    /// Why it cannot be read.
    pub reason: String,
}

/// A split that is yet to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitPlan {
    /// The part of each image of the data set (of each training image, where the parts were given); `None` for
    /// those that are left out.
    pub parts: Vec<Option<Part>>,
    record: SplitRecord,
    /// What the list of each part holds.
    lists: BTreeMap<Part, String>,
}

impl SplitConfig {
    /// Shares of training, validation and test, in millionths.
    fn shares(&self) -> Result<[u64; 3], SplitError> {
        let wrong = |field, problem| SplitError::Config { field, problem };
        let share = |field, value: f64| {
            if (0.0..1.0).contains(&value) {
                Ok((value * WHOLE as f64).round() as u64)
            } else {
                let problem =
                    format!("is {value}, must be at least 0 and below 1 (write 10% or 0.1)");
                Err(wrong(field, problem))
            }
        };
        let (val, test) = (share("val", self.val)?, share("test", self.test)?);
        if val + test >= WHOLE {
            let problem = format!("{} and {} leave nothing for training", self.val, self.test);
            return Err(wrong("val, test", problem));
        }
        if val + test == 0 {
            let problem = "are both 0: there is nothing to split".into();
            return Err(wrong("val, test", problem));
        }
        if self.min_per_class == 0 {
            let problem = "is 0, must be at least 1: a class needs a training image".into();
            return Err(wrong("min_per_class", problem));
        }
        Ok([WHOLE - val - test, val, test])
    }

    /// The images of training, validation and test that a class of `n` is to get.
    ///
    /// # Errors
    /// [`SplitError::Config`] if a setting is out of range.
    ///
    /// ```
    /// use shike_data::split::SplitConfig;
    ///
    /// let config = SplitConfig { val: 0.1, test: 0.1, ..SplitConfig::default() };
    /// assert_eq!(config.counts(100)?, [80, 10, 10]);
    /// assert_eq!(config.counts(5)?, [4, 0, 1]);
    /// assert_eq!(config.counts(3)?, [3, 0, 0]);
    /// # Ok::<(), shike_data::split::SplitError>(())
    /// ```
    pub fn counts(&self, n: usize) -> Result<[usize; 3], SplitError> {
        let [train, val, test] = [0, 1, 2];
        let quotas = self.shares()?.map(|share| n as u64 * share);
        let mut counts = quotas.map(|quota| (quota / WHOLE) as usize);
        let left = n - counts.iter().sum::<usize>();
        let mut order = [test, val, train];
        // Stable: equal remainders stay in this order.
        order.sort_by_key(|&part| std::cmp::Reverse(quotas[part] % WHOLE));
        for &part in order.iter().take(left) {
            counts[part] += 1;
        }
        while counts[train] < self.min_per_class.min(n) {
            let from = if counts[val] >= counts[test] {
                val
            } else {
                test
            };
            counts[from] -= 1;
            counts[train] += 1;
        }
        Ok(counts)
    }
}

/// The part of each image by the rule of this [module](self), `[n]`.
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
/// `groups` stay together, see [`Groups::new`]. Folds hang on nothing but the arguments.
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
    Ok(groups.iter().cloned().chain(single).collect())
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

/// Plans the split of a folder of classes. Nothing is written yet.
///
/// `found` is what [`inspect`](crate::inspect::inspect) found in `data` alone, as
/// [`Part::Train`], at [`Depth::Full`](crate::inspect::Depth::Full).
///
/// # Errors
/// [`SplitError::Config`] for a setting, [`SplitError::Data`] if `found` is not of `data` or no
/// image can be read, [`SplitError::Name`] for a path that a list cannot hold,
/// [`SplitError::Empty`] if all classes are too small for a part.
pub fn plan(
    data: &Dataset,
    found: &Inspection,
    config: &SplitConfig,
) -> Result<SplitPlan, SplitError> {
    let shares = config.shares()?;
    let wrong = |problem: &str| SplitError::Data(problem.into());
    let Some(root) = data.root() else {
        return Err(wrong("only files can be split, not images in memory"));
    };
    let fits = matches!(&found.subsets[..], [one] if one.images == data.len());
    let (true, Some(duplicates)) = (fits, &found.duplicates) else {
        return Err(wrong("the inspection is not a full one of this data set"));
    };
    let bad: BTreeSet<usize> = found.unreadable.iter().map(|u| u.image.index).collect();
    let good: Vec<usize> = (0..data.len()).filter(|i| !bad.contains(i)).collect();
    if good.is_empty() {
        return Err(wrong("no image can be read"));
    }
    let of: Vec<(u32, bool)> = good.iter().map(|&i| (data.label(i), true)).collect();
    let bounded = Bounded::new(data.class_names(), &of, config)?;
    // Classes close up where one has no image.
    let has_image: BTreeSet<u32> = bounded.labels.iter().flatten().copied().collect();
    let new: BTreeMap<u32, u32> = has_image.iter().copied().zip(0..).collect();
    let taken = good.iter().zip(&bounded.labels);
    let (taken, labels): (Vec<usize>, Vec<u32>) = taken
        .filter_map(|(&i, label)| Some((i, new[label.as_ref()?])))
        .unzip();
    let place: BTreeMap<usize, usize> = taken.iter().copied().zip(0..).collect();
    let places = |images: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
        images.filter_map(|i| place.get(&i).copied()).collect()
    };
    let equal = duplicates.groups.iter();
    let equal: Vec<_> = equal
        .map(|group| places(&mut group.images.iter().map(|i| i.index)))
        .collect();
    let found_groups = match config.group_by.is_empty() {
        true => None,
        false => Some(Groups::new(data, found, &config.group_by)?),
    };
    let groups = found_groups.as_ref().map(|found| {
        let groups = found.groups.iter();
        let groups = groups.map(|group| places(&mut group.iter().copied()));
        groups.filter(|group| !group.is_empty()).collect::<Vec<_>>()
    });
    let assigned = assign(&labels, &equal, groups.as_deref(), config)?;
    let rows = taken.iter().zip(&labels).zip(&assigned);
    let rows = rows.map(|((&i, &label), &part)| {
        (
            part,
            data.relative_path(i).unwrap_or_default().to_owned(),
            label,
        )
    });
    let asked = Part::ALL.into_iter().zip(shares);
    let asked = asked.filter(|&(_, share)| share > 0).map(|(part, _)| part);
    let names: Vec<String> = has_image
        .iter()
        .map(|&label| bounded.names[label as usize].clone())
        .collect();
    let mut plan = SplitPlan::new(root, config, names, asked, rows)?;
    plan.parts = vec![None; data.len()];
    for (&i, &part) in taken.iter().zip(&assigned) {
        plan.parts[i] = Some(part);
    }
    let record = &mut plan.record;
    if let Some((&subset, _)) = plan.lists.iter().find(|(_, text)| text.is_empty()) {
        let sizes = record
            .classes
            .iter()
            .map(|class| class.images.values().sum());
        return Err(SplitError::Empty {
            subset,
            largest: sizes.max().unwrap_or(0),
            grouped: groups.is_some(),
        });
    }
    if let (Some(found), Some(groups)) = (found_groups, &groups) {
        record.groups = Some(GroupRecord::new(found, groups, &labels));
        for class in &mut record.classes {
            let counts = config.counts(class.images.values().sum())?;
            class.wanted = Some(Part::ALL.into_iter().zip(counts).collect());
        }
    }
    record.sizes = bounded.record;
    record.duplicates = Together {
        groups: duplicates.groups.len(),
        across_classes: duplicates.across_classes,
    };
    let file = |i: usize| data.relative_path(i).unwrap_or_default().to_owned();
    let unreadable = found.unreadable.iter().map(|bad| LeftOutImage {
        file: file(bad.image.index),
        reason: bad.reason.clone(),
    });
    record.left_out.images = unreadable.collect();
    let readable: BTreeSet<u32> = good.iter().map(|&i| data.label(i)).collect();
    let empty = data.class_names().iter().zip(0..);
    let empty = empty.filter(|(_, label)| !readable.contains(label));
    record.left_out.classes = empty.map(|(name, _)| name.clone()).collect();
    Ok(plan)
}

/// Plans lists of parts that are given, within `min_images` and `max_images`: they bound the training images, and
/// validation and test images of classes that are left out go with them.
///
/// The parts have the same class names and lie in one folder, or in folders beside one another.
///
/// # Errors
/// [`SplitError::Config`] for a setting, [`SplitError::Data`] if the images are not files of one folder,
/// [`SplitError::Name`] for a path that a list cannot hold.
pub fn bound(parts: &[(Part, Dataset)], config: &SplitConfig) -> Result<SplitPlan, SplitError> {
    let wrong = |problem: &str| SplitError::Data(problem.into());
    let roots: Option<Vec<&Path>> = parts.iter().map(|(_, data)| data.root()).collect();
    let roots = roots.ok_or_else(|| wrong("only classes of files can be bounded"))?;
    let Some((&first, names)) = roots
        .first()
        .zip(parts.first().map(|(_, data)| data.class_names()))
    else {
        return Err(wrong("there is no image"));
    };
    // Lists have one folder, and `train`, `val` and `test` lie in one.
    let root = match roots.iter().all(|root| *root == first) {
        true => first,
        false => first.parent().unwrap_or(first),
    };
    let mut images = Vec::new();
    let mut rows = Vec::new();
    for (part, data) in parts {
        let folder = data.root().and_then(|own| own.strip_prefix(root).ok());
        let folder = folder.ok_or_else(|| wrong("the parts lie in different folders"))?;
        for i in 0..data.len() {
            let path = data.relative_path(i).unwrap_or_default();
            let path = match folder.to_str().unwrap_or_default() {
                "" => path.to_owned(),
                folder => format!("{folder}/{path}"),
            };
            images.push((data.label(i), *part == Part::Train));
            rows.push((*part, path));
        }
    }
    let bounded = Bounded::new(names, &images, config)?;
    let in_training = bounded
        .labels
        .iter()
        .zip(&rows)
        .filter(|(_, (part, _))| *part == Part::Train);
    let has_image: BTreeSet<u32> = in_training.filter_map(|(label, _)| *label).collect();
    let new: BTreeMap<u32, u32> = has_image.iter().copied().zip(0..).collect();
    let names = has_image
        .iter()
        .map(|&label| bounded.names[label as usize].clone());
    let labels = bounded
        .labels
        .iter()
        .map(|label| new.get(label.as_ref()?).copied());
    let labels: Vec<Option<u32>> = labels.collect();
    let of = rows.iter().zip(&labels);
    let taken = of.filter_map(|((part, path), label)| Some((*part, path.clone(), (*label)?)));
    let asked = parts.iter().map(|(part, _)| *part);
    let mut plan = SplitPlan::new(root, config, names.collect(), asked, taken)?;
    // Those of the training images, which come first.
    let training = rows
        .iter()
        .zip(&labels)
        .filter(|((part, _), _)| *part == Part::Train);
    plan.parts = training
        .map(|((part, _), label)| label.map(|_| *part))
        .collect();
    plan.record.sizes = bounded.record;
    Ok(plan)
}

impl GroupRecord {
    fn new(found: Groups, groups: &[Vec<usize>], labels: &[u32]) -> Self {
        let groups = groups.iter().filter(|group| group.len() > 1);
        let across = |group: &&Vec<usize>| group.iter().any(|&i| labels[i] != labels[group[0]]);
        Self {
            groups: groups.clone().count(),
            images: groups.clone().map(Vec::len).sum(),
            largest: groups.clone().map(Vec::len).max().unwrap_or(0),
            across_classes: groups.filter(across).count(),
            silent: found.silent,
        }
    }
}

impl ListRecord {
    fn new(subset: Part, text: &str) -> Self {
        Self {
            file: list_name(subset),
            images: text.lines().count(),
            xxh3_128: format!("{:032x}", xxh3_128(text.as_bytes())),
        }
    }
}

fn list_name(subset: Part) -> String {
    format!("{}.txt", subset.name())
}

/// What [`list_file`](crate::list_file) would refuse or read as another path.
fn check_name(path: &str) -> Result<(), SplitError> {
    let problem = if path.contains(['\n', '\r']) {
        "it holds a line break".into()
    } else if path.starts_with(char::is_whitespace) || path.starts_with('\u{feff}') {
        "it begins with a space".into()
    } else {
        match check_path(path) {
            Ok(()) => return Ok(()),
            Err(problem) => problem,
        }
    };
    Err(SplitError::Name {
        path: path.to_owned(),
        problem,
    })
}

impl SplitPlan {
    /// Lists of the parts that are asked for.
    fn new(
        root: &Path,
        config: &SplitConfig,
        names: Vec<String>,
        asked: impl Iterator<Item = Part>,
        rows: impl Iterator<Item = (Part, String, u32)>,
    ) -> Result<Self, SplitError> {
        let class = |name| SplitClass {
            name,
            images: Part::ALL.map(|part| (part, 0)).into(),
            wanted: None,
        };
        let mut classes: Vec<SplitClass> = names.into_iter().map(class).collect();
        let mut lists: BTreeMap<Part, String> = asked.map(|part| (part, String::new())).collect();
        for (part, path, label) in rows {
            check_name(&path)?;
            *classes[label as usize].images.entry(part).or_default() += 1;
            *lists.entry(part).or_default() += &format!("{path} {label}\n");
        }
        let record = SplitRecord {
            format: "shike-split".into(),
            format_version: 1,
            data: root.to_owned(),
            config: config.clone(),
            lists: lists
                .iter()
                .map(|(&part, text)| (part, ListRecord::new(part, text)))
                .collect(),
            classes,
            duplicates: Together {
                groups: 0,
                across_classes: 0,
            },
            groups: None,
            sizes: None,
            left_out: LeftOut {
                images: vec![],
                classes: vec![],
            },
        };
        Ok(Self {
            parts: vec![],
            record,
            lists,
        })
    }

    /// What `split.json` will hold.
    pub fn record(&self) -> &SplitRecord {
        &self.record
    }

    /// The files, in the order in which they are written.
    fn files(&self) -> Result<Vec<(String, String)>, SplitError> {
        let names = self.record.classes.iter().map(|c| c.name.clone() + "\n");
        let record =
            serde_json::to_string_pretty(&self.record).map_err(|error| SplitError::Io {
                path: RECORD.into(),
                source: error.into(),
            })?;
        let lists = self.lists.iter();
        let lists = lists.map(|(&subset, text)| (list_name(subset), text.clone()));
        let rest = [
            (CLASSES.into(), names.collect()),
            (RECORD.into(), record + "\n"),
        ];
        Ok(lists.chain(rest).collect())
    }

    /// Whether [`write`](Self::write) would replace nothing but its own files: those of this split that
    /// an earlier start, which need not have come to its end, wrote into `out`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn fits(&self, out: &Path) -> Result<bool, SplitError> {
        let files = self.files()?;
        for name in Part::ALL
            .map(list_name)
            .iter()
            .map(String::as_str)
            .chain([CLASSES, RECORD])
        {
            let path = out.join(name);
            let there = match read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(SplitError::Io { path, source }),
            };
            let own = files.iter().find(|(own, _)| own == name);
            if own.is_none_or(|(_, text)| text.as_bytes() != there) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes `train.txt`, `val.txt`, `test.txt` (those with a share), `classes.txt` and, last,
    /// `split.json` into `out`, each whole or not at all. A folder with `split.json` is complete.
    ///
    /// # Errors
    /// [`SplitError::Exists`] if one of the files is there and `force` is not set;
    /// [`SplitError::Inside`] if `out` would become a class; else what the disk says.
    pub fn write(&self, out: &Path, force: bool) -> Result<(), SplitError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SplitError::Io { path, source }
        };
        let all = Part::ALL.map(list_name);
        let all = all.iter().map(String::as_str).chain([CLASSES, RECORD]);
        if let Some(path) = all
            .clone()
            .map(|name| out.join(name))
            .find(|path| path.exists())
            && !force
        {
            return Err(SplitError::Exists { path });
        }
        if is_inside(out, &self.record.data).map_err(failed(out))? {
            return Err(SplitError::Inside { path: out.into() });
        }
        std::fs::create_dir_all(out).map_err(failed(out))?;
        // The record goes first: without it nobody takes a mixture of two splits for one.
        for name in all.rev() {
            let path = out.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&path)(e)),
                _ => {}
            }
        }
        for (name, text) in self.files()? {
            atomic_write(&out.join(name), |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}

/// Whether `out`, which need not be there yet, lies below `root` where its reader looks for classes.
///
/// # Errors
/// What the disk says, such as that `root` is not there.
pub fn is_inside(out: &Path, root: &Path) -> std::io::Result<bool> {
    let mut folder = std::path::absolute(out)?;
    if let Some(there) = folder.ancestors().find(|path| path.exists()) {
        let missing = folder.strip_prefix(there).unwrap_or(Path::new(""));
        folder = there.canonicalize()?.join(missing);
    }
    let Ok(below) = folder.strip_prefix(root.canonicalize()?) else {
        return Ok(false);
    };
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    Ok(below.components().next().is_some() && !below.iter().any(hidden))
}

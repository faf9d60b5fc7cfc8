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
//! Unreadable images are left out, and classes without a readable image too; labels close up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::dataset::Dataset;
use crate::inspect::Inspection;
use crate::part::Part;
use crate::read::read;
use crate::rng::{Draw, Purpose, rng};
use crate::write::{WriteError, atomic_write};

/// Shares are whole numbers of millionths.
const WHOLE: u64 = 1_000_000;

/// The record of a split, written last.
const RECORD: &str = "split.json";

/// Class names, one a line, by label.
const CLASSES: &str = "classes.txt";

/// What is kept back, and how it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            val: 0.1,
            test: 0.1,
            min_per_class: 1,
            seed: 0,
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
        problem: &'static str,
    },
    /// Every class is too small for a part.
    #[error(
        "no class is large enough to give an image to {} (the largest has {largest}); ask for a \
         larger share, or for none",
        subset.name()
    )]
    Empty {
        /// The part.
        subset: Part,
        /// Images of the largest class.
        largest: usize,
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
    /// The part of each image of the data set; `None` for those that are left out.
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
/// `labels` is `[n]`; `groups` holds the numbers of equal images, an image in one group at most.
///
/// # Errors
/// [`SplitError::Config`] if a setting is out of range; [`SplitError::Data`] if a group names an
/// image that is not there, or one that another group has too.
pub fn assign(
    labels: &[u32],
    groups: &[Vec<usize>],
    config: &SplitConfig,
) -> Result<Vec<Part>, SplitError> {
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
    // What is dealt as one, by label; and how many images of the label that leaves out.
    let mut units: BTreeMap<u32, Vec<Vec<usize>>> = BTreeMap::new();
    let mut fixed: BTreeMap<u32, i64> = BTreeMap::new();
    for group in groups {
        let mut labels_in = group.iter().map(|&i| labels[i]);
        let Some(label) = labels_in.next() else {
            continue;
        };
        if labels_in.all(|other| other == label) {
            units.entry(label).or_default().push(group.clone());
        } else {
            for &i in group {
                *fixed.entry(labels[i]).or_default() += 1;
            }
        }
    }
    for (i, &label) in labels.iter().enumerate() {
        if !grouped[i] {
            units.entry(label).or_default().push(vec![i]);
        }
    }
    let mut parts = vec![Part::Train; labels.len()];
    for (label, units) in units {
        let fixed = fixed.get(&label).copied().unwrap_or(0);
        let n = units.iter().map(Vec::len).sum::<usize>() + fixed as usize;
        let mut lacks = config.counts(n)?.map(|count| count as i64);
        lacks[0] -= fixed;
        for unit in dealt(&units, config.seed, label) {
            let size = unit.len() as i64;
            // The first of equal ones, so training before validation before test.
            let most = (0..Part::ALL.len())
                .filter(|&part| lacks[part] >= size)
                .max_by_key(|&part| (lacks[part], std::cmp::Reverse(part)))
                .unwrap_or(0);
            lacks[most] -= size;
            for &i in unit {
                parts[i] = Part::ALL[most];
            }
        }
    }
    Ok(parts)
}

/// The units in a random order, larger ones first.
fn dealt(units: &[Vec<usize>], seed: u64, label: u32) -> Vec<&Vec<usize>> {
    let mut order: Vec<u32> = (0..units.len() as u32).collect();
    rng(seed, 0, u64::from(label), Purpose::Split).shuffle(&mut order);
    let mut units: Vec<&Vec<usize>> = order.iter().map(|&unit| &units[unit as usize]).collect();
    units.sort_by_key(|unit| std::cmp::Reverse(unit.len()));
    units
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
    let paths: Vec<&str> = good.iter().filter_map(|&i| data.relative_path(i)).collect();
    for path in &paths {
        check_name(path)?;
    }

    // Classes close up where one has no image.
    let has_image: BTreeSet<u32> = good.iter().map(|&i| data.label(i)).collect();
    let new: BTreeMap<u32, u32> = has_image.iter().copied().zip(0..).collect();
    let labels: Vec<u32> = good.iter().map(|&i| new[&data.label(i)]).collect();
    let place: BTreeMap<usize, usize> = good.iter().copied().zip(0..).collect();
    let groups: Vec<Vec<usize>> = duplicates
        .groups
        .iter()
        .map(|group| {
            group
                .images
                .iter()
                .filter_map(|i| place.get(&i.index).copied())
                .collect()
        })
        .collect();
    let assigned = assign(&labels, &groups, config)?;

    let name = |label: u32| data.class_names()[label as usize].clone();
    let mut classes: Vec<SplitClass> = has_image
        .iter()
        .map(|&label| SplitClass {
            name: name(label),
            images: Part::ALL.map(|subset| (subset, 0)).into(),
        })
        .collect();
    let mut lists: BTreeMap<Part, String> = Part::ALL
        .into_iter()
        .zip(shares)
        .filter(|&(_, share)| share > 0)
        .map(|(subset, _)| (subset, String::new()))
        .collect();
    let mut parts = vec![None; data.len()];
    for (((&i, path), &label), &subset) in good.iter().zip(paths).zip(&labels).zip(&assigned) {
        parts[i] = Some(subset);
        *classes[label as usize].images.entry(subset).or_default() += 1;
        *lists.entry(subset).or_default() += &format!("{path} {label}\n");
    }
    if let Some((&subset, _)) = lists.iter().find(|(_, text)| text.is_empty()) {
        let sizes = classes.iter().map(|class| class.images.values().sum());
        return Err(SplitError::Empty {
            subset,
            largest: sizes.max().unwrap_or(0),
        });
    }
    let record = SplitRecord {
        format: "shike-split".into(),
        format_version: 1,
        data: root.to_owned(),
        config: *config,
        lists: lists
            .iter()
            .map(|(&subset, text)| (subset, ListRecord::new(subset, text)))
            .collect(),
        classes,
        duplicates: Together {
            groups: duplicates.groups.len(),
            across_classes: duplicates.across_classes,
        },
        left_out: LeftOut {
            images: found
                .unreadable
                .iter()
                .map(|bad| LeftOutImage {
                    file: data
                        .relative_path(bad.image.index)
                        .unwrap_or_default()
                        .to_owned(),
                    reason: bad.reason.clone(),
                })
                .collect(),
            classes: (0..data.num_classes() as u32)
                .filter(|label| !has_image.contains(label))
                .map(name)
                .collect(),
        },
    };
    Ok(SplitPlan {
        parts,
        record,
        lists,
    })
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
    let drive = path.as_bytes().get(1) == Some(&b':');
    let problem = if path.contains(['\n', '\r']) {
        "it holds a line break"
    } else if path.starts_with(char::is_whitespace) || path.starts_with('\u{feff}') {
        "it begins with a space"
    } else if path.starts_with('\\') || drive {
        "it would be read as an absolute path"
    } else if path.split(['/', '\\']).any(|part| part == "..") {
        "it holds `..`"
    } else {
        return Ok(());
    };
    Err(SplitError::Name {
        path: path.to_owned(),
        problem,
    })
}

impl SplitPlan {
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

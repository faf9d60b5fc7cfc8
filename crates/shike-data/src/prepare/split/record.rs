//! `split.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::lists::{RECORD, list_name};
use super::{Groups, SizeRecord, SplitConfig};
use crate::dataset;
use crate::part::Part;
use crate::read::read_to_string;

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
    /// What lay in the folder and was not taken for an image.
    #[serde(default, skip_serializing_if = "dataset::LeftOut::is_empty")]
    pub folder: dataset::LeftOut,
}

impl LeftOut {
    /// All of it, as data sets tell it.
    fn all(&self) -> dataset::LeftOut {
        let mut all = self.folder.clone();
        all.add_unreadable(self.images.len());
        let new = |class: &&String| !self.folder.empty_classes.contains(class);
        all.empty_classes
            .extend(self.classes.iter().filter(new).cloned());
        all
    }
}

impl SplitRecord {
    /// What the split left out that wrote a list; nothing for a list of others.
    pub fn left_out_of(list: &Path) -> dataset::LeftOut {
        let text = read_to_string(&list.with_file_name(RECORD)).unwrap_or_default();
        let record: Option<Self> = serde_json::from_str(&text).ok();
        let file = list.file_name().and_then(|name| name.to_str());
        let wrote = |record: &Self| record.lists.values().any(|list| Some(&*list.file) == file);
        record
            .filter(wrote)
            .map(|record| record.left_out.all())
            .unwrap_or_default()
    }
}

/// An image that is in no list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutImage {
    /// Its path below the data set's folder.
    pub file: String,
    /// Why it cannot be read.
    pub reason: String,
}

impl GroupRecord {
    pub(super) fn new(found: Groups, groups: &[Vec<usize>], labels: &[u32]) -> Self {
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
    pub(super) fn new(subset: Part, text: &str) -> Self {
        Self {
            file: list_name(subset),
            images: text.lines().count(),
            xxh3_128: format!("{:032x}", xxh3_128(text.as_bytes())),
        }
    }
}

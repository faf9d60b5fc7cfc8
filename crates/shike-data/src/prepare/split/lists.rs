//! The files of a split.

use std::collections::BTreeMap;
use std::path::Path;

use super::record::{LeftOut, ListRecord, SplitClass, SplitRecord, Together};
use super::{SplitConfig, SplitError};
use crate::dataset::check_path;
use crate::part::Part;
use crate::write::write_bytes;

/// The record of a split, written last.
pub(super) const RECORD: &str = "split.json";

/// Class names, one a line, by label.
const CLASSES: &str = "classes.txt";

/// Which images belong together, written only where some do: `path number` a line, the same number in a group.
const GROUPS: &str = "groups.txt";

/// A split that is yet to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitPlan {
    /// The part of each image of the data set (of each training image, where the parts were given); `None` for
    /// those that are left out.
    pub parts: Vec<Option<Part>>,
    pub(super) record: SplitRecord,
    /// What the list of each part holds.
    pub(super) lists: BTreeMap<Part, String>,
    /// What the list of groups holds; empty where there are none.
    pub(super) groups: String,
}

impl SplitPlan {
    /// Lists of the parts that are asked for.
    pub(super) fn new(
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
                folder: Default::default(),
            },
        };
        Ok(Self {
            parts: vec![],
            record,
            lists,
            groups: String::new(),
        })
    }

    /// What `split.json` will hold.
    pub fn record(&self) -> &SplitRecord {
        &self.record
    }

    /// The files by their names, in the order in which they are written.
    ///
    /// # Errors
    /// None that can be met: a record that is no JSON.
    pub fn files(&self) -> Result<Vec<(String, String)>, SplitError> {
        let names = self.record.classes.iter().map(|c| c.name.clone() + "\n");
        let record =
            serde_json::to_string_pretty(&self.record).map_err(|error| SplitError::Io {
                path: RECORD.into(),
                source: error.into(),
            })?;
        let lists = self.lists.iter();
        let lists = lists.map(|(&subset, text)| (list_name(subset), text.clone()));
        let groups = Some(self.groups.clone()).filter(|groups| !groups.is_empty());
        let groups = groups.map(|groups| (GROUPS.to_owned(), groups));
        let rest = [
            (CLASSES.into(), names.collect()),
            (RECORD.into(), record + "\n"),
        ];
        Ok(lists.chain(groups).chain(rest).collect())
    }

    /// Writes `train.txt`, `val.txt`, `test.txt` (those with a share), `groups.txt` (where images belong together, see
    /// [`Dataset::with_groups`](crate::Dataset::with_groups)), `classes.txt` and, last, `split.json` into `out`, each whole or not at all. A folder with `split.json` is complete.
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
        let all = all
            .iter()
            .map(String::as_str)
            .chain([GROUPS, CLASSES, RECORD]);
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
            write_bytes(&out.join(name), text)?;
        }
        Ok(())
    }
}

/// The names of all files that lists of a data set can have, `split.json` last.
pub fn names() -> [String; 6] {
    let [train, val, test] = Part::ALL.map(list_name);
    let [groups, classes, record] = [GROUPS, CLASSES, RECORD].map(str::to_owned);
    [train, val, test, groups, classes, record]
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

/// A list of groups, by the paths of their images.
pub fn group_list<'a>(groups: impl Iterator<Item = Vec<&'a str>>) -> String {
    let groups = groups.filter(|group| group.len() > 1).zip(0..);
    let lines = groups.flat_map(|(group, number)| {
        group
            .into_iter()
            .map(move |path| format!("{path} {number}\n"))
    });
    lines.collect()
}

pub(super) fn list_name(subset: Part) -> String {
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

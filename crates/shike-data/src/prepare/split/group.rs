//! Which images are kept together: those of one patient, site, burst or scene.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SplitError;
use crate::dataset::{Dataset, PathRule, list_column};
use crate::inspect::{Duplicates, Inspection, bursts};
use crate::together::Together;

/// What images have in common that must not be parted: they never lie in two parts.
///
/// As text `patient` (a column of the list), `meta.csv:patient` (a column of another file), `path:2` (the second
/// part of the path), `path:REGEX` (the first group of a regular expression in the path), `time:30` (taken within
/// 30 seconds of one another, in one folder) or `near-duplicates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum GroupBy {
    /// What stands in a column of a CSV file that names the images as well. An empty cell is no group.
    Column {
        /// The file; none for that of the training list.
        file: Option<PathBuf>,
        /// The column.
        name: String,
    },
    /// A part of the path; where a regular expression does not match, an image stands alone.
    Path(PathRule),
    /// Seconds between two images of one folder by their EXIF data.
    Time(u32),
    /// Pictures that look alike, see [`inspect`](crate::inspect).
    NearDuplicates,
}

impl FromStr for GroupBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "near-duplicates" {
            return Ok(Self::NearDuplicates);
        }
        let (kind, rest) = text.rsplit_once(':').unwrap_or(("", text));
        // A regular expression may hold colons.
        if let Some(rest) = text.strip_prefix("path:") {
            return rest.parse().map(Self::Path);
        }
        if kind == "time" {
            let seconds = rest.parse();
            return seconds
                .map(Self::Time)
                .map_err(|_| format!("{rest:?} is no number of seconds, as in time:30"));
        }
        // A file of a list has an extension.
        let is_file = kind.is_empty() || Path::new(kind).extension().is_some();
        if rest.trim().is_empty() || !is_file {
            return Err(
                "names no column; wanted a column, FILE.csv:COLUMN, path:2, path:REGEX, time:30 or near-duplicates"
                    .into(),
            );
        }
        Ok(Self::Column {
            file: Some(PathBuf::from(kind)).filter(|file| !file.as_os_str().is_empty()),
            name: rest.to_owned(),
        })
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column {
                file: Some(file),
                name,
            } => write!(f, "{}:{name}", file.display()),
            Self::Column { file: None, name } => f.write_str(name),
            Self::Path(rule) => write!(f, "path:{rule}"),
            Self::Time(seconds) => write!(f, "time:{seconds}"),
            Self::NearDuplicates => f.write_str("near-duplicates"),
        }
    }
}

impl TryFrom<String> for GroupBy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<GroupBy> for String {
    fn from(by: GroupBy) -> Self {
        by.to_string()
    }
}

/// Groups of images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Groups {
    /// Numbers of images that are kept together, two and more each, ascending.
    pub groups: Vec<Vec<usize>>,
    /// Images of which a rule says nothing (no match, no EXIF time, an empty cell), by rule; they stand alone
    /// as far as it goes.
    pub silent: Vec<usize>,
}

impl Groups {
    /// The groups that the rules make of a data set together, and that equal images make anyway, as do those that the
    /// data set [has](Dataset::groups). Images that two rules join over others are in one.
    ///
    /// `found` is what a full [`inspect`](crate::inspect::inspect) found in `data` alone.
    ///
    /// # Errors
    /// [`SplitError::Group`] for a rule that says nothing of any image, or a path without such a part;
    /// [`SplitError::Read`] for a file without such a column.
    pub fn new(data: &Dataset, found: &Inspection, by: &[GroupBy]) -> Result<Self, SplitError> {
        let together = Together::new(data.len());
        found
            .duplicates
            .iter()
            .for_each(|equal| join(&together, equal));
        for group in data.groups() {
            group
                .windows(2)
                .for_each(|pair| together.join(pair[0], pair[1]));
        }
        let mut silent = Vec::new();
        for by in by {
            let told = match by {
                GroupBy::NearDuplicates => {
                    let near = found.near_duplicates.as_ref();
                    join(
                        &together,
                        near.ok_or_else(|| wrong(by, "the inspection has looked for none"))?,
                    );
                    data.len()
                }
                GroupBy::Time(seconds) => {
                    let taken = &found.taken;
                    bursts(data, taken, *seconds)
                        .into_iter()
                        .for_each(|[a, b]| together.join(a, b));
                    taken.iter().flatten().count()
                }
                _ => {
                    let keys = keys(data, by)?;
                    let known = keys.iter().zip(0..);
                    together.join_equal(known.filter_map(|(key, i)| Some((key.as_ref()?, i))));
                    keys.iter().flatten().count()
                }
            };
            if told == 0 {
                return Err(wrong(
                    by,
                    match by {
                        GroupBy::Time(_) => "no image has an EXIF time",
                        GroupBy::Path(_) => "it matches no path",
                        _ => "it says nothing of any image",
                    },
                ));
            }
            silent.push(data.len() - told);
        }
        Ok(Self {
            groups: together.groups(),
            silent,
        })
    }
}

impl Groups {
    /// What is left of each group among `images`, ascending numbers, such as those that can be read: by their places there.
    pub fn among(&self, images: &[usize]) -> Vec<Vec<usize>> {
        let place = |i: &usize| images.binary_search(i).ok();
        let groups = self.groups.iter();
        groups
            .map(|group| group.iter().filter_map(place).collect())
            .filter(|group: &Vec<usize>| !group.is_empty())
            .collect()
    }

    /// How many images of those that are said to belong together, `[[images]]`, these groups do not keep together: images of
    /// a set that is not all in one group.
    pub fn parted(&self, together: &[Vec<usize>]) -> usize {
        let groups = self.groups.iter().zip(0..);
        let group: HashMap<usize, usize> = groups
            .flat_map(|(images, group)| images.iter().map(move |&i| (i, group)))
            .collect();
        let whole = |images: &Vec<usize>| {
            let first = group.get(&images[0]);
            first.is_some() && images.iter().all(|i| group.get(i) == first)
        };
        let parted = together.iter().filter(|images| !whole(images));
        parted.flatten().collect::<HashSet<_>>().len()
    }
}

fn join(together: &Together, same: &Duplicates) {
    for group in &same.groups {
        for pair in group.images.windows(2) {
            together.join(pair[0].index, pair[1].index);
        }
    }
}

fn wrong(by: &GroupBy, problem: impl Into<String>) -> SplitError {
    SplitError::Group {
        by: by.clone(),
        problem: problem.into(),
    }
}

/// What each image has in common with others of its group, `[n]`.
fn keys(data: &Dataset, by: &GroupBy) -> Result<Vec<Option<String>>, SplitError> {
    let paths = (0..data.len()).map(|i| data.relative_path(i).unwrap_or_default());
    match by {
        GroupBy::Path(rule) => paths
            .map(|path| match (rule.of(path), rule) {
                (None, PathRule::Folder(_)) => Err(wrong(by, format!("{path} has fewer folders"))),
                (found, _) => Ok(found.map(str::to_owned)),
            })
            .collect(),
        GroupBy::Column {
            file: Some(file),
            name,
        } => {
            let column = Column::read(file, name)?;
            paths
                .map(|path| {
                    let cell = column.of(path).ok_or_else(|| {
                        wrong(by, format!("no line of {} is of {path}", file.display()))
                    })?;
                    Ok(Some(cell.to_owned()).filter(|cell| !cell.is_empty()))
                })
                .collect()
        }
        GroupBy::Column { file: None, .. } => Err(wrong(
            by,
            "there is no list with columns: name a file, as in meta.csv:patient, or a part of the path, as in path:2",
        )),
        GroupBy::Time(_) | GroupBy::NearDuplicates => Ok(vec![]),
    }
}

/// A column by the images that a file names: by their paths, names, or names without an ending, in so far as
/// those are of one cell alone.
struct Column([HashMap<String, Option<String>>; 3]);

/// A path, its file's name, and that without an ending.
fn names(path: &str) -> [&str; 3] {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str());
    [path, name, stem.unwrap_or(name)]
}

impl Column {
    fn read(file: &Path, name: &str) -> Result<Self, SplitError> {
        let mut maps = [(); 3].map(|()| HashMap::new());
        for (path, cell) in list_column(file, name)? {
            for (map, name) in maps.iter_mut().zip(names(&path)) {
                let other = map
                    .entry(name.to_owned())
                    .or_insert_with(|| Some(cell.clone()));
                if other.as_ref() != Some(&cell) {
                    *other = None;
                }
            }
        }
        Ok(Self(maps))
    }

    fn of(&self, path: &str) -> Option<&str> {
        let found = self.0.iter().zip(names(path));
        let mut found = found.filter_map(|(map, name)| map.get(name)?.as_deref());
        found.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_some_images_are_by_their_places() {
        let found = Groups {
            groups: vec![vec![0, 3, 5], vec![1, 2], vec![4, 6]],
            silent: vec![],
        };
        // 1, 2 and 5 cannot be read.
        assert_eq!(found.among(&[0, 3, 4, 6]), [[0, 1], [2, 3]]);
        assert_eq!(found.among(&[5, 6]), [[0], [1]]);
    }
}

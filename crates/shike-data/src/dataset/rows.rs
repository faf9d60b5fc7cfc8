//! What text, CSV and JSON lists have in common: rows of a path and a label, and the rules for
//! both.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::names::sort_names;
use crate::error::DataError;

/// What a list holds, before it is checked.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// As they stand in the file.
    pub paths: Vec<String>,
    /// One a path.
    pub labels: Vec<i64>,
    /// The line of each, from 1; empty for JSON, which finds it when it is asked for.
    pub lines: Vec<usize>,
    /// Class names, where the file gives them.
    pub names: Option<Vec<String>>,
    /// The number of classes that the file itself tells.
    pub num_classes: Option<i64>,
    /// Whether an image may stand there several times, with one label: boxes do.
    pub repeats: bool,
    /// What a person should know of what was not taken.
    pub notes: Vec<String>,
}

/// Numbers of class names: those of the training set, or by the names' own order.
pub(super) struct Names<'a> {
    known: Option<&'a [String]>,
    numbers: HashMap<String, i64>,
}

impl<'a> Names<'a> {
    pub fn new(known: Option<&'a [String]>) -> Self {
        let names = known.unwrap_or_default().iter().cloned();
        Self {
            known,
            numbers: names.zip(0..).collect(),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.numbers.contains_key(name)
    }

    /// The number of a name for now.
    pub fn number(&mut self, name: &str) -> Result<i64, String> {
        match (self.numbers.get(name), self.known) {
            (Some(&number), _) => Ok(number),
            (None, Some(_)) => Err(format!("the class {name:?} is none of the training set's")),
            (None, None) => {
                let next = self.numbers.len() as i64;
                self.numbers.insert(name.to_owned(), next);
                Ok(next)
            }
        }
    }

    /// Gives the rows their names, and labels in the order of these.
    pub fn finish(self, rows: &mut Rows) -> Result<(), Wrong> {
        if self.known.is_some() {
            return Ok(());
        }
        self.one_label(rows)?;
        // They were numbered as they came.
        let mut names: Vec<String> = self.numbers.keys().cloned().collect();
        sort_names(&mut names);
        let mut places = vec![0; names.len()];
        for (place, name) in (0..).zip(&names) {
            places[self.numbers[name] as usize] = place;
        }
        for label in &mut rows.labels {
            *label = places[*label as usize];
        }
        rows.names = Some(names);
        Ok(())
    }

    /// Refuses a class such as `cat;dog` where `cat` or `dog` is a class, too.
    fn one_label(&self, rows: &Rows) -> Result<(), Wrong> {
        let mut names: Vec<(&String, &i64)> = self.numbers.iter().collect();
        names.sort_unstable_by_key(|(_, number)| **number);
        for (name, number) in names {
            let several = |by: &char| {
                let mut parts = name.split(*by).map(str::trim);
                name.contains(*by) && parts.any(|part| self.has(part))
            };
            if let Some(by) = [';', '|', ','].iter().find(|by| several(by)) {
                let row = rows.labels.iter().position(|label| label == number);
                let problem = format!(
                    "the class {name:?} is several, parted by `{by}`: this program gives an image one label"
                );
                return Err(rows.wrong(row.unwrap_or(0), problem));
            }
        }
        Ok(())
    }
}

/// What is wrong, in which row (from 0), and in which line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub row: Option<usize>,
    pub line: Option<usize>,
    pub problem: String,
}

impl Wrong {
    pub fn line(line: usize, problem: String) -> Self {
        Self {
            row: None,
            line: Some(line),
            problem,
        }
    }

    /// As the error of a list file.
    pub fn of(self, path: &Path) -> DataError {
        let (path, problem) = (path.to_owned(), self.problem);
        match self.line {
            Some(line) => DataError::ListLine {
                path,
                line,
                problem,
            },
            None => DataError::file(path, problem),
        }
    }

    pub fn file(problem: String) -> Self {
        Self {
            row: None,
            line: None,
            problem,
        }
    }
}

impl Rows {
    pub fn wrong(&self, row: usize, problem: String) -> Wrong {
        Wrong {
            row: Some(row),
            line: self.lines.get(row).copied(),
            problem,
        }
    }

    /// Where a row stands, for messages.
    fn place(&self, row: usize) -> String {
        match self.lines.get(row) {
            Some(line) => format!("line {line}"),
            None => format!("annotations[{row}]"),
        }
    }

    pub fn push(&mut self, line: usize, path: String, label: i64) {
        self.lines.push(line);
        self.paths.push(path);
        self.labels.push(label);
    }

    /// The labels, `[n]`, and the number of classes, which is `wanted` if that is given.
    pub fn check(&self, wanted: Option<usize>) -> Result<(Vec<u32>, usize), Wrong> {
        if self.paths.is_empty() {
            return Err(Wrong::file("holds no image".into()));
        }
        let told = match self.num_classes {
            Some(n) => Some(usize::try_from(n).map_err(|_| {
                Wrong::file(format!("num_classes is {n}, wanted a number of classes"))
            })?),
            None => self.names.as_ref().map(Vec::len),
        };
        if let (Some(wanted), Some(told)) = (wanted, told)
            && wanted != told
        {
            return Err(Wrong::file(format!(
                "has {told} classes, but {wanted} are wanted (those of the training set)"
            )));
        }
        let limit = wanted.or(told);
        let mut labels = Vec::with_capacity(self.labels.len());
        for (row, (path, &label)) in self.paths.iter().zip(&self.labels).enumerate() {
            let wrong = |problem| self.wrong(row, problem);
            check_path(path).map_err(wrong)?;
            labels.push(check_label(label, limit).map_err(wrong)?);
        }
        self.check_unique(&labels)?;
        let classes = match wanted {
            Some(n) => n,
            None => self.count_classes(&labels, told)?,
        };
        Ok((labels, classes))
    }

    /// An image that stands twice counts twice, or has two labels: neither can be meant.
    fn check_unique(&self, labels: &[u32]) -> Result<(), Wrong> {
        let mut seen = HashMap::with_capacity(self.paths.len());
        for (row, path) in self.paths.iter().enumerate() {
            let Some(first) = seen.insert(plain(path), row) else {
                continue;
            };
            let (label, before) = (labels[row], labels[first]);
            if self.repeats && label == before {
                continue;
            }
            let place = self.place(first);
            return Err(self.wrong(
                row,
                match label == before {
                    true => format!("{path:?} is listed twice, here and in {place}"),
                    false if self.repeats => format!(
                        "{path:?} has label {label} here, but {before} in {place}: this program gives an image \
                         one label"
                    ),
                    false => {
                        format!("{path:?} has label {label} here, but {before} in {place}")
                    }
                },
            ));
        }
        Ok(())
    }

    /// One more than the largest label, or `told`; every smaller one has to have an image.
    fn count_classes(&self, labels: &[u32], told: Option<usize>) -> Result<usize, Wrong> {
        // No larger than the list: a label of four billion must not become four billion counters.
        let mut seen = vec![false; labels.len()];
        let mut largest = 0;
        for &label in labels {
            if let Some(slot) = seen.get_mut(label as usize) {
                *slot = true;
            }
            largest = largest.max(label as usize);
        }
        let classes = told.unwrap_or(largest + 1);
        // With fewer images than classes one of the first `labels.len()` labels is missing anyway.
        let gap = match seen.iter().take(classes).position(|&s| !s) {
            Some(gap) => gap,
            None if classes > seen.len() => seen.len(),
            None => return Ok(classes),
        };
        let rule =
            "labels run from 0 without gaps, unless the number of classes is given (test lists)";
        // The first row that makes a gap of it, if there is one.
        Err(match labels.iter().position(|&l| l as usize > gap) {
            Some(row) => self.wrong(
                row,
                format!(
                    "the label {} is used, but no image has label {gap}; {rule}",
                    labels[row]
                ),
            ),
            None => Wrong::file(format!(
                "no image has label {gap}, though there are {classes} classes; {rule}"
            )),
        })
    }
}

/// A path without `.` and empty parts, by which one file has several names.
fn plain(path: &str) -> Cow<'_, str> {
    let odd = path.starts_with("./") || path.contains("//") || path.contains("/./");
    match odd {
        false => Cow::Borrowed(path),
        true => {
            let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
            Cow::Owned(parts.collect::<Vec<_>>().join("/"))
        }
    }
}

/// Bytes of a path, beyond which no system has any.
const MAX_PATH: usize = 32 << 10;

/// Images lie below the root. Links below it may lead anywhere: only who owns the folder can make
/// one, and data sets are often made of links.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("has no path".into());
    }
    // Messages quote paths, and JSON has lines of any length.
    if path.len() > MAX_PATH {
        return Err(format!("has a path of {} bytes", path.len()));
    }
    let drive = path.as_bytes().get(1) == Some(&b':');
    if path.starts_with(['/', '\\']) || drive {
        return Err(format!(
            "the path {path:?} is absolute; paths start at the image folder"
        ));
    }
    if path.split(['/', '\\']).any(|part| part == "..") {
        return Err(format!("the path {path:?} leaves the image folder by `..`"));
    }
    if path.contains('\0') {
        return Err(format!("the path {path:?} holds a zero byte"));
    }
    Ok(())
}

fn check_label(label: i64, classes: Option<usize>) -> Result<u32, String> {
    let number = u32::try_from(label).map_err(|_| match label {
        ..0 => format!("the label {label} is negative; labels start at 0"),
        _ => format!("the label {label} is too large"),
    })?;
    match classes {
        Some(n) if number as usize >= n => Err(format!(
            "the label {label} is too large for {n} classes (0 to {})",
            n.saturating_sub(1)
        )),
        _ => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rows(labels: &[i64]) -> Rows {
        let mut rows = Rows::default();
        for (i, &label) in labels.iter().enumerate() {
            rows.push(i + 1, format!("c/{i}.jpg"), label);
        }
        rows
    }

    #[test]
    fn labels_and_classes() {
        assert_eq!(rows(&[1, 0, 1]).check(None), Ok((vec![1, 0, 1], 2)));
        assert_eq!(rows(&[1]).check(Some(3)), Ok((vec![1], 3)));
        let wrong = |labels: &[i64], classes| {
            let wrong = rows(labels).check(classes).unwrap_err();
            (wrong.line, wrong.problem)
        };
        let (line, problem) = wrong(&[0, 1, 3], None);
        assert_eq!(line, Some(3));
        assert!(problem.starts_with("the label 3 is used, but no image has label 2"));
        // A label far beyond the list must not cost memory.
        assert_eq!(wrong(&[0, 4_000_000_000], None).0, Some(2));
        assert_eq!(wrong(&[0, 1, -2], Some(5)).0, Some(3));
        assert_eq!(wrong(&[0, 5], Some(5)).0, Some(2));
        assert_eq!(wrong(&[], None).0, None);

        let mut told = rows(&[0, 1]);
        told.num_classes = Some(4);
        let missing = told.check(None).unwrap_err();
        assert!(missing.line.is_none() && missing.problem.contains("no image has label 2"));
        assert_eq!(told.check(Some(4)), Ok((vec![0, 1], 4)));
        assert!(
            told.check(Some(3))
                .unwrap_err()
                .problem
                .contains("has 4 classes, but 3")
        );
        told.num_classes = Some(i64::MAX);
        assert!(
            told.check(None)
                .unwrap_err()
                .problem
                .contains("no image has label 2")
        );
        told.num_classes = Some(-1);
        assert!(told.check(None).is_err());
    }
}

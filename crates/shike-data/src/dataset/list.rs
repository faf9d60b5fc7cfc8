//! List files, as ImageNet-LT, Places-LT and iNaturalist are published: text, CSV or JSON.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rows::{Names, Rows, Wrong};
use super::walk::{images_below, is_image_name};
use super::{Dataset, PathRule, number_names};
use crate::error::{DataError, Result};
use crate::read::{long_line, read};

/// Where a list has images and labels, where it does not call them as usual.
///
/// Usual are `path`, `image` or `file`, or else `file_name`, `filename`, `image_path`, `filepath`, `image_id` or `img`; and
/// `label` or `class`, or else `dx`, `category`, `category_name`, `species` or `target`. A list without a column of labels has one
/// for each class, in which its images have a 1 and others a 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListColumns {
    /// The column of a CSV file that names images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The column of labels, or as `path:2` or `path:REGEX` a part of each path, which is then a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Reads a list file whose paths lie below `root`: text, or by its ending `.csv` or `.json`.
///
/// - Text has one `path label` a line. A line is split at its last space, so paths may hold spaces;
///   blank lines may stand at the end.
/// - CSV (RFC 4180) has a header line with a column of paths and one of labels, see [`ListColumns`]; other columns do not
///   count. Labels are numbers or names. Names are numbered in
///   their order, as the folders of [`image_folder`](super::image_folder) are.
/// - JSON is `{"annotations": [{"fpath": "a/b.jpg", "category_id": 0}], "num_classes": 1}`.
///   `num_classes`, and `"categories": [{"id": 0, "name": "a"}]` for class names, may be left out. Or it is that of COCO, COCO Camera
///   Traps and iNaturalist, with `images`, `annotations` and `categories`; several annotations of an image have one category.
///
/// Windows line ends and a byte order mark are accepted. Paths of a `metadata.csv` below `root` start at its own folder. Where
/// no path ends as an image does, they are names of images anywhere below `root`. Else files are opened only when an image is
/// asked for.
///
/// `num_classes` is for lists that need not hold every class (test lists); without it the labels
/// have to be 0, 1, … without a gap. `class_names` sets the names and, if `num_classes` is
/// `None`, the number of classes too. Without names, here or in the file, a class is called after
/// the folder that all its images lie in; if two classes share that name, all are called after
/// their path from where the paths first differ (`a/apartment_building/outdoor`); a class spread
/// over several folders is called by its number.
///
/// # Errors
/// [`DataError::ListLine`] with the line for a wrong number of fields, a label that is no number,
/// negative or too large, a path that is absolute or has `..`, an image that is listed twice, or
/// a gap in the labels; [`DataError::File`] for an empty list, or another number or other names of
/// classes than asked for; [`DataError::Field`] if the two optional arguments disagree.
pub fn list_file(
    root: impl AsRef<Path>,
    list_path: impl AsRef<Path>,
    num_classes: Option<usize>,
    class_names: Option<Vec<String>>,
) -> Result<Dataset> {
    let columns = ListColumns::default();
    columns.list_file(root.as_ref(), list_path.as_ref(), num_classes, class_names)
}

/// Reads a list file in the label space of another data set: a test list beside its training set.
/// The two may be of different kinds.
///
/// # Errors
/// As [`list_file`]; a label or a class that the other data set does not have is an error.
pub fn list_file_like(
    root: impl AsRef<Path>,
    list_path: impl AsRef<Path>,
    train: &Dataset,
) -> Result<Dataset> {
    ListColumns::default().list_file_like(root.as_ref(), list_path.as_ref(), train)
}

impl ListColumns {
    /// As [`list_file`]. The list may be a folder where labels are parts of paths: all images below it.
    ///
    /// # Errors
    /// As [`list_file`].
    pub fn list_file(
        &self,
        root: &Path,
        list_path: &Path,
        num_classes: Option<usize>,
        class_names: Option<Vec<String>>,
    ) -> Result<Dataset> {
        if let (Some(n), Some(names)) = (num_classes, &class_names)
            && names.len() != n
        {
            return Err(DataError::field(
                "class_names",
                format!("has {} names, but num_classes is {n}", names.len()),
            ));
        }
        let named = |wrong: Wrong| wrong.of(list_path);
        let bytes = match list_path.is_dir() {
            true => vec![],
            false => read(list_path).map_err(|e| DataError::io(list_path, e))?,
        };
        let mut rows = match self
            .label
            .as_deref()
            .and_then(|label| label.strip_prefix("path:"))
        {
            Some(rule) => self.by_path(rule, list_path, class_names.as_deref())?,
            None => self
                .parse(list_path, &bytes, class_names.as_deref())
                .map_err(named)?,
        };
        let wanted = num_classes.or(class_names.as_ref().map(Vec::len));
        let (mut labels, num_classes) = rows.check(wanted).map_err(|wrong| {
            named(match (wrong.row, wrong.line) {
                (Some(row), None) => super::json::locate(strip_bom(&bytes), row, wrong.problem),
                _ => wrong,
            })
        })?;
        if rows.repeats {
            let mut seen = HashSet::new();
            let first: Vec<bool> = rows
                .paths
                .iter()
                .map(|path| seen.insert(path.clone()))
                .collect();
            let mut keep = first.iter();
            labels.retain(|_| keep.next() == Some(&true));
            let mut keep = first.iter();
            rows.paths.retain(|_| keep.next() == Some(&true));
        }
        let names = match (class_names, rows.names.take()) {
            (Some(names), Some(own)) => match names.iter().zip(&own).position(|(a, b)| a != b) {
                Some(label) => {
                    return Err(named(Wrong::file(format!(
                        "class {label} is {:?} here, but {:?} in the training set",
                        own[label], names[label]
                    ))));
                }
                None => names,
            },
            (Some(names), None) | (None, Some(names)) => names,
            (None, None) => {
                folder_names(rows.paths.iter().map(String::as_str), &labels, num_classes)
            }
        };
        place(root, list_path, &mut rows).map_err(named)?;
        let notes = std::mem::take(&mut rows.notes);
        let data = Dataset::from_files(root.to_owned(), rows.paths, labels, names)?;
        Ok(data.with_notes(notes))
    }

    /// As [`list_file_like`].
    ///
    /// # Errors
    /// As [`list_file_like`].
    pub fn list_file_like(
        &self,
        root: &Path,
        list_path: &Path,
        train: &Dataset,
    ) -> Result<Dataset> {
        self.list_file(root, list_path, None, Some(train.class_names().to_vec()))
    }

    fn parse(
        &self,
        path: &Path,
        bytes: &[u8],
        known: Option<&[String]>,
    ) -> std::result::Result<Rows, Wrong> {
        let bytes = strip_bom(bytes);
        let is = |ending: &str| has_ending(path, ending);
        if !is("csv") && *self != Self::default() {
            let problem = "columns are for files whose names end in .csv (a label may be a part of the path: path:2)";
            return Err(Wrong::file(problem.into()));
        }
        if is("json") {
            return super::json::parse(bytes, known);
        }
        check_lines(bytes)?;
        match is("csv") {
            true => super::csv::parse(bytes, self, known),
            false => text(bytes),
        }
    }

    /// Paths, and what they tell.
    fn by_path(&self, rule: &str, list_path: &Path, known: Option<&[String]>) -> Result<Rows> {
        let rule: PathRule = rule
            .parse()
            .map_err(|problem| DataError::field("columns.label", problem))?;
        let paths = match list_path.is_dir() {
            true => (1..).zip(images_below(list_path)?.0).collect(),
            false => self.paths(list_path)?,
        };
        let mut rows = Rows::default();
        let mut names = Names::new(known);
        for (line, path) in paths {
            let wrong = |problem: String| match list_path.is_dir() {
                true => Wrong::file(problem).of(list_path),
                false => Wrong::line(line, problem).of(list_path),
            };
            let name = rule
                .of(&path)
                .ok_or_else(|| wrong(format!("{path:?} has no label at path:{rule}")))?;
            let label = names.number(name).map_err(wrong)?;
            rows.push(line, path, label);
        }
        names
            .finish(&mut rows)
            .map_err(|wrong| wrong.of(list_path))?;
        Ok(rows)
    }
}

/// Paths as they start at `root`: those of a `metadata.csv` start at its folder, and names without an ending are looked for.
fn place(root: &Path, list_path: &Path, rows: &mut Rows) -> std::result::Result<(), Wrong> {
    let own = list_path.parent().unwrap_or(Path::new(""));
    if list_path.file_name().is_some_and(|name| name == METADATA)
        && let Ok(folder) = own.strip_prefix(root)
        && let Some(folder) = folder.to_str()
    {
        // Nobody may have known that it counts.
        let listed: HashSet<&str> = rows.paths.iter().map(String::as_str).collect();
        let beside = images_below(own).map_or(vec![], |(images, _)| images);
        let others = beside
            .iter()
            .filter(|path| !listed.contains(path.as_str()))
            .count();
        let mut note = format!("labels are those of {}", list_path.display());
        if others > 0 && others < beside.len() {
            note += &format!(
                "; {others} of {} images beside it are not in it, and left out",
                beside.len()
            );
        }
        rows.notes.push(note);
        if !folder.is_empty() {
            rows.paths
                .iter_mut()
                .for_each(|path| *path = format!("{folder}/{path}"));
        }
    }
    if rows.paths.iter().any(|path| is_image_name(path)) {
        return Ok(());
    }
    // What is wrong with the folder, reading an image tells.
    let Ok((images, _)) = images_below(root) else {
        return Ok(());
    };
    let mut by_name: HashMap<&str, Vec<&String>> = HashMap::new();
    for image in &images {
        let stem = image
            .rsplit_once('.')
            .map_or(image.as_str(), |(stem, _)| stem);
        let name = stem.rsplit('/').next().unwrap_or(stem);
        for name in [Some(stem), Some(name).filter(|name| *name != stem)]
            .into_iter()
            .flatten()
        {
            by_name.entry(name).or_default().push(image);
        }
    }
    let found: Vec<_> = rows
        .paths
        .iter()
        .map(|path| by_name.get(path.as_str()))
        .collect();
    if found.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut paths = Vec::with_capacity(found.len());
    for (row, found) in found.into_iter().enumerate() {
        let path = &rows.paths[row];
        match found.map_or(&[][..], Vec::as_slice) {
            [image] => paths.push((*image).clone()),
            [] => {
                return Err(
                    rows.wrong(row, format!("no image below the folder is called {path:?}"))
                );
            }
            [first, second, ..] => {
                return Err(rows.wrong(
                    row,
                    format!("{path:?} may be {first} or {second}: write the path"),
                ));
            }
        }
    }
    rows.paths = paths;
    Ok(())
}

/// A list that lies beside its images, as Hugging Face's `imagefolder` has it.
const METADATA: &str = "metadata.csv";

/// The `metadata.csv` in a folder, if it tells the labels of images.
pub fn is_metadata(dir: &Path) -> Option<PathBuf> {
    let file = dir.join(METADATA);
    let bytes = read(&file).ok()?;
    super::csv::is_list(strip_bom(&bytes)).then_some(file)
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|own| own.eq_ignore_ascii_case(ending))
}

/// The paths of a list, as they are written there, without its labels: from the column `path`, `image` or
/// `file` of a CSV file, from the annotations of a JSON file, or from the lines of a text file. A number after
/// the last space or tab of a line is taken for a label and ignored.
///
/// # Errors
/// As [`list_file`], but for labels.
pub fn list_paths(list_path: impl AsRef<Path>) -> Result<Vec<String>> {
    let paths = ListColumns::default().paths(list_path.as_ref())?;
    Ok(paths.into_iter().map(|(_, path)| path).collect())
}

impl ListColumns {
    /// The paths, and the lines that they stand in.
    fn paths(&self, list_path: &Path) -> Result<Vec<(usize, String)>> {
        let bytes = read(list_path).map_err(|e| DataError::io(list_path, e))?;
        let bytes = strip_bom(&bytes);
        let is = |ending: &str| has_ending(list_path, ending);
        let named = |wrong: Wrong| wrong.of(list_path);
        if is("json") {
            let paths = super::json::parse(bytes, None).map_err(named)?.paths;
            return Ok((1..).zip(paths).collect());
        }
        check_lines(bytes).map_err(named)?;
        if is("csv") {
            let cells = super::csv::cells(bytes, self.image.as_deref(), None).map_err(named)?;
            let path =
                |(line, cells): (usize, Vec<String>)| Some((line, cells.into_iter().next()?));
            return Ok(cells.into_iter().filter_map(path).collect());
        }
        let mut paths = Vec::new();
        for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
            let line = std::str::from_utf8(line).map_err(|_| {
                let problem = "is not UTF-8 text; save the list as UTF-8";
                named(Wrong::line(number + 1, problem.into()))
            })?;
            let line = line.trim_end();
            let path = match line.rsplit_once([' ', '\t']) {
                Some((path, label)) if label.parse::<u64>().is_ok() => path.trim_end(),
                _ => line,
            };
            if !path.is_empty() {
                paths.push((number + 1, path.to_owned()));
            }
        }
        Ok(paths)
    }
}

/// A column of a CSV file that names images: their paths as they are written there, and the cells.
///
/// # Errors
/// [`DataError::ListLine`] if there is no such column, or a line is wrong.
pub(crate) fn list_column(list_path: &Path, name: &str) -> Result<Vec<(String, String)>> {
    let bytes = read(list_path).map_err(|e| DataError::io(list_path, e))?;
    let bytes = strip_bom(&bytes);
    let cells = check_lines(bytes).and_then(|()| super::csv::cells(bytes, None, Some(name)));
    let cells = cells.map_err(|wrong| wrong.of(list_path))?;
    let pair = |(_, cells): (_, Vec<String>)| <[String; 2]>::try_from(cells).ok().map(Into::into);
    Ok(cells.into_iter().filter_map(pair).collect())
}

/// The paths of a text file, and the number behind each.
pub(super) fn path_numbers(list_path: &Path) -> Result<Vec<(String, i64)>> {
    let bytes = read(list_path).map_err(|e| DataError::io(list_path, e))?;
    let bytes = strip_bom(&bytes);
    let rows = check_lines(bytes).and_then(|()| text(bytes));
    let rows = rows.map_err(|wrong| wrong.of(list_path))?;
    Ok(rows.paths.into_iter().zip(rows.labels).collect())
}

fn check_lines(bytes: &[u8]) -> std::result::Result<(), Wrong> {
    match long_line(bytes) {
        Some((line, problem)) => Err(Wrong::line(line, problem)),
        None => Ok(()),
    }
}

pub(super) fn strip_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

fn text(bytes: &[u8]) -> std::result::Result<Rows, Wrong> {
    let mut rows = Rows::default();
    let mut blank = None;
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = number + 1;
        let wrong = |problem: String| Wrong::line(number, problem);
        let line = std::str::from_utf8(line)
            .map_err(|_| wrong("is not UTF-8 text; save the list as UTF-8".into()))?
            .trim();
        if line.is_empty() {
            blank.get_or_insert(number);
            continue;
        }
        if let Some(first) = blank {
            return Err(Wrong::line(
                first,
                "is blank, but more lines follow; blank lines may stand at the end only".into(),
            ));
        }
        let (path, label) = entry(line).map_err(wrong)?;
        rows.push(number, path.to_owned(), label);
    }
    Ok(rows)
}

fn is_header(path: &str, label: &str) -> bool {
    let is = |word: &str, names: &[&str]| names.iter().any(|n| word.eq_ignore_ascii_case(n));
    is(path, super::csv::PATH) && is(label, super::csv::LABEL)
}

/// Path and label of one line that is not blank.
fn entry(line: &str) -> std::result::Result<(&str, i64), String> {
    let hint = if line.starts_with(['{', '[']) {
        "; is it JSON? Then its name has to end in .json"
    } else if line.contains(',') {
        "; is it CSV? Then its name has to end in .csv, and its first line name the columns \
         (`path,label`)"
    } else if line.contains(';') {
        "; is it parted by `;`? Write a space or a tab"
    } else {
        ""
    };
    let (path, label) = line
        .rsplit_once([' ', '\t'])
        .ok_or_else(|| format!("one field ({line:?}), wanted `path label`{hint}"))?;
    let path = path.trim_end();
    let label = label
        .parse()
        .map_err(|_| match label.trim_start_matches(['-', '+']) {
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                format!("the label {label} is too large")
            }
            _ if is_header(path, label) => {
                format!(
                    "{line:?} is a header line; text has none, a file whose name ends in .csv has"
                )
            }
            _ => format!("the label {label:?} is not a whole number, wanted `path label`{hint}"),
        })?;
    if let Some((file, other)) = path.rsplit_once([' ', '\t'])
        && other.parse::<i64>().is_ok()
        && is_image_name(file.trim_end())
    {
        return Err(format!("two labels, {other} and {label}: an image has one"));
    }
    if path.ends_with([',', ';']) {
        return Err(format!(
            "the path {path:?} ends in a separator, wanted `path label`{hint}"
        ));
    }
    Ok((path, label))
}

pub(super) fn folder_names<'a>(
    paths: impl Iterator<Item = &'a str>,
    labels: &[u32],
    num_classes: usize,
) -> Vec<String> {
    // The folder that all images of a class share: `None` until the first image, `Some(None)` if
    // there are several.
    let mut folders: Vec<Option<Option<&str>>> = vec![None; num_classes];
    for (path, &label) in paths.zip(labels) {
        let folder = path.rsplit_once('/').map(|(folder, _)| folder);
        match &mut folders[label as usize] {
            slot @ None => *slot = Some(folder),
            Some(seen) if *seen == folder => {}
            Some(seen) => *seen = None,
        }
    }
    let folders: Vec<Option<&str>> = folders.into_iter().map(Option::flatten).collect();
    let last = |folder: &str| folder.rsplit('/').next().unwrap_or(folder).to_owned();

    let mut seen = HashSet::new();
    let unique = folders
        .iter()
        .flatten()
        .all(|folder| seen.insert(last(folder)));
    let skip = if unique { 0 } else { shared_start(&folders) };
    let mut names = number_names(num_classes);
    for (name, folder) in names.iter_mut().zip(&folders) {
        if let Some(folder) = folder {
            *name = if unique {
                last(folder)
            } else {
                folder[skip..].to_owned()
            };
        }
    }
    names
}

/// Length of the leading folders that all of `folders` have in common, with the last `/`.
fn shared_start(folders: &[Option<&str>]) -> usize {
    let mut known = folders.iter().flatten();
    let Some(&first) = known.next() else {
        return 0;
    };
    let mut shared = first.rfind('/').map_or(0, |at| at + 1);
    for folder in known {
        while shared > 0 && !folder.starts_with(&first[..shared]) {
            shared = first[..shared - 1].rfind('/').map_or(0, |at| at + 1);
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str, num_classes: Option<usize>) -> Result<Dataset> {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.txt");
        std::fs::write(&list, text).unwrap();
        list_file("/data", &list, num_classes, None)
    }

    #[test]
    fn paths_with_spaces_windows_line_ends_and_a_byte_order_mark() {
        let data = read(
            "\u{feff}train/big cat/my photo 1.jpg 0\r\ntrain/dog/é.png 1\r\n\r\n  \r\n",
            None,
        )
        .unwrap();
        assert_eq!(data.labels(), [0, 1]);
        assert_eq!(data.class_names(), ["big cat", "dog"]);
        assert_eq!(data.origin(0), "/data/train/big cat/my photo 1.jpg");
        assert_eq!(data.origin(1), "/data/train/dog/é.png");
    }

    #[test]
    fn errors_name_file_and_line() {
        for (text, line, says) in [
            ("a/b.jpg 0\nc.jpg\n", 2, "wanted `path label`"),
            ("a/b.jpg zero\n", 1, "not a whole number"),
            ("a/b.jpg 1.0\n", 1, "not a whole number"),
            ("a/b.jpg 0\na/c.jpg -1\n", 2, "negative"),
            ("a/b.jpg 99999999999\n", 1, "too large"),
            ("/etc/passwd 0\n", 1, "absolute"),
            ("C:/x.jpg 0\n", 1, "absolute"),
            ("a/../../x.jpg 0\n", 1, "`..`"),
            ("a\\..\\x.jpg 0\n", 1, "`..`"),
            ("a/b.jpg 0\n\na/c.jpg 0\n", 2, "blank"),
        ] {
            let error = read(text, None).unwrap_err().to_string();
            assert!(error.contains(&format!("list.txt:{line}: ")), "{error}");
            assert!(error.contains(says), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("latin1.txt");
        std::fs::write(&list, b"a/b.jpg 0\na/\xE9.jpg 0\n").unwrap();
        let error = list_file("", &list, None, None).unwrap_err().to_string();
        assert!(error.contains("latin1.txt:2: is not UTF-8"), "{error}");
    }

    #[test]
    fn labels_without_images() {
        let error = read("a/x 0\na/y 2\n", None).unwrap_err().to_string();
        assert!(error.contains("no image has label 1"), "{error}");
        // A label far beyond the list must not cost memory.
        let error = read("a/x 0\na/y 4000000000\n", None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no image has label 1"), "{error}");
        let error = read("a/y 1\n", None).unwrap_err().to_string();
        assert!(error.contains("no image has label 0"), "{error}");
        assert!(
            read("\n\n", None)
                .unwrap_err()
                .to_string()
                .contains("no image")
        );

        let test = read("a/x 0\na/y 2\n", Some(4)).unwrap();
        assert_eq!(test.num_classes(), 4);
        assert_eq!(test.class_counts(), [1, 0, 1, 0]);
        let error = read("a/x 4\n", Some(4)).unwrap_err().to_string();
        assert!(
            error.contains("list.txt:1") && error.contains("4 classes"),
            "{error}"
        );
    }

    #[test]
    fn a_test_list_in_the_label_space_of_its_training_set() {
        let train = read("t/cat/1.jpg 0\nt/dog/1.jpg 1\n", None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("test.txt");
        std::fs::write(&list, "v/1.jpg 1\n").unwrap();
        let test = list_file_like("", &list, &train).unwrap();
        assert_eq!(test.class_names(), ["cat", "dog"]);
        std::fs::write(&list, "v/1.jpg 2\n").unwrap();
        assert!(list_file_like("", &list, &train).is_err());
        assert!(list_file("", &list, Some(3), Some(vec!["a".into()])).is_err());
    }

    #[test]
    fn names_from_folders() {
        let names = |text| read(text, None).unwrap().class_names().to_vec();
        // A class in two folders, and one beside no folder, have numbers.
        assert_eq!(names("x/a/1 0\nx/b/2 0\nx/c/3 1\n4 2\n"), ["0", "c", "2"]);
        // Places has `outdoor` below several buildings.
        assert_eq!(
            names("d/a/apartment/outdoor/1 0\nd/c/church/outdoor/2 1\nd/a/airfield/3 2\n"),
            ["a/apartment/outdoor", "c/church/outdoor", "a/airfield"]
        );
    }
}

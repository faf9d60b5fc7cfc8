//! List files, as ImageNet-LT, Places-LT and iNaturalist are published: text, CSV or JSON.

use std::collections::HashSet;
use std::path::Path;

use super::folder::is_image_name;
use super::rows::{Rows, Wrong};
use super::{Dataset, number_names};
use crate::error::{DataError, Result};
use crate::read::{long_line, read};

/// Reads a list file whose paths lie below `root`: text, or by its ending `.csv` or `.json`.
///
/// - Text has one `path label` a line. A line is split at its last space, so paths may hold spaces;
///   blank lines may stand at the end.
/// - CSV (RFC 4180) has a header line with a column `path`, `image` or `file` and a column `label`
///   or `class`; other columns do not count. Labels are numbers or names. Names are numbered in
///   their order, as the folders of [`image_folder`](super::image_folder) are.
/// - JSON is `{"annotations": [{"fpath": "a/b.jpg", "category_id": 0}], "num_classes": 1}`.
///   `num_classes`, and `"categories": [{"id": 0, "name": "a"}]` for class names, may be left out.
///
/// Windows line ends and a byte order mark are accepted. Files are opened only when an image is
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
/// a gap in the labels; [`DataError::List`] for an empty list, or another number or other names of
/// classes than asked for; [`DataError::Dataset`] if the two optional arguments disagree.
pub fn list_file(
    root: impl AsRef<Path>,
    list_path: impl AsRef<Path>,
    num_classes: Option<usize>,
    class_names: Option<Vec<String>>,
) -> Result<Dataset> {
    if let (Some(n), Some(names)) = (num_classes, &class_names)
        && names.len() != n
    {
        return Err(DataError::Dataset {
            field: "class_names",
            problem: format!("has {} names, but num_classes is {n}", names.len()),
        });
    }
    let list_path = list_path.as_ref();
    let bytes = read(list_path).map_err(|e| DataError::io(list_path, e))?;
    let named = |wrong: Wrong| wrong.of(list_path);
    let rows = parse(list_path, &bytes, class_names.as_deref()).map_err(named)?;
    let wanted = num_classes.or(class_names.as_ref().map(Vec::len));
    let (labels, num_classes) = rows.check(wanted).map_err(|wrong| {
        named(match (wrong.row, wrong.line) {
            (Some(row), None) => super::json::locate(strip_bom(&bytes), row, wrong.problem),
            _ => wrong,
        })
    })?;
    let names = match (class_names, rows.names) {
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
        (None, None) => folder_names(rows.paths.iter().map(String::as_str), &labels, num_classes),
    };
    Dataset::from_files(root.as_ref().to_owned(), rows.paths, labels, names)
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
    list_file(root, list_path, None, Some(train.class_names().to_vec()))
}

/// The paths of a list, as they are written there, without its labels: from the column `path`, `image` or
/// `file` of a CSV file, from the annotations of a JSON file, or from the lines of a text file. A number after
/// the last space or tab of a line is taken for a label and ignored.
///
/// # Errors
/// As [`list_file`], but for labels.
pub fn list_paths(list_path: impl AsRef<Path>) -> Result<Vec<String>> {
    let list_path = list_path.as_ref();
    let bytes = read(list_path).map_err(|e| DataError::io(list_path, e))?;
    let bytes = strip_bom(&bytes);
    let is = |ending: &str| {
        list_path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(ending))
    };
    let named = |wrong: Wrong| wrong.of(list_path);
    if is("json") {
        return Ok(super::json::parse(bytes).map_err(named)?.paths);
    }
    check_lines(bytes).map_err(named)?;
    if is("csv") {
        return super::csv::paths(bytes).map_err(named);
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
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

fn parse(path: &Path, bytes: &[u8], known: Option<&[String]>) -> std::result::Result<Rows, Wrong> {
    let bytes = strip_bom(bytes);
    let ending = path.extension().unwrap_or_default();
    if ending.eq_ignore_ascii_case("json") {
        return super::json::parse(bytes);
    }
    check_lines(bytes)?;
    match ending.eq_ignore_ascii_case("csv") {
        true => super::csv::parse(bytes, known),
        false => text(bytes),
    }
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

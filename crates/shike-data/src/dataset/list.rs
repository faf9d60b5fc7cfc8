//! List files: one `path label` a line, as ImageNet-LT, Places-LT and iNaturalist are published.

use std::collections::HashSet;
use std::path::Path;

use super::{Dataset, number_names};
use crate::error::{DataError, Result};

/// Reads a list file whose paths lie below `root`.
///
/// A line is split at its last space, so paths may hold spaces; Windows line ends, a byte order
/// mark and blank lines at the end are accepted. Files are opened only when an image is asked for.
///
/// `num_classes` is for lists that need not hold every class (test lists); without it the labels
/// have to be 0, 1, … without a gap. `class_names` sets the names and, if `num_classes` is
/// `None`, the number of classes too. Without names a class is called after the folder that all
/// its images lie in; if two classes share that name, all are called after their path from where
/// the paths first differ (`a/apartment_building/outdoor`); a class spread over several folders
/// is called by its number.
///
/// # Errors
/// [`DataError::ListLine`] with the line for a wrong number of fields, a label that is no number,
/// negative or too large, an absolute path or one with `..`; [`DataError::List`] for an empty list
/// or a label without an image; [`DataError::Dataset`] if the two optional arguments disagree.
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
    let num_classes = num_classes.or(class_names.as_ref().map(Vec::len));
    let (paths, labels) = parse(list_path, num_classes)?;
    let num_classes = match num_classes {
        Some(n) => n,
        None => count_classes(list_path, &labels)?,
    };
    let names = class_names.unwrap_or_else(|| folder_names(&paths, &labels, num_classes));
    Dataset::from_files(root.as_ref().to_owned(), paths, labels, names)
}

/// Reads a list file in the label space of another data set: a test list beside its training set.
///
/// # Errors
/// As [`list_file`]; a label that the other data set does not have is an error.
pub fn list_file_like(
    root: impl AsRef<Path>,
    list_path: impl AsRef<Path>,
    train: &Dataset,
) -> Result<Dataset> {
    list_file(root, list_path, None, Some(train.class_names().to_vec()))
}

fn parse(list_path: &Path, num_classes: Option<usize>) -> Result<(Vec<String>, Vec<u32>)> {
    let bytes = std::fs::read(list_path).map_err(|e| DataError::io(list_path, e))?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let (mut paths, mut labels) = (Vec::new(), Vec::new());
    let mut blank = None;
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = number + 1;
        let wrong = |problem: String| DataError::ListLine {
            path: list_path.to_owned(),
            line: number,
            problem,
        };
        let line = std::str::from_utf8(line)
            .map_err(|_| wrong("is not UTF-8 text; save the list as UTF-8".into()))?
            .trim();
        if line.is_empty() {
            blank.get_or_insert(number);
            continue;
        }
        if let Some(first) = blank {
            return Err(DataError::ListLine {
                path: list_path.to_owned(),
                line: first,
                problem: "is blank, but more lines follow; blank lines may stand at the end only"
                    .into(),
            });
        }
        let (path, label) = entry(line, num_classes).map_err(wrong)?;
        paths.push(path.to_owned());
        labels.push(label);
    }
    if labels.is_empty() {
        return Err(DataError::List {
            path: list_path.to_owned(),
            problem: "holds no image; a line is `path label`".into(),
        });
    }
    Ok((paths, labels))
}

/// Path and label of one line that is not blank.
fn entry(line: &str, num_classes: Option<usize>) -> std::result::Result<(&str, u32), String> {
    let (path, label) = line
        .rsplit_once([' ', '\t'])
        .ok_or_else(|| format!("one field ({line:?}), wanted `path label`"))?;
    let path = path.trim_end();
    let label: i64 = label
        .parse()
        .map_err(|_| format!("the label {label:?} is not a whole number"))?;
    let label = u32::try_from(label).map_err(|_| match label {
        ..0 => format!("the label {label} is negative; labels start at 0"),
        _ => format!("the label {label} is too large"),
    })?;
    if let Some(n) = num_classes
        && label as usize >= n
    {
        return Err(format!(
            "the label {label} is too large for {n} classes (0 to {})",
            n.saturating_sub(1)
        ));
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
    Ok((path, label))
}

/// One more than the largest label; every smaller one has to have an image.
fn count_classes(list_path: &Path, labels: &[u32]) -> Result<usize> {
    // No larger than the list: a label of four billion must not become four billion counters.
    let mut seen = vec![false; labels.len()];
    let mut largest = 0;
    for &label in labels {
        if let Some(slot) = seen.get_mut(label as usize) {
            *slot = true;
        }
        largest = largest.max(label as usize);
    }
    // With fewer images than labels one of the first `labels.len()` labels is missing anyway.
    match seen.iter().take(largest + 1).position(|&s| !s) {
        Some(gap) => Err(DataError::List {
            path: list_path.to_owned(),
            problem: format!(
                "no image has label {gap}, though {largest} is used; labels run from 0 without \
                 gaps, unless the number of classes is given (test lists)"
            ),
        }),
        None => Ok(largest + 1),
    }
}

fn folder_names(paths: &[String], labels: &[u32], num_classes: usize) -> Vec<String> {
    // The folder that all images of a class share: `None` until the first image, `Some(None)` if
    // there are several.
    let mut folders: Vec<Option<Option<&str>>> = vec![None; num_classes];
    for (path, &label) in paths.iter().zip(labels) {
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

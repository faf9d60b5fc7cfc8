//! Class names beside a list file.

use std::collections::HashMap;
use std::path::Path;

use super::Dataset;
use super::list::{list_file, strip_bom};
use crate::error::{DataError, Result};

/// Reads a file with a class name a line, by label: the `classes.txt` of
/// [`SplitPlan::write`](crate::split::SplitPlan::write), for one. Space around a name does not count;
/// Windows line ends, a byte order mark and blank lines at the end are accepted.
///
/// # Errors
/// [`DataError::ListLine`] for a line that is blank, no UTF-8, or holds a name for the second time;
/// [`DataError::List`] for a file without a name.
pub fn class_names_file(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    let wrong = |line: usize, problem: String| DataError::ListLine {
        path: path.to_owned(),
        line,
        problem,
    };
    let mut names: Vec<String> = Vec::new();
    let mut lines = HashMap::new();
    let mut blank = None;
    for (line, name) in strip_bom(&bytes).split(|&b| b == b'\n').enumerate() {
        let line = line + 1;
        let name = std::str::from_utf8(name)
            .map_err(|_| wrong(line, "is not UTF-8 text; save the file as UTF-8".into()))?
            .trim();
        if name.is_empty() {
            blank.get_or_insert(line);
            continue;
        }
        if let Some(blank) = blank {
            let problem = "is blank, but more names follow; line 1 names class 0, and so on";
            return Err(wrong(blank, problem.into()));
        }
        if let Some(first) = lines.insert(name.to_owned(), line) {
            let problem = format!("the class {name:?} stands in line {first} already");
            return Err(wrong(line, problem));
        }
        names.push(name.to_owned());
    }
    match names.is_empty() {
        true => Err(DataError::List {
            path: path.to_owned(),
            problem: "holds no class name; wanted one a line".into(),
        }),
        false => Ok(names),
    }
}

/// Reads a list of training images, as [`list_file`], whose classes are called as the lines of
/// `names` say. The data set notes where its names are from.
///
/// # Errors
/// As [`list_file`] and [`class_names_file`]; [`DataError::List`] if a name has no image.
pub fn list_file_named(
    root: impl AsRef<Path>,
    list_path: impl AsRef<Path>,
    names: impl AsRef<Path>,
) -> Result<Dataset> {
    let (list_path, file) = (list_path.as_ref(), names.as_ref());
    let names = class_names_file(file)?;
    let classes = names.len();
    let mut data = list_file(root, list_path, None, Some(names))?;
    if let Some(label) = data.class_counts().iter().position(|&n| n == 0) {
        return Err(DataError::ListLine {
            path: file.to_owned(),
            line: label + 1,
            problem: format!(
                "{:?} is the name of class {label}, which has no image in {}; the {classes} lines \
                 name the classes 0 to {}",
                data.class_names()[label],
                list_path.display(),
                classes - 1,
            ),
        });
    }
    let note = format!("class names are those of {}", file.display());
    data.notes = data.notes.iter().cloned().chain([note]).collect();
    Ok(data)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_what_is_wrong_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("classes.txt");
        let read = |text: &[u8]| {
            std::fs::write(&file, text).unwrap();
            class_names_file(&file).map_err(|e| e.to_string())
        };
        let names = read("\u{feff}big cat\r\n hérisson \r\n\n".as_bytes()).unwrap();
        assert_eq!(names, ["big cat", "hérisson"]);
        for (text, says) in [
            (&b"a\n\nb\n"[..], "classes.txt:2: is blank"),
            (
                b"a\nb\na\n",
                "classes.txt:3: the class \"a\" stands in line 1",
            ),
            (b"a\n\xE9\n", "classes.txt:2: is not UTF-8"),
            (b"\n", "classes.txt: holds no class name"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_list_takes_the_names_and_has_an_image_for_each() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let list = at("train.txt", "x/1.jpg 0\nx/2.jpg 1\n");
        let data = list_file_named("/data", &list, at("two.txt", "cat\ndog\n")).unwrap();
        assert_eq!(data.class_names(), ["cat", "dog"]);
        assert!(data.notes()[0].ends_with("two.txt"), "{:?}", data.notes());
        let fails = |names| {
            let error = list_file_named("/data", &list, names).unwrap_err();
            error.to_string()
        };
        let error = fails(at("three.txt", "cat\ndog\nowl\n"));
        assert!(error.contains("three.txt:3: \"owl\""), "{error}");
        let error = fails(at("one.txt", "cat\n"));
        assert!(
            error.contains("train.txt:2: the label 1 is too large for 1 classes"),
            "{error}"
        );
    }
}

//! Class names beside a list file.

use std::collections::HashMap;
use std::path::Path;

use super::Dataset;
use super::list::{ListColumns, folder_names, strip_bom};
use crate::error::{DataError, Result};
use crate::read::{long_line, read};

/// Sorts class names: as numbers where all of them are whole numbers (`2` before `10`), else as text.
pub(crate) fn sort_names(names: &mut [String]) {
    let is_number = |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    match names.iter().all(is_number) {
        // Of any length: without leading zeros the longer one is the larger.
        true => names.sort_unstable_by(|a, b| {
            let digits = [a, b].map(|name| name.trim_start_matches('0'));
            let key = |digits: &str| digits.len();
            (key(digits[0]), digits[0], a).cmp(&(key(digits[1]), digits[1], b))
        }),
        false => names.sort_unstable(),
    }
}

/// The first of the names, and how many more there are.
pub fn some_names(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Why names by label seem to be of another order than `own`, those of the folders or of a model; none
/// if they do not.
pub fn names_disagree(own: &[String], names: &[String]) -> Option<String> {
    let place: HashMap<&str, usize> = own.iter().map(String::as_str).zip(0..).collect();
    for (label, name) in names.iter().enumerate() {
        if let Some(&other) = place.get(name.as_str()).filter(|&&other| other != label) {
            return Some(format!(
                "line {} names class {label} {name:?}, but so class {other} is called: lines go by label",
                label + 1,
            ));
        }
    }
    // `0`, `1`, … or `1`, `2`, … are numbers of lines.
    let numbers: Option<Vec<usize>> = own.iter().map(|name| name.parse().ok()).collect();
    let numbers = numbers?;
    let counts_from = |first: usize| numbers.iter().zip(first..).all(|(a, b)| *a == b);
    if own == names || counts_from(0) || counts_from(1) {
        return None;
    }
    let label = numbers.iter().zip(numbers[0]..).position(|(a, b)| *a != b);
    let label = label.unwrap_or(0);
    Some(format!(
        "line {} names class {label}, which is called {:?}: lines go by label, not by these numbers",
        label + 1,
        own[label],
    ))
}

/// Reads a file with a class name a line, by label: the `classes.txt` of
/// [`SplitPlan::write`](crate::split::SplitPlan::write), for one. Space around a name does not count;
/// Windows line ends, a byte order mark and blank lines at the end are accepted.
///
/// # Errors
/// [`DataError::ListLine`] for a line that is blank, no UTF-8, or holds a name for the second time;
/// [`DataError::File`] for a file without a name.
pub fn class_names_file(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let bytes = read(path).map_err(|e| DataError::io(path, e))?;
    let wrong = |line: usize, problem: String| DataError::ListLine {
        path: path.to_owned(),
        line,
        problem,
    };
    if let Some((line, problem)) = long_line(&bytes) {
        return Err(wrong(line, problem));
    }
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
        true => Err(DataError::file(
            path,
            "holds no class name; wanted one a line",
        )),
        false => Ok(names),
    }
}

/// Reads a list of training images, as [`list_file`](super::list_file), whose classes are called as the lines of
/// `names` say. The data set notes where its names are from.
///
/// # Errors
/// As [`list_file`](super::list_file) and [`class_names_file`]; [`DataError::File`] if a name has no image.
pub fn list_file_named(
    root: impl AsRef<Path>,
    list_path: impl AsRef<Path>,
    names: impl AsRef<Path>,
) -> Result<Dataset> {
    ListColumns::default().list_file_named(root.as_ref(), list_path.as_ref(), names.as_ref())
}

impl ListColumns {
    /// As [`list_file_named`].
    ///
    /// # Errors
    /// As [`list_file_named`].
    pub fn list_file_named(&self, root: &Path, list_path: &Path, file: &Path) -> Result<Dataset> {
        let names = class_names_file(file)?;
        let classes = names.len();
        let mut data = self.list_file(root, list_path, None, Some(names))?;
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
        let mut notes = data.notes.to_vec();
        notes.push(format!("class names are those of {}", file.display()));
        let paths = (0..data.len()).filter_map(|i| data.relative_path(i));
        let own = folder_names(paths, &data.labels, classes);
        let problem = names_disagree(&own, &data.class_names);
        notes.extend(problem.map(|problem| format!("{}: {problem}", file.display())));
        data.notes = notes.into();
        Ok(data)
    }
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
    fn whole_numbers_are_sorted_by_value() {
        let sorted = |names: &[&str]| {
            let mut names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            sort_names(&mut names);
            names.join(" ")
        };
        let long = "9".repeat(30);
        assert_eq!(
            sorted(&["10", &long, "9", "007", "7", "0"]),
            format!("0 007 7 9 10 {long}")
        );
        assert_eq!(sorted(&["10", "9", "-1"]), "-1 10 9");
        assert_eq!(sorted(&["n02", "n10", "n01"]), "n01 n02 n10");
    }

    #[test]
    fn names_of_another_order_are_told() {
        let says = |own: &str, names: &str| {
            let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            names_disagree(&words(own), &words(names)).unwrap_or_default()
        };
        assert_eq!(says("n01 n02", "cat dog"), "");
        assert_eq!(says("0 1 2", "ant bee cow"), "");
        assert_eq!(says("1 2 3", "ant bee cow"), "");
        assert_eq!(says("7 9", "7 9"), "");
        assert!(
            says("ant bee", "bee ant")
                .starts_with("line 1 names class 0 \"bee\", but so class 1 is called")
        );
        let text = says("0 1 10 2", "ant bee cow dog");
        assert!(
            text.starts_with("line 3 names class 2, which is called \"10\""),
            "{text}"
        );
        assert!(says("5 6", "ant bee").starts_with("line 1 names class 0, which is called \"5\""));
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
        // The folders are called otherwise, in another order.
        let list2 = at("numbers.txt", "2/1.jpg 0\n10/2.jpg 1\n");
        let data = list_file_named("/data", list2, at("two.txt", "cat\ndog\n")).unwrap();
        assert!(data.notes()[1].contains("two.txt: line 2 names class 1, which is called \"10\""));
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

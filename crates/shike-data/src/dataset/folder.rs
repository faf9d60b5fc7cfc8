//! Image folders: `class/name.jpg`.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::Dataset;
use crate::error::{DataError, Result};

/// Folders deeper than this are taken for a loop of links.
const MAX_DEPTH: usize = 32;

/// Endings of the images that are read.
const READ: &[&str] = &["jpg", "jpeg", "png"];

/// Endings of images that somebody may expect to be read.
const NOT_READ: &[&str] = &[
    "avif", "bmp", "gif", "heic", "heif", "jfif", "jp2", "tif", "tiff", "webp",
];

/// Reads a folder with one subfolder a class: `class/name.jpg` or `class/anything/name.jpg`.
///
/// Classes are numbered in the order of their names, images sorted by path. JPEG and PNG files
/// count, whatever the case of their ending; hidden files and folders and other files do not. Images
/// of other formats are counted in [`Dataset::notes`].
///
/// # Errors
/// [`DataError::Folder`] if there is no class or a class has no image.
pub fn image_folder(dir: impl AsRef<Path>) -> Result<Dataset> {
    let dir = dir.as_ref();
    let classes = subfolders(dir)?;
    if classes.is_empty() {
        return Err(no_class(dir));
    }
    not_splits(dir, &classes)?;
    read(dir, classes, Empty::IsAnError)
}

/// Reads a folder as it lies, for looking at it before training: a class without an image is no
/// error but a class of size 0, and classes that `known` lacks are numbered behind those of `known`.
///
/// # Errors
/// [`DataError::Folder`] if there is no class at all, or a name that is not UTF-8.
pub fn image_folder_as_found(dir: impl AsRef<Path>, known: &[String]) -> Result<Dataset> {
    let dir = dir.as_ref();
    let mut classes = known.to_vec();
    let seen: HashSet<&str> = known.iter().map(String::as_str).collect();
    classes.extend(
        subfolders(dir)?
            .into_iter()
            .filter(|name| !seen.contains(name.as_str())),
    );
    if classes.is_empty() {
        return Err(no_class(dir));
    }
    not_splits(dir, &classes)?;
    read(dir, classes, Empty::IsAllowed)
}

/// Reads a folder whose classes have the numbers of `classes`: the test folder of a training set.
///
/// # Errors
/// As [`image_folder`]; also if the folder has a class that `classes` lacks. A class without a
/// folder has no images; that is allowed, since a test set need not hold every class.
pub fn image_folder_with_classes(dir: impl AsRef<Path>, classes: &[String]) -> Result<Dataset> {
    let dir = dir.as_ref();
    if let Some(unknown) = subfolders(dir)?.iter().find(|name| !classes.contains(name)) {
        return Err(DataError::Folder {
            path: dir.join(unknown),
            problem: format!(
                "is no class of the training set, whose {} classes start with {:?}",
                classes.len(),
                &classes[..classes.len().min(3)],
            ),
        });
    }
    let data = read(dir, classes.to_vec(), Empty::IsAnError)?;
    if data.is_empty() {
        return Err(DataError::Folder {
            path: dir.to_owned(),
            problem: "holds no image; wanted one folder a class, as in class/name.jpg".into(),
        });
    }
    Ok(data)
}

/// Whether a folder is meant for a split, however it is spelt.
pub fn is_split_name(name: &str) -> bool {
    let names = [
        "train",
        "training",
        "val",
        "valid",
        "validation",
        "test",
        "tests",
        "testing",
    ];
    names.iter().any(|split| name.eq_ignore_ascii_case(split))
}

/// Refuses to take `Train` and `Test` for two classes.
fn not_splits(dir: &Path, classes: &[String]) -> Result<()> {
    match classes.iter().all(|class| is_split_name(class)) {
        false => Ok(()),
        true => Err(DataError::Folder {
            path: dir.to_owned(),
            problem: format!(
                "{} here are no classes: call the folders `train`, `val` and `test`, or give the one \
                 with the classes",
                classes.join(" and ")
            ),
        }),
    }
}

fn no_class(dir: &Path) -> DataError {
    DataError::Folder {
        path: dir.to_owned(),
        problem: "holds no class; wanted one folder a class, as in class/name.jpg".into(),
    }
}

/// What a class folder without an image is.
#[derive(PartialEq)]
enum Empty {
    IsAnError,
    IsAllowed,
}

fn read(dir: &Path, classes: Vec<String>, empty: Empty) -> Result<Dataset> {
    let (mut paths, mut labels) = (Vec::new(), Vec::new());
    let mut others = BTreeMap::new();
    for (label, class) in classes.iter().enumerate() {
        let folder = dir.join(class);
        if !folder.is_dir() {
            continue;
        }
        let before = paths.len();
        collect(&folder, class, 0, &mut paths, &mut others)?;
        if paths.len() == before && empty == Empty::IsAnError {
            return Err(DataError::Folder {
                path: folder,
                problem: format!(
                    "holds no image; wanted .jpg, .jpeg or .png files, or no such folder{}",
                    passed_over(&others).map_or_else(String::new, |note| format!(" ({note})"))
                ),
            });
        }
        paths[before..].sort_unstable();
        labels.resize(paths.len(), label as u32);
    }
    let mut data = Dataset::from_files(dir.to_owned(), paths, labels, classes)?;
    data.notes = passed_over(&others).into_iter().collect();
    Ok(data)
}

/// Such as `37 files skipped: 30 .webp, 7 .gif`, the most frequent first.
fn passed_over(others: &BTreeMap<&'static str, usize>) -> Option<String> {
    let mut counts: Vec<_> = others.iter().collect();
    counts.sort_by_key(|(ending, count)| (std::cmp::Reverse(**count), **ending));
    let total: usize = others.values().sum();
    let counts: Vec<String> = counts.iter().map(|(e, n)| format!("{n} .{e}")).collect();
    let files = if total == 1 { "file" } else { "files" };
    (total > 0).then(|| format!("{total} {files} skipped: {}", counts.join(", ")))
}

/// The names of the subfolders that are not hidden, sorted.
fn subfolders(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, path) in entries(dir)? {
        if !path.is_dir() {
            continue;
        }
        // Lists of names are read without such spaces, which nobody sees.
        if name.trim() != name {
            return Err(DataError::Folder {
                path,
                problem: format!(
                    "the name {name:?} begins or ends with a space: rename the folder"
                ),
            });
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// Adds the images below `folder`, which is called `prefix` from the data set's own folder.
fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    paths: &mut Vec<String>,
    others: &mut BTreeMap<&'static str, usize>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(DataError::Folder {
            path: folder.to_owned(),
            problem: format!("lies more than {MAX_DEPTH} folders deep; is a link a loop?"),
        });
    }
    for (name, path) in entries(folder)? {
        let relative = format!("{prefix}/{name}");
        if path.is_dir() {
            collect(&path, &relative, depth + 1, paths, others)?;
        } else if is_image_name(&path) {
            paths.push(relative);
        } else if let Some(other) = ending(&path, NOT_READ) {
            *others.entry(other).or_default() += 1;
        }
    }
    Ok(())
}

/// Whether a file is taken for an image in a folder: by what its name ends in, in any case.
pub fn is_image_name(path: &Path) -> bool {
    ending(path, READ).is_some()
}

/// Which of `known` a name ends in, in any case.
fn ending(path: &Path, known: &[&'static str]) -> Option<&'static str> {
    let ending = path.extension()?;
    known
        .iter()
        .copied()
        .find(|known| ending.eq_ignore_ascii_case(known))
}

/// Name and path of what `dir` holds, hidden entries left out.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e| DataError::io(dir, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            return Err(DataError::Folder {
                path,
                problem: "has a name that is not UTF-8; rename it".into(),
            });
        };
        if !name.starts_with('.') {
            found.push((name.to_owned(), path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::DecodeLimits;
    use std::fs;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        dir
    }

    #[test]
    fn classes_and_files_are_sorted() {
        let dir = tree(&[
            "dog/z.PNG",
            "dog/a.jpeg",
            "cat/deep/er/x.Jpg",
            "cat/b.jpg",
            "cat/notes.txt",
            "cat/.hidden.jpg",
            ".git/x.jpg",
            "README.md",
        ]);
        let data = image_folder(dir.path()).unwrap();
        assert_eq!(data.class_names(), ["cat", "dog"]);
        assert_eq!(data.labels(), [0, 0, 1, 1]);
        let names: Vec<String> = (0..4)
            .map(|i| data.origin(i)[dir.path().display().to_string().len() + 1..].to_owned())
            .collect();
        assert_eq!(
            names,
            ["cat/b.jpg", "cat/deep/er/x.Jpg", "dog/a.jpeg", "dog/z.PNG"]
        );
        // Empty files: the error names the path.
        let error = data.image(2, &DecodeLimits::default()).unwrap_err();
        assert!(error.to_string().contains("dog/a.jpeg"), "{error}");
    }

    #[test]
    fn a_test_folder_keeps_the_numbers_of_the_training_set() {
        let classes: Vec<String> = ["ant", "cat", "dog"].map(String::from).into();
        let dir = tree(&["dog/1.jpg", "ant/2.jpg"]);
        let data = image_folder_with_classes(dir.path(), &classes).unwrap();
        assert_eq!(data.labels(), [0, 2]);
        assert_eq!(data.num_classes(), 3);
        let dir = tree(&["dog/1.jpg", "bee/2.jpg"]);
        let error = image_folder_with_classes(dir.path(), &classes).unwrap_err();
        assert!(error.to_string().contains("bee: is no class"), "{error}");
        let dir = tree(&["x.jpg"]);
        assert!(image_folder_with_classes(dir.path(), &classes).is_err());
    }

    #[test]
    fn empty_classes_and_folders_are_errors() {
        let error = image_folder(tree(&["cat/1.jpg", "dog/1.txt"]).path()).unwrap_err();
        assert!(error.to_string().contains("dog: holds no image"), "{error}");
        let error = image_folder(tree(&["1.jpg"]).path()).unwrap_err();
        assert!(error.to_string().contains("no class"), "{error}");
        assert!(
            image_folder("/nowhere/at/all")
                .unwrap_err()
                .to_string()
                .contains("/nowhere")
        );
    }

    #[test]
    fn names_that_lists_could_not_hold_and_those_of_splits_are_errors() {
        for (files, says) in [
            (
                ["cat/1.jpg", "dog /1.jpg"],
                "dog : the name \"dog \" begins or ends with a space",
            ),
            (
                ["Train/cat/1.jpg", "tests/cat/1.jpg"],
                "Train and tests here are no classes",
            ),
        ] {
            let dir = tree(&files);
            for error in [
                image_folder(dir.path()).unwrap_err(),
                image_folder_as_found(dir.path(), &[]).unwrap_err(),
            ] {
                assert!(error.to_string().contains(says), "{error}");
            }
        }
        // A train is a thing as well.
        image_folder(tree(&["train/1.jpg", "ship/1.jpg"]).path()).unwrap();
    }

    #[test]
    fn a_folder_as_it_lies() {
        let dir = tree(&["cat/1.jpg", "dog/1.txt", "ant/1.jpg"]);
        let data = image_folder_as_found(dir.path(), &["cat".into(), "cow".into()]).unwrap();
        assert_eq!(data.class_names(), ["cat", "cow", "ant", "dog"]);
        assert_eq!(data.class_counts(), [1, 0, 1, 0]);
        assert!(image_folder_as_found(tree(&["1.jpg"]).path(), &[]).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_loop_of_links_ends() {
        let dir = tree(&["cat/1.jpg"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("cat/again")).unwrap();
        assert!(image_folder(dir.path()).is_err());
    }
}

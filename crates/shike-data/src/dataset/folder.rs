//! Image folders: `class/name.jpg`, and parts of a data set. docs/FORMATS.md has the rules.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::Dataset;
use super::names::{some_names, sort_names};
use super::walk::{LeftOut, OUTSIDE, collect, subfolders};
use crate::error::{DataError, Result};

/// Names of validation folders: people write them in three ways.
const VAL: [&str; 3] = ["val", "valid", "validation"];

/// Where the parts of a data set of folders are: `train`, `val` (or `valid`, `validation`) and `test`
/// in its folder, or, without `train`, the folder itself for training alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderParts {
    /// The class folders of the training images.
    pub train: PathBuf,
    /// Those of the validation images.
    pub val: Option<PathBuf>,
    /// Those of the test images.
    pub test: Option<PathBuf>,
    /// Folders beside `train` that are no part.
    beside: Vec<String>,
}

impl FolderParts {
    /// Looks for the parts in `dir`.
    ///
    /// # Errors
    /// [`DataError::File`] for a folder beside `train` that is meant for a part and would not be
    /// read, and for two validation folders.
    pub fn find(dir: &Path) -> Result<Self> {
        let part = |name: &str| Some(dir.join(name)).filter(|path| path.is_dir());
        let Some(train) = part("train") else {
            return Ok(Self {
                train: dir.to_owned(),
                val: None,
                test: None,
                beside: vec![],
            });
        };
        let mut vals = VAL.into_iter().filter(|name| part(name).is_some());
        let val = match (vals.next(), vals.next()) {
            (Some(first), Some(second)) => {
                return Err(DataError::file(
                    dir,
                    format!("holds both {first} and {second}; one of them is the validation set"),
                ));
            }
            (first, _) => first.and_then(part),
        };
        let test = part("test");
        // `Train` is `train` where the file system says so.
        let canonical = |path: &Path| std::fs::canonicalize(path).ok();
        let parts = [Some(&train), val.as_ref(), test.as_ref()];
        let parts: Vec<_> = parts.into_iter().flatten().map(|p| canonical(p)).collect();
        let mut beside = subfolders(dir, &mut LeftOut::default())?;
        beside.retain(|name| !parts.contains(&canonical(&dir.join(name))));
        match beside.iter().find(|name| is_part_name(name)) {
            Some(name) => Err(DataError::file(
                dir.join(name),
                "is not read beside `train`: call it `val` or `test`, or move it away",
            )),
            None => Ok(Self {
                train,
                val,
                test,
                beside,
            }),
        }
    }

    /// Reads training, validation and test images, `as_found` as [`image_folder_as_found`] does.
    ///
    /// # Errors
    /// Those of [`image_folder`] and [`image_folder_with_classes`].
    pub fn open(&self, as_found: bool) -> Result<(Dataset, Option<Dataset>, Option<Dataset>)> {
        let train = match as_found {
            true => image_folder_as_found(&self.train, &[]),
            false => image_folder(&self.train),
        }
        .map_err(|error| self.is_train_a_class(error))?;
        let train = self.noting_beside(train);
        let mut classes = train.class_names().to_vec();
        let mut like = |dir: &Option<PathBuf>| {
            let data = match dir {
                None => return Ok(None),
                Some(dir) if as_found => image_folder_as_found(dir, &classes)?,
                Some(dir) => image_folder_with_classes(dir, &classes)?,
            };
            classes = data.class_names().to_vec();
            Ok(Some(data))
        };
        let (val, test) = (like(&self.val)?, like(&self.test)?);
        Ok((train, val, test))
    }

    /// As [`open`](Self::open), in known classes, of which each may have no image.
    ///
    /// # Errors
    /// Those of [`image_folder_with_classes`].
    pub fn open_with_classes(
        &self,
        classes: &[String],
    ) -> Result<(Dataset, Option<Dataset>, Option<Dataset>)> {
        let read = |dir: &PathBuf| image_folder_with_classes(dir, classes);
        let part = |dir: &Option<PathBuf>| dir.as_ref().map(read).transpose();
        let train = self.noting_beside(read(&self.train)?);
        Ok((train, part(&self.val)?, part(&self.test)?))
    }

    /// Notes the folders that are no part.
    fn noting_beside(&self, train: Dataset) -> Dataset {
        if self.beside.is_empty() {
            return train;
        }
        let mut left_out = train.left_out().clone();
        left_out.folders.clone_from(&self.beside);
        train.with_left_out(left_out).noting_it()
    }

    /// `bus`, `car` and `train` may be vehicles.
    fn is_train_a_class(&self, error: DataError) -> DataError {
        match error {
            DataError::File { path, problem } if path == self.train && !self.beside.is_empty() => {
                let others = some_names(&self.beside);
                DataError::file(
                    path,
                    format!(
                        "{problem}. If it is a class as {others}, move all class folders into a new \
                         folder `train`"
                    ),
                )
            }
            other => other,
        }
    }
}

/// Reads a folder with one subfolder a class: `class/name.jpg` or `class/anything/name.jpg`.
///
/// Classes are numbered in the order of their names, by number where all are whole numbers; images are
/// sorted by path. Files count whose ending is one of the [`FORMATS`](crate::decode::FORMATS), in any case, and those
/// of these types that are called `.heic` or the like, or have no ending. Class folders without an image, hidden files and folders, and other files do not: [`Dataset::left_out`] counts them.
///
/// # Errors
/// [`DataError::File`] if there is no class or no image, or for a class that is called as a part
/// (`test`); beside other classes one may be called `train`.
pub fn image_folder(dir: impl AsRef<Path>) -> Result<Dataset> {
    let found = Found::training(dir.as_ref(), &[])?;
    let mut classes = found.classes.clone();
    classes.retain(|class| !found.left_out.empty_classes.contains(class));
    found.dataset(classes)
}

/// Reads a folder as it lies, for looking at it before training: a class without an image is
/// a class of size 0, and classes that `known` lacks are numbered behind those of `known`.
///
/// # Errors
/// As [`image_folder`].
pub fn image_folder_as_found(dir: impl AsRef<Path>, known: &[String]) -> Result<Dataset> {
    let found = Found::training(dir.as_ref(), known)?;
    let mut classes = known.to_vec();
    let seen: HashSet<&str> = known.iter().map(String::as_str).collect();
    let new = found.classes.iter().filter(|c| !seen.contains(c.as_str()));
    classes.extend(new.cloned());
    found.dataset(classes)
}

/// Reads a folder whose classes have the numbers of `classes`: the test folder of a training set.
///
/// # Errors
/// [`DataError::File`] if there is no image, or the folder has images of a class that `classes` lacks. A
/// class without a folder, or with an empty one, has no images; that is allowed, since a test set need not
/// hold every class.
pub fn image_folder_with_classes(dir: impl AsRef<Path>, classes: &[String]) -> Result<Dataset> {
    let found = Found::read(dir.as_ref())?;
    // The empty folder of a class that training left out, too.
    let is_unknown = |name: &&String| {
        !classes.contains(name) && (is_part_name(name) || !found.images[*name].is_empty())
    };
    if let Some(unknown) = found.classes.iter().find(is_unknown) {
        return Err(DataError::file(
            found.dir.join(unknown),
            match is_part_name(unknown) {
                true => "is a part of a data set: name the folder whose folders are classes".into(),
                false => format!(
                    "is no class of the training set, whose {} classes start with {:?}",
                    classes.len(),
                    &classes[..classes.len().min(3)],
                ),
            },
        ));
    }
    found.dataset(classes.to_vec())
}

/// Whether a folder of this name is a part of a data set, however it is spelt.
fn is_part_name(name: &str) -> bool {
    let others = ["train", "training", "test", "tests", "testing"];
    let mut names = others.iter().chain(&VAL);
    names.any(|part| name.eq_ignore_ascii_case(part))
}

/// What lies in a folder of classes.
struct Found<'a> {
    dir: &'a Path,
    /// The class folders, in the order of their names.
    classes: Vec<String>,
    /// The images of each, sorted.
    images: BTreeMap<String, Vec<String>>,
    left_out: LeftOut,
}

impl<'a> Found<'a> {
    fn read(dir: &'a Path) -> Result<Self> {
        let mut left_out = LeftOut::default();
        let mut classes = subfolders(dir, &mut left_out)?;
        sort_names(&mut classes);
        let mut images = BTreeMap::new();
        for class in &classes {
            let mut paths = Vec::new();
            collect(&dir.join(class), class, 0, &mut paths, &mut left_out)?;
            paths.sort_unstable();
            if paths.is_empty() {
                left_out.empty_classes.push(class.clone());
            }
            images.insert(class.clone(), paths);
        }
        Ok(Self {
            dir,
            classes,
            images,
            left_out,
        })
    }

    /// Refuses parts that would become classes, where `known` are none.
    fn training(dir: &'a Path, known: &[String]) -> Result<Self> {
        let classes = subfolders(dir, &mut LeftOut::default())?;
        let mut parts = classes.clone();
        parts.retain(|class| is_part_name(class) && !known.contains(class));
        // A train is a thing as well.
        if parts.len() < classes.len() {
            parts.retain(|part| *part != "train");
        }
        if parts.is_empty() {
            return Self::read(dir);
        }
        let are = match parts.len() {
            1 => "is no class",
            _ => "are no classes",
        };
        Err(DataError::file(
            dir,
            format!(
                "{} here {are}: folders of such names are parts of a data set. Put the class folders into \
                 `train`, beside `val` and `test`, or give the folder that holds classes alone",
                parts.join(" and ")
            ),
        ))
    }

    /// The images with the numbers of `classes`.
    fn dataset(mut self, classes: Vec<String>) -> Result<Dataset> {
        let (mut paths, mut labels) = (Vec::new(), Vec::new());
        for (label, class) in classes.iter().enumerate() {
            paths.extend(self.images.remove(class).unwrap_or_default());
            labels.resize(paths.len(), label as u32);
        }
        if paths.is_empty() {
            return Err(self.no_image());
        }
        let data = Dataset::from_files(self.dir.to_owned(), paths, labels, classes)?;
        Ok(data.with_left_out(self.left_out).noting_it())
    }

    fn no_image(&self) -> DataError {
        let unlabelled = self.left_out.files.get(OUTSIDE);
        let holds = match (unlabelled, self.classes.is_empty()) {
            (Some(1), _) => "holds 1 image in no class folder, whose class nobody can tell".into(),
            (Some(n), _) => {
                format!("holds {n} images in no class folder, whose classes nobody can tell")
            }
            (None, true) => "holds no class".into(),
            (None, false) => format!("holds no image ({})", self.left_out),
        };
        let wanted = "wanted one folder a class, as in class/name.jpg";
        let test = match unlabelled {
            Some(_) => "; images to be named, not to be scored, belong elsewhere",
            None => "",
        };
        DataError::file(self.dir, format!("{holds}; {wanted}{test}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::walk::images_below;
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
        // Training left this one out.
        let dir = tree(&["dog/1.jpg", "bee/later.txt"]);
        let data = image_folder_with_classes(dir.path(), &classes).unwrap();
        assert_eq!((data.labels(), data.num_classes()), (&[2][..], 3));
        assert_eq!(data.left_out().empty_classes, ["bee"]);
        let dir = tree(&["val/dog/1.jpg"]);
        let error = image_folder_with_classes(dir.path(), &classes).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("val: is a part of a data set: name"),
            "{error}"
        );
        let dir = tree(&["x.jpg"]);
        assert!(image_folder_with_classes(dir.path(), &classes).is_err());
    }

    #[test]
    fn folders_without_an_image_are_errors() {
        for (files, says) in [
            (
                &["cat/1.txt", "dog/a.heic"][..],
                "holds no image (skipped: 1 .heic, 1 other (convert it first, as with ImageMagick: `magick in.heic \
                 out.jpg`); class",
            ),
            (
                &["1.jpg"],
                "holds 1 image in no class folder, whose class nobody can tell",
            ),
            (
                &["1.jpg", "2.png", "cat/x.txt"],
                "holds 2 images in no class folder",
            ),
            (&["1.txt"], "holds no class; wanted one folder a class"),
        ] {
            let dir = tree(files);
            for error in [
                image_folder(dir.path()).unwrap_err(),
                image_folder_as_found(dir.path(), &[]).unwrap_err(),
                image_folder_with_classes(dir.path(), &["cat".into(), "dog".into()]).unwrap_err(),
            ] {
                assert!(error.to_string().contains(says), "{error}");
            }
        }
        assert!(
            image_folder("/nowhere/at/all")
                .unwrap_err()
                .to_string()
                .contains("/nowhere")
        );
    }

    #[test]
    fn names_that_lists_could_not_hold_and_those_of_parts_are_errors() {
        let mut cases = vec![
            (
                ["cat/1.jpg".to_owned(), "dog /1.jpg".to_owned()],
                "dog : the name \"dog \" begins or ends with a space".to_owned(),
            ),
            (
                ["Train/cat/1.jpg".into(), "tests/cat/1.jpg".into()],
                "Train and tests here are no classes".into(),
            ),
        ];
        // Beside class folders as well, with classes in them and without.
        for part in "test val valid validation Test tests training".split(' ') {
            for file in ["ant/1.jpg", "1.jpg"] {
                cases.push((
                    ["ant/2.jpg".into(), format!("{part}/{file}")],
                    format!("{part} here is no class"),
                ));
            }
        }
        for (files, says) in cases {
            let dir = tree(&files.each_ref().map(String::as_str));
            for error in [
                image_folder(dir.path()).unwrap_err(),
                image_folder_as_found(dir.path(), &[]).unwrap_err(),
                FolderParts::find(dir.path())
                    .unwrap()
                    .open(false)
                    .unwrap_err(),
                FolderParts::find(dir.path())
                    .unwrap()
                    .open(true)
                    .unwrap_err(),
            ] {
                assert!(error.to_string().contains(&says), "{error}");
            }
        }
        // A train is a thing as well.
        image_folder(tree(&["train/1.jpg", "ship/1.jpg"]).path()).unwrap();
    }

    #[test]
    fn parts_of_a_data_set_are_found_and_the_rest_is_told() {
        let dir = tree(&[
            "train/cat/1.jpg",
            "train/train/1.jpg",
            "train/emu/notes.txt",
            "valid/train/1.jpg",
            "valid/cat/.gitkeep",
            "labels/1.csv",
            "README.md",
        ]);
        for as_found in [false, true] {
            let parts = FolderParts::find(dir.path()).unwrap();
            let (train, val, test) = parts.open(as_found).unwrap();
            let wanted = match as_found {
                true => &["cat", "emu", "train"][..],
                false => &["cat", "train"],
            };
            assert_eq!(train.class_names(), wanted);
            let said = "skipped: 1 other; class folders without an image: emu; folders that are not read \
                        beside `train`: labels";
            assert_eq!(train.notes(), [said]);
            let val = val.unwrap();
            assert_eq!(val.class_names(), wanted);
            assert_eq!(val.labels().len(), 1);
            assert_eq!(val.left_out().files["hidden"], 1);
            assert_eq!(val.left_out().empty_classes, ["cat"]);
            assert!(test.is_none());
        }
        for (files, says) in [
            (
                &["train/1.jpg", "bus/1.jpg", "car/1.jpg"][..],
                "train: holds 1 image in no class folder, whose class nobody can tell; wanted one folder a \
                 class, as in class/name.jpg; images to be named, not to be scored, belong elsewhere. If it \
                 is a class as bus, car, move all class folders into a new folder `train`",
            ),
            (
                &["train/ant/1.jpg", "test/1.jpg", "test/2.jpg"],
                "test: holds 2 images in no class folder",
            ),
            (
                &["train/ant/1.jpg", "test/ant/1.avif"],
                "test: holds no image (skipped: 1 .avif",
            ),
            (
                &["train/ant/1.jpg", "tests/ant/1.jpg"],
                "tests: is not read beside `train`",
            ),
            (&["train/train/ant/1.jpg"], "train here is no class"),
        ] {
            let dir = tree(files);
            for as_found in [false, true] {
                let read = FolderParts::find(dir.path()).and_then(|parts| parts.open(as_found));
                let error = read.unwrap_err().to_string();
                assert!(error.contains(says), "{error}");
            }
        }
    }

    #[test]
    fn what_is_left_out_is_counted_by_its_reason() {
        let dir = tree(&[
            "cat/1.jpg",
            "cat/a.heic",
            "cat/deep/b.HEIC",
            "dog/c.avif",
            "dog/2.png",
            "dog/3.WebP",
            "dog/4.tif",
            "dog/Thumbs.db",
            "dog/._2.png",
            ".git/x.jpg",
            "loose.jpg",
            "notes.txt",
        ]);
        let data = image_folder(dir.path()).unwrap();
        let cure = "(convert it first, as with ImageMagick: `magick in.heic out.jpg`)";
        let said = "skipped: 2 .heic, 2 hidden, 2 other, 1 .avif, 1 in no class folder";
        assert_eq!(data.notes(), [format!("{said} {cure}")]);
        assert_eq!(data.select(&[0]).left_out(), data.left_out());
        let (paths, left_out) = images_below(dir.path()).unwrap();
        assert_eq!(
            paths,
            [
                "cat/1.jpg",
                "dog/2.png",
                "dog/3.WebP",
                "dog/4.tif",
                "loose.jpg"
            ]
        );
        assert_eq!(
            left_out.to_string(),
            format!("skipped: 2 .heic, 2 hidden, 2 other, 1 .avif {cure}")
        );
        assert_eq!(left_out.images_not_read(), 3);
        assert!(
            image_folder(tree(&["cat/1.jpg"]).path())
                .unwrap()
                .left_out()
                .is_empty()
        );
    }

    #[test]
    fn numbers_are_sorted_as_numbers() {
        let names: Vec<String> = (0..12).map(|n| format!("{n}/1.jpg")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let data = image_folder(tree(&names).path()).unwrap();
        assert_eq!(data.class_names()[9..], ["9", "10", "11"]);
        assert_eq!(data.relative_path(10), Some("10/1.jpg"));
        let data = image_folder(tree(&["2/1.jpg", "10/1.jpg", "cat/1.jpg"]).path()).unwrap();
        assert_eq!(data.class_names(), ["10", "2", "cat"]);
    }

    #[test]
    fn a_folder_as_it_lies() {
        let dir = tree(&["cat/1.jpg", "dog/1.txt", "ant/1.jpg"]);
        let data = image_folder_as_found(dir.path(), &["cat".into(), "cow".into()]).unwrap();
        assert_eq!(data.class_names(), ["cat", "cow", "ant", "dog"]);
        assert_eq!(data.class_counts(), [1, 0, 1, 0]);
        // To train on, a class has an image.
        assert_eq!(
            image_folder(dir.path()).unwrap().class_names(),
            ["ant", "cat"]
        );
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

//! Tiny-ImageNet-LT: lists from the official archive.
//!
//! `tiny-imagenet-200.zip` (<http://cs231n.stanford.edu/tiny-imagenet-200.zip>) unpacks to
//!
//! ```text
//! tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG     500 a class
//! tiny-imagenet-200/val/images/val_0.JPEG                       10,000
//! tiny-imagenet-200/val/val_annotations.txt                     val_0.JPEG<TAB>n03444034<TAB>…
//! ```
//!
//! There is no published long-tailed selection. This one has the rule of CIFAR-LT: classes in the order
//! of their names, sizes by [`class_counts`](crate::imbalance::class_counts), the first images of each in the order of their names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::dataset::image_folder;
use crate::error::{DataError, Result};
use crate::imbalance::LongTail;
use crate::read::read_to_string;
use crate::write::{WriteError, atomic_write};

/// The training list.
pub const TRAIN_LIST: &str = "TinyImageNet_LT_train.txt";
/// The test list: the archive's validation images.
pub const TEST_LIST: &str = "TinyImageNet_LT_test.txt";

/// The two lists: `path label` with paths from the archive's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TinyImageNetLists {
    /// Class names (WordNet's), by label.
    pub classes: Vec<String>,
    /// Training images, by class.
    pub train: Vec<(String, u32)>,
    /// Test images, in the order of the annotations.
    pub test: Vec<(String, u32)>,
}

/// Chooses the images of an exponential tail in the unpacked archive `dir`.
///
/// # Errors
/// [`DataError`] with the file or line, if `dir` is not the unpacked archive or has too few images of a
/// class, and [`DataError::Field`] for a factor that no tail has.
pub fn tiny_imagenet_lists(dir: &Path, imbalance_factor: f64) -> Result<TinyImageNetLists> {
    let train =
        image_folder(dir.join("train"))?.with_long_tail(LongTail::Exponential, imbalance_factor)?;
    let chosen = (0..train.len()).filter_map(|i| Some((train.relative_path(i)?, train.label(i))));
    let classes = train.class_names().to_vec();
    Ok(TinyImageNetLists {
        test: annotations(&dir.join("val/val_annotations.txt"), &classes)?,
        train: chosen
            .map(|(path, label)| (format!("train/{path}"), label))
            .collect(),
        classes,
    })
}

impl TinyImageNetLists {
    /// Writes [`TRAIN_LIST`] and [`TEST_LIST`] into `out`, and says where.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, out: &Path) -> std::result::Result<[PathBuf; 2], WriteError> {
        let lists = [(TRAIN_LIST, &self.train), (TEST_LIST, &self.test)];
        for (name, list) in lists {
            atomic_write(&out.join(name), |writer| {
                for (path, label) in list {
                    writeln!(writer, "{path} {label}")?;
                }
                Ok(())
            })?;
        }
        Ok([out.join(TRAIN_LIST), out.join(TEST_LIST)])
    }
}

/// `val_0.JPEG<TAB>n03444034<TAB>…`, a line each.
fn annotations(path: &Path, classes: &[String]) -> Result<Vec<(String, u32)>> {
    let text = read_to_string(path).map_err(|source| DataError::io(path, source))?;
    let labels: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let entry = |(number, line): (usize, &str)| {
        let wrong = |problem: String| DataError::ListLine {
            path: path.to_owned(),
            line: number + 1,
            problem,
        };
        let mut fields = line.split('\t');
        let (Some(name), Some(class)) = (fields.next(), fields.next()) else {
            return Err(wrong(
                "has no tab: `image<TAB>class<TAB>box` is wanted".into(),
            ));
        };
        let label = labels
            .get(class)
            .ok_or_else(|| wrong(format!("{class:?} is no class of train/")))?;
        Ok((format!("val/images/{name}"), *label))
    };
    text.lines().enumerate().map(entry).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dataset::{list_file, list_file_like};

    /// Three classes of eight training and two validation images.
    fn archive() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: String, bytes: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        let mut annotations = String::new();
        for (i, class) in ["n03", "n01", "n02"].into_iter().enumerate() {
            file(format!("train/{class}/{class}_boxes.txt"), b"");
            for image in 0..8 {
                file(format!("train/{class}/images/{class}_{image}.JPEG"), b"");
            }
            for image in [i, i + 3] {
                file(format!("val/images/val_{image}.JPEG"), b"");
                annotations += &format!("val_{image}.JPEG\t{class}\t0\t0\t63\t63\n");
            }
        }
        file("val/val_annotations.txt".into(), annotations.as_bytes());
        dir
    }

    #[test]
    fn lists_of_a_made_archive() {
        let dir = archive();
        let lists = tiny_imagenet_lists(dir.path(), 4.0).unwrap();
        assert_eq!(lists.classes, ["n01", "n02", "n03"]);
        let [train, test] = lists.write(dir.path()).unwrap();
        let read = list_file(dir.path(), &train, None, None).unwrap();
        assert_eq!(read.class_counts(), [8, 4, 2]);
        assert!(read.origin(8).ends_with("train/n02/images/n02_0.JPEG"));
        assert!(read.class_names()[2].starts_with("n03"));
        let test = list_file_like(dir.path(), &test, &read).unwrap();
        assert_eq!(test.class_counts(), [2, 2, 2]);
        assert!(test.origin(0).ends_with("val/images/val_0.JPEG"));
        assert_eq!(test.labels()[..2], [2, 2]);
    }

    #[test]
    fn what_is_no_archive_is_named() {
        let dir = archive();
        let error = |dir: &Path| tiny_imagenet_lists(dir, 4.0).unwrap_err().to_string();
        assert!(error(&dir.path().join("nowhere")).contains("nowhere"));
        assert!(error(&dir.path().join("train/n01")).contains("train/n01/train"));
        std::fs::remove_dir_all(dir.path().join("train/n02")).unwrap();
        let said = error(dir.path());
        assert!(
            said.contains("val_annotations.txt:5: \"n02\" is no class"),
            "{said}"
        );
        std::fs::remove_file(dir.path().join("train/n01/images/n01_0.JPEG")).unwrap();
        let said = error(dir.path());
        assert!(
            said.contains("wants 8 images of class 0, which has only 7"),
            "{said}"
        );
        assert!(tiny_imagenet_lists(dir.path(), 0.5).is_err());
    }
}

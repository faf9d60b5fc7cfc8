//! Data sets: which images there are, their labels, and how to get the pixels of one.

mod access;
mod check;
mod cifar;
mod csv;
mod folder;
mod groups;
mod joined;
mod json;
mod list;
mod names;
mod path_rule;
mod rows;
pub mod source;
mod walk;

use std::path::PathBuf;
use std::sync::Arc;

pub use self::check::{FileCheck, FileReport};
pub use self::cifar::{Cifar, cifar};
pub use self::folder::{
    FolderParts, image_folder, image_folder_as_found, image_folder_with_classes,
};
use self::joined::Joined;
pub(crate) use self::list::list_column;
pub use self::list::{ListColumns, is_metadata, list_file, list_file_like, list_paths};
pub use self::names::{class_names_file, list_file_named, names_disagree, some_names};
pub use self::path_rule::PathRule;
pub(crate) use self::rows::check_path;
use self::source::{Files, Pixels};
pub use self::source::{Images, Raw, header_size};
pub use self::walk::{LeftOut, images_below};
use crate::error::{DataError, Result};
use crate::imbalance::{LongTail, class_counts, first_n_per_class};

/// A labelled set of images, in memory or as files on a disk.
///
/// Cheap to clone and to send to another thread: clones and selections share the pixels or paths.
#[derive(Clone, Debug)]
pub struct Dataset {
    images: Arc<dyn Images>,
    /// Image `i` is entry `entries[i]` of the source `images`.
    entries: Arc<[u32]>,
    labels: Arc<[u32]>,
    class_names: Arc<[String]>,
    notes: Arc<[String]>,
    left_out: Arc<LeftOut>,
    /// The group of each entry of the source; empty where none is known.
    groups: Arc<[Option<u32>]>,
}

impl Dataset {
    /// A data set from pixels in memory: `pixels` is `[n, height, width, 3]`, `labels` is `[n]`.
    ///
    /// # Errors
    /// [`DataError::Field`] if the lengths do not agree or a label is not below `num_classes`.
    pub fn from_pixels(
        pixels: Vec<u8>,
        height: usize,
        width: usize,
        labels: Vec<u32>,
        num_classes: usize,
    ) -> Result<Self> {
        Self::in_memory(
            pixels,
            (height, width),
            labels,
            number_names(num_classes),
            vec![("memory".into(), 0)],
        )
    }

    fn in_memory(
        pixels: Vec<u8>,
        size: (usize, usize),
        labels: Vec<u32>,
        class_names: Vec<String>,
        files: Vec<(String, u32)>,
    ) -> Result<Self> {
        let images = Pixels::new(pixels, size, labels.len(), files)?;
        Self::from_images(Arc::new(images), labels, class_names)
    }

    fn from_files(
        root: PathBuf,
        paths: Vec<String>,
        labels: Vec<u32>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        Self::from_images(Arc::new(Files { root, paths }), labels, class_names)
    }

    /// A data set of the images of a source, with a label for each, `[n]`, and a name for each class.
    ///
    /// # Errors
    /// [`DataError::Field`] if there are more or fewer labels, or one is not below the number of classes.
    pub fn from_images(
        images: Arc<dyn Images>,
        labels: Vec<u32>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        if images.len() != labels.len() {
            return Err(DataError::field(
                "labels",
                format!("has {} entries for {} images", labels.len(), images.len()),
            ));
        }
        let n = u32::try_from(labels.len()).map_err(|_| {
            DataError::field(
                "labels",
                format!("has {} entries, more than can be numbered", labels.len()),
            )
        })?;
        if let Some(i) = labels.iter().position(|&l| l as usize >= class_names.len()) {
            return Err(DataError::field(
                "labels",
                format!(
                    "image {i} has label {}, but there are {} classes (0 to {})",
                    labels[i],
                    class_names.len(),
                    class_names.len().saturating_sub(1),
                ),
            ));
        }
        Ok(Self {
            images,
            entries: (0..n).collect(),
            labels: labels.into(),
            class_names: class_names.into(),
            notes: Arc::default(),
            left_out: Arc::default(),
            groups: Arc::default(),
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of classes, with those that have no image here.
    pub fn num_classes(&self) -> usize {
        self.class_names.len()
    }

    /// A name for each class, `[classes]`; its number where the data set has none.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// What a person should know of how it was read, such as what was left out.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What lay in its folder and was not taken.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.notes = notes.into();
        self
    }

    /// The same images with what was not taken beside them, where another reader knows it.
    #[must_use]
    pub fn with_left_out(mut self, left_out: LeftOut) -> Self {
        self.left_out = Arc::new(left_out);
        self
    }

    /// Notes what was not taken.
    fn noting_it(mut self) -> Self {
        let note = (!self.left_out.is_empty()).then(|| self.left_out.to_string());
        self.notes = note.into_iter().collect();
        self
    }

    /// The label of each image, `[n]`.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The label of image `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Dataset::len`], as indexing a slice does.
    pub fn label(&self, i: usize) -> u32 {
        self.labels[i]
    }

    /// Number of images of each class, `[classes]`.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.num_classes()];
        for &label in self.labels.iter() {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Gives `take` the bytes that tell this data set from others: for files the lines of its list,
    /// `path label`, as the field publishes lists (so that their SHA-256 is that of such a file); for
    /// images in memory label and pixels of each.
    ///
    /// # Errors
    /// Those of reading an image that is in no list.
    pub fn identity(&self, mut take: impl FnMut(&[u8])) -> Result<()> {
        for (i, label) in self.labels.iter().enumerate() {
            if let Some(path) = self.relative_path(i) {
                take(path.as_bytes());
                take(format!(" {label}\n").as_bytes());
                continue;
            }
            take(&label.to_le_bytes());
            self.read(i, |raw, _| {
                take(raw.bytes());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The images `indices`, in that order; an index may come more than once. Classes and their
    /// names stay.
    ///
    /// # Panics
    /// If an index is not below [`Dataset::len`], as indexing a slice does.
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            images: Arc::clone(&self.images),
            entries: indices.iter().map(|&i| self.entries[i]).collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            class_names: Arc::clone(&self.class_names),
            notes: Arc::clone(&self.notes),
            left_out: Arc::clone(&self.left_out),
            groups: Arc::clone(&self.groups),
        }
    }

    /// The images of several data sets with the same classes, one set behind the other.
    ///
    /// # Errors
    /// [`DataError::Field`] if there is no set, or two have other classes.
    pub fn joined(sets: &[&Self]) -> Result<Self> {
        let images: Arc<dyn Images> = match Self::one_folder(sets) {
            Some((root, paths)) => Arc::new(Files { root, paths }),
            None => Arc::new(Joined::new(sets, false)),
        };
        Self::behind_one_another(sets, images)
    }

    /// As [`joined`](Self::joined), but an image has the path that it has in its own set, which is what rules are about; two
    /// sets may have the same.
    ///
    /// # Errors
    /// As [`joined`](Self::joined).
    pub fn side_by_side(sets: &[&Self]) -> Result<Self> {
        Self::behind_one_another(sets, Arc::new(Joined::new(sets, true)))
    }

    fn behind_one_another(sets: &[&Self], images: Arc<dyn Images>) -> Result<Self> {
        let names = sets.first().map_or(&[][..], |set| set.class_names());
        if sets.is_empty() || sets.iter().any(|set| set.class_names() != names) {
            return Err(DataError::field(
                "class_names",
                "differ between the data sets, or there is no set",
            ));
        }
        let labels = sets.iter().flat_map(|set| set.labels()).copied().collect();
        let mut joined = Self::from_images(images, labels, names.to_vec())?;
        joined.groups = groups::joined(sets);
        Ok(joined)
    }

    /// The long-tailed version of this data set: the first `n_c` images of each class, grouped by
    /// class. `n_max` is the size of the largest class here. See [`class_counts`].
    ///
    /// # Errors
    /// [`DataError::Field`] if the factor is wrong or a class has fewer images than its share.
    pub fn with_long_tail(&self, profile: LongTail, imbalance_factor: f64) -> Result<Self> {
        let n_max = self.class_counts().into_iter().max().unwrap_or(0);
        let counts = class_counts(profile, n_max, self.num_classes(), imbalance_factor)?;
        Ok(self.select(&first_n_per_class(&self.labels, &counts)?))
    }

    /// The same images with other class names.
    ///
    /// # Errors
    /// [`DataError::Field`] if there is not one name a class.
    pub fn with_class_names(mut self, class_names: Vec<String>) -> Result<Self> {
        if class_names.len() != self.num_classes() {
            return Err(DataError::field(
                "class_names",
                format!(
                    "has {} names, but there are {} classes",
                    class_names.len(),
                    self.num_classes()
                ),
            ));
        }
        self.class_names = class_names.into();
        Ok(self)
    }
}

/// `"0"`, `"1"`, … for classes without a name.
fn number_names(num_classes: usize) -> Vec<String> {
    (0..num_classes).map(|c| c.to_string()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::DecodeLimits;

    fn tiny() -> Dataset {
        // Image i is one pixel of colour [i, i, i].
        let pixels = (0..6u8).flat_map(|i| [i; 3]).collect();
        Dataset::from_pixels(pixels, 1, 1, vec![1, 0, 0, 1, 0, 0], 2).unwrap()
    }

    fn colours(data: &Dataset) -> Vec<u8> {
        (0..data.len())
            .map(|i| data.image(i, &DecodeLimits::default()).unwrap()[(0, 0)][0])
            .collect()
    }

    #[test]
    fn selections_of_selections() {
        let data = tiny();
        assert_eq!(data.class_counts(), [4, 2]);
        let tail = data.with_long_tail(LongTail::Exponential, 4.0).unwrap();
        assert_eq!(colours(&tail), [1, 2, 4, 5, 0]);
        assert_eq!(tail.labels(), [0, 0, 0, 0, 1]);
        let again = tail.select(&[4, 0, 4]);
        assert_eq!(colours(&again), [0, 1, 0]);
        assert_eq!(again.origin(1), "memory record 1");
        assert_eq!(again.num_classes(), 2);
    }

    #[test]
    fn sets_behind_one_another() {
        let data = tiny();
        let both = Dataset::joined(&[&data.select(&[5, 3]), &data.select(&[0])]).unwrap();
        assert_eq!(
            (colours(&both), both.labels()),
            (vec![5, 3, 0], &[0, 1, 1][..])
        );
        assert_eq!(both.origin(1), "memory record 3");
        assert_eq!(both.image_size(), Some((1, 1)));
        let other = data
            .clone()
            .with_class_names(vec!["cat".into(), "dog".into()]);
        let error = Dataset::joined(&[&data, &other.unwrap()]).unwrap_err();
        assert!(error.to_string().starts_with("class_names"), "{error}");
        assert!(Dataset::joined(&[]).is_err());
    }

    #[test]
    fn a_tail_that_the_data_cannot_give() {
        // Balanced wants 4 images of class 1, which has 2.
        let error = tiny().with_long_tail(LongTail::Balanced, 1.0).unwrap_err();
        assert!(error.to_string().contains("class 1"), "{error}");
    }

    #[test]
    fn wrong_arguments_are_named() {
        let make = |bytes: usize, h, labels: Vec<u32>| {
            Dataset::from_pixels(vec![0; bytes], h, 1, labels, 2)
                .unwrap_err()
                .to_string()
        };
        assert!(make(5, 1, vec![0, 1]).starts_with("pixels: holds 5 bytes"));
        assert!(make(0, 0, vec![]).starts_with("height"));
        assert!(make(6, 1, vec![0, 2]).contains("image 1 has label 2"));
        assert!(make(6, usize::MAX, vec![0, 1]).starts_with("height"));
        let error = tiny().image(6, &DecodeLimits::default()).unwrap_err();
        assert!(error.to_string().contains("is 6"), "{error}");
        assert!(tiny().with_class_names(vec!["a".into()]).is_err());
        let named = tiny().with_class_names(vec!["cat".into(), "dog".into()]);
        assert_eq!(named.unwrap().class_names()[1], "dog");
    }
}

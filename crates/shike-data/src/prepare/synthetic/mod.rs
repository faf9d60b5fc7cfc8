//! A small long-tailed image set that is drawn, not downloaded.
//!
//! The set lies on disk as ImageNet-LT does: a folder for each class, JPEG files, and two list
//! files of `path label` lines. So the same reader, augmentation and loader run on it, and an
//! example needs no download. A class is one shape filled with one texture, such as
//! `ring_stripes`. Each shape comes with several textures and each texture in several shapes, so
//! neither alone names the class. Colour, place, size, rotation, background and clutter are drawn
//! from the same distribution for every class and carry no label. Everything follows from the
//! seed.
//!
//! How hard the default set is: a linear classifier and a nearest neighbour on the pixels stay
//! below 10 % test accuracy, where chance is 5 %.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::draw::{CLASSES, class_name};
use crate::error::{DataError, Result};
use crate::imbalance::{self, LongTail};
use crate::part::Part;
use crate::read::read;
use crate::write::write_bytes;

/// Raised whenever the same configuration would give other pictures.
const GENERATOR_VERSION: u64 = 1;

/// Most images of one class in a split; a typing error must not fill the disk.
const MAX_IMAGES: usize = 100_000;

const TRAIN_LIST: &str = "Synthetic_LT_train.txt";
const TEST_LIST: &str = "Synthetic_LT_test.txt";
const RECORD: &str = "synthetic.json";

/// What [`generate`] draws. The default gives 1,578 training and 500 test images of 20 classes,
/// with 6 many-shot (over 100 images), 8 medium-shot and 6 few-shot (below 20) classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Number of classes, 2 to 30 (6 shapes × 5 textures). Class 0 is the largest.
    pub classes: usize,
    /// Training images of class 0, `imbalance_factor` to 100,000.
    pub n_max: usize,
    /// Imbalance factor: the size of the largest class over that of the smallest, 1 or more.
    pub imbalance_factor: f64,
    /// Test images of every class, 1 to 100,000; the test split is balanced.
    pub test_per_class: usize,
    /// Side of the square images in pixels, 16 to 256. The default, 40, leaves room for random
    /// crops of 32.
    pub size: u32,
    /// Seed of all randomness.
    pub seed: u64,
    /// JPEG quality, 1 to 100.
    pub quality: u8,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            classes: 20,
            n_max: 300,
            imbalance_factor: 50.0,
            test_per_class: 25,
            size: 40,
            seed: 0,
            quality: 90,
        }
    }
}

impl SyntheticConfig {
    /// Training images of each class, `[classes]`, by [`imbalance::class_counts`].
    ///
    /// # Errors
    /// [`DataError::Field`] if a field is outside its range.
    pub fn class_counts(&self) -> Result<Vec<usize>> {
        let size = self.size as usize;
        for (field, value, from, to) in [
            ("classes", self.classes, 2, CLASSES),
            ("n_max", self.n_max, 1, MAX_IMAGES),
            ("test_per_class", self.test_per_class, 1, MAX_IMAGES),
            ("size", size, 16, 256),
            ("quality", usize::from(self.quality), 1, 100),
        ] {
            if !(from..=to).contains(&value) {
                return Err(DataError::field(
                    field,
                    format!("is {value}, must be {from} to {to}"),
                ));
            }
        }
        let factor = self.imbalance_factor;
        imbalance::class_counts(LongTail::Exponential, self.n_max, self.classes, factor)
    }
}

/// Where a generated set lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticSet {
    /// The folder that the paths in the lists are relative to.
    pub root: PathBuf,
    /// List of the training images, lines of `train/<class>/<class>_<i>.JPEG <label>`.
    pub train_list: PathBuf,
    /// List of the test images, lines of `test/<class>/<class>_<i>.JPEG <label>`.
    pub test_list: PathBuf,
}

/// Draws the set into `root`, or finds it there.
///
/// `synthetic.json` is written last and records the configuration, so a folder with that record
/// is whole. If it equals `config`, nothing is drawn. A folder without it is what an interrupted
/// run left, and is made again.
///
/// # Errors
/// [`DataError::Field`] for a field outside its range;
/// [`DataError::File`] if `root` holds a set of another configuration, or files that no run of this
/// function made; [`DataError::Io`] and [`DataError::Write`].
///
/// # Example
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use shike_data::synthetic::{SyntheticConfig, generate};
///
/// let root = tempfile::tempdir()?;
/// let config =
///     SyntheticConfig { classes: 2, n_max: 4, imbalance_factor: 2.0, ..Default::default() };
/// let set = generate(root.path(), &config)?;
/// assert_eq!(std::fs::read_to_string(set.train_list)?.lines().count(), 4 + 2);
/// # Ok(())
/// # }
/// ```
pub fn generate(root: &Path, config: &SyntheticConfig) -> Result<SyntheticSet> {
    let counts = config.class_counts()?;
    let set = SyntheticSet {
        root: root.to_path_buf(),
        train_list: root.join(TRAIN_LIST),
        test_list: root.join(TEST_LIST),
    };
    let mut record = serde_json::json!(config);
    record["generator_version"] = GENERATOR_VERSION.into();
    if is_recorded(root, &record)? && set.train_list.is_file() && set.test_list.is_file() {
        return Ok(set);
    }
    clear(root)?;
    let test_counts = vec![config.test_per_class; config.classes];
    make_split(root, config, Part::Train, &counts, &set.train_list)?;
    make_split(root, config, Part::Test, &test_counts, &set.test_list)?;
    write(&root.join(RECORD), &format!("{record:#}\n"))?;
    Ok(set)
}

/// Draws and writes the images of one part in parallel, then its list.
fn make_split(
    root: &Path,
    config: &SyntheticConfig,
    part: Part,
    counts: &[usize],
    list: &Path,
) -> Result<()> {
    let mut lines = String::new();
    let mut jobs = Vec::new();
    for (class, &count) in counts.iter().enumerate() {
        let name = class_name(class);
        let folder = root.join(part.name()).join(&name);
        fs::create_dir_all(&folder).map_err(|e| DataError::io(&folder, e))?;
        for index in 0..count {
            let file = format!("{name}_{index}.JPEG");
            lines += &format!("{}/{name}/{file} {class}\n", part.name());
            jobs.push((class, index, folder.join(file)));
        }
    }
    let stream = u32::from(part == Part::Test);
    jobs.par_iter().try_for_each(|(class, index, path)| {
        let image = draw::image(config.seed, stream, *class, *index, config.size);
        let mut jpeg = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut jpeg, config.quality);
        let encoded = image.write_with_encoder(encoder).map_err(io::Error::other);
        let written = encoded.and_then(|()| fs::write(path, jpeg));
        written.map_err(|e| DataError::io(path, e))
    })?;
    write(list, &lines)
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text).map_err(DataError::Write)
}

/// Whether `root` has a record, which then must equal `wanted`.
fn is_recorded(root: &Path, wanted: &serde_json::Value) -> Result<bool> {
    let path = root.join(RECORD);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(DataError::io(&path, error)),
    };
    let wrong = |problem: String| {
        DataError::file(
            root,
            format!("{problem}; delete the folder or give another"),
        )
    };
    let recorded: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|e| wrong(format!("{RECORD} is no record of a synthetic set: {e}")))?;
    for (field, wanted) in wanted.as_object().into_iter().flatten() {
        let recorded = &recorded[field];
        if recorded != wanted {
            return Err(wrong(format!(
                "holds a synthetic set with `{field}` = {recorded}, but {wanted} is asked for"
            )));
        }
    }
    Ok(true)
}

/// Makes `root` empty of what an interrupted run left there; touches nothing if anything else lies there.
fn clear(root: &Path) -> Result<()> {
    fs::create_dir_all(root).map_err(|e| DataError::io(root, e))?;
    let parts = [Part::Train, Part::Test].map(|part| root.join(part.name()));
    // Files begin to be written under names that begin like theirs.
    let own = |name: &str| {
        [RECORD, TRAIN_LIST, TEST_LIST]
            .iter()
            .any(|own| name.starts_with(own))
    };
    let files = entries(root, |path, name| parts.contains(path) || own(name))?;
    let classes: Vec<String> = (0..CLASSES).map(class_name).collect();
    for part in parts.iter().filter(|part| part.is_dir()) {
        entries(part, |_, name| classes.iter().any(|class| class == name))?;
    }
    // The record first: without it, a removal that is itself interrupted stays recognisable.
    let record = root.join(RECORD);
    let record = record.exists().then_some(record);
    for path in record
        .iter()
        .chain(files.iter().filter(|path| Some(*path) != record.as_ref()))
    {
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        removed.map_err(|e| DataError::io(path, e))?;
    }
    Ok(())
}

/// What lies in a folder, all of which has to be `ours`.
fn entries(folder: &Path, ours: impl Fn(&PathBuf, &str) -> bool) -> Result<Vec<PathBuf>> {
    let failed = |e| DataError::io(folder, e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if !ours(&path, &entry.file_name().to_string_lossy()) {
            let problem =
                "is no part of a synthetic set, so its folder is left alone; give an empty folder";
            return Err(DataError::file(path, problem));
        }
        paths.push(path);
    }
    Ok(paths)
}

mod draw;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    fn small() -> SyntheticConfig {
        SyntheticConfig {
            classes: 4,
            n_max: 8,
            imbalance_factor: 8.0,
            test_per_class: 3,
            ..SyntheticConfig::default()
        }
    }

    /// `(path, label, bytes)` of every image of a list.
    fn read_list(set: &SyntheticSet, list: &Path) -> Vec<(String, usize, Vec<u8>)> {
        let text = fs::read_to_string(list).unwrap();
        let lines = text.lines().map(|line| {
            let (path, label) = line.rsplit_once(' ').unwrap();
            let bytes = fs::read(set.root.join(path)).unwrap();
            (path.to_owned(), label.parse().unwrap(), bytes)
        });
        lines.collect()
    }

    #[test]
    fn default_profile_is_long_tailed() {
        let counts = SyntheticConfig::default().class_counts().unwrap();
        // Worked out with Python: [int(300 * 0.02 ** (c / 19)) for c in range(20)].
        let expected = [
            300, 244, 198, 161, 131, 107, 87, 70, 57, 47, 38, 31, 25, 20, 16, 13, 11, 9, 7, 6,
        ];
        assert_eq!(counts, expected);
        assert_eq!(counts.iter().sum::<usize>(), 1578);
    }

    #[test]
    fn classes_cover_every_pair_once_and_evenly() {
        let names: Vec<String> = (0..CLASSES).map(class_name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), CLASSES);
        assert_eq!(names[0], "ring_stripes");
        // Among the 20 default classes each shape and each texture comes at least three times.
        for part in names
            .iter()
            .flat_map(|name| name.split('_'))
            .collect::<HashSet<_>>()
        {
            let uses = names[..20]
                .iter()
                .filter(|name| name.split('_').any(|p| p == part));
            assert!(uses.count() >= 3, "{part}");
        }
    }

    #[test]
    fn lists_and_files_agree() {
        let root = tempfile::tempdir().unwrap();
        let set = generate(root.path(), &small()).unwrap();
        let train = read_list(&set, &set.train_list);
        let test = read_list(&set, &set.test_list);
        let count = |list: &[(String, usize, Vec<u8>)]| {
            let of = |class| list.iter().filter(|(_, label, _)| *label == class).count();
            [0, 1, 2, 3].map(of)
        };
        // 8 · 8^(-c/3) is 8, 4, 2, 1 but for rounding, and `int` rounds down.
        assert_eq!(count(&train).to_vec(), small().class_counts().unwrap());
        assert_eq!(count(&test), [3; 4]);
        assert_eq!(train[0].0, "train/ring_stripes/ring_stripes_0.JPEG");
        assert_eq!(test[3].0, "test/square_dots/square_dots_0.JPEG");
        let pixels = image::load_from_memory(&train[0].2).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (40, 40));
        // No two images are the same, within a split or across.
        let distinct: HashSet<&[u8]> = train
            .iter()
            .chain(&test)
            .map(|(_, _, bytes)| bytes.as_slice())
            .collect();
        assert_eq!(distinct.len(), train.len() + test.len());
    }

    #[test]
    fn bytes_follow_from_the_seed() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let other = SyntheticConfig { seed: 1, ..small() };
        let [first, second, third] = [(0, small()), (1, small()), (2, other)].map(|(k, config)| {
            let set = generate(folders[k].path(), &config).unwrap();
            [
                read_list(&set, &set.train_list),
                read_list(&set, &set.test_list),
            ]
        });
        assert_eq!(first, second);
        assert_ne!(first[0][0].2, third[0][0].2);
    }

    #[test]
    fn an_image_does_not_depend_on_the_set_around_it() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let larger = SyntheticConfig {
            classes: 5,
            n_max: 16,
            test_per_class: 4,
            ..small()
        };
        let sets = [small(), larger];
        let [few, many] = [0, 1].map(|k| {
            let set = generate(folders[k].path(), &sets[k]).unwrap();
            read_list(&set, &set.train_list)
        });
        assert!(few.iter().all(|image| many.contains(image)));
    }

    #[test]
    fn a_whole_set_is_reused() {
        let root = tempfile::tempdir().unwrap();
        let set = generate(root.path(), &small()).unwrap();
        // Only a second run that writes nothing leaves this file as it is.
        let image = root.path().join("train/ring_stripes/ring_stripes_0.JPEG");
        fs::write(&image, b"touched").unwrap();
        assert_eq!(generate(root.path(), &small()).unwrap(), set);
        assert_eq!(fs::read(&image).unwrap(), b"touched");
    }

    #[test]
    fn a_half_made_set_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let set = generate(root.path(), &small()).unwrap();
        let whole = read_list(&set, &set.train_list);
        let stale = root.path().join("train/cross_speckle");
        fs::remove_file(root.path().join(RECORD)).unwrap();
        fs::remove_file(&set.test_list).unwrap();
        fs::write(root.path().join(&whole[0].0), b"half").unwrap();
        fs::create_dir(&stale).unwrap();
        generate(root.path(), &small()).unwrap();
        assert_eq!(read_list(&set, &set.train_list), whole);
        assert!(root.path().join(RECORD).is_file() && set.test_list.is_file());
        assert!(!stale.exists());
    }

    #[test]
    fn another_configuration_is_refused_and_named() {
        let root = tempfile::tempdir().unwrap();
        generate(root.path(), &small()).unwrap();
        let other = SyntheticConfig {
            imbalance_factor: 4.0,
            ..small()
        };
        let error = generate(root.path(), &other).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("holds a synthetic set with `imbalance_factor` = 8.0, but 4.0 is asked for; delete the folder or give another"),
            "{error}"
        );
        // An older generator's set is not taken for this one's.
        let path = root.path().join(RECORD);
        let old = fs::read_to_string(&path)
            .unwrap()
            .replace("version\": 1", "version\": 0");
        fs::write(&path, old).unwrap();
        let error = generate(root.path(), &small()).unwrap_err();
        assert!(
            error.to_string().contains("`generator_version` = 0, but 1"),
            "{error}"
        );
        fs::write(&path, "{").unwrap();
        let error = generate(root.path(), &small()).unwrap_err();
        assert!(error.to_string().contains("is no record"), "{error}");
    }

    #[test]
    fn files_of_others_are_left_alone() {
        for file in ["notes.txt", "train/n01440764/n01440764_762.JPEG"] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, b"mine").unwrap();
            let error = generate(root.path(), &small()).unwrap_err();
            assert!(error.to_string().contains("is no part"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"mine");
        }
    }

    #[test]
    fn bad_fields_are_named() {
        let base = SyntheticConfig::default;
        let cases = [
            (
                "classes",
                SyntheticConfig {
                    classes: 1,
                    ..base()
                },
            ),
            (
                "classes",
                SyntheticConfig {
                    classes: 31,
                    ..base()
                },
            ),
            (
                "imbalance_factor",
                SyntheticConfig {
                    imbalance_factor: f64::NAN,
                    ..base()
                },
            ),
            (
                "imbalance_factor",
                SyntheticConfig {
                    imbalance_factor: 0.5,
                    ..base()
                },
            ),
            (
                "imbalance_factor",
                SyntheticConfig {
                    n_max: 49,
                    ..base()
                },
            ),
            (
                "test_per_class",
                SyntheticConfig {
                    test_per_class: 0,
                    ..base()
                },
            ),
            ("size", SyntheticConfig { size: 8, ..base() }),
            (
                "quality",
                SyntheticConfig {
                    quality: 0,
                    ..base()
                },
            ),
        ];
        for (name, config) in cases {
            let error = config.class_counts().unwrap_err();
            assert!(error.to_string().starts_with(name), "{name}: {error}");
        }
    }

    /// The F statistic of a one-way analysis of variance: the spread of the class means over
    /// what the spread within the classes lets one expect; about 1 if they differ by chance.
    fn f_statistic(groups: &[Vec<f64>]) -> f64 {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let all = groups.concat();
        let total = mean(&all);
        let between: f64 = groups
            .iter()
            .map(|g| g.len() as f64 * (mean(g) - total).powi(2))
            .sum();
        let within: f64 = groups
            .iter()
            .flat_map(|g| g.iter().map(|v| (v - mean(g)).powi(2)))
            .sum();
        let freedom = (groups.len() - 1, all.len() - groups.len());
        (between / freedom.0 as f64) / (within / freedom.1 as f64)
    }

    #[test]
    fn mean_colour_carries_no_label() {
        const PER_CLASS: usize = 100;
        let size = 16;
        let means: Vec<Vec<[f64; 3]>> = (0..CLASSES)
            .into_par_iter()
            .map(|class| {
                let mean = |index| {
                    let image = draw::image(7, 0, class, index, size);
                    [0, 1, 2].map(|k| {
                        let sum: f64 = image.pixels().map(|pixel| f64::from(pixel[k])).sum();
                        sum / f64::from(size * size)
                    })
                };
                (0..PER_CLASS).map(mean).collect()
            })
            .collect();
        // 29 and 2970 degrees of freedom: F exceeds 2.05 by chance about once in a thousand.
        for channel in 0..3 {
            let mut groups: Vec<Vec<f64>> = means
                .iter()
                .map(|g| g.iter().map(|mean| mean[channel]).collect())
                .collect();
            let f = f_statistic(&groups);
            assert!(f < 2.05, "channel {channel}: F = {f}");
            // The check would notice if one class of thirty were brighter by 40 of 255.
            groups[0].iter_mut().for_each(|value| *value += 40.0);
            let f = f_statistic(&groups);
            assert!(f > 2.05, "channel {channel} of a tinted class: F = {f}");
        }
    }
}

//! Where a run's images come from, as its configuration records it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shike_data::dataset::{FolderParts, LeftOut, ListColumns, is_metadata};
use shike_data::split::SplitRecord;
use shike_data::{Cifar, DataError, Dataset, LongTail, Part, cifar, class_names_file, list_file};

/// The images of a run.
#[derive(Clone, Debug)]
pub struct TrainData {
    /// What is trained on.
    pub train: Dataset,
    /// What the best epoch is chosen on, if there is any.
    pub val: Option<Dataset>,
    /// What is reported. Nothing is chosen on it.
    pub test: Option<Dataset>,
}

impl TrainData {
    /// Images of training, validation and test.
    pub fn sizes(&self) -> [usize; 3] {
        Part::ALL.map(|part| self.get(part).map_or(0, Dataset::len))
    }

    /// The images of a part, if there are any.
    pub fn get(&self, part: Part) -> Option<&Dataset> {
        match part {
            Part::Train => Some(&self.train),
            Part::Val => self.val.as_ref(),
            Part::Test => self.test.as_ref(),
        }
    }

    /// What lay in the folders and was not taken, by part.
    pub fn left_out(&self) -> BTreeMap<Part, LeftOut> {
        let parts = self.parts().map(|(part, data)| (part, data.left_out()));
        let some = parts.filter(|(_, left_out)| !left_out.is_empty());
        some.map(|(part, left_out)| (part, left_out.clone()))
            .collect()
    }

    /// The parts that there are.
    pub fn parts(&self) -> impl Iterator<Item = (Part, &Dataset)> {
        let part = |part| Some((part, self.get(part)?));
        Part::ALL.into_iter().filter_map(part)
    }
}

/// Images on disk: what lies in a folder, and how it is laid out. `[data]` of a recipe is one too, whose
/// paths start at the folder that is given with it, see [`DataSource::below`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum DataSource {
    /// CIFAR in its binary version, cut to a long tail. Its test set is kept whole.
    Cifar {
        /// Folder with the `.bin` files, or the one above it.
        #[serde(default, skip_serializing_if = "is_empty")]
        dir: PathBuf,
        /// 10 or 100 classes.
        set: Cifar,
        /// Shape of the tail.
        #[serde(default = "exponential")]
        profile: LongTail,
        /// Largest class over smallest.
        #[serde(default = "hundred")]
        imbalance_factor: f64,
    },
    /// List files: `path label` lines (ImageNet-LT, Places-LT, iNaturalist), CSV or JSON.
    Lists {
        /// The folder that paths are relative to.
        #[serde(default, skip_serializing_if = "is_empty")]
        root: PathBuf,
        /// Training images.
        train: PathBuf,
        /// Validation images.
        val: Option<PathBuf>,
        /// Test images.
        test: Option<PathBuf>,
        /// Class names, one a line, by label; without it those that the lists give.
        #[serde(default)]
        class_names: Option<PathBuf>,
        /// Which images belong together, as a split writes it: what is chosen in folds of the images keeps them together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        groups: Option<PathBuf>,
        /// Where the lists have images and labels.
        #[serde(default, skip_serializing_if = "is_usual")]
        columns: ListColumns,
    },
    /// `train/<class>/<image>`, and `val/…` (or `valid`, `validation`) and `test/…` where they are
    /// there; or, without a `train` folder, `<class>/<image>` for training alone.
    Folder {
        /// The folder.
        #[serde(default, skip_serializing_if = "is_empty")]
        dir: PathBuf,
    },
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn is_usual(columns: &ListColumns) -> bool {
    *columns == ListColumns::default()
}

fn exponential() -> LongTail {
    LongTail::Exponential
}

fn hundred() -> f64 {
    100.0
}

impl DataSource {
    /// Reads labels and paths (for CIFAR, the images too).
    ///
    /// # Errors
    /// Names the file, and the line in a list.
    pub fn open(&self) -> Result<TrainData, DataError> {
        self.open_in(None)
    }

    /// As [`open`](Self::open), in the classes of a run: where folders are classes, those that have lost their last image are
    /// classes still, so that the others keep their numbers.
    ///
    /// # Errors
    /// As [`open`](Self::open); a folder with images that is none of the classes.
    pub fn open_with_classes(&self, names: &[String]) -> Result<TrainData, DataError> {
        self.open_in(Some(names))
    }

    fn open_in(&self, names: Option<&[String]>) -> Result<TrainData, DataError> {
        match self {
            Self::Cifar {
                dir,
                set,
                profile,
                imbalance_factor,
            } => Ok(TrainData {
                train: cifar(dir, *set, Part::Train)?
                    .with_long_tail(*profile, *imbalance_factor)?,
                val: None,
                test: Some(cifar(dir, *set, Part::Test)?),
            }),
            Self::Lists {
                root,
                train,
                val,
                test,
                class_names,
                groups,
                columns,
            } => {
                let list = train.clone();
                let by_path = |label: &String| label.starts_with("path:");
                let names = names.filter(|_| columns.label.as_ref().is_some_and(by_path));
                let train = match class_names {
                    Some(names) => columns.list_file_named(root, train, names)?,
                    None => columns.list_file(root, train, None, names.map(<[_]>::to_vec))?,
                };
                let like = |list: &Option<PathBuf>| {
                    let list = list.as_ref();
                    list.map(|list| columns.list_file_like(root, list, &train))
                        .transpose()
                };
                let (val, test) = (like(val)?, like(test)?);
                let mut data = TrainData { train, val, test };
                let left_out = SplitRecord::left_out_of(&list);
                data.train = data.train.with_left_out(left_out);
                if let Some(list) = groups {
                    data.train = data.train.with_groups(list)?;
                    data.val = data.val.map(|val| val.with_groups(list)).transpose()?;
                    data.test = data.test.map(|test| test.with_groups(list)).transpose()?;
                }
                Ok(data)
            }
            Self::Folder { dir } => {
                let parts = FolderParts::find(dir)?;
                let (train, val, test) = match names {
                    Some(names) => parts.open_with_classes(names)?,
                    None => parts.open(false)?,
                };
                Ok(TrainData { train, val, test })
            }
        }
    }

    /// Its folder, and then its files by the names of their fields.
    pub fn paths(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
        match self {
            Self::Cifar { dir, .. } | Self::Folder { dir } => vec![("dir", dir)],
            Self::Lists {
                root,
                train,
                val,
                test,
                class_names,
                groups,
                ..
            } => {
                let others = [
                    ("val", val),
                    ("test", test),
                    ("class_names", class_names),
                    ("groups", groups),
                ];
                let others = others.into_iter();
                let others = others.filter_map(|(name, path)| Some((name, path.as_mut()?)));
                let first = [("root", root), ("train", train)];
                first.into_iter().chain(others).collect()
            }
        }
    }

    /// The same layout in a folder that its paths start at.
    #[must_use]
    pub fn below(mut self, folder: &Path) -> Self {
        for (_, path) in self.paths() {
            // `join("")` would end in a slash.
            *path = match is_empty(path) {
                true => folder.to_owned(),
                false => folder.join(&path),
            };
        }
        self
    }

    /// The same images in another folder, to which they were moved. Where they were read from a folder
    /// `train` alone, the new one may be named as a whole.
    #[must_use]
    pub fn moved_to(mut self, folder: &Path) -> Self {
        match &mut self {
            Self::Cifar { dir, .. } | Self::Folder { dir } => *dir = folder.to_owned(),
            Self::Lists { root, .. } => {
                let train = folder.join("train");
                let inner = root.ends_with("train") && !folder.ends_with("train") && train.is_dir();
                *root = if inner { train } else { folder.to_owned() };
            }
        }
        self
    }

    /// The same with the lists that lie in the folder of a run, where they were written for it: a run may have been renamed or moved
    /// since, and another may have its name.
    #[must_use]
    pub fn of_run(mut self, run: &Path) -> Self {
        let Self::Lists { train, .. } = &self else {
            return self;
        };
        let Some(written) = train.parent().map(Path::to_owned) else {
            return self;
        };
        // Those of several seeds or folds lie beside their runs.
        let beside = run.canonicalize().unwrap_or_else(|_| run.to_owned());
        let beside = beside.with_file_name("lists");
        let own = match (written.file_name(), written.parent()) {
            (Some(name), _) if name == "lists" => [run.join("lists"), beside],
            (Some(fold), Some(lists)) if lists.ends_with("lists") => {
                let of_fold = beside.join(fold);
                [of_fold.clone(), of_fold]
            }
            _ => return self,
        };
        let has_one = |folder: &&PathBuf| {
            train
                .file_name()
                .is_some_and(|name| folder.join(name).is_file())
        };
        let [inside, beside] = &own;
        let moved = match has_one(&inside) {
            true => inside,
            false if !train.is_file() && has_one(&beside) => beside,
            false => return self,
        };
        for (name, path) in self.paths() {
            if let (false, Some(file)) = (name == "root", path.file_name())
                && path.parent() == Some(&written)
            {
                *path = moved.join(file);
            }
        }
        self
    }

    /// The same lists with the class names of a `classes.txt` beside the training list, where it has as
    /// many lines as there are classes, and with the groups of a `groups.txt`. A CSV list names its own classes.
    ///
    /// To be asked once, when a run begins: what it finds becomes a part of the configuration.
    #[must_use]
    pub fn with_names_beside(mut self) -> Self {
        if let Self::Lists {
            root,
            train,
            groups: groups @ None,
            ..
        } = &mut self
        {
            let beside = train.with_file_name("groups.txt");
            // Somebody else's file of this name is none.
            let is_one = list_file(&*root, &beside, None, None).is_ok();
            *groups = is_one.then_some(beside);
        }
        if let Self::Lists {
            root,
            train,
            class_names: names @ None,
            columns,
            ..
        } = &mut self
        {
            let beside = train.with_file_name("classes.txt");
            let is_csv = train
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("csv"));
            // What is wrong with the list, opening it will tell.
            let classes = || {
                columns
                    .list_file(root, train, None, None)
                    .map(|data| data.num_classes())
            };
            let fits = |found: Vec<String>| classes().is_ok_and(|n| n == found.len());
            let named = |beside: &PathBuf| columns.list_file_named(root, train, beside).is_ok();
            // Names stand in those.
            if !is_csv
                && is_usual(columns)
                && class_names_file(&beside).is_ok_and(fits)
                && named(&beside)
            {
                *names = Some(beside);
            }
        }
        self
    }

    /// Whether it is all pictures of a folder, of which nobody has said what they are for.
    pub fn is_unsplit_list(&self) -> bool {
        match self {
            Self::Lists {
                root,
                train,
                val: None,
                test: None,
                ..
            } => train == root || Some(train) == is_metadata(root).as_ref(),
            _ => false,
        }
    }

    /// What lies in a folder: CIFAR's binary files, pictures with a `metadata.csv` that tells their labels, or
    /// pictures in class folders.
    pub fn detect(dir: &Path) -> Self {
        let any = |names: &[&str]| names.iter().any(|name| dir.join(name).exists());
        let cifar = |set| Self::Cifar {
            dir: dir.to_owned(),
            set,
            profile: LongTail::Exponential,
            imbalance_factor: 100.0,
        };
        if any(&["train.bin", "cifar-100-binary"]) {
            cifar(Cifar::Cifar100)
        } else if any(&["data_batch_1.bin", "cifar-10-batches-bin"]) {
            cifar(Cifar::Cifar10)
        } else {
            Self::beside_metadata(dir).unwrap_or_else(|| Self::Folder {
                dir: dir.to_owned(),
            })
        }
    }
}

impl DataSource {
    /// Pictures with a `metadata.csv` in their folder, or in those of the parts, as Hugging Face's `imagefolder` has it.
    fn beside_metadata(dir: &Path) -> Option<Self> {
        let part = |names: &[&str]| names.iter().find_map(|name| is_metadata(&dir.join(name)));
        let (train, val, test) = match is_metadata(dir) {
            Some(train) => (train, None, None),
            None => {
                let val = part(&["val", "valid", "validation"]);
                (part(&["train"])?, val, part(&["test"]))
            }
        };
        Some(Self::Lists {
            root: dir.to_owned(),
            train,
            val,
            test,
            class_names: None,
            groups: None,
            columns: ListColumns::default(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn class_names_lie_beside_the_list_if_they_are_as_many() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
        // As older configurations have it.
        let lists = |train: &str| {
            let value = json!({
                "kind": "lists", "root": dir.path(), "train": at(train), "val": null, "test": null,
            });
            DataSource::deserialize(value).unwrap()
        };
        let names = |source: DataSource| {
            let data = source.with_names_beside().open().unwrap();
            data.train.class_names().to_vec()
        };
        write("train.txt", "1.jpg 0\n2.jpg 1\n");
        assert_eq!(names(lists("train.txt")), ["0", "1"]);
        write("classes.txt", "cat\ndog\n");
        assert_eq!(names(lists("train.txt")), ["cat", "dog"]);
        assert_eq!(
            lists("train.txt").open().unwrap().train.class_names(),
            ["0", "1"]
        );
        let groups = |train| match lists(train).with_names_beside() {
            DataSource::Lists { groups, .. } => groups,
            _ => None,
        };
        assert_eq!(groups("train.txt"), None);
        write("groups.txt", "1.jpg 0\n2.jpg 0\n");
        let data = lists("train.txt").with_names_beside().open().unwrap();
        assert_eq!(data.train.groups(), [[0, 1]]);
        write("groups.txt", "red team\nblue team\n");
        assert_eq!(groups("train.txt"), None);
        write("train.csv", "path,class\n1.jpg,owl\n2.jpg,bat\n");
        assert_eq!(names(lists("train.csv")), ["bat", "owl"]);
        for other in ["cat\n", "cat\ndog\nowl\n", "cat\ncat\n"] {
            write("classes.txt", other);
            assert_eq!(names(lists("train.txt")), ["0", "1"], "{other}");
        }
    }

    #[test]
    fn lists_of_a_run_are_where_the_run_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str| {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "1.jpg 0\n").unwrap();
        };
        let lists = |folder: &str| {
            let value = json!({
                "kind": "lists", "root": "pictures", "train": at(folder).join("train.txt"), "val": at("mine/val.txt"),
                "test": at(folder).join("test.txt"),
            });
            DataSource::deserialize(value).unwrap()
        };
        let found = |folder: &str, run: &str| {
            let mut source = lists(folder).of_run(&at(run));
            let paths = source.paths().into_iter();
            let paths: Vec<PathBuf> = paths.map(|(_, path)| path.clone()).collect();
            assert_eq!(
                [&paths[0], &paths[2]],
                [&PathBuf::from("pictures"), &at("mine/val.txt")]
            );
            assert_eq!(paths[1].with_file_name("test.txt"), paths[3]);
            let shown = paths[1].canonicalize().unwrap_or_else(|_| paths[1].clone());
            let root = dir.path().canonicalize().unwrap();
            shown
                .strip_prefix(root)
                .unwrap_or(&shown)
                .display()
                .to_string()
        };
        // `old` was called `run`, and another has that name now.
        write("old/lists/train.txt");
        write("run/lists/train.txt");
        assert_eq!(found("run/lists", "old"), "old/lists/train.txt");
        assert_eq!(found("gone/lists", "old"), "old/lists/train.txt");
        // Folds and seeds.
        for name in [
            "cut/lists/fold1/train.txt",
            "cut/lists/train.txt",
            "cut/fold1/config.json",
            "cut/seed1/config.json",
        ] {
            write(name);
        }
        assert_eq!(
            found("gone/lists/fold1", "cut/fold1"),
            "cut/lists/fold1/train.txt"
        );
        assert_eq!(found("gone/lists", "cut/seed1"), "cut/lists/train.txt");
        // Lists of one's own, which may be called so as well.
        write("mine/lists/train.txt");
        assert_eq!(found("mine/lists", "cut/seed1"), "mine/lists/train.txt");
        write("mine/train.txt");
        assert_eq!(found("mine", "old"), "mine/train.txt");
    }

    #[test]
    fn a_validation_folder_has_one_of_three_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        };
        file("train/cat/a.jpg");
        let source = DataSource::detect(dir.path());
        assert!(source.open().unwrap().val.is_none());
        file("valid/cat/b.jpg");
        let val = source.open().unwrap().val.unwrap();
        assert!(val.origin(0).ends_with("valid/cat/b.jpg"));
        file("validation/cat/c.jpg");
        let error = source.open().unwrap_err().to_string();
        assert!(error.contains("holds both valid and validation"), "{error}");
    }
}

//! Lists of pictures that come from several data sets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shike_data::dataset::LeftOut;
use shike_data::read::read_to_string;
use shike_data::split::{SplitPlan, group_list, list_names};
use shike_data::write::write_bytes;
use shike_data::{Dataset, Part};
use shike_train::DataSource;

use super::job::listed;
use crate::cli::CliError;

/// Pictures of several data sets with the same classes, by paths below one folder.
pub(super) struct Pictures {
    root: PathBuf,
    names: Vec<String>,
    paths: Vec<String>,
    pub labels: Vec<u32>,
    /// Numbers of those that belong together.
    pub groups: Vec<Vec<usize>>,
}

/// Lists of them that are yet to be written.
pub(super) struct Lists {
    root: PathBuf,
    files: Vec<(String, String)>,
}

/// What was not taken, of all parts: lists of them have one place for it.
pub(super) fn all_of(parts: BTreeMap<Part, LeftOut>) -> LeftOut {
    let mut all = LeftOut::default();
    parts.into_values().for_each(|part| all.add(part));
    all
}

impl Pictures {
    /// All pictures of these data sets, one set behind the other.
    pub fn of(sets: &[&Dataset]) -> Result<Self, CliError> {
        let (root, paths) = Dataset::one_folder(sets).ok_or_else(|| {
            CliError::Usage(
                "only pictures in files can be put into other lists, not CIFAR's".into(),
            )
        })?;
        let labels = sets.iter().flat_map(|set| set.labels()).copied();
        let (mut groups, mut first) = (vec![], 0);
        for set in sets {
            let behind = |group: Vec<usize>| group.into_iter().map(|i| first + i).collect();
            groups.extend(set.groups().into_iter().map(behind));
            first += set.len();
        }
        Ok(Self {
            groups,
            root,
            names: sets[0].class_names().to_vec(),
            paths,
            labels: labels.collect(),
        })
    }

    /// The folder that paths start at.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Lists of those that these numbers stand for.
    pub fn lists(&self, parts: &[(Part, Vec<usize>)]) -> Lists {
        let line = |&i: &usize| format!("{} {}\n", self.paths[i], self.labels[i]);
        let parts = parts.iter().filter(|(_, images)| !images.is_empty());
        let list = |(part, images): &(Part, Vec<usize>)| {
            (
                format!("{}.txt", part.name()),
                images.iter().map(line).collect(),
            )
        };
        let mut files: Vec<(String, String)> = parts.map(list).collect();
        let names = self.names.iter().map(|name| name.clone() + "\n");
        files.push(("classes.txt".into(), names.collect()));
        let groups = self.groups.iter();
        let groups = groups.map(|group| group.iter().map(|&i| self.paths[i].as_str()).collect());
        let groups = group_list(groups);
        if !groups.is_empty() {
            files.push(("groups.txt".into(), groups));
        }
        Lists {
            root: self.root.clone(),
            files,
        }
    }
}

impl Lists {
    /// Those of a split.
    pub fn of(plan: &SplitPlan) -> Result<Self, CliError> {
        Ok(Self {
            root: plan.record().data.clone(),
            files: plan.files()?,
        })
    }

    /// Writes them into a folder, where nothing or the same may lie.
    pub fn write(&self, folder: &Path) -> Result<DataSource, CliError> {
        let mut there = vec![];
        for name in list_names() {
            let path = folder.join(&name);
            if !path.exists() {
                continue;
            }
            let own = self.files.iter().find(|(own, _)| *own == name);
            let text = read_to_string(&path).map_err(CliError::file(&path))?;
            if own.is_none_or(|(_, own)| *own != text) {
                return Err(CliError::Usage(format!(
                    "{} holds lists of another split ({name} differs; pictures may have changed since): choose another \
                     name, or take them away",
                    folder.display()
                )));
            }
            there.push(name);
        }
        std::fs::create_dir_all(folder).map_err(CliError::file(folder))?;
        for (name, text) in self.files.iter().filter(|(name, _)| !there.contains(name)) {
            write_bytes(&folder.join(name), text)?;
        }
        Ok(listed(&self.root, folder))
    }
}

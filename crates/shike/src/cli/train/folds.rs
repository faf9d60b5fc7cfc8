//! One run for each part of the pictures that is held out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shike_data::dataset::{LeftOut, some_names};
use shike_data::read::read_to_string;
use shike_data::split::{self, GroupBy, Groups};
use shike_data::write::write_bytes;
use shike_data::{Dataset, Part};
use shike_train::report::folds::Folds;
use shike_train::run::RunPaths;
use shike_train::{Progress, TrainConfig};

use super::job::{Images, Job, listed, looked_at};
use super::lists::{Pictures, all_of};
use super::seeds::{One, train_each};
use super::session::Session;
use super::time::Planned;
use super::trained::Several;
use super::{TrainArgs, Trained};
use crate::cli::CliError;
use crate::cli::inspect::group_lines;

/// `folds.json` beside the lists: what was dealt, and how. It is written last.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FoldRecord {
    /// `shike-folds`.
    format: String,
    /// 1.
    format_version: u32,
    /// The folder that the paths start at.
    data: PathBuf,
    folds: usize,
    seed: u64,
    /// What is kept together, beside equal pictures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    group_by: Vec<GroupBy>,
    /// Pictures that are in the lists.
    pictures: usize,
    /// Pictures that cannot be read, and are in no list.
    unreadable: Vec<String>,
    /// What lay in the folders and was not taken for a picture.
    #[serde(default, skip_serializing_if = "LeftOut::is_empty")]
    left_out: LeftOut,
    /// Classes that cannot be held out: all of their pictures belong together, and are trained on in every run.
    always_trained_on: Vec<String>,
}

/// Trains a run for each part of all pictures for training and validation, of which it learns the others; those that have
/// ended already are skipped.
pub(super) fn train_folds(
    (job, planned): (&Job, Option<&Planned>),
    config: &TrainConfig,
    folder: &Path,
    folds: usize,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let lists = RunPaths::new(folder).lists();
    let record = dealt(
        &job.images,
        (folds, config.seed, &job.group_by),
        &lists,
        &mut session.progress,
    )?;
    for line in record.lines() {
        session.progress.message(&line);
    }
    let mut left_out = record.left_out.clone();
    left_out.add_unreadable(record.unreadable.len());
    let one = |fold: usize| {
        let source = listed(&record.data, &lists.join(format!("fold{fold}")));
        let mut data = source.open()?;
        data.train = data.train.with_left_out(left_out.clone());
        Ok(One {
            name: format!(
                "fold {fold}: {} pictures for training, {} are held out",
                data.train.len(),
                data.test.as_ref().map_or(0, Dataset::len)
            ),
            folder: folder.join(format!("fold{fold}")),
            config: config.clone(),
            source,
            data,
        })
    };
    let ones = (0..folds)
        .map(one)
        .collect::<Result<Vec<One>, CliError>>()?;
    let done = train_each(&ones, (job, planned), args, session)?;
    let runs: Vec<PathBuf> = ones
        .iter()
        .take(done)
        .map(|one| one.folder.clone())
        .collect();
    let interrupted = runs.len() < folds;
    let several = match interrupted {
        true => None,
        false => {
            let found = Folds::read(&runs)?;
            let held_out = ones.iter().filter_map(|one| one.data.test.as_ref());
            found.write(folder, &Dataset::joined(&held_out.collect::<Vec<_>>())?)?;
            let report = RunPaths::new(folder).report();
            session
                .progress
                .message(&format!("report: {}", report.display()));
            Some(Several::Folds(Box::new(found)))
        }
    };
    Ok(Trained::Several {
        folder: folder.to_owned(),
        runs,
        interrupted,
        several,
    })
}

/// Deals the pictures and writes the lists of each fold, unless an earlier call has done so.
fn dealt(
    images: &Images,
    (folds, seed, group_by): (usize, u64, &[GroupBy]),
    lists: &Path,
    progress: &mut Progress,
) -> Result<FoldRecord, CliError> {
    let file = lists.join("folds.json");
    if file.is_file() {
        let text = read_to_string(&file).map_err(CliError::file(&file))?;
        let record: FoldRecord = serde_json::from_str(&text)
            .map_err(|error| CliError::Format(format!("{}: {error}", file.display())))?;
        if (record.folds, record.seed, &*record.group_by) == (folds, seed, group_by) {
            return Ok(record);
        }
        let by = record
            .group_by
            .iter()
            .map(|by| format!(" and --group-by {by}"));
        return Err(CliError::Usage(format!(
            "{} was dealt into {} folds with seed {}{}: give the same, or another --run",
            lists.display(),
            record.folds,
            record.seed,
            by.collect::<String>(),
        )));
    }
    let data = images.data()?;
    let left_out = all_of(data.left_out());
    let sets: Vec<&Dataset> = [Some(&data.train), data.val.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    let mut pictures = Pictures::of(&sets)?;
    let all = Dataset::side_by_side(&sets)?;
    progress.message(&format!(
        "looking at {} pictures to deal them into {folds} folds",
        all.len()
    ));
    let found = looked_at(&all)?;
    for line in group_lines(&found, &all, group_by) {
        progress.message(&line);
    }
    let bad: BTreeSet<usize> = found.unreadable.iter().map(|bad| bad.image.index).collect();
    let good: Vec<usize> = (0..all.len()).filter(|i| !bad.contains(i)).collect();
    let labels: Vec<u32> = good.iter().map(|&i| all.label(i)).collect();
    let groups = Groups::new(&all, &found, group_by)?.among(&good);
    let fold = split::held_out(&labels, &groups, folds, seed)?;
    let of_all = |group: Vec<usize>| group.into_iter().map(|i| good[i]).collect();
    pictures.groups = groups.into_iter().map(of_all).collect();
    for of in 0..folds {
        let (test, train): (Vec<usize>, Vec<usize>) =
            (0..good.len()).partition(|&i| fold[i] == Some(of));
        let numbers = |places: Vec<usize>| places.into_iter().map(|i| good[i]).collect();
        let of_fold = pictures.lists(&[(Part::Train, numbers(train)), (Part::Test, numbers(test))]);
        of_fold.write(&lists.join(format!("fold{of}")))?;
    }
    let held: BTreeSet<u32> = labels
        .iter()
        .zip(&fold)
        .filter_map(|(label, fold)| fold.map(|_| *label))
        .collect();
    let there: BTreeSet<u32> = labels.iter().copied().collect();
    let record = FoldRecord {
        format: "shike-folds".into(),
        format_version: 1,
        data: pictures.root().to_owned(),
        folds,
        seed,
        group_by: group_by.to_vec(),
        pictures: good.len(),
        unreadable: found
            .unreadable
            .iter()
            .map(|bad| bad.image.file.clone())
            .collect(),
        left_out,
        always_trained_on: there
            .difference(&held)
            .map(|&label| all.class_names()[label as usize].clone())
            .collect(),
    };
    let text = serde_json::to_string_pretty(&record).unwrap_or_default() + "\n";
    write_bytes(&file, text)?;
    Ok(record)
}

impl FoldRecord {
    /// What a person should know.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} pictures in {} folds, each class by itself, drawn with seed {}; every run is scored on the fold that \
             it has not seen, and nothing is chosen on it",
            self.pictures, self.folds, self.seed
        )];
        if !self.group_by.is_empty() {
            let rules: Vec<String> = self.group_by.iter().map(ToString::to_string).collect();
            lines.push(format!(
                "no group of {} lies in two folds",
                rules.join(" and ")
            ));
        }
        if !self.left_out.is_empty() {
            lines.push(self.left_out.to_string());
        }
        if !self.unreadable.is_empty() {
            lines.push(format!(
                "{} cannot be read and {} in no fold",
                some_names(
                    &self
                        .unreadable
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                ),
                if self.unreadable.len() == 1 {
                    "is"
                } else {
                    "are"
                },
            ));
        }
        if !self.always_trained_on.is_empty() {
            let names: Vec<&str> = self.always_trained_on.iter().map(String::as_str).collect();
            lines.push(format!(
                "trained on in every fold, and so not to be measured (one picture, or pictures that belong together): {}",
                some_names(&names)
            ));
        }
        lines
    }
}

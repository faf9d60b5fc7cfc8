//! One run for each part of the pictures that is held out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shike_data::dataset::some_names;
use shike_data::inspect::{self as look, Depth, InspectConfig};
use shike_data::read::read_to_string;
use shike_data::rng::{Draw, Purpose, rng};
use shike_data::write::atomic_write;
use shike_data::{Dataset, Part};
use shike_train::report::folds::Folds;
use shike_train::run::RunPaths;
use shike_train::{Progress, RunTime, TrainConfig, TrainError};

use super::job::{Images, Job, listed};
use super::lists::Pictures;
use super::seeds::{One, train_each};
use super::session::Session;
use super::trained::Several;
use super::{TrainArgs, Trained};
use crate::cli::CliError;
use crate::cli::inspect::Counter;

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
    /// Pictures that are in the lists.
    pictures: usize,
    /// Pictures that cannot be read, and are in no list.
    unreadable: Vec<String>,
    /// Classes that cannot be held out: all of their pictures belong together, and are trained on in every run.
    always_trained_on: Vec<String>,
}

/// Trains a run for each part of all pictures for training and validation, of which it learns the others; those that have
/// ended already are skipped.
pub(super) fn train_folds(
    (job, time): (&Job, Option<&RunTime>),
    config: &TrainConfig,
    folder: &Path,
    folds: usize,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let lists = RunPaths::new(folder).lists();
    let record = dealt(
        &job.images,
        folds,
        config.seed,
        &lists,
        &mut session.progress,
    )?;
    for line in record.lines() {
        session.progress.message(&line);
    }
    let one = |fold: usize| {
        let source = listed(&record.data, &lists.join(format!("fold{fold}")));
        let data = source.open()?;
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
    let done = train_each(&ones, (job, time), args, session)?;
    let runs: Vec<PathBuf> = ones.into_iter().take(done).map(|one| one.folder).collect();
    let interrupted = runs.len() < folds;
    let several = match interrupted {
        true => None,
        false => {
            let found = Folds::read(&runs)?;
            found.write(folder)?;
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
    folds: usize,
    seed: u64,
    lists: &Path,
    progress: &mut Progress,
) -> Result<FoldRecord, CliError> {
    let file = lists.join("folds.json");
    if file.is_file() {
        let text = read_to_string(&file).map_err(CliError::file(&file))?;
        let record: FoldRecord = serde_json::from_str(&text)
            .map_err(|error| CliError::Format(format!("{}: {error}", file.display())))?;
        if (record.folds, record.seed) == (folds, seed) {
            return Ok(record);
        }
        return Err(CliError::Usage(format!(
            "{} was dealt into {} folds with seed {}: give the same, or another --run",
            lists.display(),
            record.folds,
            record.seed
        )));
    }
    let data = images.data()?;
    let sets: Vec<&Dataset> = [Some(&data.train), data.val.as_ref()]
        .into_iter()
        .flatten()
        .collect();
    let pictures = Pictures::of(&sets)?;
    let all = pictures.lists(&[(Part::Train, (0..pictures.labels.len()).collect())]);
    let all = Images::listed(all)?.pictures().clone();
    progress.message(&format!(
        "looking at {} pictures to deal them into {folds} folds",
        all.len()
    ));
    let counter = Counter::new(all.len(), "checked");
    let inspect = InspectConfig {
        depth: Depth::Full,
        ..InspectConfig::default()
    };
    let parts = [(Part::Train, all.clone())];
    let found = look::inspect(&parts, &inspect, &|done| counter.show(done));
    counter.clear();
    let found = found?;
    let bad: BTreeSet<usize> = found.unreadable.iter().map(|bad| bad.image.index).collect();
    let good: Vec<usize> = (0..all.len()).filter(|i| !bad.contains(i)).collect();
    let labels: Vec<u32> = good.iter().map(|&i| all.label(i)).collect();
    let place = |i: &usize| good.binary_search(i).ok();
    let groups = found.duplicates.iter().flat_map(|equal| &equal.groups);
    let groups = groups.map(|group| group.images.iter().filter_map(|image| place(&image.index)));
    let groups: Vec<Vec<usize>> = groups
        .map(Iterator::collect)
        .filter(|group: &Vec<usize>| group.len() > 1)
        .collect();
    let fold = deal(&labels, &groups, folds, seed);

    // A class that lies in one fold would be missing in training there.
    let mut seen = vec![BTreeSet::new(); all.num_classes()];
    for (label, fold) in labels.iter().zip(&fold) {
        seen[*label as usize].insert(*fold);
    }
    let alone = |label: u32| seen[label as usize].len() < 2;
    let held = |i: usize, of: usize| fold[i] == of && !alone(labels[i]);
    for of in 0..folds {
        let (test, train): (Vec<usize>, Vec<usize>) = (0..good.len()).partition(|&i| held(i, of));
        let numbers = |places: Vec<usize>| places.into_iter().map(|i| good[i]).collect();
        let of_fold = pictures.lists(&[(Part::Train, numbers(train)), (Part::Test, numbers(test))]);
        of_fold.write(&lists.join(format!("fold{of}")))?;
    }
    let names = (0..all.num_classes() as u32).filter(|label| !seen[*label as usize].is_empty());
    let names = names.filter(|label| alone(*label));
    let record = FoldRecord {
        format: "shike-folds".into(),
        format_version: 1,
        data: pictures.root().to_owned(),
        folds,
        seed,
        pictures: good.len(),
        unreadable: found
            .unreadable
            .iter()
            .map(|bad| bad.image.file.clone())
            .collect(),
        always_trained_on: names
            .map(|label| all.class_names()[label as usize].clone())
            .collect(),
    };
    let text = serde_json::to_string_pretty(&record).unwrap_or_default() + "\n";
    let written = atomic_write(&file, |writer| writer.write_all(text.as_bytes()));
    written.map_err(TrainError::from)?;
    Ok(record)
}

/// The fold of each image, `[n]`: every class by itself, in an order that is drawn, each group and image to the fold that has
/// fewest of its class, of those to the smallest.
fn deal(labels: &[u32], groups: &[Vec<usize>], folds: usize, seed: u64) -> Vec<usize> {
    let grouped: BTreeSet<usize> = groups.iter().flatten().copied().collect();
    let single = (0..labels.len()).filter(|i| !grouped.contains(i));
    let single = single.map(|i| vec![i]);
    let mut units: Vec<Vec<usize>> = groups.iter().cloned().chain(single).collect();
    units.sort_by_cached_key(|unit| {
        let drawn = rng(seed, 0, unit[0] as u64, Purpose::Other).below(u32::MAX);
        (Reverse(unit.len()), drawn)
    });
    let mut of_class = BTreeMap::<u32, Vec<usize>>::new();
    let (mut fold, mut sizes) = (vec![0; labels.len()], vec![0; folds]);
    for unit in units {
        let of = of_class.entry(labels[unit[0]]);
        let of = of.or_insert_with(|| vec![0; folds]);
        let least = (0..folds).min_by_key(|&fold| (of[fold], sizes[fold]));
        let least = least.unwrap_or(0);
        of[least] += unit.len();
        sizes[least] += unit.len();
        unit.into_iter().for_each(|i| fold[i] = least);
    }
    fold
}

impl FoldRecord {
    /// What a person should know.
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} pictures in {} folds, each class by itself, drawn with seed {}; every run is scored on the fold that \
             it has not seen, and nothing is chosen on it",
            self.pictures, self.folds, self.seed
        )];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_have_equal_shares_of_every_class_and_keep_groups() {
        let labels: Vec<u32> = [vec![0; 23], vec![1; 7], vec![2; 2]].concat();
        let groups = [vec![0, 5, 9], vec![23, 24]];
        let fold = deal(&labels, &groups, 5, 1);
        let count = |class: u32, of: usize| {
            let both = labels.iter().zip(&fold);
            both.filter(|both| *both == (&class, &of)).count()
        };
        let counts = |class| {
            let mut counts: Vec<usize> = (0..5).map(|of| count(class, of)).collect();
            counts.sort_unstable();
            counts
        };
        assert_eq!(counts(0), [4, 4, 5, 5, 5]);
        assert_eq!(counts(1), [1, 1, 1, 2, 2]);
        assert_eq!(counts(2), [0, 0, 0, 1, 1]);
        for group in &groups {
            assert!(group.iter().all(|i| fold[*i] == fold[group[0]]));
        }
        // All sizes differ by as little as can be.
        let size = |of| fold.iter().filter(|fold| **fold == of).count();
        assert!((0..5).all(|of| (6..=7).contains(&size(of))), "{fold:?}");
        assert_eq!(fold, deal(&labels, &groups, 5, 1));
        assert_ne!(fold, deal(&labels, &groups, 5, 2));
    }
}

//! Runs that hold out one part of the pictures each: every picture is scored once, by a model that has not seen it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use shike_data::Dataset;
use shike_data::write::atomic_write;
use shike_infer::metrics::{ClassRow, Evaluation, ImageScore, Metric, Scores, Table, cell};

use super::compare::{CompareError, compared, deviation, mean, over};
use super::view::View;
use super::{ReportError, write_page};
use crate::run::receipt::Receipt;
use crate::run::{Classes, RunDirError, RunPaths};

/// Classes that a text names one by one.
const SHOWN: usize = 30;

/// What several folds came to.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Folds {
    /// The folders of the runs.
    pub runs: Vec<PathBuf>,
    /// Scores of each on the pictures that it held out, in percent.
    pub scores: Vec<Scores>,
    /// Mean over the runs.
    pub mean: Scores,
    /// Standard deviation over the runs (with n − 1).
    pub deviation: Scores,
    /// Of all pictures that were held out; a class's training pictures are those of a run, on average.
    pub all: Evaluation,
    /// Class names, by label.
    pub class_names: Vec<String>,
    /// Names of the pictures, in the order of the scores.
    #[serde(skip)]
    names: Vec<String>,
}

impl Folds {
    /// Reads the predictions of runs that have ended.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a run has not ended.
    ///
    /// # Panics
    /// If there is no run.
    pub fn read(runs: &[PathBuf]) -> Result<Self, CompareError> {
        let (mut names, mut images) = (vec![], vec![]);
        let (mut counts, mut of_runs) = (Vec::<Vec<usize>>::new(), vec![]);
        for run in runs {
            let paths = RunPaths::new(run);
            if !paths.predictions_csv().exists() || !paths.receipt().exists() {
                return Err(CompareError::Unfinished(run.clone()));
            }
            let predictions = paths.read_predictions()?;
            let scores: Vec<ImageScore> = predictions.iter().map(|(_, score)| *score).collect();
            counts.push(paths.read_classes()?.train_counts);
            names.extend(predictions.into_iter().map(|(name, _)| name));
            images.extend(scores.iter().copied());
            of_runs.push(scores);
        }
        let first = RunPaths::new(&runs[0]);
        let Classes {
            names: class_names, ..
        } = first.read_classes()?;
        let Receipt { thresholds, .. } = first.read_receipt()?;
        let average = |class: usize| {
            let counts = counts
                .iter()
                .map(|counts| counts.get(class).copied().unwrap_or(0));
            (counts.sum::<usize>() + runs.len() / 2) / runs.len()
        };
        let counts: Vec<usize> = (0..class_names.len()).map(average).collect();
        let evaluated = |scores| {
            let evaluation = Evaluation::of_predictions(scores, &counts, thresholds);
            evaluation.map_err(|error| {
                CompareError::from(RunDirError::Format {
                    path: first.root().to_owned(),
                    message: error.to_string(),
                })
            })
        };
        let scores = of_runs
            .into_iter()
            .map(|scores| Ok(evaluated(scores)?.ensemble));
        let scores: Vec<Scores> = scores.collect::<Result<_, CompareError>>()?;
        Ok(Self {
            mean: over(&scores, mean),
            deviation: over(&scores, deviation),
            scores,
            all: evaluated(images)?,
            runs: runs.to_vec(),
            class_names,
            names,
        })
    }

    /// Writes `per_class.csv`, `predictions.csv` and `report.html` of all pictures, which are `scored`: those that each run
    /// held out, one set behind the other.
    ///
    /// # Errors
    /// If they cannot be written, or the settings of the first run cannot be read.
    pub fn write(&self, folder: &Path, scored: &Dataset) -> Result<(), ReportError> {
        let paths = RunPaths::new(folder);
        let view = View::of_folds(self, scored, folder)?;
        write_page(&view, &paths.report())?;
        atomic_write(&paths.per_class_csv(), |writer| {
            self.all.write_per_class_csv(writer, &self.class_names)
        })?;
        Ok(atomic_write(&paths.predictions_csv(), |writer| {
            self.all
                .write_predictions_csv(writer, |i| self.names[i].clone())
        })?)
    }

    /// Of how many pictures the scores are.
    pub(super) fn sum(&self) -> String {
        let alone = self.all.per_class.iter().filter(|row| row.test_count == 0);
        let alone = match alone.count() {
            0 => String::new(),
            1 => "; 1 class was in no test".into(),
            n => format!("; {n} classes were in no test"),
        };
        let images = self.all.images;
        format!("{images} pictures, each scored once by the run that held it out{alone}")
    }

    /// Means and intervals.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::default();
        table.row("accuracy [%]", compared().map(|metric| metric.title.into()));
        let each = |metric| match [&self.mean, &self.deviation].map(|s| s.get(metric)) {
            [Some(mean), deviation] => format!("{} ± {}", cell(Some(mean)), cell(deviation)),
            _ => cell(None),
        };
        table.row(format!("{} folds", self.runs.len()), compared().map(each));
        let all = |metric: Metric| cell(self.all.get(metric));
        table.row("all pictures", compared().map(all));
        let interval = |metric| {
            let interval = self.all.interval(metric);
            interval.map_or_else(|| "-".into(), |i| format!("{:.0}–{:.0}", i.low, i.high))
        };
        table.row("  95 % interval", compared().map(interval));
        table
    }

    /// What each fold came to.
    pub(super) fn runs(&self) -> Table {
        let mut table = Table::default();
        table.row("accuracy [%]", compared().map(|metric| metric.title.into()));
        for (run, scores) in self.runs.iter().zip(&self.scores) {
            let name = run.file_name().unwrap_or_default().to_string_lossy();
            table.row(name, compared().map(|metric| cell(scores.get(metric))));
        }
        table
    }

    /// A row a class: all of them where they are not more than `most`, else those that were named wrongly most often.
    pub(super) fn classes(&self, most: usize) -> Table {
        let mut rows: Vec<&ClassRow> = self.all.per_class.iter().collect();
        if rows.len() > most {
            let accuracy = |row: &&ClassRow| row.accuracy.unwrap_or(f64::INFINITY);
            rows.sort_by(|a, b| accuracy(a).total_cmp(&accuracy(b)));
            rows.truncate(most);
        }
        let mut table = Table::default();
        let titles = ["held out", "right", "taken for it", "accuracy", "95 %"];
        table.row("class", titles.map(String::from).into_iter());
        for row in rows {
            let interval = row.interval().filter(|_| row.test_count > 0);
            table.row(
                &self.class_names[row.class],
                [
                    row.test_count.to_string(),
                    row.correct.to_string(),
                    row.predicted.to_string(),
                    cell(row.accuracy),
                    interval.map_or_else(|| "-".into(), |i| format!("{:.0}–{:.0}", i.low, i.high)),
                ]
                .into_iter(),
            );
        }
        table
    }
}

impl fmt::Display for Folds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.table())?;
        writeln!(f, "{}", self.classes(SHOWN))?;
        f.write_str(&self.sum())?;
        match self.class_names.len() > SHOWN {
            true => write!(
                f,
                "; per_class.csv has all {} classes",
                self.class_names.len()
            ),
            false => Ok(()),
        }
    }
}

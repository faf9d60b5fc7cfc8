//! Runs beside one another: mean and deviation over seeds, and whether a difference is more than chance.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;
use shike_data::Part;
use shike_data::rng::{Draw, Purpose, rng};
use thiserror::Error;

use crate::config::TrainConfig;
use crate::config::diff::differing;
use crate::run::RunConfig;
use crate::run::receipt::Receipt;
use crate::run::{Classes, RunDirError, RunPaths};
use shike_infer::metrics::{Measure, Metric, Scores, Shot, Table, Tally, cell};

/// Test images that a class needs for a bootstrap over them to tell anything: the images of a smaller one
/// hardly vary, and an interval from them is too narrow.
const ENOUGH: usize = 10;
/// Settings that are named where methods differ.
const NAMED: usize = 8;

/// Draws of the bootstrap.
const DRAWS: u64 = 2000;

/// Runs of a method below which their own spread is a guess.
const ENOUGH_RUNS: usize = 5;

/// Why runs cannot be compared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A file of a run cannot be read.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A run has not ended.
    #[error("{}: it has no scores yet; let it end", .0.display())]
    Unfinished(PathBuf),
    /// Two runs were scored on different images or classes.
    #[error("{} and {}: {what} differ, so that their accuracies say nothing about one another", first.display(), second.display())]
    Different {
        /// A run.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A run is named more than once.
    #[error("{}: this run is given twice; give each run once", .0.display())]
    Twice(PathBuf),
    /// A prediction is of a class that the run does not have.
    #[error("{}: label {label} in predictions.csv, but there are {classes} classes", path.display())]
    Label {
        /// The run.
        path: PathBuf,
        /// The label.
        label: u32,
        /// How many classes there are.
        classes: usize,
    },
}

/// A finished run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScoredRun {
    /// Its folder.
    pub path: PathBuf,
    /// What it was obtained with.
    pub receipt: Receipt,
    /// The configuration without the seed: runs that agree in it are of one method.
    config: TrainConfig,
    labels: Vec<u32>,
    correct: Vec<bool>,
    shots: Vec<Shot>,
}

/// Runs that differ in their seed alone.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Method {
    /// The folders of the runs.
    pub runs: Vec<PathBuf>,
    /// Their seeds.
    pub seeds: Vec<u64>,
    /// Scores of each run, in percent.
    pub scores: Vec<Scores>,
    /// Mean over the runs.
    pub mean: Scores,
    /// Standard deviation over the runs (with n − 1); 0 of a single one.
    pub deviation: Scores,
}

/// One method less another.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// Index of the method.
    pub method: usize,
    /// Index of the one that it is compared with.
    pub than: usize,
    /// Mean difference, in points.
    pub points: Scores,
    /// The 95 % interval of each, by a paired bootstrap: runs are drawn of each method that has several,
    /// and within each class the same test images for both methods. Of a method with one run only the
    /// images vary, so that the interval does not cover what another seed would change.
    pub low: Scores,
    /// The upper ends.
    pub high: Scores,
    /// The settings in which the methods differ, by their paths in `config.json`.
    pub settings: Vec<String>,
}

/// A group of classes of which most have so few test images that the interval of a difference is too
/// narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Narrow {
    /// The group.
    pub group: Shot,
    /// Its classes with fewer than 10 test images.
    pub small: usize,
    /// Its classes that have test images.
    pub classes: usize,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// In the order of their first runs.
    pub methods: Vec<Method>,
    /// Every later method less the first.
    pub differences: Vec<Difference>,
    /// Groups whose intervals are too narrow.
    pub narrow: Vec<Narrow>,
    /// Number of test images.
    pub images: usize,
}

impl ScoredRun {
    /// Reads a run's `config.json`, `classes.json`, `receipt.json` and `predictions.csv`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the run has not ended.
    pub fn read(folder: impl Into<PathBuf>) -> Result<Self, CompareError> {
        let paths = RunPaths::new(folder);
        let path = paths.root().to_owned();
        paths.check()?;
        if !paths.receipt().exists() || !paths.predictions_csv().exists() {
            return Err(CompareError::Unfinished(path));
        }
        let receipt = paths.read_receipt()?;
        if receipt.scored.is_none() {
            return Err(CompareError::Unfinished(path));
        }
        let Classes {
            names,
            train_counts,
        } = paths.read_classes()?;
        let mut config = RunConfig::read(&paths)?;
        config.train.seed = 0;
        let scores = paths.read_predictions()?;
        let labels: Vec<u32> = scores.iter().map(|(_, score)| score.label).collect();
        let classes = names.len();
        if let Some(&label) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(CompareError::Label {
                path,
                label,
                classes,
            });
        }
        let group = |&count| receipt.thresholds.group(count);
        Ok(Self {
            config: config.train,
            labels,
            correct: scores.iter().map(|(_, score)| score.is_correct()).collect(),
            shots: train_counts.iter().map(group).collect(),
            receipt,
            path,
        })
    }

    /// 1 where an image is named rightly, else 0.
    fn right(&self, image: usize) -> f64 {
        f64::from(u8::from(self.correct[image]))
    }

    /// The settings in which two runs differ; without any, they are of one method.
    fn differing(&self, other: &Self) -> Vec<String> {
        let mut settings = differing(&self.config, &other.config);
        if self.receipt.train != other.receipt.train {
            settings.push("training images".into());
        }
        settings
    }

    fn same_test_as(&self, other: &Self) -> Result<(), CompareError> {
        let (mine, theirs) = (&self.receipt, &other.receipt);
        let what = [
            ("class orders", mine.class_order != theirs.class_order),
            ("shot thresholds", mine.thresholds != theirs.thresholds),
            ("scored splits", mine.scored != theirs.scored),
            (
                "test lists",
                // What the other split chose a checkpoint on does not matter here.
                match mine.scored {
                    Some(Part::Val) => mine.val != theirs.val,
                    _ => mine.test != theirs.test,
                },
            ),
            ("test labels", self.labels != other.labels),
            ("training counts", self.shots != other.shots),
        ];
        match what.into_iter().find(|(_, differ)| *differ) {
            None => Ok(()),
            Some((what, _)) => Err(CompareError::Different {
                first: self.path.clone(),
                second: other.path.clone(),
                what,
            }),
        }
    }
}

/// Images of each class, and the groups of classes.
struct Test {
    by_class: Vec<Vec<usize>>,
    shots: Vec<Shot>,
}

impl Test {
    fn narrow(&self) -> Vec<Narrow> {
        let narrow = Shot::ALL.into_iter().map(|group| {
            let classes = self.by_class.iter().zip(&self.shots);
            let sizes: Vec<usize> = classes
                .filter(|(images, shot)| **shot == group && !images.is_empty())
                .map(|(images, _)| images.len())
                .collect();
            Narrow {
                group,
                small: sizes.iter().filter(|&&size| size < ENOUGH).count(),
                classes: sizes.len(),
            }
        });
        narrow.filter(|n| 2 * n.small > n.classes).collect()
    }

    /// Scores of `right`, which gives a number for an image; `pick` gives the `n`-th image of a class's.
    fn scores(
        &self,
        right: impl Fn(usize) -> f64,
        mut pick: impl FnMut(&[usize], usize) -> usize,
    ) -> Scores {
        let mut tally = Tally::new(self.shots.clone());
        for (class, images) in self.by_class.iter().enumerate() {
            for n in 0..images.len() {
                tally.add(class, [(Measure::Top1, right(pick(images, n)))]);
            }
        }
        tally.scores(compared())
    }
}

/// What is known of every run by its `predictions.csv`.
pub(super) fn compared() -> impl Iterator<Item = Metric> + Clone {
    Metric::accuracies().filter(|metric| metric.of == Measure::Top1)
}

/// `f` of each metric over several scores.
pub(super) fn over(all: &[Scores], f: impl Fn(&[f64]) -> f64) -> Scores {
    let value = |metric| {
        let values: Option<Vec<f64>> = all.iter().map(|scores| scores.get(metric)).collect();
        let values = values.filter(|values| !values.is_empty());
        (metric, values.map(|values| f(&values)))
    };
    compared().map(value).collect()
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(super) fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt()
}

/// The value below which this share of the values lies.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Weights of a method's runs in a draw of the bootstrap, which sum to 1: how often each is among as many
/// drawn with replacement. Draws from few runs vary less than new runs would, by `(n − 1) / n`, which is
/// made up for.
fn run_weights(runs: usize, draw: &mut impl Draw) -> Vec<f64> {
    let mut drawn = vec![0.0; runs];
    for _ in 0..runs {
        drawn[draw.below(runs as u32) as usize] += 1.0;
    }
    let n = runs as f64;
    let stretch = (n / (n - 1.0).max(1.0)).sqrt();
    let weight = |count: f64| (1.0 + stretch * (count - 1.0)) / n;
    drawn.into_iter().map(weight).collect()
}

/// Compares runs: groups them by method, and sets every method against the first.
///
/// # Errors
/// If the runs were not scored on the same images and classes.
///
/// # Panics
/// If there is no run.
pub fn compare(runs: &[ScoredRun]) -> Result<Comparison, CompareError> {
    let first = &runs[0];
    for other in &runs[1..] {
        first.same_test_as(other)?;
    }
    let folder = |run: &ScoredRun| std::fs::canonicalize(&run.path).ok();
    let mut folders = BTreeSet::new();
    for run in runs {
        if folder(run).is_some_and(|folder| !folders.insert(folder)) {
            return Err(CompareError::Twice(run.path.clone()));
        }
    }
    let mut by_class = vec![Vec::new(); first.shots.len()];
    for (image, &label) in first.labels.iter().enumerate() {
        by_class[label as usize].push(image);
    }
    let test = Test {
        by_class,
        shots: first.shots.clone(),
    };
    let mut groups: Vec<Vec<&ScoredRun>> = Vec::new();
    for run in runs {
        let same = |group: &&mut Vec<&ScoredRun>| group[0].differing(run).is_empty();
        match groups.iter_mut().find(same) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let method = |group: &Vec<&ScoredRun>| {
        let scores: Vec<_> = group
            .iter()
            .map(|run| test.scores(|image| run.right(image), |images, n| images[n]))
            .collect();
        Method {
            runs: group.iter().map(|run| run.path.clone()).collect(),
            seeds: group.iter().map(|run| run.receipt.seed).collect(),
            mean: over(&scores, mean),
            deviation: over(&scores, deviation),
            scores,
        }
    };
    let methods = groups.iter().map(method).collect();

    let difference = |index: usize| {
        let pair = [&groups[index], &groups[0]];
        let less = |weights: [Vec<f64>; 2]| {
            move |image: usize| {
                let [own, other] = [0, 1].map(|i| -> f64 {
                    let runs = pair[i].iter().zip(&weights[i]);
                    runs.map(|(run, weight)| weight * run.right(image)).sum()
                });
                own - other
            }
        };
        let draws: Vec<Scores> = (0..DRAWS)
            .map(|draw| {
                // The same draws for every method.
                let [mut runs, mut picks] = [0, 1].map(|of| rng(0, draw, of, Purpose::Other));
                let weights = pair.map(|group| run_weights(group.len(), &mut runs));
                test.scores(less(weights), |images, _| {
                    images[picks.below(images.len() as u32) as usize]
                })
            })
            .collect();
        let equal = pair.map(|group| vec![1.0 / group.len() as f64; group.len()]);
        Difference {
            method: index,
            than: 0,
            points: test.scores(less(equal), |images, n| images[n]),
            low: over(&draws, |values| quantile(values, 0.025)),
            high: over(&draws, |values| quantile(values, 0.975)),
            settings: groups[0][0].differing(groups[index][0]),
        }
    };
    Ok(Comparison {
        methods,
        differences: (1..groups.len()).map(difference).collect(),
        narrow: test.narrow(),
        images: first.labels.len(),
    })
}

impl Comparison {
    /// How many seeds a method has: the same one may have run on another device.
    fn seeds(&self, method: usize) -> usize {
        self.methods[method]
            .seeds
            .iter()
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// A row a method, and two for each difference.
    fn table(&self) -> Table {
        let mut table = Table::default();
        table.row("accuracy [%]", compared().map(|metric| metric.title.into()));
        for (index, method) in self.methods.iter().enumerate() {
            let name = method.runs[0].file_name().unwrap_or_default();
            let name = format!("{} {}", index + 1, name.to_string_lossy());
            let label = match (method.runs.len(), self.seeds(index)) {
                (1, _) => name,
                (runs, seeds) if runs == seeds => format!("{name} ({seeds} seeds)"),
                (runs, 1) => format!("{name} ({runs} runs, 1 seed)"),
                (runs, seeds) => format!("{name} ({runs} runs, {seeds} seeds)"),
            };
            let value = |metric| {
                let [mean, deviation] = [&method.mean, &method.deviation].map(|s| s.get(metric));
                match (mean, method.runs.len()) {
                    (None, _) | (_, 1) => cell(mean),
                    _ => format!("{} ± {}", cell(mean), cell(deviation)),
                }
            };
            table.row(label, compared().map(value));
        }
        for difference in &self.differences {
            let points = |metric| {
                let points = difference.points.get(metric);
                points.map_or_else(|| "-".into(), |points| format!("{points:+.2}"))
            };
            table.row(difference.name(), compared().map(points));
            let interval = |metric| {
                let ends = [&difference.low, &difference.high].map(|end| end.get(metric));
                match ends {
                    [Some(low), Some(high)] => format!("{low:+.1} to {high:+.1}"),
                    _ => "-".into(),
                }
            };
            table.row("  95 % interval", compared().map(interval));
        }
        table
    }

    /// What the intervals of a difference do not cover, and the settings in which the methods differ.
    fn notes(&self, difference: &Difference) -> Vec<String> {
        let pair = [difference.than, difference.method];
        let single = pair.into_iter().filter(|method| self.seeds(*method) == 1);
        let single: Vec<_> = single.map(|method| (method + 1).to_string()).collect();
        let mut notes = vec![];
        if !single.is_empty() {
            notes.push(format!(
                "one seed of {}: the interval covers the choice of test images, and not how much another \
                 seed would change",
                single.join(" and ")
            ));
        }
        let few = |method| (2..ENOUGH_RUNS).contains(&self.seeds(method));
        if pair.into_iter().any(few) {
            notes.push(format!(
                "fewer than {ENOUGH_RUNS} seeds: their spread is a rough estimate, and the interval may be too \
                 narrow"
            ));
        }
        let settings = &difference.settings;
        let (named, more) = settings.split_at(settings.len().min(NAMED));
        let more = match more.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        notes.push(format!("other settings: {}{more}", named.join(", ")));
        notes
    }
}

impl Difference {
    fn name(&self) -> String {
        format!("{} less {}", self.method + 1, self.than + 1)
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.table())?;
        for difference in &self.differences {
            for note in self.notes(difference) {
                writeln!(f, "{}: {note}", difference.name())?;
            }
        }
        write!(
            f,
            "{} test images; intervals by a paired bootstrap over seeds, and over images within classes",
            self.images
        )?;
        for narrow in &self.narrow {
            write!(
                f,
                "\n{}: {} of {} classes have fewer than {ENOUGH} test images, too few to tell: these \
                 intervals are too narrow",
                narrow.group, narrow.small, narrow.classes
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::receipt::{ChosenOn, SplitReceipt};
    use shike_infer::metrics::ShotThresholds;
    use shike_model::ShikeConfig;

    const CLASSES: usize = 20;
    const PER_CLASS: usize = 25;

    fn top1(scores: &Scores) -> f64 {
        scores.get(Metric::TOP1).unwrap()
    }

    fn width(difference: &Difference) -> f64 {
        top1(&difference.high) - top1(&difference.low)
    }

    /// A run that names images rightly as `right(class, image of the class)` says.
    fn run(weight_decay: f64, seed: u64, right: impl Fn(usize, usize) -> bool) -> ScoredRun {
        let mut config = TrainConfig::cifar(ShikeConfig::cifar(8, CLASSES).unwrap(), [1, 1]);
        config.optimizer = crate::config::OptimizerConfig::Sgd(crate::config::SgdConfig {
            weight_decay,
            ..Default::default()
        });
        let images = SplitReceipt {
            images: 0,
            sha256: String::new(),
        };
        let places = || (0..CLASSES).flat_map(|c| (0..PER_CLASS).map(move |image| (c, image)));
        ScoredRun {
            path: format!("{weight_decay}-{seed}").into(),
            receipt: Receipt {
                version: String::new(),
                device: String::new(),
                seed,
                thresholds: ShotThresholds::default(),
                class_order: String::new(),
                train: images.clone(),
                val: None,
                test: Some(images),
                settings: None,
                weights: None,
                file_bytes: [0; 3],
                model_chosen_on: ChosenOn::LastEpoch,
                best_chosen_on: None,
                ended_early: vec![],
                extended: vec![],
                left_out: Default::default(),
                scored: Some(Part::Test),
                training_seconds: 0.0,
            },
            config,
            labels: places().map(|(class, _)| class as u32).collect(),
            correct: places().map(|(class, image)| right(class, image)).collect(),
            shots: vec![Shot::Medium; CLASSES],
        }
    }

    #[test]
    fn the_interval_covers_the_spread_over_seeds_or_says_that_it_does_not() {
        // A run has whole classes right or wrong: within classes nothing varies over images.
        let first = [6, 10, 8, 12, 4, 9, 11, 8];
        let second = [12, 15, 13, 9, 14, 16, 11, 12];
        let runs = |decay: f64, right: &[usize]| -> Vec<ScoredRun> {
            let runs = (0..).zip(right);
            runs.map(|(seed, &right)| run(decay, seed, move |class, _| class < right))
                .collect()
        };
        let percent = |right: &[usize]| -> Vec<f64> {
            let share = |&right: &usize| 100.0 * right as f64 / CLASSES as f64;
            right.iter().map(share).collect()
        };
        let compared = |seeds: [usize; 2]| {
            let mut all = runs(0.1, &first[..seeds[0]]);
            all.extend(runs(0.2, &second[..seeds[1]]));
            compare(&all).unwrap()
        };
        for seeds in [[8, 8], [4, 8], [8, 1], [2, 2]] {
            let found = compared(seeds);
            let width = width(&found.differences[0]);
            // The variance of a difference of two means over seeds; of one seed it is not known.
            let scores = [percent(&first[..seeds[0]]), percent(&second[..seeds[1]])];
            let variance = |values: &Vec<f64>| deviation(values).powi(2) / values.len() as f64;
            let expected = 2.0 * 1.96 * scores.iter().map(variance).sum::<f64>().sqrt();
            assert!(
                (width / expected - 1.0).abs() < 0.15,
                "{seeds:?}: {width} {expected}"
            );
            let points = mean(&scores[1]) - mean(&scores[0]);
            assert!((top1(&found.differences[0].points) - points).abs() < 1e-9);
            let text = found.to_string();
            assert_eq!(
                text.contains("one seed of 2: the interval"),
                seeds[1] == 1,
                "{text}"
            );
            assert_eq!(text.contains("fewer than 5 seeds"), seeds[0] < 5, "{text}");
        }
        let single = compared([1, 1]);
        assert_eq!(single.differences[0].low, single.differences[0].high);
        let text = single.to_string();
        assert!(
            text.contains("one seed of 1 and 2: the interval covers the choice"),
            "{text}"
        );
        // The same run twice is no second seed.
        let mut twice = runs(0.1, &first[..1]);
        twice.extend(runs(0.1, &first[..1]));
        twice.extend(runs(0.2, &second[..8]));
        let text = compare(&twice).unwrap().to_string();
        assert!(text.contains("(2 runs, 1 seed)"), "{text}");
        assert!(text.contains("one seed of 1: the interval"), "{text}");
        assert!(!text.contains("fewer than 5 seeds"), "{text}");
    }

    #[test]
    fn the_interval_of_single_runs_is_that_of_the_images() {
        // 15 and 10 of 25 images right in every class, at other places.
        let first = run(0.1, 0, |_, image| image < 15);
        let second = run(0.2, 0, |_, image| image >= 15);
        let difference = &compare(&[first, second]).unwrap().differences[0];
        // +1 with probability 0.4 and −1 with 0.6.
        let images = (CLASSES * PER_CLASS) as f64;
        let expected = 2.0 * 1.96 * 100.0 * ((1.0 - 0.2f64.powi(2)) / images).sqrt();
        let width = width(difference);
        assert!((width / expected - 1.0).abs() < 0.1, "{width} {expected}");
        assert!((top1(&difference.points) + 20.0).abs() < 1e-9);
    }

    #[test]
    fn a_group_of_small_classes_has_intervals_that_are_too_narrow() {
        let sizes = [(30, Shot::Many), (9, Shot::Many), (10, Shot::Medium)];
        let few = [
            (1, Shot::Few),
            (2, Shot::Few),
            (50, Shot::Few),
            (0, Shot::Few),
        ];
        let all = || sizes.into_iter().chain(few);
        let test = Test {
            by_class: all().map(|(size, _)| vec![0; size]).collect(),
            shots: all().map(|(_, shot)| shot).collect(),
        };
        let narrow = Narrow {
            group: Shot::Few,
            small: 2,
            classes: 3,
        };
        // Half of the many-shot classes are small, which is not most of them.
        assert_eq!(test.narrow(), [narrow]);
    }
}

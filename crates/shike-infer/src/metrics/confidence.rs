//! How sure a model may be: temperature, sets of classes with a promised coverage, and pictures of no class.
//!
//! All of it is fitted on pictures that neither training nor any choice saw: a run's validation pictures, for the
//! model of its last epoch. The best epoch was chosen on them, so `best.safetensors` has none.

use serde::{Deserialize, Serialize};
use shike_data::{ByShot, Interval, Shot, split};

use super::ranking::of_class;
use super::{Evaluation, ImageScore, Table, cell};

/// Fewer pictures say nothing.
const FEWEST: usize = 20;
/// A picture's probabilities are computed with the temperature of the other parts.
const FOLDS: usize = 5;
/// Bounds of the logarithm of a temperature.
const LOG_TEMPERATURES: [f64; 2] = [-2.3, 2.3];

/// What pictures that were not trained on say about a model's probabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confidence {
    /// What logits are divided by (Guo et al., ICML 2017): the one with the lowest cross-entropy.
    pub temperature: f64,
    /// The probability of its own class of each picture, by class and ascending.
    own: Vec<Vec<f32>>,
    /// The highest probability of each picture, ascending.
    highest: Vec<f32>,
}

impl Confidence {
    /// Of scored pictures, whose [log-probabilities](Evaluation::log_probabilities) are wanted. None without these, with
    /// fewer than 20 pictures, or where a logit was no number.
    ///
    /// `groups` are pictures that belong together, two and more each: what a picture's probabilities are computed
    /// with has not seen its group. None without two of them.
    pub fn fit(evaluation: &Evaluation, groups: &[Vec<usize>]) -> Option<Self> {
        let classes = evaluation.per_class.len();
        let rows = Rows {
            log: &evaluation.log_probabilities,
            labels: evaluation.scores.iter().map(|score| score.label).collect(),
            classes,
        };
        let pictures = rows.labels.len();
        let whole = rows.log.len() == pictures * classes;
        let finite = evaluation
            .scores
            .iter()
            .all(|score| score.predicted.is_some());
        if !whole || !finite || pictures < FEWEST {
            return None;
        }
        let joined: usize = groups.iter().map(|group| group.len() - 1).sum();
        let folds = FOLDS.min(pictures - joined);
        let fold = match groups {
            // The pictures of a class are dealt out in turn.
            [] => {
                let mut seen = vec![0; classes];
                let next = |&label: &u32| {
                    seen[label as usize] += 1;
                    (seen[label as usize] - 1 + label as usize) % FOLDS
                };
                rows.labels.iter().map(next).collect()
            }
            _ => split::folds(&rows.labels, groups, folds, 0).ok()?,
        };
        let others = |of: usize| rows.temperature((0..pictures).filter(|&i| fold[i] != of));
        let temperatures: Vec<f64> = (0..folds).map(others).collect();
        let mut own = vec![vec![]; classes];
        let mut highest = vec![];
        for (i, &label) in rows.labels.iter().enumerate() {
            let probabilities = rows.probabilities(i, temperatures[fold[i]]);
            own[label as usize].push(probabilities[label as usize]);
            highest.push(probabilities.iter().copied().fold(0.0, f32::max));
        }
        own.iter_mut()
            .for_each(|own| own.sort_unstable_by(f32::total_cmp));
        highest.sort_unstable_by(f32::total_cmp);
        Some(Self {
            temperature: rows.temperature(0..pictures),
            own,
            highest,
        })
    }

    /// The temperature, which is 1 where nothing is known.
    pub fn temperature_of(known: Option<&Self>) -> f64 {
        known.map_or(1.0, |confidence| confidence.temperature)
    }

    /// Checks a stored one.
    pub(crate) fn check(&self, classes: usize) -> Result<(), String> {
        let probability = |p: &f32| (0.0..=1.0).contains(p);
        let all = self.own.iter().flatten().chain(&self.highest);
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let temperature = self.temperature;
            return Err(format!(
                "confidence.temperature = {temperature}: it must be above 0"
            ));
        }
        if self.own.len() != classes || self.highest.is_empty() {
            return Err("confidence: not one list of probabilities a class".into());
        }
        match all.into_iter().all(probability) {
            true => Ok(()),
            false => Err("confidence: a probability is not within 0 and 1".into()),
        }
    }

    /// The highest probability that only a share of the pictures stay below.
    pub fn threshold(&self, share: f64) -> f32 {
        self.highest[lowest(self.highest.len(), share)]
    }

    /// Sets of classes that hold a picture's own class with the probability `coverage`, for each shot group by itself
    /// (label-conditional conformal prediction, Vovk 2012; Sadinle et al., JASA 2019): a class is in the set if its
    /// probability is at least what the pictures of the class had but for the lowest 1 − coverage. A class with
    /// 1/(1 − coverage) pictures has a bound of its own, the others of a group share one. `shots` are the groups of
    /// the classes.
    ///
    /// # Errors
    /// A coverage that is not between 0 and 1, or that so few pictures cannot promise at all.
    pub fn sets(&self, coverage: f64, shots: &[Shot]) -> Result<Sets, String> {
        if !(coverage > 0.0 && coverage < 1.0) {
            return Err(format!(
                "a coverage of {coverage}: give a share, such as 0.9"
            ));
        }
        let missed = 1.0 - coverage;
        let all = self.highest.len();
        let bound = |mut own: Vec<f32>| {
            own.sort_unstable_by(f32::total_cmp);
            // Of n + 1 pictures that are alike, the new one has each place with the same probability.
            let below = ((own.len() + 1) as f64 * missed + 1e-9).floor() as usize;
            below.checked_sub(1).map(|place| own[place])
        };
        let Some(pooled) = bound(self.own.concat()) else {
            return Err(format!(
                "a coverage of {coverage} takes {:.0} validation pictures, and there were {all}",
                (1.0 / missed).ceil() - 1.0
            ));
        };
        let alone = |own: &Vec<f32>| own.len() as f64 >= 1.0 / missed - 1e-9;
        let groups = ByShot::of(|shot| {
            let classes = self.own.iter().zip(shots).filter(|(_, of)| **of == shot);
            bound(
                classes
                    .filter(|(own, _)| !alone(own))
                    .flat_map(|(own, _)| own.clone())
                    .collect(),
            )
        });
        let least = self
            .own
            .iter()
            .zip(shots)
            .map(|(own, shot)| match alone(own) {
                true => bound(own.clone()).unwrap_or(pooled),
                false => groups[*shot].unwrap_or(pooled),
            });
        let own_classes = self.own.iter().map(alone);
        let unsure = Shot::ALL.into_iter().filter(|&shot| {
            let mut classes = shots.iter().zip(own_classes.clone());
            groups[shot].is_none() && classes.any(|(of, alone)| *of == shot && !alone)
        });
        Ok(Sets {
            least: least.collect(),
            unsure: unsure.collect(),
        })
    }
}

/// The place of the number, of `n` ascending ones, that a share of them lie below.
fn lowest(n: usize, share: f64) -> usize {
    ((n as f64 * share) as usize).min(n.saturating_sub(1))
}

/// Log-probabilities by row.
struct Rows<'a> {
    log: &'a [f32],
    labels: Vec<u32>,
    classes: usize,
}

impl Rows<'_> {
    fn probabilities(&self, i: usize, temperature: f64) -> Vec<f32> {
        let row = &self.log[i * self.classes..][..self.classes];
        let scaled = row.iter().map(|l| (f64::from(*l) / temperature).exp());
        let sum: f64 = scaled.clone().sum();
        scaled.map(|value| (value / sum) as f32).collect()
    }

    fn cross_entropy(&self, pictures: impl Iterator<Item = usize>, temperature: f64) -> f64 {
        let of = |i: usize| {
            let row = &self.log[i * self.classes..][..self.classes];
            let sum: f64 = row
                .iter()
                .map(|l| (f64::from(*l) / temperature).exp())
                .sum();
            sum.ln() - f64::from(row[self.labels[i] as usize]) / temperature
        };
        pictures.map(of).sum()
    }

    /// The temperature of the lowest cross-entropy, but none with which the mean highest probability of n pictures is
    /// above (n + 1) / (n + 2): where all of them are right the lowest would be 0, and n pictures tell no more than that
    /// (Laplace's rule of succession).
    fn temperature(&self, pictures: impl Iterator<Item = usize> + Clone) -> f64 {
        let n = pictures.clone().count() as f64;
        let highest = |temperature: f64| {
            let of = |i| {
                self.probabilities(i, temperature)
                    .into_iter()
                    .fold(0.0, f32::max)
            };
            pictures.clone().map(of).map(f64::from).sum::<f64>() / n
        };
        let most = (n + 1.0) / (n + 2.0);
        let mut low = self.lowest_temperature(pictures.clone()).ln();
        if highest(low.exp()) <= most {
            return low.exp();
        }
        let mut high = LOG_TEMPERATURES[1];
        while high - low > 1e-4 {
            let middle = (low + high) / 2.0;
            match highest(middle.exp()) > most {
                true => low = middle,
                false => high = middle,
            }
        }
        high.exp()
    }

    /// By golden section: the cross-entropy has one minimum in 1 / temperature.
    fn lowest_temperature(&self, pictures: impl Iterator<Item = usize> + Clone) -> f64 {
        let value = |log: f64| self.cross_entropy(pictures.clone(), log.exp());
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        let [mut low, mut high] = LOG_TEMPERATURES;
        let inner =
            |low: f64, high: f64| [high - golden * (high - low), low + golden * (high - low)];
        let [mut a, mut b] = inner(low, high);
        let [mut of_a, mut of_b] = [value(a), value(b)];
        while high - low > 1e-4 {
            if of_a <= of_b {
                (high, b, of_b) = (b, a, of_a);
                a = inner(low, high)[0];
                of_a = value(a);
            } else {
                (low, a, of_a) = (a, b, of_b);
                b = inner(low, high)[1];
                of_b = value(b);
            }
        }
        ((low + high) / 2.0).exp()
    }
}

/// Sets of classes; see [`Confidence::sets`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sets {
    /// The probability from which on a class is in the set, `[classes]`.
    least: Vec<f32>,
    /// Groups with too few pictures, which take the bound of all pictures: nothing is promised of them.
    pub unsure: Vec<Shot>,
}

impl Sets {
    /// The classes of a picture's set, most probable first: at least the most probable one.
    pub fn of(&self, probabilities: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let best = order.first().copied();
        order.retain(|&class| Some(class) == best || probabilities[class] >= self.least[class]);
        order
    }
}

/// A value of all pictures, and one of those of each shot group.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AllAndGroups<T> {
    /// Of all.
    pub all: T,
    /// Of each group.
    pub groups: ByShot<T>,
}

/// What a row of a table shows of a value.
type Column<T> = fn(&T) -> String;

impl<T> AllAndGroups<T> {
    fn of(f: impl Fn(Option<Shot>) -> T) -> Self {
        Self {
            all: f(None),
            groups: ByShot::of(|shot| f(Some(shot))),
        }
    }

    /// A table for people with the head `title` and these rows.
    fn table(&self, title: &str, rows: &[(&str, Column<T>)]) -> Table {
        let mut table = Table::default();
        let head = ["all"].into_iter().chain(Shot::ALL.map(Shot::name));
        table.row(title, head.map(Into::into));
        for (name, value) in rows {
            let groups = self.groups.iter().map(|(_, of)| of);
            let all = std::iter::once(&self.all).chain(groups);
            table.row(*name, all.map(value));
        }
        table
    }
}

/// What sets of classes came to; none without pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SetScore {
    /// How many sets held the picture's class, in percent.
    pub coverage: Option<f64>,
    /// Classes of a set, on average.
    pub size: Option<f64>,
}

fn range(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "-".into(), |interval| interval.to_string())
}

impl AllAndGroups<SetScore> {
    /// For people.
    pub fn to_table(&self) -> Table {
        self.table(
            "sets of classes",
            &[
                ("coverage [%]", |of| cell(of.coverage)),
                ("classes of a set", |of| cell(of.size)),
            ],
        )
    }
}

/// How well pictures of no class are told from others; none without pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct UnknownScore {
    /// Pictures of the classes.
    pub images: usize,
    /// Pictures of no class.
    pub others: usize,
    /// Area under the ROC curve in percent.
    pub auroc: Option<f64>,
    /// Its 95 % interval.
    pub auroc_interval: Option<Interval>,
    /// Pictures of no class that seem known where 95 % of the others do, in percent.
    pub false_positives_at_95: Option<f64>,
    /// Its 95 % interval, with the bound as it is.
    pub false_positives_interval: Option<Interval>,
}

impl AllAndGroups<UnknownScore> {
    /// For people.
    pub fn to_table(&self) -> Table {
        self.table(
            "against images of no class",
            &[
                ("images", |of| of.images.to_string()),
                ("images of no class", |of| of.others.to_string()),
                ("AUROC [%]", |of| cell(of.auroc)),
                ("  95 % interval", |of| range(of.auroc_interval)),
                ("taken for known where 95 % are [%]", |of| {
                    cell(of.false_positives_at_95)
                }),
                ("  95 % interval", |of| range(of.false_positives_interval)),
            ],
        )
    }
}

impl Evaluation {
    /// How often a picture's set holds its class, and how large sets are. None where the log-probabilities were not
    /// kept.
    pub fn coverage(&self, sets: &Sets) -> Option<AllAndGroups<SetScore>> {
        let classes = self.per_class.len();
        if self.log_probabilities.len() != self.scores.len() * classes {
            return None;
        }
        let rows = self.log_probabilities.chunks_exact(classes);
        let found: Vec<(Shot, f64, f64)> = rows
            .zip(&self.scores)
            .map(|(row, score)| {
                let probabilities: Vec<f32> = row.iter().map(|l| l.exp()).collect();
                let set = sets.of(&probabilities);
                let own = set.contains(&(score.label as usize));
                let covered = 100.0 * f64::from(u8::from(own));
                (self.shot_of(score), covered, set.len() as f64)
            })
            .collect();
        Some(AllAndGroups::of(|shot| {
            let those = found
                .iter()
                .filter(|(of, ..)| shot.is_none_or(|shot| shot == *of));
            let count = those.clone().count() as f64;
            let mean = |value: fn(&(Shot, f64, f64)) -> f64| {
                (count > 0.0).then(|| those.clone().map(value).sum::<f64>() / count)
            };
            SetScore {
                coverage: mean(|found| found.1),
                size: mean(|found| found.2),
            }
        }))
    }

    /// How well the highest probability tells these pictures from others, which are of no class, by the `others`'
    /// highest probabilities (Hendrycks and Gimpel, ICLR 2017).
    pub fn unknown(&self, others: &[f32]) -> AllAndGroups<UnknownScore> {
        AllAndGroups::of(|shot| {
            let scores = self.scores.iter();
            let own = scores.filter(|score| shot.is_none_or(|shot| shot == self.shot_of(score)));
            let mut known: Vec<f32> = own.map(|score| score.confidence).collect();
            known.sort_unstable_by(f32::total_cmp);
            let of_known = known.iter().map(|p| (*p, true));
            let mut order: Vec<_> = of_known.chain(others.iter().map(|p| (*p, false))).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0));
            let least = known.get(lowest(known.len(), 0.05));
            let taken = |least: &f32| others.iter().filter(|other| *other >= least).count();
            let taken = least.filter(|_| !others.is_empty()).map(taken);
            let auroc = of_class(&order).map(|ranked| ranked.auroc);
            let numbers = [known.len(), others.len()];
            UnknownScore {
                images: known.len(),
                others: others.len(),
                auroc,
                auroc_interval: auroc.and_then(|area| Interval::of_area(area / 100.0, numbers)),
                false_positives_at_95: taken.map(|n| 100.0 * n as f64 / others.len() as f64),
                false_positives_interval: taken.and_then(|n| Interval::wilson(n, others.len())),
            }
        })
    }

    fn shot_of(&self, score: &ImageScore) -> Shot {
        self.per_class[score.label as usize].shot
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::{Evaluator, ShotThresholds};

    /// Numbers that are spread evenly over 0 to 1, in an order that looks drawn (the golden ratio's multiples).
    fn spread(n: usize) -> impl Iterator<Item = f64> {
        (1..=n).map(|i| (i as f64 * 0.618_033_988_749_895).fract())
    }

    /// Pictures of three classes, many-, medium- and few-shot, of logits that are `temperature` times too large.
    fn scored(each: [usize; 3], temperature: f64) -> Evaluation {
        let counts = [500, 50, 5];
        let mut evaluator = Evaluator::new(&counts, ShotThresholds::default(), 1)
            .unwrap()
            .with_ranking();
        for (class, n) in each.into_iter().enumerate() {
            for u in spread(n) {
                // The odds of the own class against the next are logistic: with 1 they are calibrated.
                let odds = (u / (1.0 - u)).ln() + [2.0, 1.0, 0.0][class];
                let mut logits = [-20.0 * temperature as f32; 3];
                logits[class] = (odds * temperature) as f32;
                logits[(class + 1) % 3] = 0.0;
                evaluator.add_batch(&[&logits], &[class as u32]).unwrap();
            }
        }
        evaluator.finish().unwrap()
    }

    #[test]
    fn a_temperature_takes_back_what_logits_are_too_large_by() {
        let one = Confidence::fit(&scored([300, 300, 300], 1.0), &[])
            .unwrap()
            .temperature;
        for factor in [0.5, 3.0] {
            let found = Confidence::fit(&scored([300, 300, 300], factor), &[])
                .unwrap()
                .temperature;
            assert!(
                (found / one / factor - 1.0).abs() < 1e-3,
                "{factor} {found}"
            );
        }
        assert_eq!(Confidence::fit(&scored([10, 5, 4], 1.0), &[]), None);
        let mut without = scored([30, 30, 30], 1.0);
        without.log_probabilities.clear();
        assert_eq!(Confidence::fit(&without, &[]), None);
    }

    #[test]
    fn pictures_that_are_all_right_do_not_make_a_model_certain() {
        let mut evaluator = Evaluator::new(&[50, 50], ShotThresholds::default(), 1)
            .unwrap()
            .with_ranking();
        for u in spread(38) {
            let logits = [1.0 + u as f32, 0.0];
            evaluator.add_batch(&[&logits], &[0]).unwrap();
        }
        let confidence = Confidence::fit(&evaluator.finish().unwrap(), &[]).unwrap();
        let mean = confidence.highest.iter().sum::<f32>() / 38.0;
        // Of the 30 or so of other folds: 31 of 32.
        assert!((mean - 31.0 / 32.0).abs() < 0.005, "{mean}");
        assert!(confidence.highest[37] < 0.999, "{confidence:?}");
    }

    #[test]
    fn a_picture_is_judged_by_what_has_not_seen_its_group() {
        // Two bursts: one of which the model is right and sure, and one of which it is not.
        let mut evaluator = Evaluator::new(&[50, 50], ShotThresholds::default(), 1)
            .unwrap()
            .with_ranking();
        for i in 0..40 {
            let label = u32::from(i >= 20 && i % 2 == 0);
            evaluator.add_batch(&[&[3.0, 0.0]], &[label]).unwrap();
        }
        let evaluation = evaluator.finish().unwrap();
        let groups = [(0..20).collect(), (20..40).collect()];
        let confidence = Confidence::fit(&evaluation, &groups).unwrap();
        // The first burst by the second, half of which is right: 0.5; the second by the first: 21 of 22.
        let [low, high] = [0, 39].map(|at| confidence.highest[at]);
        assert!((low - 0.575).abs() < 0.01, "{low}");
        assert!((high - 21.0 / 22.0).abs() < 0.001, "{high}");
        let alone = Confidence::fit(&evaluation, &[]).unwrap();
        assert_eq!(alone.temperature, confidence.temperature);
        assert!(alone.highest[39] < 0.8, "{alone:?}");
        assert_eq!(Confidence::fit(&evaluation, &[(0..40).collect()]), None);
    }

    #[test]
    fn sets_hold_what_they_promise_in_every_group() {
        // The few-shot class is often wrong: one bound for all would promise too much for it.
        let confidence = Confidence::fit(&scored([400, 200, 60], 2.0), &[]).unwrap();
        let shots = [Shot::Many, Shot::Medium, Shot::Few];
        let fresh = scored([2000, 2000, 2000], 2.0);
        let tempered = {
            let mut evaluator = Evaluator::new(&[500, 50, 5], ShotThresholds::default(), 1)
                .unwrap()
                .with_temperature(confidence.temperature)
                .with_ranking();
            for (row, score) in fresh.log_probabilities.chunks_exact(3).zip(&fresh.scores) {
                evaluator.add_batch(&[row], &[score.label]).unwrap();
            }
            evaluator.finish().unwrap()
        };
        for coverage in [0.8, 0.9] {
            let sets = confidence.sets(coverage, &shots).unwrap();
            assert!(sets.unsure.is_empty());
            let found = tempered.coverage(&sets).unwrap();
            for (shot, score) in found.groups.iter() {
                let held = score.coverage.unwrap();
                assert!(held > 100.0 * coverage - 2.0, "{shot} {coverage}: {held}");
            }
            assert!(found.all.size.unwrap() < 2.5, "{found:?}");
        }
    }

    #[test]
    fn a_bound_is_the_order_statistic_of_conformal_prediction() {
        let own = |n: usize| (1..=n).map(|i| i as f32 / 100.0).collect::<Vec<_>>();
        let confidence = Confidence {
            temperature: 1.0,
            own: vec![own(19), own(9), own(8), own(2)],
            highest: vec![0.5; 38],
        };
        let shots = [Shot::Many, Shot::Medium, Shot::Medium, Shot::Few];
        let sets = confidence.sets(0.9, &shots).unwrap();
        // (19 + 1) · 0.1: the second lowest. The 17 pictures of two classes share a bound: the lowest, as 18 · 0.1 = 1.8.
        assert_eq!(sets.least[..3], [0.02, 0.01, 0.01]);
        // Two pictures promise nothing: the bound of all 38, of which the third lowest is 0.01.
        assert_eq!(
            (sets.least[3], sets.unsure.as_slice()),
            (0.01, &[Shot::Few][..])
        );
        assert_eq!(sets.of(&[0.015, 0.009, 0.011, 0.5]), [3, 2]);
        // Never empty.
        assert_eq!(sets.of(&[0.0, 0.001, 0.0, 0.0]), [1]);
        for (coverage, says) in [
            (1.0, "give a share"),
            (0.99, "takes 99 validation pictures"),
        ] {
            let error = confidence.sets(coverage, &shots).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn pictures_of_no_class_are_told_by_the_highest_probability() {
        let evaluation = scored([40, 40, 40], 1.0);
        let confidence = Confidence::fit(&evaluation, &[]).unwrap();
        let threshold = confidence.threshold(0.05);
        let below = confidence
            .highest
            .iter()
            .filter(|p| **p < threshold)
            .count();
        assert_eq!(below, 6);
        let scores = evaluation.unknown(&[0.0, 0.1]);
        assert_eq!(scores.all.auroc, Some(100.0));
        assert_eq!(scores.groups.few.false_positives_at_95, Some(0.0));
        let few = scores.groups.few;
        assert_eq!((few.images, few.others), (40, 2));
        assert_eq!(few.false_positives_interval, Interval::wilson(0, 2));
        let area = few.auroc_interval.unwrap();
        assert!(area.low < 80.0 && area.high == 100.0, "{area:?}");
        let table = scores.to_table().to_string();
        assert!(table.contains("images of no class"), "{table}");
        let scores = evaluation.unknown(&[1.0]);
        assert_eq!(
            (scores.all.auroc, scores.all.false_positives_at_95),
            (Some(0.0), Some(100.0))
        );
    }
}

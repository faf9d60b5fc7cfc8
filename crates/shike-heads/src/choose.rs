//! Which head suits these pictures: a comparison on the training pictures alone.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shike_data::Interval;
use shike_data::rng::{Draw, Purpose, rng};
use shike_data::split;

use crate::error::{HeadError, Result};
use crate::features::{Depth, Features};
use crate::fitted::{Candidate, FittedHead};
use crate::heads::{self, DEFAULT, HEADS, Head, Strength};
use crate::linalg::CHUNK;
use crate::prepare::Training;
use crate::softmax::{Scale, best_scale, class_weights, log_softmax, not_too_sure};

/// How heads are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Which pictures are held out together.
    pub seed: u64,
    /// The parts that are held out one after another, at least 2. Each class is dealt out over them. None: five, and
    /// three of more than 5,000 pictures, where noise is small and time is not.
    pub folds: Option<usize>,
    /// Pictures that belong together, such as those of a burst, by their rows in the features: they are held out together.
    /// Otherwise a head that remembers them would be taken for one that knows.
    pub groups: Vec<Vec<usize>>,
    /// The heads, by name; the default and what it is made of are always among them. None: all.
    pub heads: Vec<String>,
    /// The depths that heads see, by name. None: all side by side, then the deepest alone.
    pub depths: Vec<Vec<String>>,
    /// How many standard errors another head's log-loss has to be below the default's. Of thirty candidates that are as good,
    /// the best is two ahead by chance.
    pub margin: f64,
    /// The most pictures that heads are compared on; of more, each class gives its share, but not fewer than ten pictures. The chosen
    /// head is fitted on all.
    pub most_pictures: usize,
    /// After this time no further head is tried. The default is tried first, and always.
    pub time: Option<Duration>,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            seed: 0,
            folds: None,
            groups: vec![],
            heads: vec![],
            depths: vec![],
            margin: 3.0,
            most_pictures: 10_000,
            time: None,
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The head, with its strength, τ and temperature as they were chosen.
    pub candidate: Candidate,
    /// What it does.
    pub about: String,
    /// The class-averaged log-loss of held-out pictures at the best temperature; 0 if no class has a say. Classes of two pictures
    /// speak for those of one.
    pub log_loss: f64,
    /// How much higher that is than the default's, negative for a better head.
    pub behind: f64,
    /// The standard error of `behind`, over the classes.
    pub behind_error: f64,
    /// The class-averaged accuracy of held-out pictures, percent.
    pub accuracy: f64,
    /// Its 95 % interval.
    pub interval: Option<Interval>,
    /// Every strength of the penalty, if there is a choice.
    pub path: Vec<Strength>,
    /// What choosing the strength and all folds took; a head that is made of others adds nothing to their time.
    pub seconds: f64,
}

/// A head that was not tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The head.
    pub head: String,
    /// The depths that it would have seen.
    pub depths: Vec<String>,
    /// Why.
    pub why: String,
}

/// What was chosen, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Every head that was tried.
    pub rows: Vec<Row>,
    /// Heads that were not.
    pub left_out: Vec<LeftOut>,
    /// The chosen one in `rows`.
    pub chosen: usize,
    /// The default in `rows`.
    pub default: usize,
    /// Pictures that heads were compared on.
    pub pictures: usize,
    /// Groups of two and more among them, which were held out together.
    #[serde(default)]
    pub groups: usize,
    /// Classes with at least two pictures (groups, where there are some); the others have no say, but are there as wrong
    /// answers.
    pub classes_with_a_say: usize,
    /// All classes.
    pub classes: usize,
    /// The parts that were held out one after another.
    pub folds: usize,
    /// Standard errors that a head has to be ahead by.
    pub margin: f64,
}

impl Choice {
    /// The chosen head's line.
    pub fn chosen(&self) -> &Row {
        &self.rows[self.chosen]
    }

    /// Why it was chosen, in a sentence.
    pub fn reason(&self) -> String {
        let row = self.chosen();
        if self.classes_with_a_say == 0 {
            return format!(
                "no class has two {}, so that nothing can be compared; the default",
                self.units()
            );
        }
        if self.rows.len() == 1 {
            return "the only one that was asked for".into();
        }
        if self.chosen == self.default {
            return format!(
                "the default: no head has a log-loss lower by more than {} standard errors",
                self.margin
            );
        }
        format!(
            "log-loss {:.3}, the default's is higher by {:.3} ± {:.3}",
            row.log_loss, -row.behind, row.behind_error
        )
    }
}

impl Choice {
    /// A head in the table.
    fn name(&self, at: usize) -> String {
        let row = &self.rows[at];
        let Candidate { strength, tau, .. } = row.candidate;
        let mark = if at == self.chosen { "* " } else { "  " };
        let mut name = format!("{mark}{}", row.about);
        if strength != 0.0 {
            name += &format!(", {strength:e}");
        }
        if tau != 0.0 {
            name += &format!(", τ {tau}");
        }
        name
    }

    /// What is held out.
    fn units(&self) -> &'static str {
        match self.groups {
            0 => "pictures",
            _ => "groups",
        }
    }
}

impl fmt::Display for Choice {
    /// The table, the best first, and what was chosen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let together = match self.groups {
            0 => String::new(),
            n => format!(" with {n} groups kept together"),
        };
        writeln!(
            f,
            "heads on {} training pictures, {} folds{together}; {} of {} classes have two {} or more",
            self.pictures,
            self.folds,
            self.classes_with_a_say,
            self.classes,
            self.units()
        )?;
        let wide = |column: &dyn Fn(usize) -> String| {
            let widths = (0..self.rows.len()).map(|at| column(at).chars().count());
            widths.max().unwrap_or(0)
        };
        let name = |at| self.name(at);
        let depths = |at: usize| self.rows[at].candidate.depths.join("+");
        let (names, wide) = (wide(&name), wide(&depths).max(6));
        writeln!(
            f,
            "{:<names$} {:<wide$} {:>8} {:>8} {:>11} {:>16} {:>7}",
            "head", "depths", "log-loss", "accuracy", "95 %", "behind", "seconds"
        )?;
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_by(|&a, &b| self.rows[a].log_loss.total_cmp(&self.rows[b].log_loss));
        for at in order {
            let row = &self.rows[at];
            let interval = row.interval.map(|i| i.to_string()).unwrap_or_default();
            let behind = format!("{:+.3} ± {:.3}", row.behind, row.behind_error);
            writeln!(
                f,
                "{:<names$} {:<wide$} {:>8.3} {:>8.1} {interval:>11} {behind:>16} {:>7.1}",
                name(at),
                depths(at),
                row.log_loss,
                row.accuracy,
                row.seconds
            )?;
        }
        for LeftOut { head, depths, why } in &self.left_out {
            writeln!(f, "  left out: {head} on {}: {why}", depths.join("+"))?;
        }
        let Candidate { head, depths, .. } = &self.chosen().candidate;
        write!(
            f,
            "chosen: {head} on {}: {}",
            depths.join("+"),
            self.reason()
        )
    }
}

impl Comparison {
    /// Compares heads on held-out training pictures and fits the chosen one on all. `progress` is called before each head with
    /// how many are done, how many there are, and what comes.
    ///
    /// The same features and settings give the same choice, with any number of threads (unless time runs out).
    ///
    /// Besides the features it holds at most: a prepared copy of those that are compared, twice their size while a strength is chosen,
    /// three matrices of f64 with a row and a column for each feature (or each picture, where there are fewer), and 4 · pictures · classes
    /// bytes for each head.
    ///
    /// # Errors
    ///
    /// A setting out of its range, a head or depth that does not exist, a group of pictures that are not there, a
    /// decomposition that fails.
    pub fn choose(
        &self,
        features: &Features,
        mut progress: impl FnMut(usize, usize, &Head),
    ) -> Result<(FittedHead, Choice)> {
        let began = Instant::now();
        let heads = self.heads()?;
        let depths = self.depths(features)?;
        self.check()?;
        let held_out = HeldOut::of(features, self)?;
        let mut trials: Vec<Trial> = vec![];
        let mut left_out = vec![];
        let total = heads.len() * depths.len();
        for (at_depth, depths) in depths.iter().enumerate() {
            if held_out.say == 0 {
                trials.push(nothing_to_compare(depths)?);
                break;
            }
            let here = trials.len();
            for (at, &head) in heads.iter().enumerate() {
                progress(at_depth * heads.len() + at, total, head);
                let needed = at_depth == 0 && is_default_or_part(head);
                let late = self.time.is_some_and(|time| began.elapsed() > time);
                let trial = if late && !needed {
                    Err("no time was left".into())
                } else {
                    match held_out.try_head(features, head, depths, &trials[here..]) {
                        Err(error) if needed => return Err(error),
                        trial => trial.map_err(|error| error.to_string()),
                    }
                };
                match trial {
                    Ok(trial) => trials.push(trial),
                    Err(why) => left_out.push(LeftOut {
                        head: head.name.into(),
                        depths: names(depths),
                        why,
                    }),
                }
            }
            // Only heads that see the same depths are averaged.
            trials[here..].iter_mut().for_each(|t| t.scores = vec![]);
        }
        let is_default = |trial: &Trial| trial.row.candidate.head == DEFAULT;
        let default = trials.iter().position(is_default).unwrap_or(0);
        let (mut chosen, mut lowest) = (default, f64::INFINITY);
        for at in 0..trials.len() {
            let (behind, error) = held_out.compare(&trials[at].losses, &trials[default].losses);
            let row = &mut trials[at].row;
            (row.behind, row.behind_error) = (behind, error);
            if -behind > self.margin * error && row.log_loss < lowest {
                (chosen, lowest) = (at, row.log_loss);
            }
        }
        let choice = Choice {
            rows: trials.into_iter().map(|trial| trial.row).collect(),
            left_out,
            chosen,
            default,
            pictures: held_out.pictures.len(),
            groups: held_out.groups.len(),
            classes_with_a_say: held_out.say,
            classes: features.classes(),
            folds: held_out.number,
            margin: self.margin,
        };
        Ok((choice.chosen().candidate.fit(features)?, choice))
    }

    fn check(&self) -> Result<()> {
        if let Some(folds @ 0..2) = self.folds {
            let text = format!("folds: {folds} has to be at least 2");
            return Err(HeadError::Setting(text));
        }
        if !(self.margin.is_finite() && self.margin >= 0.0) {
            let text = format!("margin: {} has to be 0 or more", self.margin);
            return Err(HeadError::Setting(text));
        }
        Ok(())
    }

    /// The heads to try, the default and its parts first, others after their parts.
    fn heads(&self) -> Result<Vec<&'static Head>> {
        let mut wanted = vec![];
        for name in &self.heads {
            wanted.push(heads::head(name)?);
        }
        let is_wanted = |head: &Head| {
            let named = |other: &&Head| other.name == head.name || other.parts.contains(&head.name);
            self.heads.is_empty() || is_default_or_part(head) || wanted.iter().any(named)
        };
        let all = HEADS.iter();
        let mut heads: Vec<&Head> = all.filter(|head| is_wanted(head)).collect();
        heads.sort_by_key(|head| !is_default_or_part(head));
        Ok(heads)
    }

    /// The depths to try, those of the default first.
    fn depths(&self, features: &Features) -> Result<Vec<Vec<Depth>>> {
        let all = features.depths();
        let mut depths: Vec<Vec<Depth>> = vec![];
        if self.depths.is_empty() {
            depths.extend([all.to_vec(), all[all.len() - 1..].to_vec()]);
        }
        for wanted in &self.depths {
            depths.push(features.named(wanted)?);
        }
        let mut distinct: Vec<Vec<Depth>> = vec![];
        for depths in depths {
            if !distinct.contains(&depths) {
                distinct.push(depths);
            }
        }
        Ok(distinct)
    }
}

fn names(depths: &[Depth]) -> Vec<String> {
    depths.iter().map(|d| d.name.clone()).collect()
}

/// Whether the default cannot be had without it.
fn is_default_or_part(head: &Head) -> bool {
    let default = heads::head(DEFAULT);
    default.is_ok_and(|d| d.name == head.name || d.parts.contains(&head.name))
}

/// A head that was tried.
struct Trial {
    row: Row,
    /// Log-probabilities of held-out pictures, `[pictures, classes]`.
    scores: Vec<f32>,
    /// The loss of each picture.
    losses: Vec<f64>,
}

/// The pictures that heads are compared on, and when each is held out.
struct HeldOut {
    /// Their rows in the features.
    pictures: Vec<u32>,
    labels: Vec<u32>,
    counts: Vec<usize>,
    /// The fold of each; none for the only picture (or group) of its class.
    folds: Vec<Option<usize>>,
    number: usize,
    /// Those that are held out together, by their places here.
    groups: Vec<Vec<usize>>,
    /// How many of each class are held out in some fold.
    held: Vec<usize>,
    /// What each counts, so that classes count alike.
    weights: Vec<f64>,
    /// What each class counts.
    of_class: Vec<f64>,
    log_prior: Vec<f32>,
    /// The number of classes of which some are held out.
    say: usize,
}

impl HeldOut {
    fn of(features: &Features, settings: &Comparison) -> Result<Self> {
        let mut of_class: Vec<Vec<u32>> = vec![vec![]; features.classes()];
        for (picture, &label) in features.labels().iter().enumerate() {
            of_class[label as usize].push(picture as u32);
        }
        let few = features.pictures().min(settings.most_pictures) <= 5000;
        let mut number = settings.folds.unwrap_or(if few { 5 } else { 3 });
        let share = settings.most_pictures as f64 / features.pictures() as f64;
        let mut dealt: Vec<(u32, Option<usize>)> = vec![];
        for (class, pictures) in of_class.iter_mut().enumerate() {
            rng(settings.seed, 0, class as u64, Purpose::Split).shuffle(pictures);
            if share < 1.0 {
                let its = (pictures.len() as f64 * share).round() as usize;
                pictures.truncate(its.max(10));
            }
            // Each class goes on where the one before it ended, so that folds are of one size.
            let start = dealt.len();
            let alone = pictures.len() == 1;
            let deal = |(at, &picture): (usize, &u32)| {
                (picture, (!alone).then_some((start + at) % number))
            };
            dealt.extend(pictures.iter().enumerate().map(deal));
        }
        dealt.sort_unstable();
        let pictures: Vec<u32> = dealt.iter().map(|(picture, _)| *picture).collect();
        let label = |picture: &u32| features.labels()[*picture as usize];
        let labels: Vec<u32> = pictures.iter().map(label).collect();
        let mut folds: Vec<Option<usize>> = dealt.into_iter().map(|(_, fold)| fold).collect();
        let place = |&row: &usize| pictures.binary_search(&(row as u32)).ok();
        let groups = settings.groups.iter();
        let groups = groups.map(|group| group.iter().filter_map(place).collect());
        let groups: Vec<Vec<usize>> = groups.filter(|group: &Vec<_>| group.len() > 1).collect();
        if !groups.is_empty() {
            folds = split::held_out_at_most(&labels, &groups, number, settings.seed)
                .map_err(|error| HeadError::Setting(format!("groups: {error}")))?;
            // Fewer, where there are fewer groups.
            number = folds.iter().flatten().max().map_or(0, |last| last + 1);
        }
        let mut counts = vec![0usize; features.classes()];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        let mut held = vec![0usize; features.classes()];
        let mut units = counts.clone();
        for (&label, _) in labels.iter().zip(&folds).filter(|(_, fold)| fold.is_some()) {
            held[label as usize] += 1;
        }
        for group in &groups {
            // Of each class in it, the group is one.
            let mut of_class: Vec<u32> = group.iter().map(|&at| labels[at]).collect();
            of_class.sort_unstable();
            for pair in of_class.windows(2).filter(|pair| pair[0] == pair[1]) {
                units[pair[0] as usize] -= 1;
            }
        }
        let units = units.iter().zip(&held);
        let units: Vec<usize> = units
            .map(|(&n, &held)| if held == 0 { n.min(1) } else { n })
            .collect();
        let of_class = class_weights(&units);
        let weight = |(&label, fold): (&u32, &Option<usize>)| match fold {
            Some(_) => of_class[label as usize] / held[label as usize] as f64,
            None => 0.0,
        };
        let log = |&count: &usize| (count as f64 / pictures.len() as f64).ln() as f32;
        Ok(Self {
            weights: labels.iter().zip(&folds).map(weight).collect(),
            log_prior: counts.iter().map(log).collect(),
            say: held.iter().filter(|n| **n > 0).count(),
            of_class,
            folds,
            number,
            groups,
            held,
            pictures,
            labels,
            counts,
        })
    }

    /// Scores of every picture that is held out by a head fitted without its fold, `[pictures, classes]`.
    fn scores(&self, features: &Features, candidate: &Candidate) -> Result<Vec<f32>> {
        let classes = features.classes();
        let mut scores = vec![0.0; self.labels.len() * classes];
        for fold in 0..self.number {
            let (held, rest): (Vec<usize>, Vec<usize>) =
                (0..self.labels.len()).partition(|&at| self.folds[at] == Some(fold));
            let rest: Vec<u32> = rest.into_iter().map(|at| self.pictures[at]).collect();
            if held.is_empty() {
                continue;
            }
            let fitted = candidate.fit_on(features, &rest)?;
            for held in held.chunks(CHUNK) {
                let row = |at: &usize| features.row(self.pictures[*at] as usize);
                let rows: Vec<&[f32]> = held.iter().map(row).collect();
                for (at, row) in held.iter().zip(fitted.scores(&rows).chunks_exact(classes)) {
                    scores[at * classes..][..classes].copy_from_slice(row);
                }
            }
        }
        Ok(scores)
    }

    /// Chooses a head's settings and judges it. `before` are the trials with the same depths.
    fn try_head(
        &self,
        features: &Features,
        head: &'static Head,
        depths: &[Depth],
        before: &[Trial],
    ) -> Result<Trial> {
        let began = Instant::now();
        heads::refuse_too_many(head, features.pictures())?;
        let mut candidate = Candidate::usual(head.name, depths)?;
        let mut path = vec![];
        let scores = if head.parts.is_empty() {
            let training = Training::of(features, &self.pictures, depths, head.rows);
            path = (head.path)(&Training {
                weights: self.weights.clone(),
                groups: self.groups.clone(),
                ..training
            })?;
            let best = path.iter().min_by(|a, b| a.log_loss.total_cmp(&b.log_loss));
            candidate.strength = best.map_or(candidate.strength, |best| best.strength);
            let mut scores = self.scores(features, &candidate)?;
            log_softmax(&mut scores, features.classes());
            scores
        } else {
            let mut sum = vec![0.0; self.labels.len() * features.classes()];
            for name in head.parts {
                let part = before
                    .iter()
                    .find(|trial| trial.row.candidate.head == *name);
                let part = part.ok_or_else(|| {
                    HeadError::Setting(format!("{name}, which it is made of, was left out"))
                })?;
                let share = 1.0 / head.parts.len() as f32;
                let pairs = sum.iter_mut().zip(&part.scores);
                pairs.for_each(|(sum, v)| *sum += share * v);
                candidate.strength = candidate.strength.max(part.row.candidate.strength);
            }
            sum
        };
        let (mut best, mut adjusted) = (Scale::NONE, vec![]);
        for &tau in head.taus {
            let with_tau = self.adjusted(&scores, tau);
            let scale = best_scale(&with_tau, &self.labels, &self.weights, features.classes());
            if scale.loss < best.loss {
                candidate.tau = tau;
                (best, adjusted) = (scale, with_tau);
            }
        }
        let factor = not_too_sure(&adjusted, &self.weights, features.classes(), best.factor);
        candidate.temperature = (1.0 / factor) as f32;
        let (losses, hits) = self.judge(adjusted, best.factor);
        let hits = || hits.iter().zip(&self.held).filter(|(_, n)| **n > 0);
        Ok(Trial {
            row: Row {
                candidate,
                about: head.about.into(),
                log_loss: best.loss,
                behind: 0.0,
                behind_error: 0.0,
                accuracy: hits()
                    .map(|(hits, n)| 100.0 * *hits as f64 / *n as f64)
                    .sum::<f64>()
                    / self.say as f64,
                interval: Interval::class_averaged(hits().map(|(hits, n)| (*hits, *n))),
                path,
                seconds: began.elapsed().as_secs_f64(),
            },
            scores,
            losses,
        })
    }

    /// Scores less τ times the logarithm of the classes' shares.
    fn adjusted(&self, scores: &[f32], tau: f32) -> Vec<f32> {
        let mut adjusted = scores.to_vec();
        for row in adjusted.chunks_exact_mut(self.counts.len()) {
            row.iter_mut()
                .zip(&self.log_prior)
                .for_each(|(v, p)| *v -= tau * p);
        }
        adjusted
    }

    /// The loss of each picture, and how many of each class are right.
    fn judge(&self, mut scores: Vec<f32>, factor: f64) -> (Vec<f64>, Vec<usize>) {
        let classes = self.counts.len();
        scores.iter_mut().for_each(|s| *s *= factor as f32);
        log_softmax(&mut scores, classes);
        let mut hits = vec![0; classes];
        let mut losses = vec![];
        let held = self.labels.iter().zip(&self.folds);
        for (row, (&label, fold)) in scores.chunks_exact(classes).zip(held) {
            let best = (0..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            hits[label as usize] += usize::from(fold.is_some() && best == label as usize);
            losses.push(f64::from(-row[label as usize]));
        }
        (losses, hits)
    }

    /// How much higher the class-averaged loss is than another's, and the standard error of that over the classes.
    fn compare(&self, losses: &[f64], others: &[f64]) -> (f64, f64) {
        let mut by_class = vec![0.0; self.counts.len()];
        let held = losses.iter().zip(others).zip(&self.labels).zip(&self.folds);
        for (((own, other), &label), _) in held.filter(|(_, fold)| fold.is_some()) {
            by_class[label as usize] += (own - other) / self.held[label as usize] as f64;
        }
        let weights = &self.of_class;
        let mean: f64 = by_class.iter().zip(weights).map(|(d, w)| w * d).sum();
        let squares = by_class
            .iter()
            .zip(weights)
            .map(|(d, w)| (w * (d - mean)).powi(2));
        (mean, squares.sum::<f64>().sqrt())
    }
}

/// A choice without a comparison.
fn nothing_to_compare(depths: &[Depth]) -> Result<Trial> {
    let head = heads::head(DEFAULT)?;
    Ok(Trial {
        row: Row {
            candidate: Candidate::usual(head.name, depths)?,
            about: head.about.into(),
            log_loss: 0.0,
            behind: 0.0,
            behind_error: 0.0,
            accuracy: 0.0,
            interval: None,
            path: vec![],
            seconds: 0.0,
        },
        scores: vec![],
        losses: vec![],
    })
}

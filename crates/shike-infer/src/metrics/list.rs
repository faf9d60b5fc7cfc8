//! The metrics: tables, files, plots and comparisons iterate over [`Metric::ALL`], so that a new one is a line
//! there.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Shot;

/// What is measured of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measure {
    /// The cross-entropy of the logits (the reference's `validate()`); NaN if a logit was.
    Loss,
    /// Whether its label has the highest logit. Among equal logits the lower class index ranks first.
    Top1,
    /// Whether its label is among the five highest logits. With fewer than five classes these are all
    /// classes, so it is true unless logits were NaN.
    Top5,
    /// Of a class: the share of the images named so that are of it; 0 where none was named so.
    Precision,
    /// Of a class: the harmonic mean of precision and recall.
    F1,
    /// Agreement beyond that of chance (Cohen 1960): 0 for chance, 1 for all right.
    Kappa,
    /// Of a class against the rest: the probability that an image of it is given a higher probability of it than
    /// another one; equal ones count half. It needs [`Evaluator::with_ranking`](super::Evaluator::with_ranking).
    Auroc,
    /// Of a class against the rest: precision averaged over recall, without interpolation. It needs the same.
    AveragePrecision,
}

impl Measure {
    /// Of images, and not of classes: a sum over images is all that it takes.
    const fn is_of_images(self) -> bool {
        matches!(self, Self::Loss | Self::Top1 | Self::Top5)
    }
}

/// What the mean is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Over {
    /// All images; of what is measured of classes, the classes weighted by their test images.
    Images,
    /// The images of each class, and then the classes that have test images, unweighted (OLTR's `shot_acc`): a
    /// macro average.
    Classes,
}

/// A number that tells how good a scorer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its key in JSON, and behind the name of a part its column in CSV.
    pub name: &'static str,
    /// The head of its column in a table.
    pub title: &'static str,
    /// What it is a mean of.
    pub of: Measure,
    /// What it is a mean over.
    pub over: Over,
    /// The classes that count; all if there is none.
    pub shot: Option<Shot>,
}

impl Metric {
    /// Cross-entropy.
    pub const LOSS: Self = Self::new("loss", "loss", Measure::Loss);
    /// Cross-entropy averaged over classes, by which the best epoch is chosen.
    pub const CLASS_AVERAGED_LOSS: Self =
        Self::by_class("class_averaged_loss", "class avg loss", Measure::Loss);
    /// Top-1 accuracy.
    pub const TOP1: Self = Self::new("top1", "top-1", Measure::Top1);
    /// Top-5 accuracy.
    pub const TOP5: Self = Self::new("top5", "top-5", Measure::Top5);
    /// Top-1 accuracy averaged over classes.
    pub const CLASS_AVERAGED: Self = Self::by_class("class_averaged", "class avg", Measure::Top1);
    /// Macro-averaged precision. Macro-averaged recall, or balanced accuracy, is
    /// [`CLASS_AVERAGED`](Self::CLASS_AVERAGED).
    pub const PRECISION: Self = Self::by_class("precision", "macro precision", Measure::Precision);
    /// Macro-averaged F1.
    pub const F1: Self = Self::by_class("f1", "macro F1", Measure::F1);
    /// F1 weighted by the test images of a class.
    pub const WEIGHTED_F1: Self = Self::new("weighted_f1", "weighted F1", Measure::F1);
    /// Cohen's kappa, -1 to 1.
    pub const KAPPA: Self = Self::new("kappa", "Cohen's kappa", Measure::Kappa);
    /// Macro-averaged area under the ROC curve, one against the rest.
    pub const AUROC: Self = Self::by_class("auroc", "macro AUROC", Measure::Auroc);
    /// Macro-averaged average precision, one against the rest.
    pub const AVERAGE_PRECISION: Self = Self::by_class(
        "average_precision",
        "macro average precision",
        Measure::AveragePrecision,
    );

    /// All of them, in the order of tables and columns.
    pub const ALL: [Self; 17] = [
        Self::LOSS,
        Self::CLASS_AVERAGED_LOSS,
        Self::TOP1,
        Self::TOP5,
        Self::CLASS_AVERAGED,
        Self::group(Shot::Many),
        Self::group(Shot::Medium),
        Self::group(Shot::Few),
        Self::pooled(Shot::Many),
        Self::pooled(Shot::Medium),
        Self::pooled(Shot::Few),
        Self::PRECISION,
        Self::F1,
        Self::WEIGHTED_F1,
        Self::KAPPA,
        Self::AUROC,
        Self::AVERAGE_PRECISION,
    ];

    const fn new(name: &'static str, title: &'static str, of: Measure) -> Self {
        let (over, shot) = (Over::Images, None);
        Self {
            name,
            title,
            of,
            over,
            shot,
        }
    }

    const fn by_class(name: &'static str, title: &'static str, of: Measure) -> Self {
        Self {
            over: Over::Classes,
            ..Self::new(name, title, of)
        }
    }

    /// What papers report of a group: top-1 accuracy averaged over its classes.
    pub const fn group(shot: Shot) -> Self {
        Self {
            name: shot.name(),
            over: Over::Classes,
            ..Self::pooled(shot)
        }
    }

    /// Top-1 accuracy over a group's images, which is another one where the test set is not balanced.
    pub const fn pooled(shot: Shot) -> Self {
        let name = match shot {
            Shot::Many => "many_pooled",
            Shot::Medium => "medium_pooled",
            Shot::Few => "few_pooled",
        };
        Self {
            shot: Some(shot),
            ..Self::new(name, shot.name(), Measure::Top1)
        }
    }

    /// Those of the log: losses and accuracies, but for the accuracies of a group's images.
    pub fn logged() -> impl Iterator<Item = Self> + Clone {
        let pooled = |metric: &Self| metric.shot.is_some() && metric.over == Over::Images;
        let all = Self::ALL
            .into_iter()
            .filter(|metric| metric.of.is_of_images());
        all.filter(move |metric| !pooled(metric))
    }

    /// What other fields report, and is neither a loss nor an accuracy.
    pub fn others() -> impl Iterator<Item = Self> + Clone {
        let all = Self::ALL.into_iter();
        all.filter(|metric| !metric.of.is_of_images())
    }

    /// The columns of a table of accuracies.
    pub fn accuracies() -> impl Iterator<Item = Self> + Clone {
        Self::logged().filter(|metric| metric.of != Measure::Loss)
    }

    /// `%`, or empty for a loss and for kappa.
    pub fn unit(&self) -> &'static str {
        match self.of {
            Measure::Loss | Measure::Kappa => "",
            _ => "%",
        }
    }

    /// Whether a value is better than another: lower for a loss, higher for an accuracy. NaN is the worst loss.
    pub fn is_better(&self, value: f64, than: f64) -> bool {
        match self.of {
            Measure::Loss => value.total_cmp(&than).is_lt(),
            _ => value > than,
        }
    }
}

/// The values of one scorer's metrics: an expert's, the ensemble's, a method's. A group of classes without a
/// test image has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores(Vec<(Metric, Option<f64>)>);

impl Scores {
    /// The value of a metric.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        let found = self.0.iter().find(|(other, _)| other.name == metric.name);
        found.and_then(|(_, value)| *value)
    }

    /// The metrics with their values, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, Option<f64>)> + '_ {
        self.0.iter().copied()
    }
}

impl Extend<(Metric, Option<f64>)> for Scores {
    fn extend<I: IntoIterator<Item = (Metric, Option<f64>)>>(&mut self, values: I) {
        self.0.extend(values);
    }
}

impl FromIterator<(Metric, Option<f64>)> for Scores {
    fn from_iter<I: IntoIterator<Item = (Metric, Option<f64>)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// NaN, of a run that diverged, is `null` as well: JSON has no NaN.
impl Serialize for Scores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(metric, value)| (metric.name, value)))
    }
}

/// A metric of all classes always has a value: `null` is NaN.
impl<'de> Deserialize<'de> for Scores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        let value = |metric: Metric| {
            let missing = metric.shot.is_none().then_some(f64::NAN);
            named.get(metric.name).map(|v| (metric, v.or(missing)))
        };
        Ok(Metric::ALL.into_iter().filter_map(value).collect())
    }
}

/// What a scorer did on each class: all that a metric is computed of.
#[derive(Clone, Debug)]
pub struct Tally {
    shots: Vec<Shot>,
    classes: Vec<Sums>,
    /// Of all images, in their order.
    all: Sums,
}

/// Sums over images.
#[derive(Clone, Debug, Default)]
struct Sums {
    images: f64,
    /// By the [`Measure`]s of images.
    of: [f64; 3],
    /// Images that were taken for this class.
    predicted: f64,
}

impl Sums {
    /// The sum over the images of a class, all of which have its value of what is measured of classes.
    fn sum(&self, of: Measure) -> f64 {
        let right = self.of[Measure::Top1 as usize];
        match of {
            Measure::Loss => self.of[of as usize],
            Measure::Precision if self.predicted > 0.0 => {
                100.0 * self.images * right / self.predicted
            }
            Measure::F1 => 100.0 * self.images * 2.0 * right / (self.images + self.predicted),
            Measure::Top1 | Measure::Top5 => 100.0 * self.of[of as usize],
            _ => 0.0,
        }
    }
}

impl Tally {
    /// Of classes by their groups, and no image yet.
    pub fn new(shots: Vec<Shot>) -> Self {
        Self {
            classes: vec![Sums::default(); shots.len()],
            shots,
            all: Sums::default(),
        }
    }

    /// Counts an image of a class by what was [measured](Measure) of it: a hit is 1 and a miss 0, or another
    /// number where several scorers are weighed against one another.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn add<const N: usize>(&mut self, class: usize, measured: [(Measure, f64); N]) {
        for sums in [&mut self.classes[class], &mut self.all] {
            sums.images += 1.0;
            for (measure, value) in measured {
                sums.of[measure as usize] += value;
            }
        }
    }

    /// Counts an image that was taken for a class.
    pub(super) fn predicted(&mut self, class: u32) {
        self.classes[class as usize].predicted += 1.0;
    }

    /// Test images of a class, those among them that were right, and all that were taken for it.
    pub(super) fn class(&self, class: usize) -> [usize; 3] {
        let sums = &self.classes[class];
        let right = sums.of[Measure::Top1 as usize];
        [sums.images, right, sums.predicted].map(|number| number as usize)
    }

    /// The value of a metric; none without images, and of what a [`Ranking`](super::ranking::Ranking) tells.
    fn value(&self, metric: Metric) -> Option<f64> {
        let own = |shot: Shot| metric.shot.is_none_or(|of| of == shot);
        let classes = self.classes.iter().zip(&self.shots);
        let classes = classes.filter(|(sums, shot)| sums.images > 0.0 && own(**shot));
        let (sum, count) = match (metric.of, metric.over, metric.shot) {
            (Measure::Auroc | Measure::AveragePrecision, ..) => return None,
            (Measure::Kappa, ..) => return self.kappa(),
            (of, Over::Images, None) if of.is_of_images() => (self.all.sum(of), self.all.images),
            (of, Over::Images, _) => classes.fold((0.0, 0.0), |(sum, count), (class, _)| {
                (sum + class.sum(of), count + class.images)
            }),
            (of, Over::Classes, _) => classes.fold((0.0, 0.0), |(sum, count), (class, _)| {
                (sum + class.sum(of) / class.images, count + 1.0)
            }),
        };
        (count > 0.0).then(|| sum / count)
    }

    /// Cohen's kappa; none where chance would be right on every image as well.
    fn kappa(&self) -> Option<f64> {
        let all = self.all.images;
        let right = self.all.of[Measure::Top1 as usize] / all;
        let both = |class: &Sums| (class.images / all) * (class.predicted / all);
        let chance: f64 = self.classes.iter().map(both).sum();
        (all > 0.0 && chance < 1.0).then(|| (right - chance) / (1.0 - chance))
    }

    /// The values of these metrics; those that have none of all classes are left out.
    pub fn scores(&self, metrics: impl Iterator<Item = Metric>) -> Scores {
        metrics
            .map(|metric| (metric, self.value(metric)))
            .filter(|(metric, value)| value.is_some() || metric.of.is_of_images())
            .collect()
    }
}

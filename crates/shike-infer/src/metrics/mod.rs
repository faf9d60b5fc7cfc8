//! Long-tail accuracy: top-1, top-5, many/medium/few-shot and per class, for each expert and for
//! the ensemble.
//!
//! The ensemble is the mean of the experts' **logits**, as in the reference's `validate()`, not
//! the mean of their probabilities. Accuracies are in percent. A group of classes without a test
//! image has no accuracy: it is `None`, neither 0 nor NaN.

mod calibration;
mod confusion;
mod interval;
#[doc(hidden)]
pub mod nullable;
pub mod prior;
mod scored;
mod text;

pub use calibration::{BINS, Bin, Calibration};
pub use confusion::Confusion;
pub use interval::TOO_WIDE;
pub use scored::Scored;
pub use shike_data::{ByShot, Interval, Shot, ShotThresholds};

use serde::{Deserialize, Serialize};
use shike_data::shots::Overlap;
use thiserror::Error;

/// Input that an [`Evaluator`] cannot score.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum MetricsError {
    /// Groups overlap.
    #[error(transparent)]
    Thresholds(#[from] Overlap),
    /// There is nothing to score with: no class or no expert.
    #[error("cannot evaluate {classes} classes with {experts} experts: both must be at least 1")]
    Empty {
        /// Number of classes.
        classes: usize,
        /// Number of experts.
        experts: usize,
    },
    /// A batch does not hold `experts × images × classes` logits.
    #[error("batch of {images} images: expert {expert} has {actual} logits, {expected} are due")]
    Shape {
        /// Images in the batch.
        images: usize,
        /// Index of the expert at fault.
        expert: usize,
        /// Logits that it gave.
        actual: usize,
        /// Images × classes.
        expected: usize,
    },
    /// A batch has another number of experts than the evaluator.
    #[error("batch has the logits of {actual} experts, {expected} are due")]
    Experts {
        /// Experts in the batch.
        actual: usize,
        /// Experts of the evaluator.
        expected: usize,
    },
    /// A label is not a class.
    #[error("label {label} in a test set of {classes} classes (labels count from 0)")]
    Label {
        /// The label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// No batch held an image.
    #[error("the test set has no images, so there is no accuracy")]
    NoImages,
}

/// The accuracies of one scorer (an expert or the ensemble), in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of the images whose label has the highest logit. Among equal logits the lower class
    /// index ranks first.
    pub top1: f64,
    /// Share of the images whose label is among the five highest logits. With fewer than five
    /// classes these are all classes, so it is 100 unless logits were NaN.
    pub top5: f64,
    /// Unweighted mean of the per-class accuracies over all classes that have test images.
    pub class_averaged: f64,
    /// Unweighted mean of the per-class accuracies over the classes of a group that have test
    /// images (OLTR's `shot_acc`): what papers report.
    #[serde(flatten)]
    pub groups: ByShot<Option<f64>>,
    /// Share of correct images among all test images of a group. Differs from `groups` only where
    /// the test set is not balanced.
    #[serde(flatten, with = "Pooled")]
    pub pooled: ByShot<Option<f64>>,
}

/// Beside the other groups these have names of their own.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ByShot::<Option<f64>>")]
struct Pooled {
    #[serde(rename = "many_pooled")]
    many: Option<f64>,
    #[serde(rename = "medium_pooled")]
    medium: Option<f64>,
    #[serde(rename = "few_pooled")]
    few: Option<f64>,
}

/// One class's share of an [`Evaluation`], scored by the ensemble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassRow {
    /// Class index (the label).
    pub class: usize,
    /// Training images of the class.
    pub train_count: usize,
    /// Test images of the class.
    pub test_count: usize,
    /// The group it belongs to.
    pub shot: Shot,
    /// Test images that the ensemble got right.
    pub correct: usize,
    /// `correct / test_count` in percent; `None` without test images.
    pub accuracy: Option<f64>,
}

/// What the ensemble said of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageScore {
    /// The image's class.
    pub label: u32,
    /// The class with the highest logit; `None` if a logit was NaN or infinite.
    pub predicted: Option<u32>,
    /// Its probability by the softmax of the mean logits, 0 to 1.
    pub confidence: f32,
}

impl ImageScore {
    /// Whether the prediction is right.
    pub fn is_correct(&self) -> bool {
        self.predicted == Some(self.label)
    }
}

/// The result of scoring a test set. [`Display`](std::fmt::Display) prints it as a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Number of test images.
    pub images: usize,
    /// The group thresholds that were used.
    pub thresholds: ShotThresholds,
    /// Cross-entropy of the mean logits, averaged over images (the reference's `validate()`), with what
    /// the evaluator was told to add to them, which is nothing by default. NaN if logits were NaN; NaN is `null` in JSON.
    #[serde(with = "nullable")]
    pub loss: f64,
    /// The same averaged over each class's images, then over the classes that have some.
    #[serde(with = "nullable")]
    pub class_averaged_loss: f64,
    /// The mean of the experts' logits.
    pub ensemble: Accuracy,
    /// Each expert alone.
    pub experts: Vec<Accuracy>,
    /// The ensemble by class, in class order.
    pub per_class: Vec<ClassRow>,
    /// The ensemble by image, in the order of the test set; a run keeps them in
    /// `predictions.csv`, and JSON leaves them out.
    #[serde(skip)]
    pub scores: Vec<ImageScore>,
}

/// Scores a test set batch by batch, in any batch size.
///
/// ```
/// use shike_infer::metrics::{Evaluator, ShotThresholds};
///
/// // Two classes with 500 and 5 training images, one expert, two test images.
/// let mut evaluator = Evaluator::new(&[500, 5], ShotThresholds::default(), 1)?;
/// evaluator.add_batch(&[&[2.0, 1.0, 3.0, 0.0]], &[0, 1])?;
/// let evaluation = evaluator.finish()?;
/// let groups = evaluation.ensemble.groups;
/// assert_eq!((groups.many, groups.medium, groups.few), (Some(100.0), None, Some(0.0)));
/// # Ok::<(), shike_infer::metrics::MetricsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Evaluator {
    train_counts: Vec<usize>,
    thresholds: ShotThresholds,
    test_counts: Vec<usize>,
    ensemble: Tally,
    experts: Vec<Tally>,
    loss_sum: f64,
    /// Of each class.
    class_losses: Vec<f64>,
    scores: Vec<ImageScore>,
    /// Added to every expert's logits, `[classes]`; empty for nothing.
    shift: Vec<f32>,
}

/// Hits of one scorer.
#[derive(Clone, Debug)]
struct Tally {
    /// Top-1 hits per class.
    correct: Vec<usize>,
    /// Top-5 hits over all classes.
    top5: usize,
}

impl Evaluator {
    /// An evaluator for `train_counts.len()` classes (training images per class, in label order)
    /// and `num_experts` experts.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Empty`] without a class or an expert, [`MetricsError::Thresholds`] for
    /// overlapping groups.
    pub fn new(
        train_counts: &[usize],
        thresholds: ShotThresholds,
        num_experts: usize,
    ) -> Result<Self, MetricsError> {
        thresholds.validate()?;
        let classes = train_counts.len();
        if classes == 0 || num_experts == 0 {
            return Err(MetricsError::Empty {
                classes,
                experts: num_experts,
            });
        }
        let tally = Tally {
            correct: vec![0; classes],
            top5: 0,
        };
        Ok(Self {
            train_counts: train_counts.to_vec(),
            thresholds,
            test_counts: vec![0; classes],
            ensemble: tally.clone(),
            experts: vec![tally; num_experts],
            loss_sum: 0.0,
            class_losses: vec![0.0; classes],
            scores: vec![],
            shift: vec![],
        })
    }

    /// Adds `shift`, `[classes]`, to every expert's logits before they are scored: the logarithm of
    /// another prior ([`Prior`](crate::metrics::prior::Prior)).
    ///
    /// # Errors
    ///
    /// [`MetricsError::Shape`] if it has not one number a class.
    pub fn with_shift(mut self, shift: Vec<f32>) -> Result<Self, MetricsError> {
        let expected = self.train_counts.len();
        if shift.len() != expected {
            return Err(MetricsError::Shape {
                images: 1,
                expert: 0,
                actual: shift.len(),
                expected,
            });
        }
        self.shift = shift;
        Ok(self)
    }

    /// Scores a batch: for each expert its logits `[images, classes]` in row-major order, and one
    /// label an image. An image whose logits are NaN or infinite counts as wrong.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Experts`], [`MetricsError::Shape`] or [`MetricsError::Label`] if the parts
    /// do not fit; the batch is then not counted at all.
    pub fn add_batch(
        &mut self,
        expert_logits: &[&[f32]],
        labels: &[u32],
    ) -> Result<(), MetricsError> {
        let classes = self.train_counts.len();
        self.check(expert_logits, labels)?;
        let mut mean = vec![0.0f32; classes];
        let mut shifted = vec![0.0f32; classes];
        for (image, &label) in labels.iter().enumerate() {
            let label = label as usize;
            let row = image * classes..(image + 1) * classes;
            mean.fill(0.0);
            for (logits, tally) in expert_logits.iter().zip(&mut self.experts) {
                let mut logits = &logits[row.clone()];
                if !self.shift.is_empty() {
                    let both = logits.iter().zip(&self.shift);
                    shifted
                        .iter_mut()
                        .zip(both)
                        .for_each(|(s, (l, p))| *s = l + p);
                    logits = &shifted;
                }
                tally.add(logits, label);
                mean.iter_mut().zip(logits).for_each(|(m, l)| *m += l);
            }
            let experts = expert_logits.len() as f32;
            mean.iter_mut().for_each(|m| *m /= experts);
            self.ensemble.add(&mean, label);
            let loss = cross_entropy(&mean, label);
            self.loss_sum += loss;
            self.class_losses[label] += loss;
            self.scores.push(image_score(&mean, label));
            self.test_counts[label] += 1;
        }
        Ok(())
    }

    fn check(&self, expert_logits: &[&[f32]], labels: &[u32]) -> Result<(), MetricsError> {
        let classes = self.train_counts.len();
        if expert_logits.len() != self.experts.len() {
            return Err(MetricsError::Experts {
                actual: expert_logits.len(),
                expected: self.experts.len(),
            });
        }
        let expected = labels.len() * classes;
        for (expert, logits) in expert_logits.iter().enumerate() {
            if logits.len() != expected {
                return Err(MetricsError::Shape {
                    images: labels.len(),
                    expert,
                    actual: logits.len(),
                    expected,
                });
            }
        }
        match labels.iter().find(|&&label| label as usize >= classes) {
            Some(&label) => Err(MetricsError::Label { label, classes }),
            None => Ok(()),
        }
    }

    /// The result over all batches so far.
    ///
    /// # Errors
    ///
    /// [`MetricsError::NoImages`] if there were none.
    pub fn finish(&self) -> Result<Evaluation, MetricsError> {
        let images: usize = self.test_counts.iter().sum();
        if images == 0 {
            return Err(MetricsError::NoImages);
        }
        let class_row = |class: usize| ClassRow {
            class,
            train_count: self.train_counts[class],
            test_count: self.test_counts[class],
            shot: self.thresholds.group(self.train_counts[class]),
            correct: self.ensemble.correct[class],
            accuracy: percent(self.ensemble.correct[class], self.test_counts[class]),
        };
        let sums = self.class_losses.iter().zip(&self.test_counts);
        let means = sums.filter(|(_, count)| **count > 0);
        let (losses, classes) = means.fold((0.0, 0.0), |(total, classes), (sum, &count)| {
            (total + sum / count as f64, classes + 1.0)
        });
        Ok(Evaluation {
            images,
            thresholds: self.thresholds,
            loss: self.loss_sum / images as f64,
            class_averaged_loss: losses / classes,
            ensemble: self.accuracy(&self.ensemble),
            experts: self.experts.iter().map(|t| self.accuracy(t)).collect(),
            per_class: (0..self.train_counts.len()).map(class_row).collect(),
            scores: self.scores.clone(),
        })
    }

    /// Only called with at least one image, so the overall shares exist.
    fn accuracy(&self, tally: &Tally) -> Accuracy {
        let images: usize = self.test_counts.iter().sum();
        let (all, all_pooled) = self.average(tally, None);
        let groups = ByShot::of(|shot| self.average(tally, Some(shot)));
        Accuracy {
            top1: all_pooled.unwrap_or_default(),
            top5: percent(tally.top5, images).unwrap_or_default(),
            class_averaged: all.unwrap_or_default(),
            groups: groups.map(|(averaged, _)| averaged),
            pooled: groups.map(|(_, pooled)| pooled),
        }
    }

    /// Class-averaged and pooled accuracy over one group, or over all classes (`None`).
    fn average(&self, tally: &Tally, shot: Option<Shot>) -> (Option<f64>, Option<f64>) {
        let (mut sum, mut classes, mut correct, mut images) = (0.0, 0usize, 0, 0);
        for (class, &train_count) in self.train_counts.iter().enumerate() {
            if shot.is_some_and(|shot| shot != self.thresholds.group(train_count)) {
                continue;
            }
            if let Some(accuracy) = percent(tally.correct[class], self.test_counts[class]) {
                sum += accuracy;
                classes += 1;
                correct += tally.correct[class];
                images += self.test_counts[class];
            }
        }
        let class_averaged = (classes > 0).then(|| sum / classes as f64);
        (class_averaged, percent(correct, images))
    }
}

impl Tally {
    fn add(&mut self, logits: &[f32], label: usize) {
        if let Some(rank) = rank(logits, label) {
            self.correct[label] += usize::from(rank == 0);
            self.top5 += usize::from(rank < 5);
        }
    }
}

/// How many classes rank before `label` (0: it wins); `None` if a logit is NaN or infinite.
fn rank(logits: &[f32], label: usize) -> Option<usize> {
    let own = logits[label];
    let mut before = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return None;
        }
        before += usize::from(logit > own || (logit == own && class < label));
    }
    Some(before)
}

fn image_score(logits: &[f32], label: usize) -> ImageScore {
    let mut best = (f32::NEG_INFINITY, 0);
    for (class, &logit) in logits.iter().enumerate() {
        if logit > best.0 {
            best = (logit, class);
        }
    }
    let sum: f64 = logits.iter().map(|&l| f64::from(l - best.0).exp()).sum();
    let finite = logits.iter().all(|logit| logit.is_finite());
    ImageScore {
        label: label as u32,
        predicted: finite.then_some(best.1 as u32),
        confidence: if sum.is_finite() {
            (1.0 / sum) as f32
        } else {
            0.0
        },
    }
}

/// `-log softmax(logits)[label]` in double precision.
fn cross_entropy(logits: &[f32], label: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    f64::from(max) + sum.ln() - f64::from(logits[label])
}

/// `part / whole` in percent; `None` if the whole is nothing.
fn percent(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

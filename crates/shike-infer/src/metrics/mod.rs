//! Long-tail accuracy: top-1, top-5, many/medium/few-shot and per class, for each expert and for
//! the ensemble.
//!
//! The ensemble is the mean of the experts' **logits**, as in the reference's `validate()`, not
//! the mean of their probabilities. Accuracies are in percent. A group of classes without a test
//! image has no accuracy: it is `None`, neither 0 nor NaN.

mod calibration;
pub mod confidence;
mod confusion;
mod interval;
mod json;
mod list;
#[doc(hidden)]
pub mod nullable;
pub mod prior;
mod ranking;
mod scored;
mod text;

pub use calibration::{Bin, Calibration};
pub use confusion::{Confusion, MOST_CLASSES};
pub use list::{Measure, Metric, Over, Scores, Tally};
pub use scored::Scored;
pub use shike_data::{ByShot, Interval, Shot, ShotThresholds};
pub use text::{Table, cell};

use serde::{Deserialize, Serialize};
use shike_data::shots::Overlap;
use thiserror::Error;

use self::ranking::Ranking;

/// Input that an [`Evaluator`] cannot score.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
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

/// One class's share of an [`Evaluation`], scored by the ensemble.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// Test images of any class that the ensemble took for this one.
    #[serde(default)]
    pub predicted: usize,
    /// `correct / test_count` in percent, which is the recall; `None` without test images.
    pub accuracy: Option<f64>,
    /// Area under the ROC curve against the rest, in percent ([`Measure::Auroc`]), where it was asked for.
    #[serde(default)]
    pub auroc: Option<f64>,
    /// Average precision against the rest, in percent ([`Measure::AveragePrecision`]), where it was asked for.
    #[serde(default)]
    pub average_precision: Option<f64>,
}

impl ClassRow {
    /// `correct / predicted` in percent; `None` where no image was taken for the class.
    pub fn precision(&self) -> Option<f64> {
        (self.predicted > 0).then(|| 100.0 * self.correct as f64 / self.predicted as f64)
    }

    /// The harmonic mean of precision and recall in percent; `None` without test images.
    pub fn f1(&self) -> Option<f64> {
        let both = (self.predicted + self.test_count) as f64;
        (self.test_count > 0).then(|| 200.0 * self.correct as f64 / both)
    }
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
#[non_exhaustive]
pub struct Evaluation {
    /// Number of test images.
    pub images: usize,
    /// The group thresholds that were used.
    pub thresholds: ShotThresholds,
    /// The losses of the mean logits, with what the evaluator was told to add to them, which is nothing by
    /// default.
    #[serde(flatten)]
    pub losses: Scores,
    /// The accuracies of the mean of the experts' logits, in percent.
    pub ensemble: Scores,
    /// Those of each expert alone.
    pub experts: Vec<Scores>,
    /// The ensemble by class, in class order.
    pub per_class: Vec<ClassRow>,
    /// The ensemble by image, in the order of the test set; a run keeps them in
    /// `predictions.csv`, and JSON leaves them out.
    #[serde(skip)]
    pub scores: Vec<ImageScore>,
    /// The logarithms of its probabilities of all classes, `[images, classes]`, where they were
    /// [asked for](Evaluator::with_ranking); else, or where there were too many, empty.
    #[serde(skip)]
    pub log_probabilities: Vec<f32>,
    /// What these images say of the probabilities, where they were [asked](confidence::Confidence::fit).
    #[serde(skip)]
    pub confidence: Option<confidence::Confidence>,
}

impl Evaluation {
    /// What is known of images by their predictions alone, such as those of several runs that were scored on some each: no
    /// losses, no top-5 accuracy, no ranking.
    ///
    /// # Errors
    /// As [`Evaluator::new`]; [`MetricsError::Label`] for a class that there is not.
    pub fn of_predictions(
        scores: Vec<ImageScore>,
        train_counts: &[usize],
        thresholds: ShotThresholds,
    ) -> Result<Self, MetricsError> {
        let mut evaluator = Evaluator::new(train_counts, thresholds, 1)?;
        let classes = train_counts.len();
        for score in &scores {
            let predicted = score.predicted.unwrap_or_default();
            for label in [score.label, predicted] {
                if label as usize >= classes {
                    return Err(MetricsError::Label { label, classes });
                }
            }
            let right = f64::from(u8::from(score.is_correct()));
            let tally = &mut evaluator.ensemble;
            tally.add(score.label as usize, [(Measure::Top1, right)]);
            if let Some(class) = score.predicted {
                tally.predicted(class);
            }
        }
        evaluator.scores = scores;
        let mut evaluation = evaluator.finish()?;
        let known = |metric: &Metric| !matches!(metric.of, Measure::Top5 | Measure::Loss);
        let ensemble = evaluation.ensemble.iter();
        evaluation.ensemble = ensemble.filter(|(metric, _)| known(metric)).collect();
        (evaluation.losses, evaluation.experts) = (Scores::default(), vec![]);
        Ok(evaluation)
    }

    /// The value of a metric of the ensemble; NaN is a loss of logits that were NaN.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.losses
            .get(metric)
            .or_else(|| self.ensemble.get(metric))
    }
}

/// Scores a test set batch by batch, in any batch size.
///
/// ```
/// use shike_infer::metrics::{Evaluator, Metric, Shot, ShotThresholds};
///
/// // Two classes with 500 and 5 training images, one expert, two test images.
/// let mut evaluator = Evaluator::new(&[500, 5], ShotThresholds::default(), 1)?;
/// evaluator.add_batch(&[&[2.0, 1.0, 3.0, 0.0]], &[0, 1])?;
/// let evaluation = evaluator.finish()?;
/// let groups = [Shot::Many, Shot::Medium, Shot::Few].map(|shot| evaluation.get(Metric::group(shot)));
/// assert_eq!(groups, [Some(100.0), None, Some(0.0)]);
/// # Ok::<(), shike_infer::metrics::MetricsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Evaluator {
    train_counts: Vec<usize>,
    thresholds: ShotThresholds,
    ensemble: Tally,
    experts: Vec<Tally>,
    scores: Vec<ImageScore>,
    /// Added to every expert's logits, `[classes]`.
    shift: Vec<f32>,
    /// Every expert's logits are divided by it before.
    temperature: f32,
    ranking: Option<Ranking>,
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
        let shots = train_counts.iter().map(|&count| thresholds.group(count));
        let tally = Tally::new(shots.collect());
        Ok(Self {
            train_counts: train_counts.to_vec(),
            thresholds,
            ensemble: tally.clone(),
            experts: vec![tally; num_experts],
            scores: vec![],
            shift: vec![0.0; classes],
            temperature: 1.0,
            ranking: None,
        })
    }

    /// Divides every expert's logits by a temperature above 0, before a [shift](Self::with_shift).
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature as f32;
        self
    }

    /// Measures AUROC and average precision as well, for which all probabilities are kept: up to 2²⁶ of them
    /// (256 MiB). With more, the two are left out.
    pub fn with_ranking(mut self) -> Self {
        self.ranking = Some(Ranking::new(self.train_counts.len()));
        self
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
                let both = logits[row.clone()].iter().zip(&self.shift);
                shifted
                    .iter_mut()
                    .zip(both)
                    .for_each(|(s, (l, p))| *s = l / self.temperature + p);
                tally.add(label, hits(&shifted, label));
                if let Some(class) = predicted(&shifted) {
                    tally.predicted(class);
                }
                mean.iter_mut().zip(&shifted).for_each(|(m, l)| *m += l);
            }
            let experts = expert_logits.len() as f32;
            mean.iter_mut().for_each(|m| *m /= experts);
            let [top1, top5] = hits(&mean, label);
            let (score, loss) = image_score(&mean, label);
            self.ensemble
                .add(label, [(Measure::Loss, loss), top1, top5]);
            if let Some(class) = score.predicted {
                self.ensemble.predicted(class);
            }
            if let Some(ranking) = &mut self.ranking {
                ranking.add(&mean, score.label);
            }
            self.scores.push(score);
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
    pub fn finish(self) -> Result<Evaluation, MetricsError> {
        if self.scores.is_empty() {
            return Err(MetricsError::NoImages);
        }
        let ranked = self.ranking.as_ref().map(Ranking::by_class);
        let class_row = |class: usize| {
            let [test_count, correct, predicted] = self.ensemble.class(class);
            let ranked = ranked.as_ref().and_then(|ranked| ranked[class]);
            ClassRow {
                class,
                train_count: self.train_counts[class],
                test_count,
                shot: self.thresholds.group(self.train_counts[class]),
                correct,
                predicted,
                accuracy: (test_count > 0).then(|| 100.0 * correct as f64 / test_count as f64),
                auroc: ranked.map(|ranked| ranked.auroc),
                average_precision: ranked.map(|ranked| ranked.average_precision),
            }
        };
        let all = Metric::ALL.into_iter();
        let losses = all.clone().filter(|metric| metric.of == Measure::Loss);
        let accuracies = all.filter(|metric| metric.of != Measure::Loss);
        let mut ensemble = self.ensemble.scores(accuracies.clone());
        ensemble.extend(ranked.iter().flat_map(|ranked| ranking::means(ranked)));
        Ok(Evaluation {
            images: self.scores.len(),
            thresholds: self.thresholds,
            losses: self.ensemble.scores(losses),
            ensemble,
            experts: self
                .experts
                .iter()
                .map(|tally| tally.scores(accuracies.clone()))
                .collect(),
            per_class: (0..self.train_counts.len()).map(class_row).collect(),
            scores: self.scores,
            log_probabilities: self
                .ranking
                .map_or_else(Vec::new, |ranking| ranking.log_probabilities),
            confidence: None,
        })
    }
}

/// Whether the label has the highest logit, and whether it is among the five highest.
fn hits(logits: &[f32], label: usize) -> [(Measure, f64); 2] {
    let (own, finite) = (logits[label], logits.iter().all(|logit| logit.is_finite()));
    let before = |&(class, &logit): &(usize, &f32)| logit > own || (logit == own && class < label);
    let rank = logits.iter().enumerate().filter(before).count();
    let within = |first| f64::from(u8::from(finite && rank < first));
    [(Measure::Top1, within(1)), (Measure::Top5, within(5))]
}

/// The highest logit and its class, the first of equal ones.
fn highest(logits: &[f32]) -> (f32, usize) {
    let mut best = (f32::NEG_INFINITY, 0);
    for (class, &logit) in logits.iter().enumerate() {
        if logit > best.0 {
            best = (logit, class);
        }
    }
    best
}

/// The class with the highest logit; `None` if a logit is NaN or infinite.
fn predicted(logits: &[f32]) -> Option<u32> {
    let finite = logits.iter().all(|logit| logit.is_finite());
    finite.then(|| highest(logits).1 as u32)
}

/// What the logits say, and their cross-entropy, `-log softmax(logits)[label]`, in double precision.
fn image_score(logits: &[f32], label: usize) -> (ImageScore, f64) {
    let best = highest(logits);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - best.0).exp()).sum();
    let score = ImageScore {
        label: label as u32,
        predicted: predicted(logits),
        confidence: if sum.is_finite() {
            (1.0 / sum) as f32
        } else {
            0.0
        },
    };
    (
        score,
        f64::from(best.0) + sum.ln() - f64::from(logits[label]),
    )
}

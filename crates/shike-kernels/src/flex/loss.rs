//! Dynamic knowledge transfer and balanced cross-entropy on rows of logits: values and gradients
//! in one pass over a row each, without a tensor for any step between.
//!
//! A row is one image: its logits of all experts, of a few kilobytes, stay in the cache while
//! everything that the loss needs of them is computed. Only the logits are kept for the backward
//! pass (and two numbers a row for cross-entropy), which computes the rest again.

// Loops run over several rows at one place, which an index says best.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::buffer::{with_capacity, zeroed};
use crate::DktOptions;

/// Values that a loop works on at once; the compiler makes vectors of them.
const LANES: usize = 16;

/// What a class index or a label distribution is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Labels<'a> {
    /// Class indices, `[batch]`.
    Hard(&'a [i64]),
    /// Distributions, `[batch, classes]`.
    Soft(&'a [f32]),
}

/// The reference's stand-in for −∞ on the target's logit.
const TARGET_LOGIT: f32 = -30.0;
/// Bound on `log(1 − y)`.
const EXCLUDED: f32 = -1e4;

/// Number of terms: cross-entropy and non-target distillation of each expert, then mutual
/// distillation of each pair.
pub(crate) fn terms(experts: usize) -> usize {
    2 * experts + experts * experts
}

/// e^x within 2 units in the last place; 0 below −87.3.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first with few enough bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 · 2^23 rounds to the nearest whole number, and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    // NaN passes `clamp` and the polynomial, and fails the comparison.
    if x < -87.3 { 0.0 } else { p * scale }
}

/// Scratch of one thread.
struct Scratch {
    /// Softmax of each expert, `[experts, classes]`.
    probs: Vec<f32>,
    /// Softmax of each student, `[experts, classes]`.
    students: Vec<f32>,
    /// Softmax of the teacher, `[classes]`.
    teacher: Vec<f32>,
    /// The teacher's logits, with what is excluded, `[classes]`.
    teacher_logits: Vec<f32>,
    /// Which expert has the largest logit, `[classes]`.
    winner: Vec<u32>,
    /// The label distribution, `[classes]`.
    label: Vec<f32>,
    /// `log(1 − label)`, `[classes]`.
    excluded: Vec<f32>,
}

impl Scratch {
    fn new(experts: usize, classes: usize) -> Self {
        let row = vec![0.0; classes];
        Self {
            probs: vec![0.0; experts * classes],
            students: vec![0.0; experts * classes],
            teacher: row.clone(),
            teacher_logits: row.clone(),
            winner: vec![0; classes],
            label: row.clone(),
            excluded: row,
        }
    }
}

/// The largest value of a row. NaN is passed over: the sum of the exponentials has it.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut max = [f32::NEG_INFINITY; LANES];
    for chunk in whole {
        for lane in 0..LANES {
            max[lane] = if chunk[lane] > max[lane] {
                chunk[lane]
            } else {
                max[lane]
            };
        }
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    rest.iter().copied().fold(max, f32::max)
}

/// Replaces logits by `scale` times their softmax, and gives their log-sum-exp.
#[inline(always)]
fn softmax_in_place(row: &mut [f32], scale: f32) -> f64 {
    let max = largest(row);
    let mut sum = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks_mut::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            chunk[lane] = exp(chunk[lane] - max);
            sum[lane] += chunk[lane];
        }
    }
    for p in rest {
        *p = exp(*p - max);
        sum[0] += *p;
    }
    let sum: f64 = sum.into_iter().map(f64::from).sum();
    let scale = (f64::from(scale) / sum) as f32;
    for p in row {
        *p *= scale;
    }
    f64::from(max) + sum.ln()
}

/// Log-sum-exp of a row; `probs` gets its softmax.
#[inline(always)]
fn softmax(classes: usize, logit: impl Fn(usize) -> f32, probs: &mut [f32]) -> f64 {
    let probs = &mut probs[..classes];
    for at in 0..classes {
        probs[at] = logit(at);
    }
    softmax_in_place(probs, 1.0)
}

/// Sum of `value` over a row.
#[inline(always)]
fn sum(classes: usize, value: impl Fn(usize) -> f32) -> f64 {
    let mut sum = [0.0f32; LANES];
    let whole = classes - classes % LANES;
    for at in (0..whole).step_by(LANES) {
        for (lane, sum) in sum.iter_mut().enumerate() {
            *sum += value(at + lane);
        }
    }
    for at in whole..classes {
        sum[0] += value(at);
    }
    sum.into_iter().map(f64::from).sum()
}

/// What the passes over a row share.
struct Row<'a> {
    /// Logits of the experts, `[experts][classes]`.
    logits: &'a [&'a [f32]],
    options: DktOptions,
}

/// Log-sum-exps of a row and its hardest negative.
/// Sums are kept in float64: what counts is their differences.
struct Normalised {
    experts: Vec<f64>,
    students: Vec<f64>,
    teacher: f64,
    hardest: usize,
}

impl Row<'_> {
    #[inline(always)]
    fn student(&self, expert: usize, at: usize, scratch: &Scratch) -> f32 {
        let logit = self.logits[expert][at];
        match self.options.exclude_target {
            true => logit + scratch.excluded[at],
            false => {
                let label = scratch.label[at];
                logit * (1.0 - label) + label * TARGET_LOGIT
            }
        }
    }

    /// Softmaxes of experts, teacher and students into the scratch.
    #[inline(always)]
    fn normalise(&self, scratch: &mut Scratch) -> Normalised {
        let classes = scratch.label.len();
        let experts = self.logits.len();
        let softmaxes = (0..experts).map(|k| {
            let row = self.logits[k];
            softmax(classes, |at| row[at], &mut scratch.probs[k * classes..])
        });
        let softmaxes = softmaxes.collect();

        // The maximum over the experts (the first of equals), and the mean without the target.
        let mut hardest = (f32::NEG_INFINITY, 0);
        let share = 1.0 / experts as f32;
        let (winner, teacher) = (&mut scratch.winner, &mut scratch.teacher_logits);
        winner.fill(0);
        teacher.copy_from_slice(self.logits[0]);
        for (k, row) in self.logits.iter().enumerate().skip(1) {
            for at in 0..classes {
                let larger = row[at] > teacher[at];
                winner[at] = if larger { k as u32 } else { winner[at] };
                teacher[at] = if larger { row[at] } else { teacher[at] };
            }
        }
        // The students' scratch is free still: it holds the masked means.
        let means = &mut scratch.students[..classes];
        means.copy_from_slice(self.logits[0]);
        for row in &self.logits[1..] {
            for at in 0..classes {
                means[at] += row[at];
            }
        }
        for at in 0..classes {
            let label = scratch.label[at];
            let keep = 1.0 - label;
            means[at] = label * TARGET_LOGIT + means[at] * share * keep;
            teacher[at] *= keep;
        }
        for (at, &mean) in means.iter().enumerate() {
            if mean > hardest.0 {
                hardest = (mean, at);
            }
        }
        teacher[hardest.1] = hardest.0;
        if self.options.exclude_target {
            for at in 0..classes {
                teacher[at] += scratch.excluded[at];
            }
        }
        let (teacher_logits, probs) = (&scratch.teacher_logits, &mut scratch.teacher);
        let teacher = softmax(classes, |at| teacher_logits[at], probs);

        let mut students = std::mem::take(&mut scratch.students);
        let sums = (0..experts).map(|k| {
            let probs = &mut students[k * classes..];
            softmax(classes, |at| self.student(k, at, scratch), probs)
        });
        let sums = sums.collect();
        scratch.students = students;
        Normalised {
            experts: softmaxes,
            students: sums,
            teacher,
            hardest: hardest.1,
        }
    }

    /// Every term, not divided by anything.
    #[inline(always)]
    fn forward(&self, scratch: &mut Scratch, terms: &mut [f64]) {
        let norm = self.normalise(scratch);
        let (experts, classes) = (self.logits.len(), scratch.label.len());
        for i in 0..experts {
            let logits = self.logits[i];
            let lse = norm.experts[i] as f32;
            terms[i] = sum(classes, |at| scratch.label[at] * (lse - logits[at]));
            let shift = (norm.students[i] - norm.teacher) as f32;
            terms[experts + i] = sum(classes, |at| {
                let student = self.student(i, at, scratch);
                scratch.teacher[at] * (scratch.teacher_logits[at] - student + shift)
            });
            for j in 0..experts {
                let probs = &scratch.probs[j * classes..][..classes];
                let other = self.logits[j];
                let shift = (norm.experts[i] - norm.experts[j]) as f32;
                terms[2 * experts + i * experts + j] = match i == j {
                    true => 0.0,
                    false => sum(classes, |at| probs[at] * (other[at] - logits[at] + shift)),
                };
            }
        }
    }

    /// The gradient of `Σ terms · coefficients`, `[experts][classes]`.
    #[inline(always)]
    fn backward(&self, scratch: &mut Scratch, coefficients: &[f32], gradient: &mut [&mut [f32]]) {
        let norm = self.normalise(scratch);
        let (experts, classes) = (self.logits.len(), scratch.label.len());
        let (cross_entropy, rest) = coefficients.split_at(experts);
        let (non_target, mutual) = rest.split_at(experts);
        let total_label = sum(classes, |at| scratch.label[at]) as f32;
        let (teacher, label) = (&scratch.teacher[..classes], &scratch.label[..classes]);
        for i in 0..experts {
            let out = &mut gradient[i][..classes];
            let probs = &scratch.probs[i * classes..][..classes];
            let student = &scratch.students[i * classes..][..classes];
            let (ce, nt) = (cross_entropy[i], non_target[i]);
            // As a student in the mutual term: Σ_j m_ij (p_i − p_j).
            let taught: f32 = (0..experts)
                .filter(|j| *j != i)
                .map(|j| mutual[i * experts + j])
                .sum();
            let own = ce * total_label + taught;
            match self.options.exclude_target {
                true => {
                    for at in 0..classes {
                        out[at] =
                            own * probs[at] - ce * label[at] + nt * (student[at] - teacher[at]);
                    }
                }
                false => {
                    for at in 0..classes {
                        out[at] = own * probs[at] - ce * label[at]
                            + nt * (student[at] - teacher[at]) * (1.0 - label[at]);
                    }
                }
            }
            for j in (0..experts).filter(|j| *j != i) {
                let weight = mutual[i * experts + j];
                let other = &scratch.probs[j * classes..][..classes];
                for at in 0..classes {
                    out[at] -= weight * other[at];
                }
            }
            if self.options.detach_teacher {
                continue;
            }
            // As a teacher: Σ_j m_ji p_i ((l_i − l_j) − KL(p_i ‖ p_j)).
            for j in (0..experts).filter(|j| *j != i) {
                let weight = mutual[j * experts + i];
                let (mine, other) = (self.logits[i], self.logits[j]);
                let shift = (norm.experts[j] - norm.experts[i]) as f32;
                let kl = sum(classes, |at| probs[at] * (mine[at] - other[at] + shift)) as f32;
                for at in 0..classes {
                    out[at] += weight * probs[at] * (mine[at] - other[at] + shift - kl);
                }
            }
        }
        if self.options.detach_teacher {
            return;
        }
        // Through the non-target teacher: t · ((log t − s_i) − KL(t ‖ s_i)), summed over students,
        // to the expert that has the maximum, and at the hardest negative to all.
        let (mut total, mut constant) = (0.0, 0.0);
        for i in 0..experts {
            let shift = (norm.students[i] - norm.teacher) as f32;
            let kl = sum(classes, |at| {
                let student = self.student(i, at, scratch);
                teacher[at] * (scratch.teacher_logits[at] - student + shift)
            });
            total += non_target[i];
            constant += non_target[i] * (shift - kl as f32);
        }
        // The teacher's own softmax is read above for the last time: it takes the gradient.
        let mut through = std::mem::take(&mut scratch.teacher);
        for at in 0..classes {
            let mut difference = total * scratch.teacher_logits[at] + constant;
            for i in 0..experts {
                difference -= non_target[i] * self.student(i, at, scratch);
            }
            through[at] *= difference * (1.0 - scratch.label[at]);
        }
        let share = through[norm.hardest] / experts as f32;
        through[norm.hardest] = 0.0;
        for (i, out) in gradient.iter_mut().enumerate() {
            let out = &mut out[..classes];
            for at in 0..classes {
                let mine = scratch.winner[at] == i as u32;
                out[at] += if mine { through[at] } else { 0.0 };
            }
            out[norm.hardest] += share;
        }
        scratch.teacher = through;
    }
}

/// The label of one image.
#[derive(Clone, Copy)]
enum Label<'a> {
    /// A class; `None` if it is not one of these.
    Hard(Option<usize>),
    /// A distribution, `[classes]`.
    Soft(&'a [f32]),
}

impl<'a> Labels<'a> {
    fn of(self, image: usize, classes: usize) -> Label<'a> {
        match self {
            Self::Hard(labels) => {
                let label = usize::try_from(labels[image]).ok();
                Label::Hard(label.filter(|label| *label < classes))
            }
            Self::Soft(labels) => Label::Soft(&labels[image * classes..][..classes]),
        }
    }
}

/// What the softmax of a row takes to be computed again: its largest value, and one over the sum of
/// the exponentials of what the others lie below it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowSum {
    largest: f32,
    scale: f64,
}

/// Cross-entropy of `logits + prior`, not divided by anything.
#[inline(always)]
fn cross_entropy(
    logits: &[f32],
    prior: &[f32],
    label: Label<'_>,
    shifted: &mut [f32],
) -> (f64, RowSum) {
    for ((shifted, logit), prior) in shifted.iter_mut().zip(logits).zip(prior) {
        *shifted = logit + prior;
    }
    let (share, target) = match label {
        Label::Hard(None) => (0.0, 0.0),
        Label::Hard(Some(class)) => (1.0, f64::from(shifted[class])),
        Label::Soft(labels) => (
            sum(labels.len(), |at| labels[at]),
            sum(labels.len(), |at| labels[at] * shifted[at]),
        ),
    };
    let max = largest(shifted);
    let mut sums = [0.0f32; LANES];
    let (whole, rest) = shifted.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            sums[lane] += exp(chunk[lane] - max);
        }
    }
    for (shifted, sum) in rest.iter().zip(&mut sums) {
        *sum += exp(shifted - max);
    }
    let total: f64 = sums.into_iter().map(f64::from).sum();
    let row = RowSum {
        largest: max,
        scale: 1.0 / total,
    };
    (share * (f64::from(max) + total.ln()) - target, row)
}

/// Its gradient times `coefficient`, written to `gradient`.
#[inline(always)]
fn cross_entropy_gradient(
    logits: &[f32],
    prior: &[f32],
    label: Label<'_>,
    row: RowSum,
    coefficient: f32,
    gradient: &mut [MaybeUninit<f32>],
) {
    let share = match label {
        Label::Hard(None) => 0.0,
        Label::Hard(Some(_)) => 1.0,
        Label::Soft(labels) => sum(labels.len(), |at| labels[at]) as f32,
    };
    let scale = (f64::from(coefficient * share) * row.scale) as f32;
    // What follows relies on it.
    assert!(logits.len() == gradient.len() && prior.len() == gradient.len());
    for ((gradient, logit), prior) in gradient.iter_mut().zip(logits).zip(prior) {
        gradient.write(exp(logit + prior - row.largest) * scale);
    }
    // SAFETY: the loop wrote every element: the three slices are as long as each other.
    let gradient = unsafe { gradient.assume_init_mut() };
    match label {
        Label::Hard(None) => gradient.fill(0.0),
        Label::Hard(Some(class)) => gradient[class] -= coefficient,
        Label::Soft(labels) => {
            for (gradient, label) in gradient.iter_mut().zip(labels) {
                *gradient -= coefficient * label;
            }
        }
    }
}

/// Fills in the label of an image.
fn set_label(labels: Labels<'_>, image: usize, exclude: bool, scratch: &mut Scratch) {
    match labels.of(image, scratch.label.len()) {
        Label::Hard(class) => {
            scratch.label.fill(0.0);
            if let Some(class) = class {
                scratch.label[class] = 1.0;
            }
        }
        Label::Soft(labels) => scratch.label.copy_from_slice(labels),
    }
    if exclude {
        for (excluded, label) in scratch.excluded.iter_mut().zip(&scratch.label) {
            *excluded = (1.0 - label).max(f32::MIN_POSITIVE).ln().max(EXCLUDED);
            if *label == 1.0 {
                *excluded = EXCLUDED;
            }
        }
    }
}

/// Sums of every term over the batch, not divided by anything, [`terms`] of them.
///
/// `logits` is `[batch, classes]` of each expert.
pub(crate) fn dkt_forward(
    logits: &[&[f32]],
    [batch, classes]: [usize; 2],
    labels: Labels<'_>,
    options: DktOptions,
) -> Vec<f64> {
    let count = terms(logits.len());
    let mut rows = vec![0.0f64; batch * count];
    rows.par_chunks_mut(count).enumerate().for_each_init(
        || Scratch::new(logits.len(), classes),
        |scratch, (image, terms)| {
            set_label(labels, image, options.exclude_target, scratch);
            let rows = image_rows(logits, image, classes);
            let row = Row {
                logits: &rows,
                options,
            };
            forward(&row, scratch, terms);
        },
    );
    // In the order of the images, whatever thread had them.
    let mut sums = vec![0.0; count];
    for row in rows.chunks_exact(count) {
        for (sum, term) in sums.iter_mut().zip(row) {
            *sum += term;
        }
    }
    sums
}

fn image_rows<'a>(logits: &[&'a [f32]], image: usize, classes: usize) -> Vec<&'a [f32]> {
    let row = |logits: &&'a [f32]| &logits[image * classes..][..classes];
    logits.iter().map(row).collect()
}

/// The gradient of `Σ terms · coefficients` with respect to the logits of each expert,
/// `[batch, classes]`.
pub(crate) fn dkt_backward(
    logits: &[&[f32]],
    [batch, classes]: [usize; 2],
    labels: Labels<'_>,
    options: DktOptions,
    coefficients: &[f32],
) -> Vec<Vec<f32>> {
    let experts = logits.len();
    let mut gradients: Vec<Vec<f32>> = (0..experts).map(|_| zeroed(batch * classes)).collect();
    let mut rows: Vec<Vec<&mut [f32]>> = (0..batch).map(|_| Vec::with_capacity(experts)).collect();
    for gradient in &mut gradients {
        for (row, gradient) in rows.iter_mut().zip(gradient.chunks_exact_mut(classes)) {
            row.push(gradient);
        }
    }
    rows.par_iter_mut().enumerate().for_each_init(
        || Scratch::new(experts, classes),
        |scratch, (image, gradient)| {
            set_label(labels, image, options.exclude_target, scratch);
            let rows = image_rows(logits, image, classes);
            let row = Row {
                logits: &rows,
                options,
            };
            backward(&row, scratch, coefficients, gradient);
        },
    );
    gradients
}

/// Sums of the cross-entropy of `logits + prior` over the batch, one an expert, and what
/// [`cross_entropy_backward`] takes of each row; `prior` is `[classes]`.
pub(crate) fn cross_entropy_forward(
    logits: &[&[f32]],
    [batch, classes]: [usize; 2],
    labels: Labels<'_>,
    prior: &[f32],
) -> (Vec<f64>, Vec<Vec<RowSum>>) {
    let expert = |logits: &&[f32]| {
        let mut rows = vec![(0.0f64, RowSum::default()); batch];
        rows.par_iter_mut().enumerate().for_each_init(
            || vec![0.0; classes],
            |scratch, (image, row)| {
                let logits = &logits[image * classes..][..classes];
                value(logits, prior, labels.of(image, classes), scratch, row);
            },
        );
        let total = rows.iter().map(|row| row.0).sum::<f64>();
        (total, rows.into_iter().map(|row| row.1).collect())
    };
    logits.iter().map(expert).unzip()
}

/// The gradient of `Σ terms · coefficients` with respect to the logits of each expert,
/// `[batch, classes]`.
pub(crate) fn cross_entropy_backward(
    logits: &[&[f32]],
    [batch, classes]: [usize; 2],
    labels: Labels<'_>,
    prior: &[f32],
    rows: &[Vec<RowSum>],
    coefficients: &[f32],
) -> Vec<Vec<f32>> {
    let expert = |((logits, rows), coefficient): ((&&[f32], &Vec<RowSum>), &f32)| {
        // Not cleared before it is written: at thousands of classes that would cost as much again.
        let mut gradient = with_capacity(batch * classes);
        let out = &mut gradient.spare_capacity_mut()[..batch * classes];
        // What follows relies on it.
        assert_eq!(rows.len(), batch);
        let images = out.par_chunks_mut(classes).zip(rows).enumerate();
        images.for_each(|(image, (gradient, row))| {
            let logits = &logits[image * classes..][..classes];
            let label = labels.of(image, classes);
            slope(logits, prior, label, *row, *coefficient, gradient);
        });
        // SAFETY: `slope` wrote every row, and there is one row an image.
        unsafe { gradient.set_len(batch * classes) };
        gradient
    };
    let experts = logits.iter().zip(rows).zip(coefficients);
    experts.map(expert).collect()
}

/// Compiles a function for the processor's vectors as well, and takes that where it can. No
/// operation is fused, so that both round the same.
macro_rules! vectors {
    ($name:ident($($arg:ident: $type:ty),*) $call:expr) => {
        fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) {
                    $call
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the vectors that the function is compiled for.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $call
        }
    };
}

vectors!(forward(row: &Row<'_>, scratch: &mut Scratch, terms: &mut [f64])
    row.forward(scratch, terms));
vectors!(backward(row: &Row<'_>, scratch: &mut Scratch, coefficients: &[f32], gradient: &mut [&mut [f32]])
    row.backward(scratch, coefficients, gradient));
vectors!(value(logits: &[f32], prior: &[f32], label: Label<'_>, scratch: &mut [f32], row: &mut (f64, RowSum))
    *row = cross_entropy(logits, prior, label, scratch));
vectors!(slope(logits: &[f32], prior: &[f32], label: Label<'_>, row: RowSum, coefficient: f32, gradient: &mut [MaybeUninit<f32>])
    cross_entropy_gradient(logits, prior, label, row, coefficient, gradient));

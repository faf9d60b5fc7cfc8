//! One model for any distribution of classes.
//!
//! A classifier whose logits stand for class frequencies π and that is used where they are π′ has its
//! best logits at `logit + log π′ − log π` (Saerens et al., Neural Computation 2002; Menon et al.,
//! "Long-tail learning via logit adjustment", ICLR 2021, eq. 9). π is what training left in the logits
//! (`TrainConfig::logit_prior` of shike-train), and is kept in the model file.

use std::path::{Path, PathBuf};

use shike_data::read::{long_line, read_to_string};
use thiserror::Error;

use super::{Evaluation, ImageScore};

/// The class frequencies that a model is used under.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Prior {
    /// All classes alike.
    Uniform,
    /// As in the training set.
    Train,
    /// These, `[classes]`; they need not add up to 1.
    Weights(Vec<f64>),
}

/// Frequencies that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PriorError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("{}, line {line}: {problem}; a line is `class name<TAB>frequency`, or a number alone, in the order of the classes", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is not one frequency a class.
    #[error("{}: {problem}", path.display())]
    Classes {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Not one frequency a class.
    #[error("{given} frequencies for a model of {classes} classes")]
    Length {
        /// How many there are.
        given: usize,
        /// How many there have to be.
        classes: usize,
    },
    /// A frequency is NaN or negative.
    #[error("the frequency of class {class} is {value}; give a number above 0")]
    NoFrequency {
        /// The class.
        class: usize,
        /// Its frequency.
        value: f64,
    },
    /// The sum of the frequencies is infinite.
    #[error("the frequencies are so large that their sum is infinite; give numbers such as 0.25")]
    TooLarge,
    /// A class has no training image, or a frequency is 0.
    #[error(
        "class {class} has a frequency of 0 in {of}: its logarithm is infinite; give it a small number"
    )]
    Zero {
        /// The class.
        class: usize,
        /// Training set, prior, or what the model was trained on.
        of: &'static str,
    },
}

impl Prior {
    /// Reads frequencies from a text file: a line a class, `name<TAB>frequency` in any order, or
    /// numbers alone in the order of the classes. Empty lines do not count, nor do comments: lines that
    /// begin with `#` and not with the name of a class and a tab.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn read(path: &Path, class_names: &[String]) -> Result<Self, PriorError> {
        let text = read_to_string(path).map_err(|source| PriorError::Read {
            path: path.to_owned(),
            source,
        })?;
        if let Some((line, problem)) = long_line(text.as_bytes()) {
            return Err(PriorError::Line {
                path: path.to_owned(),
                line,
                problem,
            });
        }
        let mut weights = vec![None; class_names.len()];
        let mut next = 0;
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let named = line.rsplit_once('\t').map(|(name, value)| {
                let class = class_names.iter().position(|known| known == name);
                (name, class, value)
            });
            let comment = line.starts_with('#') && !matches!(named, Some((_, Some(_), _)));
            if line.trim().is_empty() || comment {
                continue;
            }
            let wrong = |problem: String| PriorError::Line {
                path: path.to_owned(),
                line: number + 1,
                problem,
            };
            let (class, value) = match named {
                Some((name, class, value)) => {
                    let class =
                        class.ok_or_else(|| wrong(format!("there is no class `{name}`")))?;
                    (class, value)
                }
                None => {
                    next += 1;
                    (next - 1, line)
                }
            };
            let weight = value.trim().parse::<f64>().ok();
            let weight = weight.filter(|weight| weight.is_finite() && *weight >= 0.0);
            let weight = weight
                .ok_or_else(|| wrong(format!("`{}` is no frequency of 0 or more", value.trim())))?;
            let place = weights.get_mut(class);
            let place = place
                .ok_or_else(|| wrong(format!("there are only {} classes", class_names.len())))?;
            if place.replace(weight).is_some() {
                return Err(wrong(format!("class `{}` comes twice", class_names[class])));
            }
        }
        let missing = weights.iter().position(Option::is_none);
        match missing {
            None => Ok(Self::Weights(weights.into_iter().flatten().collect())),
            Some(class) => Err(PriorError::Classes {
                path: path.to_owned(),
                problem: format!("class `{}` has no frequency", class_names[class]),
            }),
        }
    }

    /// What is added to logits that stand for the class frequencies `of`, `[classes]`, to use them under
    /// this prior; `train_counts` are the training images of each class.
    ///
    /// # Errors
    /// [`PriorError::Zero`] where a logarithm would be infinite; where there is not one frequency a class, or
    /// one is not a frequency.
    pub fn shift(&self, of: &[f64], train_counts: &[usize]) -> Result<Vec<f32>, PriorError> {
        let classes = train_counts.len();
        let to = match self {
            Self::Uniform => vec![1.0; classes],
            Self::Train => train_counts.iter().map(|&n| n as f64).collect(),
            Self::Weights(weights) => weights.clone(),
        };
        let totals = [total(&to, classes)?, total(of, classes)?];
        let shift = |(class, (&to, &from)): (usize, (&f64, &f64))| match (to > 0.0, from > 0.0) {
            (true, true) => Ok(((to / totals[0]) / (from / totals[1])).ln() as f32),
            // A class that is in neither needs no change.
            (false, false) => Ok(0.0),
            (false, true) => Err(PriorError::Zero {
                class,
                of: match self {
                    Self::Train => "the training set",
                    _ => "the prior",
                },
            }),
            (true, false) => Err(PriorError::Zero {
                class,
                of: "the model's training",
            }),
        };
        to.iter().zip(of).enumerate().map(shift).collect()
    }
}

/// Powers of the training frequencies that are tried.
const POWERS: [f64; 8] = [-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0];

/// The class frequencies that a model's logits stand for when they are divided by `temperature`: what training left
/// (`of`, `[classes]`), times a power of the training frequencies that scored pictures found in them. That is
/// post-hoc logit adjustment (Menon et al., ICLR 2021, eq. 9) with the strength chosen: the power with the lowest
/// class-averaged cross-entropy without these frequencies, where it is ahead of none by more than two standard errors;
/// else 0.
pub fn fitted(
    of: &[f64],
    train_counts: &[usize],
    temperature: f64,
    evaluation: &Evaluation,
) -> Vec<f64> {
    let plain: Vec<f64> = of.iter().map(|p| p.powf(1.0 / temperature)).collect();
    let classes = of.len();
    let whole = evaluation.log_probabilities.len() == evaluation.scores.len() * classes;
    if !whole || plain.iter().any(|p| *p <= 0.0) || train_counts.contains(&0) {
        return plain;
    }
    let with = |power: f64| -> Vec<f64> {
        let both = plain.iter().zip(train_counts);
        both.map(|(p, &count)| p * (count as f64).powf(power))
            .collect()
    };
    // Of each picture.
    let losses = |prior: &[f64]| -> Vec<f64> {
        let rows = evaluation.log_probabilities.chunks_exact(classes);
        let loss = |(row, score): (&[f32], &ImageScore)| {
            let logit = |(log, prior): (&f32, &f64)| f64::from(*log) / temperature - prior.ln();
            let logits: Vec<f64> = row.iter().zip(prior).map(logit).collect();
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            sum.ln() - logits[score.label as usize]
        };
        rows.zip(&evaluation.scores).map(loss).collect()
    };
    let base = losses(&plain);
    // Mean over classes of their pictures' gains, and its standard error.
    let gain = |power: &f64| {
        let found = losses(&with(*power));
        let mut sums = vec![[0.0; 3]; classes];
        for ((score, before), after) in evaluation.scores.iter().zip(&base).zip(&found) {
            let gain = before - after;
            let sums = &mut sums[score.label as usize];
            *sums = [sums[0] + 1.0, sums[1] + gain, sums[2] + gain * gain];
        }
        let seen = sums.iter().filter(|[n, ..]| *n > 0.0);
        let count = seen.clone().count() as f64;
        let mean = seen.clone().map(|[n, sum, _]| sum / n).sum::<f64>() / count;
        // A single picture tells no spread; it counts with its whole gain.
        let variance = seen.map(|[n, sum, squares]| match *n > 1.0 {
            true => (squares - sum * sum / n) / (n - 1.0) / n,
            false => *squares,
        });
        let error = variance.sum::<f64>().sqrt() / count;
        (*power, mean, error)
    };
    let best = POWERS.iter().map(gain).max_by(|a, b| a.1.total_cmp(&b.1));
    match best {
        Some((power, mean, error)) if mean > 2.0 * error => with(power),
        _ => plain,
    }
}

/// The sum of frequencies, which are checked.
pub(crate) fn total(weights: &[f64], classes: usize) -> Result<f64, PriorError> {
    if weights.len() != classes {
        let given = weights.len();
        return Err(PriorError::Length { given, classes });
    }
    if let Some(class) = weights.iter().position(|w| w.is_nan() || *w < 0.0) {
        let value = weights[class];
        return Err(PriorError::NoFrequency { class, value });
    }
    let total: f64 = weights.iter().sum();
    match total.is_finite() {
        true => Ok(total),
        false => Err(PriorError::TooLarge),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shifts_are_log_ratios() {
        let counts = [80, 20];
        let close = |found: Vec<f32>, expected: [f64; 2]| {
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-6,
                    "{found} {expected}"
                );
            }
        };
        let (train, uniform) = ([0.8, 0.2], [1.0, 1.0]);
        let shift = |prior: Prior, of: &[f64]| prior.shift(of, &counts).unwrap();
        close(
            shift(Prior::Uniform, &train),
            [(0.5f64 / 0.8).ln(), (0.5f64 / 0.2).ln()],
        );
        close(
            shift(Prior::Train, &uniform),
            [(0.8f64 / 0.5).ln(), (0.2f64 / 0.5).ln()],
        );
        close(shift(Prior::Train, &train), [0.0, 0.0]);
        // As the square root of the training frequencies: 2/3 and 1/3.
        close(
            shift(Prior::Uniform, &[2.0, 1.0]),
            [(0.75f64).ln(), (1.5f64).ln()],
        );
        close(
            shift(Prior::Weights(vec![1.0, 3.0]), &train),
            [(0.25f64 / 0.8).ln(), (0.75f64 / 0.2).ln()],
        );
        let empty = |prior: Prior, of: &[f64]| prior.shift(of, &[0, 1]).map_err(|e| e.to_string());
        assert_eq!(empty(Prior::Train, &[0.0, 1.0]), Ok(vec![0.0, 0.0]));
        for (prior, of, says) in [
            (Prior::Uniform, [0.0, 1.0], "0 in the model's training"),
            (Prior::Train, [0.5, 0.5], "0 in the training set"),
            (Prior::Weights(vec![0.0, 1.0]), [0.5, 0.5], "0 in the prior"),
        ] {
            let error = empty(prior, &of).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    /// Logits of two classes of which 90 and 10 pictures were trained on, which say that the first is nine times as
    /// frequent to the power of `left`.
    fn biased(left: f64) -> Evaluation {
        let counts = [90, 10];
        let mut evaluator = crate::metrics::Evaluator::new(&counts, Default::default(), 1)
            .unwrap()
            .with_ranking();
        let bias = (left * 9f64.ln()) as f32;
        for i in 0..400u16 {
            // What the picture says: a logistic distribution around ±1.
            let u = (f64::from(i / 2) + 0.5) / 200.0;
            let label = u32::from(i % 2 == 1);
            let says = ((u / (1.0 - u)).ln() * 0.5) as f32 + if label == 0 { 1.0 } else { -1.0 };
            evaluator
                .add_batch(&[&[says + bias, 0.0]], &[label])
                .unwrap();
        }
        evaluator.finish().unwrap()
    }

    #[test]
    fn what_training_left_in_the_logits_is_found_on_pictures() {
        let found = |left: f64, of: [f64; 2]| fitted(&of, &[90, 10], 1.0, &biased(left));
        // Nothing was left, and nothing is found.
        assert_eq!(found(0.0, [1.0, 1.0]), [1.0, 1.0]);
        // Logits that should be balanced and are not.
        let prior = found(0.75, [1.0, 1.0]);
        assert!((prior[0] / prior[1] - 9f64.powf(0.75)).abs() < 1e-9);
        // Trained on the frequencies as they are, of which half is in the logits.
        let prior = found(0.5, [0.9, 0.1]);
        assert!((prior[0] / prior[1] - 3.0).abs() < 1e-9);
        // Divided logits stand for less.
        let prior = fitted(&[0.9, 0.1], &[90, 10], 2.0, &biased(1.0));
        assert!((prior[0] / prior[1] - 3.0).abs() < 1e-9);
    }

    #[test]
    fn files_are_read_by_name_or_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prior.txt");
        let names = ["cat".to_owned(), "sea otter".to_owned()];
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Prior::read(&path, &names).map_err(|error| error.to_string())
        };
        let expected = Ok(Prior::Weights(vec![2.0, 0.5]));
        assert_eq!(read("# comment\nsea otter\t0.5\r\n\ncat\t2\n"), expected);
        assert_eq!(read("\u{feff}2\n0.5\n"), expected);
        // A class may be called as a comment begins.
        std::fs::write(&path, "#1\t2\n#2\t3\n#1 and #2\t1\ncat\t1\n").unwrap();
        let hashed = ["#1", "#2", "cat"].map(str::to_owned);
        let prior = Prior::read(&path, &hashed).unwrap();
        assert_eq!(prior, Prior::Weights(vec![2.0, 3.0, 1.0]));
        for (text, says) in [
            ("dog\t1\n", "line 1: there is no class `dog`"),
            ("1\nx\n", "line 2: `x` is no frequency"),
            ("1\n-1\n", "line 2: `-1`"),
            ("1\n2\n3\n", "line 3: there are only 2 classes"),
            ("cat\t1\ncat\t2\n", "line 2: class `cat` comes twice"),
            ("1\n", "class `sea otter` has no frequency"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(error.contains("prior.txt"), "{error}");
        }
    }
}

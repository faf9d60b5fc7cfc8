//! One model for any distribution of classes.
//!
//! A classifier that was trained on class frequencies π and is used where they are π′ has its best
//! logits at `logit + log π′ − log π` (Saerens et al., Neural Computation 2002; Menon et al.,
//! "Long-tail learning via logit adjustment", ICLR 2021, eq. 9). The balanced softmax adds log π in
//! training, so that its logits are those of equal frequencies already.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The class frequencies that logits are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogitPrior {
    /// Those of the training set: cross-entropy on images as they are drawn.
    Train,
    /// All classes alike: balanced softmax, logit adjustment, class-balanced sampling.
    Uniform,
}

/// The class frequencies that a model is used under.
#[derive(Clone, Debug, PartialEq)]
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
        /// Training set or prior.
        of: &'static str,
    },
}

impl Prior {
    /// Reads frequencies from a text file: a line a class, `name<TAB>frequency` in any order, or
    /// numbers alone in the order of the classes. Empty lines and lines that begin with `#` are passed
    /// over.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn read(path: &Path, class_names: &[String]) -> Result<Self, PriorError> {
        let text = std::fs::read_to_string(path).map_err(|source| PriorError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut weights = vec![None; class_names.len()];
        let mut next = 0;
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |problem: String| PriorError::Line {
                path: path.to_owned(),
                line: number + 1,
                problem,
            };
            let (class, value) = match line.rsplit_once('\t') {
                Some((name, value)) => {
                    let class = class_names.iter().position(|known| known == name);
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

    /// What is added to logits that are made for `of`, `[classes]`, to use them under this prior;
    /// `train_counts` are the training images of each class.
    ///
    /// # Errors
    /// [`PriorError::Zero`] where a logarithm would be infinite.
    pub fn shift(&self, of: LogitPrior, train_counts: &[usize]) -> Result<Vec<f32>, PriorError> {
        let train: Vec<f64> = train_counts.iter().map(|&n| n as f64).collect();
        let log = |weights: &[f64], of| -> Result<Vec<f64>, PriorError> {
            if weights.len() != train.len() {
                let (given, classes) = (weights.len(), train.len());
                return Err(PriorError::Length { given, classes });
            }
            if let Some(class) = weights.iter().position(|w| w.is_nan() || *w < 0.0) {
                let value = weights[class];
                return Err(PriorError::NoFrequency { class, value });
            }
            let total: f64 = weights.iter().sum();
            if !total.is_finite() {
                return Err(PriorError::TooLarge);
            }
            if let Some(class) = weights.iter().position(|weight| *weight <= 0.0) {
                return Err(PriorError::Zero { class, of });
            }
            Ok(weights.iter().map(|weight| (weight / total).ln()).collect())
        };
        let equal = || vec![-(train.len() as f64).ln(); train.len()];
        let to = match (self, of) {
            (Self::Uniform, LogitPrior::Uniform) | (Self::Train, LogitPrior::Train) => {
                return Ok(vec![0.0; train.len()]);
            }
            (Self::Uniform, _) => equal(),
            (Self::Train, _) => log(&train, "the training set")?,
            (Self::Weights(weights), _) => log(weights, "the prior")?,
        };
        let from = match of {
            LogitPrior::Uniform => equal(),
            LogitPrior::Train => log(&train, "the training set")?,
        };
        Ok(to
            .iter()
            .zip(from)
            .map(|(to, from)| (to - from) as f32)
            .collect())
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
        let uniform = Prior::Uniform.shift(LogitPrior::Train, &counts).unwrap();
        close(uniform, [(0.5f64 / 0.8).ln(), (0.5f64 / 0.2).ln()]);
        let train = Prior::Train.shift(LogitPrior::Uniform, &counts).unwrap();
        close(train, [(0.8f64 / 0.5).ln(), (0.2f64 / 0.5).ln()]);
        let other = Prior::Weights(vec![1.0, 3.0]);
        close(
            other.shift(LogitPrior::Train, &counts).unwrap(),
            [(0.25f64 / 0.8).ln(), (0.75f64 / 0.2).ln()],
        );
        close(
            Prior::Train.shift(LogitPrior::Train, &[0, 1]).unwrap(),
            [0.0, 0.0],
        );
        assert!(Prior::Uniform.shift(LogitPrior::Train, &[0, 1]).is_err());
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

//! One model for any distribution of classes.
//!
//! A classifier whose logits stand for class frequencies π and that is used where they are π′ has its
//! best logits at `logit + log π′ − log π` (Saerens et al., Neural Computation 2002; Menon et al.,
//! "Long-tail learning via logit adjustment", ICLR 2021, eq. 9). π is what training left in the logits
//! (`TrainConfig::logit_prior` of shike-train), and is kept in the model file.

use std::path::{Path, PathBuf};

use shike_data::read::{long_line, read_to_string};
use thiserror::Error;

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

//! A fitted head: from rows of features to log-probabilities.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{HeadError, Result};
use crate::features::{Depth, Features, check_finite};
use crate::heads;
use crate::linalg::CHUNK;
use crate::prepare::{Standardisation, Training, width};
use crate::scorer::{Scorer, Slot};
use crate::softmax::log_softmax;

/// Everything that decides what a head becomes on given features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The head's name.
    pub head: String,
    /// The names of the depths whose features it sees.
    pub depths: Vec<String>,
    /// The strength of its penalty; 0 where there is none to choose.
    pub strength: f64,
    /// What is taken off its scores: τ times the logarithm of the class's share of the training pictures.
    pub tau: f32,
    /// What scores are divided by.
    pub temperature: f32,
}

impl Candidate {
    /// A head with the settings that it has where none can be chosen.
    ///
    /// # Errors
    ///
    /// A name that no head has.
    pub fn usual(head: &str, depths: &[Depth]) -> Result<Self> {
        let head = heads::head(head)?;
        Ok(Self {
            head: head.name.into(),
            depths: depths.iter().map(|d| d.name.clone()).collect(),
            strength: head.usual_strength,
            tau: head.taus[0],
            temperature: 1.0,
        })
    }

    /// Fits it on all pictures: with the closed-form heads a matter of seconds, so that pictures that are added later cost
    /// no new choice.
    ///
    /// # Errors
    ///
    /// A head or depth that does not exist, a setting out of its range, more pictures than the head is made for, a decomposition that fails.
    pub fn fit(&self, features: &Features) -> Result<FittedHead> {
        let pictures: Vec<u32> = (0..features.pictures() as u32).collect();
        self.fit_on(features, &pictures)
    }

    /// Log-probabilities of every picture by a head that was fitted without its fold, `[pictures, classes]`, as if all
    /// classes were equally frequent. `folds` is `[pictures]`; pictures of no fold are in every fit, and their rows are 0.
    /// `progress` is told how many folds are done, and of how many.
    ///
    /// The settings were chosen with all pictures; what is fitted has not seen those that it judges.
    ///
    /// # Errors
    ///
    /// As [`Candidate::fit`]; a fold that leaves a class without a picture, not one fold a picture.
    pub fn held_out(
        &self,
        features: &Features,
        folds: &[Option<usize>],
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<f32>> {
        if folds.len() != features.pictures() {
            return Err(HeadError::Shape(format!(
                "there are {} folds for {} pictures",
                folds.len(),
                features.pictures()
            )));
        }
        let (classes, width) = (features.classes(), features.width());
        let mut log = vec![0.0; folds.len() * classes];
        let different: BTreeSet<usize> = folds.iter().copied().flatten().collect();
        for (done, &fold) in different.iter().enumerate() {
            progress(done, different.len());
            let all = 0..features.pictures() as u32;
            let (held, rest): (Vec<u32>, Vec<u32>) =
                all.partition(|&at| folds[at as usize] == Some(fold));
            let mut seen = vec![false; classes];
            let labels = rest.iter().map(|&at| features.labels()[at as usize]);
            labels.for_each(|label| seen[label as usize] = true);
            if let Some(class) = seen.iter().position(|seen| !seen) {
                return Err(HeadError::WholeClassHeldOut { class, fold });
            }
            let fitted = self.fit_on(features, &rest)?;
            let prior: Vec<f32> = fitted.prior()?.iter().map(|p| p.ln() as f32).collect();
            for held in held.chunks(CHUNK) {
                let mut rows = Vec::with_capacity(held.len() * width);
                held.iter()
                    .for_each(|&at| rows.extend(features.row(at as usize)));
                let mut made = fitted.log_probabilities(&rows)?;
                for row in made.chunks_exact_mut(classes) {
                    row.iter_mut().zip(&prior).for_each(|(v, p)| *v -= p);
                }
                log_softmax(&mut made, classes);
                for (&at, row) in held.iter().zip(made.chunks_exact(classes)) {
                    log[at as usize * classes..][..classes].copy_from_slice(row);
                }
            }
        }
        progress(different.len(), different.len());
        Ok(log)
    }

    /// Fits it on some pictures, among which every class has to be.
    pub(crate) fn fit_on(&self, features: &Features, pictures: &[u32]) -> Result<FittedHead> {
        self.check()?;
        let head = heads::head(&self.head)?;
        heads::refuse_too_many(head, pictures.len())?;
        let depths = features.named(&self.depths)?;
        let training = Training::of(features, pictures, &depths, head.rows);
        Ok(FittedHead {
            scorer: (head.fit)(&training, self.strength)?,
            log_prior: training.log_prior(),
            standardisation: training.standardisation,
            about: About {
                candidate: self.clone(),
                depths,
                width: features.width(),
                classes: features.classes(),
                pictures: pictures.len(),
                class_weights: vec![],
            },
        })
    }

    fn check(&self) -> Result<()> {
        let wrong = |field, value: f64, right| {
            Err(HeadError::Setting(format!(
                "{field}: {value} has to be {right}"
            )))
        };
        if !(self.strength.is_finite() && self.strength >= 0.0) {
            return wrong("strength", self.strength, "0 or more");
        }
        if !self.tau.is_finite() {
            return wrong("tau", self.tau.into(), "finite");
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong("temperature", self.temperature.into(), "above 0");
        }
        Ok(())
    }
}

/// What is known of a fitted head besides its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    candidate: Candidate,
    /// The columns that it sees.
    depths: Vec<Depth>,
    /// The columns of a whole row.
    width: usize,
    classes: usize,
    /// How many it was fitted on.
    pictures: usize,
    /// Factors on the classes' probabilities, `[classes]`; none where all are 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    class_weights: Vec<f64>,
}

/// A classifier of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct FittedHead {
    about: About,
    standardisation: Standardisation,
    /// `[classes]`.
    log_prior: Vec<f32>,
    scorer: Scorer,
}

/// A fitted head taken apart, for a file: what goes into JSON, and named tensors of f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// All but the numbers.
    pub description: Description,
    /// The numbers.
    pub tensors: Vec<Tensor>,
}

/// What a fitted head is, without its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    about: About,
    scorer: Scorer,
}

impl Description {
    /// The name and shape of every tensor that belongs to it.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut empty = self.empty();
        let slots = empty.slots();
        slots.into_iter().map(|s| (s.name, s.shape)).collect()
    }

    /// The head without its numbers.
    fn empty(&self) -> FittedHead {
        FittedHead {
            about: self.about.clone(),
            scorer: self.scorer.clone(),
            standardisation: Standardisation::default(),
            log_prior: vec![],
        }
    }
}

/// A named tensor, rows one after another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Its name, such as `head.scorer.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl From<FittedHead> for Stored {
    fn from(mut head: FittedHead) -> Self {
        let take = |slot: Slot| Tensor {
            values: std::mem::take(slot.values),
            name: slot.name,
            shape: slot.shape,
        };
        let tensors = head.slots().into_iter().map(take).collect();
        Self {
            description: Description {
                about: head.about,
                scorer: head.scorer,
            },
            tensors,
        }
    }
}

impl TryFrom<Stored> for FittedHead {
    type Error = HeadError;

    /// Puts a head together again.
    ///
    /// # Errors
    ///
    /// A tensor that is missing, is there twice, does not belong to it, has another shape or a number that is not finite; a description that
    /// contradicts itself.
    fn try_from(stored: Stored) -> Result<Self> {
        let wrong = |name: &str, problem: String| HeadError::Tensor {
            name: name.into(),
            problem,
        };
        let mut head = stored.description.empty();
        head.check()?;
        let mut tensors = std::collections::BTreeMap::new();
        for tensor in stored.tensors {
            if let Some(twice) = tensors.insert(tensor.name.clone(), tensor) {
                return Err(wrong(&twice.name, "is there twice".into()));
            }
        }
        for slot in head.slots() {
            let tensor = tensors.remove(&slot.name);
            let tensor = tensor.ok_or_else(|| wrong(&slot.name, "is missing".into()))?;
            let count = slot.shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
            if tensor.shape != slot.shape || Some(tensor.values.len()) != count {
                let problem = format!(
                    "has the shape {:?} and {} numbers; this head needs {:?}",
                    tensor.shape,
                    tensor.values.len(),
                    slot.shape
                );
                return Err(wrong(&slot.name, problem));
            }
            if !tensor.values.iter().all(|v| v.is_finite()) {
                return Err(wrong(&slot.name, "has a number that is not finite".into()));
            }
            *slot.values = tensor.values;
        }
        match tensors.into_keys().next() {
            None => Ok(head),
            Some(name) => Err(wrong(&name, "does not belong to this head".into())),
        }
    }
}

impl FittedHead {
    /// Log-probabilities `[pictures, classes]` of rows `[pictures, width]` with the columns of the features that the head was
    /// fitted on. A thousand pictures at a time are worked on.
    ///
    /// # Errors
    ///
    /// Rows of another width; a feature that is not finite.
    pub fn log_probabilities(&self, values: &[f32]) -> Result<Vec<f32>> {
        let About { width, classes, .. } = self.about;
        if !values.len().is_multiple_of(width) {
            return Err(HeadError::Shape(format!(
                "{} numbers are no rows of {width}, which this head was fitted on",
                values.len()
            )));
        }
        check_finite(values, width)?;
        let mut log = Vec::with_capacity(values.len() / width * classes);
        for values in values.chunks(CHUNK * width) {
            let rows: Vec<&[f32]> = values.chunks_exact(width).collect();
            log.extend(self.scores(&rows));
        }
        let adjust = self.log_prior.iter().map(|p| self.candidate().tau * p);
        let adjust: Vec<f32> = adjust.collect();
        for row in log.chunks_exact_mut(classes) {
            for (v, adjust) in row.iter_mut().zip(&adjust) {
                *v = (*v - adjust) / self.candidate().temperature;
            }
            for (v, weight) in row.iter_mut().zip(&self.about.class_weights) {
                *v += weight.ln() as f32;
            }
        }
        log_softmax(&mut log, classes);
        Ok(log)
    }

    /// Scores of whole rows, before τ and temperature.
    pub(crate) fn scores(&self, rows: &[&[f32]]) -> Vec<f32> {
        let width = width(&self.about.depths);
        let mut prepared = vec![0.0; rows.len() * width];
        for (into, row) in prepared.chunks_exact_mut(width).zip(rows) {
            self.standardisation.apply(row, &self.about.depths, into);
        }
        self.scorer.scores(&prepared, width, self.about.classes)
    }

    /// The same head, which answers as if pictures of the classes were so many times as frequent: `weights` is `[classes]`.
    ///
    /// # Errors
    ///
    /// Not one weight a class, or one that is not above 0.
    pub fn with_class_weights(mut self, weights: &[f64]) -> Result<Self> {
        self.about.class_weights = weights.to_vec();
        self.check()?;
        Ok(self)
    }

    /// What decided it; fits it again when pictures are added.
    pub fn candidate(&self) -> &Candidate {
        &self.about.candidate
    }

    /// The depths that it sees, with their columns in a row.
    pub fn depths(&self) -> &[Depth] {
        &self.about.depths
    }

    /// The columns of a row of features.
    pub fn width(&self) -> usize {
        self.about.width
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.about.classes
    }

    /// How many pictures it was fitted on.
    pub fn pictures(&self) -> usize {
        self.about.pictures
    }

    /// The logarithm of each class's share of the training pictures, `[classes]`.
    pub fn log_prior(&self) -> &[f32] {
        &self.log_prior
    }

    /// The class frequencies that its probabilities stand for, `[classes]`: equal ones, or, of a head that was not
    /// balanced, those of the training pictures as far as τ has not taken them off.
    ///
    /// # Errors
    /// If this program knows no head of its name.
    pub fn prior(&self) -> Result<Vec<f64>> {
        let held = heads::head(&self.candidate().head)?.holds_prior;
        let power = f64::from(u8::from(held)) - f64::from(self.candidate().tau);
        let shares = self
            .log_prior
            .iter()
            .map(|log| (power * f64::from(*log)).exp());
        let mut shares: Vec<f64> = shares.collect();
        let weights = shares.iter_mut().zip(&self.about.class_weights);
        weights.for_each(|(share, weight)| *share *= weight);
        let sum: f64 = shares.iter().sum();
        Ok(shares.into_iter().map(|share| share / sum).collect())
    }

    /// Takes it apart, for a file.
    pub fn take_apart(self) -> Stored {
        self.into()
    }

    /// All tensors of the head.
    fn slots(&mut self) -> Vec<Slot<'_>> {
        let (width, classes) = (width(&self.about.depths), self.about.classes);
        let slot = |name: &str, length, values| Slot {
            name: format!("head.{name}"),
            shape: vec![length],
            values,
        };
        let mut slots = vec![
            slot("mean", width, &mut self.standardisation.mean),
            slot(
                "inverse_deviation",
                width,
                &mut self.standardisation.inverse,
            ),
            slot("log_prior", classes, &mut self.log_prior),
        ];
        slots.extend(self.scorer.slots("head.scorer", width, classes));
        slots
    }

    /// Refuses a description that contradicts itself.
    fn check(&self) -> Result<()> {
        let about = &self.about;
        about.candidate.check()?;
        heads::head(&about.candidate.head)?;
        if about.classes < 2 {
            return Err(HeadError::TooFewClasses(about.classes));
        }
        let weights = &about.class_weights;
        let positive = weights.iter().all(|w| w.is_finite() && *w > 0.0);
        if !positive || !(weights.is_empty() || weights.len() == about.classes) {
            return Err(HeadError::Setting(format!(
                "class weights: they have to be {} numbers above 0",
                about.classes
            )));
        }
        let mut end = 0;
        for Depth { name, columns } in &about.depths {
            if columns.start < end || columns.is_empty() || columns.end > about.width {
                return Err(HeadError::Shape(format!(
                    "depth {name:?} has the columns {columns:?} of a row of {}",
                    about.width
                )));
            }
            end = columns.end;
        }
        if end == 0 {
            return Err(HeadError::Shape("there is no depth".into()));
        }
        Ok(())
    }
}

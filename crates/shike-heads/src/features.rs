//! Features of pictures with their labels, as a head is fitted on them.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{HeadError, Result};

/// Columns that come from one depth of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depth {
    /// What it is called, such as `layer3` or `deep`.
    pub name: String,
    /// Its columns within a row.
    pub columns: Range<usize>,
}

impl Depth {
    /// Depths side by side from (name, width), the shallowest first.
    pub fn side_by_side<N: Into<String>>(
        depths: impl IntoIterator<Item = (N, usize)>,
    ) -> Vec<Self> {
        let mut start = 0;
        let one = |(name, width): (N, usize)| {
            let columns = start..start + width;
            start += width;
            Self {
                name: name.into(),
                columns,
            }
        };
        depths.into_iter().map(one).collect()
    }
}

/// Features of training pictures, `[pictures, width]` with the rows one after another, and their classes.
///
/// A value of this type was checked: sizes fit, every feature is finite, every class has a picture.
#[derive(Clone, Copy, Debug)]
pub struct Features<'a> {
    values: &'a [f32],
    width: usize,
    labels: &'a [u32],
    classes: usize,
    depths: &'a [Depth],
}

impl<'a> Features<'a> {
    /// `values` are `[labels.len(), width]`, where `width` is the end of the last of `depths`; a label is below
    /// `classes`.
    ///
    /// # Errors
    ///
    /// Depths that leave columns out or share a name, sizes that do not fit, fewer than two classes, a label that is no class, a class
    /// without pictures, a feature that is not finite.
    pub fn new(
        values: &'a [f32],
        labels: &'a [u32],
        classes: usize,
        depths: &'a [Depth],
    ) -> Result<Self> {
        let width = width_of(depths)?;
        if values.len() != labels.len() * width {
            return Err(HeadError::Shape(format!(
                "{} labels and rows of {width} make {} numbers, and there are {}",
                labels.len(),
                labels.len() * width,
                values.len()
            )));
        }
        if classes < 2 {
            return Err(HeadError::TooFewClasses(classes));
        }
        let mut counts = vec![0; classes];
        for (row, &label) in labels.iter().enumerate() {
            let count = counts.get_mut(label as usize).ok_or(HeadError::Label {
                row,
                label,
                classes,
            })?;
            *count += 1;
        }
        if let Some(empty) = counts.iter().position(|&n| n == 0) {
            return Err(HeadError::EmptyClass(empty));
        }
        check_finite(values, width)?;
        Ok(Self {
            values,
            width,
            labels,
            classes,
            depths,
        })
    }

    /// The number of pictures.
    pub fn pictures(&self) -> usize {
        self.labels.len()
    }

    /// The number of columns of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The class of each picture.
    pub fn labels(&self) -> &'a [u32] {
        self.labels
    }

    /// The features of all pictures, `[pictures, width]`.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The features of a picture.
    pub fn row(&self, picture: usize) -> &'a [f32] {
        &self.values[picture * self.width..][..self.width]
    }

    /// The depths, the shallowest first.
    pub fn depths(&self) -> &'a [Depth] {
        self.depths
    }

    /// The depths of these names, in the order of the columns.
    ///
    /// # Errors
    ///
    /// A name that is no depth, or no name at all.
    pub fn named(&self, names: &[String]) -> Result<Vec<Depth>> {
        let known = || {
            let names: Vec<&str> = self.depths.iter().map(|d| d.name.as_str()).collect();
            names.join(", ")
        };
        let is_depth = |name: &&String| self.depths.iter().any(|d| d.name == **name);
        if let Some(name) = names.iter().find(|name| !is_depth(name)) {
            return Err(HeadError::UnknownDepth {
                name: name.clone(),
                known: known(),
            });
        }
        if names.is_empty() {
            return Err(HeadError::Setting(format!(
                "depths: none is named; these features have {}",
                known()
            )));
        }
        let depths = self.depths.iter().filter(|d| names.contains(&d.name));
        Ok(depths.cloned().collect())
    }
}

/// The width of a row of `depths`.
fn width_of(depths: &[Depth]) -> Result<usize> {
    let mut end = 0;
    for (at, depth) in depths.iter().enumerate() {
        if depth.columns.start != end || depth.columns.is_empty() {
            return Err(HeadError::Shape(format!(
                "depth {:?} has the columns {:?}, and would have to begin at {end} with at least one",
                depth.name, depth.columns
            )));
        }
        if depths[..at].iter().any(|other| other.name == depth.name) {
            return Err(HeadError::Shape(format!(
                "two depths are called {:?}",
                depth.name
            )));
        }
        end = depth.columns.end;
    }
    if end == 0 {
        return Err(HeadError::Shape("there is no depth".into()));
    }
    Ok(end)
}

/// Refuses features that are not finite, naming the first.
pub(crate) fn check_finite(values: &[f32], width: usize) -> Result<()> {
    match values.par_iter().position_first(|v| !v.is_finite()) {
        None => Ok(()),
        Some(at) => Err(HeadError::NotFinite {
            row: at / width,
            column: at % width,
            value: values[at],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Depth> {
        Depth::side_by_side([("shallow", 1), ("deep", 2)])
    }

    fn error(values: &[f32], labels: &[u32], classes: usize) -> String {
        match Features::new(values, labels, classes, &two()) {
            Ok(_) => "none".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = [0.0; 6];
        assert_eq!(error(&good, &[0, 1], 2), "none");
        assert!(error(&good, &[0], 2).contains("make 3 numbers, and there are 6"));
        assert!(error(&good, &[0, 2], 2).contains("row 1 has class 2"));
        assert!(error(&good, &[0, 1], 3).contains("class 2 has no picture"));
        assert!(error(&good, &[0, 0], 1).contains("at least two"));
        assert!(error(&good, &[], 0).contains("make 0 numbers"));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let text = error(&[0.0, 0.0, 0.0, 0.0, bad, bad], &[0, 1], 2);
            assert!(text.contains("row 1, column 1"), "{text}");
        }
    }

    #[test]
    fn depths_have_to_lie_side_by_side() {
        let mut depths = two();
        depths[1].columns = 2..4;
        assert!(Features::new(&[], &[], 2, &depths).is_err());
        let same = Depth::side_by_side([("a", 1), ("a", 1)]);
        assert!(Features::new(&[], &[], 2, &same).is_err());
        assert!(Features::new(&[], &[], 2, &[]).is_err());
    }

    #[test]
    fn depths_are_found_by_name() {
        let (depths, values) = (two(), [0.0; 6]);
        let features =
            Features::new(&values, &[0, 1], 2, &depths).unwrap_or_else(|e| panic!("{e}"));
        let found = features.named(&["deep".into(), "shallow".into()]);
        assert_eq!(found, Ok(two()));
        let unknown = features.named(&["deeper".into()]);
        let text = unknown.map_err(|e| e.to_string());
        assert_eq!(
            text,
            Err(r#"depths: there is no "deeper"; these features have shallow, deep"#.into())
        );
        assert!(features.named(&[]).is_err());
    }
}

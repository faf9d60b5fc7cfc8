//! Many-, medium- and few-shot classes, and how well a test set of some size tells an accuracy.

use std::fmt;
use std::ops::Index;

use serde::{Deserialize, Serialize};

/// The group that a class belongs to by its number of *training* images, see [`ShotThresholds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shot {
    /// Many training images (OLTR: more than 100).
    Many,
    /// In between (OLTR: 20 to 100).
    Medium,
    /// Few training images, or none (OLTR: fewer than 20).
    Few,
}

impl Shot {
    /// All groups, from many to few.
    pub const ALL: [Self; 3] = [Self::Many, Self::Medium, Self::Few];

    /// `many`, `medium` or `few`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Many => "many",
            Self::Medium => "medium",
            Self::Few => "few",
        }
    }
}

impl fmt::Display for Shot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where the many-, medium- and few-shot groups part, by a class's number of *training* images.
///
/// The default is the convention of OLTR (Liu et al., CVPR 2019), which SHIKE and most long-tail
/// papers report: many > 100, medium 20–100, few < 20. NCL counts 100 as many and 20 as few; that
/// is `ShotThresholds { many_above: 99, few_below: 21 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShotThresholds {
    /// A class is many-shot with *more* training images than this.
    pub many_above: usize,
    /// A class is few-shot with *fewer* training images than this.
    pub few_below: usize,
}

impl Default for ShotThresholds {
    fn default() -> Self {
        Self {
            many_above: 100,
            few_below: 20,
        }
    }
}

impl ShotThresholds {
    /// The group of a class with `train_count` training images.
    pub fn group(&self, train_count: usize) -> Shot {
        if train_count > self.many_above {
            Shot::Many
        } else if train_count < self.few_below {
            Shot::Few
        } else {
            Shot::Medium
        }
    }

    /// Checks that no class can be both many-shot and few-shot.
    ///
    /// # Errors
    /// [`Overlap`] if `few_below` is more than one above `many_above`.
    pub fn validate(&self) -> Result<(), Overlap> {
        match self.few_below > self.many_above.saturating_add(1) {
            true => Err(Overlap(*self)),
            false => Ok(()),
        }
    }
}

/// Groups overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "shot thresholds overlap: few_below = {} must be at most many_above + 1 = {}",
    .0.few_below, .0.many_above.saturating_add(1)
)]
pub struct Overlap(pub ShotThresholds);

/// Something of each group of classes. In files these are three fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByShot<T> {
    /// Of the many-shot classes.
    pub many: T,
    /// Of the medium-shot classes.
    pub medium: T,
    /// Of the few-shot classes.
    pub few: T,
}

impl<T> ByShot<T> {
    /// What `f` says of each group.
    pub fn of(f: impl FnMut(Shot) -> T) -> Self {
        let [many, medium, few] = Shot::ALL.map(f);
        Self { many, medium, few }
    }

    /// `f` of each.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> ByShot<U> {
        let [many, medium, few] = [self.many, self.medium, self.few].map(f);
        ByShot { many, medium, few }
    }

    /// Each with its group, from many to few.
    pub fn iter(&self) -> impl Iterator<Item = (Shot, &T)> {
        Shot::ALL.into_iter().map(|shot| (shot, &self[shot]))
    }
}

impl<T> Index<Shot> for ByShot<T> {
    type Output = T;

    fn index(&self, shot: Shot) -> &T {
        match shot {
            Shot::Many => &self.many,
            Shot::Medium => &self.medium,
            Shot::Few => &self.few,
        }
    }
}

/// The 97.5 % point of the normal distribution: two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// A range that holds the true accuracy with 95 % confidence, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Upper less lower end, in points.
    pub fn width(&self) -> f64 {
        self.high - self.low
    }

    /// Wilson's score interval (Wilson 1927, *Probable inference, the law of succession, and
    /// statistical inference*) of `correct` out of `images`; `None` without images. It is right for
    /// few images and for shares near 0 and 1, where the normal approximation gives a width of 0.
    pub fn wilson(correct: usize, images: usize) -> Option<Self> {
        if images == 0 {
            return None;
        }
        let n = images as f64;
        let share = correct as f64 / n;
        let scale = 1.0 / (1.0 + Z * Z / n);
        let centre = (share + Z * Z / (2.0 * n)) * scale;
        let half = Z * scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        Some(Self::around(centre, half))
    }

    /// Half the width of [`Interval::wilson`] where it is widest, at an accuracy of one half, in
    /// points: how well `images` test images tell an accuracy; `None` without an image.
    ///
    /// ```
    /// use shike_data::Interval;
    ///
    /// assert_eq!(Interval::half_width(5).map(f64::round), Some(33.0));
    /// assert_eq!(Interval::half_width(100).map(f64::round), Some(10.0));
    /// ```
    pub fn half_width(images: usize) -> Option<f64> {
        (images > 0).then(|| 100.0 * Z / (2.0 * (images as f64 + Z * Z).sqrt()))
    }

    /// Of the area under a ROC curve, 0 to 1, of so many positive and negative images; `None` where one of them is 0.
    /// The variance is Hanley and McNeil's (*Radiology* 1982) at the ends of the interval, as Wilson's is of a share, so that an
    /// area of 1 has a width (Newcombe, *Statistics in Medicine* 2006, method 5).
    pub fn of_area(area: f64, [positive, negative]: [usize; 2]) -> Option<Self> {
        if positive == 0 || negative == 0 {
            return None;
        }
        let (m, n) = (positive as f64, negative as f64);
        let mean = (m + n) / 2.0 - 1.0;
        let within = |end: f64| {
            let spread = 1.0 + mean * ((1.0 - end) / (2.0 - end) + end / (1.0 + end));
            (end - area).abs() <= Z * (end * (1.0 - end) * spread / (m * n)).sqrt()
        };
        // The end lies between the area, which is within, and 0 or 1.
        let end = |outside: f64| {
            let (mut inside, mut outside) = (area, outside);
            for _ in 0..60 {
                let middle = (inside + outside) / 2.0;
                match within(middle) {
                    true => inside = middle,
                    false => outside = middle,
                }
            }
            100.0 * inside
        };
        Some(Self {
            low: end(0.0),
            high: end(1.0),
        })
    }

    fn around(centre: f64, half: f64) -> Self {
        Self {
            low: (100.0 * (centre - half)).max(0.0),
            high: (100.0 * (centre + half)).min(100.0),
        }
    }

    /// Of the unweighted mean of class accuracies, which papers report, from (correct, images) of each
    /// class; those without images do not count. Classes are independent, so that their variances add
    /// up. Each is taken at (correct + 2) / (images + 4) (Agresti and Coull 1998), because even a class
    /// with all images right is uncertain.
    pub fn class_averaged(classes: impl Iterator<Item = (usize, usize)>) -> Option<Self> {
        let (mut number, mut mean, mut variance) = (0.0, 0.0, 0.0);
        for (correct, images) in classes.filter(|(_, images)| *images > 0) {
            let (correct, images) = (correct as f64, images as f64);
            let share = (correct + 2.0) / (images + 4.0);
            number += 1.0;
            mean += correct / images;
            variance += share * (1.0 - share) / (images + 4.0);
        }
        (number > 0.0).then(|| Self::around(mean / number, Z * variance.sqrt() / number))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1}–{:.1}", self.low, self.high))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_part_where_oltr_parts_them() {
        use Shot::{Few, Many, Medium};
        let oltr = ShotThresholds::default();
        let shots = [101, 100, 20, 19, 0].map(|n| oltr.group(n));
        assert_eq!(shots, [Many, Medium, Medium, Few, Few]);
    }

    #[test]
    fn three_fields_in_a_file() {
        let by_shot = ByShot::of(|shot| shot as usize).map(|n| n + 1);
        let json = serde_json::to_string(&by_shot).unwrap();
        assert_eq!(json, r#"{"many":1,"medium":2,"few":3}"#);
        assert_eq!(
            serde_json::from_str::<ByShot<usize>>(&json).unwrap(),
            by_shot
        );
        let all: Vec<_> = by_shot.iter().map(|(shot, n)| (shot.name(), *n)).collect();
        assert_eq!(all, [("many", 1), ("medium", 2), ("few", 3)]);
    }

    #[test]
    fn wilson_agrees_with_published_values() {
        // Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
        for (correct, images, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let found = Interval::wilson(correct, images).unwrap();
            assert!((found.low / 100.0 - low).abs() < 1e-4, "{found:?}");
            assert!((found.high / 100.0 - high).abs() < 1e-4, "{found:?}");
        }
        assert_eq!(Interval::wilson(0, 0), None);
        let half = Interval::half_width(10).unwrap();
        assert!((half - Interval::wilson(5, 10).unwrap().width() / 2.0).abs() < 1e-12);
        assert_eq!(Interval::half_width(0), None);
    }

    #[test]
    fn more_images_and_more_classes_tell_more() {
        let width = |classes: &[(usize, usize)]| {
            let interval = Interval::class_averaged(classes.iter().copied());
            interval.unwrap().width()
        };
        let one = width(&[(6, 10)]);
        assert!(width(&[(60, 100)]) < one / 2.5);
        assert!((width(&[(6, 10); 4]) - one / 2.0).abs() < 1e-9);
        assert!((width(&[(6, 10), (0, 0)]) - one).abs() < 1e-9);
        // A class that is always right is not certain.
        assert!(width(&[(10, 10)]) > 10.0);
    }

    #[test]
    fn an_area_has_ends_where_it_lies_as_far_off_as_its_spread() {
        // By hand: with all of 10 and 10 in order, 1 − A = 1.96 √(A (1 − A) (1 + 9 ((1 − A) / (2 − A) + A / (1 + A))) / 100).
        let all = Interval::of_area(1.0, [10, 10]).unwrap();
        assert!(
            (all.low - 80.021361288).abs() < 1e-6 && all.high == 100.0,
            "{all:?}"
        );
        let some = Interval::of_area(0.8, [40, 167]).unwrap();
        assert!((some.low - 71.134265482).abs() < 1e-6, "{some:?}");
        assert!((some.high - 86.40714152).abs() < 1e-6, "{some:?}");
        let other = Interval::of_area(0.2, [40, 167]).unwrap();
        assert!((other.high + some.low - 100.0).abs() < 1e-6, "{other:?}");
        assert_eq!(Interval::of_area(1.0, [0, 3]), None);
    }
}

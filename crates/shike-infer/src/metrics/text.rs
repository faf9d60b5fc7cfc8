//! An [`Evaluation`] for people: a summary line, a table, and a CSV file with a row per class.

use std::fmt;
use std::io;

use super::{Accuracy, ByShot, Evaluation, Interval, Shot, TOO_WIDE};

impl Evaluation {
    /// The ensemble on one line, such as
    /// `top-1 56.34 %, top-5 83.63 %, many 72.10 / medium 57.20 / few 36.90, loss 1.6543`.
    /// A group without test images is `-`.
    pub fn summary(&self) -> String {
        let Accuracy {
            top1, top5, groups, ..
        } = self.ensemble;
        let ByShot { many, medium, few } = groups.map(cell);
        format!(
            "top-1 {top1:.2} %, top-5 {top5:.2} %, many {many} / medium {medium} / few {few}, loss {:.4}",
            self.loss
        )
    }

    /// Writes one CSV row per class with the columns `class`, `name`, `train_count`,
    /// `test_count`, `shot`, `correct`, `accuracy` (percent, empty without test images), `low` and
    /// `high` (its 95 % interval), `too_few` (`yes` where there are too few test images to tell).
    /// `class_names` go by class index; where one is missing the name stays empty.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_per_class_csv(
        &self,
        writer: impl io::Write,
        class_names: &[String],
    ) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(writer);
        csv.write_record([
            "class",
            "name",
            "train_count",
            "test_count",
            "shot",
            "correct",
            "accuracy",
            "low",
            "high",
            "too_few",
        ])?;
        let number = |value: Option<f64>| value.map(|v| format!("{v:.4}")).unwrap_or_default();
        for row in &self.per_class {
            let interval = row.interval();
            csv.write_record([
                row.class.to_string().as_str(),
                class_names.get(row.class).map_or("", String::as_str),
                row.train_count.to_string().as_str(),
                row.test_count.to_string().as_str(),
                row.shot.name(),
                row.correct.to_string().as_str(),
                number(row.accuracy).as_str(),
                number(interval.map(|i| i.low)).as_str(),
                number(interval.map(|i| i.high)).as_str(),
                if row.too_few() { "yes" } else { "" },
            ])?;
        }
        csv.flush()
    }

    /// Writes one CSV row per image, in the order of the test set: `image` (its place there, from 0),
    /// `file` (as `name` gives it), `label`, `predicted` (empty if a logit was NaN), `confidence` (0 to
    /// 1).
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write_predictions_csv(
        &self,
        writer: impl io::Write,
        name: impl Fn(usize) -> String,
    ) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(writer);
        csv.write_record(["image", "file", "label", "predicted", "confidence"])?;
        for (image, score) in self.scores.iter().enumerate() {
            csv.write_record([
                image.to_string(),
                name(image),
                score.label.to_string(),
                score.predicted.map(|p| p.to_string()).unwrap_or_default(),
                score.confidence.to_string(),
            ])?;
        }
        csv.flush()
    }

    /// Classes of a group, and how many of them have test images.
    fn group_size(&self, shot: Shot) -> (usize, usize) {
        let group = self.per_class.iter().filter(|row| row.shot == shot);
        let with_images = group.clone().filter(|row| row.test_count > 0).count();
        (group.count(), with_images)
    }
}

/// The table: a row per expert, the ensemble, and the size of each group. Groups are averaged
/// over classes; where the test set is unbalanced a further row averages them over images.
impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<18}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}",
            "accuracy [%]", "top-1", "top-5", "many", "medium", "few", "class avg"
        )?;
        for (expert, accuracy) in self.experts.iter().enumerate() {
            write_row(f, &format!("expert {expert}"), accuracy)?;
        }
        let ensemble = &self.ensemble;
        write_row(f, "ensemble", ensemble)?;
        // Written with two digits: rows that would look the same are not repeated.
        let pooled = ensemble.pooled.map(cell);
        let unbalanced = pooled != ensemble.groups.map(cell);
        if unbalanced {
            let ByShot { many, medium, few } = pooled;
            let label = "  over images";
            writeln!(f, "{label:<36}{many:>9}{medium:>9}{few:>9}")?;
        }
        let range = |interval: Option<Interval>| {
            // Whole points, so that columns stay apart.
            interval.map_or_else(|| "-".to_owned(), |i| format!("{:.0}–{:.0}", i.low, i.high))
        };
        let ByShot { many, medium, few } =
            ByShot::of(|shot| range(self.averaged_interval(Some(shot))));
        let (top1, all) = (
            range(self.top1_interval()),
            range(self.averaged_interval(None)),
        );
        let label = "  95 % interval";
        writeln!(
            f,
            "{label:<16}{top1:>11}{:>9}{many:>9}{medium:>9}{few:>9}{all:>11}",
            ""
        )?;
        if !self.scores.is_empty() {
            let error = |shot| cell(self.calibration(shot).map(|calibration| calibration.error));
            let ByShot { many, medium, few } = ByShot::of(|shot| error(Some(shot)));
            let label = "calibration error";
            let all = error(None);
            writeln!(
                f,
                "{label:<18}{all:>9}{:>9}{many:>9}{medium:>9}{few:>9}",
                ""
            )?;
        }
        let too_few = self.per_class.iter().filter(|row| row.too_few()).count();
        let ByShot { many, medium, few } = ByShot::of(|shot| {
            let (classes, with_images) = self.group_size(shot);
            if classes == with_images {
                classes.to_string()
            } else {
                format!("{with_images}/{classes}")
            }
        });
        let label = match self.per_class.iter().any(|row| row.test_count == 0) {
            true => "classes tested/in all",
            false => "classes",
        };
        writeln!(f, "{label:<36}{many:>9}{medium:>9}{few:>9}")?;
        if too_few > 0 {
            writeln!(
                f,
                "{too_few} of {} classes have too few images here to tell (95 % interval wider than \
                 {TOO_WIDE} points)",
                self.per_class.len()
            )?;
        }
        if unbalanced {
            writeln!(
                f,
                "groups are means over their classes; in the row over images, a class counts as often \
                 as it has images here"
            )?;
        }
        write!(
            f,
            "{} images, loss {:.4}; many: more than {} training images, few: fewer than {}",
            self.images, self.loss, self.thresholds.many_above, self.thresholds.few_below
        )
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, label: &str, accuracy: &Accuracy) -> fmt::Result {
    let ByShot { many, medium, few } = accuracy.groups.map(cell);
    writeln!(
        f,
        "{label:<18}{:>9.2}{:>9.2}{many:>9}{medium:>9}{few:>9}{:>11.2}",
        accuracy.top1, accuracy.top5, accuracy.class_averaged
    )
}

fn cell(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(|| "-".to_owned(), |a| format!("{a:.2}"))
}

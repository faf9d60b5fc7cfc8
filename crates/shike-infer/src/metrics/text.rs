//! An [`Evaluation`] for people: a summary line, a table, and a CSV file with a row per class.

use std::fmt;
use std::io;

use super::interval::TOO_WIDE;
use super::{ClassRow, Evaluation, Metric, Scores, Shot};

/// A table for people, by rows, the first of which is the head: names in its first column, numbers in the
/// others. [`Display`](std::fmt::Display) aligns them with spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(pub Vec<Vec<String>>);

impl Table {
    /// Adds a row.
    pub fn row(&mut self, name: impl Into<String>, cells: impl Iterator<Item = String>) {
        let name = std::iter::once(name.into());
        self.0.push(name.chain(cells).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length =
            |row: &Vec<String>, column: usize| row.get(column).map_or(0, |c| c.chars().count());
        let width = |column| {
            self.0
                .iter()
                .map(|row| length(row, column))
                .max()
                .unwrap_or(0)
        };
        for row in &self.0 {
            let cell = |(column, cell): (usize, &String)| match column {
                0 => format!("{cell:<0$}", width(0)),
                _ => format!("{cell:>0$}", width(column) + 3),
            };
            let line: String = row.iter().enumerate().map(cell).collect();
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// An accuracy with two digits; `-` if there is none.
pub fn cell(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(|| "-".to_owned(), |a| format!("{a:.2}"))
}

/// Points with their sign.
fn gap(points: Option<f64>) -> String {
    points.map_or_else(|| "-".to_owned(), |points| format!("{points:+.2}"))
}

impl Evaluation {
    /// The ensemble on one line, such as `top-1 56.34 %, top-5 83.63 %, class avg 56.34 %, many 72.10 %,
    /// medium 57.20 %, few 36.90 %, loss 1.6543`. A group without test images is not there.
    pub fn summary(&self) -> String {
        let accuracy =
            |metric: Metric| Some(format!("{} {:.2} %, ", metric.title, self.get(metric)?));
        let accuracies: String = Metric::accuracies().filter_map(accuracy).collect();
        let loss = self.get(Metric::LOSS).unwrap_or(f64::NAN);
        format!("{accuracies}loss {loss:.4}")
    }

    /// What answers: a single expert is the model.
    pub fn answerer(&self) -> &'static str {
        match self.experts.len() {
            0 | 1 => "model",
            _ => "ensemble",
        }
    }

    /// A row per expert where there are several, the ensemble, what its numbers are worth, and the size of each group. Groups are
    /// averaged over classes; where the test set is unbalanced a further row averages them over images.
    pub fn table(&self) -> Table {
        let mut table = Table::default();
        let mut row = |name: &str, value: &dyn Fn(Metric) -> String| {
            table.row(name, Metric::accuracies().map(value));
        };
        row("accuracy [%]", &|metric| metric.title.into());
        let of = |scores: &Scores, metric| cell(scores.get(metric));
        // A single one is the ensemble.
        let experts = self.experts.iter().enumerate();
        for (i, expert) in experts.filter(|_| self.experts.len() > 1) {
            row(&format!("expert {i}"), &|metric| of(expert, metric));
        }
        row(self.answerer(), &|metric| of(&self.ensemble, metric));
        if self.is_unbalanced() {
            row("  over images", &|metric| {
                let pooled = metric.shot.map(Metric::pooled);
                pooled.map_or_else(String::new, |pooled| of(&self.ensemble, pooled))
            });
        }
        row("  95 % interval", &|metric| {
            // Whole points: more digits would say nothing.
            let interval = self.interval(metric);
            interval.map_or_else(|| "-".into(), |i| format!("{:.0}–{:.0}", i.low, i.high))
        });
        if !self.scores.is_empty() {
            // Of a group the gap alone says something.
            row("  calibration error", &|metric| match metric.shot {
                None if metric != Metric::TOP1 => String::new(),
                None => cell(self.calibration().map(|calibration| calibration.error)),
                Some(shot) => gap(self.confidence_gap(shot)),
            });
        }
        row("classes with images", &|metric| {
            metric.shot.map_or_else(String::new, |shot| self.size(shot))
        });
        table
    }

    /// What other fields report, in a line: `macro precision 61.11 %, macro F1 57.94 %, …`.
    pub fn others(&self) -> String {
        let value = |metric: Metric| {
            let value = self.get(metric)?;
            Some(match metric.unit() {
                "" => format!("{} {value:.4}", metric.title),
                unit => format!("{} {value:.2} {unit}", metric.title),
            })
        };
        let values: Vec<String> = Metric::others().filter_map(value).collect();
        values.join(", ")
    }

    /// Rows of groups would not look the same when averaged over classes and over images.
    fn is_unbalanced(&self) -> bool {
        let differ = |shot| {
            let of = |metric| cell(self.ensemble.get(metric));
            of(Metric::group(shot)) != of(Metric::pooled(shot))
        };
        Shot::ALL.into_iter().any(differ)
    }

    /// Classes of a group, and before them those with test images where these are fewer.
    fn size(&self, shot: Shot) -> String {
        let group = self.per_class.iter().filter(|row| row.shot == shot);
        let tested = group.clone().filter(|row| row.test_count > 0).count();
        match group.count() {
            all if all == tested => all.to_string(),
            all => format!("{tested}/{all}"),
        }
    }

    /// What there is to say below the [table](Self::table).
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![];
        let too_few = self.per_class.iter().filter(|row| row.too_few()).count();
        if too_few > 0 {
            notes.push(format!(
                "{too_few} of {} classes have too few images here to tell (95 % interval wider than \
                 {TOO_WIDE} points)",
                self.per_class.len()
            ));
        }
        if self.is_unbalanced() {
            let note = "groups are means over their classes; in the row over images, a class counts as often \
                        as it has images here";
            notes.push(note.into());
        }
        if !self.scores.is_empty() {
            let note = "calibration error: in the columns of groups, confidence less accuracy (above 0: too sure)";
            notes.push(note.into());
        }
        let others = self.others();
        if !others.is_empty() {
            notes.push(others);
        }
        let loss = self.get(Metric::LOSS).filter(|loss| !loss.is_nan());
        let loss = loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
        notes.push(format!(
            "{} images{loss}; many: more than {} training images, few: fewer than {}",
            self.images, self.thresholds.many_above, self.thresholds.few_below
        ));
        notes
    }

    /// Writes one CSV row per class with the columns `class`, `name`, `train_count`,
    /// `test_count`, `shot`, `correct`, `accuracy` (percent, empty without test images: the recall), `low` and
    /// `high` (its 95 % interval), `too_few` (`yes` where there are too few test images to tell), `predicted`
    /// (images that were taken for it), `precision`, `f1`, `auroc`, `average_precision` (percent; the last two
    /// where they were [asked for](super::Evaluator::with_ranking)).
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
        let number = |value: Option<f64>| value.map(|v| format!("{v:.4}")).unwrap_or_default();
        let ranked = self.per_class.iter().any(|row| row.auroc.is_some());
        let columns = |row: &ClassRow| {
            let interval = row.interval();
            let name = class_names.get(row.class).cloned();
            let mut columns = vec![
                ("class", row.class.to_string()),
                ("name", name.unwrap_or_default()),
                ("train_count", row.train_count.to_string()),
                ("test_count", row.test_count.to_string()),
                ("shot", row.shot.to_string()),
                ("correct", row.correct.to_string()),
                ("accuracy", number(row.accuracy)),
                ("low", number(interval.map(|i| i.low))),
                ("high", number(interval.map(|i| i.high))),
                ("too_few", if row.too_few() { "yes" } else { "" }.into()),
                ("predicted", row.predicted.to_string()),
                ("precision", number(row.precision())),
                ("f1", number(row.f1())),
            ];
            if ranked {
                columns.push(("auroc", number(row.auroc)));
                columns.push(("average_precision", number(row.average_precision)));
            }
            columns
        };
        let mut csv = csv::Writer::from_writer(writer);
        for (i, row) in self.per_class.iter().enumerate() {
            let columns = columns(row);
            if i == 0 {
                csv.write_record(columns.iter().map(|(name, _)| name))?;
            }
            csv.write_record(columns.into_iter().map(|(_, value)| value))?;
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
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.table(), self.notes().join("\n"))
    }
}

//! The log of a run: a row an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use shike_infer::metrics::{Evaluation, Metric, Scored, Scores, nullable};

/// One row of `metrics.jsonl` and `metrics.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EpochRow {
    /// Stage, from 1.
    pub stage: usize,
    /// Epoch within the stage, from 0.
    pub epoch: usize,
    /// The rate that the epoch trained with.
    pub lr: f64,
    /// Training loss, mean over the epoch's images. NaN (a diverged run, or τ-normalisation, which trains
    /// nothing) is `null` in JSON.
    #[serde(deserialize_with = "nullable::number")]
    pub train_loss: f64,
    /// The parts of the training loss by name; `loss_<name>` in the CSV file.
    #[serde(deserialize_with = "nullable::map")]
    pub loss_terms: BTreeMap<String, f64>,
    /// What was scored after the epoch; `<part>_<score>` in the CSV file.
    #[serde(flatten)]
    pub scores: Scored<RowScores>,
    /// Duration of the epoch's training.
    #[serde(deserialize_with = "nullable::number")]
    pub seconds: f64,
    /// Training images per second.
    #[serde(deserialize_with = "nullable::number")]
    pub images_per_second: f64,
}

/// Scores of one part of the data. Accuracies are in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RowScores {
    /// The [logged](Metric::logged) metrics of the ensemble.
    #[serde(flatten)]
    pub ensemble: Scores,
    /// Top-1 accuracy of each expert; `expert<i>` in the CSV file.
    pub experts: Vec<f64>,
}

impl RowScores {
    /// Those of an evaluation.
    pub fn new(evaluation: &Evaluation) -> Self {
        let top1 = |expert: &Scores| expert.get(Metric::TOP1).unwrap_or_default();
        Self {
            ensemble: Metric::logged()
                .map(|metric| (metric, evaluation.get(metric)))
                .collect(),
            experts: evaluation.experts.iter().map(top1).collect(),
        }
    }
}

impl EpochRow {
    /// The order of rows.
    pub(super) fn position(&self) -> (usize, usize) {
        (self.stage, self.epoch)
    }
}

/// A column of the CSV file: its name, and what stands there in a row.
type Column<'a> = (String, Box<dyn Fn(&EpochRow) -> Option<f64> + 'a>);

/// The columns are those that any row needs: loss terms differ between the stages, and not every part is
/// scored in every epoch.
fn columns(rows: &[EpochRow]) -> Vec<Column<'_>> {
    let mut columns: Vec<Column<'_>> = vec![
        ("stage".into(), Box::new(|row| Some(row.stage as f64))),
        ("epoch".into(), Box::new(|row| Some(row.epoch as f64))),
        ("lr".into(), Box::new(|row| Some(row.lr))),
        ("train_loss".into(), Box::new(|row| Some(row.train_loss))),
    ];
    let terms: BTreeSet<&String> = rows.iter().flat_map(|row| row.loss_terms.keys()).collect();
    for term in terms {
        let value = |row: &EpochRow| row.loss_terms.get(term).copied();
        columns.push((format!("loss_{term}"), Box::new(value)));
    }
    for (place, (part, _)) in EpochRow::default().scores.named().into_iter().enumerate() {
        fn of(row: &EpochRow, place: usize) -> Option<&RowScores> {
            row.scores.named()[place].1
        }
        let scored = rows.iter().filter_map(|row| of(row, place));
        let Some(experts) = scored.map(|scores| scores.experts.len()).max() else {
            continue;
        };
        for metric in Metric::logged() {
            let value = move |row: &EpochRow| of(row, place)?.ensemble.get(metric);
            columns.push((format!("{part}_{}", metric.name), Box::new(value)));
        }
        for i in 0..experts {
            let value = move |row: &EpochRow| of(row, place)?.experts.get(i).copied();
            columns.push((format!("{part}_expert{i}"), Box::new(value)));
        }
    }
    columns.push(("seconds".into(), Box::new(|row| Some(row.seconds))));
    let speed = |row: &EpochRow| Some(row.images_per_second);
    columns.push(("images_per_second".into(), Box::new(speed)));
    columns
}

/// Writes the rows as CSV.
pub(super) fn write_csv(writer: &mut dyn Write, rows: &[EpochRow]) -> io::Result<()> {
    let columns = columns(rows);
    let mut csv = csv::Writer::from_writer(writer);
    csv.write_record(columns.iter().map(|(name, _)| name))?;
    for row in rows {
        let cell = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
        csv.write_record(columns.iter().map(|(_, value)| cell(value(row))))?;
    }
    csv.flush()
}

//! The log of a run: a row an epoch.

use shike_data::ByShot;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use shike_infer::metrics::{Evaluation, Scored, nullable};

/// One row of `metrics.jsonl` and `metrics.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// Stage, from 1.
    pub stage: usize,
    /// Epoch within the stage, from 0.
    pub epoch: usize,
    /// The rate that the epoch trained with.
    pub lr: f64,
    /// Training loss, mean over the epoch's images. NaN (a diverged run, or τ-normalisation, which trains
    /// nothing) is `null` in JSON.
    #[serde(with = "nullable")]
    pub train_loss: f64,
    /// The parts of the training loss by name; `loss_<name>` in the CSV file.
    #[serde(with = "nullable::map")]
    pub loss_terms: BTreeMap<String, f64>,
    /// What was scored after the epoch; `<part>_<score>` in the CSV file.
    #[serde(flatten)]
    pub scores: Scored<RowScores>,
    /// Duration of the epoch's training.
    #[serde(with = "nullable")]
    pub seconds: f64,
    /// Training images per second.
    #[serde(with = "nullable")]
    pub images_per_second: f64,
}

/// Scores of one part of the data. Accuracies are in percent and those of the ensemble.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowScores {
    /// Cross-entropy.
    #[serde(with = "nullable")]
    pub loss: f64,
    /// Cross-entropy averaged over classes, by which the best epoch is chosen.
    #[serde(with = "nullable")]
    pub class_averaged_loss: f64,
    /// Top-1 accuracy.
    pub top1: f64,
    /// Top-5 accuracy.
    pub top5: f64,
    /// Class-averaged accuracy.
    pub class_averaged: f64,
    /// The same of each group of classes.
    #[serde(flatten)]
    pub groups: ByShot<Option<f64>>,
    /// Top-1 accuracy of each expert; `expert<i>` in the CSV file.
    pub experts: Vec<f64>,
}

impl RowScores {
    /// Those of an evaluation.
    pub fn new(evaluation: &Evaluation) -> Self {
        let ensemble = &evaluation.ensemble;
        Self {
            loss: evaluation.loss,
            class_averaged_loss: evaluation.class_averaged_loss,
            top1: ensemble.top1,
            top5: ensemble.top5,
            class_averaged: ensemble.class_averaged,
            groups: ensemble.groups,
            experts: evaluation.experts.iter().map(|e| e.top1).collect(),
        }
    }

    /// All but the experts', by name.
    fn columns(&self) -> [(&'static str, Option<f64>); 8] {
        [
            ("loss", Some(self.loss)),
            ("class_averaged_loss", Some(self.class_averaged_loss)),
            ("top1", Some(self.top1)),
            ("top5", Some(self.top5)),
            ("class_averaged", Some(self.class_averaged)),
            ("many", self.groups.many),
            ("medium", self.groups.medium),
            ("few", self.groups.few),
        ]
    }
}

impl EpochRow {
    /// The order of rows.
    pub(super) fn position(&self) -> (usize, usize) {
        (self.stage, self.epoch)
    }
}

/// Writes the rows as CSV. The columns are those that any row needs: loss terms differ between the
/// stages, and not every part is scored in every epoch.
pub(super) fn write_csv(writer: &mut dyn Write, rows: &[EpochRow]) -> io::Result<()> {
    let terms: BTreeSet<&String> = rows.iter().flat_map(|r| r.loss_terms.keys()).collect();
    let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
    let mut csv = csv::Writer::from_writer(writer);
    let mut header = ["stage", "epoch", "lr", "train_loss"]
        .map(str::to_owned)
        .to_vec();
    header.extend(terms.iter().map(|term| format!("loss_{term}")));
    // The place of each part that was scored, and its number of experts.
    let mut parts = Vec::new();
    for (place, (part, _)) in EpochRow::default().scores.named().into_iter().enumerate() {
        let scored = rows.iter().filter_map(|row| row.scores.named()[place].1);
        let Some(experts) = scored.map(|scores| scores.experts.len()).max() else {
            continue;
        };
        let columns = RowScores::default().columns();
        header.extend(columns.map(|(name, _)| format!("{part}_{name}")));
        header.extend((0..experts).map(|expert| format!("{part}_expert{expert}")));
        parts.push((place, experts));
    }
    header.extend(["seconds", "images_per_second"].map(str::to_owned));
    csv.write_record(&header)?;
    for row in rows {
        let mut record = vec![row.stage.to_string(), row.epoch.to_string()];
        record.extend([row.lr, row.train_loss].map(|value| value.to_string()));
        let term = |&term: &&String| number(row.loss_terms.get(term).copied());
        record.extend(terms.iter().map(term));
        for &(place, experts) in &parts {
            let scores = row.scores.named()[place].1;
            let columns = scores.map_or([None; 8], |s| s.columns().map(|(_, value)| value));
            record.extend(columns.map(number));
            let expert = |i| number(scores.and_then(|s| s.experts.get(i).copied()));
            record.extend((0..experts).map(expert));
        }
        record.extend([row.seconds, row.images_per_second].map(|value| value.to_string()));
        csv.write_record(&record)?;
    }
    csv.flush()
}

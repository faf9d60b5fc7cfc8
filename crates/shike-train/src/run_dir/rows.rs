//! The log of a run: a row an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::metrics::{Evaluation, nullable};

/// One row of `metrics.jsonl` and `metrics.csv`. Accuracies are in percent and those of the
/// ensemble; what was not evaluated in an epoch is `None`.
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
    /// Cross-entropy on the test set.
    pub test_loss: Option<f64>,
    /// Top-1 accuracy.
    pub top1: Option<f64>,
    /// Top-5 accuracy.
    pub top5: Option<f64>,
    /// Class-averaged accuracy of the many-shot classes.
    pub many: Option<f64>,
    /// Class-averaged accuracy of the medium-shot classes.
    pub medium: Option<f64>,
    /// Class-averaged accuracy of the few-shot classes.
    pub few: Option<f64>,
    /// Top-1 accuracy of each expert; `expert<i>` in the CSV file.
    pub experts: Vec<f64>,
    /// Top-1 accuracy of the averaged weights, where the run has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_top1: Option<f64>,
    /// Their class-averaged accuracies of the many-, medium- and few-shot classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_shots: Option<[Option<f64>; 3]>,
    /// Duration of the epoch's training.
    #[serde(with = "nullable")]
    pub seconds: f64,
    /// Training images per second.
    #[serde(with = "nullable")]
    pub images_per_second: f64,
}

impl EpochRow {
    /// The row with the results of `evaluation` filled in.
    pub fn with_evaluation(mut self, evaluation: &Evaluation) -> Self {
        let ensemble = &evaluation.ensemble;
        // NaN has no place in JSON.
        self.test_loss = Some(evaluation.loss).filter(|loss| loss.is_finite());
        self.top1 = Some(ensemble.top1);
        self.top5 = Some(ensemble.top5);
        (self.many, self.medium, self.few) = (ensemble.many, ensemble.medium, ensemble.few);
        self.experts = evaluation.experts.iter().map(|e| e.top1).collect();
        self
    }

    /// The row with the results of the averaged weights filled in.
    pub fn with_ema(mut self, evaluation: &Evaluation) -> Self {
        let ensemble = &evaluation.ensemble;
        self.ema_top1 = Some(ensemble.top1);
        self.ema_shots = Some([ensemble.many, ensemble.medium, ensemble.few]);
        self
    }

    /// The order of rows.
    pub(super) fn position(&self) -> (usize, usize) {
        (self.stage, self.epoch)
    }
}

/// Writes the rows as CSV. The columns are those that any row needs: loss terms differ between the
/// stages.
pub(super) fn write_csv(writer: &mut dyn Write, rows: &[EpochRow]) -> io::Result<()> {
    let terms: BTreeSet<&String> = rows.iter().flat_map(|r| r.loss_terms.keys()).collect();
    let experts = rows.iter().map(|r| r.experts.len()).max().unwrap_or(0);
    let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();

    let mut csv = csv::Writer::from_writer(writer);
    let mut header = ["stage", "epoch", "lr", "train_loss"]
        .map(str::to_owned)
        .to_vec();
    header.extend(terms.iter().map(|term| format!("loss_{term}")));
    header.extend(["test_loss", "top1", "top5", "many", "medium", "few"].map(str::to_owned));
    header.extend((0..experts).map(|expert| format!("expert{expert}")));
    let ema = rows.iter().any(|row| row.ema_top1.is_some());
    if ema {
        header.extend(["ema_top1", "ema_many", "ema_medium", "ema_few"].map(str::to_owned));
    }
    header.extend(["seconds", "images_per_second"].map(str::to_owned));
    csv.write_record(&header)?;
    for row in rows {
        let mut record = vec![row.stage.to_string(), row.epoch.to_string()];
        record.extend([row.lr, row.train_loss].map(|value| value.to_string()));
        record.extend(
            terms
                .iter()
                .map(|&term| number(row.loss_terms.get(term).copied())),
        );
        record.extend(
            [
                row.test_loss,
                row.top1,
                row.top5,
                row.many,
                row.medium,
                row.few,
            ]
            .map(number),
        );
        record.extend((0..experts).map(|expert| number(row.experts.get(expert).copied())));
        if ema {
            record.push(number(row.ema_top1));
            record.extend(row.ema_shots.unwrap_or_default().map(number));
        }
        record.extend([row.seconds, row.images_per_second].map(|value| value.to_string()));
        csv.write_record(&record)?;
    }
    csv.flush()
}

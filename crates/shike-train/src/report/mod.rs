//! `report.html`: what a finished run came to, in one file without anything from outside. A view of the run is
//! computed, and then formatted.

pub mod compare;
pub mod folds;
mod html;
mod looks;
mod plots;
pub mod triage;
mod view;

use std::path::Path;

use burn::tensor::Device;
use shike_data::Dataset;
use shike_data::write::{WriteError, write_bytes};
use shike_infer::metrics::Evaluation;
use shike_infer::{InferError, Predictor};
use thiserror::Error;

use self::view::View;
use crate::config::TrainData;
use crate::learner::FinalScores;
use crate::run::{RunDirError, RunPaths};

/// Why there is no report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file of the run cannot be read.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] InferError),
    /// The report cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A plot could not be drawn.
    #[error("report: a plot failed: {0}")]
    Plot(String),
}

/// Writes the report of a run whose model is `predictor` and whose last scoring is `evaluation`, on the images `scored`, to `out`
/// ([`RunPaths::report`], or elsewhere).
///
/// # Errors
/// If a file of the run cannot be read, or the report cannot be written. Runs from before
/// receipts existed have none; the report says so.
pub fn write_report(
    paths: &RunPaths,
    evaluation: &Evaluation,
    scored: &Dataset,
    predictor: &Predictor,
    out: &Path,
) -> Result<(), ReportError> {
    write_page(&View::new(paths, evaluation, scored, predictor)?, out)
}

fn write_page(view: &View, out: &Path) -> Result<(), ReportError> {
    let html = html::page(view);
    Ok(write_bytes(out, html)?)
}

/// Writes the report of a run that has ended with these scores, where something was scored. Its model is read onto
/// the device.
///
/// # Errors
/// As [`write_report`].
pub fn write_run_report(
    paths: &RunPaths,
    scores: &FinalScores,
    data: &TrainData,
    device: &Device,
) -> Result<(), ReportError> {
    let Some((part, evaluation)) = scores.reported() else {
        return Ok(());
    };
    match data.get(part) {
        Some(images) => {
            let predictor = Predictor::load(&paths.model(), device)?;
            write_report(paths, evaluation, images, &predictor, &paths.report())
        }
        None => Ok(()),
    }
}

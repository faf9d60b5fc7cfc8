//! `shike report`.

use shike_data::Part;
use std::path::PathBuf;

use clap::Args;
use shike_infer::Predictor;
use shike_infer::device;
use shike_train::report::write_report;
use shike_train::run::{RunDirError, RunPaths};
use shike_train::{RunConfig, TrainError};

use super::eval::{ScoringArgs, still_there};
use super::{CliError, DataArgs, print, writable};

/// Of which run a report is written, and where to.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Folder of a finished run.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where the report goes. Default: `report.html` in the run.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the run's images are now, if they are not where they were.
    #[command(flatten)]
    data: DataArgs,
    /// Device: `flex`, `cuda:0`, `vulkan`, … among those compiled in; `auto` takes the first.
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    scoring: ScoringArgs,
}

/// Scores the final model of a run and writes its report.
///
/// # Errors
/// If the run has not ended, its images or files cannot be read, or the report cannot be written.
pub fn report(args: &ReportArgs) -> Result<(), CliError> {
    if let Some(out) = &args.out {
        writable(out)?;
    }
    let paths = RunPaths::new(&args.run);
    if !paths.is_run() {
        return Err(RunDirError::NotARun(args.run.clone()).into());
    }
    if !paths.model().is_file() {
        let run = args.run.display();
        return Err(CliError::Absent(format!(
            "{run} has not ended: it has no model.safetensors; go on with `shike train --resume {run}`"
        )));
    }
    let recorded = RunConfig::read(&paths)?;
    let source = args.data.source_of_run(recorded.data)?.ok_or_else(|| {
        let message =
            "this run's images were made by a program, and are not known here: give --data";
        CliError::Usage(message.into())
    })?;
    let data = source.open()?;
    // What the run itself was reported by, if it says so.
    let told = paths.receipt_if_any()?.and_then(|receipt| receipt.scored);
    let part = told.unwrap_or(match &data.test {
        Some(_) => Part::Test,
        None => Part::Val,
    });
    let images = data.get(part).ok_or_else(|| {
        let message = "there is nothing to report on: the run has no validation or test images";
        CliError::Absent(message.into())
    })?;
    still_there(images, "give --data with the folder that they are in now")?;
    let predictor = Predictor::load(&paths.model(), &device::parse(&args.device)?)?;
    if images.class_names() != predictor.info().class_names {
        let message = "the images have other classes, or another order, than the run";
        return Err(TrainError::Mismatch(message.into()).into());
    }
    let thresholds = recorded.train.thresholds;
    let evaluation = args.scoring.score(&predictor, images, thresholds)?;
    let out = args.out.clone().unwrap_or_else(|| paths.report());
    write_report(&paths, &evaluation, images, &out).map_err(TrainError::from)?;
    print(&out.display().to_string())
}

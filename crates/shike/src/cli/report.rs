//! `shike report`.

use std::path::PathBuf;

use clap::Args;
use shike_data::Part;
use shike_data::write::can_write;
use shike_infer::Predictor;
use shike_infer::device;
use shike_train::RunConfig;
use shike_train::report::write_report;
use shike_train::run::RunPaths;

use super::scoring::{ScoringArgs, same_images, still_there};
use super::{CliError, DataArgs, Status, print, writable};

/// Write report.html anew: curves, classes, calibration and confusions of a finished run.
///
/// The run's model is scored on the run's own test images (or validation images), so that older
/// runs, which have no report, get one. Nothing else in the run is changed.
///
/// Exit status: 0 written, 1 error, 2 wrong arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike report runs/first
  shike report runs/first --data /new/place/of/pictures --out first.html")]
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

impl ReportArgs {
    /// Scores the final model of a run and writes its report.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        let paths = RunPaths::new(&self.run);
        paths.check()?;
        if !paths.model().is_file() {
            let run = self.run.display();
            return Err(CliError::Absent(format!(
                "{run} has not ended: it has no model.safetensors; go on with `shike train --resume {run}`"
            )));
        }
        let out = self.out.clone().unwrap_or_else(|| paths.report());
        match &self.out {
            Some(out) => writable(out)?,
            None => can_write(&out)?,
        }
        let recorded = RunConfig::read(&paths)?;
        let source = self.data.known_source_of_run(recorded.data)?;
        let names = paths.read_classes()?.names;
        let data = source.open_with_classes(&names)?;
        // What the run itself was reported by, if it says so.
        let recorded_part = paths.receipt_if_any()?.and_then(|receipt| receipt.scored);
        let part = recorded_part.unwrap_or(match &data.test {
            Some(_) => Part::Test,
            None => Part::Val,
        });
        let images = data.get(part).ok_or_else(|| {
            let message = "there is nothing to report on: the run has no validation or test images";
            CliError::Absent(message.into())
        })?;
        still_there(images, "give --data with the folder that they are in now")?;
        let predictor = Predictor::load(&paths.model(), &device::parse(&self.device)?)?;
        same_images(&paths, part, images, &predictor.info().class_names)?;
        let thresholds = recorded.train.thresholds;
        let evaluation = self.scoring.score(&predictor, images, thresholds)?;
        write_report(&paths, &evaluation, images, &predictor, &out)?;
        print(&out.display().to_string())?;
        Ok(Status::Success)
    }
}

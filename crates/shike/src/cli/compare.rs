//! `shike compare`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use shike_train::report::compare::{ScoredRun, compare};

use super::{CliError, Status, print, print_json};

/// Set finished runs against one another: mean and deviation over seeds, and intervals of the
/// differences.
///
/// Exit status: 0 compared, 1 error (a run has not ended, or test lists or classes differ), 2 wrong
/// arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  shike compare runs/ce-seed* runs/shike-seed*")]
pub struct CompareArgs {
    /// Folders of finished runs. Those that differ in their seed alone count as one method; every method
    /// is set against that of the first run.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
}

impl CompareArgs {
    /// Compares runs.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        let runs = self.runs.iter().map(ScoredRun::read);
        let comparison = compare(&runs.collect::<Result<Vec<_>, _>>()?)?;
        match self.json {
            true => print_json(&json!(comparison)),
            false => print(&comparison.to_string()),
        }?;
        Ok(Status::Success)
    }
}

//! How long a run takes here, and what is cut where `--time` bounds it.

use std::sync::Arc;
use std::time::Instant;

use shike_infer::Embedder;
use shike_train::learner::human;
use shike_train::{Deadline, Pace, RunTime, TrainConfig, TrainData};

use super::session::Session;
use crate::cli::CliError;

/// The part of the time that is planned with: measured times are not quite right.
const PLANNED: f64 = 0.9;

/// How long a run takes, and what was read to know it.
pub(super) struct Planned {
    pub time: RunTime,
    /// The frozen trunk.
    pub trunk: Option<Arc<Embedder>>,
}

/// Measures a few steps and, where time is bounded, gives the stages as many epochs as can be done in the part of one of
/// so many runs; with what a person should know.
pub(super) fn plan_time(
    config: &mut TrainConfig,
    data: &TrainData,
    has_stage1: bool,
    runs: u64,
    session: &Session,
) -> Result<(Planned, Vec<String>), CliError> {
    let pace = Pace::measure(config, &data.train, &session.device)?;
    let mut time = pace.time(config, data.sizes());
    if has_stage1 {
        time = time.without_stage1();
    }
    let mut notes = vec![];
    let epochs = |config: &TrainConfig| {
        let stages = [1, 2].map(|stage| config.stage(stage).map(|stage| stage.epochs));
        let stages = stages.into_iter().flatten();
        let stages: Vec<String> = stages.map(|epochs| epochs.to_string()).collect();
        stages.join(" + ")
    };
    if let Some(left) = session.left(runs)
        && config.frozen.is_none()
    {
        let before = epochs(config);
        let fitted = time.fit(config, PLANNED * left.as_secs_f64());
        fitted.map_err(|least| {
            CliError::Usage(format!(
                "--time does not suffice: one epoch of each stage takes about {least}, with what is scored; give \
                 more time, a smaller network (--arch) or --image-size, or fewer pictures"
            ))
        })?;
        let after = epochs(config);
        if after != before {
            notes.push(format!(
                "{after} epochs in place of {before}: as many as --time has room for ({} are left{})",
                human(left.as_secs_f64()),
                if runs > 1 { " to each run" } else { "" }
            ));
        }
    }
    notes.push(time.describe(config));
    let trunk = pace.trunk;
    Ok((Planned { time, trunk }, notes))
}

/// When one of so many runs has to be at its end; stage 2 gets its part of what is left.
pub(super) fn deadline(
    time: Option<&RunTime>,
    config: &TrainConfig,
    runs: u64,
    session: &Session,
) -> Option<Deadline> {
    let (left, time) = (session.left(runs)?, time?);
    let scored = match config.frozen {
        Some(_) => 0.0,
        None => time.end,
    };
    let left = (left.as_secs_f64() - scored).max(0.0);
    let second = time.epochs[1] * config.stage(2).map_or(0, |stage| stage.epochs) as f64;
    let share = (left / (time.total(config) - time.end)).min(1.0);
    let seconds =
        |seconds: f64| std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Some(Deadline {
        end: Instant::now() + seconds(left),
        stage2: seconds(second * share),
    })
}

//! One run for each of several seeds.

use std::path::Path;

use shike_train::config::diff;
use shike_train::report::compare::{ScoredRun, compare};
use shike_train::run::{RunDir, RunPaths};
use shike_train::{DataSource, Learner, Outcome, RunConfig, RunTime, TrainConfig, TrainData};

use super::job::Job;
use super::session::Session;
use super::settings::settings;
use super::time::deadline;
use super::{TrainArgs, Trained};
use crate::cli::CliError;

/// Trains with several seeds; those that have ended already are skipped.
pub(super) fn train_seeds(
    (job, time): (&Job, Option<&RunTime>),
    config: &TrainConfig,
    folder: &Path,
    seeds: u64,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let all = RunPaths::new(folder);
    let (source, data) = job.images.settle(&all.lists())?;
    let mut runs = Vec::new();
    for number in 0..seeds {
        let seed = config.seed.wrapping_add(number);
        let mut config = config.clone();
        config.seed = seed;
        let folder = folder.join(format!("seed{seed}"));
        let paths = RunPaths::new(&folder);
        runs.push(folder.clone());
        if paths.is_run() {
            same_run(&paths, &config, &source)?;
        }
        if has_ended(&paths, &data)? {
            let message = format!("seed {seed}: {} has ended", folder.display());
            session.progress.message(&message);
            continue;
        }
        session.progress.message(&format!("seed {seed}"));
        let learner = Learner::new(config.clone(), data.clone(), session.device.clone())?;
        session.check_images(&learner, args)?;
        session.check_embedding(&learner, 1)?;
        let mut run = match paths.is_run() {
            true => RunDir::open(&folder)?.keep_last(config.keep_checkpoints),
            false => {
                let settings = settings(&job.recipe, job.plan.as_ref(), &config, &args.given)?;
                let recipe = job.written(&settings, &source)?;
                let source = Some(source.clone());
                learner.create_run(&folder, source, None, Some(&recipe))?
            }
        };
        let deadline = deadline(time, &config, seeds - number, session);
        if let Outcome::Interrupted = session.start(&learner, None, &mut run, deadline)? {
            session
                .progress
                .message("stopped with a checkpoint; the same command goes on");
            return Ok(Trained::Seeds {
                folder: folder.parent().unwrap_or(Path::new("")).to_owned(),
                runs,
                interrupted: true,
                comparison: None,
            });
        }
    }
    let scored = data.val.is_some() || data.test.is_some();
    let comparison = match scored {
        true => {
            let read = runs.iter().map(ScoredRun::read);
            Some(Box::new(compare(&read.collect::<Result<Vec<_>, _>>()?)?))
        }
        false => None,
    };
    Ok(Trained::Seeds {
        folder: folder.to_owned(),
        runs,
        interrupted: false,
        comparison,
    })
}

/// Whether a run has come to its end.
fn has_ended(paths: &RunPaths, data: &TrainData) -> Result<bool, CliError> {
    if !paths.is_run() || !paths.model().is_file() || !paths.receipt().is_file() {
        return Ok(false);
    }
    let scored = data.val.is_some() || data.test.is_some();
    Ok(!scored || (paths.read_receipt()?.scored.is_some() && paths.report().is_file()))
}

/// Refuses to go on with a run of other settings or images.
fn same_run(paths: &RunPaths, config: &TrainConfig, source: &DataSource) -> Result<(), CliError> {
    let recorded: RunConfig = paths.read_config()?;
    let mut differ = diff::differing(&recorded.train, config);
    if recorded.data.as_ref() != Some(source) {
        differ.push("the images".into());
    }
    if differ.is_empty() {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{} was begun with other settings ({} differ): give the same, or another --run",
        paths.root().display(),
        differ.join(", "),
    )))
}

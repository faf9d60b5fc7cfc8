//! Several runs of one command: one for each of several seeds, or for each part that is held out.

use std::path::{Path, PathBuf};

use shike_train::config::diff;
use shike_train::report::compare::{ScoredRun, compare};
use shike_train::run::{RunDir, RunPaths};
use shike_train::{DataSource, Learner, Outcome, RunConfig, TrainConfig, TrainData};

use super::job::Job;
use super::session::Session;
use super::settings::settings;
use super::time::{Planned, deadline};
use super::trained::Several;
use super::{TrainArgs, Trained};
use crate::cli::CliError;

/// One of several runs.
pub(super) struct One {
    /// As a person is told, such as `seed 3`.
    pub name: String,
    pub folder: PathBuf,
    pub config: TrainConfig,
    pub source: DataSource,
    pub data: TrainData,
}

/// Trains with several seeds; those that have ended already are skipped.
pub(super) fn train_seeds(
    (job, planned): (&Job, Option<&Planned>),
    config: &TrainConfig,
    folder: &Path,
    seeds: u64,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let all = RunPaths::new(folder);
    let (source, data) = job.images.settle(&all.lists())?;
    let one = |number| {
        let mut config = config.clone();
        config.seed = config.seed.wrapping_add(number);
        let seed = config.seed;
        One {
            name: format!("seed {seed}"),
            folder: folder.join(format!("seed{seed}")),
            config,
            source: source.clone(),
            data: data.clone(),
        }
    };
    let ones: Vec<One> = (0..seeds).map(one).collect();
    let done = train_each(&ones, (job, planned), args, session)?;
    let scored = data.val.is_some() || data.test.is_some();
    let runs: Vec<PathBuf> = ones.into_iter().take(done).map(|one| one.folder).collect();
    let interrupted = runs.len() < seeds as usize;
    let several = match scored && !interrupted {
        true => {
            let read = runs.iter().map(ScoredRun::read);
            let read = read.collect::<Result<Vec<_>, _>>()?;
            Some(Several::Seeds(Box::new(compare(&read)?)))
        }
        false => None,
    };
    Ok(Trained::Several {
        folder: folder.to_owned(),
        runs,
        interrupted,
        several,
    })
}

/// Trains one after another; those that have ended already are skipped. How many have ended.
pub(super) fn train_each(
    ones: &[One],
    (job, planned): (&Job, Option<&Planned>),
    args: &TrainArgs,
    session: &mut Session,
) -> Result<usize, CliError> {
    for (number, one) in ones.iter().enumerate() {
        let One {
            name,
            folder,
            config,
            source,
            data,
        } = one;
        let paths = RunPaths::new(folder);
        if paths.is_run() {
            same_run(&paths, config, source)?;
        }
        if has_ended(&paths, data)? {
            let message = format!("{name}: {} has ended", folder.display());
            session.progress.message(&message);
            continue;
        }
        session.progress.message(name);
        let learner = Learner::new(config.clone(), data.clone(), session.device.clone())?;
        let trunk = planned.and_then(|planned| planned.trunk.clone());
        let learner = learner.with_embedder(trunk);
        session.check_images(&learner, args)?;
        let left = (ones.len() - number) as u64;
        session.check_embedding(&learner, left)?;
        let mut run = match paths.is_run() {
            true => RunDir::open(folder)?.keep_last(config.keep_checkpoints),
            false => {
                let settings = settings(&job.recipe, job.plan.as_ref(), config, &args.given)?;
                let recipe = job.written(&settings, source)?;
                let source = Some(source.clone());
                learner.create_run(folder, source, None, Some(&recipe))?
            }
        };
        let time = planned.map(|planned| &planned.time);
        let deadline = deadline(time, config, left, session);
        if let Outcome::Interrupted = session.start(&learner, None, &mut run, deadline)? {
            session
                .progress
                .message("stopped with a checkpoint; the same command goes on");
            return Ok(number);
        }
    }
    Ok(ones.len())
}

/// Whether a run has come to its end.
pub(super) fn has_ended(paths: &RunPaths, data: &TrainData) -> Result<bool, CliError> {
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

//! Runs that go on, and those that begin with the stage 1 of another.

use std::path::Path;

use shike_train::config::diff::{self, Change};
use shike_train::recipe::to_toml;
use shike_train::run::{RunDir, RunPaths};
use shike_train::{
    DataSource, Learner, Outcome, Pace, Progress, Recipe, RunConfig, StageConfig, TrainConfig,
    TrainError,
};

use super::seeds::has_ended;
use super::session::Session;
use super::time::deadline;
use super::{RecipeArgs, TrainArgs, Trained};
use crate::cli::CliError;
use crate::cli::scoring::same_classes;

/// Goes on with a run.
pub(super) fn resumed(
    folder: &Path,
    source: impl FnOnce(Option<DataSource>) -> Result<Option<DataSource>, CliError>,
    recipe: &RecipeArgs,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    if args.run.dry_run {
        let message = "--dry-run is for a run that has not begun; leave --resume out";
        return Err(CliError::Usage(message.into()));
    }
    let run = match session.ranks.writes() {
        true => RunDir::open(folder)?,
        false => RunDir::watch(folder)?,
    };
    let mut recorded: RunConfig = run.paths().read_config()?;
    let begun = recorded.train.clone();
    let early = run.paths().receipt_if_any()?;
    let early = early.is_some_and(|receipt| !receipt.ended_early.is_empty());
    let longer = obey(&mut recorded.train, folder, recipe, args)?;
    session.progress.message(&format!(
        "settings are those of {}/config.json",
        folder.display()
    ));
    let recorded_data = recorded.data.map(|data| data.of_run(folder));
    let source = source(recorded_data)?.ok_or_else(|| {
        let message = "this run's images were made by a program: resume it there";
        CliError::Usage(message.into())
    })?;
    let data = source.open()?;
    same_classes(&data.train, &run.classes().names)?;
    if recorded.train.frozen.is_some() && has_ended(run.paths(), &data)? {
        session.progress.message(&format!(
            "{} is finished: its head was chosen and fitted, and nothing is left to do; `shike eval` scores it again",
            folder.display()
        ));
        return Ok(Trained::Run {
            folder: folder.to_owned(),
            outcome: Outcome::Finished(None),
            left_out: data.left_out(),
        });
    }
    let mut run = run.keep_last(recorded.train.keep_checkpoints);
    let learner = Learner::new(recorded.train, data, session.device.clone())?;
    let learner = learner.on_ranks(session.ranks.clone())?;
    let (processes, batches) = (session.ranks.size(), learner.config().accumulation);
    if learner.config().frozen.is_none() && !batches.is_multiple_of(processes) {
        session.progress.message(&format!(
            "a step of this run has {batches} batches, which are no whole share for each of {processes} processes: some wait"
        ));
    }
    session.check_images(&learner, args)?;
    session.check_embedding(&learner, 1)?;
    let asked = ["--epochs", "--stage2-epochs"].map(|option| args.given.has(option));
    if longer || early && asked[0] {
        let changes = [1, 2].map(|stage| {
            let epochs = |config: &TrainConfig| config.stage(stage).map(|stage| stage.epochs);
            epochs(&begun) != epochs(learner.config())
        });
        let stages = [changes[0] || early && asked[0], changes[1]];
        let lines = learner.extend(&run, &begun, stages);
        let lines = lines.map_err(|error| match error {
            TrainError::Mismatch(text) => CliError::Usage(text),
            error => error.into(),
        })?;
        for line in lines {
            session.progress.message(&line);
        }
    }
    let time = match args.run.time {
        Some(_) => {
            let (config, data) = (learner.config(), learner.data());
            let pace = Pace::measure(config, &data.train, &session.device)?;
            Some(pace.time(config, data.sizes()))
        }
        None => None,
    };
    let deadline = deadline(time.as_ref(), learner.config(), 1, session);
    let from = recorded.stage2_from;
    let outcome = session.start(&learner, from, &mut run, deadline)?;
    session.report(&outcome, folder);
    Ok(Trained::Run {
        folder: folder.to_owned(),
        outcome,
        left_out: learner.data().left_out(),
    })
}

/// Takes what options say of how fast a run goes on, and for how long; what else they ask for has to be what it does
/// anyhow. Whether its length changes.
fn obey(
    recorded: &mut TrainConfig,
    folder: &Path,
    recipe: &RecipeArgs,
    args: &TrainArgs,
) -> Result<bool, CliError> {
    if args.given.is_empty() && recipe.recipe.is_none() && recipe.set.is_empty() {
        return Ok(false);
    }
    let wanted = wanted(recorded, folder, recipe, args)?;
    if diff::changes(recorded, &wanted).is_empty() {
        recorded.loader.workers = wanted.loader.workers;
        recorded.checkpoint_seconds = wanted.checkpoint_seconds;
        return Ok(false);
    }
    if diff::changes(&recorded.with_length_of(&wanted), &wanted).is_empty() {
        *recorded = wanted;
        return Ok(true);
    }
    refuse_changes("--resume goes on", recorded, folder, recipe, args)?;
    Ok(false)
}

/// The settings of a run with what options make of them.
fn wanted(
    recorded: &TrainConfig,
    folder: &Path,
    recipe: &RecipeArgs,
    args: &TrainArgs,
) -> Result<TrainConfig, CliError> {
    let mut wanted = match &recipe.recipe {
        Some(path) => Recipe::read(path)?,
        None => Recipe::parse(folder.join("config.json"), &to_toml(recorded)?)?,
    };
    args.change(&mut wanted, &recipe.set)?;
    Ok(args.config(&wanted, recorded.model.num_classes)?.0)
}

/// Refuses options that would change the settings of a run; `what` is done with it.
pub(super) fn refuse_changes(
    what: &str,
    recorded: &TrainConfig,
    folder: &Path,
    recipe: &RecipeArgs,
    args: &TrainArgs,
) -> Result<(), CliError> {
    let changes = diff::changes(recorded, &wanted(recorded, folder, recipe, args)?);
    if changes.is_empty() {
        return Ok(());
    }
    let fields: Vec<String> = changes.iter().map(|change| change.field.clone()).collect();
    let mut asked = args.given.of_fields(&fields);
    asked.extend(recipe.set.iter().map(|text| format!("--set {text}")));
    asked.extend(recipe.recipe.iter().map(|path| path.display().to_string()));
    if asked.is_empty() {
        asked = args.given.names().to_vec();
    }
    Err(CliError::Usage(format!(
        "{what} with the settings of {}/config.json, and {} would change them ({}): leave it out, \
         or begin another run",
        folder.display(),
        asked.join(", "),
        listed_changes(&changes),
    )))
}

/// A line on what differs.
pub(super) fn listed_changes(changes: &[Change]) -> String {
    let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

/// Stage 1 of the run that this one takes it from, so that the configuration says what was done. Options for
/// it have to be what it was.
pub(super) fn stage1_of(
    folder: &Path,
    asked: &TrainConfig,
    recipe: &Recipe,
    args: &TrainArgs,
    progress: &mut Progress,
) -> Result<StageConfig, CliError> {
    let paths = RunPaths::new(folder);
    paths.check()?;
    let recorded = RunConfig::read(&paths)?;
    let mut changes = diff::changes(&recorded.train, asked);
    changes.retain(|Change { field, .. }| {
        let factor = field
            .strip_prefix("lr_factors.")
            .is_some_and(|part| part != "heads");
        field.starts_with("stage1.") || field == "weights" || factor
    });
    let fields: Vec<String> = changes.iter().map(|change| change.field.clone()).collect();
    let mut given = args.given.of_fields(&fields);
    // The schedule's peak is set as `lr`, too.
    let rate = fields
        .iter()
        .any(|field| field.starts_with("stage1.schedule"));
    let rate = rate.then(|| "stage1.lr".to_owned());
    let fields = fields.iter().chain(&rate);
    let set = fields.filter_map(|field| recipe.set_by(field));
    given.extend(set.map(|assignment| format!("--set {assignment}")));
    let folder = folder.display();
    if !given.is_empty() {
        return Err(CliError::Usage(format!(
            "--stage2-from takes stage 1 of {folder} as it is, and {} would change it ({}): leave it out",
            given.join(", "),
            listed_changes(&changes),
        )));
    }
    if !changes.is_empty() {
        progress.message(&format!("stage 1 is that of {folder}, with its settings"));
    }
    Ok(recorded.train.stage1)
}

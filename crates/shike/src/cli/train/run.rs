//! Runs: new ones, and those that go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use shike_train::run_dir::{RunDir, RunPaths};
use shike_train::{
    DataSource, Learner, Outcome, Precision, Progress, Recipe, RunConfig, TrainConfig, TrainError,
    device,
};

use super::{Base, Preset, TrainArgs};
use crate::cli::{CliError, DataArgs, ResumeArgs};

/// Timed steps of a stage in a dry run.
const DRY_RUN_STEPS: usize = 3;

/// A recipe, and changes to it.
#[derive(Args, Clone, Debug, Default)]
pub struct RecipeArgs {
    /// Recipe: settings in TOML, such as those in `datasets/` (docs/RECIPES.md). Options change it.
    #[arg(value_name = "RECIPE.toml")]
    pub recipe: Option<PathBuf>,
    /// Change any field of the recipe, as `stage1.loss.gamma=1`.
    #[arg(long, value_name = "PATH=VALUE", requires = "recipe")]
    pub set: Vec<String>,
}

/// Trains with the preset for the kind of data.
///
/// # Errors
/// If arguments, data or device are wrong, or training fails.
pub fn train(
    source: Option<DataSource>,
    resume: &ResumeArgs,
    args: &TrainArgs,
) -> Result<Outcome, CliError> {
    let preset = source.as_ref().map(Preset::for_source);
    train_with(source, preset.map(Base::Preset), resume, args)
}

/// Trains as a recipe says; without one as [`train`].
///
/// # Errors
/// As [`train`], and for a recipe that is wrong.
pub fn train_recipe(
    data: &DataArgs,
    recipe: &RecipeArgs,
    resume: &ResumeArgs,
    args: &TrainArgs,
) -> Result<Outcome, CliError> {
    let Some(path) = recipe.recipe.as_ref().filter(|_| resume.resume.is_none()) else {
        return train(data.source(), resume, args);
    };
    let mut read = Recipe::read(path).map_err(TrainError::from)?;
    read.set(&recipe.set).map_err(TrainError::from)?;
    let source = data.source_for(&read)?;
    train_with(source, Some(Base::Recipe(Box::new(read))), resume, args)
}

/// Trains with a preset or a recipe of one's own.
///
/// # Errors
/// As [`train`].
pub fn train_with(
    source: Option<DataSource>,
    base: Option<Base>,
    resume: &ResumeArgs,
    args: &TrainArgs,
) -> Result<Outcome, CliError> {
    let device = device::parse(&args.device)?;
    let mut progress = Progress::auto();
    let stop = stop_on_ctrl_c();

    if let Some(folder) = &resume.resume {
        if args.dry_run {
            let message = "--dry-run is for a run that has not begun; leave --resume out";
            return Err(CliError::Usage(message.into()));
        }
        progress.message(&format!(
            "settings are those of {}/config.json; others on the command line have no effect",
            folder.display()
        ));
        let run = RunDir::open(folder)?;
        let recorded: RunConfig = run.paths().read_config()?;
        let source = source.or(recorded.data).ok_or_else(|| {
            let message = "this run's images were made by a program: resume it there";
            CliError::Usage(message.into())
        })?;
        let mut run = run.keep_last(recorded.train.keep_checkpoints);
        let learner = Learner::new(recorded.train, source.open()?, device)?;
        check_images(&learner, args, &mut progress)?;
        let from = recorded.stage2_from;
        let outcome = start(&learner, from, &mut run, &mut progress, &stop)?;
        report(&outcome, folder, &mut progress);
        return Ok(outcome);
    }

    let (Some(source), Some(base)) = (source, base) else {
        return Err(CliError::Usage(
            "no images: give --data DIR (or --resume RUN to go on with a run)".into(),
        ));
    };
    let card = match &base {
        Base::Recipe(recipe) => recipe.card().map_err(TrainError::from)?,
        Base::Preset(_) => None,
    };
    let data = source.open().inspect_err(|_| {
        if let Some(card) = &card {
            progress.message(&card.instructions());
        }
    })?;
    for line in card.iter().flat_map(|card| card.compare(&data)) {
        progress.message(&line);
    }
    let (config, scaling) = args.config(&base, data.train.num_classes())?;
    if let Some(scaling) = scaling {
        progress.message(&scaling.to_string());
    }
    let folder = match &resume.run {
        Some(folder) => folder.clone(),
        None => PathBuf::from("runs").join(args.run_name(&base, &config)),
    };
    progress.message(&describe(&data.train.class_counts(), &config));
    if config.precision == Precision::Bf16 && device.memory_pool_usage().is_none() {
        progress
            .message("bfloat16 saves memory on a CPU, and takes several times as long as float32");
    }
    let learner = Learner::new(config, data, device)?;
    check_images(&learner, args, &mut progress)?;
    if args.dry_run {
        println!("{}", learner.dry_run(DRY_RUN_STEPS)?);
        return Ok(Outcome::Finished(None));
    }
    let from = resume.stage2_from.clone();
    let mut run = learner.create_run(&folder, Some(source), from.clone())?;
    let outcome = start(&learner, from, &mut run, &mut progress, &stop)?;
    report(&outcome, &folder, &mut progress);
    Ok(outcome)
}

fn check_images(
    learner: &Learner,
    args: &TrainArgs,
    progress: &mut Progress,
) -> Result<(), TrainError> {
    if args.check_images {
        progress.message("decoding every image");
        for line in learner.check_images()? {
            progress.message(&line);
        }
    }
    Ok(())
}

/// Starts a run, or goes on with it where it has a checkpoint.
fn start(
    learner: &Learner,
    stage2_from: Option<PathBuf>,
    run: &mut RunDir,
    progress: &mut Progress,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    match stage2_from {
        Some(other) => learner.run_stage2_from(&RunPaths::new(other), run, progress, stop),
        None => learner.run(run, progress, stop),
    }
}

fn describe(counts: &[usize], config: &TrainConfig) -> String {
    let (largest, smallest) = (counts.iter().max(), counts.iter().min());
    let experts = config.model.experts;
    format!(
        "{} training images, {} classes of {} to {}; {} with {experts} expert{}",
        counts.iter().sum::<usize>(),
        counts.len(),
        largest.unwrap_or(&0),
        smallest.unwrap_or(&0),
        match config.model.is_plain() {
            true => "plain network",
            false => "SHIKE",
        },
        if experts == 1 { "" } else { "s" },
    )
}

fn report(outcome: &Outcome, folder: &std::path::Path, progress: &mut Progress) {
    let folder = folder.display();
    progress.message(&match outcome {
        Outcome::Finished(_) => {
            format!("finished: {folder}/model.safetensors, {folder}/metrics.csv")
        }
        Outcome::Interrupted => {
            format!("stopped with a checkpoint; go on with --resume {folder}")
        }
    });
}

/// A flag that the first Ctrl-C sets; the second ends the program at once.
fn stop_on_ctrl_c() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; press Ctrl-C again to stop at once");
    };
    // Without a handler Ctrl-C kills the run, which a resume survives as well.
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("Ctrl-C will end the run at once ({error})");
    }
    stop
}

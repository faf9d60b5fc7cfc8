//! `shike train`.

mod args;
mod begin;
mod folds;
mod job;
mod kinds;
mod lists;
mod plan;
mod refit;
mod resume;
mod seeds;
mod session;
mod settings;
mod time;
mod trained;

use std::path::{Path, PathBuf};

use clap::Args;
use shike_data::Cifar;
use shike_hub::Environment;
use shike_train::run::RunPaths;
use shike_train::{DataSource, Recipe};

pub use self::args::TrainArgs;
use self::begin::begin;
use self::job::{Job, outside, split_before};
pub use self::kinds::Baseline;
use self::plan::planned;
use self::refit::refit;
use self::resume::resumed;
use self::session::Session;
pub(super) use self::session::stop_on_ctrl_c;
use self::trained::Trained;
use super::processes::Processes;
use super::{CliError, DataArgs, SplitArgs, Status, weights};

/// Train a network on long-tailed images.
///
/// Pictures without a recipe get settings that are chosen for them and this machine; each is printed
/// with its reason, and all are written to recipe.toml in the run. Options override them. A folder
/// without val and test is split first.
///
/// Exit status: 0 finished, 1 error, 2 wrong arguments, 130 stopped by Ctrl-C (resume with
/// --resume).
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike train --data pictures --run runs/first         pictures/<class>/*.jpg; says what it chooses, and why
  shike train runs/first/recipe.toml --run runs/second
  shike train --data pictures --run runs/all --seeds 3 --json
  shike train --data images --train-list train.txt --test-list test.txt --run runs/lists
  shike train --data cifar-100-binary --imbalance-factor 100 --run runs/cifar
  shike train datasets/imagenet_lt.toml --data imagenet --batch-size 32 --set stage1.loss.kind=focal
  shike train --resume runs/first")]
pub struct TrainCommand {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    split: SplitArgs,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    train: TrainArgs,
}

impl TrainCommand {
    /// Trains as a recipe says; without one, CIFAR as published, and other pictures with settings that are
    /// chosen for them. `end` ends the program at once.
    pub(super) fn run(&self, end: fn()) -> Result<Status, CliError> {
        let processes = Processes::join()?;
        processes.together(|| {
            self.train(&processes, end)?
                .finish(self.output.json, &processes)
        })
    }

    fn train(&self, processes: &Processes, end: fn()) -> Result<Trained, CliError> {
        let Self {
            recipe,
            output,
            data,
            split,
            resume,
            train: args,
        } = self;
        by_one(
            processes,
            &[
                ("--seeds", output.seeds.is_some()),
                ("--folds", output.folds.is_some()),
                ("--write-recipe", output.write_recipe.is_some()),
                ("--refit", resume.refit.is_some()),
            ],
        )?;
        let mut session = Session::new(args, processes, end)?;
        let mut args = args.clone();
        if let Some(text) = &args.tuning.weights {
            let mut say = |text: &str| session.progress.message(text);
            args.tuning.weights = weights::resolve(text, &mut say)?;
        }
        let other = resume.resume.is_some() || resume.refit.is_some();
        let begins = recipe.recipe.is_none() && !other && !output.json;
        let said = ["--weights", "--arch"].iter().any(|o| args.given.has(o));
        if begins && !said && !args.says_how_to_train(&recipe.set) {
            let own = data.source()?;
            let own = own.is_some_and(|source| !matches!(source, DataSource::Cifar { .. }));
            let (environment, downloads) = (Environment::of_process(), cfg!(feature = "hub"));
            let ask = &mut weights::agreed;
            let gpu = session.has_gpu();
            let name = own.then(|| weights::offered(environment, gpu, downloads, ask));
            if let Some(name) = name.flatten() {
                let mut say = |text: &str| session.progress.message(text);
                args.tuning.weights = weights::resolve(Path::new(name), &mut say)?;
            }
        }
        let args = &args;
        if (resume.resume.is_some() || resume.refit.is_some()) && !split.is_empty() {
            let message = "--group-by, --min-images and --max-images are for a run that begins: this one has its pictures";
            return Err(CliError::Usage(message.into()));
        }
        if let Some(folder) = &resume.resume {
            let source = |recorded| data.source_of_run(recorded);
            return resumed(folder, source, recipe, args, &mut session);
        }
        if let Some(folder) = &resume.refit {
            let source = |recorded| data.source_of_run(recorded);
            let job = refit(folder, source, recipe, args, &mut session)?;
            return begin(&job, output, resume, args, &mut session);
        }
        let folds = output.folds.is_some();
        let given = match &recipe.recipe {
            Some(_) => None,
            None => data.source()?,
        };
        let job = match (&recipe.recipe, given) {
            (Some(path), _) if path.is_dir() => {
                let dir = path.display();
                let message =
                    format!("{dir} is a folder, and a recipe is a file: is it --data {dir}?");
                return Err(CliError::Usage(message));
            }
            (Some(path), _) => {
                let mut read = Recipe::read(path)?;
                args.change(&mut read, &recipe.set)?;
                let source = data.source_for(&read)?;
                if let Some(source) = &source {
                    read = read.for_source(source);
                }
                Job::known(
                    source.zip(Some(read)),
                    (split, folds),
                    &mut session.progress,
                )?
            }
            (None, Some(source @ DataSource::Cifar { .. })) => {
                let mut read = cifar(&source)?;
                args.change(&mut read, &recipe.set)?;
                Job::known(Some((source, read)), (split, folds), &mut session.progress)?
            }
            (None, None) => Job::known(None, (split, folds), &mut session.progress)?,
            (None, Some(source)) => {
                let dir = data.data.as_deref().unwrap_or(Path::new(""));
                let mut config = split.config(&source);
                let kept = match (&output.seeds, &resume.run) {
                    (Some(_), Some(run)) => split_before(&RunPaths::new(run), &source, &config)?,
                    _ => None,
                };
                let source = match kept {
                    // The lists are what it asks for.
                    Some(lists) => {
                        config = SplitArgs::default().config(&lists);
                        lists
                    }
                    None => source,
                };
                if output.write_recipe.is_none() && !args.run.dry_run {
                    outside(resume.run.as_deref(), &source)?;
                }
                let gpu = session.has_gpu();
                let mut job = planned(
                    source,
                    dir,
                    (&config, folds),
                    gpu,
                    args,
                    &recipe.set,
                    &mut session.progress,
                )?;
                args.change(&mut job.recipe, &recipe.set)?;
                job
            }
        };
        begin(&job, output, resume, args, &mut session)
    }
}

/// A recipe, and changes to it.
#[derive(Args, Clone, Debug, Default)]
pub struct RecipeArgs {
    /// Recipe: settings in TOML, such as those in `datasets/` (docs/RECIPES.md). Options change it.
    #[arg(value_name = "RECIPE.toml")]
    pub recipe: Option<PathBuf>,
    /// Change any field of the recipe, or of the settings that are chosen for pictures, as
    /// `stage1.loss.gamma=1`.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// What a run tells, and how often it is trained.
#[derive(Args, Clone, Debug, Default)]
pub struct OutputArgs {
    /// Train N times, with this seed and those that follow, into `RUN/seed0`, `RUN/seed1`, …, and print
    /// mean and standard deviation. The same command goes on after an interruption.
    #[arg(long, value_name = "N", requires = "run", value_parser = clap::value_parser!(u64).range(1..=1000),
          conflicts_with_all = ["resume", "stage2_from", "dry_run"])]
    pub seeds: Option<u64>,
    /// Deal the pictures for training and validation into K parts and train K times, into `RUN/fold0`, `RUN/fold1`, …, each time
    /// on all parts but one, which is scored; print means, and each class over all pictures. The same
    /// command goes on after an interruption.
    #[arg(long, value_name = "K", requires = "run", value_parser = clap::value_parser!(u64).range(2..=100),
          conflicts_with_all = ["resume", "stage2_from", "dry_run", "seeds", "refit"])]
    pub folds: Option<u64>,
    /// Print one JSON object at the end, and no tables.
    #[arg(long, conflicts_with = "dry_run")]
    pub json: bool,
    /// Write the settings of the run as a recipe, and stop. Pictures that are split
    /// first have their lists beside it, in a folder of the same name.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["resume", "dry_run", "json", "seeds", "folds", "run", "stage2_from", "check_images"])]
    pub write_recipe: Option<PathBuf>,
}

/// The published experiment on these images of CIFAR's.
///
/// # Errors
/// None: the recipes are part of the program.
pub fn cifar(source: &DataSource) -> Result<Recipe, CliError> {
    let (file, text) = match source {
        DataSource::Cifar {
            set: Cifar::Cifar10,
            ..
        } => (
            "cifar10_lt.toml",
            include_str!("../../../datasets/cifar10_lt.toml"),
        ),
        _ => (
            "cifar100_lt.toml",
            include_str!("../../../datasets/cifar100_lt.toml"),
        ),
    };
    let recipe = Recipe::parse(file, text)?;
    Ok(recipe.for_source(source))
}

/// Trains with a recipe of one's own, which options change.
///
/// # Errors
/// If arguments, data or device are wrong, or training fails.
pub fn train_with(
    source: Option<DataSource>,
    recipe: Option<Recipe>,
    resume: &ResumeArgs,
    args: &TrainArgs,
    end: fn(),
) -> Result<Status, CliError> {
    let processes = Processes::join()?;
    processes.together(|| {
        train_on(source, recipe, resume, args, &processes, end)?.finish(false, &processes)
    })
}

/// Refuses options that were given and that processes do not share out.
fn by_one(processes: &Processes, options: &[(&str, bool)]) -> Result<(), CliError> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) if !processes.ranks.is_alone() => Err(CliError::Usage(format!(
            "{option} is for one process: start it without others"
        ))),
        _ => Ok(()),
    }
}

fn train_on(
    source: Option<DataSource>,
    recipe: Option<Recipe>,
    resume: &ResumeArgs,
    args: &TrainArgs,
    processes: &Processes,
    end: fn(),
) -> Result<Trained, CliError> {
    let mut session = Session::new(args, processes, end)?;
    match &resume.resume {
        Some(folder) => {
            let source = |recorded| Ok(source.or(recorded));
            resumed(folder, source, &RecipeArgs::default(), args, &mut session)
        }
        None => {
            let mut given = source.zip(recipe);
            if let Some((source, recipe)) = &mut given {
                *recipe = recipe.clone().for_source(source);
                args.change(recipe, &[])?;
            }
            let job = Job::known(given, (&SplitArgs::default(), false), &mut session.progress)?;
            begin(&job, &OutputArgs::default(), resume, args, &mut session)
        }
    }
}

/// How a run begins.
#[derive(Args, Clone, Debug, Default)]
pub struct ResumeArgs {
    /// Folder that the run is written to. Default: `runs/<network>-seed<seed>`.
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Go on with a run that was stopped or killed, with its own settings and data.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "stage2_from"])]
    pub resume: Option<PathBuf>,
    /// Train with the settings of a finished run, on its training and validation pictures together; what it chose on
    /// validation pictures (epochs, τ) stays. Test pictures stay apart.
    #[arg(long, value_name = "RUN", requires = "run", conflicts_with_all = ["resume", "stage2_from", "recipe"])]
    pub refit: Option<PathBuf>,
    /// Re-train the classifiers (stage 2) on the finished stage 1 of another run.
    #[arg(long, value_name = "RUN")]
    pub stage2_from: Option<PathBuf>,
}

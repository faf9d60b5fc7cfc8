//! Runs: new ones, and those that go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use clap::Args;
use shike_data::inspect::Pixels;
use shike_data::read::read_to_string;
use shike_data::split::{SplitRecord, is_inside};
use shike_data::write::atomic_write;
use shike_infer::{Precision, device};
use shike_train::config::diff::{self, Change};
use shike_train::recipe::auto::{self, Plan};
use shike_train::recipe::to_toml;
use shike_train::report::compare::{ScoredRun, compare};
use shike_train::run::{RunDir, RunDirError, RunPaths};
use shike_train::{
    DataSource, Learner, Outcome, Progress, Recipe, RunConfig, StageConfig, TrainConfig, TrainData,
    TrainError,
};

use super::auto::{
    Images, describe as describe_plan, listed, planned, recipe as recipe_of, unsplit,
};
use super::{Base, Preset, TrainArgs, Trained};
use crate::cli::inspect::pixel_lines;
use crate::cli::{CliError, DataArgs, ResumeArgs, print, say};

/// Timed steps of a stage in a dry run.
const DRY_RUN_STEPS: usize = 3;

/// Training pictures whose headers are read for what a person should know of their pixels.
const PIXEL_SAMPLE: usize = 1000;

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
    /// Print one JSON object at the end, and no tables.
    #[arg(long, conflicts_with = "dry_run")]
    pub json: bool,
    /// Write the settings that are chosen for the pictures as a recipe, and stop. Pictures that are split
    /// first have their lists beside it, in a folder of the same name.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["resume", "recipe", "dry_run", "json", "seeds", "run", "stage2_from", "check_images"])]
    pub write_recipe: Option<PathBuf>,
}

/// Device, messages, and the wish to stop.
struct Session {
    device: Device,
    progress: Progress,
    stop: Arc<Stop>,
}

/// What Ctrl-C does: while a network is trained it asks for a checkpoint; before and after there is
/// nothing to save, and it ends the program.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    training: AtomicBool,
}

impl Session {
    fn new(args: &TrainArgs) -> Result<Self, CliError> {
        Ok(Self {
            device: device::parse(&args.device)?,
            progress: Progress::auto(),
            stop: stop_on_ctrl_c(),
        })
    }

    fn has_gpu(&self) -> bool {
        !device::is_host(&self.device)
    }
}

/// Images, and what is to be done with them.
struct Job {
    images: Images,
    base: Base,
    /// What was chosen for the images, where nobody said what is to be done.
    plan: Option<Plan>,
}

/// Trains with a preset or a recipe of one's own.
///
/// # Errors
/// If arguments, data or device are wrong, or training fails.
pub fn train_with(
    source: Option<DataSource>,
    base: Option<Base>,
    resume: &ResumeArgs,
    args: &TrainArgs,
) -> Result<Outcome, CliError> {
    let mut session = Session::new(args)?;
    if let Some(folder) = &resume.resume {
        let source = |recorded| Ok(source.or(recorded));
        return resumed(folder, source, &RecipeArgs::default(), args, &mut session);
    }
    let job = Job::known(source.zip(base), &mut session.progress)?;
    match begin(&job, &OutputArgs::default(), resume, args, &mut session)? {
        Trained::Run { outcome, .. } => Ok(outcome),
        _ => Ok(Outcome::Finished(None)),
    }
}

/// Trains as a recipe says; without one, CIFAR as published, and other pictures with settings that are
/// chosen for them.
///
/// # Errors
/// As [`train_with`], and for a recipe that is wrong.
pub fn train(
    data: &DataArgs,
    recipe: &RecipeArgs,
    output: &OutputArgs,
    resume: &ResumeArgs,
    args: &TrainArgs,
) -> Result<Trained, CliError> {
    let mut session = Session::new(args)?;
    if let Some(folder) = &resume.resume {
        let source = |recorded| data.source_of_run(recorded);
        let outcome = resumed(folder, source, recipe, args, &mut session)?;
        return Ok(Trained::Run {
            folder: folder.clone(),
            outcome,
            left_out: BTreeMap::new(),
        });
    }
    let given = match &recipe.recipe {
        Some(_) => None,
        None => data.source()?,
    };
    let job = match (&recipe.recipe, given) {
        (Some(path), _) if path.is_dir() => {
            let dir = path.display();
            let message = format!("{dir} is a folder, and a recipe is a file: is it --data {dir}?");
            return Err(CliError::Usage(message));
        }
        (Some(path), _) => {
            let mut read = Recipe::read(path).map_err(TrainError::from)?;
            args.change(&mut read, &recipe.set)?;
            let source = data.source_for(&read)?;
            if let Some(source) = &source {
                read = read.for_source(source);
            }
            let base = Base::Recipe(Box::new(read));
            Job::known(source.zip(Some(base)), &mut session.progress)?
        }
        (None, Some(DataSource::Cifar { .. })) if !recipe.set.is_empty() => {
            let message =
                "--set changes a recipe: give datasets/cifar100_lt.toml, or another, before it";
            return Err(CliError::Usage(message.into()));
        }
        (None, Some(source @ DataSource::Cifar { .. })) => {
            let base = Base::Preset(Preset::cifar());
            Job::known(Some((source, base)), &mut session.progress)?
        }
        (None, None) => Job::known(None, &mut session.progress)?,
        (None, Some(source)) => {
            let dir = data.data.as_deref().unwrap_or(Path::new(""));
            let kept = match (&output.seeds, &resume.run) {
                (Some(_), Some(run)) => split_before(&RunPaths::new(run), &source)?,
                _ => None,
            };
            let source = kept.unwrap_or(source);
            if output.write_recipe.is_none() && !args.dry_run {
                outside(resume.run.as_deref(), &source)?;
            }
            let gpu = session.has_gpu();
            let mut planned = planned(source, dir, gpu, args, &mut session.progress)?;
            if let Base::Recipe(chosen) = &mut planned.base {
                args.change(chosen, &recipe.set)?;
            }
            Job {
                images: planned.images,
                base: planned.base,
                plan: Some(planned.plan),
            }
        }
    };
    begin(&job, output, resume, args, &mut session)
}

/// Refuses a run below the folder whose folders are classes.
fn outside(run: Option<&Path>, source: &DataSource) -> Result<(), CliError> {
    let unsplit = match source {
        DataSource::Folder { dir } => unsplit(dir)?,
        _ => None,
    };
    let run = run.unwrap_or(Path::new("runs"));
    match unsplit {
        // What is wrong with the folder itself, reading it tells.
        Some(parts) if is_inside(run, &parts.train).unwrap_or(false) => {
            Err(CliError::Usage(format!(
                "the run's folder {} would lie in {}, whose folders are classes: give --run DIR elsewhere",
                run.display(),
                parts.train.display()
            )))
        }
        _ => Ok(()),
    }
}

/// The split that an earlier call has written: other pictures may have come since, and all seeds
/// train on the same. Other images than those that were split are not passed over.
fn split_before(paths: &RunPaths, given: &DataSource) -> Result<Option<DataSource>, CliError> {
    let record = paths.lists().join("split.json");
    if !record.is_file() {
        return Ok(None);
    }
    let text = read_to_string(&record).map_err(CliError::file(&record))?;
    let record: SplitRecord = serde_json::from_str(&text)
        .map_err(|error| CliError::Format(format!("{}: {error}", record.display())))?;
    let split = match given {
        DataSource::Folder { dir } => unsplit(dir)?,
        _ => None,
    };
    let folder = |path: &Path| std::fs::canonicalize(path).ok();
    if split.and_then(|parts| folder(&parts.train)) != folder(&record.data) {
        let (lists, data) = (paths.lists(), record.data.display());
        return Err(CliError::Usage(format!(
            "the seeds in {} train on the split of {data} in {}: give --data {data}, or another --run",
            paths.root().display(),
            lists.display()
        )));
    }
    Ok(Some(listed(&record.data, &paths.lists())))
}

impl Job {
    fn known(given: Option<(DataSource, Base)>, progress: &mut Progress) -> Result<Self, CliError> {
        let Some((source, base)) = given else {
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
        Ok(Self {
            images: Images::Source(source, Box::new(data)),
            base,
            plan: None,
        })
    }

    /// The text of the recipe, where the settings were chosen for the data.
    fn recipe(
        &self,
        config: &TrainConfig,
        source: &DataSource,
    ) -> Result<Option<String>, CliError> {
        let recipe = |plan: &Plan| recipe_of(&plan.choices, config, source);
        self.plan.as_ref().map(recipe).transpose()
    }
}

/// Goes on with a run.
fn resumed(
    folder: &Path,
    source: impl FnOnce(Option<DataSource>) -> Result<Option<DataSource>, CliError>,
    recipe: &RecipeArgs,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Outcome, CliError> {
    if args.dry_run {
        let message = "--dry-run is for a run that has not begun; leave --resume out";
        return Err(CliError::Usage(message.into()));
    }
    let run = RunDir::open(folder)?;
    let progress = &mut session.progress;
    let mut recorded: RunConfig = run.paths().read_config()?;
    obey(&mut recorded.train, folder, recipe, args)?;
    progress.message(&format!(
        "settings are those of {}/config.json",
        folder.display()
    ));
    let source = source(recorded.data)?.ok_or_else(|| {
        let message = "this run's images were made by a program: resume it there";
        CliError::Usage(message.into())
    })?;
    let mut run = run.keep_last(recorded.train.keep_checkpoints);
    let learner = Learner::new(recorded.train, source.open()?, session.device.clone())?;
    check_images(&learner, args, progress)?;
    let from = recorded.stage2_from;
    let outcome = start(&learner, from, &mut run, progress, &session.stop)?;
    report(&outcome, folder, progress);
    Ok(outcome)
}

/// Takes what options say of how fast a run goes on; what else they ask for has to be what it does anyhow.
fn obey(
    recorded: &mut TrainConfig,
    folder: &Path,
    recipe: &RecipeArgs,
    args: &TrainArgs,
) -> Result<(), CliError> {
    if args.given.is_empty() && recipe.recipe.is_none() && recipe.set.is_empty() {
        return Ok(());
    }
    let wanted = match &recipe.recipe {
        Some(path) => Recipe::read(path),
        None => to_toml(recorded, None)
            .and_then(|text| Recipe::parse(folder.join("config.json"), &text)),
    };
    let mut wanted = wanted.map_err(TrainError::from)?;
    args.change(&mut wanted, &recipe.set)?;
    let base = Base::Recipe(Box::new(wanted));
    let (wanted, _) = args.config(&base, recorded.model.num_classes)?;
    let changes = diff::changes(recorded, &wanted);
    if changes.is_empty() {
        recorded.loader.workers = wanted.loader.workers;
        recorded.checkpoint_seconds = wanted.checkpoint_seconds;
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
        "--resume goes on with the settings of {}/config.json, and {} would change them ({}): leave it out, \
         or begin another run",
        folder.display(),
        asked.join(", "),
        listed_changes(&changes),
    )))
}

/// A line on what differs.
fn listed_changes(changes: &[Change]) -> String {
    let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

/// Begins what was asked for.
fn begin(
    job: &Job,
    output: &OutputArgs,
    resume: &ResumeArgs,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let progress = &mut session.progress;
    let counts = job.images.class_counts();
    let (mut config, scaling) = args.config(&job.base, counts.len())?;
    if let Some(from) = &resume.stage2_from {
        config.stage1 = stage1_of(from, &config, &job.base, args, progress)?;
    }
    let folder = match &resume.run {
        Some(folder) => folder.clone(),
        None => PathBuf::from("runs").join(args.run_name(&job.base, &config)),
    };
    let trains = output.write_recipe.is_none() && !args.dry_run;
    if trains && output.seeds.is_none() && RunPaths::new(&folder).is_run() {
        return Err(RunDirError::AlreadyARun(folder).into());
    }
    if scaling.is_none() && args.no_lr_scaling {
        args.check_scaling(&job.base, &config)?;
    }
    if let (Base::Recipe(recipe), None) = (&job.base, &job.plan) {
        let written = recipe.written(counts.len()).map_err(TrainError::from)?;
        let changes = diff::changes(&written, &config);
        if !changes.is_empty() {
            progress.message(&format!(
                "over {}: {}",
                recipe.file().display(),
                listed_changes(&changes)
            ));
        }
    }
    if let Some(scaling) = scaling {
        progress.message(&scaling.to_string());
    }
    if let Some(plan) = &job.plan {
        let choices = auto::given(plan.choices.clone(), &config);
        progress.message(&describe_plan(&choices, &plan.notes));
    }
    progress.message(&describe(&counts, &config));
    let turned = match config.train_pipeline.is_upright() {
        true => "they are turned upright",
        false => {
            "they are taken as they are stored; --exif turns them upright, here and in prediction"
        }
    };
    let pixels = Pixels::of([job.images.pictures()], PIXEL_SAMPLE);
    for line in pixel_lines(&pixels, turned) {
        progress.message(&format!("training pictures: {line}"));
    }
    if config.precision == Precision::Bf16 && !session.has_gpu() {
        session
            .progress
            .message("bfloat16 saves memory on a CPU, and takes several times as long as float32");
    }
    if let Some(file) = &output.write_recipe {
        return write_recipe(job, &config, file);
    }
    if args.dry_run {
        return dry_run(job, config, args, session);
    }
    if let Some(seeds) = output.seeds {
        return train_seeds(job, &config, &folder, seeds, args, session);
    }
    RunDir::check_free(&folder)?;
    let (source, data) = job.images.settle(&RunPaths::new(&folder).lists())?;
    let recipe = job.recipe(&config, &source)?;
    let learner = Learner::new(config, data, session.device.clone())?;
    check_images(&learner, args, &mut session.progress)?;
    let from = resume.stage2_from.clone();
    let recipe = recipe.as_deref();
    let mut run = learner.create_run_with_recipe(&folder, Some(source), from.clone(), recipe)?;
    let progress = &mut session.progress;
    let outcome = start(&learner, from, &mut run, progress, &session.stop)?;
    report(&outcome, &folder, progress);
    Ok(Trained::Run {
        folder,
        outcome,
        left_out: job.images.left_out(),
    })
}

/// Stage 1 of the run that this one takes it from, so that the configuration says what was done. Options for
/// it have to be what it was.
fn stage1_of(
    folder: &Path,
    asked: &TrainConfig,
    base: &Base,
    args: &TrainArgs,
    progress: &mut Progress,
) -> Result<StageConfig, CliError> {
    let paths = RunPaths::new(folder);
    if !paths.is_run() {
        return Err(RunDirError::NotARun(folder.to_owned()).into());
    }
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
    if let Base::Recipe(recipe) = base {
        // The schedule's peak is set as `lr`, too.
        let rate = fields
            .iter()
            .any(|field| field.starts_with("stage1.schedule"));
        let rate = rate.then(|| "stage1.lr".to_owned());
        let fields = fields.iter().chain(&rate);
        given.extend(fields.filter_map(|field| recipe.set_by(field)));
    }
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

/// Writes the recipe, with the lists of a split beside it.
fn write_recipe(job: &Job, config: &TrainConfig, file: &Path) -> Result<Trained, CliError> {
    if file.exists() {
        let message = format!("{} is there already: choose another name", file.display());
        return Err(CliError::Usage(message));
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let (source, _) = job
        .images
        .settle(&file.with_file_name(format!("{stem}-lists")))?;
    let Some(recipe) = job.recipe(config, &source)? else {
        let message = "--write-recipe is for pictures; CIFAR's settings are in datasets/";
        return Err(CliError::Usage(message.into()));
    };
    write_text(file, &recipe)?;
    Ok(Trained::Recipe(file.to_owned()))
}

/// Times a few steps.
fn dry_run(
    job: &Job,
    config: TrainConfig,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    // Lists that nobody asked for are not left behind.
    let lists = std::env::temp_dir().join(format!("shike-dry-run-{}", std::process::id()));
    let settled = job.images.settle(&lists);
    if matches!(job.images, Images::Unwritten(..)) {
        std::fs::remove_dir_all(&lists).ok();
    }
    let learner = Learner::new(config, settled?.1, session.device.clone())?;
    let unwritten = lists.display().to_string();
    for note in learner.notes().iter().filter(|n| !n.contains(&unwritten)) {
        session.progress.message(note);
    }
    check_images(&learner, args, &mut session.progress)?;
    print(&learner.dry_run(DRY_RUN_STEPS)?.to_string())?;
    Ok(Trained::Nothing)
}

/// Trains with several seeds; those that have ended before are passed over.
fn train_seeds(
    job: &Job,
    config: &TrainConfig,
    folder: &Path,
    seeds: u64,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let all = RunPaths::new(folder);
    let (source, data) = job.images.settle(&all.lists())?;
    let mut runs = Vec::new();
    for seed in (0..seeds).map(|i| config.seed.wrapping_add(i)) {
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
        check_images(&learner, args, &mut session.progress)?;
        let mut run = match paths.is_run() {
            true => RunDir::open(&folder)?.keep_last(config.keep_checkpoints),
            false => {
                let recipe = job.recipe(&config, &source)?;
                let source = Some(source.clone());
                learner.create_run_with_recipe(&folder, source, None, recipe.as_deref())?
            }
        };
        let progress = &mut session.progress;
        if let Outcome::Interrupted = start(&learner, None, &mut run, progress, &session.stop)? {
            progress.message("stopped with a checkpoint; the same command goes on");
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

fn write_text(path: &Path, text: &str) -> Result<(), CliError> {
    let written = atomic_write(path, |writer| writer.write_all(text.as_bytes()));
    Ok(written.map_err(TrainError::from)?)
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
    stop: &Stop,
) -> Result<Outcome, TrainError> {
    stop.training.store(true, Ordering::SeqCst);
    let mut session = shike_train::Session::new(run, progress, &stop.asked);
    let outcome = match stage2_from {
        Some(other) => learner.run_stage2_from(&RunPaths::new(other), &mut session),
        None => learner.run(&mut session),
    };
    stop.training.store(false, Ordering::SeqCst);
    outcome
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

/// A second Ctrl-C ends the program at once.
fn stop_on_ctrl_c() -> Arc<Stop> {
    let stop = Arc::new(Stop::default());
    let shared = Arc::clone(&stop);
    let handler = move || {
        let again = shared.asked.swap(true, Ordering::SeqCst);
        if again || !shared.training.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
        say("stopping after this step; press Ctrl-C again to stop at once");
    };
    // Without a handler Ctrl-C kills the run, which a resume survives as well.
    if let Err(error) = ctrlc::set_handler(handler) {
        say(&format!("Ctrl-C will end the run at once ({error})"));
    }
    stop
}

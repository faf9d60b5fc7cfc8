//! A run that begins.

use std::path::{Path, PathBuf};

use shike_data::inspect::Pixels;
use shike_data::write::write_bytes;
use shike_infer::{Precision, device};
use shike_train::recipe::Choice;
use shike_train::run::{RunDir, RunDirError, RunPaths};
use shike_train::{Learner, TrainConfig, TrainData};

use super::folds::train_folds;
use super::job::{Job, unwritten_lists};
use super::resume::stage1_of;
use super::seeds::train_seeds;
use super::session::Session;
use super::settings::{describe as table, settings};
use super::time::{deadline, plan_time};
use super::{OutputArgs, TrainArgs, Trained};
use crate::cli::inspect::{no_class_line, pixel_lines};
use crate::cli::{CliError, ResumeArgs, print};

/// Timed steps of a stage in a dry run.
const DRY_RUN_STEPS: usize = 3;

/// Training pictures whose headers are read for what a person should know of their pixels.
const PIXEL_SAMPLE: usize = 1000;

/// Begins what was asked for.
pub(super) fn begin(
    job: &Job,
    output: &OutputArgs,
    resume: &ResumeArgs,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let mut args = args.clone();
    args.images.pixels.settle([job.images.pictures()])?;
    let args = &args;
    let progress = &mut session.progress;
    let counts = job.images.class_counts();
    let (mut config, scaling) = args.config(&job.recipe, counts.len())?;
    if let Err(reason) = config.precision.check(&session.device)
        && device::is_host(&session.device)
    {
        progress.message(&format!(
            "{reason}: bfloat16 would take several times as long as float32, which is taken; SHIKE_KERNELS=portable in \
             the environment computes in bfloat16 all the same"
        ));
        config.precision = Precision::F32;
    }
    if let Some(from) = &resume.stage2_from {
        config.stage1 = stage1_of(from, &config, &job.recipe, args, progress)?;
    }
    let folder = match &resume.run {
        Some(folder) => folder.clone(),
        None => PathBuf::from("runs").join(args.run_name(&job.recipe, &config)),
    };
    let trains = output.write_recipe.is_none() && !args.run.dry_run;
    let several = output.seeds.is_some() || output.folds.is_some();
    if trains && !several && RunPaths::new(&folder).is_run() {
        return Err(RunDirError::AlreadyARun(folder).into());
    }
    if scaling.is_none() && args.steps.no_lr_scaling {
        args.check_scaling(&job.recipe, &config)?;
    }
    if let Some(scaling) = scaling {
        progress.message(&format!("{scaling}; --no-lr-scaling keeps the recipe's"));
    }
    let dealt = deal(&mut config, session.ranks.size())?;
    let data = job.images.data()?;
    let runs = output.seeds.or(output.folds).unwrap_or(1);
    let mut planned = None;
    let mut notes = job.plan.as_ref().map_or(vec![], |plan| {
        let of_none = no_class_line(job.images.pictures().class_names());
        plan.notes.iter().cloned().chain(of_none).collect()
    });
    if job.plan.is_some() || args.run.time.is_some() {
        let has_stage1 = resume.stage2_from.is_some();
        let (found, lines) = plan_time(&mut config, &data, has_stage1, runs, session)?;
        notes.extend(lines);
        planned = Some(found);
    }
    let progress = &mut session.progress;
    let mut settings = settings(&job.recipe, job.plan.as_ref(), &config, &args.given)?;
    for row in &mut settings {
        if let Some(why) = &dealt
            && DEALT.contains(&row.field.as_str())
        {
            row.reason.clone_from(why);
        }
    }
    progress.message(&match &job.plan {
        Some(_) => table(&settings, "why", &notes),
        None => table(&settings, "from", &notes),
    });
    progress.message(&describe(&counts, &config));
    let pixels = Pixels::of([job.images.pictures()], PIXEL_SAMPLE);
    for line in pixel_lines(&pixels, Some(&config.eval_pipeline)) {
        progress.message(&format!("training pictures: {line}"));
    }
    if let Some(file) = &output.write_recipe {
        return write_recipe(job, &settings, file);
    }
    if args.run.dry_run {
        return dry_run(config, data, args, session);
    }
    if let Some(seeds) = output.seeds {
        let of = (job, planned.as_ref());
        return train_seeds(of, &config, &folder, seeds, args, session);
    }
    if let Some(folds) = output.folds {
        let of = (job, planned.as_ref());
        return train_folds(of, &config, &folder, folds as usize, args, session);
    }
    RunDir::check_free(&folder)?;
    let (source, data) = job.images.settle(&RunPaths::new(&folder).lists())?;
    let recipe = job.written(&settings, &source)?;
    let learner = Learner::new(config, data, session.device.clone())?;
    let learner = learner.on_ranks(session.ranks.clone())?;
    let trunk = planned.as_mut().and_then(|planned| planned.trunk.take());
    let learner = learner.with_embedder(trunk);
    session.check_images(&learner, args)?;
    session.check_embedding(&learner, 1)?;
    let from = resume.stage2_from.clone();
    let mut run = learner.create_run(&folder, Some(source), from.clone(), Some(&recipe))?;
    let time = planned.map(|planned| planned.time);
    let deadline = deadline(time.as_ref(), learner.config(), 1, session);
    let outcome = session.start(&learner, from, &mut run, deadline)?;
    session.report(&outcome, &folder);
    Ok(Trained::Run {
        folder,
        outcome,
        left_out: learner.data().left_out(),
    })
}

/// What [`deal`] changes.
const DEALT: [&str; 2] = ["loader.batch_size", "accumulation"];

/// Cuts the batches of a step until they can be dealt to so many processes: the step stays the same. Why they are as they are
/// then, if they were cut.
fn deal(config: &mut TrainConfig, processes: usize) -> Result<Option<String>, CliError> {
    let (batches, size) = (config.accumulation, config.loader.batch_size);
    let common =
        (1..=processes).rfind(|n| batches.is_multiple_of(*n) && processes.is_multiple_of(*n));
    let cut = processes / common.unwrap_or(1);
    if cut == 1 || config.frozen.is_some() {
        return Ok(None);
    }
    if !size.is_multiple_of(cut) {
        let (less, more) = (size / cut * cut, size.div_ceil(cut) * cut);
        let other = match less {
            0 => more.to_string(),
            less => format!("{less} or {more}"),
        };
        return Err(CliError::Usage(format!(
            "a batch of {size} pictures cannot be divided by {cut} for {processes} processes: --batch-size {other} can"
        )));
    }
    (config.accumulation, config.loader.batch_size) = (batches * cut, size / cut);
    Ok(Some(format!(
        "dealt out: a step of {} pictures is {} batches of {} for {processes} processes",
        batches * size,
        config.accumulation,
        config.loader.batch_size
    )))
}

/// Writes the recipe, with the lists of a split beside it.
fn write_recipe(job: &Job, settings: &[Choice], file: &Path) -> Result<Trained, CliError> {
    if file.exists() {
        let message = format!("{} exists already: choose another name", file.display());
        return Err(CliError::Usage(message));
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let (source, _) = job
        .images
        .settle(&file.with_file_name(format!("{stem}-lists")))?;
    let recipe = job.written(settings, &source)?;
    write_bytes(file, recipe)?;
    Ok(Trained::Recipe(file.to_owned()))
}

/// Times a few steps.
fn dry_run(
    config: TrainConfig,
    data: TrainData,
    args: &TrainArgs,
    session: &mut Session,
) -> Result<Trained, CliError> {
    let learner = Learner::new(config, data, session.device.clone())?;
    let unwritten = unwritten_lists().display().to_string();
    for note in learner.notes().iter().filter(|n| !n.contains(&unwritten)) {
        session.progress.message(note);
    }
    session.check_images(&learner, args)?;
    let found = match learner.config().frozen {
        Some(_) => {
            let cache = session.cache_of(&learner);
            let found = learner.dry_run_frozen(DRY_RUN_STEPS, cache.as_ref())?;
            found.to_string()
        }
        None => learner.dry_run(DRY_RUN_STEPS)?.to_string(),
    };
    print(&found)?;
    Ok(Trained::Nothing)
}

fn describe(counts: &[usize], config: &TrainConfig) -> String {
    let (largest, smallest) = (counts.iter().max(), counts.iter().min());
    let with = match (&config.frozen, config.model.experts) {
        (Some(_), _) => String::new(),
        (None, 1) => " with 1 expert".into(),
        (None, experts) => format!(" with {experts} experts"),
    };
    format!(
        "{} training images, {} classes of {} to {}; {}{with}",
        counts.iter().sum::<usize>(),
        counts.len(),
        largest.unwrap_or(&0),
        smallest.unwrap_or(&0),
        match (&config.frozen, config.model.is_plain()) {
            (Some(_), _) => "a head on a frozen trunk",
            (None, true) => "plain network",
            (None, false) => "SHIKE",
        },
    )
}

//! `shike eval`, `shike export`, `shike compare`, `shike backends`.

use shike_data::Part;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use clap::Args;
use serde_json::json;
use shike_data::write::atomic_write;
use shike_data::{Dataset, Loader, LoaderConfig, image_folder_with_classes, list_file};
use shike_infer::metrics::{Evaluation, ShotThresholds};
use shike_infer::{Predictor, device};
use shike_model::weights;
use shike_train::report::compare::{ScoredRun, compare as compare_runs};
use shike_train::{DataSource, RunConfig, TrainError};

use super::model::say_resized;
use super::{CliError, ModelArgs, print, print_json, say, writable};

/// What a model is scored on.
#[derive(Args, Clone, Debug)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images: a folder with the model's class folders (or with them in `test/`), or the root of the
    /// list's paths. Default: those of the run.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// List of images, `path label` a line. Default: the run's own test images.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Which of the run's own images, where neither --data nor --list is given.
    #[arg(long, value_enum, conflicts_with_all = ["data", "list"])]
    split: Option<Part>,
    /// Classes with more training images than this are many-shot. Default: as in the run, or 100.
    #[arg(long, value_name = "N")]
    many_above: Option<usize>,
    /// Classes with fewer training images than this are few-shot. Default: as in the run, or 20.
    #[arg(long, value_name = "N")]
    few_below: Option<usize>,
    /// Write a CSV row a class.
    #[arg(long, value_name = "FILE")]
    per_class: Option<PathBuf>,
    /// Write a CSV row an image.
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scoring: ScoringArgs,
}

/// How images are put through a network.
#[derive(Args, Clone, Copy, Debug)]
pub struct ScoringArgs {
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Threads that decode; 0 takes one for each core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
}

impl ScoringArgs {
    /// Scores a model on these images.
    pub(super) fn score(
        self,
        predictor: &Predictor,
        images: &Dataset,
        thresholds: ShotThresholds,
    ) -> Result<Evaluation, CliError> {
        let config = LoaderConfig {
            batch_size: self.batch_size,
            workers: self.workers,
            ..LoaderConfig::default()
        };
        let sizes = (0..images.len()).filter_map(|i| images.header_size(i).ok());
        say_resized(predictor, sizes);
        let pipeline = predictor.pipeline().clone();
        let loader = Loader::new(images.clone(), pipeline, config, 0)?;
        Ok(predictor.evaluate(&loader, thresholds)?)
    }
}

impl EvalArgs {
    fn config(&self) -> Result<Option<RunConfig>, CliError> {
        let paths = self.model.paths();
        Ok(paths.map(|paths| RunConfig::read(&paths)).transpose()?)
    }

    /// The images, and what they are called above the table.
    fn images(
        &self,
        recorded: Option<&RunConfig>,
        names: &[String],
    ) -> Result<(Dataset, String), CliError> {
        let source = recorded.and_then(|config| config.data.as_ref());
        if let Some(list) = &self.list {
            let root = match (&self.data, source) {
                (Some(data), _) => data,
                (None, Some(DataSource::Lists { root, .. })) => root,
                (None, Some(DataSource::Folder { dir })) => dir,
                _ => {
                    let message = "--list needs --data, the folder that its paths are below";
                    return Err(CliError::Usage(message.into()));
                }
            };
            let images = list_file(root, list, None, Some(names.to_vec()))?;
            return Ok((images, list.display().to_string()));
        }
        if let Some(data) = &self.data {
            let test = data.join("test");
            let folder = if test.is_dir() { &test } else { data };
            let images = image_folder_with_classes(folder, names)?;
            return Ok((images, folder.display().to_string()));
        }
        let Some(source) = source else {
            let message =
                "this model knows no images of its own: give --data, or --data and --list";
            return Err(CliError::Usage(message.into()));
        };
        let data = source.open()?;
        let none = |part: &str| CliError::Absent(format!("the run has no {part} images"));
        let scored = || {
            [Part::Test, Part::Val]
                .into_iter()
                .find(|part| data.get(*part).is_some())
        };
        let part = self.split.or_else(scored);
        let part = part.ok_or_else(|| none("test or validation"))?;
        let images = data.get(part).ok_or_else(|| none(&part.to_string()))?;
        still_there(images, "give --data (and --list, where the run has lists)")?;
        Ok((images.clone(), format!("the run's {part} images")))
    }

    /// How many of the images that the user named were trained on, in the folder of the run or, where it
    /// was moved, in the one that is named. None are if the run's own images are in neither.
    fn trained_on(&self, recorded: Option<&RunConfig>, images: &Dataset) -> usize {
        let source = recorded.and_then(|config| config.data.as_ref());
        let Some(source) = source.filter(|_| self.data.is_some() || self.list.is_some()) else {
            return 0;
        };
        let moved = self.data.as_ref().map(|dir| source.clone().moved_to(dir));
        let places = [Some(source.clone()), moved];
        let opened = places.into_iter().flatten().map(|source| source.open());
        let trained: HashSet<PathBuf> = opened
            .flatten()
            .flat_map(|data| files(&data.train).collect::<Vec<_>>())
            .collect();
        files(images).filter(|file| trained.contains(file)).count()
    }
}

/// Refuses a run's images that are not where they were, with what to do.
pub(super) fn still_there(images: &Dataset, advice: &str) -> Result<(), CliError> {
    let (Some(root), false) = (images.root(), images.is_empty()) else {
        return Ok(());
    };
    let mut some = (0..images.len()).step_by(images.len().div_ceil(8));
    if some.any(|i| Path::new(&images.origin(i)).exists()) {
        return Ok(());
    }
    let call = match root.is_relative() {
        true => "call this from the folder that the run was trained from, or ",
        false => "",
    };
    Err(CliError::Absent(format!(
        "the run's images are not where they were: there is no {}; {call}{advice}",
        images.origin(0)
    )))
}

/// The files of the images, so that one can be told in whatever way its folder was named.
fn files(images: &Dataset) -> impl Iterator<Item = PathBuf> + '_ {
    (0..images.len()).filter_map(|i| fs::canonicalize(images.origin(i)).ok())
}

/// Scores a model and prints the table or JSON.
///
/// # Errors
/// If the model or an image cannot be read, or classes do not fit.
pub fn eval(args: &EvalArgs) -> Result<(), CliError> {
    for out in [&args.per_class, &args.predictions].into_iter().flatten() {
        writable(out)?;
    }
    let recorded = args.config()?;
    let predictor = args.model.load()?;
    let (images, name) = args.images(recorded.as_ref(), &predictor.info().class_names)?;
    if !images.left_out().is_empty() {
        say(&images.left_out().to_string());
    }
    let trained_on = args.trained_on(recorded.as_ref(), &images);
    if trained_on > 0 {
        say(&format!(
            "warning: {trained_on} of the {} images are among those that the run was trained on; \
             the accuracy on new images is lower",
            images.len()
        ));
    }
    let header = format!(
        "{} on {name}, {} classes",
        args.model.file()?.display(),
        predictor.info().class_names.len()
    );
    let recorded = recorded.map_or_else(ShotThresholds::default, |c| c.train.thresholds);
    let thresholds = ShotThresholds {
        many_above: args.many_above.unwrap_or(recorded.many_above),
        few_below: args.few_below.unwrap_or(recorded.few_below),
    };
    thresholds
        .validate()
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let evaluation = args.scoring.score(&predictor, &images, thresholds)?;
    let create = |path: &Path| File::create(path).map_err(CliError::file(path));
    if let Some(path) = &args.per_class {
        let names = &predictor.info().class_names;
        let written = evaluation.write_per_class_csv(create(path)?, names);
        written.map_err(CliError::file(path))?;
    }
    if let Some(path) = &args.predictions {
        let written = evaluation.write_predictions_csv(create(path)?, |i| images.origin(i));
        written.map_err(CliError::file(path))?;
    }
    match args.json {
        true => {
            let mut json = as_json(&evaluation, &predictor);
            json["left_out"] = json!(images.left_out());
            print_json(&json)
        }
        false => print(&format!("{header}\n{evaluation}")),
    }
}

/// The scores of the ensemble with their 95 % intervals, for programs.
pub(super) fn scores(evaluation: &Evaluation) -> serde_json::Value {
    let mut json = evaluation.to_json();
    json.insert("images".into(), json!(evaluation.images));
    json.into()
}

fn as_json(evaluation: &Evaluation, predictor: &Predictor) -> serde_json::Value {
    let mut json = json!(evaluation.to_json());
    json["class_names"] = json!(predictor.info().class_names);
    json["calibration"] = json!(evaluation.calibration(None));
    let tail_to_head = evaluation.tail_to_head().into_iter().take(20);
    json["tail_to_head"] = json!(tail_to_head.collect::<Vec<_>>());
    json["evaluation"] = json!(evaluation);
    json
}

/// Where a model's weights go.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// File for the weights under PyTorch's names: torchvision's for a plain ResNet, those of SHIKE's
    /// authors otherwise.
    #[arg(long, value_name = "FILE")]
    safetensors: PathBuf,
}

/// Writes a model's weights for PyTorch.
///
/// # Errors
/// If the model cannot be read or the file cannot be written.
pub fn export(args: &ExportArgs) -> Result<(), CliError> {
    if args.model.prior.is_some() {
        let message = "--prior changes predictions, not weights: leave it out";
        return Err(CliError::Usage(message.into()));
    }
    writable(&args.safetensors)?;
    let there = |path: &Path| fs::canonicalize(path).ok();
    let model = args.model.file()?;
    if there(&args.safetensors).is_some_and(|out| there(&model) == Some(out)) {
        let model = model.display();
        let message = format!("{model} is the model that is exported: choose another name");
        return Err(CliError::Usage(message));
    }
    let predictor = args.model.load()?;
    let info = predictor.info();
    let steps = i64::try_from(info.steps).unwrap_or(i64::MAX);
    // What whoever loads them has to know; values of safetensors metadata are text.
    let entries = [
        ("class_names", serde_json::to_string(&info.class_names)),
        ("pipeline", serde_json::to_string(&info.pipeline)),
        ("normalization", serde_json::to_string(&info.normalization)),
    ];
    let metadata: serde_json::Result<_> = entries
        .into_iter()
        .map(|(key, text)| Ok((key.to_owned(), text?)))
        .collect();
    let metadata: BTreeMap<_, _> = metadata.map_err(|error| CliError::Format(error.to_string()))?;
    let bytes = weights::to_safetensors(predictor.model(), steps, &metadata, false);
    let bytes = bytes.map_err(TrainError::from)?;
    atomic_write(&args.safetensors, |writer| writer.write_all(&bytes)).map_err(TrainError::from)?;
    print(&format!("{}", args.safetensors.display()))
}

/// Runs that are compared.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Folders of finished runs. Those that differ in their seed alone count as one method; every method
    /// is set against that of the first run.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
}

/// Compares runs.
///
/// # Errors
/// If a run has not ended, or they were not scored on the same images and classes.
pub fn compare(args: &CompareArgs) -> Result<(), CliError> {
    let runs = args.runs.iter().map(ScoredRun::read);
    let comparison = compare_runs(&runs.collect::<Result<Vec<_>, _>>()?)?;
    match args.json {
        true => print_json(&json!(comparison)),
        false => print(&comparison.to_string()),
    }
}

/// How backends are tried.
#[derive(Args, Clone, Debug)]
pub struct BackendsArgs {
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
}

/// How long a backend computes for its check.
const CHECK: Duration = Duration::from_secs(1);

/// Tries every backend of this binary for a second; gives whether one works.
///
/// # Errors
/// If nothing can be printed.
pub fn backends(args: &BackendsArgs) -> Result<bool, CliError> {
    let mut any = false;
    for name in device::available() {
        let found = device::parse(name)
            .map_err(|error| error.reason().to_owned())
            .and_then(|device| device::attempt(name, || Ok(gflops(&device))));
        any |= found.is_ok();
        match (args.json, found) {
            (true, Ok(speed)) => {
                print_json(&json!({"backend": name, "works": true, "gflops": speed}))?;
            }
            (true, Err(error)) => {
                print_json(&json!({"backend": name, "works": false, "error": error}))?;
            }
            (false, Ok(speed)) => print(&format!(
                "{name:<8} works: {speed:.0} GFLOP/s in matrix products of float32"
            ))?,
            (false, Err(error)) => print(&format!("{name:<8} does not work: {error}"))?,
        }
    }
    Ok(any)
}

/// Billions of floating-point operations a second in matrix products.
fn gflops(device: &Device) -> f64 {
    const SIDE: usize = 512;
    let a = Tensor::<2>::random([SIDE, SIDE], Distribution::Default, device);
    let product = || a.clone().matmul(a.clone()).sum().into_scalar::<f32>();
    product();
    let (started, mut runs) = (Instant::now(), 0);
    while started.elapsed() < CHECK {
        std::hint::black_box(product());
        runs += 1;
    }
    let operations = 2.0 * (SIDE as f64).powi(3) * f64::from(runs);
    operations / started.elapsed().as_secs_f64() / 1e9
}

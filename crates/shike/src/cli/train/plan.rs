//! Pictures without a recipe: looks at them, splits and plans the run, and says why.

use std::path::Path;

use shike_data::dataset::some_names;
use shike_data::split::{self, SplitConfig, SplitError, SplitPlan};
use shike_data::{Dataset, Part};
use shike_hub::Environment;
use shike_infer::metrics::ShotThresholds;
use shike_model::weights;
use shike_train::recipe::auto::{DeviceKind, Facts, MAX_BAD_SHARE};
use shike_train::recipe::{self, auto};
use shike_train::{DataSource, Progress, Recipe, RecipeError, TrainError};

use super::TrainArgs;
use super::job::{Images, Job, looked_at, trained_on, unsplit};
use crate::cli::CliError;
use crate::cli::inspect::group_lines;
use crate::cli::weights::at_hand;

/// Shares of the pictures that are kept back, and what is tried where every class is too small.
const SHARES: [(f64, f64); 2] = [(0.1, 0.2), (0.0, 0.2)];

/// Pictures whose headers are read for their size.
const SAMPLE: usize = 200;

/// Looks at pictures and plans a run; a folder without validation and test images is to be split.
pub(super) fn planned(
    source: DataSource,
    data: &Path,
    (config, folds): (&SplitConfig, bool),
    gpu: bool,
    args: &TrainArgs,
    set: &[String],
    progress: &mut Progress,
) -> Result<Job, CliError> {
    if args.tuning.weights.is_none() {
        let at_hand = match at_hand(Environment::of_process()).as_slice() {
            [] => String::new(),
            names => format!("; here lie {}", names.join(", ")),
        };
        progress.message(&format!(
            "training from random weights costs 20 to 25 points of accuracy where classes have few pictures: a \
             head on a pretrained trunk (--weights NAME) takes minutes{at_hand}"
        ));
    }
    let mut notes = Vec::new();
    let unsplit = match &source {
        _ if folds => None,
        DataSource::Folder { dir } => {
            let parts = unsplit(dir)?;
            parts
                .map(|parts| parts.open(true))
                .transpose()?
                .map(|(pictures, ..)| pictures)
        }
        DataSource::Lists {
            val: None,
            test: None,
            ..
        } if !config.group_by.is_empty() || source.is_unsplit_list() => Some(source.open()?.train),
        _ => None,
    };
    let images = match unsplit {
        Some(pictures) => split_pictures(pictures, source, config, &mut notes, progress)?,
        None => {
            let data = source.open()?;
            Images::given(source, data, config, folds)?
        }
    };
    notes.extend(images.taken());
    let file = args.tuning.weights.as_ref().filter(|path| !path.is_dir());
    let recognised = file.map(weights::recognise).transpose()?.flatten();
    let default = ShotThresholds::default();
    let facts = Facts {
        class_counts: images.class_counts(),
        sizes: sizes(images.pictures()),
        scored: match &images {
            Images::Source(_, data) | Images::Listed(_, data) => {
                // Each fold has test images of its own.
                [data.val.is_some() && !folds, data.test.is_some() || folds]
            }
            Images::Unwritten(plan, _) => {
                [Part::Val, Part::Test].map(|part| plan.record().lists.contains_key(&part))
            }
        },
        device: if gpu {
            DeviceKind::Gpu
        } else {
            DeviceKind::Cpu
        },
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        arch: args.network()?,
        experts: args.network.experts,
        image_size: args.images.image_size,
        fit: args.images.pixels.fit,
        epochs: args.steps.epochs,
        hours: args.run.time.map(|time| time.as_secs_f64() / 3600.0),
        weights: args.tuning.weights.as_ref().map(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        }),
        recognised,
        parts: args.tuning.lr_backbone.is_some() || !args.tuning.freeze.is_empty() || {
            use shike_model::Part::{self, Fusion, Heads};
            let own = |part: &Part| matches!(part, Fusion | Heads);
            args.tuning.part_lr.iter().any(|(part, _)| !own(part))
        },
        thresholds: ShotThresholds {
            many_above: args.run.many_above.unwrap_or(default.many_above),
            few_below: args.run.few_below.unwrap_or(default.few_below),
        },
    };
    let unusable = |error| CliError::Absent(format!("{}: {error}", data.display()));
    let mut plan = auto::plan(&facts).map_err(unusable)?;
    if let Some((arch, file)) = frozen(args, set, recognised)? {
        plan = auto::plan_frozen(&arch, &file, &facts);
        notes.push(format!(
            "the trunk of {file} stays frozen; an option about training, such as --epochs 30, fine-tunes it instead"
        ));
    }
    notes.append(&mut plan.notes);
    plan.notes = notes;
    let name = data.file_stem().unwrap_or("pictures".as_ref());
    let file = Path::new(name).with_extension("toml");
    let text = recipe::text("", &plan.choices);
    let recipe = Recipe::parse(file, &text).map_err(|error| match error {
        // Nobody has written this recipe: an option is wrong.
        RecipeError::Config { source, .. } => TrainError::Config(*source),
        other => other.into(),
    })?;
    let recipe = recipe.for_source(&DataSource::Folder {
        dir: data.to_owned(),
    });
    Ok(Job {
        images,
        plan: Some(plan),
        recipe,
        group_by: config.group_by.clone(),
    })
}

/// Network and file of the weights, if their trunk is to stay frozen: nothing that was given says how to train it.
fn frozen(
    args: &TrainArgs,
    set: &[String],
    recognised: Option<&'static str>,
) -> Result<Option<(String, String)>, CliError> {
    let Some(path) = args.tuning.weights.as_ref().filter(|path| !path.is_dir()) else {
        return Ok(None);
    };
    if args.says_how_to_train(set) {
        return Ok(None);
    }
    let arch = match (args.network()?, recognised) {
        (Some(arch), _) => arch,
        (None, Some(arch)) => arch.to_owned(),
        // What is wrong with them is told where they are read.
        (None, None) => return Ok(None),
    };
    let path = std::path::absolute(path).map_err(CliError::file(path))?;
    let file = path.to_str().ok_or_else(|| {
        CliError::Usage(format!(
            "{}: this path is not UTF-8, and a recipe is",
            path.display()
        ))
    })?;
    Ok(Some((arch, file.to_owned())))
}

/// Reads every picture of a folder of classes, or of a list, and splits it.
fn split_pictures(
    pictures: Dataset,
    source: DataSource,
    config: &SplitConfig,
    notes: &mut Vec<String>,
    progress: &mut Progress,
) -> Result<Images, CliError> {
    let total = pictures.len();
    progress.message(&format!(
        "no validation or test images: looking at {total} pictures to split them"
    ));
    notes.extend(pictures.notes().iter().cloned());
    let found = looked_at(&pictures)?;
    let bad = found.unreadable.len();
    if bad as f64 > MAX_BAD_SHARE * total as f64 && bad > 1 {
        let first = &found.unreadable[0];
        return Err(CliError::Absent(format!(
            "{}: {bad} of {total} pictures cannot be read, more than {} %, such as {} ({}): `shike inspect` \
             names them; remove them, or split with `shike inspect --split`, which leaves them out",
            pictures.root().unwrap_or(Path::new("")).display(),
            100.0 * MAX_BAD_SHARE,
            first.image.file,
            first.reason,
        )));
    }
    let mut planned = None;
    for (val, test) in SHARES {
        let config = SplitConfig {
            val,
            test,
            ..config.clone()
        };
        match split::plan(&pictures, &found, &config) {
            Ok(plan) => {
                planned = Some(plan);
                break;
            }
            Err(SplitError::Empty { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let Some(plan) = planned else {
        notes.push(match config.group_by.is_empty() {
            true => "every class is too small to keep pictures back for a test".into(),
            false => "every class has too few groups to keep one back for a test".into(),
        });
        let data = source.open()?;
        // There is nothing that could be parted.
        return Images::given(source, data, config, true);
    };
    notes.extend(said_of(&plan, bad));
    notes.extend(group_lines(&found, &pictures, &config.group_by));
    let pictures = trained_on(&plan, &pictures);
    Ok(Images::Unwritten(Box::new(plan), pictures))
}

/// What a person should know of a split.
fn said_of(plan: &SplitPlan, bad: usize) -> Vec<String> {
    let record = plan.record();
    let size = |part| record.lists.get(&part).map_or(0, |list| list.images);
    let mut notes = vec![format!(
        "split: {} pictures for training, {} for validation, {} for test, each class by itself, drawn \
         with seed {}",
        size(Part::Train),
        size(Part::Val),
        size(Part::Test),
        record.config.seed,
    )];
    if bad > 0 {
        notes.push(format!(
            "split: {bad} picture{} cannot be read and {} in no list (split.json names {})",
            if bad == 1 { "" } else { "s" },
            if bad == 1 { "is" } else { "are" },
            if bad == 1 { "it" } else { "them" },
        ));
    }
    match record.duplicates.groups {
        0 => {}
        1 => notes.push("split: 1 group of equal pictures, all in one list".into()),
        n => notes.push(format!(
            "split: {n} groups of equal pictures, each in one list"
        )),
    }
    match record.duplicates.across_classes {
        0 => {}
        n => notes.push(format!(
            "split: {n} of them under several classes: `shike inspect` names them; only one can be right"
        )),
    }
    let of = |class: &&split::SplitClass, part| class.images.get(&part).copied().unwrap_or(0);
    let single = |class: &&split::SplitClass| class.images.values().sum::<usize>() == 1;
    let named = |kind: &dyn Fn(&&split::SplitClass) -> bool| -> Vec<&str> {
        let classes = record.classes.iter().filter(kind);
        classes.map(|class| class.name.as_str()).collect()
    };
    let singles = named(&single);
    if !singles.is_empty() {
        notes.push(format!(
            "split: with one picture, which is trained on, and so not to be measured: {}",
            some_names(&singles)
        ));
    }
    let small = named(&|class| !single(class) && of(class, Part::Test) == 0);
    if !small.is_empty() {
        notes.push(format!(
            "split: too small for a test picture, and so not to be measured: {}",
            some_names(&small)
        ));
    }
    let left_out = &record.left_out;
    // Those without a file are told already.
    let told = |class: &&str| {
        left_out
            .folder
            .empty_classes
            .iter()
            .any(|empty| empty == class)
    };
    let names: Vec<&str> = left_out.classes.iter().map(String::as_str).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !told(name)).collect();
    if !names.is_empty() {
        notes.push(format!(
            "split: left out, without a picture that can be read: {}",
            some_names(&names)
        ));
    }
    notes
}

/// Sizes of pictures all over the data set, from their headers.
fn sizes(data: &Dataset) -> Vec<[u32; 2]> {
    let step = data.len().div_ceil(SAMPLE).max(1);
    let sampled = (0..data.len()).step_by(step);
    sampled.filter_map(|i| data.header_size(i).ok()).collect()
}

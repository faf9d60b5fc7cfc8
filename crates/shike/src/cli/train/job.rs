//! What a run is about to do: the images, and what is to be done with them.

use std::path::{Path, PathBuf};

use shike_data::dataset::{FolderParts, LeftOut};
use shike_data::inspect::{self as look, Depth, InspectConfig, Inspection};
use shike_data::read::read_to_string;
use shike_data::split::{self, GroupBy, SplitConfig, SplitPlan, SplitRecord, is_inside};
use shike_data::{Dataset, Part};
use shike_train::recipe::auto::Plan;
use shike_train::recipe::{self, Choice, GIVEN};
use shike_train::run::RunPaths;
use shike_train::{DataSource, Progress, Recipe, TrainData};

use super::lists::Lists;
use crate::cli::counter::Counter;
use crate::cli::inspect::describe_taken;
use crate::cli::{CliError, SplitArgs};

/// Classes that are named where groups keep a split from what it is to be.
const SHOWN: usize = 5;

/// Images, and what is to be done with them.
pub(super) struct Job {
    pub images: Images,
    pub recipe: Recipe,
    /// What was chosen for the images, where nobody said what is to be done.
    pub plan: Option<Plan>,
    /// What folds keep together.
    pub group_by: Vec<GroupBy>,
}

impl Job {
    pub fn known(
        given: Option<(DataSource, Recipe)>,
        (split, folds): (&SplitArgs, bool),
        progress: &mut Progress,
    ) -> Result<Self, CliError> {
        let Some((source, recipe)) = given else {
            return Err(CliError::Usage(
                "no images: give --data DIR (or --resume RUN to go on with a run)".into(),
            ));
        };
        let card = recipe.card()?;
        let data = source.open().inspect_err(|_| {
            if let Some(card) = &card {
                progress.message(&card.instructions());
            }
        })?;
        for line in card.iter().flat_map(|card| card.compare(&data)) {
            progress.message(&line);
        }
        let config = split.config(&source);
        let images = Images::given(source, data, &config, folds)?;
        for line in images.taken() {
            progress.message(&line);
        }
        Ok(Self {
            images,
            recipe,
            plan: None,
            group_by: config.group_by,
        })
    }

    /// The settings and the images as a recipe: with it, `shike train` repeats the run.
    pub fn written(&self, settings: &[Choice], source: &DataSource) -> Result<String, CliError> {
        let mut head = match self.plan {
            Some(_) => format!(
                "What `shike train` chose for these pictures, and why; \"{GIVEN}\" is what was asked for, or \
                 follows from it.\n"
            ),
            None => "What `shike train` was asked for, and where it is from; the rest has its default.\n".into(),
        };
        head += "To train with it, changed or not: shike train THIS-FILE --run RUN";
        let mut all = data_fields(source)?;
        all.extend_from_slice(settings);
        Ok(recipe::text(&head, &all))
    }
}

/// Where the images of a run are.
pub(super) enum Images {
    /// On the disk, split already.
    Source(DataSource, Box<TrainData>),
    /// In one folder, with a split that is yet to be written; its training images.
    Unwritten(Box<SplitPlan>, Dataset),
    /// In lists that are yet to be written.
    Listed(Lists, Box<TrainData>),
}

impl Images {
    /// Those of parts that are given, of which lists are written where classes are bounded, or groups are to lie in one part.
    ///
    /// `folds`: they are dealt into folds later, which keep groups.
    pub fn given(
        source: DataSource,
        data: TrainData,
        config: &SplitConfig,
        folds: bool,
    ) -> Result<Self, CliError> {
        let parts: Vec<_> = data
            .parts()
            .map(|(part, data)| (part, data.clone()))
            .collect();
        let grouped = !config.group_by.is_empty() && !folds;
        if grouped && parts.len() < 2 {
            let message = "--group-by says what lies in one part, and with a recipe nothing is split: these pictures are \
                           all trained on; `shike inspect --split` writes lists for it";
            return Err(CliError::Usage(message.into()));
        }
        if !grouped && config.min_images.is_none() && config.max_images.is_none() {
            return Ok(Self::Source(source, Box::new(data)));
        }
        let sets: Vec<&Dataset> = parts.iter().map(|(_, data)| data).collect();
        let found = grouped.then(|| looked_at(&Dataset::side_by_side(&sets)?));
        let plan = split::bound(&parts, found.transpose()?.as_ref(), config)?;
        let pictures = trained_on(&plan, &data.train);
        Ok(Self::Unwritten(Box::new(plan), pictures))
    }

    /// What a split took of the pictures, in lines.
    pub fn taken(&self) -> Vec<String> {
        match self {
            Self::Source(..) | Self::Listed(..) => vec![],
            Self::Unwritten(plan, _) => {
                let record = plan.record();
                let text = describe_taken(record, SHOWN);
                let lines = text.lines().map(|line| format!("split: {}", line.trim()));
                // Who splits has told it of all pictures.
                let given = record.config.val + record.config.test == 0.0;
                let left_out = given.then_some(&record.left_out.folder);
                let left_out = left_out.filter(|of| !of.is_empty());
                lines.chain(left_out.map(ToString::to_string)).collect()
            }
        }
    }

    /// Training images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        match self {
            Self::Source(_, data) | Self::Listed(_, data) => data.train.class_counts(),
            Self::Unwritten(plan, _) => {
                let classes = plan.record().classes.iter();
                classes
                    .map(|class| class.images.get(&Part::Train).copied().unwrap_or(0))
                    .collect()
            }
        }
    }

    /// The training images.
    pub fn pictures(&self) -> &Dataset {
        match self {
            Self::Source(_, data) | Self::Listed(_, data) => &data.train,
            Self::Unwritten(_, pictures) => pictures,
        }
    }

    /// Images in lists that are yet to be written, and what was not taken for them, which no list says.
    pub fn listed(lists: Lists, left_out: LeftOut) -> Result<Self, CliError> {
        let folder = unwritten_lists();
        let source = lists.write(&folder);
        let data = source.and_then(|source| Ok(source.open()?));
        std::fs::remove_dir_all(&folder).ok();
        let mut data = data?;
        data.train = data.train.with_left_out(left_out);
        Ok(Self::Listed(lists, Box::new(data)))
    }

    /// The images; lists of a split that is not written yet are not left behind.
    pub fn data(&self) -> Result<TrainData, CliError> {
        match self {
            Self::Source(_, data) | Self::Listed(_, data) => Ok((**data).clone()),
            Self::Unwritten(..) => {
                let lists = unwritten_lists();
                let settled = self.settle(&lists);
                std::fs::remove_dir_all(&lists).ok();
                Ok(settled?.1)
            }
        }
    }

    /// Writes the lists of a split into `lists`, if there is one, and reads them.
    pub fn settle(&self, lists: &Path) -> Result<(DataSource, TrainData), CliError> {
        let (source, left_out) = match self {
            Self::Source(source, data) => return Ok((source.clone(), (**data).clone())),
            Self::Listed(written, data) => (written.write(lists)?, Some(data.train.left_out())),
            Self::Unwritten(plan, _) => (Lists::of(plan)?.write(lists)?, None),
        };
        let mut data = source.open()?;
        if let Some(left_out) = left_out {
            data.train = data.train.with_left_out(left_out.clone());
        }
        Ok((source, data))
    }
}

/// What is equal or looks alike, and when pictures were taken.
pub(super) fn looked_at(pictures: &Dataset) -> Result<Inspection, CliError> {
    let counter = Counter::new(pictures.len(), "checked");
    let config = InspectConfig {
        depth: Depth::Full,
        ..InspectConfig::default()
    };
    let parts = [(Part::Train, pictures.clone())];
    let found = look::inspect(&parts, &config, &|done| counter.show(done));
    counter.clear();
    Ok(found?)
}

/// Where the lists of a split are for as long as they are read.
pub(super) fn unwritten_lists() -> PathBuf {
    std::env::temp_dir().join(format!("shike-lists-{}", std::process::id()))
}

/// The pictures of a training list, in its order.
pub(super) fn trained_on(plan: &SplitPlan, pictures: &Dataset) -> Dataset {
    let is_train = |i: &usize| plan.parts[*i] == Some(Part::Train);
    let train: Vec<usize> = (0..pictures.len()).filter(is_train).collect();
    pictures.select(&train)
}

/// The lists of a split that was written into `lists`.
pub(super) fn listed(root: &Path, lists: &Path) -> DataSource {
    let list = |name: &str| Some(lists.join(name)).filter(|path| path.exists());
    DataSource::Lists {
        root: root.to_owned(),
        train: lists.join("train.txt"),
        val: list("val.txt"),
        test: list("test.txt"),
        class_names: list("classes.txt"),
        groups: list("groups.txt"),
        columns: Default::default(),
    }
}

/// Where the classes in `dir` are, if there are no validation and no test images beside them.
pub(super) fn unsplit(dir: &Path) -> Result<Option<FolderParts>, CliError> {
    let parts = FolderParts::find(dir)?;
    let scored = parts.val.is_some() || parts.test.is_some();
    Ok((!scored).then_some(parts))
}

/// Refuses a run below the folder whose folders are classes.
pub(super) fn outside(run: Option<&Path>, source: &DataSource) -> Result<(), CliError> {
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
/// train on the same. Other images than those that were split are refused.
pub(super) fn split_before(
    paths: &RunPaths,
    given: &DataSource,
    config: &SplitConfig,
) -> Result<Option<DataSource>, CliError> {
    let record = paths.lists().join("split.json");
    if !record.is_file() {
        return Ok(None);
    }
    let text = read_to_string(&record).map_err(CliError::file(&record))?;
    let record: SplitRecord = serde_json::from_str(&text)
        .map_err(|error| CliError::Format(format!("{}: {error}", record.display())))?;
    let split = match given {
        DataSource::Folder { dir } => match unsplit(dir)? {
            Some(parts) => Some(parts.train),
            None => Some(dir.clone()),
        },
        DataSource::Lists { root, .. } => Some(root.clone()),
        _ => None,
    };
    let folder = |path: &Path| std::fs::canonicalize(path).ok();
    if split.and_then(|split| folder(&split)) != folder(&record.data) {
        let (lists, data) = (paths.lists(), record.data.display());
        return Err(CliError::Usage(format!(
            "the seeds in {} train on the split of {data} in {}: give --data {data}, or another --run",
            paths.root().display(),
            lists.display()
        )));
    }
    let made = SplitConfig {
        val: config.val,
        test: config.test,
        ..record.config
    };
    if made != *config {
        let by = made.group_by.iter().map(|by| format!(" --group-by {by}"));
        let min = made
            .min_images
            .iter()
            .map(|min| format!(" --min-images {min}"));
        let max = made
            .max_images
            .iter()
            .map(|max| format!(" --max-images {max}"));
        let options = by.chain(min).chain(max).reduce(|a, b| a + &b);
        return Err(CliError::Usage(format!(
            "the seeds in {} train on a split that was made with{}: give the same, or another --run",
            paths.root().display(),
            options
                .as_deref()
                .unwrap_or(" none of --group-by, --min-images and --max-images"),
        )));
    }
    Ok(Some(listed(&record.data, &paths.lists())))
}

/// Where the images are, as a recipe has it.
fn data_fields(source: &DataSource) -> Result<Vec<Choice>, CliError> {
    let path = |path: &Path| -> Result<serde_json::Value, CliError> {
        let path = std::path::absolute(path).map_err(CliError::file(path))?;
        match path.to_str() {
            Some(path) => Ok(path.into()),
            None => Err(CliError::Usage(format!(
                "{}: this path is not UTF-8, and a recipe is",
                path.display()
            ))),
        }
    };
    let why = "where the images are; --data DIR overrides it";
    let mut fields = Vec::new();
    for (name, file) in source.clone().paths() {
        match fields.is_empty() {
            true => fields.push(Choice::new("data_dir", path(file)?, why)),
            false => fields.push(Choice::new(&format!("data.{name}"), path(file)?, "")),
        }
    }
    let layout = serde_json::json!(source);
    for name in ["kind", "set", "profile", "imbalance_factor"] {
        let value = layout.get(name).into_iter();
        fields.extend(value.map(|value| Choice::new(&format!("data.{name}"), value.clone(), "")));
    }
    let columns = layout
        .get("columns")
        .and_then(|columns| columns.as_object());
    for (name, value) in columns.into_iter().flatten() {
        fields.push(Choice::new(
            &format!("data.columns.{name}"),
            value.clone(),
            "",
        ));
    }
    Ok(fields)
}

//! Recipes: what a run does, in TOML that a person writes.
//!
//! A recipe has the fields of a [`TrainConfig`], each of which may be left out. Networks, pipelines and
//! normalisations can be named instead of spelt out. `[data]` says what lies in the folder with the
//! images, `[dataset]` what is known about a benchmark. docs/RECIPES.md describes the format.
//!
//! ```
//! use shike_train::recipe::Recipe;
//!
//! let text = r#"
//!     train_pipeline = "randcls"
//!     [model]
//!     arch = "resnet50"
//!     [stage1]
//!     epochs = 90
//!     lr = 0.1
//! "#;
//! let mut recipe = Recipe::parse("birds.toml", text)?;
//! recipe.set(&["stage1.loss.kind=ldam"])?;
//! let config = recipe.config(12)?;
//! assert_eq!(config.stage1.epochs, 90);
//!
//! let error = Recipe::parse("birds.toml", "acumulation = 2").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "birds.toml:1: unknown field `acumulation` in a recipe: did you mean `accumulation`?"
//! );
//! # Ok::<(), shike_train::recipe::RecipeError>(())
//! ```

pub mod auto;
mod card;
mod error;
mod expand;
mod pictures;
mod scale;
mod tree;
mod write;

use std::path::{Path, PathBuf};

use figment::error::{Error, Kind};
use serde_json::{Value, json};
use shike_data::read::read_to_string;
use shike_model::LossConfig;

pub use self::card::{Card, KnownSplit, Published};
pub use self::error::{Names, Place, RecipeError};
use self::error::{in_words, nearest};
use self::expand::{Expanded, Images, expand};
pub use self::scale::{Scaling, scale_rates};
use self::tree::{Content, Node};
pub use self::write::{Choice, GIVEN, text, to_toml};
use crate::config::schedule::Schedule;
use crate::config::source::DataSource;
use crate::config::stage::Stage2;
use crate::config::{TrainConfig, TrainConfigError};

/// Classes where nobody has said how many there are.
const SOME_CLASSES: usize = 1000;

/// A recipe that has been read and makes sense.
#[derive(Clone, Debug)]
pub struct Recipe {
    file: PathBuf,
    tree: Node,
    /// As it was before anything was set.
    file_tree: Node,
    /// Images of a step as the file has it.
    batch: usize,
    classes: usize,
    /// What the images are, where somebody has said it.
    images: Option<Images>,
}

impl Recipe {
    /// Reads a file.
    ///
    /// # Errors
    /// [`RecipeError`], with the line of what is wrong.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, RecipeError> {
        let path = path.into();
        match read_to_string(&path) {
            Ok(text) => Self::parse(path, &text),
            Err(source) => Err(RecipeError::Read { path, source }),
        }
    }

    /// Reads text; `file` is what errors call it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(file: impl Into<PathBuf>, text: &str) -> Result<Self, RecipeError> {
        let file = file.into();
        let tree = Node::parse(&file, text)?;
        let mut recipe = Self {
            file_tree: tree.clone(),
            tree,
            file,
            batch: 0,
            classes: SOME_CLASSES,
            images: None,
        };
        let card = recipe.expand(SOME_CLASSES)?.card;
        recipe.check_effects()?;
        recipe.classes = card.and_then(|card| card.classes).unwrap_or(SOME_CLASSES);
        recipe.batch = images_of_a_step(&recipe.config(recipe.classes)?);
        Ok(recipe)
    }

    /// The same recipe for these images, whatever its `[data]` says: what it leaves out of pipelines and
    /// normalisation is then CIFAR's for CIFAR's pictures of 32×32 pixels, and resizes all others. Without
    /// both, a network for small images is taken to be for CIFAR where no `image_size` is given.
    #[must_use]
    pub fn for_source(mut self, source: &DataSource) -> Self {
        self.images = Some(Images::of(source));
        self
    }

    /// The file that it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Changes fields: each assignment is `PATH=VALUE`, where the path is that in `config.json` or in
    /// the recipe (`stage1.loss.kind`, `train_pipeline.transforms[0].size`) and the value is TOML; text
    /// needs no quotes. To choose another `kind`, `method` or `arch` takes away the fields that the old
    /// one had.
    ///
    /// # Errors
    /// As [`read`](Self::read); the message names the assignment.
    pub fn set<S: AsRef<str>>(&mut self, assignments: &[S]) -> Result<(), RecipeError> {
        let mut assignments: Vec<&str> = assignments.iter().map(AsRef::as_ref).collect();
        // What chooses a kind comes first, whatever the order on the command line.
        assignments.sort_by_key(|text| {
            let path = text.split('=').next().unwrap_or_default().trim();
            let is_tag = tree::is_tag(path.rsplit('.').next().unwrap_or_default());
            (path != "model.plain", !is_tag)
        });
        let mut changed = self.clone();
        for assignment in assignments {
            changed.tree.assign(assignment)?;
        }
        changed.check_effects()?;
        changed.config(self.classes)?;
        *self = changed;
        Ok(())
    }

    /// Makes the network plain, as `model.plain = true` does: what the recipe has of experts, fusion and
    /// classifiers is taken away, and its loss unless it is cross-entropy.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn make_plain(&mut self) -> Result<(), RecipeError> {
        self.tree.clear_for_plain();
        self.set(&["model.plain=true"])
    }

    /// The assignment that has [set](Self::set) the field at this path or something below it; with a dot
    /// at its end, below it alone.
    pub fn set_by(&self, path: &str) -> Option<String> {
        let keys: Vec<&str> = path.split('.').filter(|key| !key.is_empty()).collect();
        let mut found = None;
        self.tree.at(&keys)?.visit(&mut vec![], &mut |below, node| {
            if let (Place::Option(text), None) = (&node.place, &found)
                && (!path.ends_with('.') || !below.is_empty())
            {
                found = Some(text.clone());
            }
        });
        found
    }

    /// Refuses fields of a stage 2 that has no epochs, and of a warm-up that is none. Those of the file
    /// are no mistake where something else was set.
    fn check_effects(&self) -> Result<(), RecipeError> {
        let wrong = |node: &Node, path: &str, problem: &str| {
            Err(RecipeError::Value {
                place: node.place.clone(),
                path: path.to_owned(),
                problem: problem.to_owned(),
            })
        };
        let is_set = |node: &Node| matches!(node.place, Place::Option(_));
        let is_zero = |node: &Node| matches!(&node.content, Content::Scalar(n) if n == 0);
        if let Some(epochs) = self.tree.at(&["stage2", "epochs"]).filter(|n| is_zero(n))
            && let Content::Table(fields) = &self.tree.nearest(&["stage2".into()]).content
        {
            let others = fields.iter().filter(|(key, _)| key != "epochs");
            let idle = others.filter(|(_, node)| is_set(node) || !is_set(epochs));
            if let Some((key, node)) = idle.clone().next() {
                let path = format!("stage2.{key}");
                return wrong(
                    node,
                    &path,
                    "it has no effect with stage2.epochs = 0, which is no stage 2",
                );
            }
        }
        for stage in ["stage1", "stage2"] {
            let field = |key| self.tree.at(&[stage, "schedule", key]);
            if let (Some(first), Some(_)) = (
                field("base_lr").filter(|node| is_set(node)),
                field("warmup_epochs").filter(|n| is_zero(n)),
            ) {
                let path = format!("{stage}.schedule.base_lr");
                return wrong(
                    first,
                    &path,
                    "it has no effect with warmup_epochs = 0: it is the first rate of the warm-up",
                );
            }
        }
        Ok(())
    }

    /// The complete configuration of the file, whatever was [set](Self::set).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn written(&self, classes: usize) -> Result<TrainConfig, RecipeError> {
        let mut written = self.clone();
        written.tree = self.file_tree.clone();
        written.config(classes)
    }

    /// `[dataset]`: the benchmark that it is for.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn card(&self) -> Result<Option<Card>, RecipeError> {
        Ok(self.expand(self.classes)?.card)
    }

    /// `[data]`: the files in the folder with the images.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn layout(&self) -> Result<Option<DataSource>, RecipeError> {
        Ok(self.expand(self.classes)?.layout)
    }

    /// `data_dir`: the folder with the images, where none is given beside the recipe.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn data_dir(&self) -> Result<Option<PathBuf>, RecipeError> {
        Ok(self.expand(self.classes)?.data_dir)
    }

    /// The complete configuration, for data of so many classes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn config(&self, classes: usize) -> Result<TrainConfig, RecipeError> {
        let config = self.expand(classes)?.config;
        config.validate().map_err(|source| self.misfit(source))?;
        Ok(config)
    }

    /// Whether its images are CIFAR's, as far as that is known.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn is_for_cifar(&self) -> Result<bool, RecipeError> {
        Ok(self.known_images()? == Some(Images::Cifar))
    }

    fn known_images(&self) -> Result<Option<Images>, RecipeError> {
        Ok(self.images.or(self.layout()?.as_ref().map(Images::of)))
    }

    /// Images of a step (batch size times accumulation) as the file has it, whatever was
    /// [set](Self::set).
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Whether the learning rates of stage 1 and of stage 2 were [set](Self::set).
    pub fn sets_rates(&self) -> [bool; 2] {
        ["stage1", "stage2"].map(|stage| {
            let mut set = false;
            self.tree.visit(&mut vec![], &mut |path, node| {
                let key = path.last().map_or("", String::as_str);
                set |= path.first().is_some_and(|first| first == stage)
                    && matches!(key, "lr" | "base_lr" | "warmup_lr" | "eta_min")
                    && matches!(node.place, Place::Option(_));
            });
            set
        })
    }

    fn expand(&self, classes: usize) -> Result<Expanded, RecipeError> {
        expand(&self.tree.json(), classes, self.images).map_err(|error| self.explain(*error))
    }

    /// What is wrong with its place, and what would be right.
    fn explain(&self, error: Error) -> RecipeError {
        let Error { path, kind, .. } = error;
        let again = |tree: &Value| Some(expand(tree, SOME_CLASSES, self.images).err()?.kind);
        let path = self.tree.locate(self.as_written(path), &kind, again);
        let place = self.tree.nearest(&path).place.clone();
        match kind {
            Kind::UnknownField(field, known) => {
                let mut known = current(known);
                let above = match path.split_last() {
                    Some((last, above)) if *last == field => above,
                    _ => &path,
                };
                let table = shown(above);
                if table.is_empty() {
                    known.extend(["dataset", "data", "data_dir", "image_size"].map(str::to_owned));
                    known.extend(pictures::FIELDS.map(str::to_owned));
                }
                let near = nearest(&field, known.iter().map(String::as_str));
                let kinds = match near {
                    Some(_) => vec![],
                    None => kinds_with(table.rsplit('.').next().unwrap_or_default(), &field),
                };
                let nearest = match kinds.is_empty() {
                    true => near.or_else(|| self.elsewhere(&field)),
                    false => None,
                };
                let names = Names {
                    nearest,
                    known,
                    kinds,
                };
                RecipeError::UnknownField {
                    place,
                    field,
                    table,
                    names: Box::new(names),
                }
            }
            Kind::UnknownVariant(found, known) => {
                let known = current(known);
                RecipeError::UnknownValue {
                    place,
                    path: shown(&path),
                    names: Box::new(Names {
                        nearest: nearest(&found, known.iter().map(String::as_str)),
                        known,
                        kinds: vec![],
                    }),
                    found,
                }
            }
            Kind::MissingField(field) => RecipeError::Missing {
                place,
                table: shown(&path),
                field: field.into_owned(),
            },
            kind => RecipeError::Value {
                place,
                path: shown(&path),
                problem: in_words(&kind),
            },
        }
    }

    /// The path of a field of the configuration as the recipe has it: a pipeline may be the list of its
    /// transforms.
    fn as_written(&self, mut path: Vec<String>) -> Vec<String> {
        let is_list = |key: &String| {
            let node = self.tree.at(&[key]);
            node.is_some_and(|node| matches!(node.content, Content::Array(_)))
        };
        if path.len() > 1 && is_list(&path[0]) {
            path.remove(1);
        }
        path
    }

    /// The path of a field of this name in another table, if there is one.
    fn elsewhere(&self, field: &str) -> Option<String> {
        fn search(value: &Value, field: &str, path: &mut Vec<String>) -> Option<String> {
            value.as_object()?.iter().find_map(|(key, value)| {
                path.push(key.clone());
                let found = match key == field {
                    true => Some(path.join(".")),
                    false => search(value, field, path),
                };
                path.pop();
                found
            })
        }
        let aliases = [("lr", "stage1.lr"), ("epochs", "stage1.epochs")];
        let alias = aliases.into_iter().find(|(name, _)| *name == field);
        if let Some((_, path)) = alias {
            return Some(path.to_owned());
        }
        let known = expand(&json!({}), SOME_CLASSES, None).ok()?.config;
        search(&serde_json::to_value(known).ok()?, field, &mut vec![])
    }

    /// What the configuration's own check has said, with its place.
    fn misfit(&self, source: TrainConfigError) -> RecipeError {
        let path = source.path();
        let keys = self.as_written(path.split('.').map(str::to_owned).collect());
        let mut node = self.tree.nearest(&keys);
        // `lr` stands for the peak of the schedule.
        if let [stage, schedule, ..] = keys.as_slice()
            && schedule == "schedule"
            && matches!(node.content, Content::Table(_))
        {
            node = self.tree.nearest(&[stage.clone(), "lr".into()]);
        }
        RecipeError::Config {
            place: node.place.clone(),
            source: Box::new(source),
        }
    }
}

/// The kinds of a table, `loss`, `schedule` or `stage2`, that have a field of this name.
fn kinds_with(table: &str, field: &str) -> Vec<String> {
    let kinds: Vec<Value> = match table {
        "loss" => LossConfig::all().iter().map(|loss| json!(loss)).collect(),
        "schedule" => Schedule::KINDS
            .iter()
            .map(|schedule| json!(schedule))
            .collect(),
        "stage2" => {
            let config = expand(&json!({}), SOME_CLASSES, None).map(|read| read.config);
            let stage = config.ok().and_then(|config| config.stage(2).cloned());
            let methods = Stage2::NAMED.into_iter();
            stage.map_or(vec![], |stage| {
                methods
                    .map(|method| json!(method.init(stage.clone())))
                    .collect()
            })
        }
        _ => vec![],
    };
    let has = kinds.iter().filter(|kind| kind.get(field).is_some());
    let named = has.filter_map(|kind| kind.get("kind").or(kind.get("method"))?.as_str());
    let mut names: Vec<String> = named.map(str::to_owned).collect();
    names.dedup();
    names
}

/// Names that are written today, without former spellings such as `FanIn`.
fn current(names: &[&str]) -> Vec<String> {
    let names = names.iter().map(|name| (*name).to_owned());
    names
        .filter(|name| !name.contains(char::is_uppercase))
        .collect()
}

/// Images that one step of the optimizer sees.
pub fn images_of_a_step(config: &TrainConfig) -> usize {
    config.loader.batch_size * config.accumulation
}

/// A path as people write it.
fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for key in path {
        match key.parse::<usize>() {
            Ok(number) => text.push_str(&format!("[{number}]")),
            Err(_) if text.is_empty() => text.push_str(key),
            Err(_) => text.push_str(&format!(".{key}")),
        }
    }
    text
}

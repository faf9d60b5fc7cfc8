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
//! let error = Recipe::parse("birds.toml", "momentun = 0.8").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "birds.toml:1: unknown field `momentun` in a recipe: did you mean `momentum`?"
//! );
//! # Ok::<(), shike_train::recipe::RecipeError>(())
//! ```

mod card;
mod error;
mod expand;
mod scale;
mod tree;
mod write;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use shike_data::read::read_to_string;

pub use self::card::{Card, DataLayout, KnownSplit, Published, SplitPart};
pub use self::error::{Names, Place, RecipeError};
use self::error::{Slip, nearest};
use self::expand::{Expanded, expand};
pub use self::scale::{Scaling, scale_rates};
use self::tree::{Content, Node};
pub(crate) use self::write::inline;
pub use self::write::to_toml;
use crate::config::{TrainConfig, TrainConfigError};

/// Classes where nobody has said how many there are.
const SOME_CLASSES: usize = 1000;

/// A recipe that has been read and makes sense.
#[derive(Clone, Debug)]
pub struct Recipe {
    file: PathBuf,
    tree: Node,
    /// Images of a step as the file has it.
    batch: usize,
    classes: usize,
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
        let mut recipe = Self {
            tree: Node::parse(&file, text)?,
            file,
            batch: 0,
            classes: SOME_CLASSES,
        };
        let card = recipe.expand(SOME_CLASSES)?.card;
        recipe.classes = card.and_then(|card| card.classes).unwrap_or(SOME_CLASSES);
        recipe.batch = images_of_a_step(&recipe.config(recipe.classes)?);
        Ok(recipe)
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
            let path = text.split('=').next().unwrap_or_default();
            !tree::is_tag(path.rsplit('.').next().unwrap_or_default().trim())
        });
        let mut changed = self.clone();
        for assignment in assignments {
            changed.tree.assign(assignment)?;
        }
        changed.config(self.classes)?;
        *self = changed;
        Ok(())
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
    pub fn layout(&self) -> Result<Option<DataLayout>, RecipeError> {
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
        expand(self.tree.json(), classes).map_err(|text| self.slip(&text))
    }

    /// What serde has said, with its place.
    fn slip(&self, text: &str) -> RecipeError {
        let slip = Slip::read(text);
        let located = self.tree.locate(&slip, |tree| expand(tree, SOME_CLASSES));
        let path = located.unwrap_or_default();
        let node = self.tree.nearest(&path);
        let place = node.place.clone();
        match slip {
            Slip::Field { field, mut known } => {
                let table = shown(&path[..path.len().saturating_sub(1)]);
                if table.is_empty() {
                    known.extend(["dataset", "data", "data_dir", "image_size"].map(str::to_owned));
                }
                let near = nearest(&field, known.iter().map(String::as_str));
                let nearest = near.or_else(|| self.elsewhere(&field));
                RecipeError::UnknownField {
                    place,
                    field,
                    table,
                    names: Box::new(Names { nearest, known }),
                }
            }
            Slip::Value { found, known } => RecipeError::UnknownValue {
                place,
                path: shown(&path),
                names: Box::new(Names {
                    nearest: nearest(&found, known.iter().map(String::as_str)),
                    known,
                }),
                found,
            },
            Slip::Missing { field } => RecipeError::Missing {
                place,
                table: shown(&path),
                field,
            },
            Slip::Other { problem } => RecipeError::Value {
                place,
                path: shown(&path),
                problem,
            },
        }
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
        let known = expand(Map::new(), SOME_CLASSES).ok()?.config;
        search(&serde_json::to_value(known).ok()?, field, &mut vec![])
    }

    /// What the configuration's own check has said, with its place.
    fn misfit(&self, source: TrainConfigError) -> RecipeError {
        let path = source.path();
        let mut keys: Vec<String> = path.split('.').map(str::to_owned).collect();
        let above = self.tree.nearest(&keys[..1]);
        if keys.len() > 1 && matches!(above.content, Content::Array(_)) {
            // A pipeline that is written as its list of transforms.
            keys.remove(1);
        }
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

//! Recipes from configurations.

use std::fmt::Write as _;

use serde_json::{Value, json};
use shike_data::{Normalization, Pipeline};
use shike_model::ShikeConfig;

use super::expand::{Images, ModelTable, expand, named_pipeline};
use super::pictures::Pictures;
use super::{Recipe, RecipeError};
use crate::config::TrainConfig;
use crate::config::diff::{at, inline, prune};
use crate::config::frozen::TRAINING;

/// A setting, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The field of the recipe, as `stage1.epochs`.
    pub field: String,
    /// Its value, as JSON.
    pub value: Value,
    /// Why it has this value, or where it is from.
    pub reason: String,
}

impl Choice {
    /// This value of a field, for this reason.
    pub fn new(field: &str, value: Value, reason: &str) -> Self {
        Self {
            field: field.to_owned(),
            value,
            reason: reason.to_owned(),
        }
    }
}

/// The reason of what options have asked for, and of what follows from them.
pub const GIVEN: &str = "by an option";

/// What is never left out: the network, and what depends on the images where nobody knows them.
const NETWORK: &str = "model.arch";
const OF_IMAGES: [&str; 4] = [
    "eval_pipeline",
    "image_size",
    "normalization",
    "train_pipeline",
];

/// Writes a configuration as a recipe; the number of classes is left to the data. Reading it gives the same
/// configuration.
///
/// # Errors
/// [`RecipeError::Write`] for numbers that are not finite, and for a configuration that no run can have.
pub fn to_toml(config: &TrainConfig) -> Result<String, RecipeError> {
    let mut fields = fields(config, None, &[])?;
    fields.iter_mut().for_each(|field| field.reason.clear());
    Ok(text("", &fields))
}

impl Recipe {
    /// The fields of the recipe for the same images that comes to `config`: `choices` as far as they hold,
    /// and what else it needs, with the reason [`GIVEN`]. What has its default is left out.
    ///
    /// # Errors
    /// As [`to_toml`]; as [`read`](Self::read).
    pub fn fields(
        &self,
        config: &TrainConfig,
        choices: &[Choice],
    ) -> Result<Vec<Choice>, RecipeError> {
        fields(config, self.known_images()?, choices)
    }
}

fn fields(
    config: &TrainConfig,
    images: Option<Images>,
    choices: &[Choice],
) -> Result<Vec<Choice>, RecipeError> {
    let problem = |problem: String| RecipeError::Write { problem };
    let all = spelt_out(config, images).map_err(|error| problem(error.to_string()))?;
    let mut others = vec![];
    leaves(&all, "", &mut others);
    let mut fields = vec![];
    for choice in choices {
        let own = |other: &Choice| {
            within(&other.field, &choice.field) || within(&choice.field, &other.field)
        };
        let (instead, rest) = others.into_iter().partition(own);
        others = rest;
        match at(&all, &choice.field) == Some(&choice.value) {
            true => fields.push(choice.clone()),
            false => fields.extend::<Vec<_>>(instead),
        }
    }
    fields.extend(others);
    let comes_to = |fields: &[Choice]| {
        let read = expand(&table(fields), config.model.num_classes, images);
        read.is_ok_and(|read| read.config == *config)
    };
    if !comes_to(&fields) {
        return Err(problem("it has a number that is not finite".into()));
    }
    let mut at = 0;
    while at < fields.len() {
        let field = fields.remove(at);
        let name = field.field.as_str();
        let stays = choices.iter().any(|choice| within(&choice.field, name))
            || name == NETWORK
            || (images.is_none() && OF_IMAGES.contains(&name));
        if stays || !comes_to(&fields) {
            fields.insert(at, field);
            at += 1;
        }
    }
    Ok(fields)
}

/// Whether `inner` is the field `outer`, or a part of it.
fn within(inner: &str, outer: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// All fields, with names where there are some.
fn spelt_out(config: &TrainConfig, images: Option<Images>) -> Result<Value, serde_json::Error> {
    let mut tree = serde_json::to_value(config)?;
    tree["model"] = json!(model_table(&config.model));
    let size = config.eval_pipeline.output_size();
    tree["image_size"] = json!(size);
    let pictures = Pictures::of(&config.train_pipeline, &config.eval_pipeline);
    for (field, value) in json!(pictures).as_object().into_iter().flatten() {
        tree[field] = value.clone();
    }
    let pipelines = [
        ("train_pipeline", &config.train_pipeline),
        ("eval_pipeline", &config.eval_pipeline),
    ];
    for (key, pipeline) in pipelines {
        let named = |name: &&str| {
            let named = size.and_then(|size| named_pipeline(name, size, images));
            named.is_some_and(|named| pictures.apply(&named) == *pipeline)
        };
        tree[key] = match Pipeline::NAMES.into_iter().find(named) {
            Some(name) => name.into(),
            None => tree[key]["transforms"].take(),
        };
    }
    let named = |name: &str| Normalization::named(name) == Some(config.normalization);
    if let Some(name) = Normalization::NAMES.into_iter().find(|name| named(name)) {
        tree["normalization"] = name.into();
    }
    if config.stage2.is_none() {
        tree["stage2"] = json!({ "epochs": 0 });
    }
    for stage in ["stage1", "stage2"] {
        let schedule = tree[stage]
            .get_mut("schedule")
            .and_then(Value::as_object_mut);
        let peak = schedule.and_then(|rates| rates.remove("warmup_lr").or(rates.remove("lr")));
        if let Some(peak) = peak {
            tree[stage]["lr"] = peak;
        }
    }
    if config.frozen.is_some() {
        for field in TRAINING {
            tree[field] = Value::Null;
        }
    }
    prune(&mut tree);
    Ok(tree)
}

/// The network by its name, and what differs from the usual SHIKE, or plain network, on it.
fn model_table(model: &ShikeConfig) -> ModelTable {
    let backbone = &model.backbone;
    let arch = backbone.name().map(str::to_owned);
    let plain = model.is_plain();
    let usual = match plain {
        true => ShikeConfig::plain(backbone.clone(), model.num_classes),
        false => ShikeConfig::on(backbone.clone(), model.num_classes),
    };
    ModelTable {
        backbone: arch.is_none().then(|| backbone.clone()),
        arch,
        plain,
        num_classes: None,
        experts: (!plain).then_some(model.experts),
        shared_layers: (model.shared_layers != usual.shared_layers).then_some(model.shared_layers),
        fused_layers: (model.fused_layers != usual.fused_layers)
            .then(|| model.fused_layers.clone()),
        classifier: (model.classifier != usual.classifier).then(|| model.classifier.clone()),
        stage2_heads: (plain || !model.stage2_heads).then_some(model.stage2_heads),
    }
}

/// The fields of tables by their paths; a backbone that has no name is one.
fn leaves(value: &Value, path: &str, into: &mut Vec<Choice>) {
    match value {
        Value::Object(table) if path != "model.backbone" => {
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{dot}{key}"), into);
            }
        }
        value => into.push(Choice::new(path, value.clone(), GIVEN)),
    }
}

/// The tables of fields.
fn table(fields: &[Choice]) -> Value {
    let mut tree = json!({});
    for Choice { field, value, .. } in fields {
        let node = field.split('.').fold(&mut tree, |node, key| &mut node[key]);
        *node = value.clone();
    }
    tree
}

/// The lines of a recipe with these fields, each below its reason; `head` goes first, as a comment.
pub fn text(head: &str, fields: &[Choice]) -> String {
    let mut text = String::new();
    for line in head.lines() {
        let _ = writeln!(text, "# {line}");
    }
    let split = |choice: &Choice| match choice.field.split_once('.') {
        Some((table, key)) => (table.to_owned(), key.to_owned()),
        None => (String::new(), choice.field.clone()),
    };
    let mut tables: Vec<String> = Vec::new();
    for (name, _) in fields.iter().map(split) {
        if !tables.contains(&name) {
            tables.push(name);
        }
    }
    // Fields outside a table stand above the first table.
    tables.sort_by_key(|name| !name.is_empty());
    for name in tables {
        text.push('\n');
        if !name.is_empty() {
            let _ = writeln!(text, "[{name}]");
        }
        for choice in fields {
            let (table, key) = split(choice);
            if table != name {
                continue;
            }
            for line in choice.reason.lines().filter(|line| !line.is_empty()) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "{key} = {}", inline(&choice.value));
        }
    }
    text
}

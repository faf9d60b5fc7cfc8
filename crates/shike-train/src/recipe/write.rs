//! Recipes from configurations.

use serde_json::Value;
use shike_data::{Normalization, Pipeline};
use shike_model::ShikeConfig;

use super::expand::{Images, ModelTable, named_pipeline};
use super::{Recipe, RecipeError};
use crate::config::DataSource;
use crate::config::TrainConfig;
use crate::config::diff::prune;

/// Writes a configuration as a recipe, with names where it is made of what has one; the number of classes
/// is left to the data. Reading it gives the same configuration.
///
/// # Errors
/// [`RecipeError::Write`] for numbers that are not finite; as [`Recipe::read`] for a configuration that no
/// run can have.
pub fn to_toml(config: &TrainConfig, layout: Option<&DataSource>) -> Result<String, RecipeError> {
    let write = |problem: &dyn std::fmt::Display| RecipeError::Write {
        problem: problem.to_string(),
    };
    let json = |value: Result<Value, serde_json::Error>| value.map_err(|error| write(&error));
    let mut tree = json(serde_json::to_value(config))?;
    tree["model"] = json(serde_json::to_value(model_table(&config.model)))?;
    let size = config.eval_pipeline.output_size();
    if let Some(size) = size {
        tree["image_size"] = size.into();
    }
    let images = layout.map(Images::of);
    let pipelines = [
        ("train_pipeline", &config.train_pipeline),
        ("eval_pipeline", &config.eval_pipeline),
    ];
    for (key, pipeline) in pipelines {
        let named = |name: &&str| {
            let named = named_pipeline(name, size.unwrap_or_default() as u32, images);
            size.is_some() && named.as_ref() == Some(pipeline)
        };
        if let Some(name) = Pipeline::NAMES.into_iter().find(named) {
            tree[key] = name.into();
        }
    }
    let named = |name: &str| Normalization::named(name) == Some(config.normalization);
    if let Some(name) = Normalization::NAMES.into_iter().find(|name| named(name)) {
        tree["normalization"] = name.into();
    }
    if config.stage2.is_none() {
        tree["stage2"] = serde_json::json!({ "epochs": 0 });
    }
    if let Some(layout) = layout {
        tree["data"] = json(serde_json::to_value(layout))?;
    }
    prune(&mut tree);
    let text = toml::to_string(&tree).map_err(|error| write(&error))?;
    let read = Recipe::parse("recipe.toml", &text)?;
    match read.config(config.model.num_classes)? == *config {
        true => Ok(text),
        false => Err(write(&"it has a number that is not finite")),
    }
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

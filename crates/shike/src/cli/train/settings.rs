//! The settings of a run that is about to begin, and where each is from.

use std::fmt::Write as _;

use serde_json::json;
use shike_model::ShikeConfig;
use shike_train::config::diff::{self, changes};
use shike_train::recipe::auto::Choice;
use shike_train::{Recipe, TrainConfig, TrainError};

use crate::cli::CliError;
use crate::cli::options::{Given, with_options};

/// The network, and each setting that is not the default for it, with the recipe or option that says so.
pub(super) fn settings(
    recipe: &Recipe,
    config: &TrainConfig,
    given: &Given,
) -> Result<Vec<Choice>, CliError> {
    let classes = config.model.num_classes;
    let written = recipe.written(classes).map_err(TrainError::from)?;
    let file = recipe.file().display().to_string();
    let from = |field: &str, of_file: bool| {
        let options = given.of_fields(&[field.to_owned()]);
        match (recipe.set_by(field), of_file) {
            (Some(assignment), _) => format!("--set {assignment}"),
            (None, true) => file.clone(),
            (None, false) if options.is_empty() => "follows from the options".to_owned(),
            (None, false) => options.join(", "),
        }
    };
    let mut rows = Vec::new();
    let mut row = |field: &str, value, from: String| {
        rows.push(Choice {
            field: field.to_owned(),
            value,
            reason: from,
        });
    };
    let backbone = &config.model.backbone;
    if let Some(name) = backbone.name() {
        let of_file = written.model.backbone == *backbone;
        row("model.arch", json!(name), from("model.arch", of_file));
    }
    let model = ShikeConfig::on(backbone.clone(), classes);
    let defaults = TrainConfig::for_model(model, [180, 20]);
    let over = changes(&written, config);
    for change in changes(&defaults, config) {
        let field = &change.field;
        let of_file = !over.iter().any(|over| {
            over.field.starts_with(field.as_str()) || field.starts_with(over.field.as_str())
        });
        row(field, change.to.clone(), from(field, of_file));
    }
    Ok(rows)
}

/// A table of settings, with where each is from or why it was chosen, and what else there is to say.
pub(super) fn describe(rows: &[Choice], last: &str, notes: &[String]) -> String {
    let rows: Vec<(&str, String, String)> = rows
        .iter()
        .map(|row| {
            let value = diff::shown(&row.value);
            (row.field.as_str(), value, with_options(&row.reason))
        })
        .collect();
    let width = |of: &dyn Fn(&(&str, String, String)) -> usize| rows.iter().map(of).max();
    let setting = width(&|row| row.0.chars().count()).unwrap_or(0).max(7);
    let value = width(&|row| row.1.chars().count())
        .unwrap_or(0)
        .clamp(5, 40);
    let mut text = format!("{:setting$}  {:value$}  {last}", "setting", "value");
    for (name, chosen, why) in rows {
        let _ = write!(text, "\n{name:setting$}  {chosen:value$}  {why}");
    }
    for note in notes {
        let _ = write!(text, "\n- {}", with_options(note));
    }
    text
}

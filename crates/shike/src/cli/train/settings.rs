//! The settings of a run that is about to begin, and where each is from.

use std::fmt::Write as _;

use shike_train::config::diff;
use shike_train::recipe::auto::Plan;
use shike_train::recipe::{Choice, GIVEN};
use shike_train::{Recipe, TrainConfig, TrainError};

use crate::cli::options::{Given, with_options};

/// The settings of a run: each that is not the default, with the reason of the plan, or the recipe or option
/// that says so.
pub(super) fn settings(
    recipe: &Recipe,
    plan: Option<&Plan>,
    config: &TrainConfig,
    given: &Given,
) -> Result<Vec<Choice>, TrainError> {
    if let Some(plan) = plan {
        let mut rows = recipe.fields(config, &plan.choices)?;
        for row in rows.iter_mut().filter(|row| row.reason == GIVEN) {
            if let (None, Some(why)) = (recipe.set_by(&row.field), of_weights(&row.field, config)) {
                row.reason = why.into();
            }
        }
        return Ok(rows);
    }
    let mut of_file = recipe.fields(&recipe.written(config.model.num_classes)?, &[])?;
    for field in &mut of_file {
        field.reason = recipe.file().display().to_string();
    }
    let mut rows = recipe.fields(config, &of_file)?;
    for row in rows.iter_mut().filter(|row| row.reason == GIVEN) {
        let set = recipe.set_by(&row.field).or_else(|| {
            // The highest rate of a schedule can be set there, too.
            let stage = row.field.strip_suffix(".lr")?;
            recipe.set_by(&format!("{stage}.schedule"))
        });
        let options = given.of_fields(std::slice::from_ref(&row.field));
        row.reason = match set {
            Some(assignment) => format!("--set {assignment}"),
            None => match of_weights(&row.field, config) {
                Some(why) => why.to_owned(),
                None if options.is_empty() => "follows from the options".to_owned(),
                None => options.join(", "),
            },
        };
    }
    Ok(rows)
}

/// Why a field is as it is that comes with the weights.
fn of_weights(field: &str, config: &TrainConfig) -> Option<&'static str> {
    let field = field.split('.').next()?;
    match (field, &config.weights, &config.frozen) {
        ("weights_origin", Some(_), _) => Some("what is known of these weights"),
        ("normalization", Some(_), Some(_)) => Some("as these weights were evaluated"),
        _ => None,
    }
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

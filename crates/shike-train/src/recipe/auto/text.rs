//! A plan as a recipe that people edit.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Choice;
use crate::config::TrainConfig;
use crate::config::diff::inline;
use crate::config::diff::{at, differences};
use crate::config::schedule::Schedule;
use crate::recipe::Recipe;

/// The reason of what options have asked for, and of what follows from them.
pub const GIVEN: &str = "by an option";

/// The lines of a recipe with these fields, each below its reason; `head` goes first, as a comment.
pub fn recipe_text(head: &str, choices: &[Choice]) -> String {
    let mut text = String::new();
    for line in head.lines() {
        let _ = writeln!(text, "# {line}");
    }
    let table = |choice: &Choice| match choice.field.split_once('.') {
        Some((table, _)) => table.to_owned(),
        None => String::new(),
    };
    let mut tables: Vec<String> = Vec::new();
    for choice in choices {
        let name = table(choice);
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
        for choice in choices.iter().filter(|choice| table(choice) == name) {
            let key = choice.field.split_once('.').map_or(&*choice.field, |f| f.1);
            for line in choice.reason.lines().filter(|line| !line.is_empty()) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "{key} = {}", inline(&choice.value));
        }
    }
    text
}

/// Puts a value into the choices, in place of what was chosen for it or for parts of it.
fn put(choices: &mut Vec<Choice>, field: &str, value: Value) {
    let below = format!("{field}.");
    let replaced = |choice: &Choice| choice.field == field || choice.field.starts_with(&below);
    let place = choices.iter().position(replaced).unwrap_or(choices.len());
    choices.retain(|choice| !replaced(choice));
    let choice = Choice {
        field: field.to_owned(),
        value,
        reason: GIVEN.to_owned(),
    };
    choices.insert(place.min(choices.len()), choice);
}

/// The choices that come to `config`: those of a plan, and where options have changed something, what
/// they ask for, with the reason [`GIVEN`].
pub fn given(mut choices: Vec<Choice>, config: &TrainConfig) -> Vec<Choice> {
    let wanted = json!(config);
    let comes_to = |choices: &[Choice]| -> Option<Value> {
        let recipe = Recipe::parse("recipe.toml", &recipe_text("", choices)).ok()?;
        Some(json!(recipe.config(config.model.num_classes).ok()?))
    };
    // A choice has consequences (a network its own rates and pipelines), and so the finer ones are set
    // after the coarse ones.
    for finest in [Detail::Network, Detail::Stages, Detail::Fields, Detail::All] {
        let Some(now) = comes_to(&choices) else { break };
        let mut paths = vec![];
        differences(&now, &wanted, "", &mut paths);
        if paths.is_empty() {
            return choices;
        }
        for path in paths {
            set(&mut choices, &wanted, &path, config, finest);
        }
    }
    if comes_to(&choices).as_ref() == Some(&wanted) {
        return choices;
    }
    // Every field as it is: always right, but long.
    let mut all = Vec::new();
    for (field, value) in wanted.as_object().into_iter().flatten() {
        match (value.is_null(), field.as_str()) {
            (true, "stage2") => put(&mut all, "stage2.epochs", json!(0)),
            (true, _) => {}
            (false, _) => put(&mut all, field, value.clone()),
        }
    }
    all
}

/// How closely a difference is looked at.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Detail {
    Network,
    Stages,
    Fields,
    All,
}

fn set(
    choices: &mut Vec<Choice>,
    wanted: &Value,
    path: &str,
    config: &TrainConfig,
    finest: Detail,
) {
    let value = || at(wanted, path).cloned().unwrap_or_default();
    let keys: Vec<&str> = path.split('.').collect();
    match keys.as_slice() {
        ["model", "backbone", ..] => match config.model.backbone.name() {
            Some(name) => put(choices, "model.arch", json!(name)),
            None => {
                choices.retain(|choice| choice.field != "model.arch");
                put(
                    choices,
                    "model.backbone",
                    wanted["model"]["backbone"].clone(),
                );
            }
        },
        ["stage2"] if value().is_null() => {
            choices.retain(|choice| !choice.field.starts_with("stage2."));
            put(choices, "stage2.epochs", json!(0));
        }
        [pipeline @ ("train_pipeline" | "eval_pipeline"), ..] => {
            let size = config.eval_pipeline.output_size();
            let chosen = choices.iter().find(|choice| choice.field == "image_size");
            let resized = size.is_some()
                && chosen.is_none_or(|c| Some(&c.value) != size.map(|s| json!(s)).as_ref());
            if resized && finest < Detail::All {
                put(choices, "image_size", json!(size));
            } else if finest >= Detail::Fields {
                put(choices, pipeline, wanted[*pipeline]["transforms"].clone());
            }
        }
        _ if finest == Detail::Network => {}
        [stage, "epochs"] => put(choices, &format!("{stage}.epochs"), value()),
        _ if finest == Detail::Stages => {}
        [stage, "schedule", ..] => {
            let schedule = wanted[*stage]["schedule"].clone();
            let peak = match stage.strip_prefix("stage").and_then(|n| n.parse().ok()) {
                Some(number) => config.stage(number).map(|stage| &stage.schedule),
                None => None,
            };
            match peak {
                Some(Schedule::WarmupCosine { warmup_lr, .. }) if finest < Detail::All => {
                    put(choices, &format!("{stage}.lr"), json!(warmup_lr));
                }
                _ => {
                    let lr = format!("{stage}.lr");
                    choices.retain(|choice| choice.field != lr);
                    put(choices, &format!("{stage}.schedule"), schedule);
                }
            }
        }
        _ => {
            // A value for a part of what was chosen as a whole changes the whole.
            let whole = choices
                .iter()
                .find(|c| path.starts_with(&format!("{}.", c.field)));
            match whole.map(|choice| choice.field.clone()) {
                Some(field) => {
                    let value = at(wanted, &field).cloned().unwrap_or_default();
                    put(choices, &field, value);
                }
                None => put(choices, path, value()),
            }
        }
    }
}

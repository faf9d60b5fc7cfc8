//! How two configurations differ, field by field.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::config::TrainConfig;

/// The value at a path such as `stage1.loss.kind`.
pub(crate) fn at<'a>(config: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(config, |value, key| value.get(key))
}

/// Paths at which `now` differs from `base`: the innermost ones, but for lists, and for tables of
/// another kind, which differ as a whole.
pub(crate) fn differences(base: &Value, now: &Value, path: &str, into: &mut Vec<String>) {
    let tag = |value: &Value| {
        let tags = ["kind", "method"].map(|tag| value.get(tag).cloned());
        tags.into_iter().flatten().next()
    };
    match (base, now) {
        (Value::Object(a), Value::Object(b)) if tag(base) == tag(now) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let inner = match path {
                    "" => key.clone(),
                    _ => format!("{path}.{key}"),
                };
                let side = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences(&side(a), &side(b), &inner, into);
            }
        }
        _ if base != now => into.push(path.to_owned()),
        _ => {}
    }
}

/// Takes out the fields of a configuration that say how fast and not what, or only tell where weights are from.
pub(crate) fn without_speed(config: &mut Value) {
    for (table, fields) in [
        (
            "",
            &["checkpoint_seconds", "keep_checkpoints", "weights_origin"][..],
        ),
        ("/loader", &["workers", "prefetch"]),
    ] {
        if let Some(table) = config.pointer_mut(table).and_then(Value::as_object_mut) {
            fields.iter().for_each(|field| drop(table.remove(*field)));
        }
    }
}

/// A field in which two configurations differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The field, as `stage1.epochs`.
    pub field: String,
    /// Its value in the first.
    pub from: Value,
    /// Its value in the second.
    pub to: Value,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Value| match value {
            Value::Null => "none".to_owned(),
            // A table of another kind.
            Value::Object(table) => match table.get("kind").or(table.get("method")) {
                Some(kind) => shown(kind),
                None => shown(value),
            },
            value => shown(value),
        };
        write!(
            f,
            "{} {} → {}",
            self.field,
            value(&self.from),
            value(&self.to)
        )
    }
}

/// What [`differing`] names, with the values of both.
pub fn changes(one: &TrainConfig, other: &TrainConfig) -> Vec<Change> {
    let (from, to) = (json!(one), json!(other));
    let value = |config: &Value, path: &str| at(config, path).cloned().unwrap_or_default();
    let fields = differing(one, other).into_iter();
    fields
        .map(|field| Change {
            from: value(&from, &field),
            to: value(&to, &field),
            field,
        })
        .collect()
}

/// The fields in which two runs differ, but for those that say how fast and not what.
pub fn differing(one: &TrainConfig, other: &TrainConfig) -> Vec<String> {
    let plain = |config: &TrainConfig| {
        let mut config = json!(config);
        without_speed(&mut config);
        config
    };
    let mut paths = vec![];
    differences(&plain(one), &plain(other), "", &mut paths);
    paths
}

/// The value of a field on one line, for a table.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let kinds = items.iter().filter_map(|item| item.get("kind")?.as_str());
            kinds.collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            // Rates of a linear rule have digits that nobody wants to read.
            format!("{}", (number * 1e6).round() / 1e6)
        }
        other => inline(other),
    }
}

/// A value on the right of a `key = `; each table of a list has a line of its own. What is null is left
/// out.
pub(crate) fn inline(value: &Value) -> String {
    if let Value::Array(items) = value
        && items.iter().any(Value::is_object)
    {
        let items = items.iter().map(|item| format!("    {},\n", inline(item)));
        return format!("[\n{}]", items.collect::<String>());
    }
    let mut value = value.clone();
    prune(&mut value);
    match toml::Value::try_from(&value) {
        Ok(value) => value.to_string(),
        // Nothing but a null, which TOML does not have.
        Err(_) => value.to_string(),
    }
}

/// Takes away what is not there: TOML has no null; and tables that hold nothing.
pub(crate) fn prune(value: &mut Value) {
    let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, value| !empty(value));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

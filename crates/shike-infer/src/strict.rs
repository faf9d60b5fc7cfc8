//! Reading of Burn's configurations, whose own reader passes over fields that it does not know.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Reads a complete configuration that has no other fields.
pub fn strict<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Serialize + DeserializeOwned,
{
    strict_value(Value::deserialize(deserializer)?).map_err(Error::custom)
}

/// As [`strict`], of a value.
pub fn strict_value<T>(given: Value) -> Result<T, serde_json::Error>
where
    T: Serialize + DeserializeOwned,
{
    let config = T::deserialize(&given)?;
    let known = serde_json::to_value(&config)?;
    match surplus(&given, &known) {
        Some(message) => Err(Error::custom(message)),
        None => Ok(config),
    }
}

/// The first field that is given but was not taken.
fn surplus(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(fields)) => {
            given
                .iter()
                .find_map(|(field, value)| match fields.get(field) {
                    Some(taken) => surplus(value, taken),
                    None => Some(unknown(field, known)),
                })
        }
        (Value::Array(given), Value::Array(known)) => {
            let mut pairs = given.iter().zip(known);
            pairs.find_map(|(given, known)| surplus(given, known))
        }
        _ => None,
    }
}

/// In serde's words.
fn unknown(field: &str, known: &Value) -> String {
    let fields = known.as_object().into_iter().flat_map(Map::keys);
    let fields: Vec<&str> = fields.map(String::as_str).collect();
    let fields = fields.join("`, `");
    format!("unknown field `{field}`, expected one of `{fields}`")
}

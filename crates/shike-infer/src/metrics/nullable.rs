//! JSON has no NaN and no infinity: `serde_json` writes both as `null` and then refuses to read
//! them back. A run that diverged must still have a readable record, so these fields read `null`
//! as NaN. For `#[serde(deserialize_with = "…")]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// `null` becomes NaN.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The same for a map of named numbers.
pub fn map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let map = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    let number = |(name, value): (String, Option<f64>)| (name, value.unwrap_or(f64::NAN));
    Ok(map.into_iter().map(number).collect())
}

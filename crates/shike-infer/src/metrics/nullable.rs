//! JSON has no NaN and no infinity: `serde_json` writes both as `null` and then refuses to read
//! them back. A run that diverged must still have a readable record, so these fields read `null`
//! as NaN. For `#[serde(with = "…")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `null` becomes NaN.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// NaN and infinities become `null`.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(*value).serialize(serializer)
}

/// The same for a map of named numbers.
pub mod map {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// `null` becomes NaN.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let map = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        let number = |(name, value): (String, Option<f64>)| (name, value.unwrap_or(f64::NAN));
        Ok(map.into_iter().map(number).collect())
    }

    /// NaN and infinities become `null`.
    pub fn serialize<S: Serializer>(
        map: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let finite = |(name, value): (_, &f64)| (name, value.is_finite().then_some(*value));
        map.iter()
            .map(finite)
            .collect::<BTreeMap<&String, Option<f64>>>()
            .serialize(serializer)
    }
}

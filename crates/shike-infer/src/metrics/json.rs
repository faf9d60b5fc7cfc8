//! An [`Evaluation`] for programs.

use serde_json::{Map, Value, json};

use super::{ByShot, Evaluation, Metric};

impl Evaluation {
    /// The accuracies of all classes by name with their 95 % intervals (`<name>_interval`), the
    /// [other](Metric::others) measures, and as `groups` `accuracy`, `interval` and `confidence_gap` of the many-,
    /// medium- and few-shot classes; percent, but for `kappa`.
    pub fn to_json(&self) -> Map<String, Value> {
        let interval = |metric| self.interval(metric).map(|i| [i.low, i.high]);
        let mut json = Map::new();
        for metric in Metric::accuracies().filter(|metric| metric.shot.is_none()) {
            json.insert(metric.name.into(), json!(self.get(metric)));
            json.insert(format!("{}_interval", metric.name), json!(interval(metric)));
        }
        for metric in Metric::others() {
            json.insert(metric.name.into(), json!(self.get(metric)));
        }
        let groups = ByShot::of(|shot| {
            let metric = Metric::group(shot);
            json!({
                "accuracy": self.get(metric),
                "interval": interval(metric),
                "confidence_gap": self.confidence_gap(shot),
            })
        });
        json.insert("groups".into(), json!(groups));
        json
    }
}

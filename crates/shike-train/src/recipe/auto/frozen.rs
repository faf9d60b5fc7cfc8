//! A plan for weights that are at hand: the trunk stays as it is.

use serde_json::json;

use shike_model::BackboneConfig;

use super::{Choice, Facts, GIVEN, Plan, of_pictures};

/// A plan for a head on the frozen trunk `arch`, whose weights are in the file `weights`.
pub fn plan_frozen(arch: &str, weights: &str, facts: &Facts) -> Plan {
    let mut choices = vec![
        Choice::new("weights", json!(weights), GIVEN),
        Choice::new(
            "model.arch",
            json!(arch),
            "the network that the weights are of",
        ),
        Choice::new("model.plain", json!(true), "it stays as it is: no experts"),
        Choice::new(
            "frozen.heads",
            json!([]),
            "pictures are embedded once, and all heads compared on held-out training pictures",
        ),
    ];
    if let Some(size) = facts.image_size {
        choices.push(Choice::new("image_size", json!(size), GIVEN));
    }
    let usual = BackboneConfig::named(arch).map_or(224, |backbone| backbone.image_size());
    let seen = facts.image_size.unwrap_or((usual as u32).into());
    of_pictures(facts, seen, &mut |field, value, why| {
        choices.push(Choice::new(field, value, &why));
    });
    Plan {
        choices,
        notes: vec![],
    }
}

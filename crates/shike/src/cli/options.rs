//! Which option of `shike train` sets a field of the configuration.

use shike_model::ConfigError;
use shike_model::loss::LossError;
use shike_train::TrainConfigError;

/// Fields of losses, of stage 1.
const LOSS: &[(&str, &str)] = &[
    ("kind", "--loss"),
    ("label_smoothing", "--label-smoothing"),
    ("gamma", "--focal-gamma"),
    ("max_margin", "--ldam-max-margin"),
    ("tau", "--tau"),
    ("weights", "--class-weights"),
    ("beta", "--cb-beta"),
    ("weights_from_epoch", "--drw-epoch"),
];

/// Fields of schedules, of stage 1 and stage 2.
const SCHEDULE: &[(&str, [&str; 2])] = &[
    ("base_lr", ["--lr", "--stage2-lr"]),
    ("warmup_lr", ["--lr", "--stage2-lr"]),
    (
        "warmup_epochs",
        ["--warmup-epochs", "--stage2-warmup-epochs"],
    ),
    ("total_epochs", ["--epochs", "--stage2-epochs"]),
];

/// Fields of the network.
const MODEL: &[(&str, &str)] = &[("experts", "--experts")];

/// All others.
const FIELDS: &[(&str, &str)] = &[
    ("accumulation", "--accumulate"),
    ("checkpoint_seconds", "--checkpoint-seconds"),
    ("clip_norm", "--clip-norm"),
    ("ema_decay", "--ema"),
    ("evaluate_every", "--evaluate-every"),
    ("freeze", "--freeze"),
    ("lr_factors", "--part-lr"),
    ("stage1.epochs", "--epochs"),
    ("stage2.epochs", "--stage2-epochs"),
    ("stage2.method", "--stage2-method"),
    ("stage2.taus", "--stage2-tau"),
];

fn find<T: Copy>(table: &[(&str, T)], field: &str) -> Option<T> {
    let found = table.iter().find(|(name, _)| *name == field);
    found.map(|(_, option)| *option)
}

/// The option for the field that is wrong, where there is one.
pub(super) fn of(error: &TrainConfigError) -> Option<&'static str> {
    match error {
        TrainConfigError::Field { field, .. } => find(FIELDS, field),
        TrainConfigError::Loss {
            stage,
            source: LossError::Field { field, .. },
        } => match *stage {
            "stage1" => find(LOSS, field),
            // Its loss has no options but its name.
            _ => (*field == "kind").then_some("--stage2-loss"),
        },
        TrainConfigError::Schedule { stage, source } => {
            find(SCHEDULE, source.field).map(|options| options[usize::from(*stage == "stage2")])
        }
        TrainConfigError::Model(ConfigError::Field { field, .. }) => find(MODEL, field),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::{Args, Command};

    use super::*;
    use crate::cli::TrainArgs;

    #[test]
    fn every_option_of_the_tables_is_there() {
        let command = TrainArgs::augment_args(Command::new("train"));
        let there = |option: &str| {
            let name = option.strip_prefix("--").unwrap();
            let mut options = command.get_arguments().filter_map(|arg| arg.get_long());
            assert!(options.any(|long| long == name), "{option}");
        };
        for (_, option) in LOSS.iter().chain(MODEL).chain(FIELDS) {
            there(option);
        }
        for (_, options) in SCHEDULE {
            options.iter().for_each(|option| there(option));
        }
    }
}

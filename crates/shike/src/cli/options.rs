//! Which option of `shike train` sets a field of the configuration, and which were given.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};
use shike_train::config::frozen::TRAINING;
use shike_train::recipe::Place;
use shike_train::{RecipeError, TrainConfigError};

/// Options, and the fields that each decides: those that nothing else may say at the same time. With a dot
/// at its end a field is what is below it.
const FIELDS: &[(&str, &[&str])] = &[
    ("--accumulate", &["accumulation"]),
    ("--arch", &["model.arch", "model.backbone"]),
    ("--background", &["background"]),
    ("--bad-images", &["bad_images"]),
    ("--batch-size", &["loader.batch_size"]),
    ("--cb-beta", &["stage1.loss.weights.beta"]),
    ("--checkpoint-seconds", &["checkpoint_seconds"]),
    (
        "--class-weight",
        &[
            "stage1.loss.weights.classes",
            "stage2.loss.weights.classes",
            "frozen.class_weights",
        ],
    ),
    ("--class-weights", &["stage1.loss.weights"]),
    ("--classifier", &["model.classifier"]),
    ("--clip-norm", &["clip_norm"]),
    ("--crop-scale", &["train_pipeline."]),
    ("--drw-epoch", &["stage1.loss.weights_from_epoch"]),
    ("--ema", &["ema_decay"]),
    (
        "--epochs",
        &[
            "stage1.epochs",
            "stage1.schedule.total_epochs",
            "stage1.schedule.milestones",
        ],
    ),
    ("--evaluate-every", &["evaluate_every"]),
    ("--exif", &["upright"]),
    ("--experts", &["model.experts"]),
    ("--few-below", &["thresholds.few_below"]),
    ("--fit", &["fit"]),
    ("--focal-gamma", &["stage1.loss.gamma"]),
    ("--freeze", &["freeze"]),
    ("--freeze-bn", &["freeze_batch_norm"]),
    (
        "--image-size",
        &["image_size", "train_pipeline.", "eval_pipeline."],
    ),
    (
        "--keep-strength",
        &["stage1.loss.non_target_weight", "stage1.loss.mutual_weight"],
    ),
    ("--label-smoothing", &["stage1.loss.label_smoothing"]),
    ("--ldam-max-margin", &["stage1.loss.max_margin"]),
    ("--loss", &["stage1.loss", "stage1.loss.kind"]),
    (
        "--lr",
        &[
            "stage1.lr",
            "stage1.schedule.lr",
            "stage1.schedule.base_lr",
            "stage1.schedule.warmup_lr",
        ],
    ),
    ("--lr-backbone", &["lr_factors."]),
    ("--many-above", &["thresholds.many_above"]),
    ("--max-bad-share", &["bad_images.skip.max_share"]),
    ("--part-lr", &["lr_factors"]),
    ("--patience", &["patience"]),
    ("--precision", &["precision"]),
    ("--range", &["range"]),
    ("--sampling", &["stage1.sampling"]),
    ("--seed", &["seed"]),
    (
        "--stage2-epochs",
        &[
            "stage2.epochs",
            "stage2.schedule.total_epochs",
            "stage2.schedule.milestones",
        ],
    ),
    ("--stage2-loss", &["stage2.loss", "stage2.loss.kind"]),
    (
        "--stage2-lr",
        &[
            "stage2.lr",
            "stage2.schedule.lr",
            "stage2.schedule.base_lr",
            "stage2.schedule.warmup_lr",
        ],
    ),
    ("--stage2-method", &["stage2.method"]),
    ("--stage2-sampling", &["stage2.sampling"]),
    ("--stage2-tau", &["stage2.taus"]),
    ("--stage2-warmup-epochs", &["stage2.schedule.warmup_epochs"]),
    ("--tau", &["stage1.loss.tau"]),
    ("--warmup-epochs", &["stage1.schedule.warmup_epochs"]),
    ("--weights", &["weights"]),
    ("--workers", &["loader.workers"]),
    // Behind those that set such a field itself.
    ("--baseline", &["model.experts", "model.fused_layers"]),
];

/// Options that change a part of a field's value, which others may change as well.
const PARTS: &[(&str, &[&str])] = &[("--no-flip", &["train_pipeline"])];

/// The option for the field that is wrong, where there is one.
pub(super) fn of(error: &TrainConfigError) -> Option<&'static str> {
    let path = error.path();
    let mut options = FIELDS.iter();
    let found = options.find(|(_, fields)| fields.contains(&path.as_str()));
    found.map(|(option, _)| *option)
}

/// What a message may advise beside fields.
const ADVICE: &[(&str, &str)] = &[
    ("horizontal_flip", "--no-flip"),
    ("max_images", "--max-images"),
    ("model.plain", "--baseline ce"),
];

/// A message with the options for the fields that it names in backticks.
pub(super) fn with_options(text: &str) -> String {
    let named = text.split('`').skip(1).step_by(2);
    let option = |name: &str| {
        let mut fields = FIELDS.iter().flat_map(|(option, fields)| {
            let fields = fields.iter();
            fields.map(move |field| (*field, *option))
        });
        let found = fields.find(|(field, _)| *field == name);
        found.or_else(|| ADVICE.iter().copied().find(|(field, _)| *field == name))
    };
    let options: Vec<&str> = named.filter_map(option).map(|(_, option)| option).collect();
    match options.is_empty() {
        true => text.to_owned(),
        false => format!("{text} ({})", options.join(", ")),
    }
}

/// Whether what was given with `--set` is wrong.
pub(super) fn is_of_set(error: &RecipeError) -> bool {
    let (RecipeError::Syntax { place, .. }
    | RecipeError::UnknownField { place, .. }
    | RecipeError::UnknownValue { place, .. }
    | RecipeError::Missing { place, .. }
    | RecipeError::Value { place, .. }
    | RecipeError::Config { place, .. }) = error
    else {
        return false;
    };
    matches!(place, Place::Option(_))
}

/// The options that were given, as `--lr`.
#[derive(Clone, Debug, Default)]
pub struct Given(Vec<String>);

impl Given {
    /// Whether this one was.
    pub(super) fn has(&self, option: &str) -> bool {
        self.0.iter().any(|given| given == option)
    }

    /// All of them.
    pub(super) fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether none was.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that were given, with each field that they decide.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let given = FIELDS.iter().filter(|(option, _)| self.has(option));
        given.flat_map(|(option, fields)| fields.iter().map(|field| (*option, *field)))
    }

    /// The first that says how a network is trained, which a frozen trunk is not.
    pub(super) fn trains(&self) -> Option<&'static str> {
        let of_network = ["--experts", "--baseline", "--classifier"];
        let trains = |(option, fields): &&(&'static str, &[&str])| {
            let first = |field: &str| field.split('.').next().unwrap_or_default().to_owned();
            let mut fields = fields.iter().map(|field| first(field));
            // The size of pictures is a matter of both pipelines, and a frozen trunk has weights of classes, too.
            let sized = ["--image-size", "--class-weight"].contains(option);
            of_network.contains(option)
                || !sized && fields.any(|field| TRAINING.contains(&field.as_str()))
        };
        let given = FIELDS.iter().filter(|(option, _)| self.has(option));
        given.filter(trains).map(|(option, _)| *option).next()
    }

    /// Those that decide one of these fields, or a part of one.
    pub(super) fn of_fields(&self, fields: &[String]) -> Vec<String> {
        let within = |a: &str, b: &str| {
            let rest = a.strip_prefix(b.trim_end_matches('.'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let concerns = |own: &str| {
            let mut fields = fields.iter();
            fields.any(|field| within(own, field) || within(field, own))
        };
        let found = FIELDS.iter().chain(PARTS);
        let found =
            found.filter(|(option, own)| self.has(option) && own.iter().any(|own| concerns(own)));
        found.map(|(option, _)| (*option).to_owned()).collect()
    }
}

/// It has no options of its own: it only looks at which of the command's were given, and has to be the
/// first field of the options that it is to see.
impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let ids = matches.ids().map(|id| id.as_str());
        // Groups have names of types.
        let ids = ids.filter(|id| !id.contains(char::is_uppercase));
        let given = ids.filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine));
        Ok(Self(
            given
                .map(|id| format!("--{}", id.replace('_', "-")))
                .collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::{Args, Command};

    use super::*;
    use crate::cli::TrainArgs;

    /// Those that change no field.
    const NO_FIELD: [&str; 7] = [
        "cache-limit",
        "check-images",
        "device",
        "dry-run",
        "no-cache",
        "no-lr-scaling",
        "time",
    ];

    #[test]
    fn the_table_has_every_option() {
        let command = TrainArgs::augment_args(Command::new("train"));
        let mut options: Vec<&str> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .collect();
        let fields = FIELDS.iter().chain(PARTS);
        let fields = fields.map(|(option, _)| option.strip_prefix("--").unwrap());
        let mut known: Vec<&str> = fields.chain(NO_FIELD).collect();
        options.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, options);
    }
}

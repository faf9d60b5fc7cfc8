//! Options of a training run, and the configuration that they make.

mod images;
mod loss;
mod network;
mod run;
mod stage2;
mod steps;
mod tuning;

use clap::Args;
use shike_train::config::frozen::TRAINING;
use shike_train::recipe::{Scaling, scale_rates};
use shike_train::{Recipe, TrainConfig};

use self::images::ImageArgs;
use self::loss::LossArgs;
use self::network::NetworkArgs;
use self::run::RunArgs;
use self::stage2::Stage2Args;
use self::steps::StepArgs;
use self::tuning::TuningArgs;
use super::kinds::Baseline;
use crate::cli::CliError;
use crate::cli::options::Given;

/// Settings of a training run. What is not given comes from the recipe, or is chosen for
/// the images.
#[derive(Args, Clone, Debug)]
pub struct TrainArgs {
    #[command(flatten)]
    pub(super) given: Given,
    #[command(flatten, next_help_heading = "Network")]
    pub(super) network: NetworkArgs,
    #[command(flatten, next_help_heading = "Fine-tuning")]
    pub(super) tuning: TuningArgs,
    #[command(flatten, next_help_heading = "Loss of stage 1")]
    pub(super) loss: LossArgs,
    #[command(flatten, next_help_heading = "Epochs, learning rates and batches")]
    pub(super) steps: StepArgs,
    #[command(flatten, next_help_heading = "Stage 2")]
    pub(super) stage2: Stage2Args,
    #[command(flatten, next_help_heading = "Images")]
    pub(super) images: ImageArgs,
    #[command(flatten, next_help_heading = "Run")]
    pub(super) run: RunArgs,
}

impl TrainArgs {
    /// A recipe with what `--baseline` and `--set` make of it.
    ///
    /// # Errors
    /// If an assignment is wrong, or an option says the same field.
    pub(super) fn change(&self, recipe: &mut Recipe, set: &[String]) -> Result<(), CliError> {
        let plain = self.network.baseline == Some(Baseline::Ce);
        if plain {
            recipe.make_plain()?;
        }
        recipe.set(set)?;
        let both = |option: &str, field: &str| match recipe.set_by(field) {
            None => Ok(()),
            Some(assignment) => Err(CliError::Usage(format!(
                "{option} and --set {assignment} both say what {} is: leave one out",
                field.trim_end_matches('.'),
            ))),
        };
        let of_parts = ["--part-lr", "--lr-backbone"];
        for (option, field) in self.given.fields() {
            if !of_parts.contains(&option) {
                both(option, field)?;
            }
        }
        if self.tuning.lr_backbone.is_some() {
            both("--lr-backbone", "lr_factors.stem")?;
        }
        if let Some(method) = &self.stage2.stage2_method
            && method.trains.is_some()
            && method.name != "retrain"
        {
            let option = format!("--stage2-method {}", method.name);
            both(&option, "stage2.loss")?;
            both(&option, "stage2.sampling")?;
        }
        for (part, _) in &self.tuning.part_lr {
            both(&format!("--part-lr {part}"), &format!("lr_factors.{part}"))?;
        }
        if plain
            && let Some(assignment) = recipe
                .set_by("model.plain")
                .filter(|a| a.ends_with("false"))
        {
            let message =
                format!("--baseline ce is a plain network, and --set {assignment} is none");
            return Err(CliError::Usage(message));
        }
        Ok(())
    }

    /// The configuration of a run with these settings, and what became of a recipe's learning rates at
    /// another batch size.
    ///
    /// # Errors
    /// If two settings exclude one another or one is out of range.
    pub fn config(
        &self,
        recipe: &Recipe,
        num_classes: usize,
    ) -> Result<(TrainConfig, Option<Scaling>), CliError> {
        let mut config = recipe.config(num_classes)?;
        if let (Some(_), Some(option)) = (&config.frozen, self.given.trains()) {
            return Err(CliError::Usage(format!(
                "{option} has no effect on a frozen trunk, which the recipe asks for: leave one of them out"
            )));
        }
        let of_cache = ["--cache-limit", "--no-cache"];
        if let (None, Some(option)) = (
            &config.frozen,
            of_cache.into_iter().find(|option| self.given.has(option)),
        ) {
            return Err(CliError::Usage(format!(
                "{option} has no effect: the network is trained, and only features of a frozen trunk are kept"
            )));
        }
        self.images.resize(&mut config)?;
        self.images.check(recipe)?;
        self.set_network(&mut config)?;
        self.set_epochs(recipe, &mut config)?;
        self.set_rates(&mut config)?;
        config.loader.batch_size = self.steps.batch_size.unwrap_or(config.loader.batch_size);
        config.accumulation = self.steps.accumulate.unwrap_or(config.accumulation);
        let scaling = match self.steps.no_lr_scaling {
            false => {
                let [first, second] = recipe.sets_rates();
                let keep = [
                    self.steps.lr.is_some() || first,
                    self.stage2.stage2_lr.is_some() || second,
                ];
                scale_rates(&mut config, recipe.batch(), keep)
            }
            true => None,
        };
        if let Some(sampling) = self.steps.sampling {
            config.stage1.sampling = sampling;
        }
        if config.frozen.is_none() {
            self.loss.apply(&mut config.stage1, num_classes)?;
        }
        self.set_stage2(&mut config)?;
        self.loss.weigh_classes(&mut config)?;
        self.set_fine_tuning(&mut config)?;
        self.images.apply(&mut config)?;
        config.clip_norm = self.steps.clip_norm.or(config.clip_norm);
        if config.stage(2).is_none() {
            Self::drop_stage2(recipe, &mut config)?;
        }
        config.freeze_batch_norm |= self.stage2.freeze_bn;
        self.run.apply(&mut config);
        config.validate()?;
        Ok((config, scaling))
    }

    /// Whether an option or an assignment says how a network is trained, which a frozen trunk is not.
    pub(super) fn says_how_to_train(&self, set: &[String]) -> bool {
        let trains = |assignment: &String| {
            let field = assignment.split(['.', '=']).next().unwrap_or_default();
            TRAINING.contains(&field) || assignment.starts_with("model.")
        };
        self.given.trains().is_some() || set.iter().any(trains)
    }

    /// A name for the run's folder.
    pub(super) fn run_name(&self, recipe: &Recipe, config: &TrainConfig) -> String {
        // A recipe's name stands for its network and method.
        let recipe = recipe.file().file_stem();
        let recipe = recipe.map(|stem| stem.to_string_lossy().into_owned());
        let kind = match self.network.baseline {
            Some(Baseline::Ce) if self.loss.loss.is_some() => Some("plain"),
            Some(Baseline::Ce) => Some("ce"),
            Some(Baseline::Single) => Some("single"),
            None => None,
        };
        let loss = self.loss.loss.map(|loss| loss.name.to_owned());
        let stage2 = self
            .stage2
            .stage2_method
            .map(|method| method.name.to_owned());
        let arch = self.network.arch.clone();
        let parts = [recipe, kind.map(str::to_owned), loss, stage2, arch];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{}-seed{}", parts.join("-"), config.seed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

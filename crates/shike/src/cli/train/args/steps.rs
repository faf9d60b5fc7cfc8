//! Epochs, learning rates and steps.

use clap::Args;
use shike_data::Sampling;
use shike_train::recipe::images_of_a_step;
use shike_train::{Recipe, Schedule, Stage2, TrainConfig};

use super::TrainArgs;
use crate::cli::CliError;
use crate::cli::train::kinds::Baseline;

/// Stage 1, and the steps of both stages.
#[derive(Args, Clone, Debug)]
pub struct StepArgs {
    /// Epochs of stage 1; of a plain network (`--baseline ce`) all of them, to which `--stage2-epochs` adds.
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// End a stage after N epochs without a better one on the validation set.
    #[arg(long, value_name = "N")]
    pub patience: Option<usize>,
    /// Peak learning rate of stage 1.
    #[arg(long, value_name = "X")]
    pub lr: Option<f64>,
    /// Epochs of warm-up in stage 1.
    #[arg(long, value_name = "N")]
    pub warmup_epochs: Option<usize>,
    /// How stage 1 draws images.
    #[arg(long, value_enum)]
    pub sampling: Option<Sampling>,
    /// Images of a batch.
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Keep a recipe's learning rates at another batch size; they are multiplied by the ratio of the
    /// images of a step otherwise. Rates that are given are never changed.
    #[arg(long)]
    pub no_lr_scaling: bool,
    /// Batches averaged for one step.
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Bound on the norm of all gradients together.
    #[arg(long, value_name = "X")]
    pub clip_norm: Option<f64>,
}

impl TrainArgs {
    /// How long both stages last, and what the second does.
    pub(super) fn set_epochs(
        &self,
        recipe: &Recipe,
        config: &mut TrainConfig,
    ) -> Result<(), CliError> {
        let mut second = config.stage(2).map(|stage| stage.epochs);
        if let (None, Some(Baseline::Ce)) = (second, self.network.baseline) {
            // A plain network has no stage 2 by itself, but the budget of the recipe.
            let written = recipe.written(config.model.num_classes)?;
            second = written.stage(2).map(|stage| stage.epochs);
        }
        let mut epochs = [
            self.steps.epochs.unwrap_or(config.stage1.epochs),
            self.stage2.stage2_epochs.or(second).unwrap_or(0),
        ];
        let method = self.stage2.stage2_method;
        let untrained = method.is_some_and(|method| method.trains.is_none());
        let alone = self.network.baseline == Some(Baseline::Ce)
            && (!config.model.stage2_heads || untrained);
        if alone {
            // The same budget of epochs as the two stages of the others, unless it is given.
            let given = self.steps.epochs.is_some() || recipe.set_by("stage1.epochs").is_some();
            let added = match given {
                true => self.stage2.stage2_epochs.unwrap_or(0),
                false => epochs[1],
            };
            epochs = [epochs[0] + added, 0];
        }
        config.patience = self.steps.patience.or(config.patience);
        config.stage1.set_epochs(epochs[0]);
        if config.stage2.is_none() {
            config.stage2 = TrainConfig::for_model(config.model.clone(), epochs).stage2;
        }
        self.set_method(epochs, config);
        let (none, heads) = (
            self.stage2.stage2_epochs == Some(0),
            config.model.stage2_heads,
        );
        match config.stage2.as_mut().map(Stage2::training_mut) {
            Some(Some(_)) if epochs[1] == 0 => config.stage2 = None,
            Some(Some(stage)) => stage.set_epochs(epochs[1]),
            Some(None) if !heads || (none && !untrained) => config.stage2 = None,
            Some(None) if self.stage2.stage2_epochs.is_some() && !alone => {
                let message = "--stage2-epochs is for a stage 2 that trains, and tau-norm does not: \
                               leave it out, or choose another --stage2-method";
                return Err(CliError::Usage(message.into()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Learning rates, and how they are reached.
    pub(super) fn set_rates(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        let stage2 = config.stage2.as_mut().and_then(Stage2::training_mut);
        let stages = [
            (
                Some(&mut config.stage1),
                self.steps.lr,
                self.steps.warmup_epochs,
                "--warmup-epochs",
            ),
            (
                stage2,
                self.stage2.stage2_lr,
                self.stage2.stage2_warmup_epochs,
                "--stage2-warmup-epochs",
            ),
        ];
        for (stage, lr, warmup, option) in stages {
            let Some(stage) = stage else { continue };
            if let Some(lr) = lr {
                stage.schedule.set_peak(lr);
            }
            match (warmup, &mut stage.schedule) {
                (
                    Some(epochs),
                    Schedule::WarmupCosine { warmup_epochs, .. }
                    | Schedule::Step { warmup_epochs, .. },
                ) => *warmup_epochs = epochs,
                (Some(_), Schedule::Constant { .. }) => {
                    return Err(CliError::Usage(format!(
                        "{option} has no effect on this recipe's schedule, the kind constant: leave it out"
                    )));
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Refuses `--no-lr-scaling` where no rate would be scaled.
    pub(in crate::cli::train) fn check_scaling(
        &self,
        recipe: &Recipe,
        config: &TrainConfig,
    ) -> Result<(), CliError> {
        match images_of_a_step(config) == recipe.batch() {
            false => Ok(()),
            true => Err(CliError::Usage(
                "--no-lr-scaling has no effect: a step sees as many images as in the recipe, or there is none"
                    .into(),
            )),
        }
    }
}

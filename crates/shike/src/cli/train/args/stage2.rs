//! The second stage.

use clap::Args;
use shike_data::Sampling;
use shike_model::loss::NamedLoss;
use shike_train::config::NamedMethod;
use shike_train::{Recipe, Stage2, TrainConfig};

use super::TrainArgs;
use crate::cli::CliError;
use crate::cli::train::kinds::{losses, methods};

/// Stage 2.
#[derive(Args, Clone, Debug)]
pub struct Stage2Args {
    /// Epochs of stage 2; 0 leaves it out.
    #[arg(long, value_name = "N")]
    pub stage2_epochs: Option<usize>,
    /// What stage 2 does; a plain network (`--baseline ce`) then has one, too.
    #[arg(long, value_parser = methods())]
    pub stage2_method: Option<NamedMethod>,
    /// Loss of stage 2.
    #[arg(long, value_parser = losses())]
    pub stage2_loss: Option<NamedLoss>,
    /// How stage 2 draws images.
    #[arg(long, value_enum)]
    pub stage2_sampling: Option<Sampling>,
    /// Peak learning rate of stage 2.
    #[arg(long, value_name = "X")]
    pub stage2_lr: Option<f64>,
    /// Epochs of warm-up in stage 2.
    #[arg(long, value_name = "N")]
    pub stage2_warmup_epochs: Option<usize>,
    /// Power of τ-normalisation; of several, as `0.5,0.7,1`, the validation set chooses one. Where none is
    /// given it chooses among 0, 0.1, … 2; without a validation set it is 0.7.
    #[arg(long, value_name = "X", value_delimiter = ',')]
    pub stage2_tau: Vec<f64>,
    /// Leave batch-normalisation statistics alone in stage 2 (the authors' code moves them).
    #[arg(long)]
    pub freeze_bn: bool,
}

impl TrainArgs {
    /// Another method of stage 2 than that of the recipe, with its loss and its sampling.
    pub(super) fn set_method(&self, [first, second]: [usize; 2], config: &mut TrainConfig) {
        if let Some(method) = self.stage2.stage2_method {
            let usual = || {
                let model = config.model.clone().with_stage2_heads(true);
                TrainConfig::for_model(model, [first, second.max(1)])
                    .stage(2)
                    .cloned()
            };
            let stage = config.stage(2).cloned().or_else(usual);
            let chosen = stage.map(|stage| method.init(stage));
            config.stage2 = match (chosen, config.stage2.take()) {
                // No other method, and so with what the recipe says of it.
                (Some(Stage2::Retrain(_)), Some(Stage2::Retrain(old)))
                    if method.name == "retrain" =>
                {
                    Some(Stage2::Retrain(old))
                }
                (Some(Stage2::TauNorm { .. }), old @ Some(Stage2::TauNorm { .. })) => old,
                (chosen @ Some(Stage2::TauNorm { .. }), _) | (chosen, Some(_)) => chosen,
                (_, None) => None,
            };
        }
        if let (Some(Stage2::TauNorm { taus }), [_, ..]) =
            (&mut config.stage2, self.stage2.stage2_tau.as_slice())
        {
            taus.clone_from(&self.stage2.stage2_tau);
        }
    }

    /// Loss and sampling of stage 2; what is for one is refused where there is none, or it trains nothing.
    pub(super) fn set_stage2(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        let idle = |options: &[(bool, &str)], why: &str| match options.iter().find(|(is, _)| *is) {
            None => Ok(()),
            Some((_, option)) => Err(CliError::Usage(format!("{option} {why}"))),
        };
        let tau = [(!self.stage2.stage2_tau.is_empty(), "--stage2-tau")];
        let trained = [
            (self.stage2.stage2_loss.is_some(), "--stage2-loss"),
            (self.stage2.stage2_sampling.is_some(), "--stage2-sampling"),
            (self.stage2.stage2_lr.is_some(), "--stage2-lr"),
            (
                self.stage2.stage2_warmup_epochs.is_some(),
                "--stage2-warmup-epochs",
            ),
            (self.stage2.freeze_bn, "--freeze-bn"),
        ];
        if !matches!(config.stage2, Some(Stage2::TauNorm { .. })) {
            idle(&tau, "needs --stage2-method tau-norm")?;
        }
        let Some(stage2) = &mut config.stage2 else {
            let why = "needs a stage 2: give --stage2-epochs above 0, and a plain network a \
                       --stage2-method";
            idle(
                &[(self.stage2.stage2_method.is_some(), "--stage2-method")],
                why,
            )?;
            return idle(&trained, why);
        };
        let Some(stage) = stage2.training_mut() else {
            return idle(
                &trained,
                "is for a stage 2 that trains, and tau-norm does not: leave it out",
            );
        };
        if let Some(loss) = self.stage2.stage2_loss {
            stage.loss = (loss.config)();
        }
        stage.sampling = self.stage2.stage2_sampling.unwrap_or(stage.sampling);
        Ok(())
    }

    /// What a recipe says of a stage 2 that options leave out goes with it; what was set is refused.
    pub(super) fn drop_stage2(recipe: &Recipe, config: &mut TrainConfig) -> Result<(), CliError> {
        let fields = [
            "stage2.loss",
            "stage2.sampling",
            "stage2.lr",
            "stage2.schedule",
            "stage2.mixing",
            "freeze_batch_norm",
        ];
        if let Some(assignment) = fields.iter().find_map(|field| recipe.set_by(field)) {
            return Err(CliError::Usage(format!(
                "--set {assignment} is for a stage 2 that trains, and options leave none: leave one of them out"
            )));
        }
        config.freeze_batch_norm = false;
        config.ema_features |= config.stage2.is_none();
        Ok(())
    }
}

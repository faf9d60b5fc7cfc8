//! The loss of stage 1.

use clap::Args;
use shike_model::LossConfig;
use shike_model::loss::{ClassWeights, KlReduction, NamedLoss};
use shike_train::StageConfig;

use crate::cli::CliError;
use crate::cli::train::kinds::{class_weights, losses};

/// The loss of stage 1.
#[derive(Args, Clone, Debug)]
pub struct LossArgs {
    /// Loss of stage 1.
    #[arg(long, value_parser = losses())]
    pub loss: Option<NamedLoss>,
    /// Share of a label that is spread over all classes, for cross-entropy.
    #[arg(long, value_name = "X")]
    pub label_smoothing: Option<f64>,
    /// How fast the focal loss fades for images that are classified well.
    #[arg(long, value_name = "X")]
    pub focal_gamma: Option<f64>,
    /// LDAM's margin of the smallest class.
    #[arg(long, value_name = "X")]
    pub ldam_max_margin: Option<f64>,
    /// Power of the class frequencies in logit adjustment.
    #[arg(long, value_name = "X")]
    pub tau: Option<f64>,
    /// Weights of the classes, for cross-entropy, focal loss and LDAM.
    #[arg(long, value_parser = class_weights())]
    pub class_weights: Option<ClassWeights>,
    /// β of the effective number.
    #[arg(long, value_name = "X")]
    pub cb_beta: Option<f64>,
    /// Epochs of stage 1 before the class weights begin to hold (deferred re-weighting); with
    /// `--loss ldam-drw` four fifths unless it is given.
    #[arg(long, value_name = "N")]
    pub drw_epoch: Option<usize>,
    /// Keep the strength that the distillation terms have on CIFAR-100 at this number of classes.
    /// As released, they fade with more classes.
    #[arg(long)]
    pub keep_strength: bool,
}

impl LossArgs {
    /// The loss of stage 1 and its parameters, for so many classes.
    pub(super) fn apply(&self, stage1: &mut StageConfig, classes: usize) -> Result<(), CliError> {
        if let Some(loss) = self.loss {
            stage1.loss = (loss.config)();
        }
        let no_effect = |flag: &str, losses: &str| {
            Err(CliError::Usage(format!(
                "{flag} is for {losses}: choose one with --loss, or leave {flag} out"
            )))
        };
        match (self.label_smoothing, &mut stage1.loss) {
            (Some(x), LossConfig::CrossEntropy(loss)) => loss.label_smoothing = x,
            (Some(_), _) => return no_effect("--label-smoothing", "cross-entropy"),
            _ => {}
        }
        match (self.focal_gamma, &mut stage1.loss) {
            (Some(x), LossConfig::Focal(loss)) => loss.gamma = x,
            (Some(_), _) => return no_effect("--focal-gamma", "the focal loss"),
            _ => {}
        }
        match (self.ldam_max_margin, &mut stage1.loss) {
            (Some(x), LossConfig::Ldam(loss)) => loss.max_margin = x,
            (Some(_), _) => return no_effect("--ldam-max-margin", "LDAM"),
            _ => {}
        }
        match (self.tau, &mut stage1.loss) {
            (Some(x), LossConfig::LogitAdjustment(loss)) => loss.tau = x,
            (Some(_), _) => return no_effect("--tau", "logit adjustment"),
            _ => {}
        }
        match &mut stage1.loss {
            LossConfig::Dkt(loss)
                if self.keep_strength && loss.reduction == KlReduction::ElementMean =>
            {
                *loss = loss.clone().with_cifar100_strength(classes);
            }
            _ if self.keep_strength => {
                let message = "--keep-strength is for the loss dkt as released, whose terms fade with \
                               more classes: choose it, or leave --keep-strength out";
                return Err(CliError::Usage(message.into()));
            }
            _ => {}
        }
        let weighted = "cross-entropy, focal loss or LDAM";
        let epochs = stage1.epochs;
        let Some((weights, from_epoch)) = stage1.loss.weights_mut() else {
            return match (&self.class_weights, self.cb_beta, self.drw_epoch) {
                (Some(_), ..) => no_effect("--class-weights", weighted),
                (_, Some(_), _) => no_effect("--cb-beta", weighted),
                (.., Some(_)) => no_effect("--drw-epoch", weighted),
                _ => Ok(()),
            };
        };
        if self.class_weights.is_some() {
            weights.clone_from(&self.class_weights);
        }
        match (self.cb_beta, &mut *weights) {
            (Some(x), Some(ClassWeights::EffectiveNumber { beta })) => *beta = x,
            (Some(_), _) => {
                let message = "--cb-beta needs --class-weights effective-number";
                return Err(CliError::Usage(message.into()));
            }
            _ => {}
        }
        match (self.drw_epoch, self.loss) {
            (Some(_), _) if weights.is_none() => {
                let message = "--drw-epoch needs --class-weights";
                return Err(CliError::Usage(message.into()));
            }
            (Some(epoch), _) => *from_epoch = epoch,
            // 160 of the paper's 200.
            (None, Some(loss)) if loss.name == "ldam-drw" => *from_epoch = epochs * 4 / 5,
            _ => {}
        }
        Ok(())
    }
}

//! The loss of stage 1.

use std::collections::BTreeMap;

use clap::Args;
use shike_model::LossConfig;
use shike_model::loss::{ClassWeights, KlReduction, NamedLoss};
use shike_train::{Stage2, StageConfig, TrainConfig};

use crate::cli::CliError;
use crate::cli::train::kinds::{class_weight, class_weights, losses};

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
    /// Weights of the classes, for cross-entropy, focal loss and LDAM: `inverse` (one over the number of
    /// images), `inverse^0.5` (between that and none), `effective-number`, or a file with lines `class
    /// name<TAB>weight`.
    #[arg(long, value_name = "KIND|FILE", value_parser = class_weights)]
    pub class_weights: Option<ClassWeights>,
    /// Weight of one class, as `wasp=2`, on top of those above; may be given again. It holds in every loss that
    /// has weights, in both stages, and on a frozen trunk.
    #[arg(long, value_name = "NAME=X", value_parser = class_weight)]
    pub class_weight: Vec<(String, f64)>,
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
        self.add_named(weights);
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

    /// Puts the weights of single classes on top of those that a loss has.
    fn add_named(&self, weights: &mut Option<ClassWeights>) {
        if self.class_weight.is_empty() {
            return;
        }
        let (mut classes, base) = match weights.take() {
            Some(ClassWeights::Named { classes, base }) => (classes, base),
            base => (BTreeMap::new(), base.map(Box::new)),
        };
        classes.extend(self.class_weight.iter().cloned());
        *weights = Some(ClassWeights::Named { classes, base });
    }

    /// Weights of single classes in stage 2, or on a frozen trunk. Those whose classifiers answer have to have some.
    pub(super) fn weigh_classes(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        if let Some(frozen) = &mut config.frozen {
            frozen
                .class_weights
                .extend(self.class_weight.iter().cloned());
            return Ok(());
        }
        let stage2 = config.stage2.as_mut().and_then(Stage2::training_mut);
        let stage2 = stage2.and_then(|stage| stage.loss.weights_mut());
        let in_stage2 = stage2.is_some();
        if let Some((weights, _)) = stage2 {
            self.add_named(weights);
        }
        let in_stage1 = config.stage1.loss.weights_mut().is_some();
        match self.class_weight.is_empty() || in_stage2 || (in_stage1 && config.stage(2).is_none()) {
            true => Ok(()),
            false => Err(CliError::Usage(
                "--class-weight has no effect: the loss of the last stage has no weights; cross-entropy, focal loss, LDAM, \
                 balanced softmax and logit adjustment have (--loss, --stage2-loss)"
                    .into(),
            )),
        }
    }
}

//! The network.

use clap::Args;
use clap::builder::PossibleValuesParser;
use shike_infer::Precision;
use shike_model::{BackboneConfig, ClassifierConfig, LossConfig, ShikeConfig};
use shike_train::config::TrainConfigError;
use shike_train::{TrainConfig, TrainError};

use super::TrainArgs;
use crate::cli::CliError;
use crate::cli::train::kinds::{Baseline, classifiers};

/// The network that is trained.
#[derive(Args, Clone, Debug)]
pub struct NetworkArgs {
    /// Network: for small images (ResNet-8, 14, 20, 32, 44, 56, 110, those for CIFAR) or for large ones
    /// (ResNet-10, 18, 34, 50, 101, 152, ResNeXt-50).
    #[arg(long, value_name = "ARCH", value_parser = PossibleValuesParser::new(BackboneConfig::names()))]
    pub arch: Option<String>,
    /// Number of experts.
    #[arg(long, value_name = "K")]
    pub experts: Option<usize>,
    /// Train a baseline instead of SHIKE.
    #[arg(long, value_enum)]
    pub baseline: Option<Baseline>,
    /// Classifier of the network.
    #[arg(long, value_parser = classifiers())]
    pub classifier: Option<ClassifierConfig>,
    /// Type of float of convolutions and activations; weights, statistics and loss stay float32.
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
}

impl TrainArgs {
    /// Backbone, experts and classifiers.
    pub(super) fn set_network(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        let invalid = |error| CliError::Train(TrainError::from(TrainConfigError::from(error)));
        let plain = self.network.baseline == Some(Baseline::Ce);
        let old = &config.model;
        let backbone = match &self.network.arch {
            Some(arch) => BackboneConfig::named(arch).map_err(invalid)?,
            None => old.backbone.clone(),
        };
        let usual = ShikeConfig::on(backbone.clone(), old.num_classes);
        let mut model = match (self.network.baseline, &self.network.arch) {
            (Some(Baseline::Single), _) if old.is_plain() => usual,
            (_, None) => old.clone(),
            // The rule of the usual network at another depth; the rest stays.
            (_, Some(_)) => ShikeConfig {
                backbone,
                shared_layers: usual.shared_layers,
                fused_layers: match old.fused_layers.is_empty() {
                    true => vec![],
                    false => usual.fused_layers,
                },
                ..old.clone()
            },
        };
        match (self.network.baseline, self.network.experts) {
            (Some(_), Some(experts)) if experts != 1 => {
                let message = "--baseline has one network: leave --experts out";
                return Err(CliError::Usage(message.into()));
            }
            (Some(Baseline::Single), _) => model.experts = 1,
            (None, Some(experts)) if experts != 1 && model.is_plain() => {
                let message = "--experts is for SHIKE, and this recipe's network is a plain one \
                               (model.plain): leave one of them out";
                return Err(CliError::Usage(message.into()));
            }
            (None, Some(experts)) => model.experts = experts,
            _ => {}
        }
        let margins = self
            .loss
            .loss
            .is_some_and(|loss| matches!((loss.config)(), LossConfig::Ldam(_)));
        model.classifier = match (&self.network.classifier, plain && margins) {
            (Some(given), _) => given.clone(),
            (None, true) => ClassifierConfig::cosine(),
            (None, false) => model.classifier,
        };
        if plain {
            model.stage2_heads = self.stage2.stage2_method.is_some();
        }
        config.model = model;
        Ok(())
    }
}

use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use shike_kernels::LossLabels;

use super::class_weights::{in_epoch, row};
use super::cross_entropy::mean_weight_1;
use super::{
    ClassWeights, Loss, LossContext, LossError, LossOutput, Settings, count_logs, cross_entropy,
    one_hot,
};
use crate::network::{ClassifierConfig, ExpertLogits};

/// Configuration of [`LdamLoss`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LdamLossConfig {
    /// Margin of the smallest class, in units of the cosine.
    pub max_margin: f64,
    /// Weights of the classes; the paper's are [`ClassWeights::effective_number`].
    pub weights: Option<ClassWeights>,
    /// The epoch, from 0, from which on the weights hold: deferred re-weighting (DRW), 160 of 200
    /// in the paper.
    pub weights_from_epoch: usize,
}

/// Label-distribution-aware margin loss (Cao et al. 2019, arXiv 1906.07413): the weighted
/// [cross-entropy](super::CrossEntropyLoss) of `s · (cos θ_c − m_y · [c = y])`, with margins
/// `m_c = m · n_c^(−1/4) / max_k n_k^(−1/4)` from the training counts `n`. The logits have to be those of a
/// [cosine classifier](crate::network::CosineClassifier) with scale `s`; the authors' is 30.
#[derive(Clone, Debug)]
pub struct LdamLoss {
    /// In units of the logits, `[1, classes]`.
    margins: TensorData,
    /// `[1, classes]`.
    weights: Option<TensorData>,
}

impl Default for LdamLossConfig {
    fn default() -> Self {
        Self {
            max_margin: 0.5,
            weights: None,
            weights_from_epoch: 0,
        }
    }
}

impl LdamLossConfig {
    /// The loss.
    ///
    /// # Errors
    /// If a field is out of range, a class has no image, or the classifier is no cosine classifier.
    pub fn init(&self, context: &LossContext) -> Result<LdamLoss, LossError> {
        let scale = self.scale(&context.classifier)?;
        let counts = context.counts;
        let logs = count_logs(counts, "its margin would be infinite")?;
        let smallest = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let margins = logs
            .into_iter()
            .map(|log| scale * self.max_margin * ((smallest - log) / 4.0).exp());
        Ok(LdamLoss {
            margins: TensorData::new(margins.collect::<Vec<f64>>(), [1, counts.len()]),
            weights: in_epoch(self.weights.as_ref(), self.weights_from_epoch, context)?,
        })
    }

    /// The scale of the classifier, for settings that are possible.
    fn scale(&self, classifier: &ClassifierConfig) -> Result<f64, LossError> {
        let ClassifierConfig::Cosine { scale } = classifier else {
            return Err(LossError::Field {
                field: "kind",
                found: "ldam".into(),
                expected: "another loss, or the network's classifier cosine: LDAM's margins are \
                           differences of cosines"
                    .into(),
            });
        };
        let margin = self.max_margin;
        let valid = margin.is_finite() && margin >= 0.0;
        LossError::check("max_margin", valid, &margin, "0 or more")?;
        let weights = self.weights.as_ref();
        weights.map_or(Ok(*scale), |weights| weights.validate().map(|()| *scale))
    }
}

setters!(LdamLossConfig {
    with_max_margin max_margin: f64,
    with_weights weights: Option<ClassWeights>,
    with_weights_from_epoch weights_from_epoch: usize,
});

impl Settings for LdamLossConfig {
    fn check(&self, classifier: &ClassifierConfig) -> Result<(), LossError> {
        self.scale(classifier).map(drop)
    }

    fn weights_mut(&mut self) -> Option<(&mut Option<ClassWeights>, &mut usize)> {
        Some((&mut self.weights, &mut self.weights_from_epoch))
    }
}

impl Loss for LdamLoss {
    /// A margin belongs to the class of an image, so there is no loss for label distributions.
    fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> LossOutput {
        let hard = one_hot(labels.clone(), &logits.experts[0]);
        let margins = hard.clone() * row(&self.margins, &hard);
        let experts = logits.experts.iter();
        let experts: Vec<_> = experts.map(|l| l.clone() - margins.clone()).collect();
        let labels = match &self.weights {
            None => LossLabels::Hard(labels),
            Some(weights) => {
                let weighted = hard.clone() * row(weights, &hard);
                LossLabels::Soft(mean_weight_1(weighted, hard, weights))
            }
        };
        LossOutput::of_experts(cross_entropy(&experts, labels, None))
    }
}

use burn::config::Config;
use burn::tensor::{Int, Tensor, TensorData};
use shike_kernels::LossLabels;

use super::class_weights::{in_epoch, row};
use super::cross_entropy::mean_weight_1;
use super::{ClassWeights, LossError, count_logs, cross_entropy, one_hot};
use crate::network::ExpertLogits;

/// Configuration of [`LdamLoss`].
#[derive(Config, Debug, PartialEq)]
pub struct LdamLossConfig {
    /// Margin of the smallest class, in units of the cosine.
    #[config(default = 0.5)]
    pub max_margin: f64,
    /// Weights of the classes; the paper's are [`ClassWeights::effective_number`].
    pub weights: Option<ClassWeights>,
    /// The epoch, from 0, from which on the weights hold: deferred re-weighting (DRW), 160 of 200
    /// in the paper.
    #[config(default = 0)]
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
        Self::new()
    }
}

impl LdamLossConfig {
    /// Checks all that needs no counts.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn validate(&self) -> Result<(), LossError> {
        let margin = self.max_margin;
        let valid = margin.is_finite() && margin >= 0.0;
        LossError::check("max_margin", valid, &margin, "0 or more")?;
        self.weights.as_ref().map_or(Ok(()), ClassWeights::validate)
    }

    /// The loss in `epoch`, from 0, for classes with these training counts and a cosine classifier
    /// with this scale.
    ///
    /// # Errors
    /// If a field is out of range or a class has no image.
    pub fn init(&self, counts: &[usize], scale: f64, epoch: usize) -> Result<LdamLoss, LossError> {
        self.validate()?;
        let logs = count_logs(counts, "its margin would be infinite")?;
        let smallest = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let margins = logs
            .into_iter()
            .map(|log| scale * self.max_margin * ((smallest - log) / 4.0).exp());
        let from = self.weights_from_epoch;
        Ok(LdamLoss {
            margins: TensorData::new(margins.collect::<Vec<f64>>(), [1, counts.len()]),
            weights: in_epoch(self.weights.as_ref(), from, counts, epoch)?,
        })
    }
}

impl LdamLoss {
    /// The loss of each expert for class indices, `[batch]`: `[experts]`. A margin belongs to the class
    /// of an image, so there is no loss for mixed labels.
    pub fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> Tensor<1> {
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
        cross_entropy(&experts, labels, None)
    }
}

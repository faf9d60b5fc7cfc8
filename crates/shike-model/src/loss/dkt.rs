use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};
use shike_kernels::{DktOptions, LossLabels, dkt_terms};

use super::{
    Loss, LossContext, LossError, LossOutput, Settings, is_class, one_hot, soft_cross_entropy,
};
use crate::network::{ClassifierConfig, ExpertLogits};

/// What a Kullback–Leibler divergence over `[batch, classes]` is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlReduction {
    /// `batch · classes`: PyTorch's `reduction="mean"`, which the released code leaves in place.
    #[serde(alias = "ElementMean")]
    ElementMean,
    /// `batch`: the divergence itself, as the paper writes it.
    #[serde(alias = "BatchMean")]
    BatchMean,
}

/// Configuration of [`DktLoss`]. The defaults are the released code's; see [`paper`](Self::paper)
/// for the text's reading.
///
/// # Strength at other numbers of classes
/// The released code reduces both divergences with PyTorch's `mean`, which divides by the number
/// of classes `C` as well as by the batch. In units of the divergence itself its weights are thus
/// `10 / C` (non-target) and `1 / C` (mutual): 0.1 and 0.01 on CIFAR-100, but 0.01 and 0.001 at
/// 1000 classes and 0.0012 and 0.00012 at iNaturalist's 8142: there the terms all but vanish.
/// [`with_cifar100_strength`](Self::with_cifar100_strength) gives the weights that keep the
/// strength of the published experiment: `10 · C / 100` and `C / 100` under
/// [`KlReduction::ElementMean`], or 0.1 and 0.01 under [`KlReduction::BatchMean`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DktLossConfig {
    /// Weight of the non-target distillation.
    pub non_target_weight: f64,
    /// Weight of the mutual distillation.
    pub mutual_weight: f64,
    /// How the divergences are reduced.
    pub reduction: KlReduction,
    /// Whether teachers are constants. The released code lets gradients through the non-target
    /// teacher and through the teaching side of the mutual distillation.
    pub detach_teacher: bool,
    /// Whether the target class takes no part in the non-target distributions. The released code
    /// leaves it at logit 0 in the teacher and −30 in the student, so that the divergence of equal
    /// distributions is not 0. With soft labels a class is left out in proportion to its label:
    /// `log(1 − y)` is added on both sides.
    pub exclude_target: bool,
}

/// The released code's stand-in for −∞ on the target's logit.
const TARGET_LOGIT: f64 = -30.0;
/// Bound on `log(1 − y)`: e to this is 0 in every float type, and finite in each.
const EXCLUDED: f64 = -1e4;

impl Default for DktLossConfig {
    fn default() -> Self {
        Self {
            non_target_weight: 10.0,
            mutual_weight: 1.0,
            reduction: KlReduction::ElementMean,
            detach_teacher: false,
            exclude_target: false,
        }
    }
}

/// Below so many classes, the term that the released code takes from the classes other than the target
/// works against the cross-entropy.
pub const FEW_CLASSES: usize = 20;

impl DktLossConfig {
    /// The paper's reading: divergences as they are written (batch mean), constant teachers, the
    /// target left out on both sides; with the weights 0.1 and 0.01 that equal the released ones
    /// on CIFAR-100.
    pub fn paper() -> Self {
        Self::default()
            .with_reduction(KlReduction::BatchMean)
            .with_detach_teacher(true)
            .with_exclude_target(true)
            .with_cifar100_strength(100)
    }

    /// Sets both weights so that the terms are as strong at `num_classes` classes as the released
    /// ones are on CIFAR-100.
    pub fn with_cifar100_strength(self, num_classes: usize) -> Self {
        let scale = match self.reduction {
            KlReduction::ElementMean => num_classes as f64 / 100.0,
            KlReduction::BatchMean => 1.0 / 100.0,
        };
        self.with_non_target_weight(10.0 * scale)
            .with_mutual_weight(scale)
    }

    /// The loss.
    ///
    /// # Errors
    /// None: any settings are possible on any classes.
    pub fn init(&self, _: &LossContext) -> Result<DktLoss, LossError> {
        Ok(DktLoss {
            config: self.clone(),
        })
    }
}

setters!(DktLossConfig {
    with_non_target_weight non_target_weight: f64,
    with_mutual_weight mutual_weight: f64,
    with_reduction reduction: KlReduction,
    with_detach_teacher detach_teacher: bool,
    with_exclude_target exclude_target: bool,
});

impl Settings for DktLossConfig {
    fn check(&self, _: &ClassifierConfig) -> Result<(), LossError> {
        Ok(())
    }

    fn note(&self, classes: usize) -> Option<String> {
        let fights = classes < FEW_CLASSES && !self.exclude_target && self.non_target_weight > 0.0;
        fights.then(|| {
            format!(
                "at {classes} classes, fewer than {FEW_CLASSES}, the non-target term of DKT as released \
                 pushes the logits of wrong classes up (docs/METHODS.md, \"Few classes\"); as the paper \
                 reads (dkt-paper; `exclude_target`) it does not"
            )
        })
    }
}

/// Dynamic knowledge transfer (SHIKE, section 3.3; `mix_outputs` of the reference):
/// `Σ_i CE_i + w₁ Σ_i KL(teacher ‖ student_i) + w₂ Σ_{i≠j} KL(p_j ‖ p_i)`, summed (not averaged)
/// over experts.
///
/// Written with log-softmax throughout, so that values and gradients stay finite at logits of ±60,
/// where the released float32 code gives NaN.
#[derive(Clone, Debug)]
pub struct DktLoss {
    config: DktLossConfig,
}

/// The terms of [`DktLoss`], before their weights.
#[derive(Clone, Debug)]
pub struct DktTerms {
    /// Cross-entropy of each expert, `[experts]`.
    pub cross_entropy: Tensor<1>,
    /// Non-target distillation into each expert, `[experts]`.
    pub non_target: Tensor<1>,
    /// Mutual distillation, `[experts, experts]`: row `i`, column `j` is `KL(p_j ‖ p_i)`, which
    /// teaches `i` from `j`; the diagonal is 0.
    pub mutual: Tensor<2>,
}

impl Loss for DktLoss {
    fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> LossOutput {
        self.output(self.terms(logits, LossLabels::Hard(labels)))
    }

    /// The loss of the soft labels: beside one label alone, the hardest negative would be the other.
    fn forward_mixed(
        &self,
        logits: &ExpertLogits,
        labels: Tensor<1, Int>,
        share: f64,
    ) -> LossOutput {
        let own = one_hot(labels.clone(), &logits.experts[0]);
        let partners = one_hot(labels.flip([0]), &logits.experts[0]);
        // In this form two images of one class have exactly its label.
        let soft = partners.clone() + (own - partners).mul_scalar(share);
        self.forward_soft(logits, soft)
    }
}

/// The teacher of the non-target distillation and what it is built of.
#[derive(Clone, Debug)]
pub struct NonTargetTeacher {
    /// The consensus hardest negative of each image, `[batch]`: the class other than the target
    /// with the largest mean logit over the experts (the first of equals).
    pub hardest: Tensor<1, Int>,
    /// The teacher's logits, `[batch, classes]`: the mean logit at the hardest negative, the
    /// maximum over the experts elsewhere, 0 at the target.
    pub logits: Tensor<2>,
}

impl DktLoss {
    /// The loss for label distributions, `[batch, classes]`, whose rows sum to 1 (mixup, CutMix,
    /// label smoothing).
    pub fn forward_soft(&self, logits: &ExpertLogits, labels: Tensor<2>) -> LossOutput {
        self.output(self.terms(logits, LossLabels::Soft(labels)))
    }

    /// All terms.
    pub fn terms(&self, logits: &ExpertLogits, labels: LossLabels) -> DktTerms {
        self.kernel(logits, &labels).unwrap_or_else(|| {
            let labels = match labels {
                LossLabels::Hard(labels) => one_hot(labels, &logits.experts[0]),
                LossLabels::Soft(labels) => labels,
            };
            self.by_definition(logits, labels)
        })
    }

    /// All terms in one pass, where there is a kernel for it.
    fn kernel(&self, logits: &ExpertLogits, labels: &LossLabels) -> Option<DktTerms> {
        let options = DktOptions {
            detach_teacher: self.config.detach_teacher,
            exclude_target: self.config.exclude_target,
        };
        let terms = dkt_terms(&logits.experts, labels, options)?;
        let [batch, classes] = logits.experts[0].dims();
        let experts = logits.experts.len();
        let divisor = self.divisor(batch, classes);
        let part = |from: usize, count: usize, divisor: f64| {
            let part = terms.clone().narrow(0, from, count);
            part.mul_scalar(1.0 / divisor)
        };
        let mutual = part(2 * experts, experts * experts, divisor);
        Some(DktTerms {
            cross_entropy: part(0, experts, batch as f64),
            non_target: part(experts, experts, divisor),
            mutual: mutual.reshape([experts, experts]),
        })
    }

    /// What the divergences are divided by.
    fn divisor(&self, batch: usize, classes: usize) -> f64 {
        match self.config.reduction {
            KlReduction::ElementMean => (batch * classes) as f64,
            KlReduction::BatchMean => batch as f64,
        }
    }

    /// The definition, in Burn's operations.
    fn by_definition(&self, logits: &ExpertLogits, labels: Tensor<2>) -> DktTerms {
        let experts = &logits.experts;
        let [batch, classes] = experts[0].dims();
        let divisor = self.divisor(batch, classes);
        let log_probs: Vec<_> = experts.iter().map(|l| log_softmax(l.clone(), 1)).collect();
        let probs: Vec<_> = log_probs
            .iter()
            .map(|log_p| self.as_teacher(log_p.clone()))
            .map(|log_p| (log_p.clone().exp(), log_p))
            .collect();

        let cross_entropy = log_probs
            .iter()
            .map(|log_p| soft_cross_entropy(log_p.clone(), &labels));
        let cross_entropy = Tensor::cat(cross_entropy.collect(), 0);

        let teacher = self.as_teacher(self.teacher(logits, labels.clone()).logits);
        let keep = labels.clone().neg().add_scalar(1.0);
        let excluded = self.config.exclude_target.then(|| {
            keep.clone()
                .clamp_min(f64::MIN_POSITIVE)
                .log()
                .clamp_min(EXCLUDED)
        });
        let teacher = match &excluded {
            Some(excluded) => teacher + excluded.clone(),
            None => teacher,
        };
        let teacher = log_softmax(teacher, 1);
        let teacher = (teacher.clone().exp(), teacher);
        let non_target = experts.iter().map(|logits| {
            let student = match &excluded {
                Some(excluded) => logits.clone() + excluded.clone(),
                None => logits.clone() * keep.clone() + labels.clone().mul_scalar(TARGET_LOGIT),
            };
            kl_div(&teacher, log_softmax(student, 1), divisor)
        });
        let non_target = Tensor::cat(non_target.collect(), 0);

        let device = experts[0].device();
        let rows = (0..experts.len()).map(|i| {
            let row = (0..experts.len()).map(|j| match i == j {
                true => Tensor::zeros([1], (&device, experts[0].dtype())),
                false => kl_div(&probs[j], log_probs[i].clone(), divisor),
            });
            Tensor::cat(row.collect(), 0)
        });
        DktTerms {
            cross_entropy,
            non_target,
            mutual: Tensor::stack(rows.collect(), 0),
        }
    }

    fn output(&self, terms: DktTerms) -> LossOutput {
        let [weight, mutual_weight] = [self.config.non_target_weight, self.config.mutual_weight];
        let DktTerms {
            cross_entropy,
            non_target,
            mutual,
        } = terms;
        let experts = cross_entropy.dims();
        let taught = mutual.clone().sum_dim(1).reshape(experts);
        let per_expert = cross_entropy.clone()
            + non_target.clone().mul_scalar(weight)
            + taught.mul_scalar(mutual_weight);
        let [cross_entropy, non_target] = [cross_entropy.sum(), non_target.sum()];
        let mutual = mutual.sum();
        let total = cross_entropy.clone()
            + non_target.clone().mul_scalar(weight)
            + mutual.clone().mul_scalar(mutual_weight);
        LossOutput {
            total,
            per_expert,
            terms: vec![
                ("cross_entropy", cross_entropy),
                ("non_target", non_target),
                ("mutual", mutual),
            ],
        }
    }

    /// The non-target teacher for label distributions, `[batch, classes]`.
    pub fn teacher(&self, logits: &ExpertLogits, labels: Tensor<2>) -> NonTargetTeacher {
        let [_, classes] = labels.dims();
        let keep = labels.clone().neg().add_scalar(1.0);
        // Not `max` over a stacked tensor: where experts tie, the reference's gradient goes to the
        // first of them alone, and comparing strictly does that on every backend.
        let mut experts = logits.experts.iter().cloned();
        let first = experts.next().expect("a network has at least one expert");
        let max = experts.fold(first, |max, logits| {
            let larger = logits.clone().greater(max.clone());
            max.mask_where(larger, logits)
        });
        let mean = logits.mean();
        let masked = labels.mul_scalar(TARGET_LOGIT) + mean * keep.clone();
        let hardest = masked.clone().detach().argmax(1);
        let is_hardest = is_class(hardest.clone(), classes);
        let rest = max * keep;
        NonTargetTeacher {
            hardest: hardest.squeeze_dim(1),
            logits: rest.mask_where(is_hardest, masked),
        }
    }

    fn as_teacher(&self, logits: Tensor<2>) -> Tensor<2> {
        match self.config.detach_teacher {
            true => logits.detach(),
            false => logits,
        }
    }
}

/// `Σ p · (log p − log q) / divisor`, `[1]`, for a teacher's `(p, log p)`.
fn kl_div((p, log_p): &(Tensor<2>, Tensor<2>), log_q: Tensor<2>, divisor: f64) -> Tensor<1> {
    (p.clone() * (log_p.clone() - log_q))
        .sum()
        .mul_scalar(1.0 / divisor)
}

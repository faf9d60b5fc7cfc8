//! What stage 2 can make of the stage-1 classifiers (Kang et al. 2020, *Decoupling Representation and
//! Classifier for Long-Tailed Recognition*, arXiv 1910.09217).

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::classifier::Classifier;
use super::{ConfigError, Shike};

/// A linear layer whose logits have a learnt factor each: `f · (W x + b)`.
#[derive(Module, Debug)]
pub struct ScaledLinear {
    /// The layer, which is not trained.
    pub linear: Linear,
    /// The factors, `[classes]`.
    pub scale: Param<Tensor<1>>,
}

impl ScaledLinear {
    /// A copy of a layer with factors of 1.
    fn new(linear: &Linear) -> Self {
        let [_, classes] = linear.weight.dims();
        let weight = linear.weight.val();
        let ones = Tensor::<1>::ones([classes], (&weight.device(), weight.dtype()));
        Self {
            linear: copy(linear, |weight| weight, |bias| bias).no_grad(),
            scale: Param::from_tensor(ones),
        }
    }

    /// `[batch, features]` → logits `[batch, classes]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear.forward(features) * self.scale.val().unsqueeze()
    }

    /// The linear layer that computes the same.
    pub(super) fn fold(&self) -> Linear {
        let scale = self.scale.val();
        let row = scale.clone().unsqueeze::<2>();
        copy(&self.linear, |weight| weight * row, |bias| bias * scale)
    }
}

/// A layer with parameters of its own, made of another's.
fn copy(
    linear: &Linear,
    weight: impl FnOnce(Tensor<2>) -> Tensor<2>,
    bias: impl FnOnce(Tensor<1>) -> Tensor<1>,
) -> Linear {
    let mut copy = linear.clone();
    copy.weight = Param::from_tensor(weight(linear.weight.val()).detach());
    let biases = linear.bias.as_ref().map(|old| bias(old.val()).detach());
    copy.bias = biases.map(Param::from_tensor);
    copy
}

impl Classifier {
    /// Trains what stage 2 trains of it: all, or the factors alone.
    pub(super) fn unfreeze_for_stage2(self) -> Self {
        match self {
            Self::Scaled(mut scaled) => {
                scaled.scale = scaled.scale.set_require_grad(true);
                Self::Scaled(scaled)
            }
            other => other.unfreeze(),
        }
    }

    fn linear(&self) -> Result<&Linear, ConfigError> {
        match self {
            Self::Linear(linear) => Ok(linear),
            _ => Err(ConfigError::Field {
                field: "classifier",
                found: "the cosine classifier".into(),
                expected: "linear: the norm of a cosine classifier's weights has no effect".into(),
            }),
        }
    }
}

impl Shike {
    /// Learnable weight scaling (LWS) begins: each stage-2 head becomes the stage-1 head, which stays as
    /// it is, with a factor of 1 on the logit of each class, which
    /// [`freeze_for_stage2`](Self::freeze_for_stage2) leaves to be trained.
    ///
    /// # Errors
    /// If the classifiers are not linear.
    pub fn scale_stage1_heads(mut self) -> Result<Self, ConfigError> {
        for expert in &mut self.experts {
            let scaled = ScaledLinear::new(expert.head1.linear()?);
            expert.head2 = Some(Classifier::Scaled(scaled));
        }
        Ok(self)
    }

    /// Multiplies the factors of LWS into weights and biases, so that the network computes the same with
    /// linear heads. Other heads stay as they are.
    pub fn fold_head_scales(mut self) -> Self {
        for expert in &mut self.experts {
            if let Some(Classifier::Scaled(scaled)) = &expert.head2 {
                expert.head2 = Some(Classifier::Linear(scaled.fold()));
            }
        }
        self
    }

    /// τ-normalisation: each stage-2 head becomes the stage-1 head with the weights of a class divided
    /// by the τ-th power of their length, `w / ‖w‖^τ`, and, as the paper has it, without a bias. τ = 0
    /// leaves the weights, τ = 1 gives them length 1.
    ///
    /// # Errors
    /// If the classifiers are not linear.
    pub fn tau_normalize(mut self, tau: f64) -> Result<Self, ConfigError> {
        for expert in &mut self.experts {
            let normalize = |weight: Tensor<2>| {
                // A class whose weights are all 0 keeps them.
                let squared = weight.clone().square().sum_dim(0).clamp_min(1e-24);
                weight * squared.powf_scalar(-tau / 2.0)
            };
            let normalized = copy(expert.head1.linear()?, normalize, |bias| bias.zeros_like());
            expert.head2 = Some(Classifier::Linear(normalized));
        }
        Ok(self)
    }
}

//! SHIKE for [Burn](burn): a mixture of experts for long-tailed image recognition
//! (Jin et al., *Long-Tailed Visual Recognition via Self-Heterogeneous Integration with Knowledge
//! Excavation*, CVPR 2023, [arXiv 2304.01279](https://arxiv.org/abs/2304.01279)).
//!
//! The crate's central choice is that there is **one** definition of "experts on a backbone",
//! [`Shike`], from which the plain network (one expert, no fusion) and every SHIKE variant are
//! configured. A comparison between them then differs in the configuration alone, and the fusion
//! module works out its convolutions from the two feature shapes instead of knowing any one network.
//!
//! | folder | what lives there |
//! |---|---|
//! | [`network`] | blocks, backbones, [depth-wise knowledge fusion](network::Dkf), classifiers, [`Shike`] |
//! | [`loss`] | [dynamic knowledge transfer](loss::DktLoss), balanced softmax, the losses to compare with |
//! | [`weights`] | PyTorch state dicts in and out, by name |
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use shike_model::{Head, ShikeConfig};
//!
//! # #[cfg(feature = "flex")] {
//! let device = Device::flex();
//! let model = ShikeConfig::cifar(20, 100)?.init(&device)?;
//! let logits = model.forward(Tensor::<4>::zeros([2, 3, 32, 32], &device), Head::Stage1);
//! assert_eq!(logits.experts.len(), 3);
//! assert_eq!(logits.mean().dims(), [2, 100]);
//! # }
//! # Ok::<(), shike_model::ConfigError>(())
//! ```

/// `with_…` for fields of a configuration.
macro_rules! setters {
    ($config:ty { $($with:ident $field:ident: $type:ty),* $(,)? }) => {
        impl $config {
            $(
                #[doc = concat!("The same with another `", stringify!($field), "`.")]
                #[must_use]
                pub fn $with(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
}

pub mod loss;
pub mod network;
pub mod weights;

/// The CPU kernels and their switch.
pub use shike_kernels as kernels;

pub use loss::{DktLossConfig, Loss, LossConfig, LossContext, LossOutput};
pub use network::{
    BackboneConfig, ClassifierConfig, ConfigError, ExpertLogits, Head, Part, Shike, ShikeConfig,
};

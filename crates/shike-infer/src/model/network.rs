//! Networks that answer.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, Transaction};
use shike_heads::FittedHead;
use shike_model::network::{ModelSummary, Trunk};
use shike_model::{ExpertLogits, Head, Shike, weights};

/// A network that answers.
// Passed on a few times in a program: a box would only be in the way.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Network {
    /// Experts with one of their sets of heads.
    Experts(Shike, Head),
    /// A frozen trunk, and a head that was fitted on its features. It answers with log-probabilities, as one expert.
    Frozen(Trunk, FittedHead),
}

impl Network {
    /// The experts, where it is of that kind.
    pub fn into_experts(self) -> Option<Shike> {
        match self {
            Self::Experts(model, _) => Some(model),
            Self::Frozen(..) => None,
        }
    }

    /// The network as it answers: running statistics are used, and nothing is kept for gradients.
    pub(crate) fn valid(&self) -> Self {
        match self {
            Self::Experts(model, head) => Self::Experts(model.valid(), *head),
            Self::Frozen(trunk, head) => Self::Frozen(trunk.valid(), head.clone()),
        }
    }

    /// Parameters and multiply-adds by part, for images of `[height, width]`.
    pub fn describe(&self, image_size: [usize; 2]) -> ModelSummary {
        match self {
            Self::Experts(model, _) => model.describe(image_size),
            Self::Frozen(trunk, _) => trunk.describe(image_size),
        }
    }

    /// All tensors by the names that PyTorch has for them, and those of a head on a frozen trunk.
    pub fn tensors(&self) -> Vec<(String, TensorData)> {
        match self {
            Self::Experts(model, _) => weights::state_dict(&model.clone().fold_head_scales()),
            Self::Frozen(trunk, head) => {
                let mut tensors = weights::trunk_state_dict(trunk);
                let head = head.clone().take_apart().tensors.into_iter();
                tensors.extend(head.map(|t| (t.name, TensorData::new(t.values, t.shape))));
                tensors
            }
        }
    }

    /// Logits of each expert for normalised images, `[batch, 3, height, width]`. A head answers on the host; features
    /// that are not finite have logits that are none.
    pub(crate) fn forward(&self, images: Tensor<4>, device: &Device) -> ExpertLogits {
        let (trunk, head) = match self {
            Self::Experts(model, head) => return model.forward(images, *head),
            Self::Frozen(trunk, head) => (trunk, head),
        };
        let batch = images.dims()[0];
        let classes = head.classes();
        let logits = head.log_probabilities(&rows(trunk, images));
        let logits = logits.unwrap_or_else(|_| vec![f32::NAN; batch * classes]);
        ExpertLogits {
            experts: vec![Tensor::from_data(
                TensorData::new(logits, [batch, classes]),
                device,
            )],
        }
    }
}

/// The vectors of all depths side by side, `[batch, width]` row by row, of normalised images.
pub(crate) fn rows(trunk: &Trunk, images: Tensor<4>) -> Vec<f32> {
    let rows = Tensor::cat(trunk.embed(images), 1).into_data();
    rows.iter::<f32>().collect()
}

/// Values of tensors, in one transfer.
pub(crate) fn read(tensors: impl IntoIterator<Item = Tensor<2>>) -> Vec<Vec<f32>> {
    let transaction = Transaction::default();
    let read = tensors.into_iter().fold(transaction, Transaction::register);
    let data = read.execute().into_iter();
    data.map(|data| data.iter::<f32>().collect()).collect()
}

//! A network as it answers, and scoring it on a data set.

use burn::tensor::{Device, Tensor};
use shike_data::{Loader, Normalization};
use shike_model::ExpertLogits;

use crate::device::batch::{Upload, normalized};
use crate::error::InferError;
use crate::metrics::{Evaluation, Evaluator};
use crate::model::network::{Network, read};

/// A network, and how images get to it.
#[derive(Debug)]
pub struct Scorer {
    pub(crate) network: Network,
    normalization: Normalization,
    upload: Upload,
    pub(crate) device: Device,
}

impl Scorer {
    /// The network as it answers: whatever mode it is in, running statistics are used, and nothing is kept
    /// for gradients. It does not follow when the network is trained on.
    pub fn new(
        network: &Network,
        normalization: Normalization,
        upload: Upload,
        device: &Device,
    ) -> Self {
        Self {
            network: network.valid(),
            normalization,
            upload,
            device: device.clone().without_autodiff(),
        }
    }

    /// Logits of each expert for images of `[height, width]`, as interleaved bytes,
    /// `[batch, height, width, 3]`.
    pub(crate) fn logits(&self, bytes: &[u8], size: [usize; 2]) -> ExpertLogits {
        self.network.forward(self.images(bytes, size), &self.device)
    }

    /// Normalised images of such bytes, `[batch, 3, height, width]`.
    pub(crate) fn images(&self, bytes: &[u8], size: [usize; 2]) -> Tensor<4> {
        normalized(bytes, size, &self.normalization, self.upload, &self.device)
    }

    /// Scores the network on all images of a loader, in order, with a new evaluator.
    ///
    /// # Errors
    /// If an image cannot be read, or labels and classes do not fit.
    pub fn score(
        &self,
        loader: &Loader,
        mut evaluator: Evaluator,
    ) -> Result<Evaluation, InferError> {
        let mut batches = loader.sequential();
        for batch in batches.by_ref() {
            let batch = batch?;
            let logits = self.logits(&batch.images, [batch.height, batch.width]);
            let values = read(logits.experts);
            let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            evaluator.add_batch(&values, &batch.labels)?;
        }
        if !batches.is_complete() {
            return Err(InferError::ShortEpoch {
                found: batches.next_batch(),
                expected: batches.total_batches(),
            });
        }
        Ok(evaluator.finish()?)
    }
}

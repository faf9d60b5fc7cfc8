//! Scoring a network on a data set.

use burn::tensor::{Device, Transaction};
use shike_data::{Loader, Normalization};
use shike_model::{Head, Shike};

use crate::device::batch::{Upload, to_tensors};
use crate::error::InferError;
use crate::metrics::{Evaluation, Evaluator};

/// Scores `model` (as [`valid`](burn::module::Module::valid) gives it) with one set of heads on
/// all images of a loader, in order, with a new evaluator.
///
/// # Errors
/// If an image cannot be read, or labels and classes do not fit.
pub fn evaluate(
    model: &Shike,
    head: Head,
    loader: &Loader,
    normalization: &Normalization,
    upload: Upload,
    mut evaluator: Evaluator,
    device: &Device,
) -> Result<Evaluation, InferError> {
    let device = device.clone().without_autodiff();
    let mut batches = loader.sequential();
    for batch in batches.by_ref() {
        let batch = batch?;
        let (images, _) = to_tensors(&batch, normalization, upload, &device);
        let logits = model.forward(images, head).experts;
        // One transfer for all experts.
        let read = logits
            .into_iter()
            .fold(Transaction::default(), |read, logits| read.register(logits));
        let values: Vec<Vec<f32>> = read
            .execute()
            .into_iter()
            .map(|data| data.iter::<f32>().collect())
            .collect();
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

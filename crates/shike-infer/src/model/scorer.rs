//! A network as it answers, and scoring it on a data set.

use burn::tensor::{Device, Tensor};
use shike_data::{Batch, Loader, Normalization};
use shike_model::ExpertLogits;

use crate::device::batch::{Upload, normalized};
use crate::error::InferError;
use crate::metrics::{Evaluation, Evaluator};
use crate::model::network::{Network, read};

/// What an image is shown as beside itself. The logits of each expert are averaged, as the experts' are for the
/// ensemble: priors are added to logits, and stay right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Tta {
    /// Its mirror image.
    Flip,
}

impl Tta {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flip => "flip",
        }
    }
}

/// A network, and how images get to it.
#[derive(Debug)]
pub struct Scorer {
    pub(crate) network: Network,
    normalization: Normalization,
    upload: Upload,
    pub(crate) device: Device,
    pub(crate) tta: Option<Tta>,
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
            tta: None,
        }
    }

    /// Logits of each expert for images of `[height, width]`, as interleaved bytes,
    /// `[batch, height, width, 3]`.
    pub(crate) fn logits(&self, bytes: &[u8], size: [usize; 2]) -> ExpertLogits {
        let logits = self.answer(bytes, size);
        match self.tta {
            None => logits,
            Some(Tta::Flip) => {
                let flipped = self.answer(&mirrored(bytes, size[1]), size);
                let both = logits.experts.into_iter().zip(flipped.experts);
                ExpertLogits {
                    experts: both.map(|(a, b)| (a + b).mul_scalar(0.5)).collect(),
                }
            }
        }
    }

    /// Logits of each expert for a batch, `[batch, classes]` row by row.
    pub fn batch_logits(&self, batch: &Batch) -> Vec<Vec<f32>> {
        read(
            self.logits(&batch.images, [batch.height, batch.width])
                .experts,
        )
    }

    fn answer(&self, bytes: &[u8], size: [usize; 2]) -> ExpertLogits {
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
            let values = self.batch_logits(&batch);
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

/// Images whose rows have so many pixels, left and right changed.
fn mirrored(bytes: &[u8], width: usize) -> Vec<u8> {
    let rows = bytes.chunks_exact(3 * width);
    let pixels = rows.flat_map(|row| row.chunks_exact(3).rev());
    pixels.flatten().copied().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use shike_model::{BackboneConfig, Head, ShikeConfig};

    use super::*;

    #[test]
    fn logits_of_mirror_images_are_averaged() {
        let device = Device::flex();
        device.seed(3);
        let config = ShikeConfig::on(BackboneConfig::named("resnet8").unwrap(), 4);
        let network = Network::Experts(config.init(&device).unwrap(), Head::Stage1);
        let normalization = Normalization::CIFAR10;
        let mut scorer = Scorer::new(&network, normalization, Upload::default(), &device);
        // A row of a colour a pixel: 24 wide and 16 high, two of them.
        let bytes: Vec<u8> = (0..2 * 16 * 24 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let other = mirrored(&bytes, 24);
        assert_eq!(other[..3], bytes[23 * 3..24 * 3]);
        assert_eq!(other[24 * 3..][..3], bytes[47 * 3..48 * 3]);
        assert_eq!(mirrored(&other, 24), bytes);
        let logits = |scorer: &Scorer, bytes: &[u8]| read(scorer.logits(bytes, [16, 24]).experts);
        let (plain, flipped) = (logits(&scorer, &bytes), logits(&scorer, &other));
        assert_ne!(plain, flipped);
        scorer.tta = Some(Tta::Flip);
        let both = logits(&scorer, &bytes);
        for ((mean, a), b) in both.iter().zip(&plain).zip(&flipped) {
            for ((mean, a), b) in mean.iter().zip(a).zip(b) {
                assert!((mean - (a + b) / 2.0).abs() < 1e-5, "{mean} {a} {b}");
            }
        }
        // And those of the mirror image are the same.
        assert_eq!(logits(&scorer, &other), both);
    }
}

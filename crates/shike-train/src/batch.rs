//! From a batch of bytes to the network's input.

use burn::tensor::{Device, Int, Tensor, TensorData};
use shike_data::{Batch, Normalization};

/// Normalised images, `[batch, 3, height, width]`, of interleaved bytes, `[batch, height, width, 3]`.
///
/// `(value / 255 − mean) / std` in float32, as torchvision's `ToTensor` and `Normalize` compute it.
pub fn normalized(
    bytes: &[u8],
    [height, width]: [usize; 2],
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    let plane = height * width;
    let batch = bytes.len() / (3 * plane);
    let values = normalization.normalize_batch(bytes, plane);
    Tensor::from_data(TensorData::new(values, [batch, 3, height, width]), device)
}

/// Images, `[batch, 3, height, width]`, and labels, `[batch]`, of a batch.
pub fn to_tensors(
    batch: &Batch,
    normalization: &Normalization,
    device: &Device,
) -> (Tensor<4>, Tensor<1, Int>) {
    let size = [batch.height, batch.width];
    let images = normalized(&batch.images, size, normalization, device);
    let labels: Vec<i64> = batch.labels.iter().map(|&label| label.into()).collect();
    let labels = Tensor::from_data(TensorData::new(labels, [batch.len()]), device);
    (images, labels)
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_on_images() {
        let bytes: Vec<u8> = (0..2 * 4 * 5 * 3).map(|i| (i * 37 % 256) as u8).collect();
        let tensor = normalized(&bytes, [4, 5], &Normalization::IMAGENET, &Device::flex());
        assert_eq!(tensor.dims(), [2, 3, 4, 5]);
        let found: Vec<f32> = tensor.into_data().try_to_vec().unwrap();
        let expected: Vec<f32> = bytes
            .chunks_exact(60)
            .flat_map(|image| {
                let image = image::RgbImage::from_raw(5, 4, image.to_vec()).unwrap();
                Normalization::IMAGENET.normalize(&image)
            })
            .collect();
        assert_eq!(found, expected);
    }
}

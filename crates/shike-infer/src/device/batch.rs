//! From a batch of bytes to the network's input.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use shike_data::{Batch, Normalization};
use shike_model::kernels;

use crate::device::{is_host, name};

/// The type of float that convolutions and activations are computed in. Weights, statistics, softmax
/// and loss are float32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16: 16 bits with the range of float32. Half the memory, and faster on GPUs that have
    /// matrix units for it. On a CPU with AVX512-BF16, what convolutions multiply is bfloat16, and activations stay
    /// float32.
    Bf16,
}

impl Precision {
    /// What `forward` makes of images, `[batch, channels, height, width]`, in this type of float: bfloat16 images on a
    /// GPU, on a CPU bfloat16 products of float32 images ([`kernels::in_bf16`]).
    pub fn compute<R>(self, images: Tensor<4>, forward: impl FnOnce(Tensor<4>) -> R) -> R {
        match self {
            Self::F32 => forward(images),
            Self::Bf16 if is_host(&images.device()) => kernels::in_bf16(|| forward(images)),
            Self::Bf16 => forward(images.cast(FloatDType::BF16)),
        }
    }

    /// A device's name, for records; of a CPU with the instructions that the kernels take there.
    pub fn name_on(self, device: &Device) -> String {
        let instructions = match self {
            _ if !is_host(device) => return name(device),
            Self::F32 => kernels::instructions(),
            Self::Bf16 => kernels::in_bf16(kernels::instructions),
        };
        format!("flex ({instructions})")
    }

    /// Whether a device has it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, device: &Device) -> Result<(), &'static str> {
        match self {
            Self::F32 => Ok(()),
            Self::Bf16 if !is_host(device) => match device.supports_dtype(DType::BF16) {
                true => Ok(()),
                false => Err("it has no bfloat16"),
            },
            Self::Bf16 if kernels::has_bf16() => Ok(()),
            Self::Bf16 => Err(
                "its processor has no instructions for bfloat16 (AVX512-BF16), or kernels are off",
            ),
        }
    }
}

/// In what form a batch of images goes to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Upload {
    /// As bytes, which the device permutes and normalises: a quarter of the transfer. On a CPU,
    /// where nothing is transferred, the same as [`Upload::F32`].
    #[default]
    U8,
    /// Normalised on the CPU.
    F32,
}

/// Normalised images, `[batch, 3, height, width]`, of interleaved bytes, `[batch, height, width, 3]`.
///
/// `(value / 255 − mean) / std` in float32, as torchvision's `ToTensor` and `Normalize` compute it.
pub fn normalized(
    bytes: &[u8],
    size: [usize; 2],
    normalization: &Normalization,
    upload: Upload,
    device: &Device,
) -> Tensor<4> {
    match upload {
        Upload::U8 if !is_host(device) => on_device(bytes, size, normalization, device),
        _ => on_host(bytes, size, normalization, device),
    }
}

fn on_host(
    bytes: &[u8],
    [height, width]: [usize; 2],
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    let plane = height * width;
    let batch = bytes.len() / (3 * plane);
    let mut values = vec![];
    normalization.normalize_batch(bytes, plane, &mut values);
    Tensor::from_data(TensorData::new(values, [batch, 3, height, width]), device)
}

/// Four bytes travel as one integer, because not every backend has a type of one byte.
fn on_device(
    bytes: &[u8],
    [height, width]: [usize; 2],
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    let batch = bytes.len() / (3 * height * width);
    let words: Vec<i32> = bytes
        .chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            i32::from_le_bytes(word)
        })
        .collect();
    let count = words.len();
    let words = Tensor::<1, Int>::from_data(TensorData::new(words, [count]), device);
    // The shift keeps the sign, which the mask then takes away.
    let byte = |i: i32| {
        let shifted = words.clone().bitwise_right_shift_scalar(8 * i);
        shifted.bitwise_and_scalar(0xFF).float()
    };
    let values: Tensor<2> = Tensor::stack((0..4).map(byte).collect(), 1);
    let values = values.reshape([4 * count]).narrow(0, 0, bytes.len());
    let images = values
        .reshape([batch, height, width, 3])
        .permute([0, 3, 1, 2]);
    let channels =
        |values: [f32; 3]| Tensor::<1>::from_floats(values, device).reshape([1, 3, 1, 1]);
    (images / 255.0 - channels(normalization.mean)) / channels(normalization.std)
}

/// Images, `[batch, 3, height, width]`, and labels, `[batch]`, of a batch.
pub fn to_tensors(
    batch: &Batch,
    normalization: &Normalization,
    upload: Upload,
    device: &Device,
) -> (Tensor<4>, Tensor<1, Int>) {
    let size = [batch.height, batch.width];
    let images = normalized(&batch.images, size, normalization, upload, device);
    let labels: Vec<i64> = batch.labels.iter().map(|&label| label.into()).collect();
    let labels = Tensor::from_data(TensorData::new(labels, [batch.len()]), device);
    (images, labels)
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_agree_with_the_definition_on_images() {
        // 45 pixels, so that the last word is not full, and every value.
        let bytes: Vec<u8> = (0..2 * 9 * 5 * 3).map(|i| (i * 37 % 256) as u8).collect();
        assert_eq!(bytes.len() % 4, 2);
        let expected: Vec<f32> = bytes
            .chunks_exact(135)
            .flat_map(|image| {
                let image = image::RgbImage::from_raw(5, 9, image.to_vec()).unwrap();
                Normalization::IMAGENET.normalize(&image)
            })
            .collect();
        let device = Device::flex();
        for way in [on_host, on_device] {
            let tensor = way(&bytes, [9, 5], &Normalization::IMAGENET, &device);
            assert_eq!(tensor.dims(), [2, 3, 9, 5]);
            let found: Vec<f32> = tensor.into_data().try_to_vec().unwrap();
            // A unit in the last place: a device may divide by multiplying.
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0));
            }
        }
        let tensor = on_host(&bytes, [9, 5], &Normalization::IMAGENET, &device);
        assert_eq!(tensor.into_data().try_to_vec::<f32>().unwrap(), expected);
    }
}

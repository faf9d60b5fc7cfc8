//! Class probabilities for new images.

use std::path::Path;

use burn::tensor::Device;
use burn::tensor::activation::softmax;
use image::RgbImage;
use shike_data::rng::{Purpose, rng};
use shike_data::{DecodeLimits, decode_file};
use shike_model::Shike;

use crate::batch::normalized;
use crate::error::TrainError;
use crate::model_file::{ModelInfo, load_model};

/// A trained model that names what is in an image.
///
/// ```no_run
/// use shike_train::Predictor;
///
/// let device = shike_train::device::parse("auto")?;
/// let predictor = Predictor::load("runs/birds/model.safetensors".as_ref(), &device)?;
/// let prediction = predictor.predict_file("new.jpg".as_ref())?;
/// for (class, probability) in prediction.top(5) {
///     println!("{:5.1} %  {class}", 100.0 * probability);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Predictor {
    model: Shike,
    info: ModelInfo,
    device: Device,
}

/// Probabilities of all classes for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction<'a> {
    /// Class names, in the order of the logits.
    pub class_names: &'a [String],
    /// Softmax of the ensemble's logits, `[classes]`.
    pub probabilities: Vec<f32>,
}

impl Prediction<'_> {
    /// The `count` most probable classes, best first.
    pub fn top(&self, count: usize) -> Vec<(&str, f32)> {
        let names = self.class_names.iter().map(String::as_str);
        let mut classes: Vec<_> = names.zip(self.probabilities.iter().copied()).collect();
        classes.sort_by(|a, b| b.1.total_cmp(&a.1));
        classes.truncate(count);
        classes
    }
}

impl Predictor {
    /// Reads a run's `model.safetensors` or `best.safetensors`.
    ///
    /// # Errors
    /// If the file cannot be read or is no model file.
    pub fn load(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let device = device.clone().without_autodiff();
        let (model, info) = load_model(path, &device)?;
        Ok(Self {
            model,
            info,
            device,
        })
    }

    /// Architecture, classes and preparation of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Class probabilities of an image file.
    ///
    /// # Errors
    /// If the file is no whole image.
    pub fn predict_file(&self, path: &Path) -> Result<Prediction<'_>, TrainError> {
        let image = decode_file(path, &DecodeLimits::default())?;
        self.predict_pixels(image)
    }

    /// Class probabilities of an RGB image of any size.
    ///
    /// # Errors
    /// If the model's preparation cannot take an image of this size.
    pub fn predict_pixels(&self, image: RgbImage) -> Result<Prediction<'_>, TrainError> {
        // Preparation for scoring draws nothing, but shares its type with augmentation.
        let image = self
            .info
            .pipeline
            .apply(image, &mut rng(0, 0, 0, Purpose::Augment))?;
        let size = [image.height() as usize, image.width() as usize];
        let images = normalized(image.as_raw(), size, &self.info.normalization, &self.device);
        let logits = self.model.forward(images, self.info.head).mean();
        let probabilities = softmax(logits, 1).into_data().iter::<f32>().collect();
        Ok(Prediction {
            class_names: &self.info.class_names,
            probabilities,
        })
    }
}

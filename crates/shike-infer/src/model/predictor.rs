//! Class probabilities for new images.

use std::path::{Path, PathBuf};

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use image::RgbImage;
use shike_data::rng::{Purpose, rng};
use shike_data::{DataError, DecodeLimits, Loader, Pipeline, Raw, prepare};
use shike_model::ExpertLogits;

use crate::device::batch::Upload;
use crate::device::memory::{self, gib};
use crate::error::InferError;
use crate::metrics::confidence::{Confidence, Sets};
use crate::metrics::prior::Prior;
use crate::metrics::{Evaluation, Evaluator, Shot, ShotThresholds};
use crate::model::file::{ModelInfo, load_model};
use crate::model::network::{Network, read};
use crate::model::scorer::{Scorer, Tta};

/// An image as a network takes it: what [`Predictor::read`] and [`Predictor::prepare`] make. Others do not
/// go in:
///
/// ```compile_fail
/// # fn f(predictor: shike_infer::Predictor) -> Result<(), shike_infer::InferError> {
/// predictor.predict_prepared(&[image::RgbImage::new(640, 480)])?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared(RgbImage);

impl Prepared {
    /// Its pixels.
    pub fn pixels(&self) -> &RgbImage {
        &self.0
    }
}

/// A trained model that names what is in an image.
///
/// ```no_run
/// use shike_infer::Predictor;
///
/// let device = shike_infer::device::parse("auto")?;
/// let predictor = Predictor::load("runs/birds/model.safetensors".as_ref(), &device)?;
/// let prediction = predictor.predict_file("new.jpg".as_ref())?;
/// for (class, probability) in prediction.top(5) {
///     println!("{:5.1} %  {class}", 100.0 * probability);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Predictor {
    /// Its file.
    path: PathBuf,
    scorer: Scorer,
    info: ModelInfo,
    /// The model's preparation, for images of any size.
    pipeline: Pipeline,
    /// Added to the logits of every expert, `[classes]`.
    shift: Vec<f32>,
}

/// Where an expert sees a class: above 0 for it, below against it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ActivationMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// By row.
    pub values: Vec<f32>,
}

impl ActivationMap {
    /// A map of `height` rows of `width` values.
    ///
    /// # Panics
    /// If there are not so many values.
    pub fn new(height: usize, width: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), height * width);
        Self {
            height,
            width,
            values,
        }
    }
}

/// Probabilities of all classes for one image.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction<'a> {
    /// Class names, in the order of the logits.
    pub class_names: &'a [String],
    /// Logits of each expert, `[experts][classes]`, divided by the model's temperature, under the predictor's prior.
    pub logits: Vec<Vec<f32>>,
    /// Softmax of the ensemble's logits, `[classes]`.
    pub probabilities: Vec<f32>,
}

impl Prediction<'_> {
    /// Mean of the experts' logits, `[classes]`, whose softmax the probabilities are.
    pub fn mean_logits(&self) -> Vec<f32> {
        let experts = self.logits.len() as f32;
        let sum = |class: usize| self.logits.iter().map(|l| l[class]).sum::<f32>();
        (0..self.class_names.len())
            .map(|class| sum(class) / experts)
            .collect()
    }

    /// The class with the largest of these numbers, `[classes]`; the first of equal ones.
    pub fn name_of_largest(&self, numbers: &[f32]) -> &str {
        let larger =
            |best: (usize, f32), next: (usize, f32)| match next.1 > best.1 || best.1.is_nan() {
                true => next,
                false => best,
            };
        let largest = numbers.iter().copied().enumerate().reduce(larger);
        largest.map_or("", |(class, _)| &self.class_names[class])
    }

    /// The highest probability.
    pub fn confidence(&self) -> f32 {
        self.probabilities.iter().copied().fold(0.0, f32::max)
    }

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
    /// If the file cannot be read, is damaged or no model file, or the memory cannot hold what the
    /// network makes of one image.
    pub fn load(path: &Path, device: &Device) -> Result<Self, InferError> {
        let device = device.clone().without_autodiff();
        let (network, info) = load_model(path, &device)?;
        if let Some(size) = info.pipeline.output_size() {
            let needed = memory::of_scoring(&network.describe(size.height_width()));
            if let Some(available) = memory::available(&device).filter(|bytes| needed > *bytes) {
                return Err(InferError::Mismatch(format!(
                    "{}: an image of {size} pixels takes about {} in this network, and {} are there",
                    path.display(),
                    gib(needed),
                    gib(available)
                )));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            shift: vec![0.0; info.class_names.len()],
            pipeline: info.pipeline.resizing(),
            scorer: Scorer::new(&network, info.normalization, Upload::default(), &device),
            info,
        })
    }

    /// The same model, used where classes are as frequent as `prior` says.
    ///
    /// # Errors
    /// If there is not one frequency a class, or one is 0, whose logarithm is infinite.
    pub fn with_prior(mut self, prior: &Prior) -> Result<Self, InferError> {
        self.shift = prior.shift(&self.info.prior, &self.info.train_counts)?;
        Ok(self)
    }

    /// The same model, which looks at each image in several ways, or at the image alone. Temperature, thresholds and
    /// sets are those of the image alone.
    pub fn with_tta(mut self, tta: Option<Tta>) -> Self {
        self.scorer.tta = tta;
        self
    }

    /// The same model with other names for its classes, by label.
    ///
    /// # Errors
    /// If there is not one name a class.
    pub fn with_class_names(mut self, names: Vec<String>) -> Result<Self, InferError> {
        let (given, classes) = (names.len(), self.info.class_names.len());
        if given != classes {
            return Err(InferError::Mismatch(format!(
                "{given} class names for a model of {classes} classes"
            )));
        }
        self.info.class_names = names;
        Ok(self)
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.scorer.network
    }

    /// How large an image may be.
    pub fn limits(&self) -> DecodeLimits {
        DecodeLimits::default()
    }

    /// Architecture, classes and preparation of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Sets of classes with a promised coverage; see [`Confidence::sets`](crate::metrics::confidence::Confidence::sets).
    ///
    /// # Errors
    /// If the model has no [`confidence`](ModelInfo::confidence) or was given a prior, or for a coverage that cannot be
    /// promised.
    pub fn sets(&self, coverage: f64, thresholds: ShotThresholds) -> Result<Sets, InferError> {
        let shots = self.info.train_counts.iter().map(|n| thresholds.group(*n));
        let shots: Vec<Shot> = shots.collect();
        let sets = self.confidence()?.sets(coverage, &shots);
        sets.map_err(InferError::Mismatch)
    }

    /// What validation pictures said about its probabilities.
    ///
    /// # Errors
    /// If the model has no [`confidence`](ModelInfo::confidence), or was given a prior, under which it says nothing.
    pub fn confidence(&self) -> Result<&Confidence, InferError> {
        let path = self.path.display();
        if self.shift.iter().any(|shift| *shift != 0.0) {
            return Err(InferError::Mismatch(
                "what is known of a model's probabilities holds for classes as frequent as in its validation set: \
                 give no prior"
                    .into(),
            ));
        }
        self.info.confidence.as_ref().ok_or_else(|| {
            InferError::Mismatch(format!(
                "{path}: nothing is known of its probabilities: that takes 20 validation pictures or more on which \
                 nothing was chosen (the model of a run's last epoch, not its best)"
            ))
        })
    }

    /// How images are prepared: as [`info`](Self::info) says; where that takes images of one size alone
    /// ([`Pipeline::fixed_size`], such as CIFAR's 32×32), others are resized to it, so that they cover it.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Class probabilities of an image file.
    ///
    /// # Errors
    /// If the file is no whole image, or the network's answer is no number.
    pub fn predict_file(&self, path: &Path) -> Result<Prediction<'_>, InferError> {
        let image = self.read(path)?;
        let mut predictions = self.predict_prepared(&[image])?;
        Ok(predictions.remove(0))
    }

    /// Reads an image file and brings it to what the network takes, turned as its EXIF data say if
    /// the model was trained on such images. This is [`shike_data::prepare`], as images are scored in
    /// training; the values of a JPEG may differ by 1 of 255 from those that
    /// [`prepare`](Self::prepare) makes of its pixels.
    ///
    /// # Errors
    /// If the file is no whole image, or the model's preparation cannot take an image of its size.
    pub fn read(&self, path: &Path) -> Result<Prepared, InferError> {
        // Preparation for scoring draws nothing, but shares its type with augmentation.
        let mut unused = rng(0, 0, 0, Purpose::Augment);
        let file = shike_data::read::read(path).map_err(|source| DataError::Io {
            path: path.to_owned(),
            source,
        })?;
        let (raw, origin) = (Raw::Encoded(&file), path.display().to_string());
        let image = prepare(raw, &origin, &self.pipeline, &self.limits(), &mut unused);
        image.map(Prepared).map_err(|error| match error {
            // This one does not know which image it is about.
            error @ DataError::Transform { .. } => InferError::from(DataError::Sample {
                origin,
                source: Box::new(error),
            }),
            other => other.into(),
        })
    }

    /// Class probabilities of an RGB image of any size.
    ///
    /// # Errors
    /// If the model's preparation cannot take an image of this size, or the network's answer is no
    /// number.
    pub fn predict_pixels(&self, image: RgbImage) -> Result<Prediction<'_>, InferError> {
        let image = self.prepare(image)?;
        let mut predictions = self.predict_prepared(&[image])?;
        Ok(predictions.remove(0))
    }

    /// Brings an RGB image of any size to what the network takes.
    ///
    /// # Errors
    /// If the model's preparation cannot take an image of this size.
    pub fn prepare(&self, image: RgbImage) -> Result<Prepared, InferError> {
        if image.is_empty() {
            let (origin, problem) = ("an image".into(), "has no pixels".into());
            return Err(DataError::NotAnImage { origin, problem }.into());
        }
        // Preparation for scoring draws nothing, but shares its type with augmentation.
        let mut unused = rng(0, 0, 0, Purpose::Augment);
        Ok(Prepared(self.pipeline.apply(image, &mut unused)?))
    }

    /// Class probabilities of images that [`read`](Self::read) or [`prepare`](Self::prepare) gave. Images of one size that
    /// follow each other go through the network together.
    ///
    /// # Errors
    /// If a logit is NaN or infinite: the weights are broken.
    pub fn predict_prepared(&self, images: &[Prepared]) -> Result<Vec<Prediction<'_>>, InferError> {
        let mut predictions = Vec::with_capacity(images.len());
        for images in images.chunk_by(|a, b| a.0.dimensions() == b.0.dimensions()) {
            let size = [images[0].0.height() as usize, images[0].0.width() as usize];
            let bytes: Vec<u8> = images.iter().flat_map(|i| i.0.as_raw()).copied().collect();
            let classes = self.info.class_names.len();
            let shift = Tensor::<1>::from_floats(self.shift.as_slice(), &self.scorer.device);
            let shift = shift.reshape([1, classes]);
            let temperature = self.info.temperature() as f32;
            let logits = self.scorer.logits(&bytes, size);
            let logits = ExpertLogits {
                experts: logits
                    .experts
                    .into_iter()
                    .map(|l| l / temperature + shift.clone())
                    .collect(),
            };
            let probabilities = softmax(logits.mean(), 1);
            let mut values = read(logits.experts.into_iter().chain([probabilities]));
            let probabilities = values.pop().unwrap_or_default();
            let mut all = values.iter().flatten().chain(&probabilities);
            if !all.all(|value| value.is_finite()) {
                return Err(self.not_a_number());
            }
            for (i, probabilities) in probabilities.chunks_exact(classes).enumerate() {
                let row = |values: &Vec<f32>| values[i * classes..][..classes].to_vec();
                predictions.push(Prediction {
                    class_names: &self.info.class_names,
                    logits: values.iter().map(row).collect(),
                    probabilities: probabilities.to_vec(),
                });
            }
        }
        Ok(predictions)
    }

    /// Where each expert sees a class in an image ([`Shike::activation_maps`](shike_model::Shike::activation_maps)). None
    /// of heads on frozen trunks and of transformers.
    pub fn activation_maps(&self, image: &Prepared, class: usize) -> Option<Vec<ActivationMap>> {
        let Network::Experts(model, head) = self.network() else {
            return None;
        };
        let size = [image.0.height() as usize, image.0.width() as usize];
        let maps = model.activation_maps(self.scorer.images(image.0.as_raw(), size), *head, class);
        let map = |map: Tensor<3>| {
            let [_, height, width] = map.dims();
            ActivationMap::new(height, width, map.into_data().iter().collect())
        };
        Some(maps?.into_iter().map(map).collect())
    }

    fn not_a_number(&self) -> InferError {
        InferError::NotANumber {
            path: self.path.clone(),
        }
    }

    /// Scores the model, under its prior, on all images of a loader; the loader's images have to be
    /// prepared as [`pipeline`](Self::pipeline) says.
    ///
    /// # Errors
    /// If an image cannot be read, labels and classes do not fit, or a logit is NaN or infinite.
    pub fn evaluate(
        &self,
        loader: &Loader,
        thresholds: ShotThresholds,
    ) -> Result<Evaluation, InferError> {
        let info = &self.info;
        let evaluator = Evaluator::new(&info.train_counts, thresholds, info.model.experts)?
            .with_temperature(info.temperature())
            .with_shift(self.shift.clone())?
            .with_ranking();
        let evaluation = self.scorer.score(loader, evaluator)?;
        let mut scores = evaluation.scores.iter();
        match scores.any(|score| score.predicted.is_none()) {
            true => Err(self.not_a_number()),
            false => Ok(evaluation),
        }
    }
}

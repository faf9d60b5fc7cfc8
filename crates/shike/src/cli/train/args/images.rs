//! What is done with images.

use clap::Args;
use shike_data::{BadImages, Pipeline, Size, Transform};
use shike_train::{Recipe, TrainConfig};

use crate::cli::CliError;
use crate::cli::pixels::PixelArgs;
use crate::cli::train::kinds::bad_images;

/// What is done with images.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    /// What the network sees of a picture: the side of a square, or width and height, as in 320x160.
    #[arg(long, value_name = "PIXELS")]
    pub image_size: Option<Size>,
    /// Smallest share of a picture's area that a random crop keeps.
    #[arg(long, value_name = "X")]
    pub crop_scale: Option<f64>,
    #[command(flatten)]
    pub pixels: PixelArgs,
    /// Do not mirror training images: for text, signs, and whatever has a left and a right.
    #[arg(long)]
    pub no_flip: bool,
    /// What to do about a training image that cannot be read. A validation or test image that cannot
    /// be read is an error in any case.
    #[arg(long, value_parser = bad_images())]
    pub bad_images: Option<BadImages>,
    /// With `--bad-images skip`: the largest share of the training images that may be bad [default: that
    /// of the recipe, or 0.05 where settings are chosen for the pictures, or 0.01].
    #[arg(long, value_name = "X")]
    pub max_bad_share: Option<f64>,
    /// Decode every image of every set before training starts.
    #[arg(long)]
    pub check_images: bool,
}

impl ImageArgs {
    /// The size of images, and their crops, in the pipelines of a recipe.
    pub(super) fn resize(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        if let Some(size) = self.image_size {
            for pipeline in [&mut config.train_pipeline, &mut config.eval_pipeline] {
                *pipeline = pipeline.resized(size);
                if pipeline.output_size() != Some(size) {
                    let message = "--image-size is for pipelines that cut or resize, and one of this \
                                   recipe's takes images as large as they are";
                    return Err(CliError::Usage(message.into()));
                }
            }
        }
        match self.crop_scale {
            Some(scale) if !set_crop_scale(&mut config.train_pipeline, scale) => {
                let message = "--crop-scale is for random_resized_crop, which this recipe's \
                               train_pipeline does not have";
                Err(CliError::Usage(message.into()))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is for image files, where the images are CIFAR's.
    pub(super) fn check(&self, recipe: &Recipe) -> Result<(), CliError> {
        let cifar = recipe.is_for_cifar()?;
        let of_files = [
            (
                self.pixels.first().is_some(),
                self.pixels.first().unwrap_or_default(),
            ),
            (self.bad_images.is_some(), "--bad-images"),
            (self.max_bad_share.is_some(), "--max-bad-share"),
        ];
        match of_files.iter().find(|(given, _)| *given && cifar) {
            None => Ok(()),
            Some((_, option)) => Err(CliError::Usage(format!(
                "{option} is for pictures in files of their own, and has no effect on CIFAR's: leave it out"
            ))),
        }
    }

    /// Turning, mirroring, and what is done about images that cannot be read.
    pub(super) fn apply(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        for pipeline in [&mut config.train_pipeline, &mut config.eval_pipeline] {
            *pipeline = self.pixels.apply(pipeline);
            if self.pixels.fit.is_some() && pipeline.fit() != self.pixels.fit {
                let message =
                    "--fit is for pipelines that resize, and one of this recipe's does not";
                return Err(CliError::Usage(message.into()));
            }
        }
        if self.no_flip {
            let flip = |t: &Transform| matches!(t, Transform::HorizontalFlip { .. });
            config.train_pipeline.transforms.retain(|t| !flip(t));
        }
        config.bad_images = match (self.bad_images, config.bad_images) {
            (Some(BadImages::Skip { .. }) | None, BadImages::Skip { max_share })
            | (Some(BadImages::Skip { max_share }), BadImages::Fail) => BadImages::Skip {
                max_share: self.max_bad_share.unwrap_or(max_share),
            },
            _ if self.max_bad_share.is_some() => {
                let message = "--max-bad-share is for --bad-images skip";
                return Err(CliError::Usage(message.into()));
            }
            _ => BadImages::Fail,
        };
        Ok(())
    }
}

/// Sets the smallest share of the area that random crops keep; says whether there are such crops.
fn set_crop_scale(pipeline: &mut Pipeline, scale: f64) -> bool {
    let mut found = false;
    for transform in &mut pipeline.transforms {
        if let Transform::RandomResizedCrop { scale: range, .. } = transform {
            range[0] = scale;
            found = true;
        }
    }
    found
}

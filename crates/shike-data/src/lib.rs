//! Long-tailed image data for training: from files on a disk to batches of 8-bit pixels.
//!
//! Results on long-tailed benchmarks hang on details of the data: which images a class keeps, how
//! an augmentation rounds, what happens to a damaged file. This crate exists so that those details
//! are the published ones and stay the same. It depends on no tensor library; everything is
//! `u8` until the trainer uploads a batch. Augmentation repeats Pillow's arithmetic bit for bit.
//! Every random number is keyed by what it is for, so results do not depend on the number of
//! threads or on where a run was resumed. A bad file is an error that names it, or, where a run asks
//! for it, is replaced and listed.
//!
//! - [`dataset`]: readers for CIFAR, list files and image folders
//! - [`imbalance`]: long-tail profiles
//! - [`decode`]: image files to RGB, with limits
//! - [`augment`]: transforms and pipelines
//! - [`sampler`]: instance-balanced, class-balanced and other orders
//! - [`loader`]: batches, prepared by a pool of threads
//! - [`mix`]: mixup and CutMix
//! - [`inspect`]: counts, imbalance, damaged files and duplicates of a data set, before training
//! - [`split`]: training, validation and test lists from one folder
//! - [`part`]: training, validation and test images
//! - [`shots`]: many-, medium- and few-shot classes, and intervals of accuracies
//! - [`policy`]: what is done about images that cannot be read
//! - [`read`](mod@read): files are opened in one way, with limits
//! - [`tiny_imagenet`]: lists of Tiny-ImageNet-LT from the official archive
//! - [`synthetic`]: made-up data sets for examples and tests
//! - [`rng`]: the random numbers of all of these
//! - [`write`](mod@write): files that are written whole or not at all
//!
//! ```
//! use shike_data::augment::Pipeline;
//! use shike_data::imbalance::LongTail;
//! use shike_data::{Dataset, Loader, LoaderConfig, Sampler, Sampling};
//!
//! // Four classes of 20 random images each; `shike_data::cifar` reads the real thing.
//! let pixels = (0..80 * 32 * 32 * 3).map(|i| (i * 31 % 251) as u8).collect();
//! let labels: Vec<u32> = (0..80).map(|i| i % 4).collect();
//! let data = Dataset::from_pixels(pixels, 32, 32, labels, 4)?;
//!
//! // Long-tailed: 20, 9, 4 and 2 images.
//! let train = data.with_long_tail(LongTail::Exponential, 10.0)?;
//! assert_eq!(train.class_counts(), [20, 9, 4, 2]);
//!
//! let sampler = Sampler::new(train.labels(), train.num_classes(), Sampling::Instance, 0)?;
//! let config = LoaderConfig { batch_size: 16, workers: 2, ..LoaderConfig::default() };
//! let loader = Loader::new(train, Pipeline::cifar_train(), config, 0)?;
//! for epoch in 0..2 {
//!     for batch in loader.epoch(epoch, sampler.epoch_indices(epoch, 2), 0) {
//!         let batch = batch?;
//!         assert_eq!(batch.images.len(), batch.len() * 32 * 32 * 3);
//!     }
//! }
//! # Ok::<(), shike_data::DataError>(())
//! ```

pub mod augment;
pub mod dataset;
pub mod decode;
pub mod error;
pub mod imbalance;
pub mod inspect;
pub mod loader;
pub mod mix;
pub mod part;
mod prepare;
pub mod read;
pub mod rng;
pub mod sampler;
mod scratch;
pub mod shots;
mod together;
pub mod write;

pub use augment::{Fit, Normalization, Pipeline, Size, Transform};
pub use dataset::{
    Cifar, Dataset, FileCheck, FileReport, Images, Raw, cifar, class_names_file, header_size,
    image_folder, image_folder_as_found, image_folder_with_classes, list_file, list_file_like,
    list_file_named,
};
pub use decode::{DecodeLimits, Decoding, decode_rgb, format_names};
pub use error::{DataError, Result, panic_text};
pub use imbalance::LongTail;
pub use loader::policy::{self, BadImage, BadImageLog, BadImages};
pub use loader::{Batch, Epoch, Loader, LoaderConfig, Threads, prepare};
pub use mix::{Mix, Mixing};
pub use part::Part;
pub use prepare::{split, synthetic, tiny_imagenet};
pub use sampler::{Sampler, Sampling};
pub use shots::{ByShot, Interval, Shot, ShotThresholds};

//! The loader behind Burn's own `DataLoader`, for programs with another training loop than
//! `Learner`'s.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::{Device, Int, Tensor};
use shike_data::{Epoch, Loader, Normalization, Sampler};

use crate::device::batch::{Upload, to_tensors};

/// Images of a step on the device.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// Normalised, `[batch, 3, height, width]`.
    pub images: Tensor<4>,
    /// Classes, `[batch]`.
    pub labels: Tensor<1, Int>,
    /// Which images of the data set these are, `[batch]`.
    pub indices: Vec<u32>,
}

/// A [`Loader`] as Burn's `DataLoader`.
///
/// Each [`iter`](DataLoader::iter) is the next epoch of the sampler, in its own order and augmentation,
/// the same for the same seeds; without a sampler it is every image in order. Errors name the image.
///
/// ```no_run
/// use burn::data::dataloader::DataLoader;
/// use burn::tensor::Device;
/// use shike_data::{Loader, LoaderConfig, Normalization, Pipeline, Sampler, Sampling, image_folder};
/// use shike_infer::BurnLoader;
///
/// let data = image_folder("pictures/train")?;
/// let sampler = Sampler::new(data.labels(), data.num_classes(), Sampling::ClassBalanced, 0)?;
/// let loader = Loader::new(data, Pipeline::photo_train(224), LoaderConfig::default(), 0)?;
/// let loader = BurnLoader::new(loader, Normalization::IMAGENET, &Device::default())
///     .with_sampler(sampler, 90);
/// for batch in loader.iter() {
///     let batch = batch?;
///     println!("{:?}", batch.images.dims());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BurnLoader {
    loader: Loader,
    sampler: Option<(Sampler, u64)>,
    normalization: Normalization,
    device: Device,
    positions: Range<usize>,
    /// Epochs that were begun.
    epoch: AtomicU64,
}

impl BurnLoader {
    /// A loader of all images in order.
    pub fn new(loader: Loader, normalization: Normalization, device: &Device) -> Self {
        Self {
            positions: 0..loader.dataset().len(),
            loader,
            sampler: None,
            normalization,
            device: device.clone(),
            epoch: AtomicU64::new(0),
        }
    }

    /// Draws the images of an epoch with `sampler`, for a training of `epochs` epochs
    /// ([`Sampler::epoch_indices`]).
    pub fn with_sampler(mut self, sampler: Sampler, epochs: u64) -> Self {
        self.sampler = Some((sampler, epochs));
        self
    }

    /// Begins with this epoch, from 0, where a training goes on.
    pub fn with_epoch(self, epoch: u64) -> Self {
        self.epoch.store(epoch, Ordering::Relaxed);
        self
    }
}

impl Clone for BurnLoader {
    /// Has a count of epochs of its own, which goes on from this one's.
    fn clone(&self) -> Self {
        Self {
            loader: self.loader.clone(),
            sampler: self.sampler.clone(),
            normalization: self.normalization,
            device: self.device.clone(),
            positions: self.positions.clone(),
            epoch: AtomicU64::new(self.epoch.load(Ordering::Relaxed)),
        }
    }
}

impl DataLoader<ImageBatch> for BurnLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<ImageBatch> + 'a> {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed);
        let (epoch, order) = match &self.sampler {
            Some((sampler, epochs)) => (epoch, sampler.epoch_indices(epoch, *epochs)),
            None => (epoch, (0..self.loader.dataset().len() as u32).collect()),
        };
        Box::new(Batches {
            batches: self.loader.epoch_part(epoch, order, self.positions.clone()),
            loader: self,
            done: 0,
        })
    }

    fn num_items(&self) -> usize {
        self.positions.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<ImageBatch>> {
        let mut moved = self.clone();
        moved.device = device.clone();
        Arc::new(moved)
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<ImageBatch>> {
        let Range {
            start: first,
            end: last,
        } = self.positions;
        let mut part = self.clone();
        let at = |position: usize| first.saturating_add(position).min(last);
        part.positions = at(start)..at(end);
        Arc::new(part)
    }
}

struct Batches<'a> {
    loader: &'a BurnLoader,
    batches: Epoch,
    done: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<ImageBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.batches.next()? {
            Ok(batch) => batch,
            Err(error) => return Some(Err(DatasetError::new(error))),
        };
        self.done += batch.len();
        let BurnLoader {
            normalization,
            device,
            ..
        } = self.loader;
        let upload = Upload::default();
        let (images, labels) = to_tensors(&batch, normalization, upload, device);
        Some(Ok(ImageBatch {
            images,
            labels,
            indices: batch.indices,
        }))
    }
}

impl DataLoaderIterator<ImageBatch> for Batches<'_> {
    fn progress(&self) -> Progress {
        let unit = Some("images".into());
        Progress::new(self.done, self.loader.num_items(), unit)
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use shike_data::{Dataset, LoaderConfig, Pipeline, Sampling};

    fn indices(loader: &dyn DataLoader<ImageBatch>) -> Vec<u32> {
        let mut batches = loader.iter();
        let mut found = vec![];
        while let Some(batch) = batches.next() {
            let batch = batch.unwrap();
            let n = batch.indices.len();
            assert_eq!(batch.images.dims(), [n, 3, 32, 32]);
            let labels: Vec<i64> = batch.labels.into_data().iter().collect();
            let expected = batch.indices.iter().map(|i| i64::from(i % 3));
            assert!(labels.into_iter().eq(expected));
            found.extend(batch.indices);
            assert_eq!(batches.progress().items_processed, found.len());
        }
        assert_eq!(batches.progress().items_total, loader.num_items());
        found
    }

    #[test]
    fn epochs_slices_and_order() {
        let device = Device::flex();
        let labels = (0..10).map(|i| i % 3).collect();
        let data = Dataset::from_pixels(vec![7; 10 * 3072], 32, 32, labels, 3).unwrap();
        let sampler = Sampler::new(data.labels(), 3, Sampling::Instance, 5).unwrap();
        let config = LoaderConfig {
            batch_size: 4,
            ..LoaderConfig::default()
        };
        let loader = Loader::new(data, Pipeline::cifar_train(), config, 1).unwrap();
        let in_order = BurnLoader::new(loader, Normalization::CIFAR10, &device);
        assert!(indices(&in_order).into_iter().eq(0..10));

        let drawn = in_order
            .clone()
            .with_epoch(0)
            .with_sampler(sampler.clone(), 2);
        let (head, tail) = (drawn.slice(0, 6), drawn.slice(6, 99));
        assert_eq!((head.num_items(), tail.num_items()), (6, 4));
        for epoch in 0..2 {
            let expected = sampler.epoch_indices(epoch, 2);
            assert_eq!(indices(&drawn), expected);
            let parts = [indices(&*head), indices(&*tail)];
            assert_eq!(parts.concat(), expected);
            assert_eq!(indices(&*tail.slice(1, 3)).len(), 2);
        }
        let later = in_order.with_sampler(sampler.clone(), 2).with_epoch(1);
        assert_eq!(indices(&later), sampler.epoch_indices(1, 2));
        assert_eq!(
            indices(&*drawn.to_device(&device)),
            sampler.epoch_indices(2, 2)
        );
    }

    #[test]
    fn an_image_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cat")).unwrap();
        let file = dir.path().join("cat/a.jpg");
        std::fs::write(&file, b"no picture").unwrap();
        let data = shike_data::image_folder(dir.path()).unwrap();
        let pipeline = Pipeline::photo_eval(32);
        let loader = Loader::new(data, pipeline, LoaderConfig::default(), 1).unwrap();
        let loader = BurnLoader::new(loader, Normalization::IMAGENET, &Device::flex());
        let error = loader.iter().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("a.jpg"), "{error}");
    }
}

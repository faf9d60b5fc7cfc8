//! Batches, made ahead of time by a pool of threads, the same whatever the number of threads.
//!
//! Two coordinator threads per epoch take turns: each lets a rayon pool fill disjoint slots of a
//! batch's buffer and hands finished batches over through a bounded channel. With one of them, the pool
//! would wait at the end of each batch for its slowest image. So memory is bounded (`prefetch` batches
//! wait, two more are being made), pixels are written once, and nothing but the position in the
//! epoch decides about an image's random numbers.

mod photo;
pub mod policy;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use image::RgbImage;
use rayon::ThreadPool;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

pub use self::photo::prepare;
use self::policy::{BadImageLog, BadImages, Replacer, is_about_the_image};
use crate::augment::Pipeline;
use crate::dataset::{Dataset, Raw};
use crate::decode::DecodeLimits;
use crate::error::{DataError, Result, panic_text};
use crate::rng::{Purpose, rng};
use crate::scratch;

/// Images of one step, as the trainer uploads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `[n, height, width, 3]`.
    pub images: Vec<u8>,
    /// `[n]`.
    pub labels: Vec<u32>,
    /// Which images of the data set these are, `[n]`.
    pub indices: Vec<u32>,
    /// Rows of each image.
    pub height: usize,
    /// Columns of each image.
    pub width: usize,
}

impl Batch {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image; the loader never makes such a batch.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// How batches are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Images of a batch.
    pub batch_size: usize,
    /// Threads that decode and augment, at most 1024; 0 takes one for each core.
    pub workers: usize,
    /// Finished batches that may wait for the trainer, 1 to 1024.
    pub prefetch: usize,
    /// Whether a last batch that is not full is left out. The reference keeps it.
    pub drop_last: bool,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch_size: 128,
            workers: 0,
            prefetch: 3,
            drop_last: false,
        }
    }
}

/// How one image is made: (epoch, position in the epoch, index in the data set).
type MakeImage = dyn Fn(u64, u64, u32) -> Result<RgbImage> + Send + Sync;

/// Makes the batches of an epoch in the background. One loader serves any number of epochs.
#[derive(Clone)]
pub struct Loader {
    dataset: Dataset,
    config: LoaderConfig,
    threads: Threads,
    make: Arc<MakeImage>,
    /// (height, width) of every image that comes out.
    size: (usize, usize),
    replacer: Option<Arc<Replacer>>,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("images", &self.dataset.len())
            .field("config", &self.config)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Threads that make images. Clones are the same threads, which several loaders can share.
#[derive(Clone, Debug)]
pub struct Threads(Arc<ThreadPool>);

impl Threads {
    /// Starts `workers` threads; 0 takes one for each core.
    ///
    /// # Errors
    /// [`DataError::Field`] for more than 1024 threads, or if they cannot be started.
    pub fn new(workers: usize) -> Result<Self> {
        let wrong = |problem| DataError::field("workers", problem);
        if workers > 1024 {
            return Err(wrong(format!("is {workers}, must be 0 to 1024")));
        }
        // One for each core, unless the process was given fewer.
        let threads = match workers {
            0 => rayon::current_num_threads(),
            workers => workers,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("shike-data-{i}"))
            .build()
            .map_err(|e| wrong(format!("{workers} threads could not be started: {e}")))?;
        Ok(Self(Arc::new(pool)))
    }
}

impl Threads {
    /// XXH3 with 128 bits of what is stored of these images of a data set, `[images]`: the bytes of a file, or width,
    /// height and pixels.
    ///
    /// # Errors
    /// What the first image fails with that cannot be read.
    pub fn contents(&self, dataset: &Dataset, images: &[usize]) -> Result<Vec<u128>> {
        let content = |&image: &usize| {
            dataset.read(image, |raw, _| {
                let mut hash = Xxh3::new();
                if let Raw::Rgb { width, height, .. } = raw {
                    hash.update(&width.to_le_bytes());
                    hash.update(&height.to_le_bytes());
                }
                hash.update(raw.bytes());
                Ok(hash.digest128())
            })
        };
        let contents: Vec<_> = self.0.install(|| images.par_iter().map(content).collect());
        contents.into_iter().collect()
    }
}

impl Loader {
    /// A loader with threads of its own, as many as the configuration says.
    ///
    /// # Errors
    /// Those of [`Threads::new`] and [`Loader::on`].
    pub fn new(
        dataset: Dataset,
        pipeline: Pipeline,
        config: LoaderConfig,
        seed: u64,
    ) -> Result<Self> {
        Self::on(
            &Threads::new(config.workers)?,
            dataset,
            pipeline,
            config,
            seed,
        )
    }

    /// A loader that shares its threads with others. Images are decoded within the default
    /// [`DecodeLimits`].
    ///
    /// Where the pipeline does not fix the size of an image, the first image of the data set does.
    ///
    /// # Errors
    /// [`DataError::Field`] for a number out of range or a wrong transform, and if there is no image; what the first
    /// image fails with, where it has to be read.
    pub fn on(
        threads: &Threads,
        dataset: Dataset,
        pipeline: Pipeline,
        config: LoaderConfig,
        seed: u64,
    ) -> Result<Self> {
        let limits = DecodeLimits::default();
        pipeline.validate()?;
        let side = pipeline.output_size();
        let images = dataset.clone();
        let make = move |epoch, position, index: u32| {
            let mut random = rng(seed, epoch, position, Purpose::Augment);
            images.read(index as usize, |raw, origin| {
                prepare(raw, origin, &pipeline, &limits, &mut random)
            })
        };
        if dataset.is_empty() {
            return Err(DataError::field("dataset", "holds no image"));
        }
        let size = match side {
            Some(size) => (size.height as usize, size.width as usize),
            None => {
                let first = make(0, 0, 0)?;
                (first.height() as usize, first.width() as usize)
            }
        };
        Self::from_parts(threads, dataset, config, Arc::new(make), size)
    }

    fn from_parts(
        threads: &Threads,
        dataset: Dataset,
        config: LoaderConfig,
        make: Arc<MakeImage>,
        size: (usize, usize),
    ) -> Result<Self> {
        // An upper limit, because the queue is allocated at once.
        let wrong = |field: &str, problem| DataError::field(field, problem);
        if config.batch_size == 0 {
            return Err(wrong("batch_size", "is 0, must be at least 1".into()));
        }
        if !(1..=1024).contains(&config.prefetch) {
            let problem = format!("is {}, must be 1 to 1024", config.prefetch);
            return Err(wrong("prefetch", problem));
        }
        Ok(Self {
            dataset,
            config,
            threads: threads.clone(),
            make,
            size,
            replacer: None,
        })
    }

    /// Replaces images that cannot be read by others of their class, if `policy` says so, and adds
    /// them to `log`. Which image takes the place of a bad one depends on `seed`, the epoch and the
    /// position in it. More bad images than the policy's share end an epoch with
    /// [`DataError::TooManyBad`].
    ///
    /// # Errors
    /// [`DataError::Field`] if the share is out of range.
    pub fn with_bad_images(
        mut self,
        policy: BadImages,
        seed: u64,
        log: BadImageLog,
    ) -> Result<Self> {
        policy.validate()?;
        self.replacer = match policy {
            BadImages::Fail => None,
            BadImages::Skip { max_share } => {
                Some(Arc::new(Replacer::new(&self.dataset, max_share, seed, log)))
            }
        };
        Ok(self)
    }

    /// The images that are loaded.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Batches of an epoch of `n` images.
    pub fn batches_per_epoch(&self, n: usize) -> usize {
        if self.config.drop_last {
            n / self.config.batch_size
        } else {
            n.div_ceil(self.config.batch_size)
        }
    }

    /// Starts epoch `epoch` over the images `order` (see [`Sampler`](crate::Sampler)), at batch
    /// `start_batch`: to resume, give the number of batches already used.
    ///
    /// Image `i` of the order is augmented with random numbers keyed by (seed, epoch, `i`), so an
    /// image that comes twice is augmented in two ways, and neither the number of workers nor the
    /// start changes anything.
    pub fn epoch(&self, epoch: u64, order: Vec<u32>, start_batch: usize) -> Epoch {
        let positions = 0..order.len();
        let total = self.batches_per_epoch(order.len());
        let start = start_batch.min(total);
        self.start(epoch, order, positions, start, (start..total).collect())
    }

    /// As [`Loader::epoch`], with the batches of these numbers alone, in this order: for one of several processes that
    /// share an epoch. Each batch is what it is in the whole epoch; one that the epoch has not is left out.
    pub fn epoch_batches(&self, epoch: u64, order: Vec<u32>, mut numbers: Vec<usize>) -> Epoch {
        let total = self.batches_per_epoch(order.len());
        numbers.retain(|number| *number < total);
        let positions = 0..order.len();
        self.start(epoch, order, positions, 0, numbers)
    }

    /// As [`Loader::epoch`], with the images at these `positions` of the order alone, for one of several
    /// devices that share an epoch. Each image is augmented as it is in the whole epoch.
    pub fn epoch_part(&self, epoch: u64, order: Vec<u32>, positions: Range<usize>) -> Epoch {
        let end = positions.end.min(order.len());
        let positions = positions.start.min(end)..end;
        let total = self.batches_per_epoch(positions.len());
        self.start(epoch, order, positions, 0, (0..total).collect())
    }

    /// `start`: batches that were handed out before; `numbers`: those that are made.
    fn start(
        &self,
        epoch: u64,
        order: Vec<u32>,
        positions: Range<usize>,
        start: usize,
        numbers: Vec<usize>,
    ) -> Epoch {
        let total = start + numbers.len();
        let stop = Arc::new(AtomicBool::new(false));
        let job = Arc::new(Job {
            loader: self.clone(),
            epoch,
            order,
            positions,
            stop: Arc::clone(&stop),
        });
        // A single worker never waits for another.
        let lanes = self.threads.0.current_num_threads().min(LANES);
        let mut epoch = Epoch {
            lanes: Vec::with_capacity(lanes),
            stop,
            failed: None,
            total,
            start,
            next: start,
        };
        for lane in 0..lanes {
            // Together the lanes hold `prefetch` batches.
            let waiting = (self.config.prefetch + lanes - 1 - lane) / lanes;
            let (sender, receiver) = sync_channel(waiting);
            let job = Arc::clone(&job);
            let numbers: Vec<usize> = numbers.iter().copied().skip(lane).step_by(lanes).collect();
            let thread = std::thread::Builder::new()
                .name("shike-data".into())
                .spawn(move || job.run(numbers.into_iter(), &sender));
            match thread {
                Ok(thread) => epoch.lanes.push(Lane { receiver, thread }),
                Err(e) => {
                    let problem = format!("the loader's thread could not be started: {e}");
                    epoch.failed = Some(DataError::field("workers", problem));
                    break;
                }
            }
        }
        epoch
    }

    /// Starts a pass over all images in order, for evaluation (epoch number 0). The last batch is
    /// kept, full or not, and an image that cannot be read is an error under every policy: each counts.
    pub fn sequential(&self) -> Epoch {
        self.sequential_part(0, 1)
    }

    /// Of the batches of such a pass every `of`-th, from number `first` on.
    pub fn sequential_part(&self, first: usize, of: usize) -> Epoch {
        let mut all = self.clone();
        all.config.drop_last = false;
        all.replacer = None;
        let total = all.batches_per_epoch(self.dataset.len());
        let numbers = (first..total).step_by(of).collect();
        all.epoch_batches(0, (0..self.dataset.len() as u32).collect(), numbers)
    }
}

/// Batches that are made at a time.
const LANES: usize = 2;

/// What the coordinator threads of one epoch know.
struct Job {
    loader: Loader,
    epoch: u64,
    order: Vec<u32>,
    positions: Range<usize>,
    stop: Arc<AtomicBool>,
}

impl Job {
    fn run(&self, batches: impl Iterator<Item = usize>, sender: &SyncSender<Result<Batch>>) {
        for number in batches {
            let batch = self.batch(number);
            let failed = batch.is_err();
            // The receiver is gone when the iterator was dropped.
            if self.stop.load(Ordering::Relaxed) || sender.send(batch).is_err() || failed {
                return;
            }
        }
    }

    fn batch(&self, number: usize) -> Result<Batch> {
        let loader = &self.loader;
        let first = self.positions.start + number * loader.config.batch_size;
        let end = first
            .saturating_add(loader.config.batch_size)
            .min(self.positions.end);
        let indices = &self.order[first..end];
        let (height, width) = loader.size;
        let slot = height * width * 3;
        let mut images = vec![0; indices.len() * slot];
        // All results are kept, so that the first failure in the batch's order is reported and
        // not whichever thread failed first.
        let results: Vec<Result<u32>> = loader.threads.0.install(|| {
            images
                .par_chunks_exact_mut(slot)
                .zip(indices)
                .enumerate()
                .map(|(i, (slot, &index))| self.fill(slot, (first + i) as u64, index))
                .collect()
        });
        let shown = results.into_iter().collect::<Result<Vec<u32>>>()?;
        if let Some(replacer) = &loader.replacer {
            replacer.check_share()?;
        }
        Ok(Batch {
            images,
            labels: indices
                .iter()
                .map(|&i| loader.dataset.label(i as usize))
                .collect(),
            indices: shown,
            height,
            width,
        })
    }

    /// Fills a slot with image `index`, or with one in its place. Returns which one it is.
    fn fill(&self, slot: &mut [u8], position: u64, index: u32) -> Result<u32> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(index); // nobody will see this batch
        }
        match (self.fill_with(slot, position, index), &self.loader.replacer) {
            (Ok(()), _) => Ok(index),
            (Err(error), Some(replacer)) if is_about_the_image(&error) => {
                let (dataset, place) = (&self.loader.dataset, (self.epoch, position));
                replacer.replace(dataset, place, index, error, |other| {
                    self.fill_with(slot, position, other)
                })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Makes one image and copies it into its slot.
    fn fill_with(&self, slot: &mut [u8], position: u64, index: u32) -> Result<()> {
        let loader = &self.loader;
        let origin = || loader.dataset.origin(index as usize);
        // A panic must not pass as the end of the data, so it becomes an error like any other.
        let made = catch_unwind(AssertUnwindSafe(|| {
            (loader.make)(self.epoch, position, index)
        }))
        .map_err(|panic| DataError::Panic {
            origin: origin(),
            message: panic_text(&*panic),
        })?;
        let image = made.map_err(|error| match error {
            // These do not know which image they were applied to.
            DataError::Transform { .. } => DataError::Sample {
                origin: origin(),
                source: Box::new(error),
            },
            other => other,
        })?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        if (height, width) != loader.size {
            return Err(DataError::Shape {
                origin: origin(),
                width,
                height,
                want_width: loader.size.1,
                want_height: loader.size.0,
            });
        }
        slot.copy_from_slice(image.as_raw());
        scratch::recycle(image);
        Ok(())
    }
}

/// The batches of one epoch, in order.
///
/// After an error it ends. An epoch that ended is whole only if [`Epoch::is_complete`] says so.
/// Dropping it stops the work in the background.
#[derive(Debug)]
pub struct Epoch {
    /// Batches come from each in turn; empty once the epoch has ended.
    lanes: Vec<Lane>,
    stop: Arc<AtomicBool>,
    failed: Option<DataError>,
    total: usize,
    start: usize,
    next: usize,
}

#[derive(Debug)]
struct Lane {
    receiver: Receiver<Result<Batch>>,
    thread: JoinHandle<()>,
}

impl Epoch {
    /// Batches of the whole epoch, with those before the start.
    pub fn total_batches(&self) -> usize {
        self.total
    }

    /// Number of the batch that comes next: what to store in order to resume here.
    pub fn next_batch(&self) -> usize {
        self.next
    }

    /// Whether every batch up to the last was handed out.
    pub fn is_complete(&self) -> bool {
        self.next == self.total
    }

    fn shut_down(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without a receiver a thread that waits to send wakes up.
        let threads: Vec<_> = self.lanes.drain(..).map(|lane| lane.thread).collect();
        for thread in threads {
            // A panic of a coordinator was reported as `Stopped`.
            let _ = thread.join();
        }
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let delivered = self.next - self.start;
        let item = match self.failed.take() {
            Some(error) => Some(Err(error)),
            None if self.lanes.is_empty() || self.next == self.total => None,
            // A thread is gone though batches are missing: never let that pass as the end.
            None => Some(
                self.lanes[delivered % self.lanes.len()]
                    .receiver
                    .recv()
                    .unwrap_or(Err(DataError::Stopped {
                        delivered,
                        expected: self.total - self.start,
                    })),
            ),
        };
        match &item {
            Some(Ok(_)) => self.next += 1,
            Some(Err(_)) | None => self.shut_down(),
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error may come instead of all that remains.
        let left = self.total - self.next;
        match (&self.failed, self.lanes.is_empty()) {
            (Some(_), _) => (1, Some(1)),
            (None, true) => (0, Some(0)),
            (None, false) => (left.min(1), Some(left)),
        }
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.shut_down();
    }
}

#[cfg(test)]
mod tests;

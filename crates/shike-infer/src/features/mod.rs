//! Pictures as vectors of a frozen trunk.

mod cache;
mod file;

use std::collections::{HashMap, HashSet};

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use shike_data::{Dataset, Loader, LoaderConfig, Normalization, Pipeline, Threads, Transform};
use shike_model::network::Trunk;
use shike_model::{BackboneConfig, kernels, weights};
use xxhash_rust::xxh3::Xxh3;

use crate::device::batch::{Precision, Upload, normalized};
use crate::device::name;
use crate::error::InferError;
use crate::model::network::rows;
use cache::Rows;

pub use cache::FeatureCache;
pub use file::{read_features, write_features};

/// All that decides what the features of a picture are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSource {
    /// The trunk.
    pub backbone: BackboneConfig,
    /// XXH3 with 128 bits of the trunk's tensors: their names, shapes and values, in hexadecimal.
    pub weights: String,
    /// Preparation of a picture.
    pub pipeline: Pipeline,
    /// From 0–255 to the trunk's input.
    pub normalization: Normalization,
    /// Type of float that it is computed in.
    pub precision: Precision,
    /// Kind of device, and path through the kernels: others round in another way.
    pub computed: String,
    /// Version of the program.
    pub program: String,
    /// Name and width of each depth, the shallowest first: a row is the vectors of all depths side by side.
    pub depths: Vec<(String, usize)>,
}

impl FeatureSource {
    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.depths.iter().map(|(_, width)| width).sum()
    }
}

/// Features of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Where they come from.
    pub source: FeatureSource,
    /// Class names, `[classes]`.
    pub class_names: Vec<String>,
    /// Path of each picture below the folder of its data set, or where it stands in a file, `[pictures]`.
    pub names: Vec<String>,
    /// Class of each picture, `[pictures]`.
    pub labels: Vec<u32>,
    /// XXH3 with 128 bits of each picture's file, `[pictures]`.
    pub contents: Vec<u128>,
    /// Row-major, `[pictures, width]`.
    pub rows: Vec<f32>,
}

impl Features {
    /// The features of a picture, `[width]`.
    pub fn row(&self, picture: usize) -> &[f32] {
        let width = self.source.width();
        &self.rows[picture * width..][..width]
    }
}

/// What [`Embedder::embed`] tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmbedEvent {
    /// How far it is.
    Progress {
        /// Pictures whose features are there.
        done: usize,
        /// Those among them that went through the trunk now: equal pictures do so once.
        embedded: usize,
        /// All pictures.
        total: usize,
    },
    /// Something about the cache that a person should know. The features are right in any case.
    Warning(String),
}

/// A frozen trunk, and how pictures get to it.
#[derive(Debug)]
pub struct Embedder {
    trunk: Trunk,
    source: FeatureSource,
    device: Device,
}

impl Embedder {
    /// A trunk as it answers: running statistics are used, and nothing is kept for gradients. It does not follow when
    /// `trunk` is trained on. A pipeline that takes pictures of one size alone resizes others to it.
    ///
    /// # Errors
    /// If a field of the preprocessing is wrong, or a transform draws random numbers or leaves pictures of several
    /// sizes.
    pub fn new(
        trunk: &Trunk,
        pipeline: &Pipeline,
        normalization: Normalization,
        device: &Device,
    ) -> Result<Self, InferError> {
        pipeline.validate()?;
        normalization.validate()?;
        let wrong = |problem: String| Err(InferError::Mismatch(format!("pipeline: {problem}")));
        let fixed = |transform: &&Transform| {
            !matches!(
                transform,
                Transform::ExifOrientation
                    | Transform::Range { .. }
                    | Transform::Background { .. }
                    | Transform::Resize { .. }
                    | Transform::Cover { .. }
                    | Transform::Squash { .. }
                    | Transform::Pad { .. }
                    | Transform::CenterCrop { .. }
            )
        };
        if let Some(random) = pipeline.transforms.iter().find(fixed) {
            return wrong(format!(
                "{} is for training; pictures are embedded after resizes and center_crop alone",
                random.name()
            ));
        }
        let Some(size) = pipeline.output_size() else {
            return wrong("pictures of several sizes come out; end it with center_crop".into());
        };
        let backbone = trunk.config().clone();
        let shapes = backbone.shapes(size.height_width());
        if shapes.iter().any(|s| s.height == 0 || s.width == 0) {
            return wrong(format!(
                "pictures of {size} pixels are smaller than a patch"
            ));
        }
        let step = backbone.step() as u32;
        if !size.width.is_multiple_of(step) || !size.height.is_multiple_of(step) {
            let near = size.map(|side| (side / step).max(1) * step);
            return wrong(format!(
                "sides of {size} pixels are no multiples of {step}, a patch of this network, and their ends would not \
                 be seen: take {near}"
            ));
        }
        let device = device.clone().without_autodiff();
        // Cards of a machine have numbers.
        let kind = name(&device).replace(|c: char| c.is_ascii_digit(), "");
        let source = FeatureSource {
            depths: backbone.widths(),
            backbone,
            weights: format!("{:032x}", hash(trunk)),
            pipeline: pipeline.resizing(),
            normalization,
            precision: Precision::F32,
            computed: format!("{kind}, {}", kernels::path()),
            program: env!("CARGO_PKG_VERSION").into(),
        };
        Ok(Self {
            trunk: trunk.valid(),
            source,
            device,
        })
    }

    /// The trunk, as it answers.
    pub fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    /// What its features come from.
    pub fn source(&self) -> &FeatureSource {
        &self.source
    }

    /// Features of pictures of `[height, width]` as the pipeline makes them: from interleaved bytes,
    /// `[batch, height, width, 3]`, to rows, `[batch, width]`.
    pub fn embed_batch(&self, bytes: &[u8], size: [usize; 2]) -> Vec<f32> {
        let upload = Upload::default();
        let normalization = &self.source.normalization;
        let images = normalized(bytes, size, normalization, upload, &self.device);
        rows(&self.trunk, images)
    }

    /// Features of all pictures of a data set, in its order. They depend neither on the number of threads nor on the
    /// size of a batch. What a cache holds of them is taken from there, and what is made is kept there, even if this
    /// ends with an error.
    ///
    /// # Errors
    /// If a picture cannot be read or changes meanwhile, a feature is no number, or `stop` says so.
    pub fn embed(
        &self,
        dataset: &Dataset,
        threads: &Threads,
        config: LoaderConfig,
        cache: Option<&FeatureCache>,
        tell: &mut dyn FnMut(EmbedEvent),
        stop: &dyn Fn() -> bool,
    ) -> Result<Features, InferError> {
        let (total, width) = (dataset.len(), self.source.width());
        let mut done = Done {
            pictures: 0,
            embedded: 0,
            total,
        };
        let all: Vec<usize> = (0..total).collect();
        let mut contents = Vec::with_capacity(total);
        for some in all.chunks(READ_AT_ONCE) {
            done.check(stop)?;
            contents.extend(threads.contents(dataset, some)?);
        }
        // Equal pictures are embedded once, in the place of the first.
        let mut first = HashMap::new();
        let firsts = contents.iter().zip(0..);
        let firsts: Vec<usize> = firsts
            .map(|(content, i)| *first.entry(*content).or_insert(i))
            .collect();
        drop(first);
        let mut wanted: Vec<usize> = (0..total).filter(|&i| firsts[i] == i).collect();

        let mut rows = vec![0.0; total * width];
        let mut kept = cache.map(|cache| Rows::new(cache, &self.source));
        if let Some(kept) = &mut kept {
            let all = wanted.len();
            wanted = kept.fill(wanted, &contents, &mut rows, tell);
            done.pictures = all - wanted.len();
        }
        let mut finished = |images: &[usize], rows: &[f32]| {
            done.pictures += images.len();
            done.embedded += images.len();
            if let Some(kept) = &mut kept {
                kept.keep(images, &contents, rows, tell);
            }
            tell(done.progress());
            done.check(stop)
        };
        let made = self.embed_some(
            (dataset, &wanted, &contents),
            (threads, config),
            &mut rows,
            &mut finished,
        );
        if let Some(kept) = &mut kept {
            kept.write(&contents, &rows, tell);
        }
        made?;
        for (image, &first) in firsts.iter().enumerate().filter(|(i, first)| i != *first) {
            rows.copy_within(first * width..(first + 1) * width, image * width);
        }
        done.pictures = total;
        tell(done.progress());
        Ok(self.features(dataset, contents, rows))
    }

    /// The features of a data set, of which others know the rows, `[pictures, width]`, and the hashes of the pictures'
    /// files, `[pictures]`.
    pub fn features(&self, dataset: &Dataset, contents: Vec<u128>, rows: Vec<f32>) -> Features {
        let name = |i| match dataset.relative_path(i) {
            Some(path) => path.to_owned(),
            None => dataset.origin(i),
        };
        Features {
            source: self.source.clone(),
            class_names: dataset.class_names().to_vec(),
            names: (0..dataset.len()).map(name).collect(),
            labels: dataset.labels().to_vec(),
            contents,
            rows,
        }
    }

    /// How many pictures of a data set [`embed`](Self::embed) would put through the trunk: equal ones count once, those
    /// in the cache not at all.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn missing(
        &self,
        dataset: &Dataset,
        threads: &Threads,
        cache: Option<&FeatureCache>,
    ) -> Result<usize, InferError> {
        let all: Vec<usize> = (0..dataset.len()).collect();
        let contents: HashSet<u128> = threads.contents(dataset, &all)?.into_iter().collect();
        Ok(match cache {
            Some(cache) => Rows::new(cache, &self.source).missing(contents),
            None => contents.len(),
        })
    }

    /// Makes the rows of the pictures `wanted`, batch by batch; `finished` is given the pictures of each.
    fn embed_some(
        &self,
        (dataset, wanted, contents): (&Dataset, &[usize], &[u128]),
        (threads, config): (&Threads, LoaderConfig),
        rows: &mut [f32],
        finished: &mut Finished<'_>,
    ) -> Result<(), InferError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let width = self.source.width();
        let (images, pipeline) = (dataset.select(wanted), self.source.pipeline.clone());
        let loader = Loader::on(threads, images, pipeline, config, 0)?;
        let mut batches = loader.sequential();
        let mut rest = wanted;
        for batch in batches.by_ref() {
            let batch = batch?;
            let images;
            (images, rest) = rest.split_at(batch.len());
            let made = self.embed_batch(&batch.images, [batch.height, batch.width]);
            let now = threads.contents(dataset, images)?;
            for ((&image, row), now) in images.iter().zip(made.chunks_exact(width)).zip(now) {
                if now != contents[image] {
                    return Err(InferError::Changed(dataset.origin(image)));
                }
                self.check(row, || dataset.origin(image))?;
                rows[image * width..][..width].copy_from_slice(row);
            }
            finished(images, rows)?;
        }
        match batches.is_complete() {
            true => Ok(()),
            false => Err(InferError::ShortEpoch {
                found: batches.next_batch(),
                expected: batches.total_batches(),
            }),
        }
    }

    fn check(&self, row: &[f32], origin: impl Fn() -> String) -> Result<(), InferError> {
        let mut rest = row;
        for (depth, width) in &self.source.depths {
            let (values, behind) = rest.split_at(*width);
            if !values.iter().all(|value| value.is_finite()) {
                let (origin, depth) = (origin(), depth.clone());
                return Err(InferError::NotAFeature { origin, depth });
            }
            rest = behind;
        }
        Ok(())
    }
}

/// Is given the pictures of a batch and all rows.
type Finished<'a> = dyn FnMut(&[usize], &[f32]) -> Result<(), InferError> + 'a;

/// Pictures that are read between two looks at whether to stop.
const READ_AT_ONCE: usize = 4096;

struct Done {
    pictures: usize,
    embedded: usize,
    total: usize,
}

impl Done {
    fn progress(&self) -> EmbedEvent {
        EmbedEvent::Progress {
            done: self.pictures,
            embedded: self.embedded,
            total: self.total,
        }
    }

    fn check(&self, stop: &dyn Fn() -> bool) -> Result<(), InferError> {
        match stop() {
            false => Ok(()),
            true => Err(InferError::Stopped {
                done: self.pictures,
                total: self.total,
            }),
        }
    }
}

/// A hash of a trunk's tensors.
fn hash(trunk: &Trunk) -> u128 {
    let mut hash = Xxh3::new();
    for (name, data) in weights::trunk_state_dict(trunk) {
        hash.update(format!("{name} {:?} {:?}\n", data.shape(), data.dtype()).as_bytes());
        hash.update(data.as_bytes());
    }
    hash.digest128()
}

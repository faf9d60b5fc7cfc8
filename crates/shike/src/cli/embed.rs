//! `shike embed`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use burn::tensor::Device;
use clap::Args;
use shike_data::{Dataset, LoaderConfig, Size, Threads};
use shike_infer::features::write_features;
use shike_infer::model::preprocessing::preprocessing;
use shike_infer::{EmbedEvent, Embedder, FeatureCache, Features, InferError, device};
use shike_model::{BackboneConfig, weights};
use shike_train::ranks;

use super::cache::CacheArgs;
use super::counter::Counter;
use super::inspect;
use super::pixels::PixelArgs;
use super::processes::Processes;
use super::train::stop_on_ctrl_c;
use super::{CliError, LayoutArgs, Status, print, say, writable};

/// Write the features that a pretrained network has of pictures, at several of its depths.
///
/// Features are kept in a cache, so that pictures that come later cost only themselves
/// (docs/FORMATS.md).
///
/// Exit status: 0 written, 1 error, 2 wrong arguments, 130 stopped by Ctrl-C (what was done is in the
/// cache).
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  shike embed pictures --weights efficientnet_lite0.pth --out features.safetensors")]
pub struct EmbedArgs {
    /// Folder with the images: `train/<class>/…` (and `val`, `test`), `<class>/…`, CIFAR's binary
    /// files, or the root of the list files' paths; what `shike train --data` takes.
    #[arg(value_name = "DATA")]
    data: PathBuf,
    #[command(flatten)]
    layout: LayoutArgs,
    /// State dict of the network: `.pth` or `.safetensors`, a name such as `dinov2_s14`, or
    /// `hf:OWNER/NAME`.
    #[arg(long, value_name = "FILE|NAME")]
    weights: PathBuf,
    /// File for the features (safetensors).
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The network. Default: the one that the weights look like.
    #[arg(long, value_name = "NAME")]
    arch: Option<String>,
    /// What the network sees of a picture: the side of a square, or width and height, as in 320x160.
    /// Default: the square that its weights are published for.
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<Size>,
    #[command(flatten)]
    pixels: PixelArgs,
    #[command(flatten)]
    way: WayArgs,
}

/// How pictures get through a trunk, and where their features are kept.
#[derive(Args, Clone, Debug)]
pub(super) struct WayArgs {
    /// Device: `flex`, `cuda:0`, `vulkan`, … among those compiled in; `auto` takes the first.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Threads that decode; 0 takes one for each core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    #[command(flatten)]
    cache: CacheArgs,
}

impl WayArgs {
    pub(super) fn device(&self, processes: &Processes) -> Result<Device, CliError> {
        Ok(device::parse(&processes.device(&self.device))?)
    }

    pub(super) fn cache(&self, processes: &Processes) -> Option<FeatureCache> {
        self.cache.open(&mut |text| processes.say(text))
    }

    pub(super) fn loading(&self) -> Result<(Threads, LoaderConfig), CliError> {
        let config = LoaderConfig {
            batch_size: self.batch_size,
            workers: self.workers,
            ..LoaderConfig::default()
        };
        Ok((Threads::new(self.workers)?, config))
    }
}

impl EmbedArgs {
    /// Embeds and writes. `end` ends the program at once.
    pub(super) fn run(&self, end: fn()) -> Result<Status, CliError> {
        let processes = Processes::join()?;
        processes.together(|| self.embed(&processes, end))
    }

    fn embed(&self, processes: &Processes, end: fn()) -> Result<Status, CliError> {
        writable(&self.out)?;
        let cache = self.way.cache(processes);
        let source = self.layout.source(&self.data);
        self.layout.fits(&source)?;
        let data = inspect::open(&source)?;
        let mut pixels = self.pixels.clone();
        pixels.settle(data.iter().map(|(_, images)| images))?;
        let embedder = self.embedder(&pixels, processes)?;
        let (threads, config) = self.way.loading()?;
        let stop = stop_on_ctrl_c(end);
        stop.training.store(true, Ordering::SeqCst);
        let stopping = || stop.asked.load(Ordering::SeqCst);
        let began = Instant::now();
        let (mut parts, mut embedded) = (BTreeMap::new(), 0);
        for (part, images) in &data {
            if !images.left_out().is_empty() {
                processes.say(&images.left_out().to_string());
            }
            let images = (&embedder, images, part.name());
            let way = (&threads, config, cache.as_ref());
            let Some((features, now)) = embed(images, way, processes, &stopping)? else {
                return Ok(Status::Interrupted);
            };
            embedded += now;
            parts.extend(features.map(|features| (*part, features)));
        }
        if !processes.ranks.writes() {
            return Ok(Status::Success);
        }
        write_features(&self.out, &parts)?;
        let depths = &embedder.source().depths;
        let names: Vec<&str> = depths.iter().map(|(name, _)| name.as_str()).collect();
        let total: usize = data.iter().map(|(_, images)| images.len()).sum();
        print(&format!(
            "{}: {} features of {total} images ({}); {embedded} of them were embedded in {:.0} s, the others \
             were known",
            self.out.display(),
            embedder.source().width(),
            names.join(", "),
            began.elapsed().as_secs_f64()
        ))?;
        Ok(Status::Success)
    }

    fn embedder(&self, pixels: &PixelArgs, processes: &Processes) -> Result<Embedder, CliError> {
        let device = self.way.device(processes)?;
        let arch = self.arch.as_deref();
        let pictures = (self.image_size, pixels);
        embedder(&self.weights, arch, pictures, &device, processes)
    }
}

/// A trunk with these weights, and pictures as its published weights were evaluated with.
pub(super) fn embedder(
    weights: &Path,
    arch: Option<&str>,
    (image_size, pixels): (Option<Size>, &PixelArgs),
    device: &Device,
    processes: &Processes,
) -> Result<Embedder, CliError> {
    let file = super::weights::resolve(weights, &mut |text| processes.say(text))?;
    let file = file.ok_or_else(|| {
        CliError::Usage("--weights none: pictures are embedded by a trained network".into())
    })?;
    let name = match arch {
        Some(name) => name,
        None => {
            let found = weights::recognise(&file).map_err(InferError::from)?;
            let name = found.ok_or_else(|| {
                CliError::Absent(format!(
                    "{}: the weights are of no network that is known; --arch says of which they should be",
                    file.display()
                ))
            })?;
            processes.say(&format!("{}: {name}", file.display()));
            name
        }
    };
    let wrong = |error: shike_model::ConfigError| CliError::Usage(format!("--arch: {error}"));
    let backbone = BackboneConfig::named(name).map_err(wrong)?;
    let (mut pipeline, normalization) = preprocessing(&backbone);
    if let Some(size) = image_size {
        pipeline = pipeline.resized(size);
    }
    let pipeline = pixels.apply(&pipeline.resizing());
    let trunk = backbone.init(device).map_err(wrong)?;
    let (trunk, _) = weights::import_trunk(trunk, &file).map_err(InferError::from)?;
    Ok(Embedder::new(&trunk, &pipeline, normalization, device)?)
}

/// Embeds pictures, which are called so, and tells how far it is: the features, which process 0 has, and how many pictures
/// were embedded now; none after a stop that was asked for, which is told.
pub(super) fn embed(
    (embedder, images, name): (&Embedder, &Dataset, &str),
    (threads, config, cache): (&Threads, LoaderConfig, Option<&FeatureCache>),
    processes: &Processes,
    stopping: &dyn Fn() -> bool,
) -> Result<Option<(Option<Features>, usize)>, CliError> {
    let counter = Counter::new(images.len(), "embedded");
    let mut now = 0;
    let mut tell = |event| match event {
        EmbedEvent::Progress { done, embedded, .. } => {
            now = embedded;
            if processes.ranks.writes() {
                counter.show(done);
            }
        }
        EmbedEvent::Warning(text) => {
            counter.clear();
            say(&format!("warning: {text}"));
        }
        _ => {}
    };
    let ranks = &*processes.ranks;
    let loading = (threads, config);
    let made = ranks::embed(ranks, embedder, images, loading, cache, &mut tell, stopping);
    counter.clear();
    match made {
        Ok(features) => Ok(Some((features, now))),
        Err(InferError::Stopped { done, total }) => {
            let kept = match cache {
                Some(_) => "; the same command goes on",
                None => "",
            };
            processes.say(&format!(
                "stopped after {done} of {total} images of {name}{kept}"
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

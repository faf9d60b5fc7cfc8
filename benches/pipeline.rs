//! The way from JPEG files to a batch, for a comparison with other loaders.
//!
//!     cargo bench --bench pipeline -- --images DIR [--size 224] [--rounds 5]
//!
//! prints images a second per core and with all cores. `--serve` does one measurement for each line
//! on standard input (`benches/vs_torch/pipeline.py` uses that) after it has said which crops it
//! takes, so that another loader can take the same.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use shike_data::augment::random_resized_crop_box;
use shike_data::rng::{Draw, Purpose, rng};
use shike_data::{
    Dataset, DecodeLimits, Loader, LoaderConfig, Normalization, Pipeline, Raw, image_folder,
    prepare,
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SEED: u64 = 5;

struct Bench {
    data: Dataset,
    paths: Vec<PathBuf>,
    size: u32,
    pipeline: Pipeline,
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let Some(images) = value("--images") else {
        eprintln!("give --images DIR: a folder of JPEGs in class folders");
        return Ok(());
    };
    let number = |name: &str, default: u32| value(name).map_or(Ok(default), |v| v.parse());
    let size = number("--size", 224)?;
    let data = image_folder(&images)?;
    let bench = Bench {
        // `origin` is the path of a file.
        paths: (0..data.len())
            .map(|i| PathBuf::from(data.origin(i)))
            .collect(),
        data,
        size,
        pipeline: Pipeline::photo_train(size),
    };
    if args.iter().any(|arg| arg == "--serve") {
        return bench.serve();
    }
    let cores = std::thread::available_parallelism()?.get();
    let mut best = [0.0f64; 3];
    for _ in 0..number("--rounds", 5)? {
        let n = bench.paths.len() as f64;
        best[0] = best[0].max(n / bench.one_core(true)?.cpu);
        best[1] = best[1].max(n / bench.loader(1)?.wall);
        best[2] = best[2].max(n / bench.loader(cores)?.wall);
    }
    println!(
        "per core {:.0}, loader with 1 worker {:.0}, with {cores} {:.0} images/s",
        best[0], best[1], best[2]
    );
    let cifar = cifar_speed()?;
    println!("CIFAR with AutoAugment, per core: {cifar:.0} images/s");
    Ok(())
}

struct Took {
    wall: f64,
    cpu: f64,
}

/// Wall time and processor time of `work`. Outside Linux both are wall time.
fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<Took> {
    let (cpu, started) = (cpu_seconds(), Instant::now());
    work()?;
    let wall = started.elapsed().as_secs_f64();
    let cpu = match (cpu, cpu_seconds()) {
        (Some(before), Some(after)) => after - before,
        _ => wall,
    };
    Ok(Took { wall, cpu })
}

/// Processor time of this thread in seconds, as the scheduler counts it.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

impl Bench {
    fn serve(&self) -> Outcome<()> {
        let crops: Vec<_> = (0..self.paths.len())
            .map(|i| self.crop(i))
            .collect::<Outcome<_>>()?;
        say(&serde_json::json!({ "crops": crops, "size": self.size }))?;
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let (what, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let took = match what {
                "core" => self.one_core(true)?,
                "core-u8" => self.one_core(false)?,
                "loader" => self.loader(rest.parse()?)?,
                "alu" => alu(rest.parse()?)?,
                "pixels" => timed(|| self.pixels(rest))?,
                _ => return Err(format!("{line}: not a measurement").into()),
            };
            say(&serde_json::json!({ "wall": took.wall, "cpu": took.cpu, "peak": peak_memory() }))?;
        }
        Ok(())
    }

    /// Path, box and flip of image `i`: the draws of the first epoch.
    fn crop(&self, i: usize) -> Outcome<(String, u32, u32, u32, u32, bool)> {
        let path = &self.paths[i];
        let (width, height) = image::ImageReader::open(path)?
            .with_guessed_format()?
            .into_dimensions()?;
        let mut random = rng(SEED, 0, i as u64, Purpose::Augment);
        let b = random_resized_crop_box(
            width,
            height,
            [0.08, 1.0],
            [3.0 / 4.0, 4.0 / 3.0],
            &mut random,
        );
        let flip = random.coin(0.5);
        Ok((
            path.display().to_string(),
            b.top,
            b.left,
            b.height,
            b.width,
            flip,
        ))
    }

    fn prepare(&self, i: usize) -> Outcome<image::RgbImage> {
        let mut random = rng(SEED, 0, i as u64, Purpose::Augment);
        let limits = DecodeLimits::default();
        let file = shike_data::read::read(&self.paths[i])?;
        let (raw, name) = (Raw::Encoded(&file), self.data.origin(i));
        Ok(prepare(raw, &name, &self.pipeline, &limits, &mut random)?)
    }

    /// All images one after the other, to bytes or to normalised floats.
    fn one_core(&self, floats: bool) -> Outcome<Took> {
        let plane = (self.size * self.size) as usize;
        let mut values = vec![];
        timed(|| {
            for i in 0..self.paths.len() {
                let image = self.prepare(i)?;
                if floats {
                    Normalization::IMAGENET.normalize_batch(&image, plane, &mut values);
                    std::hint::black_box(&values);
                }
                std::hint::black_box(image);
            }
            Ok(())
        })
    }

    /// An epoch through the loader, normalised by the thread that takes the batches.
    fn loader(&self, workers: usize) -> Outcome<Took> {
        let config = LoaderConfig {
            batch_size: 32,
            workers,
            prefetch: 3,
            drop_last: false,
        };
        let loader = Loader::new(self.data.clone(), self.pipeline.clone(), config, SEED)?;
        let plane = (self.size * self.size) as usize;
        let mut values = vec![];
        timed(|| {
            for batch in loader.sequential() {
                let batch = batch?;
                Normalization::IMAGENET.normalize_batch(&batch.images, plane, &mut values);
                std::hint::black_box(&values);
            }
            Ok(())
        })
    }

    /// Writes the bytes of all crops, one after the other.
    fn pixels(&self, path: &str) -> Outcome<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for i in 0..self.paths.len() {
            file.write_all(&self.prepare(i)?)?;
        }
        Ok(file.flush()?)
    }
}

/// As much work for each of `threads` threads, which needs nothing but the processor: what the
/// machine scales to.
fn alu(threads: usize) -> Outcome<Took> {
    timed(|| {
        std::thread::scope(|scope| {
            for seed in 0..threads as u64 {
                scope.spawn(move || {
                    let mut state = std::hint::black_box(seed | 1);
                    for _ in 0..400_000_000u32 {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                    }
                    std::hint::black_box(state)
                });
            }
        });
        Ok(())
    })
}

/// Images a second of the reference's CIFAR augmentation in one thread.
fn cifar_speed() -> Outcome<f64> {
    let pixels: Vec<u8> = (0..2000u32 * 3072)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as u8)
        .collect();
    let data = Dataset::from_pixels(pixels, 32, 32, vec![0; 2000], 1)?;
    let config = LoaderConfig {
        batch_size: 500,
        workers: 1,
        prefetch: 1,
        drop_last: false,
    };
    let loader = Loader::new(data, Pipeline::cifar_train(), config, SEED)?;
    let mut best = 0.0f64;
    for epoch in 0..10 {
        let order: Vec<u32> = (0..20_000).map(|i| i % 2000).collect();
        let took = timed(|| {
            for batch in loader.epoch(epoch, order, 0) {
                std::hint::black_box(batch?);
            }
            Ok(())
        })?;
        best = best.max(20_000.0 / took.wall);
    }
    Ok(best)
}

/// Most memory that this process ever held, in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn say(value: &serde_json::Value) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

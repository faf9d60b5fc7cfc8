//! How a run is done, and what it says.

use std::time::Duration;

use clap::Args;
use shike_train::TrainConfig;

use crate::cli::cache::CacheArgs;

/// How a run is done, and what it says.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Time a few steps, print what the run would need in parameters, memory and hours, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Seed of weights, order and augmentation.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Device: `flex`, `cuda:0`, `vulkan`, … among those compiled in; `auto` takes the first.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Time that the whole command may take, as `30m` or `1h 30m`. Epochs follow from it, and a run that is slower than
    /// planned ends earlier; pictures that cannot be embedded in time are an error before it begins.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
    /// Threads that decode and augment; 0 takes one for each core.
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Epochs between two scorings; the last epoch of a stage is always scored.
    #[arg(long, value_name = "N")]
    pub evaluate_every: Option<usize>,
    /// Seconds between two checkpoints inside an epoch; 0 writes one after every step.
    #[arg(long, value_name = "S")]
    pub checkpoint_seconds: Option<f64>,
    /// Classes with more training images than this are many-shot.
    #[arg(long, value_name = "N")]
    pub many_above: Option<usize>,
    /// Classes with fewer training images than this are few-shot.
    #[arg(long, value_name = "N")]
    pub few_below: Option<usize>,
    #[command(flatten)]
    pub cache: CacheArgs,
}

impl RunArgs {
    pub(super) fn apply(&self, config: &mut TrainConfig) {
        config.seed = self.seed.unwrap_or(config.seed);
        config.loader.workers = self.workers.unwrap_or(config.loader.workers);
        config.evaluate_every = self.evaluate_every.unwrap_or(config.evaluate_every);
        config.checkpoint_seconds = self.checkpoint_seconds.unwrap_or(config.checkpoint_seconds);
        let thresholds = &mut config.thresholds;
        thresholds.many_above = self.many_above.unwrap_or(thresholds.many_above);
        thresholds.few_below = self.few_below.unwrap_or(thresholds.few_below);
    }
}

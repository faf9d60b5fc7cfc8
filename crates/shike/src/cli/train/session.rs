//! What a run is given besides its settings: a device, a place for messages, and the wish to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use shike_infer::{FeatureCache, device};
use shike_train::learner::human;
use shike_train::ranks::Ranks;
use shike_train::report::write_run_report;
use shike_train::run::{RunDir, RunPaths};
use shike_train::{Deadline, Learner, Outcome, Progress, TrainError};

use super::{TrainArgs, by_one};
use crate::cli::cache::CacheArgs;
use crate::cli::processes::Processes;
use crate::cli::{CliError, say};

/// Device, messages, and the wish to stop.
pub(super) struct Session {
    pub device: Device,
    pub progress: Progress,
    cache: CacheArgs,
    began: Instant,
    limit: Option<Duration>,
    stop: Arc<Stop>,
    /// The processes that train together.
    pub ranks: Arc<dyn Ranks>,
}

/// What Ctrl-C does: while a network is trained it asks for a checkpoint; before and after there is
/// nothing to save, and it ends the program.
#[derive(Default)]
pub(in crate::cli) struct Stop {
    pub asked: Arc<AtomicBool>,
    pub training: AtomicBool,
}

impl Session {
    /// `end` ends the program at once.
    pub fn new(args: &TrainArgs, processes: &Processes, end: fn()) -> Result<Self, CliError> {
        let (time, dry_run) = (args.run.time.is_some(), args.run.dry_run);
        by_one(processes, &[("--time", time), ("--dry-run", dry_run)])?;
        Ok(Self {
            device: device::parse(&processes.device(&args.run.device))?,
            progress: match processes.ranks.writes() {
                true => Progress::auto(),
                false => Progress::silent(),
            },
            cache: args.run.cache.clone(),
            began: Instant::now(),
            limit: args.run.time,
            stop: stop_on_ctrl_c(end),
            ranks: processes.ranks.clone(),
        })
    }

    /// The time that is left to one of so many runs; none without `--time`.
    pub fn left(&self, runs: u64) -> Option<Duration> {
        let left = self.limit?.saturating_sub(self.began.elapsed());
        Some(left.div_f64(runs.max(1) as f64))
    }

    /// Refuses pictures that cannot be embedded in the time that is left to one of so many runs.
    pub fn check_embedding(&mut self, learner: &Learner, runs: u64) -> Result<(), CliError> {
        if learner.config().frozen.is_none() || self.limit.is_none() {
            return Ok(());
        }
        let cache = self.cache_of(learner);
        let found = learner.dry_run_frozen(2, cache.as_ref())?;
        let left = self.left(runs).unwrap_or_default().as_secs_f64();
        if found.seconds() <= left {
            return Ok(());
        }
        let fit = (left * found.images_per_second) as usize;
        Err(CliError::Usage(format!(
            "--time does not suffice: {} of {} pictures are to be embedded, at {:.1} a second that takes about {}, \
             and {fit} pictures would fit; give more time, a smaller network or --image-size, or fewer pictures",
            found.missing,
            found.images,
            found.images_per_second,
            human(found.seconds()),
        )))
    }

    /// Where the features of a frozen trunk are kept.
    pub fn cache_of(&mut self, learner: &Learner) -> Option<FeatureCache> {
        learner.config().frozen.as_ref()?;
        self.cache.open(&mut |text| self.progress.message(text))
    }

    pub fn has_gpu(&self) -> bool {
        !device::is_host(&self.device)
    }

    /// Decodes every image, if that is asked for.
    pub fn check_images(&mut self, learner: &Learner, args: &TrainArgs) -> Result<(), TrainError> {
        if args.images.check_images {
            self.progress.message("decoding every image");
            for line in learner.check_images()? {
                self.progress.message(&line);
            }
        }
        Ok(())
    }

    /// Starts a run, or continues it from its checkpoint.
    pub fn start(
        &mut self,
        learner: &Learner,
        stage2_from: Option<PathBuf>,
        run: &mut RunDir,
        deadline: Option<Deadline>,
    ) -> Result<Outcome, CliError> {
        let cache = self.cache_of(learner);
        let (progress, stop) = (&mut self.progress, &self.stop);
        stop.training.store(true, Ordering::SeqCst);
        let session = shike_train::Session::new(run, progress, &stop.asked);
        let mut session = session.with_cache(cache).with_deadline(deadline);
        let outcome = match stage2_from {
            Some(other) => learner.run_stage2_from(&RunPaths::new(other), &mut session),
            None => learner.run(&mut session),
        };
        stop.training.store(false, Ordering::SeqCst);
        let outcome = outcome?;
        if let Outcome::Finished(Some(scores)) = &outcome
            && run.writes()
        {
            write_run_report(run.paths(), scores, learner.data(), learner.device())?;
        }
        Ok(outcome)
    }

    /// Says how a run ended.
    pub fn report(&mut self, outcome: &Outcome, folder: &Path) {
        let folder = folder.display();
        self.progress.message(&match outcome {
            Outcome::Finished(_) => {
                format!("finished: {folder}/model.safetensors, {folder}/report.html")
            }
            Outcome::Interrupted => {
                format!("stopped with a checkpoint; go on with --resume {folder}")
            }
        });
    }
}

/// A second Ctrl-C ends the program at once. What comes within a second of the first is taken for the same: `timeout` and
/// queue systems send a signal to the process and to its group.
pub(in crate::cli) fn stop_on_ctrl_c(end: fn()) -> Arc<Stop> {
    const SAME: Duration = Duration::from_secs(1);
    let stop = Arc::new(Stop::default());
    // Queue systems send it some time before a job is over.
    #[cfg(unix)]
    if let Err(error) =
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, Arc::clone(&stop.asked))
    {
        say(&format!("SIGUSR1 will end the run at once ({error})"));
    }
    let shared = Arc::clone(&stop);
    let mut first: Option<Instant> = None;
    let handler = move || {
        shared.asked.store(true, Ordering::SeqCst);
        let again = first.is_some_and(|first| first.elapsed() > SAME);
        if again || !shared.training.load(Ordering::SeqCst) {
            // Threads of a GPU that are still at work panic when its driver is gone.
            std::panic::set_hook(Box::new(|_| ()));
            end();
        }
        if first.is_none() {
            say("stopping after this step; press Ctrl-C again to stop at once");
        }
        first.get_or_insert_with(Instant::now);
    };
    // Without a handler Ctrl-C kills the run, which a resume survives as well.
    if let Err(error) = ctrlc::set_handler(handler) {
        say(&format!("Ctrl-C will end the run at once ({error})"));
    }
    stop
}

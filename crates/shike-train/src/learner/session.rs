//! What surrounds training: where it writes, who is told, and the wish to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Progress;
use shike_infer::features::FeatureCache;

use crate::run::RunDir;

/// A run under way.
#[derive(Debug)]
pub struct Session<'a> {
    /// Its folder.
    pub run: &'a mut RunDir,
    /// Who is told how it goes.
    pub progress: &'a mut Progress,
    /// Where features of frozen trunks are kept between runs.
    pub(super) cache: Option<FeatureCache>,
    stop: &'a AtomicBool,
    deadline: Option<Deadline>,
}

/// When a run has to be at its end.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// When training ends; what is scored at the end comes behind.
    pub end: Instant,
    /// What stage 2 needs of the time before.
    pub stage2: Duration,
}

impl<'a> Session<'a> {
    /// A session that ends, with a checkpoint, after the step in which `stop` becomes true.
    pub fn new(run: &'a mut RunDir, progress: &'a mut Progress, stop: &'a AtomicBool) -> Self {
        Self {
            run,
            progress,
            cache: None,
            stop,
            deadline: None,
        }
    }

    /// The same, but a stage ends, with what it has learnt, before its time is over: at the end of an epoch if another one
    /// would take too long, else within one.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Option<Deadline>) -> Self {
        self.deadline = deadline;
        self
    }

    /// The time that is left to a stage; none if there is no bound.
    pub(super) fn left(&self, stage: usize) -> Option<Duration> {
        let Deadline { end, stage2 } = self.deadline?;
        let left = end.saturating_duration_since(Instant::now());
        Some(match stage {
            1 => left.saturating_sub(stage2),
            _ => left,
        })
    }

    /// Whether a stage has no time for something that takes so long.
    pub(super) fn is_over(&self, stage: usize, more: Duration) -> bool {
        self.left(stage).is_some_and(|left| left <= more)
    }

    /// The same with a place where features of frozen trunks are kept between runs.
    #[must_use]
    pub fn with_cache(mut self, cache: Option<FeatureCache>) -> Self {
        self.cache = cache;
        self
    }

    /// Whether it was asked to stop.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What becomes true when it is to stop.
    pub(super) fn stop(&self) -> &'a AtomicBool {
        self.stop
    }

    /// Tells a person a line.
    pub(super) fn message(&mut self, text: &str) {
        self.progress.message(text);
    }
}

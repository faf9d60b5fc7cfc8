//! What surrounds training: where it writes, who is told, and the wish to stop.

use std::sync::atomic::{AtomicBool, Ordering};

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
}

impl<'a> Session<'a> {
    /// A session that ends, with a checkpoint, after the step in which `stop` becomes true.
    pub fn new(run: &'a mut RunDir, progress: &'a mut Progress, stop: &'a AtomicBool) -> Self {
        Self {
            run,
            progress,
            cache: None,
            stop,
        }
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

//! How far something is that looks at many images.

use std::io::{self, IsTerminal, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A line on standard error that tells how far it is.
pub(super) struct Counter {
    total: usize,
    /// What has been done with each.
    done: &'static str,
    terminal: bool,
    next: Mutex<Instant>,
}

impl Counter {
    pub(super) fn new(total: usize, done: &'static str) -> Self {
        let terminal = io::stderr().is_terminal();
        let counter = Self {
            total,
            done,
            terminal,
            next: Mutex::new(Instant::now()),
        };
        if let Ok(mut next) = counter.next.lock() {
            *next += counter.pause();
        }
        counter
    }

    /// Between two lines: a terminal writes over the old one, a log grows.
    fn pause(&self) -> Duration {
        Duration::from_millis(if self.terminal { 100 } else { 10_000 })
    }

    pub(super) fn show(&self, done: usize) {
        // Whoever holds the lock is writing a line already.
        let Ok(mut next) = self.next.try_lock() else {
            return;
        };
        if Instant::now() < *next {
            return;
        }
        *next = Instant::now() + self.pause();
        let (start, end) = if self.terminal {
            ("\r", "")
        } else {
            ("", "\n")
        };
        let (total, what) = (self.total, self.done);
        let _ = write!(io::stderr(), "{start}{done} of {total} images {what}{end}");
    }

    pub(super) fn clear(&self) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

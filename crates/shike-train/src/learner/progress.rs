//! Progress of an epoch on the terminal, or as plain lines where there is none.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};

use crate::text::clean;

/// Lines per epoch without a terminal: enough to see that a job lives, few enough for its log.
const LINES_PER_EPOCH: usize = 10;

/// Shows how an epoch goes; everything goes to standard error.
///
/// ```
/// use shike_train::Progress;
///
/// let mut progress = Progress::silent();
/// progress.epoch_start(1, 0, 180, 85);
/// for batch in 1..=85 {
///     progress.step(batch, 1234.5, &[("ce", 4.6), ("hn", 0.3)]);
/// }
/// progress.epoch_end("top-1 12.30 %");
/// ```
#[derive(Debug)]
pub enum Progress {
    /// A bar on a terminal.
    Bar(Box<Bar>),
    /// About ten plain lines an epoch, for log files.
    Lines(Lines),
    /// Nothing.
    Silent,
}

/// The state of [`Progress::Bar`].
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    epoch: Epoch,
}

/// The state of [`Progress::Lines`].
pub struct Lines {
    epoch: Epoch,
    shown: usize,
    out: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Where the run is, and when the epoch began.
#[derive(Clone, Debug)]
struct Epoch {
    stage: usize,
    epoch: usize,
    epochs: usize,
    batches: usize,
    started: Instant,
    /// Batches that were done before `started`, in a run that resumes within an epoch.
    skipped: Option<usize>,
}

/// A line on the terminal; where that is gone, training goes on.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", clean(text));
}

impl Progress {
    /// A bar if standard error is a terminal, lines otherwise.
    pub fn auto() -> Self {
        if io::stderr().is_terminal() {
            Self::Bar(Box::new(Bar {
                bar: ProgressBar::hidden(),
                epoch: Epoch::new(1, 0, 0, 0),
            }))
        } else {
            Self::lines(io::stderr())
        }
    }

    /// Plain lines to `out`.
    pub fn lines(out: impl Write + Send + 'static) -> Self {
        Self::Lines(Lines {
            epoch: Epoch::new(1, 0, 0, 0),
            shown: 0,
            out: Box::new(out),
        })
    }

    /// No output.
    pub fn silent() -> Self {
        Self::Silent
    }

    /// An epoch begins: `stage` from 1, `epoch` from 0 out of `epochs` in the stage, with
    /// `batches` training batches.
    pub fn epoch_start(&mut self, stage: usize, epoch: usize, epochs: usize, batches: usize) {
        let epoch = Epoch::new(stage, epoch, epochs, batches);
        match self {
            Self::Bar(state) => {
                state.begin(epoch.label(), batches, "{wide_msg}");
                state.epoch = epoch;
            }
            Self::Lines(lines) => (lines.epoch, lines.shown) = (epoch, 0),
            Self::Silent => {}
        }
    }

    /// `batch` batches of the epoch are done. `images_per_second` is the speed of training and
    /// `terms` the parts of the loss by name, as they should be shown.
    pub fn step(&mut self, batch: usize, images_per_second: f64, terms: &[(&str, f64)]) {
        match self {
            Self::Bar(state) => {
                let message = state.epoch.message(batch, images_per_second, terms);
                state.bar.set_message(message);
                state.bar.set_position(batch as u64);
            }
            Self::Lines(lines) => {
                let message = lines.epoch.message(batch, images_per_second, terms);
                if lines.completes_tenth(batch) {
                    let (label, batches) = (lines.epoch.label(), lines.epoch.batches);
                    lines.print(&format!("{label} batch {batch}/{batches} {message}"));
                }
            }
            Self::Silent => {}
        }
    }

    /// The epoch is over; `summary` stays on the screen, behind stage, epoch and duration.
    pub fn epoch_end(&mut self, summary: &str) {
        match self {
            Self::Bar(state) => {
                state.bar.finish_and_clear();
                say(&state.epoch.end(summary));
            }
            Self::Lines(lines) => {
                let line = lines.epoch.end(summary);
                lines.print(&line);
            }
            Self::Silent => {}
        }
    }

    /// Something of `total` steps begins that is no epoch.
    pub fn task(&mut self, label: &str, total: usize) {
        match self {
            Self::Bar(state) => state.begin(label.to_owned(), total, "{eta}"),
            Self::Lines(lines) => {
                (lines.shown, lines.epoch.batches) = (0, total);
                lines.print(label);
            }
            Self::Silent => {}
        }
    }

    /// `done` steps of it are done.
    pub fn task_step(&mut self, done: usize) {
        match self {
            Self::Bar(state) => state.bar.set_position(done as u64),
            Self::Lines(lines) => {
                if lines.completes_tenth(done) {
                    let total = lines.epoch.batches;
                    lines.print(&format!("{done}/{total}"));
                }
            }
            Self::Silent => {}
        }
    }

    /// It is over.
    pub fn task_end(&mut self) {
        if let Self::Bar(state) = self {
            state.bar.finish_and_clear();
        }
    }

    /// A line above the bar, such as a warning. Not shown in [`Progress::Silent`].
    pub fn message(&mut self, text: &str) {
        match self {
            Self::Bar(state) => state.bar.suspend(|| say(text)),
            Self::Lines(lines) => lines.print(text),
            Self::Silent => {}
        }
    }
}

impl Bar {
    /// Another bar takes its place.
    fn begin(&mut self, label: String, total: usize, rest: &str) {
        self.bar.finish_and_clear();
        let template = format!("{{prefix}} [{{bar:15}}] {{pos}}/{{len}} {rest}");
        // Should the template ever be wrong, the plain bar will do.
        let style = ProgressStyle::with_template(&template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = ProgressBar::new(total as u64)
            .with_style(style.progress_chars("=> "))
            .with_prefix(label);
    }
}

impl Lines {
    /// Whether a tenth is complete with this step, the last one at the very end.
    fn completes_tenth(&mut self, done: usize) -> bool {
        let tenth = done * LINES_PER_EPOCH / self.epoch.batches.max(1);
        let completes = tenth > self.shown;
        self.shown = self.shown.max(tenth);
        completes
    }

    /// A log that cannot be written must not stop the training.
    fn print(&mut self, line: &str) {
        let _ = writeln!(self.out, "{}", clean(line)).and_then(|()| self.out.flush());
    }
}

impl Epoch {
    fn new(stage: usize, epoch: usize, epochs: usize, batches: usize) -> Self {
        Self {
            stage,
            epoch,
            epochs,
            batches,
            started: Instant::now(),
            skipped: None,
        }
    }

    /// People count epochs from 1.
    fn label(&self) -> String {
        format!(
            "stage {} epoch {}/{}",
            self.stage,
            self.epoch + 1,
            self.epochs
        )
    }

    fn message(&mut self, batch: usize, images_per_second: f64, terms: &[(&str, f64)]) -> String {
        let mut message = format!("{images_per_second:.0} images/s");
        if let Some((epoch, stage)) = self.remaining(batch, self.started.elapsed()) {
            let [epoch, stage] = [epoch, stage].map(FormattedDuration);
            message.push_str(&format!(" ETA {epoch} (stage {stage})"));
        }
        // Last, because a narrow terminal cuts the line off.
        for (name, value) in terms {
            message.push_str(&format!(" {name} {value:.4}"));
        }
        message
    }

    fn end(&self, summary: &str) -> String {
        let took = FormattedDuration(self.started.elapsed());
        format!("{} {took} {summary}", self.label())
    }

    /// Time left in the epoch and in the stage at the epoch's mean speed; evaluation is not
    /// counted. The first call of an epoch tells from which batch a resumed epoch goes on.
    fn remaining(&mut self, batch: usize, elapsed: Duration) -> Option<(Duration, Duration)> {
        let skipped = *self.skipped.get_or_insert(batch.saturating_sub(1));
        let done = batch.saturating_sub(skipped);
        if done == 0 {
            return None;
        }
        let per_batch = elapsed.as_secs_f64() / done as f64;
        let epoch = self.batches.saturating_sub(batch) as f64;
        let later = (self.epochs.saturating_sub(self.epoch + 1) * self.batches) as f64;
        let span = |batches: f64| Duration::try_from_secs_f64(per_batch * batches).ok();
        Some((span(epoch)?, span(epoch + later)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(batches: usize, from: usize) -> Vec<String> {
        let out = Shared::default();
        let mut progress = Progress::lines(out.clone());
        progress.epoch_start(2, 0, 20, batches);
        for batch in from + 1..=batches {
            progress.step(batch, 1234.4, &[("ce", 1.5)]);
        }
        progress.epoch_end("top-1 50.00 %");
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn about_ten_lines_an_epoch() {
        for batches in [10, 85, 1000] {
            assert_eq!(lines_of(batches, 0).len(), 11, "{batches} batches");
        }
        assert_eq!(lines_of(3, 0).len(), 4);
        assert_eq!(lines_of(0, 0).len(), 1);
        assert_eq!(lines_of(85, 80).len(), 3);
        let lines = lines_of(85, 0);
        let last = &lines[9];
        assert!(last.starts_with(
            "stage 2 epoch 1/20 batch 85/85 1234 images/s ETA 00:00:00 (stage 00:00:0"
        ));
        assert!(last.ends_with("ce 1.5000"), "{last}");
        assert!(lines[10].ends_with("top-1 50.00 %"), "{}", lines[10]);
    }

    #[test]
    fn remaining_time_counts_only_what_this_process_did() {
        let mut epoch = Epoch::new(1, 7, 10, 100);
        let ten = Duration::from_secs(10);
        // Resumed after 40 batches; the first call comes after batch 41.
        assert!(epoch.remaining(41, ten / 10).is_some());
        // Ten batches in ten seconds: 50 are left here, and 200 in two more epochs.
        let (in_epoch, in_stage) = epoch.remaining(50, ten).unwrap();
        assert_eq!((in_epoch.as_secs(), in_stage.as_secs()), (50, 250));
        assert_eq!(epoch.remaining(40, ten), None);
    }

    /// A bar that is drawn nowhere (tests have no terminal) still takes every call.
    #[test]
    fn bar_keeps_the_position() {
        let mut progress = Progress::Bar(Box::new(Bar {
            bar: ProgressBar::hidden(),
            epoch: Epoch::new(1, 0, 0, 0),
        }));
        progress.epoch_start(1, 0, 3, 85);
        progress.step(40, 99.6, &[("ce", 1.0)]);
        let Progress::Bar(state) = &progress else {
            unreachable!()
        };
        assert_eq!((state.bar.position(), state.bar.length()), (40, Some(85)));
        assert!(state.bar.message().starts_with("100 images/s ETA "));
        assert_eq!(state.bar.prefix(), "stage 1 epoch 1/3");
    }
}

//! `shike inspect`: a data set before training, and lists from a folder.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use shike_data::dataset::{FolderParts, LeftOut};
use shike_data::inspect::{self as look, Depth, InspectConfig, Inspection, Pixels, Problem, Tail};
use shike_data::split::{self, SplitClass, SplitConfig, SplitError, SplitRecord};
use shike_data::{Dataset, Part, ShotThresholds};
use shike_train::text::clean;
use shike_train::{DataSource, TrainData};

use super::plot::{self, Bar};
use super::{CliError, LayoutArgs, Status};

/// Look at a data set before training: its tail, damaged files, duplicates; or split it.
///
/// Prints class sizes, the imbalance factor and the many-, medium- and few-shot groups; classes
/// without a training image; files that cannot be read; images that occur twice, in a class,
/// under two labels, or in training and test; and classes too small for an accuracy of their own.
///
/// With --split it then writes train.txt, val.txt, test.txt, classes.txt and split.json from a
/// folder of classes: stratified, the same for the same seed, equal images never in two lists,
/// unreadable ones in none.
///
/// Exit status: 0 fine, 1 error, 2 wrong arguments; with --strict 3 if an image is in two parts,
/// a file cannot be read, or a class has no training image (nothing is written then).
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike inspect pictures
  shike inspect images --train-list train.txt --test-list test.txt --strict --json > found.json
  shike inspect pictures --split val=10%,test=10% --min-per-class 1 --out lists")]
pub struct InspectArgs {
    /// Folder with the images: `train/<class>/…` (and `val`, `test`), `<class>/…`, CIFAR's binary
    /// files, or the root of the list files' paths; what `shike train --data` takes.
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// What lies there.
    #[command(flatten)]
    pub layout: LayoutArgs,
    /// Read only headers: missing and foreign files are found, cut ones and duplicates are not.
    #[arg(long, conflicts_with = "split")]
    pub quick: bool,
    /// Classes with more training images than this are many-shot.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub many_above: usize,
    /// Classes with fewer training images than this are few-shot.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub few_below: usize,
    /// Classes with fewer test (or validation) images than this are too small to measure.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub min_measured: usize,
    /// Findings of a kind that are printed; --json has all.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub show: usize,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// End with status 3, and write nothing, if an image is in two parts, a file cannot be read, or
    /// a class has no training image.
    #[arg(long)]
    pub strict: bool,
    /// Keep back these shares of each class, such as `val=10%,test=10%`, and write the lists.
    #[arg(long, value_name = "SHARES", requires = "out")]
    pub split: Option<Shares>,
    /// With --split: images of a class that stay in training at least.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "split")]
    pub min_per_class: usize,
    /// With --split: another seed draws other images.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "split")]
    pub seed: u64,
    /// With --split: folder for the lists.
    #[arg(long, value_name = "DIR", requires = "split")]
    pub out: Option<PathBuf>,
    /// With --split: replace an existing split.
    #[arg(long, requires = "split")]
    pub force: bool,
}

/// Shares of validation and test, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// What the best epoch is chosen on.
    pub val: f64,
    /// What is reported.
    pub test: f64,
}

impl std::str::FromStr for Shares {
    type Err = String;

    /// Reads `val=10%,test=10%`; either may be missing.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut val, mut test) = (None, None);
        for part in text.split(',') {
            let (name, share) = part
                .split_once('=')
                .ok_or("it must be NAME=SHARE, such as val=10%,test=10%")?;
            let slot = match name.trim() {
                "val" => &mut val,
                "test" => &mut test,
                other => return Err(format!("`{other}` is not val or test; the rest is train")),
            };
            let digits = share.trim();
            let (digits, whole) = match digits.strip_suffix('%') {
                Some(digits) => (digits, 100.0),
                None => (digits, 1.0),
            };
            let value: f64 = digits
                .trim()
                .parse()
                .map_err(|_| format!("`{share}` is no share"))?;
            if slot.replace(value / whole).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        Ok(Self {
            val: val.unwrap_or(0.0),
            test: test.unwrap_or(0.0),
        })
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    data: &'a Path,
    #[serde(flatten)]
    found: &'a Inspection,
    /// By part, where something was.
    left_out: BTreeMap<Part, &'a LeftOut>,
    split: Option<Written<'a>>,
}

/// A split that was written.
#[derive(Serialize)]
struct Written<'a> {
    out: &'a Path,
    command: String,
    record: &'a SplitRecord,
}

impl InspectArgs {
    fn thresholds(&self) -> ShotThresholds {
        ShotThresholds {
            many_above: self.many_above,
            few_below: self.few_below,
        }
    }

    /// Inspects, splits and prints.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        let problems = run(self)?;
        Ok(match self.strict && problems {
            true => Status::Findings,
            false => Status::Success,
        })
    }
}

/// Whether there are problems.
fn run(args: &InspectArgs) -> Result<bool, CliError> {
    if args.thresholds().validate().is_err() {
        let message = "--few-below must be at most one above --many-above";
        return Err(CliError::Usage(message.into()));
    }
    let source = args.layout.source(&args.data);
    args.layout.fits(&source)?;
    if args.split.is_some() && !is_plain(&source) {
        let message = "--split takes a plain folder of classes (DATA/<class>/…), without lists, \
                       CIFAR files or a folder `train`";
        return Err(CliError::Usage(message.into()));
    }
    if let Some(out) = &args.out
        && split::is_inside(out, &args.data).unwrap_or(false)
    {
        return Err(SplitError::Inside { path: out.clone() }.into());
    }
    let subsets = open(&source)?;
    let total = subsets.iter().map(|(_, data)| data.len()).sum();
    let counter = Counter::new(total, "checked");
    let config = InspectConfig {
        depth: if args.quick {
            Depth::Header
        } else {
            Depth::Full
        },
        thresholds: args.thresholds(),
        min_measured: args.min_measured,
        ..InspectConfig::default()
    };
    let found = look::inspect(&subsets, &config, &|done| counter.show(done));
    counter.clear();
    let found = found?;

    let problems = !found.problems.is_empty();
    let refused = args.strict && problems;
    let plan = match (&args.split, &args.out) {
        (Some(shares), Some(out)) if !refused => {
            let config = SplitConfig {
                val: shares.val,
                test: shares.test,
                min_per_class: args.min_per_class,
                seed: args.seed,
            };
            let plan = split::plan(&subsets[0].1, &found, &config)?;
            plan.write(out, args.force)?;
            Some((out, plan))
        }
        _ => None,
    };
    let written = plan.as_ref().map(|(out, plan)| Written {
        out,
        command: command(&args.data, out, plan.record()),
        record: plan.record(),
    });

    let mut text = if args.json {
        let report = Report {
            data: &args.data,
            found: &found,
            left_out: subsets
                .iter()
                .map(|(part, data)| (*part, data.left_out()))
                .filter(|(_, left_out)| !left_out.is_empty())
                .collect(),
            split: written,
        };
        serde_json::to_string_pretty(&report).map_err(io::Error::from)? + "\n"
    } else {
        let notes = subsets.iter().flat_map(|(part, data)| {
            let notes = data.notes().iter();
            notes.map(move |note| format!("{}: {note}", part.name()))
        });
        let mut text = describe(&found, &notes.collect::<Vec<_>>(), args);
        if let Some(written) = written {
            text += &describe_split(&written, args);
        }
        clean(&text)
    };
    if refused && args.split.is_some() && !args.json {
        text += "\nnothing was split: --strict\n";
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(problems)
}

/// Whether the source is `<class>/…` alone.
fn is_plain(source: &DataSource) -> bool {
    matches!(source, DataSource::Folder { dir } if !dir.join("train").is_dir())
}

/// The parts as they are, where training would refuse an empty class.
pub(super) fn open(source: &DataSource) -> Result<Vec<(Part, Dataset)>, CliError> {
    let data = match source {
        DataSource::Folder { dir } => {
            let (train, val, test) = FolderParts::find(dir)?.open(true)?;
            TrainData { train, val, test }
        }
        _ => source.open()?,
    };
    let parts = data.parts().map(|(part, data)| (part, data.clone()));
    Ok(parts.collect())
}

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

fn images(n: usize) -> String {
    format!("{n} image{}", if n == 1 { "" } else { "s" })
}

fn classes(n: usize) -> String {
    format!("{n} class{}", if n == 1 { "" } else { "es" })
}

/// The report for a person.
fn describe(found: &Inspection, notes: &[String], args: &InspectArgs) -> String {
    let mut text = format!("{}\n", args.data.display());
    for part in &found.subsets {
        let (images, classes) = (images(part.images), classes(part.classes));
        let _ = writeln!(text, "  {:5}  {images} in {classes}", part.subset.name());
    }
    for note in notes {
        let _ = writeln!(text, "  {}", plot::clean(note));
    }
    text.push('\n');
    let tail = &found.tail;
    if let (Some(factor), Some(gini), Some(head)) =
        (tail.imbalance_factor, tail.gini, tail.head_share)
    {
        let _ = writeln!(
            text,
            "training images per class: {} to {}, median {}; imbalance factor {factor:.1}, Gini \
             {gini:.2}; the largest fifth of the classes holds {:.0} %",
            tail.largest,
            tail.smallest,
            tail.median,
            100.0 * head,
        );
    }
    text += &groups(tail, args);
    let bars = found.classes.iter().map(|class| Bar {
        name: &class.name,
        size: class.images.get(&Part::Train).copied().unwrap_or(0),
        shot: class.shot.name(),
    });
    let stdout = console::Term::stdout();
    let width = match stdout.size_checked() {
        Some((_, columns)) if stdout.is_term() => usize::from(columns).clamp(40, 200),
        _ => 80,
    };
    let _ = write!(
        text,
        "\n{}",
        plot::bars(bars.collect(), width, !stdout.is_term())
    );
    text.push_str(&findings(found, args.show));
    let pixels = pixel_lines(&found.pixels, "train with --exif to turn them upright");
    if !pixels.is_empty() {
        let _ = writeln!(text, "\npictures\n  {}", pixels.join("\n  "));
    }
    text
}

/// What a person should know of pictures that are not 8-bit, upright and nearly square, and what to do;
/// `turned` says it for those with an EXIF turn.
pub(super) fn pixel_lines(pixels: &Pixels, turned: &str) -> Vec<String> {
    let all = pixels.looked_at;
    let mut lines = Vec::new();
    if pixels.sixteen_bits > 0 {
        let mut line = format!(
            "{} of {all} have 16 bits a channel, of which the upper 8 are taken",
            pixels.sixteen_bits
        );
        if pixels.narrow > 0 {
            let _ = write!(
                line,
                "; {} of {} that were decoded use less than an eighth of the range, which leaves few grey \
                 levels: stretch them to 8 bits beforehand, all by the same bounds",
                pixels.narrow, pixels.ranges,
            );
        }
        lines.push(line);
    }
    if pixels.turned > 0 {
        lines.push(format!(
            "{} of {all} carry an EXIF turn: {turned}",
            pixels.turned
        ));
    }
    // A few are in every collection.
    if let Some(kept) = pixels.median_kept
        && pixels.elongated * 10 >= all
    {
        lines.push(format!(
            "{} of {all} are so wide or tall that the square in their middle, which is scored, holds less \
             than two thirds of them ({:.0} % of the median picture): pad them to squares beforehand if \
             their ends matter",
            pixels.elongated,
            100.0 * kept,
        ));
    }
    lines
}

/// A line for many-, medium- and few-shot classes each.
fn groups(tail: &Tail, args: &InspectArgs) -> String {
    let mut text = String::new();
    let (many, few) = (args.many_above, args.few_below);
    for (name, line, size) in [
        ("many", format!("more than {many}"), tail.groups.many),
        ("medium", format!("{few} to {many}"), tail.groups.medium),
        ("few", format!("fewer than {few}"), tail.groups.few),
    ] {
        let (classes, images) = (classes(size.classes), images(size.images));
        let _ = writeln!(text, "  {name:6} ({line})  {classes}, {images}");
    }
    text
}

fn findings(found: &Inspection, show: usize) -> String {
    let mut text = String::new();
    let mut list = |title: String, lines: Vec<String>| {
        let _ = writeln!(text, "\n{title}");
        for line in lines.iter().take(show) {
            let _ = writeln!(text, "  {}", plot::clean(line));
        }
        if lines.len() > show {
            let _ = writeln!(text, "  … and {} more (--show, --json)", lines.len() - show);
        }
    };
    let name = |label: &u32| {
        let class = found.classes.get(*label as usize);
        class.map_or_else(|| label.to_string(), |class| class.name.clone())
    };
    if !found.empty_classes.is_empty() {
        let n = found.empty_classes.len();
        let names = found.empty_classes.iter().map(name).collect();
        list(format!("classes without a training image: {n}"), names);
    }
    if !found.unreadable.is_empty() {
        let lines = found.unreadable.iter();
        let lines = lines
            .map(|bad| format!("{}: {}", bad.image.file, bad.reason))
            .collect();
        list(
            format!("files that cannot be read: {}", found.unreadable.len()),
            lines,
        );
    }
    if let Some(duplicates) = &found.duplicates {
        for leak in &duplicates.leaks {
            let (from, to, n) = (leak.from, leak.to, leak.images);
            list(
                format!("images of {to} that are in {from} too: {n}"),
                Vec::new(),
            );
        }
        type Kind = fn(&look::DuplicateGroup) -> bool;
        let kinds: [(&str, Kind); 3] = [
            ("groups of equal images in several parts", |g| {
                g.across_subsets
            }),
            ("groups of equal images under different labels", |g| {
                g.across_classes
            }),
            ("groups of equal images in one class and part", |g| {
                g.within_classes && !g.across_classes && !g.across_subsets
            }),
        ];
        for (title, kind) in kinds {
            let groups = duplicates.groups.iter().filter(|group| kind(group));
            let lines: Vec<String> = groups
                .map(|group| {
                    let files: Vec<String> = group
                        .images
                        .iter()
                        .map(|image| match group.across_classes {
                            true => format!("{} ({})", image.file, name(&image.label)),
                            false => image.file.clone(),
                        })
                        .collect();
                    files.join(" = ")
                })
                .collect();
            if !lines.is_empty() {
                list(format!("{title}: {}", lines.len()), lines);
            }
        }
    }
    for small in found.too_small.iter().filter(|small| small.classes > 0) {
        let lines = small
            .by_size
            .iter()
            .map(|of| {
                let n = classes(of.labels.len());
                match of.half_width {
                    Some(half) => format!(
                        "{n} with {}: an accuracy is known to ±{half:.0} points",
                        of.images
                    ),
                    None => format!("{n} with none: no accuracy"),
                }
            })
            .collect();
        let (n, part, line) = (small.classes, small.subset.name(), small.fewer_than);
        list(
            format!("classes with fewer than {line} {part} images, too small to measure: {n}"),
            lines,
        );
    }
    let looked = found.duplicates.is_some();
    if found.problems.is_empty() {
        let across = if looked {
            ", no image in two parts"
        } else {
            ""
        };
        let _ = writeln!(text, "\nno empty class, no unreadable file{across}");
    } else {
        text.push_str("\nproblems\n");
        for found in &found.problems {
            let _ = writeln!(text, "  {}", problem(found));
        }
    }
    if !looked {
        text.push_str("only headers were read: cut files and duplicates were not looked for\n");
    }
    text
}

/// The problem, and what to do about it.
fn problem(problem: &Problem) -> &'static str {
    match problem {
        Problem::EmptyClasses => {
            "classes without a training image: training leaves out the empty folders of training \
             classes, and refuses classes that only val or test have"
        }
        Problem::Unreadable => {
            "unreadable files: training stops at one, or replaces a few by others of their class \
             (--bad-images skip, its choice where no recipe is given); --split leaves them out"
        }
        Problem::DuplicatesAcrossSubsets => {
            "images in several parts: accuracy on them is too high; keep each in one part alone"
        }
    }
}

fn describe_split(written: &Written<'_>, args: &InspectArgs) -> String {
    let mut text = format!("\n{}\n", written.out.display());
    for list in written.record.lists.values() {
        let _ = writeln!(text, "  {:9}  {}", list.file, images(list.images));
    }
    let training = |class: &SplitClass| class.images.get(&Part::Train).copied();
    let split = written.record.classes.iter();
    let counts: Vec<usize> = split.map(|class| training(class).unwrap_or(0)).collect();
    text.push_str("of the classes in the training list are\n");
    text += &groups(&Tail::new(&counts, args.thresholds()), args);
    let left = &written.record.left_out;
    if !(left.images.is_empty() && left.classes.is_empty()) {
        let (images, classes) = (images(left.images.len()), classes(left.classes.len()));
        let _ = writeln!(
            text,
            "  left out: unreadable: {images}; without a readable image: {classes}"
        );
    }
    let _ = writeln!(text, "\ntrain on it with\n  {}", written.command);
    text
}

/// The command that trains on the lists.
fn command(data: &Path, out: &Path, record: &SplitRecord) -> String {
    let mut words = vec!["shike train --data".to_owned(), quoted(data)];
    for (part, list) in &record.lists {
        words.push(format!(
            "--{}-list {}",
            part.name(),
            quoted(&out.join(&list.file))
        ));
    }
    words.push("--run runs/first".into());
    words.join(" ")
}

/// A path as one word of a POSIX shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let safe = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percent_or_parts_of_one() {
        let read = |text: &str| text.parse::<Shares>();
        let (val, test) = (0.1, 0.2);
        assert_eq!(read("val=10%,test=20%").unwrap(), Shares { val, test });
        assert_eq!(read("test = 0.2 , val=.1").unwrap(), Shares { val, test });
        assert_eq!(read("test=20 %").unwrap(), Shares { val: 0.0, test });
        for (text, says) in [
            ("10%", "NAME=SHARE"),
            ("train=80%", "not val or test"),
            ("val=ten", "no share"),
            ("val=1%,val=2%", "twice"),
        ] {
            assert!(read(text).unwrap_err().contains(says), "{text}");
        }
    }

    #[test]
    fn paths_are_one_word() {
        let quoted = |text: &str| quoted(Path::new(text));
        assert_eq!(quoted("a/b-1.txt"), "a/b-1.txt");
        assert_eq!(quoted("my pictures"), "'my pictures'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}

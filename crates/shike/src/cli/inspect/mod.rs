//! `shike inspect`: a data set before training, and lists from a folder.

mod text;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use shike_data::dataset::{FolderParts, LeftOut};
use shike_data::inspect::{self as look, Depth, InspectConfig, Inspection};
use shike_data::split::{self, SplitConfig, SplitError, SplitRecord};
use shike_data::{Dataset, Part, ShotThresholds};
use shike_train::text::clean;
use shike_train::{DataSource, TrainData};

use self::text::{advised, describe, describe_split, parts};
pub(super) use self::text::{describe_taken, group_lines, no_class_line, pixel_lines};
use super::counter::Counter;
use super::{CliError, LayoutArgs, SplitArgs, Status};

/// Look at a data set before training: its tail, damaged files, duplicates; or split it.
///
/// Prints class sizes, the imbalance factor and the many-, medium- and few-shot groups; classes
/// without a training image; files that cannot be read; images that occur twice, in a class,
/// under two labels, or in training and test; and classes too small for an accuracy of their own.
///
/// With --split it then writes train.txt, val.txt, test.txt, classes.txt, split.json and, where images
/// belong together, groups.txt from a folder of classes or a single list: stratified, the same for the same seed, equal images and
/// groups (--group-by) never in two lists, unreadable ones in none.
///
/// Exit status: 0 fine, 1 error, 2 wrong arguments; with --strict 3 if an image is in two parts,
/// a file cannot be read, or a class has no training image (nothing is written then).
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike inspect pictures
  shike inspect images --train-list train.txt --test-list test.txt --strict --json > found.json
  shike inspect pictures --split val=10%,test=10% --min-per-class 1 --out lists
  shike inspect pictures --split test=20% --group-by path:2 --group-by near-duplicates --out lists
  shike inspect images --train-list all.csv --split val=10%,test=20% --group-by patient --out lists")]
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
    /// With --split: what is kept together, and what is taken.
    #[command(flatten)]
    pub taken: SplitArgs,
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
        let message = "--split takes a plain folder of classes (DATA/<class>/…) or one list (--train-list), \
                       without other lists, CIFAR files or a folder `train`";
        return Err(CliError::Usage(message.into()));
    }
    if args.split.is_none() && !args.taken.is_empty() {
        let message = "--group-by, --min-images and --max-images are for --split: they say what it keeps together \
                       and takes";
        return Err(CliError::Usage(message.into()));
    }
    if let (Some(out), DataSource::Folder { .. }) = (&args.out, &source)
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
                ..args.taken.config(&source)
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
        let mut advice = match is_plain(&source) {
            true => group_lines(&found, &subsets[0].1, &args.taken.group_by),
            false => vec![],
        };
        advice.extend(no_class_line(subsets[0].1.class_names()));
        let notes: Vec<String> = notes.collect();
        clean(&match written {
            // Who splits has looked at the pictures before.
            Some(written) => {
                parts(&found, &notes, args) + &advised(&advice) + &describe_split(&written, args)
            }
            None => describe(&found, &notes, advice, args),
        })
    };
    if refused && args.split.is_some() && !args.json {
        text += "\nnothing was split: --strict\n";
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(problems)
}

/// Whether the source is `<class>/…` alone, or a single list.
fn is_plain(source: &DataSource) -> bool {
    match source {
        DataSource::Folder { dir } => !dir.join("train").is_dir(),
        DataSource::Lists { val, test, .. } => val.is_none() && test.is_none(),
        _ => false,
    }
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

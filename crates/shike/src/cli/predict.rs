//! `shike predict`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Args;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use shike_data::dataset::{LeftOut, images_below, list_paths, names_disagree};
use shike_data::write::write_bytes;
use shike_data::{class_names_file, format_names, header_size};
use shike_infer::metrics::confidence::Sets;
use shike_infer::{Prediction, Predictor, Tta};

use super::model::{say_resized, unsure};
use super::{CliError, ModelArgs, Status, print, print_json, say, writable};

/// Name what is in images.
///
/// Exit status: 0 every image was read, 1 error, 2 wrong arguments, 3 some images could not be read
/// (each is named; those of other formats in folders are counted; the rest is predicted).
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike predict runs/first new.jpg more/
  shike predict runs/first --list new.txt --root pictures --out predictions.csv --experts
  shike predict runs/first more/ --prior train --json")]
pub struct PredictArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images, or folders whose images are taken with those of the folders in them.
    #[arg(value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A list of images: a path a line, where a number (a label) behind the last space or tab is
    /// ignored; or a `.csv` or `.json` file as `shike train` takes it.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// The folder that the list's paths are below. Default: the folder of the list.
    #[arg(long, value_name = "DIR", requires = "list")]
    root: Option<PathBuf>,
    /// Write to this file, `.csv` or `.safetensors` (`logits` [images, experts, classes] and
    /// `probabilities` [images, classes], with paths and class names in its metadata), and not to the
    /// screen.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Class names, one a line, by label, in place of the model's own.
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
    /// Number of classes, most probable first [default: 5].
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// The first class of each expert as well.
    #[arg(long)]
    experts: bool,
    /// Every class's mean logit as well (CSV and JSON).
    #[arg(long)]
    logits: bool,
    /// Call an image `unknown` whose highest probability is lower than that of all but this share of the
    /// validation images.
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = "0.05", require_equals = true)]
    unknown: Option<f64>,
    /// The set of classes that holds the right one with this probability, such as 0.9, in each shot group.
    #[arg(long, value_name = "SHARE")]
    coverage: Option<f64>,
    /// Look at each image in several ways, and average the logits: `flip` at its mirror image as well. Not for
    /// text, signs, and whatever has a left and a right.
    #[arg(long, conflicts_with_all = ["unknown", "coverage"])]
    tta: Option<Tta>,
    /// A JSON object a line, for machines.
    #[arg(long, conflicts_with = "out")]
    json: bool,
    /// Images that go through the network at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch_size: u32,
}

impl PredictArgs {
    fn top(&self) -> usize {
        self.top.unwrap_or(5)
    }

    /// The images, and what was left out of folders.
    fn paths(&self) -> Result<(Vec<PathBuf>, LeftOut), CliError> {
        let (mut all, mut left_out) = (Vec::new(), LeftOut::default());
        let mut empty = vec![];
        for path in &self.images {
            if path.is_dir() {
                let (images, others) = images_below(path)?;
                if images.is_empty() {
                    empty.push(format!("{} holds none", path.display()));
                }
                all.extend(images.iter().map(|image| path.join(image)));
                left_out.add(others);
            } else {
                all.push(path.clone());
            }
        }
        if let Some(list) = &self.list {
            let beside = list.parent().unwrap_or(Path::new("")).to_owned();
            let root = self.root.clone().unwrap_or(beside);
            all.extend(list_paths(list)?.into_iter().map(|path| root.join(path)));
        }
        if !all.is_empty() {
            empty
                .iter()
                .for_each(|folder| say(&format!("no image: {folder}")));
            return Ok((all, left_out));
        }
        let why = match left_out.is_empty() {
            true if empty.is_empty() => "name files or folders, or give --list".into(),
            true => empty.join(", "),
            false => format!("{} files are read ({left_out})", format_names()),
        };
        Err(CliError::Usage(format!("no image: {why}")))
    }
}

impl PredictArgs {
    /// Predicts; each image that cannot be read is named on the standard error output, or counted there by its
    /// format.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        let (paths, left_out) = self.paths()?;
        if !left_out.is_empty() {
            say(&left_out.to_string());
        }
        if let Some(out) = &self.out {
            writable(out)?;
        }
        let predictor = self.model.load_with(|predictor| {
            let Some(file) = &self.class_names else {
                return Ok(predictor);
            };
            let names = class_names_file(file)?;
            if let Some(problem) = names_disagree(&predictor.info().class_names, &names) {
                say(&format!("warning: {}: {problem}", file.display()));
            }
            let named = predictor.with_class_names(names);
            named.map_err(|error| {
                CliError::Usage(format!("--class-names {}: {error}", file.display()))
            })
        })?;
        let predictor = predictor.with_tta(self.tta);
        let names = &predictor.info().class_names;
        let doubt = Doubt::new(self, &predictor)?;
        let mut sink = Sink::new(self, names)?;
        let (mut bad, mut read) = (0, Vec::new());
        for paths in paths.chunks(self.batch_size as usize) {
            let decoded: Vec<_> = paths.par_iter().map(|path| predictor.read(path)).collect();
            let (mut good, mut images) = (Vec::new(), Vec::new());
            for (path, image) in paths.iter().zip(decoded) {
                match image {
                    Ok(image) => {
                        good.push(path);
                        images.push(image);
                    }
                    Err(error) => {
                        bad += 1;
                        let text = error.to_string();
                        let name = path.display().to_string();
                        match text.contains(&name) {
                            true => say(&format!("error: {text}")),
                            false => say(&format!("error: {name}: {text}")),
                        }
                    }
                }
            }
            read.extend_from_slice(&good);
            for (path, prediction) in good.into_iter().zip(predictor.predict_prepared(&images)?) {
                sink.take(self, &path.display().to_string(), &prediction, &doubt)?;
            }
        }
        sink.finish(self, &predictor)?;
        if self.json && !left_out.is_empty() {
            print_json(&serde_json::json!({ "left_out": left_out }))?;
        }
        let sizes = read.into_iter().filter_map(|path| header_size(path).ok());
        say_resized(&predictor, sizes);
        if bad > 0 {
            say(&format!(
                "{bad} of {} images could not be read",
                paths.len()
            ));
        }
        Ok(match bad + left_out.images_not_read() {
            0 => Status::Success,
            _ => Status::Findings,
        })
    }
}

/// What the model may be unsure of.
struct Doubt {
    /// Probabilities below it are of unknown images.
    least: Option<f32>,
    sets: Option<Sets>,
}

impl Doubt {
    fn new(args: &PredictArgs, predictor: &Predictor) -> Result<Self, CliError> {
        let least = match args.unknown {
            Some(share) if (0.0..1.0).contains(&share) => {
                Some(predictor.confidence()?.threshold(share))
            }
            Some(share) => {
                let message = format!("--unknown={share}: give a share of images, such as 0.05");
                return Err(CliError::Usage(message));
            }
            None => None,
        };
        let thresholds = args.model.thresholds()?;
        let sets = args
            .coverage
            .map(|coverage| predictor.sets(coverage, thresholds));
        let sets = sets.transpose()?;
        for shot in sets.iter().flat_map(|sets| &sets.unsure) {
            say(&unsure(*shot));
        }
        Ok(Self { least, sets })
    }

    fn is_unknown(&self, prediction: &Prediction<'_>) -> bool {
        self.least
            .is_some_and(|least| prediction.confidence() < least)
    }

    /// The names of the set's classes, most probable first.
    fn set<'a>(&self, prediction: &Prediction<'a>) -> Option<Vec<&'a str>> {
        let set = self
            .sets
            .as_ref()?
            .of(&prediction.probabilities)
            .into_iter();
        Some(
            set.map(|class| prediction.class_names[class].as_str())
                .collect(),
        )
    }
}

/// Where predictions go.
enum Sink {
    Screen,
    Csv {
        rows: usize,
        csv: Box<csv::Writer<Vec<u8>>>,
    },
    Tensors {
        images: Vec<String>,
        logits: Vec<f32>,
        probabilities: Vec<f32>,
    },
}

impl Sink {
    fn new(args: &PredictArgs, names: &[String]) -> Result<Self, CliError> {
        let Some(out) = &args.out else {
            if args.logits && !args.json {
                let message = "--logits is for --json, or for --out with a .csv file";
                return Err(CliError::Usage(message.into()));
            }
            return Ok(Self::Screen);
        };
        match out.extension().and_then(|e| e.to_str()) {
            Some("csv") => {
                let mut csv = csv::Writer::from_writer(Vec::new());
                let mut header = vec!["image".to_owned()];
                for n in 1..=args.top().min(names.len()) {
                    header.extend([format!("class{n}"), format!("probability{n}")]);
                }
                header.extend(args.unknown.map(|_| "unknown".into()));
                header.extend(args.coverage.map(|_| "set".into()));
                if args.experts {
                    header.push("experts".into());
                }
                if args.logits {
                    header.extend(names.iter().map(|name| format!("logit {name}")));
                }
                csv.write_record(header).map_err(csv_failed)?;
                Ok(Self::Csv {
                    rows: 0,
                    csv: Box::new(csv),
                })
            }
            Some("safetensors")
                if args.experts
                    || args.logits
                    || args.top.is_some()
                    || args.unknown.is_some()
                    || args.coverage.is_some() =>
            {
                Err(CliError::Usage(
                    "--top, --experts, --logits, --unknown and --coverage have no effect on a .safetensors file, which holds all of \
                     it: leave them out"
                        .into(),
                ))
            }
            Some("safetensors") => Ok(Self::Tensors {
                images: vec![],
                logits: vec![],
                probabilities: vec![],
            }),
            _ => Err(CliError::Usage(format!(
                "--out {}: its name has to end in .csv or .safetensors",
                out.display()
            ))),
        }
    }

    fn take(
        &mut self,
        args: &PredictArgs,
        image: &str,
        prediction: &Prediction<'_>,
        doubt: &Doubt,
    ) -> Result<(), CliError> {
        let unknown = doubt.is_unknown(prediction);
        let set = doubt.set(prediction);
        let top = prediction.top(args.top());
        let experts = || -> Vec<&str> {
            let logits = prediction.logits.iter();
            logits
                .map(|logits| prediction.name_of_largest(logits))
                .collect()
        };
        match self {
            Self::Screen if args.json => {
                let classes: Vec<_> = top
                    .iter()
                    .map(|(class, p)| serde_json::json!({"class": class, "probability": p}))
                    .collect();
                let mut line = serde_json::json!({"image": image, "classes": classes});
                if args.unknown.is_some() {
                    line["unknown"] = unknown.into();
                }
                if let Some(set) = set {
                    line["set"] = set.into();
                }
                if args.experts {
                    line["experts"] = experts().into();
                }
                if args.logits {
                    line["logits"] = prediction.mean_logits().into();
                }
                print_json(&line)?;
            }
            Self::Screen => {
                let classes: Vec<_> = top
                    .iter()
                    .map(|(class, p)| format!("{:5.1} % {class}", 100.0 * p))
                    .collect();
                let unknown = if unknown { "unknown: " } else { "" };
                let mut line = format!("{image}: {unknown}{}", classes.join(", "));
                if let Some(set) = set {
                    line += &format!(" (set: {})", set.join(", "));
                }
                if args.experts {
                    line += &format!(" (experts: {})", experts().join(", "));
                }
                print(&line)?;
            }
            Self::Csv { rows, csv } => {
                *rows += 1;
                let mut row = vec![image.to_owned()];
                for (class, p) in top {
                    row.extend([class.to_owned(), p.to_string()]);
                }
                row.extend(
                    args.unknown
                        .map(|_| if unknown { "yes" } else { "" }.into()),
                );
                row.extend(set.map(|set| set.join("; ")));
                if args.experts {
                    row.push(experts().join("; "));
                }
                if args.logits {
                    row.extend(prediction.mean_logits().iter().map(f32::to_string));
                }
                csv.write_record(row).map_err(csv_failed)?;
            }
            Self::Tensors {
                images,
                logits,
                probabilities,
            } => {
                images.push(image.to_owned());
                logits.extend(prediction.logits.iter().flatten());
                probabilities.extend(&prediction.probabilities);
            }
        }
        Ok(())
    }

    fn finish(self, args: &PredictArgs, predictor: &Predictor) -> Result<(), CliError> {
        let Some(out) = &args.out else { return Ok(()) };
        let (bytes, count) = match self {
            Self::Screen => return Ok(()),
            Self::Csv { rows, csv } => {
                let bytes = csv.into_inner();
                (bytes.map_err(|e| CliError::Format(e.to_string()))?, rows)
            }
            Self::Tensors {
                images,
                logits,
                probabilities,
            } => {
                let info = predictor.info();
                let (n, classes) = (images.len(), info.class_names.len());
                let bytes = |values: &[f32]| -> Vec<u8> {
                    values.iter().flat_map(|v| v.to_le_bytes()).collect()
                };
                let json = |names: &[String]| serde_json::json!(names).to_string();
                let metadata = HashMap::from([
                    ("images".to_owned(), json(&images)),
                    ("class_names".to_owned(), json(&info.class_names)),
                ]);
                let (logits, probabilities) = (bytes(&logits), bytes(&probabilities));
                let failed =
                    |error: safetensors::SafeTensorError| CliError::Format(error.to_string());
                let view = |shape, data| TensorView::new(Dtype::F32, shape, data).map_err(failed);
                let tensors = [
                    (
                        "logits",
                        view(vec![n, info.model.experts, classes], &logits)?,
                    ),
                    ("probabilities", view(vec![n, classes], &probabilities)?),
                ];
                (
                    safetensors::serialize(tensors, Some(metadata)).map_err(failed)?,
                    n,
                )
            }
        };
        write_bytes(out, &bytes)?;
        say(&format!("{}: {count} predictions", out.display()));
        Ok(())
    }
}

fn csv_failed(error: csv::Error) -> CliError {
    CliError::Format(error.to_string())
}

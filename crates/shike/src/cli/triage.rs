//! `shike triage`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args;
use serde_json::json;
use shike_data::Part;
use shike_data::write::can_write;
use shike_heads::heads::{DEFAULT, head};
use shike_heads::{Candidate, Comparison, Depth, Features};
use shike_infer::model::file::load_model;
use shike_infer::{Embedder, Network};
use shike_train::report::triage::{Subject, Triage};
use shike_train::run::RunPaths;
use shike_train::{RunConfig, TrainError};

use super::counter::Counter;
use super::embed::{self, WayArgs};
use super::model::{Which, model_of};
use super::pixels::PixelArgs;
use super::processes::Processes;
use super::scoring::{same_images, still_there};
use super::train::stop_on_ctrl_c;
use super::{CliError, DataArgs, Status, print, print_json, say};

/// List which pictures of a run to look at first: labels that are probably wrong, and more.
///
/// For every class, from the rarest on: pictures whose label is probably wrong, pictures that look
/// alike under two labels, files that cannot be read, and the frequent class that it is nearest to.
/// Writes triage.csv, triage_classes.csv and triage.html, which shows the pictures, into the run.
///
/// Pictures are judged by heads on the features of a network that was not trained on their labels:
/// that of the run if its trunk stayed frozen, or the one of --weights. Every picture is held out
/// once, with all that belongs to it (near-duplicates, bursts, and the run's --group-by).
///
/// Exit status: 0 written, 1 error, 2 wrong arguments, 130 stopped by Ctrl-C.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike triage runs/first
  shike triage runs/trained-from-scratch --weights dinov2_s14")]
pub struct TriageArgs {
    /// Folder of a run.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Judge by the features of this pretrained network: `.pth` or `.safetensors`, a name such as
    /// `dinov2_s14`, or `hf:OWNER/NAME`. Needed unless the run has a frozen trunk.
    #[arg(long, value_name = "FILE|NAME")]
    weights: Option<PathBuf>,
    /// Where the run's images are now, if they are not where they were.
    #[command(flatten)]
    data: DataArgs,
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    way: WayArgs,
}

impl TriageArgs {
    /// Judges the pictures of a run. `end` ends the program at once.
    pub(super) fn run(&self, end: fn()) -> Result<Status, CliError> {
        let paths = RunPaths::new(&self.run);
        paths.check()?;
        for file in Triage::files(paths.root()) {
            can_write(&file)?;
        }
        let recorded = RunConfig::read(&paths)?;
        let decoding = recorded.train.eval_pipeline.decoding();
        let (embedder, candidate) = self.judge(&paths, &recorded)?;
        let source = self.data.known_source_of_run(recorded.data)?;
        let names = paths.read_classes()?.names;
        let data = source.open_with_classes(&names)?;
        still_there(
            &data.train,
            "give --data with the folder that they are in now",
        )?;
        same_images(&paths, Part::Train, &data.train, &names)?;
        for left_out in data.left_out().values() {
            say(&left_out.to_string());
        }
        let counter = Counter::new(data.sizes().iter().sum(), "checked");
        let thresholds = recorded.train.thresholds;
        let subject = Subject::new(&data, thresholds, &|done| counter.show(done));
        counter.clear();
        let subject = subject?;

        let processes = Processes::alone();
        let cache = self.way.cache(&processes);
        let (threads, config) = self.way.loading()?;
        let stop = stop_on_ctrl_c(end);
        stop.training.store(true, Ordering::SeqCst);
        let stopping = || stop.asked.load(Ordering::SeqCst);
        let images = (&embedder, &subject.images, "the run");
        let way = (&threads, config, cache.as_ref());
        let found = embed::embed(images, way, &processes, &stopping)?;
        // What follows has no step to stop after.
        stop.training.store(false, Ordering::SeqCst);
        let Some((Some(features), _)) = found else {
            return Ok(Status::Interrupted);
        };
        let depths = Depth::side_by_side(features.source.depths.iter().cloned());
        let classes = subject.classes();
        let place = |label: &u32| classes.partition_point(|class| class < label) as u32;
        let labels: Vec<u32> = features.labels.iter().map(place).collect();
        let of_heads = Features::new(&features.rows, &labels, classes.len(), &depths)?;
        let log = held_out(candidate, &of_heads, &subject)?;
        let triage = Triage::new(&subject, &features, &log);
        let files = triage.write(&subject, &decoding, paths.root())?;
        if self.json {
            let mut json = json!(triage);
            json["files"] = json!(files);
            json["left_out"] = json!(data.left_out());
            print_json(&json)?;
            return Ok(Status::Success);
        }
        print(&triage.to_string())?;
        let files = files.map(|file| file.display().to_string());
        print(&format!("written: {}", files.join(", ")))?;
        print(
            "next: look at triage.html, move or drop what is labelled wrongly, and train again into another run",
        )?;
        Ok(Status::Success)
    }

    /// What judges the pictures: a trunk that has not seen their labels, and the run's own head on it, if there is one.
    fn judge(
        &self,
        paths: &RunPaths,
        recorded: &RunConfig,
    ) -> Result<(Embedder, Option<Candidate>), CliError> {
        let processes = Processes::alone();
        let device = self.way.device(&processes)?;
        let frozen = recorded.train.frozen.is_some();
        // A model of the run itself is no other network.
        let own = |weights: &PathBuf| {
            let [file, run] = [weights, &self.run].map(|path| path.canonicalize().ok());
            file.zip(run)
                .is_some_and(|(file, run)| file.starts_with(run))
        };
        if !frozen && self.weights.as_ref().is_none_or(own) {
            return Err(CliError::Usage(format!(
                "the network of {} was trained on these labels, and would believe them: name a pretrained one that was \
                 not, as in --weights dinov2_s14",
                self.run.display()
            )));
        }
        if let Some(weights) = &self.weights {
            let decoding = recorded.train.eval_pipeline.decoding();
            let pixels = PixelArgs {
                exif: Some(decoding.upright),
                fit: recorded.train.eval_pipeline.fit(),
                range: Some(super::pixels::Range::Given(decoding.range)),
                background: decoding.background,
            };
            let embedder = embed::embedder(weights, None, (None, &pixels), &device, &processes)?;
            return Ok((embedder, None));
        }
        let (network, info) = load_model(&model_of(paths, Which::Model)?, &device)?;
        let Network::Frozen(trunk, head) = network else {
            let message = "the model is not that of a frozen trunk, as the run's settings say";
            return Err(TrainError::Mismatch(message.into()).into());
        };
        let embedder = Embedder::new(&trunk, &info.pipeline, info.normalization, &device)?;
        Ok((embedder, Some(head.candidate().clone())))
    }
}

/// Log-probabilities of every picture by a head that has not seen it.
fn held_out(
    candidate: Option<Candidate>,
    features: &Features,
    subject: &Subject,
) -> shike_heads::Result<Vec<f32>> {
    // A head may be made for no more than the training pictures.
    let suits = |candidate: &Candidate| {
        let most = head(&candidate.head)
            .ok()
            .and_then(|head| head.most_pictures);
        most.is_none_or(|most| features.pictures() <= most)
    };
    let candidate = match candidate.filter(suits) {
        Some(candidate) => candidate,
        None => {
            let comparison = Comparison {
                heads: vec![DEFAULT.into()],
                ..Comparison::default()
            };
            say("choosing the strength of the head");
            let (_, choice) = comparison.choose(features, |_, _, _| {})?;
            choice.chosen().candidate.clone()
        }
    };
    say(&format!(
        "judging with the head {} on {}",
        candidate.head,
        candidate.depths.join("+")
    ));
    candidate.held_out(features, &subject.folds, |done, folds| {
        if done < folds {
            say(&format!("fold {} of {folds}", done + 1));
        }
    })
}

//! A head on a frozen trunk: embed, compare heads, keep the chosen one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use shike_data::{Dataset, Loader, LoaderConfig, Part};
use shike_heads::{Choice, Comparison, Depth, FittedHead};
use shike_infer::metrics::confidence::Confidence;
use shike_infer::metrics::{Evaluation, Scored};
use shike_infer::model::file::{FrozenInfo, ModelInfo, save_model};
use shike_infer::{EmbedEvent, Embedder, FeatureCache, Features};
use shike_infer::{InferError, Network};
use shike_model::network::ModelSummary;
use shike_model::{Head, weights};

use super::dry_run::human;
use super::scores::FinalScores;
use super::{Learner, Outcome, Session};
use crate::config::{FrozenConfig, TrainConfigError};
use crate::error::TrainError;
use crate::ranks;
use crate::run::receipt;

/// What a run with a frozen trunk would take; see [`Learner::dry_run_frozen`].
#[derive(Clone, Debug, Serialize)]
pub struct EmbedTime {
    /// Parameters and multiply-adds of the trunk.
    pub summary: ModelSummary,
    /// Images of all parts.
    pub images: usize,
    /// Those among them whose features are not kept.
    pub missing: usize,
    /// Decoding included, on a cache that has none of them.
    pub images_per_second: f64,
}

impl EmbedTime {
    /// Seconds to embed what is missing.
    pub fn seconds(&self) -> f64 {
        self.missing as f64 / self.images_per_second
    }
}

impl fmt::Display for EmbedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            images,
            missing,
            images_per_second,
            ..
        } = self;
        writeln!(f, "{}", self.summary)?;
        write!(
            f,
            "embedding {missing} of {images} images at {images_per_second:.1} a second: about {}, and heads in \
             minutes (features of the others are kept)",
            human(self.seconds())
        )
    }
}

impl Learner {
    /// Fits a head on the features of the training images and scores it, from the start: what was embedded before
    /// lies in the cache.
    pub(super) fn run_frozen(
        &self,
        frozen: &FrozenConfig,
        session: &mut Session<'_>,
    ) -> Result<Outcome, TrainError> {
        let began = Instant::now();
        let mut receipt = self.begin_receipt(false, session)?;
        session.run.write_receipt(&mut receipt)?;
        let embedder = self.embedder()?;
        self.check_features(embedder.source().width())?;
        let Some(features) = self.embed_all(embedder, session)? else {
            return Ok(Outcome::Interrupted);
        };
        let Some(train) = features.get(&Part::Train) else {
            // Process 0 does the rest.
            return Ok(Outcome::Finished(None));
        };
        let (mut head, choice) = self.choose(frozen, train, session)?;
        if let Some(weights) = self.head_weights(frozen)? {
            head = head.with_class_weights(&weights)?;
        }
        session.message(&choice.to_string());
        session.run.write_heads(&choice)?;
        let (mut scores, mut temperature) = (Scored::default(), 1.0);
        for (part, images) in self.data.parts() {
            let score = match part {
                Part::Train => continue,
                Part::Val => &mut scores.val,
                Part::Test => &mut scores.test,
            };
            let mut scored = self.score_head(&head, &features[&part], images, temperature)?;
            if part == Part::Val {
                scored.confidence = self.confidence(&scored);
                temperature = Confidence::temperature_of(scored.confidence.as_ref());
            }
            *score = Some(scored);
        }
        let info = self.frozen_info(&head, &receipt, scores.val.as_ref())?;
        let network = Network::Frozen(embedder.trunk().clone(), head);
        save_model(&session.run.writable()?.model(), &network, &info)?;
        let finals = FinalScores { scores, best: None };
        let reported = finals.reported();
        receipt.scored = reported.map(|(part, _)| part);
        receipt.training_seconds = began.elapsed().as_secs_f64();
        session.run.write_receipt(&mut receipt)?;
        if let Some((part, evaluation)) = reported
            && let Some(images) = self.data.get(part)
        {
            session.run.write_scores(evaluation, images)?;
        }
        Ok(Outcome::Finished(
            reported.is_some().then(|| Box::new(finals.clone())),
        ))
    }

    /// Embeds a few batches instead of running, and says what the run would take. Nothing is written.
    ///
    /// # Errors
    /// If it has no frozen trunk, or pictures or weights cannot be read.
    pub fn dry_run_frozen(
        &self,
        batches: usize,
        cache: Option<&FeatureCache>,
    ) -> Result<EmbedTime, TrainError> {
        let embedder = self.embedder()?;
        self.check_features(embedder.source().width())?;
        let size = self.config.eval_pipeline.output_size();
        let size = size.map_or([0, 0], |size| size.height_width());
        let config = self.config.loader;
        let loader = Loader::on(
            &self.threads,
            self.data.train.clone(),
            embedder.source().pipeline.clone(),
            LoaderConfig {
                drop_last: false,
                ..config
            },
            self.config.seed,
        )?;
        let images = self.data.sizes().iter().sum();
        let mut fastest: f64 = 0.0;
        let mut epoch = loader.sequential();
        // The first one warms up, where there are others.
        let few = self.data.train.len() <= config.batch_size;
        for number in 0..=batches {
            let began = Instant::now();
            let Some(batch) = epoch.next() else { break };
            let batch = batch?;
            embedder.embed_batch(&batch.images, [batch.height, batch.width]);
            if number > 0 || few {
                // What else the machine does makes single batches slower, never faster.
                let seconds = began.elapsed().as_secs_f64();
                fastest = fastest.max(batch.len() as f64 / seconds);
            }
        }
        let parts = self.data.parts();
        let missing = parts.map(|(_, images)| embedder.missing(images, &self.threads, cache));
        let missing = missing.sum::<Result<_, _>>()?;
        Ok(EmbedTime {
            summary: embedder.trunk().describe(size),
            images,
            missing,
            images_per_second: fastest,
        })
    }

    /// The trunk with its weights, and how images get to it.
    pub(super) fn embedder(&self) -> Result<&Embedder, TrainError> {
        if let Some(embedder) = self.embedder.get() {
            return Ok(embedder);
        }
        let config = &self.config;
        let device = self.device.clone().without_autodiff();
        let trunk = config.model.backbone.init(&device);
        let trunk = trunk.map_err(crate::config::TrainConfigError::from)?;
        let path = config.weights.as_deref().unwrap_or("weights".as_ref());
        let (trunk, _) = weights::import_trunk(trunk, path)?;
        let (pipeline, normalization) = (&config.eval_pipeline, config.normalization);
        let embedder = Embedder::new(&trunk, pipeline, normalization, &device)?;
        Ok(self.embedder.get_or_init(|| Arc::new(embedder)))
    }

    /// The features of all parts, which process 0 has; none where the session is to stop.
    fn embed_all(
        &self,
        embedder: &Embedder,
        session: &mut Session<'_>,
    ) -> Result<Option<BTreeMap<Part, Features>>, TrainError> {
        let mut all = BTreeMap::new();
        for (part, images) in self.data.parts() {
            match self.embed(embedder, images, part, session) {
                Err(TrainError::Infer(InferError::Stopped { done, total })) => {
                    if !session.stopping() && session.is_over(2, Duration::ZERO) {
                        session.message(&format!(
                            "the time is over after {done} of {total} images of the {part} set; the features of \
                             those are kept, and the next try needs the others alone"
                        ));
                    }
                    return Ok(None);
                }
                features => all.extend(features?.map(|features| (part, features))),
            }
        }
        Ok(Some(all))
    }

    /// The features of a part, which process 0 has.
    fn embed(
        &self,
        embedder: &Embedder,
        images: &Dataset,
        part: Part,
        session: &mut Session<'_>,
    ) -> Result<Option<Features>, TrainError> {
        let began = Instant::now();
        let cache = session.cache.clone();
        let (asked, end) = (session.stop(), session.left(2).map(|left| began + left));
        let late = || end.is_some_and(|end| Instant::now() > end);
        let stop = || asked.load(Ordering::Relaxed) || late();
        let progress = &mut session.progress;
        progress.task(&format!("embedding the {part} set"), images.len());
        let mut embedded = 0;
        let mut tell = |event| match event {
            EmbedEvent::Progress {
                done,
                embedded: now,
                ..
            } => {
                embedded = now;
                progress.task_step(done);
            }
            EmbedEvent::Warning(text) => progress.message(&text),
            _ => {}
        };
        let loader = LoaderConfig {
            drop_last: false,
            ..self.config.loader
        };
        let found = ranks::embed(
            &*self.ranks,
            embedder,
            images,
            (&self.threads, loader),
            cache.as_ref(),
            &mut tell,
            &stop,
        );
        progress.task_end();
        let found = found?;
        session.message(&format!(
            "{part} set: {} images, {embedded} of them embedded now, in {:.1} s",
            images.len(),
            began.elapsed().as_secs_f64()
        ));
        Ok(found)
    }

    fn choose(
        &self,
        frozen: &FrozenConfig,
        train: &Features,
        session: &mut Session<'_>,
    ) -> Result<(FittedHead, Choice), TrainError> {
        let depths = Depth::side_by_side(train.source.depths.iter().cloned());
        let classes = self.train_counts.len();
        let features =
            shike_heads::Features::new(&train.rows, self.data.train.labels(), classes, &depths)?;
        let comparison = Comparison {
            seed: self.config.seed,
            folds: frozen.folds,
            groups: self.data.train.groups(),
            heads: frozen.heads.clone(),
            depths: match frozen.depths.is_empty() {
                true => vec![],
                false => vec![frozen.depths.clone()],
            },
            time: match (frozen.seconds.map(Duration::from_secs_f64), session.left(2)) {
                (Some(seconds), Some(left)) => Some(seconds.min(left)),
                (seconds, left) => seconds.or(left),
            },
            ..Comparison::default()
        };
        let progress = &mut session.progress;
        let mut begun = false;
        let chosen = comparison.choose(&features, |done, total, _| {
            if !std::mem::replace(&mut begun, true) {
                progress.task("comparing heads", total);
            }
            progress.task_step(done);
        });
        progress.task_end();
        Ok(chosen?)
    }

    /// Weights of the classes, `[classes]`, if there are any.
    pub(super) fn head_weights(
        &self,
        frozen: &FrozenConfig,
    ) -> Result<Option<Vec<f64>>, TrainConfigError> {
        let names = self.data.train.class_names();
        let wrong = TrainConfigError::HeadWeights;
        let Some(weights) = frozen.weights() else {
            return Ok(None);
        };
        let counts = &self.train_counts;
        let weights = weights.for_classes(names, counts).map_err(wrong)?;
        Ok(Some(weights.compute(counts).map_err(wrong)?))
    }

    fn score_head(
        &self,
        head: &FittedHead,
        features: &Features,
        images: &Dataset,
        temperature: f64,
    ) -> Result<Evaluation, TrainError> {
        let evaluator = self.evaluator()?.with_temperature(temperature);
        let mut evaluator = evaluator.with_ranking();
        let logits = head.log_probabilities(&features.rows)?;
        evaluator.add_batch(&[&logits], images.labels())?;
        Ok(evaluator.finish()?)
    }

    fn frozen_info(
        &self,
        head: &FittedHead,
        receipt: &receipt::Receipt,
        val: Option<&Evaluation>,
    ) -> Result<ModelInfo, TrainError> {
        let weights = self
            .config
            .weights
            .as_deref()
            .and_then(|path| path.file_name());
        Ok(ModelInfo {
            frozen: Some(FrozenInfo {
                head: head.clone().take_apart().description,
                weights: weights.unwrap_or_default().to_string_lossy().into_owned(),
                weights_sha256: receipt.weights.clone().unwrap_or_default(),
            }),
            ..self.model_info(Head::Stage1, head.prior()?, val)
        })
    }
}

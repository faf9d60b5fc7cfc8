//! What a training run does: one typed, serialisable configuration.

pub mod diff;
pub mod frozen;
pub mod optimizer;
pub mod schedule;
pub mod source;
pub mod stage;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shike_data::mix::Mixing;
use shike_data::{BadImages, DataError, LoaderConfig, Normalization, Pipeline, Sampling};
use shike_model::loss::LossError;
use shike_model::{ConfigError, DktLossConfig, LossConfig, Part, ShikeConfig};

pub use self::frozen::FrozenConfig;
pub use self::optimizer::{AdamWConfig, OptimizerConfig, SgdConfig};
pub use self::schedule::Schedule;
use self::schedule::ScheduleError;
pub use self::source::{DataSource, TrainData};
pub use self::stage::{NamedMethod, Stage2};
use shike_data::shots::Overlap;
use shike_infer::Origin;
use shike_infer::device::batch::{Precision, Upload};
use shike_infer::metrics::ShotThresholds;

/// When the test set is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreTest {
    /// After the last epoch of the run alone: nothing can be chosen on it.
    End,
    /// Every [`evaluate_every`](TrainConfig::evaluate_every) epochs, as the reference does, for a curve.
    Every,
}

fn yes() -> bool {
    true
}

/// Larger values are typos, and products of two must not overflow.
const LARGEST: usize = 1_000_000_000;
const RANGE: &str = "1 to 1000000000";

/// One stage of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Learning rate of each epoch.
    pub schedule: Schedule,
    /// How images are drawn.
    pub sampling: Sampling,
    /// What is minimised.
    pub loss: LossConfig,
    /// How batches are mixed. The loss of a mixed batch is that of its labels and that of its
    /// partners' labels, in the proportion of the mix, as BalPoE has it (arXiv 2206.05260); for
    /// cross-entropy without class weights this is the loss of the soft labels.
    #[serde(default)]
    pub mixing: Mixing,
}

impl StageConfig {
    /// Makes the stage last `epochs`, and its schedule with it: milestones move in proportion, a warm-up
    /// takes at most half of the stage.
    pub fn set_epochs(&mut self, epochs: usize) {
        let before = self.epochs;
        if epochs == before {
            return;
        }
        self.epochs = epochs;
        let moved = |epoch: usize| {
            let share = epoch as f64 / before.max(1) as f64;
            (share * epochs as f64).round() as usize
        };
        match &mut self.schedule {
            Schedule::Constant { .. } => {}
            Schedule::WarmupCosine {
                base_lr,
                warmup_lr,
                warmup_epochs: warmup,
                total_epochs,
                ..
            } => {
                *total_epochs = moved(*total_epochs).max(epochs.min(1));
                *warmup = warmup_epochs(epochs, *base_lr, *warmup_lr).min(*warmup);
            }
            Schedule::Step {
                base_lr,
                warmup_lr,
                warmup_epochs: warmup,
                milestones,
                ..
            } => {
                milestones
                    .iter_mut()
                    .for_each(|epoch| *epoch = moved(*epoch));
                // What happens in one epoch happens once, and after the last not at all.
                milestones.dedup();
                milestones.retain(|epoch| *epoch < epochs.max(1));
                let room = milestones.first().copied().unwrap_or(epochs);
                let most = warmup_epochs(epochs, *base_lr, *warmup_lr).min(room);
                *warmup = most.min(*warmup);
            }
        }
    }
}

/// A training run, resolved: everything that its result depends on but the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The network.
    pub model: ShikeConfig,
    /// PyTorch weights that the network starts from
    /// ([`import_pretrained`](shike_model::weights::import_pretrained)); none for random ones.
    #[serde(default)]
    pub weights: Option<PathBuf>,
    /// Where they come from, and under which licence; it stands in the model file as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_origin: Option<Origin>,
    /// A head on the frozen trunk that the weights are of, in place of both stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenConfig>,
    /// Learning rates of parts, as a factor on the schedule's; parts that are not named have 1.
    #[serde(default)]
    pub lr_factors: BTreeMap<Part, f64>,
    /// Parts that are not trained at all; their batch normalisation keeps its statistics.
    #[serde(default)]
    pub freeze: Vec<Part>,
    /// Decay of an exponential moving average of the weights, which is scored and kept beside
    /// them; see [`Ema`](crate::Ema).
    #[serde(default)]
    pub ema_decay: Option<f64>,
    /// Whether stage 2 works on the averaged features, where there are averaged weights.
    #[serde(default = "yes")]
    pub ema_features: bool,
    /// Type of float of convolutions and activations in training; scoring is in float32.
    #[serde(default)]
    pub precision: Precision,
    /// Features and stage-1 classifiers.
    pub stage1: StageConfig,
    /// Classifiers alone, on frozen features; none for a network without stage-2 heads.
    pub stage2: Option<Stage2>,
    /// Whether stage 2 leaves the running statistics of batch normalisation alone. The reference
    /// uses and tracks batch statistics there.
    pub freeze_batch_norm: bool,
    /// How gradients change weights.
    pub optimizer: OptimizerConfig,
    /// Bound on the common norm of all gradients.
    pub clip_norm: Option<f64>,
    /// Batches whose gradients are averaged for one step.
    pub accumulation: usize,
    /// Batches: size, threads, prefetch.
    pub loader: LoaderConfig,
    /// What is done about training images that cannot be read.
    #[serde(default)]
    pub bad_images: BadImages,
    /// Augmentation of training images.
    pub train_pipeline: Pipeline,
    /// Preparation of images that are scored.
    pub eval_pipeline: Pipeline,
    /// From 0–255 to the network's input.
    pub normalization: Normalization,
    /// In what form images go to the device.
    #[serde(default)]
    pub upload: Upload,
    /// Bounds of many-, medium- and few-shot classes.
    pub thresholds: ShotThresholds,
    /// Seed of weights, order and augmentation.
    pub seed: u64,
    /// Epochs between two scorings; the last epoch of a stage is always scored.
    pub evaluate_every: usize,
    /// Epochs without a better one on the validation set after which a stage ends; none for all epochs. A better one has a lower
    /// class-averaged cross-entropy, as the best epoch has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// When the test set is scored. None: at the end of the run where there is a validation set, and else
    /// whenever the validation set would be.
    #[serde(default)]
    pub score_test: Option<ScoreTest>,
    /// Seconds between two checkpoints inside an epoch; 0 writes one after every step. Each epoch
    /// ends with one in any case.
    pub checkpoint_seconds: f64,
    /// How many checkpoints are kept beside the one at the end of stage 1.
    pub keep_checkpoints: usize,
}

/// A field of a [`TrainConfig`] that no run can have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainConfigError {
    /// A network that cannot be built.
    #[error("model: {0}")]
    Model(#[from] ConfigError),
    /// A schedule out of range.
    #[error("{stage}: {source}")]
    Schedule {
        /// `stage1` or `stage2`.
        stage: &'static str,
        /// What is wrong.
        source: ScheduleError,
    },
    /// A loss out of range, or not for this network.
    #[error("{stage}.loss: {source}")]
    Loss {
        /// `stage1` or `stage2`.
        stage: &'static str,
        /// What is wrong.
        source: LossError,
    },
    /// Class weights of a head that are out of range, or of no class.
    #[error("frozen.class_weights: {0}")]
    HeadWeights(LossError),
    /// Mixing out of range.
    #[error("{stage}.mixing: {source}")]
    Mixing {
        /// `stage1` or `stage2`.
        stage: &'static str,
        /// What is wrong.
        source: DataError,
    },
    /// Something about images that no loader can do.
    #[error("{field}: {source}")]
    Images {
        /// `train_pipeline`, `eval_pipeline`, `normalization` or `bad_images`.
        field: &'static str,
        /// What is wrong.
        source: DataError,
    },
    /// Bounds of shot groups that overlap.
    #[error("thresholds: {0}")]
    Thresholds(#[from] Overlap),
    /// Any other field.
    #[error("{field} = {found}: it must be {expected}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it held.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl TrainConfigError {
    /// Refuses a field that is not `ok`.
    fn check(
        field: &'static str,
        ok: bool,
        found: &dyn std::fmt::Display,
        expected: &'static str,
    ) -> Result<(), Self> {
        match ok {
            true => Ok(()),
            false => Err(Self::Field {
                field,
                found: found.to_string(),
                expected,
            }),
        }
    }

    /// The field, as `stage1.loss.gamma`.
    pub fn path(&self) -> String {
        match self {
            Self::Model(ConfigError::Field { field, .. }) => format!("model.{field}"),
            Self::Model(_) => "model".into(),
            Self::Schedule { stage, source } => format!("{stage}.schedule.{}", source.field),
            Self::Loss { stage, source } => match source {
                LossError::Field { field, .. } => format!("{stage}.loss.{field}"),
                _ => format!("{stage}.loss"),
            },
            Self::Images { field, source } => match source {
                // `transforms[1] (cutout).size`
                DataError::Field { field: inner, .. } => {
                    let inner = inner.replace(['[', ']'], ".").replace("..", ".");
                    let parts = inner.split('.').filter(|part| !part.starts_with(" ("));
                    let parts: Vec<&str> = parts.collect();
                    format!("{field}.{}", parts.join("."))
                }
                _ => (*field).into(),
            },
            Self::Mixing { stage, source } => match source {
                DataError::Field { field, .. } => format!("{stage}.mixing.{field}"),
                _ => format!("{stage}.mixing"),
            },
            Self::HeadWeights(_) => "frozen.class_weights".into(),
            Self::Thresholds(_) => "thresholds".into(),
            Self::Field { field, .. } => (*field).into(),
        }
    }
}

/// The reference's 5 epochs of warm-up, or as many as half of a short run; 1 where the reference's
/// line, which begins below the base rate, would begin at or below 0.
pub(crate) fn warmup_epochs(epochs: usize, base_lr: f64, peak_lr: f64) -> usize {
    let warmup = 5.min(epochs / 2);
    let slope = (peak_lr - base_lr) / (warmup.max(2) - 1) as f64;
    match warmup > 1 && base_lr - slope < 1e-3 * peak_lr {
        true => 1,
        false => warmup,
    }
}

impl TrainConfig {
    /// The reference's CIFAR experiment for this network: batch 128, SGD with momentum 0.9 and
    /// weight decay 5e-4, warm-up of 5 epochs to 0.15 and a cosine over `epochs[0]` with dynamic
    /// knowledge transfer (cross-entropy for a plain network), then, for a network with stage-2 heads,
    /// a warm-up to 0.1 and a cosine over `epochs[1]` with the balanced softmax; the reference's
    /// augmentation and normalisation. The published run is `[180, 20]`.
    pub fn cifar(model: ShikeConfig, epochs: [usize; 2]) -> Self {
        let stage = |epochs: usize, peak: f64, loss| StageConfig {
            epochs,
            schedule: Schedule::WarmupCosine {
                base_lr: 0.05,
                warmup_lr: peak,
                warmup_epochs: warmup_epochs(epochs, 0.05, peak),
                total_epochs: epochs,
                eta_min: 0.0,
            },
            sampling: Sampling::Instance,
            loss,
            mixing: Mixing::default(),
        };
        let loss = match model.is_plain() {
            true => LossConfig::cross_entropy(),
            false => LossConfig::Dkt(DktLossConfig::default()),
        };
        let stage2 = (model.stage2_heads && epochs[1] > 0)
            .then(|| Stage2::Retrain(stage(epochs[1], 0.1, LossConfig::balanced_softmax())));
        Self {
            model,
            weights: None,
            weights_origin: None,
            frozen: None,
            lr_factors: BTreeMap::new(),
            freeze: vec![],
            ema_decay: None,
            ema_features: true,
            precision: Precision::F32,
            stage1: stage(epochs[0], 0.15, loss),
            stage2,
            freeze_batch_norm: false,
            optimizer: OptimizerConfig::Sgd(SgdConfig::default()),
            clip_norm: None,
            accumulation: 1,
            loader: LoaderConfig::default(),
            bad_images: BadImages::Fail,
            train_pipeline: Pipeline::cifar_train(),
            eval_pipeline: Pipeline::cifar_eval(),
            normalization: Normalization::CIFAR10,
            upload: Upload::U8,
            thresholds: ShotThresholds::default(),
            seed: 0,
            evaluate_every: 1,
            patience: None,
            score_test: None,
            checkpoint_seconds: 300.0,
            keep_checkpoints: 2,
        }
    }

    /// An experiment on pictures at 224 pixels for ImageNet-scale networks. SHIKE's own settings
    /// were not released; these are those of SADE on ImageNet-LT (arXiv 2107.09249, 180 epochs with
    /// batch 64, a rate of 0.025, a cosine, Nesterov's momentum and weight decay 5e-4), with the
    /// reference's warm-up and its stages: `[180, 20]` is what the paper names.
    pub fn imagenet(model: ShikeConfig, epochs: [usize; 2]) -> Self {
        let mut config = Self::cifar(model, epochs);
        let stage2 = config.stage2.as_mut().and_then(Stage2::training_mut);
        let stages = [Some(&mut config.stage1), stage2];
        for stage in stages.into_iter().flatten() {
            if let Schedule::WarmupCosine {
                base_lr,
                warmup_lr,
                warmup_epochs: warmup,
                ..
            } = &mut stage.schedule
            {
                *warmup_lr = 0.025;
                // The reference's ratio.
                *base_lr = *warmup_lr / 3.0;
                *warmup = warmup_epochs(stage.epochs, *base_lr, *warmup_lr);
            }
        }
        config.optimizer = OptimizerConfig::Sgd(SgdConfig {
            nesterov: true,
            ..SgdConfig::default()
        });
        config.loader.batch_size = 64;
        config.train_pipeline = Pipeline::photo_train(224);
        config.eval_pipeline = Pipeline::photo_eval(224);
        config.normalization = Normalization::IMAGENET;
        config
    }

    /// [`imagenet`](Self::imagenet) for a network whose stem shrinks pictures to a quarter, otherwise
    /// [`cifar`](Self::cifar), whose pipelines take nothing but images of 32×32 pixels: for others set
    /// those of photographs, as a [recipe](crate::Recipe::for_source) does.
    pub fn for_model(model: ShikeConfig, epochs: [usize; 2]) -> Self {
        match model.backbone.is_for_photographs() {
            true => Self::imagenet(model, epochs),
            false => Self::cifar(model, epochs),
        }
    }

    /// The same with class weights that are numbers, for classes of these names and training counts.
    ///
    /// # Errors
    /// If a weight is of a class that is none of them.
    pub fn for_classes(
        &self,
        names: &[String],
        counts: &[usize],
    ) -> Result<Self, TrainConfigError> {
        let mut config = self.clone();
        let stage2 = config.stage2.as_mut().and_then(Stage2::training_mut);
        let stages = [("stage1", Some(&mut config.stage1)), ("stage2", stage2)];
        for (stage, of) in stages {
            let weights = of.and_then(|of| of.loss.weights_mut());
            if let Some((Some(weights), _)) = weights {
                let found = weights.for_classes(names, counts);
                *weights = found.map_err(|source| TrainConfigError::Loss { stage, source })?;
            }
        }
        Ok(config)
    }

    /// The same with the epochs and the patience of another configuration; schedules follow.
    #[must_use]
    pub fn with_length_of(&self, other: &Self) -> Self {
        let mut config = self.clone();
        config.patience = other.patience;
        config.stage1.set_epochs(other.stage1.epochs);
        let stage2 = config.stage2.as_mut().and_then(Stage2::training_mut);
        if let (Some(stage2), Some(other)) = (stage2, other.stage(2)) {
            stage2.set_epochs(other.epochs);
        }
        config
    }

    /// The epochs of a stage, from 1, if it trains.
    pub fn stage(&self, stage: usize) -> Option<&StageConfig> {
        match stage {
            1 => Some(&self.stage1),
            2 => self.stage2.as_ref().and_then(Stage2::training),
            _ => None,
        }
    }

    /// The class frequencies that the logits of a stage stand for after `epoch` (from 0), `[classes]`, which
    /// sum to 1: those that images are drawn with, times class weights, divided by the power of the
    /// training frequencies that the loss adds ([`LossConfig::log_prior_factors`]). Equal ones after
    /// τ-normalisation.
    ///
    /// # Errors
    /// If the loss cannot be had for these training counts.
    pub fn logit_prior(
        &self,
        stage: usize,
        epoch: usize,
        train_counts: &[usize],
    ) -> Result<Vec<f64>, LossError> {
        let Some(config) = self.stage(stage) else {
            return Ok(vec![1.0 / train_counts.len() as f64; train_counts.len()]);
        };
        let (epoch, epochs) = (epoch as u64, config.epochs as u64);
        let drawn = config.sampling.shares(train_counts, epoch, epochs);
        let factors = config
            .loss
            .log_prior_factors(train_counts, epoch as usize)?;
        let logs: Vec<f64> = drawn
            .iter()
            .zip(factors)
            .map(|(share, factor)| share.ln() + factor)
            .collect();
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        Ok(weights.into_iter().map(|weight| weight / total).collect())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that no run can have.
    pub fn validate(&self) -> Result<(), TrainConfigError> {
        self.model.validate()?;
        let classifier = &self.model.classifier;
        for (stage, number) in [("stage1", 1), ("stage2", 2)] {
            if let Some(config) = self.stage(number) {
                // Of a stage without epochs, that is what is wrong.
                let epochs = config.epochs.max(1);
                let schedule = config.schedule.validate_for(epochs);
                schedule.map_err(|source| TrainConfigError::Schedule { stage, source })?;
                let loss = config.loss.validate(epochs, classifier);
                loss.map_err(|source| TrainConfigError::Loss { stage, source })?;
                let mixing = config.mixing.validate();
                mixing.map_err(|source| TrainConfigError::Mixing { stage, source })?;
            }
        }
        let check = TrainConfigError::check;
        if let Some(frozen) = &self.frozen {
            frozen.validate(self)?;
        }
        let parts = self.model.parts();
        let part = |field, part: &Part, trained: bool| {
            let expected = "a part of this network; classifiers cannot be frozen";
            check(field, parts.contains(part) && trained, part, expected)
        };
        for frozen in &self.freeze {
            part("freeze", frozen, *frozen != Part::Heads)?;
        }
        for (named, factor) in &self.lr_factors {
            part("lr_factors", named, true)?;
            let positive = factor.is_finite() && *factor > 0.0;
            let expected = "above 0 (name a part in `freeze` to leave it as it is)";
            check("lr_factors", positive, factor, expected)?;
            let expected = "of parts that are trained, and not in `freeze` as well";
            check("lr_factors", !self.freeze.contains(named), named, expected)?;
        }
        let ema = self.ema_decay.unwrap_or(0.5);
        check("ema_decay", 0.0 < ema && ema < 1.0, &ema, "between 0 and 1")?;
        let averaged = self.ema_decay.is_some() && self.stage2.is_some();
        check(
            "ema_features",
            self.ema_features || averaged,
            &self.ema_features,
            "true, or left out, without averaged weights (ema_decay) or a stage 2",
        )?;
        let clip = self.clip_norm.unwrap_or(1.0);
        let seconds = self.checkpoint_seconds;
        let sane = |field, n: usize| check(field, (1..=LARGEST).contains(&n), &n, RANGE);
        let some = |field, n: usize| check(field, n > 0, &n, "at least 1");
        self.optimizer.validate()?;
        let positive = clip.is_finite() && clip > 0.0;
        check("clip_norm", positive, &clip, "above 0")?;
        sane("accumulation", self.accumulation)?;
        some("evaluate_every", self.evaluate_every)?;
        some("patience", self.patience.unwrap_or(1))?;
        some("keep_checkpoints", self.keep_checkpoints)?;
        let not_less = seconds.is_finite() && seconds >= 0.0;
        check("checkpoint_seconds", not_less, &seconds, "0 or more")?;
        sane("loader.batch_size", self.loader.batch_size)?;
        let images = |field, result: Result<(), DataError>| {
            result.map_err(|source| TrainConfigError::Images { field, source })
        };
        images("train_pipeline", self.train_pipeline.validate())?;
        images("eval_pipeline", self.eval_pipeline.validate())?;
        images("bad_images", self.bad_images.validate())?;
        images("normalization", self.normalization.validate())?;
        self.thresholds.validate()?;
        sane("stage1.epochs", self.stage1.epochs)?;
        if let Some(stage2) = self.stage(2) {
            sane("stage2.epochs", stage2.epochs)?;
        }
        check(
            "freeze_batch_norm",
            !self.freeze_batch_norm || self.stage(2).is_some(),
            &true,
            "false where no stage 2 trains, which it is for",
        )?;
        let Some(stage2) = &self.stage2 else {
            return Ok(());
        };
        check(
            "stage2",
            self.model.stage2_heads,
            &"present",
            "left out, because the network has no stage-2 heads (model.stage2_heads)",
        )?;
        stage2.validate(&self.model.classifier)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use shike_model::loss::LogitAdjustmentLossConfig;

    #[test]
    fn logits_stand_for_drawn_frequencies_times_weights_over_the_prior_of_the_loss() {
        let counts = [400usize, 100, 25];
        let n = counts.map(|n| n as f64);
        let loss = |text: &str| serde_json::from_str::<LossConfig>(text).unwrap();
        let effective = |n: f64| 0.001 / (1.0 - 0.999f64.powf(n));
        let dkt = loss(r#"{"kind":"dkt"}"#);
        let balanced = loss(r#"{"kind":"balanced_softmax"}"#);
        let adjusted = |tau: f64| {
            LossConfig::LogitAdjustment(LogitAdjustmentLossConfig::default().with_tau(tau))
        };
        let weighted =
            loss(r#"{"kind":"cross_entropy","weights":{"kind":"effective_number","beta":0.999}}"#);
        let inverse = loss(r#"{"kind":"focal","weights":{"kind":"inverse_frequency"}}"#);
        let given = loss(r#"{"kind":"cross_entropy","weights":{"kind":"given","values":[1,2,4]}}"#);
        let deferred = loss(
            r#"{"kind":"ldam","weights_from_epoch":8,
                "weights":{"kind":"effective_number","beta":0.999}}"#,
        );
        use Sampling::{ClassBalanced, Instance, ProgressivelyBalanced, SquareRoot};
        let mixed = n.map(|n| 0.1 * n / 525.0 + 0.9 / 3.0);
        let half =
            loss(r#"{"kind":"cross_entropy","weights":{"kind":"inverse_frequency","power":0.5}}"#);
        let costs =
            loss(r#"{"kind":"balanced_softmax","weights":{"kind":"given","values":[1,2,4]}}"#);
        let cases: [(Sampling, &LossConfig, usize, [f64; 3]); 20] = [
            (Instance, &dkt, 9, n),
            (SquareRoot, &dkt, 9, n.map(f64::sqrt)),
            (ClassBalanced, &dkt, 9, [1.0; 3]),
            (ProgressivelyBalanced, &dkt, 0, n),
            // Of 10 epochs, the last is 0.9 of the way.
            (ProgressivelyBalanced, &dkt, 9, mixed),
            (Instance, &balanced, 9, [1.0; 3]),
            (SquareRoot, &balanced, 9, n.map(|n| n.powf(-0.5))),
            (ClassBalanced, &balanced, 9, n.map(|n| 1.0 / n)),
            (Instance, &adjusted(1.0), 9, [1.0; 3]),
            (Instance, &adjusted(0.5), 9, n.map(f64::sqrt)),
            (Instance, &adjusted(2.0), 9, n.map(|n| 1.0 / n)),
            (SquareRoot, &adjusted(0.5), 9, [1.0; 3]),
            (Instance, &weighted, 9, n.map(|n| n * effective(n))),
            (ClassBalanced, &weighted, 9, n.map(effective)),
            (Instance, &inverse, 9, [1.0; 3]),
            (Instance, &given, 9, [n[0], 2.0 * n[1], 4.0 * n[2]]),
            (Instance, &half, 9, n.map(f64::sqrt)),
            (Instance, &costs, 9, [1.0, 2.0, 4.0]),
            (Instance, &deferred, 7, n),
            (Instance, &deferred, 8, n.map(|n| n * effective(n))),
        ];
        let mut config = TrainConfig::cifar(ShikeConfig::cifar(8, 3).unwrap(), [10, 10]);
        let stage = |config: &TrainConfig| config.stage(2).unwrap().clone();
        let check = |config: &TrainConfig, stage, epoch, expected: [f64; 3]| {
            let found = config.logit_prior(stage, epoch, &counts).unwrap();
            let total: f64 = expected.iter().sum();
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected / total).abs() < 1e-12,
                    "{found} {expected}: {config:?}"
                );
            }
        };
        for (sampling, loss, epoch, expected) in cases {
            let stage = StageConfig {
                sampling,
                loss: loss.clone(),
                ..stage(&config)
            };
            // Either stage; re-trained classifiers and scaled ones.
            for stage2 in [Stage2::Retrain, Stage2::Lws] {
                config.stage1 = stage.clone();
                config.stage2 = Some(stage2(stage.clone()));
                check(&config, 1, epoch, expected);
                check(&config, 2, epoch, expected);
            }
        }
        config.stage2 = Some(Stage2::TauNorm { taus: vec![0.7] });
        check(&config, 2, 0, [1.0; 3]);
        // A class without an image is never drawn.
        config.stage1.loss = dkt;
        assert_eq!(config.logit_prior(1, 0, &[3, 0]).unwrap(), [1.0, 0.0]);
        config.stage1.loss = balanced;
        assert!(config.logit_prior(1, 0, &[3, 0]).is_err());
    }

    #[test]
    fn nesterov_is_for_the_rates_of_large_images_and_wants_momentum() {
        let model = || ShikeConfig::cifar(8, 10).unwrap();
        let sgd = |config: TrainConfig| match config.optimizer {
            OptimizerConfig::Sgd(sgd) => sgd,
            other => panic!("{other:?}"),
        };
        assert!(!sgd(TrainConfig::cifar(model(), [1, 1])).nesterov);
        let mut config = TrainConfig::imagenet(model(), [1, 1]);
        assert!(sgd(config.clone()).nesterov);
        config.optimizer = OptimizerConfig::Sgd(SgdConfig {
            nesterov: true,
            momentum: 0.0,
            weight_decay: 0.0,
        });
        let error = config.validate().unwrap_err().to_string();
        assert!(
            error.contains("nesterov = true: it must be false"),
            "{error}"
        );
    }

    #[test]
    fn runs_of_every_length_have_a_schedule() {
        let model = ShikeConfig::cifar(8, 10).unwrap();
        for epochs in 1..=20 {
            for config in [TrainConfig::cifar, TrainConfig::imagenet] {
                let config = config(model.clone(), [epochs, epochs]);
                config.validate().unwrap();
                let rates = (0..epochs).map(|epoch| config.stage1.schedule.lr(epoch));
                assert!(rates.into_iter().all(|lr| lr > 0.0), "{epochs} epochs");
            }
        }
        let published = TrainConfig::cifar(model, [180, 20]);
        let Schedule::WarmupCosine { warmup_epochs, .. } = published.stage1.schedule else {
            panic!("the reference warms up");
        };
        assert_eq!(warmup_epochs, 5);
    }
}

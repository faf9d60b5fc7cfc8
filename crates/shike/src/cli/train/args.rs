//! Options of a training run, and the configuration that they make.

use std::path::PathBuf;

use clap::Args;
use shike_data::{BadImages, Sampling, Transform};
use shike_infer::Precision;
use shike_model::loss::{ClassWeights, KlReduction, NamedLoss};
use shike_model::{ClassifierConfig, LossConfig, Part, ShikeConfig};
use shike_train::config::TrainConfigError;
use shike_train::recipe::{Scaling, images_of_a_step, scale_rates};
use shike_train::run::RunPaths;
use shike_train::{Recipe, RunConfig, Schedule, Stage2, StageConfig, TrainConfig, TrainError};

use super::kinds::{
    Arch, BadImagesKind, Baseline, ClassifierKind, PrecisionKind, SamplingKind, Stage2Kind,
    WeightsKind, losses, name,
};
use super::preset::{Base, ImagePreset, set_crop_scale};
use crate::cli::CliError;
use crate::cli::model::{Which, model_of};
use crate::cli::options::Given;

/// Settings of a training run. What is not given comes from the recipe, or from the preset for
/// the kind of data.
#[derive(Args, Clone, Debug)]
pub struct TrainArgs {
    #[command(flatten)]
    pub(super) given: Given,
    /// Network.
    #[arg(long, value_enum)]
    pub arch: Option<Arch>,
    /// Number of experts.
    #[arg(long, value_name = "K")]
    pub experts: Option<usize>,
    /// Train a baseline instead of SHIKE.
    #[arg(long, value_enum)]
    pub baseline: Option<Baseline>,
    /// Start from PyTorch weights of the same network (torchvision's or timm's ResNet or ResNeXt, or
    /// a model that was trained here): `.pth` or `.safetensors`, or the folder of a run. Every expert
    /// starts with a copy.
    #[arg(long, value_name = "FILE|RUN")]
    pub weights: Option<PathBuf>,
    /// Peak learning rate of the stem and the stages that all experts share, in stage 1; the rest
    /// has that of `--lr`.
    #[arg(long, value_name = "X")]
    pub lr_backbone: Option<f64>,
    /// Factor on the learning rate of a part, as `stage4=0.1`; parts are stem, stage1, stage2, …,
    /// fusion, heads.
    #[arg(long, value_name = "PART=X", value_parser = part_lr)]
    pub part_lr: Vec<(Part, f64)>,
    /// Parts that are not trained, as `stem,stage1`.
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub freeze: Vec<Part>,
    /// Type of float of convolutions and activations; weights, statistics and loss stay float32.
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionKind>,
    /// Keep and score a moving average of the weights with this decay, such as 0.9999.
    #[arg(long, value_name = "DECAY")]
    pub ema: Option<f64>,
    /// Time a few steps, print what the run would need in parameters, memory and hours, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Classifier of the network.
    #[arg(long, value_enum)]
    pub classifier: Option<ClassifierKind>,
    /// Loss of stage 1.
    #[arg(long, value_parser = losses())]
    pub loss: Option<NamedLoss>,
    /// Share of a label that is spread over all classes, for cross-entropy.
    #[arg(long, value_name = "X")]
    pub label_smoothing: Option<f64>,
    /// How fast the focal loss fades for images that are classified well.
    #[arg(long, value_name = "X")]
    pub focal_gamma: Option<f64>,
    /// LDAM's margin of the smallest class.
    #[arg(long, value_name = "X")]
    pub ldam_max_margin: Option<f64>,
    /// Power of the class frequencies in logit adjustment.
    #[arg(long, value_name = "X")]
    pub tau: Option<f64>,
    /// Weights of the classes, for cross-entropy, focal loss and LDAM.
    #[arg(long, value_enum)]
    pub class_weights: Option<WeightsKind>,
    /// β of the effective number.
    #[arg(long, value_name = "X")]
    pub cb_beta: Option<f64>,
    /// Epochs of stage 1 before the class weights begin to hold (deferred re-weighting); with
    /// `--loss ldam-drw` four fifths unless it is given.
    #[arg(long, value_name = "N")]
    pub drw_epoch: Option<usize>,
    /// Keep the strength that the distillation terms have on CIFAR-100 at this number of classes.
    /// As released, they fade with more classes.
    #[arg(long)]
    pub keep_strength: bool,
    /// Epochs of stage 1; of a plain network (`--baseline ce`) all of them, to which `--stage2-epochs` adds.
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Epochs of stage 2; 0 leaves it out.
    #[arg(long, value_name = "N")]
    pub stage2_epochs: Option<usize>,
    /// Peak learning rate of stage 1.
    #[arg(long, value_name = "X")]
    pub lr: Option<f64>,
    /// Peak learning rate of stage 2.
    #[arg(long, value_name = "X")]
    pub stage2_lr: Option<f64>,
    /// Epochs of warm-up in stage 1.
    #[arg(long, value_name = "N")]
    pub warmup_epochs: Option<usize>,
    /// Epochs of warm-up in stage 2.
    #[arg(long, value_name = "N")]
    pub stage2_warmup_epochs: Option<usize>,
    /// Images of a batch.
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Keep a recipe's learning rates at another batch size; they are multiplied by the ratio of the
    /// images of a step otherwise. Rates that are given are never changed.
    #[arg(long)]
    pub no_lr_scaling: bool,
    /// Batches averaged for one step.
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Bound on the norm of all gradients together.
    #[arg(long, value_name = "X")]
    pub clip_norm: Option<f64>,
    /// How stage 1 draws images.
    #[arg(long, value_enum)]
    pub sampling: Option<SamplingKind>,
    /// How stage 2 draws images.
    #[arg(long, value_enum)]
    pub stage2_sampling: Option<SamplingKind>,
    /// What stage 2 does; a plain network (`--baseline ce`) then has one, too.
    #[arg(long, value_enum)]
    pub stage2_method: Option<Stage2Kind>,
    /// Loss of stage 2.
    #[arg(long, value_parser = losses())]
    pub stage2_loss: Option<NamedLoss>,
    /// Power of τ-normalisation; of several, as `0.5,0.7,1`, the validation set chooses one. Where none is
    /// given it chooses among 0, 0.1, … 2; without a validation set it is 0.7.
    #[arg(long, value_name = "X", value_delimiter = ',')]
    pub stage2_tau: Vec<f64>,
    /// Leave batch-normalisation statistics alone in stage 2 (the authors' code moves them).
    #[arg(long)]
    pub freeze_bn: bool,
    /// Side of the square that the network sees, for pictures.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub image_size: Option<u32>,
    /// Smallest share of a picture's area that a random crop keeps.
    #[arg(long, value_name = "X")]
    pub crop_scale: Option<f64>,
    /// Turn pictures as their EXIF data say; they are taken as they are stored otherwise.
    #[arg(long)]
    pub exif: bool,
    /// Do not mirror training images: for text, signs, and whatever has a left and a right.
    #[arg(long)]
    pub no_flip: bool,
    /// What to do about a training image that cannot be read. A validation or test image that cannot
    /// be read is an error in any case.
    #[arg(long, value_enum)]
    pub bad_images: Option<BadImagesKind>,
    /// With `--bad-images skip`: the largest share of the training images that may be bad [default: that
    /// of the recipe, or 0.05 where settings are chosen for the pictures, or 0.01].
    #[arg(long, value_name = "X")]
    pub max_bad_share: Option<f64>,
    /// Decode every image of every set before training starts.
    #[arg(long)]
    pub check_images: bool,
    /// Seed of weights, order and augmentation.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Device: `flex`, `cuda:0`, `vulkan`, … among those compiled in; `auto` takes the first.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads that decode and augment; 0 takes one for each core.
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Epochs between two scorings; the last epoch of a stage is always scored.
    #[arg(long, value_name = "N")]
    pub evaluate_every: Option<usize>,
    /// Seconds between two checkpoints inside an epoch; 0 writes one after every step.
    #[arg(long, value_name = "S")]
    pub checkpoint_seconds: Option<f64>,
    /// Classes with more training images than this are many-shot.
    #[arg(long, value_name = "N")]
    pub many_above: Option<usize>,
    /// Classes with fewer training images than this are few-shot.
    #[arg(long, value_name = "N")]
    pub few_below: Option<usize>,
}

impl TrainArgs {
    /// A recipe with what `--baseline` and `--set` make of it.
    ///
    /// # Errors
    /// If an assignment is wrong, or an option says the same field.
    pub(super) fn change(&self, recipe: &mut Recipe, set: &[String]) -> Result<(), CliError> {
        let plain = self.baseline == Some(Baseline::Ce);
        if plain {
            recipe.make_plain().map_err(TrainError::from)?;
        }
        recipe.set(set).map_err(TrainError::from)?;
        let both = |option: &str, field: &str| match recipe.set_by(field) {
            None => Ok(()),
            Some(assignment) => Err(CliError::Usage(format!(
                "{option} and {assignment} both say what {} is: leave one out",
                field.trim_end_matches('.'),
            ))),
        };
        let of_parts = ["--part-lr", "--lr-backbone"];
        for (option, field) in self.given.fields() {
            if !of_parts.contains(&option) {
                both(option, field)?;
            }
        }
        if self.lr_backbone.is_some() {
            both("--lr-backbone", "lr_factors.stem")?;
        }
        if let Some(kind @ (Stage2Kind::Crt | Stage2Kind::Lws)) = &self.stage2_method {
            let option = format!("--stage2-method {}", name(kind));
            both(&option, "stage2.loss")?;
            both(&option, "stage2.sampling")?;
        }
        for (part, _) in &self.part_lr {
            both(&format!("--part-lr {part}"), &format!("lr_factors.{part}"))?;
        }
        if plain
            && let Some(assignment) = recipe
                .set_by("model.plain")
                .filter(|a| a.ends_with("false"))
        {
            let message = format!("--baseline ce is a plain network, and {assignment} is none");
            return Err(CliError::Usage(message));
        }
        Ok(())
    }

    /// The configuration of a run with these settings, and what became of a recipe's learning rates at
    /// another batch size.
    ///
    /// # Errors
    /// If two settings exclude one another or one is out of range.
    pub fn config(
        &self,
        base: &Base,
        num_classes: usize,
    ) -> Result<(TrainConfig, Option<Scaling>), CliError> {
        let mut config = match base {
            Base::Preset(preset) => {
                let images = preset.images.changed(self.image_size, self.crop_scale)?;
                let mut config = preset.config(self.arch.unwrap_or(preset.arch), num_classes)?;
                images.apply(&mut config);
                if self.baseline == Some(Baseline::Ce) {
                    config.model = ShikeConfig::plain(config.model.backbone, num_classes);
                    config.stage1.loss = LossConfig::cross_entropy();
                }
                config
            }
            Base::Recipe(recipe) => {
                let mut config = recipe.config(num_classes).map_err(TrainError::from)?;
                self.resize(&mut config)?;
                config
            }
        };
        self.for_these_images(base)?;
        self.set_network(&mut config)?;
        self.set_epochs(base, &mut config)?;
        self.set_rates(&mut config)?;
        config.loader.batch_size = self.batch_size.unwrap_or(config.loader.batch_size);
        config.accumulation = self.accumulate.unwrap_or(config.accumulation);
        let scaling = match base {
            Base::Recipe(recipe) if !self.no_lr_scaling => {
                let [first, second] = recipe.sets_rates();
                let keep = [
                    self.lr.is_some() || first,
                    self.stage2_lr.is_some() || second,
                ];
                scale_rates(&mut config, recipe.batch(), keep)
            }
            _ => None,
        };
        if let Some(sampling) = self.sampling {
            config.stage1.sampling = sampling.into();
        }
        if let Some(loss) = self.loss {
            config.stage1.loss = (loss.config)();
        }
        self.set_loss(&mut config.stage1)?;
        match &mut config.stage1.loss {
            LossConfig::Dkt(loss)
                if self.keep_strength && loss.reduction == KlReduction::ElementMean =>
            {
                *loss = loss.clone().with_cifar100_strength(num_classes);
            }
            _ if self.keep_strength => {
                let message = "--keep-strength is for the loss dkt as released, whose terms fade with \
                               more classes: choose it, or leave --keep-strength out";
                return Err(CliError::Usage(message.into()));
            }
            _ => {}
        }
        self.set_stage2(&mut config)?;
        self.set_fine_tuning(&mut config)?;
        if self.exif {
            for pipeline in [&mut config.train_pipeline, &mut config.eval_pipeline] {
                if !pipeline.is_upright() {
                    pipeline.transforms.insert(0, Transform::ExifOrientation);
                }
            }
        }
        if self.no_flip {
            let flip = |t: &Transform| matches!(t, Transform::HorizontalFlip { .. });
            config.train_pipeline.transforms.retain(|t| !flip(t));
        }
        config.clip_norm = self.clip_norm.or(config.clip_norm);
        config.bad_images = match (self.bad_images, self.max_bad_share, config.bad_images) {
            (Some(BadImagesKind::Skip), share, BadImages::Fail) => BadImages::Skip {
                max_share: share.unwrap_or(0.01),
            },
            (Some(BadImagesKind::Skip) | None, share, BadImages::Skip { max_share }) => {
                BadImages::Skip {
                    max_share: share.unwrap_or(max_share),
                }
            }
            (Some(BadImagesKind::Fail), None, _) => BadImages::Fail,
            (None, None, BadImages::Fail) => BadImages::Fail,
            (_, Some(_), _) => {
                let message = "--max-bad-share is for --bad-images skip";
                return Err(CliError::Usage(message.into()));
            }
        };
        if config.stage(2).is_none() {
            Self::drop_stage2(base, &mut config)?;
        }
        config.freeze_batch_norm |= self.freeze_bn;
        config.seed = self.seed.unwrap_or(config.seed);
        config.loader.workers = self.workers.unwrap_or(config.loader.workers);
        config.evaluate_every = self.evaluate_every.unwrap_or(config.evaluate_every);
        config.checkpoint_seconds = self.checkpoint_seconds.unwrap_or(config.checkpoint_seconds);
        let thresholds = &mut config.thresholds;
        thresholds.many_above = self.many_above.unwrap_or(thresholds.many_above);
        thresholds.few_below = self.few_below.unwrap_or(thresholds.few_below);
        config.validate().map_err(TrainError::from)?;
        Ok((config, scaling))
    }

    /// The size of images, and their crops, in the pipelines of a recipe.
    fn resize(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        if let Some(size) = self.image_size {
            for pipeline in [&mut config.train_pipeline, &mut config.eval_pipeline] {
                *pipeline = pipeline.resized(size);
                if pipeline.output_size() != Some(size as usize) {
                    let message = "--image-size is for pipelines that cut squares, and one of this \
                                   recipe's takes images as large as they are";
                    return Err(CliError::Usage(message.into()));
                }
            }
        }
        match self.crop_scale {
            Some(scale) if !set_crop_scale(&mut config.train_pipeline, scale) => {
                let message = "--crop-scale is for random_resized_crop, which this recipe's \
                               train_pipeline does not have";
                Err(CliError::Usage(message.into()))
            }
            _ => Ok(()),
        }
    }

    /// What a recipe says of a stage 2 that options leave out goes with it; what was set is refused.
    fn drop_stage2(base: &Base, config: &mut TrainConfig) -> Result<(), CliError> {
        let fields = [
            "stage2.loss",
            "stage2.sampling",
            "stage2.lr",
            "stage2.schedule",
            "stage2.mixing",
            "freeze_batch_norm",
        ];
        if let Base::Recipe(recipe) = base
            && let Some(assignment) = fields.iter().find_map(|field| recipe.set_by(field))
        {
            return Err(CliError::Usage(format!(
                "{assignment} is for a stage 2 that trains, and options leave none: leave one of them out"
            )));
        }
        config.freeze_batch_norm = false;
        config.ema_features |= config.stage2.is_none();
        Ok(())
    }

    /// Refuses what is for image files, where the images are CIFAR's.
    fn for_these_images(&self, base: &Base) -> Result<(), CliError> {
        let cifar = match base {
            Base::Preset(preset) => preset.images == ImagePreset::Cifar,
            Base::Recipe(recipe) => recipe.is_for_cifar().map_err(TrainError::from)?,
        };
        let of_files = [
            (self.exif, "--exif"),
            (self.bad_images.is_some(), "--bad-images"),
            (self.max_bad_share.is_some(), "--max-bad-share"),
        ];
        match of_files.iter().find(|(given, _)| *given && cifar) {
            None => Ok(()),
            Some((_, option)) => Err(CliError::Usage(format!(
                "{option} is for pictures in files of their own, and has no effect on CIFAR's: leave it out"
            ))),
        }
    }

    /// Backbone, experts and classifiers.
    fn set_network(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        let invalid = |error| CliError::Train(TrainError::from(TrainConfigError::from(error)));
        let plain = self.baseline == Some(Baseline::Ce);
        let old = &config.model;
        let backbone = match self.arch {
            Some(arch) => arch.backbone().map_err(invalid)?,
            None => old.backbone.clone(),
        };
        let usual = ShikeConfig::on(backbone.clone(), old.num_classes);
        let mut model = match (self.baseline, self.arch) {
            (Some(Baseline::Single), _) if old.is_plain() => usual,
            (_, None) => old.clone(),
            // The rule of the usual network at another depth; the rest stays.
            (_, Some(_)) => ShikeConfig {
                backbone,
                shared_stages: usual.shared_stages,
                fused_stages: match old.fused_stages.is_empty() {
                    true => vec![],
                    false => usual.fused_stages,
                },
                ..old.clone()
            },
        };
        match (self.baseline, self.experts) {
            (Some(_), Some(experts)) if experts != 1 => {
                let message = "--baseline has one network: leave --experts out";
                return Err(CliError::Usage(message.into()));
            }
            (Some(Baseline::Single), _) => model.experts = 1,
            (None, Some(experts)) if experts != 1 && model.is_plain() => {
                let message = "--experts is for SHIKE, and this recipe's network is a plain one \
                               (model.plain): leave one of them out";
                return Err(CliError::Usage(message.into()));
            }
            (None, Some(experts)) => model.experts = experts,
            _ => {}
        }
        let margins = self
            .loss
            .is_some_and(|loss| matches!((loss.config)(), LossConfig::Ldam(_)));
        model.classifier = match (self.classifier, plain && margins) {
            (Some(ClassifierKind::Linear), _) => ClassifierConfig::Linear,
            (Some(ClassifierKind::Cosine), _) | (None, true) => ClassifierConfig::cosine(),
            (None, false) => model.classifier,
        };
        if plain {
            model.stage2_heads = self.stage2_method.is_some();
        }
        config.model = model;
        Ok(())
    }

    /// How long both stages last, and what the second does.
    fn set_epochs(&self, base: &Base, config: &mut TrainConfig) -> Result<(), CliError> {
        let mut second = config.stage(2).map(|stage| stage.epochs);
        if let (None, Base::Recipe(recipe), Some(Baseline::Ce)) = (second, base, self.baseline) {
            // A plain network has no stage 2 by itself, but the budget of the recipe.
            let written = recipe.written(config.model.num_classes);
            let written = written.map_err(TrainError::from)?;
            second = written.stage(2).map(|stage| stage.epochs);
        }
        let mut epochs = [
            self.epochs.unwrap_or(config.stage1.epochs),
            self.stage2_epochs.or(second).unwrap_or(0),
        ];
        let tau_norm = self.stage2_method == Some(Stage2Kind::TauNorm);
        let alone = self.baseline == Some(Baseline::Ce) && (!config.model.stage2_heads || tau_norm);
        if alone {
            // The same budget of epochs as the two stages of the others, unless it is given.
            let given = self.epochs.is_some()
                || matches!(base, Base::Recipe(recipe) if recipe.set_by("stage1.epochs").is_some());
            let added = match given {
                true => self.stage2_epochs.unwrap_or(0),
                false => epochs[1],
            };
            epochs = [epochs[0] + added, 0];
        }
        config.stage1.set_epochs(epochs[0]);
        if config.stage2.is_none() {
            config.stage2 = TrainConfig::for_model(config.model.clone(), epochs).stage2;
        }
        self.set_method(epochs, config);
        let (none, heads) = (self.stage2_epochs == Some(0), config.model.stage2_heads);
        match config.stage2.as_mut().map(Stage2::training_mut) {
            Some(Some(_)) if epochs[1] == 0 => config.stage2 = None,
            Some(Some(stage)) => stage.set_epochs(epochs[1]),
            Some(None) if !heads || (none && !tau_norm) => config.stage2 = None,
            Some(None) if self.stage2_epochs.is_some() && !alone => {
                let message = "--stage2-epochs is for a stage 2 that trains, and tau-norm does not: \
                               leave it out, or choose another --stage2-method";
                return Err(CliError::Usage(message.into()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Another method of stage 2 than that of the recipe, with its loss and its sampling.
    fn set_method(&self, [first, second]: [usize; 2], config: &mut TrainConfig) {
        let Some(method) = self.stage2_method else {
            if let (Some(Stage2::TauNorm { taus }), false) =
                (&mut config.stage2, self.stage2_tau.is_empty())
            {
                taus.clone_from(&self.stage2_tau);
            }
            return;
        };
        if method == Stage2Kind::TauNorm {
            let taus = match (&config.stage2, self.stage2_tau.as_slice()) {
                (Some(Stage2::TauNorm { taus }), []) => taus.clone(),
                (_, given) => given.to_vec(),
            };
            config.stage2 = Some(Stage2::TauNorm { taus });
            return;
        }
        let usual = || {
            let model = config.model.clone().with_stage2_heads(true);
            let config = TrainConfig::for_model(model, [first, second.max(1)]);
            config.stage2.as_ref().and_then(Stage2::training).cloned()
        };
        let stage = config.stage(2).cloned().or_else(usual);
        let Some(mut stage) = stage.filter(|_| config.stage2.is_some()) else {
            return;
        };
        let was_retrain = matches!(config.stage2, Some(Stage2::Retrain(_)));
        match method {
            Stage2Kind::Crt | Stage2Kind::Lws => {
                stage.loss = LossConfig::cross_entropy();
                stage.sampling = Sampling::ClassBalanced;
            }
            Stage2Kind::Retrain if !was_retrain => {
                stage.loss = LossConfig::balanced_softmax();
                stage.sampling = Sampling::Instance;
            }
            Stage2Kind::Retrain | Stage2Kind::TauNorm => {}
        }
        config.stage2 = Some(match method {
            Stage2Kind::Lws => Stage2::Lws(stage),
            _ => Stage2::Retrain(stage),
        });
    }

    /// Learning rates, and how they are reached.
    fn set_rates(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        let stage2 = config.stage2.as_mut().and_then(Stage2::training_mut);
        let stages = [
            (
                Some(&mut config.stage1),
                self.lr,
                self.warmup_epochs,
                "--warmup-epochs",
            ),
            (
                stage2,
                self.stage2_lr,
                self.stage2_warmup_epochs,
                "--stage2-warmup-epochs",
            ),
        ];
        for (stage, lr, warmup, option) in stages {
            let Some(stage) = stage else { continue };
            if let Some(lr) = lr {
                stage.schedule.set_peak(lr);
            }
            match (warmup, &mut stage.schedule) {
                (
                    Some(epochs),
                    Schedule::WarmupCosine { warmup_epochs, .. }
                    | Schedule::Step { warmup_epochs, .. },
                ) => *warmup_epochs = epochs,
                (Some(_), Schedule::Constant { .. }) => {
                    return Err(CliError::Usage(format!(
                        "{option} has no effect on this recipe's schedule, the kind constant: leave it out"
                    )));
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    /// Parameters of the loss of stage 1.
    fn set_loss(&self, stage1: &mut StageConfig) -> Result<(), CliError> {
        let no_effect = |flag: &str, losses: &str| {
            Err(CliError::Usage(format!(
                "{flag} is for {losses}: choose one with --loss, or leave {flag} out"
            )))
        };
        match (self.label_smoothing, &mut stage1.loss) {
            (Some(x), LossConfig::CrossEntropy(loss)) => loss.label_smoothing = x,
            (Some(_), _) => return no_effect("--label-smoothing", "cross-entropy"),
            _ => {}
        }
        match (self.focal_gamma, &mut stage1.loss) {
            (Some(x), LossConfig::Focal(loss)) => loss.gamma = x,
            (Some(_), _) => return no_effect("--focal-gamma", "the focal loss"),
            _ => {}
        }
        match (self.ldam_max_margin, &mut stage1.loss) {
            (Some(x), LossConfig::Ldam(loss)) => loss.max_margin = x,
            (Some(_), _) => return no_effect("--ldam-max-margin", "LDAM"),
            _ => {}
        }
        match (self.tau, &mut stage1.loss) {
            (Some(x), LossConfig::LogitAdjustment(loss)) => loss.tau = x,
            (Some(_), _) => return no_effect("--tau", "logit adjustment"),
            _ => {}
        }
        let weighted = "cross-entropy, focal loss or LDAM";
        let epochs = stage1.epochs;
        let Some((weights, from_epoch)) = stage1.loss.weights_mut() else {
            return match (self.class_weights, self.cb_beta, self.drw_epoch) {
                (Some(_), ..) => no_effect("--class-weights", weighted),
                (_, Some(_), _) => no_effect("--cb-beta", weighted),
                (.., Some(_)) => no_effect("--drw-epoch", weighted),
                _ => Ok(()),
            };
        };
        match self.class_weights {
            Some(WeightsKind::Inverse) => *weights = Some(ClassWeights::InverseFrequency {}),
            Some(WeightsKind::EffectiveNumber) => *weights = Some(ClassWeights::effective_number()),
            None => {}
        }
        match (self.cb_beta, &mut *weights) {
            (Some(x), Some(ClassWeights::EffectiveNumber { beta })) => *beta = x,
            (Some(_), _) => {
                let message = "--cb-beta needs --class-weights effective-number";
                return Err(CliError::Usage(message.into()));
            }
            _ => {}
        }
        match (self.drw_epoch, self.loss) {
            (Some(_), _) if weights.is_none() => {
                let message = "--drw-epoch needs --class-weights";
                return Err(CliError::Usage(message.into()));
            }
            (Some(epoch), _) => *from_epoch = epoch,
            // 160 of the paper's 200.
            (None, Some(loss)) if loss.name == "ldam-drw" => *from_epoch = epochs * 4 / 5,
            _ => {}
        }
        Ok(())
    }

    /// Loss and sampling of stage 2; what is for one is refused where there is none, or it trains nothing.
    fn set_stage2(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        let idle = |options: &[(bool, &str)], why: &str| match options.iter().find(|(is, _)| *is) {
            None => Ok(()),
            Some((_, option)) => Err(CliError::Usage(format!("{option} {why}"))),
        };
        let tau = [(!self.stage2_tau.is_empty(), "--stage2-tau")];
        let trained = [
            (self.stage2_loss.is_some(), "--stage2-loss"),
            (self.stage2_sampling.is_some(), "--stage2-sampling"),
            (self.stage2_lr.is_some(), "--stage2-lr"),
            (
                self.stage2_warmup_epochs.is_some(),
                "--stage2-warmup-epochs",
            ),
            (self.freeze_bn, "--freeze-bn"),
        ];
        if !matches!(config.stage2, Some(Stage2::TauNorm { .. })) {
            idle(&tau, "needs --stage2-method tau-norm")?;
        }
        let Some(stage2) = &mut config.stage2 else {
            let why = "needs a stage 2: give --stage2-epochs above 0, and a plain network a \
                       --stage2-method";
            idle(&[(self.stage2_method.is_some(), "--stage2-method")], why)?;
            return idle(&trained, why);
        };
        let Some(stage) = stage2.training_mut() else {
            return idle(
                &trained,
                "is for a stage 2 that trains, and tau-norm does not: leave it out",
            );
        };
        if let Some(loss) = self.stage2_loss {
            stage.loss = (loss.config)();
        }
        stage.sampling = self.stage2_sampling.map_or(stage.sampling, Sampling::from);
        Ok(())
    }

    /// Initial weights, and how far parts follow them.
    fn set_fine_tuning(&self, config: &mut TrainConfig) -> Result<(), CliError> {
        config.weights = self.weights_file()?.or(config.weights.take());
        if !self.freeze.is_empty() {
            config.freeze = self.freeze.clone();
        }
        config.ema_decay = self.ema.or(config.ema_decay);
        config.precision = self.precision.map_or(config.precision, Precision::from);
        if let Some(backbone) = self.lr_backbone {
            if !(backbone.is_finite() && backbone > 0.0) {
                return Err(CliError::Usage(format!(
                    "--lr-backbone is {backbone}: it must be above 0 (--freeze leaves parts as they are)"
                )));
            }
            let peak = config.stage1.schedule.peak();
            let own = |part: &Part| {
                self.freeze.contains(part) || self.part_lr.iter().any(|(other, _)| other == part)
            };
            let shared = config.model.shared_parts();
            if shared.iter().all(own) {
                let message = "--lr-backbone has no effect: every part that the experts share is in \
                               --freeze or --part-lr";
                return Err(CliError::Usage(message.into()));
            }
            for part in shared {
                config.lr_factors.insert(part, backbone / peak);
            }
        }
        config.lr_factors.extend(self.part_lr.iter().copied());
        if let Some(part) = self
            .freeze
            .iter()
            .find(|p| self.part_lr.iter().any(|(q, _)| q == *p))
        {
            let message = format!("{part} is in both --freeze and --part-lr");
            return Err(CliError::Usage(message));
        }
        for part in &self.freeze {
            config.lr_factors.remove(part);
        }
        Ok(())
    }

    /// The file of the initial weights; of a run, its model.
    fn weights_file(&self) -> Result<Option<PathBuf>, CliError> {
        let file = |path: &PathBuf| match path.is_dir() {
            true => model_of(&RunPaths::new(path), Which::Model),
            false => Ok(path.clone()),
        };
        self.weights.as_ref().map(file).transpose()
    }

    /// The network, as far as it is given: by its name, or by the run whose weights are taken.
    pub(super) fn network(&self) -> Result<Option<String>, CliError> {
        let run = self.weights.as_ref().filter(|path| path.is_dir());
        let (None, Some(run)) = (&self.arch, run) else {
            return Ok(self.arch.as_ref().map(name));
        };
        self.weights_file()?;
        let config: RunConfig = RunPaths::new(run).read_config()?;
        Ok(config.train.model.backbone.name().map(str::to_owned))
    }

    /// Refuses `--no-lr-scaling` where no rate would be scaled.
    pub(super) fn check_scaling(&self, base: &Base, config: &TrainConfig) -> Result<(), CliError> {
        let recipe = match base {
            Base::Recipe(recipe) => recipe.batch(),
            Base::Preset(_) => images_of_a_step(config),
        };
        match images_of_a_step(config) == recipe {
            false => Ok(()),
            true => Err(CliError::Usage(
                "--no-lr-scaling has no effect: a step sees as many images as in the recipe, or there is none"
                    .into(),
            )),
        }
    }

    /// A name for the run's folder.
    pub(super) fn run_name(&self, base: &Base, config: &TrainConfig) -> String {
        let kind = match self.baseline {
            Some(Baseline::Ce) if self.loss.is_some() => "plain",
            Some(Baseline::Ce) => "ce",
            Some(Baseline::Single) => "single",
            None => "shike",
        };
        let (recipe, preset_arch) = match base {
            Base::Preset(preset) => (None, Some(preset.arch)),
            Base::Recipe(recipe) => (recipe.file().file_stem(), None),
        };
        let recipe = recipe.map(|stem| stem.to_string_lossy().into_owned());
        // A recipe's name stands for its network and method.
        let kind = (recipe.is_none() || self.baseline.is_some()).then(|| kind.to_owned());
        let loss = self.loss.map(|loss| loss.name.to_owned());
        let stage2 = self.stage2_method.as_ref().map(name);
        let arch = self.arch.or(preset_arch).as_ref().map(name);
        let parts = [recipe, kind, loss, stage2, arch];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{}-seed{}", parts.join("-"), config.seed)
    }
}

/// Reads `stage4=0.1`.
fn part_lr(text: &str) -> Result<(Part, f64), String> {
    let (part, factor) = text
        .split_once('=')
        .ok_or("it must be PART=FACTOR, such as stage4=0.1")?;
    let part = part.parse::<Part>().map_err(|error| error.to_string())?;
    let factor = factor
        .parse()
        .map_err(|_| format!("`{factor}` is no number"))?;
    Ok((part, factor))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

//! Options, presets and recipes together.

use clap::Parser;
use shike_data::augment::Interpolation;
use shike_data::{Cifar, LongTail, Normalization, Pipeline, Sampling, Transform};
use shike_infer::metrics::ShotThresholds;
use shike_model::loss::{ClassWeights, LdamLossConfig};
use shike_model::{BackboneConfig, ClassifierConfig, DktLossConfig, LossConfig, Part, ShikeConfig};
use shike_train::config::diff;
use shike_train::recipe::auto::{self, DeviceKind, Facts};
use shike_train::recipe::text as recipe_text;
use shike_train::{DataSource, Recipe, Schedule, Stage2, StageConfig};

use super::super::settings::{describe, settings};
use super::super::{RecipeArgs, cifar};
use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    args: TrainArgs,
}

fn config(recipe: &str, arguments: &str) -> TrainConfig {
    from_recipe(recipe, arguments).0
}

fn peaks(config: &TrainConfig) -> Vec<f64> {
    let stages = [config.stage(1), config.stage(2)];
    let peak = |stage: &StageConfig| match stage.schedule {
        Schedule::WarmupCosine { warmup_lr, .. } => warmup_lr,
        _ => f64::NAN,
    };
    stages.into_iter().flatten().map(peak).collect()
}

/// The recipe of the run on drawn images.
const DRAWN: &str = include_str!("../../../../drawn.toml");
const PICTURES: &str = "image_size = 224\nmodel.arch = \"resnet50\"";

/// What the program ran before its settings were recipes.
fn before(arch: &str, plain: bool, epochs: [usize; 2], batch_size: usize) -> TrainConfig {
    let backbone = BackboneConfig::named(arch).unwrap();
    let mut config = TrainConfig::for_model(ShikeConfig::on(backbone.clone(), 10), epochs);
    if plain {
        config.model = ShikeConfig::plain(backbone, 10);
        config.stage1.loss = LossConfig::cross_entropy();
        config.stage1.set_epochs(epochs[0] + epochs[1]);
        config.stage2 = None;
    }
    config.loader.batch_size = batch_size;
    config
}

#[test]
fn recipes_of_the_program_are_what_it_ran_before_it_had_them() {
    let same = |text: &str, arguments: &str, expected: &TrainConfig| {
        let now = serde_json::to_string(&config(text, arguments)).unwrap();
        assert_eq!(now, serde_json::to_string(expected).unwrap(), "{arguments}");
    };
    for set in ["cifar10", "cifar100"] {
        let text = match set {
            "cifar10" => include_str!("../../../../datasets/cifar10_lt.toml"),
            _ => include_str!("../../../../datasets/cifar100_lt.toml"),
        };
        same(text, "", &before("resnet32", false, [180, 20], 128));
        same(
            text,
            "--baseline ce",
            &before("resnet32", true, [180, 20], 128),
        );
    }
    same(PICTURES, "", &before("resnet50", false, [180, 20], 64));
    for plain in [false, true] {
        let mut drawn = before("resnet8", false, [14, 4], 32);
        drawn.stage1.schedule.set_peak(0.05);
        if let Some(stage2) = drawn.stage2.as_mut().and_then(Stage2::training_mut) {
            stage2.schedule.set_peak(0.05);
        }
        if plain {
            drawn.model = ShikeConfig::plain(drawn.model.backbone, 10);
            drawn.stage1.loss = LossConfig::cross_entropy();
            drawn.stage1.set_epochs(18);
            drawn.stage2 = None;
        }
        let resize = Transform::Resize {
            short_side: 40,
            interpolation: Interpolation::Bilinear,
        };
        drawn.train_pipeline.transforms = vec![
            resize.clone(),
            Transform::RandomCrop {
                size: 32.into(),
                padding: 0,
            },
            Transform::HorizontalFlip { p: 0.5 },
        ];
        drawn.eval_pipeline.transforms = vec![resize, Transform::CenterCrop { size: 32.into() }];
        drawn.normalization = Normalization::IMAGENET;
        same(DRAWN, if plain { "--baseline ce" } else { "" }, &drawn);
    }
}

#[test]
fn the_settings_are_shown_with_where_they_are_from() {
    let words = "train --set optimizer.momentum=0.8 --batch-size 16 --stage2-lr 0.5 --no-flip";
    let cli = Cli::parse_from(words.split(' '));
    let pictures = DataSource::Folder { dir: "d".into() };
    let recipe = Recipe::parse("card.toml", CARD).unwrap();
    let mut recipe = recipe.for_source(&pictures);
    cli.args.change(&mut recipe, &cli.recipe.set).unwrap();
    let (config, _) = cli.args.config(&recipe, 10).unwrap();
    let rows = settings(&recipe, None, &config, &cli.args.given).unwrap();
    let shown = describe(&rows, "from", &[]);
    assert_eq!(shown, SHOWN, "{shown}");
}

const SHOWN: &str = r#"setting                     value                                     from
accumulation                2                                         card.toml
clip_norm                   2                                         card.toml
image_size                  96                                        card.toml
model.arch                  resnet18                                  card.toml
model.experts               2                                         card.toml
stage1.epochs               30                                        card.toml
stage1.lr                   0.025                                     follows from the options
stage1.schedule.kind        step                                      card.toml
stage1.schedule.milestones  [10, 20]                                  card.toml
stage2.epochs               10                                        card.toml
stage2.lr                   0.5                                       --stage2-lr
thresholds.few_below        5                                         card.toml
thresholds.many_above       50                                        card.toml
train_pipeline              random_resized_crop, color_jitter, rand_augment_timm  --no-flip
loader.batch_size           16                                        --batch-size
optimizer.momentum          0.8                                       --set optimizer.momentum=0.8"#;

#[test]
fn rates_come_from_the_recipe_unless_they_are_given() {
    assert_eq!(peaks(&config(DRAWN, "")), [0.05, 0.05]);
    assert_eq!(peaks(&config(DRAWN, "--lr 0.2")), [0.2, 0.05]);
    assert_eq!(peaks(&config(DRAWN, "--stage2-lr 0.3")), [0.05, 0.3]);
    let reference = "image_size = 32\nmodel.arch = \"resnet8\"";
    assert_eq!(peaks(&config(reference, "")), [0.15, 0.1]);
    assert_eq!(peaks(&config(PICTURES, "")), [0.025, 0.025]);
}

#[test]
fn methods_are_chosen_by_name() {
    let preset = "image_size = 224\nmodel.arch = \"resnet8\"";
    let shike = config(preset, "");
    assert_eq!(shike.stage1.loss, LossConfig::Dkt(DktLossConfig::default()));
    let Some(Stage2::Retrain(stage2)) = &shike.stage2 else {
        panic!("{:?}", shike.stage2);
    };
    assert_eq!(stage2.loss, LossConfig::balanced_softmax());
    assert_eq!(stage2.sampling, Sampling::Instance);

    let ldam = config(preset, "--baseline ce --loss ldam-drw --cb-beta 0.999");
    assert_eq!(ldam.model.classifier, ClassifierConfig::cosine());
    assert_eq!((ldam.stage1.epochs, &ldam.stage2), (200, &None));
    let expected = LdamLossConfig::default()
        .with_weights(Some(ClassWeights::EffectiveNumber { beta: 0.999 }))
        .with_weights_from_epoch(160);
    assert_eq!(ldam.stage1.loss, LossConfig::Ldam(expected));

    let crt = config(preset, "--baseline ce --stage2-method crt");
    assert_eq!(crt.model.classifier, ClassifierConfig::Linear);
    let Some(Stage2::Retrain(stage2)) = &crt.stage2 else {
        panic!("{:?}", crt.stage2);
    };
    assert_eq!((crt.stage1.epochs, stage2.epochs), (180, 20));
    assert_eq!(stage2.loss, LossConfig::cross_entropy());
    assert_eq!(stage2.sampling, Sampling::ClassBalanced);

    let words = "--classifier linear --stage2-method lws --stage2-loss balanced-softmax";
    let Some(Stage2::Lws(stage2)) = config(preset, words).stage2 else {
        panic!("LWS was asked for");
    };
    assert_eq!(stage2.loss, LossConfig::balanced_softmax());
    let taus = config(
        preset,
        "--baseline ce --stage2-method tau-norm --stage2-tau 0.5,1",
    );
    assert_eq!(taus.stage1.epochs, 200);
    let expected = Stage2::TauNorm {
        taus: vec![0.5, 1.0],
    };
    assert_eq!(taus.stage2, Some(expected));
}

#[test]
fn what_does_not_go_together_is_an_error_that_says_why() {
    let cases = [
        (
            "--loss ldam --classifier linear",
            "stage1.loss: kind = ldam: it must be another loss",
        ),
        (
            "--stage2-method lws",
            "stage2.method = lws: it must be retrain, or the network's classifier linear",
        ),
        ("--stage2-method tau-norm", "stage2.method = tau_norm"),
        (
            "--baseline ce --stage2-method tau-norm --stage2-tau=-1",
            "stage2.taus = -1: it must be 0 or more",
        ),
        ("--focal-gamma 1", "--focal-gamma is for the focal loss"),
        ("--class-weights inverse", "--class-weights is for"),
        ("--loss focal --drw-epoch 3", "--drw-epoch needs"),
        ("--loss focal --focal-gamma=-1", "stage1.loss: gamma = -1"),
        (
            "--loss class-balanced --drw-epoch 180",
            "stage1.loss: weights_from_epoch = 180: it must be below the epochs",
        ),
        ("--stage2-epochs 0 --stage2-loss focal", "needs a stage 2"),
        ("--baseline ce --stage2-loss focal", "--stage2-method"),
        ("--stage2-tau 1", "--stage2-tau needs"),
    ];
    for (arguments, expected) in cases {
        let recipe = Recipe::parse("pictures.toml", PICTURES).unwrap();
        let error = changed(recipe, arguments).unwrap_err().to_string();
        assert!(error.contains(expected), "{arguments}: {error}");
    }
}

fn changed(
    mut recipe: Recipe,
    arguments: &str,
) -> Result<(TrainConfig, Option<Scaling>), CliError> {
    let words = ["train"].into_iter().chain(arguments.split_whitespace());
    let cli = Cli::parse_from(words);
    cli.args.change(&mut recipe, &cli.recipe.set)?;
    cli.args.config(&recipe, 10)
}

fn from_recipe(text: &str, arguments: &str) -> (TrainConfig, Option<Scaling>) {
    changed(Recipe::parse("card.toml", text).unwrap(), arguments).unwrap()
}

const CARD: &str = r#"
    clip_norm = 2.0
    accumulation = 2
    loader.batch_size = 64
    image_size = 96
    train_pipeline = "randcls"
    thresholds = { many_above = 50, few_below = 5 }
    model = { arch = "resnet18", experts = 2 }
    stage1 = { epochs = 30, lr = 0.1, schedule = { kind = "step", milestones = [10, 20] } }
    stage2 = { method = "retrain", epochs = 10, lr = 0.2 }
"#;

#[test]
fn without_options_a_recipe_stays_as_it_is() {
    let recipe = Recipe::parse("card.toml", CARD).unwrap();
    let (config, scaling) = from_recipe(CARD, "");
    assert_eq!(config, recipe.config(10).unwrap());
    assert_eq!(scaling, None);
}

#[test]
fn options_change_a_recipe() {
    let change = |arguments: &str| from_recipe(CARD, arguments).0;
    let arch = change("--arch resnet50").model;
    assert_eq!((arch.experts, arch.fused_layers.len()), (2, 3));
    assert_eq!(arch.backbone.name(), Some("resnet50"));
    assert_eq!(change("--arch resnet20").model.fused_layers, [1, 2]);
    let plain = change("--baseline ce");
    assert!(plain.model.is_plain() && plain.stage2.is_none());
    assert_eq!(plain.stage1.loss, LossConfig::cross_entropy());
    // The same budget; the milestones lie where they lay.
    let Schedule::Step { milestones, .. } = &plain.stage1.schedule else {
        panic!("{:?}", plain.stage1.schedule);
    };
    assert_eq!(
        (plain.stage1.epochs, milestones.as_slice()),
        (40, &[13, 27][..])
    );
    let of = |arguments: &str| change(arguments).stage1.epochs;
    assert_eq!(of("--baseline ce --epochs 4"), 4);
    assert_eq!(of("--baseline ce --epochs 4 --stage2-epochs 2"), 6);
    assert_eq!(of("--baseline ce --stage2-epochs 2"), 32);
    let single = change("--baseline single").model;
    assert_eq!((single.experts, single.stage2_heads), (1, true));
    assert_eq!(change("--stage2-epochs 0").stage2, None);

    let images = change("--image-size 48 --crop-scale 0.3 --exif upright");
    let [first, second, ..] = images.train_pipeline.transforms.as_slice() else {
        panic!("{:?}", images.train_pipeline);
    };
    assert_eq!(*first, Transform::ExifOrientation);
    assert!(matches!(
        second,
        Transform::RandomResizedCrop {
            scale: [0.3, 1.0],
            ..
        }
    ));
    assert_eq!(images.eval_pipeline.output_size(), Some(48.into()));
    assert_eq!(images.thresholds.many_above, 50);
    assert_eq!(change("--few-below 6").thresholds.few_below, 6);
    assert_eq!(images.clip_norm, Some(2.0));
    let weights = change("--weights a.pth --freeze stem --ema 0.9");
    assert_eq!(weights.freeze, [Part::Stem]);

    let none = "[stage2]\nepochs = 0";
    assert_eq!(from_recipe(none, "").0.stage2, None);
    let added = from_recipe(none, "--stage2-epochs 4").0;
    assert_eq!(added.stage(2).map(|stage| stage.epochs), Some(4));
}

#[test]
fn another_batch_size_scales_the_rates_that_are_not_given() {
    let peaks = |arguments: &str| {
        let (config, scaling) = from_recipe(CARD, arguments);
        let stages = [1, 2].map(|stage| config.stage(stage).unwrap().schedule.peak());
        (stages, scaling.map(|scaling| scaling.stages.len()))
    };
    assert_eq!(peaks("--batch-size 128 --accumulate 1"), ([0.1, 0.2], None));
    assert_eq!(peaks("--batch-size 32"), ([0.05, 0.1], Some(2)));
    assert_eq!(peaks("--batch-size 32 --lr 0.3"), ([0.3, 0.1], Some(1)));
    let given = "--batch-size 32 --lr 0.3 --stage2-lr 0.7";
    assert_eq!(peaks(given), ([0.3, 0.7], Some(0)));
    assert_eq!(peaks("--batch-size 32 --no-lr-scaling"), ([0.1, 0.2], None));
    // The rate of the backbone is given, too: it does not follow.
    let (config, _) = from_recipe(CARD, "--batch-size 32 --lr-backbone 0.01");
    let rate = config.lr_factors[&Part::Stem] * config.stage1.schedule.peak();
    assert!((rate - 0.01).abs() < 1e-12, "{rate}");
}

#[test]
fn the_backbone_has_a_rate_of_its_own_and_every_network_can_be_built() {
    let preset = PICTURES;
    let config = config(preset, "--lr 0.01 --lr-backbone 0.001 --part-lr layer3=0.5");
    let factor = |part| config.lr_factors.get(&part).copied();
    assert!((factor(Part::Stem).unwrap() - 0.1).abs() < 1e-12);
    assert!((factor(Part::Layer(1)).unwrap() - 0.1).abs() < 1e-12);
    assert_eq!(factor(Part::Layer(3)), Some(0.5));
    assert_eq!(factor(Part::Layer(4)), None);
}

/// The share of the shorter side of an image that scoring sees.
fn kept(pipeline: &Pipeline, shorter: u32) -> f64 {
    let mut side = f64::from(shorter);
    let mut kept = 1.0;
    for transform in &pipeline.transforms {
        match transform {
            Transform::Resize { short_side, .. } => side = f64::from(*short_side),
            // Half a pixel for the rounding of the resize.
            Transform::CenterCrop { size } => {
                kept = f64::min(1.0, f64::from(size.width) / (side - 0.5))
            }
            Transform::ExifOrientation => {}
            other => panic!("{other:?} in an evaluation"),
        }
    }
    kept
}

#[test]
fn scoring_sees_the_images_that_training_sees() {
    let lists = DataSource::Lists {
        root: "d".into(),
        train: "d/train.txt".into(),
        val: None,
        test: None,
        class_names: None,
        groups: None,
        columns: Default::default(),
    };
    let folder = DataSource::Folder { dir: "d".into() };
    let of_cifar = DataSource::Cifar {
        dir: "d".into(),
        set: Cifar::Cifar10,
        profile: LongTail::Exponential,
        imbalance_factor: 100.0,
    };
    let data = |source: &DataSource| match source {
        DataSource::Cifar { .. } => "kind = \"cifar\"\nset = \"cifar10\"",
        DataSource::Lists { .. } => "kind = \"lists\"\ntrain = \"train.txt\"",
        _ => "kind = \"folder\"",
    };
    let options = |words: &str| {
        let words = ["train"].into_iter().chain(words.split_whitespace());
        Cli::parse_from(words).args
    };
    let mut checked = 0;
    let mut check = |what: &str, config: &TrainConfig, source: &DataSource, size: Option<u32>| {
        checked += 1;
        let (train, eval) = (&config.train_pipeline, &config.eval_pipeline);
        let what = format!("{what}, {source:?}: {train:?} {eval:?}");
        assert_eq!(train.output_size(), eval.output_size(), "{what}");
        if let Some(size) = size {
            assert_eq!(eval.output_size(), Some(size.into()), "{what}");
        }
        // Both resize, or neither: the scale is the same.
        assert_eq!(train.fixed_size(), eval.fixed_size(), "{what}");
        if matches!(source, DataSource::Cifar { .. }) {
            assert!(
                eval.fixed_size().is_none_or(|size| size == 32.into()),
                "{what}"
            );
            assert!(kept(eval, 32) >= 1.0, "{what}");
            assert_eq!(config.normalization, Normalization::CIFAR10, "{what}");
            return;
        }
        assert_eq!(eval.fixed_size(), None, "{what}");
        for shorter in [20, 32, 33, 64, 240, 3000] {
            assert!(kept(eval, shorter) >= 0.875, "{what} of {shorter}");
        }
        assert_eq!(config.normalization, Normalization::IMAGENET, "{what}");
    };
    for arch in BackboneConfig::names() {
        for size in [None, Some(16), Some(32), Some(48), Some(64), Some(224)] {
            let line = size.map_or(String::new(), |size| format!("image_size = {size}\n"));
            let option = size.map_or(String::new(), |size| format!("--image-size {size}"));
            for source in [&lists, &folder, &of_cifar] {
                let model = format!("model.arch = \"{arch}\"\n");
                let what = format!("{arch} {size:?}");
                let recipe = |text: String| Recipe::parse("r.toml", &text).unwrap();
                let configured =
                    |recipe: Recipe, words: &str| options(words).config(&recipe, 10).unwrap().0;
                // The recipe says what lies there, or the data do; pipelines by name, or left out.
                let names = "train_pipeline = \"cifar_train\"\neval_pipeline = \"cifar_eval\"\n";
                let is_cifar = matches!(source, DataSource::Cifar { .. });
                let photo = "train_pipeline = \"randcls\"\n";
                for named in ["", if is_cifar { names } else { photo }] {
                    let text = format!("{line}{named}{model}");
                    let with_data = recipe(format!("{text}[data]\n{}", data(source)));
                    check(&what, &configured(with_data, ""), source, size);
                    let found = recipe(text).for_source(source);
                    check(&what, &configured(found, ""), source, size);
                }
                // A name of CIFAR's on pictures of any size.
                let text = format!("{line}{names}normalization = \"imagenet\"\n{model}");
                if !is_cifar {
                    check(
                        &what,
                        &configured(recipe(text).for_source(source), ""),
                        source,
                        size,
                    );
                }
                let sized = recipe(model).for_source(source);
                check(&what, &configured(sized, &option), source, size);

                let published = match is_cifar {
                    true => cifar(source).unwrap(),
                    false => recipe(PICTURES.to_owned()).for_source(source),
                };
                let words = format!("--arch {arch} {option}");
                check(&what, &configured(published, &words), source, size);
                if is_cifar {
                    continue;
                }
                for side in [20, 32, 40, 240] {
                    let facts = Facts {
                        class_counts: vec![90, 30, 10],
                        sizes: vec![[side, side]; 9],
                        scored: [true, true],
                        device: DeviceKind::Cpu,
                        cores: 2,
                        arch: Some(arch.to_owned()),
                        image_size: size.map(Into::into),
                        fit: None,
                        experts: None,
                        epochs: None,
                        hours: None,
                        weights: None,
                        recognised: None,
                        parts: false,
                        thresholds: ShotThresholds::default(),
                    };
                    let chosen = auto::plan(&facts).unwrap().choices;
                    let recipe = recipe(recipe_text("", &chosen)).for_source(source);
                    check(
                        &format!("{what} of {side}"),
                        &configured(recipe, ""),
                        source,
                        size,
                    );
                }
            }
        }
    }
    assert!(checked > 1500, "{checked}");
}

/// An option as it is given, what stands beside it where it has an effect, and cases in which it cannot have
/// one, with what is said then.
type OptionCase = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const TAU_NORM: &str = "--classifier linear --stage2-method tau-norm";

const OPTIONS: &[OptionCase] = &[
    (
        "--arch resnet50",
        "",
        &[(
            "--set model.arch=resnet34",
            "--arch and --set model.arch=resnet34 both",
        )],
    ),
    (
        "--experts 4",
        "",
        &[
            ("--baseline ce", "--baseline has one network"),
            ("--set model.plain=true", "--experts is for SHIKE"),
            ("--set model.experts=2", "both say what model.experts is"),
        ],
    ),
    (
        "--baseline ce",
        "",
        &[
            (
                "--set model.plain=false",
                "--baseline ce is a plain network",
            ),
            ("--set model.experts=1", "both say what model.experts is"),
            (
                "--set stage2.sampling=square_root",
                "--set stage2.sampling=square_root is for a stage 2",
            ),
        ],
    ),
    (
        "--weights a.pth",
        "",
        &[("--set weights=b.pth", "both say what weights is")],
    ),
    (
        "--lr-backbone 0.001",
        "",
        &[
            (
                "--freeze stem,layer1,layer2,layer3",
                "--lr-backbone has no effect",
            ),
            (
                "--part-lr stem=1 --part-lr layer1=1 --part-lr layer2=1 --part-lr layer3=1",
                "no effect",
            ),
        ],
    ),
    (
        "--part-lr stem=0.1",
        "",
        &[
            ("--freeze stem", "stem is in both --freeze and --part-lr"),
            (
                "--set freeze=[\"stem\"]",
                "lr_factors = stem: it must be of parts that are trained",
            ),
            (
                "--set lr_factors.stem=0.2",
                "--part-lr stem and --set lr_factors.stem=0.2 both",
            ),
        ],
    ),
    (
        "--freeze stem",
        "",
        &[("--set freeze=[\"layer1\"]", "both say what freeze is")],
    ),
    (
        "--precision bf16",
        "",
        &[("--set precision=f32", "both say what precision is")],
    ),
    (
        "--ema 0.9",
        "",
        &[("--set ema_decay=0.5", "both say what ema_decay is")],
    ),
    (
        "--classifier linear",
        "",
        &[(
            "--set model.classifier=cosine",
            "both say what model.classifier is",
        )],
    ),
    (
        "--loss focal",
        "",
        &[(
            "--set stage1.loss.non_target_weight=2",
            "--loss and --set stage1.loss.non_target_weight=2 both",
        )],
    ),
    (
        "--label-smoothing 0.2",
        "--loss cross-entropy",
        &[("", "--label-smoothing is for cross-entropy")],
    ),
    (
        "--focal-gamma 1",
        "--loss focal",
        &[("", "--focal-gamma is for the focal loss")],
    ),
    (
        "--ldam-max-margin 0.2",
        "--loss ldam",
        &[("", "--ldam-max-margin is for LDAM")],
    ),
    (
        "--tau 0.5",
        "--loss logit-adjustment",
        &[("", "--tau is for logit adjustment")],
    ),
    (
        "--class-weights inverse",
        "--loss focal",
        &[("", "--class-weights is for")],
    ),
    ("--class-weights inverse^0.5", "--loss focal", &[]),
    (
        "--class-weight c1=2",
        "",
        &[(
            "--stage2-epochs 0",
            "--class-weight has no effect: the loss of the last stage",
        )],
    ),
    (
        "--cb-beta 0.9",
        "--loss class-balanced",
        &[
            ("", "--cb-beta is for"),
            ("--loss focal --class-weights inverse", "--cb-beta needs"),
        ],
    ),
    (
        "--drw-epoch 3",
        "--loss class-balanced",
        &[
            ("", "--drw-epoch is for"),
            ("--loss focal", "--drw-epoch needs"),
        ],
    ),
    (
        "--keep-strength",
        "",
        &[
            ("--loss focal", "--keep-strength is for the loss dkt"),
            ("--loss dkt-paper", "--keep-strength is for the loss dkt"),
            (
                "--set stage1.loss.mutual_weight=2",
                "both say what stage1.loss.mutual_weight is",
            ),
        ],
    ),
    (
        "--epochs 9",
        "",
        &[
            ("--set stage1.epochs=28", "both say what stage1.epochs is"),
            (
                "--set stage1.schedule.milestones=[3]",
                "both say what stage1.schedule.milestones is",
            ),
        ],
    ),
    (
        "--stage2-epochs 4",
        "",
        &[
            (
                "--classifier linear --stage2-method tau-norm",
                "--stage2-epochs is for a stage 2 that trains",
            ),
            ("--set stage2.epochs=5", "both say what stage2.epochs is"),
        ],
    ),
    (
        "--lr 0.3",
        "",
        &[
            ("--set stage1.lr=0.2", "both say what stage1.lr is"),
            (
                "--set stage1.schedule.base_lr=0.2",
                "both say what stage1.schedule.base_lr is",
            ),
        ],
    ),
    (
        "--stage2-lr 0.3",
        "",
        &[
            ("--stage2-epochs 0", "--stage2-lr needs a stage 2"),
            (TAU_NORM, "--stage2-lr is for a stage 2 that trains"),
            ("--baseline ce", "--stage2-lr needs a stage 2"),
        ],
    ),
    (
        "--warmup-epochs 5",
        "",
        &[(
            "--set stage1.schedule.kind=constant",
            "--warmup-epochs has no effect",
        )],
    ),
    (
        "--stage2-warmup-epochs 4",
        "",
        &[
            (
                "--stage2-epochs 0",
                "--stage2-warmup-epochs needs a stage 2",
            ),
            (
                TAU_NORM,
                "--stage2-warmup-epochs is for a stage 2 that trains",
            ),
            (
                "--set stage2.schedule.kind=constant",
                "--stage2-warmup-epochs has no effect",
            ),
        ],
    ),
    (
        "--batch-size 32",
        "",
        &[(
            "--set loader.batch_size=16",
            "both say what loader.batch_size is",
        )],
    ),
    ("--no-lr-scaling", "--batch-size 32", &[]),
    (
        "--accumulate 4",
        "",
        &[("--set accumulation=3", "both say what accumulation is")],
    ),
    (
        "--clip-norm 9",
        "",
        &[("--set clip_norm=3", "both say what clip_norm is")],
    ),
    (
        "--sampling class-balanced",
        "",
        &[(
            "--set stage1.sampling=instance",
            "both say what stage1.sampling",
        )],
    ),
    (
        "--stage2-sampling square-root",
        "",
        &[
            ("--stage2-epochs 0", "--stage2-sampling needs a stage 2"),
            (TAU_NORM, "--stage2-sampling is for a stage 2 that trains"),
        ],
    ),
    (
        "--stage2-method crt",
        "",
        &[
            ("--stage2-epochs 0", "--stage2-method needs a stage 2"),
            (
                "--set stage2.method=retrain",
                "both say what stage2.method is",
            ),
            (
                "--set stage2.loss.kind=focal",
                "--stage2-method crt and --set stage2.loss.kind=focal both",
            ),
        ],
    ),
    (
        "--stage2-loss focal",
        "",
        &[
            ("--stage2-epochs 0", "--stage2-loss needs a stage 2"),
            (TAU_NORM, "--stage2-loss is for a stage 2 that trains"),
        ],
    ),
    (
        "--stage2-tau 0.5",
        TAU_NORM,
        &[
            ("", "--stage2-tau needs --stage2-method tau-norm"),
            (
                "--stage2-method crt",
                "--stage2-tau needs --stage2-method tau-norm",
            ),
        ],
    ),
    (
        "--freeze-bn",
        "",
        &[
            ("--stage2-epochs 0", "--freeze-bn needs a stage 2"),
            (TAU_NORM, "--freeze-bn is for a stage 2 that trains"),
        ],
    ),
    (
        "--image-size 48",
        "",
        &[
            ("--set image_size=64", "both say what image_size is"),
            (
                "--set eval_pipeline=[]",
                "--image-size is for pipelines that cut or resize",
            ),
        ],
    ),
    (
        "--crop-scale 0.3",
        "",
        &[
            (
                "--set train_pipeline=cifar_train",
                "--crop-scale is for random_resized_crop",
            ),
            (
                "--set train_pipeline=[{kind=\"random_resized_crop\",size=96,scale=[0.1,1],ratio=[1,1]}]",
                "both say what train_pipeline is",
            ),
        ],
    ),
    (
        "--exif upright",
        "",
        &[("--set upright=false", "both say what upright is")],
    ),
    (
        "--fit pad",
        "",
        &[
            ("--set fit=squash", "both say what fit is"),
            (
                "--set eval_pipeline=[]",
                "--fit is for pipelines that resize",
            ),
        ],
    ),
    (
        "--range 0..4095",
        "",
        &[("--set range=[0,9]", "both say what range is")],
    ),
    (
        "--background white",
        "",
        &[("--set background=[0,0,0]", "both say what background is")],
    ),
    ("--no-flip", "", &[]),
    (
        "--bad-images skip",
        "",
        &[("--set bad_images=fail", "both say what bad_images is")],
    ),
    (
        "--max-bad-share 0.3",
        "--bad-images skip",
        &[("", "--max-bad-share is for --bad-images skip")],
    ),
    ("--seed 5", "", &[("--set seed=6", "both say what seed is")]),
    (
        "--workers 3",
        "",
        &[("--set loader.workers=2", "both say what loader.workers is")],
    ),
    (
        "--evaluate-every 3",
        "",
        &[("--set evaluate_every=2", "both say what evaluate_every is")],
    ),
    (
        "--patience 3",
        "",
        &[("--set patience=2", "both say what patience is")],
    ),
    (
        "--checkpoint-seconds 3",
        "",
        &[(
            "--set checkpoint_seconds=2",
            "both say what checkpoint_seconds",
        )],
    ),
    (
        "--many-above 70",
        "",
        &[(
            "--set thresholds.many_above=80",
            "both say what thresholds.many_above",
        )],
    ),
    (
        "--few-below 7",
        "",
        &[(
            "--set thresholds.few_below=8",
            "both say what thresholds.few_below",
        )],
    ),
];

/// Options that choose how a run is done and not what.
const NO_SETTINGS: [&str; 6] = [
    "dry-run",
    "check-images",
    "device",
    "time",
    "cache-limit",
    "no-cache",
];

#[test]
fn every_option_has_an_effect_or_is_refused() {
    let outcome = |words: &str| {
        let recipe = Recipe::parse("card.toml", CARD).unwrap();
        let folder = DataSource::Folder { dir: "d".into() };
        let config = changed(recipe.for_source(&folder), words);
        config
            .map(|(config, _)| config)
            .map_err(|error| error.to_string())
    };
    let mut wrong = vec![];
    for (option, beside, idle) in OPTIONS {
        match (outcome(beside), outcome(&format!("{beside} {option}"))) {
            (Ok(without), Ok(with)) if with == without => {
                wrong.push(format!("{beside} {option} has no effect"));
            }
            (Err(error), _) => wrong.push(format!("{beside}: {error}")),
            (_, Err(error)) => wrong.push(format!("{option}: {error}")),
            _ => {}
        }
        for (idle, expected) in *idle {
            match outcome(&format!("{idle} {option}")) {
                Err(error) if error.contains(expected) => {}
                other => wrong.push(format!(
                    "{idle} {option}: {expected} was expected, and not {:?}",
                    other.err()
                )),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        outcome("--ema 0")
            .unwrap_err()
            .contains("ema_decay = 0: it must be between 0 and 1")
    );
    let command = TrainArgs::augment_args(clap::Command::new("train"));
    for long in command.get_arguments().filter_map(|arg| arg.get_long()) {
        let tried = OPTIONS.iter().any(|(option, ..)| {
            option
                .split(' ')
                .next()
                .and_then(|word| word.strip_prefix("--"))
                == Some(long)
        });
        assert!(
            tried || NO_SETTINGS.contains(&long),
            "--{long} is in no case"
        );
    }
}

#[test]
fn a_baseline_takes_what_is_set_and_shows_what_it_replaces() {
    let plain = |text: &str, words: &str| from_recipe(text, &format!("--baseline ce {words}")).0;
    let weights =
        "--set stage1.loss={kind=\"cross_entropy\",weights={kind=\"given\",values=[1,2,3]}}";
    let loss = |config: &TrainConfig| serde_json::to_value(&config.stage1.loss).unwrap();
    assert_eq!(loss(&plain(CARD, weights))["weights"]["values"][2], 3.0);
    let smooth = plain(CARD, "--set stage1.loss.label_smoothing=0.3");
    assert_eq!(loss(&smooth)["label_smoothing"], 0.3);
    assert_eq!(
        loss(&plain(CARD, "--set stage1.loss.kind=focal"))["kind"],
        "focal"
    );
    let cosine = plain(CARD, "--set model.classifier=cosine").model;
    assert_eq!(cosine.classifier, ClassifierConfig::cosine());
    let added = plain(CARD, "--set stage1.epochs=25").stage1.epochs;
    assert_eq!(added, 25);
    // Cross-entropy of the recipe stays; another loss does not, and the difference is shown.
    let loss_of = "stage1 = { loss = { kind = \"cross_entropy\", label_smoothing = 0.2 },";
    let own = CARD.replace("stage1 = {", loss_of);
    assert_eq!(loss(&plain(&own, ""))["label_smoothing"], 0.2);
    let written = Recipe::parse("card.toml", CARD)
        .unwrap()
        .written(10)
        .unwrap();
    let changes = diff::changes(&written, &plain(CARD, ""));
    for field in ["model.experts", "model.classifier", "stage1.loss", "stage2"] {
        assert!(
            changes.iter().any(|change| change.field == field),
            "{changes:?}"
        );
    }
    // The same network by its field: all of it, not a half.
    let set = from_recipe(CARD, "--set model.plain=true").0;
    assert!(set.model.is_plain());
    assert_eq!(set.model.classifier, ClassifierConfig::Linear);
    assert_eq!(set.stage1.loss, LossConfig::cross_entropy());
    let of_cifar = DataSource::Cifar {
        dir: "d".into(),
        set: Cifar::Cifar10,
        profile: LongTail::Exponential,
        imbalance_factor: 100.0,
    };
    for option in [
        "--exif stored",
        "--fit pad",
        "--range auto",
        "--bad-images skip",
    ] {
        let recipe = Recipe::parse("r.toml", "").unwrap().for_source(&of_cifar);
        let error = changed(recipe, option).unwrap_err().to_string();
        assert!(error.contains("has no effect on CIFAR"), "{error}");
    }
}

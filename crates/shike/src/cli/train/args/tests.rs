//! Options, presets and recipes together.

use super::super::{ImagePreset, Preset};
use super::*;
use clap::{Parser, ValueEnum};
use shike_model::loss::LdamLossConfig;
use shike_model::{BackboneConfig, DktLossConfig};
use shike_train::Recipe;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: TrainArgs,
}

fn config(preset: &Preset, arguments: &str) -> TrainConfig {
    let words = ["train"].into_iter().chain(arguments.split_whitespace());
    let args = Cli::parse_from(words).args;
    args.config(&Base::Preset(preset.clone()), 10).unwrap().0
}

fn peaks(config: &TrainConfig) -> Vec<f64> {
    let stages = [config.stage(1), config.stage(2)];
    let peak = |stage: &StageConfig| match stage.schedule {
        Schedule::WarmupCosine { warmup_lr, .. } => warmup_lr,
        _ => f64::NAN,
    };
    stages.into_iter().flatten().map(peak).collect()
}

#[test]
fn rates_come_from_the_preset_unless_they_are_given() {
    let preset = Preset {
        arch: Arch::Resnet8,
        epochs: [14, 4],
        batch_size: 32,
        lr: Some(0.05),
        images: ImagePreset::Crop { size: 32 },
    };
    assert_eq!(peaks(&config(&preset, "")), [0.05, 0.05]);
    assert_eq!(peaks(&config(&preset, "--lr 0.2")), [0.2, 0.05]);
    assert_eq!(peaks(&config(&preset, "--stage2-lr 0.3")), [0.05, 0.3]);
    let reference = Preset { lr: None, ..preset };
    assert_eq!(peaks(&config(&reference, "")), [0.15, 0.1]);
    assert_eq!(peaks(&config(&Preset::imagenet(), "")), [0.025, 0.025]);
}

#[test]
fn methods_are_chosen_by_name() {
    let preset = Preset {
        arch: Arch::Resnet8,
        ..Preset::imagenet()
    };
    let shike = config(&preset, "");
    assert_eq!(shike.stage1.loss, Loss::Dkt(DktLossConfig::new()));
    let Some(Stage2::Retrain(stage2)) = &shike.stage2 else {
        panic!("{:?}", shike.stage2);
    };
    assert_eq!(stage2.loss, Loss::BalancedSoftmax {});
    assert_eq!(stage2.sampling, Sampling::Instance);

    let ldam = config(&preset, "--baseline ce --loss ldam-drw --cb-beta 0.999");
    assert_eq!(ldam.model.classifier, ClassifierConfig::cosine());
    assert_eq!((ldam.stage1.epochs, &ldam.stage2), (200, &None));
    let expected = LdamLossConfig::new()
        .with_weights(Some(ClassWeights::EffectiveNumber { beta: 0.999 }))
        .with_weights_from_epoch(160);
    assert_eq!(ldam.stage1.loss, Loss::Ldam(expected));

    let crt = config(&preset, "--baseline ce --stage2-method crt");
    assert_eq!(crt.model.classifier, ClassifierConfig::Linear);
    let Some(Stage2::Retrain(stage2)) = &crt.stage2 else {
        panic!("{:?}", crt.stage2);
    };
    assert_eq!((crt.stage1.epochs, stage2.epochs), (180, 20));
    assert_eq!(stage2.loss, Loss::cross_entropy());
    assert_eq!(stage2.sampling, Sampling::ClassBalanced);

    let words = "--classifier linear --stage2-method lws --stage2-loss balanced-softmax";
    let Some(Stage2::Lws(stage2)) = config(&preset, words).stage2 else {
        panic!("LWS was asked for");
    };
    assert_eq!(stage2.loss, Loss::BalancedSoftmax {});
    let taus = config(
        &preset,
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
        ("--stage2-epochs 0 --stage2-loss focal", "need a stage 2"),
        ("--baseline ce --stage2-loss focal", "--stage2-method"),
        ("--stage2-tau 1", "--stage2-tau needs"),
    ];
    for (arguments, expected) in cases {
        let words = ["train"].into_iter().chain(arguments.split_whitespace());
        let args = Cli::parse_from(words).args;
        let error = args
            .config(&Base::Preset(Preset::imagenet()), 10)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{arguments}: {error}");
    }
}

fn from_recipe(text: &str, arguments: &str) -> (TrainConfig, Option<Scaling>) {
    let recipe = Recipe::parse("card.toml", text).unwrap();
    let words = ["train"].into_iter().chain(arguments.split_whitespace());
    let args = Cli::parse_from(words).args;
    args.config(&Base::Recipe(Box::new(recipe)), 10).unwrap()
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
    assert_eq!((arch.experts, arch.fused_stages.len()), (2, 3));
    assert_eq!(arch.backbone, BackboneConfig::resnet(50).unwrap());
    assert_eq!(change("--arch resnet20").model.fused_stages, [1, 2]);
    let plain = change("--baseline ce");
    assert!(plain.model.is_plain() && plain.stage2.is_none());
    assert_eq!(plain.stage1.loss, Loss::cross_entropy());
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

    let images = change("--image-size 48 --crop-scale 0.3 --exif");
    let [first, second, ..] = images.train_pipeline.transforms.as_slice() else {
        panic!("{:?}", images.train_pipeline);
    };
    assert_eq!(*first, Transform::ExifOrientation);
    assert!(matches!(
        second,
        Transform::RandomResizedCrop {
            size: 48,
            scale: [0.3, 1.0],
            ..
        }
    ));
    assert_eq!(images.eval_pipeline.output_size(), Some(48));
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
    let preset = Preset::imagenet();
    let config = config(
        &preset,
        "--lr 0.01 --lr-backbone 0.001 --part-lr stage3=0.5",
    );
    let factor = |part| config.lr_factors.get(&part).copied();
    assert!((factor(Part::Stem).unwrap() - 0.1).abs() < 1e-12);
    assert!((factor(Part::Stage(1)).unwrap() - 0.1).abs() < 1e-12);
    assert_eq!(factor(Part::Stage(3)), Some(0.5));
    assert_eq!(factor(Part::Stage(4)), None);
    for arch in Arch::value_variants() {
        arch.backbone().unwrap();
    }
}

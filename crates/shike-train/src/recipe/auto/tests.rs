use shike_data::{BadImages, Decoding, Pipeline, Sampling, Transform};
use shike_model::{ClassifierConfig, DktLossConfig, LossConfig, Part};

use super::*;
use crate::config::schedule::Schedule;
use crate::config::stage::Stage2;
use crate::config::{DataSource, TrainConfig};
use crate::recipe::{Recipe, text};

fn facts(class_counts: &[usize], size: [u32; 2]) -> Facts {
    Facts {
        class_counts: class_counts.to_vec(),
        sizes: vec![size; 5],
        scored: [true, true],
        device: DeviceKind::Cpu,
        cores: 2,
        arch: None,
        experts: None,
        image_size: None,
        fit: None,
        epochs: None,
        hours: None,
        weights: None,
        recognised: None,
        parts: false,
        thresholds: ShotThresholds::default(),
    }
}

fn upright(pipeline: Pipeline) -> Pipeline {
    pipeline.decoded(&Decoding {
        upright: true,
        ..Decoding::default()
    })
}

fn value(plan: &Plan, field: &str) -> Value {
    let choice = plan.choices.iter().find(|choice| choice.field == field);
    choice.unwrap_or_else(|| panic!("{field}")).value.clone()
}

fn config(plan: &Plan, classes: usize) -> TrainConfig {
    let text = text("made by a test", &plan.choices);
    let recipe = Recipe::parse("recipe.toml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    recipe
        .config(classes)
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn peaks(config: &TrainConfig) -> [f64; 2] {
    [1, 2].map(|stage| match config.stage(stage).map(|s| &s.schedule) {
        Some(Schedule::WarmupCosine { warmup_lr, .. }) => *warmup_lr,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_few_hundred_photos_on_a_small_machine() {
    let counts = [150, 70, 40, 20, 10, 5, 3, 2];
    let plan = plan(&facts(&counts, [640, 480])).unwrap();
    let config = config(&plan, 8);
    // 300 images 200 times through ResNet-32 at 96 pixels: 60000 · 9 units of work of 2 million.
    assert_eq!(value(&plan, "model.arch"), "resnet32");
    assert_eq!(config.model.experts, 3);
    assert_eq!(config.train_pipeline, upright(Pipeline::randcls(96)));
    assert_eq!(config.eval_pipeline, upright(Pipeline::photo_eval(96)));
    assert_eq!(
        (config.stage1.epochs, config.stage(2).unwrap().epochs),
        (200, 22)
    );
    assert_eq!(config.loader.batch_size, 16);
    // 0.15 and 0.1 for a batch of 128.
    assert_eq!(peaks(&config), [0.15 / 8.0, 0.1 / 8.0]);
    assert_eq!(config.stage1.sampling, Sampling::Instance);
    assert_eq!(config.stage1.loss, LossConfig::Dkt(DktLossConfig::paper()));
    assert!(
        matches!(&config.stage2, Some(Stage2::Retrain(s)) if s.loss == LossConfig::balanced_softmax())
    );
    let max_share = MAX_BAD_SHARE;
    assert_eq!(config.bad_images, BadImages::Skip { max_share });
    let all = plan.choices.iter().all(|choice| choice.reason.len() > 8);
    assert!(all, "{:?}", plan.choices);
    assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
    assert!(plan.notes[0].contains("`horizontal_flip`"));
}

#[test]
fn what_is_given_is_planned_with() {
    let facts = Facts {
        image_size: Some(48.into()),
        epochs: Some(90),
        ..facts(&[150, 70, 40, 20, 10, 5, 3, 2], [640, 480])
    };
    let config = |facts: &Facts| config(&plan(facts).unwrap(), 8);
    let ninety = config(&facts);
    assert_eq!(ninety.eval_pipeline, upright(Pipeline::photo_eval(48)));
    let epochs = |c: &TrainConfig| [c.stage1.epochs, c.stage(2).unwrap().epochs];
    assert_eq!(epochs(&ninety), [90, 10]);
    let four = config(&Facts {
        epochs: Some(4),
        ..facts
    });
    assert_eq!(epochs(&four), [4, 5]);
    // It takes less time, and not a larger network for the same.
    assert_eq!(four.model.backbone, ninety.model.backbone);
}

#[test]
fn a_larger_set_gets_fewer_epochs_and_on_a_cpu_a_smaller_network() {
    let plans = [300, 3_000, 30_000, 300_000].map(|n| {
        let counts = [n / 2, n / 4, n / 4];
        plan(&facts(&counts, [500, 375])).unwrap()
    });
    let epochs = plans.each_ref().map(|p| value(p, "stage1.epochs"));
    assert_eq!(epochs, [200, 130, 30, 30].map(Value::from));
    let sizes = plans.each_ref().map(|p| value(p, "image_size"));
    // 390000 images twice as much work a core at 64 pixels; 900000 at 32 pixels; then the least.
    assert_eq!(sizes, [96, 64, 48, 32].map(Value::from));
    assert_eq!(value(&plans[3], "model.arch"), "resnet8");
    let batches = plans.each_ref().map(|p| value(p, "loader.batch_size"));
    assert_eq!(batches, [16, 64, 128, 128].map(Value::from));
    let pipelines = plans.each_ref().map(|p| value(p, "train_pipeline"));
    assert_eq!(
        pipelines,
        ["randcls", "basic", "photo_train", "photo_train"].map(Value::from)
    );
    // More cores do more.
    let mut many = facts(&[15_000, 7_500, 7_500], [500, 375]);
    many.cores = 64;
    assert_eq!(value(&plan(&many).unwrap(), "image_size"), 96);
}

#[test]
fn a_gpu_takes_networks_for_photographs() {
    let mut facts = facts(&[1_000, 300, 20], [800, 600]);
    facts.device = DeviceKind::Gpu;
    let small = plan(&facts).unwrap();
    assert_eq!(value(&small, "model.arch"), "resnet18");
    assert_eq!(value(&small, "image_size"), 224);
    // 0.025 for a batch of 64.
    assert_eq!(peaks(&config(&small, 3)), [0.0125, 0.0125]);
    facts.class_counts = vec![90_000, 20_000, 10];
    let large = plan(&facts).unwrap();
    assert_eq!(value(&large, "model.arch"), "resnet50");
    assert_eq!(value(&large, "loader.batch_size"), 64);
    assert_eq!(peaks(&config(&large, 3)), [0.025, 0.025]);
    // No picture is made larger, and small ones want a network for small ones.
    facts.sizes = vec![[180, 200], [170, 500], [1_000, 1_000]];
    assert_eq!(value(&plan(&facts).unwrap(), "image_size"), 160);
    facts.sizes = vec![[100, 70]];
    let tiny = plan(&facts).unwrap();
    assert_eq!(value(&tiny, "model.arch"), "resnet32");
    assert_eq!(value(&tiny, "image_size"), 64);
}

#[test]
fn trained_weights_choose_the_network_and_small_steps() {
    let mut facts = facts(&[400, 100, 20], [800, 600]);
    facts.weights = Some("weights.pth".into());
    facts.recognised = Some("resnet18");
    let tuned = plan(&facts).unwrap();
    assert_eq!(value(&tuned, "model.arch"), "resnet18");
    assert_eq!(value(&tuned, "image_size"), 224);
    let config = config(&tuned, 3);
    assert_eq!(config.stage1.epochs, 60);
    assert_eq!(peaks(&config), [0.005, 0.005]);
    assert_eq!(config.lr_factors.get(&Part::Stem), Some(&0.1));
    assert_eq!(config.lr_factors.get(&Part::Layer(4)), Some(&0.1));
    assert_eq!(config.lr_factors.get(&Part::Fusion), None);
    assert!(
        matches!(&config.optimizer, crate::OptimizerConfig::Sgd(sgd) if sgd.nesterov)
            && config.freeze.is_empty()
    );
    facts.recognised = Some("resnext50");
    assert_eq!(value(&plan(&facts).unwrap(), "model.arch"), "resnext50");
    facts.recognised = None;
    assert_eq!(value(&plan(&facts).unwrap(), "model.arch"), "resnet50");
    facts.recognised = Some("resnet32");
    let cifar = plan(&facts).unwrap();
    assert_eq!(value(&cifar, "model.arch"), "resnet32");
    assert_eq!(value(&cifar, "image_size"), 32);
}

#[test]
fn at_few_classes_the_loss_is_that_of_the_paper() {
    let loss = |classes| {
        let plan = plan(&facts(&vec![30; classes], [64, 64])).unwrap();
        config(&plan, classes).stage1.loss
    };
    assert_eq!(loss(19), LossConfig::Dkt(DktLossConfig::paper()));
    assert_eq!(loss(20), LossConfig::Dkt(DktLossConfig::default()));
}

#[test]
fn a_network_for_photographs_keeps_to_the_hours_of_a_cpu() {
    let on = |images: usize, cores: usize| Facts {
        cores,
        weights: Some("resnet50-11ad3fa6.pth".into()),
        recognised: Some("resnet50"),
        ..facts(&[images - 10, 10], [800, 600])
    };
    let planned = |facts: &Facts| {
        let plan = plan(facts).unwrap();
        let config = config(&plan, 2);
        let size = config.eval_pipeline.output_size().unwrap().width;
        let frozen = config.freeze.contains(&Part::Layer(3));
        // A part is frozen or has a rate of its own.
        let rate = |part| config.lr_factors.get(&part).copied();
        let tuned = facts.weights.is_some();
        assert_eq!(rate(Part::Layer(3)), (tuned && !frozen).then_some(0.1));
        assert_eq!(rate(Part::Layer(4)), tuned.then_some(0.1));
        assert_eq!(rate(Part::Fusion), None);
        let notes = plan.notes.join("\n");
        ((size, frozen, config.stage1.epochs), notes)
    };
    // Training images, cores; side, whether stages 1 to 3 are frozen, epochs.
    let cases = [
        (100, 2, (224, false, 60)),
        (300, 1, (224, true, 20)),
        (500, 2, (224, false, 20)),
        (1_400, 2, (128, true, 30)),
        (7_000, 2, (64, true, 20)),
        (7_000, 8, (160, true, 10)),
        (7_000, 64, (224, false, 50)),
        (20_000, 2, (64, true, 7)),
    ];
    for (images, cores, expected) in cases {
        let (found, notes) = planned(&on(images, cores));
        assert_eq!(found, expected, "{images} images, {cores} cores");
        assert!(!notes.contains("it wants a GPU"), "{notes}");
    }
    let (found, notes) = planned(&on(70_000, 2));
    assert_eq!(found, (64, true, 5));
    let wants = "more than about 4 hours on 2 cores, already with the smallest images and the fewest epochs";
    assert!(notes.contains(wants), "{notes}");
    // A time that is given takes the place of the four hours.
    let within = |hours, images| {
        let hours = Some(hours);
        planned(&Facts {
            hours,
            ..on(images, 2)
        })
    };
    assert_eq!(within(2.0, 500).0, planned(&on(500, 1)).0);
    assert_eq!(within(16.0, 1_400).0, planned(&on(1_400, 8)).0);
    let (found, notes) = within(0.5, 7_000);
    assert_eq!(found, (64, true, 5));
    assert!(notes.contains("about 30 minutes on 2 cores"), "{notes}");

    // What is given stays, and the rest makes room for it.
    let facts = || on(1_400, 2);
    let found = |facts: Facts| planned(&facts).0;
    let image_size = Some(224.into());
    assert_eq!(
        found(Facts {
            image_size,
            ..facts()
        }),
        (224, true, 8)
    );
    let epochs = Some(3);
    assert_eq!(found(Facts { epochs, ..facts() }), (128, true, 3));
    let parts = true;
    assert_eq!(found(Facts { parts, ..facts() }), (128, false, 20));
    let experts = Some(1);
    assert_eq!(found(Facts { experts, ..facts() }), (192, true, 25));
    let (arch, weights) = (Some("resnet18".to_owned()), None);
    assert_eq!(
        found(Facts {
            arch,
            weights,
            ..facts()
        }),
        (224, false, 30)
    );
    let device = DeviceKind::Gpu;
    assert_eq!(found(Facts { device, ..facts() }), (224, false, 60));
}

/// The table that times are estimated with is that of the networks.
#[cfg(feature = "flex")]
#[test]
fn networks_cost_what_the_table_says() {
    for (name, [trunk, own, fusion]) in LARGE {
        let arch = BackboneConfig::named(name).unwrap();
        let model = shike_model::ShikeConfig::on(arch, 2).with_experts(1);
        let model = model.init(&burn::tensor::Device::flex()).unwrap();
        let parts = model.describe([224, 224]).parts;
        let sum = |of: &dyn Fn(&str) -> bool| -> f64 {
            let parts = parts.iter().filter(|part| of(&part.name));
            parts.map(|part| part.macs as f64 / 1e9).sum()
        };
        let found = [
            sum(&|name| !name.starts_with("expert")),
            sum(&|name| name == "expert0.layer4"),
            sum(&|name| name == "expert0.fusion") / 3.0,
        ];
        for (found, expected) in found.iter().zip([trunk, own, fusion]) {
            assert!(
                (found - expected).abs() < 0.001,
                "{name}: {found} {expected}"
            );
        }
    }
}

#[test]
fn what_a_person_should_know_is_said() {
    let notes = |counts: &[usize], scored| {
        let facts = Facts {
            scored,
            ..facts(counts, [64, 64])
        };
        plan(&facts).unwrap().notes.join("\n")
    };
    let balanced = notes(&[150, 140, 101], [true, true]);
    assert!(
        balanced.contains("imbalance factor 1.5: nearly balanced"),
        "{balanced}"
    );
    assert!(
        balanced.contains("fewer than 20 training images, so none is few-shot"),
        "{balanced}"
    );
    let tail = notes(&[200, 10], [true, true]);
    assert!(
        !tail.contains("balanced") && !tail.contains("-shot"),
        "{tail}"
    );
    let small = notes(&[90, 10], [true, false]);
    assert!(
        small.contains("more than 100 training images, so none is many-shot"),
        "{small}"
    );
    assert!(small.contains("no test images"), "{small}");
    assert!(notes(&[90, 10], [false, false]).contains("nothing will be scored"));
    let error = |counts: &[usize]| plan(&facts(counts, [64, 64])).unwrap_err();
    assert_eq!(error(&[90]), AutoError::OneClass);
    assert_eq!(error(&[0, 0]), AutoError::NoImages);
    assert_eq!(error(&[]), AutoError::NoImages);
}

#[test]
fn every_plan_is_a_recipe_that_enlarges_no_picture() {
    for n in [3, 40, 700, 5_000, 120_000, 2_000_000] {
        for short in [8, 20, 33, 100, 127, 128, 3_000] {
            for device in [DeviceKind::Cpu, DeviceKind::Gpu] {
                for weights in [None, Some("resnet50.pth".to_owned())] {
                    let tuned = weights.is_some();
                    let facts = Facts {
                        device,
                        weights,
                        ..facts(&[n, n / 2, 1], [short, short + 1])
                    };
                    let plan = plan(&facts).unwrap();
                    let config = config(&plan, 3);
                    let size = config.eval_pipeline.output_size().unwrap().width;
                    let least = if tuned { 32 } else { 16 };
                    assert!(size <= short.max(least), "{facts:?}: {size}");
                    assert!(size >= least && size <= 224, "{facts:?}: {size}");
                    let epochs = config.stage1.epochs;
                    assert!((FEWEST..=200).contains(&epochs), "{facts:?}: {epochs}");
                }
            }
        }
    }
}

#[test]
fn what_options_change_is_given_and_the_recipe_repeats_it() {
    let plan = plan(&facts(&[150, 70, 40, 20], [640, 480])).unwrap();
    let base = config(&plan, 4);
    let pictures = DataSource::Folder { dir: "d".into() };
    let recipe = Recipe::parse("recipe.toml", "")
        .unwrap()
        .for_source(&pictures);
    type Change = fn(&mut TrainConfig);
    // What changes, and the fields that are given then.
    let cases: [(&str, Change, &[&str]); 16] = [
        ("nothing", |_| {}, &[]),
        (
            "epochs",
            |c| {
                c.stage1.set_epochs(3);
                c.loader.batch_size = 8;
            },
            &["loader.batch_size", "stage1.epochs"],
        ),
        (
            "rate",
            |c| set_peak(&mut c.stage1.schedule, 0.07),
            &["stage1.lr"],
        ),
        (
            "schedule",
            |c| c.stage1.schedule = Schedule::Constant { lr: 0.1 },
            &["stage1.lr", "stage1.schedule.kind"],
        ),
        (
            "warm-up",
            |c| {
                if let Schedule::WarmupCosine { warmup_epochs, .. } = &mut c.stage1.schedule {
                    *warmup_epochs = 10;
                }
            },
            &["stage1.schedule.warmup_epochs"],
        ),
        ("seed", |c| c.seed = 7, &["seed"]),
        (
            "loss",
            |c| c.stage1.loss = LossConfig::cross_entropy(),
            &["stage1.loss.kind"],
        ),
        ("no stage 2", |c| c.stage2 = None, &["stage2.epochs"]),
        (
            "network",
            |c| {
                let arch = BackboneConfig::named("resnet18").unwrap();
                c.model = shike_model::ShikeConfig::on(arch, 4);
            },
            &["model.arch"],
        ),
        (
            "size",
            |c| {
                c.train_pipeline = c.train_pipeline.resized(48);
                c.eval_pipeline = c.eval_pipeline.resized(48);
            },
            &["image_size"],
        ),
        (
            "pipeline",
            |c| {
                let flip = |t: &Transform| !matches!(t, Transform::HorizontalFlip { .. });
                c.train_pipeline.transforms.retain(flip);
            },
            &["train_pipeline"],
        ),
        (
            "pictures",
            |c| {
                let decoding = Decoding {
                    range: [7, 4000],
                    background: Some([255; 3]),
                    upright: false,
                };
                for pipeline in [&mut c.train_pipeline, &mut c.eval_pipeline] {
                    *pipeline = pipeline.fitted(Fit::Squash).decoded(&decoding);
                }
            },
            &["background", "fit", "range", "upright"],
        ),
        (
            "a rectangle",
            |c| {
                let size: Size = "96x48".parse().unwrap();
                c.train_pipeline = c.train_pipeline.resized(size);
                c.eval_pipeline = c.eval_pipeline.resized(size);
            },
            &["image_size"],
        ),
        (
            "bad images",
            |c| c.bad_images = BadImages::Fail,
            &["bad_images"],
        ),
        (
            "plain network",
            |c| {
                let arch = c.model.backbone.clone();
                c.model = shike_model::ShikeConfig::plain(arch, 4);
                c.stage1.loss = LossConfig::cross_entropy();
                c.stage2 = None;
            },
            &["model.plain", "stage2.epochs"],
        ),
        (
            "classifier",
            |c| {
                c.model.classifier = ClassifierConfig::Linear;
                c.ema_decay = Some(0.99);
                c.lr_factors.insert(Part::Stem, 0.5);
            },
            &["ema_decay", "lr_factors.stem", "model.classifier.kind"],
        ),
    ];
    for (name, change, fields) in cases {
        let mut wanted = base.clone();
        change(&mut wanted);
        let choices = recipe.fields(&wanted, &plan.choices).unwrap();
        let text = text("", &choices);
        let again = Recipe::parse("recipe.toml", &text)
            .unwrap_or_else(|e| panic!("{name}: {e}\n{text}"))
            .for_source(&pictures);
        assert_eq!(again.config(4).unwrap(), wanted, "{name}:\n{text}");
        let named = choices.iter().filter(|choice| choice.reason == GIVEN);
        let named: Vec<&str> = named.map(|choice| &*choice.field).collect();
        for field in fields {
            assert!(named.contains(field), "{name}: {named:?}");
        }
        assert_eq!(named.is_empty(), fields.is_empty(), "{name}: {named:?}");
    }
}

#[test]
fn pictures_are_upright_and_padded_where_a_crop_would_lose_a_third() {
    let fit = |plan: &Plan| {
        let mut choices = plan.choices.iter();
        choices.find(|choice| choice.field == "fit").cloned()
    };
    let of = |size: [u32; 2], image_size: Option<&str>, given| {
        let facts = Facts {
            image_size: image_size.map(|size| size.parse().unwrap()),
            fit: given,
            ..facts(&[90, 30, 10], size)
        };
        [
            plan(&facts).unwrap(),
            plan_frozen("vit_s16", "w.pth", &facts),
        ]
    };
    for (size, image_size, given, wanted) in [
        ([300, 200], None, None, None),
        ([320, 80], None, None, Some("pad")),
        ([80, 320], None, None, Some("pad")),
        ([320, 80], Some("128x32"), None, None),
        ([300, 300], Some("128x32"), None, Some("pad")),
        ([320, 80], None, Some(Fit::Crop), Some("crop")),
        ([300, 200], None, Some(Fit::Squash), Some("squash")),
    ] {
        for plan in of(size, image_size, given) {
            let found = fit(&plan);
            let value = found.as_ref().and_then(|choice| choice.value.as_str());
            assert_eq!(value, wanted, "{size:?} {image_size:?}");
            if let (Some("pad"), Some(choice)) = (value, &found) {
                assert!(
                    choice
                        .reason
                        .contains("would hold 25 % of the median picture"),
                    "{choice:?}"
                );
            }
            let plan_is_upright =
                |choice: &Choice| choice.field == "upright" && choice.value == true;
            assert!(plan.choices.iter().any(plan_is_upright));
        }
    }
    let [plan, frozen] = of([320, 80], None, None);
    let config = config(&plan, 3);
    for pipeline in [&config.train_pipeline, &config.eval_pipeline] {
        assert_eq!(pipeline.fit(), Some(Fit::Pad));
        assert!(pipeline.decoding().upright);
    }
    // The filter of the published preparation stays.
    let text = text("", &frozen.choices);
    let frozen = Recipe::parse("f.toml", &text).unwrap().config(3).unwrap();
    let pad = Transform::Pad {
        size: 224.into(),
        interpolation: shike_data::augment::Interpolation::Bicubic,
    };
    assert_eq!(
        frozen.eval_pipeline.transforms,
        [Transform::ExifOrientation, pad]
    );
}

#[test]
fn fields_of_pictures_are_those_of_both_pipelines() {
    let of = |text: &str| {
        let recipe = Recipe::parse("r.toml", text)?;
        recipe.config(10)
    };
    let config =
        of("image_size = 64\nmodel.arch = \"resnet18\"\nfit = \"squash\"\nrange = [0, 4095]")
            .unwrap();
    assert_eq!(config.eval_pipeline.decoding().range, [0, 4095]);
    assert_eq!(config.train_pipeline.fit(), Some(Fit::Squash));
    for (text, says) in [
        ("fit = \"stretch\"", "r.toml:1"),
        ("range = [5, 5]", "must be above"),
        ("range = [0, 70000]", "r.toml:1"),
        ("upright = 3", "r.toml:1"),
        ("backgroud = [1, 2, 3]", "did you mean `background`?"),
        (
            "fit = \"pad\"\ntrain_pipeline = []\neval_pipeline = []",
            "has no effect: both pipelines are spelt out",
        ),
    ] {
        let error = of(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

fn set_peak(schedule: &mut Schedule, lr: f64) {
    if let Schedule::WarmupCosine {
        base_lr, warmup_lr, ..
    } = schedule
    {
        *base_lr *= lr / *warmup_lr;
        *warmup_lr = lr;
    }
}

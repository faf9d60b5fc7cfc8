//! Recipes: what is left out, what is wrong and where, changes, another batch size.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shike_data::{Normalization, Pipeline, Sampling, Transform};
use shike_model::loss::{FocalLossConfig, LdamLossConfig};
use shike_model::network::resnet::ResnetConfig;
use shike_model::{ClassifierConfig, DktLossConfig, LossConfig, ShikeConfig};
use shike_train::recipe::{Recipe, RecipeError, scale_rates, to_toml};
use shike_train::{DataSource, Schedule, Stage2, TrainConfig};

fn parse(text: &str) -> Recipe {
    Recipe::parse("r.toml", text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn config(text: &str) -> TrainConfig {
    parse(text).config(10).unwrap()
}

#[test]
fn an_empty_recipe_is_the_papers_experiment() {
    let model = ShikeConfig::cifar(32, 10).unwrap();
    assert_eq!(config(""), TrainConfig::cifar(model, [180, 20]));
    let model = ShikeConfig::resnet(50, 10).unwrap();
    let expected = TrainConfig::imagenet(model, [180, 20]);
    assert_eq!(config("model.arch = \"resnet50\""), expected);
}

#[test]
fn what_is_named_is_spelt_out_and_what_is_left_out_has_its_default() {
    let text = r#"
        image_size = 96
        train_pipeline = "sim"
        normalization = "inaturalist"
        accumulation = 2
        lr_factors = { stem = 0.1, layer1 = 0.1 }
        [loader]
        batch_size = 64
        [model]
        arch = "resnext50"
        experts = 2
        classifier = { kind = "cosine", scale = 16 }
        [stage1]
        epochs = 30
        lr = 0.2
        schedule = { kind = "step", milestones = [10, 20] }
        [stage1.loss]
        non_target_weight = 5
        [stage2]
        method = "retrain"
        epochs = 8
        lr = 0.3
    "#;
    let config = config(text);
    let model = ShikeConfig::on(ResnetConfig::resnext50(), 10)
        .with_experts(2)
        .with_classifier(ClassifierConfig::Cosine { scale: 16.0 });
    let mut expected = TrainConfig::imagenet(model, [30, 8]);
    expected.train_pipeline = Pipeline::sim(96);
    expected.eval_pipeline = Pipeline::photo_eval(96);
    expected.normalization = Normalization::INATURALIST;
    expected.accumulation = 2;
    expected.loader.batch_size = 64;
    expected.lr_factors = config.lr_factors.clone();
    assert_eq!(config.lr_factors.len(), 2);
    expected.stage1.schedule = Schedule::Step {
        base_lr: 0.2 / 3.0,
        warmup_lr: 0.2,
        warmup_epochs: 0,
        milestones: vec![10, 20],
        gamma: 0.1,
    };
    expected.stage1.loss = LossConfig::Dkt(DktLossConfig::default().with_non_target_weight(5.0));
    let Some(Stage2::Retrain(stage2)) = &mut expected.stage2 else {
        panic!("SHIKE has a stage 2");
    };
    // The first rate keeps its ratio to the peak; half of 8 epochs are warm-up.
    stage2.schedule.set_peak(0.3);
    assert_eq!(config, expected);
}

#[test]
fn methods_have_the_defaults_of_their_papers() {
    let plain = "[model]\nplain = true\n";
    let all = config(plain);
    assert_eq!(all.stage1.loss, LossConfig::cross_entropy());
    assert_eq!((all.stage2, all.stage1.epochs), (None, 180));

    let Some(Stage2::Lws(lws)) =
        config(&format!("{plain}[stage2]\nmethod = \"lws\"\nepochs = 10")).stage2
    else {
        panic!("LWS was asked for");
    };
    assert_eq!((lws.epochs, lws.loss), (10, LossConfig::cross_entropy()));
    assert_eq!(lws.sampling, Sampling::ClassBalanced);
    let tau = config(&format!("{plain}[stage2]\nmethod = \"tau_norm\"")).stage2;
    assert_eq!(tau, Some(Stage2::TauNorm { taus: vec![] }));
    assert_eq!(config("[stage2]\nepochs = 0").stage2, None);

    let text = "[stage1.loss]\nkind = \"ldam\"\nmax_margin = 0.3";
    let ldam = LossConfig::Ldam(LdamLossConfig::default().with_max_margin(0.3));
    assert_eq!(config(text).stage1.loss, ldam);
    // The order of keys does not matter.
    let text = "[stage1.loss]\ngamma = 1\nkind = \"focal\"";
    let focal = LossConfig::Focal(FocalLossConfig::default().with_gamma(1.0));
    assert_eq!(config(text).stage1.loss, focal);
}

#[test]
fn the_configuration_of_a_run_is_a_recipe() {
    let model = ShikeConfig::on(ResnetConfig::imagenet(10).unwrap(), 7).with_experts(2);
    let mut expected = TrainConfig::imagenet(model, [4, 3]);
    expected.train_pipeline = Pipeline::randcls(64);
    expected.eval_pipeline = Pipeline::photo_eval(64);
    expected.model.classifier = ClassifierConfig::Linear;
    expected.stage1.loss = LossConfig::Focal(FocalLossConfig::default());
    let text = toml::to_string(&expected).unwrap();
    assert_eq!(parse(&text).config(99).unwrap(), expected);

    let short = to_toml(&expected).unwrap();
    assert!(
        short.contains("arch = \"resnet10\"") && short.contains("\"randcls\""),
        "{short}"
    );
    assert!(short.lines().count() < text.lines().count());
    assert_eq!(parse(&short).config(7).unwrap(), expected);
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let texts = [
        "",
        "[model]\narch = \"resnet18\"\nplain = true",
        "[model]\nplain = true\n[stage2]\nmethod = \"tau_norm\"\ntaus = [0.5, 1]",
        "[model]\nplain = true\n[stage2]\nmethod = \"tau_norm\"",
        "[model]\nexperts = 1\nfused_layers = [2]\nclassifier = \"linear\"\n[stage2]\nmethod = \"lws\"",
        "[stage2]\nepochs = 0",
        "bad_images = { skip = { max_share = 0.1 } }\nclip_norm = 1\nfreeze = [\"stem\"]\nimage_size = 64",
        "[model.backbone]\nconv_init = \"FanIn\"\nstem = { channels = 8, kind = \"Cifar\" }\nstages = [{ \
         channels = 8, blocks = 1, stride = 1, block = \"Basic\" }]",
    ];
    for text in texts {
        let expected = config(text);
        let written = to_toml(&expected).unwrap();
        for old in ["FanIn", "Cifar", "Basic", "Cosine", "Linear", "ElementMean"] {
            assert!(!written.contains(old), "{written}");
        }
        let read = parse(&written);
        assert_eq!(read.config(10).unwrap(), expected, "{written}");
    }
    let mut infinite = config("");
    infinite.checkpoint_seconds = f64::INFINITY;
    let error = to_toml(&infinite).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
}

#[test]
fn mistakes_are_named_with_their_line_and_what_would_be_right() {
    let cases = [
        // Names.
        (
            "# a comment\nacumulation = 2",
            "r.toml:2: unknown field `acumulation` in a recipe: did you mean `accumulation`?",
        ),
        (
            "seed = 1\n\n[stag1]\nepochs = 2",
            "r.toml:3: unknown field `stag1` in a recipe: did you mean `stage1`?",
        ),
        (
            "batch_size = 64",
            "r.toml:1: unknown field `batch_size` in a recipe: did you mean `loader.batch_size`?",
        ),
        (
            "lr = 0.1",
            "r.toml:1: unknown field `lr` in a recipe: did you mean `stage1.lr`?",
        ),
        (
            "[stage1]\nepochs = 3\nsampling = \"instance\"\nepoch = 4",
            "r.toml:4: unknown field `epoch` in [stage1]: did you mean `epochs`?",
        ),
        (
            "[stage1.loss]\nkind = \"focal\"\ngama = 2",
            "r.toml:3: unknown field `gama` in [stage1.loss]: did you mean `gamma`?",
        ),
        (
            "[stage1]\nepochs = 2\n[stage1.loss]\nkind = \"ldam\"\nweights = { kind = \
             \"effective_number\", bet = 0.9 }",
            "r.toml:5: unknown field `bet` in [stage1.loss.weights]: did you mean `beta`?",
        ),
        (
            "train_pipeline = [\n  { kind = \"horizontal_flip\", p = 0.5 },\n  { kind = \
             \"random_crop\", size = 32, pading = 4 },\n]",
            "r.toml:3: unknown field `pading` in [train_pipeline[1]]: did you mean `padding`?",
        ),
        (
            "[model]\narch = \"resnet50\"\nexpert = 3",
            "r.toml:3: unknown field `expert` in [model]: did you mean `experts`?",
        ),
        (
            "[model.backbone]\nconv_init = \"FanIn\"\nstages = [{ channels = 8, blocks = 1, stride \
             = 1, block = \"Basic\", strides = 2 }]\nstem = { channels = 8, kind = \"Cifar\" }",
            "r.toml:3: unknown field `strides` in [model.backbone.stages[0]]: did you mean `stride`?",
        ),
        (
            "[model]\nclassifier = { kind = \"cosin\" }",
            "r.toml:2: model.classifier.kind = \"cosin\": did you mean `cosine`?",
        ),
        (
            "[model]\nclassifier = { kind = \"linear\", scale = 3 }",
            "r.toml:2: unknown field `scale` in [model.classifier]: ",
        ),
        (
            "[data]\nkind = \"lists\"\ntrain = \"a.txt\"\ntets = \"b.txt\"",
            "r.toml:4: unknown field `tets` in [data]: did you mean `test`?",
        ),
        (
            "[dataset]\nname = \"x\"\n[[dataset.splits]]\npart = \"train\"\nimages = 1\nlinse = 4",
            "r.toml:6: unknown field `linse` in [dataset.splits[0]]: did you mean `list`?",
        ),
        // Values that have names.
        (
            "[stage1.loss]\nkind = \"focall\"",
            "r.toml:2: stage1.loss.kind = \"focall\": did you mean `focal`?",
        ),
        (
            "[stage1]\nsampling = \"class-balanced\"",
            "r.toml:2: stage1.sampling = \"class-balanced\": did you mean `class_balanced`?",
        ),
        (
            "[model]\nexperts = 2\narch = \"resnet51\"",
            "r.toml:3: model.arch = \"resnet51\": did you mean `resnet5",
        ),
        (
            "train_pipeline = \"rancls\"",
            "r.toml:1: train_pipeline = \"rancls\": did you mean `randcls`?",
        ),
        (
            "train_pipeline = [{ kind = \"cut_out\", size = 3 }]",
            "r.toml:1: train_pipeline[0].kind = \"cut_out\": did you mean `cutout`?",
        ),
        (
            "normalization = \"places\"",
            "r.toml:1: normalization = \"places\": it must be one of cifar10, imagenet, inaturalist",
        ),
        (
            "[stage2]\nmethod = \"crt\"",
            "r.toml:2: stage2.method = \"crt\": it must be one of retrain, lws, tau_norm",
        ),
        (
            "[stage1.schedule]\nkind = \"steps\"",
            "r.toml:2: stage1.schedule.kind = \"steps\": did you mean `step`?",
        ),
        // Types.
        (
            "[stage1]\nepochs = \"ten\"",
            "r.toml:2: stage1.epochs: it is string \"ten\", but must be a whole number, 0 or more",
        ),
        (
            "[stage1]\nepochs = -1",
            "r.toml:2: stage1.epochs: it is integer `-1`, but must be a whole number, 0 or more",
        ),
        (
            "seed = 2\n[stage1.loss]\ngamma = \"two\"\nkind = \"focal\"",
            "r.toml:3: stage1.loss.gamma: it is string \"two\", but must be a number",
        ),
        (
            "[stage1]\nlr = \"fast\"",
            "r.toml:2: stage1.lr: it is string \"fast\", but must be a number",
        ),
        (
            "train_pipeline = [{ kind = \"cutout\", size = [3] }]",
            "r.toml:1: train_pipeline[0].size",
        ),
        (
            "freeze_batch_norm = 1",
            "r.toml:1: freeze_batch_norm: it is integer `1`, but must be true or false",
        ),
        (
            "[lr_factors]\nstem = 0.1\nneck = 0.1",
            "r.toml:3: lr_factors.neck: part: neck is not possible; it must be stem, layer1",
        ),
        ("[stage1]\nloss = 3", "r.toml:2: stage1.loss: "),
        ("momentum = nan", "r.toml:1: nan is no number"),
        // Fields that have to be there, or must not.
        (
            "[stage1]\nepochs = 30\n[stage1.schedule]\nkind = \"step\"",
            "r.toml:3: [stage1.schedule] needs the field `milestones`",
        ),
        (
            "train_pipeline = [\n{ kind = \"cutout\", size = 3 },\n{ kind = \"random_crop\", size = 3 }]",
            "r.toml:3: [train_pipeline[1]] needs the field `padding`",
        ),
        (
            "[data]\nkind = \"lists\"",
            "r.toml:1: [data] needs the field `train`",
        ),
        // In a table within one that has a kind, where other fields are called the same.
        (
            "[stage2]\nmethod = \"retrain\"\nepochs = 9\n[stage2.schedule]\nkind = \"step\"",
            "r.toml:4: [stage2.schedule] needs the field `milestones`",
        ),
        (
            "[stage2]\nmethod = \"retrain\"\nepochs = 9\n[stage2.loss]\nkind = \"dkt\"\nepochs = 9",
            "r.toml:6: unknown field `epochs` in [stage2.loss]",
        ),
        (
            "[stage2]\nmethod = \"retrain\"\nepochs = 9\nsampling = \"instance\"\n[stage2.loss]\nkind = \"instance\"",
            "r.toml:6: stage2.loss.kind = \"instance\": ",
        ),
        // Lists and tables with more than is read.
        (
            "seed = 1\nnormalization = { mean = [0.1, 0.2, 0.3, 0.4], std = [1, 1, 1] }",
            "r.toml:2: normalization: ",
        ),
        (
            "seed = 1\nbad_images = { skip = { max_share = 0.1 }, zeal = 1 }",
            "r.toml:2: bad_images: ",
        ),
        (
            "[stage1]\nlr = 0.1\nschedule = { kind = \"constant\", lr = 0.2 }",
            "r.toml:3: stage1.schedule.lr: `lr` and `schedule.lr` are the same rate",
        ),
        // TOML.
        ("[stage1\nepochs = 3", "r.toml:1: "),
        ("seed = 1\nseed = 2", "r.toml:2: "),
        ("seed = \n", "r.toml:1: "),
        // Ranges.
        (
            "seed = 3\noptimizer.momentum = 1.5",
            "r.toml:2: optimizer.momentum = 1.5: it must be in [0, 1)",
        ),
        (
            "[stage1]\nepochs = 9\n[stage1.loss]\nkind = \"focal\"\ngamma = -1",
            "r.toml:5: stage1.loss: gamma = -1: it must be 0 or more",
        ),
        (
            "[stage1]\nepochs = 9\nlr = -0.1",
            "r.toml:3: stage1: schedule: ",
        ),
        (
            "[stage1]\nepochs = 9\n[stage1.schedule]\neta_min = 3",
            "r.toml:4: stage1: schedule: eta_min = 3",
        ),
        (
            "train_pipeline = [\n{ kind = \"cutout\", size = 3 },\n{ kind = \"horizontal_flip\", p = 2 }]",
            "r.toml:3: train_pipeline: transforms[1] (horizontal_flip).p: is 2",
        ),
        (
            "[thresholds]\nmany_above = 5\nfew_below = 10",
            "r.toml:1: thresholds: ",
        ),
        (
            "[stage1]\nepochs = 9\n[stage1.mixing]\nmixup_alpha = -1",
            "r.toml:4: stage1.mixing: ",
        ),
        (
            "[stage1.mixing]\nmixup = 0.2",
            "r.toml:2: unknown field `mixup` in [stage1.mixing]: did you mean `mixup_alpha`?",
        ),
        (
            "[loader]\nbatch_size = 0",
            "r.toml:2: loader.batch_size = 0",
        ),
        ("[model]\nexperts = 0", "r.toml:2: model: experts: 0"),
        // Fields that would have no effect.
        (
            "[stage1.loss]\nkind = \"dkt\"\nweights = { kind = \"inverse_frequency\" }",
            "r.toml:3: unknown field `weights` in [stage1.loss]: only the kinds cross_entropy, focal, ldam have it",
        ),
        (
            "[stage2]\nmethod = \"retrain\"\nepochs = 3\ntaus = [1]",
            "r.toml:4: unknown field `taus` in [stage2]: only the kind tau_norm has it",
        ),
        (
            "[stage1]\nepochs = 9\n[stage1.schedule]\nmilestones = [3]",
            "r.toml:4: unknown field `milestones` in [stage1.schedule]: only the kind step has it",
        ),
        (
            "[stage1]\nepochs = 9\n[stage1.schedule]\nkind = \"step\"\nmilestones = [3, 9]",
            "r.toml:5: stage1: schedule: milestones = [3, 9]: must be below the 9 epochs",
        ),
        (
            "[stage2]\nlr = 0.1\nepochs = 0",
            "r.toml:2: stage2.lr: it has no effect with stage2.epochs = 0",
        ),
        (
            "[stage2]\nepochs = 0\n[stage1]\nepochs = 9\n[freeze_batch_norm]",
            "r.toml:5: ",
        ),
        (
            "freeze_batch_norm = true\n[stage2]\nepochs = 0",
            "r.toml:1: freeze_batch_norm = true: it must be false where no stage 2 trains",
        ),
        (
            "freeze = [\"stem\"]\n[lr_factors]\nstem = 0.1",
            "r.toml:2: lr_factors = stem: it must be of parts that are trained",
        ),
        (
            "[stage1.mixing]\nprobability = 0.5",
            "r.toml:2: stage1.mixing: ",
        ),
        (
            "[stage2.mixing]\nmixup_alpha = 1\nswitch_probability = 0.9",
            "r.toml:3: stage2.mixing: ",
        ),
        (
            "[model]\nplain = true\nexperts = 2",
            "r.toml:3: model.experts: a plain network is one path without fusion",
        ),
        (
            "seed = 1\nimage_size = 96\ntrain_pipeline = []\neval_pipeline = [{ kind = \"center_crop\", size = 64 }]",
            "r.toml:2: image_size: 96 has no effect: both pipelines are spelt out",
        ),
        (
            "[model]\nplain = true\n[stage2]\nmethod = \"retrain\"\nepochs = 2\n[stage1.loss]\nkind = \"ldam\"",
            "r.toml:7: stage1.loss: kind = ldam",
        ),
    ];
    let mut wrong = vec![];
    for (text, expected) in cases {
        let error = Recipe::parse("r.toml", text).expect_err(text).to_string();
        if !error.starts_with(expected) {
            wrong.push(format!("{text}\n  it said {error}\n  and not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let error = Recipe::read("nowhere.toml").unwrap_err();
    assert!(matches!(error, RecipeError::Read { .. }), "{error}");
    assert!(error.to_string().starts_with("nowhere.toml: "), "{error}");
}

const LISTS: &str = r#"
    [stage1]
    epochs = 30
    lr = 0.2
    [stage1.loss]
    kind = "dkt"
    non_target_weight = 5.0
    [stage2]
    method = "retrain"
    epochs = 7
    loss = { kind = "balanced_softmax" }
    [data]
    kind = "lists"
    train = "train.txt"
    test = "lists/test.txt"
"#;

#[test]
fn any_field_can_be_changed() {
    let changed = |assignments: &[&str]| {
        let mut recipe = parse(LISTS);
        recipe.set(assignments).unwrap();
        recipe
    };
    let config = |assignments: &[&str]| changed(assignments).config(10).unwrap();
    assert_eq!(config(&["stage1.epochs=12"]).stage1.epochs, 12);
    assert_eq!(config(&["stage1.lr = 0.5"]).stage1.schedule.peak(), 0.5);
    assert_eq!(
        config(&["stage2.sampling=class_balanced"])
            .stage(2)
            .unwrap()
            .sampling,
        Sampling::ClassBalanced
    );
    assert_eq!(
        config(&["weights=a/b.pth"]).weights.as_deref(),
        Some(Path::new("a/b.pth"))
    );
    // Another kind takes the parameters of the old one away, in any order.
    let expected = LossConfig::Focal(FocalLossConfig::default().with_gamma(1.0));
    for order in [
        ["stage1.loss.kind=focal", "stage1.loss.gamma=1"],
        ["stage1.loss.gamma=1", "stage1.loss.kind=\"focal\""],
    ] {
        assert_eq!(config(&order).stage1.loss, expected);
    }
    assert_eq!(
        config(&["stage1.loss={ kind = \"focal\", gamma = 1 }"])
            .stage1
            .loss,
        expected
    );
    // The same kind keeps them.
    let expected = LossConfig::Dkt(DktLossConfig::default().with_non_target_weight(5.0));
    assert_eq!(config(&["stage1.loss.kind=dkt"]).stage1.loss, expected);
    // Another method trains as long as the old one, with a loss of its own.
    let linear = ["stage2.method=lws", "model.classifier=linear"];
    let Some(Stage2::Lws(stage2)) = config(&linear).stage2 else {
        panic!("LWS was asked for");
    };
    assert_eq!(
        (stage2.epochs, stage2.loss),
        (7, LossConfig::cross_entropy())
    );
    let tau = [
        "stage2.taus=[0.5]",
        "stage2.method=tau_norm",
        "model.classifier=linear",
    ];
    assert_eq!(
        config(&tau).stage2,
        Some(Stage2::TauNorm { taus: vec![0.5] })
    );
    let list = [
        "train_pipeline=[{ kind = \"cutout\", size = 4 }]",
        "train_pipeline[0].size=6",
    ];
    assert_eq!(
        config(&list).train_pipeline.transforms,
        [Transform::Cutout { size: 6 }]
    );

    let layout = changed(&["data.test=other.txt", "data.root=images"])
        .layout()
        .unwrap()
        .unwrap();
    let expected = DataSource::Lists {
        root: "d/images".into(),
        train: "d/train.txt".into(),
        val: None,
        test: Some("d/other.txt".into()),
        class_names: None,
        groups: None,
        columns: Default::default(),
    };
    assert_eq!(layout.below(Path::new("d")), expected);
    let cifar = changed(&[
        "data={ kind = \"cifar\", set = \"cifar10\" }",
        "data.imbalance_factor=50",
    ]);
    let layout = cifar.layout().unwrap().unwrap();
    assert!(matches!(
        layout,
        DataSource::Cifar {
            imbalance_factor: 50.0,
            ..
        }
    ));

    let cases = [
        (
            "stage1.epoch=3",
            "stage1.epoch=3: unknown field `epoch` in [stage1]: did you mean `epochs`?",
        ),
        (
            "stage1.epochs=ten",
            "stage1.epochs=ten: stage1.epochs: it is string \"ten\"",
        ),
        (
            "stage1.loss.weights={ kind = \"inverse_frequency\" }",
            "stage1.loss.weights={ kind = \"inverse_frequency\" }: unknown field `weights` in [stage1.loss]: only",
        ),
        (
            "stage1.loss.kind=focl",
            "stage1.loss.kind=focl: stage1.loss.kind = \"focl\": did you mean `focal`?",
        ),
        (
            "optimizer.momentum=2",
            "optimizer.momentum=2: optimizer.momentum = 2: it must be",
        ),
        ("momentum", "momentum: it must be PATH=VALUE"),
        (
            "stage1..epochs=3",
            "stage1..epochs=3: `stage1..epochs` is no path",
        ),
        ("seed=3 4", "seed=3 4: the value \"3 4\" is no TOML"),
        ("seed=\"a", "seed=\"a: the value"),
        ("stage1.loss=[1", "stage1.loss=[1: the value"),
    ];
    for (assignment, expected) in cases {
        let mut recipe = parse(LISTS);
        let error = recipe.set(&[assignment]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{assignment}\n{error}");
        assert_eq!(recipe.config(10).unwrap(), parse(LISTS).config(10).unwrap());
    }
    // A network becomes plain as a whole, but for what is set beside it.
    let plain = config(&["model.plain=true"]);
    assert!(plain.model.is_plain());
    assert_eq!(plain.stage1.loss, LossConfig::cross_entropy());
    let focal = LossConfig::Focal(FocalLossConfig::default());
    let both = config(&["stage1.loss.kind=focal", "model.plain=true"]);
    assert_eq!((both.stage1.loss, both.model.experts), (focal, 1));
    for (assignments, expected) in [
        (
            &["stage2.epochs=0", "stage2.lr=0.1"][..],
            "stage2.lr=0.1: stage2.lr: it has no effect with stage2.epochs = 0",
        ),
        (
            &[
                "stage1.schedule.base_lr=0.1",
                "stage1.schedule.warmup_epochs=0",
            ],
            "stage1.schedule.base_lr=0.1: stage1.schedule.base_lr: it has no effect",
        ),
        (
            &["model.experts=3", "model.plain=true"],
            "model.experts=3: model.experts: a plain",
        ),
    ] {
        let error = parse(LISTS).set(assignments).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{assignments:?}\n{error}");
    }
    assert_eq!(config(&["stage2.epochs=0"]).stage2, None);
    let mut recipe = parse("train_pipeline = [{ kind = \"cutout\", size = 4 }]");
    let error = recipe.set(&["train_pipeline[3].size=1"]).unwrap_err();
    assert!(error.to_string().contains("is a list of 1"), "{error}");
}

fn rates(config: &TrainConfig, stage: usize) -> Vec<f64> {
    let stage = config.stage(stage).unwrap();
    (0..stage.epochs)
        .map(|epoch| stage.schedule.lr(epoch))
        .collect()
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-12, "{a} is not {b}");
}

#[test]
fn rates_follow_the_images_of_a_step() {
    let text = "loader.batch_size = 128\n[stage1]\nepochs = 20\nlr = 0.15";
    let before = config(text);
    let batch = parse(text).batch();
    assert_eq!(batch, 128);

    // Half as many images: half of every rate.
    let mut half = before.clone();
    half.loader.batch_size = 64;
    let scaling = scale_rates(&mut half, batch, [false, false]).unwrap();
    assert_eq!((scaling.recipe, scaling.now), (128, 64));
    for stage in [1, 2] {
        let pairs = rates(&before, stage).into_iter().zip(rates(&half, stage));
        pairs.for_each(|(a, b)| close(b, a / 2.0));
    }
    let said = scaling.to_string();
    assert!(
        said.contains("64 images instead of the recipe's 128"),
        "{said}"
    );
    assert!(said.contains("stage 1 0.15 → 0.075"), "{said}");

    // Half of a batch, twice a step: nothing changes.
    let mut same = before.clone();
    same.loader.batch_size = 64;
    same.accumulation = 2;
    assert_eq!(scale_rates(&mut same, batch, [false, false]), None);

    // Four times as many: the warm-up begins where it began and ends at the multiple.
    let mut large = before.clone();
    large.loader.batch_size = 512;
    scale_rates(&mut large, batch, [false, true]).unwrap();
    large.validate().unwrap();
    let (small, scaled) = (rates(&before, 1), rates(&large, 1));
    close(scaled[0], small[0]);
    close(scaled[5], 4.0 * small[5]);
    close(scaled[19], 4.0 * small[19]);
    assert!(scaled[..6].is_sorted());
    // Stage 2 was given.
    assert_eq!(rates(&before, 2), rates(&large, 2));
}

#[test]
fn a_schedule_without_warm_up_gets_one_for_a_higher_rate() {
    let text =
        "[stage1]\nepochs = 30\nlr = 0.1\nschedule = { kind = \"step\", milestones = [4, 20] }";
    let mut config = config(text);
    let before = rates(&config, 1);
    config.loader.batch_size *= 2;
    scale_rates(&mut config, 128, [false, false]).unwrap();
    config.validate().unwrap();
    let after = rates(&config, 1);
    close(after[0], before[0]);
    assert!(after[..4].is_sorted() && after[1] > after[0]);
    // The first milestone ends the warm-up; from there on every rate is doubled.
    for epoch in 4..30 {
        close(after[epoch], 2.0 * before[epoch]);
    }
    let mut constant = parse("[stage1]\nschedule = { kind = \"constant\", lr = 0.1 }")
        .config(10)
        .unwrap();
    constant.loader.batch_size = 64;
    scale_rates(&mut constant, 128, [false, false]).unwrap();
    assert_eq!(constant.stage1.schedule, Schedule::Constant { lr: 0.05 });
}

#[test]
fn rates_that_were_set_are_known() {
    let mut recipe = parse(LISTS);
    assert_eq!(recipe.sets_rates(), [false, false]);
    recipe
        .set(&["stage2.schedule.warmup_epochs=2", "loader.batch_size=8"])
        .unwrap();
    assert_eq!(recipe.sets_rates(), [false, false]);
    assert_eq!(recipe.batch(), 128);
    recipe.set(&["stage2.lr=0.1"]).unwrap();
    assert_eq!(recipe.sets_rates(), [false, true]);
    recipe
        .set(&[
            "stage1.schedule={ kind = \"constant\", lr = 1 }",
            "stage1.lr=0.1",
        ])
        .unwrap_err();
}

#[test]
fn a_stage_of_another_length_keeps_the_shape_of_its_schedule() {
    let mut step = config(
        "[stage1]\nepochs = 30\nlr = 0.1\nschedule = { kind = \"step\", milestones = [10, 20], warmup_epochs = 5 }",
    );
    step.stage1.set_epochs(90);
    let Schedule::Step {
        milestones,
        warmup_epochs,
        ..
    } = &step.stage1.schedule
    else {
        panic!("it was a step schedule");
    };
    assert_eq!((milestones.as_slice(), *warmup_epochs), (&[30, 60][..], 5));
    for epochs in 1..12 {
        step.stage1.set_epochs(epochs);
        step.validate().unwrap();
    }
    let mut cosine = config("");
    cosine.stage1.set_epochs(14);
    let model = ShikeConfig::cifar(32, 10).unwrap();
    assert_eq!(cosine.stage1, TrainConfig::cifar(model, [14, 20]).stage1);
}

#[test]
fn a_mistake_in_a_long_recipe_is_found_soon() {
    // Reading each of its beginnings would take hours.
    let split = "[[dataset.splits]]\npart = \"train\"\nimages = 5\nlargest = 4\nsmallest = 1\n";
    let text = format!(
        "[dataset]\nname = \"many\"\n{}[stage1]\nepochs = \"ten\"",
        split.repeat(20_000)
    );
    let error = Recipe::parse("long.toml", &text).unwrap_err().to_string();
    let expected = "long.toml:100004: stage1.epochs: it is string \"ten\"";
    assert!(error.starts_with(expected), "{error}");
}

/// Recipes of random fields, most of which a run may have together.
fn recipe_text() -> impl Strategy<Value = String> {
    let field = |key: &'static str, value: BoxedStrategy<String>| {
        let line = move |value| format!("{key} = {value}\n");
        prop::option::of(value.prop_map(line)).prop_map(Option::unwrap_or_default)
    };
    let one_of = |values: &'static [&str]| {
        let value = prop::sample::select(values);
        value.prop_map(str::to_owned).boxed()
    };
    let whole = |range: std::ops::Range<u64>| range.prop_map(|n| n.to_string()).boxed();
    let float = |range: std::ops::Range<f64>| range.prop_map(|x| format!("{x:?}")).boxed();
    vec![
        field("seed", whole(0..1 << 53)),
        field("accumulation", whole(1..5)),
        field("clip_norm", float(1e-3..100.0)),
        field("ema_decay", float(0.5..0.999_99)),
        field("evaluate_every", whole(1..9)),
        field("checkpoint_seconds", float(0.0..1e5)),
        field("keep_checkpoints", whole(1..5)),
        field("freeze_batch_norm", one_of(&["true", "false"])),
        field("precision", one_of(&["\"f32\"", "\"bf16\""])),
        field("image_size", whole(16..400)),
        field(
            "train_pipeline",
            one_of(&["\"cifar\"", "\"sim\"", "\"randcls\""]),
        ),
        field(
            "normalization",
            one_of(&[
                "\"imagenet\"",
                "{ mean = [0.1, 0.2, 0.3], std = [1, 2, 3] }",
            ]),
        ),
        field("loader.batch_size", whole(2..999)),
        field("loader.workers", whole(0..65)),
        field("lr_factors.stem", float(1e-9..1.0)),
        field("thresholds.many_above", whole(30..300)),
        field(
            "bad_images",
            one_of(&["\"fail\"", "{ skip = { max_share = 0.015 } }"]),
        ),
        field("model.arch", one_of(&["\"resnet8\"", "\"resnext50\""])),
        field("model.experts", whole(1..5)),
        field(
            "model.classifier",
            one_of(&["\"linear\"", "{ kind = \"cosine\", scale = 20.5 }"]),
        ),
        field("stage1.epochs", whole(7..500)),
        field("stage1.lr", float(1e-9..3.0)),
        field("stage1.sampling", one_of(&["\"class_balanced\""])),
        field(
            "stage1.loss",
            one_of(&[
                "{ kind = \"focal\", gamma = 1.3 }",
                "{ kind = \"balanced_softmax\" }",
                "{ kind = \"logit_adjustment\", tau = 0.7 }",
                "{ kind = \"cross_entropy\", label_smoothing = 0.1 }",
            ]),
        ),
        field("stage2.epochs", whole(6..60)),
        field("stage2.method", one_of(&["\"crt\"", "\"retrain\""])),
    ]
    .prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(2304),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_configuration_is_written_and_read_as_it_was(text in recipe_text()) {
        let read = Recipe::parse("r.toml", &text).and_then(|recipe| recipe.config(10));
        prop_assume!(read.as_ref().is_ok_and(|config| config.validate().is_ok()));
        let config = read.unwrap();
        let written = to_toml(&config).unwrap();
        let read = parse(&written).config(10).unwrap();
        prop_assert_eq!(to_toml(&read).unwrap(), written);
        prop_assert_eq!(read, config);
    }
}

//! Networks for large images against torchvision and timm: parameter counts, logits, gradients,
//! import and export. Weights are filled by a formula that `torchvision_reference.py` has too; it
//! printed the numbers below with PyTorch 2.15 and torchvision 0.29.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;
mod formula;

use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use common::*;
use formula::values;
use safetensors::SafeTensors;
use shike_model::loss::{CrossEntropyLossConfig, Loss as _, LossContext};
use shike_model::network::resnet::{BlockKind, LayerConfig, ResnetConfig, StemConfig, StemKind};
use shike_model::weights::{self, StateDict, WeightsError};
use shike_model::{DktLossConfig, Head, Shike, ShikeConfig};

/// The state dict of a network with this one's names and shapes, filled by the formula.
fn filled(model: &Shike) -> StateDict {
    weights::state_dict(model)
        .into_iter()
        .map(|(name, data)| {
            let filled = values(&name, data.shape().as_slice());
            (name, filled)
        })
        .collect()
}

/// A plain network of one block a stage, in float64.
fn small(block: impl Fn(usize) -> (usize, BlockKind), device: &Device) -> Shike {
    let stages = [64, 128, 256, 512].into_iter().map(|planes| {
        let (channels, kind) = block(planes);
        LayerConfig::new(channels, 1, if planes == 64 { 1 } else { 2 }).with_block(kind)
    });
    let stem = StemConfig::new(64, StemKind::ImageNet);
    let config = ShikeConfig::plain(ResnetConfig::new(stem, stages.collect()), 5);
    let model = config.init(device).unwrap().map(&mut ToF64);
    let state = filled(&model);
    weights::load_state_dict(model, state, Path::new("formula")).unwrap()
}

/// What PyTorch printed for a small network.
struct Expected {
    eval: [f64; 10],
    loss: f64,
    /// Norm and product with the probe of a tensor's gradient.
    gradients: [(&'static str, f64, f64); 4],
    running_var: f64,
}

struct Gradients<'a> {
    gradients: &'a burn::tensor::Gradients,
    /// In module order, as in a state dict.
    found: Vec<Option<Vec<f64>>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.gradients);
        self.found.push(gradient.map(floats));
    }
}

fn check(block: impl Fn(usize) -> (usize, BlockKind), expected: &Expected) {
    let input = |device: &Device| {
        let shape = [2, 3, 75, 64];
        Tensor::<4>::from_data(values("input", &shape), (device, DType::F64))
    };
    let device = Device::flex();
    let logits = small(&block, &device).forward(input(&device), Head::Stage1);
    let found = floats(logits.mean());
    assert_below("eval logits", max_abs(&found, &expected.eval), 1e-10);

    let device = device.autodiff();
    let model = small(&block, &device);
    let labels = Tensor::<1, Int>::from_data([1, 3], &device);
    let logits = model.forward(input(&device), Head::Stage1);
    let loss = CrossEntropyLossConfig::default()
        .init(&LossContext::new(&[]))
        .unwrap()
        .forward(&logits, labels)
        .per_expert;
    let loss = loss.sum();
    let value = floats(loss.clone())[0];
    assert_rel("training loss", value, expected.loss, 1e-10);

    let gradients = loss.backward();
    let mut visitor = Gradients {
        gradients: &gradients,
        found: vec![],
    };
    model.visit(&mut visitor);
    let state = weights::state_dict(&model);
    for (name, norm, dot) in expected.gradients {
        let at = state.iter().position(|(key, _)| key == name).unwrap();
        let gradient = visitor.found[at].clone().unwrap();
        let probe = values("probe", state[at].1.shape().as_slice());
        let probe: Vec<f64> = probe.try_into_vec().unwrap();
        let product: f64 = gradient.iter().zip(&probe).map(|(a, b)| a * b).sum();
        let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert_rel(name, size, norm, 1e-9);
        assert_below(name, (product - dot).abs() / norm, 1e-9);
    }
    let (_, running) = state
        .iter()
        .find(|(name, _)| name == "layer4.0.bn2.running_var")
        .unwrap();
    let sum = running.iter::<f64>().sum();
    assert_rel("running variance", sum, expected.running_var, 1e-10);
}

#[test]
fn basic_blocks_agree_with_torchvision() {
    let expected = Expected {
        eval: [
            4.07819708824,
            2.30822539903,
            3.6889076018,
            2.63929114858,
            -2.49088126359,
            4.96216269576,
            2.13952790721,
            3.08083251283,
            2.50216545627,
            -2.67409062842,
        ],
        loss: 2.57005112479,
        gradients: [
            ("conv1.weight", 3.68403903058, 0.62262046062),
            ("layer2.0.conv2.weight", 1.3969109646, 0.0590861695776),
            (
                "layer3.0.downsample.0.weight",
                1.87125248168,
                0.0674555234602,
            ),
            ("layer4.0.bn2.weight", 0.191415113516, -0.0884775962489),
        ],
        running_var: 484.349441121,
    };
    check(|planes| (planes, BlockKind::Basic), &expected);
}

#[test]
fn bottlenecks_agree_with_torchvision() {
    let expected = Expected {
        eval: [
            1.998106658,
            2.18279042323,
            -4.27024598586,
            -1.24656039913,
            -1.36926632068,
            2.9398417533,
            2.33803873833,
            -4.39305752237,
            -1.34069446546,
            -1.0328502341,
        ],
        loss: 1.72648878218,
        gradients: [
            ("conv1.weight", 4.19985655708, 0.0429882870514),
            ("layer2.0.conv2.weight", 1.4564540485, 0.0874059076341),
            (
                "layer3.0.downsample.0.weight",
                3.54741032937,
                0.0479622024772,
            ),
            ("layer4.0.bn2.weight", 0.195912033622, -0.0870977493429),
        ],
        running_var: 488.610673439,
    };
    let block = |planes| {
        let block = BlockKind::Bottleneck {
            width: planes,
            groups: 1,
        };
        (4 * planes, block)
    };
    check(block, &expected);
}

#[test]
fn grouped_bottlenecks_agree_with_torchvision() {
    let expected = Expected {
        eval: [
            1.80553889651,
            2.39747841038,
            -4.23212020373,
            -1.33146829803,
            -1.23587945227,
            2.69546090671,
            2.57960449013,
            -4.38555017678,
            -1.45334638128,
            -1.19543828826,
        ],
        loss: 1.87206694361,
        gradients: [
            ("conv1.weight", 4.14770869833, 0.157069244833),
            ("layer2.0.conv2.weight", 0.333115863174, -0.123356422836),
            (
                "layer3.0.downsample.0.weight",
                3.64825701787,
                -0.026317257436,
            ),
            ("layer4.0.bn2.weight", 0.198605457148, 0.0315871023232),
        ],
        running_var: 982.232389107,
    };
    let block = |planes| {
        let block = BlockKind::Bottleneck {
            width: 2 * planes,
            groups: 32,
        };
        (4 * planes, block)
    };
    check(block, &expected);
}

/// Parameters as torchvision publishes them, and multiply-adds (its `_ops`, in units of 1e9).
#[test]
fn parameters_and_multiply_adds_are_the_published_ones() {
    let plain = |backbone| {
        let model = ShikeConfig::plain(backbone, 1000).init(&Device::flex());
        model.unwrap().describe([224, 224])
    };
    let resnet = |depth| ResnetConfig::imagenet(depth).unwrap();
    let cases = [
        (resnet(18), 11_689_512, 1.814),
        (resnet(34), 21_797_672, 3.664),
        (resnet(50), 25_557_032, 4.089),
        (resnet(101), 44_549_160, 7.801),
        (resnet(152), 60_192_808, 11.514),
        (ResnetConfig::resnext50(), 25_028_904, 4.23),
    ];
    for (backbone, params, ops) in cases {
        let summary = plain(backbone);
        assert_eq!(summary.params(), params);
        assert_below("ops", (summary.macs() as f64 / 1e9 - ops).abs(), 0.0006);
    }
    // ResNet-10 is not torchvision's: BasicBlock, [1, 1, 1, 1], counted with its class `ResNet`.
    assert_eq!(plain(resnet(10)).params(), 5_418_792);
}

#[test]
fn experts_fuse_layers_1_2_3_through_3_2_1_convolutions() {
    let config = ShikeConfig {
        experts: 5,
        ..ShikeConfig::resnet(10, 7).unwrap()
    };
    let device = Device::flex();
    let model = config.init(&device).unwrap();
    let convs = |k: usize| model.experts[k].fusion.as_ref().unwrap().convs.len();
    assert_eq!((0..5).map(convs).collect::<Vec<_>>(), [3, 2, 1, 3, 2]);
    let layers: Vec<_> = model.experts.iter().map(|e| e.fused_layer()).collect();
    assert_eq!(layers, [1, 2, 3, 1, 2].map(Some));
    let logits = model.forward(Tensor::ones([2, 3, 70, 64], &device), Head::Stage2);
    assert_eq!(logits.mean().dims(), [2, 7]);

    // Another cut of the same backbone.
    let config = ShikeConfig {
        shared_layers: 2,
        fused_layers: vec![2],
        ..ShikeConfig::resnet(10, 7).unwrap()
    };
    let model = config.init(&device).unwrap();
    assert_eq!(model.experts[0].layers.len(), 2);
    assert_eq!(model.experts[2].fusion.as_ref().unwrap().convs.len(), 2);
    let error = ShikeConfig::resnet(20, 7).unwrap_err().to_string();
    assert!(error.contains("10, 18, 34, 50, 101 or 152"), "{error}");
}

fn temporary_weights(config: &ShikeConfig) -> (tempfile::TempDir, PathBuf, StateDict) {
    let model = config.init(&Device::flex()).unwrap();
    let state = filled(&model);
    let model = weights::load_state_dict(model, state.clone(), Path::new("formula")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    weights::export(&model, &path, 3).unwrap();
    (folder, path, state)
}

#[test]
fn a_plain_network_starts_every_expert() {
    let resnet10 = || ResnetConfig::imagenet(10).unwrap();
    let (_folder, path, state) = temporary_weights(&ShikeConfig::plain(resnet10(), 9));
    let device = Device::flex();
    let model = ShikeConfig::on(resnet10(), 9).init(&device).unwrap();
    let before = weights::state_dict(&model);
    let (model, report) = weights::import_pretrained(model, &path).unwrap();
    assert_eq!(report.unused, ["fc.bias", "fc.weight"]);
    let after = weights::state_dict(&model);
    assert_eq!(report.loaded.len() + report.random.len(), after.len());
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        let source = match name.strip_prefix("layer4s.") {
            Some(rest) => format!("layer4.{}", rest.split_once('.').unwrap().1),
            None => name.clone(),
        };
        match state.get(&source) {
            Some(expected) => after.assert_eq(&expected.clone().convert::<f32>(), true),
            None => {
                let fusion = name.starts_with("shallow_exps");
                assert!(fusion || name.contains("classifiers"));
                assert!(report.random.contains(name), "{name}");
                if !(fusion && name.contains("conv.1.")) {
                    after.assert_eq(before, true);
                }
            }
        }
    }

    // The same network with another number of classes keeps its random classifier.
    let model = ShikeConfig::plain(resnet10(), 4).init(&device).unwrap();
    let (_, report) = weights::import_pretrained(model, &path).unwrap();
    assert_eq!(report.random, ["fc.weight", "fc.bias"]);
    let model = ShikeConfig::plain(resnet10(), 9).init(&device).unwrap();
    let (_, report) = weights::import_pretrained(model, &path).unwrap();
    assert_eq!(report.random, [""; 0]);
}

/// Fusion multiplies: noise at the start would drown what the weights know.
#[test]
fn at_the_first_step_every_expert_has_the_features_of_the_plain_network() {
    let resnet10 = || ResnetConfig::imagenet(10).unwrap();
    let (_folder, path, _) = temporary_weights(&ShikeConfig::plain(resnet10(), 9));
    let shape = [2, 3, 64, 64];
    for device in [Device::flex(), Device::flex().autodiff()] {
        let x = || Tensor::<4>::from_data(values("input", &shape), (&device, DType::F32));
        // On an autodiff device normalisation uses and moves its statistics.
        let plain = ShikeConfig::plain(resnet10(), 9).init(&device).unwrap();
        let plain = weights::import(plain, &path).unwrap();
        let expected = plain.features(x()).experts[0].pooled.to_data();
        let experts = ShikeConfig::on(resnet10(), 4).init(&device).unwrap();
        let (experts, _) = weights::import_pretrained(experts, &path).unwrap();
        let features = experts.features(x());
        for found in &features.experts {
            found.pooled.to_data().assert_eq(&expected, true);
        }
        if !device.is_autodiff() {
            continue;
        }
        // It leaves the identity at once.
        let labels = Tensor::<1, Int>::from_data([0, 1], &device);
        let logits = experts.forward(x(), Head::Stage1);
        let loss = DktLossConfig::default()
            .init(&LossContext::new(&[]))
            .unwrap()
            .forward(&logits, labels)
            .total();
        let gradients = loss.backward();
        for expert in &experts.experts {
            let last = &expert.fusion.as_ref().unwrap().convs.last().unwrap().bn;
            let gradient = last.gamma.val().grad(&gradients).unwrap();
            assert!(gradient.abs().max().into_scalar::<f32>() > 0.0);
        }
    }
}

#[test]
fn experts_start_from_experts_of_other_classes() {
    let on = |classes| ShikeConfig::on(ResnetConfig::imagenet(10).unwrap(), classes);
    let (_folder, path, state) = temporary_weights(&on(9));
    let model = on(4).init(&Device::flex()).unwrap();
    let (model, report) = weights::import_pretrained(model, &path).unwrap();
    // Fusion that is in the file is taken.
    let name = "shallow_exps.0.convs.StridedConv2.conv.1.weight";
    let after = weights::state_dict(&model);
    let (_, gamma) = after.iter().find(|(found, _)| found == name).unwrap();
    gamma.assert_eq(&state[name].clone().convert::<f32>(), true);
    let heads = |name: &String| name.contains("classifiers");
    assert!(report.random.iter().all(heads) && report.random.len() == 6);
    assert!(report.unused.iter().all(heads) && report.unused.len() == 6);

    // A part of one is not.
    let file = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let first = "shallow_exps.0.convs.StridedConv0.conv.0.weight";
    let kept = file.iter().filter(|(name, _)| *name != first);
    let part = safetensors::serialize(kept, None).unwrap();
    std::fs::write(&path, part).unwrap();
    let model = on(9).init(&Device::flex()).unwrap();
    let (model, report) = weights::import_pretrained(model, &path).unwrap();
    let fusion = |name: &String| name.starts_with("shallow_exps.0.");
    assert!(report.random.iter().all(fusion) && report.random.len() == 15);
    assert!(!report.loaded.iter().any(fusion));
    let after = weights::state_dict(&model);
    let (_, gamma) = after.iter().find(|(found, _)| found == name).unwrap();
    gamma.assert_eq(&TensorData::new(vec![0.0f32; 512], [512]), true);
    assert_eq!(report.unused.len(), 14);
}

#[test]
fn weights_of_another_network_are_an_error_that_lists_them() {
    let plain = |depth| ShikeConfig::plain(ResnetConfig::imagenet(depth).unwrap(), 9);
    let (_folder, path, _) = temporary_weights(&plain(18));
    let model = ShikeConfig::resnet(10, 9).unwrap().init(&Device::flex());
    let error = weights::import_pretrained(model.unwrap(), &path).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(mismatch.missing, [""; 0]);
    assert!(
        mismatch
            .unexpected
            .contains(&"layer1.1.conv1.weight".into())
    );

    let (_folder, path, _) = temporary_weights(&plain(10));
    let model = ShikeConfig::resnet(18, 9).unwrap().init(&Device::flex());
    let error = weights::import_pretrained(model.unwrap(), &path).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        mismatch
            .missing
            .contains(&"layer3.1.bn2.running_mean".into())
    );
}

/// `docs/TESTING.md` has the commands that make the folder.
#[test]
#[ignore = "needs weights made with PyTorch; see torchvision_reference.py"]
fn imported_weights_give_the_logits_of_torchvision_and_timm() {
    let folder = PathBuf::from(std::env::var("SHIKE_TORCHVISION").unwrap());
    let device = Device::flex();
    let shape = [2, 3, 96, 96];
    let x = Tensor::<4>::from_data(values("input", &shape), (&device, DType::F32));
    let resnet = |depth| ResnetConfig::imagenet(depth).unwrap();
    let cases = [
        ("resnet18", resnet(18)),
        ("resnet50", resnet(50)),
        ("resnet152", resnet(152)),
        ("resnext50", ResnetConfig::resnext50()),
        ("timm_resnet50", resnet(50)),
        ("timm_resnext50", ResnetConfig::resnext50()),
    ];
    for (name, backbone) in cases {
        let io = safetensors(folder.join(format!("{name}_logits.safetensors")));
        let config = ShikeConfig::plain(backbone, 1000);
        for extension in ["pth", "safetensors"] {
            let path = folder.join(format!("{name}.{extension}"));
            let model = config.init(&device).unwrap();
            let model = weights::import(model, &path).unwrap();
            let logits = floats(model.forward(x.clone(), Head::Stage1).mean());
            let difference = max_abs(&logits, &io["logits"].data);
            println!("{name}.{extension}: logits differ by {difference:.2e}");
            assert_below(name, difference, 1e-4);
            if extension == "safetensors" {
                weights::export(&model, folder.join(format!("{name}_export.st")), 0).unwrap();
            }
        }
    }
}

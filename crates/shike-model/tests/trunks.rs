//! Whole backbones against PyTorch: features of every depth. Weights are filled by a formula that
//! `trunk_reference.py` has too; it printed the numbers below with PyTorch 2.15 and timm 1.0.22.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;
mod formula;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::*;
use formula::values;
use shike_model::network::Trunk;
use shike_model::weights::{self, StateDict};
use shike_model::{BackboneConfig, ShikeConfig};

/// The weights of a backbone, filled by the formula.
fn filled(trunk: &Trunk) -> StateDict {
    let state = weights::trunk_state_dict(trunk).into_iter();
    let fill = |(name, data): (String, TensorData)| {
        let filled = values(&name, data.shape().as_slice()).convert::<f32>();
        (name, filled)
    };
    state.map(fill).collect()
}

/// Norm and product with the probe of each depth's vector.
type Expected = &'static [(f64, f64)];

#[test]
#[rustfmt::skip]
fn features_of_every_depth_are_those_of_pytorch() {
    let cases: [(&str, [usize; 2], Expected); 6] = [
        ("efficientnet_lite0", [64, 64], &[(1.563880097, -0.063773116), (2.837397497, 0.195686941), (3.48634664, -0.999597566), (5.722583174, 0.215145947), (5.96680004, -0.158394931), (15.483522024, -0.19448947)]),
        ("efficientnet_lite1", [50, 50], &[(1.538966849, -0.06746716), (3.055698125, 0.213652344), (3.432793442, -1.030179709), (6.845483999, -1.214645006), (5.809796298, -0.380188914), (14.878721237, -0.162587786)]),
        ("efficientnet_lite2", [64, 64], &[(1.563880097, -0.063773116), (3.092934967, 0.208105473), (3.557497013, -0.814039095), (6.83276112, -0.546450402), (6.05216696, -0.336307821), (15.846004202, 0.327553087)]),
        ("vit_s16", [64, 96], &[(47.450465996, -1.31394013), (72.951783473, -0.107816607), (91.08149821, -0.824580936), (27.754525049, -0.470690555)]),
        ("dinov2_s14", [56, 84], &[(15.707162655, -0.181884597), (20.596902674, 0.851336189), (24.188227148, 0.719981644), (24.84254992, 0.340092236)]),
        ("dinov2_s14_reg", [70, 56], &[(15.940392095, 0.256368928), (22.11880526, 1.071490151), (26.925023797, 1.139248166), (25.404627295, 0.992996383)]),
    ];
    let device = Device::flex();
    for (name, [height, width], expected) in cases {
        let trunk = BackboneConfig::named(name).unwrap().init(&device).unwrap();
        let state = filled(&trunk);
        let trunk = weights::load_trunk(trunk, state, Path::new("formula")).unwrap();
        let shape = [1, 3, height, width];
        let images = Tensor::from_data(values("input", &shape), (&device, DType::F32));
        let vectors = trunk.embed(images);
        assert_eq!(vectors.len(), expected.len(), "{name}");
        for (i, (vector, (norm, product))) in vectors.into_iter().zip(expected).enumerate() {
            let vector = floats(vector);
            let probe = values("probe", &[1, vector.len()]);
            let found: f64 = probe.iter::<f64>().zip(&vector).map(|(p, v)| p * v).sum();
            let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert_rel(&format!("{name}, norm of depth {i}"), length, *norm, 2e-5);
            assert_below(&format!("{name}, depth {i}"), (found - product).abs() / norm, 2e-5);
        }
    }
}

#[test]
fn every_network_counts_its_numbers_and_names_its_tensors_once() {
    for name in BackboneConfig::names() {
        let backbone = BackboneConfig::named(name).unwrap();
        assert_eq!(backbone.name(), Some(name));
        let text = serde_json::to_string(&backbone).unwrap();
        assert_eq!(text, format!("\"{name}\""));
        assert_eq!(
            serde_json::from_str::<BackboneConfig>(&text).unwrap(),
            backbone
        );
    }
    for name in ["efficientnet_lite2", "vit_s16", "dinov2_s14_reg"] {
        let backbone = BackboneConfig::named(name).unwrap();
        let config = ShikeConfig::on(backbone.clone(), 5).with_experts(2);
        let model = config.init(&Device::flex()).unwrap();
        let state = weights::state_dict(&model);
        let count: usize = state.iter().map(|(_, data)| data.num_elements()).sum();
        assert_eq!(config.num_values().unwrap(), count as u64, "{name}");
        let names: std::collections::BTreeSet<_> = state.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), state.len(), "{name}");
        let side = backbone.image_size();
        let sides = model.describe([side, side]);
        assert!(sides.macs() > 100_000_000, "{name}: {sides}");
    }
}

#[test]
fn weights_of_another_network_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    let device = Device::flex();
    let config = ShikeConfig::plain(BackboneConfig::named("resnet18").unwrap(), 10);
    weights::export(&config.init(&device).unwrap(), &path, 0).unwrap();
    let trunk = BackboneConfig::named("efficientnet_lite0").unwrap();
    let error = weights::import_trunk(trunk.init(&device).unwrap(), &path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("of another network, resnet18:"), "{error}");
    let trunk = BackboneConfig::named("resnet18")
        .unwrap()
        .init(&device)
        .unwrap();
    let (_, report) = weights::import_trunk(trunk, &path).unwrap();
    assert_eq!(report.unused, ["fc.bias", "fc.weight"]);
    let recognised = || weights::recognise(&path).unwrap();
    assert_eq!(recognised(), Some("resnet18"));
    for name in [
        "resnet8",
        "efficientnet_lite1",
        "dinov2_s14",
        "dinov2_s14_reg",
    ] {
        let trunk = BackboneConfig::named(name).unwrap().init(&device).unwrap();
        let mut tensors = weights::trunk_state_dict(&trunk);
        let write = |tensors: &[_]| {
            let bytes = weights::pack(tensors.to_vec(), 0, &BTreeMap::new(), false).unwrap();
            std::fs::write(&path, bytes).unwrap();
        };
        write(&tensors);
        assert_eq!(recognised(), Some(name));
        tensors.pop();
        write(&tensors);
        assert_eq!(recognised(), None);
    }
    std::fs::write(&path, "no weights").unwrap();
    assert!(weights::recognise(&path).is_err());
}

#[test]
#[ignore = "needs what trunk_reference.py writes"]
fn whole_networks_give_pytorchs_features() {
    let folder = PathBuf::from(std::env::var("SHIKE_TRUNKS").expect("SHIKE_TRUNKS=FOLDER"));
    let device = Device::flex();
    for name in BackboneConfig::names().filter(|name| !name.starts_with("res")) {
        let expected = safetensors(folder.join(format!("{name}.safetensors")));
        let backbone = BackboneConfig::named(name).unwrap();
        let side = backbone.image_size();
        let trunk = backbone.init(&device).unwrap();
        let (trunk, _) = weights::import_trunk(trunk, folder.join(format!("{name}.pth"))).unwrap();
        let shape = [2, 3, side, side];
        let images = Tensor::from_data(values("input", &shape), (&device, DType::F32));
        let found = floats(Tensor::cat(trunk.embed(images), 1));
        let expected = &expected["vectors"].data;
        let largest = expected.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let difference = max_abs(&found, expected) / largest;
        println!("{name}: {difference:.2e} of the largest feature");
        assert_below(name, difference, 1e-4);
    }
    for (name, side) in [
        ("efficientnet_lite0", 224),
        ("efficientnet_lite2", 260),
        ("dinov2_s14_reg", 518),
    ] {
        let expected = safetensors(folder.join(format!("timm_{name}_last.safetensors")));
        let trunk = BackboneConfig::named(name).unwrap().init(&device).unwrap();
        let path = folder.join(format!("timm_{name}.safetensors"));
        let (trunk, _) = weights::import_trunk(trunk, path).unwrap();
        let images = values("input", &[1, 3, side, side]);
        let images = Tensor::from_data(images, (&device, DType::F32));
        let found = floats(trunk.forward(images).pop().unwrap().pooled());
        let expected = &expected["last"].data;
        let largest = expected.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let difference = max_abs(&found, expected) / largest;
        println!("timm's {name}: {difference:.2e} of the largest feature");
        assert_below(name, difference, 1e-4);
    }
}

//! The networks against the released code: every variant of `golden/model`.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
use common::*;
use serde_json::Value;
use shike_model::weights::{self, WeightsError};
use shike_model::{
    ClassifierConfig, DktLossConfig, ExpertLogits, Head, Loss as _, LossContext, Shike, ShikeConfig,
};

fn moe(experts: usize, classes: usize) -> ShikeConfig {
    ShikeConfig::cifar(32, classes)
        .unwrap()
        .with_experts(experts)
}

/// The reference's plain network has a cosine classifier of scale 1.
fn plain() -> ShikeConfig {
    ShikeConfig::cifar_plain(32, 100)
        .unwrap()
        .with_classifier(ClassifierConfig::Cosine { scale: 1.0 })
}

fn check_logits(what: &str, found: &ExpertLogits, prefix: &str, io: &Io, tolerance: f64) {
    for (k, logits) in found.experts.iter().enumerate() {
        let key = format!("{prefix}.{k}");
        let difference = max_abs(&floats(logits.clone()), &io[&key].data);
        assert_below(&format!("{what} {key}"), difference, tolerance);
    }
}

type Io = std::collections::BTreeMap<String, Values>;

#[test]
fn golden_model_eval() {
    let Some(golden) = golden("golden_model_eval") else {
        return;
    };
    let device = Device::flex();
    let io = safetensors(golden.join("model/moe3_c100_io.safetensors"));
    let load = |file: &str| {
        let model = moe(3, 100).init(&device).unwrap();
        weights::import(model, golden.join("model").join(file)).unwrap()
    };
    let model = load("moe3_c100.safetensors");
    let x = io["x"].tensor::<4>(&device, DType::F32);
    check_logits(
        "f32",
        &model.forward(x.clone(), Head::Stage1),
        "eval.crt0.out",
        &io,
        5e-5,
    );
    check_logits(
        "f32",
        &model.forward(x.clone(), Head::Stage2),
        "eval.crt1.out",
        &io,
        5e-5,
    );

    let features = model.features(x.clone());
    let check = |key: &str, found: Tensor<4>| {
        let expected = &io[key];
        assert_eq!(found.dims().to_vec(), expected.shape, "{key}");
        assert_below(key, relative_l2(&floats(found), &expected.data), 1e-5);
    };
    check("eval.stem", features.stem.into_pyramid());
    check("eval.out1", features.shared[0].clone().into_pyramid());
    check("eval.out2", features.shared[1].clone().into_pyramid());
    for (k, expert) in features.experts.into_iter().enumerate() {
        check(&format!("eval.out3.{k}"), expert.deep.into_pyramid());
        check(&format!("eval.shallow.{k}"), expert.shallow.unwrap());
        let key = format!("eval.pooled.{k}");
        assert_below(
            &key,
            relative_l2(&floats(expert.pooled), &io[&key].data),
            1e-5,
        );
    }

    // The same weights from the checkpoint that `torch.save` wrote.
    let pth = load("moe3_c100.pth");
    assert_eq!(floats(pth.forward(x, Head::Stage1).mean()), {
        let x = io["x"].tensor::<4>(&device, DType::F32);
        floats(model.forward(x, Head::Stage1).mean())
    });

    let double = model.map(&mut ToF64);
    let x = io["x"].tensor::<4>(&device, DType::F64);
    check_logits(
        "f64",
        &double.forward(x.clone(), Head::Stage1),
        "eval.crt0.out64",
        &io,
        1e-9,
    );
    check_logits(
        "f64",
        &double.forward(x, Head::Stage2),
        "eval.crt1.out64",
        &io,
        1e-9,
    );

    let io = safetensors(golden.join("model/plain_c100_io.safetensors"));
    let model = plain().init(&device).unwrap();
    let model = weights::import(model, golden.join("model/plain_c100.safetensors")).unwrap();
    let x = io["x"].tensor::<4>(&device, DType::F32);
    check_logits(
        "plain",
        &model.forward(x, Head::Stage1),
        "eval.crt0.out",
        &io,
        5e-5,
    );
    let x = io["x"].tensor::<4>(&device, DType::F64);
    let double = model.map(&mut ToF64);
    check_logits(
        "plain",
        &double.forward(x, Head::Stage1),
        "eval.crt0.out64",
        &io,
        1e-9,
    );
    println!("GOLDEN model eval: 2 cases ran");
}

#[test]
fn golden_model_train() {
    let Some(golden) = golden("golden_model_train") else {
        return;
    };
    let device = Device::flex().autodiff();
    let json = json(golden.join("model/model.json"));
    for (name, config) in [("moe3_c100", moe(3, 100)), ("plain_c100", plain())] {
        let expected = &json["variants"][name];
        let io = safetensors(golden.join(format!("model/{name}_io.safetensors")));
        let file = golden.join(format!("model/{name}.safetensors"));
        let model = || weights::import(config.init(&device).unwrap(), &file).unwrap();

        let single = model();
        let x = io["x"].tensor::<4>(&device, DType::F32);
        let logits = single.forward(x, Head::Stage1);
        check_logits("f32", &logits, "train.out", &io, 2e-4);
        let mut statistics = 0;
        for (name, data) in weights::state_dict(&single) {
            if let Some(expected) = io.get(&format!("train.after1.{name}")) {
                let found: Vec<f64> = data.convert::<f64>().try_into_vec().unwrap();
                assert_below(&name, relative_l2(&found, &expected.data), 1e-5);
                statistics += 1;
            }
        }
        assert_eq!(
            statistics,
            io.keys().filter(|k| k.starts_with("train.after1")).count()
        );
        if let Some(total) = expected["train_loss_stage1_f32"].as_f64() {
            let loss = DktLossConfig::default()
                .init(&LossContext::new(&[]))
                .unwrap();
            let loss = loss.forward(&logits, io["labels"].labels(&device)).total();
            assert_rel("loss", floats(loss.clone())[0], total, 1e-6);
            check_gradients(&single, loss, &io, &expected["param_grads"], 1e-3);
        }
        let double = model().map(&mut ToF64);
        let x = io["x"].tensor::<4>(&device, DType::F64);
        let logits = double.forward(x, Head::Stage1);
        check_logits("f64", &logits, "train.out64", &io, 1e-9);
        if let Some(total) = expected["train_loss_stage1_f64"].as_f64() {
            let loss = DktLossConfig::default()
                .init(&LossContext::new(&[]))
                .unwrap();
            let loss = loss.forward(&logits, io["labels"].labels(&device)).total();
            assert_rel("loss f64", floats(loss.clone())[0], total, 1e-10);
            check_gradients(&double, loss, &io, &expected["param_grads"], 1e-5);
        }
    }
    println!("GOLDEN model train: 2 cases ran");
}

/// Gradients by state-dict name. They are stored in float32.
fn check_gradients(model: &Shike, loss: Tensor<1>, io: &Io, listed: &Value, tolerance: f64) {
    let gradients = loss.backward();
    let (mut checked, mut stored) = (0, 0);
    // A network of gradients has the names and layouts of the weights'. Mapping overwrites the
    // running statistics, which clones of a module share.
    struct Take<'a>(&'a burn::tensor::Gradients);
    impl ModuleMapper for Take<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let gradient = param.val().grad(self.0);
            param.map(|weight| match gradient {
                Some(gradient) => Tensor::from_inner(gradient),
                None => weight.detach().zeros_like(),
            })
        }
    }
    let module = model.clone().map(&mut Take(&gradients));
    for (name, data) in weights::state_dict(&module) {
        let found: Vec<f64> = data.convert::<f64>().try_into_vec().unwrap();
        if name.contains("running_") {
            continue;
        }
        let norm = found.iter().map(|x| x * x).sum::<f64>().sqrt();
        // Every gradient's norm is listed but those of the heads that stage 1 does not use; of large
        // tensors the first 512 values are stored.
        match listed[&name]["l2_f64"].as_f64() {
            Some(expected) => assert_rel(&name, norm, expected, tolerance),
            None => assert_eq!(norm, 0.0, "{name}"),
        }
        checked += 1;
        for key in ["grad64", "grad64_first512"] {
            if let Some(expected) = io.get(&format!("train.{key}.{name}")) {
                let found = &found[..expected.data.len()];
                assert_below(&name, relative_l2(found, &expected.data), tolerance);
                stored += 1;
            }
        }
    }
    assert_eq!(checked, listed.as_object().unwrap().len());
    assert_eq!(
        stored,
        io.keys().filter(|k| k.starts_with("train.grad64")).count()
    );
}

#[test]
fn golden_model_counts() {
    let Some(golden) = golden("golden_model_counts") else {
        return;
    };
    let device = Device::flex();
    let json = json(golden.join("model/model.json"));
    let mut cases = 0;
    for (name, expected) in json["variants"].as_object().unwrap() {
        let config = match name.as_str() {
            "moe3_c100" => moe(3, 100),
            "count_only_moe3_c10" => moe(3, 10),
            // The reference has stage-2 heads with the cosine classifier alone.
            "count_only_moe3_c100_nonorm" => moe(3, 100)
                .with_classifier(ClassifierConfig::Linear)
                .with_stage2_heads(false),
            "count_only_plain_c100_linear" => ShikeConfig::cifar_plain(32, 100).unwrap(),
            "plain_c100" | "count_only_plain_c100_norm" => plain(),
            other => {
                let experts = other.strip_prefix("count_only_moe").unwrap();
                moe(experts.strip_suffix("_c100").unwrap().parse().unwrap(), 100)
            }
        };
        let model = config.init(&device).unwrap();
        let summary = model.describe([32, 32]);
        assert_eq!(summary.params(), expected["params_total"], "{name}");
        if let Some(macs) = expected["macs_total"].as_u64() {
            assert_eq!(summary.macs(), macs, "{name}");
        }
        let part = |name: &str| -> String {
            let (shared, rest) = name.split_once('.').unwrap_or((name, ""));
            match shared {
                "conv1" | "bn1" => "stem".into(),
                "layer1" => "layer1".into(),
                "layer2" => "layer2".into(),
                "layer3" => "expert0.layer3".into(),
                "linear" => "expert0.head1".into(),
                "layer3s" => format!("expert{rest}.layer3"),
                "classifiers" => format!("expert{rest}.head1"),
                "rt_classifiers" => format!("expert{rest}.head2"),
                "shallow_exps" => format!("expert{rest}.fusion"),
                other => panic!("{other}"),
            }
        };
        let sums = |key: &str| {
            let mut sums = std::collections::BTreeMap::<String, u64>::new();
            for (name, value) in expected[key].as_object().into_iter().flatten() {
                *sums.entry(part(name)).or_default() += value.as_u64().unwrap();
            }
            sums
        };
        for (name, count) in sums("params_by_part") {
            let found = summary.parts.iter().find(|p| p.name == name).unwrap();
            assert_eq!(found.params as u64, count, "{name}");
        }
        for (name, count) in sums("macs_by_part_forward_1_image_32x32") {
            let found = summary.parts.iter().find(|p| p.name == name).unwrap();
            assert_eq!(found.macs, count, "{name}");
        }
        if let Some(trainable) = expected["trainable_stage2"].as_u64() {
            let frozen = config.init(&Device::flex().autodiff()).unwrap();
            assert_eq!(frozen.trainable_params() as u64, expected["params_total"]);
            let frozen = frozen.freeze_for_stage2(false);
            assert_eq!(frozen.trainable_params() as u64, trainable);
        }
        cases += 1;
    }
    assert_eq!(cases, 11);
    println!("GOLDEN model counts: {cases} cases ran");
}

#[test]
fn golden_state_dict_order() {
    let Some(golden) = golden("golden_state_dict_order") else {
        return;
    };
    let device = Device::flex();
    let json = json(golden.join("model/model.json"));
    let directory = tempfile::tempdir().unwrap();
    for (name, config) in [("moe3_c100", moe(3, 100)), ("plain_c100", plain())] {
        let model = config.init(&device).unwrap();
        let model =
            weights::import(model, golden.join(format!("model/{name}.safetensors"))).unwrap();
        let path = directory.path().join(name);
        let original = std::fs::read(golden.join(format!("model/{name}.safetensors"))).unwrap();
        let original = safetensors::SafeTensors::deserialize(&original).unwrap();
        weights::export(&model, &path, 12).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let listed = json["variants"][name]["state_dict_order"]
            .as_array()
            .unwrap();
        assert_eq!(file.len(), listed.len(), "{name}");
        for entry in listed {
            let key = entry[0].as_str().unwrap();
            let view = file
                .tensor(key)
                .unwrap_or_else(|_| panic!("{key} is not exported"));
            let shape: Vec<usize> = serde_json::from_value(entry[1].clone()).unwrap();
            assert_eq!(view.shape(), shape, "{key}");
            let dtype = match view.dtype() {
                safetensors::Dtype::F32 => "torch.float32",
                safetensors::Dtype::I64 => "torch.int64",
                other => panic!("{key}: {other:?}"),
            };
            assert_eq!(dtype, entry[2], "{key}");
            // In and out again, nothing changes; the counts of batches are the exporter's.
            let expected = match key.ends_with("num_batches_tracked") {
                true => &12i64.to_le_bytes(),
                false => original.tensor(key).unwrap().data(),
            };
            assert_eq!(view.data(), expected, "{key}");
        }
    }
    println!("GOLDEN state dict: 2 cases ran");
}

#[test]
fn golden_init_statistics() {
    let Some(golden) = golden("golden_init_statistics") else {
        return;
    };
    let device = Device::flex();
    device.seed(7);
    let json = json(golden.join("model/model.json"));
    for (name, config) in [("moe3_c100", moe(3, 100)), ("plain_c100", plain())] {
        let model = config.init(&device).unwrap();
        let state: std::collections::BTreeMap<_, _> =
            weights::state_dict(&model).into_iter().collect();
        for (key, expected) in json["variants"][name]["init_stats"].as_object().unwrap() {
            let found: Vec<f64> = state[key].clone().convert::<f64>().try_into_vec().unwrap();
            let n = found.len() as f64;
            let mean = found.iter().sum::<f64>() / n;
            let std = (found.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            let theirs = expected["std"].as_f64().unwrap();
            // Two independent draws of n values: 5 standard deviations of the difference.
            assert_below(
                &format!("{key} std"),
                (std / theirs - 1.0).abs(),
                5.0 / n.sqrt(),
            );
            let difference = (mean - expected["mean"].as_f64().unwrap()).abs();
            assert_below(&format!("{key} mean"), difference, 7.1 * theirs / n.sqrt());
        }
    }
    println!("GOLDEN init: 2 cases ran");
}

#[test]
fn import_lists_everything_that_differs() {
    let device = Device::flex();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    let of = |config: ShikeConfig| config.init(&device).unwrap();
    weights::export(&of(ShikeConfig::cifar(8, 10).unwrap()), &path, 0).unwrap();
    let other = of(ShikeConfig::cifar(8, 12).unwrap().with_experts(2));
    let error = weights::import(other, &path).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(mismatch.missing, Vec::<String>::new());
    assert!(
        mismatch
            .unexpected
            .contains(&"classifiers.2.weight".to_owned())
    );
    let shapes = (
        "classifiers.0.weight".to_owned(),
        vec![64, 12],
        vec![64, 10],
    );
    assert!(mismatch.mis_shaped.contains(&shapes), "{mismatch:?}");
    let text = error.to_string();
    assert!(
        text.contains("weights.safetensors") && text.contains("mis-shaped"),
        "{text}"
    );

    std::fs::write(&path, b"this is no weights file").unwrap();
    let error = weights::import(of(ShikeConfig::cifar(8, 10).unwrap()), &path).unwrap_err();
    assert!(
        error.to_string().contains("neither a safetensors"),
        "{error}"
    );
}

#[test]
fn linear_heads_and_a_prefix_survive_a_round_trip() {
    let device = Device::flex();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    let config = ShikeConfig::cifar(8, 5)
        .unwrap()
        .with_classifier(ClassifierConfig::Linear);
    let model = config.init(&device).unwrap();
    weights::export(&model, &path, 0).unwrap();
    // `DataParallel` names every tensor `module.…`.
    let state = weights::read_state_dict(&path).unwrap();
    assert_eq!(state["classifiers.1.weight"].shape().as_slice(), [5, 64]);
    let other = weights::import(config.init(&device).unwrap(), &path).unwrap();
    let x = Tensor::<4>::ones([1, 3, 16, 16], &device);
    let logits = |model: &Shike| floats(model.forward(x.clone(), Head::Stage2).mean());
    assert_eq!(logits(&model), logits(&other));
}

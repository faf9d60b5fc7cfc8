//! Training against the released code: both stages, step by step, on the batches of
//! `golden/trajectory`.
//!
//! At this learning rate stage 1 is chaotic: in float32 the reference strays from its own float64
//! run by per cents within a few steps. So float64 is what is compared tightly, and float32 where
//! it can be: in stage 2, where the heads alone are trained.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use common::*;
use serde_json::Value;
use shike_model::kernels;
use shike_model::{
    DktLossConfig, ExpertLogits, Head, Loss, LossConfig, LossContext, LossOutput, Shike,
    ShikeConfig, weights,
};
use shike_train::learner::optim::Sgd;
use shike_train::learner::step::{Inputs, Step, Trained};

/// `trajectory.json`, whose `setup` holds for the other files too.
struct Setup {
    json: Value,
    inputs: BTreeMap<String, Values>,
    start: Shike,
    dtype: DType,
    device: Device,
}

/// What a run left behind.
struct Trajectory {
    losses: Vec<f64>,
    gnorms: Vec<f64>,
    correct: Vec<usize>,
    /// State dicts at the start, between the stages, and at the end.
    start: weights::StateDict,
    mid: weights::StateDict,
    end: weights::StateDict,
    model: Shike,
}

/// A loss that notes how many images are right.
#[derive(Debug)]
struct Noted {
    loss: Box<dyn Loss>,
    rounding: Option<Tensor<2>>,
    correct: Arc<Mutex<Vec<usize>>>,
}

impl Loss for Noted {
    fn forward(&self, logits: &ExpertLogits, labels: Tensor<1, Int>) -> LossOutput {
        let predicted: Tensor<1, Int> = logits.mean().argmax(1).squeeze_dim(1);
        let right = predicted.equal(labels.clone()).int().sum();
        let right = right.into_data().iter::<i64>().next().unwrap();
        self.correct.lock().unwrap().push(right as usize);
        let experts = logits.experts.iter().cloned();
        let rounded = match &self.rounding {
            None => logits.clone(),
            Some(rounding) => ExpertLogits {
                experts: experts.map(|l| l + rounding.clone()).collect(),
            },
        };
        self.loss.forward(&rounded, labels)
    }
}

struct ToF64;

impl ModuleMapper for ToF64 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // A cast that is tracked would make no leaf, and `detach` leaves tracking on.
        let grad = param.is_require_grad();
        param
            .map(|t| t.set_require_grad(false).cast(FloatDType::F64))
            .set_require_grad(grad)
    }
}

impl Setup {
    fn read(golden: &Path, dtype: DType) -> Self {
        let json = json(golden.join("trajectory/trajectory.json"));
        let setup = &json["setup"];
        let device = Device::flex().autodiff();
        let model = ShikeConfig::cifar(32, 100).unwrap().init(&device).unwrap();
        let file = golden.join(setup["init"].as_str().unwrap());
        let model = weights::import(model, file).unwrap();
        // What `Sgd` and `batch` below do.
        assert_eq!(setup["nesterov"], false);
        assert_eq!(setup["dampening"], 0);
        assert!(
            setup["batch_of_step"]
                .as_str()
                .unwrap()
                .starts_with("s % 8")
        );
        Self {
            start: match dtype {
                DType::F64 => model.map(&mut ToF64),
                _ => model,
            },
            inputs: safetensors(golden.join("trajectory/inputs.safetensors")),
            json,
            dtype,
            device,
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.json["setup"][key].as_f64().unwrap()
    }

    fn steps(&self) -> [usize; 2] {
        ["stage1_steps", "stage2_steps"].map(|key| self.number(key) as usize)
    }

    /// Images and labels of a step's batch.
    fn batch(&self, step: usize) -> (Values, Values) {
        let of = |name: &str| {
            let all = &self.inputs[name];
            let batches = all.shape[0];
            let size = all.data.len() / batches;
            let at = step % batches * size;
            Values {
                shape: all.shape[1..].to_vec(),
                data: all.data[at..at + size].to_vec(),
            }
        };
        (of("x"), of("y"))
    }

    fn train(&self, steps: [usize; 2]) -> Trajectory {
        let counts: Vec<usize> =
            serde_json::from_value(self.json["setup"]["counts"].clone()).unwrap();
        let counts_of = LossContext::new(&counts);
        let correct = Arc::new(Mutex::new(vec![]));
        // The learner's own step; only what it computes is noted on the way.
        let stage = |stage: usize| {
            let (head, config) = match stage {
                1 => (Head::Stage1, LossConfig::Dkt(DktLossConfig::default())),
                _ => (Head::Stage2, LossConfig::balanced_softmax()),
            };
            let loss = Noted {
                loss: config.init(&counts_of).unwrap(),
                rounding: (stage == 2).then(|| self.rounded_prior(&counts)).flatten(),
                correct: correct.clone(),
            };
            Step::new(head, Box::new(loss), self.number("lr"))
        };
        let sgd = || Sgd::new(self.number("momentum"), self.number("weight_decay")).init();
        let mut run = Trajectory {
            losses: vec![],
            gnorms: vec![],
            correct: vec![],
            start: state(&self.start),
            mid: BTreeMap::new(),
            end: BTreeMap::new(),
            model: self.start.clone(),
        };
        let mut trained = Trained {
            model: self.start.clone(),
            optimizer: sgd(),
            ema: None,
        };
        let mut step = stage(1);
        for number in 0..steps[0] + steps[1] {
            if number == steps[0] {
                run.mid = state(&trained.model);
                trained.model = trained.model.freeze_for_stage2(false);
                trained.optimizer = sgd();
                step = stage(2);
            }
            let (x, y) = self.batch(number);
            let inputs = Inputs {
                images: x.tensor::<4>(&self.device, self.dtype),
                labels: y.labels(&self.device),
                share: None,
            };
            let batches = [Ok::<_, Infallible>(inputs)];
            let images = y.data.len();
            let (gradients, losses) = step.gradients(&trained.model, images, batches).unwrap();
            run.losses.push(losses[0].read()[0].1);
            run.gnorms.push(norm_of(&gradients, &trained.model));
            trained = step.update(trained, gradients);
        }
        run.correct = correct.lock().unwrap().clone();
        let model = trained.model;
        run.end = state(&model);
        run.model = model;
        run
    }

    /// The reference takes the logarithm of the class counts in float32 even where all else is
    /// float64, which moves its losses by up to 6e-7. Adding its rounding, `[1, classes]`, to the logits makes
    /// the rest comparable.
    fn rounded_prior(&self, counts: &[usize]) -> Option<Tensor<2>> {
        let error = |&n: &usize| f64::from(reference_ln(n as f32)) - (n as f64).ln();
        let rounding = Values {
            shape: vec![1, counts.len()],
            data: counts.iter().map(error).collect(),
        };
        (self.dtype == DType::F64).then(|| rounding.tensor::<2>(&self.device, self.dtype))
    }

    /// Evaluation logits of batch 0 under both heads, by their stored names.
    fn eval_logits(&self, model: &Shike) -> Vec<(String, Vec<f64>)> {
        let model = model.valid();
        let (x, _) = self.batch(0);
        let heads = [("eval_crt0", Head::Stage1), ("eval_crt1", Head::Stage2)];
        let of = |(name, head): (&str, Head)| {
            let images = x.tensor::<4>(&Device::flex(), self.dtype);
            let experts = model.forward(images, head).experts.into_iter().enumerate();
            let named = experts.map(|(k, logits)| (format!("{name}.{k}"), floats(logits)));
            named.collect::<Vec<_>>()
        };
        heads.into_iter().flat_map(of).collect()
    }
}

/// The reference's float32 logarithm, which is rounded to nearest but for three of these counts.
/// Those follow from the stage-2 gradients of `golden/loss`: the softmax of logits and prior stands
/// in them to 1e-15, and three cases of these counts give the same values.
fn reference_ln(n: f32) -> f32 {
    let nearest = f64::from(n).ln() as f32;
    match n {
        434.0 | 7.0 => nearest.next_up(),
        179.0 => nearest.next_down(),
        _ => nearest,
    }
}

/// Euclidean norm over all gradients, summed in float64.
fn norm_of(gradients: &GradientsParams, model: &Shike) -> f64 {
    struct Norm<'a>(&'a GradientsParams, f64);
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1 += floats(gradient).iter().map(|x| x * x).sum::<f64>();
            }
        }
    }
    let mut norm = Norm(gradients, 0.0);
    model.visit(&mut norm);
    norm.1.sqrt()
}

/// The worst figure of each kind of comparison. All are printed before any fails.
#[derive(Default)]
struct Measured(BTreeMap<String, Worst>);

struct Worst {
    cases: usize,
    value: f64,
    at: String,
    tolerance: f64,
}

impl Measured {
    fn add(&mut self, kind: &str, at: impl Into<String>, value: f64, tolerance: f64) {
        // NaN compares as nothing, and must fail.
        let value = if value.is_nan() { f64::INFINITY } else { value };
        let worst = self.0.entry(kind.into()).or_insert(Worst {
            cases: 0,
            value: 0.0,
            at: String::new(),
            tolerance,
        });
        worst.cases += 1;
        // The one that is worst for its own tolerance.
        if value / tolerance >= worst.value / worst.tolerance {
            (worst.value, worst.at, worst.tolerance) = (value, at.into(), tolerance);
        }
    }

    /// Relative differences of one number a step.
    fn steps(
        &mut self,
        kind: &str,
        found: &[f64],
        expected: &Value,
        tolerance: impl Fn(usize) -> f64,
    ) {
        let expected = list(expected);
        assert_eq!(found.len(), expected.len(), "{kind}");
        for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (found / expected - 1.0).abs();
            self.add(kind, format!("step {step}"), difference, tolerance(step));
        }
    }

    /// Norms of every tensor but the counts of batches, which have no part in the network.
    fn norms(&mut self, kind: &str, found: &weights::StateDict, expected: &Value, tolerance: f64) {
        let expected = expected.as_object().unwrap();
        let expected = expected
            .iter()
            .filter(|(n, _)| !n.ends_with("num_batches_tracked"));
        let expected: BTreeMap<_, _> = expected.collect();
        assert!(
            expected.keys().copied().eq(found.keys()),
            "{kind}: other names"
        );
        for (name, expected) in expected {
            let found = values(&found[name])
                .iter()
                .map(|x| x * x)
                .sum::<f64>()
                .sqrt();
            let expected = expected.as_f64().unwrap();
            let difference = match expected {
                0.0 => found,
                _ => (found / expected - 1.0).abs(),
            };
            self.add(kind, name, difference, tolerance);
        }
    }

    fn finish(self, test: &str) {
        let mut cases = 0;
        for (kind, worst) in &self.0 {
            println!(
                "{test}: {kind}: worst of {} is {:.2e} at {}, allowed {:.0e}",
                worst.cases, worst.value, worst.at, worst.tolerance
            );
            cases += worst.cases;
        }
        for (kind, worst) in &self.0 {
            assert_below(
                &format!("{test}: {kind} at {}", worst.at),
                worst.value,
                worst.tolerance,
            );
        }
        println!("GOLDEN {test}: {cases} cases ran");
    }
}

fn state(model: &Shike) -> weights::StateDict {
    weights::state_dict(model).into_iter().collect()
}

fn list(json: &Value) -> Vec<f64> {
    serde_json::from_value(json.clone()).unwrap()
}

fn values(data: &TensorData) -> Vec<f64> {
    data.clone().convert::<f64>().try_into_vec().unwrap()
}

/// Stage 2 changes its heads and running statistics, all of them, and not one bit else.
fn check_frozen(before: &weights::StateDict, after: &weights::StateDict) {
    let (mut frozen, mut statistics, mut heads) = (0, 0, 0);
    assert!(before.keys().eq(after.keys()));
    for (name, data) in before {
        let same = data.as_bytes() == after[name].as_bytes();
        if name.contains("running_") {
            assert!(!same, "{name} did not move");
            statistics += 1;
        } else if name.starts_with("rt_classifiers") {
            assert!(!same, "{name} was not trained");
            heads += 1;
        } else {
            assert!(same, "{name} is frozen, but changed");
            frozen += 1;
        }
    }
    assert_eq!((frozen, statistics, heads), (183, 120, 3));
}

/// 25 steps of stage 2 alone. `tight` bounds all but the logits.
fn stage2_only(test: &str, golden: &Path, dtype: DType, tight: f64, logits: f64) {
    let setup = Setup::read(golden, dtype);
    let expected = json(golden.join("trajectory/trajectory_st2only.json"));
    let cfg = &expected["cfg"];
    assert_eq!(cfg["lr"], setup.number("lr"));
    let steps = ["n1", "n2"].map(|key| cfg[key].as_u64().unwrap() as usize);
    let run = setup.train(steps);
    let mut measured = Measured::default();
    measured.steps("loss", &run.losses, &expected["f64"]["loss"], |_| tight);
    measured.steps(
        "gradient norm",
        &run.gnorms,
        &expected["f64"]["gnorm"],
        |_| tight,
    );
    measured.norms("end norms", &run.end, &expected["norms_f64_end"], tight);
    check_frozen(&run.start, &run.end);
    let stored = safetensors(golden.join("trajectory/st2only_end_f64.safetensors"));
    let mut compared = 0;
    for (name, expected) in &stored {
        if let Some(name) = name.strip_prefix("end.") {
            let difference = relative_l2(&values(&run.end[name]), &expected.data);
            measured.add("end weights", name, difference, tight);
            compared += 1;
        }
    }
    for (name, found) in setup.eval_logits(&run.model) {
        measured.add(
            "evaluation logits",
            &name,
            max_abs(&found, &stored[&name].data),
            logits,
        );
        compared += 1;
    }
    assert_eq!(compared, stored.len());
    measured.finish(test);
}

#[test]
fn golden_trajectory_stage2_f32() {
    let Some(golden) = golden("golden_trajectory_stage2_f32") else {
        return;
    };
    stage2_only("trajectory stage 2 f32", &golden, DType::F32, 1e-4, 5e-3);
}

#[test]
fn golden_trajectory_stage2_f64() {
    let Some(golden) = golden("golden_trajectory_stage2_f64") else {
        return;
    };
    stage2_only("trajectory stage 2 f64", &golden, DType::F64, 1e-8, 1e-6);
}

#[test]
fn golden_trajectory_f64() {
    let Some(golden) = golden("golden_trajectory_f64") else {
        return;
    };
    const TIGHT: f64 = 1e-8;
    let setup = Setup::read(&golden, DType::F64);
    let run = setup.train(setup.steps());
    let mut measured = Measured::default();

    let json = |name: &str| json(golden.join("trajectory").join(name));
    let noise = json("trajectory_f64noise.json");
    let torch111 = json("torch111_crosscheck.json");
    // torch 1.11 went on decaying frozen weights in stage 2. Under batch normalisation and a
    // cosine classifier the losses are the same all the same, the weights and gradients are not.
    let blocks = [
        ("", &setup.json["f64"]),
        (
            " of torch 1.11's rule",
            &setup.json["f64_legacy_torch111_stage2"],
        ),
        (" of torch 1.11", &torch111["f64"]),
        (" of the noise runs", &noise["f64"]),
    ];
    for (whose, block) in blocks {
        let kind = |what: &str| format!("{what}{whose}");
        measured.steps(&kind("loss"), &run.losses, &block["loss"], |_| TIGHT);
        if whose != " of the noise runs" {
            let correct: Vec<usize> = serde_json::from_value(block["acc"].clone()).unwrap();
            assert_eq!(run.correct, correct, "images right{whose}");
        }
        measured.steps(&kind("gradient norm"), &run.gnorms, &block["gnorm"], |_| {
            TIGHT
        });
    }
    let norms = &setup.json["norms_f64_mid_after_stage1"];
    measured.norms("norms after stage 1", &run.mid, norms, TIGHT);
    let norms = &setup.json["norms_f64_end_after_stage2"];
    measured.norms("norms after stage 2", &run.end, norms, TIGHT);
    measured.norms(
        "norms of the noise runs",
        &run.end,
        &noise["norms_f64_end"],
        TIGHT,
    );

    for (name, before) in run
        .start
        .iter()
        .filter(|(n, _)| n.starts_with("rt_classifiers"))
    {
        assert_eq!(
            before.as_bytes(),
            run.mid[name].as_bytes(),
            "{name} changed in stage 1"
        );
    }
    check_frozen(&run.mid, &run.end);

    let stored = safetensors(golden.join("trajectory/final_small_tensors.safetensors"));
    let mut compared = 0;
    for (name, expected) in &stored {
        let (state, key) = match name.split_once('.').unwrap() {
            ("mid", key) => (&run.mid, key),
            ("end", key) => (&run.end, key),
            _ => continue,
        };
        compared += 1;
        // They are stored in float32.
        let difference = relative_l2(&values(&state[key]), &expected.data);
        measured.add("small tensors", name, difference, 1e-6);
    }
    for (name, found) in setup.eval_logits(&run.model) {
        measured.add(
            "evaluation logits",
            &name,
            max_abs(&found, &stored[&name].data),
            1e-6,
        );
        compared += 1;
    }
    assert_eq!(compared, stored.len());
    measured.finish("trajectory f64");
}

#[test]
fn golden_trajectory_f32() {
    let Some(golden) = golden("golden_trajectory_f32") else {
        return;
    };
    let setup = Setup::read(&golden, DType::F32);
    let mut run = setup.train(setup.steps());
    let mut measured = Measured::default();
    let expected = &setup.json["f64"];
    // From step 2 on, float32 is chaotic: the reference itself, perturbed by 1e-7, is off by up to
    // 34 %, and some roundings are by a little more than half. So another rounding, that of Burn's own
    // operations, may take the first one's place; what is computed wrong fails with both.
    let far = |losses: &[f64]| {
        let pairs = losses.iter().zip(expected["loss"].as_array().unwrap());
        let mut off = pairs.map(|(found, expected)| found / expected.as_f64().unwrap() - 1.0);
        off.any(|off| off.is_nan() || off.abs() > 0.5)
    };
    if far(&run.losses) && kernels::enabled() {
        println!("trajectory f32: once more, with Burn's own operations");
        kernels::set_enabled(false);
        run = setup.train(setup.steps());
        kernels::set_enabled(true);
    }
    let first = run.losses[..1].to_vec();
    let one = |key: &str| Value::from(vec![expected[key][0].clone()]);
    measured.steps("first loss", &first, &one("loss"), |_| 1e-6);
    // The reference's own float32 runs differ by up to 1.6e-4 here.
    measured.steps(
        "first gradient norm",
        &run.gnorms[..1],
        &one("gnorm"),
        |_| 1e-3,
    );
    measured.steps("loss", &run.losses, &expected["loss"], |step| match step {
        0 => 1e-6,
        1 => 1e-2,
        _ => 0.5,
    });
    check_frozen(&run.mid, &run.end);
    measured.finish("trajectory f32");
}

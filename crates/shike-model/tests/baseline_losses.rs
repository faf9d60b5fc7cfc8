//! The losses that SHIKE is compared with, by PyTorch's numbers; `baseline_losses_reference.py` printed
//! them.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use common::*;
use shike_model::loss::{
    BalancedSoftmaxLossConfig, ClassWeights, CrossEntropyLossConfig, FocalLossConfig,
    LdamLossConfig, LogitAdjustmentLossConfig, LossError,
};
use shike_model::{ClassifierConfig, ExpertLogits, Loss as _, LossConfig, LossContext, LossOutput};

const COUNTS: [usize; 4] = [120, 40, 9, 2];
const LOGITS: [f64; 12] = [
    2.0, -1.0, 0.5, 0.25, -3.0, 4.0, 1.0, 0.0, 0.5, 1.5, -2.0, 3.0,
];
const LABELS: [i64; 3] = [2, 1, 3];
const SOFT: [f64; 12] = [
    0.1, 0.2, 0.7, 0.0, 0.0, 1.0, 0.0, 0.0, 0.25, 0.25, 0.25, 0.25,
];
/// Of the cosine classifier under LDAM.
const SCALE: f64 = 5.0;

/// Name, value, gradient.
type Case = (&'static str, f64, [f64; 12]);

#[rustfmt::skip]
const CASES: [Case; 16] = [
("cross_entropy", 0.7358444084235488, [
    0.23041084358051026, 0.011471480422040069, -0.2819217249052792, 0.04003940090272894,
    0.00028433723753574754, -0.021519690475683657, 0.015524287154986518, 0.00571106608316144,
    0.02085567394718571, 0.05669159951090164, 0.0017119379672552208, -0.0792592114253426,
]),
("smoothed", 0.9295944084235489, [
    0.22207751024717695, 0.003138147088706737, -0.25692172490527926, 0.03170606756939562,
    -0.008048996095797586, 0.003480309524316414, 0.00719095382165319, -0.002622267250171891,
    0.012522340613852379, 0.04835826617756832, -0.006621395366078112, -0.054259211425342596,
]),
("given", 0.5434028050031626, [
    0.1256786419530056, 0.006257171139294583, -0.15377548631197052, 0.021839673219670334,
    7.754651932793116e-05, -0.00586900649336827, 0.004233896496814505, 0.0015575634772258475,
    0.04550328861204155, 0.12369076256923996, 0.0037351373831023002, -0.17292918856438388,
]),
("class_balanced", 0.5469278255626346, [
    0.12327760070646751, 0.00613763033459913, -0.15083766585493888, 0.021422434813872238,
    3.974472128883316e-05, -0.0030080270441907027, 0.002169988255953215, 0.0007982940669486614,
    0.04849331964819259, 0.1318185096013379, 0.003980574076590173, -0.18429240332612074,
]),
("class_balanced_smoothed", 0.8021820949054582, [
    0.1328438402863618, 0.004339036712677033, -0.12170585275159575, -0.015477024247443056,
    -0.0010253356394051094, 0.04306561388797038, -0.004801333430773434, -0.03723894481779183,
    0.040891154711183125, 0.11181608218399995, -0.005470327777950132, -0.147236909117233,
]),
("inverse", 0.5425539125454389, [
    0.12073930667974336, 0.006011256116352874, -0.1477319082473079, 0.020981345451211674,
    3.3524477788057585e-05, -0.002537256082285847, 0.0018303744680551795, 0.0006733571364426154,
    0.049179318478079846, 0.1336832477549646, 0.004036884289597464, -0.18689945052264198,
]),
("soft_class_balanced_smoothed", 1.0938068301037698, [
    0.14072408079690824, -0.005573010340786711, -0.10969626008586628, -0.025454810370255224,
    -0.0013376662412929207, 0.05618396127527261, -0.00626388218326544, -0.04858241285071424,
    0.013675599577186283, 0.0414950082058173, -0.05645573996951933, 0.0012851321865157421,
]),
("focal_0", 0.7358444084235488, [
    0.23041084358051026, 0.011471480422040069, -0.2819217249052793, 0.04003940090272894,
    0.00028433723753574754, -0.021519690475683632, 0.015524287154986514, 0.0057110660831614386,
    0.020855673947185713, 0.05669159951090165, 0.001711937967255221, -0.0792592114253426,
]),
("focal_half", 0.6228156225267388, [
    0.2480148776817801, 0.012347933671390199, -0.303461334682313, 0.04309852332914272,
    0.00010717667811008479, -0.008111526155103204, 0.0058516483515084145, 0.002152701125484707,
    0.014595492114639104, 0.039674660992640755, 0.0011980709501452763, -0.05546822405742515,
]),
("focal_2", 0.45091983784896933, [
    0.27718432016525435, 0.013800194698567405, -0.33915192724156873, 0.04816741237774698,
    3.477035591038974e-06, -0.0002631548732082174, 0.00018983971087012825, 6.983812674705096e-05,
    0.0032317401215991156, 0.0087847804468449, 0.0002652773834342619, -0.012281797951878278,
]),
("class_balanced_focal", 0.3266502983768344, [
    0.1934780191739558, 0.009632703368292627, -0.23673216090508753, 0.03362143836283913,
    6.340690659630204e-07, -4.798868469703892e-05, 3.461899799482461e-05, 1.273561763625136e-05,
    0.009803379844576765, 0.026648349288994677, 0.0008047104210516409, -0.037256439554623086,
]),
("focal_soft", 1.2634038145805329, [
    0.24470922948958312, -0.06448205010996902, -0.22421657467258022, 0.04398939529296615,
    3.477035591038974e-06, -0.0002631548732082174, 0.00018983971087012825, 6.983812674705096e-05,
    -0.08159940893519715, -0.04817293766485864, -0.08543160262437534, 0.21520394922443112,
]),
("ldam", 1.7407294592935596, [
    0.26378460761552314, 0.013133062293744219, -0.3227565613961451, 0.04583889148687779,
    0.0008092128299876081, -0.06124421050582958, 0.04418152350040869, 0.016253474175433293,
    0.06943913774520669, 0.1887551463166599, 0.005699911526260011, -0.26389419558812666,
]),
("ldam_drw", 1.8436920246179287, [
    0.13825734387058525, 0.0068834278316441035, -0.16916629555760515, 0.024025523855375833,
    9.557778297478028e-05, -0.007233679006643501, 0.0052183701346923544, 0.0019197310889763675,
    0.1637207010622005, 0.44503900663995505, 0.013439013521394478, -0.6221987212235501,
]),
("logit_adjusted_half", 1.3014070911143067, [
    0.2996832745918501, 0.008614269059319416, -0.31502067408535595, 0.006723130434186404,
    0.0005114931486963277, -0.00948581990115871, 0.007648008820556208, 0.0013263179319061556,
    0.08003904902377396, 0.12561334319854559, 0.0017992700334181562, -0.2074516622557377,
]),
("balanced_softmax", 2.161378249636165, [
    0.3216799359888276, 0.005338500321881956, -0.327950096160804, 0.000931659850094422,
    0.0008985355513674836, -0.004878706781206388, 0.0036793784132756885, 0.0003007928165631397,
    0.15758266549287459, 0.14278469869647376, 0.0009701379660099685, -0.3013375021553583,
]),
];

fn tensor(values: &[f64], device: &Device, dtype: DType) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [3, 4]), (device, dtype))
}

/// Two experts; the second has logits of its own.
fn logits(values: &[f64], device: &Device, dtype: DType) -> ExpertLogits {
    let other: Vec<f64> = values.iter().map(|x| 1.0 - x).collect();
    let expert =
        |values: &[f64]| tensor(values, device, dtype).set_require_grad(device.is_autodiff());
    ExpertLogits {
        experts: vec![expert(values), expert(&other)],
    }
}

fn cross_entropy(smoothing: f64, weights: Option<ClassWeights>) -> CrossEntropyLossConfig {
    CrossEntropyLossConfig::default()
        .with_label_smoothing(smoothing)
        .with_weights(weights)
}

fn focal(gamma: f64, weights: Option<ClassWeights>) -> FocalLossConfig {
    FocalLossConfig::default()
        .with_gamma(gamma)
        .with_weights(weights)
}

/// A cosine classifier with the scale of the cases.
fn context(epoch: usize) -> LossContext<'static> {
    let classifier = ClassifierConfig::Cosine { scale: SCALE };
    LossContext::new(&COUNTS)
        .with_epoch(epoch)
        .with_classifier(classifier)
}

/// The loss of each expert.
fn loss(name: &str, logits: &ExpertLogits) -> LossOutput {
    let (device, dtype) = (logits.experts[0].device(), logits.experts[0].dtype());
    let hard = || Tensor::<1, Int>::from_data(LABELS, &device);
    let soft = || tensor(&SOFT, &device, dtype);
    let balanced = Some(ClassWeights::EffectiveNumber { beta: 0.99 });
    let ce = |smoothing, weights| {
        cross_entropy(smoothing, weights)
            .init(&LossContext::new(&COUNTS))
            .unwrap()
    };
    let fl = |gamma, weights| {
        focal(gamma, weights)
            .init(&LossContext::new(&COUNTS))
            .unwrap()
    };
    let ldam = |weights| {
        let config = LdamLossConfig::default().with_weights(weights);
        config.init(&context(0)).unwrap().forward(logits, hard())
    };
    let adjusted = |tau| {
        let loss = LogitAdjustmentLossConfig::default()
            .with_tau(tau)
            .init(&LossContext::new(&COUNTS))
            .unwrap();
        loss.forward(logits, hard())
    };
    match name {
        "cross_entropy" => ce(0.0, None).forward(logits, hard()),
        "smoothed" => ce(0.1, None).forward(logits, hard()),
        "given" => {
            let values = vec![0.5, 1.0, 2.0, 8.0];
            ce(0.0, Some(ClassWeights::Given { values })).forward(logits, hard())
        }
        "class_balanced" => ce(0.0, balanced).forward(logits, hard()),
        "class_balanced_smoothed" => ce(0.2, balanced).forward(logits, hard()),
        "inverse" => ce(0.0, Some(ClassWeights::inverse_frequency())).forward(logits, hard()),
        "soft_class_balanced_smoothed" => ce(0.2, balanced).forward_soft(logits, soft()),
        "focal_0" => fl(0.0, None).forward(logits, hard()),
        "focal_half" => fl(0.5, None).forward(logits, hard()),
        "focal_2" => fl(2.0, None).forward(logits, hard()),
        "class_balanced_focal" => fl(2.0, balanced).forward(logits, hard()),
        "focal_soft" => fl(2.0, None).forward_soft(logits, soft()),
        "ldam" => ldam(None),
        "ldam_drw" => ldam(Some(ClassWeights::effective_number())),
        "logit_adjusted_half" => adjusted(0.5),
        "balanced_softmax" => adjusted(1.0),
        other => panic!("{other}"),
    }
}

#[test]
fn values_and_gradients_are_pytorchs() {
    let device = Device::flex().autodiff();
    // In float32 the kernels of the CPU backend answer where they can, in float64 the definition.
    for (dtype, value_bound, gradient_bound) in
        [(DType::F64, 1e-12, 1e-11), (DType::F32, 2e-6, 5e-6)]
    {
        for (name, value, gradient) in CASES {
            let what = format!("{name} {dtype:?}");
            let logits = logits(&LOGITS, &device, dtype);
            let losses = loss(name, &logits).per_expert;
            assert_eq!(losses.dims(), [2], "{what}");
            let gradients = losses.clone().narrow(0, 0, 1).backward();
            assert_rel(&what, floats(losses)[0], value, value_bound);
            let found = floats(logits.experts[0].grad(&gradients).unwrap());
            let distance = relative_l2(&found, &gradient);
            assert_below(&format!("gradient of {what}"), distance, gradient_bound);
        }
    }
}

#[test]
fn large_logits_stay_finite() {
    let device = Device::flex().autodiff();
    let extreme = [
        60.0, -60.0, -60.0, -60.0, -60.0, 60.0, 0.0, 60.0, -60.0, -60.0, 60.0, -60.0,
    ];
    for dtype in [DType::F32, DType::F64] {
        for (name, ..) in CASES {
            let logits = logits(&extreme, &device, dtype);
            let loss = loss(name, &logits).total();
            let gradients = loss.backward();
            assert!(floats(loss)[0].is_finite(), "{name} {dtype:?}");
            for expert in &logits.experts {
                let gradient = floats(expert.grad(&gradients).unwrap());
                assert!(gradient.iter().all(|x| x.is_finite()), "{name} {dtype:?}");
            }
        }
    }
}

#[test]
fn class_weights_are_the_formulas() {
    let cases = [
        (
            ClassWeights::EffectiveNumber { beta: 0.99 },
            [
                0.08616089243999314,
                0.1823590956610122,
                0.6980121352412947,
                3.0334678766577,
            ],
        ),
        (
            ClassWeights::effective_number(),
            [
                0.052018962900210686,
                0.1554347059138323,
                0.689751355313392,
                3.1027949758725644,
            ],
        ),
        (
            ClassWeights::inverse_frequency(),
            [
                0.05172413793103449,
                0.15517241379310348,
                0.6896551724137931,
                3.1034482758620694,
            ],
        ),
        (ClassWeights::EffectiveNumber { beta: 0.0 }, [1.0; 4]),
    ];
    for (weights, expected) in cases {
        let found = weights.compute(&COUNTS).unwrap();
        let difference = max_abs(&found, &expected);
        // 1 − βⁿ is taken with cancellation there.
        assert_below(&format!("{weights:?}"), difference, 1e-11);
    }
}

#[test]
fn weights_go_from_none_to_inverse_and_single_classes_have_factors() {
    let counts = [100, 25, 4];
    let names = ["ant", "bee", "cicada"].map(String::from);
    let power = |power| ClassWeights::InverseFrequency { power };
    let close = |weights: &ClassWeights, expected: [f64; 3]| {
        let found = weights.compute(&counts).unwrap();
        assert_below(&format!("{weights:?}"), max_abs(&found, &expected), 1e-12);
    };
    close(&power(0.0), [1.0; 3]);
    // 1/10, 1/5 and 1/2, which sum to 0.8.
    close(&power(0.5), [0.375, 0.75, 1.875]);
    let named = |classes: &[(&str, f64)], base| ClassWeights::Named {
        classes: classes
            .iter()
            .map(|(name, w)| ((*name).to_owned(), *w))
            .collect(),
        base,
    };
    let of = |weights: &ClassWeights| weights.for_classes(&names, &counts);
    close(&of(&named(&[("bee", 2.0)], None)).unwrap(), [1.0, 2.0, 1.0]);
    let both = named(&[("bee", 2.0), ("ant", 0.5)], Some(Box::new(power(0.5))));
    close(&of(&both).unwrap(), [0.1875, 1.5, 1.875]);
    assert_eq!(of(&power(0.5)), Ok(power(0.5)));
    let message = |weights: &ClassWeights| of(weights).unwrap_err().to_string();
    let unknown = message(&named(&[("Cicade", 2.0)], None));
    assert_eq!(
        unknown,
        "weights.classes = `Cicade`: it must be the name of a class, such as `cicada`"
    );
    assert!(message(&named(&[("bee", 0.0)], None)).contains("bee=0: it must be above 0"));
    assert!(
        both.compute(&counts)
            .unwrap_err()
            .to_string()
            .contains("for_classes")
    );
    assert!(
        power(-1.0)
            .validate()
            .unwrap_err()
            .to_string()
            .contains("weights.power")
    );
    // A configuration without a power is what it was.
    let text = serde_json::to_string(&power(1.0)).unwrap();
    assert_eq!(text, r#"{"kind":"inverse_frequency"}"#);
    assert_eq!(
        serde_json::from_str::<ClassWeights>(&text).unwrap(),
        power(1.0)
    );
}

#[test]
fn weights_shift_the_prior_of_the_balanced_softmax() {
    let device = Device::flex();
    let values = vec![1.0, 2.0, 1.0, 0.5];
    let config = |weights| {
        LossConfig::LogitAdjustment(LogitAdjustmentLossConfig::default().with_weights(weights))
    };
    let weighted = config(Some(ClassWeights::Given {
        values: values.clone(),
    }));
    let loss = |config: &LossConfig, shift: &[f64]| {
        let own = logits(&LOGITS, &device, DType::F64);
        let shift = Tensor::<2>::from_data(
            TensorData::new(shift.to_vec(), [1, 4]),
            (&device, DType::F64),
        );
        let experts = own
            .experts
            .iter()
            .map(|expert| expert.clone().detach() + shift.clone());
        let moved = ExpertLogits {
            experts: experts.collect(),
        };
        let labels = Tensor::<1, Int>::from_data(LABELS, &device);
        let loss = config.init(&context(0)).unwrap();
        floats(loss.forward(&moved, labels).total())[0]
    };
    // Logits that are lower by log w have the loss that they have without weights.
    let logs: Vec<f64> = values.iter().map(|w: &f64| -w.ln()).collect();
    let difference = loss(&weighted, &[0.0; 4]) - loss(&config(None), &logs);
    assert!(difference.abs() < 1e-12, "{difference}");
    let factors = weighted.log_prior_factors(&COUNTS, 0).unwrap();
    for (factor, (w, n)) in factors.into_iter().zip(values.iter().zip(COUNTS)) {
        assert!((factor - (w.ln() - (n as f64).ln())).abs() < 1e-12);
    }
    let twice = config(Some(ClassWeights::inverse_frequency()));
    let error = twice.init(&context(0)).unwrap_err().to_string();
    assert!(error.contains("makes up for the counts already"), "{error}");
    let plain = serde_json::to_string(&LossConfig::balanced_softmax()).unwrap();
    assert_eq!(plain, r#"{"kind":"balanced_softmax"}"#);
}

#[test]
fn deferred_weights_begin_with_their_epoch() {
    let device = Device::flex();
    let weights = Some(ClassWeights::effective_number());
    let values = |epoch| {
        let logits = logits(&LOGITS, &device, DType::F64);
        let labels = || Tensor::<1, Int>::from_data(LABELS, &device);
        let ce = cross_entropy(0.0, weights.clone()).with_weights_from_epoch(3);
        let focal = focal(2.0, weights.clone()).with_weights_from_epoch(3);
        let ldam = LdamLossConfig::default()
            .with_weights(weights.clone())
            .with_weights_from_epoch(3);
        [
            ce.init(&context(epoch)).unwrap().forward(&logits, labels()),
            focal
                .init(&context(epoch))
                .unwrap()
                .forward(&logits, labels()),
            ldam.init(&context(epoch))
                .unwrap()
                .forward(&logits, labels()),
        ]
        .map(|loss| floats(loss.per_expert)[0])
    };
    assert_eq!(values(0), values(2));
    assert_eq!(values(3), values(9));
    let value = |name: &str| CASES.iter().find(|case| case.0 == name).unwrap().1;
    let [ce, focal, ldam] = values(2);
    assert_rel("cross-entropy", ce, value("cross_entropy"), 1e-12);
    assert_rel("focal", focal, value("focal_2"), 1e-12);
    assert_rel("LDAM", ldam, value("ldam"), 1e-12);
    assert_rel("LDAM-DRW", values(3)[2], value("ldam_drw"), 1e-12);
}

#[test]
fn what_no_loss_can_have_is_named() {
    let empty = [3, 0, 1];
    let weights = Some(ClassWeights::effective_number());
    let cases: [(Result<(), LossError>, &str); 9] = [
        (
            BalancedSoftmaxLossConfig::default()
                .init(&LossContext::new(&empty))
                .map(drop),
            "class 1 has no training image",
        ),
        (
            LdamLossConfig::default()
                .init(&LossContext::new(&empty))
                .map(drop),
            "class 1 has no training image: its margin",
        ),
        // Also while the weights are still to come.
        (
            cross_entropy(0.0, weights.clone())
                .with_weights_from_epoch(5)
                .init(&LossContext::new(&empty))
                .map(drop),
            "class 1 has no training image: its weight",
        ),
        (
            LogitAdjustmentLossConfig::default()
                .with_tau(-1.0)
                .init(&LossContext::new(&COUNTS))
                .map(drop),
            "tau = -1: it must be 0 or more",
        ),
        (
            cross_entropy(1.0, None).init(&context(0)).map(drop),
            "label_smoothing = 1",
        ),
        (
            focal(f64::NAN, None).init(&context(0)).map(drop),
            "gamma = NaN",
        ),
        (
            LdamLossConfig::default()
                .with_max_margin(-0.1)
                .init(&context(0))
                .map(drop),
            "max_margin = -0.1",
        ),
        (
            ClassWeights::EffectiveNumber { beta: 1.0 }.validate(),
            "weights.beta = 1: it must be at least 0 and below 1",
        ),
        (
            ClassWeights::Given {
                values: vec![1.0, 2.0],
            }
            .compute(&COUNTS)
            .map(drop),
            "weights.values = 2 numbers: it must be 4, one for each class",
        ),
    ];
    for (result, expected) in cases {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected} is not in: {error}");
    }
    // Without weights an empty class does no harm.
    assert!(
        cross_entropy(0.1, None)
            .init(&LossContext::new(&empty))
            .is_ok()
    );
}

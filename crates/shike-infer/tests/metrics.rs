//! Long-tail metrics: small cases worked out by hand, and the reference's values.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::path::PathBuf;

use common::golden;
use serde_json::Value;
use shike_infer::metrics::{
    Evaluation, Evaluator, Metric, MetricsError, Scores, Shot, ShotThresholds,
};

/// Four classes: many, medium, few, and a few-shot class that the test set lacks.
const COUNTS: [usize; 4] = [200, 50, 5, 3];

fn evaluate(counts: &[usize], experts: &[&[f32]], labels: &[u32]) -> Evaluation {
    let mut evaluator = Evaluator::new(counts, ShotThresholds::default(), experts.len()).unwrap();
    evaluator.add_batch(experts, labels).unwrap();
    evaluator.finish().unwrap()
}

/// A metric of all classes.
fn of(scores: &Scores, metric: Metric) -> f64 {
    scores.get(metric).unwrap()
}

fn cross_entropy(evaluation: &Evaluation) -> f64 {
    of(&evaluation.losses, Metric::LOSS)
}

#[test]
fn averages_over_classes_and_over_images_differ() {
    // Images: three of class 0 (two right), one of class 1 (wrong), one of class 2 (right).
    let logits = [
        [9.0, 0.0, 0.0, 0.0],
        [9.0, 0.0, 0.0, 0.0],
        [0.0, 9.0, 0.0, 0.0],
        [9.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 9.0, 0.0],
    ];
    let evaluation = evaluate(&COUNTS, &[logits.as_flattened()], &[0, 0, 0, 1, 2]);
    let ensemble = &evaluation.ensemble;
    assert!((of(ensemble, Metric::TOP1) - 60.0).abs() < 1e-12);
    assert!((ensemble.get(Metric::group(Shot::Many)).unwrap() - 200.0 / 3.0).abs() < 1e-12);
    assert_eq!(ensemble.get(Metric::group(Shot::Medium)), Some(0.0));
    assert_eq!(ensemble.get(Metric::group(Shot::Few)), Some(100.0));
    // Only the three classes that have test images count.
    assert!((of(ensemble, Metric::CLASS_AVERAGED) - 500.0 / 9.0).abs() < 1e-12);
    assert_eq!(evaluation.per_class[3].accuracy, None);
    assert_eq!(evaluation.per_class[3].shot, Shot::Few);
    assert_eq!(evaluation.per_class[0].correct, 2);
    // With four classes the top five are all of them.
    assert_eq!(of(ensemble, Metric::TOP5), 100.0);

    // Two medium classes of unequal size: 1/1 and 1/3.
    let logits = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]];
    let medium = evaluate(&[50, 50], &[logits.as_flattened()], &[0, 1, 1, 1]).ensemble;
    assert!((medium.get(Metric::group(Shot::Medium)).unwrap() - 200.0 / 3.0).abs() < 1e-12);
    assert_eq!(medium.get(Metric::pooled(Shot::Medium)), Some(50.0));
    assert_eq!(
        (
            medium.get(Metric::group(Shot::Many)),
            medium.get(Metric::pooled(Shot::Many))
        ),
        (None, None)
    );
}

#[test]
fn ensemble_is_the_mean_of_logits() {
    // Expert 1 is sure and wrong, experts 0 and 2 are a little right: the mean of logits follows
    // expert 1 (0.67 against 2.67), a mean of probabilities would follow the other two.
    let experts: [&[f32]; 3] = [&[1.0, 0.0], &[0.0, 8.0], &[1.0, 0.0]];
    let evaluation = evaluate(&[50, 50], &experts, &[0]);
    assert_eq!(of(&evaluation.ensemble, Metric::TOP1), 0.0);
    let top1: Vec<f64> = evaluation
        .experts
        .iter()
        .map(|e| of(e, Metric::TOP1))
        .collect();
    assert_eq!(top1, [100.0, 0.0, 100.0]);
    // ln(1 + e^2)
    assert!((cross_entropy(&evaluation) - 2.126_928_011_042_972).abs() < 1e-6);
}

#[test]
fn lower_index_wins_ties_and_nan_is_wrong() {
    let zeros = [0.0f32; 6];
    let ranked = |label| evaluate(&[50; 6], &[&zeros], &[label]).ensemble;
    assert_eq!(
        (of(&ranked(0), Metric::TOP1), of(&ranked(0), Metric::TOP5)),
        (100.0, 100.0)
    );
    assert_eq!(
        (of(&ranked(4), Metric::TOP1), of(&ranked(4), Metric::TOP5)),
        (0.0, 100.0)
    );
    assert_eq!(of(&ranked(5), Metric::TOP5), 0.0);

    let nan = [5.0, f32::NAN, 0.0, 0.0, 0.0, 0.0];
    let evaluation = evaluate(&[50; 6], &[&nan], &[0]);
    assert_eq!(
        (
            of(&evaluation.ensemble, Metric::TOP1),
            of(&evaluation.ensemble, Metric::TOP5)
        ),
        (0.0, 0.0)
    );
    assert!(cross_entropy(&evaluation).is_nan());
    // Infinite logits are as wrong.
    for infinite in [f32::INFINITY, f32::NEG_INFINITY] {
        let logits = [infinite, 0.0, 0.0, 0.0, 0.0, 0.0];
        let evaluation = evaluate(&[50; 6], &[&logits], &[0]);
        assert_eq!(of(&evaluation.ensemble, Metric::TOP1), 0.0);
    }
}

#[test]
fn batches_add_up() {
    let logits: Vec<f32> = (0..60u16).map(|i| f32::from(i * 37 % 23)).collect();
    let labels: Vec<u32> = (0..15).map(|i| i % 4).collect();
    let whole = evaluate(&COUNTS, &[&logits, &logits], &labels);
    let mut evaluator = Evaluator::new(&COUNTS, ShotThresholds::default(), 2).unwrap();
    for (logits, labels) in logits.chunks(7 * 4).zip(labels.chunks(7)) {
        evaluator.add_batch(&[logits, logits], labels).unwrap();
    }
    assert_eq!(evaluator.finish().unwrap(), whole);
}

#[test]
fn thresholds_follow_either_convention() {
    let oltr = ShotThresholds::default();
    let ncl = ShotThresholds {
        many_above: 99,
        few_below: 21,
    };
    for (count, by_oltr, by_ncl) in [
        (101, Shot::Many, Shot::Many),
        (100, Shot::Medium, Shot::Many),
        (20, Shot::Medium, Shot::Few),
        (19, Shot::Few, Shot::Few),
        (0, Shot::Few, Shot::Few),
    ] {
        assert_eq!(oltr.group(count), by_oltr, "{count}");
        assert_eq!(ncl.group(count), by_ncl, "{count}");
    }
    let overlapping = ShotThresholds {
        many_above: 10,
        few_below: 20,
    };
    let error = Evaluator::new(&COUNTS, overlapping, 1).unwrap_err();
    assert!(error.to_string().contains("few_below = 20"), "{error}");
}

#[test]
fn misfits_are_errors_and_leave_no_trace() {
    let mut evaluator = Evaluator::new(&COUNTS, ShotThresholds::default(), 1).unwrap();
    assert_eq!(evaluator.clone().finish(), Err(MetricsError::NoImages));
    let row = [1.0, 0.0, 0.0, 0.0];
    assert!(matches!(
        evaluator.add_batch(&[&row, &row], &[0]),
        Err(MetricsError::Experts {
            actual: 2,
            expected: 1
        })
    ));
    assert!(matches!(
        evaluator.add_batch(&[&row], &[0, 1]),
        Err(MetricsError::Shape {
            actual: 4,
            expected: 8,
            ..
        })
    ));
    assert!(matches!(
        evaluator.add_batch(&[[row, row].as_flattened()], &[0, 4]),
        Err(MetricsError::Label {
            label: 4,
            classes: 4
        })
    ));
    assert_eq!(evaluator.finish(), Err(MetricsError::NoImages));
    assert!(Evaluator::new(&[], ShotThresholds::default(), 1).is_err());
    assert!(Evaluator::new(&COUNTS, ShotThresholds::default(), 0).is_err());
}

#[test]
fn json_and_tables() {
    let logits = [[9.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]];
    let evaluation = evaluate(&COUNTS, &[logits.as_flattened()], &[0, 1]);
    let text = serde_json::to_string(&evaluation).unwrap();
    // All but the scores by image.
    let mut read: Evaluation = serde_json::from_str(&text).unwrap();
    assert!(read.scores.is_empty() && evaluation.scores.len() == 2);
    read.scores.clone_from(&evaluation.scores);
    assert_eq!(read, evaluation);
    assert!(
        evaluation
            .summary()
            .contains("many 100.00 %, medium 0.00 %, loss")
    );
    let table = "\
accuracy [%]          top-1    top-5   class avg     many   medium   few
model                 50.00   100.00       50.00   100.00     0.00     -
  95 % interval        9–91   34–100       20–80   57–100     0–43     -
  calibration error   49.96                         -0.04   +99.96     -
classes with images                                     1        1   0/2
4 of 4 classes have too few images here to tell (95 % interval wider than 40 points)
calibration error: in the columns of groups, confidence less accuracy (above 0: too sure)
macro precision 25.00 %, macro F1 33.33 %, weighted F1 33.33 %, Cohen's kappa 0.0000
2 images, loss 4.5004; many: more than 100 training images, few: fewer than 20";
    assert_eq!(evaluation.to_string(), table);
    // The keys are a format.
    let json = serde_json::to_value(&evaluation).unwrap();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let own = [
        "class_averaged_loss",
        "ensemble",
        "experts",
        "images",
        "loss",
        "per_class",
        "thresholds",
    ];
    assert_eq!(keys(&json), own);
    let scores = "class_averaged f1 few few_pooled kappa many many_pooled medium medium_pooled precision top1 top5 \
                  weighted_f1";
    for of in [&json["ensemble"], &json["experts"][0]] {
        assert_eq!(keys(of).join(" "), scores);
    }
    assert_eq!(json["ensemble"]["few"], Value::Null);
    let json = Value::from(evaluation.to_json());
    for (key, value) in [
        ("/top1", 50.0),
        ("/top1_interval/0", 9.453_120_573_423_07),
        ("/groups/many/accuracy", 100.0),
        ("/groups/medium/confidence_gap", 99.962_991),
        ("/f1", 100.0 / 3.0),
    ] {
        let found = json.pointer(key).unwrap().as_f64().unwrap();
        assert!((found - value).abs() < 1e-5, "{key}: {found}");
    }
    assert_eq!(json["groups"]["few"]["interval"], Value::Null);

    let mut csv = Vec::new();
    let name = |i| format!("{i}.jpg");
    evaluation.write_predictions_csv(&mut csv, name).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "image,file,label,predicted,confidence");
    assert!(lines[2].starts_with("1,1.jpg,1,0,0.99"), "{csv}");
    let confusions = evaluation.confusions();
    // From a medium-shot class to a many-shot one.
    assert_eq!(evaluation.tail_to_head(), confusions);
    assert_eq!((confusions[0].label, confusions[0].predicted), (1, 0));
    assert_eq!(confusions[0].share(), 100.0);

    let mut csv = Vec::new();
    let names = ["cat, big".to_owned(), "dog".to_owned()];
    evaluation.write_per_class_csv(&mut csv, &names).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "class,name,train_count,test_count,shot,correct,accuracy,low,high,too_few,predicted,precision,f1"
    );
    assert_eq!(
        lines[1],
        "0,\"cat, big\",200,1,many,1,100.0000,20.6549,100.0000,yes,2,50.0000,66.6667"
    );
    assert_eq!(lines[4], "3,,3,0,few,0,,,,yes,0,,");

    let mut csv = Vec::new();
    let names = ["cat, big", "dog", "eel", "fox"].map(str::to_owned);
    evaluation.write_confusion_csv(&mut csv, &names).unwrap();
    let expected = "class \\ taken for,\"cat, big\",dog,eel,fox\n\"cat, big\",1,0,0,0\ndog,1,0,0,0\neel,0,0,0,0\nfox,0,0,0,0\n";
    assert_eq!(String::from_utf8(csv).unwrap(), expected);

    // An infinite logit is no answer; image and sum say the same.
    let infinite = [f32::INFINITY, 0.0, 0.0, 0.0];
    let diverged = evaluate(&COUNTS, &[&infinite], &[0]);
    assert_eq!(of(&diverged.ensemble, Metric::TOP1), 0.0);
    assert_eq!(diverged.scores[0].predicted, None);

    // A diverged run keeps a readable record.
    let nan = [f32::NAN; 4];
    let diverged = evaluate(&COUNTS, &[&nan], &[0]);
    let text = serde_json::to_string(&diverged).unwrap();
    let read: Evaluation = serde_json::from_str(&text).unwrap();
    assert!(cross_entropy(&read).is_nan() && text.contains("\"loss\":null"));
}

/// scikit-learn 1.9: `precision_score`, `f1_score`, `cohen_kappa_score`, `balanced_accuracy_score` with the labels that
/// have images.
#[test]
fn other_measures_are_those_of_scikit_learn() {
    let labels = [0, 0, 0, 1, 1, 2, 2, 2, 2];
    let predicted = [0, 0, 1, 1, 2, 2, 2, 0, 3];
    let logits: Vec<f32> = predicted
        .iter()
        .flat_map(|&class| (0..4).map(move |c| if c == class { 3.0 } else { 0.0 }))
        .collect();
    let mut evaluator = Evaluator::new(&COUNTS, ShotThresholds::default(), 1)
        .unwrap()
        .with_ranking();
    evaluator.add_batch(&[&logits], &labels).unwrap();
    let evaluation = evaluator.finish().unwrap();
    for (metric, expected) in [
        (Metric::PRECISION, 61.111_111_111_111_1),
        (Metric::CLASS_AVERAGED, 55.555_555_555_555_55),
        (Metric::F1, 57.936_507_936_507_94),
        (Metric::WEIGHTED_F1, 58.730_158_730_158_73),
        (Metric::KAPPA, 0.357_142_857_142_857_1),
        (Metric::AUROC, 69.285_714_285_714_29),
        (Metric::AVERAGE_PRECISION, 49.074_074_074_074_08),
    ] {
        let found = evaluation.get(metric).unwrap();
        assert!((found - expected).abs() < 1e-9, "{metric:?} {found}");
        // An expert has no ranking of its own; a measure of classes has no interval here.
        let counted = !["auroc", "average_precision"].contains(&metric.name);
        assert_eq!(evaluation.experts[0].get(metric).is_some(), counted);
        let accuracy = metric == Metric::CLASS_AVERAGED;
        assert_eq!(evaluation.interval(metric).is_some(), accuracy);
    }
    let row = &evaluation.per_class[2];
    assert_eq!((row.predicted, row.precision()), (3, Some(200.0 / 3.0)));
    assert!((row.f1().unwrap() - 400.0 / 7.0).abs() < 1e-9);
    // Taken for by one image, and of none.
    let row = &evaluation.per_class[3];
    assert_eq!((row.predicted, row.precision()), (1, Some(0.0)));
    assert_eq!((row.f1(), row.auroc), (None, None));
}

struct Golden {
    json: Value,
    counts: Vec<usize>,
    /// `[expert][image * 100 + class]`
    experts: Vec<Vec<f32>>,
    labels: Vec<u32>,
    unbalanced: Vec<usize>,
}

impl Golden {
    fn read(golden: PathBuf) -> Self {
        let folder = golden.join("metrics");
        let path = folder.join("metrics.json");
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // Python writes NaN (classes without images), which is not JSON.
        let json: Value = serde_json::from_str(&text.replace("NaN", "null")).unwrap();
        let path = folder.join("metrics.npz");
        let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut npz = npyz::npz::NpzArchive::new(file).unwrap();
        let integers = |npz: &mut npyz::npz::NpzArchive<File>, name: &str| -> Vec<i64> {
            npz.by_name(name).unwrap().unwrap().into_vec().unwrap()
        };
        let labels = integers(&mut npz, "labels");
        let unbalanced = integers(&mut npz, "unbalanced_idx");
        let outs = npz.by_name("outs").unwrap().unwrap();
        assert_eq!(outs.shape(), [3, 1000, 100]);
        let outs: Vec<f32> = outs.into_vec().unwrap();
        let counts = json["counts"].as_array().unwrap();
        Self {
            counts: counts
                .iter()
                .map(|c| c.as_u64().unwrap() as usize)
                .collect(),
            experts: outs.chunks(1000 * 100).map(<[f32]>::to_vec).collect(),
            labels: labels.iter().map(|&l| u32::try_from(l).unwrap()).collect(),
            unbalanced: unbalanced
                .iter()
                .map(|&i| usize::try_from(i).unwrap())
                .collect(),
            json,
        }
    }

    /// Scores the images `images` with the experts `experts`, in batches of 128.
    fn evaluate(&self, experts: &[usize], images: &[usize]) -> Evaluation {
        let mut evaluator =
            Evaluator::new(&self.counts, ShotThresholds::default(), experts.len()).unwrap();
        for batch in images.chunks(128) {
            let rows = |&expert: &usize| -> Vec<f32> {
                let row = |&i: &usize| &self.experts[expert][i * 100..(i + 1) * 100];
                batch.iter().flat_map(row).copied().collect()
            };
            let logits: Vec<Vec<f32>> = experts.iter().map(rows).collect();
            let logits: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
            let labels: Vec<u32> = batch.iter().map(|&i| self.labels[i]).collect();
            evaluator.add_batch(&logits, &labels).unwrap();
        }
        evaluator.finish().unwrap()
    }
}

/// The reference averages in float32; pooled values are double and have to be exact.
fn assert_accuracy(accuracy: &Scores, golden: &Value, at: &str) -> usize {
    let mut cases = 0;
    let mut close = |actual: Option<f64>, expected: &Value, tolerance: f64, field: &str| {
        let expected = expected.as_f64().unwrap();
        let actual = actual.unwrap();
        assert!(
            (actual - expected).abs() < tolerance,
            "{at} {field}: {actual} is not {expected}"
        );
        cases += 1;
    };
    close(
        Some(of(accuracy, Metric::TOP1)),
        &golden["top1"],
        1e-5,
        "top1",
    );
    close(
        Some(of(accuracy, Metric::TOP5)),
        &golden["top5"],
        1e-5,
        "top5",
    );
    let mean = &golden["mean_class_acc"];
    close(
        Some(of(accuracy, Metric::CLASS_AVERAGED)),
        mean,
        1e-5,
        "mean_class_acc",
    );
    for (group, averaged, pooled) in [
        (
            "many_gt100",
            accuracy.get(Metric::group(Shot::Many)),
            accuracy.get(Metric::pooled(Shot::Many)),
        ),
        (
            "medium_20_100",
            accuracy.get(Metric::group(Shot::Medium)),
            accuracy.get(Metric::pooled(Shot::Medium)),
        ),
        (
            "few_lt20",
            accuracy.get(Metric::group(Shot::Few)),
            accuracy.get(Metric::pooled(Shot::Few)),
        ),
    ] {
        let golden = &golden[group];
        close(averaged, &golden["mean_of_class_acc"], 1e-5, group);
        close(pooled, &golden["pooled_over_images"], 1e-9, group);
    }
    cases
}

/// Per-class accuracies (fractions in the file; NaN, read as null, without images)
/// and group sizes.
fn assert_classes(evaluation: &Evaluation, golden: &Value, at: &str) -> usize {
    let expected = golden["per_class_acc"].as_array().unwrap();
    assert_eq!(expected.len(), evaluation.per_class.len(), "{at}");
    let mut cases = 0;
    for (row, expected) in evaluation.per_class.iter().zip(expected) {
        match (row.accuracy, expected.as_f64()) {
            (None, None) => {}
            (Some(actual), Some(expected)) => assert!(
                (actual / 100.0 - expected).abs() < 1e-7,
                "{at} class {}: {actual} % is not {expected}",
                row.class
            ),
            other => panic!("{at} class {}: {other:?}", row.class),
        }
        cases += 1;
    }
    for (group, shot) in [
        ("many_gt100", Shot::Many),
        ("medium_20_100", Shot::Medium),
        ("few_lt20", Shot::Few),
    ] {
        let size = evaluation
            .per_class
            .iter()
            .filter(|r| r.shot == shot)
            .count();
        assert_eq!(
            Some(size as u64),
            golden[group]["n_classes"].as_u64(),
            "{at} {group}"
        );
        cases += 1;
    }
    cases
}

#[test]
fn golden_metrics() {
    let Some(golden) = golden("golden_metrics") else {
        return;
    };
    let golden = Golden::read(golden);
    let all: Vec<usize> = (0..golden.labels.len()).collect();
    let json = &golden.json;

    let balanced = golden.evaluate(&[0, 1, 2], &all);
    let mut cases = assert_accuracy(&balanced.ensemble, &json["balanced"], "balanced");
    cases += assert_classes(&balanced, &json["balanced"], "balanced");

    let per_expert = json["per_expert"].as_array().unwrap();
    assert_eq!(per_expert.len(), balanced.experts.len());
    for (expert, expected) in per_expert.iter().enumerate() {
        let at = format!("expert {expert}");
        cases += assert_accuracy(&balanced.experts[expert], expected, &at);
        let alone = golden.evaluate(&[expert], &all);
        assert_eq!(alone.ensemble, balanced.experts[expert], "{at} alone");
        cases += assert_classes(&alone, expected, &at);
    }

    let unbalanced = golden.evaluate(&[0, 1, 2], &golden.unbalanced);
    cases += assert_accuracy(&unbalanced.ensemble, &json["unbalanced"], "unbalanced");
    cases += assert_classes(&unbalanced, &json["unbalanced"], "unbalanced");
    let missing = unbalanced
        .per_class
        .iter()
        .filter(|r| r.test_count == 0)
        .count();
    assert_eq!(
        Some(missing as u64),
        json["unbalanced"]["classes_missing"].as_u64()
    );

    let meter = json["average_meter_top1"].as_f64().unwrap();
    assert!((of(&balanced.ensemble, Metric::TOP1) - meter).abs() < 1e-5);
    let loss = json["criterion"]["value_f64"].as_f64().unwrap();
    assert!(
        (cross_entropy(&balanced) - loss).abs() < 1e-6,
        "{} is not {loss}",
        cross_entropy(&balanced)
    );
    let loss = json["criterion"]["value"].as_f64().unwrap();
    assert!(
        (cross_entropy(&balanced) - loss).abs() < 1e-5,
        "{} is not {loss}",
        cross_entropy(&balanced)
    );
    cases += 4;
    println!("GOLDEN metrics: {cases} cases ran");
}

/// The order of `torch.topk` among equal logits is not specified, so the reference's numbers and
/// ours may differ there, but both lie between the best and the worst order of the ties.
#[test]
fn golden_metrics_ties() {
    let Some(golden) = golden("golden_metrics_ties") else {
        return;
    };
    let golden = Golden::read(golden);
    let ties = &golden.json["ties"];
    let rows: Vec<Vec<f32>> = serde_json::from_value(ties["logits"].clone()).unwrap();
    let labels: Vec<u32> = serde_json::from_value(ties["labels"].clone()).unwrap();
    let reference: [f64; 2] = serde_json::from_value(ties["top1_5"].clone()).unwrap();
    let counts = vec![50; rows[0].len()];
    let ours = evaluate(&counts, &[&rows.concat()], &labels).ensemble;
    for (k, ours, reference) in [
        (1, of(&ours, Metric::TOP1), reference[0]),
        (5, of(&ours, Metric::TOP5), reference[1]),
    ] {
        let (mut worst, mut best) = (0, 0);
        for (row, &label) in rows.iter().zip(&labels) {
            let own = row[label as usize];
            best += usize::from(row.iter().filter(|&&l| l > own).count() < k);
            worst += usize::from(row.iter().filter(|&&l| l >= own).count() <= k);
        }
        let range = [worst, best].map(|hits| 100.0 * hits as f64 / rows.len() as f64);
        assert!(
            (range[0]..=range[1]).contains(&ours),
            "top-{k}: {ours} in {range:?}"
        );
        assert!(
            (range[0]..=range[1]).contains(&reference),
            "top-{k}: {reference} in {range:?}"
        );
    }
    println!("GOLDEN metrics ties: {} cases ran", rows.len());
}

#[test]
fn the_class_averaged_loss_counts_every_class_alike() {
    // Class 2 has no test image.
    let mut evaluator = Evaluator::new(&[9, 5, 2], ShotThresholds::default(), 1).unwrap();
    evaluator
        .add_batch(
            &[&[2.0, 1.0, 0.0, 0.0, 1.0, 3.0, 1.0, 1.0, 1.0]],
            &[0, 0, 1],
        )
        .unwrap();
    let evaluation = evaluator.finish().unwrap();
    let loss = |logits: [f64; 3], label: usize| {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        sum.ln() - logits[label]
    };
    let (a, b, c) = (
        loss([2.0, 1.0, 0.0], 0),
        loss([0.0, 1.0, 3.0], 0),
        3f64.ln(),
    );
    assert!(
        (of(&evaluation.losses, Metric::CLASS_AVERAGED_LOSS) - ((a + b) / 2.0 + c) / 2.0).abs()
            < 1e-12
    );
    assert!((cross_entropy(&evaluation) - (a + b + c) / 3.0).abs() < 1e-12);
}

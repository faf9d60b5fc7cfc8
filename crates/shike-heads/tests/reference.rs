//! Every head against values that other programs computed: logistic regression by scikit-learn 1.9.1
//! (`LogisticRegression(tol=1e-10, max_iter=10000)`), the others of its kind by PyTorch 2.15 (`torch.optim.LBFGS` in
//! float64 until nothing changes), ridge regression by numpy from the normal equations, kernel ridge regression from its dual. `reference.py` beside this file prints them.
#![allow(clippy::unwrap_used)]

use shike_heads::{Candidate, Depth, Features, FittedHead};

/// 21 pictures of four classes, 9, 6, 4 and 2 of them, with five features: sines, and 0.8 more in the class's own column.
fn training() -> (Vec<f32>, Vec<u32>) {
    let labels: Vec<u32> = [9, 6, 4, 2]
        .iter()
        .zip(0..)
        .flat_map(|(&n, c)| vec![c; n])
        .collect();
    let mut values: Vec<f32> = (0..5 * labels.len())
        .map(|i| (1.0 + 0.7 * i as f64).sin() as f32)
        .collect();
    for (row, &label) in values.chunks_exact_mut(5).zip(&labels) {
        row[label as usize] += 0.8;
    }
    (values, labels)
}

/// Log-probabilities of two other pictures.
fn log_probabilities(head: &str, strength: f64) -> Vec<f32> {
    let (values, labels) = training();
    let depths = Depth::side_by_side([("all", 5)]);
    let features = Features::new(&values, &labels, 4, &depths).unwrap();
    let mut candidate = Candidate::usual(head, &depths).unwrap();
    candidate.strength = strength;
    let others: Vec<f32> = (0..10)
        .map(|i| (1.0 + 0.9 * i as f64).cos() as f32)
        .collect();
    candidate
        .fit(&features)
        .unwrap()
        .log_probabilities(&others)
        .unwrap()
}

fn check(head: &str, strength: f64, tolerance: f32, expected: [[f32; 4]; 2]) {
    let found = log_probabilities(head, strength);
    for (found, expected) in found.iter().zip(expected.as_flattened()) {
        assert!(
            (found - expected).abs() < tolerance,
            "{head}: {found} {expected}"
        );
    }
}

#[test]
fn closed_forms() {
    check(
        "class-means",
        0.0,
        1e-4,
        [
            [-0.00242, -14.06292, -11.35989, -6.03224],
            [-12.0042, -0.13822, -2.04759, -10.06771],
        ],
    );
    check(
        "ridge",
        4e-3,
        1e-4,
        [
            [-0.0, -12.34515, -28.00035, -30.05601],
            [-30.70793, -5.46844, -0.00423, -14.03865],
        ],
    );
    check(
        "kernel-ridge",
        1e-3,
        1e-3,
        [
            [-0.0, -15.55555, -26.76036, -30.55525],
            [-25.36421, -0.55987, -0.847, -11.01248],
        ],
    );
}

#[test]
fn logistic_regression_is_that_of_scikit_learn() {
    check(
        "logistic-regression",
        0.0,
        2e-3,
        [
            [-0.37449, -1.79715, -2.5435, -2.68828],
            [-1.9306, -0.84741, -1.06364, -2.51064],
        ],
    );
}

#[test]
fn linear_heads_reach_the_lowest_point() {
    check(
        "linear",
        0.0,
        2e-3,
        [
            [-0.37449, -1.79715, -2.5435, -2.68828],
            [-1.9306, -0.84741, -1.06364, -2.51064],
        ],
    );
    check(
        "linear-balanced",
        0.0,
        2e-3,
        [
            [-0.72453, -1.74172, -2.0826, -1.53423],
            [-2.58813, -1.09947, -0.91024, -1.66409],
        ],
    );
}

#[test]
fn balanced_softmax_is_held_to_class_means() {
    check(
        "held-to-means",
        0.0,
        2e-2,
        [
            [-0.05371, -3.28377, -5.16962, -4.6977],
            [-9.74765, -1.30991, -0.34265, -3.90149],
        ],
    );
    check(
        "average",
        4e-3,
        2e-2,
        [
            [-0.00041, -7.78802, -16.55855, -17.35042],
            [-20.09384, -3.25522, -0.03949, -8.83612],
        ],
    );
}

#[test]
fn cosine_heads_are_cosines_times_sixteen() {
    // Two classes on an axis: the means' directions are the best that there are, and stay.
    let values = [1.0, 1.0, -1.0, -1.0];
    let depths = Depth::side_by_side([("all", 1)]);
    let features = Features::new(&values, &[0, 0, 1, 1], 2, &depths).unwrap();
    for head in ["cosine", "cosine-balanced", "cosine-adjusted"] {
        let fitted = Candidate::usual(head, &depths)
            .unwrap()
            .fit(&features)
            .unwrap();
        let log = fitted.log_probabilities(&[5.0]).unwrap();
        assert!(
            log[0].abs() < 1e-6 && (log[1] + 32.0).abs() < 1e-4,
            "{log:?}"
        );
    }
}

#[test]
fn no_head_knows_nothing() {
    assert!(
        log_probabilities("none", 0.0)
            .iter()
            .all(|v| (v + 4f32.ln()).abs() < 1e-6)
    );
}

#[test]
fn temperature_and_tau_are_applied() {
    let (values, labels) = training();
    let depths = Depth::side_by_side([("all", 5)]);
    let features = Features::new(&values, &labels, 4, &depths).unwrap();
    let mut candidate = Candidate::usual("none", &depths).unwrap();
    (candidate.tau, candidate.temperature) = (1.0, 0.5);
    let log = candidate
        .fit(&features)
        .unwrap()
        .log_probabilities(&values[..5])
        .unwrap();
    // p_c is as 1 / n_c².
    let all: f32 = [9.0f32, 6.0, 4.0, 2.0].iter().map(|n| 1.0 / (n * n)).sum();
    for (found, n) in log.iter().zip([9.0f32, 6.0, 4.0, 2.0]) {
        assert!((found - (1.0 / (n * n) / all).ln()).abs() < 1e-5, "{log:?}");
    }
}

/// 21 pictures, 9, 6, 4 and 2 of the classes.
#[test]
fn class_weights_are_factors_on_probabilities() {
    let (values, labels) = training();
    let depths = Depth::side_by_side([("all", 5)]);
    let features = Features::new(&values, &labels, 4, &depths).unwrap();
    let head = Candidate::usual("average", &depths)
        .unwrap()
        .fit(&features)
        .unwrap();
    let weights = [1.0, 3.0, 0.5, 1.0];
    let weighted = head.clone().with_class_weights(&weights).unwrap();
    let probabilities = |head: &FittedHead| head.log_probabilities(&values[..5]).unwrap();
    let plain = probabilities(&head);
    let expected: Vec<f64> = plain
        .iter()
        .zip(weights)
        .map(|(log, w)| f64::from(*log).exp() * w)
        .collect();
    let sum: f64 = expected.iter().sum();
    for (found, expected) in probabilities(&weighted).iter().zip(&expected) {
        assert!((f64::from(*found).exp() - expected / sum).abs() < 1e-6);
    }
    let prior = weighted.prior().unwrap();
    let prior: Vec<f64> = prior.iter().map(|share| share * 5.5).collect();
    assert!(
        prior.iter().zip(weights).all(|(a, b)| (a - b).abs() < 1e-6),
        "{prior:?}"
    );
    // They are kept in a file.
    let again = FittedHead::try_from(weighted.clone().take_apart()).unwrap();
    assert_eq!(again, weighted);
    assert!(head.clone().with_class_weights(&[1.0; 3]).is_err());
    assert!(head.with_class_weights(&[1.0, 1.0, 0.0, 1.0]).is_err());
}

#[test]
fn a_head_says_which_frequencies_it_stands_for() {
    let (values, labels) = training();
    let depths = Depth::side_by_side([("all", 5)]);
    let features = Features::new(&values, &labels, 4, &depths).unwrap();
    let prior = |head: &str, tau: f32| {
        let mut candidate = Candidate::usual(head, &depths).unwrap();
        candidate.tau = tau;
        candidate.fit(&features).unwrap().prior().unwrap()
    };
    let close = |found: Vec<f64>, expected: [f64; 4]| {
        let differs = found
            .iter()
            .zip(expected)
            .any(|(a, b)| (a - b).abs() > 1e-6);
        assert!(!differs, "{found:?}");
    };
    let shares = [9.0, 6.0, 4.0, 2.0].map(|n: f64| n / 21.0);
    for head in ["logistic-regression", "linear", "cosine", "neighbours"] {
        close(prior(head, 0.0), shares);
    }
    for head in ["average", "ridge", "class-means", "linear-balanced"] {
        close(prior(head, 0.0), [0.25; 4]);
    }
    close(prior("linear-adjusted", 1.0), [0.25; 4]);
    // Half of the logarithm is taken off: 3, √6, 2, √2.
    let sum = 5.0 + 6f64.sqrt() + 2f64.sqrt();
    let half = [3.0, 6f64.sqrt(), 2.0, 2f64.sqrt()].map(|n| n / sum);
    close(prior("cosine-adjusted", 0.5), half);
}

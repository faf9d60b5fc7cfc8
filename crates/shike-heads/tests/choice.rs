//! The choice among heads, and fitted heads in files.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use shike_data::rng::{Draw, Purpose, rng};
use shike_heads::heads::HEADS;
use shike_heads::{Candidate, Comparison, Depth, Features, FittedHead, HeadError, Stored};

const WIDTH: usize = 6;

fn depths() -> Vec<Depth> {
    Depth::side_by_side([("shallow", 2), ("deep", 4)])
}

/// Pictures of classes with these counts: a class's own direction, and noise.
fn pictures(counts: &[usize], noise: f64, seed: u64) -> (Vec<f32>, Vec<u32>) {
    let labels = counts
        .iter()
        .zip(0u32..)
        .flat_map(|(&n, class)| vec![class; n]);
    let labels: Vec<u32> = labels.collect();
    let mut random = rng(seed, 0, 0, Purpose::Other);
    let mut values = vec![];
    for &label in &labels {
        let mut own = rng(seed, 1, label.into(), Purpose::Other);
        values.extend((0..WIDTH).map(|_| (own.normal() + noise * random.normal()) as f32));
    }
    (values, labels)
}

/// The choice on such pictures.
fn choose(
    counts: &[usize],
    noise: f64,
    comparison: &Comparison,
) -> Result<(FittedHead, shike_heads::Choice), HeadError> {
    let (values, labels) = pictures(counts, noise, 3);
    let depths = depths();
    let features = Features::new(&values, &labels, counts.len(), &depths)?;
    comparison.choose(&features, |_, _, _| {})
}

#[test]
fn every_head_is_in_the_table_and_learns_something() {
    let counts = [40, 20, 10, 5, 3, 2, 1];
    let (head, choice) = choose(&counts, 0.5, &Comparison::default()).unwrap();
    assert_eq!(choice.rows.len(), 2 * HEADS.len());
    assert!(choice.left_out.is_empty());
    assert_eq!((choice.classes, choice.classes_with_a_say), (7, 6));
    assert_eq!(choice.rows[choice.default].candidate.head, "average");
    assert_eq!(head.candidate(), &choice.chosen().candidate);
    for row in &choice.rows {
        let name = &row.candidate.head;
        let interval = row.interval.unwrap();
        assert!(
            interval.low <= row.accuracy && row.accuracy <= interval.high,
            "{name}"
        );
        let floor = if name == "none" {
            7f64.ln() + 1e-6
        } else {
            1.6
        };
        assert!(row.log_loss <= floor, "{name} {}", row.log_loss);
        assert_eq!(
            row.path.is_empty(),
            !["ridge", "kernel-ridge"].contains(&name.as_str())
        );
    }
    let text = choice.to_string();
    assert!(
        text.contains("chosen: ") && text.contains("class-weighted ridge"),
        "{text}"
    );
}

#[test]
fn threads_change_nothing_and_the_seed_something() {
    let counts = [30, 15, 8, 4, 2, 1];
    let of = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let comparison = Comparison {
            seed,
            ..Comparison::default()
        };
        let (head, mut choice) = pool.install(|| choose(&counts, 1.5, &comparison)).unwrap();
        choice.rows.iter_mut().for_each(|row| row.seconds = 0.0);
        (head, choice)
    };
    let one = of(1, 0);
    assert_eq!(one, of(3, 0));
    assert_eq!(one, of(8, 0));
    assert_ne!(one.1.rows, of(1, 1).1.rows);
}

#[test]
fn where_every_class_has_one_picture_the_default_is_fitted() {
    let (head, choice) = choose(&[1, 1, 1], 0.5, &Comparison::default()).unwrap();
    assert_eq!(choice.classes_with_a_say, 0);
    assert_eq!(head.candidate().head, "average");
    assert!(choice.reason().contains("no class has two pictures"));
    let (values, labels) = pictures(&[1, 1, 1], 0.5, 3);
    let log = head.log_probabilities(&values).unwrap();
    for (row, &label) in log.chunks_exact(3).zip(&labels) {
        assert!(row.iter().all(|v| *v <= row[label as usize]), "{row:?}");
    }
}

#[test]
fn a_class_of_one_has_no_say_but_is_a_wrong_answer() {
    // The only picture of class 2 lies among those of class 0: it costs class 0, and class 2 counts nowhere.
    let mut values = vec![];
    for class in [1.0f32, -1.0] {
        values.extend((0..20).map(|i| class * (1.0 + 0.01 * i as f32)));
    }
    values.push(1.1);
    let labels: Vec<u32> = [[0; 20], [1; 20]].concat().into_iter().chain([2]).collect();
    let depths = Depth::side_by_side([("a", 1)]);
    let features = Features::new(&values, &labels, 3, &depths).unwrap();
    let comparison = Comparison {
        heads: vec!["class-means".into()],
        ..Comparison::default()
    };
    let (_, choice) = comparison.choose(&features, |_, _, _| {}).unwrap();
    let row = choice
        .rows
        .iter()
        .find(|r| r.candidate.head == "class-means")
        .unwrap();
    // All of class 1 are right; with one column cosines of classes 0 and 2 are the same.
    assert!(row.accuracy >= 50.0 && row.log_loss > 0.3, "{row:?}");
}

#[test]
fn what_belongs_together_is_held_out_together() {
    // Bursts of four that are nearly equal, and tell nothing of the class of others.
    let (bursts, each) = (60u32, 4usize);
    let mut values = vec![];
    for burst in 0..bursts {
        let mut own = rng(1, 2, burst.into(), Purpose::Other);
        let seen: Vec<f32> = (0..WIDTH).map(|_| own.normal() as f32).collect();
        for _ in 0..each {
            values.extend(seen.iter().map(|v| v + 0.01 * own.normal() as f32));
        }
    }
    // The last class is a single burst.
    let class = |burst: u32| if burst + 1 == bursts { 3 } else { burst % 3 };
    let labels: Vec<u32> = (0..bursts)
        .flat_map(|burst| vec![class(burst); each])
        .collect();
    let depths = depths();
    let features = Features::new(&values, &labels, 4, &depths).unwrap();
    let choose = |groups: Vec<Vec<usize>>| {
        let comparison = Comparison {
            groups,
            ..Comparison::default()
        };
        comparison.choose(&features, |_, _, _| {}).unwrap().1
    };
    let accuracy = |choice: &shike_heads::Choice, head: &str| {
        let row = |row: &&shike_heads::Row| row.candidate.head == head;
        choice.rows.iter().find(row).unwrap().accuracy
    };
    let alone = choose(vec![]);
    assert!(accuracy(&alone, "kernel-ridge") > 95.0, "{alone}");
    let groups: Vec<Vec<usize>> = (0..bursts as usize)
        .map(|burst| (burst * each..(burst + 1) * each).collect())
        .collect();
    let together = choose(groups.clone());
    for row in &together.rows {
        assert!(row.accuracy < 55.0, "{together}");
        // A path tells of pictures that it has not seen, too.
        assert!(row.path.iter().all(|at| at.log_loss > 1.0), "{row:?}");
    }
    assert_eq!((together.groups, together.classes_with_a_say), (60, 3));
    let text = together.to_string();
    assert!(
        text.contains("with 60 groups kept together; 3 of 4 classes have two groups or more"),
        "{text}"
    );
    // With a single group there is nothing to compare.
    let all = choose(vec![(0..labels.len()).collect()]);
    assert_eq!(all.classes_with_a_say, 0);
    assert!(all.reason().starts_with("no class has two groups"));
    let twice = Comparison {
        groups: vec![groups[0].clone(), groups[0].clone()],
        ..Comparison::default()
    };
    let error = twice.choose(&features, |_, _, _| {}).unwrap_err();
    assert!(
        error.to_string().contains("image 0 is in two groups"),
        "{error}"
    );
}

#[test]
fn only_what_was_asked_for_is_tried() {
    let comparison = Comparison {
        heads: vec!["linear-adjusted".into()],
        depths: vec![vec!["deep".into()]],
        ..Comparison::default()
    };
    let (_, choice) = choose(&[9, 5, 3], 0.5, &comparison).unwrap();
    let names: Vec<&str> = choice
        .rows
        .iter()
        .map(|r| r.candidate.head.as_str())
        .collect();
    // The default with its parts, and what was named with its part.
    let expected = [
        "held-to-means",
        "ridge-usual",
        "average",
        "linear",
        "linear-adjusted",
    ];
    assert_eq!(names, expected);
    assert!(choice.rows.iter().all(|r| r.candidate.depths == ["deep"]));
    let mut done = vec![];
    let (values, labels) = pictures(&[9, 5, 3], 0.5, 3);
    let depths = depths();
    let features = Features::new(&values, &labels, 3, &depths).unwrap();
    comparison
        .choose(&features, |at, of, _| done.push((at, of)))
        .unwrap();
    assert_eq!(done, [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5)]);
}

#[test]
fn without_time_the_default_is_left() {
    let comparison = Comparison {
        time: Some(std::time::Duration::ZERO),
        ..Comparison::default()
    };
    let (head, choice) = choose(&[9, 5, 3], 0.5, &comparison).unwrap();
    assert_eq!(
        (choice.rows.len(), head.candidate().head.as_str()),
        (3, "average")
    );
    assert_eq!(choice.left_out.len(), 2 * HEADS.len() - 3);
    assert!(choice.to_string().contains("no time was left"));
}

#[test]
fn many_pictures_are_compared_by_their_share() {
    let comparison = Comparison {
        most_pictures: 60,
        heads: vec!["ridge".into()],
        ..Comparison::default()
    };
    let (head, choice) = choose(&[200, 80, 12, 1], 0.5, &comparison).unwrap();
    // 60 of 293: 41 and 16, and of the small classes 10 and 1.
    assert_eq!(choice.pictures, 41 + 16 + 10 + 1);
    assert_eq!(head.pictures(), 293);
}

#[test]
fn above_4000_pictures_a_line_says_that_the_kernel_is_left_out() {
    let comparison = Comparison {
        heads: vec!["kernel-ridge".into()],
        most_pictures: 100,
        ..Comparison::default()
    };
    let (_, choice) = choose(&[4000, 1], 0.5, &comparison).unwrap();
    let text = choice.to_string();
    assert!(
        text.contains("left out: kernel-ridge on shallow+deep"),
        "{text}"
    );
    assert!(
        text.contains("up to 4000 pictures, and there are 4001"),
        "{text}"
    );
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let refused = |comparison: Comparison| match choose(&[3, 3], 0.5, &comparison) {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    };
    let usual = Comparison::default;
    assert!(
        refused(Comparison {
            folds: Some(1),
            ..usual()
        })
        .contains("folds: 1")
    );
    assert!(
        refused(Comparison {
            margin: f64::NAN,
            ..usual()
        })
        .contains("margin: NaN")
    );
    let heads = vec!["rigde".into()];
    assert!(refused(Comparison { heads, ..usual() }).contains(r#"no "rigde"; there are none, "#));
    let depths = vec![vec!["deeep".into()]];
    assert!(refused(Comparison { depths, ..usual() }).contains(r#"no "deeep""#));
    let one = choose(&[5], 0.5, &usual()).unwrap_err();
    assert_eq!(one, HeadError::TooFewClasses(1));
    let depths = depths_and_candidate(|c| c.strength = -1.0);
    assert!(
        depths.contains("strength: -1 has to be 0 or more"),
        "{depths}"
    );
    assert!(depths_and_candidate(|c| c.temperature = 0.0).contains("temperature"));
}

/// What fitting a candidate with a wrong setting says.
fn depths_and_candidate(change: impl Fn(&mut Candidate)) -> String {
    let (values, labels) = pictures(&[3, 3], 0.5, 3);
    let depths = depths();
    let features = Features::new(&values, &labels, 2, &depths).unwrap();
    let mut candidate = Candidate::usual("ridge", &depths).unwrap();
    change(&mut candidate);
    candidate.fit(&features).unwrap_err().to_string()
}

/// Every head, fitted.
fn fitted() -> Vec<FittedHead> {
    let (values, labels) = pictures(&[9, 5, 3, 1], 0.5, 3);
    let depths = depths();
    let features = Features::new(&values, &labels, 4, &depths).unwrap();
    let fit = |head: &shike_heads::heads::Head| {
        Candidate::usual(head.name, &depths[1..])
            .unwrap()
            .fit(&features)
            .unwrap()
    };
    HEADS.iter().map(fit).collect()
}

fn fitted_ridge() -> FittedHead {
    let is_ridge = |head: &FittedHead| head.candidate().head == "ridge";
    fitted().into_iter().find(is_ridge).unwrap()
}

#[test]
fn heads_survive_being_taken_apart() {
    let (others, _) = pictures(&[2, 2, 2, 2], 0.5, 4);
    for head in fitted() {
        let stored = head.clone().take_apart();
        let named: Vec<_> = stored
            .tensors
            .iter()
            .map(|t| (t.name.clone(), t.shape.clone()))
            .collect();
        assert_eq!(stored.description.tensors(), named);
        // Through JSON and back, as a model file does it.
        let json = serde_json::to_string(&stored.description).unwrap();
        let again = Stored {
            description: serde_json::from_str(&json).unwrap(),
            tensors: stored.tensors,
        };
        let again = FittedHead::try_from(again).unwrap();
        assert_eq!(again, head);
        assert_eq!(
            again.log_probabilities(&others),
            head.log_probabilities(&others)
        );
        // The whole value is serde's, too.
        let json = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<FittedHead>(&json).unwrap(), head);
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let head = || fitted_ridge();
    let refused = |change: &dyn Fn(&mut Stored)| {
        let mut stored = head().take_apart();
        change(&mut stored);
        FittedHead::try_from(stored).unwrap_err().to_string()
    };
    let missing = refused(&|s| drop(s.tensors.pop()));
    assert_eq!(
        missing,
        r#"stored head: tensor "head.scorer.bias" is missing"#
    );
    let shape = refused(&|s| s.tensors[0].shape = vec![5]);
    assert!(
        shape.contains(r#""head.mean" has the shape [5] and 4 numbers; this head needs [4]"#),
        "{shape}"
    );
    let numbers = refused(&|s| s.tensors[3].values.truncate(15));
    assert!(numbers.contains("15 numbers"), "{numbers}");
    let twice = refused(&|s| s.tensors.push(s.tensors[0].clone()));
    assert!(twice.contains("is there twice"), "{twice}");
    let foreign = refused(&|s| {
        let mut tensor = s.tensors[0].clone();
        tensor.name = "head.other".into();
        s.tensors.push(tensor);
    });
    assert!(
        foreign.contains(r#""head.other" does not belong"#),
        "{foreign}"
    );
    let nan = refused(&|s| s.tensors[1].values[0] = f32::NAN);
    assert!(nan.contains("not finite"), "{nan}");
    // A description that contradicts itself.
    let json = serde_json::to_string(&head().take_apart().description).unwrap();
    for (from, to) in [
        (r#""classes":4"#, r#""classes":1"#),
        (r#""width":6"#, r#""width":5"#),
        (r#""start":2"#, r#""start":6"#),
        (r#""head":"ridge""#, r#""head":"other""#),
        (r#""temperature":1.0"#, r#""temperature":0.0"#),
    ] {
        assert!(json.contains(from), "{from} {json}");
        let description = serde_json::from_str(&json.replace(from, to)).unwrap();
        let tensors = head().take_apart().tensors;
        let stored = Stored {
            description,
            tensors,
        };
        assert!(FittedHead::try_from(stored).is_err(), "{to}");
    }
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let head = fitted_ridge();
    let width = head.log_probabilities(&[0.0; 7]).unwrap_err();
    assert!(
        width.to_string().contains("7 numbers are no rows of 6"),
        "{width}"
    );
    let mut rows = [0.0; 12];
    rows[9] = f32::NAN;
    let nan = head.log_probabilities(&rows).unwrap_err();
    assert!(nan.to_string().contains("row 1, column 3 is NaN"), "{nan}");
    assert_eq!(head.log_probabilities(&[]), Ok(vec![]));
}

#[test]
fn added_pictures_are_learnt_by_the_same_head() {
    let (values, labels) = pictures(&[9, 5, 3], 0.2, 3);
    let depths = depths();
    let some = Features::new(&values[..16 * WIDTH], &labels[..16], 3, &depths).unwrap();
    let all = Features::new(&values, &labels, 3, &depths).unwrap();
    let (head, _) = Comparison::default().choose(&some, |_, _, _| {}).unwrap();
    let again = head.candidate().fit(&all).unwrap();
    assert_eq!((head.pictures(), again.pictures()), (16, 17));
    assert_eq!(again.candidate(), head.candidate());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Whatever the pictures, every head gives log-probabilities that add up to one.
    #[test]
    fn every_head_gives_probabilities(
        counts in prop::collection::vec(1usize..6, 2..5),
        scale in prop::sample::select(vec![0.0f32, 1e-30, 1.0, 1e30]),
        noise in 0.0f64..3.0,
        seed in 0u64..1000,
    ) {
        let (mut values, labels) = pictures(&counts, noise, seed);
        values.iter_mut().for_each(|v| *v *= scale);
        let depths = depths();
        let features = Features::new(&values, &labels, counts.len(), &depths).unwrap();
        for head in HEADS {
            let fitted = Candidate::usual(head.name, &depths).unwrap().fit(&features).unwrap();
            for row in fitted.log_probabilities(&values).unwrap().chunks_exact(counts.len()) {
                let sum: f32 = row.iter().map(|v| v.exp()).sum();
                prop_assert!((sum - 1.0).abs() < 1e-4, "{} {row:?}", head.name);
            }
        }
    }

    /// The choice comes to an end on pictures of all kinds.
    #[test]
    fn there_is_always_a_choice(
        counts in prop::collection::vec(1usize..5, 2..5),
        noise in 0.0f64..3.0,
        folds in 2usize..7,
    ) {
        let comparison = Comparison { folds: Some(folds), ..Comparison::default() };
        let (head, choice) = choose(&counts, noise, &comparison).unwrap();
        prop_assert!(choice.rows.iter().all(|row| row.log_loss.is_finite()));
        prop_assert!(choice.chosen().behind <= 0.0);
        prop_assert_eq!(head.classes(), counts.len());
    }
}

#[test]
fn held_out_pictures_are_judged_by_a_head_that_has_not_seen_them() {
    let counts = [8, 4, 2, 1];
    let (values, labels) = pictures(&counts, 0.5, 3);
    let depths = depths();
    let features = Features::new(&values, &labels, 4, &depths).unwrap();
    // The only picture of a class is in every fit.
    let mut folds: Vec<Option<usize>> = (0..15).map(|at| Some(at % 2)).collect();
    folds[14] = None;
    for (name, tau) in [("average", 0.0), ("linear", 0.0)] {
        let mut candidate = Candidate::usual(name, &depths).unwrap();
        (candidate.tau, candidate.temperature) = (tau, 2.0);
        let mut told = vec![];
        let log = candidate
            .held_out(&features, &folds, |done, all| told.push((done, all)))
            .unwrap();
        assert_eq!(told, [(0, 2), (1, 2), (2, 2)]);
        assert!(log[14 * 4..].iter().all(|v| *v == 0.0));
        let rest: Vec<usize> = (0..15).filter(|&at| folds[at] != Some(1)).collect();
        let rows: Vec<f32> = rest
            .iter()
            .flat_map(|&at| features.row(at).to_vec())
            .collect();
        let of_rest: Vec<u32> = rest.iter().map(|&at| labels[at]).collect();
        let fitted = candidate
            .fit(&Features::new(&rows, &of_rest, 4, &depths).unwrap())
            .unwrap();
        let prior = fitted.prior().unwrap();
        for at in (1..14).step_by(2) {
            let own = fitted.log_probabilities(features.row(at)).unwrap();
            let weights: Vec<f64> = own
                .iter()
                .zip(&prior)
                .map(|(v, p)| f64::from(*v).exp() / p)
                .collect();
            let sum: f64 = weights.iter().sum();
            for (class, weight) in weights.iter().enumerate() {
                let found = f64::from(log[at * 4 + class]).exp();
                assert!((found - weight / sum).abs() < 1e-5, "{name}, picture {at}");
            }
        }
    }
    let candidate = Candidate::usual("average", &depths).unwrap();
    let refused = |folds: &[Option<usize>]| {
        let error = candidate.held_out(&features, folds, |_, _| {}).unwrap_err();
        error.to_string()
    };
    folds[14] = Some(0);
    let text = refused(&folds);
    assert!(
        text.contains("all pictures of class 3 are in fold 0"),
        "{text}"
    );
    assert!(refused(&folds[1..]).contains("14 folds for 15 pictures"));
}

//! Heads on features of real pictures. `SHIKE_HEADS_FEATURES` names a folder with `features.npy` (f32 `[pictures, 1712]`:
//! the channel means of EfficientNet-Lite0 at stride 16 and 32 and of its head), `labels.npy` (u32) and `train.npy`
//! (u8, 1 for a training picture). `cargo test -p shike-heads --test real -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use shike_data::rng::{Draw, Purpose, rng};
use shike_heads::{Candidate, Comparison, Depth, Features, FittedHead, heads::HEADS};

const WIDTH: usize = 1712;
const CLASSES: usize = 101;

/// All pictures, and which of them are for training.
struct Real {
    features: Vec<f32>,
    labels: Vec<u32>,
    train: Vec<bool>,
}

/// Some pictures' features and classes.
struct Part {
    values: Vec<f32>,
    labels: Vec<u32>,
}

fn depths() -> Vec<Depth> {
    Depth::side_by_side([("stride16", 112), ("stride32", 320), ("deep", 1280)])
}

fn read<T: npyz::Deserialize>(folder: &Path, name: &str) -> Vec<T> {
    let bytes = std::fs::read(folder.join(name)).unwrap();
    npyz::NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap()
}

fn real() -> Option<Real> {
    let Some(folder) = std::env::var_os("SHIKE_HEADS_FEATURES").map(PathBuf::from) else {
        println!("SKIPPED: SHIKE_HEADS_FEATURES is not set");
        return None;
    };
    let train: Vec<u8> = read(&folder, "train.npy");
    Some(Real {
        features: read(&folder, "features.npy"),
        labels: read(&folder, "labels.npy"),
        train: train.into_iter().map(|t| t == 1).collect(),
    })
}

impl Real {
    /// The pictures for which `train` is set, and the others.
    fn parts(&self, train: &[bool]) -> [Part; 2] {
        [true, false].map(|wanted| {
            let chosen = (0..train.len()).filter(|&i| train[i] == wanted);
            let row = |i: usize| &self.features[i * WIDTH..][..WIDTH];
            Part {
                values: chosen.clone().flat_map(row).copied().collect(),
                labels: chosen.map(|i| self.labels[i]).collect(),
            }
        })
    }
}

/// The class-averaged accuracy on `test`, and that of the classes with fewer than 20 training pictures; percent.
fn accuracy(head: &FittedHead, test: &Part, train: &Part) -> (f64, f64) {
    let log = head.log_probabilities(&test.values).unwrap();
    let mut hits = vec![(0.0, 0.0); CLASSES];
    for (row, &label) in log.chunks_exact(CLASSES).zip(&test.labels) {
        let best = (0..CLASSES).fold(0, |b, c| if row[c] > row[b] { c } else { b });
        hits[label as usize].0 += f64::from(best == label as usize);
        hits[label as usize].1 += 1.0;
    }
    let mean = |wanted: &dyn Fn(usize) -> bool| {
        let classes = (0..CLASSES).filter(|&c| wanted(c) && hits[c].1 > 0.0);
        let of: Vec<f64> = classes.map(|c| 100.0 * hits[c].0 / hits[c].1).collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    let count = |c: usize| train.labels.iter().filter(|&&l| l as usize == c).count();
    (mean(&|_| true), mean(&|c| count(c) < 20))
}

#[test]
#[ignore = "needs features of pictures"]
fn table() {
    let Some(real) = real() else { return };
    let [train, test] = real.parts(&real.train);
    let depths = depths();
    let features = Features::new(&train.values, &train.labels, CLASSES, &depths).unwrap();
    for seen in [&depths[2..], &depths[..]] {
        println!("{} depths", seen.len());
        for head in HEADS {
            let strengths = match head.name {
                "ridge" => vec![2e-3, 4e-3, 1e-2],
                "kernel-ridge" => vec![1e-4, 1e-3, 4e-3],
                _ => vec![head.usual_strength],
            };
            for strength in strengths {
                let mut candidate = Candidate::usual(head.name, seen).unwrap();
                candidate.strength = strength;
                candidate.tau = if head.taus.len() > 1 { 1.0 } else { 0.0 };
                let began = Instant::now();
                let fitted = candidate.fit(&features).unwrap();
                let seconds = began.elapsed().as_secs_f64();
                let (all, few) = accuracy(&fitted, &test, &train);
                println!(
                    "{:<50} {strength:>8} {all:>6.1} {few:>6.1} {seconds:>6.2} s",
                    head.about
                );
            }
        }
    }
}

#[test]
#[ignore = "needs features of pictures"]
fn choice() {
    let Some(real) = real() else { return };
    let [train, test] = real.parts(&real.train);
    let depths = depths();
    let features = Features::new(&train.values, &train.labels, CLASSES, &depths).unwrap();
    let began = Instant::now();
    let (head, choice) = Comparison::default()
        .choose(&features, |_, _, _| {})
        .unwrap();
    println!("{choice}\n{:.1} s", began.elapsed().as_secs_f64());
    let (all, few) = accuracy(&head, &test, &train);
    println!("test: {all:.1}, few {few:.1}");
    assert!(all >= 82.5, "{all}");
}

/// A cut with another tail, and other classes in it: class by class in a random order, from `most` pictures down to
/// `most / factor`, at least one, and as many that five are left for the test.
fn cut(real: &Real, seed: u64) -> Vec<bool> {
    let mut random = rng(seed, 0, 0, Purpose::Other);
    let mut order: Vec<u32> = (0..CLASSES as u32).collect();
    random.shuffle(&mut order);
    let most = random.between(30.0, 60.0);
    let factor = random.between(20.0, 60.0);
    let mut train = vec![false; real.labels.len()];
    for (rank, class) in order.into_iter().enumerate() {
        let pictures = (0..real.labels.len() as u32).filter(|&i| real.labels[i as usize] == class);
        let mut pictures: Vec<u32> = pictures.collect();
        random.shuffle(&mut pictures);
        let count = most * factor.powf(-(rank as f64) / (CLASSES - 1) as f64);
        let count = (count.round() as usize).clamp(1, pictures.len() - 5);
        pictures[..count]
            .iter()
            .for_each(|&i| train[i as usize] = true);
    }
    train
}

#[test]
#[ignore = "needs features of pictures"]
fn cuts() {
    let Some(real) = real() else { return };
    let depths = depths();
    let (mut behind, mut ahead) = (vec![], vec![]);
    for seed in 10..20 {
        let [train, test] = real.parts(&cut(&real, seed));
        let features = Features::new(&train.values, &train.labels, CLASSES, &depths).unwrap();
        let (head, choice) = Comparison::default()
            .choose(&features, |_, _, _| {})
            .unwrap();
        let (chosen, _) = accuracy(&head, &test, &train);
        let mut best = (f64::MIN, String::new());
        let mut plain = f64::MIN;
        for row in &choice.rows {
            let (found, _) = accuracy(&row.candidate.fit(&features).unwrap(), &test, &train);
            let name = format!("{} {}", row.candidate.head, row.candidate.depths.len());
            print!("{name} {found:.1}, ");
            if row.candidate.head == "logistic-regression" {
                plain = plain.max(found);
            }
            if found > best.0 {
                best = (found, name);
            }
        }
        println!(
            "\ncut {seed}: {} train, {} test, chosen {} {} {chosen:.1}, best {} {:.1}, plain {plain:.1}",
            train.labels.len(),
            test.labels.len(),
            choice.chosen().candidate.head,
            choice.chosen().candidate.depths.len(),
            best.1,
            best.0,
        );
        behind.push(best.0 - chosen);
        ahead.push(chosen - plain);
    }
    let mean = behind.iter().sum::<f64>() / behind.len() as f64;
    println!("behind the best: {mean:.2} on average, {behind:.1?}\nahead of plain: {ahead:.1?}");
    assert!(mean <= 0.5 && ahead.iter().all(|a| *a >= 0.0));
}

#[test]
#[ignore = "a minute's work"]
fn speed() {
    // A tail of factor 100 over 10,000 pictures, and means as far apart as features' are.
    let share = |class: usize| 100f64.powf(-(class as f64) / (CLASSES - 1) as f64);
    let all: f64 = (0..CLASSES).map(share).sum();
    let count = |class: usize| (share(class) / all * 10_000.0).round() as usize;
    let labels: Vec<u32> = (0..CLASSES)
        .flat_map(|c| vec![c as u32; count(c)])
        .collect();
    let mut random = rng(0, 0, 0, Purpose::Other);
    let values = (0..labels.len() * WIDTH).map(|_| random.normal() as f32);
    let mut values: Vec<f32> = values.collect();
    for (row, &label) in values.chunks_exact_mut(WIDTH).zip(&labels) {
        let mut own = rng(0, 1, label.into(), Purpose::Other);
        row.iter_mut().for_each(|v| *v += 0.3 * own.normal() as f32);
    }
    let depths = depths();
    let features = Features::new(&values, &labels, CLASSES, &depths).unwrap();
    // 100 classes of 1,280 features: ridge with its path.
    let comparison = Comparison {
        heads: vec!["ridge".into()],
        depths: vec![vec!["deep".into()]],
        ..Comparison::default()
    };
    let (_, choice) = comparison.choose(&features, |_, _, _| {}).unwrap();
    println!("{choice}");
    let began = Instant::now();
    let (_, choice) = Comparison::default()
        .choose(&features, |_, _, _| {})
        .unwrap();
    println!("{choice}\n{:.1} s", began.elapsed().as_secs_f64());
}

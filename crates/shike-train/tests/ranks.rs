//! Several processes that train together are one that accumulates, bit for bit: threads stand for processes.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

mod common;
mod small;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use burn::tensor::{Device, Int, Tensor};
use serde_json::Value;
use shike_data::{LoaderConfig, Normalization, Pipeline, Sampling, Threads, Transform};
use shike_infer::{EmbedEvent, Embedder, FeatureCache, InferError};
use shike_model::{Head, LossConfig, LossContext, Shike, ShikeConfig, weights};
use shike_train::config::FrozenConfig;
use shike_train::learner::step::{Inputs, Step, Trained};
use shike_train::ranks::{self, Alone, Ranks};
use shike_train::run::{RunDir, RunPaths};
use shike_train::{
    AdamWConfig, Learner, OptimizerConfig, Outcome, Progress, Session, Stage2, TrainConfig,
    TrainData, TrainError,
};
use small::dataset;

/// What threads that stand for processes share.
#[derive(Debug)]
struct Shared {
    barrier: Barrier,
    slots: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Thread {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

impl Thread {
    fn all(size: usize) -> Vec<Arc<dyn Ranks>> {
        let shared = Arc::new(Shared {
            barrier: Barrier::new(size),
            slots: Mutex::new(vec![vec![]; size]),
        });
        let thread = |rank| -> Arc<dyn Ranks> {
            let shared = shared.clone();
            Arc::new(Self { rank, size, shared })
        };
        (0..size).map(thread).collect()
    }
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, pieces: &[f32]) -> Vec<f32> {
        assert!(pieces.len().is_multiple_of(self.size));
        let piece = pieces.len() / self.size;
        let all = self.gather(pieces);
        let mine = all.chunks_exact(pieces.len());
        mine.flat_map(|of| &of[self.rank * piece..][..piece])
            .copied()
            .collect()
    }

    fn gather(&self, values: &[f32]) -> Vec<f32> {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let all = self.gather_bytes(&bytes);
        assert!(all.iter().all(|other| other.len() == bytes.len()));
        let all = all.concat();
        all.chunks_exact(4)
            .map(|value| f32::from_le_bytes(value.try_into().unwrap()))
            .collect()
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.shared.slots.lock().unwrap()[self.rank] = bytes.to_vec();
        self.shared.barrier.wait();
        let all = self.shared.slots.lock().unwrap().clone();
        self.shared.barrier.wait();
        all
    }
}

fn data() -> TrainData {
    TrainData {
        // Batches of 4: seven, of which the last has 3.
        train: dataset([15, 8, 4], 1),
        val: Some(dataset([3, 3, 3], 2)),
        test: Some(dataset([4, 4, 4], 3)),
    }
}

/// Both stages of SHIKE with what else moves weights.
fn config(accumulation: usize) -> TrainConfig {
    let model = ShikeConfig::cifar(8, 3).unwrap().with_experts(2);
    let mut config = small::config(model, 4);
    config.accumulation = accumulation;
    config.clip_norm = Some(0.5);
    config.ema_decay = Some(0.9);
    config.stage1.mixing.mixup_alpha = 0.3;
    let Some(Stage2::Retrain(stage2)) = &mut config.stage2 else {
        panic!("SHIKE's stage 2 re-trains");
    };
    stage2.sampling = Sampling::ClassBalanced;
    config
}

/// Works as each of so many processes at a time; what each came to.
fn together<T: Send>(size: usize, run: impl Fn(usize, Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let all = Thread::all(size).into_iter().enumerate();
        let run = &run;
        let all: Vec<_> = all
            .map(|(rank, ranks)| scope.spawn(move || run(rank, ranks)))
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn learner(config: &TrainConfig, ranks: Arc<dyn Ranks>) -> Result<Learner, TrainError> {
    Learner::new(config.clone(), data(), Device::flex())?.on_ranks(ranks)
}

fn begin(
    config: &TrainConfig,
    folder: &Path,
    ranks: Arc<dyn Ranks>,
    stop: bool,
) -> Result<Outcome, TrainError> {
    let learner = learner(config, ranks)?;
    let mut run = learner.create_run(folder, None, None, None)?;
    let stop = AtomicBool::new(stop);
    learner.run(&mut Session::new(&mut run, &mut Progress::silent(), &stop))
}

fn finished(outcomes: Vec<Result<Outcome, TrainError>>) {
    for outcome in outcomes {
        assert!(matches!(outcome.unwrap(), Outcome::Finished(Some(_))));
    }
}

/// All that a run came to: the bytes of its models, checkpoints and tables, without times.
fn result(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = RunPaths::new(folder);
    let read = |path| std::fs::read(path).unwrap();
    let mut all = BTreeMap::from([
        ("model".to_owned(), read(paths.model())),
        ("best".to_owned(), read(paths.best())),
        ("ema".to_owned(), read(paths.ema())),
        ("predictions".to_owned(), read(paths.predictions_csv())),
        ("per_class".to_owned(), read(paths.per_class_csv())),
    ]);
    let rows = String::from_utf8(read(paths.metrics_jsonl())).unwrap();
    for (number, row) in rows.lines().enumerate() {
        let mut row: Value = serde_json::from_str(row).unwrap();
        for time in ["seconds", "images_per_second"] {
            row.as_object_mut().unwrap().remove(time).unwrap();
        }
        all.insert(format!("row {number}"), row.to_string().into_bytes());
    }
    let latest = paths.latest().unwrap().unwrap();
    for (name, record) in latest.checkpoint.records {
        all.insert(format!("checkpoint {name}"), record.to_vec());
    }
    all
}

fn assert_same(
    found: &BTreeMap<String, Vec<u8>>,
    expected: &BTreeMap<String, Vec<u8>>,
    what: &str,
) {
    let differ: Vec<&String> = expected
        .keys()
        .filter(|name| found.get(*name) != expected.get(*name))
        .collect();
    assert_eq!((found.len(), differ), (expected.len(), vec![]), "{what}");
}

#[test]
fn the_number_of_processes_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut adam = config(3);
    adam.optimizer = OptimizerConfig::AdamW(AdamWConfig::default());
    adam.freeze_batch_norm = true;
    // A batch of an epoch's end, alone in its step; processes that have none; uneven shares.
    let cases = [
        ("2", config(2), vec![2, 3]),
        ("4", config(4), vec![2, 3, 4]),
        ("adam", adam, vec![2]),
    ];
    let mut all = vec![];
    for (name, config, sizes) in cases {
        finished(together(1, |_, ranks| {
            begin(&config, &path(name), ranks, false)
        }));
        let alone = result(&path(name));
        for size in sizes {
            let run = path(&format!("{name}-{size}"));
            finished(together(size, |_, ranks| {
                begin(&config, &run, ranks, false)
            }));
            assert_same(&result(&run), &alone, &format!("{name}, {size} processes"));
        }
        all.push(alone);
    }
    assert_ne!(all[0]["model"], all[1]["model"]);
}

#[test]
fn a_run_that_is_stopped_goes_on_with_another_number_of_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = config(2);
    finished(together(1, |_, ranks| {
        begin(&config, &path("whole"), ranks, false)
    }));
    let run = path("pieces");
    // One process is asked, and all stop.
    let outcomes = together(2, |rank, ranks| begin(&config, &run, ranks, rank == 1));
    for outcome in outcomes {
        assert!(matches!(outcome.unwrap(), Outcome::Interrupted));
    }
    let steps = |size: usize, stops: bool| {
        together(size, |rank, ranks| {
            let learner = learner(&config, ranks)?;
            let mut dir = match rank {
                0 => RunDir::open(&run)?,
                _ => RunDir::watch(&run)?,
            };
            let stop = AtomicBool::new(false);
            stop.store(stops, Ordering::Relaxed);
            learner.run(&mut Session::new(&mut dir, &mut Progress::silent(), &stop))
        })
    };
    for size in [3, 1, 2, 2, 1, 4, 2] {
        for outcome in steps(size, true) {
            assert!(matches!(outcome.unwrap(), Outcome::Interrupted));
        }
    }
    finished(steps(2, false));
    assert_same(&result(&run), &result(&path("whole")), "in pieces");
}

#[test]
fn a_process_that_differs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let outcomes = together(2, |rank, ranks| {
        let mut config = config(2);
        config.seed = rank as u64;
        config.clip_norm = Some(1.0 + rank as f64);
        begin(&config, &run, ranks, false)
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains("other seed, settings than process"),
            "{error}"
        );
    }
    let outcomes = together(3, |rank, ranks| -> Result<_, TrainError> {
        let mut data = data();
        if rank == 2 {
            data.train = dataset([15, 8, 4], 9);
        }
        let learner = Learner::new(config(2), data, Device::flex())?.on_ranks(ranks)?;
        drop(learner);
        Ok(Outcome::Interrupted)
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("other training images than"), "{error}");
    }
    assert!(!run.exists());
}

fn plain() -> Shike {
    let config = ShikeConfig::cifar_plain(8, 3).unwrap();
    config.init_seeded(&Device::flex(), 5).unwrap()
}

fn of_8_pixels() -> Pipeline {
    let size = 8.into();
    Pipeline {
        transforms: vec![Transform::CenterCrop { size }],
    }
}

#[test]
fn features_are_those_of_one_process_and_are_kept_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let cache = FeatureCache::new(folder.path(), 1 << 30);
    let embedder = |normalization| {
        let backbone = ShikeConfig::cifar_plain(8, 3).unwrap().backbone;
        Device::flex().seed(5);
        let trunk = backbone.init(&Device::flex()).unwrap();
        Embedder::new(&trunk, &of_8_pixels(), normalization, &Device::flex()).unwrap()
    };
    let first = embedder(Normalization::CIFAR10);
    // More than one round of two processes, and less than one of three.
    let data = dataset([1500, 500, 300], 7);
    let threads = Threads::new(1).unwrap();
    let config = LoaderConfig {
        batch_size: 32,
        ..LoaderConfig::default()
    };
    let loading = || (&threads, config);
    let embed = |ranks: &dyn Ranks, cache: Option<&FeatureCache>, stop_after: usize| {
        let (done, now) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut tell = |event| {
            if let EmbedEvent::Progress {
                done: pictures,
                embedded,
                ..
            } = event
            {
                done.store(pictures, Ordering::Relaxed);
                now.store(embedded, Ordering::Relaxed);
            }
        };
        let stop = || done.load(Ordering::Relaxed) > stop_after;
        let made = ranks::embed(ranks, &first, &data, loading(), cache, &mut tell, &stop);
        (made, now.into_inner())
    };
    let (alone, now) = embed(&Alone, None, usize::MAX);
    let alone = alone.unwrap();
    assert_eq!(
        (alone.as_ref().unwrap().rows.len(), now),
        (2300 * 112, 2300)
    );
    let same = |size: usize, cache: Option<&FeatureCache>| {
        let made = together(size, |_, ranks| embed(&*ranks, cache, usize::MAX));
        let counts: Vec<usize> = made.iter().map(|(_, now)| *now).collect();
        assert!(counts.iter().all(|now| *now == counts[0]));
        for (rank, (made, _)) in made.into_iter().enumerate() {
            let expected = if rank == 0 { alone.clone() } else { None };
            assert!(made.unwrap() == expected, "process {rank} of {size}");
        }
        counts[0]
    };
    assert_eq!([2, 3].map(|size| same(size, None)), [2300; 2]);

    // One is asked to stop in the second round, and all do.
    let stopped = together(2, |rank, ranks| {
        embed(&*ranks, Some(&cache), [usize::MAX, 2100][rank]).0
    });
    for outcome in stopped {
        let Err(InferError::Stopped { done, total }) = outcome else {
            panic!("it went on");
        };
        assert_eq!((done, total), (2048, 2300));
    }
    // Process 0 had finished its share of the round.
    let missing = same(3, Some(&cache));
    assert!(0 < missing && missing < 126, "{missing}");
    assert_eq!([1, 2].map(|size| same(size, Some(&cache))), [0; 2]);

    let other = embedder(Normalization::IMAGENET);
    let outcomes = together(2, |rank, ranks| {
        let embedder = [&first, &other][rank];
        ranks::embed(
            &*ranks,
            embedder,
            &data,
            loading(),
            None,
            &mut |_| {},
            &|| false,
        )
    });
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains("other normalization than process"),
            "{error}"
        );
    }
}

#[test]
fn a_head_on_a_frozen_trunk_is_that_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    weights::export(&plain(), path("weights.safetensors"), 0).unwrap();
    let mut config = small::config(ShikeConfig::cifar_plain(8, 3).unwrap(), 4);
    config.eval_pipeline = of_8_pixels();
    config.weights = Some(path("weights.safetensors"));
    config.frozen = Some(FrozenConfig::default());
    let files = |name: &str| {
        let paths = RunPaths::new(path(name));
        let files = [
            paths.model(),
            paths.predictions_csv(),
            paths.per_class_csv(),
        ];
        files.map(|file| std::fs::read(file).unwrap())
    };
    let run = |name: &str, size: usize, stop: Option<usize>| {
        together(size, |rank, ranks| {
            begin(&config, &path(name), ranks, stop == Some(rank)).unwrap()
        })
    };
    run("1", 1, None);
    for size in [2, 3] {
        let name = size.to_string();
        let outcomes = run(&name, size, None);
        let scored = |outcome: &Outcome| matches!(outcome, Outcome::Finished(Some(_)));
        assert!(scored(&outcomes[0]) && !outcomes[1..].iter().any(scored));
        assert!(files(&name) == files("1"), "{size} processes");
    }
    let stopped = run("stopped", 2, Some(1));
    let stopped = stopped
        .iter()
        .all(|one| matches!(one, Outcome::Interrupted));
    assert!(stopped && !RunPaths::new(path("stopped")).model().exists());
}

#[test]
fn running_statistics_move_once_a_step_by_the_mean_over_its_batches() {
    let device = Device::flex().autodiff();
    // Other tests draw weights meanwhile.
    let config = ShikeConfig::cifar_plain(8, 3).unwrap();
    let model = config.init_seeded(&device, 5).unwrap();
    let batch = |shift: f32| Inputs {
        images: Tensor::arange(0..2 * 3 * 64, &device)
            .float()
            .reshape([2, 3, 8, 8])
            .sin()
            + shift,
        labels: Tensor::<1, Int>::from_ints([0, 2], &device),
        share: None,
    };
    let floats = |tensors: Vec<Tensor<1>>| -> Vec<f32> {
        let all = tensors.into_iter();
        all.flat_map(|t| t.into_data().try_to_vec::<f32>().unwrap())
            .collect()
    };
    let start = model.running_statistics();
    let mut sum = vec![0.0; floats(start.clone()).len()];
    for shift in [0.0, 1.0, 5.0] {
        model.set_running_statistics(start.clone());
        model.forward(batch(shift).images, Head::Stage1);
        let moved = floats(model.running_statistics());
        sum.iter_mut().zip(moved).for_each(|(sum, x)| *sum += x);
    }
    model.set_running_statistics(start);
    let loss: LossConfig = serde_json::from_str(r#"{ "kind": "cross_entropy" }"#).unwrap();
    let loss = loss.init(&LossContext::new(&[3, 2, 1])).unwrap();
    let trained = Trained {
        optimizer: shike_train::learner::optim::Sgd::new(0.9, 5e-4).init(),
        model,
        ema: None,
    };
    let batches = [0.0, 1.0, 5.0].map(|shift| Ok::<_, Infallible>(batch(shift)));
    let (trained, _) = Step::new(Head::Stage1, loss, 0.1)
        .run(trained, 6, batches)
        .unwrap();
    for (found, sum) in floats(trained.model.running_statistics()).iter().zip(sum) {
        let expected = sum / 3.0;
        assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0));
    }
}

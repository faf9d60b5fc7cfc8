//! Parts of the learner that are private.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use burn::module::ParamGroup;
use burn::tensor::Device;
use shike_data::{Dataset, panic_text};
use shike_model::{DktLossConfig, LossConfig, Part, ShikeConfig};

use super::{BestEpoch, Deadline, Learner, Outcome, Progress, Session, Weights};
use crate::config::source::TrainData;
use crate::config::{Schedule, TrainConfig};
use crate::error::TrainError;
use crate::run::receipt::{Because, EndedEarly, Extended, Receipt};
use crate::run::{RunConfig, RunDir};
use shike_infer::metrics::{Metric, Scored};
use shike_infer::model::file::load_model;

/// Four images of two classes.
fn images() -> Dataset {
    Dataset::from_pixels(vec![0; 4 * 3072], 32, 32, vec![0, 0, 1, 1], 2).unwrap()
}

fn learner(change: impl FnOnce(&mut TrainConfig)) -> Learner {
    let train = images();
    let mut config = TrainConfig::cifar(ShikeConfig::cifar(8, 2).unwrap(), [1, 1]);
    change(&mut config);
    let data = TrainData {
        train,
        val: None,
        test: None,
    };
    Learner::new(config, data, Device::flex()).unwrap()
}

#[test]
fn a_loss_that_does_not_suit_the_classes_is_noted() {
    let notes = learner(|_| ()).notes().join("\n");
    assert!(notes.contains("stage1.loss: at 2 classes"), "{notes}");
    let paper = learner(|config| config.stage1.loss = LossConfig::Dkt(DktLossConfig::paper()));
    assert!(!paper.notes().join("\n").contains("stage1.loss"));
}

fn stem(model: &mut shike_model::Shike) -> &mut shike_model::network::resnet::Stem {
    match &mut model.stem.blocks[0] {
        shike_model::network::Block::Stem(stem) => stem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_have_rates_of_their_own() {
    let learner = learner(|config| {
        config.lr_factors.insert(Part::Stem, 0.1);
        config.lr_factors.insert(Part::Layer(3), 2.0);
    });
    let (state, _) = learner.start().unwrap();
    let model = &state.trained.model;
    let rates = learner.rates(model, 0.5);
    let rate = |group: &ParamGroup, id| group.matches(&id, None);
    let deep = &model.experts[1].layers[0].blocks[0];
    let shike_model::network::Block::Basic(deep) = deep else {
        panic!("a CIFAR network has basic blocks");
    };
    let cases = [
        (
            stem(&mut state.trained.model.clone()).conv.weight.id,
            Part::Stem,
            0.05,
        ),
        (deep.conv1.weight.id, Part::Layer(3), 1.0),
        (
            model.experts[0].fusion.as_ref().unwrap().convs[0]
                .conv
                .weight
                .id,
            Part::Fusion,
            0.5,
        ),
    ];
    for (id, part, expected) in cases {
        assert!(rate(&model.param_group(part), id));
        assert!(
            (rates.lr_from_param(id, None) - expected).abs() < 1e-12,
            "{part}"
        );
    }
}

#[test]
fn a_panic_over_memory_becomes_an_error_with_a_batch_that_fits() {
    let learner = learner(|_| ());
    let (state, _) = learner.start().unwrap();
    let needed = learner.step_memory(&state.trained.model);
    let error = learner
        .catch_out_of_memory::<()>(&needed, || {
            panic!("CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"\nbacktrace")
        })
        .unwrap_err();
    let TrainError::OutOfMemory { fits, cause, .. } = &error else {
        panic!("{error}")
    };
    assert!(*fits > 0);
    assert_eq!(
        cause.as_deref(),
        Some("CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"")
    );
    assert!(
        error.to_string().contains("try `loader.batch_size`"),
        "{error}"
    );

    let other = catch_unwind(AssertUnwindSafe(|| {
        learner.catch_out_of_memory::<()>(&needed, || panic!("a bug"))
    }));
    assert_eq!(panic_text(other.unwrap_err().as_ref()), "a bug");
}

#[test]
fn weights_that_are_not_finite_are_not_saved() {
    let learner = learner(|_| ());
    let dir = tempfile::tempdir().unwrap();
    let run = learner
        .create_run(&dir.path().join("run"), None, None, None)
        .unwrap();
    let (mut state, _) = learner.start().unwrap();
    learner.save(&run, &state).unwrap();
    let saved = || {
        std::fs::read_dir(run.paths().checkpoints())
            .unwrap()
            .count()
    };
    assert_eq!(saved(), 1);
    state.position.step += 1;
    for wrong in [f32::NAN, f32::INFINITY] {
        let weight = &mut stem(&mut state.trained.model).conv.weight;
        *weight = weight
            .clone()
            .map(|weight| weight.mul_scalar(0.0).add_scalar(wrong));
        let error = learner.save(&run, &state).unwrap_err().to_string();
        assert!(error.contains("the sum of all weights is"), "{error}");
        assert_eq!(saved(), 1);
    }
}

#[test]
fn the_best_weights_have_the_lowest_class_averaged_loss_and_may_be_the_average() {
    let learner = learner(|config| config.ema_decay = Some(0.5));
    let dir = tempfile::tempdir().unwrap();
    let run = learner
        .create_run(&dir.path().join("run"), None, None, None)
        .unwrap();
    let (mut state, _) = learner.start().unwrap();
    // Other weights than the average's.
    let weight = &mut stem(&mut state.trained.model).conv.weight;
    *weight = weight.clone().map(|weight| weight.add_scalar(1.0));
    let mut evaluator = learner.evaluator().unwrap();
    let logits = [[1.0, 0.0]; 3];
    evaluator
        .add_batch(&logits.each_ref().map(|l| &l[..]), &[0])
        .unwrap();
    let evaluation = evaluator.finish().unwrap();
    let own = |model: &shike_model::Shike| {
        let weight = stem(&mut model.clone()).conv.weight.val().into_data();
        weight.iter::<f32>().next().unwrap()
    };
    let first_weight = || {
        let (network, _) = load_model(&run.paths().best(), &Device::flex()).unwrap();
        own(&network.into_experts().unwrap())
    };
    let nan = f64::NAN;
    // Stage, losses of the trained and of the averaged weights, and what is kept after them.
    for (epoch, (stage, losses, kept)) in [
        (1, [nan, nan], (1, 0, Weights::Trained)),
        (1, [2.0, 1.5], (1, 1, Weights::Averaged)),
        (1, [1.5, 1.6], (1, 1, Weights::Averaged)),
        (1, [nan, nan], (1, 1, Weights::Averaged)),
        (1, [1.0, 1.0], (1, 4, Weights::Trained)),
        (2, [3.0, 2.0], (2, 5, Weights::Averaged)),
        (2, [1.9, 2.0], (2, 6, Weights::Trained)),
    ]
    .into_iter()
    .enumerate()
    {
        (state.position.stage, state.position.epoch) = (stage, epoch);
        let of = |class_averaged_loss| {
            let mut evaluation = evaluation.clone();
            let loss = (Metric::CLASS_AVERAGED_LOSS, Some(class_averaged_loss));
            evaluation.losses = [loss].into_iter().collect();
            Some(evaluation)
        };
        let scores = Scored {
            val: of(losses[0]),
            val_ema: of(losses[1]),
            ..Scored::default()
        };
        learner.keep_best(&mut state, &scores, &run).unwrap();
        let best = state.position.best.clone().unwrap();
        assert_eq!((best.stage, best.epoch, best.weights), kept);
        let expected = match best.weights {
            Weights::Trained => own(&state.trained.model),
            Weights::Averaged => own(state.trained.ema.as_ref().unwrap().model()),
        };
        assert_eq!(first_weight(), expected, "epoch {epoch}");
        // It survives a checkpoint, NaN and all.
        let text = serde_json::to_string(&best).unwrap();
        let again: BestEpoch = serde_json::from_str(&text).unwrap();
        assert_eq!(again.to_string(), best.to_string());
    }
}

/// Trains, with so much time in all and for stage 2, and gives the steps of each stage and what ended early.
fn within(seconds: [f64; 2], stop: bool) -> (Outcome, Vec<(usize, usize)>, Vec<EndedEarly>) {
    let learner = learner(|config| {
        *config = TrainConfig::cifar(ShikeConfig::cifar(8, 2).unwrap(), [3, 2]);
        config.loader.batch_size = 2;
    });
    let dir = tempfile::tempdir().unwrap();
    let mut run = learner
        .create_run(&dir.path().join("run"), None, None, None)
        .unwrap();
    let [all, stage2] = seconds.map(Duration::from_secs_f64);
    let deadline = Deadline {
        end: Instant::now() + all,
        stage2,
    };
    let (mut progress, stop) = (Progress::silent(), AtomicBool::new(stop));
    let session = Session::new(&mut run, &mut progress, &stop);
    let mut session = session.with_deadline(Some(deadline));
    let outcome = learner.run(&mut session).unwrap();
    let epochs = run.rows().iter().map(|row| (row.stage, row.epoch));
    let receipt = run.paths().read_receipt().unwrap();
    (outcome, epochs.collect(), receipt.ended_early)
}

#[test]
fn stages_end_when_their_time_is_over() {
    let hour = 3600.0;
    let all = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)];
    let (outcome, rows, early) = within([hour, 0.0], false);
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert_eq!((&rows[..], early), (&all[..], vec![]));
    let early = |stage| EndedEarly {
        stage,
        epochs: 1,
        because: Because::Time,
    };
    // All the time is stage 2's: stage 1 takes one step, of two in an epoch.
    let (outcome, rows, ended) = within([hour, hour], false);
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert_eq!(rows, [(1, 0), (2, 0), (2, 1)]);
    assert_eq!(ended, [early(1)]);
    // There is none: each stage takes one step, and the run is at its end.
    let (outcome, rows, ended) = within([0.0, 0.0], false);
    assert!(matches!(outcome, Outcome::Finished(_)));
    assert_eq!(rows, [(1, 0), (2, 0)]);
    assert_eq!(ended, [early(1), early(2)]);
    // Ctrl-C goes before.
    let (outcome, rows, _) = within([0.0, 0.0], true);
    assert!(matches!(outcome, Outcome::Interrupted) && rows.is_empty());
}

/// Epochs of a run, with stage and learning rate, and what its receipt says.
fn done(run: &RunDir) -> (Vec<(usize, usize, f64)>, Receipt) {
    let rows = run.rows().iter();
    let rows = rows.map(|row| (row.stage, row.epoch, row.lr)).collect();
    (rows, run.paths().read_receipt().unwrap())
}

fn run(learner: &Learner, run: &mut RunDir, stop: bool) -> Outcome {
    let (mut progress, stop) = (Progress::silent(), AtomicBool::new(stop));
    let mut session = Session::new(run, &mut progress, &stop);
    learner.run(&mut session).unwrap()
}

#[test]
fn a_stage_ends_when_no_epoch_was_better_for_a_while() {
    let mut config = TrainConfig::cifar(ShikeConfig::cifar(8, 2).unwrap(), [8, 6]);
    config.loader.batch_size = 2;
    config.patience = Some(2);
    config.stage1.schedule = Schedule::Constant { lr: 0.5 };
    let data = TrainData {
        train: images(),
        val: Some(images()),
        test: Some(images()),
    };
    let learner = Learner::new(config.clone(), data.clone(), Device::flex()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut folder = learner
        .create_run(&dir.path().join("run"), None, None, None)
        .unwrap();
    assert!(matches!(
        run(&learner, &mut folder, false),
        Outcome::Finished(Some(_))
    ));
    let receipt = folder.paths().read_receipt().unwrap();
    let mut early = vec![];
    for (stage, planned) in [(1, 8), (2, 6)] {
        let rows: Vec<_> = folder
            .rows()
            .iter()
            .filter(|row| row.stage == stage)
            .collect();
        let losses = rows.iter().map(|row| {
            let val = row.scores.val.as_ref().unwrap();
            val.ensemble.get(Metric::CLASS_AVERAGED_LOSS).unwrap()
        });
        // The epoch in which two have passed since the best.
        let (mut best, mut since, mut last) = (f64::INFINITY, 0, None);
        for (epoch, loss) in losses.enumerate() {
            since = if loss < best { 0 } else { since + 1 };
            best = best.min(loss);
            last = last.or((since == 2).then_some(epoch + 1));
        }
        let expected = last.filter(|epochs| *epochs < planned);
        assert_eq!(rows.len(), expected.unwrap_or(planned), "stage {stage}");
        early.extend(expected.map(|epochs| EndedEarly {
            stage,
            epochs,
            because: Because::Patience,
        }));
        // The test set is scored at the end of the run alone.
        let tested = rows.iter().map(|row| row.scores.test.is_some());
        let last = rows.len() - 1;
        assert!(
            tested
                .enumerate()
                .all(|(i, scored)| scored == (stage == 2 && i == last))
        );
    }
    assert!(!early.is_empty(), "{:?}", folder.rows());
    assert_eq!(receipt.ended_early, early);
    let data = TrainData { val: None, ..data };
    let error = Learner::new(config, data, Device::flex()).unwrap_err();
    assert!(error.to_string().contains("patience is given"), "{error}");
}

#[test]
fn a_run_that_was_stopped_or_is_finished_goes_on_with_more_epochs() {
    let of = |epochs: [usize; 2], constant: bool| {
        learner(|config| {
            *config = TrainConfig::cifar(ShikeConfig::cifar(8, 2).unwrap(), epochs);
            config.loader.batch_size = 2;
            if constant {
                config.stage1.schedule = Schedule::Constant { lr: 0.05 };
            }
        })
    };
    let longer = |of: &Learner, [first, second]: [usize; 2]| {
        learner(|config| {
            *config = of.config().clone();
            config.stage1.set_epochs(first);
            let stage2 = config.stage2.as_mut().unwrap();
            stage2.training_mut().unwrap().set_epochs(second);
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let create = |learner: &Learner, name: &str| {
        let run = dir.path().join(name);
        learner.create_run(&run, None, None, None).unwrap()
    };
    // Stopped after its first step: where rates are the same it is the longer run, bit for bit.
    let short = of([1, 1], true);
    let long = longer(&short, [3, 2]);
    let mut stopped = create(&short, "stopped");
    assert!(matches!(
        run(&short, &mut stopped, true),
        Outcome::Interrupted
    ));
    let lines = long.extend(&stopped, short.config(), [true, true]).unwrap();
    assert!(
        lines[0].starts_with("stage 1 goes on behind epoch 0, to 3 in place of 1"),
        "{lines:?}"
    );
    run(&long, &mut stopped, false);
    let mut whole = create(&long, "whole");
    run(&long, &mut whole, false);
    let model = |run: &RunDir| std::fs::read(run.paths().model()).unwrap();
    assert!(model(&stopped) == model(&whole));
    assert_eq!(done(&stopped).1.settings, done(&whole).1.settings);

    // Finished: stage 1 goes on by the longer schedule, and stage 2 is trained again.
    let short = of([2, 1], false);
    let long = longer(&short, [4, 1]);
    let mut finished = create(&short, "finished");
    run(&short, &mut finished, false);
    let before = done(&finished).0;
    let more = [true, false];
    let error = short.extend(&finished, short.config(), more).unwrap_err();
    assert!(
        error.to_string().contains("has done 2 epochs of stage 1"),
        "{error}"
    );
    let other = learner(|config| {
        *config = long.config().clone();
        config.seed = 5;
    });
    let error = other.extend(&finished, short.config(), more).unwrap_err();
    assert!(error.to_string().contains("seed differ"), "{error}");
    let config = std::fs::read(finished.paths().config()).unwrap();
    long.extend(&finished, short.config(), more).unwrap();
    // Killed before its last file was written, the same call repairs it.
    std::fs::write(finished.paths().config(), config).unwrap();
    long.extend(&finished, short.config(), more).unwrap();
    // Killed behind that, it goes on as it was asked to.
    assert!(matches!(
        run(&long, &mut finished, true),
        Outcome::Interrupted
    ));
    let kept = RunConfig::read(finished.paths()).unwrap().train;
    assert_eq!(kept, *long.config());
    assert!(matches!(
        run(&long, &mut finished, false),
        Outcome::Finished(_)
    ));
    let (rows, receipt) = done(&finished);
    let rates = |learner: &Learner, epoch| learner.config().stage1.schedule.lr(epoch);
    let second = before[2];
    let expected = [
        before[0],
        before[1],
        (1, 2, rates(&long, 2)),
        (1, 3, rates(&long, 3)),
        second,
    ];
    assert_eq!(rows, expected);
    let stage1 = Extended {
        stage: 1,
        after: 2,
        epochs: [2, 4],
    };
    assert_eq!(receipt.extended, std::slice::from_ref(&stage1));

    // Stage 2 alone.
    let longest = longer(&long, [4, 3]);
    let lines = longest
        .extend(&finished, long.config(), [false, true])
        .unwrap();
    assert_eq!(
        lines,
        ["stage 2 is trained anew, with 3 epochs in place of 1"]
    );
    run(&longest, &mut finished, false);
    let (rows, receipt) = done(&finished);
    assert_eq!(rows.len(), 7);
    assert_eq!(rows[..4], expected[..4]);
    let stage2 = Extended {
        stage: 2,
        after: 0,
        epochs: [1, 3],
    };
    assert_eq!(receipt.extended, [stage1, stage2]);
}

//! Run folders: what they refuse, what a crash may leave, and what a resumed run finds.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use shike_data::Dataset;
use shike_infer::metrics::{Evaluator, Metric, ShotThresholds};

use tempfile::TempDir;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::{Classes, EpochRow, RowScores, RunDir, RunDirError, RunPaths};

fn classes() -> Classes {
    Classes {
        names: vec!["cat".to_owned(), "dog".to_owned()],
        train_counts: vec![200, 5],
    }
}

fn new_run() -> (TempDir, RunDir) {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDir::create(
        folder.path().join("run"),
        &json!({"seed": 0}),
        classes(),
        None,
    )
    .unwrap();
    (folder, run)
}

fn checkpoint(step: u64) -> Checkpoint {
    Checkpoint {
        state: json!({"step": step}),
        ..Checkpoint::default()
    }
}

fn row(stage: usize, epoch: usize) -> EpochRow {
    EpochRow {
        stage,
        epoch,
        lr: 0.1,
        train_loss: 1.5,
        loss_terms: BTreeMap::from([(format!("term{stage}"), 0.5)]),
        ..EpochRow::default()
    }
}

fn steps(run: &RunDir) -> Vec<u64> {
    let steps = run.paths().step_checkpoints().unwrap();
    steps.into_iter().map(|(step, _)| step).collect()
}

#[test]
fn a_run_is_created_once() {
    let (folder, run) = new_run();
    let path = folder.path().join("run");
    assert_eq!(
        run.paths().read_config::<Value>().unwrap(),
        json!({"seed": 0})
    );
    drop(run);
    let error = RunDir::create(&path, &json!({}), classes(), None).unwrap_err();
    assert!(matches!(error, RunDirError::AlreadyARun(_)));
    assert!(error.to_string().contains("continue it"), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    let run = RunDir::open(&path).unwrap();
    assert_eq!(run.classes(), &classes());
    assert_eq!(
        run.paths().read_config::<Value>().unwrap(),
        json!({"seed": 0})
    );
}

#[test]
fn other_folders_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    // An empty folder is fine, and so is what a failed start leaves.
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("config.json.tmp-17"), "half").unwrap();
    drop(RunDir::create(&empty, &json!({}), classes(), None).unwrap());
    assert!(!empty.join("config.json.tmp-17").exists());

    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("cat.jpg"), "").unwrap();
    let error = RunDir::create(&photos, &json!({}), classes(), None).unwrap_err();
    assert!(matches!(error, RunDirError::NotEmpty(_)), "{error}");
    let error = RunDir::open(&photos).unwrap_err();
    assert!(matches!(error, RunDirError::NotARun(_)), "{error}");
    assert_eq!(fs::read_dir(&photos).unwrap().count(), 1);

    let file = photos.join("cat.jpg");
    let error = RunDir::create(file, &json!({}), classes(), None).unwrap_err();
    assert!(matches!(error, RunDirError::NotAFolder(_)), "{error}");
    let error = RunDir::open(folder.path().join("gone")).unwrap_err();
    assert!(matches!(error, RunDirError::NotARun(_)), "{error}");
}

#[test]
fn only_one_process_writes() {
    let (folder, run) = new_run();
    let path = folder.path().join("run");
    let error = RunDir::open(&path).unwrap_err();
    assert!(matches!(error, RunDirError::Locked { .. }), "{error}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    if cfg!(unix) {
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains(&pid), "{error}");
    }
    // Reading is free.
    assert_eq!(RunPaths::new(&path).read_classes().unwrap(), classes());
    drop(run);
    RunDir::open(&path).unwrap();
}

/// Whoever is slower is told so, however far the other one has come.
#[test]
fn of_two_that_begin_at_once_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let begin = |path: &std::path::Path| RunDir::create(path, &json!({}), classes(), Some(""));
    for round in 0..200 {
        let path = folder.path().join(round.to_string());
        // A split is written before the lock.
        fs::create_dir_all(path.join("lists")).unwrap();
        fs::write(path.join("lists/train.txt"), "").unwrap();
        let both = [(); 2].map(|()| path.clone());
        let threads = both.map(|path| std::thread::spawn(move || begin(&path)));
        let [one, other] = threads.map(|thread| thread.join().unwrap());
        let (run, error) = match (one, other) {
            (Ok(run), Err(error)) | (Err(error), Ok(run)) => (run, error),
            both => panic!("{both:?}"),
        };
        assert!(
            matches!(
                error,
                RunDirError::Begun { .. } | RunDirError::AlreadyARun(_)
            ),
            "{error}"
        );
        drop(run);
    }
    // Files of a start that is under way.
    let (folder, run) = new_run();
    let path = folder.path().join("run");
    fs::remove_file(run.paths().classes()).unwrap();
    let error = RunDir::check_free(&path).unwrap_err();
    assert!(matches!(error, RunDirError::Begun { .. }), "{error}");
    let start = match cfg!(unix) {
        true => format!("another process ({}) has just begun", std::process::id()),
        false => "another process".to_owned(),
    };
    assert!(error.to_string().starts_with(&start), "{error}");
    fs::remove_file(run.paths().config()).unwrap();
    let error = begin(&path).unwrap_err();
    assert!(matches!(error, RunDirError::Begun { .. }), "{error}");
    drop(run);
    begin(&path).unwrap();
}

#[test]
fn stale_temporary_files_go_and_nothing_else() {
    let (folder, run) = new_run();
    let path = folder.path().join("run");
    run.save_checkpoint(1, &checkpoint(1)).unwrap();
    drop(run);
    let stale = [
        path.join("metrics.csv.tmp-4711"),
        path.join("checkpoints/step-00000002.safetensors.tmp-4711"),
    ];
    let mine = path.join("notes.tmp-mine");
    for file in stale.iter().chain([&mine]) {
        fs::write(file, "half").unwrap();
    }
    let run = RunDir::open(&path).unwrap();
    assert!(stale.iter().all(|file| !file.exists()) && mine.exists());
    assert_eq!(steps(&run), [1]);
}

#[test]
fn rows_survive_a_resume_and_are_cut_back() {
    let (folder, mut run) = new_run();
    let path = folder.path().join("run");
    let mut diverged = row(2, 1);
    diverged.train_loss = f64::NAN;
    diverged
        .loss_terms
        .insert("term2".to_owned(), f64::INFINITY);
    diverged.images_per_second = f64::INFINITY;
    for row in [row(1, 0), row(1, 1), row(2, 0), diverged] {
        run.append_row(row).unwrap();
    }
    drop(run);
    let mut run = RunDir::open(&path).unwrap();
    assert_eq!(run.rows()[..3], [row(1, 0), row(1, 1), row(2, 0)]);
    assert!(run.rows()[3].train_loss.is_nan() && run.rows()[3].loss_terms["term2"].is_nan());

    run.truncate_rows_from(2, 0).unwrap();
    assert_eq!(run.paths().read_rows().unwrap(), [row(1, 0), row(1, 1)]);
    let csv = fs::read_to_string(run.paths().metrics_csv()).unwrap();
    assert_eq!(csv.lines().count(), 3);
    assert!(!csv.contains("loss_term2"), "{csv}");

    // Training epoch 1 again replaces its row.
    let mut again = row(1, 1);
    again.train_loss = 0.25;
    run.append_row(again.clone()).unwrap();
    assert_eq!(run.paths().read_rows().unwrap(), [row(1, 0), again]);
    run.truncate_rows_from(1, 0).unwrap();
    assert!(run.paths().read_rows().unwrap().is_empty());
    assert_eq!(
        fs::read_to_string(run.paths().metrics_csv())
            .unwrap()
            .lines()
            .count(),
        1
    );
}

#[test]
fn csv_holds_every_number() {
    let (_folder, mut run) = new_run();
    let mut evaluator = Evaluator::new(&[200, 5], ShotThresholds::default(), 2).unwrap();
    evaluator
        .add_batch(&[&[2.0, 1.0], &[0.0, 0.5]], &[0])
        .unwrap();
    let evaluation = evaluator.finish().unwrap();
    run.append_row(row(1, 0)).unwrap();
    let mut second = row(2, 0);
    let mut scores = RowScores::new(&evaluation);
    let value = |(metric, value): (Metric, Option<f64>)| match metric {
        Metric::LOSS => (metric, Some(0.125)),
        Metric::CLASS_AVERAGED_LOSS => (metric, Some(0.25)),
        _ => (metric, value),
    };
    scores.ensemble = scores.ensemble.iter().map(value).collect();
    second.scores.test = Some(scores.clone());
    scores.experts.clear();
    second.scores.val_ema = Some(scores);
    (second.seconds, second.images_per_second) = (2.5, 400.0);
    run.append_row(second.clone()).unwrap();
    assert_eq!(run.paths().read_rows().unwrap(), [row(1, 0), second]);
    let csv = fs::read_to_string(run.paths().metrics_csv()).unwrap();
    let of = |part: &str| {
        let scores = "loss,class_averaged_loss,top1,top5,class_averaged,many,medium,few";
        let columns: Vec<_> = scores
            .split(',')
            .map(|score| format!("{part}_{score}"))
            .collect();
        columns.join(",")
    };
    let expected = format!(
        "stage,epoch,lr,train_loss,loss_term1,loss_term2,{},{},test_expert0,test_expert1,seconds,\
         images_per_second\n\
         1,0,0.1,1.5,0.5,,,,,,,,,,,,,,,,,,,,0,0\n\
         2,0,0.1,1.5,,0.5,0.125,0.25,100,100,100,100,,,0.125,0.25,100,100,100,100,,,100,0,2.5,400\n",
        of("val_ema"),
        of("test")
    );
    assert_eq!(csv, expected);

    let images = Dataset::from_pixels(vec![9; 12], 2, 2, vec![0], 2).unwrap();
    run.write_scores(&evaluation, &images).unwrap();
    let csv = fs::read_to_string(run.paths().per_class_csv()).unwrap();
    assert!(
        csv.lines()
            .nth(1)
            .unwrap()
            .starts_with("0,cat,200,1,many,1,"),
        "{csv}"
    );
}

#[test]
fn broken_files_are_named_with_their_line() {
    let (folder, mut run) = new_run();
    let path = folder.path().join("run");
    run.append_row(row(1, 0)).unwrap();
    let jsonl = run.paths().metrics_jsonl();
    drop(run);
    let good = fs::read_to_string(&jsonl).unwrap();
    fs::write(&jsonl, format!("{good}{{\"stage\": 1,\n")).unwrap();
    let error = RunDir::open(&path).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl: line 2"), "{error}");
    fs::write(&jsonl, good).unwrap();
    fs::write(
        path.join("classes.json"),
        r#"{"names": ["cat"], "train_counts": [1, 2]}"#,
    )
    .unwrap();
    let error = RunDir::open(&path).unwrap_err().to_string();
    assert!(error.contains("classes.json: 1 class names"), "{error}");
}

#[test]
fn the_newest_checkpoints_are_kept() {
    let (_folder, run) = new_run();
    assert!(run.paths().latest().unwrap().is_none());
    for step in [5, 10, 15] {
        run.save_checkpoint(step, &checkpoint(step)).unwrap();
    }
    run.save_stage_checkpoint(1, &checkpoint(15)).unwrap();
    assert_eq!(steps(&run), [10, 15]);
    run.save_checkpoint(100_000_000, &checkpoint(0)).unwrap();
    assert_eq!(steps(&run), [15, 100_000_000]);
    // Taken back to an earlier step: the later checkpoints are of another course.
    run.save_checkpoint(20, &checkpoint(20)).unwrap();
    assert_eq!(steps(&run), [15, 20]);
    let run = run.keep_last(1);
    run.save_checkpoint(25, &checkpoint(25)).unwrap();
    assert_eq!(steps(&run), [25]);
    assert!(run.paths().stage_checkpoint(1).exists());
}

#[test]
fn resume_falls_back_behind_damage() {
    let (_folder, run) = new_run();
    let step_10 = run.save_checkpoint(10, &checkpoint(10)).unwrap();
    let step_15 = run.save_checkpoint(15, &checkpoint(15)).unwrap();
    let latest = run.paths().latest().unwrap().unwrap();
    assert_eq!(
        (latest.checkpoint, latest.path),
        (checkpoint(15), step_15.clone())
    );
    assert!(latest.warnings.is_empty());

    let bytes = fs::read(&step_15).unwrap();
    fs::write(&step_15, &bytes[..bytes.len() - 1]).unwrap();
    let latest = run.paths().latest().unwrap().unwrap();
    assert_eq!(latest.checkpoint, checkpoint(10));
    assert_eq!(latest.warnings.len(), 1);
    assert!(
        latest.warnings[0].contains("step-00000015"),
        "{:?}",
        latest.warnings
    );

    fs::write(&step_10, "").unwrap();
    let error = run.paths().latest().unwrap_err();
    assert!(
        matches!(error, RunDirError::NoReadableCheckpoint { .. }),
        "{error}"
    );
    run.save_stage_checkpoint(1, &checkpoint(7)).unwrap();
    let latest = run.paths().latest().unwrap().unwrap();
    assert_eq!(
        (latest.checkpoint, latest.warnings.len()),
        (checkpoint(7), 2)
    );

    // A newer program's checkpoint is no damage: going back would lose work.
    let from = br#""format_version":"2""#;
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    let mut newer = bytes;
    newer[at + from.len() - 2] = b'9';
    fs::write(&step_15, newer).unwrap();
    let error = run.paths().latest().unwrap_err();
    assert!(
        matches!(
            error,
            RunDirError::Checkpoint(CheckpointError::NewerVersion { found: 9, .. })
        ),
        "{error}"
    );
}

#[test]
fn the_list_of_bad_images_comes_back() {
    let (_folder, run) = new_run();
    assert_eq!(run.paths().read_bad_images().unwrap(), []);
    let bad = |path: &str| shike_data::BadImage {
        path: path.to_owned(),
        label: 1,
        problem: "is \"empty\", they say".to_owned(),
    };
    let images = [bad("a, b.jpg"), bad("c.jpg")];
    run.write_bad_images(&images).unwrap();
    assert_eq!(run.paths().read_bad_images().unwrap(), images);
    fs::write(run.paths().bad_images(), "path,label\na,b\n").unwrap();
    let error = run.paths().read_bad_images().unwrap_err().to_string();
    assert!(error.contains("bad_images.csv"), "{error}");
}

/// A start that ends between any two files leaves no run, and is no obstacle.
#[test]
fn config_json_is_the_last_file_of_a_start() {
    struct Fails;
    impl serde::Serialize for Fails {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("as if killed"))
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let create = |config: &Value| RunDir::create(&path, config, classes(), Some("seed = 0\n"));
    RunDir::create(&path, &Fails, classes(), Some("seed = 0\n")).unwrap_err();
    let paths = RunPaths::new(&path);
    assert!(paths.recipe().is_file() && paths.classes().is_file() && !paths.is_run());
    RunDir::check_free(&path).unwrap();
    drop(create(&json!({})).unwrap());
    assert_eq!(fs::read_to_string(paths.recipe()).unwrap(), "seed = 0\n");
    assert!(matches!(
        create(&json!({})),
        Err(RunDirError::AlreadyARun(_))
    ));
}

#[test]
fn a_folder_that_is_gone_is_not_written_to() {
    let gone = |run: &mut RunDir| {
        let rows = run.append_row(row(1, 0)).unwrap_err();
        assert!(matches!(rows, RunDirError::Gone(_)), "{rows}");
        let saved = run.save_checkpoint(1, &checkpoint(1)).unwrap_err();
        assert!(matches!(saved, RunDirError::Gone(_)), "{saved}");
        let bad = run.write_bad_images(&[]).unwrap_err();
        assert!(matches!(bad, RunDirError::Gone(_)), "{bad}");
        assert!(matches!(run.writable(), Err(RunDirError::Gone(_))));
    };
    let (folder, mut run) = new_run();
    let path = folder.path().join("run");
    run.save_checkpoint(1, &checkpoint(1)).unwrap();
    let moved = folder.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    gone(&mut run);
    assert!(!path.exists());
    // Another run in its place is another one.
    drop(RunDir::create(&path, &json!({"seed": 1}), classes(), None).unwrap());
    let files = || fs::read_dir(&path).unwrap().count();
    let before = files();
    gone(&mut run);
    assert_eq!(files(), before);
    drop(run);
    assert_eq!(steps(&RunDir::open(&moved).unwrap()), [1]);
}

#[test]
fn checkpoints_that_a_kill_has_left_are_removed() {
    let (_folder, run) = new_run();
    for step in [5, 10] {
        run.save_checkpoint(step, &checkpoint(step)).unwrap();
    }
    fs::copy(
        run.paths().step_checkpoint(5),
        run.paths().step_checkpoint(3),
    )
    .unwrap();
    run.remove_old_checkpoints(10).unwrap();
    assert_eq!(steps(&run), [5, 10]);
    // One that could not be read is not among those that are kept.
    run.remove_old_checkpoints(5).unwrap();
    assert_eq!(steps(&run), [5, 10]);
}

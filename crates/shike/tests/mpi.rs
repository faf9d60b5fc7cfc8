//! Processes that `mpirun` starts: together they are one that accumulates, bit for bit, whatever happens to them. Needs
//! Open MPI and the feature `mpi` (docs/TESTING.md).
#![cfg(all(unix, feature = "flex", feature = "mpi"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{said, success};
use shike::data::synthetic::{SyntheticConfig, SyntheticSet, generate};
use shike::train::run::RunPaths;
use tempfile::TempDir;

struct Fixture {
    folder: TempDir,
    set: SyntheticSet,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = SyntheticConfig {
            classes: 4,
            n_max: 60,
            imbalance_factor: 4.0,
            test_per_class: 3,
            size: 20,
            ..SyntheticConfig::default()
        };
        let set = generate(&folder.path().join("images"), &config).unwrap();
        Self { folder, set }
    }

    fn run(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of a run.
    fn train(&self, run: &Path, more: &str) -> Vec<String> {
        let common = "train --arch resnet8 --experts 2 --image-size 16 --epochs 3 --stage2-epochs 2 --warmup-epochs 1 \
                      --stage2-warmup-epochs 1 --checkpoint-seconds 0 --ema 0.9 --device flex";
        let words = common.split_whitespace().chain(more.split_whitespace());
        let mut all: Vec<String> = words.map(str::to_owned).collect();
        for (option, path) in [
            ("--data", &*self.set.root),
            ("--train-list", &self.set.train_list),
            ("--test-list", &self.set.test_list),
            ("--run", run),
        ] {
            all.extend([option.to_owned(), path.display().to_string()]);
        }
        all
    }
}

/// So many processes with these arguments.
fn mpirun(size: usize, arguments: &[String]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args([
            "--oversubscribe",
            "--bind-to",
            "none",
            "-n",
            &size.to_string(),
        ])
        .arg(env!("CARGO_BIN_EXE_shike"))
        .args(arguments)
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn resume(run: &Path) -> Vec<String> {
    ["train", "--resume"]
        .map(str::to_owned)
        .into_iter()
        .chain([run.display().to_string()])
        .collect()
}

fn alone(arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    command.args(arguments).output().unwrap()
}

/// The bytes that a run has come to.
fn result(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = RunPaths::new(run);
    let mut all = BTreeMap::new();
    for path in [
        paths.model(),
        paths.ema(),
        paths.predictions_csv(),
        paths.per_class_csv(),
    ] {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        all.insert(name, fs::read(path).unwrap());
    }
    let latest = paths.latest().unwrap().unwrap();
    for (name, record) in latest.checkpoint.records {
        all.insert(name, record.to_vec());
    }
    all
}

#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (result(found), result(expected));
    let differ: Vec<&String> = expected
        .keys()
        .filter(|name| found.get(*name) != expected.get(*name))
        .collect();
    assert_eq!(differ, Vec::<&String>::new());
}

/// Waits until a run has a checkpoint of this step or a later one.
fn wait_for_step(run: &Path, step: u64, job: &mut Child) {
    let began = Instant::now();
    let there = || {
        let steps = RunPaths::new(run).step_checkpoints().unwrap_or_default();
        steps.iter().any(|(number, _)| *number >= step)
    };
    while !there() {
        assert!(began.elapsed() < Duration::from_secs(120));
        assert!(job.try_wait().unwrap().is_none(), "it has ended");
        sleep(Duration::from_millis(5));
    }
}

/// Processes that were started by another.
fn children(of: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let parent: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (parent == of).then_some(pid)
    });
    all.collect()
}

fn signal(name: &str, pid: u32) {
    let mut kill = Command::new("kill");
    let sent = kill.args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn two_and_four_processes_are_one_that_accumulates() {
    let fixture = Fixture::new();
    for (size, batch) in [(2, 8), (4, 4)] {
        let (one, several) = (
            fixture.run(&format!("one-{size}")),
            fixture.run(&format!("{size}")),
        );
        let more = format!("--batch-size {batch} --accumulate {size}");
        success(&alone(&fixture.train(&one, &more)));
        let arguments = fixture.train(&several, "--batch-size 16");
        let (stdout, stderr) = success(&mpirun(size, &arguments).output().unwrap());
        // One speaks for all.
        assert_eq!(
            stdout.matches("test set, last epoch").count(),
            1,
            "{stdout}"
        );
        assert_eq!(stderr.matches("finished: ").count(), 1, "{stderr}");
        let line = format!("a step of 16 pictures is computed as {size} batches of {batch}");
        assert!(stderr.contains(&line), "{stderr}");
        assert_same(&several, &one);
        let receipt = fs::read_to_string(RunPaths::new(&several).receipt()).unwrap();
        assert!(
            receipt.contains(&format!("({size} processes)")),
            "{receipt}"
        );
    }
}

#[test]
fn a_process_that_is_killed_ends_all_and_nothing_is_lost() {
    let fixture = Fixture::new();
    let (whole, killed) = (fixture.run("whole"), fixture.run("killed"));
    success(
        &mpirun(2, &fixture.train(&whole, "--batch-size 16"))
            .output()
            .unwrap(),
    );
    let mut arguments = fixture.train(&killed, "--batch-size 16");
    for step in [3, 14] {
        let mut job = mpirun(2, &arguments).spawn().unwrap();
        wait_for_step(&killed, step, &mut job);
        signal("KILL", *children(job.id()).last().unwrap());
        let began = Instant::now();
        while job.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(10), "it hangs");
            sleep(Duration::from_millis(10));
        }
        assert!(!job.wait().unwrap().success());
        arguments = resume(&killed);
    }
    success(&mpirun(2, &arguments).output().unwrap());
    assert_same(&killed, &whole);
    // One process scores it.
    success(&alone(&["eval".to_owned(), killed.display().to_string()]));
}

#[test]
fn a_signal_ends_with_a_checkpoint_from_which_another_number_goes_on() {
    let fixture = Fixture::new();
    let (whole, stopped) = (fixture.run("whole"), fixture.run("stopped"));
    success(
        &mpirun(2, &fixture.train(&whole, "--batch-size 16"))
            .output()
            .unwrap(),
    );
    let mut job = mpirun(2, &fixture.train(&stopped, "--batch-size 16"))
        .spawn()
        .unwrap();
    wait_for_step(&stopped, 2, &mut job);
    signal("USR1", job.id());
    let output = job.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(
        said(&output).contains("stopped with a checkpoint"),
        "{}",
        said(&output)
    );
    let mut job = mpirun(3, &resume(&stopped));
    job.args(["--checkpoint-seconds", "0"]);
    let mut job = job.spawn().unwrap();
    wait_for_step(&stopped, 12, &mut job);
    signal("USR1", job.id());
    let output = job.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    success(&alone(&resume(&stopped)));
    assert_same(&stopped, &whole);
}

#[test]
fn processes_that_differ_and_work_that_cannot_be_shared_are_refused() {
    let fixture = Fixture::new();
    let run = fixture.run("run");
    let mut two = mpirun(1, &fixture.train(&run, "--batch-size 16 --seed 1"));
    two.args([":", "-n", "1", env!("CARGO_BIN_EXE_shike")]);
    two.args(fixture.train(&run, "--batch-size 16 --seed 2"));
    let output = two.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("other seed than"),
        "{}",
        said(&output)
    );
    assert!(!RunPaths::new(&run).is_run());
    for (more, message) in [
        (
            "--batch-size 15",
            "a batch of 15 pictures cannot be divided by 2 for 2 processes: --batch-size 14 or 16 can",
        ),
        ("--dry-run", "--dry-run is for one process"),
        ("--time 1h", "--time is for one process"),
        ("--seeds 2", "--seeds is for one process"),
    ] {
        let output = mpirun(2, &fixture.train(&run, more)).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(message), "{}", said(&output));
        assert_eq!(
            said(&output).matches(message).count(),
            1,
            "{}",
            said(&output)
        );
    }
}

//! Processes that `mpirun` starts: together they are one that accumulates, bit for bit, whatever happens to them. Needs
//! Open MPI and the feature `mpi` (docs/TESTING.md).
#![cfg(all(unix, feature = "flex", feature = "mpi"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use common::{lists, resnet10_weights, said, shike, success};
use shike::data::rng::{Draw, Purpose, rng};
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

    /// Arguments of a run; `more` replaces what it names.
    fn train(&self, run: &Path, more: &str) -> Vec<String> {
        let common = "train --arch resnet8 --experts 2 --image-size 16 --epochs 3 --stage2-epochs 2 --warmup-epochs 1 \
                      --stage2-warmup-epochs 1 --checkpoint-seconds 0 --ema 0.9 --device flex";
        let common: Vec<&str> = common.split_whitespace().collect();
        let (train, common) = common.split_at(1);
        let kept = common.chunks(2).filter(|pair| !more.contains(pair[0]));
        let words = train.iter().chain(kept.flatten()).copied();
        let words = words.chain(more.split_whitespace());
        let mut all: Vec<String> = words.map(str::to_owned).collect();
        all.extend(lists(&self.set));
        all.extend(["--run".to_owned(), run.display().to_string()]);
        all
    }
}

/// So many processes with these arguments.
fn mpirun(size: usize, arguments: &[String]) -> Command {
    mpirun_with(&[], size, arguments)
}

/// The same; the launcher has options of its own.
fn mpirun_with(options: &[&str], size: usize, arguments: &[String]) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(options)
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

/// Waits until a job has ended, whose processes wait for no one that is lost.
fn wait_for_end(job: &mut Child) {
    let began = Instant::now();
    while job.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(10), "it hangs");
        sleep(Duration::from_millis(10));
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
        success(&shike(&fixture.train(&one, &more)));
        let arguments = fixture.train(&several, "--batch-size 16");
        let (stdout, stderr) = success(&mpirun(size, &arguments).output().unwrap());
        // One speaks for all.
        assert_eq!(
            stdout.matches("test set, last epoch").count(),
            1,
            "{stdout}"
        );
        assert_eq!(stderr.matches("finished: ").count(), 1, "{stderr}");
        let why = format!(
            "dealt out: a step of 16 pictures is {size} batches of {batch} for {size} processes"
        );
        for (field, value) in [("loader.batch_size", batch), ("accumulation", size)] {
            let mut rows = stderr.lines().filter(|line| line.starts_with(field));
            let words: Vec<&str> = rows.next().unwrap().split_whitespace().collect();
            assert_eq!(words[1], value.to_string(), "{stderr}");
            assert_eq!(words[2..].join(" "), why, "{stderr}");
        }
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
        wait_for_end(&mut job);
        let output = job.wait_with_output().unwrap();
        assert!(!output.status.success());
        // The newest checkpoint was named last, unless it was just being written.
        let said = said(&output);
        let mut named = said.lines().rev();
        let named = named.find_map(|line| line.strip_prefix("checkpoint: "));
        let named = PathBuf::from(named.expect(&said));
        let mut steps = RunPaths::new(&killed).step_checkpoints().unwrap();
        steps.reverse();
        let is_named = |(_, path): &(u64, PathBuf)| *path == named;
        assert!(steps[..2].iter().any(is_named), "{said}");
        arguments = resume(&killed);
    }
    success(&mpirun(2, &arguments).output().unwrap());
    assert_same(&killed, &whole);
    // One process scores it.
    success(&shike(&["eval".to_owned(), killed.display().to_string()]));
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
    success(&shike(&resume(&stopped)));
    assert_same(&stopped, &whole);
}

#[test]
fn sigterm_ends_with_a_checkpoint_where_the_launcher_waits_for_it() {
    let fixture = Fixture::new();
    let (whole, stopped) = (fixture.run("whole"), fixture.run("stopped"));
    success(
        &mpirun(2, &fixture.train(&whole, "--batch-size 16"))
            .output()
            .unwrap(),
    );
    let patient = ["--mca", "odls_base_sigkill_timeout", "6"];
    let arguments = fixture.train(&stopped, "--batch-size 16");
    let mut job = mpirun_with(&patient, 2, &arguments).spawn().unwrap();
    wait_for_step(&stopped, 2, &mut job);
    // The launcher passes it on after six seconds, and kills after six more; untold it waits for one. This is a step that
    // takes two seconds then.
    signal("TERM", job.id());
    sleep(Duration::from_millis(500));
    let slow = children(job.id())[0];
    signal("STOP", slow);
    sleep(Duration::from_secs(8));
    signal("CONT", slow);
    let output = job.wait_with_output().unwrap();
    let told = said(&output);
    // The launcher's own.
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("stopped with a checkpoint"), "{told}");
    success(&mpirun(2, &resume(&stopped)).output().unwrap());
    assert_same(&stopped, &whole);
}

/// docs/TESTING.md says how it is run.
#[test]
#[ignore = "takes minutes"]
fn twenty_kills_at_random_moments_lose_nothing() {
    let fixture = Fixture::new();
    let (whole, killed) = (fixture.run("whole"), fixture.run("killed"));
    let more = "--batch-size 16 --epochs 60 --stage2-epochs 20";
    let began = Instant::now();
    success(&mpirun(2, &fixture.train(&whole, more)).output().unwrap());
    let (took, seed) = (began.elapsed(), SystemTime::UNIX_EPOCH.elapsed().unwrap());
    println!("seed {}", seed.as_nanos() as u64);
    let mut draw = rng(seed.as_nanos() as u64, 0, 0, Purpose::Other);
    let started = || match RunPaths::new(&killed).is_run() {
        true => mpirun(2, &resume(&killed)),
        false => mpirun(2, &fixture.train(&killed, more)),
    };
    let mut kills = 0;
    while kills < 20 {
        let mut job = started().spawn().unwrap();
        sleep(took.mul_f64(f64::from(draw.below(1000)) / 10_000.0));
        let processes = children(job.id());
        let ended = job.try_wait().unwrap();
        assert!(ended.is_none(), "it ended after {kills} kills");
        // The launcher may not have started them yet.
        if processes.len() == 2 {
            signal("KILL", processes[draw.below(2) as usize]);
            kills += 1;
        } else {
            signal("KILL", job.id());
        }
        wait_for_end(&mut job);
        let output = job.wait_with_output().unwrap();
        let newest = RunPaths::new(&killed)
            .step_checkpoints()
            .unwrap_or_default();
        println!(
            "{kills}: {:?}, {:?}",
            output.status,
            newest.last().map(|(step, _)| step)
        );
    }
    // One process goes on, and scores it.
    success(&shike(&resume(&killed)));
    assert_same(&killed, &whole);
    let scores = |run: &Path| success(&shike(&["eval", "--json", run.to_str().unwrap()])).0;
    assert_eq!(scores(&killed), scores(&whole));
}

#[test]
fn a_trunk_embeds_in_shares_and_one_process_fits_the_head() {
    let fixture = Fixture::new();
    let weights = fixture.run("weights.safetensors");
    resnet10_weights(&weights);
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let with = |cache: &str, mut command: Command| {
        let command = command.env("SHIKE_CACHE", fixture.run(cache));
        success(&command.output().unwrap())
    };
    let alone = |cache: &str, arguments: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
        command.args(arguments);
        with(cache, command)
    };
    let train = |run: &Path| {
        let weights = weights.display();
        let mut all = words(&format!(
            "train --weights {weights} --image-size 32 --device flex"
        ));
        all.extend(lists(&fixture.set));
        all.extend(["--run".to_owned(), run.display().to_string()]);
        all
    };
    let runs = ["1", "2", "3"].map(|name| fixture.run(name));
    alone("cache-1", &train(&runs[0]));
    let (stdout, stderr) = with("cache", mpirun(2, &train(&runs[1])));
    assert_eq!(stdout.matches("test set").count(), 1, "{stdout}");
    let all = fixture.set.train_list.clone();
    let all = fs::read_to_string(all).unwrap().lines().count();
    let line = format!("training set: {all} images, {all} of them embedded now");
    assert_eq!(stderr.matches(&line).count(), 1, "{stderr}");
    assert_eq!(stderr.matches("chosen: ").count(), 1, "{stderr}");
    // What two have kept, three need not embed.
    let (_, stderr) = with("cache", mpirun(3, &train(&runs[2])));
    let line = format!("training set: {all} images, 0 of them embedded now");
    assert!(stderr.contains(&line), "{stderr}");
    let files = |run: &Path| {
        let paths = RunPaths::new(run);
        let files = [
            paths.model(),
            paths.predictions_csv(),
            paths.per_class_csv(),
        ];
        files.map(|file| fs::read(file).unwrap())
    };
    for run in &runs[1..] {
        assert!(files(run) == files(&runs[0]), "{}", run.display());
    }
    // It is finished, for all alike.
    let (_, stderr) = with("cache", mpirun(2, &resume(&runs[1])));
    assert_eq!(stderr.matches("is finished").count(), 1, "{stderr}");

    let embed = |out: &str| {
        let (root, weights) = (fixture.set.root.display(), weights.display());
        let out = fixture.run(out);
        let train_list = fixture.set.train_list.display();
        words(&format!(
            "embed {root} --train-list {train_list} --weights {weights} --image-size 32 --device flex --out {}",
            out.display()
        ))
    };
    alone("cache-1", &embed("one"));
    let (stdout, _) = with("other", mpirun(2, &embed("two")));
    assert_eq!(stdout.matches("features of").count(), 1, "{stdout}");
    let bytes = |name: &str| fs::read(fixture.run(name)).unwrap();
    assert!(bytes("one") == bytes("two"));
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

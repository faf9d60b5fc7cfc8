//! Real processes that are killed, interrupted and resumed: the result is the one of a run that
//! nothing happened to, byte for byte.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use common::lists;
use shike::data::synthetic::{SyntheticConfig, SyntheticSet, generate};
use shike::infer::Predictor;
use shike::model::weights;
use shike::train::RunConfig;
use shike::train::run::RunPaths;
use shike::train::run::checkpoint::{self, Checkpoint};
use tempfile::TempDir;

const CLASSES: usize = 4;
/// Small, so that a fast machine takes more steps than twenty kills let pass.
const BATCH: usize = 4;
const EPOCHS: [usize; 2] = [3, 2];

/// Far more than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// A tiny image set and an undisturbed run on it.
struct Fixture {
    folder: TempDir,
    set: SyntheticSet,
    reference: RunPaths,
}

/// Shared by the tests that run at the same time; the last one removes its folder.
fn fixture() -> Arc<Fixture> {
    static SHARED: Mutex<Weak<Fixture>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap();
    if let Some(fixture) = shared.upgrade() {
        return fixture;
    }
    let folder = tempfile::tempdir().unwrap();
    let set = generate(&folder.path().join("images"), &set_config()).unwrap();
    let reference = RunPaths::new(folder.path().join("reference"));
    let fixture = Arc::new(Fixture {
        folder,
        set,
        reference,
    });
    fixture.start_in(fixture.reference.root(), &[]).succeed();
    *shared = Arc::downgrade(&fixture);
    fixture
}

fn set_config() -> SyntheticConfig {
    SyntheticConfig {
        classes: CLASSES,
        n_max: 60,
        imbalance_factor: 4.0,
        test_per_class: 3,
        size: 20,
        ..SyntheticConfig::default()
    }
}

/// Batches of an epoch.
fn batches() -> usize {
    let counts = set_config().class_counts().unwrap();
    counts.iter().sum::<usize>().div_ceil(BATCH)
}

impl Fixture {
    /// A place for a run of a test's own.
    fn run(&self, name: &str) -> RunPaths {
        RunPaths::new(self.folder.path().join(name))
    }

    /// Starts a run; `more` are arguments beyond the common ones, or `-name` to leave one of those
    /// out with its value.
    fn start_in(&self, run: &Path, more: &[&str]) -> Process {
        let data = lists(&self.set);
        let mut args: Vec<String> = data
            .chunks(2)
            .filter(|pair| !more.contains(&pair[0].as_str()))
            .flatten()
            .cloned()
            .collect();
        let common = "--arch resnet8 --experts 2 --image-size 16 --batch-size 4 --epochs 3 \
                      --stage2-epochs 2 --warmup-epochs 1 --stage2-warmup-epochs 1 --workers 2 \
                      --checkpoint-seconds 0 --device flex";
        let words: Vec<&str> = common.split_whitespace().collect();
        for pair in words.chunks(2) {
            let replaced = |word: &&str| *word == pair[0] || **word == pair[0][1..];
            if !more.iter().any(replaced) {
                args.extend(pair.iter().map(|&word| word.to_owned()));
            }
        }
        let added = more
            .iter()
            .filter(|word| word.starts_with("--") || !word.starts_with('-'));
        args.extend(added.map(|&word| word.to_owned()));
        args.extend(["--run".into(), run.display().to_string()]);
        spawn(
            Command::new(env!("CARGO_BIN_EXE_shike"))
                .arg("train")
                .args(args),
        )
    }

    /// A run that was killed a few steps into its first epoch.
    fn killed(&self, name: &str) -> RunPaths {
        let run = self.run(name);
        let mut process = self.start_in(run.root(), &[]);
        assert!(process.wait_until(|| newest(&run).is_some_and(|step| step >= 3)));
        process.kill();
        run
    }

    /// The weights, running statistics and log of `run` are those of the reference.
    fn assert_equals_reference(&self, run: &RunPaths) {
        let model = |run: &RunPaths| fs::read(run.model()).unwrap();
        assert!(
            model(run) == model(&self.reference),
            "{}: other weights than without interruption",
            run.root().display()
        );
        assert_eq!(rows(run), rows(&self.reference));
        assert_eq!(rows(run).len(), 1 + EPOCHS.iter().sum::<usize>());
        let per_class = |run: &RunPaths| fs::read_to_string(run.per_class_csv()).unwrap();
        assert_eq!(per_class(run), per_class(&self.reference));
    }
}

/// The lines of `metrics.csv` without the columns on time.
fn rows(run: &RunPaths) -> Vec<String> {
    let text = fs::read_to_string(run.metrics_csv()).unwrap();
    let header = text.lines().next().unwrap();
    assert!(header.ends_with(",seconds,images_per_second"), "{header}");
    let shorten = |line: &str| line.rsplitn(3, ',').last().unwrap().to_owned();
    text.lines().map(shorten).collect()
}

fn resume(run: &RunPaths) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    spawn(
        command
            .args(["train", "--device", "flex", "--resume"])
            .arg(run.root()),
    )
}

/// A running program with what it says; killed if the test gives up.
struct Process {
    child: Child,
    log: tempfile::NamedTempFile,
}

fn spawn(command: &mut Command) -> Process {
    // A file, so that nobody has to read a pipe before it is full.
    let log = tempfile::NamedTempFile::new().unwrap();
    let child = command
        .stdin(Stdio::null())
        .stdout(File::options().append(true).open(log.path()).unwrap())
        .stderr(File::options().append(true).open(log.path()).unwrap())
        .spawn()
        .unwrap();
    Process { child, log }
}

impl Process {
    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log.path()).unwrap()).into_owned()
    }

    /// Waits for a condition as closely as can be. `false` if the process ended before.
    fn wait_until(&mut self, condition: impl Fn() -> bool) -> bool {
        let begin = Instant::now();
        loop {
            if condition() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "waited in vain: {}",
                self.said()
            );
            sleep(Duration::from_micros(100));
        }
    }

    fn end(&mut self) -> ExitStatus {
        self.wait_until(|| false);
        self.child.wait().unwrap()
    }

    /// Waits for the end, which must be a good one, and gives what was said.
    fn succeed(mut self) -> String {
        let status = self.end();
        assert!(status.success(), "{status}: {}", self.said());
        self.said()
    }

    /// Waits for the end, which must be an error, and gives what was said.
    fn fail(self) -> String {
        self.fail_with(1)
    }

    /// As [`fail`](Self::fail), for wrong arguments.
    fn refused(self) -> String {
        self.fail_with(2)
    }

    fn fail_with(mut self, code: i32) -> String {
        let status = self.end();
        assert_eq!(status.code(), Some(code), "{}", self.said());
        let said = self.said();
        assert!(
            said.contains("error: ") && !said.contains("panicked"),
            "{said}"
        );
        said
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Step of the newest checkpoint.
fn newest(run: &RunPaths) -> Option<u64> {
    run.step_checkpoints()
        .unwrap()
        .last()
        .map(|(step, _)| *step)
}

/// Whether process `pid` has a checkpoint half written.
fn is_writing(run: &RunPaths, pid: u32) -> bool {
    let suffix = format!(".tmp-{pid}");
    let Ok(entries) = fs::read_dir(run.checkpoints()) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))
}

/// Where a run's newest checkpoint stands: stage, epoch, batch, step.
fn position(run: &RunPaths) -> Option<[u64; 4]> {
    let latest = run.latest().unwrap()?;
    // A kill must never spoil a file under its final name.
    assert_eq!(latest.warnings, Vec::<String>::new());
    let position = &latest.checkpoint.state["position"];
    Some(["stage", "epoch", "batch", "step"].map(|key| position[key].as_u64().unwrap()))
}

/// The network of a checkpoint, as a file of weights.
fn network(run: &RunPaths, checkpoint: &Checkpoint) -> Vec<u8> {
    let config: RunConfig = run.read_config().unwrap();
    let model = config.train.model.init(&Device::flex()).unwrap();
    let record = ModuleRecord::from_bytes(checkpoint.records["model"].clone()).unwrap();
    let model = model.try_load_record(record).unwrap();
    weights::to_safetensors(&model, 0, &BTreeMap::new(), false).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match source.is_dir() {
            true => copy(&source, &target),
            false => drop(fs::copy(source, target).unwrap()),
        }
    }
}

/// Xorshift: the moments of the kills are varied, not random.
struct Moments(u64);

impl Moments {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn killed_twenty_times_and_resumed_gives_the_same_bytes() {
    const KILLS: usize = 20;
    let fixture = fixture();
    let run = fixture.run("killed");
    let control = fixture.run("control");
    let stage1_steps = (EPOCHS[0] * batches()) as u64;
    let mut moments = Moments(0x9E37_79B9_7F4A_7C15);
    let (mut kills, mut in_stage1, mut in_stage2, mut in_write) = (0, 0, 0, 0);
    let mut reached = 0;
    let mut starts = 0;
    loop {
        starts += 1;
        assert!(starts < 100, "the run does not end");
        let mut process = match run.is_run() {
            true => resume(&run),
            false => fixture.start_in(run.root(), &[]),
        };
        if kills >= KILLS && in_stage1 > 0 && in_stage2 > 0 && in_write > 0 {
            let said = process.succeed();
            assert!(said.contains("resuming at stage 2"), "{said}");
            break;
        }

        let pid = process.child.id();
        let steps = match reached >= stage1_steps {
            // The last third of the kills is for stage 2.
            false if kills >= KILLS * 2 / 3 => stage1_steps + 1 - reached,
            false => 1 + moments.below(2),
            true => 1,
        };
        let advanced = || newest(&run).unwrap_or(0) >= reached + steps;
        let writing = || is_writing(&run, pid);
        match starts % 4 {
            // While it starts: arguments, images, checkpoint.
            0 => sleep(Duration::from_millis(moments.below(120))),
            // In its first write, so that this start got nothing done.
            1 => assert!(process.wait_until(writing), "{}", process.said()),
            // Some while after a checkpoint.
            2 => {
                assert!(process.wait_until(advanced), "{}", process.said());
                sleep(Duration::from_micros(moments.below(60_000)));
            }
            // In a later write.
            _ => {
                assert!(process.wait_until(advanced), "{}", process.said());
                assert!(process.wait_until(writing), "{}", process.said());
            }
        }
        let alive = process.child.try_wait().unwrap().is_none();
        assert!(alive, "ended after {kills} kills: {}", process.said());
        process.kill();
        kills += 1;

        let half_written = is_writing(&run, pid);
        in_write += usize::from(half_written);
        let now = position(&run);
        if let Some([stage, _, batch, step]) = now {
            // No kill takes back what a checkpoint had.
            assert!(step >= reached, "from step {reached} back to {step}");
            reached = step;
            in_stage1 += usize::from(stage == 1 && batch > 0);
            in_stage2 += usize::from(stage == 2 && batch > 0);
            if stage == 1 && batch >= 3 && !control.is_run() {
                copy(run.root(), control.root());
            }
        }
        println!("kill {kills}: [stage, epoch, batch, step] {now:?}, in a write: {half_written}");
    }
    println!(
        "{kills} kills: {in_stage1} amid an epoch of stage 1, {in_stage2} of stage 2, {in_write} \
         in a write"
    );
    fixture.assert_equals_reference(&run);

    // The checkpoints that are kept, too: position, log of the best epoch, network.
    let of = |run: &RunPaths, path: PathBuf| {
        let checkpoint = checkpoint::read(&path).unwrap();
        (network(run, &checkpoint), checkpoint)
    };
    let last = |run: &RunPaths| run.step_checkpoints().unwrap().pop().unwrap().1;
    let pairs = [
        (
            run.stage_checkpoint(1),
            fixture.reference.stage_checkpoint(1),
        ),
        (last(&run), last(&fixture.reference)),
    ];
    for (found, expected) in pairs {
        assert_eq!(found.file_name(), expected.file_name());
        let (found, expected) = (of(&run, found), of(&fixture.reference, expected));
        assert_eq!(found.1.state, expected.1.state);
        assert!(
            found.0 == expected.0,
            "the networks of the checkpoints differ"
        );
    }

    // The comparison can fail: amid an epoch, a resume that forgets the momentum (the optimizer of
    // the last checkpoint has none) ends elsewhere.
    let forgotten = of(&fixture.reference, last(&fixture.reference)).1.records["optimizer"].clone();
    let mut latest = control.latest().unwrap().unwrap();
    latest
        .checkpoint
        .records
        .insert("optimizer".into(), forgotten);
    checkpoint::write_atomic(&latest.path, &latest.checkpoint).unwrap();
    resume(&control).succeed();
    let model = |run: &RunPaths| fs::read(run.model()).unwrap();
    assert!(
        model(&control) != model(&fixture.reference),
        "momentum had no effect"
    );
}

#[test]
fn ctrl_c_ends_with_a_checkpoint() {
    ends_with_a_checkpoint("-INT");
}

/// What a cluster's scheduler sends before it takes the machine.
#[test]
fn sigterm_ends_with_a_checkpoint() {
    ends_with_a_checkpoint("-TERM");
}

fn ends_with_a_checkpoint(signal: &str) {
    let fixture = fixture();
    let run = fixture.run(&format!("interrupted{signal}"));
    // No checkpoint but the one that Ctrl-C asks for.
    let mut process = fixture.start_in(run.root(), &["--checkpoint-seconds", "1000"]);
    let log = process.log.path().to_owned();
    let training = || fs::read_to_string(&log).unwrap().contains("1/3");
    assert!(process.wait_until(training), "{}", process.said());
    let pid = process.child.id().to_string();
    // `timeout` and queue systems send it to the process, and to its group.
    for _ in 0..2 {
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
        let heard = || {
            fs::read_to_string(&log)
                .unwrap()
                .contains("after this step")
        };
        assert!(process.wait_until(heard), "{}", process.said());
    }
    assert_eq!(process.end().code(), Some(130), "{}", process.said());
    let said = process.said();
    assert!(
        said.contains(&format!("--resume {}", run.root().display())),
        "{said}"
    );
    let [_, _, batch, step] = position(&run).unwrap();
    assert!(
        batch > 0 && step > 0 && !run.model().exists(),
        "batch {batch}, step {step}"
    );
    resume(&run).succeed();
    fixture.assert_equals_reference(&run);
}

#[test]
fn a_truncated_checkpoint_falls_back_to_the_one_before() {
    let fixture = fixture();
    let run = fixture.killed("truncated");
    let mut steps = run.step_checkpoints().unwrap();
    let (_, damaged) = steps.pop().unwrap();
    let (before, _) = steps.pop().unwrap();
    let file = File::options().write(true).open(&damaged).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let said = resume(&run).succeed();
    let name = damaged.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("cut off"), "{said}");
    // One step a batch.
    assert!(
        said.contains(&format!("resuming at stage 1, epoch 1, batch {before}")),
        "{said}"
    );
    fixture.assert_equals_reference(&run);
}

#[test]
fn foreign_and_newer_checkpoints_are_errors() {
    let fixture = fixture();
    let run = fixture.killed("foreign");
    let (_, path) = run.step_checkpoints().unwrap().pop().unwrap();

    // The number of the version, at its length.
    let mut bytes = fs::read(&path).unwrap();
    let key = br#""format_version":"2""#;
    let at = bytes
        .windows(key.len())
        .position(|window| window == key)
        .unwrap();
    bytes[at + key.len() - 2] = b'9';
    fs::write(&path, bytes).unwrap();
    let said = resume(&run).fail();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(
        said.contains(name) && said.contains("format version 9"),
        "{said}"
    );

    for (_, path) in run.step_checkpoints().unwrap() {
        fs::write(path, "{\"a letter\": \"to a friend\"}").unwrap();
    }
    let said = resume(&run).fail();
    let folder = run.checkpoints().display().to_string();
    assert!(
        said.contains(&folder) && said.contains("not a shike checkpoint"),
        "{said}"
    );
    assert!(!run.model().exists());
}

#[test]
fn a_run_has_one_process_at_a_time() {
    let fixture = fixture();
    let run = fixture.run("locked");
    let mut first = fixture.start_in(run.root(), &[]);
    assert!(
        first.wait_until(|| newest(&run).is_some()),
        "{}",
        first.said()
    );
    let said = resume(&run).fail();
    let holder = format!(
        "run {} is in use by process {}",
        run.root().display(),
        first.child.id()
    );
    assert!(said.contains(&holder), "{said}");
    // A new run in its place is no way around.
    let said = fixture.start_in(run.root(), &[]).fail();
    assert!(said.contains("already holds a run"), "{said}");
    assert!(
        first.child.try_wait().unwrap().is_none(),
        "the first was to be still at work"
    );
}

#[test]
fn other_training_images_are_an_error() {
    let fixture = fixture();
    let run = fixture.killed("other-data");
    // Its own list, in another place: one image of class 0 is gone.
    let list = fixture.folder.path().join("other.txt");
    let text = fs::read_to_string(&fixture.set.train_list).unwrap();
    fs::write(&list, text.split_once('\n').unwrap().1).unwrap();
    let config = fs::read_to_string(run.config()).unwrap();
    let name = fixture.set.train_list.to_str().unwrap();
    assert!(config.contains(name));
    fs::write(run.config(), config.replace(name, list.to_str().unwrap())).unwrap();
    let before = position(&run);
    let said = resume(&run).fail();
    assert!(said.contains("resume with the same data"), "{said}");
    assert_eq!(position(&run), before);

    fs::write(run.config(), config).unwrap();
    resume(&run).succeed();
    fixture.assert_equals_reference(&run);
}

#[test]
fn an_unknown_device_says_what_there_is() {
    let fixture = fixture();
    let run = fixture.run("device");
    let said = fixture
        .start_in(run.root(), &["--device", "nonsense"])
        .fail();
    assert!(
        said.contains("--device nonsense") && said.contains("this binary has"),
        "{said}"
    );
    for name in shike::infer::device::available() {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert!(!run.root().exists());
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let fixture = fixture();
    let run = fixture.run("diverged");
    let said = fixture.start_in(run.root(), &["--lr", "1e30"]).fail();
    assert!(
        said.contains("term of the loss is") || said.contains("the loss is"),
        "{said}"
    );
    for part in [
        "at step ",
        "stage 1, epoch 1, learning rate ",
        "lower learning rate",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!run.model().exists());
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let fixture = fixture();
    let paths = ["1", "3"].map(|workers| {
        let run = fixture.run(&format!("workers-{workers}"));
        (fixture.start_in(run.root(), &["--workers", workers]), run)
    });
    for (process, run) in paths {
        process.succeed();
        fixture.assert_equals_reference(&run);
    }
}

#[test]
fn another_seed_changes_the_model() {
    let fixture = fixture();
    let run = fixture.run("seed");
    fixture.start_in(run.root(), &["--seed", "1"]).succeed();
    assert_ne!(
        fs::read(run.model()).unwrap(),
        fs::read(fixture.reference.model()).unwrap()
    );
}

#[test]
fn accumulation_clipping_and_adamw_survive_a_kill() {
    let fixture = fixture();
    let adamw = "optimizer={ kind = \"adamw\" }";
    let more = ["--accumulate", "2", "--clip-norm", "1.0", "--set", adamw];
    let whole = fixture.run("accumulated");
    fixture.start_in(whole.root(), &more).succeed();
    let steps = batches().div_ceil(2) * EPOCHS.iter().sum::<usize>();
    assert_eq!(position(&whole).unwrap(), [3, 0, 0, steps as u64]);

    let run = fixture.run("accumulated-killed");
    let mut process = fixture.start_in(run.root(), &more);
    assert!(process.wait_until(|| newest(&run).is_some_and(|step| step >= 2)));
    process.kill();
    resume(&run).succeed();
    assert!(fs::read(run.model()).unwrap() == fs::read(whole.model()).unwrap());
    assert_eq!(rows(&run), rows(&whole));
}

#[test]
fn stage_2_from_another_run_gives_what_that_run_gave() {
    let fixture = fixture();
    let run = fixture.run("stage2");
    let reference = fixture.reference.root().to_str().unwrap();
    fixture
        .start_in(run.root(), &["--stage2-from", reference])
        .succeed();
    assert!(fs::read(run.model()).unwrap() == fs::read(fixture.reference.model()).unwrap());
    // Its log has stage 2 alone.
    let rows = rows(&run);
    assert_eq!(rows.len(), 1 + EPOCHS[1]);
    assert!(
        rows[1..].iter().all(|row| row.starts_with("2,")),
        "{rows:?}"
    );

    let stage1 = |run: &RunPaths| run.read_config::<RunConfig>().unwrap().train.stage1;
    assert!(stage1(&run) == stage1(&fixture.reference));

    // Stage 1 is as it was, and what would change it is refused.
    let again = fixture.run("stage2-again");
    for (option, value, field) in [
        ("--loss", "focal", "stage1.loss"),
        ("--lr", "0.001", "stage1.schedule.warmup_lr"),
        (
            "--set",
            "stage1.mixing.mixup_alpha=1",
            "stage1.mixing.mixup_alpha",
        ),
        ("--lr-backbone", "0.001", "lr_factors.stem"),
    ] {
        let options = ["--stage2-from", reference, option, value];
        let said = fixture.start_in(again.root(), &options).refused();
        for named in [reference, option, field] {
            assert!(said.contains(named), "{option}: {said}");
        }
        assert!(!again.root().exists());
    }

    let other = fixture.run("stage2-other");
    let more = ["--stage2-from", reference, "--experts", "3"];
    let said = fixture.start_in(other.root(), &more).fail();
    assert!(
        said.contains(reference) && said.contains("its network is not that of this run"),
        "{said}"
    );
}

#[test]
fn a_resumed_run_obeys_what_it_can_and_refuses_the_rest() {
    let fixture = fixture();
    let run = fixture.run("obeying");
    copy(fixture.reference.root(), run.root());
    let resume = |more: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
        command
            .args(["train", "--device", "flex", "--resume"])
            .arg(run.root());
        spawn(command.args(more.split_whitespace()))
    };
    // What the run does anyhow, or how fast.
    let said = resume("--epochs 3 --set stage1.epochs=3").refused();
    assert!(said.contains("both say what stage1.epochs is"), "{said}");
    resume("--epochs 3 --workers 1 --checkpoint-seconds 9 --check-images").succeed();
    resume("--set stage1.epochs=3 --experts 2").succeed();
    for (options, named) in [
        (
            "--epochs 6 --clip-norm 3",
            "--clip-norm, --epochs would change them (clip_norm none → 3, stage1.epochs 3 → 6",
        ),
        ("--loss focal --seed 7", "--loss, --seed would change them"),
        ("--no-flip", "train_pipeline.transforms"),
        (
            "--set optimizer.momentum=0.5",
            "--set optimizer.momentum=0.5 would change them (optimizer.momentum 0.9 → 0.5)",
        ),
        ("--baseline ce", "model.experts"),
        (
            "--imbalance-factor 10",
            "--imbalance-factor and --profile cut CIFAR",
        ),
        ("--stage2-tau 1", "--stage2-tau needs"),
    ] {
        let said = resume(options).refused();
        assert!(said.contains(named), "{options}: {said}");
    }
    // Longer than it was, and then as long as it is.
    let said = resume("--epochs 2").refused();
    assert!(said.contains("has done 3 epochs of stage 1"), "{said}");
    let said = resume("--epochs 4").succeed();
    assert!(
        said.contains("stage 1 goes on behind epoch 3, to 4 in place of 3"),
        "{said}"
    );
    assert_eq!(rows(&run).len(), 1 + 4 + EPOCHS[1]);
    let receipt = run.read_receipt().unwrap();
    assert_eq!(receipt.extended.len(), 1);
    assert!(receipt.scored.is_some());
    let said = resume("--epochs 4").succeed();
    assert!(!said.contains("goes on behind"), "{said}");
    resume("").succeed();
    assert_eq!(run.read_receipt().unwrap(), receipt);
}

#[test]
fn a_baseline_trains_for_the_epochs_of_both_stages() {
    let fixture = fixture();
    let run = fixture.run("baseline");
    fixture
        .start_in(
            run.root(),
            &["--baseline", "ce", "-experts", "-stage2-warmup-epochs"],
        )
        .succeed();
    let rows = rows(&run);
    assert_eq!(rows.len(), 1 + EPOCHS.iter().sum::<usize>());
    assert!(
        rows[1..].iter().all(|row| row.starts_with("1,")),
        "{rows:?}"
    );
    let predictor = Predictor::load(&run.model(), &Device::flex()).unwrap();
    assert!(predictor.info().model.is_plain());
}

#[test]
fn a_finished_model_predicts() {
    let fixture = fixture();
    let predictor = Predictor::load(&fixture.reference.model(), &Device::flex()).unwrap();
    let classes = fixture.reference.read_classes().unwrap();
    assert_eq!(classes.names.len(), CLASSES);
    assert_eq!(classes.train_counts, set_config().class_counts().unwrap());
    let list = fs::read_to_string(&fixture.set.test_list).unwrap();
    let mut seen = Vec::new();
    for line in list.lines() {
        let (path, _) = line.rsplit_once(' ').unwrap();
        let prediction = predictor
            .predict_file(&fixture.set.root.join(path))
            .unwrap();
        assert_eq!(prediction.class_names, classes.names);
        let sum: f32 = prediction.probabilities.iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        let top = prediction.top(CLASSES + 1);
        assert_eq!(top.len(), CLASSES);
        assert!(top.is_sorted_by(|a, b| a.1 >= b.1), "{top:?}");
        seen.push(prediction.probabilities);
    }
    assert_eq!(seen.len(), 3 * CLASSES);
    assert!(
        seen.iter().any(|other| *other != seen[0]),
        "every image looks the same to it"
    );
}

/// A limit on the size of files stands in for a disk that is full: writing fails half-way.
#[test]
fn a_checkpoint_that_cannot_be_written_is_an_error() {
    let fixture = fixture();
    let run = fixture.killed("full");
    let before = position(&run);
    let script = r#"trap "" XFSZ; ulimit -f 64 || exit 7; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args([
        "-c",
        script,
        env!("CARGO_BIN_EXE_shike"),
        "train",
        "--device",
        "flex",
    ]);
    let said = spawn(command.arg("--resume").arg(run.root())).fail();
    let folder = run.checkpoints().display().to_string();
    assert!(said.contains(&format!("cannot write {folder}")), "{said}");
    assert_eq!(position(&run), before);
    let left = fs::read_dir(run.checkpoints()).unwrap().flatten();
    let names: Vec<_> = left
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(
        names.iter().all(|name| !name.contains(".tmp-")),
        "{names:?}"
    );

    resume(&run).succeed();
    fixture.assert_equals_reference(&run);
}

/// A kill between the first two files of a run leaves nothing to resume, and must not stand in the
/// way of a new start.
#[test]
fn a_start_that_was_killed_is_no_obstacle() {
    let fixture = fixture();
    let run = fixture.run("half-started");
    fs::create_dir_all(run.root()).unwrap();
    fs::copy(fixture.reference.classes(), run.classes()).unwrap();
    fs::write(run.lock(), "1\n").unwrap();
    fs::write(run.root().join("config.json.tmp-1"), "{").unwrap();
    assert!(!run.is_run());
    let said = resume(&run).fail();
    assert!(said.contains("is not the folder of a run"), "{said}");
    let mut process = fixture.start_in(run.root(), &[]);
    assert!(
        process.wait_until(|| newest(&run).is_some()),
        "{}",
        process.said()
    );
}

#[test]
fn two_runs_of_one_command_give_equal_checkpoints() {
    let fixture = fixture();
    let run = fixture.run("twin");
    fixture.start_in(run.root(), &[]).succeed();
    let files = |run: &RunPaths| {
        let steps = run.step_checkpoints().unwrap();
        let mut files = vec![run.stage_checkpoint(1), run.model()];
        files.extend(steps.last().map(|(_, path)| path.clone()));
        files
            .into_iter()
            .map(|file| fs::read(file).unwrap())
            .collect::<Vec<_>>()
    };
    assert!(files(&run) == files(&fixture.reference));
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_configuration_that_was_edited_is_refused() {
    let fixture = fixture();
    let run = fixture.killed("edited");
    for (from, to, says) in [
        (
            "\"batch_size\": 4",
            "\"batch_size\": 8",
            "loader.batch_size",
        ),
        ("\"seed\": 0", "\"seed\": 1", "seed"),
        (
            "\"momentum\": 0.9",
            "\"momentum\": 0.8",
            "optimizer.momentum",
        ),
        ("\"momentum\"", "\"momentun\"", "config.json"),
    ] {
        edit(&run.config(), from, to);
        let before = position(&run);
        let said = resume(&run).fail();
        assert!(
            said.contains(says) && said.contains("config.json"),
            "{said}"
        );
        assert_eq!(position(&run), before);
        edit(&run.config(), to, from);
    }
    // How fast is nobody's business but the machine's.
    edit(&run.config(), "\"workers\": 2", "\"workers\": 1");
    resume(&run).succeed();
    fixture.assert_equals_reference(&run);
}

#[test]
fn commands_notice_what_was_edited_in_a_finished_run() {
    let fixture = fixture();
    let run = fixture.run("finished");
    copy(fixture.reference.root(), run.root());
    let command = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
        spawn(command.arg(name).arg(run.root()))
    };
    let all = ["report", "eval", "compare"];
    for name in all {
        command(name).succeed();
    }
    let text = fs::read_to_string(run.config()).unwrap();
    edit(&run.config(), "\"few_below\": 20", "\"few_below\": 30");
    for name in all {
        let said = command(name).fail();
        assert!(
            said.contains("config.json: its settings are not"),
            "{name}: {said}"
        );
    }
    fs::write(run.config(), text).unwrap();
    let names = fixture.reference.read_classes().unwrap().names;
    edit(&run.classes(), &format!("\"{}\"", names[1]), "\"another\"");
    for name in ["report", "compare"] {
        let said = command(name).fail();
        assert!(
            said.contains("classes.json: its class names"),
            "{name}: {said}"
        );
    }
}

#[test]
fn a_run_whose_folder_is_gone_stops() {
    let fixture = fixture();
    let run = fixture.run("gone");
    let mut process = fixture.start_in(run.root(), &[]);
    assert!(process.wait_until(|| newest(&run).is_some_and(|step| step >= 2)));
    let moved = fixture.run("moved");
    fs::rename(run.root(), moved.root()).unwrap();
    let said = process.fail();
    assert!(said.contains("is no more the folder of this run"), "{said}");
    assert!(!run.root().exists());
    resume(&moved).succeed();
    fixture.assert_equals_reference(&moved);
}

#[cfg(unix)]
#[test]
fn what_saves_nothing_ends_at_once_when_it_is_asked_to() {
    let fixture = fixture();
    let run = fixture.run("dry");
    // Its steps take much longer than a test should.
    let large = ["--arch", "resnet110", "--image-size", "224", "--dry-run"];
    let mut process = fixture.start_in(run.root(), &large);
    let log = process.log.path().to_owned();
    let began = || fs::read_to_string(&log).unwrap().contains("SHIKE with");
    assert!(process.wait_until(began), "{}", process.said());
    let pid = process.child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.unwrap().success());
    assert_eq!(process.end().code(), Some(130), "{}", process.said());
    assert!(!process.said().contains("after this step"));
}

#[test]
fn a_run_says_which_of_its_files_are_gone() {
    let fixture = fixture();
    let run = fixture.run("gone-files");
    let mut process = fixture.start_in(run.root(), &[]);
    let second = || position(&run).is_some_and(|[stage, epoch, ..]| stage > 1 || epoch > 0);
    assert!(process.wait_until(second), "{}", process.said());
    process.kill();
    let whole = fixture.run("gone-files-whole");
    copy(run.root(), whole.root());
    let said = resume(&whole).succeed();
    assert!(
        !said.contains("is gone") && !said.contains("one row for each"),
        "{said}"
    );
    fs::remove_file(run.receipt()).unwrap();
    fs::write(run.metrics_jsonl(), "").unwrap();
    let said = resume(&run).succeed();
    assert!(said.contains("receipt.json is gone"), "{said}");
    assert!(said.contains("one row for each"), "{said}");
    let anew = fixture.killed("gone-checkpoints");
    copy(whole.root(), anew.root());
    fs::remove_dir_all(anew.root().join("checkpoints")).unwrap();
    let said = resume(&anew).succeed();
    assert!(said.contains("no checkpoint is left"), "{said}");
}

#[test]
fn other_test_images_are_an_error() {
    let fixture = fixture();
    let run = fixture.run("other-test");
    let list = fixture.folder.path().join("test-copy.txt");
    let text = fs::read_to_string(&fixture.set.test_list).unwrap();
    fs::write(&list, &text).unwrap();
    let list_name = list.display().to_string();
    let mut process = fixture.start_in(run.root(), &["--test-list", &list_name]);
    assert!(
        process.wait_until(|| newest(&run).is_some()),
        "{}",
        process.said()
    );
    process.kill();
    fs::write(&list, text.split_once('\n').unwrap().1).unwrap();
    let said = resume(&run).fail();
    assert!(said.contains("the test images (12 then, 11 now)"), "{said}");
    fs::write(&list, text).unwrap();
    resume(&run).succeed();
    fixture.assert_equals_reference(&run);
}

#[test]
fn a_kill_loses_no_entry_of_the_list_of_bad_images() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let set = generate(folder.path(), &set_config()).unwrap();
    let list = fs::read_to_string(&set.train_list).unwrap();
    for line in list.lines().step_by(40).take(3) {
        let (path, _) = line.rsplit_once(' ').unwrap();
        fs::write(set.root.join(path), "").unwrap();
    }
    let lists = lists(&set);
    let mut more = vec!["--bad-images", "skip", "--max-bad-share", "0.1"];
    more.extend(lists.iter().map(String::as_str));
    let whole = fixture.run("bad-whole");
    fixture.start_in(whole.root(), &more).succeed();
    let listed = |run: &RunPaths| fs::read_to_string(run.bad_images()).unwrap();
    assert_eq!(listed(&whole).lines().count(), 1 + 3);

    let run = fixture.run("bad-killed");
    let mut process = fixture.start_in(run.root(), &more);
    for step in [1, 3, batches() as u64 + 1] {
        assert!(
            process.wait_until(|| newest(&run) >= Some(step)),
            "{}",
            process.said()
        );
        process.kill();
        process = resume(&run);
    }
    process.succeed();
    assert_eq!(listed(&run), listed(&whole));
    assert!(fs::read(run.model()).unwrap() == fs::read(whole.model()).unwrap());
}

#[test]
fn a_network_beyond_all_machines_is_a_wrong_argument() {
    let fixture = fixture();
    let run = fixture.run("experts");
    for wrong in [
        ["--experts", "1000000000"],
        ["--set", "model.experts=100000"],
    ] {
        let mut process = fixture.start_in(run.root(), &wrong);
        assert_eq!(process.end().code(), Some(2), "{}", process.said());
        let said = process.said();
        assert!(
            said.contains("1 to 100") && said.contains(wrong[0]),
            "{said}"
        );
    }
    assert!(!run.root().exists());
}

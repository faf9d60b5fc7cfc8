//! Times what training is made of, on every device of this binary.

mod cases;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shike_data::write::write_bytes;
use shike_infer::{Precision, device, device::memory};

use super::{CliError, Status, print, print_json, say, writable};

/// Time training steps, scoring, losses and convolutions on every device of this binary.
///
/// Each case runs in a process of its own. The table shows the median, half of the distance
/// between the quartiles in percent of it, images and floating-point operations a second (two a
/// multiply-add, the backward pass counted as two forward passes), and the process's peak memory.
///
/// Exit status: 0 every case ran, 1 some could not, 2 no such case.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike bench
  shike bench --device cuda:0 --case step/ --runs 30 --json gpu.json")]
pub struct BenchArgs {
    /// Devices; all that this binary has if none is named.
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Only cases whose name holds one of these words, such as `step/` or `resnet50`.
    #[arg(long, value_name = "WORD")]
    pub case: Vec<String>,
    /// Timed runs of a case, after two that warm up.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one)]
    pub runs: usize,
    /// Images of a batch, in place of each case's own number.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub batch: Option<usize>,
    /// Type of float of convolutions and activations in networks.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// List the cases and stop.
    #[arg(long, conflicts_with_all = ["device", "runs", "batch", "precision", "json"])]
    pub list: bool,
    /// Run one case in this process: once for each line on standard input, with a line of JSON for
    /// each, so that another program can take turns with it.
    #[arg(long, value_name = "CASE", hide = true)]
    pub serve: Option<String>,
    /// Write weights and batch of the served case here.
    #[arg(long, value_name = "DIR", hide = true, requires = "serve")]
    pub exchange: Option<PathBuf>,
    /// `cargo bench` passes this.
    #[arg(long, hide = true)]
    pub bench: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it must be a whole number from 1".into()),
        Ok(number) => Ok(number),
    }
}

/// One case on one device.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    device: String,
    case: String,
    /// The type of float that it ran in.
    dtype: String,
    /// Seconds of each run, in order.
    seconds: Vec<f64>,
    /// What the last run came to.
    value: f64,
    images: usize,
    flops: Option<f64>,
    /// The most memory that the process held, in bytes, where that can be known.
    peak_memory: Option<u64>,
}

impl Measured {
    fn sorted(&self) -> Vec<f64> {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Half of the distance between the quartiles, as a part of the median.
    fn spread(&self) -> f64 {
        let sorted = self.sorted();
        let at = |part: usize| sorted.get(sorted.len() * part / 4).copied();
        match (at(1), at(3)) {
            (Some(low), Some(high)) => (high - low) / 2.0 / self.median(),
            _ => f64::NAN,
        }
    }
}

impl BenchArgs {
    /// Runs the cases and prints their times.
    ///
    /// # Errors
    /// If there is no such case or device, or one could not run.
    pub fn run(&self) -> Result<Status, CliError> {
        if let Some(file) = &self.json {
            writable(file)?;
        }
        let all = cases::names();
        // A whole name means that case alone, though others may begin with it.
        let chosen = |name: &String| {
            let mut words = self.case.iter();
            self.case.is_empty()
                || words.any(|word| match all.contains(word) {
                    true => word == name,
                    false => name.contains(word.as_str()),
                })
        };
        let names: Vec<String> = all.iter().filter(|name| chosen(name)).cloned().collect();
        if self.list {
            for name in names {
                print(&name)?;
            }
            return Ok(Status::Success);
        }
        let first = self.device.first().map_or("auto", String::as_str);
        if let Some(case) = &self.serve {
            return serve(case, first, self);
        }
        if names.is_empty() {
            return Err(unknown(&self.case.join(" ")));
        }
        for device in &self.device {
            device::parse(device)?;
        }
        let devices = match self.device.is_empty() {
            true => device::available().into_iter().map(str::to_owned).collect(),
            false => self.device.clone(),
        };
        let mut results = Vec::new();
        let mut failed = 0;
        print(HEADER)?;
        for device in &devices {
            match device::parse(device) {
                Err(error) if self.device.is_empty() => {
                    print(&format!("{device}: left out ({})", error.reason()))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            for name in &names {
                match measure(name, device, self) {
                    Ok(measured) => {
                        print(&line(&measured))?;
                        results.push(measured);
                    }
                    Err(error) => {
                        failed += 1;
                        print(&format!("{device:<8} {name:<28} failed: {error}"))?;
                    }
                }
            }
        }
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&results).map_err(CliError::failed)?;
            write_bytes(path, text)?;
        }
        match failed {
            0 => Ok(Status::Success),
            n => Err(CliError::Failed(format!(
                "{n} of {} cases failed",
                n + results.len()
            ))),
        }
    }
}

fn unknown(case: &str) -> CliError {
    CliError::Usage(format!("there is no case `{case}`; `--list` shows them"))
}

const HEADER: &str =
    "device   case                         type  median ms    ±%    images/s   GFLOP/s  peak MiB";

fn line(measured: &Measured) -> String {
    let median = measured.median();
    let optional = |value: Option<f64>| value.map_or("-".into(), |v| format!("{v:.1}"));
    format!(
        "{:<8} {:<28} {:<4} {:>10.2} {:>5.1} {:>11.1} {:>9} {:>9}",
        measured.device,
        measured.case,
        measured.dtype,
        1e3 * median,
        100.0 * measured.spread(),
        measured.images as f64 / median,
        optional(measured.flops.map(|flops| flops / median / 1e9)),
        optional(
            measured
                .peak_memory
                .map(|bytes| bytes as f64 / f64::from(1 << 20))
        ),
    )
}

/// Runs a case in a process of its own: its memory is then its own, and what fails fails alone.
fn measure(name: &str, device: &str, args: &BenchArgs) -> Result<Measured, CliError> {
    let program = std::env::current_exe().map_err(CliError::failed)?;
    let mut command = Command::new(program);
    // The program has subcommands, the benchmark binary has none.
    if !args.bench {
        command.arg("bench");
    }
    command.args(["--serve", name, "--device", device]);
    if args.precision == Precision::Bf16 {
        command.args(["--precision", "bf16"]);
    }
    if let Some(batch) = args.batch {
        command.args(["--batch", &batch.to_string()]);
    }
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(CliError::failed)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(CliError::Failed("the case has no pipes".into()));
    };
    let mut lines = std::io::BufReader::new(stdout).lines();
    let mut next = || match lines.next() {
        Some(Ok(line)) => {
            serde_json::from_str::<serde_json::Value>(&line).map_err(CliError::failed)
        }
        _ => Err(CliError::Failed("the process ended".into())),
    };
    let about = next()?;
    let mut measured = Measured {
        device: device.to_owned(),
        case: name.to_owned(),
        dtype: about["dtype"].as_str().unwrap_or_default().to_owned(),
        seconds: vec![],
        value: f64::NAN,
        images: about["images"].as_u64().unwrap_or_default() as usize,
        flops: about["flops"].as_f64(),
        peak_memory: None,
    };
    for run in 0..args.runs + WARM_UP {
        writeln!(stdin).map_err(CliError::failed)?;
        let said = next()?;
        if run >= WARM_UP {
            measured.seconds.extend(said["seconds"].as_f64());
        }
        measured.value = said["value"].as_f64().unwrap_or(f64::NAN);
        measured.peak_memory = said["peak_memory"].as_u64();
    }
    drop(stdin);
    child.wait().map_err(CliError::failed)?;
    Ok(measured)
}

/// Runs that are not timed: they compile kernels, fill caches and pools.
const WARM_UP: usize = 2;

/// One run of the case for each line that comes.
fn serve(name: &str, device_name: &str, args: &BenchArgs) -> Result<Status, CliError> {
    if cfg!(debug_assertions) {
        say(
            "this program was built with checks, as `cargo test` builds it, and takes up to twice the time",
        );
    }
    let device = device::parse(device_name)?;
    let mut case = cases::prepare(name, &device, args)?;
    let (images, flops) = (case.images, case.flops);
    print_json(&json!({ "images": images, "flops": flops, "dtype": args.precision }))?;
    for line in std::io::stdin().lock().lines() {
        line.map_err(CliError::failed)?;
        let started = Instant::now();
        let value = (case.run)()?;
        let waited = device.sync();
        waited.map_err(|error| CliError::Failed(format!("{error:?}")))?;
        let seconds = started.elapsed().as_secs_f64();
        let peak = memory::peak(&device);
        print_json(&json!({ "seconds": seconds, "value": value, "peak_memory": peak }))?;
    }
    Ok(Status::Success)
}

//! `shike backends`.

use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use clap::Args;
use serde_json::json;
use shike_infer::device;

use super::{CliError, Status, print, print_json};

/// Say what this binary can run on, with a check of a second each.
///
/// Exit status: 0 some backend works, 1 none does.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  shike backends --json")]
pub struct BackendsArgs {
    /// JSON, for machines.
    #[arg(long)]
    json: bool,
}

/// How long a backend computes for its check.
const CHECK: Duration = Duration::from_secs(1);

impl BackendsArgs {
    /// Tries every backend of this binary for a second.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        let mut any = false;
        for name in device::available() {
            let found = device::parse(name)
                .map_err(|error| error.reason().to_owned())
                .and_then(|device| device::attempt(name, || Ok(gflops(&device))));
            any |= found.is_ok();
            match (self.json, found) {
                (true, Ok(speed)) => {
                    let kernels = kernels_of(name);
                    print_json(
                        &json!({"backend": name, "works": true, "gflops": speed, "kernels": kernels}),
                    )?;
                }
                (true, Err(error)) => {
                    print_json(&json!({"backend": name, "works": false, "error": error}))?;
                }
                (false, Ok(speed)) => {
                    let kernels = kernels_of(name).map(|kernels| format!("; kernels {kernels}"));
                    print(&format!(
                        "{name:<8} works: {speed:.0} GFLOP/s in matrix products of float32{}",
                        kernels.unwrap_or_default()
                    ))?;
                }
                (false, Err(error)) => print(&format!("{name:<8} does not work: {error}"))?,
            }
        }
        Ok(match any {
            true => Status::Success,
            false => Status::Failure,
        })
    }
}

/// The instruction set of our own kernels, and which of them are on, where a backend has them.
fn kernels_of(backend: &str) -> Option<String> {
    (backend == "flex").then(shike_model::kernels::path)
}

/// Billions of floating-point operations a second in matrix products.
fn gflops(device: &Device) -> f64 {
    const SIDE: usize = 512;
    let a = Tensor::<2>::random([SIDE, SIDE], Distribution::Default, device);
    let product = || a.clone().matmul(a.clone()).sum().into_scalar::<f32>();
    product();
    let (started, mut runs) = (Instant::now(), 0);
    while started.elapsed() < CHECK {
        std::hint::black_box(product());
        runs += 1;
    }
    let operations = 2.0 * (SIDE as f64).powi(3) * f64::from(runs);
    operations / started.elapsed().as_secs_f64() / 1e9
}

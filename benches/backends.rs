//! Times the networks, their losses and their convolutions on every device of this binary:
//! `cargo bench --bench backends`, or `shike bench`, which is the same.

use std::process::ExitCode;

use clap::Parser;
use shike::cli::{BenchArgs, exit};

/// Time training steps, scoring, losses and convolutions on every device of this binary.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: BenchArgs,
}

fn main() -> ExitCode {
    exit(Cli::parse().args.run())
}

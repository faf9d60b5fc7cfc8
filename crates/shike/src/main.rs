//! The program `shike`.

use std::process::ExitCode;

use clap::Parser;
use shike::cli::{Cli, Status};

fn main() -> ExitCode {
    Cli::parse().run(|| std::process::exit(Status::Interrupted as i32))
}

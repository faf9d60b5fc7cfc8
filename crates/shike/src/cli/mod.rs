//! The program `shike`: a file a subcommand, and what they share. Examples take their options from here.

mod backends;
mod bench;
mod cache;
mod compare;
mod completions;
mod counter;
mod data;
mod embed;
mod error;
mod eval;
mod export;
mod inspect;
mod model;
mod options;
mod output;
mod pixels;
mod plot;
mod predict;
mod processes;
mod report;
mod scoring;
mod train;
mod triage;
mod weights;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use bench::BenchArgs;
use data::SplitArgs;
pub use data::{DataArgs, LayoutArgs};
pub use error::{CliError, Status};
pub use model::{ModelArgs, Which};
pub use output::exit;
use output::{print, print_json, print_line, say, writable};
pub use train::{Baseline, ResumeArgs, TrainArgs, cifar, train_with};

/// Long-tailed image recognition with SHIKE.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::TrainCommand>),
    Predict(predict::PredictArgs),
    Eval(eval::EvalArgs),
    Report(report::ReportArgs),
    Triage(triage::TriageArgs),
    Export(export::ExportArgs),
    Compare(compare::CompareArgs),
    Backends(backends::BackendsArgs),
    Embed(embed::EmbedArgs),
    Inspect(Box<inspect::InspectArgs>),
    Bench(BenchArgs),
    Completions(completions::CompletionsArgs),
}

impl Cli {
    /// Does what was asked for. `end` ends the program at once.
    pub fn run(&self, end: fn()) -> ExitCode {
        exit(match &self.command {
            Command::Train(command) => command.run(end),
            Command::Predict(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Triage(args) => args.run(end),
            Command::Export(args) => args.run(),
            Command::Compare(args) => args.run(),
            Command::Backends(args) => args.run(),
            Command::Embed(args) => args.run(end),
            Command::Inspect(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Completions(args) => args.run(),
        })
    }
}

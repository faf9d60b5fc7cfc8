//! The program `shike`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shike::cli::{DataArgs, ResumeArgs, TrainArgs, exit, train};

/// Long-tailed image recognition with SHIKE.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a network on long-tailed images.
    ///
    /// Exit status: 0 finished, 1 error, 2 wrong arguments, 130 stopped by Ctrl-C (resume with
    /// --resume).
    #[command(after_help = "\
Examples:
  shike train --data pictures --run runs/first         pictures/train/<class>/*.jpg, pictures/test/<class>/*.jpg
  shike train --data images --train-list train.txt --test-list test.txt --run runs/lists
  shike train --data cifar-100-binary --imbalance-factor 100 --run runs/cifar
  shike train --resume runs/first")]
    Train {
        #[command(flatten)]
        data: DataArgs,
        #[command(flatten)]
        resume: ResumeArgs,
        #[command(flatten)]
        train: TrainArgs,
    },
}

fn main() -> ExitCode {
    let Command::Train {
        data,
        resume,
        train: args,
    } = Cli::parse().command;
    exit(train(data.source(), &resume, &args))
}

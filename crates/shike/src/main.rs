//! The program `shike`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shike::cli::{BenchArgs, DataArgs, ResumeArgs, TrainArgs, bench, exit, train};

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
        train: Box<TrainArgs>,
    },
    /// Time training steps, scoring, losses and convolutions on every device of this binary.
    ///
    /// Each case runs in a process of its own. The table shows the median, half of the distance
    /// between the quartiles in percent of it, images and floating-point operations a second (two a
    /// multiply-add, the backward pass counted as two forward passes), and the process's peak memory.
    #[command(after_help = "\
Examples:
  shike bench
  shike bench --device cuda:0 --case step/ --runs 30 --json gpu.json")]
    Bench {
        #[command(flatten)]
        args: BenchArgs,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Train {
            data,
            resume,
            train: args,
        } => exit(train(data.source(), &resume, &args)),
        Command::Bench { args } => bench(&args),
    }
}

//! The paper's experiment: SHIKE on CIFAR100-LT from CIFAR-100's binary version.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use shike::cli::{
    CliError, DataArgs, LayoutArgs, ResumeArgs, Status, TrainArgs, cifar, exit, train_with,
};
use shike::data::LongTail;

/// The paper's experiment: SHIKE on CIFAR100-LT, ResNet-32, 180 + 20 epochs.
///
/// The folder is that of `cifar-100-binary.tar.gz` (train.bin, test.bin). The tail takes the first
/// images of each class in file order, as the authors' code does.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  train_cifar100_lt --data cifar-100-binary
  train_cifar100_lt --data cifar-100-binary --imbalance-factor 50 --epochs 12 --stage2-epochs 6
  train_cifar100_lt --data cifar-100-binary --baseline ce")]
struct Cli {
    /// Folder with CIFAR-100's (or CIFAR-10's) binary files; not needed with --resume.
    #[arg(long, value_name = "DIR", required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// Images of the largest class over those of the smallest [default: 100].
    #[arg(long, value_name = "X")]
    imbalance_factor: Option<f64>,
    /// Shape of the tail [default: exp].
    #[arg(long, value_enum)]
    profile: Option<LongTail>,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    train: TrainArgs,
}

fn main() -> ExitCode {
    exit(run(Cli::parse()))
}

fn run(cli: Cli) -> Result<Status, CliError> {
    let data = DataArgs {
        data: cli.data,
        layout: LayoutArgs {
            imbalance_factor: cli.imbalance_factor,
            profile: cli.profile,
            ..LayoutArgs::default()
        },
    };
    let source = data.source()?;
    let recipe = source.as_ref().map(cifar).transpose()?;
    let end = || std::process::exit(Status::Interrupted as i32);
    train_with(source, recipe, &cli.resume, &cli.train, end)
}

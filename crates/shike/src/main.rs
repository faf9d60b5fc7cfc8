//! The program `shike`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shike::cli::{
    BackendsArgs, BenchArgs, CliError, CompareArgs, DataArgs, EvalArgs, ExportArgs, InspectArgs,
    OutputArgs, PredictArgs, RecipeArgs, ReportArgs, ResumeArgs, TrainArgs, Trained, backends,
    bench, compare, eval, export, failed, inspect, predict, report, train,
};

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
    /// Pictures without a recipe get settings that are chosen for them and this machine; each is printed
    /// with its reason, and all are written to recipe.toml in the run. Options override them. A folder
    /// without val and test is split first.
    ///
    /// Exit status: 0 finished, 1 error, 2 wrong arguments, 130 stopped by Ctrl-C (resume with
    /// --resume).
    #[command(after_help = "\
Examples:
  shike train --data pictures --run runs/first         pictures/<class>/*.jpg; says what it chooses, and why
  shike train runs/first/recipe.toml --run runs/second
  shike train --data pictures --run runs/all --seeds 3 --json
  shike train --data images --train-list train.txt --test-list test.txt --run runs/lists
  shike train --data cifar-100-binary --imbalance-factor 100 --run runs/cifar
  shike train datasets/imagenet_lt.toml --data imagenet --batch-size 32 --set stage1.loss.kind=focal
  shike train --resume runs/first")]
    Train {
        #[command(flatten)]
        recipe: RecipeArgs,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        data: DataArgs,
        #[command(flatten)]
        resume: ResumeArgs,
        #[command(flatten)]
        train: Box<TrainArgs>,
    },
    /// Name what is in images.
    ///
    /// Exit status: 0 every image was read, 1 error, 2 wrong arguments, 3 some images could not be read
    /// (each is named; those of other formats in folders are counted; the rest is predicted).
    #[command(after_help = "\
Examples:
  shike predict runs/first new.jpg more/
  shike predict runs/first --list new.txt --root pictures --out predictions.csv --experts
  shike predict runs/first more/ --prior train --json")]
    Predict {
        #[command(flatten)]
        args: PredictArgs,
    },
    /// Score a model: accuracy by many-, medium- and few-shot classes, intervals, calibration.
    ///
    /// Exit status: 0 scored, 1 error, 2 wrong arguments.
    #[command(after_help = "\
Examples:
  shike eval runs/first
  shike eval runs/first --data pictures --list other_test.txt --per-class classes.csv
  shike eval runs/first --model best --split val --prior train --json")]
    Eval {
        #[command(flatten)]
        args: EvalArgs,
    },
    /// Write report.html anew: curves, classes, calibration and confusions of a finished run.
    ///
    /// The run's model is scored on the run's own test images (or validation images), so that runs of
    /// before there were reports get one, too. Nothing else in the run is changed.
    ///
    /// Exit status: 0 written, 1 error, 2 wrong arguments.
    #[command(after_help = "\
Examples:
  shike report runs/first
  shike report runs/first --data /new/place/of/pictures --out first.html")]
    Report {
        #[command(flatten)]
        args: ReportArgs,
    },
    /// Write a model's weights for PyTorch.
    ///
    /// Exit status: 0 written, 1 error, 2 wrong arguments.
    #[command(after_help = "\
Example:
  shike export runs/first --safetensors first.safetensors")]
    Export {
        #[command(flatten)]
        args: ExportArgs,
    },
    /// Set finished runs against one another: mean and deviation over seeds, and intervals of the
    /// differences.
    ///
    /// Exit status: 0 compared, 1 error (a run has not ended, or test lists or classes differ), 2 wrong
    /// arguments.
    #[command(after_help = "\
Example:
  shike compare runs/ce-seed* runs/shike-seed*")]
    Compare {
        #[command(flatten)]
        args: CompareArgs,
    },
    /// Say what this binary can run on, with a check of a second each.
    ///
    /// Exit status: 0 some backend works, 1 none does.
    #[command(after_help = "\
Example:
  shike backends --json")]
    Backends {
        #[command(flatten)]
        args: BackendsArgs,
    },
    /// Look at a data set before training: its tail, damaged files, duplicates; or split it.
    ///
    /// Prints class sizes, the imbalance factor and the many-, medium- and few-shot groups; classes
    /// without a training image; files that cannot be read; images that are there twice, in a class,
    /// under two labels, or in training and test; and classes too small for an accuracy of their own.
    ///
    /// With --split it then writes train.txt, val.txt, test.txt, classes.txt and split.json from a
    /// folder of classes: stratified, the same for the same seed, equal images never in two lists,
    /// unreadable ones in none.
    ///
    /// Exit status: 0 fine, 1 error, 2 wrong arguments; with --strict 3 if an image is in two parts,
    /// a file cannot be read, or a class has no training image (nothing is written then).
    #[command(after_help = "\
Examples:
  shike inspect pictures
  shike inspect images --train-list train.txt --test-list test.txt --strict --json > found.json
  shike inspect pictures --split val=10%,test=10% --min-per-class 1 --out lists")]
    Inspect {
        #[command(flatten)]
        args: Box<InspectArgs>,
    },
    /// Time training steps, scoring, losses and convolutions on every device of this binary.
    ///
    /// Each case runs in a process of its own. The table shows the median, half of the distance
    /// between the quartiles in percent of it, images and floating-point operations a second (two a
    /// multiply-add, the backward pass counted as two forward passes), and the process's peak memory.
    ///
    /// Exit status: 0 every case ran, 1 some could not, 2 no such case.
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
            recipe,
            output,
            data,
            resume,
            train: args,
        } => {
            let trained = train(&data, &recipe, &output, &resume, &args);
            Trained::exit(trained, output.json)
        }
        Command::Predict { args } => match predict(&args) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(3),
            Err(error) => failed(&error),
        },
        Command::Eval { args } => done(eval(&args)),
        Command::Report { args } => done(report(&args)),
        Command::Export { args } => done(export(&args)),
        Command::Compare { args } => done(compare(&args)),
        Command::Backends { args } => match backends(&args) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => failed(&error),
        },
        Command::Inspect { args } => inspect(&args),
        Command::Bench { args } => bench(&args),
    }
}

fn done(result: Result<(), CliError>) -> ExitCode {
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

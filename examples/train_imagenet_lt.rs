//! Trains SHIKE on an ImageNet-LT style tree of JPEGs with list files.
//!
//! Without `--data` it draws a long-tailed set of JPEGs once, in the same folder and list layout,
//! and trains a small network on it: a run of a few minutes on two cores that shows everything.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use shike::cli::{CliError, DataArgs, ResumeArgs, Status, TrainArgs, cifar, exit, train_with};
use shike::data::synthetic::{SyntheticConfig, generate};
use shike::train::{DataSource, Recipe, TrainError};

/// The run on the drawn images, which are all of 40 pixels.
const DRAWN: &str = include_str!("drawn.toml");

/// Train SHIKE on an ImageNet-LT style tree of JPEGs with list files: ResNet-50 at 224 pixels, 180 + 20
/// epochs.
///
/// Without --data, a long-tailed set of JPEGs is drawn once, in the same layout, and a small
/// network is trained on it in a few minutes.
#[derive(Parser)]
#[command(after_help = "\
Examples:
  train_imagenet_lt
  train_imagenet_lt --baseline ce --seed 1
  train_imagenet_lt --data imagenet --train-list ImageNet_LT_train.txt --test-list ImageNet_LT_test.txt --run runs/imagenet_lt
  train_imagenet_lt --data imagenet --train-list ImageNet_LT_train.txt --arch resnext50 --batch-size 32 --dry-run
  train_imagenet_lt --data places --train-list Places_LT_train.txt --test-list Places_LT_test.txt \\
      --arch resnet152 --weights resnet152-394f9c45.pth --epochs 30 --lr 0.01 --lr-backbone 0.001
  train_imagenet_lt --resume runs/imagenet_lt")]
struct Cli {
    #[command(flatten)]
    data: DataArgs,
    /// Where the drawn images are kept.
    #[arg(long, value_name = "DIR", default_value = "data/synthetic-lt")]
    generated: PathBuf,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    train: TrainArgs,
}

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<Status, CliError> {
    let end = || std::process::exit(Status::Interrupted as i32);
    if cli.resume.resume.is_some() {
        return train_with(cli.data.source()?, None, &cli.resume, &cli.train, end);
    }
    let (source, recipe) = match cli.data.source()? {
        Some(source @ DataSource::Cifar { .. }) => {
            let recipe = cifar(&source)?;
            (source, recipe)
        }
        Some(source) => {
            let text = "image_size = 224\nmodel.arch = \"resnet50\"";
            (source, recipe("shike-resnet50.toml", text)?)
        }
        None => {
            let set = generate(&cli.generated, &SyntheticConfig::default())?;
            let source = DataSource::Lists {
                root: set.root,
                train: set.train_list,
                val: None,
                test: Some(set.test_list),
                class_names: None,
                groups: None,
                columns: Default::default(),
            };
            (source, recipe("shike-resnet8.toml", DRAWN)?)
        }
    };
    train_with(Some(source), Some(recipe), &cli.resume, &cli.train, end)
}

fn recipe(name: &str, text: &str) -> Result<Recipe, CliError> {
    Ok(Recipe::parse(name, text).map_err(TrainError::from)?)
}

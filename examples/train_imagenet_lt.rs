//! Trains SHIKE on an ImageNet-LT style tree of JPEGs with list files.
//!
//! Without `--data` it draws a long-tailed set of JPEGs once, in the same folder and list layout,
//! and trains a small network on it: a run of a few minutes on two cores that shows everything.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use shike::cli::{
    Arch, Base, CliError, DataArgs, ImagePreset, Preset, ResumeArgs, Status, TrainArgs, exit,
    train_with,
};
use shike::data::synthetic::{SyntheticConfig, generate};
use shike::train::DataSource;

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
    let (source, preset) = match cli.data.source()? {
        Some(source) => {
            let preset = match source {
                DataSource::Cifar { .. } => Preset::cifar(),
                _ => Preset::imagenet(),
            };
            (source, preset)
        }
        None => {
            let config = SyntheticConfig::default();
            let set = generate(&cli.generated, &config)?;
            let source = DataSource::Lists {
                root: set.root,
                train: set.train_list,
                val: None,
                test: Some(set.test_list),
                class_names: None,
            };
            let preset = Preset {
                arch: Arch::Resnet8,
                epochs: [14, 4],
                batch_size: 32,
                lr: Some(0.05),
                images: ImagePreset::Crop {
                    from: config.size,
                    size: 32,
                },
            };
            (source, preset)
        }
    };
    train_with(
        Some(source),
        Some(Base::Preset(preset)),
        &cli.resume,
        &cli.train,
        end,
    )
}

//! Writes the lists of Tiny-ImageNet-LT into the folder that tiny-imagenet-200.zip unpacks to.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use shike::data::DataError;
use shike::data::tiny_imagenet::tiny_imagenet_lists;

/// Write the lists of Tiny-ImageNet-LT into the folder that tiny-imagenet-200.zip unpacks to.
///
/// The largest class keeps all of its 500 training images; classes and images are taken in the order of
/// their names. The validation images become the test list.
#[derive(Parser)]
#[command(after_help = "\
Example:
  tiny_imagenet_lt tiny-imagenet-200
  shike train datasets/tiny_imagenet_lt.toml --data tiny-imagenet-200 --run runs/tiny")]
struct Cli {
    /// The unpacked archive.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Images of the largest class over those of the smallest.
    #[arg(long, value_name = "X", default_value_t = 100.0)]
    imbalance_factor: f64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), DataError> {
    let lists = tiny_imagenet_lists(&cli.dir, cli.imbalance_factor)?;
    let [train, test] = lists.write(&cli.dir).map_err(DataError::Write)?;
    println!("{}: {} images", train.display(), lists.train.len());
    println!("{}: {} images", test.display(), lists.test.len());
    Ok(())
}

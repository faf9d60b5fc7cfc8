//! Embeds a folder of pictures with a pretrained trunk, and fits the head that suits its tail:
//!
//!     cargo run --example embed -- pictures/train efficientnet-lite0-57934424.pth

use std::error::Error;
use std::path::Path;

use burn::tensor::Device;
use shike::data::{LoaderConfig, Threads};
use shike::heads::{Comparison, Depth, Features};
use shike::infer::{Embedder, model::preprocessing::preprocessing};
use shike::model::{BackboneConfig, weights};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(pictures), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("embed PICTURES WEIGHTS".into());
    };
    let device = Device::flex();
    let name = weights::recognise(&file)?.ok_or("weights of no network that is known")?;
    let backbone = BackboneConfig::named(name)?;
    let (trunk, _) = weights::import_trunk(backbone.init(&device)?, &file)?;
    let (pipeline, normalization) = preprocessing(&backbone);
    let embedder = Embedder::new(&trunk, &pipeline, normalization, &device)?;

    let (pictures, ..) =
        shike::data::dataset::FolderParts::find(Path::new(&pictures))?.open(true)?;
    let threads = Threads::new(0)?;
    let config = LoaderConfig::default();
    let embedded = embedder.embed(&pictures, &threads, config, None, &mut |_| {}, &|| false)?;

    let depths = Depth::side_by_side(embedded.source.depths.iter().cloned());
    let classes = pictures.num_classes();
    let features = Features::new(&embedded.rows, &embedded.labels, classes, &depths)?;
    let (head, choice) = Comparison::default().choose(&features, |_, _, _| {})?;
    println!("{name}\n{choice}");

    let log_probabilities = head.log_probabilities(embedded.row(0))?;
    for (class, log_probability) in pictures.class_names().iter().zip(log_probabilities) {
        println!("{:5.1} % {class}", 100.0 * log_probability.exp());
    }
    Ok(())
}

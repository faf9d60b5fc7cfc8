//! Small runs.
#![allow(clippy::unwrap_used)]

use shike_data::{Dataset, Pipeline};
use shike_model::ShikeConfig;
use shike_train::TrainConfig;

use crate::common::random;

/// So many pictures of 8 by 8 pixels of three classes, brighter from class to class.
pub fn dataset(counts: [usize; 3], seed: u32) -> Dataset {
    let labels: Vec<u32> = (0..3)
        .flat_map(|class| vec![class as u32; counts[class]])
        .collect();
    let mut state = seed;
    let pixels = labels.iter().flat_map(|label| {
        let pixel = |_| (label * 60 + (random(&mut state) >> 26)) as u8;
        (0..8 * 8 * 3).map(pixel).collect::<Vec<u8>>()
    });
    Dataset::from_pixels(pixels.collect(), 8, 8, labels.clone(), 3).unwrap()
}

/// Two epochs of each stage, on pictures as they are.
pub fn config(model: ShikeConfig, batch_size: usize) -> TrainConfig {
    let mut config = TrainConfig::cifar(model, [2, 2]);
    config.train_pipeline = Pipeline { transforms: vec![] };
    config.eval_pipeline = Pipeline { transforms: vec![] };
    config.loader.batch_size = batch_size;
    config.loader.workers = 1;
    config
}

//! What makes data sets: splits, lists of benchmarks, drawn pictures.

pub mod split;
pub mod synthetic;
pub mod tiny_imagenet;

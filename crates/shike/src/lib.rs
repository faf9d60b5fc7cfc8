//! Long-tailed image recognition with SHIKE on [Burn](burn).
//!
//! This crate re-exports the others under one name and owns the program and the examples:
//!
//! | module | crate | what it has |
//! |---|---|---|
//! | [`model`] | `shike-model` | experts, knowledge fusion, losses, PyTorch weights |
//! | [`data`] | `shike-data` | readers, long-tail profiles, samplers, augmentation, loader |
//! | [`kernels`] | `shike-kernels` | fast convolution, batch normalisation and losses for the CPU backend |
//! | [`heads`] | `shike-heads` | classifiers on frozen features, and the choice among them |
//! | [`infer`] | `shike-infer` | devices, model files, prediction, metrics |
//! | [`train`] | `shike-train` | two-stage learner, recipes, run folders, reports |
//!
//! A trained model in three lines:
//!
//! ```no_run
//! use shike::infer::{Predictor, device};
//!
//! let predictor = Predictor::load("runs/birds/model.safetensors".as_ref(), &device::parse("auto")?)?;
//! let prediction = predictor.predict_file("new.jpg".as_ref())?;
//! println!("{:?}", prediction.top(5));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "cli")]
pub mod cli;

pub use shike_data as data;
pub use shike_heads as heads;
pub use shike_infer as infer;
pub use shike_model as model;
pub use shike_model::kernels;
pub use shike_train as train;

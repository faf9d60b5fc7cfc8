//! Model files, prediction, and scoring on a data set.

pub mod file;
pub mod network;
pub mod origin;
pub mod predictor;
pub mod preprocessing;
pub mod scorer;

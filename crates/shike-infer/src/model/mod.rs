//! Model files, prediction, and scoring on a data set.

pub mod evaluate;
pub mod file;
pub mod predictor;

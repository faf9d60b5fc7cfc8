//! No head: every class is as likely as any other.

use super::Head;
use crate::error::Result;
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;

/// See the module.
pub struct None;

/// The floor of the table.
pub static NONE: None = None;

impl Head for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn about(&self) -> &'static str {
        "no head: all classes alike"
    }

    fn rows(&self) -> Rows {
        Rows::Standardised
    }

    fn fit(&self, _: &Training, _: f64) -> Result<Scorer> {
        Ok(Scorer::Uniform)
    }
}

//! No head: every class is as likely as any other.

use super::Head;
use crate::prepare::Rows;
use crate::scorer::Scorer;

/// The floor of the table.
pub const NONE: Head = Head::new(
    "none",
    "no head: all classes alike",
    Rows::Standardised,
    |_, _| Ok(Scorer::Uniform),
);

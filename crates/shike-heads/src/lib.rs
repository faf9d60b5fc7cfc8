//! Classifiers on frozen features, for classes with a long tail.
//!
//! A pretrained network embeds every picture once; what is trained is a head on these features, in seconds. Which head is
//! best depends on the tail: [`Comparison::choose`] tries all of them on held-out training pictures and fits the best
//! one, a [`FittedHead`].
//!
//! ```
//! use shike_heads::{Comparison, Depth, Features};
//!
//! // Six pictures of two classes, with one feature of a shallow depth and two of the deepest.
//! let depths = Depth::side_by_side([("shallow", 1), ("deep", 2)]);
//! let values = [
//!     0.1, 1.0, 0.0, 0.3, 0.9, 0.1, 0.2, 1.1, 0.2, // class 0
//!     0.2, 0.0, 1.0, 0.1, 0.2, 0.8, 0.3, 0.1, 1.2, // class 1
//! ];
//! let features = Features::new(&values, &[0, 0, 0, 1, 1, 1], 2, &depths)?;
//! let (head, choice) = Comparison::default().choose(&features, |_, _, _| {})?;
//! println!("{choice}");
//! let log_probabilities = head.log_probabilities(&[0.1, 1.0, 0.1])?; // [pictures, classes]
//! assert!(log_probabilities[0] > log_probabilities[1]);
//! // More pictures later: the same head, fitted again.
//! let again = head.candidate().fit(&features)?;
//! assert_eq!(again, head);
//! # Ok::<(), shike_heads::HeadError>(())
//! ```

mod choose;
mod error;
mod features;
mod fitted;
pub mod heads;
mod lbfgs;
mod linalg;
mod prepare;
mod scorer;
mod softmax;

pub use choose::{Choice, Comparison, LeftOut, Row};
pub use error::{HeadError, Result};
pub use features::{Depth, Features};
pub use fitted::{Candidate, Description, FittedHead, Stored, Tensor};
pub use prepare::{Rows, Training};
pub use scorer::Scorer;

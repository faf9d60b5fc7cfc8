//! What can be wrong with features, settings and stored heads.

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, HeadError>;

/// Everything that this crate reports. Rows and columns are counted from 0.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// Sizes that do not fit together.
    #[error("features: {0}")]
    Shape(String),

    /// A feature is NaN or infinite.
    #[error(
        "features: row {row}, column {column} is {value}; every feature has to be a finite number"
    )]
    NotFinite {
        /// The picture.
        row: usize,
        /// The feature.
        column: usize,
        /// What is there.
        value: f32,
    },

    /// A label that is no class.
    #[error("labels: row {row} has class {label}, but there are {classes} classes (0 to {})", classes - 1)]
    Label {
        /// The picture.
        row: usize,
        /// Its label.
        label: u32,
        /// The number of classes.
        classes: usize,
    },

    /// Fewer than two classes.
    #[error("classes: there is {0}; a classifier tells at least two apart")]
    TooFewClasses(usize),

    /// A class that no picture shows.
    #[error("labels: class {0} has no picture; leave the class out, or add a picture of it")]
    EmptyClass(usize),

    /// A class of which no picture is left where a fold is held out.
    #[error(
        "folds: all pictures of class {class} are in fold {fold}, and no head knows the class without them; leave one \
         of them in no fold"
    )]
    WholeClassHeldOut {
        /// The class.
        class: usize,
        /// The fold.
        fold: usize,
    },

    /// A depth that the features do not have.
    #[error("depths: there is no {name:?}; these features have {known}")]
    UnknownDepth {
        /// What was asked for.
        name: String,
        /// The names of those that are there.
        known: String,
    },

    /// A head that does not exist.
    #[error("heads: there is no {name:?}; there are {known}")]
    UnknownHead {
        /// What was asked for.
        name: String,
        /// The names of all.
        known: String,
    },

    /// A setting out of its range.
    #[error("{0}")]
    Setting(String),

    /// A head that is made for fewer pictures.
    #[error("{head}: made for up to {most} pictures, and there are {pictures}")]
    TooManyPictures {
        /// The head.
        head: &'static str,
        /// The most that it takes.
        most: usize,
        /// How many there are.
        pictures: usize,
    },

    /// A decomposition that did not come to an end.
    #[error("{0}: the decomposition of the features' matrix failed; are all rows alike?")]
    Decomposition(&'static str),

    /// A stored head's tensor is missing, has another shape, or is not part of it.
    #[error("stored head: tensor {name:?} {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

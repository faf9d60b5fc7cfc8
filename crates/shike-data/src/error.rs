//! What can go wrong between a path in a configuration and a batch of pixels.

use std::path::{Path, PathBuf};

use crate::part::Part;
use crate::write::WriteError;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, DataError>;

/// Everything that this crate reports.
///
/// Each message names the file, the line or the field that is wrong and says what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },

    /// A file could not be written.
    #[error(transparent)]
    Write(WriteError),

    /// A data set is not where it was looked for.
    #[error("{}: not found. {hint}", path.display())]
    Missing {
        /// The file or folder that is missing.
        path: PathBuf,
        /// What to download and where to put it.
        hint: String,
    },

    /// A line of a list file is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    ListLine {
        /// The list file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// A file or folder is not what it should be: a folder without the layout `class/name.jpg`, a list that is empty or
    /// lacks a label, a CIFAR file that is damaged or of the other kind.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// The bytes are not an image that can be decoded.
    #[error("{origin}: not a readable image: {source}")]
    Decode {
        /// The file, or the record of a file.
        origin: String,
        /// The decoder's answer.
        source: image::ImageError,
    },

    /// The file is something else than an image that is read.
    #[error("{origin}: {problem}")]
    NotAnImage {
        /// The file.
        origin: String,
        /// What it is.
        problem: String,
    },

    /// The file ends before the picture does.
    #[error("{origin}: the file is cut off: its end is missing; download or copy it again")]
    Truncated {
        /// The file.
        origin: String,
    },

    /// The header announces more pixels than [`DecodeLimits`](crate::DecodeLimits) allows.
    #[error("{origin}: {width}x{height} pixels, more than the {max_pixels} allowed")]
    TooLarge {
        /// The file.
        origin: String,
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// The limit in force.
        max_pixels: u64,
    },

    /// A transform cannot be applied to an image of this size.
    #[error("{transform}: {problem}")]
    Transform {
        /// The transform, as it is called in a configuration.
        transform: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// A setting or an argument is out of its range, or does not agree with another.
    #[error("{field}: {problem}")]
    Field {
        /// The setting, with those that it is in, or the argument.
        field: String,
        /// What is wrong, and what would be right.
        problem: String,
    },

    /// An image of a batch failed; the message names it and the cause follows as the source.
    #[error("{origin}: {source}")]
    Sample {
        /// The file, or the record of a file.
        origin: String,
        /// Why it failed.
        #[source]
        source: Box<DataError>,
    },

    /// An image came out of the pipeline with another size than the rest of its batch.
    #[error(
        "{origin}: {width}x{height} after the transforms, but the batch holds \
         {want_width}x{want_height}; end the pipeline with a crop of fixed size"
    )]
    Shape {
        /// The file, or the record of a file.
        origin: String,
        /// Width that came out.
        width: usize,
        /// Height that came out.
        height: usize,
        /// Width of the batch.
        want_width: usize,
        /// Height of the batch.
        want_height: usize,
    },

    /// None of the images is where the paths lead.
    #[error(
        "{}: the images are not below this folder; the first of {images} is {first} ({hint})",
        root.display()
    )]
    Root {
        /// The folder that paths are relative to.
        root: PathBuf,
        /// The first image's path below it.
        first: String,
        /// How many images there should be.
        images: usize,
        /// Where they may be.
        hint: String,
    },

    /// Images of a data set cannot be used.
    #[error("{bad} of the {images} {part} images cannot be used:\n  {}", examples.join("\n  "))]
    BadImages {
        /// Which images.
        part: Part,
        /// How many of them are bad.
        bad: usize,
        /// How many there are.
        images: usize,
        /// The first of them, each with what is wrong.
        examples: Vec<String>,
    },

    /// More training images are bad than may be.
    #[error(
        "{bad} of {images} training images cannot be read, more than the share of {max_share} that \
         may be left out; the first: {first}"
    )]
    TooManyBad {
        /// How many are bad.
        bad: usize,
        /// How many there are.
        images: usize,
        /// The share that may be bad.
        max_share: f64,
        /// What is wrong with one of them.
        first: String,
    },

    /// A bad image has no substitute.
    #[error("{source}; and no other image of the class {class:?} can be read")]
    NoReplacement {
        /// The class.
        class: String,
        /// What is wrong with the image.
        #[source]
        source: Box<DataError>,
    },

    /// A worker panicked: a bug of this crate or of a decoder.
    #[error("{origin}: a loader thread panicked: {message}; please report it with this image")]
    Panic {
        /// The file, or the record of a file, that was being worked on.
        origin: String,
        /// The panic's message.
        message: String,
    },

    /// The loader ended early without saying why.
    #[error("the loader stopped after {delivered} of {expected} batches")]
    Stopped {
        /// Batches that arrived.
        delivered: usize,
        /// Batches that the epoch has.
        expected: usize,
    },
}

impl DataError {
    /// An [`DataError::Io`] for `path`.
    pub(crate) fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        let (path, problem) = (path.into(), problem.into());
        Self::File { path, problem }
    }

    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (field.into(), problem.into());
        Self::Field { field, problem }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// What a caught panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

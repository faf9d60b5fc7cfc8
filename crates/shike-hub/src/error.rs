//! What can go wrong, and what would be right.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Weights that could not be found, downloaded or trusted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// What a user wrote is no source of weights.
    #[error("`{text}` names no weights: {problem}")]
    Written {
        /// What was written.
        text: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// An environment variable holds what cannot be used. A token is not shown.
    #[error("the environment variable {variable} {problem}")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing is at a path that the user named.
    #[error("{}: no such file{}", path.display(), repository(path))]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// A folder, a pipe or a device.
    #[error("{}: not a file", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// A file without a byte.
    #[error("{}: the file is empty; remove it, or name another as `weights`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file of a cache has another checksum than its name says.
    #[error(
        "{}: the file is damaged, or only half of it is there: its SHA-256 is {found} and has to begin with \
         {expected}; remove it, then it is downloaded again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the checksum has to begin with.
        expected: String,
        /// The checksum.
        found: String,
    },
    /// `HF_HUB_OFFLINE` forbids downloads.
    #[error("the environment variable HF_HUB_OFFLINE forbids to download: {by_hand}")]
    Offline {
        /// How to get the file.
        by_hand: ByHand,
    },
    /// The program was built without the cargo feature `net` of this crate.
    #[error("this program was built without downloads: {by_hand}")]
    NotBuilt {
        /// How to get the file.
        by_hand: ByHand,
    },
    /// No answer.
    #[error("the hub cannot be reached ({source}): {by_hand}")]
    Unreachable {
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
        /// How to get the file.
        by_hand: ByHand,
    },
    /// The hub asks for a token (401), or for another one (403).
    #[error(
        "{endpoint} answers {status} for {repository}: {}; make one that may read at {endpoint}/settings/tokens, set \
         the environment variable HF_TOKEN to it, and if {endpoint}/{repository} asks to accept conditions, do so there",
        match token {
            Some(variable) => format!("the token in {variable} does not suffice"),
            None => "there is no such repository, or a token is needed".into(),
        }
    )]
    Denied {
        /// 401 or 403.
        status: u16,
        /// The hub.
        endpoint: String,
        /// `owner/name`.
        repository: String,
        /// The environment variable that held a token.
        token: Option<&'static str>,
    },
    /// The hub has no such file.
    #[error(
        "the hub has no such {missing}: repository {repository}, revision {revision}, file {file}"
    )]
    Absent {
        /// What it lacks: `repository`, `revision` or `file`.
        missing: &'static str,
        /// `owner/name`.
        repository: String,
        /// A branch, a tag or a commit.
        revision: String,
        /// The file, or those that were tried.
        file: String,
    },
    /// Another answer than a file.
    #[error("the hub answers with status {status}, try again later, or: {by_hand}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// How to get the file.
        by_hand: ByHand,
    },
    /// An answer that no hub gives: a portal of the network, or a wrong `HF_ENDPOINT`.
    #[error(
        "{url}: the answer is not one of a hub ({problem}); is HF_ENDPOINT right, and the network open?"
    )]
    NotAHub {
        /// The address.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The connection was cut again and again. What came is kept, and gone on from.
    #[error("the connection was cut after {done} of {total} bytes ({source}); the next try goes on from there: {}", kept.display())]
    Cut {
        /// Bytes that came.
        done: u64,
        /// Bytes of the file.
        total: u64,
        /// The unfinished file.
        kept: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What came is another file than the hub announced.
    #[error("{url}: what came is damaged: {problem}; it was removed, try again")]
    Spoilt {
        /// The address.
        url: String,
        /// What differs.
        problem: String,
    },
    /// No space left.
    #[error("{}: no space left on the disk, {needed} more bytes are needed", path.display())]
    DiskFull {
        /// The unfinished file, which is gone on from when there is space.
        path: PathBuf,
        /// Bytes that were still to come.
        needed: u64,
    },
}

/// How to get a file without this program.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "download {url} with a browser, on another machine if need be, put it anywhere on this one, and set `weights` to its path"
)]
pub struct ByHand {
    /// The address of the file.
    pub url: String,
}

/// What `owner/name` may have meant.
fn repository(path: &Path) -> String {
    let ending = path.extension().unwrap_or_default();
    let file = ["bin", "pt", "pth", "safetensors"]
        .iter()
        .any(|known| ending == *known);
    match crate::source::wanted(&path.display().to_string()) {
        Ok(wanted) if !file => format!(
            "; a repository of the hub is written `hf:{}`",
            wanted.repository
        ),
        _ => String::new(),
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

//! Weights files by name: found on this machine, or downloaded.
//!
//! [`Source::parse`] reads what a user wrote; [`Hub::find`] looks through the caches that Python's libraries fill;
//! [`Hub::fetch`] downloads into the hub's cache, where those libraries find the file, too. Nothing is downloaded
//! unless `fetch` is called, and without the cargo feature `net` there is nothing in the program that could.
//!
//! ```
//! use shike_hub::{Environment, Hub, HubError, Known, Source};
//!
//! const NAMES: [Known; 1] = [Known {
//!     name: "resnet50",
//!     repository: "timm/resnet50.tv_in1k",
//!     revision: "main",
//!     file: "model.safetensors",
//!     also: &[],
//!     checkpoints: &["resnet50-0676ba61.pth"],
//!     licence: "BSD-3-Clause",
//! }];
//!
//! # let folder = tempfile::tempdir()?;
//! # let checkpoints = folder.path().join("hub/checkpoints");
//! # std::fs::create_dir_all(&checkpoints)?;
//! # std::fs::write(checkpoints.join("resnet50-0676ba61.pth"), b"weights")?;
//! // Usually `Environment::of_process()`.
//! let environment = Environment::new(None, [("TORCH_HOME", folder.path().as_os_str())]);
//! let Source::Wanted(wanted) = Source::parse("resnet50", &NAMES)? else { unreachable!() };
//! let found = Hub::new(environment)?.find(&wanted)?.expect("it lies there");
//! assert!(found.to_string().contains("torch.hub"));
//! // The file's name holds the beginning of its checksum, which is not that of these bytes.
//! assert!(matches!(found.sha256(), Err(HubError::Damaged { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod environment;
mod error;
#[cfg(feature = "net")]
mod fetch;
mod source;
#[cfg(test)]
mod tests;

pub use cache::{Found, Place};
pub use environment::Environment;
pub use error::{ByHand, HubError};
pub use source::{Known, Source, Wanted};

use std::path::PathBuf;

/// What goes on during a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another process downloads the same file; it is waited for.
    Waiting,
    /// Bytes of the file that are on the disk, and those of all of it. A resumed download does not begin at 0.
    Bytes {
        /// So far.
        done: u64,
        /// In the end.
        total: u64,
    },
}

/// The caches of this machine, and the hub.
#[derive(Debug, Clone)]
pub struct Hub {
    environment: Environment,
    /// Without a slash at its end.
    endpoint: String,
}

impl Hub {
    /// The caches and the hub that an environment names.
    ///
    /// # Errors
    /// [`HubError::Variable`] if `HF_ENDPOINT` is no address, or `HF_TOKEN` cannot be a token.
    pub fn new(environment: Environment) -> Result<Self, HubError> {
        environment.token()?;
        Ok(Self {
            endpoint: environment.endpoint()?,
            environment,
        })
    }

    /// The file, if it lies in a cache of this machine: the first one that is there, in the order of
    /// [`places`](Self::places). Nothing is downloaded.
    ///
    /// # Errors
    /// If what lies there is empty, is no file, or cannot be read.
    pub fn find(&self, wanted: &Wanted) -> Result<Option<Found>, HubError> {
        for (place, path) in self.environment.candidates(wanted) {
            if let Some(found) = Found::at(path, place)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Where [`find`](Self::find) looks, in its order: the hub's cache (the file at its revision, then the same
    /// weights under other names), then torch.hub's checkpoints.
    pub fn places(&self, wanted: &Wanted) -> Vec<PathBuf> {
        let candidates = self.environment.candidates(wanted);
        candidates.into_iter().map(|(_, path)| path).collect()
    }

    /// Downloads the file into the hub's cache, unless the newest one of its revision is there. What an interrupted
    /// download left is gone on from; the file is at its place only when it is whole. `each` is told of the
    /// progress.
    ///
    /// # Errors
    /// If `HF_HUB_OFFLINE` is set, the hub cannot be reached, refuses or has no such file, the connection is cut
    /// again and again, what came is damaged, or the disk is full. What to do is in the message.
    pub fn fetch(&self, wanted: &Wanted, each: &mut dyn FnMut(Event)) -> Result<Found, HubError> {
        let by_hand = self.by_hand(wanted, wanted.file());
        if self.environment.offline() {
            return Err(HubError::Offline { by_hand });
        }
        #[cfg(feature = "net")]
        return fetch::fetch(self, wanted, each);
        #[cfg(not(feature = "net"))]
        {
            let _ = each;
            Err(HubError::NotBuilt { by_hand })
        }
    }

    fn by_hand(&self, wanted: &Wanted, file: &str) -> ByHand {
        ByHand {
            url: wanted.url(&self.endpoint, file),
        }
    }
}

//! Files of a cache, and the layout of the hub's:
//!
//! ```text
//! models--owner--name/refs/main                     the commit
//!                     blobs/<etag>                  contents; of large files the name is their SHA-256
//!                     snapshots/<commit>/<file>     a link to the blob
//! .locks/models--owner--name/<etag>.lock            held during a download
//! ```

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::HubError;
use crate::environment::is_commit;

/// Which cache a file is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// None: the user named the file.
    File,
    /// The hub's, which Python's huggingface_hub, timm and transformers fill, too.
    Hub {
        /// `owner/name`.
        repository: String,
        /// The commit of the repository, 40 hexadecimal digits.
        commit: String,
        /// The file in the repository.
        file: String,
    },
    /// That of torch.hub and torchvision.
    Torch,
}

impl Place {
    /// The cache that a path leads into, by the names of its folders.
    pub fn of(path: &Path) -> Self {
        let parts: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
        let hub = parts.iter().enumerate().find_map(|(i, part)| {
            let repository = part.strip_prefix("models--")?.replacen("--", "/", 1);
            let [commit, file @ ..] = parts.get(i + 1..)?.strip_prefix(&["snapshots"])? else {
                return None;
            };
            (is_commit(commit) && !file.is_empty()).then(|| Self::Hub {
                repository,
                commit: (*commit).to_owned(),
                file: file.join("/"),
            })
        });
        let torch = parts.ends_with(&["hub", "checkpoints", parts.last().unwrap_or(&"")]);
        match hub {
            Some(hub) => hub,
            None if torch => Self::Torch,
            None => Self::File,
        }
    }
}

/// A weights file on this machine. Its text names the file and the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// The cache.
    pub place: Place,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Found {
    /// A file that the user named.
    ///
    /// # Errors
    /// If it is not there, is no regular file (a folder of a run is the caller's business), or is empty.
    pub fn file(path: &Path) -> Result<Self, HubError> {
        let found = Self::at(path.to_owned(), Place::File)?;
        found.ok_or_else(|| HubError::NoFile { path: path.into() })
    }

    /// `None` if nothing is there. A link whose blob was removed is nothing.
    pub(crate) fn at(path: PathBuf, place: Place) -> Result<Option<Self>, HubError> {
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(None);
            }
            Err(source) => return Err(io(&path, source)),
        };
        if !metadata.is_file() {
            return Err(HubError::NotAFile { path });
        }
        if metadata.len() == 0 {
            return Err(HubError::Empty { path });
        }
        let bytes = metadata.len();
        Ok(Some(Self { path, place, bytes }))
    }

    /// The SHA-256 of the file, 64 hexadecimal digits: for the receipt of a run. Where the cache's own name for the
    /// file holds a checksum (large files of the hub, `resnet50-11ad3fa6.pth` of torchvision), it is compared.
    ///
    /// # Errors
    /// [`HubError::Damaged`] for another checksum, as half a file has; or if the file cannot be read.
    pub fn sha256(&self) -> Result<String, HubError> {
        let found = sha256(&self.path)?;
        match self.expected() {
            Some(expected) if !found.starts_with(&expected) => Err(HubError::Damaged {
                path: self.path.clone(),
                expected,
                found,
            }),
            _ => Ok(found),
        }
    }

    /// Whether the cache's name for the file holds a checksum, with which [`sha256`](Self::sha256) compares it.
    pub fn has_checksum(&self) -> bool {
        self.expected().is_some()
    }

    /// What the checksum has to begin with.
    fn expected(&self) -> Option<String> {
        let name = |path: &Path| path.file_name().and_then(OsStr::to_str).map(str::to_owned);
        match self.place {
            Place::File => None,
            Place::Hub { .. } => {
                let blob = name(&fs::canonicalize(&self.path).ok()?)?;
                is_sha256(&blob).then_some(blob)
            }
            Place::Torch => {
                let name = name(&self.path)?;
                let digits = name.rsplit_once('-')?.1.split('.').next()?;
                (digits.len() >= 8 && is_hex(digits)).then(|| digits.to_owned())
            }
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, bytes) = (self.path.display(), crate::error::size(self.bytes));
        match &self.place {
            Place::File => write!(f, "{path} ({bytes})"),
            Place::Hub {
                repository,
                commit,
                file,
            } => {
                write!(
                    f,
                    "{file} of {repository} at {commit:.8} ({bytes}), in the hub's cache: {path}"
                )
            }
            Place::Torch => write!(f, "{path} ({bytes}), in the cache of torch.hub"),
        }
    }
}

/// The folders of a repository in the hub's cache.
pub(crate) struct Repository {
    pub folder: PathBuf,
}

impl Repository {
    /// `name` is `owner/name`.
    pub fn new(cache: &Path, name: &str) -> Self {
        let folder = cache.join(format!("models--{}", name.replace('/', "--")));
        Self { folder }
    }

    /// The commit that a revision was at when it was last downloaded.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let commit = fs::read_to_string(self.reference(revision)).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    pub fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    pub fn snapshot(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(file)
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(crate) fn sha256(path: &Path) -> Result<String, HubError> {
    let mut hash = Sha256::new();
    let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hash));
    copied.map_err(|source| io(path, source))?;
    let digits = hash.finalize();
    Ok(digits.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

pub(crate) fn io(path: &Path, source: io::Error) -> HubError {
    HubError::Io {
        path: path.to_owned(),
        source,
    }
}

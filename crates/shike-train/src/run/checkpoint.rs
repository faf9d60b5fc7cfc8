//! Checkpoints: one file holds everything that a run needs to go on, written so that it is either
//! complete or not there.
//!
//! The file is a [safetensors](https://github.com/huggingface/safetensors) file with Burn's records of the
//! network and of the optimizer as tensors of bytes. Its `__metadata__` holds
//!
//! | key | value |
//! |---|---|
//! | `format` | `shike-checkpoint` |
//! | `format_version` | `2` |
//! | `state` | the state as JSON: stage, epoch, batch, step, sums, best epoch, settings |
//! | `checksum` | XXH3 of the whole file, see [`shike_model::weights::file`] |
//!
//! Weights, momentum and counters are one set: a checkpoint in several files could mix two steps
//! after a crash. Equal checkpoints give equal bytes, so `cmp` can compare two runs.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Bytes;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use shike_data::read::open;
pub use shike_data::write::{WriteError, atomic_write};
use shike_model::weights::file::{self, CHECKSUM, Entry, MAX_HEADER, Seal};
use thiserror::Error;

const FORMAT: &str = "shike-checkpoint";

/// The checkpoint format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 2;

/// Everything that a run needs to go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Records by name, as bytes; any name but `__metadata__`.
    pub records: BTreeMap<String, Bytes>,
    /// The rest. Finite numbers come back bit for bit; JSON has no NaN and no infinity, so those
    /// belong into a record.
    pub state: serde_json::Value,
}

/// A checkpoint that could not be read. Every message names the file and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// No such file.
    #[error("{}: no such checkpoint; check the path, or start the run without resuming", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read at all.
    #[error("cannot read checkpoint {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The end is missing, as after a copy that was cut off.
    #[error(
        "checkpoint {} is cut off: it has {actual} bytes and should have at least {expected}; copy it \
         again if it is a copy, or delete it to resume from the checkpoint before it",
        .path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the file should have, as far as can be told.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// Another kind of file.
    #[error(
        "{} is not a shike checkpoint ({reason}); resume from a file in a run's checkpoints folder, and \
         load weights made elsewhere as initial weights",
        .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How it shows.
        reason: String,
    },
    /// Written by a later version of this program.
    #[error(
        "checkpoint {} has format version {found}, this program reads version {FORMAT_VERSION}; use the \
         version of shike that wrote it, or a later one",
        .path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
    },
    /// Written before the first release of this program.
    #[error(
        "checkpoint {} has format version {found}, which is older than the first release and cannot be read: \
         finish the run with the build that started it, or start it again",
        .path.display()
    )]
    OlderVersion {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
    },
    /// The content is not what was written.
    #[error(
        "checkpoint {} is damaged ({reason}); copy it again if it is a copy, or delete it to resume from the \
         checkpoint before it",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it shows.
        reason: String,
    },
}

impl Checkpoint {
    /// Writes the file's bytes to `writer`.
    ///
    /// # Errors
    ///
    /// Those of the writer; `InvalidInput` for a header beyond safetensors' 100 MB.
    pub fn write_to(&self, writer: impl Write) -> io::Result<()> {
        let entries = self.records.iter().map(|(name, bytes)| Entry {
            name,
            dtype: Dtype::U8,
            shape: vec![bytes.len()],
            bytes,
        });
        let metadata = [
            ("format", FORMAT.to_owned()),
            ("format_version", FORMAT_VERSION.to_string()),
            ("state", self.state.to_string()),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        file::write(writer, entries.collect(), &BTreeMap::from(metadata), true)
    }
}

/// Writes `checkpoint` to `path`: after a crash or on a full disk the file is either the new
/// checkpoint or the one that was there before (see [`atomic_write`]).
///
/// # Errors
///
/// A [`WriteError`]; the previous checkpoint is then untouched.
pub fn write_atomic(path: &Path, checkpoint: &Checkpoint) -> Result<(), WriteError> {
    atomic_write(path, |writer| checkpoint.write_to(writer))
}

/// Reads and verifies a checkpoint.
///
/// # Errors
///
/// A [`CheckpointError`] that tells a missing, cut off, foreign, newer and damaged file apart.
pub fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::Missing { path: path.into() },
        _ => CheckpointError::Read {
            path: path.into(),
            source,
        },
    };
    let file = open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    decode(path, len, file)
}

/// Reads a file of `actual` bytes; the records go straight to where they stay.
fn decode(path: &Path, actual: u64, mut file: impl Read) -> Result<Checkpoint, CheckpointError> {
    let cut_off = |expected: u64| CheckpointError::Truncated {
        path: path.into(),
        expected,
        actual,
    };
    let foreign = |reason: &str| CheckpointError::Foreign {
        path: path.into(),
        reason: reason.to_owned(),
    };
    let damaged = |reason: String| CheckpointError::Damaged {
        path: path.into(),
        reason,
    };
    let mut read = |len: u64| {
        let mut bytes = vec![0; len as usize];
        let read = file.read_exact(&mut bytes).map(|()| bytes);
        read.map_err(|source| CheckpointError::Read {
            path: path.into(),
            source,
        })
    };

    if actual < 9 {
        return Err(cut_off(9));
    }
    let start = read(9)?;
    let mut length = [0; 8];
    length.copy_from_slice(&start[..8]);
    let length = u64::from_le_bytes(length);
    if length == 0 {
        // What some file systems leave of a file after a power cut.
        return Err(damaged("it starts with zeros".to_owned()));
    }
    if length > MAX_HEADER as u64 || start[8] != b'{' {
        return Err(foreign("no safetensors header"));
    }
    if actual < 8 + length {
        return Err(cut_off(8 + length));
    }
    let text = [&start[8..], &read(length - 1)?[..]].concat();
    let header: Metadata = serde_json::from_slice(&text).map_err(|error| {
        let ours = text.windows(FORMAT.len()).any(|w| w == FORMAT.as_bytes());
        if ours {
            damaged(format!("header: {error}"))
        } else {
            foreign("no readable safetensors header")
        }
    })?;
    let none = HashMap::new();
    let metadata = header.metadata().as_ref().unwrap_or(&none);
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(foreign(
            "a safetensors file without the mark of a checkpoint",
        ));
    }
    let field = |name: &str| {
        let value = metadata.get(name);
        value.ok_or_else(|| damaged(format!("`{name}` is missing")))
    };
    let version = field("format_version")?;
    let path = || path.to_owned();
    match version.parse::<u32>() {
        Ok(FORMAT_VERSION) => {}
        Ok(found) if found > FORMAT_VERSION => {
            return Err(CheckpointError::NewerVersion {
                path: path(),
                found,
            });
        }
        Ok(found) if found > 0 => {
            return Err(CheckpointError::OlderVersion {
                path: path(),
                found,
            });
        }
        _ => return Err(damaged(format!("format version `{version}`"))),
    }
    let expected = 8 + length + header.data_len() as u64;
    if actual < expected {
        return Err(cut_off(expected));
    }
    if actual > expected {
        return Err(damaged("bytes after the last record".to_owned()));
    }
    let checksum = field(CHECKSUM)?;
    let other = || damaged("checksum does not match".to_owned());
    let mut seal = Seal::new(&text, checksum).ok_or_else(other)?;
    let mut records = BTreeMap::new();
    for name in header.offset_keys() {
        // Safetensors has checked that the ranges follow one another.
        let Some(info) = header.info(&name) else {
            continue;
        };
        let (start, end) = info.data_offsets;
        let bytes = read((end - start) as u64)?;
        seal.add(&bytes);
        records.insert(name, Bytes::from_bytes_vec(bytes));
    }
    if seal.digits() != *checksum {
        return Err(other());
    }
    let state = serde_json::from_str(field("state")?);
    let state = state.map_err(|e| damaged(format!("state: {e}")))?;
    Ok(Checkpoint { records, state })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Wherever a bit flips, in the header, its padding or the records, reading fails.
    #[test]
    fn every_damaged_bit_is_found() {
        let record = |len: u8| Bytes::from_bytes_vec((1..=len).collect());
        let checkpoint = Checkpoint {
            records: BTreeMap::from([("a".to_owned(), record(16)), ("b".to_owned(), record(13))]),
            state: serde_json::json!({"epoch": 3, "rng": [1, 2]}),
        };
        let mut bytes = Vec::new();
        checkpoint.write_to(&mut bytes).unwrap();
        let decode = |bytes: &[u8]| decode(Path::new("checkpoint"), bytes.len() as u64, bytes);
        assert_eq!(decode(&bytes).unwrap(), checkpoint);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(decode(&bytes).is_err(), "bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

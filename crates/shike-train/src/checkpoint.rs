//! Checkpoints: one file holds everything that a run needs to go on, written so that it is either
//! complete or not there.
//!
//! The file is a [safetensors](https://github.com/huggingface/safetensors) file. The learner stores
//! Burn's records of the network and of the optimizer in it, as bytes. Its `__metadata__` holds
//!
//! | key | value |
//! |---|---|
//! | `format` | `shike-checkpoint` |
//! | `format_version` | `1` |
//! | `state` | the state as JSON: stage, epoch, batch, step, sums, best epoch |
//! | `checksum` | FNV-1a (64 bits, hexadecimal) over the state and every tensor |
//!
//! Weights, momentum and counters are one set: a checkpoint in several files could mix two steps
//! after a crash. Equal checkpoints give equal bytes, so `cmp` can compare two runs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
pub use shike_data::write::{WriteError, atomic_write};
use thiserror::Error;

const FORMAT: &str = "shike-checkpoint";

/// The checkpoint format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The longest header that safetensors readers accept, in bytes.
const MAX_HEADER: usize = 100_000_000;

/// Element type of a [`TensorEntry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// bfloat16.
    Bf16,
    /// 64-bit signed integer.
    I64,
    /// Bytes, such as a record in a format of its own.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    fn to_safetensors(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::F64 => safetensors::Dtype::F64,
            Self::Bf16 => safetensors::Dtype::BF16,
            Self::I64 => safetensors::Dtype::I64,
            Self::U8 => safetensors::Dtype::U8,
        }
    }

    fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::F64 => Some(Self::F64),
            safetensors::Dtype::BF16 => Some(Self::Bf16),
            safetensors::Dtype::I64 => Some(Self::I64),
            safetensors::Dtype::U8 => Some(Self::U8),
            _ => None,
        }
    }
}

/// A tensor as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements in row-major order, little-endian: `product(shape) × dtype.size()` bytes.
    pub bytes: Vec<u8>,
}

impl TensorEntry {
    /// Bytes that dtype and shape ask for; `None` if that overflows.
    fn expected_len(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(self.dtype.size(), |size, &dim| size.checked_mul(dim))
    }
}

/// Everything that a run needs to go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Tensors by name; any name but `__metadata__`.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// The rest. Finite numbers come back bit for bit; JSON has no NaN and no infinity, so those
    /// belong into a tensor.
    pub state: serde_json::Value,
}

/// A checkpoint that could not be read. Every message names the file and what to do.
#[derive(Debug, Error)]
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
        "checkpoint {} has format version {found}, this program reads up to version {FORMAT_VERSION}; use the \
         version of shike that wrote it, or a later one",
        .path.display()
    )]
    NewerVersion {
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
    /// Those of the writer; `InvalidInput` for a tensor whose bytes do not fit its shape, or a
    /// header beyond safetensors' 100 MB.
    pub fn write_to(&self, mut writer: impl Write) -> io::Result<()> {
        // Safetensors puts wide element types first, so that every tensor is aligned.
        let mut order: Vec<(&String, &TensorEntry)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.dtype.to_safetensors()));

        let mut infos = BTreeMap::new();
        let mut offset = 0;
        for (name, entry) in &order {
            if entry.expected_len() != Some(entry.bytes.len()) || *name == "__metadata__" {
                return Err(invalid(format!(
                    "tensor `{name}` of shape {:?} and type {:?} has {} bytes",
                    entry.shape,
                    entry.dtype,
                    entry.bytes.len()
                )));
            }
            let end = offset + entry.bytes.len();
            let info = TensorInfo {
                dtype: entry.dtype.to_safetensors(),
                shape: entry.shape.clone(),
                data_offsets: (offset, end),
            };
            infos.insert(name.as_str(), info);
            offset = end;
        }
        let state = self.state.to_string();
        let header = Header {
            metadata: BTreeMap::from([
                ("checksum", checksum(&state, &self.tensors)),
                ("format", FORMAT.to_owned()),
                ("format_version", FORMAT_VERSION.to_string()),
                ("state", state),
            ]),
            tensors: infos,
        };
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        if header.len() > MAX_HEADER {
            return Err(invalid(
                "the state is too large for a safetensors header".to_owned(),
            ));
        }
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        for (_, entry) in order {
            writer.write_all(&entry.bytes)?;
        }
        Ok(())
    }
}

/// The JSON at the head of a safetensors file. Ordered maps make equal checkpoints equal bytes;
/// safetensors' own writer goes through a hash map.
#[derive(Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    metadata: BTreeMap<&'a str, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
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
    let bytes = fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CheckpointError::Missing { path: path.into() },
        _ => CheckpointError::Read {
            path: path.into(),
            source,
        },
    })?;
    decode(path, &bytes)
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let actual = bytes.len() as u64;
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

    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(cut_off(8));
    };
    let length = u64::from_le_bytes(*length);
    if length == 0 {
        // What some file systems leave of a file after a power cut.
        return Err(damaged("it starts with zeros".to_owned()));
    }
    if length > MAX_HEADER as u64 || rest.first().is_some_and(|&byte| byte != b'{') {
        return Err(foreign("no safetensors header"));
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return Err(cut_off(8 + length));
    };
    let header: Metadata = serde_json::from_slice(header).map_err(|error| {
        let ours = header.windows(FORMAT.len()).any(|w| w == FORMAT.as_bytes());
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
    match version.parse::<u32>() {
        Ok(FORMAT_VERSION) => {}
        Ok(found) if found > FORMAT_VERSION => {
            return Err(CheckpointError::NewerVersion {
                path: path.into(),
                found,
            });
        }
        _ => return Err(damaged(format!("format version `{version}`"))),
    }
    if header.data_len() > data.len() {
        return Err(cut_off(8 + length + header.data_len() as u64));
    }
    if header.data_len() < data.len() {
        return Err(damaged("bytes after the last tensor".to_owned()));
    }
    let mut tensors = BTreeMap::new();
    for (name, info) in header.tensors() {
        let Some(dtype) = Dtype::from_safetensors(info.dtype) else {
            return Err(damaged(format!("tensor `{name}` has type {}", info.dtype)));
        };
        // Safetensors has checked that the ranges are in order and within the data.
        let (start, end) = info.data_offsets;
        let entry = TensorEntry {
            dtype,
            shape: info.shape.clone(),
            bytes: data[start..end].to_vec(),
        };
        tensors.insert(name, entry);
    }
    let state = field("state")?;
    if *field("checksum")? != checksum(state, &tensors) {
        return Err(damaged("checksum does not match".to_owned()));
    }
    let state = serde_json::from_str(state).map_err(|e| damaged(format!("state: {e}")))?;
    Ok(Checkpoint { tensors, state })
}

/// FNV-1a over the state and, in order of name, each tensor's name, type, shape and bytes. Every
/// part goes in with its length, so that bytes cannot wander from one part to the next.
fn checksum(state: &str, tensors: &BTreeMap<String, TensorEntry>) -> String {
    let mut hash = Fnv::default();
    hash.part(state.as_bytes());
    for (name, entry) in tensors {
        hash.part(name.as_bytes());
        hash.part(entry.dtype.to_safetensors().to_string().as_bytes());
        hash.bytes(&(entry.shape.len() as u64).to_le_bytes());
        for &dim in &entry.shape {
            hash.bytes(&(dim as u64).to_le_bytes());
        }
        hash.part(&entry.bytes);
    }
    format!("{:016x}", hash.0)
}

/// FNV-1a with 64 bits: not cryptographic, but sure to see a damaged byte.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    }

    fn part(&mut self, bytes: &[u8]) {
        self.bytes(&(bytes.len() as u64).to_le_bytes());
        self.bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Wherever a bit flips, in the header, its padding or the tensors, reading fails.
    #[test]
    fn every_damaged_bit_is_found() {
        let entry = |dtype: Dtype, len: u8| TensorEntry {
            dtype,
            shape: vec![usize::from(len) / dtype.size()],
            bytes: (1..=len).collect(),
        };
        let checkpoint = Checkpoint {
            tensors: BTreeMap::from([
                ("a".to_owned(), entry(Dtype::F32, 16)),
                ("b".to_owned(), entry(Dtype::I64, 16)),
            ]),
            state: serde_json::json!({"epoch": 3, "rng": [1, 2]}),
        };
        let mut bytes = Vec::new();
        checkpoint.write_to(&mut bytes).unwrap();
        let path = Path::new("checkpoint");
        assert_eq!(decode(path, &bytes).unwrap(), checkpoint);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(decode(path, &bytes).is_err(), "bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

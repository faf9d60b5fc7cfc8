//! Safetensors files: written so that equal content gives equal bytes, and with a checksum where one is
//! wanted.
//!
//! The checksum stands under [`CHECKSUM`] in the file's metadata: XXH3 with 128 bits, in hexadecimal,
//! of the whole file with zeros in place of its 32 digits.

use std::collections::BTreeMap;
use std::io::{self, Write};

use safetensors::tensor::TensorInfo;
use serde::ser::{Serialize, SerializeMap, Serializer};
use xxhash_rust::xxh3::Xxh3;

/// The longest header that safetensors readers accept, in bytes.
pub const MAX_HEADER: usize = 100_000_000;

/// Key of the checksum in a file's metadata.
pub const CHECKSUM: &str = "checksum";

/// Digits of a checksum before it is known.
const UNKNOWN: &str = "00000000000000000000000000000000";

/// A tensor that is written.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name; any but `__metadata__`.
    pub name: &'a str,
    /// Type of its elements.
    pub dtype: safetensors::Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements in row-major order, little-endian.
    pub bytes: &'a [u8],
}

/// The JSON at the head of a file. Safetensors' own writer goes through a hash map.
struct Header<'a> {
    metadata: BTreeMap<&'a str, &'a str>,
    tensors: Vec<(&'a str, TensorInfo)>,
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("__metadata__", &self.metadata)?;
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// Writes a safetensors file, with a checksum if `sealed`. Wide types come first, so that every tensor is
/// aligned, then names in their order.
///
/// # Errors
/// Those of the writer; `InvalidInput` for a header beyond safetensors' 100 MB.
pub fn write(
    mut writer: impl Write,
    mut entries: Vec<Entry<'_>>,
    metadata: &BTreeMap<String, String>,
    sealed: bool,
) -> io::Result<()> {
    entries.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(b.name)));
    let mut metadata: BTreeMap<&str, &str> = metadata.iter().map(|(k, v)| (&**k, &**v)).collect();
    if sealed {
        metadata.insert(CHECKSUM, UNKNOWN);
    }
    let mut offset = 0;
    let tensors = entries.iter().map(|entry| {
        let start = offset;
        offset += entry.bytes.len();
        let info = TensorInfo {
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            data_offsets: (start, offset),
        };
        (entry.name, info)
    });
    let tensors = tensors.collect();
    let mut header = serde_json::to_vec(&Header { metadata, tensors })?;
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() > MAX_HEADER {
        let message = "the description is too large for a safetensors header";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if sealed {
        let mut seal = Seal::new(&header, UNKNOWN).ok_or(io::ErrorKind::InvalidInput)?;
        entries.iter().for_each(|entry| seal.add(entry.bytes));
        let digits = seal.digits();
        header[seal.at..][..digits.len()].copy_from_slice(digits.as_bytes());
    }
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(&header)?;
    entries
        .iter()
        .try_for_each(|entry| writer.write_all(entry.bytes))
}

/// The checksum of a file whose data are added piece by piece.
pub struct Seal {
    hash: Xxh3,
    /// Place of the digits in the header.
    at: usize,
}

impl Seal {
    /// Begins with a file's header, as it stands in the file, and the checksum that its metadata give.
    /// `None` if that is not written as this program writes it.
    pub fn new(header: &[u8], checksum: &str) -> Option<Self> {
        let key = format!("\"{CHECKSUM}\":\"");
        let text = format!("{key}{checksum}\"");
        let at = header
            .windows(text.len())
            .position(|window| window == text.as_bytes())?
            + key.len();
        let end = at
            .checked_add(UNKNOWN.len())
            .filter(|_| checksum.len() == UNKNOWN.len())?;
        let mut hash = Xxh3::new();
        hash.update(&(header.len() as u64).to_le_bytes());
        hash.update(&header[..at]);
        hash.update(UNKNOWN.as_bytes());
        hash.update(&header[end..]);
        Some(Self { hash, at })
    }

    /// Takes in the next piece of the data behind the header.
    pub fn add(&mut self, data: &[u8]) {
        self.hash.update(data);
    }

    /// The checksum of all that was taken in.
    pub fn digits(&self) -> String {
        format!("{:032x}", self.hash.digest128())
    }
}

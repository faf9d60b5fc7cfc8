//! State dicts in files. Names and shapes are read at once, data when they are asked for: what a file
//! claims is compared with the network before memory is taken for it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Bytes, DType, TensorData};
use burn_store::pytorch_reader::{self, PytorchReader};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::file::{CHECKSUM, MAX_HEADER, Seal};
use super::{StateDict, WeightsError};

/// A tensor that can be read.
pub(super) struct Entry {
    pub shape: Vec<usize>,
    /// Bytes of the whole tensor; `None` beyond all numbers.
    pub len: Option<u64>,
    read: Box<dyn Fn() -> Result<TensorData, String>>,
}

impl Entry {
    fn new(
        shape: Vec<usize>,
        element: usize,
        read: impl Fn() -> Result<TensorData, String> + 'static,
    ) -> Self {
        let mut sizes = shape.iter().map(|&side| side as u64);
        let len = sizes.try_fold(element as u64, u64::checked_mul);
        let read = Box::new(read);
        Self { shape, len, read }
    }
}

impl From<TensorData> for Entry {
    fn from(data: TensorData) -> Self {
        let shape = data.shape().to_vec();
        Self::new(shape, data.dtype().size(), move || Ok(data.clone()))
    }
}

/// The tensors of a state dict and what they may take together.
pub(super) struct Entries {
    path: PathBuf,
    pub tensors: BTreeMap<String, Entry>,
    /// Bytes of the file.
    limit: u64,
}

impl Entries {
    /// A state dict in memory; `path` is for messages.
    pub fn of(state: StateDict, path: &Path) -> Self {
        let tensors = state.into_iter().map(|(name, data)| (name, data.into()));
        Self {
            path: path.to_owned(),
            tensors: tensors.collect(),
            limit: u64::MAX,
        }
    }

    /// Those of a `.pth`, `.pt` or `.safetensors` file; what a file is, its first bytes tell, not its
    /// name. A `module.` prefix on every name is dropped.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut start = [0; 9];
        let mut file = open(path)?;
        let read = file.read(&mut start).map_err(|source| io(path, source))?;
        // A safetensors file opens with the length of its header, then the header's brace.
        let mut entries = if read == start.len() && start[8] == b'{' {
            StateFile::open(path)?.entries
        } else {
            pytorch(path)?
        };
        let names = entries.tensors.keys();
        if names.len() > 0 && names.into_iter().all(|name| name.starts_with("module.")) {
            let tensors = std::mem::take(&mut entries.tensors).into_iter();
            let short = |(name, entry): (String, _)| (name["module.".len()..].to_owned(), entry);
            entries.tensors = tensors.map(short).collect();
        }
        Ok(entries)
    }

    /// Refuses tensors that take more than the file has: a view may repeat a few numbers for ever.
    pub fn check_size<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a String, &'a Entry)>,
    ) -> Result<(), WeightsError> {
        let mut sum = 0u64;
        for (name, entry) in wanted {
            let next = entry.len.and_then(|len| sum.checked_add(len));
            sum = next.filter(|sum| *sum <= self.limit).ok_or_else(|| {
                let problem = format!(
                    "with tensor {name} of shape {:?} its tensors take more than the {} bytes that the \
                     file has: it is damaged, or its tensors share memory (save a `clone()` of each)",
                    entry.shape, self.limit
                );
                invalid(&self.path, problem)
            })?;
        }
        Ok(())
    }

    /// The data of a tensor.
    pub fn read(&self, name: &str, entry: &Entry) -> Result<TensorData, WeightsError> {
        let data = (entry.read)();
        data.map_err(|problem| invalid(&self.path, format!("tensor {name}: {problem}")))
    }
}

/// Reads the tensors of a `.pth`, `.pt` or `.safetensors` file; what a file is, its first bytes
/// tell, not its name. A `module.` prefix on every name is dropped.
///
/// # Errors
/// If the file cannot be read, or is neither.
pub fn read_state_dict(path: &Path) -> Result<StateDict, WeightsError> {
    let entries = Entries::open(path)?;
    entries.check_size(entries.tensors.iter())?;
    let read = |(name, entry): (&String, &Entry)| Ok((name.clone(), entries.read(name, entry)?));
    entries.tensors.iter().map(read).collect()
}

/// Whether the content of a file is what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The file has none.
    Absent,
    /// It is of other content.
    Wrong,
    /// It is of this content.
    Right,
}

/// A safetensors file whose tensors are not read yet.
pub struct StateFile {
    pub(super) entries: Entries,
    metadata: BTreeMap<String, String>,
    checksum: Checksum,
}

impl StateFile {
    /// Reads the header, and the file as a whole into memory.
    ///
    /// # Errors
    /// If the file cannot be read or is no whole safetensors file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut file = open(path)?;
        let size = file.metadata().map_err(|source| io(path, source))?.len();
        let mut bytes = Vec::new();
        let mut read = |bytes: &mut Vec<u8>, most: u64| {
            let read = (&mut file).take(most).read_to_end(bytes);
            read.map_err(|source| io(path, source))
        };
        // A file that is larger than its header says may be without an end.
        read(&mut bytes, 8)?;
        let length = <[u8; 8]>::try_from(&bytes[..]).map_or(0, u64::from_le_bytes);
        read(&mut bytes, length.min(MAX_HEADER as u64))?;
        let header = bytes.get(8..).unwrap_or_default();
        if let Ok(header) = serde_json::from_slice::<Metadata>(header) {
            let data = header.data_len() as u64;
            if length.saturating_add(8).saturating_add(data) < size {
                let problem = format!(
                    "not a whole safetensors file (it has {size} bytes, and its header is of {} and {data})",
                    8 + length
                );
                return Err(invalid(path, problem));
            }
            read(&mut bytes, u64::MAX)?;
        }
        let (length, header) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| invalid(path, format!("not a whole safetensors file ({error})")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let (text, data) = bytes[8..].split_at(length);
        let right = |digits: &String| {
            Seal::new(text, digits).is_some_and(|mut seal| {
                seal.add(data);
                seal.digits() == *digits
            })
        };
        let checksum = match metadata.get(CHECKSUM).map(right) {
            None => Checksum::Absent,
            Some(false) => Checksum::Wrong,
            Some(true) => Checksum::Right,
        };
        let limit = bytes.len() as u64;
        let tensors = tensors(&header, 8 + length, &Arc::new(bytes));
        Ok(Self {
            entries: Entries {
                path: path.to_owned(),
                tensors,
                limit,
            },
            metadata: metadata.into_iter().collect(),
            checksum,
        })
    }

    /// Takes a tensor out, whose place is in no network.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn take(&mut self, name: &str) -> Result<TensorData, WeightsError> {
        let entry = self.entries.tensors.remove(name);
        let entry = entry
            .ok_or_else(|| invalid(&self.entries.path, format!("it has no tensor `{name}`")))?;
        self.entries.read(name, &entry)
    }

    /// The metadata in its header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Whether the file is as it was written.
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Numbers in its tensors, but for counts of batches.
    pub fn num_values(&self) -> u64 {
        let all = self.entries.tensors.iter();
        let values = all.filter(|(name, _)| !super::is_batch_count(name));
        // Safetensors has compared the shapes with the data that is there.
        let values = values.map(|(_, entry)| entry.shape.iter().map(|&side| side as u64));
        values.map(Iterator::product::<u64>).sum()
    }
}

fn tensors(header: &Metadata, start: usize, bytes: &Arc<Vec<u8>>) -> BTreeMap<String, Entry> {
    let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Ok(DType::F32),
            safetensors::Dtype::F64 => Ok(DType::F64),
            safetensors::Dtype::F16 => Ok(DType::F16),
            safetensors::Dtype::BF16 => Ok(DType::BF16),
            safetensors::Dtype::I64 => Ok(DType::I64),
            other => Err(format!("type {other:?}; weights are floats")),
        };
        let (from, to) = info.data_offsets;
        let range: Range<usize> = start + from..start + to;
        let (bytes, shape) = (Arc::clone(bytes), info.shape.clone());
        let element = dtype.as_ref().map_or(1, DType::size);
        let read = {
            let shape = shape.clone();
            move || tensor_data(bytes[range.clone()].to_vec(), &shape, dtype.clone()?)
        };
        (name, Entry::new(shape, element, read))
    };
    header.tensors().into_iter().map(entry).collect()
}

fn pytorch(path: &Path) -> Result<Entries, WeightsError> {
    // A training checkpoint holds its state dict under this key; a bare one has no such key.
    let reader = match PytorchReader::with_top_level_key(path, "state_dict") {
        Ok(reader) if !reader.is_empty() => reader,
        _ => PytorchReader::new(path).map_err(|error| {
            let problem = format!("neither a safetensors file nor a PyTorch state dict ({error})");
            invalid(path, problem)
        })?,
    };
    let entry = |(name, tensor): (String, pytorch_reader::Tensor)| {
        let dtype = match tensor.dtype() {
            pytorch_reader::DType::F32 => Ok(DType::F32),
            pytorch_reader::DType::F64 => Ok(DType::F64),
            pytorch_reader::DType::F16 => Ok(DType::F16),
            pytorch_reader::DType::BF16 => Ok(DType::BF16),
            pytorch_reader::DType::I64 => Ok(DType::I64),
            other => Err(format!("type {other:?}; weights are floats")),
        };
        let shape = tensor.shape().to_vec();
        let element = tensor.dtype().size();
        let read = {
            let shape = shape.clone();
            move || {
                let data = tensor.read().map_err(|error| error.to_string())?;
                tensor_data(data, &shape, dtype.clone()?)
            }
        };
        (name, Entry::new(shape, element, read))
    };
    let len = open(path)?
        .metadata()
        .map_err(|source| io(path, source))?
        .len();
    Ok(Entries {
        path: path.to_owned(),
        tensors: reader.into_tensors().into_iter().map(entry).collect(),
        limit: len,
    })
}

fn tensor_data(bytes: Vec<u8>, shape: &[usize], dtype: DType) -> Result<TensorData, String> {
    let data = TensorData::try_from_bytes(Bytes::from_bytes_vec(bytes), shape.to_vec(), dtype);
    data.map_err(|error| error.to_string())
}

/// Opens a file, and nothing else: a pipe or a device has no end.
fn open(path: &Path) -> Result<std::fs::File, WeightsError> {
    let failed = |source| io(path, source);
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(invalid(path, "not a file".to_owned()));
    }
    std::fs::File::open(path).map_err(failed)
}

fn io(path: &Path, source: io::Error) -> WeightsError {
    WeightsError::Io {
        path: path.to_owned(),
        source,
    }
}

fn invalid(path: &Path, problem: String) -> WeightsError {
    WeightsError::Format {
        path: path.to_owned(),
        problem,
    }
}

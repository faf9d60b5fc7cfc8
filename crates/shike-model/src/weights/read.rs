use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use burn_store::{ModuleStore, PytorchStore, PytorchStoreError};
use safetensors::SafeTensors;

use super::{StateDict, WeightsError};

/// Reads the tensors of a `.pth`, `.pt` or `.safetensors` file; what a file is, its first bytes
/// tell, not its name. A `module.` prefix on every name is dropped.
///
/// # Errors
/// If the file cannot be read, or is neither.
pub fn read_state_dict(path: &Path) -> Result<StateDict, WeightsError> {
    let mut start = [0; 9];
    let read = std::fs::File::open(path).and_then(|mut file| {
        use std::io::Read;
        file.read(&mut start)
    });
    let read = read.map_err(|source| io(path, source))?;
    // A safetensors file opens with the length of its header, then the header's brace.
    let state = if read == start.len() && start[8] == b'{' {
        read_safetensors(path)?.0
    } else {
        read_pytorch(path)?
    };
    let prefixed = !state.is_empty() && state.keys().all(|name| name.starts_with("module."));
    Ok(match prefixed {
        true => state
            .into_iter()
            .map(|(name, data)| (name["module.".len()..].to_owned(), data))
            .collect(),
        false => state,
    })
}

/// Reads the tensors and the metadata of a safetensors file.
///
/// # Errors
/// If the file cannot be read, is damaged, or holds a type that no weight has.
pub fn read_safetensors(
    path: &Path,
) -> Result<(StateDict, BTreeMap<String, String>), WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| io(path, source))?;
    let damaged = |error: safetensors::SafeTensorError| {
        invalid(path, format!("not a whole safetensors file ({error})"))
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let mut state = StateDict::new();
    for (name, view) in SafeTensors::deserialize(&bytes).map_err(damaged)?.iter() {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F64 => DType::F64,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::I64 => DType::I64,
            other => {
                let problem = format!("tensor {name} has type {other:?}; weights are floats");
                return Err(invalid(path, problem));
            }
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
        state.insert(name.to_owned(), data);
    }
    Ok((state, metadata.into_iter().collect()))
}

fn read_pytorch(path: &Path) -> Result<StateDict, WeightsError> {
    let not_pytorch = |error: PytorchStoreError| {
        let problem = format!("neither a safetensors file nor a PyTorch state dict ({error})");
        invalid(path, problem)
    };
    let store = || PytorchStore::from_file(path).map_indices_contiguous(false);
    // A training checkpoint holds its state dict under this key; a bare one has no such key.
    let mut checkpoint = store().with_top_level_key("state_dict");
    let mut bare = store();
    let tensors = match checkpoint.get_all_tensors() {
        Ok(tensors) if !tensors.is_empty() => tensors,
        _ => bare.get_all_tensors().map_err(not_pytorch)?,
    };
    let mut state = StateDict::new();
    for (name, tensor) in tensors {
        let data = burn_store::bridge::to_data(tensor)
            .map_err(|error| invalid(path, format!("tensor {name}: {error}")))?;
        state.insert(name.clone(), data);
    }
    Ok(state)
}

fn io(path: &Path, source: std::io::Error) -> WeightsError {
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

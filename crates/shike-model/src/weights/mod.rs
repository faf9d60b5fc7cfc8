//! PyTorch state dicts, in and out, by name.
//!
//! [`import`] reads a `.safetensors` file, or a `.pth` file as `torch.save` writes it (a state
//! dict, or a checkpoint that holds one under `state_dict`; a `module.` prefix from
//! `DataParallel` is dropped). [`export`] writes safetensors that the authors' network, or
//! torchvision's where the network is a plain one for large images, takes with
//! `load_state_dict(strict=True)`. [`import_pretrained`] starts a network, with experts or not,
//! from the weights of a plain one: torchvision's and timm's ResNets and ResNeXts.

pub mod file;
mod names;
mod read;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use thiserror::Error;

use crate::network::{BackboneConfig, Shike, Trunk};
use names::{Names, StateName};
use read::Entries;

pub use read::{Checksum, StateFile, read_state_dict};

/// Weights that could not be read or do not fit.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what its name says.
    #[error("{path}: {problem}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Tensors are missing, unexpected or mis-shaped.
    #[error("{path}: {mismatch}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// All that differs.
        mismatch: Mismatch,
    },
    /// A tensor could not be serialised.
    #[error("writing weights: {0}")]
    Serialize(String),
}

/// How a state dict differs from what a network expects.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Names that the network has and the file lacks.
    pub missing: Vec<String>,
    /// Names that the file has and the network lacks.
    pub unexpected: Vec<String>,
    /// Names with the shape that the network expects and the one in the file.
    pub mis_shaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// The backbone that the file's weights are of.
    pub looks_like: Option<&'static str>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mis_shaped.is_empty()
    }
}

/// Tensors of a kind that a message names.
const NAMED: usize = 5;

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.looks_like {
            Some(name) => write!(f, "the weights are of another network, {name}:")?,
            None => write!(f, "the weights are of another network:")?,
        }
        let shapes = |(name, expected, found): &(String, Vec<usize>, Vec<usize>)| {
            format!("{name} (expected {expected:?}, found {found:?})")
        };
        let mis_shaped = self.mis_shaped.iter().map(shapes).collect();
        for (tensors, what) in [
            (&self.missing, "missing"),
            (&self.unexpected, "unexpected"),
            (&mis_shaped, "mis-shaped"),
        ] {
            let (named, rest) = tensors.split_at(tensors.len().min(NAMED));
            if !named.is_empty() {
                write!(f, "\n  {} {what}: {}", tensors.len(), named.join(", "))?;
            }
            if !rest.is_empty() {
                write!(f, ", and {} more", rest.len())?;
            }
        }
        Ok(())
    }
}

/// Values by their name in a state dict.
pub type StateDict = BTreeMap<String, TensorData>;

/// PyTorch counts batches in every batch normalisation; the count has no effect while a momentum
/// is set, as it is here.
const BATCH_COUNT: &str = "num_batches_tracked";

fn is_batch_count(name: &str) -> bool {
    name.rsplit('.').next() == Some(BATCH_COUNT)
}

/// The backbone that the weights in a file are of, by its [name](BackboneConfig::names); none where they are of no
/// plain network that is known.
///
/// # Errors
/// If the file cannot be read.
pub fn recognise(path: impl AsRef<Path>) -> Result<Option<&'static str>, WeightsError> {
    let state = Entries::open(path.as_ref())?;
    Ok(looks_like(&state, &Device::default()))
}

/// The backbone whose tensors are all in the file, in their shapes; the largest such.
fn looks_like(state: &Entries, device: &Device) -> Option<&'static str> {
    let tensors = |name: &&'static str| {
        let trunk = BackboneConfig::named(name).ok()?.lazy(device);
        let names = Names::of(&trunk.network);
        let (mut count, mut all) = (0, true);
        let mut walk = Walk::new(
            &trunk.network,
            Collect(
                |name: StateName, shape: Shape, _: &dyn Fn() -> TensorData| {
                    count += 1;
                    let found = state.tensors.get(&name.name);
                    let found = found.or_else(|| state.tensors.get(&names.alias(&name.name)?));
                    let expected = shape_in_file(&name, &shape);
                    all &= found.is_some_and(|entry| {
                        entry.shape == expected
                            || names.lacks_rows(&name.name, &entry.shape, &expected)
                    });
                },
            ),
        );
        trunk.network.visit(&mut walk);
        all.then_some(count)
    };
    let names = BackboneConfig::names().filter_map(|name| Some((tensors(&name)?, name)));
    names.max().map(|(_, name)| name)
}

/// Calls `each` with the state-dict name of every tensor.
struct Walk<F> {
    names: Names,
    path: Vec<String>,
    /// Type of the module that holds what `path` leads to.
    container: String,
    each: F,
}

impl<F> Walk<F> {
    fn new(model: &Shike, each: F) -> Self {
        Self {
            names: Names::of(model),
            path: vec![],
            container: String::new(),
            each,
        }
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.path.push(name.to_owned());
        container.clone_into(&mut self.container);
    }

    fn state_name(&self) -> StateName {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        self.names.state_name(&path, &self.container)
    }
}

struct Collect<F>(F);

impl<F: FnMut(StateName, Shape, &dyn Fn() -> TensorData)> ModuleVisitor for Walk<Collect<F>> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.state_name();
        let data = || param.val().into_data();
        (self.each.0)(name, param.lazy_shape(), &data);
    }
}

/// Replaces every tensor by the entry of a (checked) state dict.
struct Apply<'a>(&'a HashMap<String, TensorData>);

impl ModuleMapper for Walk<Apply<'_>> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.each.0.get(&self.state_name().name) else {
            return param;
        };
        let (device, dtype, id) = (param.lazy_device(), param.val().dtype(), param.id);
        let tensor = Tensor::from_data(data.clone(), (&device, dtype));
        param.transform_for_load(tensor, id)
    }
}

/// The network's state dict under PyTorch's names, running statistics included, in module
/// order. `num_batches_tracked` is not part of it; [`export`] adds it.
pub fn state_dict(model: &Shike) -> Vec<(String, TensorData)> {
    let mut out = Vec::new();
    let mut walk = Walk::new(
        model,
        Collect(|name: StateName, _: Shape, data: &dyn Fn() -> TensorData| {
            let data = data();
            let data = oriented(&name, data);
            out.push((name.name, data));
        }),
    );
    model.visit(&mut walk);
    out
}

/// Puts a state dict into a network. `path` is for error messages.
///
/// # Errors
/// [`WeightsError::Mismatch`] lists all missing, unexpected and mis-shaped tensors;
/// `num_batches_tracked` may be there or not.
pub fn load_state_dict(model: Shike, state: StateDict, path: &Path) -> Result<Shike, WeightsError> {
    load(model, Entries::of(state, path), path)
}

/// Puts the tensors of a file into a network.
///
/// # Errors
/// As [`load_state_dict`]; nothing is read of a file whose names and shapes are not the network's.
pub fn load_file(model: Shike, file: StateFile, path: &Path) -> Result<Shike, WeightsError> {
    load(model, file.entries, path)
}

fn load(model: Shike, mut state: Entries, path: &Path) -> Result<Shike, WeightsError> {
    state.tensors.retain(|name, _| !is_batch_count(name));
    let mut mismatch = Mismatch::default();
    let mut wanted = Vec::new();
    let mut walk = Walk::new(
        &model,
        Collect(
            |name: StateName, shape: Shape, _: &dyn Fn() -> TensorData| {
                let Some(entry) = state.tensors.remove(&name.name) else {
                    mismatch.missing.push(name.name);
                    return;
                };
                let expected = shape_in_file(&name, &shape);
                if entry.shape != expected {
                    mismatch.mis_shaped.push((name.name, expected, entry.shape));
                    return;
                }
                wanted.push((name, entry));
            },
        ),
    );
    model.visit(&mut walk);
    mismatch.unexpected = std::mem::take(&mut state.tensors).into_keys().collect();
    if !mismatch.is_empty() {
        return Err(WeightsError::Mismatch {
            path: path.to_owned(),
            mismatch,
        });
    }
    state.check_size(wanted.iter().map(|(name, entry)| (&name.name, entry)))?;
    let mut values = HashMap::new();
    for (name, entry) in wanted {
        let data = oriented(&name, state.read(&name.name, &entry)?);
        values.insert(name.name, data);
    }
    let model = model.with_own_statistics();
    let mut walk = Walk::new(&model, Apply(&values));
    Ok(model.map(&mut walk))
}

/// Puts the tensors of a file that was opened into a whole backbone; all have to belong to it.
///
/// # Errors
/// Those of [`load_state_dict`].
pub fn load_trunk_file(trunk: Trunk, file: StateFile, path: &Path) -> Result<Trunk, WeightsError> {
    let network = load(trunk.network, file.entries, path)?;
    Ok(Trunk { network })
}

/// Reads a state dict from a `.pth` or `.safetensors` file into a network.
///
/// # Errors
/// If the file cannot be read, or its tensors are not the network's.
pub fn import(model: Shike, path: impl AsRef<Path>) -> Result<Shike, WeightsError> {
    let path = path.as_ref();
    load(model, Entries::open(path)?, path)
}

/// What [`import_pretrained`] took from a file and what it left as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pretrained {
    /// Names of the network's tensors that now hold the file's values.
    pub loaded: Vec<String>,
    /// Names of the network's tensors that the file does not have, or has in another shape: those of
    /// classifiers are random, those of a knowledge fusion start as the identity.
    pub random: Vec<String>,
    /// Names in the file that were not used: its classifier, where it does not fit.
    pub unused: Vec<String>,
}

/// All tensors of a whole backbone by their names, as [`state_dict`] gives them.
pub fn trunk_state_dict(trunk: &Trunk) -> Vec<(String, TensorData)> {
    state_dict(&trunk.network)
}

/// Puts a state dict into a whole backbone, as [`load_state_dict`] does.
///
/// # Errors
/// Those of [`load_state_dict`].
pub fn load_trunk(trunk: Trunk, state: StateDict, path: &Path) -> Result<Trunk, WeightsError> {
    let network = load_state_dict(trunk.network, state, path)?;
    Ok(Trunk { network })
}

/// Reads the weights of a whole backbone, of a plain network with or without its classifier.
///
/// # Errors
/// Those of [`import_pretrained`].
pub fn import_trunk(
    trunk: Trunk,
    path: impl AsRef<Path>,
) -> Result<(Trunk, Pretrained), WeightsError> {
    let (network, report) = import_pretrained(trunk.network, path)?;
    Ok((Trunk { network }, report))
}

/// Starts a network from the weights of another on the same backbone, as fine-tuning does: a plain
/// one (torchvision's or timm's ResNet or ResNeXt, trained on ImageNet, say), whose last stages
/// every expert then has a copy of, or one with experts.
///
/// The stem and all stages must be there and fit. Knowledge fusion and classifiers are taken where
/// the file has them in the right shape. Otherwise classifiers are left random, and a fusion, of which all
/// or nothing is taken, starts as the identity (its last normalisation has scale 0 and shift 1): the first
/// step sees exactly the features that the file stands for, and not their product with noise.
///
/// # Errors
/// If the file cannot be read, lacks a tensor of the stem or of a stage, or has one that is not
/// this network's (a deeper network's, say); the message lists them.
pub fn import_pretrained(
    model: Shike,
    path: impl AsRef<Path>,
) -> Result<(Shike, Pretrained), WeightsError> {
    let path = path.as_ref();
    let mut state = Entries::open(path)?;
    state.tensors.retain(|name, _| !is_batch_count(name));
    let mut report = Pretrained::default();
    let mut mismatch = Mismatch::default();
    let mut wanted = Vec::new();
    let names = Names::of(&model);
    let mut used = HashSet::new();
    let mut walk = Walk::new(
        &model,
        Collect(
            |name: StateName, shape: Shape, _: &dyn Fn() -> TensorData| {
                let optional = Names::is_classifier(&name.name) || Names::is_fusion(&name.name);
                let found = state.tensors.get_key_value(&name.name).or_else(|| {
                    let plain = name.in_plain_network.as_ref().unwrap_or(&name.name);
                    let of_plain = state.tensors.get_key_value(plain);
                    of_plain.or_else(|| state.tensors.get_key_value(&names.alias(plain)?))
                });
                let expected = shape_in_file(&name, &shape);
                match found {
                    Some((source, entry))
                        if entry.shape == expected
                            || names.lacks_rows(&name.name, &entry.shape, &expected) =>
                    {
                        used.insert(source);
                        report.loaded.push(name.name.clone());
                        wanted.push((name, source, entry, expected));
                    }
                    _ if optional => report.random.push(name.name),
                    Some((source, entry)) => {
                        used.insert(source);
                        let found = entry.shape.clone();
                        mismatch.mis_shaped.push((name.name, expected, found));
                    }
                    None => mismatch.missing.push(name.name),
                }
            },
        ),
    );
    model.visit(&mut walk);
    let lacking = |k: usize| {
        let fusion = Names::fusion(k);
        let lacks = |name: &String| name.starts_with(&fusion);
        report.random.iter().any(lacks).then_some((k, fusion))
    };
    let lacking: Vec<_> = (0..model.experts.len()).filter_map(lacking).collect();
    let lacks = |name: &String| lacking.iter().any(|(_, fusion)| name.starts_with(fusion));
    wanted.retain(|(name, ..)| !lacks(&name.name));
    report
        .random
        .extend(report.loaded.extract_if(.., |name| lacks(name)));
    used.retain(|name| !lacks(name));
    let rest = state.tensors.keys().filter(|name| !used.contains(name));
    (report.unused, mismatch.unexpected) = rest
        .cloned()
        .partition(|name| Names::is_classifier(name) || Names::is_fusion(name));
    if !mismatch.is_empty() {
        mismatch.looks_like = looks_like(&state, &model.devices()[0]);
        return Err(WeightsError::Mismatch {
            path: path.to_owned(),
            mismatch,
        });
    }
    let sources = state.tensors.iter();
    state.check_size(sources.filter(|(name, _)| used.contains(name)))?;
    let mut values = HashMap::new();
    for (name, source, entry, expected) in wanted {
        let data = state.read(source, entry)?;
        check_values(&data).map_err(|problem| WeightsError::Format {
            path: path.to_owned(),
            problem: format!("tensor {source}: {problem}"),
        })?;
        let data = oriented(&name, with_first_rows(data, &expected));
        values.insert(name.name, data);
    }
    let model = model.with_own_statistics();
    let mut walk = Walk::new(&model, Apply(&values));
    let mut model = model.map(&mut walk);
    for (k, _) in &lacking {
        if let Some(fusion) = &mut model.experts[*k].fusion {
            fusion.start_as_identity();
        }
    }
    Ok((model, report))
}

/// Refuses values that no network can start from.
fn check_values(data: &TensorData) -> Result<(), String> {
    if !data.dtype().is_float() {
        return Err(format!(
            "it is of type {:?}, and weights are floats",
            data.dtype()
        ));
    }
    let finite = match data.as_slice::<f32>() {
        Ok(values) => values.iter().all(|value| value.is_finite()),
        Err(_) => data.iter::<f32>().all(f32::is_finite),
    };
    match finite {
        true => Ok(()),
        false => Err(
            "it holds NaN or an infinite number: its training went wrong, or it is damaged".into(),
        ),
    }
}

/// A safetensors file of the network under PyTorch's names, with `num_batches_tracked`
/// counts as PyTorch's strict loading wants them, and `metadata` in its header, with a
/// [checksum](mod@file) if `sealed`.
///
/// # Errors
/// If a tensor cannot be serialised.
pub fn to_safetensors(
    model: &Shike,
    num_batches_tracked: i64,
    metadata: &BTreeMap<String, String>,
    sealed: bool,
) -> Result<Vec<u8>, WeightsError> {
    pack(state_dict(model), num_batches_tracked, metadata, sealed)
}

/// A file of tensors by name, as [`to_safetensors`] makes it of a network's.
///
/// # Errors
/// If a tensor has no floating-point type.
pub fn pack(
    mut tensors: Vec<(String, TensorData)>,
    num_batches_tracked: i64,
    metadata: &BTreeMap<String, String>,
    sealed: bool,
) -> Result<Vec<u8>, WeightsError> {
    let counts: Vec<String> = tensors
        .iter()
        .filter_map(|(name, _)| name.strip_suffix("running_var"))
        .map(|prefix| format!("{prefix}{BATCH_COUNT}"))
        .collect();
    let count = || TensorData::new(vec![num_batches_tracked], Vec::<usize>::new());
    tensors.extend(counts.into_iter().map(|name| (name, count())));

    fn entry((name, data): &(String, TensorData)) -> Result<file::Entry<'_>, WeightsError> {
        let dtype = match data.dtype() {
            DType::F32 => safetensors::Dtype::F32,
            DType::F64 => safetensors::Dtype::F64,
            DType::BF16 => safetensors::Dtype::BF16,
            DType::F16 => safetensors::Dtype::F16,
            DType::I64 => safetensors::Dtype::I64,
            other => {
                return Err(WeightsError::Serialize(format!(
                    "{name} has type {other:?}"
                )));
            }
        };
        Ok(file::Entry {
            name,
            dtype,
            shape: data.shape().to_vec(),
            bytes: data.as_bytes(),
        })
    }
    let entries = tensors.iter().map(entry).collect::<Result<_, _>>()?;
    let mut metadata = metadata.clone();
    metadata.insert("format".into(), "pt".into());
    let mut bytes = Vec::new();
    file::write(&mut bytes, entries, &metadata, sealed)
        .map_err(|error| WeightsError::Serialize(error.to_string()))?;
    Ok(bytes)
}

/// Writes [`to_safetensors`] to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn export(
    model: &Shike,
    path: impl AsRef<Path>,
    num_batches_tracked: i64,
) -> Result<(), WeightsError> {
    let path = path.as_ref();
    let bytes = to_safetensors(model, num_batches_tracked, &BTreeMap::new(), false)?;
    std::fs::write(path, bytes).map_err(|source| WeightsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// A tensor between the network's and the file's layout, in either direction.
fn oriented(name: &StateName, data: TensorData) -> TensorData {
    match name.transposed {
        true => transpose(data),
        false => data,
    }
}

/// The shape that a tensor of the network has in a file.
fn shape_in_file(name: &StateName, shape: &Shape) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if name.transposed {
        shape.reverse();
    }
    shape
}

/// A tensor with zeros before its rows, so that it has this many numbers.
fn with_first_rows(data: TensorData, shape: &[usize]) -> TensorData {
    let missing = shape.iter().product::<usize>() - data.num_elements();
    if missing == 0 {
        return data;
    }
    let dtype = data.dtype();
    let mut bytes = vec![0; missing * dtype.size()];
    bytes.extend_from_slice(data.as_bytes());
    TensorData::from_bytes_vec(bytes, shape.to_vec(), dtype)
}

/// `[a, b]` → `[b, a]`.
fn transpose(data: TensorData) -> TensorData {
    let [rows, columns] = [data.shape()[0], data.shape()[1]];
    let (dtype, size) = (data.dtype(), data.dtype().size());
    let bytes = data.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * size;
            out.extend_from_slice(&bytes[at..at + size]);
        }
    }
    TensorData::from_bytes_vec(out, [columns, rows], dtype)
}

//! Features in a file: safetensors, with a checksum. docs/FORMATS.md describes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};
use shike_data::write::atomic_write;
use shike_data::{DataError, Part};
use shike_model::weights::WeightsError;
use shike_model::weights::file::{CHECKSUM, Entry, MAX_HEADER, Seal, write};

use super::{FeatureSource, Features};
use crate::error::InferError;

/// The version that is written and read.
const FORMAT_VERSION: u32 = 1;

/// Key in the safetensors metadata.
const KEY: &str = "shike_features";

/// What the metadata says of all parts.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format_version: u32,
    source: FeatureSource,
    class_names: Vec<String>,
    parts: Vec<Part>,
}

/// Writes the features of the parts of a data set to a file, whole or not at all.
///
/// # Errors
/// If the parts are not of one trunk and one list of classes, or the file cannot be written.
pub fn write_features(path: &Path, parts: &BTreeMap<Part, Features>) -> Result<(), InferError> {
    let of_all = |problem: &str| InferError::Mismatch(format!("{}: {problem}", path.display()));
    let first = parts.values().next();
    let first = first.ok_or_else(|| of_all("no features to write"))?;
    let same =
        |part: &Features| (&part.source, &part.class_names) == (&first.source, &first.class_names);
    if !parts.values().all(same) {
        return Err(of_all("its parts are of several trunks or classes"));
    }
    let description = Description {
        format_version: FORMAT_VERSION,
        source: first.source.clone(),
        class_names: first.class_names.clone(),
        parts: parts.keys().copied().collect(),
    };
    let failed = |error: serde_json::Error| WeightsError::Serialize(error.to_string());
    let text = serde_json::to_string(&description).map_err(failed)?;
    let metadata = BTreeMap::from([(KEY.to_owned(), text)]);
    let mut small = Vec::new();
    for (part, features) in parts {
        let labels = features.labels.iter().map(|&label| i64::from(label));
        let labels: Vec<u8> = labels.flat_map(i64::to_le_bytes).collect();
        let hashes = features.contents.iter();
        let hashes: Vec<u8> = hashes.flat_map(|hash| hash.to_be_bytes()).collect();
        let names = serde_json::to_vec(&features.names).map_err(failed)?;
        small.push((part, features, labels, hashes, names));
    }
    let names: Vec<[String; 4]> = parts.keys().map(|part| tensors(*part)).collect();
    let mut entries = Vec::new();
    for ((_, features, labels, hashes, paths), names) in small.iter().zip(&names) {
        let (pictures, width) = (features.labels.len(), features.source.width());
        let mut add = |name, dtype, shape, bytes| {
            entries.push(Entry {
                name,
                dtype,
                shape,
                bytes,
            });
        };
        let [rows, of_labels, of_hashes, of_names] = names;
        let values = bytemuck::cast_slice(&features.rows);
        add(rows, Dtype::F32, vec![pictures, width], values);
        add(of_labels, Dtype::I64, vec![pictures], labels);
        add(of_hashes, Dtype::U8, vec![pictures, 16], hashes);
        add(of_names, Dtype::U8, vec![paths.len()], paths);
    }
    Ok(atomic_write(path, |writer| {
        write(writer, entries, &metadata, true)
    })?)
}

/// Names of a part's tensors: rows, labels, hashes of files, and names as a JSON array.
fn tensors(part: Part) -> [String; 4] {
    ["features", "labels", "contents", "names"].map(|what| format!("{}.{what}", part.name()))
}

/// Reads what [`write_features`] wrote; rows go straight to their place.
///
/// # Errors
/// If the file cannot be read, is damaged, or holds no features.
pub fn read_features(path: &Path) -> Result<BTreeMap<Part, Features>, InferError> {
    let io = |source: io::Error| {
        let path = path.to_owned();
        InferError::from(DataError::Io { path, source })
    };
    let wrong = |problem: String| {
        let path = path.to_owned();
        InferError::from(WeightsError::Format { path, problem })
    };
    let mut file = shike_data::read::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let (header, metadata) = head(&mut file, size).map_err(io)?.map_err(wrong)?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
    let text = text.ok_or_else(|| {
        wrong(format!(
            "its metadata has no `{KEY}` entry, so these are not features that `shike embed` wrote"
        ))
    })?;
    let version = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|description| description["format_version"].as_u64());
    if let Some(version) = version.filter(|version| *version != u64::from(FORMAT_VERSION)) {
        return Err(wrong(format!(
            "features of format {version}; this program reads {FORMAT_VERSION}: embed the pictures again"
        )));
    }
    let description: Description = serde_json::from_str(text).map_err(|error| {
        wrong(format!(
            "the description of the features is damaged: {error}"
        ))
    })?;
    let digits = metadata.metadata().as_ref().and_then(|m| m.get(CHECKSUM));
    let seal = digits.and_then(|digits| Seal::new(&header, digits).map(|seal| (seal, digits)));
    let (mut seal, digits) = seal.ok_or_else(|| {
        wrong(
            "it has no checksum, so another program has written it: embed the pictures again"
                .into(),
        )
    })?;

    let mut bytes = BTreeMap::new();
    let mut rows = BTreeMap::new();
    let infos = metadata.tensors();
    let mut infos: Vec<_> = infos.iter().collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut at = 0;
    for (name, info) in infos {
        let (start, end) = info.data_offsets;
        let is_next = start == at && end >= start;
        if !is_next {
            return Err(wrong(format!(
                "tensor {name} does not follow the one before it"
            )));
        }
        let length = end - start;
        at = end;
        if info.dtype == Dtype::F32 && length.is_multiple_of(4) {
            let mut values = vec![0f32; length / 4];
            let raw = bytemuck::cast_slice_mut(&mut values);
            file.read_exact(raw).map_err(io)?;
            seal.add(raw);
            rows.insert(name.clone(), values);
        } else {
            let mut raw = vec![0; length];
            file.read_exact(&mut raw).map_err(io)?;
            seal.add(&raw);
            bytes.insert(name.clone(), raw);
        }
    }
    if seal.digits() != *digits {
        return Err(wrong(
            "its checksum is of other content: it is damaged; copy it again if it is a copy, or embed the \
             pictures again"
                .into(),
        ));
    }
    let mut parts = BTreeMap::new();
    for part in &description.parts {
        let names = tensors(*part);
        let [of_rows, of_labels, of_hashes, of_names] = &names;
        let mut take = |name: &str| bytes.remove(name).unwrap_or_default();
        let labels = take(of_labels);
        let labels = labels.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b));
        let hashes = take(of_hashes);
        let hashes = hashes.as_chunks().0.iter().map(|b| u128::from_be_bytes(*b));
        let features = Features {
            source: description.source.clone(),
            class_names: description.class_names.clone(),
            names: serde_json::from_slice(&take(of_names)).unwrap_or_default(),
            labels: labels
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX))
                .collect(),
            contents: hashes.collect(),
            rows: rows.remove(of_rows).unwrap_or_default(),
        };
        features
            .check()
            .map_err(|problem| wrong(format!("its {part} pictures: {problem}")))?;
        parts.insert(*part, features);
    }
    Ok(parts)
}

/// The header of a safetensors file of this size, as text and read; or what is wrong with it.
#[allow(clippy::type_complexity)]
fn head(file: &mut File, size: u64) -> io::Result<Result<(Vec<u8>, Metadata), String>> {
    let mut length = [0; 8];
    let no_file = |why: String| Ok(Err(format!("not a whole safetensors file ({why})")));
    if size < 8 {
        return no_file(format!("it has {size} bytes"));
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > (size - 8).min(MAX_HEADER as u64) {
        return no_file(format!("a header of {length} bytes in a file of {size}"));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    let metadata: Metadata = match serde_json::from_slice(&header) {
        Ok(metadata) => metadata,
        Err(error) => return no_file(format!("its header is damaged: {error}")),
    };
    let wanted = 8 + length + metadata.data_len() as u64;
    match wanted == size {
        true => Ok(Ok((header, metadata))),
        false => no_file(format!(
            "it has {size} bytes, and its header is of {wanted}"
        )),
    }
}

impl Features {
    /// Whether all of it fits together.
    fn check(&self) -> Result<(), String> {
        let pictures = self.labels.len();
        for (what, found, expected) in [
            ("names", self.names.len(), pictures),
            ("hashes", self.contents.len(), pictures),
            ("features", self.rows.len(), pictures * self.source.width()),
        ] {
            if found != expected {
                return Err(format!(
                    "{found} {what} for {pictures} labels, must be {expected}"
                ));
            }
        }
        let classes = self.class_names.len();
        let beyond = self.labels.iter().find(|&&label| label as usize >= classes);
        match beyond {
            Some(label) => Err(format!("a label {label} of {classes} classes")),
            None => Ok(()),
        }
    }
}

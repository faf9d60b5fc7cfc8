//! Checkpoint files: exact round trips, and every way in which a file can be bad.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use burn::tensor::Bytes;
use serde_json::json;
use shike_train::run::checkpoint::{Checkpoint, CheckpointError, atomic_write, read, write_atomic};

fn sample() -> Checkpoint {
    let record =
        |len: u8, seed: u8| Bytes::from_bytes_vec((0..len).map(|i| seed.wrapping_add(i)).collect());
    Checkpoint {
        records: BTreeMap::from([
            ("model".to_owned(), record(24, 1)),
            ("optimizer".to_owned(), record(7, 50)),
            ("empty \"quoted\"".to_owned(), record(0, 0)),
        ]),
        state: json!({"epoch": 3, "rng": u64::MAX, "lr": 0.1 + 0.2, "order": [2, 0, 1]}),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn round_trip_is_exact_and_deterministic() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let checkpoint = sample();
    write_atomic(&a, &checkpoint).unwrap();
    let back = read(&a).unwrap();
    assert_eq!(back, checkpoint);
    assert_eq!(
        back.state["lr"].as_f64().unwrap().to_bits(),
        (0.1f64 + 0.2).to_bits()
    );
    write_atomic(&b, &back).unwrap();
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    assert_eq!(names(folder.path()), ["a", "b"]);
    // Nothing at all is a checkpoint too.
    write_atomic(&a, &Checkpoint::default()).unwrap();
    assert_eq!(read(&a).unwrap(), Checkpoint::default());
}

/// Any safetensors reader can open the file.
#[test]
fn is_a_safetensors_file() {
    let mut bytes = Vec::new();
    let checkpoint = sample();
    checkpoint.write_to(&mut bytes).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), checkpoint.records.len());
    let model = file.tensor("model").unwrap();
    assert_eq!(model.shape(), [24]);
    assert_eq!(model.dtype(), safetensors::Dtype::U8);
    assert_eq!(model.data(), &checkpoint.records["model"][..]);
}

#[test]
fn damage_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut bytes = Vec::new();
    sample().write_to(&mut bytes).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = read(&path).unwrap_err();
    assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()));
}

#[test]
fn every_cut_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut bytes = Vec::new();
    sample().write_to(&mut bytes).unwrap();
    for len in 0..bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            matches!(error, CheckpointError::Truncated { .. }),
            "{len} bytes: {error}"
        );
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(read(&path), Err(CheckpointError::Damaged { .. })));
    fs::write(&path, vec![0; bytes.len()]).unwrap();
    assert!(matches!(read(&path), Err(CheckpointError::Damaged { .. })));
}

#[test]
fn foreign_missing_and_newer_files_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    assert!(matches!(read(&path), Err(CheckpointError::Missing { .. })));
    assert!(matches!(
        read(folder.path()),
        Err(CheckpointError::Read { .. })
    ));

    let data = [0u8; 8];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2], &data);
    let plain = safetensors::serialize([("weight", view.unwrap())], None).unwrap();
    let foreign: [&[u8]; 3] = [b"PK\x03\x04 a zip file, or so", b"{\"json\": true}", &plain];
    for bytes in foreign {
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, CheckpointError::Foreign { .. }), "{error}");
    }

    let mut bytes = Vec::new();
    sample().write_to(&mut bytes).unwrap();
    let from = br#""format_version":"2""#;
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    for (version, says) in [
        (b'3', "format version 3, this program reads version 2"),
        (
            b'1',
            "format version 1, which is older than the first release",
        ),
    ] {
        bytes[at + from.len() - 2] = version;
        fs::write(&path, &bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            matches!(
                error,
                CheckpointError::NewerVersion { found: 3, .. }
                    | CheckpointError::OlderVersion { found: 1, .. }
            ),
            "{error}"
        );
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// A disk that is full after `left` bytes.
struct FullDisk<W> {
    inner: W,
    left: usize,
}

impl<W: Write> Write for FullDisk<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = self.inner.write(&bytes[..bytes.len().min(self.left)])?;
        self.left -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[test]
fn a_full_disk_leaves_the_previous_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let previous = sample();
    write_atomic(&path, &previous).unwrap();
    let mut next = sample();
    next.state = json!({"epoch": 4});
    let mut whole = Vec::new();
    next.write_to(&mut whole).unwrap();
    for left in 0..whole.len() {
        let error =
            atomic_write(&path, |inner| next.write_to(FullDisk { inner, left })).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        let message = error.to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(
            message.contains("the previous file is untouched"),
            "{message}"
        );
        assert_eq!(names(folder.path()), ["checkpoint"]);
    }
    assert_eq!(read(&path).unwrap(), previous);
    // With one byte more it fits.
    let left = whole.len();
    atomic_write(&path, |inner| next.write_to(FullDisk { inner, left })).unwrap();
    assert_eq!(read(&path).unwrap(), next);
}

#[test]
fn a_missing_folder_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone").join("checkpoint");
    let error = write_atomic(&path, &sample()).unwrap_err();
    assert!(!error.previous);
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert!(
        error.to_string().contains("no file was left behind"),
        "{error}"
    );
}

/// A panic in the middle must not leave a temporary file either.
#[test]
fn a_panic_leaves_the_previous_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    atomic_write(&path, |w| w.write_all(b"old")).unwrap();
    let caught = std::panic::catch_unwind(|| {
        let _ = atomic_write(&path, |w| {
            w.write_all(b"new")?;
            panic!("in the middle")
        });
    });
    assert!(caught.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["config.json"]);
}

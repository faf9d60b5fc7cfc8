//! Files of weights that claim what they do not hold.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use shike_model::weights::file::{self, Entry};
use shike_model::weights::{self, Mismatch, WeightsError};
use shike_model::{Shike, ShikeConfig};

fn network() -> Shike {
    let config = ShikeConfig::cifar_plain(8, 10).unwrap();
    config.init(&Device::flex()).unwrap()
}

/// `torch.save({"conv1.weight": torch.zeros(10).as_strided((28000, 28000), (0, 0))}, …)`: 3 GB of float32 in
/// 1584 bytes.
#[test]
fn a_view_that_repeats_its_numbers_is_refused_by_the_size_of_the_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expanded.pth");
    let error = weights::read_state_dict(&path).unwrap_err().to_string();
    for part in [
        "expanded.pth",
        "conv1.weight",
        "[28000, 28000]",
        "1584 bytes",
    ] {
        assert!(error.contains(part), "{error}");
    }
    // Shapes are compared before data is made, whatever the size.
    for error in [
        weights::import(network(), &path).unwrap_err(),
        weights::import_pretrained(network(), &path).unwrap_err(),
    ] {
        let WeightsError::Mismatch { mismatch, .. } = &error else {
            panic!("{error}");
        };
        let (name, expected, found) = &mismatch.mis_shaped[0];
        assert_eq!(name, "conv1.weight");
        assert_eq!((expected, found), (&vec![16, 3, 3, 3], &vec![28000, 28000]));
    }
}

#[test]
fn a_message_does_not_grow_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.safetensors");
    let names: Vec<String> = (0..50_000).map(|i| format!("layer{i}.weight")).collect();
    let entries = names.iter().map(|name| Entry {
        name,
        dtype: safetensors::Dtype::F32,
        shape: vec![0],
        bytes: &[],
    });
    let mut bytes = Vec::new();
    file::write(&mut bytes, entries.collect(), &BTreeMap::new(), false).unwrap();
    fs::write(&path, bytes).unwrap();
    let error = weights::import(network(), &path).unwrap_err().to_string();
    let named = "layer0.weight, layer1.weight, layer10.weight, layer100.weight, layer1000.weight";
    let unexpected = format!("\n  50000 unexpected: {named}, and 49995 more");
    assert!(error.contains(&unexpected), "{error}");
    assert!(error.len() < 1500, "{} bytes", error.len());
}

#[test]
fn a_message_names_five_tensors_of_a_kind() {
    let names = |names: &str| names.split(' ').map(str::to_owned).collect();
    let shaped = |name: &str| (name.to_owned(), vec![2, 3], vec![4]);
    let mismatch = Mismatch {
        missing: names("a b c d e f g"),
        unexpected: names("h i j k l"),
        mis_shaped: vec![shaped("m"), shaped("n")],
        looks_like: Some("resnet50"),
    };
    let message = "the weights are of another network, resnet50:\n  7 missing: a, b, c, d, e, and 2 more\n  \
                   5 unexpected: h, i, j, k, l\n  2 mis-shaped: m (expected [2, 3], found [4]), n (expected [2, 3], \
                   found [4])";
    assert_eq!(mismatch.to_string(), message);
}

#[test]
fn a_file_that_is_larger_than_its_header_says_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.safetensors");
    for (start, says) in [
        (&[0; 8][..], "header"),
        (b"\x02\0\0\0\0\0\0\0{}", "of 10 and 0"),
    ] {
        fs::write(&path, start).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        // More than any machine of these tests has.
        file.set_len(4 << 40).unwrap();
        let error = weights::StateFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("not a whole safetensors file"), "{error}");
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn only_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut places = vec![folder.path()];
    if cfg!(unix) {
        // It has no end.
        places.push(Path::new("/dev/zero"));
    }
    for path in places {
        let error = weights::import(network(), path).unwrap_err().to_string();
        assert!(error.contains("not a file"), "{error}");
    }
}

//! CIFAR's binary files and their names of classes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shike_data::{Cifar, DecodeLimits, Part, cifar};
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|input: (bool, Option<&str>, &[u8], &[u8])| {
    let (ten, names, labels, bytes) = input;
    let (kind, head, file, names_file) = match ten {
        true => (Cifar::Cifar10, 1, "test_batch.bin", "batches.meta.txt"),
        false => (Cifar::Cifar100, 2, "test.bin", "fine_label_names.txt"),
    };
    // Whole records with these labels, and then whatever comes: a file of 3073 bytes by chance
    // would take the fuzzer too long.
    let mut records = Vec::new();
    for &label in labels.iter().take(4) {
        records.extend([label; 2][..head].iter());
        records.extend([label.wrapping_mul(7); 3072]);
    }
    records.extend(bytes);
    std::fs::write(DIR.path().join(file), &records).expect("the temporary folder can be written");
    let names_path = DIR.path().join(names_file);
    match names {
        Some(names) => std::fs::write(names_path, names).expect("it can be written"),
        None => drop(std::fs::remove_file(names_path)),
    }
    match cifar(DIR.path(), kind, Part::Test) {
        Ok(data) => {
            assert_eq!(data.len(), records.len() / (head + 3072));
            assert_eq!(data.num_classes(), kind.num_classes());
            let last = data.len() - 1;
            let image = data.image(last, &DecodeLimits::default()).expect("it is in memory");
            assert_eq!(image.dimensions(), (32, 32));
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(file) || text.contains(names_file), "{text}");
        }
    }
});

//! Text, CSV and JSON lists: whatever they hold, they are read by the rules or refused by name.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use shike_data::{list_file, list_file_like};
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let name = ["list.txt", "list.csv", "list.json"][usize::from(kind % 3)];
    let path = DIR.path().join(name);
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    match list_file("/images", &path, None, None) {
        Ok(data) => {
            assert!(!data.is_empty() && data.class_counts().iter().all(|&n| n > 0));
            for i in 0..data.len() {
                let origin = data.origin(i);
                assert!(origin.starts_with("/images/"), "{origin}");
                assert!(origin.split(['/', '\\']).all(|part| part != ".."), "{origin}");
            }
            // What a list says of itself, it says of a test list as well.
            let again = list_file_like("/images", &path, &data).expect("the same list");
            assert_eq!(again.labels(), data.labels());
        }
        Err(error) => assert!(error.to_string().contains(name), "{error}"),
    }
    if let Err(error) = list_file("/images", &path, Some(3), None) {
        assert!(error.to_string().contains(name), "{error}");
    }
});

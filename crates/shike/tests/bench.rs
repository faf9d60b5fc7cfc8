//! The program times its own work.
#![cfg(all(feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use common::{said, shike_in};

fn bench(arguments: &str) -> (bool, String) {
    let output = shike_in(".".as_ref(), &format!("bench {arguments}"));
    (output.status.success(), said(&output))
}

#[test]
fn times_a_step_a_loss_and_a_convolution() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("bench.json");
    let cases = [
        "step/shike-resnet32",
        "eval/shike-resnet32",
        "dkt/3x100",
        "balanced/6x1000",
        "conv/3x3s2-16-32-32",
    ];
    let words = cases.map(|case| format!("--case {case} ")).concat();
    let (ok, said) = bench(&format!(
        "--device flex --batch 2 --runs 3 --json {} {words}",
        json.display()
    ));
    assert!(ok, "{said}");
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let results = results.as_array().unwrap();
    let mut found: Vec<&str> = results
        .iter()
        .map(|result| result["case"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    let mut expected = cases;
    expected.sort_unstable();
    assert_eq!(found, expected, "{said}");
    for result in results {
        let seconds = result["seconds"].as_array().unwrap();
        assert_eq!(seconds.len(), 3);
        assert!(seconds.iter().all(|s| s.as_f64().unwrap() > 0.0));
        assert_eq!(result["images"], 2);
        assert!(result["value"].as_f64().unwrap().is_finite());
    }
}

#[test]
fn unknown_cases_and_devices_are_said() {
    let (ok, said) = bench("--case nothing/here");
    assert!(!ok);
    assert!(
        said.contains("nothing/here") && said.contains("--list"),
        "{said}"
    );
    let (ok, said) = bench("--case dkt/3x100 --device nowhere --runs 1");
    assert!(!ok);
    assert!(said.contains("nowhere") && said.contains("flex"), "{said}");
}

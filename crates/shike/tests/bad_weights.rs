//! Weights that cannot be used: each case is one line of the table in docs/BAD_INPUT.md.
#![cfg(all(unix, feature = "flex", feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{failure, resnet10_weights, said, success};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};

/// A tensor of a file: type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Names and values of variables.
type Environment<'a> = &'a [(&'a str, &'a str)];

/// A folder with pictures of two classes and good weights of a ResNet-10.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (class, shade) in [("ant", 40), ("bee", 200)] {
        let folder = dir.path().join("pictures").join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..6 {
            let image = image::RgbImage::from_pixel(33 + i, 33, image::Rgb([shade, 0, i as u8]));
            image.save(folder.join(format!("{i}.png"))).unwrap();
        }
    }
    resnet10_weights(&dir.path().join("good.safetensors"));
    dir
}

/// The good weights with a change, under another name.
fn changed(dir: &Path, name: &str, change: impl FnOnce(&mut Tensors)) {
    let bytes = fs::read(dir.join("good.safetensors")).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = read
        .iter()
        .map(|(name, view)| {
            let held = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name.to_owned(), held)
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    fs::write(dir.join(name), serialize(views, None).unwrap()).unwrap();
}

/// A zip archive of files that are not compressed, as `torch.save` writes it.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        let step = |crc: u32, byte: &u8| {
            let bit = |crc: u32, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            (0..8).fold(crc ^ u32::from(*byte), bit)
        };
        !bytes.iter().fold(!0, step)
    };
    let (mut bytes, mut directory) = (vec![], vec![]);
    for (name, content) in files {
        let length = (content.len() as u32).to_le_bytes();
        let mut fields = vec![10, 0, 0, 0, 0, 0, 0, 0, 33, 0];
        fields.extend(crc(content).to_le_bytes());
        fields.extend([length, length].concat());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x0a\x00");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(name.as_bytes());
        bytes.extend(*content);
    }
    let (at, entries) = (bytes.len() as u32, files.len() as u16);
    let length = directory.len() as u32;
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([entries.to_le_bytes(), entries.to_le_bytes()].concat());
    bytes.extend([length.to_le_bytes(), at.to_le_bytes()].concat());
    bytes.extend([0, 0]);
    bytes
}

fn train(dir: &Path, weights: &str, more: &str, environment: Environment) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shike"));
    let words =
        "train --data pictures --image-size 32 --device flex --workers 1 --run run --weights";
    command.current_dir(dir).args(words.split_whitespace());
    command.arg(weights).args(more.split_whitespace());
    for name in [
        "HF_TOKEN",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "XDG_CACHE_HOME",
    ] {
        command.env_remove(name);
    }
    let caches = ["HF_HOME", "TORCH_HOME", "SHIKE_CACHE"];
    for name in caches {
        command.env(name, dir.join("caches"));
    }
    command.envs(environment.iter().copied());
    command.output().unwrap()
}

#[test]
fn each_bad_file_is_named_with_what_is_wrong() {
    let folder = folder();
    let dir = folder.path();
    let good = fs::read(dir.join("good.safetensors")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    write("empty.pth", b"");
    write(
        "page.pth",
        b"<!DOCTYPE html><html><body>not found</body></html>",
    );
    write(
        "page.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    );
    write("half.safetensors", &good[..good.len() / 2]);
    write("header.safetensors", &good[..200]);
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    write("huge.safetensors", &huge);
    // `os.system("touch owned")`, as a bare pickle and in an archive.
    let code = b"cposix\nsystem\n(S'touch owned'\ntR.";
    write("code.pth", code);
    let pickled = archive(&[("archive/data.pkl", code), ("archive/version", b"3\n")]);
    write("code2.pth", &pickled);
    write("half.pth", &pickled[..pickled.len() / 2]);
    changed(dir, "other.safetensors", |tensors| {
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, tensor)| (format!("bert.encoder.{name}"), tensor))
            .collect();
    });
    changed(dir, "lacks.safetensors", |tensors| {
        drop(tensors.remove("layer2.0.conv1.weight"))
    });
    changed(dir, "shape.safetensors", |tensors| {
        let (dtype, shape, data) = &mut tensors.get_mut("layer1.0.bn1.weight").unwrap();
        (*dtype, *shape) = (Dtype::F32, vec![32]);
        data.truncate(4 * 32);
    });
    changed(dir, "whole.safetensors", |tensors| {
        let (dtype, _, data) = &mut tensors.get_mut("layer1.0.bn1.weight").unwrap();
        (*dtype, *data) = (Dtype::I32, vec![1; data.len()]);
    });
    for (name, wrong) in [("nan", f32::NAN), ("infinite", f32::INFINITY)] {
        changed(dir, &format!("{name}.safetensors"), |tensors| {
            let (_, _, data) = &mut tensors.get_mut("layer3.0.conv2.weight").unwrap();
            data[40..44].copy_from_slice(&wrong.to_le_bytes());
        });
    }
    fs::create_dir(dir.join("no-run")).unwrap();
    fs::create_dir_all(dir.join("begun/checkpoints")).unwrap();
    write("begun/config.json", b"{}");
    write(
        "begun/classes.json",
        br#"{"names":["a"],"train_counts":[1]}"#,
    );
    let pipe = Command::new("mkfifo").arg(dir.join("pipe.pth")).status();
    assert!(pipe.unwrap().success());
    std::os::unix::fs::symlink("nowhere", dir.join("dangling.pth")).unwrap();

    let resnet = "--arch resnet10";
    let cases: [(&str, &str, i32, &[&str]); 24] = [
        ("gone.pth", resnet, 1, &["gone.pth", "No such file"]),
        ("dangling.pth", resnet, 1, &["dangling.pth", "No such file"]),
        ("no-run", "", 1, &["no-run", "not the folder of a run"]),
        ("begun", resnet, 1, &["begun", "model.safetensors"]),
        ("pipe.pth", resnet, 1, &["pipe.pth", "not a file"]),
        ("/dev/zero", resnet, 1, &["/dev/zero", "not a file"]),
        ("empty.pth", resnet, 1, &["empty.pth", "empty"]),
        (
            "page.pth",
            resnet,
            1,
            &["page.pth", "neither a safetensors file nor a PyTorch"],
        ),
        (
            "page.safetensors",
            resnet,
            1,
            &["page.safetensors", "neither a safetensors"],
        ),
        (
            "half.safetensors",
            resnet,
            1,
            &["half.safetensors", "not a whole"],
        ),
        (
            "header.safetensors",
            resnet,
            1,
            &["header.safetensors", "header"],
        ),
        (
            "huge.safetensors",
            resnet,
            1,
            &["huge.safetensors", "header"],
        ),
        (
            "half.pth",
            resnet,
            1,
            &["half.pth", "neither a safetensors file nor"],
        ),
        (
            "code.pth",
            resnet,
            1,
            &["code.pth", "neither a safetensors file nor"],
        ),
        (
            "code2.pth",
            resnet,
            1,
            &["code2.pth", "neither a safetensors file nor"],
        ),
        ("other.safetensors", "", 1, &["missing", "bert.encoder."]),
        (
            "other.safetensors",
            resnet,
            1,
            &["missing", "bert.encoder."],
        ),
        (
            "good.safetensors",
            "--arch resnet18",
            1,
            &["another network, resnet10"],
        ),
        (
            "lacks.safetensors",
            resnet,
            1,
            &["missing", "layer2.0.conv1.weight"],
        ),
        (
            "shape.safetensors",
            resnet,
            1,
            &["layer1.0.bn1.weight", "[64]", "[32]"],
        ),
        (
            "whole.safetensors",
            resnet,
            1,
            &["layer1.0.bn1.weight", "weights are floats"],
        ),
        (
            "nan.safetensors",
            resnet,
            1,
            &["layer3.0.conv2.weight", "NaN"],
        ),
        (
            "infinite.safetensors",
            resnet,
            1,
            &["layer3.0.conv2.weight", "infinite"],
        ),
        (
            "good.safetensors",
            "--arch resnet10 --set frozen.depths=[\"layer9\"]",
            2,
            &["layer9"],
        ),
    ];
    let mut problems = vec![];
    for (weights, more, status, says) in cases {
        for tuned in ["", "--epochs 1"] {
            if !tuned.is_empty() && more.contains("frozen") {
                continue;
            }
            let before = fs::metadata(dir.join(weights)).map(|file| file.len()).ok();
            let output = train(dir, weights, &format!("{more} {tuned}"), &[]);
            let told = said(&output);
            let lacks = says.iter().filter(|part| !told.contains(**part));
            let lacks: Vec<_> = lacks.collect();
            if output.status.code() != Some(status) || !lacks.is_empty() {
                problems.push(format!("{weights} {more} {tuned}: {lacks:?}: {told}"));
            }
            // Nothing is begun, changed or run.
            assert!(!dir.join("run/config.json").exists(), "{weights}: {told}");
            assert!(!dir.join("owned").exists(), "{weights}");
            let after = fs::metadata(dir.join(weights)).map(|file| file.len()).ok();
            assert_eq!(before, after);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    // The next try has the same folder for its run.
    success(&train(dir, "good.safetensors", "", &[]));
}

#[test]
fn each_name_that_leads_nowhere_says_what_would_be_right() {
    let folder = folder();
    let dir = folder.path();
    let checkpoints = dir.join("caches/hub/checkpoints");
    fs::create_dir_all(&checkpoints).unwrap();
    fs::write(checkpoints.join("resnet18-f37072fd.pth"), b"half").unwrap();
    fs::write(checkpoints.join("resnet152-394f9c45.pth"), b"").unwrap();
    let offline = ("HF_HUB_OFFLINE", "1");
    let nobody = ("HF_ENDPOINT", "http://127.0.0.1:9");
    let cases: [(&str, Environment, &[&str]); 10] = [
        ("resnet51", &[], &["did you mean `resnet50`?"]),
        ("hf:timm", &[], &["OWNER/NAME"]),
        ("hf:a/b:../c", &[], &["no file of a repository"]),
        (
            "https://example.org/w.pth",
            &[],
            &["addresses are not taken"],
        ),
        ("timm/resnet50", &[], &["timm/resnet50"]),
        (
            "resnet18",
            &[],
            &["resnet18-f37072fd.pth", "damaged", "f37072fd"],
        ),
        (
            "resnet152",
            &[],
            &["resnet152-394f9c45.pth", "the file is empty"],
        ),
        (
            "resnet50",
            &[offline],
            &["HF_HUB_OFFLINE", "timm/resnet50.tv_in1k", "`weights`"],
        ),
        ("resnet50", &[("HF_ENDPOINT", "nonsense")], &["HF_ENDPOINT"]),
        (
            "resnet50",
            &[("HF_TOKEN", "two words"), nobody],
            &["HF_TOKEN"],
        ),
    ];
    for (weights, environment, says) in cases {
        let output = train(dir, weights, "", environment);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        for part in says {
            let told = said(&output);
            assert!(told.contains(part), "{weights}: {part}: {told}");
        }
        assert!(!dir.join("run").exists(), "{weights}");
    }
    // Nobody listens there, or the program was built without downloads: both say what to download where.
    let output = train(dir, "dinov2_s14", "", &[nobody]);
    let told = failure(1, &output);
    assert!(
        told.contains("download http://127.0.0.1:9/timm/vit_small_patch14_dinov2"),
        "{told}"
    );
}

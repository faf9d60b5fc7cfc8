//! CIFAR-10 and CIFAR-100 in the *binary version* of
//! <https://www.cs.toronto.edu/~kriz/cifar.html>: plain records, which need no Python to read.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Dataset, number_names};
use crate::error::{DataError, Result};
use crate::part::Part;
use crate::read::{read, read_to_string};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// Which of the two data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cifar {
    /// 10 classes; 50,000 training images in five files, 10,000 test images.
    Cifar10,
    /// 100 classes (the "fine" labels); 50,000 training images, 10,000 test images.
    Cifar100,
}

impl Cifar {
    /// Number of classes.
    pub fn num_classes(self) -> usize {
        match self {
            Self::Cifar10 => 10,
            Self::Cifar100 => 100,
        }
    }

    /// The folder inside the official archive.
    fn folder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-bin",
            Self::Cifar100 => "cifar-100-binary",
        }
    }

    fn archive(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-binary.tar.gz",
            Self::Cifar100 => "cifar-100-binary.tar.gz",
        }
    }

    fn names_file(self) -> &'static str {
        match self {
            Self::Cifar10 => "batches.meta.txt",
            Self::Cifar100 => "fine_label_names.txt",
        }
    }

    fn files(self, part: Part) -> &'static [&'static str] {
        match (self, part) {
            (Self::Cifar10, Part::Train) => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            (Self::Cifar10, Part::Test) => &["test_batch.bin"],
            (Self::Cifar100, Part::Train) => &["train.bin"],
            (Self::Cifar100, Part::Test) => &["test.bin"],
            (_, Part::Val) => &[],
        }
    }

    /// Bytes before the pixels: the label, or the coarse and then the fine label.
    fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }
}

/// Reads the training or test images of CIFAR-10 or CIFAR-100 into memory, in file order.
///
/// `dir` is the folder with the `.bin` files or the one above it. Class names come from
/// `batches.meta.txt` or `fine_label_names.txt` where they lie beside the data. A file may hold
/// any number of records, so a subset in the same layout can be read too.
///
/// # Errors
/// [`DataError::Missing`] says what to download; [`DataError::File`] if a file is no multiple of
/// the record's length or a label is out of range; [`DataError::Field`] for validation images, which
/// CIFAR has none of.
pub fn cifar(dir: impl AsRef<Path>, kind: Cifar, part: Part) -> Result<Dataset> {
    let dir = locate(dir.as_ref(), kind, part)?;
    let (mut pixels, mut labels, mut origins) = (Vec::new(), Vec::new(), Vec::new());
    for &name in kind.files(part) {
        let path = dir.join(name);
        let bytes = read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => missing(path.clone(), &dir, kind),
            _ => DataError::io(&path, e),
        })?;
        origins.push((name.to_owned(), labels.len() as u32));
        read_records(&path, &bytes, kind, &mut pixels, &mut labels)?;
    }
    let names = class_names(&dir.join(kind.names_file()), kind)?;
    Dataset::in_memory(pixels, (SIDE, SIDE), labels, names, origins)
}

fn locate(dir: &Path, kind: Cifar, part: Part) -> Result<PathBuf> {
    let Some(first) = kind.files(part).first() else {
        return Err(DataError::field(
            "part",
            format!("is {}, but CIFAR has train and test alone", part.name()),
        ));
    };
    let below = dir.join(kind.folder());
    if dir.join(first).exists() {
        Ok(dir.to_owned())
    } else if below.join(first).exists() {
        Ok(below)
    } else {
        Err(missing(dir.join(first), dir, kind))
    }
}

fn missing(path: PathBuf, dir: &Path, kind: Cifar) -> DataError {
    DataError::Missing {
        path,
        hint: format!(
            "Download https://www.cs.toronto.edu/~kriz/{} (the binary version) and unpack it in \
             {}, so that it holds the folder {}",
            kind.archive(),
            dir.display(),
            kind.folder(),
        ),
    }
}

fn read_records(
    path: &Path,
    bytes: &[u8],
    kind: Cifar,
    pixels: &mut Vec<u8>,
    labels: &mut Vec<u32>,
) -> Result<()> {
    let wrong = |problem| DataError::file(path, problem);
    let head = kind.label_bytes();
    let record = head + 3 * PLANE;
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        return Err(wrong(format!(
            "{} bytes are not a multiple of the {record} of a {kind:?} record: the file is cut \
             off, still packed, or of another data set",
            bytes.len(),
        )));
    }
    pixels.reserve_exact(bytes.len() / record * 3 * PLANE);
    for (number, record) in bytes.chunks_exact(record).enumerate() {
        let (label, planes) = record.split_at(head);
        let label = label[head - 1];
        if usize::from(label) >= kind.num_classes() {
            return Err(wrong(format!(
                "record {number} has label {label}, but {kind:?} has {} classes",
                kind.num_classes(),
            )));
        }
        labels.push(u32::from(label));
        // Stored as a red, a green and a blue plane; wanted pixel by pixel.
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for ((&r, &g), &b) in red.iter().zip(green).zip(blue) {
            pixels.extend([r, g, b]);
        }
    }
    Ok(())
}

/// The names file if there is one; its number of lines has to be right.
fn class_names(path: &Path, kind: Cifar) -> Result<Vec<String>> {
    let text = match read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(number_names(kind.num_classes()));
        }
        Err(e) => return Err(DataError::io(path, e)),
    };
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if names.len() != kind.num_classes() {
        return Err(DataError::file(
            path,
            format!(
                "holds {} class names, but {kind:?} has {} classes",
                names.len(),
                kind.num_classes(),
            ),
        ));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::DecodeLimits;
    use std::fs;

    /// A record with the pixel at (x, y) = [x, y, fill].
    fn record(head: &[u8], fill: u8) -> Vec<u8> {
        let mut out = head.to_vec();
        out.extend((0..PLANE).map(|i| (i % SIDE) as u8));
        out.extend((0..PLANE).map(|i| (i / SIDE) as u8));
        out.extend([fill; PLANE]);
        out
    }

    #[test]
    fn cifar100_uses_the_fine_label_and_turns_planes_into_pixels() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("cifar-100-binary");
        fs::create_dir(&inner).unwrap();
        fs::write(
            inner.join("train.bin"),
            [record(&[3, 99], 7), record(&[99, 0], 8)].concat(),
        )
        .unwrap();
        for given in [dir.path(), &inner] {
            let data = cifar(given, Cifar::Cifar100, Part::Train).unwrap();
            assert_eq!(data.labels(), [99, 0]);
            assert_eq!(data.num_classes(), 100);
            assert_eq!(data.class_names()[99], "99");
            let image = data.image(1, &DecodeLimits::default()).unwrap();
            assert_eq!(image[(31, 2)].0, [31, 2, 8]);
            assert_eq!(data.origin(1), "train.bin record 1");
        }
    }

    #[test]
    fn cifar10_joins_five_files() {
        let dir = tempfile::tempdir().unwrap();
        for i in 1..=5u8 {
            let path = dir.path().join(format!("data_batch_{i}.bin"));
            fs::write(path, [record(&[i], i), record(&[0], 50 + i)].concat()).unwrap();
        }
        let names: Vec<String> = (0..10).map(|i| format!("class {i}\n")).collect();
        fs::write(dir.path().join("batches.meta.txt"), names.concat() + "\n").unwrap();
        let data = cifar(dir.path(), Cifar::Cifar10, Part::Train).unwrap();
        assert_eq!(data.labels(), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]);
        assert_eq!(data.origin(7), "data_batch_4.bin record 1");
        assert_eq!(data.class_names()[9], "class 9");

        fs::remove_file(dir.path().join("data_batch_4.bin")).unwrap();
        let error = cifar(dir.path(), Cifar::Cifar10, Part::Train).unwrap_err();
        assert!(error.to_string().contains("data_batch_4.bin"), "{error}");
        fs::write(dir.path().join("batches.meta.txt"), "one\n").unwrap();
        fs::write(dir.path().join("test_batch.bin"), record(&[1], 1)).unwrap();
        let error = cifar(dir.path(), Cifar::Cifar10, Part::Test).unwrap_err();
        assert!(error.to_string().contains("1 class names"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let test = || {
            cifar(dir.path(), Cifar::Cifar100, Part::Test)
                .unwrap_err()
                .to_string()
        };
        let error = test();
        assert!(error.contains("cifar-100-binary.tar.gz"), "{error}");

        fs::write(dir.path().join("test.bin"), vec![0; 3073]).unwrap();
        assert!(test().contains("multiple of the 3074"), "{}", test());
        fs::write(dir.path().join("test.bin"), b"").unwrap();
        assert!(test().contains("0 bytes"), "{}", test());
        fs::write(
            dir.path().join("test.bin"),
            [record(&[0, 1], 0), record(&[0, 100], 0)].concat(),
        )
        .unwrap();
        assert!(test().contains("record 1 has label 100"), "{}", test());
    }
}

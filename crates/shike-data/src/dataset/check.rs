//! What can be said about the files of a data set before an epoch begins.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::{Dataset, Source};
use crate::decode::{DecodeLimits, decode_file};
use crate::error::{DataError, Result};
use crate::read::{self, MAX_BYTES, open, read};
use crate::rng::{Draw, Purpose, rng};
use crate::verify::check_header;

/// How closely [`Dataset::check_files`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCheck {
    /// Asks the file system: a file that is missing, empty, or a folder.
    Exists,
    /// Reads the file as well: a format that is not read, too many pixels, a cut end, headers that
    /// make no sense.
    Header,
    /// Decodes it.
    Decode,
}

/// What [`Dataset::check_files`] found.
#[derive(Debug, Default)]
pub struct FileReport {
    /// Images that were looked at.
    pub checked: usize,
    /// Those that cannot be used, and why, in the order of the data set.
    pub bad: Vec<(usize, DataError)>,
}

/// The first images, and some at random, tell a wrong root before the others are looked at.
const FIRST: usize = 8;
const RANDOM: u64 = 32;

impl Dataset {
    /// Looks at every file, in parallel, until `budget` is spent; always at the first few and some
    /// random ones. Images in memory are good.
    ///
    /// # Errors
    /// [`DataError::Root`] if none of the first few and the random ones exists. Other bad images
    /// are part of the report.
    pub fn check_files(
        &self,
        check: FileCheck,
        limits: &DecodeLimits,
        budget: Option<Duration>,
    ) -> Result<FileReport> {
        let Source::Files { root, paths } = &*self.source else {
            let checked = self.len();
            return Ok(FileReport {
                checked,
                ..FileReport::default()
            });
        };
        let path = |i: usize| root.join(&paths[self.entries[i] as usize]);
        if self.is_empty() {
            return Ok(FileReport::default());
        }
        let sample = (0..self.len().min(FIRST)).chain((0..RANDOM).map(|k| {
            let n = u32::try_from(self.len()).unwrap_or(u32::MAX);
            rng(0, 0, k, Purpose::Other).below(n) as usize
        }));
        if sample.into_iter().all(|i| !path(i).exists()) {
            let first = &paths[self.entries[0] as usize];
            return Err(DataError::Root {
                root: root.clone(),
                first: first.clone(),
                images: self.len(),
                hint: hint(root, first),
            });
        }
        let started = Instant::now();
        let found: Vec<Option<Result<()>>> = (0..self.len())
            .into_par_iter()
            .map(|i| {
                let spent = budget.is_some_and(|budget| started.elapsed() > budget);
                (!spent).then(|| check_file(&path(i), check, limits))
            })
            .collect();
        let mut report = FileReport::default();
        for (i, result) in found.into_iter().enumerate() {
            report.checked += usize::from(result.is_some());
            if let Some(Err(error)) = result {
                report.bad.push((i, error));
            }
        }
        Ok(report)
    }

    /// How many files here equal one of `other` byte for byte, as far as `budget` reaches: sizes and
    /// beginnings are compared before whole files are read.
    pub fn files_also_in(&self, other: &Self, budget: Duration) -> usize {
        let started = Instant::now();
        let by_size = |data: &Self| {
            let files: Vec<_> = (0..data.len())
                .into_par_iter()
                .filter_map(|i| {
                    let path = data.file(i).filter(|_| started.elapsed() < budget)?;
                    let of = std::fs::metadata(&path).ok()?;
                    (of.is_file() && of.len() <= MAX_BYTES).then_some((of.len(), path))
                })
                .collect();
            let mut sizes: HashMap<u64, Vec<PathBuf>> = HashMap::new();
            for (size, path) in files {
                sizes.entry(size).or_default().push(path);
            }
            sizes
        };
        let (here, there) = (by_size(self), by_size(other));
        let equal = |(size, mine): (&u64, &Vec<PathBuf>)| {
            let theirs = there.get(size)?;
            let mut equal = mine.iter().collect::<Vec<_>>();
            for bytes in [BEGINNING, *size] {
                let digest = |path: &&PathBuf| match started.elapsed() < budget {
                    true => digest(path, bytes),
                    false => None,
                };
                let known: HashSet<u128> = theirs.iter().filter_map(|p| digest(&p)).collect();
                equal.retain(|path| digest(path).is_some_and(|own| known.contains(&own)));
                if equal.is_empty() {
                    return None;
                }
            }
            Some(equal.len())
        };
        here.par_iter().filter_map(equal).sum()
    }
}

/// Bytes by which files of one size mostly differ.
const BEGINNING: u64 = 4096;

/// A hash of the first bytes of a file.
fn digest(path: &Path, bytes: u64) -> Option<u128> {
    let mut start = Vec::new();
    let file = open(path).ok()?;
    file.take(bytes).read_to_end(&mut start).ok()?;
    Some(xxh3_128(&start))
}

fn check_file(path: &Path, check: FileCheck, limits: &DecodeLimits) -> Result<()> {
    let not_an_image = |problem: &str| DataError::NotAnImage {
        origin: path.display().to_string(),
        problem: problem.to_owned(),
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(_) if path.is_symlink() => {
            return Err(not_an_image("is a link to a file that is not there"));
        }
        Err(error) => return Err(DataError::io(path, error)),
    };
    if metadata.is_dir() {
        return Err(not_an_image("is a folder, not an image"));
    }
    if metadata.len() == 0 && metadata.is_file() {
        return Err(not_an_image("is empty (0 bytes)"));
    }
    if let Some(kind) = read::kind(&metadata) {
        return Err(not_an_image(&format!("is a {kind}, not an image")));
    }
    match check {
        FileCheck::Exists => Ok(()),
        FileCheck::Header => {
            let bytes = read(path).map_err(|e| DataError::io(path, e))?;
            check_header(&bytes, &path.display().to_string(), limits)
        }
        FileCheck::Decode => decode_file(path, limits).map(drop),
    }
}

/// The first of the folders in one.
fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    below.map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// Where the first image lies instead, if that is easily seen.
fn hint(root: &Path, first: &str) -> String {
    if !root.is_dir() {
        return "there is no such folder".into();
    }
    if first.contains('\\') {
        return r"the paths are written with `\`; write `/`".into();
    }
    let candidates = folders(root).take(100);
    let parent = root.parent().map(Path::to_owned);
    let mut candidates = candidates.chain(parent);
    if let Some(folder) = candidates.find(|folder| folder.join(first).exists()) {
        return format!("it lies below {}: give that", folder.display());
    }
    // ImageNet's validation images are published without class folders, and kept with and without.
    let first_path = Path::new(first);
    let (folder, name) = (
        first_path.parent(),
        first_path.file_name().unwrap_or_default(),
    );
    let shown = |path: &Path| {
        path.strip_prefix(root)
            .unwrap_or(path)
            .display()
            .to_string()
    };
    if let Some(folder) = folder.map(|folder| root.join(folder)) {
        let higher = folder.with_file_name(name);
        let deeper = folders(&folder).map(|class| class.join(name));
        let mut places = deeper.chain((folder != root).then_some(higher));
        if let Some(place) = places.find(|place| place.exists()) {
            return format!(
                "it lies in {}: move the images, or write the list with the folders that are there",
                shown(&place)
            );
        }
    }
    "paths of a list start at the root of the images".into()
}

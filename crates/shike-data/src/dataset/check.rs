//! What can be said about the files of a data set before an epoch begins.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::{Dataset, Raw};
use crate::decode::header::check_header;
use crate::decode::{DecodeLimits, decode_rgb};
use crate::error::{DataError, Result};
use crate::read::MAX_BYTES;
use crate::rng::{Draw, Purpose, rng};

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
        if self.is_empty() {
            return Ok(FileReport::default());
        }
        let sample = (0..self.len().min(FIRST)).chain((0..RANDOM).map(|k| {
            let n = u32::try_from(self.len()).unwrap_or(u32::MAX);
            rng(0, 0, k, Purpose::Other).below(n) as usize
        }));
        let is_missing = |root: &Path, i| {
            let path = self.relative_path(i).map(|path| root.join(path));
            path.is_some_and(|path| !path.exists())
        };
        if let (Some(root), Some(first)) = (self.root(), self.relative_path(0))
            && sample.into_iter().all(|i| is_missing(root, i))
        {
            return Err(DataError::Root {
                root: root.to_owned(),
                first: first.to_owned(),
                images: self.len(),
                hint: hint(root, first),
            });
        }
        let started = Instant::now();
        let found: Vec<Option<Result<()>>> = (0..self.len())
            .into_par_iter()
            .map(|i| {
                let spent = budget.is_some_and(|budget| started.elapsed() > budget);
                (!spent).then(|| self.check(i, check, limits))
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
                .filter(|_| started.elapsed() < budget)
                .filter_map(|i| Some((data.file_bytes(i).filter(|&n| n <= MAX_BYTES)?, i)))
                .collect();
            let mut sizes: HashMap<u64, Vec<usize>> = HashMap::new();
            for (size, i) in files {
                sizes.entry(size).or_default().push(i);
            }
            sizes
        };
        let (here, there) = (by_size(self), by_size(other));
        let equal = |(size, mine): (&u64, &Vec<usize>)| {
            let theirs = there.get(size)?;
            let mut equal = mine.clone();
            for bytes in [BEGINNING, *size] {
                let digest = |data: &Self, i| match started.elapsed() < budget {
                    true => data.digest(i, bytes),
                    false => None,
                };
                let known: HashSet<u128> =
                    theirs.iter().filter_map(|&i| digest(other, i)).collect();
                equal.retain(|&i| digest(self, i).is_some_and(|own| known.contains(&own)));
                if equal.is_empty() {
                    return None;
                }
            }
            Some(equal.len())
        };
        here.par_iter().filter_map(equal).sum()
    }

    /// A hash of the first bytes of a file.
    fn digest(&self, i: usize, bytes: u64) -> Option<u128> {
        let mut buffer = Vec::new();
        let raw = self.images.start(self.entry(i).ok()?, bytes, &mut buffer);
        let start = raw.ok()?;
        let start = start.bytes();
        Some(xxh3_128(&start[..start.len().min(bytes as usize)]))
    }

    fn check(&self, i: usize, check: FileCheck, limits: &DecodeLimits) -> Result<()> {
        self.images.check(self.entry(i)?)?;
        match check {
            FileCheck::Exists => Ok(()),
            FileCheck::Header => self.read(i, |raw, origin| match raw {
                Raw::Encoded(bytes) => check_header(bytes, origin, limits),
                Raw::Rgb { .. } => Ok(()),
            }),
            FileCheck::Decode => self.read(i, |raw, origin| match raw {
                Raw::Encoded(bytes) => decode_rgb(bytes, origin, limits).map(drop),
                Raw::Rgb { .. } => Ok(()),
            }),
        }
    }
}

/// Bytes by which files of one size mostly differ.
const BEGINNING: u64 = 4096;

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

//! What can be said about the files of a data set before an epoch begins.

use std::path::Path;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::{Dataset, Source};
use crate::decode::{DecodeLimits, decode_file};
use crate::error::{DataError, Result};
use crate::rng::{Draw, Purpose, rng};
use crate::verify::check_header;

/// How closely [`Dataset::check_files`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCheck {
    /// Asks the file system: a file that is missing, empty, or a folder.
    Exists,
    /// Reads the file as well: a format that is not read, too many pixels, a cut end.
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
    match check {
        FileCheck::Exists => Ok(()),
        FileCheck::Header => {
            let bytes = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
            check_header(&bytes, &path.display().to_string(), limits)
        }
        FileCheck::Decode => decode_file(path, limits).map(drop),
    }
}

/// Where the first image lies instead, if that is easily seen.
fn hint(root: &Path, first: &str) -> String {
    if !root.is_dir() {
        return "there is no such folder".into();
    }
    if first.contains('\\') {
        return r"the paths are written with `\`; write `/`".into();
    }
    let below = std::fs::read_dir(root).into_iter().flatten().flatten();
    let candidates = below.take(100).map(|entry| entry.path());
    let parent = root.parent().map(Path::to_owned);
    let mut candidates = candidates.chain(parent);
    match candidates.find(|folder| folder.join(first).exists()) {
        Some(folder) => format!("it lies below {}: give that", folder.display()),
        None => "paths of a list start at the root of the images".into(),
    }
}

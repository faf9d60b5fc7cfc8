//! What lies in folders: images, and what is left out, with the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::names::some_names;
use crate::decode::{CONVERT, FORMATS, NOT_READ, sniff};
use crate::error::{DataError, Result};
use crate::read::open;

/// Folders deeper than this are taken for a loop of links.
const MAX_DEPTH: usize = 32;

/// What a walk through folders did not take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Files by reason: the ending of an image format that is not read (`.heic`), `hidden` (folders
    /// too), `other`, `in no class folder` (images), `that cannot be read` (of images that were looked at).
    pub files: BTreeMap<String, usize>,
    /// Class folders without an image.
    pub empty_classes: Vec<String>,
    /// Folders beside `train` that are no part of the data set.
    pub folders: Vec<String>,
}

impl LeftOut {
    fn count(&mut self, reason: &str) {
        *self.files.entry(reason.to_owned()).or_default() += 1;
    }

    /// Whether everything was taken.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.empty_classes.is_empty() && self.folders.is_empty()
    }

    /// Images of formats that are not read.
    pub fn images_not_read(&self) -> usize {
        let formats = self
            .files
            .iter()
            .filter(|(reason, _)| reason.starts_with('.'));
        formats.map(|(_, count)| count).sum()
    }

    /// Adds images that were found damaged later.
    pub fn add_unreadable(&mut self, images: usize) {
        if images > 0 {
            *self.files.entry("that cannot be read".into()).or_default() += images;
        }
    }

    /// Adds what another walk left out.
    pub fn add(&mut self, other: Self) {
        for (reason, count) in other.files {
            *self.files.entry(reason).or_default() += count;
        }
        self.empty_classes.extend(other.empty_classes);
        self.folders.extend(other.folders);
    }
}

impl fmt::Display for LeftOut {
    /// Such as `skipped: 7 hidden, 2 other; class folders without an image: gnu`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.files.iter().collect();
        counts.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), *reason));
        let counts: Vec<String> = counts.iter().map(|(r, n)| format!("{n} {r}")).collect();
        let mut skipped = counts.join(", ");
        if self.images_not_read() > 0 {
            skipped = format!("{skipped} ({CONVERT})");
        }
        let parts = [
            ("skipped", skipped),
            (
                "class folders without an image",
                some_names(&self.empty_classes),
            ),
            (
                "folders that are not read beside `train`",
                some_names(&self.folders),
            ),
        ];
        let said = parts.iter().filter(|(_, what)| !what.is_empty());
        let said: Vec<String> = said.map(|(why, what)| format!("{why}: {what}")).collect();
        f.write_str(&said.join("; "))
    }
}

/// The paths of all images in `dir` and the folders in it, with `/` between their parts, sorted; and
/// what was left out. Whatever is read from a folder is found so.
///
/// # Errors
/// [`DataError::Io`]; [`DataError::File`] for a name that is not UTF-8, or a loop of links.
pub fn images_below(dir: &Path) -> Result<(Vec<String>, LeftOut)> {
    let (mut paths, mut left_out) = (Vec::new(), LeftOut::default());
    collect(dir, "", 0, &mut paths, &mut left_out)?;
    paths.sort_unstable();
    Ok((paths, left_out))
}

/// The reason for images that lie beside class folders.
pub(super) const OUTSIDE: &str = "in no class folder";

/// The names of the subfolders, sorted; the files beside them are left out.
pub(super) fn subfolders(dir: &Path, left_out: &mut LeftOut) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, path) in entries(dir, left_out)? {
        if !path.is_dir() {
            left_out.count(refused(&name, &path).unwrap_or(OUTSIDE));
            continue;
        }
        // Lists of names are read without such spaces, which nobody sees.
        if name.trim() != name {
            return Err(DataError::file(
                path,
                format!("the name {name:?} begins or ends with a space: rename the folder"),
            ));
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

/// Adds the images below `folder`, which is called `prefix` from the data set's own folder.
pub(super) fn collect(
    folder: &Path,
    prefix: &str,
    depth: usize,
    paths: &mut Vec<String>,
    left_out: &mut LeftOut,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(DataError::file(
            folder,
            format!("lies more than {MAX_DEPTH} folders deep; is a link a loop?"),
        ));
    }
    for (name, path) in entries(folder, left_out)? {
        let reason = refused(&name, &path);
        let relative = match prefix {
            "" => name,
            _ => format!("{prefix}/{name}"),
        };
        if path.is_dir() {
            collect(&path, &relative, depth + 1, paths, left_out)?;
        } else if let Some(reason) = reason {
            left_out.count(reason);
        } else {
            paths.push(relative);
        }
    }
    Ok(())
}

/// Whether a file is taken for an image by its name.
pub(super) fn is_image_name(name: &str) -> bool {
    reason(name).is_none()
}

/// Why a file is not taken for an image, told by its ending in any case; none if it is.
fn reason(name: &str) -> Option<&'static str> {
    let ending = Path::new(name).extension().unwrap_or_default();
    let is = |known: &&str| ending.eq_ignore_ascii_case(known.trim_start_matches('.'));
    if FORMATS.iter().any(|format| format.endings.iter().any(&is)) {
        return None;
    }
    Some(NOT_READ.iter().copied().find(is).unwrap_or("other"))
}

/// Why a file is not taken for an image. Where its name promises one of another format, or has no ending, what it holds
/// decides, as it does of a file that a list names.
fn refused(name: &str, path: &Path) -> Option<&'static str> {
    let reason = reason(name)?;
    let decides = NOT_READ.contains(&reason) || Path::new(name).extension().is_none();
    let holds_image = || {
        let mut start = Vec::new();
        let read = open(path).and_then(|file| file.take(64).read_to_end(&mut start));
        read.is_ok() && sniff(&start, name).is_ok()
    };
    (!(decides && !path.is_dir() && holds_image())).then_some(reason)
}

/// Name and path of what `dir` holds, hidden entries left out.
fn entries(dir: &Path, left_out: &mut LeftOut) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e| DataError::io(dir, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            return Err(DataError::file(
                path,
                "has a name that is not UTF-8; rename it",
            ));
        };
        match name.starts_with('.') {
            true => left_out.count("hidden"),
            false => found.push((name.to_owned(), path)),
        }
    }
    Ok(found)
}

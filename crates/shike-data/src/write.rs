//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A file that could not be written. The file that was there before is untouched.
#[derive(Debug, Error)]
#[error(
    "cannot write {}: {source}; {}",
    path.display(),
    if *.previous { "the previous file is untouched" } else { "no file was left behind" }
)]
pub struct WriteError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// Whether a file of that name is there, from before.
    pub previous: bool,
    /// What went wrong, such as a full disk.
    pub source: io::Error,
}

impl WriteError {
    fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.into(),
            previous: path.exists(),
            source,
        }
    }
}

/// Writes a file so that `path` never holds half of it: to `<name>.tmp-<pid>` in the same folder,
/// flushed to the disk, then renamed over `path`.
///
/// ```
/// use std::io::Write;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("config.json");
/// shike_data::write::atomic_write(&path, |writer| writer.write_all(b"{}"))?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// A [`WriteError`] if the folder is missing, the disk is full, or `write` fails. The temporary
/// file is then removed, and a previous file of that name is as it was.
pub fn atomic_write(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    replace(path, write).map_err(|source| WriteError::new(path, source))
}

/// Writes a file of these bytes by [`atomic_write`].
///
/// # Errors
///
/// As [`atomic_write`].
pub fn write_bytes(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), WriteError> {
    atomic_write(path, |writer| writer.write_all(bytes.as_ref()))
}

/// Whether [`atomic_write`] can write a file, to be asked before the work that it takes.
///
/// # Errors
///
/// A [`WriteError`] as it would be: the folder is missing or closed, or a folder is in the file's place.
pub fn can_write(path: &Path) -> Result<(), WriteError> {
    let tried = match path.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Temporary::beside(path).and_then(|file| File::create(&file.0).map(drop)),
    };
    tried.map_err(|source| WriteError::new(path, source))
}

fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let temporary = Temporary::beside(path)?;
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(&temporary.0)?);
    write(&mut writer)?;
    let file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    // An open file cannot be renamed everywhere.
    drop(file);
    fs::rename(&temporary.0, path)?;
    sync_folder(path);
    Ok(())
}

/// Makes the rename itself survive a power cut. A failure is no error: both the old and the new
/// file are complete, and not every file system can do it.
fn sync_folder(path: &Path) {
    if cfg!(unix) {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

/// Removes the temporary file on every way out; after the rename there is none left.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path names no file",
            ));
        };
        let mut temporary = name.to_owned();
        temporary.push(format!(".tmp-{}", std::process::id()));
        Ok(Self(path.with_file_name(temporary)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_is_known_before() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("old.csv"), "old").unwrap();
        fs::create_dir(at("folder.csv")).unwrap();
        can_write(&at("new.csv")).unwrap();
        can_write(&at("old.csv")).unwrap();
        for name in ["folder.csv", "gone/new.csv"] {
            let before = can_write(&at(name)).unwrap_err().to_string();
            let written = atomic_write(&at(name), |file| file.write_all(b"new"));
            let start = format!("cannot write {}: ", at(name).display());
            assert!(before.starts_with(&start), "{before}");
            assert!(written.unwrap_err().to_string().starts_with(&start));
        }
        assert_eq!(fs::read(at("old.csv")).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}

//! The one way in which files that a user named are opened.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Most bytes of a file that are read at once: 512 MiB.
pub const MAX_BYTES: u64 = 512 << 20;

/// Opens a regular file to read.
///
/// Anything else is refused before it is opened: a pipe lets its reader wait for ever, and a device
/// such as `/dev/zero` has no end. A folder gets the system's answer.
///
/// # Errors
/// The system's, and [`ErrorKind::InvalidInput`] for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let metadata = std::fs::metadata(path)?;
    match kind(&metadata) {
        Some(kind) => Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("is a {kind}; only regular files are read"),
        )),
        None => File::open(path),
    }
}

/// What else than a file or a folder this is.
pub(crate) fn kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_dir() {
        return None;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("pipe");
        }
        if kind.is_socket() {
            return Some("socket");
        }
    }
    Some("device")
}

/// Reads a regular file of at most [`MAX_BYTES`].
///
/// # Errors
/// As [`open`], and [`ErrorKind::FileTooLarge`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_into(path, &mut bytes)?;
    Ok(bytes)
}

/// Reads a file as [`read`] does into `bytes`, whose memory is used again.
pub(crate) fn read_into(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length <= MAX_BYTES {
        bytes.reserve(length as usize + 1);
        // A file may grow meanwhile.
        file.take(MAX_BYTES + 1).read_to_end(bytes)?;
        if bytes.len() as u64 <= MAX_BYTES {
            return Ok(());
        }
    }
    Err(io::Error::new(
        ErrorKind::FileTooLarge,
        format!(
            "has {} bytes, more than the {MAX_BYTES} that are read",
            length.max(bytes.len() as u64)
        ),
    ))
}

/// Most bytes of a line of a list, of names or of frequencies: more than any path has.
const MAX_LINE: usize = 64 << 10;

/// The first line (from 1) that is too long to be one, and what to say of it. Messages quote lines.
pub fn long_line(text: &[u8]) -> Option<(usize, String)> {
    let mut lines = text.split(|&byte| byte == b'\n').zip(1..);
    let (line, number) = lines.find(|(line, _)| line.len() > MAX_LINE)?;
    let problem = format!(
        "has {} bytes, more than the {MAX_LINE} of a line: is it another file?",
        line.len()
    );
    Some((number, problem))
}

/// Reads a text as [`read`] does.
///
/// # Errors
/// As [`read`], and [`ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "is not text in UTF-8"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_read_whole_and_folders_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "text");
        std::fs::write(&path, b"\xE9").unwrap();
        assert_eq!(read(&path).unwrap(), [0xE9]);
        let error = read_to_string(&path).unwrap_err();
        assert_eq!(error.to_string(), "is not text in UTF-8");
        assert_eq!(
            read(&dir.path().join("b")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            read(dir.path()).unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
    }

    #[test]
    fn a_file_without_an_end_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        File::create(&path).unwrap().set_len(20 << 30).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(
            error.to_string(),
            "has 21474836480 bytes, more than the 536870912 that are read"
        );
    }

    #[cfg(unix)]
    #[test]
    fn pipes_sockets_and_devices_are_refused_before_they_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, socket) = (dir.path().join("pipe"), dir.path().join("socket"));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link.jpg");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, kind) in [(pipe, "pipe"), (socket, "socket"), (link, "device")] {
            let error = read(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let wanted = format!("is a {kind}; only regular files are read");
            assert_eq!(error.to_string(), wanted);
        }
    }
}

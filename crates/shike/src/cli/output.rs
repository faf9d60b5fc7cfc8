//! What the program prints.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use shike_data::write::can_write;
use shike_train::run::RunPaths;
use shike_train::text::clean;

use super::{CliError, Status};

/// Says why a command failed, and gives the exit status.
pub fn exit(result: Result<Status, CliError>) -> ExitCode {
    let status = match result {
        Ok(status) => status,
        // A closed pipe is no error: the reader has what it wanted.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Status::Success
        }
        Err(error) => {
            say(&format!("error: {}", error.explain()));
            error.status()
        }
    };
    status.into()
}

/// Text on the screen, for people.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    print_line(&clean(text))
}

/// A JSON object a line, for programs.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print_line(&value.to_string())
}

/// A line on the standard output.
pub(super) fn print_line(line: &str) -> Result<(), CliError> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Whether a result can be written to `out`, asked before the work that it takes.
pub(super) fn writable(out: &Path) -> Result<(), CliError> {
    let (folder, shown) = (out.parent().unwrap_or(Path::new("")), out.display());
    let wrong = |problem: &str| Err(CliError::Usage(format!("{shown} {problem}")));
    if out.is_dir() {
        return wrong("is a folder: name a file");
    }
    if folder != Path::new("") && !folder.is_dir() {
        return wrong("cannot be written: its folder is not there");
    }
    let run = RunPaths::new(folder);
    if run.is_run() && run.owns(out) {
        return wrong("belongs to a run: choose another name");
    }
    match out.metadata() {
        Err(_) => Ok(can_write(out)?),
        // Nothing is tried of a pipe, or of a terminal.
        Ok(file) if file.is_file() => {
            let opened = File::options().append(true).open(out);
            opened.map(drop).map_err(CliError::file(out))
        }
        Ok(_) => Ok(()),
    }
}

/// A line on the standard error output; where that is closed, nobody reads it.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", clean(text));
}

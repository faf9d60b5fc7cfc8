//! `shike completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CliError, Status, print_line};

/// Print a script that completes commands and options in a shell.
///
/// Exit status: 0 printed, 1 error, 2 wrong arguments.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  shike completions bash > ~/.local/share/bash-completion/completions/shike
  shike completions fish > ~/.config/fish/completions/shike.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the script.
    pub(super) fn run(&self) -> Result<Status, CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "shike", &mut script);
        print_line(String::from_utf8_lossy(&script).trim_end())?;
        Ok(Status::Success)
    }
}

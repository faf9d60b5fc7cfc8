//! docs/OPTIONS.md is what the options are: `SHIKE_BLESS=1 cargo test --test reference` writes it anew.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};
use shike::cli::Cli;

const HEAD: &str = "\
# Commands and options

<!-- Written from the program by `SHIKE_BLESS=1 cargo test --test reference`; a test compares it. -->

`shike COMMAND --help` prints the same.
";

fn reference() -> String {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut text = HEAD.to_owned();
    for command in program.get_subcommands_mut() {
        let usage = command.render_usage().to_string().replace("Usage: ", "");
        let about = command.get_long_about().or(command.get_about());
        let about = about.unwrap().to_string();
        write!(
            text,
            "\n## shike {}\n\n{about}\n\n```text\n{usage}\n```\n",
            command.get_name()
        )
        .unwrap();
        options(&mut text, command);
        if let Some(after) = command.get_after_help() {
            let after = after.to_string();
            let (title, lines) = after.split_once('\n').unwrap();
            write!(text, "\n{title}\n\n```text\n{}\n```\n", unindented(lines)).unwrap();
        }
    }
    text
}

fn unindented(lines: &str) -> String {
    let lines = lines.lines();
    let lines: Vec<&str> = lines.map(|l| l.strip_prefix("  ").unwrap_or(l)).collect();
    lines.join("\n")
}

fn options(text: &mut String, command: &Command) {
    let shown =
        |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let args: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    let mut headings: Vec<Option<&str>> = vec![None];
    for arg in &args {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            write!(text, "\n### {heading}\n").unwrap();
        }
        text.push('\n');
        for arg in args.iter().filter(|arg| arg.get_help_heading() == heading) {
            option(text, arg);
        }
    }
}

fn option(text: &mut String, arg: &Arg) {
    let help = arg.get_long_help().or(arg.get_help()).unwrap().to_string();
    write!(text, "- `{arg}`: {}", help.replace('\n', " ")).unwrap();
    let defaults: Vec<_> = arg.get_default_values().iter().collect();
    if let ([default], true) = (defaults.as_slice(), arg.get_action().takes_values()) {
        write!(text, " [default: {}]", default.to_string_lossy()).unwrap();
    }
    text.push('\n');
    if !arg.get_action().takes_values() {
        return;
    }
    for value in arg.get_possible_values() {
        match value.get_help() {
            Some(help) => writeln!(text, "  - `{}`: {help}", value.get_name()).unwrap(),
            None => writeln!(text, "  - `{}`", value.get_name()).unwrap(),
        }
    }
}

#[test]
fn the_reference_of_options_is_true() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/OPTIONS.md");
    let text = reference();
    if std::env::var_os("SHIKE_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == text,
        "docs/OPTIONS.md is stale: SHIKE_BLESS=1 cargo test --test reference writes it anew"
    );
}

#[test]
fn every_option_and_command_says_what_it_is() {
    let mut program = Cli::command();
    program.build();
    for command in program.get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{} {arg}", command.get_name());
        }
    }
}

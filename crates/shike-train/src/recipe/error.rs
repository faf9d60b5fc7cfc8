//! What is wrong with a recipe, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use thiserror::Error;

use crate::config::TrainConfigError;

/// Where a value of a recipe stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// In an assignment that has set it, `PATH=VALUE`.
    Option(String),
}

impl Place {
    pub(super) fn line(file: &Path, line: usize) -> Self {
        Self::Line {
            file: file.to_owned(),
            line,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Option(text) => f.write_str(text),
        }
    }
}

/// A recipe that no run can be made of.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A configuration cannot be written as a recipe.
    #[error("no recipe can be written: {problem}")]
    Write {
        /// What is in the way.
        problem: String,
    },
    /// It is no TOML.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong.
        problem: String,
    },
    /// A field that does not exist.
    #[error("{place}: unknown field `{field}` {}: {}", of(table), names.hint())]
    UnknownField {
        /// Where.
        place: Place,
        /// Its name.
        field: String,
        /// The table that it stands in; empty for the recipe itself.
        table: String,
        /// What would be right.
        names: Box<Names>,
    },
    /// A name that is none of those that a field can have.
    #[error("{place}: {path} = {found:?}: {}", names.hint())]
    UnknownValue {
        /// Where.
        place: Place,
        /// The field.
        path: String,
        /// What it is.
        found: String,
        /// What would be right.
        names: Box<Names>,
    },
    /// A field without which a table means nothing.
    #[error("{place}: {} needs the field `{field}`", table_name(table))]
    Missing {
        /// Where the table begins.
        place: Place,
        /// The table; empty for the recipe itself.
        table: String,
        /// The field.
        field: String,
    },
    /// A value of the wrong type, or one that is otherwise not possible.
    #[error("{place}: {path}: {problem}")]
    Value {
        /// Where.
        place: Place,
        /// The field.
        path: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A value that no run can have.
    #[error("{place}: {source}")]
    Config {
        /// Where the field is set, or the table that lacks it.
        place: Place,
        /// The field, and what would be right.
        source: Box<TrainConfigError>,
    },
}

/// Names that would be right instead of one that is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The one that is most like it.
    pub nearest: Option<String>,
    /// All of them.
    pub known: Vec<String>,
    /// Those of the table's kinds that have such a field, where the chosen one has not.
    pub kinds: Vec<String>,
}

impl Names {
    fn hint(&self) -> String {
        match &self.nearest {
            Some(name) => format!("did you mean `{name}`?"),
            None if !self.kinds.is_empty() => match self.kinds.as_slice() {
                [kind] => format!("only the kind {kind} has it"),
                kinds => format!("only the kinds {} have it", kinds.join(", ")),
            },
            None => format!("it must be one of {}", self.known.join(", ")),
        }
    }
}

fn of(table: &str) -> String {
    match table {
        "" => "in a recipe".into(),
        table => format!("in [{table}]"),
    }
}

fn table_name(table: &str) -> String {
    match table {
        "" => "a recipe".into(),
        table => format!("[{table}]"),
    }
}

/// The one of `names` that `name` was probably meant to be.
pub(super) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' ', '.'], "_");
    let wanted = plain(name);
    let alike = |other: &str| strsim::jaro_winkler(&wanted, other);
    // Fewest slips of the keyboard first, then the longest common beginning.
    let score =
        |other: &str| strsim::normalized_damerau_levenshtein(&wanted, other) + 0.01 * alike(other);
    let plain = names.into_iter().map(|other| (plain(other), other));
    let close = plain.filter(|(name, _)| alike(name) >= 0.8);
    let best = close.min_by(|(a, _), (b, _)| score(b).total_cmp(&score(a)));
    best.map(|(_, other)| other.to_owned())
}

/// A value that is of the wrong type, in the words of TOML.
pub(super) fn in_words(kind: &Kind) -> String {
    let (Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected)) = kind else {
        return kind.to_string();
    };
    let found = match found {
        Actual::Bool(value) => format!("boolean `{value}`"),
        Actual::Unsigned(number) => format!("integer `{number}`"),
        Actual::Signed(number) => format!("integer `{number}`"),
        Actual::Seq => "a list".into(),
        Actual::Map => "a table".into(),
        other => other.to_string(),
    };
    let expected = match expected.as_str() {
        "usize" | "u64" | "u32" | "u8" | "u16" => "a whole number, 0 or more",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        "a string" | "path string" => "text in quotes",
        other if other.starts_with("struct ") => "a table",
        other if other.contains("tagged enum") => "a table with its `kind`",
        other => other,
    };
    format!("it is {found}, but must be {expected}")
}

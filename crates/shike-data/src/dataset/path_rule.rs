//! What a path tells beside where a file lies.

use std::fmt;
use std::str::FromStr;

use regex::Regex;

/// A part of a path that says something of an image: a folder, or what a regular expression finds.
///
/// As text `2` or `(site\d+)`.
#[derive(Clone, Debug)]
pub enum PathRule {
    /// A folder, from 1: of `cat/site 3/1.jpg`, `site 3` is the second.
    Folder(usize),
    /// The first group of a regular expression.
    Pattern(Regex),
}

impl PathRule {
    /// What the path says; none if it has no such folder, or the expression does not match.
    pub fn of<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self {
            Self::Folder(number) => {
                let (folders, _) = path.rsplit_once('/')?;
                let mut folders = folders.split('/').filter(|name| !name.is_empty());
                folders.nth(number - 1)
            }
            Self::Pattern(pattern) => Some(pattern.captures(path)?.get(1)?.as_str()),
        }
    }
}

impl PartialEq for PathRule {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for PathRule {}

impl FromStr for PathRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(0) => return Err("folders of a path are counted from 1".into()),
            Ok(folder) => return Ok(Self::Folder(folder)),
            Err(_) => {}
        }
        let pattern = Regex::new(text).map_err(|error| error.to_string())?;
        match pattern.captures_len() {
            0 | 1 => Err(format!(
                "{text:?} has no group: put what is meant into parentheses, as in path:(site\\d+)"
            )),
            _ => Ok(Self::Pattern(pattern)),
        }
    }
}

impl fmt::Display for PathRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(number) => number.fmt(f),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

//! What a user writes for weights.

use std::fmt;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

use crate::HubError;

/// Weights that a short name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The short name, such as `dinov2-s14`.
    pub name: &'static str,
    /// The repository of the hub that has them, `owner/name`.
    pub repository: &'static str,
    /// Its branch, tag or commit.
    pub revision: &'static str,
    /// The file in it.
    pub file: &'static str,
    /// The same weights in other files of the hub, `(repository, file)` at `main`: used where they are in its cache,
    /// never downloaded.
    pub also: &'static [(&'static str, &'static str)],
    /// Names under which torch.hub and torchvision keep them, such as `resnet50-11ad3fa6.pth`.
    pub checkpoints: &'static [&'static str],
    /// Their licence as an SPDX identifier, such as `Apache-2.0`.
    pub licence: &'static str,
}

/// Where weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `none`: random weights.
    None,
    /// A file or folder of the user's.
    Path(PathBuf),
    /// A short name, or a file of the hub.
    Wanted(Wanted),
}

/// A file of the hub, and what else has the same weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As it was written.
    pub(crate) text: String,
    pub(crate) repository: String,
    pub(crate) revision: String,
    /// The first one that the repository has.
    pub(crate) files: Vec<String>,
    pub(crate) also: Vec<(String, String)>,
    pub(crate) checkpoints: Vec<String>,
}

/// The revision of a repository when none is named.
pub(crate) const MAIN: &str = "main";

/// What is looked for in a repository of which no file is named.
const FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

const HUB: &str = "hf:";
const FORM: &str = "hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME@REVISION:FILE";

impl Source {
    /// Reads `none`, a short name of `names`, `hf:OWNER/NAME[@REVISION][:FILE]`, or a path. A short name goes before a
    /// file of the same name, which `./NAME` reaches.
    ///
    /// # Errors
    /// [`HubError::Written`] says what would be right.
    pub fn parse(text: &str, names: &[Known]) -> Result<Self, HubError> {
        let problem = |problem| HubError::Written {
            text: text.into(),
            problem,
        };
        if text == "none" {
            return Ok(Self::None);
        }
        if let Some(known) = names.iter().find(|known| known.name == text) {
            return Ok(Self::Wanted(known.into()));
        }
        if let Some(rest) = text.strip_prefix(HUB) {
            return Ok(Self::Wanted(wanted(rest).map_err(problem)?));
        }
        if text.contains("://") {
            let right = format!("addresses are not taken; a file of the hub is {FORM}");
            return Err(problem(right));
        }
        if is_path(text) {
            return Ok(Self::Path(text.into()));
        }
        Err(problem(unknown(text, names)))
    }
}

/// Whether it can only be meant as a path, or is one of something that is there.
fn is_path(text: &str) -> bool {
    let path = Path::new(text);
    let written = text.contains(['/', MAIN_SEPARATOR]) || path.extension().is_some();
    !text.is_empty() && (written || path.exists())
}

fn unknown(text: &str, names: &[Known]) -> String {
    let alike = |known: &&Known| strsim::normalized_damerau_levenshtein(known.name, text);
    let nearest = names.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    let mut message = match nearest {
        Some(known) if alike(&known) > 0.5 => format!("did you mean `{}`? ", known.name),
        _ => String::new(),
    };
    let names: Vec<&str> = names.iter().map(|known| known.name).collect();
    if !names.is_empty() {
        message += &format!("Names are {}. ", names.join(", "));
    }
    message + &format!("Otherwise: none, the path of a file that is there, or {FORM}")
}

/// `OWNER/NAME[@REVISION][:FILE]`.
pub(crate) fn wanted(rest: &str) -> Result<Wanted, String> {
    let (repository, file) = match rest.split_once(':') {
        Some((repository, file)) => (repository, Some(file)),
        None => (rest, None),
    };
    let (repository, revision) = repository.split_once('@').unwrap_or((repository, MAIN));
    let word = |word: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let (plain, len) = (word.chars().all(known), word.len());
        let apart = word.starts_with('.') || word.contains("--") || word.contains("..");
        plain && (1..=96).contains(&len) && !apart
    };
    match repository.split_once('/') {
        Some((owner, name)) if word(owner) && word(name) => {}
        _ => return Err(format!("`{repository}` is not OWNER/NAME; right is {FORM}")),
    }
    // Both become paths below the cache's folder.
    let path = |path: &str| {
        let part = |part: &str| !matches!(part, "" | "." | "..");
        let odd = |c: char| c.is_control() || c.is_whitespace() || "\\:*?\"<>|@".contains(c);
        path.split('/').all(part) && !path.contains(odd)
    };
    if !path(revision) {
        return Err(format!(
            "`{revision}` is no revision: a branch, a tag or a commit is; right is {FORM}"
        ));
    }
    if let Some(file) = file.filter(|file| !path(file)) {
        return Err(format!(
            "`{file}` is no file of a repository, such as model.safetensors; right is {FORM}"
        ));
    }
    Ok(Wanted {
        text: format!("{HUB}{rest}"),
        repository: repository.into(),
        revision: revision.into(),
        files: match file {
            Some(file) => vec![file.into()],
            None => FILES.map(String::from).into(),
        },
        also: vec![],
        checkpoints: vec![],
    })
}

impl From<&Known> for Wanted {
    fn from(known: &Known) -> Self {
        let also = known.also.iter();
        Self {
            text: known.name.into(),
            repository: known.repository.into(),
            revision: known.revision.into(),
            files: vec![known.file.into()],
            also: also.map(|&(a, b)| (a.into(), b.into())).collect(),
            checkpoints: known.checkpoints.iter().map(|&c| c.into()).collect(),
        }
    }
}

impl Wanted {
    /// The repository of the hub, `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The file that is downloaded, if the repository has it.
    pub fn file(&self) -> &str {
        &self.files[0]
    }

    /// The address of a file at a hub.
    pub(crate) fn url(&self, endpoint: &str, file: &str) -> String {
        let (repository, revision) = (&self.repository, escaped(&self.revision, ""));
        let file = escaped(file, "/");
        format!("{endpoint}/{repository}/resolve/{revision}/{file}")
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.starts_with(HUB) {
            return f.write_str(&self.text);
        }
        let (file, repository) = (self.file(), &self.repository);
        write!(f, "{} ({file} of {repository})", self.text)
    }
}

/// Percent signs for all but letters, digits, `-_.~` and what is in `kept`.
fn escaped(text: &str, kept: &str) -> String {
    let one = |byte: u8| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-_.~".contains(c) || kept.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

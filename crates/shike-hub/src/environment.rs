//! Environment variables, and the folders that they name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::HubError;
use crate::cache::{Place, Repository, is_hex};
use crate::source::{MAIN, Wanted};

const TOKENS: [&str; 2] = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// All variables that are read.
const VARIABLES: [&str; 11] = [
    TOKENS[0],
    TOKENS[1],
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HUGGINGFACE_HUB_CACHE",
    "SSL_CERT_FILE",
    "TORCH_HOME",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
];

/// The home folder and those environment variables that say where weights are.
#[derive(Clone)]
pub struct Environment {
    home: Option<PathBuf>,
    variables: BTreeMap<&'static str, OsString>,
    /// Whether proxies are those of the process.
    pub(crate) proxies: bool,
}

impl Environment {
    /// That of this process, with its proxies (`HTTPS_PROXY` and its like).
    pub fn of_process() -> Self {
        let variable = |name| std::env::var_os(name).map(|value| (name, value));
        let variables: Vec<_> = VARIABLES.into_iter().filter_map(variable).collect();
        Self {
            proxies: true,
            ..Self::new(std::env::home_dir(), variables)
        }
    }

    /// One that is made up: nothing of the process counts. Variables that are not read are left out.
    pub fn new<'a>(
        home: Option<PathBuf>,
        variables: impl IntoIterator<Item = (&'a str, impl AsRef<OsStr>)>,
    ) -> Self {
        let variables = variables.into_iter().filter_map(|(name, value)| {
            let name = VARIABLES.into_iter().find(|read| *read == name)?;
            // An empty variable is as good as none.
            let value = Some(value.as_ref()).filter(|value| !value.is_empty())?;
            Some((name, value.to_owned()))
        });
        Self {
            home,
            variables: variables.collect(),
            proxies: false,
        }
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, HubError> {
        let Some(value) = self.variables.get(name) else {
            return Ok(None);
        };
        let text = value.to_str().ok_or(HubError::Variable {
            variable: name,
            problem: "is not UTF-8".into(),
        })?;
        Ok(Some(text.trim()))
    }

    /// A folder; `~` is the home folder, as in Python's libraries.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        let path = Path::new(self.variables.get(name)?);
        match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path.to_owned()),
        }
    }

    fn caches(&self) -> Option<PathBuf> {
        let home = || Some(self.home.as_ref()?.join(".cache"));
        self.path("XDG_CACHE_HOME").or_else(home)
    }

    /// The hub's cache.
    pub(crate) fn hub_cache(&self) -> Option<PathBuf> {
        let home = || {
            self.path("HF_HOME")
                .or(Some(self.caches()?.join("huggingface")))
        };
        let named = self.path("HF_HUB_CACHE");
        let named = named.or_else(|| self.path("HUGGINGFACE_HUB_CACHE"));
        named.or_else(|| Some(home()?.join("hub")))
    }

    /// Where torch.hub and torchvision keep what they downloaded.
    pub(crate) fn checkpoints(&self) -> Option<PathBuf> {
        let home = self.path("TORCH_HOME");
        let home = home.or_else(|| Some(self.caches()?.join("torch")));
        Some(home?.join("hub").join("checkpoints"))
    }

    /// Files that would do, in their order.
    pub(crate) fn candidates(&self, wanted: &Wanted) -> Vec<(Place, PathBuf)> {
        let mut out = vec![];
        if let Some(cache) = self.hub_cache() {
            let own = wanted
                .files
                .iter()
                .map(|file| (&wanted.repository, &*wanted.revision, file));
            let also = wanted
                .also
                .iter()
                .map(|(repository, file)| (repository, MAIN, file));
            for (name, revision, file) in own.chain(also) {
                let repository = Repository::new(&cache, name);
                let Some(commit) = repository.commit(revision) else {
                    continue;
                };
                let path = repository.snapshot(&commit, file);
                let (repository, file) = (name.clone(), file.clone());
                out.push((
                    Place::Hub {
                        repository,
                        commit,
                        file,
                    },
                    path,
                ));
            }
        }
        if let Some(folder) = self.checkpoints() {
            let files = wanted.checkpoints.iter();
            out.extend(files.map(|file| (Place::Torch, folder.join(file))));
        }
        out
    }

    /// The hub's address, without a slash at its end.
    pub(crate) fn endpoint(&self) -> Result<String, HubError> {
        let variable = "HF_ENDPOINT";
        let endpoint = self.text(variable)?.unwrap_or("https://huggingface.co");
        let rest = endpoint.strip_prefix("https://");
        let rest = rest.or_else(|| endpoint.strip_prefix("http://"));
        let plain = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
        let odd = |c: char| c.is_whitespace() || c.is_control() || "?#@".contains(c);
        if !rest.is_some_and(plain) || endpoint.contains(odd) {
            return Err(HubError::Variable {
                variable,
                problem: format!(
                    "is `{endpoint}`; right is an address such as https://huggingface.co"
                ),
            });
        }
        Ok(endpoint.trim_end_matches('/').to_owned())
    }

    /// Whether nothing may be downloaded.
    pub fn offline(&self) -> bool {
        let on = |name| {
            let value = self.variables.get(name).and_then(|value| value.to_str());
            let value = value.unwrap_or_default().to_ascii_uppercase();
            matches!(&*value, "1" | "ON" | "YES" | "TRUE")
        };
        on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE")
    }

    /// The variable that holds a token, and the token. It is in no message and in no file.
    pub(crate) fn token(&self) -> Result<Option<(&'static str, &str)>, HubError> {
        for variable in TOKENS {
            let token = self.text(variable)?.unwrap_or_default();
            if token.contains(|c: char| !c.is_ascii_graphic()) {
                let problem = "holds characters that no token has".into();
                return Err(HubError::Variable { variable, problem });
            }
            if !token.is_empty() {
                return Ok(Some((variable, token)));
            }
        }
        Ok(None)
    }
}

/// A token is left out.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.variables.iter().map(|(name, value)| match name {
            name if TOKENS.contains(name) => (*name, OsStr::new("(not shown)")),
            name => (*name, value.as_os_str()),
        });
        f.debug_map()
            .entry(&"home", &self.home)
            .entry(&"proxies of the process", &self.proxies)
            .entries(shown)
            .finish()
    }
}

/// A commit's name in full.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

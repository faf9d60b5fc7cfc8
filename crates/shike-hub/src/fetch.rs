//! Downloads into the hub's cache.

#[cfg(test)]
mod tests;

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use crate::cache::{self, Found, Place, Repository, is_sha256, sha256};
use crate::environment::is_commit;
use crate::{ByHand, Environment, Event, Hub, HubError, Wanted};

/// Repetitions of a request that was cut, or that the server could not answer for the moment.
const REPETITIONS: u32 = 5;

/// Before the first repetition; the second waits twice as long.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 1000 });

/// Redirections that are followed.
const REDIRECTIONS: usize = 10;

/// Downloads the first of the files that the repository has.
pub(crate) fn fetch(
    hub: &Hub,
    wanted: &Wanted,
    each: &mut dyn FnMut(Event),
) -> Result<Found, HubError> {
    let cache = hub.environment.hub_cache().ok_or(HubError::Variable {
        variable: "HF_HOME",
        problem: "is not set and there is no home folder: set it to the folder for the hub's cache"
            .into(),
    })?;
    let repository = Repository::new(&cache, &wanted.repository);
    let name = repository.folder.file_name().unwrap_or_default();
    let mut fetch = Fetch {
        hub,
        wanted,
        file: wanted.file(),
        agent: agent(&hub.environment)?,
        token: hub.environment.token()?,
        locks: cache.join(".locks").join(name),
        repository,
    };
    for file in &wanted.files {
        fetch.file = file;
        match fetch.patiently(each) {
            Err(HubError::Absent {
                missing: "file", ..
            }) => {}
            done => return done,
        }
    }
    Err(fetch.absent("file", &wanted.files.join(" or ")))
}

/// `ureq` with the time limits, proxies and certificates of an environment.
fn agent(environment: &Environment) -> Result<Agent, HubError> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_per_read(Some(Duration::from_secs(30)))
        .user_agent(concat!("shike-hub/", env!("CARGO_PKG_VERSION")));
    if !environment.proxies {
        config = config.proxy(None);
    }
    if let Some(roots) = roots(environment)? {
        config = config.tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build());
    }
    Ok(config.build().new_agent())
}

/// Certificates of a network that reads what is encrypted, in place of Mozilla's.
fn roots(environment: &Environment) -> Result<Option<ureq::tls::RootCerts>, HubError> {
    use ureq::tls::{PemItem, parse_pem};

    let Some(path) = environment.path("SSL_CERT_FILE") else {
        return Ok(None);
    };
    let pem = fs::read(&path).map_err(|source| cache::io(&path, source))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() {
        return Err(HubError::Variable {
            variable: "SSL_CERT_FILE",
            problem: format!("names {}, in which is no certificate (PEM)", path.display()),
        });
    }
    Ok(Some(certificates.into()))
}

/// One file of a repository.
struct Fetch<'a> {
    hub: &'a Hub,
    wanted: &'a Wanted,
    file: &'a str,
    agent: Agent,
    token: Option<(&'static str, &'a str)>,
    repository: Repository,
    locks: PathBuf,
}

/// What the hub says of a file.
struct Head {
    /// Where its bytes are.
    url: String,
    commit: String,
    /// Names the content; of large files it is the SHA-256.
    etag: String,
    size: Option<u64>,
}

impl Head {
    fn sha256(&self) -> Option<&str> {
        Some(&*self.etag).filter(|etag| is_sha256(etag))
    }

    /// Whether a file is this one; where the etag is no checksum, by its size.
    fn is(&self, path: &Path) -> Result<bool, HubError> {
        let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
        if len == 0 || self.size.is_some_and(|size| size != len) {
            return Ok(false);
        }
        let wanted = self.sha256();
        Ok(wanted.is_none() || wanted == Some(&*sha256(path)?))
    }
}

impl Fetch<'_> {
    /// Again, if the server could not answer for the moment.
    fn patiently(&self, each: &mut dyn FnMut(Event)) -> Result<Found, HubError> {
        let mut failed = 0;
        loop {
            let again = |error: &HubError| failed < REPETITIONS && passes(error, failed > 0);
            match self.once(each) {
                Err(error) if again(&error) => {
                    std::thread::sleep(PAUSE * 2_u32.pow(failed));
                    failed += 1;
                }
                done => return done,
            }
        }
    }

    fn once(&self, each: &mut dyn FnMut(Event)) -> Result<Found, HubError> {
        let head = self.head()?;
        let Head { commit, etag, .. } = &head;
        let (blob, pointer) = (self.blob(etag), self.repository.snapshot(commit, self.file));
        let lock = self.locks.join(format!("{etag}.lock"));
        for path in [&blob, &pointer, &lock] {
            make_folder_of(path)?;
        }
        let _alone = locked(&lock, each)?;
        // Where there are no links, the file itself lies in the snapshot.
        if !head.is(&pointer)? {
            if !head.is(&blob)? {
                let incomplete = self.blob(&format!("{etag}.incomplete"));
                self.download(&head, &incomplete, each)?;
                fs::rename(&incomplete, &blob).map_err(|source| cache::io(&blob, source))?;
            }
            link(&blob, &pointer, self.file).map_err(|source| cache::io(&pointer, source))?;
        }
        if !is_commit(&self.wanted.revision) {
            let reference = self.repository.reference(&self.wanted.revision);
            make_folder_of(&reference)?;
            let written = replace(&reference, |path| fs::write(path, commit));
            written.map_err(|source| cache::io(&reference, source))?;
        }
        let place = Place::Hub {
            repository: self.wanted.repository.clone(),
            commit: commit.clone(),
            file: self.file.into(),
        };
        let found = Found::at(pointer.clone(), place)?;
        found.ok_or_else(|| cache::io(&pointer, ErrorKind::NotFound.into()))
    }

    /// Asks for the file's commit, etag and size. The token goes to the hub alone.
    fn head(&self) -> Result<Head, HubError> {
        let mut url = self.url();
        for _ in 0..REDIRECTIONS {
            let request = self.agent.head(&url).config().max_redirects(0).build();
            let answer = self.send(request, &url)?;
            let etag = header(&answer, "x-linked-etag").or(header(&answer, "etag"));
            let (commit, etag) = (header(&answer, "x-repo-commit"), etag.map(plain_etag));
            let mut size = header(&answer, "x-linked-size");
            if answer.status().is_redirection() {
                let next = header(&answer, "location").and_then(|to| resolved(&url, to));
                url = next.ok_or_else(|| self.no_hub("it redirects to no address"))?;
                // To another name of the repository, or a mirror's to its hub. A large file has its etag here, and its
                // bytes elsewhere.
                if self.is_hub(&url) || commit.is_none() || etag.is_none() {
                    continue;
                }
            } else if answer.status() == 200 {
                size = size.or(header(&answer, "content-length"));
            } else {
                return Err(self.refused(&answer, &url));
            }
            let commit = commit.filter(|commit| is_commit(commit));
            let commit = commit.ok_or_else(|| self.no_hub("it names no commit"))?;
            // It becomes the name of a file.
            let name = |etag: &&str| {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
                (1..=128).contains(&etag.len()) && etag.chars().all(plain)
            };
            let etag = etag
                .filter(name)
                .ok_or_else(|| self.no_hub("it has no etag"))?;
            let size = size.and_then(|size| size.parse().ok());
            if size == Some(0) {
                return Err(self.no_hub("the file is empty"));
            }
            let (commit, etag) = (commit.to_owned(), etag.to_owned());
            return Ok(Head {
                url,
                commit,
                etag,
                size,
            });
        }
        Err(self.no_hub("it redirects again and again"))
    }

    /// Makes `path` the whole file, on the disk. What is in it already is gone on from, where a checksum shows
    /// afterwards that it belonged to the file.
    fn download(
        &self,
        head: &Head,
        path: &Path,
        each: &mut dyn FnMut(Event),
    ) -> Result<(), HubError> {
        let mut options = File::options();
        let opened = options.create(true).write(true).truncate(false).open(path);
        let mut file = opened.map_err(|source| cache::io(path, source))?;
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        let mut done = match (head.sha256(), head.size) {
            (Some(_), Some(size)) if len <= size => len,
            _ => 0,
        };
        let resumed = done > 0;
        if head.size.is_none_or(|size| done < size) {
            self.receive(head, path, &mut file, &mut done, each)?;
        }
        file.sync_all().map_err(|source| cache::io(path, source))?;
        drop(file);
        let Some(wanted) = head.sha256() else {
            return Ok(());
        };
        let found = sha256(path)?;
        if found != wanted {
            let _ = fs::remove_file(path);
            let part = ["", ", of which a part was here,"][usize::from(resumed)];
            let problem = format!("the SHA-256 of the file{part} is {found}, not {wanted}");
            return Err(self.spoilt(problem));
        }
        Ok(())
    }

    /// Writes what is behind the first `done` bytes.
    fn receive(
        &self,
        head: &Head,
        path: &Path,
        file: &mut File,
        done: &mut u64,
        each: &mut dyn FnMut(Event),
    ) -> Result<(), HubError> {
        let mut request = self.agent.get(&head.url);
        if *done > 0 {
            request = request.header("Range", format!("bytes={done}-"));
        }
        let mut answer = self.send(request, &head.url)?;
        let cut = |done, total, source| HubError::Cut {
            done,
            total,
            kept: path.to_owned(),
            source,
        };
        if header(&answer, "x-repo-commit").is_some_and(|commit| commit != head.commit) {
            return Err(self.spoilt("the repository has changed meanwhile".into()));
        }
        let length = header(&answer, "content-length");
        let length = length.and_then(|length| length.parse::<u64>().ok());
        // `bytes 10-99/100`
        let range = header(&answer, "content-range").and_then(|range| range.strip_prefix("bytes "));
        let right = range.is_some_and(|range| range.starts_with(&format!("{done}-")));
        let start = match answer.status().as_u16() {
            206 if right => *done,
            // All of it, whether a part was asked for or not.
            200 => 0,
            206 | 416 => {
                file.set_len(0).map_err(|source| cache::io(path, source))?;
                let problem = io::Error::other("another part came than was asked for");
                return Err(cut(0, head.size.unwrap_or(0), problem));
            }
            _ => return Err(self.refused(&answer, &head.url)),
        };
        let total = length.map(|length| start.saturating_add(length));
        let total = total.or(head.size);
        let total = total.ok_or_else(|| self.no_hub("it tells no length"))?;
        if let Some(size) = head.size.filter(|size| *size != total) {
            return Err(self.spoilt(format!("{total} bytes are sent of {size}")));
        }
        *done = start;
        let write = |done: u64, source| no_space(path, total - done, source);
        let at_start = file.seek(SeekFrom::Start(start));
        // What an earlier try left is not to be behind the end. A device, which has no end, stays as it is.
        let cleared = at_start.and_then(|_| match file.metadata()?.len() > start {
            true => file.set_len(start),
            false => Ok(()),
        });
        cleared.map_err(|source| write(start, source))?;

        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 18];
        each(Event::Bytes { done: *done, total });
        while *done < total {
            let room = (total - *done).min(buffer.len() as u64) as usize;
            let read = match body.read(&mut buffer[..room]) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            let read = read.map_err(|source| cut(*done, total, source))?;
            file.write_all(&buffer[..read])
                .map_err(|source| write(*done, source))?;
            *done += read as u64;
            each(Event::Bytes { done: *done, total });
        }
        Ok(())
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.repository.folder.join("blobs").join(name)
    }

    fn url(&self) -> String {
        self.wanted.url(&self.hub.endpoint, self.file)
    }

    fn by_hand(&self) -> ByHand {
        self.hub.by_hand(self.wanted, self.file)
    }

    /// Whether an address is the hub's own: scheme, host and port.
    fn is_hub(&self, url: &str) -> bool {
        let origin = |url: &str| {
            let uri: Uri = url.parse().ok()?;
            let authority = uri.authority()?.as_str().to_lowercase();
            Some((uri.scheme()?.clone(), authority))
        };
        origin(url).is_some() && origin(url) == origin(&self.hub.endpoint)
    }

    /// Sends a request, with the token if it goes to the hub. `ureq` takes the token away on redirections.
    fn send(
        &self,
        mut request: RequestBuilder<WithoutBody>,
        url: &str,
    ) -> Result<Response<Body>, HubError> {
        if let (Some((_, token)), true) = (self.token, self.is_hub(url)) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        // The length is that of the file.
        let request = request.header("Accept-Encoding", "identity");
        request.call().map_err(|source| HubError::Unreachable {
            source: source.into(),
            by_hand: self.by_hand(),
        })
    }

    fn refused(&self, answer: &Response<Body>, url: &str) -> HubError {
        let status = answer.status().as_u16();
        match (status, header(answer, "x-error-code")) {
            // Where the bytes are, nothing is known of tokens and names.
            (_, None) if !self.is_hub(url) => HubError::Status {
                status,
                by_hand: self.by_hand(),
            },
            (401 | 403, _) => HubError::Denied {
                status,
                endpoint: self.hub.endpoint.clone(),
                repository: self.wanted.repository.clone(),
                token: self.token.map(|(variable, _)| variable),
            },
            (404, Some("RepoNotFound")) => self.absent("repository", self.file),
            (404, Some("RevisionNotFound")) => self.absent("revision", self.file),
            (404, _) => self.absent("file", self.file),
            _ => HubError::Status {
                status,
                by_hand: self.by_hand(),
            },
        }
    }

    fn absent(&self, missing: &'static str, file: &str) -> HubError {
        HubError::Absent {
            missing,
            repository: self.wanted.repository.clone(),
            revision: self.wanted.revision.clone(),
            file: file.into(),
        }
    }

    fn no_hub(&self, problem: &str) -> HubError {
        HubError::NotAHub {
            url: self.url(),
            problem: problem.into(),
        }
    }

    fn spoilt(&self, problem: String) -> HubError {
        HubError::Spoilt {
            url: self.url(),
            problem,
        }
    }
}

/// Whether another try may help, as it does not where there never was a connection. The address of the bytes is good
/// for a while only: 403 there.
fn passes(error: &HubError, connected: bool) -> bool {
    match error {
        HubError::Status { status, .. } => matches!(status, 403 | 408 | 500..),
        HubError::Unreachable { .. } => connected,
        HubError::Cut { .. } => true,
        _ => false,
    }
}

fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// `W/"abc"` and `"abc"` are `abc`.
fn plain_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Where a redirection of `url` leads.
fn resolved(url: &str, to: &str) -> Option<String> {
    if to.starts_with('/') && !to.starts_with("//") {
        let uri: Uri = url.parse().ok()?;
        return Some(format!("{}://{}{to}", uri.scheme()?, uri.authority()?));
    }
    let scheme = to.starts_with("https://") || to.starts_with("http://");
    scheme.then(|| to.to_owned())
}

/// A full disk is told with what it lacks.
fn no_space(path: &Path, needed: u64, source: io::Error) -> HubError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => HubError::DiskFull {
            path: path.to_owned(),
            needed,
        },
        _ => cache::io(path, source),
    }
}

fn make_folder_of(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|source| cache::io(folder, source))
}

/// The lock is that of Python's library; it ends with the file that is returned.
fn locked(path: &Path, each: &mut dyn FnMut(Event)) -> Result<File, HubError> {
    let opened = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path);
    let file = opened.map_err(|source| cache::io(path, source))?;
    let locked = match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            each(Event::Waiting);
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
    };
    locked.map_err(|source| cache::io(path, source))?;
    Ok(file)
}

/// Lets `make` make a file beside `path`, then gives it that name.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary: PathBuf = path.with_file_name(name);
    let _ = fs::remove_file(&temporary);
    make(&temporary)?;
    fs::rename(&temporary, path)
}

/// Makes `pointer` a link to the blob. Where there are no links, the blob is moved there, as Python's library does.
fn link(blob: &Path, pointer: &Path, file: &str) -> io::Result<()> {
    let up = "../".repeat(file.matches('/').count() + 2);
    let target = Path::new(&up)
        .join("blobs")
        .join(blob.file_name().unwrap_or_default());
    let linked = replace(pointer, |path| {
        #[cfg(unix)]
        return std::os::unix::fs::symlink(&target, path);
        #[cfg(windows)]
        return std::os::windows::fs::symlink_file(&target, path);
        #[cfg(not(any(unix, windows)))]
        return Err(ErrorKind::Unsupported.into());
    });
    linked.or_else(|_| fs::rename(blob, pointer))
}

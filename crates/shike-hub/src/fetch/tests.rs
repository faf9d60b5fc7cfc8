//! Against a server of our own on the loopback address.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::tests::{COMMIT, FILE, Home, REPOSITORY, by_hand, resnet50, sha, wanted};
use crate::*;

const TOKEN: &str = "hf_secret";

/// One request, with names of headers in small letters.
struct Request {
    /// `GET /path`.
    line: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines();
        let line = lines.next()?.ok()?;
        let mut headers = BTreeMap::new();
        for header in lines {
            let header = header.ok()?;
            let Some((name, value)) = header.split_once(": ") else {
                break;
            };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let line = line.trim_end_matches(" HTTP/1.1").to_owned();
        Some(Self { line, headers })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// One answer; the length of the body is told before it.
#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection is cut after so many bytes of the body.
    cut: Option<usize>,
}

fn answer(status: u16) -> Answer {
    Answer {
        status,
        ..Answer::default()
    }
}

impl Answer {
    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// What a hub says of a file.
    fn of(self, etag: &str, size: usize) -> Self {
        let linked = self
            .with("X-Repo-Commit", COMMIT)
            .with("X-Linked-Size", size);
        linked.with("X-Linked-Etag", format!("\"{etag}\""))
    }

    fn send(self, mut stream: &TcpStream, head: bool) {
        let (status, len) = (self.status, self.body.len());
        let mut text =
            format!("HTTP/1.1 {status} Test\r\nConnection: close\r\nContent-Length: {len}\r\n");
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let sent = if head { 0 } else { self.cut.unwrap_or(len) };
        let _ = stream.write_all((text + "\r\n").as_bytes());
        let _ = stream.write_all(&self.body[..sent]);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// A server; a thread a request.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `respond` gets a request and how many of the same line came before it.
    fn new(respond: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, respond) = (Arc::new(Mutex::new(vec![])), Arc::new(respond));
        let seen: Arc<Mutex<Vec<Request>>> = requests.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                // A connection without a request ends the server.
                let Some(request) = Request::read(&stream) else {
                    return;
                };
                let (seen, respond) = (seen.clone(), respond.clone());
                std::thread::spawn(move || {
                    let head = request.line.starts_with("HEAD");
                    let before = {
                        let seen = seen.lock().unwrap();
                        seen.iter()
                            .filter(|other| other.line == request.line)
                            .count()
                    };
                    let answer = respond(&request, before);
                    seen.lock().unwrap().push(request);
                    answer.send(&stream, head);
                });
            }
        });
        Self {
            address,
            requests,
            thread: Some(thread),
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Values of a header of all requests that begin so; `-` where it is not there.
    fn headers(&self, line: &str, name: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let those = requests
            .iter()
            .filter(|request| request.line.starts_with(line));
        let value = |request: &Request| request.header(name).unwrap_or("-").to_owned();
        those.map(value).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.headers(line, "host").len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(TcpStream::connect(&self.address));
        let _ = self.thread.take().unwrap().join();
    }
}

/// 300,000 bytes that do not repeat soon.
fn weights() -> Vec<u8> {
    let byte = |n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8;
    (0..300_000).map(byte).collect()
}

/// A hub with one large file. `cuts[n]` is where the n-th download is cut.
fn hub_server(bytes: Vec<u8>, cuts: Vec<usize>) -> Server {
    let path = format!("/{REPOSITORY}/resolve/main/{FILE}");
    Server::new(move |request, before| {
        let (method, at) = request.line.split_once(' ').unwrap();
        if at != path {
            return answer(404).with("X-Error-Code", "EntryNotFound");
        }
        let sha = sha(&bytes);
        if method == "HEAD" {
            return Answer {
                body: bytes.clone(),
                ..answer(200).of(&sha, bytes.len())
            };
        }
        part(&bytes, request, cuts.get(before).copied())
    })
}

/// The part of a file that is asked for.
fn part(bytes: &[u8], request: &Request, cut: Option<usize>) -> Answer {
    let range = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes="));
    let start = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let (end, len) = (bytes.len() - 1, bytes.len());
    let answer = match range {
        Some(_) => answer(206).with("Content-Range", format!("bytes {start}-{end}/{len}")),
        None => answer(200),
    };
    let body = bytes[start..].to_vec();
    Answer {
        body,
        cut,
        ..answer
    }
}

impl Home {
    /// All files and links below the hub's cache.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match fs::symlink_metadata(&path).unwrap().is_dir() {
                    true => walk(&path, into),
                    false => into.push(path),
                }
            }
        }
        let (cache, mut files) = (self.path(".cache/huggingface/hub"), vec![]);
        walk(&cache, &mut files);
        let name = |path: PathBuf| {
            path.strip_prefix(&cache)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        let mut names: Vec<String> = files.into_iter().map(name).collect();
        names.sort();
        names
    }

    fn hub(&self, server: &Server) -> Hub {
        self.hub_with(&[("HF_ENDPOINT", &server.url())])
    }

    fn repository(&self) -> PathBuf {
        self.path(".cache/huggingface/hub/models--timm--resnet50.tv_in1k")
    }

    fn incomplete(&self, bytes: &[u8]) -> PathBuf {
        self.repository()
            .join("blobs")
            .join(sha(bytes) + ".incomplete")
    }
}

fn fetch(hub: &Hub) -> Result<Found, HubError> {
    hub.fetch(&resnet50(), &mut |_| {})
}

/// The error of a download from a server that gives the same answer to everything.
fn refusal(respond: impl Fn() -> Answer + Send + Sync + 'static) -> String {
    let (server, home) = (Server::new(move |_, _| respond()), Home::new());
    let error = fetch(&home.hub(&server)).unwrap_err().to_string();
    error.replace(&server.url(), "HUB")
}

#[test]
fn half_a_file_in_a_cache_is_noticed() {
    let (home, bytes) = (Home::new(), weights());
    let server = hub_server(bytes.clone(), vec![]);
    let hub = home.hub(&server);
    let found = fetch(&hub).unwrap();
    let blob = fs::canonicalize(&found.path).unwrap();
    fs::write(&blob, &bytes[..1000]).unwrap();
    let found = hub.find(&resnet50()).unwrap().unwrap();
    let error = found.sha256().unwrap_err().to_string();
    assert!(
        error.contains("only half of it is there") && error.contains(&sha(&bytes)),
        "{error}"
    );
    // A download makes it whole.
    assert_eq!(fetch(&hub).unwrap().sha256().unwrap(), sha(&bytes));
    assert_eq!(server.count("GET"), 2);
    // So does one of the right length with another byte.
    fs::write(&blob, vec![0; bytes.len()]).unwrap();
    assert_eq!(fetch(&hub).unwrap().sha256().unwrap(), sha(&bytes));
    // A link whose blob is gone is no file.
    fs::remove_file(&blob).unwrap();
    assert_eq!(hub.find(&resnet50()).unwrap(), None);
    assert_eq!(fetch(&hub).unwrap().sha256().unwrap(), sha(&bytes));

    let path = format!("a-{}.pth", &sha(&bytes)[..8]);
    let torch = |bytes| Found {
        path: home.put(&path, bytes),
        place: Place::Torch,
        bytes: 1,
    };
    assert_eq!(torch(&bytes).sha256().unwrap(), sha(&bytes));
    assert!(matches!(
        torch(&bytes[1..]).sha256(),
        Err(HubError::Damaged { .. })
    ));
}

#[test]
fn a_download_is_laid_out_as_in_python() {
    let (home, bytes) = (Home::new(), weights());
    let server = hub_server(bytes.clone(), vec![]);
    let mut events = vec![];
    let hub = home.hub(&server);
    let found = hub
        .fetch(&resnet50(), &mut |event| events.push(event))
        .unwrap();
    let models = "models--timm--resnet50.tv_in1k";
    let (sha, total) = (sha(&bytes), 300_000);
    let files = [
        format!(".locks/{models}/{sha}.lock"),
        format!("{models}/blobs/{sha}"),
        format!("{models}/refs/main"),
        format!("{models}/snapshots/{COMMIT}/{FILE}"),
    ];
    assert_eq!(home.files(), files);
    assert_eq!(
        fs::read_to_string(home.repository().join("refs/main")).unwrap(),
        COMMIT
    );
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&found.path).unwrap(),
        PathBuf::from(format!("../../blobs/{sha}"))
    );
    assert_eq!(fs::read(&found.path).unwrap(), bytes);
    assert_eq!(found.sha256().unwrap(), sha);
    assert_eq!(events.first(), Some(&Event::Bytes { done: 0, total }));
    assert_eq!(events.last(), Some(&Event::Bytes { done: total, total }));
    assert_eq!(hub.find(&resnet50()).unwrap(), Some(found.clone()));
    // The second time there is nothing to download.
    assert_eq!(fetch(&hub).unwrap(), found);
    assert_eq!((server.count("HEAD"), server.count("GET")), (2, 1));
    assert_eq!(server.headers("GET", "authorization"), ["-"]);
}

#[test]
fn a_file_in_a_folder_and_one_without_a_checksum_are_taken() {
    // Small files have the etag of git.
    let server = Server::new(|request, _| {
        let answer = answer(200)
            .with("X-Repo-Commit", COMMIT)
            .with("ETag", "W/\"abc123\"");
        match request.line.split_once(' ').unwrap().1 {
            "/a/b/resolve/refs%2Fpr%2F1/sub/small%20weights.bin" => Answer {
                body: b"small".into(),
                ..answer
            },
            _ => self::answer(404),
        }
    });
    let home = Home::new();
    let hub = home.hub(&server);
    // (A user cannot write a space.)
    let file = Wanted {
        files: vec!["sub/small weights.bin".into()],
        ..wanted("hf:a/b@refs/pr/1:x.bin")
    };
    // Without a checksum nothing is gone on from.
    home.put(
        ".cache/huggingface/hub/models--a--b/blobs/abc123.incomplete",
        b"sm",
    );
    let found = hub.fetch(&file, &mut |_| {}).unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), b"small");
    assert_eq!(server.headers("GET", "range"), ["-"]);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&found.path).unwrap(),
        Path::new("../../../blobs/abc123")
    );
    assert_eq!(hub.find(&file).unwrap(), Some(found));
}

#[test]
fn the_file_of_a_repository_is_the_first_that_it_has() {
    let server = Server::new(|request, _| {
        let path = request.line.split_once(' ').unwrap().1;
        match path.ends_with("pytorch_model.bin") && path.starts_with("/a/b/") {
            true => Answer {
                body: b"bin".into(),
                ..answer(200).of(&sha(b"bin"), 3)
            },
            false => answer(404).with("X-Error-Code", "EntryNotFound"),
        }
    });
    let home = Home::new();
    let hub = home.hub(&server);
    let found = hub.fetch(&wanted("hf:a/b"), &mut |_| {}).unwrap();
    assert!(found.path.ends_with("pytorch_model.bin"));
    let error = hub
        .fetch(&wanted("hf:a/c@v1"), &mut |_| {})
        .unwrap_err()
        .to_string();
    let message = "the hub has no such file: repository a/c, revision v1, file model.safetensors or pytorch_model.bin";
    assert_eq!(error, message);
}

#[test]
fn a_token_goes_to_the_hub_and_nowhere_else() {
    let bytes = weights();
    let (sha, served) = (sha(&bytes), bytes.clone());
    // Where the bytes are; it sends on, to itself.
    let store = Server::new(move |request, _| match &*request.line {
        "GET /bytes?signed" => answer(302).with("Location", "/again"),
        _ => part(&served, request, None),
    });
    let at = format!("{}/bytes?signed", store.url());
    let hub = Server::new(move |request, _| match &*request.line {
        "HEAD /timm/resnet50.tv_in1k/resolve/main/model.safetensors" => {
            answer(307).with("Location", "/timm/new/resolve/main/model.safetensors")
        }
        // The length of a redirection is not that of the file.
        _ => Answer {
            body: b"moved".into(),
            ..answer(302).of(&sha, 300_000).with("Location", &at)
        },
    });
    let home = Home::new();
    let with = |variable, token| {
        let there = home.hub_with(&[("HF_ENDPOINT", &hub.url()), (variable, token)]);
        let found = fetch(&there).unwrap();
        assert_eq!(fs::read(&found.path).unwrap(), bytes);
        there
    };
    let there = with("HF_TOKEN", TOKEN);
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(hub.headers("HEAD", "authorization"), [&*bearer, &*bearer]);
    assert_eq!(store.headers("GET", "authorization"), ["-", "-"]);
    assert_eq!(hub.count("GET"), 0);
    with("HUGGING_FACE_HUB_TOKEN", "hf_other\n");
    assert_eq!(hub.headers("HEAD", "authorization")[2], "Bearer hf_other");
    // It is in no file and in no message.
    for file in home.files() {
        let text = fs::read(home.path(".cache/huggingface/hub").join(file)).unwrap();
        assert!(
            !text
                .windows(TOKEN.len())
                .any(|part| part == TOKEN.as_bytes())
        );
    }
    assert!(!format!("{there:?}").contains(TOKEN) && format!("{there:?}").contains("HF_TOKEN"));
}

#[test]
fn a_mirror_that_sends_to_its_hub_gets_the_token_alone() {
    let hub = hub_server(weights(), vec![]);
    let url = hub.url();
    let mirror = Server::new(move |request, _| {
        let path = request.line.split_once(' ').unwrap().1;
        answer(308).with("Location", format!("{url}{path}"))
    });
    let home = Home::new();
    let there = home.hub_with(&[("HF_ENDPOINT", &(mirror.url() + "/")), ("HF_TOKEN", TOKEN)]);
    assert_eq!(fs::read(fetch(&there).unwrap().path).unwrap(), weights());
    assert_eq!(
        (hub.headers("", "authorization"), mirror.count("")),
        (vec!["-".into(); 2], 1)
    );
}

#[test]
fn a_mirror_says_what_its_hub_lacks() {
    let hub = Server::new(
        |request, _| match request.line.ends_with("pytorch_model.bin") {
            true => Answer {
                body: b"bin".into(),
                ..answer(200).of(&sha(b"bin"), 3)
            },
            false => answer(404).with("X-Error-Code", "EntryNotFound"),
        },
    );
    let url = hub.url();
    let mirror = Server::new(move |request, _| {
        let path = request.line.split_once(' ').unwrap().1;
        answer(308).with("Location", format!("{url}{path}"))
    });
    let home = Home::new();
    let found = home
        .hub(&mirror)
        .fetch(&wanted("hf:a/b"), &mut |_| {})
        .unwrap();
    assert!(found.path.ends_with("pytorch_model.bin"));
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let (home, bytes) = (Home::new(), weights());
    let server = hub_server(bytes.clone(), vec![100_000, 50_000]);
    let mut starts = vec![];
    let found = home
        .hub(&server)
        .fetch(&resnet50(), &mut |event| starts.push(event))
        .unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), bytes);
    assert_eq!(
        server.headers("GET", "range"),
        ["-", "bytes=100000-", "bytes=150000-"]
    );
    for done in [0, 100_000, 150_000, 300_000] {
        assert!(
            starts.contains(&Event::Bytes {
                done,
                total: 300_000
            }),
            "{starts:?}"
        );
    }
}

#[test]
fn a_download_that_is_cut_for_good_leaves_its_half_for_the_next_try() {
    let (home, bytes) = (Home::new(), weights());
    let server = hub_server(bytes.clone(), vec![10_000; 6]);
    let error = fetch(&home.hub(&server)).unwrap_err();
    let HubError::Cut {
        done: 60_000,
        total: 300_000,
        kept,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*kept, home.incomplete(&bytes));
    assert_eq!(fs::read(kept).unwrap(), bytes[..60_000]);
    // Nothing is at the file's place.
    assert_eq!(home.files().len(), 2);
    assert_eq!(home.hub(&server).find(&resnet50()).unwrap(), None);
    let found = fetch(&home.hub(&server)).unwrap();
    assert_eq!(found.sha256().unwrap(), sha(&bytes));
    assert_eq!(server.headers("GET", "range")[6], "bytes=60000-");
    assert!(!kept.exists());
}

#[test]
fn what_was_complete_but_not_renamed_is_checked_and_used() {
    let (home, bytes) = (Home::new(), weights());
    let server = hub_server(bytes.clone(), vec![]);
    let at = home.incomplete(&bytes);
    let put = |bytes: &[u8]| home.put(at.to_str().unwrap(), bytes);
    put(&bytes);
    assert_eq!(
        fetch(&home.hub(&server)).unwrap().sha256().unwrap(),
        sha(&bytes)
    );
    assert_eq!(server.count("GET"), 0);
    // What is longer than the file is no part of it.
    fs::remove_dir_all(home.repository()).unwrap();
    put(&[&bytes[..], b"more"].concat());
    assert_eq!(
        fetch(&home.hub(&server)).unwrap().sha256().unwrap(),
        sha(&bytes)
    );
    // Nor is what has other bytes, which the checksum shows.
    fs::remove_dir_all(home.repository()).unwrap();
    put(&[7; 1000]);
    let error = fetch(&home.hub(&server)).unwrap_err().to_string();
    assert!(
        error.contains("what came is damaged: the SHA-256 of the file, of which a part was here,"),
        "{error}"
    );
    assert!(!at.exists());
    assert_eq!(
        fetch(&home.hub(&server)).unwrap().sha256().unwrap(),
        sha(&bytes)
    );
}

#[test]
fn a_file_that_changed_since_the_cut_is_begun_anew() {
    let (home, old, new) = (Home::new(), weights(), [weights(), vec![1]].concat());
    let (first, second) = (old.clone(), new.clone());
    let server = Server::new(move |request, before| {
        let bytes = if before == 0 { &first } else { &second };
        match request.line.starts_with("HEAD") {
            true => answer(200).of(&sha(bytes), bytes.len()),
            false => part(bytes, request, (before == 0).then_some(100_000)),
        }
    });
    let found = fetch(&home.hub(&server)).unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), new);
    assert_eq!(server.headers("GET", "range"), ["-", "-"]);
    // The old half is kept: it is of another file.
    assert_eq!(fs::read(home.incomplete(&old)).unwrap(), old[..100_000]);
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    let (home, bytes) = (Home::new(), weights());
    let served = bytes.clone();
    let server = Server::new(
        move |request, before| match request.line.starts_with("HEAD") {
            true => answer(200).of(&sha(&served), served.len()),
            false if before == 0 => Answer {
                body: served.clone(),
                cut: Some(5),
                ..answer(200)
            },
            // Another range than was asked for.
            false if before == 1 => Answer {
                body: served[9..].to_vec(),
                ..answer(206).with("Content-Range", "bytes 9-299999/300000")
            },
            false if before == 2 => Answer {
                body: served.clone(),
                cut: Some(7),
                ..answer(200)
            },
            false => Answer {
                body: served.clone(),
                ..answer(200)
            },
        },
    );
    assert_eq!(
        fetch(&home.hub(&server)).unwrap().sha256().unwrap(),
        sha(&bytes)
    );
    assert_eq!(
        server.headers("GET", "range"),
        ["-", "bytes=5-", "-", "bytes=7-"]
    );
}

#[test]
fn other_bytes_than_announced_are_not_kept() {
    let (home, bytes) = (Home::new(), weights());
    let served = bytes.clone();
    let server = Server::new(move |request, before| {
        let sha = sha(&served);
        match (request.line.starts_with("HEAD"), before) {
            (true, _) => answer(200).of(&sha, served.len()),
            (_, 0) => Answer {
                body: vec![0; served.len()],
                ..answer(200)
            },
            (_, 1) => Answer {
                body: served[1..].to_vec(),
                ..answer(200)
            },
            _ => Answer {
                body: served.clone(),
                ..answer(200).with("X-Repo-Commit", "f".repeat(40))
            },
        }
    });
    let hub = home.hub(&server);
    let zeros = sha(&vec![0; bytes.len()]);
    let problems = [
        format!("the SHA-256 of the file is {zeros}, not {}", sha(&bytes)),
        "299999 bytes are sent of 300000".into(),
        "the repository has changed meanwhile".into(),
    ];
    for problem in problems {
        let error = fetch(&hub).unwrap_err().to_string();
        assert!(error.contains(&problem), "{error}");
        assert_eq!(hub.find(&resnet50()).unwrap(), None);
        assert_eq!(
            fs::metadata(home.incomplete(&bytes)).map_or(0, |file| file.len()),
            0
        );
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let by_hand = format!("download HUB/{REPOSITORY}/resolve/main/{FILE} with a browser");
    let denied = refusal(|| answer(401).with("X-Error-Code", "RepoNotFound"));
    let message = format!(
        "HUB answers 401 for {REPOSITORY}: there is no such repository, or a token is needed; make one that may read at \
         HUB/settings/tokens, set the environment variable HF_TOKEN to it, and if HUB/{REPOSITORY} asks to accept \
         conditions, do so there"
    );
    assert_eq!(denied, message);
    for (code, missing) in [
        ("RepoNotFound", "repository"),
        ("RevisionNotFound", "revision"),
        ("", "file"),
    ] {
        let error = refusal(move || answer(404).with("X-Error-Code", code));
        let message = format!(
            "the hub has no such {missing}: repository {REPOSITORY}, revision main, file {FILE}"
        );
        assert_eq!(error, message);
    }
    let error = refusal(|| answer(500));
    assert!(
        error.contains("status 500, try again later") && error.contains(&by_hand),
        "{error}"
    );
    let error = refusal(|| answer(429));
    assert!(
        error.contains("status 429") && error.contains(&by_hand),
        "{error}"
    );
    // A portal of a hotel, say.
    let error = refusal(|| Answer {
        body: b"<html>".into(),
        ..answer(200)
    });
    assert!(
        error.contains("not one of a hub (it names no commit); is HF_ENDPOINT right"),
        "{error}"
    );
    let error = refusal(|| {
        answer(200)
            .with("X-Repo-Commit", COMMIT)
            .with("ETag", "../../x")
    });
    assert!(error.contains("it has no etag"), "{error}");
    let error = refusal(|| answer(200).with("X-Repo-Commit", "main").with("ETag", "x"));
    assert!(error.contains("it names no commit"), "{error}");
    let error = refusal(|| answer(200).of(&sha(b""), 0));
    assert!(error.contains("the file is empty"), "{error}");
    let error = refusal(|| answer(302).with("Location", "/x"));
    assert!(error.contains("it redirects again and again"), "{error}");
    let error = refusal(|| answer(302));
    assert!(error.contains("it redirects to no address"), "{error}");
}

#[test]
fn a_token_that_does_not_suffice_is_told() {
    let (server, home) = (
        Server::new(|_, _| answer(403).with("X-Error-Code", "GatedRepo")),
        Home::new(),
    );
    let hub = home.hub_with(&[("HF_ENDPOINT", &server.url()), ("HF_TOKEN", TOKEN)]);
    let error = fetch(&hub).unwrap_err().to_string();
    assert!(
        error.contains("the token in HF_TOKEN does not suffice") && !error.contains(TOKEN),
        "{error}"
    );
    assert_eq!(server.count(""), 1);
}

#[test]
fn a_passing_failure_is_waited_for() {
    let (home, bytes) = (Home::new(), weights());
    let served = bytes.clone();
    let server =
        Server::new(
            move |request, before| match (request.line.starts_with("HEAD"), before) {
                (true, 0) => answer(503),
                (true, _) => answer(200).of(&sha(&served), served.len()),
                (false, 0) => answer(502),
                _ => part(&served, request, None),
            },
        );
    assert_eq!(
        fetch(&home.hub(&server)).unwrap().sha256().unwrap(),
        sha(&bytes)
    );
    assert_eq!((server.count("HEAD"), server.count("GET")), (3, 2));
}

#[test]
fn no_connection_says_what_to_download_by_hand() {
    let home = Home::new();
    // A port that nobody listens at any more.
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = format!("http://{closed}");
    let error = fetch(&home.hub_with(&[("HF_ENDPOINT", &endpoint)])).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(
        message.starts_with("the hub cannot be reached (")
            && message.ends_with(&by_hand(&endpoint)),
        "{error}"
    );

    let server = hub_server(weights(), vec![]);
    let hub = home.hub_with(&[("HF_ENDPOINT", &server.url()), ("HF_HUB_OFFLINE", "1")]);
    assert!(matches!(fetch(&hub), Err(HubError::Offline { .. })));
    assert_eq!(server.count(""), 0);
    assert!(home.files().is_empty());
    let homeless = Environment::new(None, [("HF_ENDPOINT", server.url())]);
    let error = fetch(&Hub::new(homeless).unwrap()).unwrap_err().to_string();
    assert!(
        error
            .starts_with("the environment variable HF_HOME is not set and there is no home folder"),
        "{error}"
    );
}

#[test]
fn two_downloads_of_one_file_are_one() {
    let (home, bytes) = (Home::new(), weights());
    let served = bytes.clone();
    // Bytes come only when the other one waits.
    let (waits, waited) = std::sync::mpsc::channel();
    let waited = Mutex::new(waited);
    let server = Server::new(move |request, _| match request.line.starts_with("HEAD") {
        true => answer(200).of(&sha(&served), served.len()),
        false => {
            let () = waited
                .lock()
                .unwrap()
                .recv_timeout(Duration::from_secs(20))
                .unwrap();
            part(&served, request, None)
        }
    });
    let hub = home.hub(&server);
    let found: Vec<Found> = std::thread::scope(|scope| {
        let one = || {
            let mut each = |event| {
                if event == Event::Waiting {
                    waits.send(()).unwrap()
                }
            };
            hub.fetch(&resnet50(), &mut each).unwrap()
        };
        let both = [scope.spawn(one), scope.spawn(one)];
        both.map(|thread| thread.join().unwrap()).into()
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0].sha256().unwrap(), sha(&bytes));
    assert_eq!((server.count("HEAD"), server.count("GET")), (2, 1));
}

/// What is written to this device finds a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_what_it_lacks() {
    let (home, bytes) = (Home::new(), weights());
    let server = hub_server(bytes.clone(), vec![]);
    let at = home.incomplete(&bytes);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &at).unwrap();
    let error = fetch(&home.hub(&server)).unwrap_err().to_string();
    let message = format!(
        "{}: no space left on the disk, 300000 more bytes are needed",
        at.display()
    );
    assert_eq!(error, message);
    assert_eq!(home.hub(&server).find(&resnet50()).unwrap(), None);
}

/// Without links the file itself lies in the snapshot, and is found again.
#[test]
fn a_file_without_links_is_found() {
    let (home, bytes) = (Home::new(), weights());
    let server = hub_server(bytes.clone(), vec![]);
    let hub = home.hub(&server);
    let path = fetch(&hub).unwrap().path;
    let blob = fs::canonicalize(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::rename(blob, &path).unwrap();
    assert_eq!(fetch(&hub).unwrap().sha256().unwrap(), sha(&bytes));
    assert_eq!(server.count("GET"), 1);
}

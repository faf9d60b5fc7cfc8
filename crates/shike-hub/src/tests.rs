//! Against made caches. Nothing of the user's is touched.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::*;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const REPOSITORY: &str = "timm/resnet50.tv_in1k";
pub(crate) const FILE: &str = "model.safetensors";

pub(crate) const NAMES: [Known; 2] = [
    Known {
        name: "resnet50",
        repository: REPOSITORY,
        revision: "main",
        file: FILE,
        also: &[("microsoft/resnet-50", "weights/resnet50.bin")],
        checkpoints: &["resnet50-11ad3fa6.pth", "resnet50.pth"],
        licence: "BSD-3-Clause",
    },
    Known {
        name: "dinov2-s14",
        repository: "timm/vit_small_patch14_dinov2.lvd142m",
        revision: "main",
        file: FILE,
        also: &[],
        checkpoints: &["dinov2_vits14_pretrain.pth"],
        licence: "Apache-2.0",
    },
];

/// A home without anything in it.
pub(crate) struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Puts a file into it.
    pub fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn hub_with(&self, variables: &[(&str, &str)]) -> Hub {
        let home = Some(self.0.path().into());
        Hub::new(Environment::new(home, variables.iter().copied())).unwrap()
    }
}

pub(crate) fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(crate) fn wanted(text: &str) -> Wanted {
    match Source::parse(text, &NAMES).unwrap() {
        Source::Wanted(wanted) => wanted,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn resnet50() -> Wanted {
    wanted("resnet50")
}

#[test]
fn what_a_user_writes_is_read() {
    let read = |text| Source::parse(text, &NAMES).unwrap();
    assert_eq!(read("none"), Source::None);
    assert_eq!(
        read("resnet50").clone(),
        Source::Wanted(Wanted::from(&NAMES[0]))
    );
    for path in [
        "./resnet50",
        "run/model.safetensors",
        "weights.pth",
        "/none",
        "src",
        "a/b",
    ] {
        assert_eq!(read(path), Source::Path(path.into()));
    }
    let of = |text| {
        let wanted = wanted(text);
        (wanted.repository, wanted.revision, wanted.files.join(" "))
    };
    let is = |repository: &str, revision: &str, files: &str| {
        (repository.into(), revision.into(), files.into())
    };
    let default = "model.safetensors pytorch_model.bin";
    assert_eq!(of("hf:timm/a.b"), is("timm/a.b", "main", default));
    assert_eq!(of("hf:timm/a@v1.0"), is("timm/a", "v1.0", default));
    assert_eq!(of("hf:timm/a:sub/b.bin"), is("timm/a", "main", "sub/b.bin"));
    assert_eq!(
        of("hf:timm/a@refs/pr/1:b.bin"),
        is("timm/a", "refs/pr/1", "b.bin")
    );
    assert_eq!(wanted("hf:timm/a@v1").to_string(), "hf:timm/a@v1");
    assert_eq!(
        resnet50().to_string(),
        format!("resnet50 ({FILE} of {REPOSITORY})")
    );
}

#[test]
fn what_names_no_weights_is_refused_with_what_would_be_right() {
    let form = "hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME@REVISION:FILE";
    let cases = [
        (
            "resnet5",
            "did you mean `resnet50`? Names are resnet50, dinov2-s14. Otherwise: none, the path of",
        ),
        ("qqq", "`qqq` names no weights: Names are resnet50"),
        ("", "Names are"),
        ("hf:", "`` is not OWNER/NAME"),
        ("hf:timm", "`timm` is not OWNER/NAME"),
        ("hf://timm/a", "`//timm/a` is not OWNER/NAME"),
        ("hf:timm/a/b", "`timm/a/b` is not OWNER/NAME"),
        ("hf:timm/a--b", "is not OWNER/NAME"),
        ("hf:../a", "is not OWNER/NAME"),
        ("hf:timm/a@", "`` is no revision"),
        ("hf:timm/a@../../x", "`../../x` is no revision"),
        ("hf:timm/a@a b", "`a b` is no revision"),
        ("hf:timm/a:", "`` is no file of a repository"),
        ("hf:timm/a:../b", "`../b` is no file of a repository"),
        ("hf:timm/a:/b", "`/b` is no file of a repository"),
        ("hf:timm/a:b:c", "`b:c` is no file of a repository"),
        (
            "https://huggingface.co/timm/a",
            "addresses are not taken; a file of the hub is",
        ),
    ];
    for (text, message) in cases {
        let error = Source::parse(text, &NAMES).unwrap_err().to_string();
        assert!(
            error.contains(message) && error.contains(form),
            "{text}: {error}"
        );
    }
}

#[test]
fn caches_are_looked_through_in_their_order() {
    let home = Home::new();
    let hub = home.hub_with(&[]);
    let find = || hub.find(&resnet50()).unwrap();
    assert_eq!(find(), None);
    // From the last to the first: each one that comes goes before those that are there.
    let checkpoints = ".cache/torch/hub/checkpoints";
    let loose = home.put(&format!("{checkpoints}/resnet50.pth"), b"loose");
    assert_eq!(find().unwrap().path, loose);
    let named = home.put(&format!("{checkpoints}/resnet50-11ad3fa6.pth"), b"named");
    assert_eq!(find().unwrap().path, named);
    assert_eq!(find().unwrap().place, Place::Torch);
    let text = format!("{} (5 bytes), in the cache of torch.hub", named.display());
    assert_eq!(find().unwrap().to_string(), text);

    let also = ".cache/huggingface/hub/models--microsoft--resnet-50";
    home.put(&format!("{also}/refs/main"), COMMIT.as_bytes());
    assert_eq!(find().unwrap().path, named);
    let also = home.put(
        &format!("{also}/snapshots/{COMMIT}/weights/resnet50.bin"),
        b"also",
    );
    assert_eq!(find().unwrap().path, also);

    let repository = ".cache/huggingface/hub/models--timm--resnet50.tv_in1k";
    home.put(
        &format!("{repository}/refs/main"),
        format!("{COMMIT}\n").as_bytes(),
    );
    let own = home.put(
        &format!("{repository}/snapshots/{COMMIT}/{FILE}"),
        b"own file",
    );
    let found = find().unwrap();
    assert_eq!((found.path.clone(), found.bytes), (own.clone(), 8));
    let text = format!(
        "{FILE} of {REPOSITORY} at 01234567 (8 bytes), in the hub's cache: {}",
        own.display()
    );
    assert_eq!(found.to_string(), text);
    assert_eq!(found.sha256().unwrap(), sha(b"own file"));
    let Place::Hub {
        repository,
        commit,
        file,
    } = found.place
    else {
        panic!("{found}")
    };
    assert_eq!((&*repository, &*commit, &*file), (REPOSITORY, COMMIT, FILE));

    assert_eq!(hub.places(&resnet50()), [own, also, named, loose]);
    // A commit needs no reference.
    let at = |revision: &str| {
        hub.find(&wanted(&format!("hf:{REPOSITORY}@{revision}")))
            .unwrap()
    };
    assert!(at(COMMIT).is_some() && at("main").is_some() && at("v1").is_none());
}

#[test]
fn folders_of_caches_are_those_of_pythons_libraries() {
    let home = Path::new("home");
    let folders = |variables: &[(&str, &str)]| {
        let environment = Environment::new(Some(home.into()), variables.iter().copied());
        let folders = [environment.hub_cache(), environment.checkpoints()];
        folders.map(|path| path.unwrap().to_str().unwrap().replace('\\', "/"))
    };
    let (hub, torch) = (
        "home/.cache/huggingface/hub",
        "home/.cache/torch/hub/checkpoints",
    );
    assert_eq!(folders(&[]), [hub, torch]);
    assert_eq!(folders(&[("HF_HOME", ""), ("PATH", "x")]), [hub, torch]);
    assert_eq!(folders(&[("HF_HOME", "a")]), ["a/hub", torch]);
    assert_eq!(folders(&[("HF_HOME", "~/a")]), ["home/a/hub", torch]);
    assert_eq!(
        folders(&[("HF_HOME", "a"), ("HUGGINGFACE_HUB_CACHE", "b")]),
        ["b", torch]
    );
    assert_eq!(
        folders(&[("HF_HUB_CACHE", "c"), ("HUGGINGFACE_HUB_CACHE", "b")]),
        ["c", torch]
    );
    assert_eq!(folders(&[("TORCH_HOME", "t")]), [hub, "t/hub/checkpoints"]);
    let xdg = ["x/huggingface/hub", "x/torch/hub/checkpoints"];
    assert_eq!(folders(&[("XDG_CACHE_HOME", "x")]), xdg);
    let nothing = Environment::new(None, <[(&str, &str); 0]>::default());
    assert_eq!((nothing.hub_cache(), nothing.checkpoints()), (None, None));
}

#[test]
fn a_file_that_cannot_be_weights_is_refused() {
    let home = Home::new();
    let hub = home.hub_with(&[]);
    let path = home.put(".cache/torch/hub/checkpoints/resnet50.pth", b"");
    let error = hub.find(&resnet50()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{}: the file is empty; remove it, or name another as `weights`",
            path.display()
        )
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        hub.find(&resnet50()),
        Err(HubError::NotAFile { .. })
    ));

    assert!(matches!(Found::file(&path), Err(HubError::NotAFile { .. })));
    assert!(matches!(
        Found::file(&home.put("a", b"")),
        Err(HubError::Empty { .. })
    ));
    let nothing = |path: &str| Found::file(Path::new(path)).unwrap_err().to_string();
    let meant = "timm/a.b: no such file; a repository of the hub is written `hf:timm/a.b`";
    assert_eq!(nothing("timm/a.b"), meant);
    for file in ["./a", "runs/a.pth"] {
        assert_eq!(nothing(file), format!("{file}: no such file"));
    }
    let error = Found::file(&home.path("b")).unwrap_err().to_string();
    assert!(
        error.starts_with(&home.path("b").display().to_string()),
        "{error}"
    );
    let found = Found::file(&home.put("c", &[0; 2_500_000])).unwrap();
    assert_eq!(
        found.to_string(),
        format!("{} (2.5 MB)", home.path("c").display())
    );
}

/// The end of a message about weights that have to be downloaded.
pub(crate) fn by_hand(endpoint: &str) -> String {
    format!(
        "download {endpoint}/{REPOSITORY}/resolve/main/{FILE} with a browser, on another machine if need be, put it \
         anywhere on this one, and set `weights` to its path"
    )
}

#[test]
fn weights_that_are_not_here_come_with_what_to_do() {
    let (home, by_hand) = (Home::new(), by_hand("https://huggingface.co"));
    for (variable, value) in [
        ("HF_HUB_OFFLINE", "1"),
        ("HF_HUB_OFFLINE", "yes"),
        ("TRANSFORMERS_OFFLINE", "True"),
    ] {
        let hub = home.hub_with(&[(variable, value)]);
        let error = hub.fetch(&resnet50(), &mut |_| {}).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("the environment variable HF_HUB_OFFLINE forbids to download: {by_hand}")
        );
    }
    #[cfg(not(feature = "net"))]
    {
        let hub = home.hub_with(&[("HF_HUB_OFFLINE", "0")]);
        let error = hub.fetch(&resnet50(), &mut |_| {}).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("this program was built without downloads: {by_hand}")
        );
    }
}

#[test]
fn variables_that_cannot_be_used_are_refused() {
    let refused = |variable, value| {
        let environment = Environment::new(None, [(variable, value)]);
        Hub::new(environment).unwrap_err().to_string()
    };
    for endpoint in [
        "huggingface.co",
        "ftp://a",
        "https://",
        "https://a b",
        "https://me@a",
        "http://a?b",
    ] {
        let message = format!(
            "the environment variable HF_ENDPOINT is `{endpoint}`; right is an address such as https://huggingface.co"
        );
        assert_eq!(refused("HF_ENDPOINT", endpoint), message);
    }
    for variable in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        let message =
            format!("the environment variable {variable} holds characters that no token has");
        assert_eq!(refused(variable, "hf_se cret"), message);
        assert_eq!(refused(variable, "hf_sé"), message);
    }
}

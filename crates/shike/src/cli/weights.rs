//! Weights by name, from local caches or the hub.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::HumanBytes;
use shike_hub::{Environment, Event, Found, Hub, Known, Place, Source};
use shike_infer::Origin;

use super::CliError;

/// Short names. The files of torch.hub were read by the same code; none of the others could be fetched where this was
/// written: their layouts were checked with weights of timm's own networks.
const NAMES: [Known; 12] = [
    apache(
        "dinov2_s14",
        "timm/vit_small_patch14_dinov2.lvd142m",
        &["dinov2_vits14_pretrain.pth"],
    ),
    apache(
        "dinov2_b14",
        "timm/vit_base_patch14_dinov2.lvd142m",
        &["dinov2_vitb14_pretrain.pth"],
    ),
    apache(
        "dinov2_s14_reg",
        "timm/vit_small_patch14_reg4_dinov2.lvd142m",
        &["dinov2_vits14_reg4_pretrain.pth"],
    ),
    apache(
        "dinov2_b14_reg",
        "timm/vit_base_patch14_reg4_dinov2.lvd142m",
        &["dinov2_vitb14_reg4_pretrain.pth"],
    ),
    apache(
        "vit_s16",
        "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
        &[],
    ),
    apache(
        "vit_b16",
        "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        &[],
    ),
    apache(
        "efficientnet_lite0",
        "timm/tf_efficientnet_lite0.in1k",
        &["efficientnet-lite0-57934424.pth"],
    ),
    apache("efficientnet_lite1", "timm/tf_efficientnet_lite1.in1k", &[]),
    apache("efficientnet_lite2", "timm/tf_efficientnet_lite2.in1k", &[]),
    bsd(
        "resnet18",
        "timm/resnet18.tv_in1k",
        &["resnet18-f37072fd.pth", "resnet18-5c106cde.pth"],
    ),
    bsd(
        "resnet50",
        "timm/resnet50.tv_in1k",
        &[
            "resnet50-0676ba61.pth",
            "resnet50-19c8e357.pth",
            "resnet50-11ad3fa6.pth",
        ],
    ),
    bsd(
        "resnet152",
        "timm/resnet152.tv_in1k",
        &[
            "resnet152-394f9c45.pth",
            "resnet152-b121ed2d.pth",
            "resnet152-f82ba261.pth",
        ],
    ),
];

/// Of Google's and Meta's authors, and of timm's.
const fn apache(
    name: &'static str,
    repository: &'static str,
    checkpoints: &'static [&'static str],
) -> Known {
    timm(name, repository, checkpoints, "Apache-2.0")
}

/// Of torchvision.
const fn bsd(
    name: &'static str,
    repository: &'static str,
    checkpoints: &'static [&'static str],
) -> Known {
    timm(name, repository, checkpoints, "BSD-3-Clause")
}

const fn timm(
    name: &'static str,
    repository: &'static str,
    checkpoints: &'static [&'static str],
    licence: &'static str,
) -> Known {
    Known {
        name,
        repository,
        revision: "main",
        file: "model.safetensors",
        also: &[],
        checkpoints,
        licence,
    }
}

/// The file of weights that were written as a path, a name, `hf:OWNER/NAME` or `none`, for which there is no file. What is
/// not on this machine is downloaded, since it was named.
///
/// # Errors
/// If it cannot be had; the message says what to download where.
pub(super) fn resolve(text: &Path, say: &mut dyn FnMut(&str)) -> Result<Option<PathBuf>, CliError> {
    let Some(written) = text.to_str().filter(|_| !text.exists()) else {
        if text.is_file() {
            say(&format!("weights: {}, {}", text.display(), origin(text)));
        }
        return Ok(Some(text.to_owned()));
    };
    let wanted = match Source::parse(written, &NAMES)? {
        Source::None => return Ok(None),
        Source::Path(path) => return Ok(Some(path)),
        Source::Wanted(wanted) => wanted,
    };
    let hub = Hub::new(Environment::of_process())?;
    if let Some(found) = hub.find(&wanted)? {
        found.sha256()?;
        say(&format!("weights: {found}, {}", origin(&found.path)));
        return Ok(Some(found.path));
    }
    let mut told = Instant::now();
    let found = hub.fetch(&wanted, &mut |event| match event {
        Event::Waiting => say("weights: another process downloads them; waiting"),
        Event::Bytes { done, total } if done == total || told.elapsed().as_secs() >= 2 => {
            told = Instant::now();
            say(&format!(
                "weights: {} of {}",
                HumanBytes(done),
                HumanBytes(total)
            ));
        }
        _ => {}
    })?;
    found.sha256()?;
    say(&format!("weights: {found}, {}", origin(&found.path)));
    Ok(Some(found.path))
}

/// Where a file of weights comes from, and its licence: by its place in a cache, by a name of torch.hub's whose checksum is
/// right, or as the run says that wrote it.
pub(super) fn origin(path: &Path) -> Origin {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let licence = |known: Option<&Known>| known.map_or(Origin::UNKNOWN, |known| known.licence);
    let published = NAMES
        .iter()
        .find(|known| known.checkpoints.contains(&&*name));
    let (source, licence) = match (Place::of(path), published) {
        (
            Place::Hub {
                repository,
                commit,
                file,
            },
            _,
        ) => {
            let known = NAMES.iter().find(|known| known.repository == repository);
            let source = format!("hf:{repository}@{commit}:{file}");
            (source, licence(known))
        }
        (place, Some(known)) if place == Place::Torch || is_published(path) => {
            (format!("torch.hub ({name})"), known.licence)
        }
        _ => match Origin::of_model(path) {
            Some(origin) => return origin,
            None => (name.into_owned(), Origin::UNKNOWN),
        },
    };
    Origin {
        source,
        licence: licence.to_owned(),
    }
}

/// Whether the checksum of a file is that which torch.hub has put into its name.
fn is_published(path: &Path) -> bool {
    let place = Place::Torch;
    let found = Found::file(path).map(|found| Found { place, ..found });
    found.is_ok_and(|found| found.has_checksum() && found.sha256().is_ok())
}

/// Names of weights that lie in a cache of this machine.
pub(super) fn at_hand(environment: Environment) -> Vec<&'static str> {
    let Ok(hub) = Hub::new(environment) else {
        return vec![];
    };
    let lies = |known: &&Known| match Source::parse(known.name, &NAMES) {
        Ok(Source::Wanted(wanted)) => matches!(hub.find(&wanted), Ok(Some(_))),
        _ => false,
    };
    NAMES.iter().filter(lies).map(|known| known.name).collect()
}

/// The weights that a person wants where none were named. Asks once: about weights on this machine, else about a download,
/// where `downloads` says that there can be one. Those that suit the device are preferred.
pub(super) fn offered(
    environment: Environment,
    gpu: bool,
    downloads: bool,
    ask: &mut dyn FnMut(&str) -> bool,
) -> Option<&'static str> {
    let suits = if gpu {
        "dinov2_s14"
    } else {
        "efficientnet_lite0"
    };
    let known = NAMES.iter().find(|known| known.name == suits)?;
    let downloads = downloads && !environment.offline();
    let here = at_hand(environment);
    let name = match here.first() {
        Some(_) if here.contains(&suits) => suits,
        Some(first) => first,
        None => suits,
    };
    let question = match here.first() {
        Some(_) => format!("the weights {name} lie on this machine; fit a head on them?"),
        None if downloads => format!(
            "download the weights {name} ({} of {}, licence {}) and fit a head on them?",
            known.file, known.repository, known.licence
        ),
        None => return None,
    };
    ask(&question).then_some(name)
}

/// Asks a person at the terminal; where there is none, the answer is no.
pub(super) fn agreed(question: &str) -> bool {
    let (input, mut output) = (io::stdin(), io::stderr());
    if !(input.is_terminal() && output.is_terminal()) {
        return false;
    }
    let mut answer = String::new();
    let asked = write!(output, "{question} [y/N] ").and_then(|()| output.flush());
    let read = asked.and_then(|()| input.read_line(&mut answer));
    let answer = answer.trim().to_ascii_lowercase();
    read.is_ok() && ["y", "yes"].contains(&&*answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use shike_model::BackboneConfig;

    #[test]
    fn every_name_is_that_of_a_network() {
        for known in NAMES {
            assert!(BackboneConfig::named(known.name).is_ok(), "{}", known.name);
            assert!(Source::parse(known.name, &NAMES).is_ok(), "{}", known.name);
        }
    }

    #[test]
    fn files_and_none_are_what_they_say() {
        let mut told = vec![];
        let mut say = |text: &str| told.push(text.to_owned());
        assert_eq!(resolve(Path::new("none"), &mut say).unwrap(), None);
        let file = Path::new("folder/weights.pth");
        assert_eq!(resolve(file, &mut say).unwrap(), Some(file.to_owned()));
        let error = resolve(Path::new("resnet51"), &mut say).unwrap_err();
        assert!(error.to_string().contains("resnet50"), "{error}");
        assert!(told.is_empty());
    }

    /// An environment in which these files of torch.hub lie.
    fn environment(files: &[&str]) -> (tempfile::TempDir, Environment) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = folder.path().join("hub/checkpoints");
        std::fs::create_dir_all(&checkpoints).unwrap();
        for file in files {
            std::fs::write(checkpoints.join(file), "weights").unwrap();
        }
        let environment = Environment::new(None, [("TORCH_HOME", folder.path().as_os_str())]);
        (folder, environment)
    }

    #[test]
    fn nothing_is_downloaded_unless_a_person_says_yes() {
        let offer = |files: &[&str], gpu, downloads, answer| {
            let (_folder, environment) = environment(files);
            let mut asked = vec![];
            let mut ask = |question: &str| {
                asked.push(question.to_owned());
                answer
            };
            (offered(environment, gpu, downloads, &mut ask), asked)
        };
        let (name, asked) = offer(&[], false, true, false);
        assert_eq!((name, asked.len()), (None, 1));
        assert!(asked[0].contains("download the weights efficientnet_lite0"));
        assert!(asked[0].contains("licence Apache-2.0"), "{asked:?}");
        let (name, _) = offer(&[], false, true, true);
        assert_eq!(name, Some("efficientnet_lite0"));
        let (name, _) = offer(&[], true, true, true);
        assert_eq!(name, Some("dinov2_s14"));
        // A program that cannot download asks for nothing.
        assert_eq!(offer(&[], false, false, true), (None, vec![]));
        // What lies here goes before a download, and of that what suits the device.
        let resnet = "resnet50-0676ba61.pth";
        let (name, asked) = offer(&[resnet], false, true, true);
        assert_eq!(name, Some("resnet50"));
        assert!(asked[0].contains("lie on this machine"), "{asked:?}");
        let both = [resnet, "dinov2_vits14_pretrain.pth"];
        assert_eq!(offer(&both, true, false, true).0, Some("dinov2_s14"));
        assert_eq!(offer(&both, true, false, false).0, None);
        // Tests have no terminal.
        assert!(!agreed("really?"));
    }

    #[test]
    fn a_file_has_the_licence_of_where_it_is_from() {
        let shown = |path: &Path| origin(path).to_string();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let hub = |repository: &str| {
            let path = format!("/cache/models--{repository}/snapshots/{commit}/model.safetensors");
            shown(Path::new(&path))
        };
        let known = hub("timm--resnet50.tv_in1k");
        let source = format!("hf:timm/resnet50.tv_in1k@{commit}:model.safetensors");
        assert_eq!(known, format!("from {source}, licence BSD-3-Clause"));
        assert!(hub("somebody--net").ends_with("licence unknown"));
        // By its name alone only where it has the checksum of it, or lies in torch.hub's cache.
        let (folder, _) = environment(&["dinov2_vits14_pretrain.pth"]);
        let checkpoints = folder.path().join("hub/checkpoints");
        let dino = checkpoints.join("dinov2_vits14_pretrain.pth");
        assert!(shown(&dino).ends_with("licence Apache-2.0"));
        let copy = folder.path().join("dinov2_vits14_pretrain.pth");
        std::fs::copy(&dino, &copy).unwrap();
        assert_eq!(
            shown(&copy),
            "from dinov2_vits14_pretrain.pth, licence unknown"
        );
        let other = folder.path().join("resnet50-0676ba61.pth");
        std::fs::write(&other, "of another checksum").unwrap();
        assert!(shown(&other).ends_with("licence unknown"));
    }
}

//! Weights by name, from local caches or the hub.

use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::HumanBytes;
use shike_hub::{Environment, Event, Hub, Known, Source};

use super::CliError;

/// Short names. The files of torch.hub were read by the same code; none of the others could be fetched where this was
/// written: their layouts were checked with weights of timm's own networks.
const NAMES: [Known; 12] = [
    timm(
        "dinov2_s14",
        "timm/vit_small_patch14_dinov2.lvd142m",
        &["dinov2_vits14_pretrain.pth"],
    ),
    timm(
        "dinov2_b14",
        "timm/vit_base_patch14_dinov2.lvd142m",
        &["dinov2_vitb14_pretrain.pth"],
    ),
    timm(
        "dinov2_s14_reg",
        "timm/vit_small_patch14_reg4_dinov2.lvd142m",
        &["dinov2_vits14_reg4_pretrain.pth"],
    ),
    timm(
        "dinov2_b14_reg",
        "timm/vit_base_patch14_reg4_dinov2.lvd142m",
        &["dinov2_vitb14_reg4_pretrain.pth"],
    ),
    timm(
        "vit_s16",
        "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
        &[],
    ),
    timm(
        "vit_b16",
        "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        &[],
    ),
    timm(
        "efficientnet_lite0",
        "timm/tf_efficientnet_lite0.in1k",
        &["efficientnet-lite0-57934424.pth"],
    ),
    timm("efficientnet_lite1", "timm/tf_efficientnet_lite1.in1k", &[]),
    timm("efficientnet_lite2", "timm/tf_efficientnet_lite2.in1k", &[]),
    timm(
        "resnet18",
        "timm/resnet18.tv_in1k",
        &["resnet18-f37072fd.pth", "resnet18-5c106cde.pth"],
    ),
    timm(
        "resnet50",
        "timm/resnet50.tv_in1k",
        &[
            "resnet50-0676ba61.pth",
            "resnet50-19c8e357.pth",
            "resnet50-11ad3fa6.pth",
        ],
    ),
    timm(
        "resnet152",
        "timm/resnet152.tv_in1k",
        &[
            "resnet152-394f9c45.pth",
            "resnet152-b121ed2d.pth",
            "resnet152-f82ba261.pth",
        ],
    ),
];

const fn timm(
    name: &'static str,
    repository: &'static str,
    checkpoints: &'static [&'static str],
) -> Known {
    Known {
        name,
        repository,
        revision: "main",
        file: "model.safetensors",
        also: &[],
        checkpoints,
    }
}

/// The file of weights that were written as a path, a name, `hf:OWNER/NAME` or `none`, for which there is no file. What is
/// not on this machine is downloaded, since it was named.
///
/// # Errors
/// If it cannot be had; the message says what to download where.
pub(super) fn resolve(text: &Path, say: &mut dyn FnMut(&str)) -> Result<Option<PathBuf>, CliError> {
    let Some(written) = text.to_str().filter(|_| !text.exists()) else {
        return Ok(Some(text.to_owned()));
    };
    let wanted = match Source::parse(written, &NAMES)? {
        Source::None => return Ok(None),
        Source::Path(path) => return Ok(Some(path)),
        Source::Wanted(wanted) => wanted,
    };
    let hub = Hub::new(Environment::of_process())?;
    if let Some(found) = hub.find(&wanted)? {
        say(&format!("weights: {found}"));
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
    say(&format!("weights: {found}"));
    Ok(Some(found.path))
}

/// Names of weights that lie in a cache of this machine.
pub(super) fn at_hand() -> Vec<&'static str> {
    let Ok(hub) = Hub::new(Environment::of_process()) else {
        return vec![];
    };
    let lies = |known: &&Known| match Source::parse(known.name, &NAMES) {
        Ok(Source::Wanted(wanted)) => matches!(hub.find(&wanted), Ok(Some(_))),
        _ => false,
    };
    NAMES.iter().filter(lies).map(|known| known.name).collect()
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
}

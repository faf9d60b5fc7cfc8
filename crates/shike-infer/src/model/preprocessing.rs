//! What pictures go through before a pretrained backbone, by its family.

use shike_data::augment::Interpolation;
use shike_data::{Normalization, Pipeline, Transform};
use shike_model::BackboneConfig;

const HALVES: Normalization = Normalization {
    mean: [0.5; 3],
    std: [0.5; 3],
};

/// How the published weights of a backbone were evaluated: EfficientNet-Lite as in TensorFlow's repository, ResNets
/// as in torchvision, ViT as timm's AugReg weights, DINOv2 as its authors' linear evaluation. Networks for pictures
/// of 32 pixels take those of CIFAR.
pub fn preprocessing(backbone: &BackboneConfig) -> (Pipeline, Normalization) {
    let size = backbone.image_size() as u32;
    let bicubic = |short_side| Pipeline {
        transforms: vec![
            Transform::Resize {
                short_side,
                interpolation: Interpolation::Bicubic,
            },
            Transform::CenterCrop { size: size.into() },
        ],
    };
    let wider = (f64::from(size) * 256.0 / 224.0).round() as u32;
    match backbone {
        BackboneConfig::Lite(_) => (bicubic(wider), HALVES),
        BackboneConfig::Vit(vit) if vit.is_dinov2() => (bicubic(wider), Normalization::IMAGENET),
        BackboneConfig::Vit(_) => (bicubic(248), HALVES),
        _ if backbone.is_for_photographs() => (Pipeline::photo_eval(size), Normalization::IMAGENET),
        _ => (Pipeline::cifar_eval().resized(size), Normalization::CIFAR10),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn as_published() {
        for (name, short_side, size, interpolation, mean) in [
            ("efficientnet_lite0", 256, 224, Interpolation::Bicubic, 0.5),
            ("efficientnet_lite1", 274, 240, Interpolation::Bicubic, 0.5),
            ("efficientnet_lite2", 297, 260, Interpolation::Bicubic, 0.5),
            ("resnet50", 256, 224, Interpolation::Bilinear, 0.485),
            ("vit_s16", 248, 224, Interpolation::Bicubic, 0.5),
            ("dinov2_b14_reg", 256, 224, Interpolation::Bicubic, 0.485),
        ] {
            let (pipeline, normalization) = preprocessing(&BackboneConfig::named(name).unwrap());
            let resize = Transform::Resize {
                short_side,
                interpolation,
            };
            let crop = Transform::CenterCrop {
                size: u32::into(size),
            };
            assert_eq!(pipeline.transforms, [resize, crop], "{name}");
            assert_eq!(normalization.mean[0], mean, "{name}");
        }
        let (pipeline, normalization) = preprocessing(&BackboneConfig::named("resnet8").unwrap());
        assert_eq!(pipeline, Pipeline::cifar_eval());
        assert_eq!(normalization, Normalization::CIFAR10);
    }
}

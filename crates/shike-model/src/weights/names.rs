//! Names and layouts of PyTorch's state dicts.

use crate::network::Shike;

/// A parameter's or statistic's place in the reference's state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateName {
    pub name: String,
    /// PyTorch's `nn.Linear` stores `[out, in]`, Burn's `[in, out]`.
    pub transposed: bool,
}

/// Names tensors as the reference's `ResNet_MoE` does, or, for a plain network, as its
/// single-path network: `layer3.…` and `linear.…` without an expert's number. On a backbone for
/// large images, blocks and the plain network's classifier have torchvision's names.
pub(super) struct Names {
    plain: bool,
    shared: usize,
    /// Name of a block's projection: `shortcut` in the reference, `downsample` in torchvision.
    projection: &'static str,
    /// Name of the plain network's classifier.
    classifier: &'static str,
}

impl Names {
    pub fn of(model: &Shike) -> Self {
        let torchvision = model.stem.pool.is_some();
        let names = |projection, classifier| Self {
            plain: model.experts.len() == 1
                && model.experts[0].fusion.is_none()
                && model.experts[0].head2.is_none(),
            shared: model.shared.len(),
            projection,
            classifier,
        };
        match torchvision {
            true => names("downsample", "fc"),
            false => names("shortcut", "linear"),
        }
    }

    /// The name that an expert's own stage has in a plain network on the same backbone, where
    /// this is the name of a tensor in such a stage.
    pub fn in_plain_network(name: &str) -> Option<String> {
        let (layer, rest) = name.split_once("s.")?;
        let (_expert, rest) = rest.split_once('.')?;
        let number = layer.strip_prefix("layer")?;
        number.parse::<usize>().ok()?;
        Some(format!("{layer}.{rest}"))
    }

    /// Whether this is the name of a tensor in a classifier of any network.
    pub fn is_classifier(name: &str) -> bool {
        let first = name.split('.').next().unwrap_or_default();
        matches!(first, "fc" | "linear" | "classifiers" | "rt_classifiers")
    }

    /// Whether this is the name of a tensor in a knowledge fusion.
    pub fn is_fusion(name: &str) -> bool {
        name.starts_with("shallow_exps.")
    }

    /// How the names of the tensors in an expert's knowledge fusion begin.
    pub fn fusion(expert: usize) -> String {
        format!("shallow_exps.{expert}.")
    }

    /// The state-dict name of the tensor at this module path, in which an enum has the name of its
    /// variant.
    pub fn state_name(&self, path: &[&str]) -> StateName {
        let plain_name = |name| StateName {
            name,
            transposed: false,
        };
        match path {
            ["stem", "conv", leaf] => plain_name(format!("conv1.{leaf}")),
            ["stem", "bn", leaf] => plain_name(format!("bn1.{}", norm_leaf(leaf))),
            ["shared", stage, "blocks", block, _, rest @ ..] => {
                let layer = self.layer(stage, 0);
                plain_name(format!("layer{layer}.{block}.{}", self.block_rest(rest)))
            }
            ["experts", _, "stages", stage, "blocks", block, _, rest @ ..] if self.plain => {
                let layer = self.layer(stage, self.shared);
                plain_name(format!("layer{layer}.{block}.{}", self.block_rest(rest)))
            }
            ["experts", k, "stages", stage, "blocks", block, _, rest @ ..] => {
                let layer = self.layer(stage, self.shared);
                plain_name(format!(
                    "layer{layer}s.{k}.{block}.{}",
                    self.block_rest(rest)
                ))
            }
            ["experts", k, "fusion", "convs", i, "conv", leaf] => plain_name(format!(
                "shallow_exps.{k}.convs.StridedConv{i}.conv.0.{leaf}"
            )),
            ["experts", k, "fusion", "convs", i, "bn", leaf] => plain_name(format!(
                "shallow_exps.{k}.convs.StridedConv{i}.conv.1.{}",
                norm_leaf(leaf)
            )),
            ["experts", k, head, kind, leaf] => StateName {
                name: match (self.plain, *head) {
                    (true, _) => format!("{}.{leaf}", self.classifier),
                    (false, "head2") => format!("rt_classifiers.{k}.{leaf}"),
                    (false, _) => format!("classifiers.{k}.{leaf}"),
                },
                transposed: *kind == "Linear" && *leaf == "weight",
            },
            _ => plain_name(path.join(".")),
        }
    }

    /// Number of a stage in PyTorch's names: `layer1` is the first.
    fn layer(&self, stage: &str, before: usize) -> usize {
        // Module paths name the elements of a `Vec` by their index.
        stage.parse::<usize>().map_or(0, |i| i + before + 1)
    }

    fn block_rest(&self, rest: &[&str]) -> String {
        match rest {
            ["shortcut", "conv", leaf] => format!("{}.0.{leaf}", self.projection),
            ["shortcut", "bn", leaf] => format!("{}.1.{}", self.projection, norm_leaf(leaf)),
            [norm, leaf] if norm.starts_with("bn") => format!("{norm}.{}", norm_leaf(leaf)),
            other => other.join("."),
        }
    }
}

fn norm_leaf(leaf: &str) -> &str {
    match leaf {
        "gamma" => "weight",
        "beta" => "bias",
        other => other,
    }
}

//! Names and layouts of the reference's state dict.

use crate::network::Shike;

/// A parameter's or statistic's place in the reference's state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateName {
    pub name: String,
    /// PyTorch's `nn.Linear` stores `[out, in]`, Burn's `[in, out]`.
    pub transposed: bool,
}

/// Names tensors as the reference's `ResNet_MoE` does, or, for a plain network, as its
/// single-path network: `layer3.…` and `linear.…` without an expert's number.
pub(super) struct Names {
    plain: bool,
    shared: usize,
}

impl Names {
    pub fn of(model: &Shike) -> Self {
        Self {
            plain: model.experts.len() == 1
                && model.experts[0].fusion.is_none()
                && model.experts[0].head2.is_none(),
            shared: model.shared.len(),
        }
    }

    /// The state-dict name of the tensor at this module path. Enum variants are not part of
    /// `path`.
    pub fn state_name(&self, path: &[&str]) -> StateName {
        let plain_name = |name| StateName {
            name,
            transposed: false,
        };
        match path {
            ["stem", "conv", leaf] => plain_name(format!("conv1.{leaf}")),
            ["stem", "bn", leaf] => plain_name(format!("bn1.{}", norm_leaf(leaf))),
            ["shared", stage, "blocks", block, rest @ ..] => {
                let layer = self.layer(stage, 0);
                plain_name(format!("layer{layer}.{block}.{}", block_rest(rest)))
            }
            ["experts", _, "stages", stage, "blocks", block, rest @ ..] if self.plain => {
                let layer = self.layer(stage, self.shared);
                plain_name(format!("layer{layer}.{block}.{}", block_rest(rest)))
            }
            ["experts", k, "stages", stage, "blocks", block, rest @ ..] => {
                let layer = self.layer(stage, self.shared);
                plain_name(format!("layer{layer}s.{k}.{block}.{}", block_rest(rest)))
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
                    (true, _) => format!("linear.{leaf}"),
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
}

fn norm_leaf(leaf: &str) -> &str {
    match leaf {
        "gamma" => "weight",
        "beta" => "bias",
        other => other,
    }
}

fn block_rest(rest: &[&str]) -> String {
    match rest {
        ["shortcut", "conv", leaf] => format!("shortcut.0.{leaf}"),
        ["shortcut", "bn", leaf] => format!("shortcut.1.{}", norm_leaf(leaf)),
        [norm, leaf] if norm.starts_with("bn") => format!("{norm}.{}", norm_leaf(leaf)),
        other => other.join("."),
    }
}

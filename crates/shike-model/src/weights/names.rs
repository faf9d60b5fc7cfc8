//! Names and layouts of PyTorch's state dicts.

use crate::network::{BackboneConfig, Expert, Shike};

/// A parameter's or statistic's place in a state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateName {
    pub name: String,
    /// The name in a plain network on the same backbone, where the tensor is one of its layers.
    pub in_plain_network: Option<String>,
    /// PyTorch's `nn.Linear` stores `[out, in]`, Burn's `[in, out]`.
    pub transposed: bool,
}

/// Names tensors as the family of the backbone does, and what is SHIKE's own as the reference's `ResNet_MoE`.
pub(super) struct Names {
    backbone: BackboneConfig,
    plain: bool,
    shared: usize,
}

impl Names {
    pub fn of(model: &Shike) -> Self {
        let experts = &model.experts;
        let alone = |e: &Expert| e.fusion.is_none() && e.head2.is_none();
        Self {
            backbone: model.backbone().clone(),
            plain: experts.len() <= 1 && experts.iter().all(alone),
            shared: model.shared.len(),
        }
    }

    /// The name that another program gives to the tensor of this name.
    pub fn alias(&self, name: &str) -> Option<String> {
        self.backbone.family().alias(name)
    }

    /// Whether a tensor of the shape `found` stands for one of `expected` with zeros as its first rows.
    pub fn lacks_rows(&self, name: &str, found: &[usize], expected: &[usize]) -> bool {
        let sides = |shape: &[usize]| <[usize; 3]>::try_from(shape).ok();
        let (Some(found), Some(expected)) = (sides(found), sides(expected)) else {
            return false;
        };
        self.backbone.family().may_lack_rows(name)
            && found[1] < expected[1]
            && [found[0], found[2]] == [expected[0], expected[2]]
            && found[0] == 1
    }

    /// Whether this is the name of a tensor in a classifier of any network, or of one that only training uses.
    pub fn is_classifier(name: &str) -> bool {
        let first = name.split('.').next().unwrap_or_default();
        let of_plain_network = ["fc", "linear", "_fc", "head", "classifier"].contains(&first);
        of_plain_network || ["classifiers", "rt_classifiers", "mask_token"].contains(&first)
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
    /// variant, and which lies in a module of this type.
    pub fn state_name(&self, path: &[&str], container: &str) -> StateName {
        let own = |leaf| match (container, leaf) {
            ("Struct:BatchNorm" | "Struct:LayerNorm", "gamma") => "weight",
            ("Struct:BatchNorm" | "Struct:LayerNorm", "beta") => "bias",
            (_, leaf) => leaf,
        };
        let mut path = path.to_vec();
        if let Some(leaf) = path.last_mut() {
            *leaf = own(leaf);
        }
        let (name, in_plain_network) = match path.as_slice() {
            ["stem", "blocks", block, _, rest @ ..] => self.of_backbone(0, block, rest, None),
            ["shared", layer, "blocks", block, _, rest @ ..] => {
                self.of_backbone(number(layer) + 1, block, rest, None)
            }
            ["experts", k, "layers", layer, "blocks", block, _, rest @ ..] => {
                let depth = self.shared + number(layer) + 1;
                self.of_backbone(depth, block, rest, Some(number(k)))
            }
            ["experts", k, "fusion", "convs", i, layer, leaf] => {
                let at = usize::from(*layer == "bn");
                let name = format!("shallow_exps.{k}.convs.StridedConv{i}.conv.{at}.{leaf}");
                (name, None)
            }
            ["experts", k, head, _, leaf] => {
                let name = match (self.plain, *head) {
                    (true, _) => format!("{}.{leaf}", self.backbone.family().classifier_name()),
                    (false, "head2") => format!("rt_classifiers.{k}.{leaf}"),
                    (false, _) => format!("classifiers.{k}.{leaf}"),
                };
                (name, None)
            }
            path => (path.join("."), None),
        };
        StateName {
            name,
            in_plain_network,
            transposed: container == "Struct:Linear" && path.last() == Some(&"weight"),
        }
    }

    fn of_backbone(
        &self,
        depth: usize,
        block: &str,
        path: &[&str],
        expert: Option<usize>,
    ) -> (String, Option<String>) {
        let plain = self
            .backbone
            .family()
            .state_name(depth, number(block), path);
        match expert {
            Some(expert) if !self.plain => {
                let own = self.backbone.family().expert_state_name(&plain, expert);
                (own, Some(plain))
            }
            _ => (plain, None),
        }
    }
}

/// Module paths name the elements of a `Vec` by their index.
fn number(index: &str) -> usize {
    index.parse().unwrap_or(0)
}

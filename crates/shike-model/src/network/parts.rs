use core::fmt;
use core::str::FromStr;

use burn::module::{Module, ModuleMapper, Param, ParamGroup, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{BatchNorm, Block, ConfigError, Shike, ShikeConfig};

/// A part of a network that can be frozen or have a learning rate of its own. In text: `stem`,
/// `layer1`, `layer2`, …, `fusion`, `heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Part {
    /// The first layers.
    Stem,
    /// A depth, counted from 1, `layer1` … in the names of ResNets: the shared one, or that of every expert.
    Layer(usize),
    /// Knowledge fusion of every expert.
    Fusion,
    /// Both classifiers of every expert.
    Heads,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stem => f.write_str("stem"),
            Self::Layer(number) => write!(f, "layer{number}"),
            Self::Fusion => f.write_str("fusion"),
            Self::Heads => f.write_str("heads"),
        }
    }
}

impl FromStr for Part {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let numbered = |name: &str| {
            let number = text.strip_prefix(name)?.parse().ok();
            number.filter(|number| *number > 0)
        };
        let error = |expected: String| ConfigError::Field {
            field: "part",
            found: text.to_owned(),
            expected,
        };
        match text {
            "stem" => Ok(Self::Stem),
            "fusion" => Ok(Self::Fusion),
            "heads" => Ok(Self::Heads),
            _ => match (numbered("layer"), numbered("stage")) {
                (Some(number), _) => Ok(Self::Layer(number)),
                // What it was called once; a stage is one of training.
                (_, Some(number)) => Err(error(format!("layer{number}"))),
                _ => Err(error("stem, layer1, layer2, …, fusion or heads".into())),
            },
        }
    }
}

impl TryFrom<String> for Part {
    type Error = ConfigError;

    /// Files may have the former names, `stage1` for `layer1`.
    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.replacen("stage", "layer", 1).parse()
    }
}

impl From<Part> for String {
    fn from(part: Part) -> Self {
        part.to_string()
    }
}

impl ShikeConfig {
    /// The parts of the network, shallow to deep.
    pub fn parts(&self) -> Vec<Part> {
        let layers = (1..=self.backbone.layers()).map(Part::Layer);
        let fusion = (!self.fused_layers.is_empty()).then_some(Part::Fusion);
        [Part::Stem]
            .into_iter()
            .chain(layers)
            .chain(fusion)
            .chain([Part::Heads])
            .collect()
    }

    /// The parts that all experts share: the stem and the shared layers.
    pub fn shared_parts(&self) -> Vec<Part> {
        let layers = (1..=self.shared_layers).map(Part::Layer);
        [Part::Stem].into_iter().chain(layers).collect()
    }
}

impl Shike {
    /// The parameters of a part, for learning rates and optimizers of its own. Empty where the
    /// network has no such part.
    pub fn param_group(&self, part: Part) -> ParamGroup {
        let none = || ParamGroup::from_ids(vec![]);
        match part {
            Part::Stem => ParamGroup::ids_from_module(self.stem.clone()),
            Part::Layer(number) => match number.checked_sub(1) {
                None => none(),
                Some(index) if index < self.shared.len() => {
                    ParamGroup::ids_from_module(self.shared[index].clone())
                }
                Some(index) => {
                    let own = index - self.shared.len();
                    let layers = self.experts.iter().filter_map(|e| e.layers.get(own));
                    ParamGroup::ids_from_module(layers.cloned().collect::<Vec<_>>())
                }
            },
            Part::Fusion => {
                let fusions = self.experts.iter().filter_map(|e| e.fusion.clone());
                ParamGroup::ids_from_module(fusions.collect::<Vec<_>>())
            }
            Part::Heads => {
                let heads = self.experts.iter().flat_map(|expert| {
                    [Some(expert.head1.clone()), expert.head2.clone()]
                        .into_iter()
                        .flatten()
                });
                ParamGroup::ids_from_module(heads.collect::<Vec<_>>())
            }
        }
    }

    /// Every batch normalisation.
    fn norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        let mut norms = Vec::new();
        let mut layers = vec![&mut self.stem];
        layers.extend(&mut self.shared);
        for expert in &mut self.experts {
            layers.extend(&mut expert.layers);
            let convs = expert
                .fusion
                .iter_mut()
                .flat_map(|fusion| &mut fusion.convs);
            norms.extend(convs.map(|conv| &mut conv.bn));
        }
        let blocks = layers.into_iter().flat_map(|layer| &mut layer.blocks);
        norms.extend(blocks.flat_map(Block::norms_mut));
        norms
    }

    /// Gives the network its own running statistics (clones share them).
    pub(crate) fn with_own_statistics(mut self) -> Self {
        let norms = self.norms_mut().into_iter();
        norms.for_each(|norm| norm.own_statistics(ParamId::new));
        self
    }

    /// The same network with parameters and running statistics that are numbered from 1 in the order of
    /// its modules. Burn gives them random identities, which its records and the states of its optimizers
    /// hold: with numbers, equal networks give equal records.
    ///
    /// The running statistics are no longer shared with the original.
    pub fn with_numbered_parameters(self) -> Self {
        let mut numbers = Numbers(0);
        let mut model = self.map(&mut numbers);
        for norm in model.norms_mut() {
            norm.own_statistics(|| numbers.next());
        }
        model
    }

    /// Freezes a part: no gradients, and its batch normalisation uses its running statistics and
    /// leaves them alone.
    pub fn freeze_part(self, part: Part) -> Self {
        let group = self.param_group(part);
        self.freeze_group(group)
    }
}

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> ParamId {
        self.0 += 1;
        ParamId::from(self.0)
    }
}

impl ModuleMapper for Numbers {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(self.next(), tensor, mapper)
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    use crate::{Head, weights};

    #[test]
    fn parts_have_names_and_cover_the_network() {
        let config = ShikeConfig::cifar(8, 4).unwrap();
        let names: Vec<_> = config.parts().iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            ["stem", "layer1", "layer2", "layer3", "fusion", "heads"]
        );
        for name in names {
            assert_eq!(name.parse::<Part>().unwrap().to_string(), name);
        }
        for wrong in ["layer0", "layer", "head", ""] {
            let error = wrong.parse::<Part>().unwrap_err().to_string();
            assert!(error.contains("stem, layer1"), "{error}");
        }
        // As it was called once: an option is told the new word, a file is read.
        let error = "stage2".parse::<Part>().unwrap_err().to_string();
        assert!(error.contains("it must be layer2"), "{error}");
        assert_eq!(Part::try_from("stage2".to_owned()).unwrap(), Part::Layer(2));

        let model = config.init(&Device::flex().autodiff()).unwrap();
        let all = model.trainable_params();
        let frozen = |part| all - model.clone().freeze_part(part).trainable_params();
        let sum: usize = config.parts().into_iter().map(frozen).sum();
        assert_eq!(sum, all);
        assert_eq!(frozen(Part::Layer(9)), 0);
    }

    /// Clones share the statistics of a normalisation that is in no list.
    #[test]
    fn every_normalisation_is_listed() {
        for name in ["resnet8", "resnet10", "resnext50"] {
            let backbone = crate::BackboneConfig::named(name).unwrap();
            let config = ShikeConfig::on(backbone, 4).with_experts(2);
            let mut model = config.init(&Device::flex()).unwrap();
            let state = weights::state_dict(&model);
            let means = state.iter().filter(|(n, _)| n.ends_with("running_mean"));
            assert_eq!(model.norms_mut().len(), means.count(), "{name}");
        }
    }

    #[test]
    fn equal_networks_with_numbers_give_equal_records() {
        let record = |model: Shike| model.into_record().into_bytes().unwrap();
        let device = Device::flex().autodiff();
        let config = ShikeConfig::resnet(10, 4).unwrap();
        let one = config.init(&device).unwrap().freeze_part(Part::Stem);
        let other = config.init(&device).unwrap().freeze_part(Part::Stem);
        let state = weights::state_dict(&one).into_iter().collect();
        let other = weights::load_state_dict(other, state, "state".as_ref()).unwrap();
        assert!(record(one.clone()) != record(other.clone()));
        let trained = one.trainable_params();
        let one = one.with_numbered_parameters();
        assert_eq!(one.trainable_params(), trained);
        let bytes = record(one.clone());
        assert!(bytes == record(other.with_numbered_parameters()));
        assert!(bytes == record(one.with_numbered_parameters()));
    }

    #[test]
    fn a_frozen_part_keeps_its_statistics_and_the_others_move_theirs() {
        let device = Device::flex().autodiff();
        let model = ShikeConfig::cifar(8, 4).unwrap().init(&device).unwrap();
        let model = model.freeze_part(Part::Stem);
        model.forward(Tensor::ones([2, 3, 16, 16], &device), Head::Stage1);
        let moved = |bn: &crate::network::BatchNorm| {
            let mean = bn.running_mean.value();
            mean.abs().sum().into_scalar::<f32>() > 0.0
        };
        let crate::network::Block::Stem(stem) = &model.stem.blocks[0] else {
            panic!("a ResNet begins with a stem");
        };
        assert!(!moved(&stem.bn));
        let crate::network::Block::Basic(block) = &model.shared[0].blocks[0] else {
            panic!("a CIFAR network has basic blocks");
        };
        assert!(moved(&block.bn1));
    }
}

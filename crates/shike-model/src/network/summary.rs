use core::fmt;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use serde::Serialize;

use super::conv::Cost;
use super::{Classifier, Head, Shike};

/// Parameters and multiply-adds of a network, by part and in total; see [`Shike::describe`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSummary {
    /// The parts, shallow to deep.
    pub parts: Vec<PartSummary>,
    /// Height and width that the multiply-adds are for.
    pub image_size: [usize; 2],
}

/// One part of a network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartSummary {
    /// The part's name.
    pub name: String,
    /// Trainable values; running statistics are none.
    pub params: usize,
    /// Multiply-adds of convolutions and classifiers for one image. Both heads are listed; one of
    /// them runs in a forward pass.
    pub macs: u64,
    /// Values that its convolutions put out for one image; training keeps them for the backward
    /// pass.
    pub activations: u64,
}

impl ModelSummary {
    /// Trainable values in total.
    pub fn params(&self) -> usize {
        self.parts.iter().map(|part| part.params).sum()
    }

    /// Trainable values of the stage-2 heads, which stage 1 gives no gradient.
    pub fn stage2_head_params(&self) -> usize {
        let second = |part: &&PartSummary| part.name.ends_with(STAGE2_HEAD);
        self.parts
            .iter()
            .filter(second)
            .map(|part| part.params)
            .sum()
    }

    /// Values that the convolutions put out for one image.
    pub fn activations(&self) -> u64 {
        self.parts.iter().map(|part| part.activations).sum()
    }

    /// Multiply-adds of one forward pass of one image through one set of heads.
    pub fn macs(&self) -> u64 {
        let second = |part: &&PartSummary| !part.name.ends_with(STAGE2_HEAD);
        self.parts.iter().filter(second).map(|part| part.macs).sum()
    }
}

const STAGE2_HEAD: &str = ".head2";

impl fmt::Display for ModelSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [height, width] = self.image_size;
        writeln!(
            f,
            "{:<20} {:>12} {:>16}",
            "part", "parameters", "multiply-adds"
        )?;
        for part in &self.parts {
            writeln!(f, "{:<20} {:>12} {:>16}", part.name, part.params, part.macs)?;
        }
        write!(
            f,
            "{:<20} {:>12} {:>16}  (one {height}×{width} image, one set of heads)",
            "total",
            self.params(),
            self.macs()
        )
    }
}

/// Counts parameters, leaving out running statistics.
struct Count {
    values: usize,
    path: Vec<String>,
}

impl ModuleVisitor for Count {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self
            .path
            .last()
            .is_some_and(|name| name.starts_with("running_"))
        {
            self.values += param.lazy_shape().num_elements();
        }
    }
}

fn params<M: Module>(module: &M) -> usize {
    let mut count = Count {
        values: 0,
        path: vec![],
    };
    module.visit(&mut count);
    count.values
}

impl Shike {
    /// Parameters and multiply-adds by part, for images of `[height, width]`.
    pub fn describe(&self, image_size: [usize; 2]) -> ModelSummary {
        let mut parts = Vec::new();
        let mut part = |name: String, params, cost: Cost| {
            parts.push(PartSummary {
                name,
                params,
                macs: cost.macs,
                activations: cost.activations,
            });
        };
        let classifier = |head: &Classifier| Cost {
            macs: head.macs(),
            activations: 0,
        };

        let (cost, mut size) = self.stem.cost(image_size);
        part("stem".into(), params(&self.stem), cost);
        let mut sizes = Vec::new();
        for (i, layer) in self.shared.iter().enumerate() {
            let (cost, out) = layer.cost(size);
            part(format!("layer{}", i + 1), params(layer), cost);
            size = out;
            sizes.push(out);
        }
        for (k, expert) in self.experts.iter().enumerate() {
            let mut own = size;
            for (i, layer) in expert.layers.iter().enumerate() {
                let (cost, out) = layer.cost(own);
                let number = self.shared.len() + i + 1;
                part(format!("expert{k}.layer{number}"), params(layer), cost);
                own = out;
            }
            if let (Some(fusion), Some(source)) = (&expert.fusion, expert.fused_layer()) {
                let cost = fusion.cost(sizes[source - 1]);
                part(format!("expert{k}.fusion"), params(fusion), cost);
            }
            let head = expert.head(Head::Stage1);
            part(format!("expert{k}.head1"), params(head), classifier(head));
            if let Some(head) = &expert.head2 {
                let name = format!("expert{k}{STAGE2_HEAD}");
                part(name, params(head), classifier(head));
            }
        }
        ModelSummary { parts, image_size }
    }
}

//! The losses as operations on Burn's tensors, with gradients.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as Grads;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::{Int, Tensor};

use super::loss::{self, Labels, RowSum};
use super::ops::{Diff, DiffTensor, Place, common, floats, lifted, place, plain, read, tensor};
use crate::stats::count;
use crate::{DktOptions, LossLabels};

/// Which loss, with all that it needs beside the logits.
#[derive(Clone, Debug)]
enum Loss {
    Dkt(DktOptions),
    CrossEntropy {
        prior: Vec<f32>,
        /// Of each expert's rows; empty before the forward pass.
        rows: Vec<Vec<RowSum>>,
    },
}

/// Labels on the CPU.
#[derive(Clone, Debug)]
enum Known {
    Hard(Vec<i64>),
    Soft(Vec<f32>),
}

#[derive(Clone, Debug)]
struct LossState {
    loss: Loss,
    labels: Known,
    /// `[batch, classes]` of each expert.
    logits: Vec<FlexTensor>,
    dims: [usize; 2],
}

impl LossState {
    fn labels(&self) -> Labels<'_> {
        match &self.labels {
            Known::Hard(labels) => Labels::Hard(labels),
            Known::Soft(labels) => Labels::Soft(labels),
        }
    }

    fn logits(&self) -> Vec<&[f32]> {
        self.logits.iter().map(read).collect()
    }

    fn forward(&mut self) -> FlexTensor {
        let (logits, labels) = (self.logits(), self.labels());
        let terms = match &self.loss {
            Loss::Dkt(options) => loss::dkt_forward(&logits, self.dims, labels, *options),
            Loss::CrossEntropy { prior, .. } => {
                let (terms, sums) = loss::cross_entropy_forward(&logits, self.dims, labels, prior);
                if let Loss::CrossEntropy { rows, .. } = &mut self.loss {
                    *rows = sums;
                }
                terms
            }
        };
        let terms: Vec<f32> = terms.into_iter().map(|term| term as f32).collect();
        let count = terms.len();
        tensor(terms, [count])
    }

    fn backward(&self, coefficients: &[f32]) -> Vec<Vec<f32>> {
        let (logits, labels) = (self.logits(), self.labels());
        match &self.loss {
            Loss::Dkt(options) => {
                loss::dkt_backward(&logits, self.dims, labels, *options, coefficients)
            }
            Loss::CrossEntropy { prior, rows } => {
                loss::cross_entropy_backward(&logits, self.dims, labels, prior, rows, coefficients)
            }
        }
    }
}

/// The sums of all terms of dynamic knowledge transfer over the batch, if the kernels can work
/// here.
pub(crate) fn dkt(
    logits: &[Tensor<2>],
    labels: &LossLabels,
    options: DktOptions,
) -> Option<Tensor<1>> {
    record(logits, labels, Loss::Dkt(options))
}

/// The sum of the cross-entropy of `logits + prior` over the batch, of each expert.
pub(crate) fn cross_entropy(
    logits: &[Tensor<2>],
    labels: &LossLabels,
    prior: Vec<f32>,
) -> Option<Tensor<1>> {
    let rows = vec![];
    record(logits, labels, Loss::CrossEntropy { prior, rows })
}

/// The labels of a batch; `None` if they are not indices or distributions of these classes.
fn known(labels: &LossLabels, [batch, classes]: [usize; 2]) -> Option<Known> {
    match labels {
        LossLabels::Hard(labels) => {
            let labels = Tensor::<1, Int>::clone(labels).into_data();
            let labels: Vec<i64> = labels.iter().collect();
            let all = labels
                .iter()
                .all(|&label| usize::try_from(label).is_ok_and(|label| label < classes));
            (labels.len() == batch && all).then_some(Known::Hard(labels))
        }
        LossLabels::Soft(labels) => {
            let fits = labels.dims() == [batch, classes] && place(labels).is_some();
            fits.then(|| Known::Soft(floats(&mut plain(labels.clone())).to_vec()))
        }
    }
}

fn record(logits: &[Tensor<2>], labels: &LossLabels, loss: Loss) -> Option<Tensor<1>> {
    let dims = logits.first()?.dims();
    let places = logits.iter().map(place);
    let place = common(places)?;
    let same = logits.iter().all(|logits| logits.dims() == dims);
    if !same || dims.contains(&0) || (place == Place::Autodiff && logits.len() > MOST_EXPERTS) {
        return None;
    }
    // The passes run over logits and prior side by side, and write as much as both have.
    if let Loss::CrossEntropy { prior, .. } = &loss
        && prior.len() != dims[1]
    {
        return None;
    }
    let labels = known(labels, dims)?;
    count(|stats| &mut stats.loss);
    let state = |mut logits: Vec<FlexTensor>| {
        for logits in &mut logits {
            floats(logits);
        }
        LossState {
            loss,
            labels,
            logits,
            dims,
        }
    };
    if place == Place::Plain {
        let terms = state(logits.iter().cloned().map(plain).collect()).forward();
        return Some(Tensor::from_primitive::<Flex>(terms));
    }
    let parts = logits
        .iter()
        .cloned()
        .map(|logits| lifted(logits).into_parts());
    let (logits, nodes): (Vec<_>, Vec<_>) = parts.unzip();
    let mut state = state(logits);
    let terms = state.forward();
    Some(Tensor::from_primitive::<Diff>(finish(nodes, state, terms)))
}

/// The number of parents of an operation is part of its type.
const MOST_EXPERTS: usize = 8;

fn finish(nodes: Vec<NodeGuard>, state: LossState, terms: FlexTensor) -> DiffTensor {
    match nodes.len() {
        1 => finish_with::<1>(nodes, state, terms),
        2 => finish_with::<2>(nodes, state, terms),
        3 => finish_with::<3>(nodes, state, terms),
        4 => finish_with::<4>(nodes, state, terms),
        5 => finish_with::<5>(nodes, state, terms),
        6 => finish_with::<6>(nodes, state, terms),
        7 => finish_with::<7>(nodes, state, terms),
        _ => finish_with::<MOST_EXPERTS>(nodes, state, terms),
    }
}

fn finish_with<const N: usize>(
    nodes: Vec<NodeGuard>,
    state: LossState,
    terms: FlexTensor,
) -> DiffTensor {
    let Ok(nodes) = <[NodeGuard; N]>::try_from(nodes) else {
        unreachable!("`record` takes at most {MOST_EXPERTS} experts, and `finish` counts them");
    };
    let prepared = LossNode
        .prepare::<NoCheckpointing>(nodes)
        .compute_bound()
        .stateful();
    match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(state, terms),
        OpsKind::UnTracked(prepared) => prepared.finish(terms),
    }
}

#[derive(Debug)]
struct LossNode;

impl<const N: usize> Backward<Flex, N> for LossNode {
    type State = LossState;

    fn backward(self, ops: Ops<LossState, N>, grads: &mut Grads, _: &mut Checkpointer) {
        let mut coefficients = grads.consume::<Flex>(&ops.node);
        let gradients = ops.state.backward(floats(&mut coefficients));
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, tensor(gradient, ops.state.dims));
            }
        }
    }
}

//! The losses as operations on Burn's tensors, with gradients.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as Grads;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::{Int, Tensor};

use super::loss::{self, Labels};
use super::ops::{Diff, Place, floats, lifted, place, plain, read, tensor};
use crate::stats::{Kernel, count};
use crate::{DktOptions, LossLabels};

/// Which loss, with all that it needs beside the logits.
#[derive(Clone, Debug)]
enum Loss {
    Dkt(DktOptions),
    CrossEntropy { prior: Vec<f32> },
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
    /// `[experts, batch, classes]`
    logits: FlexTensor,
    dims: [usize; 3],
}

impl LossState {
    fn labels(&self) -> Labels<'_> {
        match &self.labels {
            Known::Hard(labels) => Labels::Hard(labels),
            Known::Soft(labels) => Labels::Soft(labels),
        }
    }

    fn forward(&self) -> Vec<f64> {
        let logits = read(&self.logits);
        match &self.loss {
            Loss::Dkt(options) => loss::dkt_forward(logits, self.dims, self.labels(), *options),
            Loss::CrossEntropy { prior } => {
                loss::cross_entropy_forward(logits, self.dims, self.labels(), prior)
            }
        }
    }

    fn backward(&self, coefficients: &[f32]) -> Vec<f32> {
        let logits = read(&self.logits);
        let (dims, labels) = (self.dims, self.labels());
        match &self.loss {
            Loss::Dkt(options) => loss::dkt_backward(logits, dims, labels, *options, coefficients),
            Loss::CrossEntropy { prior } => {
                loss::cross_entropy_backward(logits, dims, labels, prior, coefficients)
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
    record(logits, labels, Loss::CrossEntropy { prior })
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
    let first = logits.first()?;
    let [batch, classes] = first.dims();
    let same = |logits: &Tensor<2>| logits.dims() == first.dims() && place(logits) == place(first);
    let place = place(first)?;
    if !logits.iter().all(same) || batch * classes == 0 {
        return None;
    }
    let labels = known(labels, first.dims())?;
    count(Kernel::Loss);
    let dims = [logits.len(), batch, classes];
    let state = |mut logits: FlexTensor| {
        floats(&mut logits);
        LossState {
            loss,
            labels,
            logits,
            dims,
        }
    };
    let terms = |state: &LossState| {
        let terms: Vec<f32> = state
            .forward()
            .into_iter()
            .map(|term| term as f32)
            .collect();
        let count = terms.len();
        tensor(terms, [count])
    };
    let stacked: Tensor<3> = Tensor::stack(logits.to_vec(), 0);
    if place == Place::Plain {
        let state = state(plain(stacked));
        return Some(Tensor::from_primitive::<Flex>(terms(&state)));
    }
    let (logits, node) = lifted(stacked).into_parts();
    let state = state(logits);
    let terms = terms(&state);
    let prepared = LossNode
        .prepare::<NoCheckpointing>([node])
        .compute_bound()
        .stateful();
    Some(Tensor::from_primitive::<Diff>(match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(state, terms),
        OpsKind::UnTracked(prepared) => prepared.finish(terms),
    }))
}

#[derive(Debug)]
struct LossNode;

impl Backward<Flex, 1> for LossNode {
    type State = LossState;

    fn backward(self, ops: Ops<LossState, 1>, grads: &mut Grads, _: &mut Checkpointer) {
        let mut coefficients = grads.consume::<Flex>(&ops.node);
        let gradient = ops.state.backward(floats(&mut coefficients));
        if let [Some(node)] = ops.parents {
            grads.register::<Flex>(node.id, tensor(gradient, ops.state.dims));
        }
    }
}

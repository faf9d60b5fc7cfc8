//! The kernels as operations on Burn's tensors, with gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as Grads;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, BackendTypes, DispatchAutodiffContext,
    DispatchTensorKind, Flex, GradientCheckpointingStrategy, TensorMetadata,
};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::module::BatchNormTrainOutput;
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use super::buffer::{Shared, SharedMut, Target, filled};
use super::conv::{self, Shape};
use super::gemm::Epilogue;
use super::norm::{self, Affine, Apply, Dims, Factors, Gradients, Mask};
use super::simd::Simd;
use crate::stats::count;
use crate::{FixedNorm, Then};

pub(super) type Diff = Autodiff<Flex, NoCheckpointing>;
pub(super) type DiffTensor = <Diff as BackendTypes>::FloatTensorPrimitive;

/// Where a tensor lives, if the kernels can work there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Plain,
    Autodiff,
}

pub(super) fn place<const D: usize>(tensor: &Tensor<D>) -> Option<Place> {
    let tensor = tensor.clone().into_dispatch();
    let float = |dtype: DType| dtype == DType::F32;
    match (&tensor.kind, tensor.autodiff) {
        (
            DispatchTensorKind::Flex(BackendTensor::Float(inner)),
            DispatchAutodiffContext::Disabled,
        ) => float(inner.dtype()).then_some(Place::Plain),
        (
            DispatchTensorKind::Autodiff(inner),
            DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Disabled),
        ) => match &**inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(inner)) => {
                float(inner.dtype()).then_some(Place::Autodiff)
            }
            _ => None,
        },
        _ => None,
    }
}

/// The place of an operation on several tensors: constants are lifted to autodiff.
pub(super) fn common(places: impl IntoIterator<Item = Option<Place>>) -> Option<Place> {
    places.into_iter().try_fold(Place::Plain, |all, place| {
        Some(match place? {
            Place::Plain => all,
            Place::Autodiff => Place::Autodiff,
        })
    })
}

const CHECKED: &str = "the tensor's place was looked at before";

pub(super) fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    match place(&tensor) {
        Some(Place::Plain) => tensor.try_into_primitive::<Flex>().expect(CHECKED),
        _ => tensor
            .try_into_primitive::<Diff>()
            .expect(CHECKED)
            .into_primitive(),
    }
}

pub(super) fn lifted<const D: usize>(tensor: Tensor<D>) -> DiffTensor {
    match place(&tensor) {
        Some(Place::Autodiff) => tensor.try_into_primitive::<Diff>().expect(CHECKED),
        _ => Diff::from_inner(tensor.try_into_primitive::<Flex>().expect(CHECKED)),
    }
}

/// The tensor's floats in NCHW order. The tensor is made contiguous first if it is not.
pub(super) fn floats(tensor: &mut FlexTensor) -> &[f32] {
    if !tensor.is_contiguous() {
        *tensor = tensor.to_contiguous();
    }
    tensor.as_slice().expect("float32, and contiguous by now")
}

pub(super) fn read(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous float32")
}

pub(super) fn tensor(data: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(data, shape.into()))
}

/// Runs `write` with the tensor's own floats, where no one else holds them.
pub(super) fn in_place(tensor: &mut FlexTensor, write: impl FnOnce(&mut [f32])) -> bool {
    let count = tensor.layout().num_elements();
    let fits = tensor.is_contiguous() && tensor.layout().start_offset() == 0;
    match tensor.try_storage_mut::<f32>() {
        Some(data) if fits && data.len() == count => {
            write(data);
            true
        }
        _ => false,
    }
}

/// Rows above and columns on the left, and those below and on the right, of padding that is given in numbers.
pub(super) fn margins(padding: &PaddingConfig2d) -> Option<([usize; 2], [usize; 2])> {
    match *padding {
        PaddingConfig2d::Valid => Some(([0, 0], [0, 0])),
        PaddingConfig2d::Explicit(top, left, bottom, right) => Some(([top, left], [bottom, right])),
        _ => None,
    }
}

/// The convolution's shape, if the kernels compute it.
fn conv_shape(conv: &Conv2d, input: &Tensor<4>) -> Option<Shape> {
    let [batch, channels, height, width] = input.dims();
    let (pad, pad_end) = margins(&conv.padding)?;
    let [filters, group_channels, kernel_h, kernel_w] = conv.weight.lazy_shape().dims();
    let shape = Shape {
        batch,
        channels,
        size: [height, width],
        filters,
        kernel: [kernel_h, kernel_w],
        stride: conv.stride,
        pad,
        pad_end,
        groups: conv.groups,
    };
    let grouped = group_channels * conv.groups == channels;
    (conv.dilation == [1, 1] && grouped && shape.fits()).then_some(shape)
}

/// Whether [`conv2d`] can be called. A bias has no gradient here.
pub(crate) fn conv2d_fits(conv: &Conv2d, input: &Tensor<4>) -> bool {
    let weight = conv.weight.val();
    let places = match &conv.bias {
        None => common([place(input), place(&weight)]).is_some(),
        Some(bias) => untracked(input) && untracked(&weight) && untracked(&bias.val()),
    };
    places && conv_shape(conv, input).is_some()
}

/// The convolution of a module that fits.
pub(crate) fn conv2d(conv: &Conv2d, input: Tensor<4>) -> Tensor<4> {
    let shape = conv_shape(conv, &input).expect("`conv2d_fits` said so");
    let weight = conv.weight.val();
    let simd = Simd::current();
    count(|stats| &mut stats.conv2d);
    let [height, width] = shape.output().expect("`conv2d_fits` said so");
    let bias = conv.bias.as_ref().map(|bias| Affine {
        mean: vec![0.0; shape.filters],
        scale: vec![1.0; shape.filters],
        shift: floats(&mut plain(bias.val())).to_vec(),
    });
    let run = |x: &mut FlexTensor, w: &mut FlexTensor| {
        let bias = bias.as_ref().map(|affine| Epilogue {
            affine,
            residual: None,
            relu: None,
        });
        let y = conv::forward(simd, &shape, floats(x), floats(w), bias);
        tensor(y, [shape.batch, shape.filters, height, width])
    };
    if common([place(&input), place(&weight)]) == Some(Place::Plain) {
        let y = run(&mut plain(input), &mut plain(weight));
        return Tensor::from_primitive::<Flex>(y);
    }
    let (input, weight) = (lifted(input), lifted(weight));
    let tracked = [input.is_tracked(), weight.is_tracked()];
    let (mut x, x_node) = input.into_parts();
    let (mut w, w_node) = weight.into_parts();
    let y = run(&mut x, &mut w);
    let prepared = ConvNode
        .prepare::<NoCheckpointing>([x_node, w_node])
        .compute_bound()
        .stateful();
    Tensor::from_primitive::<Diff>(match prepared {
        OpsKind::Tracked(prepared) => {
            // Each gradient needs the other factor.
            let state = ConvState {
                shape,
                simd,
                x: tracked[1].then_some(x),
                w: tracked[0].then_some(w),
            };
            prepared.finish(state, y)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    })
}

#[derive(Debug)]
struct ConvNode;

#[derive(Clone, Debug)]
struct ConvState {
    shape: Shape,
    simd: Simd,
    x: Option<FlexTensor>,
    w: Option<FlexTensor>,
}

impl Backward<Flex, 2> for ConvNode {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 2>, grads: &mut Grads, _: &mut Checkpointer) {
        count(|stats| &mut stats.conv2d_backward);
        let mut dy = grads.consume::<Flex>(&ops.node);
        let dy = floats(&mut dy);
        let ConvState { shape, simd, x, w } = ops.state;
        let s = shape;
        let [x_node, w_node] = ops.parents;
        if let (Some(node), Some(x)) = (w_node, x) {
            let dw = conv::weight_gradient(simd, &s, read(&x), dy);
            let shape = [s.filters, s.channels / s.groups, s.kernel[0], s.kernel[1]];
            grads.register::<Flex>(node.id, tensor(dw, shape));
        }
        if let (Some(node), Some(w)) = (x_node, w) {
            let dx = conv::input_gradient(simd, &s, dy, read(&w));
            let shape = [s.batch, s.channels, s.size[0], s.size[1]];
            grads.register::<Flex>(node.id, tensor(dx, shape));
        }
    }
}

/// Whether the kernels can work with the tensor and no gradient will be asked of it.
pub(crate) fn untracked<const D: usize>(tensor: &Tensor<D>) -> bool {
    match place(tensor) {
        Some(Place::Plain) => true,
        Some(Place::Autodiff) => !lifted(tensor.clone()).is_tracked(),
        None => false,
    }
}

/// Whether [`conv2d_norm`] can be called.
pub(crate) fn conv2d_norm_fits(
    conv: &Conv2d,
    input: &Tensor<4>,
    norm: &FixedNorm,
    then: &Then,
) -> bool {
    let Some(shape) = conv_shape(conv, input).filter(|_| conv.bias.is_none()) else {
        return false;
    };
    let [height, width] = shape.output().expect("it fits");
    let output = [shape.batch, shape.filters, height, width];
    let residual = then.residual();
    let [gamma, beta, mean, variance] = norm.tensors();
    norm.tensors().iter().all(|t| t.dims() == [shape.filters])
        && residual.is_none_or(|residual| residual.dims() == output && untracked(residual))
        && untracked(input)
        && untracked(&conv.weight.val())
        && [gamma, beta].into_iter().all(untracked)
        && common([place(mean), place(variance)]).is_some()
}

/// Convolution and batch normalisation in one pass.
pub(crate) fn conv2d_norm(
    conv: &Conv2d,
    input: Tensor<4>,
    norm: FixedNorm,
    then: Then,
) -> Tensor<4> {
    count(|stats| &mut stats.conv2d_norm);
    let shape = conv_shape(conv, &input).expect("`conv2d_norm_fits` said so");
    let [height, width] = shape.output().expect("`conv2d_norm_fits` said so");
    let weight = conv.weight.val();
    let (relu, residual) = then.parts();
    let places = [place(&input), place(&weight)];
    let place = common(
        places
            .into_iter()
            .chain(norm.tensors().map(place))
            .chain(residual.as_ref().map(place)),
    );
    let [gamma, beta, mean, variance] =
        [norm.gamma, norm.beta, norm.mean, norm.variance].map(plain);
    let [mut gamma, mut beta, mut mean, mut variance] = [gamma, beta, mean, variance];
    let inverse = norm::inverse_deviation(floats(&mut variance), norm.epsilon);
    let affine = Affine::new(
        floats(&mut mean),
        &inverse,
        floats(&mut gamma),
        floats(&mut beta),
    );
    let mut residual = residual.map(plain);
    let epilogue = Epilogue {
        affine: &affine,
        residual: residual.as_mut().map(floats),
        relu,
    };
    let (mut x, mut w) = (plain(input), plain(weight));
    let y = conv::forward(
        Simd::current(),
        &shape,
        floats(&mut x),
        floats(&mut w),
        Some(epilogue),
    );
    let y = tensor(y, [shape.batch, shape.filters, height, width]);
    wrapped(y, place.expect("`conv2d_norm_fits` said so"))
}

/// A result without a history.
pub(super) fn wrapped<const D: usize>(tensor: FlexTensor, place: Place) -> Tensor<D> {
    match place {
        Place::Plain => Tensor::from_primitive::<Flex>(tensor),
        Place::Autodiff => Tensor::from_primitive::<Diff>(Diff::from_inner(tensor)),
    }
}

impl Then {
    fn residual(&self) -> Option<&Tensor<4>> {
        match self {
            Self::Add(residual) | Self::AddRelu(residual) => Some(residual),
            Self::Nothing | Self::Relu | Self::Relu6 => None,
        }
    }

    /// The ceiling of ReLU, if there is one, and the residual.
    fn parts(self) -> (Option<f32>, Option<Tensor<4>>) {
        match self {
            Self::Nothing => (None, None),
            Self::Relu => (Some(f32::INFINITY), None),
            Self::Relu6 => (Some(6.0), None),
            Self::Add(residual) => (None, Some(residual)),
            Self::AddRelu(residual) => (Some(f32::INFINITY), Some(residual)),
        }
    }
}

/// Whether [`batch_norm`] and [`batch_norm_train`] can be called.
pub(crate) fn batch_norm_fits(input: &Tensor<4>, channel: &[&Tensor<1>], then: &Then) -> bool {
    let dims = input.dims();
    if then
        .residual()
        .is_some_and(|residual| residual.dims() != dims)
    {
        return false;
    }
    let residual = then.residual().map_or(Some(Place::Plain), place);
    let places = channel.iter().map(|tensor| place(tensor));
    dims.iter().all(|&side| side > 0)
        && channel.iter().all(|tensor| tensor.dims() == [dims[1]])
        && common(places.chain([place(input), residual])).is_some()
}

/// What both kinds of batch normalisation are made from.
struct Norm {
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    then: Then,
}

/// Normalises with the statistics of the batch.
pub(crate) fn batch_norm_train(
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    then: Then,
) -> BatchNormTrainOutput<4> {
    count(|stats| &mut stats.batch_norm_train);
    let channels = input.dims()[1];
    let norm = Norm {
        input,
        gamma,
        beta,
        epsilon,
        then,
    };
    let (output, place, mean, variance) = norm.forward(None);
    let wrap = |data: Vec<f32>| wrapped(tensor(data, [channels]), place);
    BatchNormTrainOutput {
        output,
        mean: wrap(mean),
        variance: wrap(variance),
    }
}

/// Normalises with given statistics.
pub(crate) fn batch_norm(input: Tensor<4>, norm: FixedNorm, then: Then) -> Tensor<4> {
    count(|stats| &mut stats.batch_norm);
    let given = [norm.mean, norm.variance].map(|t| floats(&mut plain(t)).to_vec());
    let norm = Norm {
        input,
        gamma: norm.gamma,
        beta: norm.beta,
        epsilon: norm.epsilon,
        then,
    };
    norm.forward(Some(given)).0
}

impl Norm {
    /// Output, its place, and the mean and variance that were used.
    fn forward(self, given: Option<[Vec<f32>; 2]>) -> (Tensor<4>, Place, Vec<f32>, Vec<f32>) {
        let simd = Simd::current();
        let [batch, channels, height, width] = self.input.dims();
        let dims = Dims {
            batch,
            channels,
            area: height * width,
        };
        let (relu, residual) = self.then.parts();
        let place = common([
            place(&self.input),
            place(&self.gamma),
            place(&self.beta),
            residual.as_ref().map_or(Some(Place::Plain), place),
        ])
        .expect("`batch_norm_fits` said so");
        let batch_statistics = given.is_none();
        let statistics = |x: &[f32]| match given {
            Some([mean, variance]) => (mean, variance),
            None => norm::statistics(simd, dims, x),
        };
        // The values of a channel, and the output where no gradient will be asked for.
        let prepare = |x: &mut FlexTensor, gamma: &mut FlexTensor, beta: &mut FlexTensor| {
            let (mean, variance) = statistics(floats(x));
            let inverse = norm::inverse_deviation(&variance, self.epsilon);
            let affine = Affine::new(&mean, &inverse, floats(gamma), floats(beta));
            (mean, variance, inverse, affine)
        };
        let shape = [batch, channels, height, width];
        match place {
            Place::Plain => {
                let (mut x, mut gamma, mut beta) =
                    (plain(self.input), plain(self.gamma), plain(self.beta));
                let mut residual = residual.map(plain);
                let (mean, variance, _, affine) = prepare(&mut x, &mut gamma, &mut beta);
                let y = normalise(simd, dims, x, &affine, relu, residual.as_mut(), shape, true);
                (Tensor::from_primitive::<Flex>(y), place, mean, variance)
            }
            Place::Autodiff => {
                let (x, gamma, beta) = (lifted(self.input), lifted(self.gamma), lifted(self.beta));
                let residual = residual.map(lifted);
                let tracked = x.is_tracked()
                    || gamma.is_tracked()
                    || beta.is_tracked()
                    || residual.as_ref().is_some_and(|r| r.is_tracked());
                let (mut x, x_node) = x.into_parts();
                let (mut gamma, gamma_node) = gamma.into_parts();
                let (mut beta, beta_node) = beta.into_parts();
                let (mut residual, residual_node) = residual.map(|r| r.into_parts()).unzip();
                let (mean, variance, inverse, affine) = prepare(&mut x, &mut gamma, &mut beta);
                let kept = tracked.then(|| x.clone());
                let y = normalise(
                    simd,
                    dims,
                    x,
                    &affine,
                    relu,
                    residual.as_mut(),
                    shape,
                    !tracked,
                );
                let state = kept.map(|x| NormState {
                    x,
                    y: (relu.is_some() && residual.is_some()).then(|| y.clone()),
                    affine,
                    inverse,
                    dims,
                    relu,
                    batch_statistics,
                    simd,
                });
                let y = match residual_node {
                    Some(residual) => {
                        let nodes = [x_node, gamma_node, beta_node, residual];
                        NormNode.record(nodes, state, y)
                    }
                    None => NormNode.record([x_node, gamma_node, beta_node], state, y),
                };
                (Tensor::from_primitive::<Diff>(y), place, mean, variance)
            }
        }
    }
}

/// Writes the output, over the input where that is allowed and possible.
#[allow(clippy::too_many_arguments)]
fn normalise(
    simd: Simd,
    dims: Dims,
    mut x: FlexTensor,
    affine: &Affine,
    relu: Option<f32>,
    residual: Option<&mut FlexTensor>,
    shape: [usize; 4],
    over: bool,
) -> FlexTensor {
    let residual = residual.map(|r| Shared::new(floats(r)));
    let apply = |x: Shared<'_>, y: Target<'_>| {
        let apply = Apply {
            dims,
            affine,
            relu,
            x,
            residual,
            y,
        };
        // SAFETY: `x` and the residual are only read, unless `y` is `x`, which then belongs to this
        // function alone.
        unsafe { norm::apply(simd, apply) }
    };
    let write_over = |x: &mut [f32]| {
        let x = SharedMut::new(x);
        apply(x.shared(), x.target());
    };
    if over && in_place(&mut x, write_over) {
        return x;
    }
    let from = Shared::new(floats(&mut x));
    // SAFETY: `apply` writes every float and reads none.
    let y = unsafe { filled(shape.iter().product(), |y| apply(from, y)) };
    tensor(y, shape)
}

#[derive(Debug)]
struct NormNode;

#[derive(Clone, Debug)]
struct NormState {
    x: FlexTensor,
    /// Where it tells what ReLU let through.
    y: Option<FlexTensor>,
    affine: Affine,
    inverse: Vec<f32>,
    dims: Dims,
    relu: Option<f32>,
    batch_statistics: bool,
    simd: Simd,
}

impl NormNode {
    fn record<const N: usize>(
        self,
        nodes: [burn::backend::autodiff::ops::NodeGuard; N],
        state: Option<NormState>,
        y: FlexTensor,
    ) -> DiffTensor {
        let prepared = self
            .prepare::<NoCheckpointing>(nodes)
            .compute_bound()
            .stateful();
        match (prepared, state) {
            (OpsKind::Tracked(prepared), Some(state)) => prepared.finish(state, y),
            (OpsKind::UnTracked(prepared), _) => prepared.finish(y),
            (OpsKind::Tracked(_), None) => unreachable!("a node is tracked if a parent is"),
        }
    }
}

impl<const N: usize> Backward<Flex, N> for NormNode {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, N>, grads: &mut Grads, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        // The residual is the fourth, where there is one.
        let mut wanted = [false; 4];
        for (wanted, parent) in wanted.iter_mut().zip(&ops.parents) {
            *wanted = parent.is_some();
        }
        let found = ops.state.gradients(dy, wanted);
        for (node, gradient) in ops.parents.iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl NormState {
    /// Gradients for `x`, gamma, beta and the residual, where they are wanted.
    fn gradients(self, mut dy: FlexTensor, wanted: [bool; 4]) -> [Option<FlexTensor>; 4] {
        count(|stats| &mut stats.batch_norm_backward);
        let Self { dims, simd, .. } = self;
        let [want_x, want_gamma, want_beta, want_residual] = wanted;
        let (x, mean) = (read(&self.x), &self.affine.mean);
        let mask = match (&self.y, self.relu) {
            (_, None) => Mask::None,
            (Some(y), Some(ceiling)) => Mask::Output(read(y), ceiling),
            (None, Some(ceiling)) => Mask::Recompute(&self.affine, ceiling),
        };
        let needed = want_gamma || want_beta || (want_x && self.batch_statistics);
        let sums = match needed {
            true => norm::gradient_sums(simd, dims, x, floats(&mut dy), mean, mask),
            false => vec![[0.0; 2]; dims.channels],
        };
        let inverse = self.inverse.iter().map(|&i| f64::from(i));
        let by_channel = |value: Vec<f32>| tensor(value, [dims.channels]);
        let gamma = sums.iter().zip(inverse.clone());
        let gamma = gamma.map(|(sums, inverse)| (sums[1] * inverse) as f32);
        let gamma = want_gamma.then(|| by_channel(gamma.collect()));
        let beta = want_beta.then(|| by_channel(sums.iter().map(|s| s[0] as f32).collect()));

        // With the statistics of the batch, x also acts through mean and variance.
        let scales = self.affine.scale.iter().zip(inverse).zip(&sums);
        let factors: Vec<Factors> = scales
            .map(|((&scale, inverse), sums)| {
                let part = match self.batch_statistics {
                    true => -f64::from(scale) / dims.count(),
                    false => 0.0,
                };
                Factors {
                    by_gradient: scale,
                    by_value: (part * inverse * inverse * sums[1]) as f32,
                    constant: (part * sums[0]) as f32,
                }
            })
            .collect();
        let run = |dy: Shared<'_>, dx: Option<Target<'_>>, residual: Option<Target<'_>>| {
            let gradients = Gradients {
                dims,
                x,
                dy,
                mask,
                mean,
                factors: &factors,
                dx,
                residual,
            };
            // SAFETY: where the gradient is written over, it belongs to this function alone.
            unsafe { norm::gradients(simd, gradients) }
        };
        let shape = dy.shape();
        let len = dims.batch * dims.channels * dims.area;
        // The gradient itself is written over where no one else holds it: by that for the residual
        // if both are wanted, else by the only one.
        let (dx, residual) = match (want_x, want_residual) {
            (false, false) => (None, None),
            (true, true) => {
                let mut residual = None;
                // SAFETY: `run` writes every float of `dx`, and of the residual's gradient.
                let dx = unsafe {
                    filled(len, |dx| {
                        let over = |dy: &mut [f32]| {
                            let dy = SharedMut::new(dy);
                            run(dy.shared(), Some(dx), Some(dy.target()));
                        };
                        if !in_place(&mut dy, over) {
                            let from = Shared::new(floats(&mut dy));
                            residual = Some(filled(len, |r| run(from, Some(dx), Some(r))));
                        }
                    })
                };
                let residual = match residual {
                    Some(residual) => tensor(residual, shape.clone()),
                    None => dy,
                };
                (Some(tensor(dx, shape)), Some(residual))
            }
            _ => {
                let only = |from: Shared<'_>, to: Target<'_>| {
                    run(from, want_x.then_some(to), want_residual.then_some(to));
                };
                let over = |dy: &mut [f32]| {
                    let dy = SharedMut::new(dy);
                    only(dy.shared(), dy.target());
                };
                let found = if in_place(&mut dy, over) {
                    dy
                } else {
                    let from = Shared::new(floats(&mut dy));
                    // SAFETY: `run` writes every float.
                    tensor(unsafe { filled(len, |to| only(from, to)) }, shape)
                };
                match want_x {
                    true => (Some(found), None),
                    false => (None, Some(found)),
                }
            }
        };
        [dx, gamma, beta, residual]
    }
}

/// Parameters that one task updates.
const PART: usize = 1 << 15;

/// Whether [`sgd_step`] can be called.
pub(crate) fn sgd_fits<const D: usize>(
    weight: &Tensor<D>,
    gradient: &Tensor<D>,
    velocity: Option<&Tensor<D>>,
) -> bool {
    let places = [Some(weight), Some(gradient), velocity];
    let mut tensors = places.into_iter().flatten();
    tensors.all(|t| t.dims() == weight.dims() && place(t) == Some(Place::Plain))
}

/// A step of stochastic gradient descent, in the buffers of weight and velocity where no one else
/// holds them. Nothing is fused: it rounds as Burn's operations do.
pub(crate) fn sgd_step<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
    [lr, momentum, decay]: [f32; 3],
) -> (Tensor<D>, Tensor<D>) {
    count(|stats| &mut stats.sgd);
    let shape = weight.dims();
    let mut weight = alone(plain(weight), shape);
    let mut gradient = plain(gradient);
    // The first velocity is the gradient, and takes its place.
    let (mut velocity, first) = match velocity {
        Some(velocity) => (alone(plain(velocity), shape), false),
        None => (
            alone(std::mem::replace(&mut gradient, tensor(vec![], [0])), shape),
            true,
        ),
    };
    let gradient = (!first).then(|| floats(&mut gradient));
    let stepped = in_place(&mut weight, |w| {
        let stepped = in_place(&mut velocity, |v| {
            let parts = w.par_chunks_mut(PART).zip(v.par_chunks_mut(PART));
            match gradient {
                Some(gradient) => parts
                    .zip(gradient.par_chunks(PART))
                    .for_each(|((w, v), g)| {
                        for ((w, v), g) in w.iter_mut().zip(v).zip(g) {
                            *v = *v * momentum + (*g + *w * decay);
                            *w -= *v * lr;
                        }
                    }),
                None => parts.for_each(|(w, v)| {
                    for (w, v) in w.iter_mut().zip(v) {
                        *v += *w * decay;
                        *w -= *v * lr;
                    }
                }),
            }
        });
        debug_assert!(stepped, "`alone` made it so");
    });
    debug_assert!(stepped, "`alone` made it so");
    (
        Tensor::from_primitive::<Flex>(weight),
        Tensor::from_primitive::<Flex>(velocity),
    )
}

/// The tensor in a buffer that no one else holds.
fn alone<const D: usize>(mut tensor: FlexTensor, shape: [usize; D]) -> FlexTensor {
    match in_place(&mut tensor, |_| ()) {
        true => tensor,
        false => self::tensor(floats(&mut tensor).to_vec(), shape),
    }
}

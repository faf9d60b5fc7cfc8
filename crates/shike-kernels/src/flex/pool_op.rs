//! Maximum pooling on Burn's tensors.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as Grads;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::nn::pool::MaxPool2d;
use burn::tensor::Tensor;

use super::ops::{Diff, Place, floats, lifted, margins, place, plain, tensor};
use super::pool::{Windows, backward, forward};
use crate::stats::count;

/// The windows of a pooling, if the kernel computes it.
fn windows(pool: &MaxPool2d, input: &Tensor<4>) -> Option<Windows> {
    let [batch, channels, height, width] = input.dims();
    let (pad, pad_end) = margins(&pool.padding)?;
    let windows = Windows {
        size: [height, width],
        kernel: pool.kernel_size,
        stride: pool.stride,
        pad,
    };
    let fits = batch * channels > 0 && pad == pad_end && pool.dilation == [1, 1] && !pool.ceil_mode;
    (fits && windows.output().is_some()).then_some(windows)
}

/// Whether [`max_pool2d`] can be called.
pub(crate) fn max_pool2d_fits(pool: &MaxPool2d, input: &Tensor<4>) -> bool {
    place(input).is_some() && windows(pool, input).is_some()
}

/// The pooling of a module that fits.
pub(crate) fn max_pool2d(pool: &MaxPool2d, input: Tensor<4>) -> Tensor<4> {
    const FITS: &str = "`max_pool2d_fits` said so";
    count(|stats| &mut stats.max_pool2d);
    let s = windows(pool, &input).expect(FITS);
    let [batch, channels, ..] = input.dims();
    let [height, width] = s.output().expect(FITS);
    let shape = [batch, channels, height, width];
    if place(&input) == Some(Place::Plain) {
        let (y, _) = forward(&s, floats(&mut plain(input)));
        return Tensor::from_primitive::<Flex>(tensor(y, shape));
    }
    let (mut x, node) = lifted(input).into_parts();
    let (y, taps) = forward(&s, floats(&mut x));
    let y = tensor(y, shape);
    let prepared = PoolNode
        .prepare::<NoCheckpointing>([node])
        .compute_bound()
        .stateful();
    Tensor::from_primitive::<Diff>(match prepared {
        OpsKind::Tracked(prepared) => {
            let planes = [batch, channels];
            prepared.finish(PoolState { s, planes, taps }, y)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    })
}

#[derive(Debug)]
struct PoolNode;

#[derive(Clone, Debug)]
struct PoolState {
    s: Windows,
    planes: [usize; 2],
    taps: Vec<u8>,
}

impl Backward<Flex, 1> for PoolNode {
    type State = PoolState;

    fn backward(self, ops: Ops<PoolState, 1>, grads: &mut Grads, _: &mut Checkpointer) {
        let mut dy = grads.consume::<Flex>(&ops.node);
        let PoolState { s, planes, taps } = ops.state;
        if let [Some(node)] = ops.parents {
            let dx = backward(&s, floats(&mut dy), &taps);
            let shape = [planes[0], planes[1], s.size[0], s.size[1]];
            grads.register::<Flex>(node.id, tensor(dx, shape));
        }
    }
}

//! The layers of a transformer as operations on Burn's tensors. They have no gradients: whatever is tracked
//! goes to Burn's own operations.

use burn::nn::Linear;
use burn::tensor::Tensor;

use super::attention::{self, Shape};
use super::buffer::{Shared, SharedMut, filled};
use super::gemm::Epilogue;
use super::linear as product;
use super::math;
use super::norm::Affine;
use super::ops::{common, floats, in_place, place, plain, tensor, untracked, wrapped};
use super::simd::Simd;
use crate::ThenLinear;
use crate::stats::count;

/// Whether [`linear`] can be called.
pub(crate) fn linear_fits<const D: usize>(
    layer: &Linear,
    input: &Tensor<D>,
    then: &ThenLinear<D>,
) -> bool {
    let [inputs, outputs] = layer.weight.lazy_shape().dims();
    let mut output = input.dims();
    let fits = output[D - 1] == inputs && !output.contains(&0) && outputs > 0;
    output[D - 1] = outputs;
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let added = match then {
        ThenLinear::Add { residual, scale } => {
            residual.dims() == output
                && untracked(residual)
                && scale
                    .as_ref()
                    .is_none_or(|scale| scale.dims() == [outputs] && untracked(scale))
        }
        _ => true,
    };
    fits && added
        && untracked(input)
        && untracked(&layer.weight.val())
        && bias.as_ref().is_none_or(untracked)
}

/// The linear layer and what follows it.
pub(crate) fn linear<const D: usize>(
    layer: &Linear,
    input: Tensor<D>,
    then: ThenLinear<D>,
) -> Tensor<D> {
    count(|stats| &mut stats.linear);
    let weight = layer.weight.val();
    let [inputs, outputs] = weight.dims();
    let mut shape = input.dims();
    shape[D - 1] = outputs;
    let rows = shape[..D - 1].iter().product();
    let (gelu, residual, scale) = match then {
        ThenLinear::Nothing => (false, None, None),
        ThenLinear::Gelu => (true, None, None),
        ThenLinear::Add { residual, scale } => (false, Some(residual), scale),
    };
    let place = common(
        [place(&input), place(&weight)]
            .into_iter()
            .chain(residual.as_ref().map(place)),
    );
    let values = |of: Option<Tensor<1>>, default: f32| match of {
        Some(of) => floats(&mut plain(of)).to_vec(),
        None => vec![default; outputs],
    };
    let scale = values(scale, 1.0);
    let mut shift = values(layer.bias.as_ref().map(|bias| bias.val()), 0.0);
    for (shift, scale) in shift.iter_mut().zip(&scale) {
        *shift *= scale;
    }
    let affine = Affine {
        mean: vec![0.0; outputs],
        scale,
        shift,
    };
    let (mut x, mut w, mut residual) = (plain(input), plain(weight), residual.map(plain));
    let epilogue = Epilogue {
        affine: &affine,
        residual: residual.as_mut().map(floats),
        relu: None,
    };
    let (x, w) = (floats(&mut x), floats(&mut w));
    let y = product::forward(
        Simd::current(),
        [rows, inputs, outputs],
        x,
        w,
        epilogue,
        gelu,
    );
    wrapped(tensor(y, shape), place.expect("`linear_fits` said so"))
}

/// Whether [`layer_norm`] can be called.
pub(crate) fn layer_norm_fits<const D: usize>(
    input: &Tensor<D>,
    gamma: &Tensor<1>,
    beta: Option<&Tensor<1>>,
) -> bool {
    let width = input.dims()[D - 1];
    let mut values = [Some(gamma), beta].into_iter().flatten();
    width > 0 && untracked(input) && values.all(|t| t.dims() == [width] && untracked(t))
}

/// Layer normalisation.
pub(crate) fn layer_norm<const D: usize>(
    input: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    count(|stats| &mut stats.layer_norm);
    let shape = input.dims();
    let place = place(&input).expect("`layer_norm_fits` said so");
    let (mut x, mut gamma, mut beta) = (plain(input), plain(gamma), beta.map(plain));
    let norm = math::LayerNorm {
        x: floats(&mut x),
        gamma: floats(&mut gamma),
        beta: beta.as_mut().map(floats),
        epsilon,
    };
    // SAFETY: every value is written, and none read.
    let y = unsafe {
        filled(norm.x.len(), |y| {
            math::layer_norm(Simd::current(), norm, y);
        })
    };
    wrapped(tensor(y, shape), place)
}

/// GELU of an untracked tensor, over it where no one else holds it.
pub(crate) fn gelu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    count(|stats| &mut stats.gelu);
    let shape = input.dims();
    let place = place(&input).expect("`untracked` said so");
    let simd = Simd::current();
    let mut x = plain(input);
    let over = |x: &mut [f32]| {
        let x = SharedMut::new(x);
        // SAFETY: the floats are this function's alone.
        unsafe { math::gelu(simd, x.shared(), x.target()) };
    };
    if !in_place(&mut x, over) {
        let from = floats(&mut x);
        // SAFETY: every value is written, and none read.
        let y = unsafe { filled(from.len(), |y| math::gelu(simd, Shared::new(from), y)) };
        x = tensor(y, shape);
    }
    wrapped(x, place)
}

/// Attention of an untracked tensor.
pub(crate) fn attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    count(|stats| &mut stats.attention);
    let [batch, tokens, all] = qkv.dims();
    let place = place(&qkv).expect("`untracked` said so");
    let shape = Shape {
        batch,
        tokens,
        heads,
        width: all / 3 / heads,
    };
    let y = attention::forward(Simd::current(), shape, floats(&mut plain(qkv)));
    wrapped(tensor(y, [batch, tokens, all / 3]), place)
}

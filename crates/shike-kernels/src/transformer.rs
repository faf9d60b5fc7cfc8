//! The layers of a transformer on Burn's tensors.

use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation;
use burn::tensor::module;
use burn::tensor::ops::AttentionModuleOptions;

#[cfg(feature = "flex")]
use crate::flex;
use crate::stats::count;
use crate::tensors::as_type;
#[cfg(feature = "flex")]
use crate::tensors::{TRANSFORMER, on};

/// What follows a linear layer in the same pass.
// Passed on and used at once: a box would only cost.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ThenLinear<const D: usize> {
    /// Nothing.
    Nothing,
    /// GELU, exactly: by the error function.
    Gelu,
    /// `residual + scale · output`.
    Add {
        /// Of the output's shape.
        residual: Tensor<D>,
        /// A factor for each value of the output, `[d_output]`, if there are any: a transformer's layer
        /// scale.
        scale: Option<Tensor<1>>,
    },
}

/// The linear layer `layer` of `input`, in the input's type, and what follows it. Where no gradient is
/// asked for it is one pass.
///
/// # Shapes
/// - `input`: `[.., d_input]`
/// - output: `[.., d_output]`
pub fn linear<const D: usize>(layer: &Linear, input: Tensor<D>, then: ThenLinear<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if on(TRANSFORMER) && flex::linear_fits(layer, &input, &then) {
        return flex::linear(layer, input, then);
    }
    count(|stats| &mut stats.fallback);
    let dtype = input.dtype();
    let weight = as_type(layer.weight.val(), dtype);
    let bias = layer.bias.as_ref().map(|bias| as_type(bias.val(), dtype));
    let output = module::linear(input, weight, bias);
    match then {
        ThenLinear::Nothing => output,
        ThenLinear::Gelu => activation::gelu(output),
        ThenLinear::Add { residual, scale } => {
            let output = match scale {
                Some(scale) => output * as_type(scale, dtype).unsqueeze(),
                None => output,
            };
            residual + output
        }
    }
}

/// Layer normalisation, `γ · (x − mean) / √(variance + ε) + β` with the mean and biased variance of each
/// row. Another type than that of `gamma` is normalised in that of `gamma`, and comes out in its own.
///
/// # Shapes
/// - `input` and output: `[.., width]`
/// - `gamma` and `beta`: `[width]`
pub fn layer_norm<const D: usize>(
    input: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if on(TRANSFORMER) && flex::layer_norm_fits(&input, &gamma, beta.as_ref()) {
        return flex::layer_norm(input, gamma, beta, epsilon);
    }
    count(|stats| &mut stats.fallback);
    let dtype = input.dtype();
    let input = as_type(input, gamma.dtype());
    as_type(module::layer_norm(input, gamma, beta, epsilon), dtype)
}

/// GELU, exactly: `x · Φ(x)` by the error function.
pub fn gelu<const D: usize>(input: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if on(TRANSFORMER) && flex::untracked(&input) {
        return flex::gelu(input);
    }
    count(|stats| &mut stats.fallback);
    activation::gelu(input)
}

/// Attention of every token to all tokens: `softmax(q · kᵀ / √(width / heads)) · v` for each head, of what
/// a transformer's layer for queries, keys and values gives. The kernel holds the scores of a few
/// queries at a time.
///
/// # Shapes
/// - `qkv`: `[batch, tokens, 3 · width]`: all queries of a token, head by head, then all keys, then all values
/// - output: `[batch, tokens, width]`
///
/// # Panics
/// If `3 · heads` does not divide the last side.
pub fn attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, all] = qkv.dims();
    assert!(
        heads > 0 && all.is_multiple_of(3 * heads),
        "attention: {all} values of a token are not queries, keys and values of {heads} heads"
    );
    #[cfg(feature = "flex")]
    if on(TRANSFORMER) && flex::untracked(&qkv) && qkv.dims().iter().all(|&side| side > 0) {
        return flex::attention(qkv, heads);
    }
    count(|stats| &mut stats.fallback);
    let width = all / 3 / heads;
    let parts = qkv.reshape([batch, tokens, 3, heads, width]);
    let part = |i: usize| {
        let part = parts.clone().slice_dim(2, i..i + 1);
        part.reshape([batch, tokens, heads, width]).swap_dims(1, 2)
    };
    let options = AttentionModuleOptions::default();
    let output = module::attention(part(0), part(1), part(2), None, None, options);
    output.swap_dims(1, 2).reshape([batch, tokens, all / 3])
}

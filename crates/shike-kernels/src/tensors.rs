//! The kernels' functions on Burn's tensors, and their switches.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2d;
use burn::tensor::activation::relu;
use burn::tensor::module::BatchNormTrainOutput;
use burn::tensor::{DType, FloatDType, Int, Tensor};

use crate::DktOptions;
#[cfg(feature = "flex")]
use crate::flex;
use crate::stats::count;

/// The environment variable that turns kernels off, or on one by one.
const VARIABLE: &str = "SHIKE_KERNELS";

/// Kernels by the names that [`VARIABLE`] takes. The first number is a bit of [`STATE`].
const SWITCHES: [(u8, &str); 6] = [
    (CONV2D, "conv2d"),
    (BATCH_NORM, "batch_norm"),
    (LOSS, "loss"),
    (SGD, "sgd"),
    (TRANSFORMER, "transformer"),
    (MAX_POOL, "max_pool"),
];
const CONV2D: u8 = 1;
const BATCH_NORM: u8 = 2;
const LOSS: u8 = 4;
const SGD: u8 = 8;
pub(crate) const TRANSFORMER: u8 = 16;
const MAX_POOL: u8 = 32;
const ALL: u8 = CONV2D | BATCH_NORM | LOSS | SGD | TRANSFORMER | MAX_POOL;
const UNKNOWN: u8 = u8::MAX;

/// The kernels that are on.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether all kernels are used where they can be. Until [`set_enabled`] is called, the environment
/// variable `SHIKE_KERNELS` decides: `off` or `0` turns them off, and a list such as
/// `conv2d,batch_norm` (of `conv2d`, `batch_norm`, `loss`, `sgd`, `transformer`, `max_pool`) turns the others off, to see
/// what each is worth. `portable`, `avx2` or `avx512`, by itself or in the list, is the instruction set that they take.
pub fn enabled() -> bool {
    state() == ALL
}

/// What the kernels compute with on this machine, for records: two that differ in this may differ in rounding.
pub fn path() -> String {
    let on = SWITCHES.iter().filter(|(bit, _)| on(*bit));
    let names: Vec<&str> = on.map(|(_, name)| *name).collect();
    format!("{}: {}", instructions(), names.join(", "))
}

/// The instruction set that the calling thread's next operation takes; `none` without the feature `flex`.
pub fn instructions() -> &'static str {
    // The environment may name one.
    state();
    #[cfg(feature = "flex")]
    return flex::Simd::current().name();
    #[cfg(not(feature = "flex"))]
    "none"
}

/// Whether [`in_bf16`] computes in bfloat16, and gains by it: kernels are on, and the processor has instructions for it
/// (AVX512-BF16), or else the portable path was asked for.
pub fn has_bf16() -> bool {
    #[cfg(feature = "flex")]
    return on(CONV2D) && flex::Simd::current().in_bf16().is_some();
    #[cfg(not(feature = "flex"))]
    false
}

/// Runs `f`, in which the kernels round what convolutions without groups and linear layers multiply to bfloat16, their
/// gradients' products included, and sum in float32. Tensors stay float32, and so does everything else. Without
/// [`has_bf16`] it just runs `f`.
pub fn in_bf16<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "flex")]
    if has_bf16()
        && let Some(simd) = flex::Simd::current().in_bf16()
    {
        return simd.with(f);
    }
    f()
}

/// Whether one of them is on.
pub(crate) fn on(kernel: u8) -> bool {
    state() & kernel != 0
}

fn state() -> u8 {
    match STATE.load(Relaxed) {
        UNKNOWN => {
            let chosen = std::env::var(VARIABLE).map_or(ALL, |text| chosen(&text));
            STATE.store(chosen, Relaxed);
            chosen
        }
        state => state,
    }
}

/// What the variable's text asks for.
fn chosen(text: &str) -> u8 {
    match text.trim() {
        "off" | "0" => return 0,
        "" | "on" | "1" => return ALL,
        _ => {}
    }
    let mut bits = 0;
    for name in text.split(',').map(str::trim) {
        match SWITCHES.iter().find(|(_, known)| *known == name) {
            Some((bit, _)) => bits |= bit,
            None if PATHS.contains(&name) => take_path(name),
            None => eprintln!(
                "{VARIABLE}: there is no kernel `{name}`; it takes on, off, or a list of {}, and of {} for the \
                 instruction set",
                SWITCHES.map(|(_, name)| name).join(", "),
                PATHS.join(", ")
            ),
        }
    }
    let only_path = text.split(',').all(|name| PATHS.contains(&name.trim()));
    if only_path { ALL } else { bits }
}

/// Instruction sets by the names that [`VARIABLE`] takes.
const PATHS: [&str; 3] = ["portable", "avx2", "avx512"];

fn take_path(name: &str) {
    #[cfg(feature = "flex")]
    match flex::Simd::available()
        .into_iter()
        .find(|simd| simd.name() == name)
    {
        Some(simd) => simd.choose(),
        None => eprintln!(
            "{VARIABLE}: this processor has no {name}; it takes {}",
            flex::Simd::current().name()
        ),
    }
    #[cfg(not(feature = "flex"))]
    eprintln!("{VARIABLE}: this program has no CPU backend, and so no {name}");
}

/// Turns all kernels on or off for the whole program. What was computed before keeps the backward
/// pass that it began with.
pub fn set_enabled(enabled: bool) {
    STATE.store(if enabled { ALL } else { 0 }, Relaxed);
}

/// Asks the C library to keep what is freed for the next tensor: a step on a CPU takes an eighth less time, since most of
/// its tensors otherwise come fresh from the system, page by page. It holds for the whole program, whose memory then
/// goes back to the system when it ends; so a program calls it that is there to compute (`shike` does, when it opens the
/// CPU backend). Without glibc, or without the feature `flex`, it does nothing.
pub fn keep_memory() {
    #[cfg(feature = "flex")]
    flex::keep_memory();
}

/// What follows a batch normalisation in the same pass.
// Passed on and used at once: a box would only cost.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Then {
    /// Nothing.
    Nothing,
    /// ReLU.
    Relu,
    /// ReLU that ends at 6.
    Relu6,
    /// The sum with a residual of the output's shape.
    Add(Tensor<4>),
    /// The sum with a residual of the output's shape, then ReLU.
    AddRelu(Tensor<4>),
}

impl Then {
    /// The same with Burn's own operations.
    fn apply(self, output: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Nothing => output,
            Self::Relu => relu(output),
            Self::Relu6 => output.clamp(0.0, 6.0),
            Self::Add(residual) => output + residual,
            Self::AddRelu(residual) => relu(output + residual),
        }
    }
}

/// The convolution `conv` of `input`, in the input's type: a float32 weight is cast for a bfloat16
/// input, and gets its gradient in float32.
///
/// # Shapes
/// - `input`: `[batch, channels_in, height, width]`
/// - output: `[batch, channels_out, height_out, width_out]`
pub fn conv2d(conv: &Conv2d, input: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if on(CONV2D) && flex::conv2d_fits(conv, &input) {
        return flex::conv2d(conv, input);
    }
    count(|stats| &mut stats.fallback);
    let weight = conv.weight.val();
    if weight.dtype() == input.dtype() {
        return conv.forward(input);
    }
    let mut in_type = conv.clone();
    in_type.weight = Param::initialized(conv.weight.id, as_type(weight, input.dtype()));
    in_type.forward(input)
}

/// The tensor in another type of float; gradients come back in its own.
pub(crate) fn as_type<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    match tensor.dtype() == dtype {
        true => tensor,
        false => tensor.cast(FloatDType::from(dtype)),
    }
}

/// Batch normalisation with the statistics of the batch, and what follows it:
/// `γ · (x − mean) / √(variance + ε) + β`. Mean and *biased* variance come out too; no gradient
/// flows through them. A bfloat16 input is normalised in the type of `gamma`, which mean and variance
/// have too, and comes out in its own.
///
/// # Shapes
/// - `input` and output: `[batch, channels, height, width]`
/// - `gamma`, `beta`, mean and variance: `[channels]`
pub fn batch_norm_train(
    input: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    then: Then,
) -> BatchNormTrainOutput<4> {
    #[cfg(feature = "flex")]
    if on(BATCH_NORM) && flex::batch_norm_fits(&input, &[&gamma, &beta], &then) {
        return flex::batch_norm_train(input, gamma, beta, epsilon, then);
    }
    count(|stats| &mut stats.fallback);
    let dtype = input.dtype();
    let input = as_type(input, gamma.dtype());
    let mut normalised = burn::tensor::module::batch_norm_train(input, gamma, beta, epsilon);
    normalised.output = then.apply(as_type(normalised.output, dtype));
    normalised
}

/// Batch normalisation with given statistics. Each tensor is `[channels]`.
#[derive(Clone, Debug)]
pub struct FixedNorm {
    /// Scale, γ.
    pub gamma: Tensor<1>,
    /// Shift, β.
    pub beta: Tensor<1>,
    /// Mean.
    pub mean: Tensor<1>,
    /// Variance.
    pub variance: Tensor<1>,
    /// Added to the variance under the root.
    pub epsilon: f64,
}

#[cfg(feature = "flex")]
impl FixedNorm {
    pub(crate) fn tensors(&self) -> [&Tensor<1>; 4] {
        [&self.gamma, &self.beta, &self.mean, &self.variance]
    }
}

/// The convolution `conv` of `input`, then batch normalisation with given statistics, and what follows
/// it: [`conv2d`] and [`batch_norm`] in a single pass over the output where no gradient is asked for, with
/// the same bits.
///
/// # Shapes
/// As there.
pub fn conv2d_norm(conv: &Conv2d, input: Tensor<4>, norm: FixedNorm, then: Then) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if on(CONV2D) && on(BATCH_NORM) && flex::conv2d_norm_fits(conv, &input, &norm, &then) {
        return flex::conv2d_norm(conv, input, norm, then);
    }
    batch_norm(conv2d(conv, input), norm, then)
}

/// Batch normalisation with given statistics, and what follows it. Gradients flow to `input`,
/// `gamma`, `beta` and the residual, not to the statistics. Types are as for [`batch_norm_train`].
///
/// # Shapes
/// - `input` and output: `[batch, channels, height, width]`
pub fn batch_norm(input: Tensor<4>, norm: FixedNorm, then: Then) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if on(BATCH_NORM) && flex::batch_norm_fits(&input, &norm.tensors(), &then) {
        return flex::batch_norm(input, norm, then);
    }
    count(|stats| &mut stats.fallback);
    let FixedNorm {
        gamma,
        beta,
        mean,
        variance,
        epsilon,
    } = norm;
    let (mean, variance) = (mean.detach(), variance.detach());
    let dtype = input.dtype();
    let input = as_type(input, gamma.dtype());
    let output = burn::tensor::module::batch_norm(input, gamma, beta, mean, variance, epsilon);
    then.apply(as_type(output, dtype))
}

/// The maximum of each window of a pooling module. A window with a value that is not a number gives that.
///
/// # Shapes
/// - `input`: `[batch, channels, height, width]`
/// - output: `[batch, channels, height_out, width_out]`
pub fn max_pool2d(pool: &MaxPool2d, input: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if on(MAX_POOL) && flex::max_pool2d_fits(pool, &input) {
        return flex::max_pool2d(pool, input);
    }
    count(|stats| &mut stats.fallback);
    pool.forward(input)
}

/// The labels of a loss.
#[derive(Clone, Debug)]
pub enum LossLabels {
    /// Class indices, `[batch]`.
    Hard(Tensor<1, Int>),
    /// Distributions, `[batch, classes]`; no gradient flows to them.
    Soft(Tensor<2>),
}

/// The terms of dynamic knowledge transfer, each summed over the batch and divided by nothing: the
/// cross-entropy of each expert, the non-target distillation into each, and row by row the mutual
/// distillation, `[experts + experts + experts²]`. shike-model's `DktLoss` defines them; `None` where
/// the kernel cannot work, and that definition has to.
///
/// One pass over the logits computes all values, a second one, in the backward pass, the gradient;
/// nothing but the logits is kept in between.
///
/// # Shapes
/// - `logits`: `[batch, classes]` of each expert
#[allow(unused_variables)]
pub fn dkt_terms(
    logits: &[Tensor<2>],
    labels: &LossLabels,
    options: DktOptions,
) -> Option<Tensor<1>> {
    #[cfg(feature = "flex")]
    if on(LOSS)
        && let Some(terms) = flex::dkt(logits, labels, options)
    {
        return Some(terms);
    }
    count(|stats| &mut stats.fallback);
    None
}

/// The cross-entropy of `logits + prior`, summed over the batch, of each expert, `[experts]`; `None`
/// where the kernel cannot work.
///
/// # Shapes
/// - `logits`: `[batch, classes]` of each expert
/// - `prior`: `[classes]`
#[allow(unused_variables)]
pub fn cross_entropy_terms(
    logits: &[Tensor<2>],
    labels: &LossLabels,
    prior: impl FnOnce() -> Vec<f32>,
) -> Option<Tensor<1>> {
    #[cfg(feature = "flex")]
    if on(LOSS)
        && let Some(terms) = flex::cross_entropy(logits, labels, prior())
    {
        return Some(terms);
    }
    count(|stats| &mut stats.fallback);
    None
}

/// A step of stochastic gradient descent with momentum and weight decay, in place where weight and
/// velocity are no one else's: `g ← g + decay · w; v ← momentum · v + g; w ← w − lr · v`, the first velocity
/// being `g`. With Nesterov's momentum `w ← w − lr · (g + momentum · v)`, which the kernel leaves to
/// tensors. Gives weight and velocity, which must not be tracked for gradients.
///
/// # Shapes
/// - `weight`, `gradient` and `velocity`: the same
pub fn sgd_step<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
    lr: f64,
    momentum: f64,
    decay: f64,
    nesterov: bool,
) -> (Tensor<D>, Tensor<D>) {
    #[cfg(feature = "flex")]
    if on(SGD) && !nesterov && flex::sgd_fits(&weight, &gradient, velocity.as_ref()) {
        let rates = [lr, momentum, decay].map(|rate| rate as f32);
        return flex::sgd_step(weight, gradient, velocity, rates);
    }
    count(|stats| &mut stats.fallback);
    let gradient = match decay {
        0.0 => gradient,
        decay => gradient + weight.clone().mul_scalar(decay),
    };
    let velocity = match velocity {
        Some(velocity) => velocity.mul_scalar(momentum) + gradient.clone(),
        None => gradient.clone(),
    };
    let step = match nesterov {
        true => gradient + velocity.clone().mul_scalar(momentum),
        false => velocity.clone(),
    };
    (weight - step.mul_scalar(lr), velocity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_kernels() {
        for (text, expected) in [
            ("off", 0),
            ("0", 0),
            ("", ALL),
            ("on", ALL),
            ("conv2d", CONV2D),
            ("batch_norm, loss", BATCH_NORM | LOSS),
            ("conv2d,batch_norm,loss,sgd,transformer,max_pool", ALL),
            ("convolution", 0),
        ] {
            assert_eq!(chosen(text), expected, "{text}");
        }
    }
}

use burn::config::Config;
use burn::module::{Flag, Module, Param, ParamId, RunningState};
use burn::nn::Initializer;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use shike_kernels::{FixedNorm, Then, batch_norm, batch_norm_train, conv2d, conv2d_norm};

/// Configuration of [`BatchNorm`]; see [`init`](Self::init).
#[derive(Config, Debug, PartialEq)]
pub struct BatchNormConfig {
    /// Number of channels.
    pub num_features: usize,
    /// Added to the variance under the root.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// Weight of the new batch in the running statistics.
    #[config(default = 0.1)]
    pub momentum: f64,
}

/// Batch normalisation whose running variance is PyTorch's.
///
/// Burn's own module tracks the *biased* batch variance; PyTorch tracks the unbiased one,
/// `var · n / (n − 1)` with `n = batch · height · width`. Imported and exported statistics only
/// mean the same if both sides agree, hence this module. The normalisation itself uses the biased
/// variance in both.
///
/// Clones share their running statistics, as those of Burn's own module do: where one is trained, the
/// other's move. A copy that stays as it is comes from [`Module::valid`].
///
/// Statistics are those of the batch while the input is on an autodiff device and the `training`
/// flag is set, the running ones otherwise.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// Scale, `[channels]`.
    pub gamma: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub beta: Param<Tensor<1>>,
    /// Whether batch statistics are used and tracked; [`Module::freeze_group`] clears it.
    pub training: Param<Flag>,
    /// Running mean, `[channels]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Running unbiased variance, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
    epsilon: f64,
    momentum: f64,
}

impl BatchNormConfig {
    /// Initialises the module: scale 1, shift 0, running mean 0, running variance 1.
    pub fn init(&self, device: &Device) -> BatchNorm {
        let shape = [self.num_features];
        BatchNorm {
            gamma: Initializer::Ones.init(shape, device),
            beta: Initializer::Zeros.init(shape, device),
            training: Param::from_bool(true),
            running_mean: RunningState::new(Tensor::zeros(shape, device)),
            running_var: RunningState::new(Tensor::ones(shape, device)),
            epsilon: self.epsilon,
            momentum: self.momentum,
        }
    }
}

impl BatchNorm {
    /// Gives the module running statistics of its own, under these identities; a clone shares those of
    /// its original.
    pub(crate) fn own_statistics(&mut self, mut id: impl FnMut() -> ParamId) {
        for running in [&mut self.running_mean, &mut self.running_var] {
            *running = RunningState::with_id(id(), running.value_sync());
        }
    }

    /// Normalises `input`, `[batch, channels, height, width]`, channel by channel.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        match self.fixed() {
            Some(norm) => batch_norm(input, norm, Then::Nothing),
            None => self.forward_train(input, Then::Nothing),
        }
    }

    /// Normalises the output of a convolution of `input`, `[batch, channels, height, width]`, and does what
    /// follows: in one pass where the device can.
    pub fn after(&self, conv: &Conv2d, input: Tensor<4>, then: Then) -> Tensor<4> {
        match self.fixed() {
            Some(norm) => conv2d_norm(conv, input, norm, then),
            None => self.forward_train(conv2d(conv, input), then),
        }
    }

    /// The running statistics, where they are used.
    fn fixed(&self) -> Option<FixedNorm> {
        let gamma = self.gamma.val();
        let trains = gamma.device().is_autodiff() && self.training.is_enabled();
        (!trains).then(|| FixedNorm {
            gamma,
            beta: self.beta.val(),
            mean: self.running_mean.value_sync(),
            variance: self.running_var.value_sync(),
            epsilon: self.epsilon,
        })
    }

    fn forward_train(&self, input: Tensor<4>, then: Then) -> Tensor<4> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        let [batch, _, height, width] = input.dims();
        let n = (batch * height * width) as f64;
        let output = batch_norm_train(input, gamma, beta, self.epsilon, then);
        // One value per channel has no unbiased variance (PyTorch refuses the batch); keep the
        // biased one, which is 0.
        let unbiased = output.variance.detach().mul_scalar(n / (n - 1.0).max(1.0));
        self.track(&self.running_mean, output.mean.detach());
        self.track(&self.running_var, unbiased);
        output.output
    }

    fn track(&self, running: &RunningState<Tensor<1>>, batch: Tensor<1>) {
        let value = running.value_sync();
        let value = value.mul_scalar(1.0 - self.momentum) + batch.mul_scalar(self.momentum);
        running.update(value.detach());
        // Burn applies an update only when the next one arrives; a record taken in between would
        // hold statistics that are one step old.
        running.value_sync();
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tracks_the_unbiased_variance() {
        let device = Device::flex().autodiff();
        let bn = BatchNormConfig::new(1).init(&device);
        // mean 2.5, biased variance 1.25, unbiased 5/3
        let x = Tensor::<4>::from_data([[[[1.0, 2.0], [3.0, 4.0]]]], &device);
        let y = bn.forward(x);
        let mean: f32 = bn.running_mean.value().into_scalar();
        let var: f32 = bn.running_var.value().into_scalar();
        assert!((mean - 0.25).abs() < 1e-6, "{mean}");
        assert!((var - (0.9 + 0.1 * 5.0 / 3.0)).abs() < 1e-6, "{var}");
        let y: Vec<f32> = y.into_data().try_to_vec().unwrap();
        assert!((y[0] + 1.5 / 1.25001f32.sqrt()).abs() < 1e-5, "{y:?}");
    }

    #[test]
    fn a_frozen_norm_keeps_its_statistics() {
        let device = Device::flex().autodiff();
        let bn = BatchNormConfig::new(1).init(&device).freeze();
        let y = bn.forward(Tensor::<4>::full([2, 1, 2, 2], 3.0, &device));
        assert_eq!(bn.running_mean.value().into_scalar::<f32>(), 0.0);
        let y: Vec<f32> = y.into_data().try_to_vec().unwrap();
        assert!((y[0] - 3.0).abs() < 1e-4);
    }
}

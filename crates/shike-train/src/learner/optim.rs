//! SGD as PyTorch computes it, and what is done to gradients before a step.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{
    GradientsParams, LearningRate, ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource,
};
use burn::tensor::{Device, Tensor};
use shike_model::kernels::sgd_step;

use crate::config::OptimizerConfig;

/// The optimizer of a configuration, which remembers nothing yet.
pub fn init(config: &OptimizerConfig) -> ModuleOptimizer {
    match config {
        OptimizerConfig::Sgd(sgd) => Sgd::new(sgd.momentum, sgd.weight_decay)
            .nesterov(sgd.nesterov)
            .init(),
        OptimizerConfig::AdamW(adam) => burn::optim::AdamWConfig::new()
            .with_beta_1(adam.beta_1 as f32)
            .with_beta_2(adam.beta_2 as f32)
            .with_epsilon(adam.epsilon as f32)
            .with_weight_decay(adam.weight_decay as f32)
            .init(),
    }
}

/// Stochastic gradient descent with momentum and weight decay, as `torch.optim.SGD` with dampening
/// 0: `g ← g + wd · w; v ← μ · v + g; w ← w − lr · v`, `v` starting as `g`; with
/// [`nesterov`](Self::nesterov) `w ← w − lr · (g + μ · v)`.
///
/// Burn's own `Sgd` holds its momentum in float32 and dampens by 0.1 unless told otherwise; in
/// float64, rounding 0.9 to float32 alone moves a trajectory by 1e-8 a step.
#[derive(Clone, Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

/// Momentum of one parameter.
#[derive(Clone, Debug)]
pub struct SgdState<const D: usize> {
    velocity: Tensor<D>,
}

impl Sgd {
    /// An optimizer with this momentum and weight decay; 0 turns either off.
    pub fn new(momentum: f64, weight_decay: f64) -> Self {
        Self {
            momentum,
            weight_decay,
            nesterov: false,
        }
    }

    /// Whether momentum is Nesterov's, as PyTorch has it.
    pub fn nesterov(self, nesterov: bool) -> Self {
        Self { nesterov, ..self }
    }

    /// The optimizer of a whole network, without any momentum yet.
    pub fn init(self) -> ModuleOptimizer {
        ModuleOptimizer::from(self)
    }
}

impl Optimizer for Sgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let velocity = state.map(|state| state.velocity);
        let (momentum, decay) = (self.momentum, self.weight_decay);
        let (tensor, velocity) =
            sgd_step(tensor, grad, velocity, lr, momentum, decay, self.nesterov);
        (tensor, Some(SgdState { velocity }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        SgdState {
            velocity: state.velocity.to_device(device),
        }
    }
}

const VELOCITY: &str = "velocity";

impl<const D: usize> RecordState for SgdState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, VELOCITY, self.velocity.to_data());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let data = src.take_tensor(prefix, VELOCITY)?;
        let dtype = data.dtype();
        let velocity = Tensor::from_data(data, (device, dtype));
        Some(Self { velocity })
    }
}

/// Scales all gradients so that their common Euclidean norm is at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_`: by `min(1, max_norm / (norm + 1e-6))`. Burn's own clipping
/// looks at each parameter alone, which changes the direction of the step.
///
/// The factor stays on the device; nothing waits for it.
pub fn clip_global_norm<M: Module>(
    gradients: GradientsParams,
    module: &M,
    max_norm: f64,
) -> GradientsParams {
    struct Norm<'a> {
        gradients: &'a GradientsParams,
        squared: Option<Tensor<1>>,
    }
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                let squared = gradient.square().sum();
                self.squared = Some(match self.squared.take() {
                    Some(sum) => sum + squared,
                    None => squared,
                });
            }
        }
    }
    struct Scale {
        gradients: GradientsParams,
        factor: Tensor<1>,
    }
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.remove::<D>(param.id) {
                let factor = self.factor.clone().reshape([1; D]);
                self.gradients.register(param.id, gradient * factor);
            }
        }
    }
    let mut norm = Norm {
        gradients: &gradients,
        squared: None,
    };
    module.visit(&mut norm);
    let Some(squared) = norm.squared else {
        return gradients;
    };
    let factor = squared.sqrt().add_scalar(1e-6).recip().mul_scalar(max_norm);
    let mut scale = Scale {
        gradients,
        factor: factor.clamp_max(1.0),
    };
    module.visit(&mut scale);
    scale.gradients
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::DType;

    fn close(found: Tensor<2>, expected: &[f32]) {
        let found: Vec<f32> = found.into_data().try_to_vec().unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    fn linear(device: &Device) -> Linear {
        let mut linear = LinearConfig::new(2, 1).with_bias(false).init(device);
        linear.weight = linear
            .weight
            .map(|w| Tensor::from_data([[1.0], [2.0]], &w.device()).require_grad());
        linear
    }

    /// Gradient of the sum of the outputs for input (3, 4): (3, 4).
    fn gradients(linear: &Linear, device: &Device) -> GradientsParams {
        let x = Tensor::<2>::from_data([[3.0, 4.0]], device);
        let loss = linear.forward(x).sum();
        GradientsParams::from_grads(loss.backward(), linear)
    }

    #[test]
    fn adamw_is_that_of_its_paper() {
        let config = crate::config::AdamWConfig {
            weight_decay: 0.1,
            ..Default::default()
        };
        let device = Device::flex().autodiff();
        let mut optimizer = init(&OptimizerConfig::AdamW(config));
        let mut model = LinearConfig::new(1, 1).with_bias(false).init(&device);
        let first: f64 = model.weight.val().into_scalar();
        let (mut weight, mut mean, mut square) = (first, 0.0f64, 0.0f64);
        for step in 1..=3 {
            // The gradient is twice the weight.
            let loss = model.weight.val().square().sum();
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(0.01, model, gradients);
            let gradient = 2.0 * weight;
            mean = 0.9 * mean + 0.1 * gradient;
            square = 0.999 * square + 0.001 * gradient * gradient;
            let unbiased = |value: f64, beta: f64| value / (1.0 - beta.powi(step));
            let delta = unbiased(mean, 0.9) / (unbiased(square, 0.999).sqrt() + 1e-8);
            weight = weight * (1.0 - 0.01 * 0.1) - 0.01 * delta;
            let found: f64 = model.weight.val().into_scalar();
            assert!((found - weight).abs() < 1e-6, "{found} {weight}");
        }
    }

    #[test]
    fn two_steps_by_hand() {
        let device = Device::flex().autodiff();
        let mut optimizer = Sgd::new(0.9, 0.1).init();
        let first = linear(&device);
        let grads = gradients(&first, &device);
        let second = optimizer.step(0.5, first, grads);
        // v = g + 0.1 w = (3.1, 4.2); w = (1, 2) − v/2
        close(second.weight.val(), &[-0.55, -0.1]);
        let grads = gradients(&second, &device);
        let third = optimizer.step(0.5, second, grads);
        // v = 0.9 (3.1, 4.2) + (3 − 0.055, 4 − 0.01) = (5.735, 7.77)
        close(third.weight.val(), &[-0.55 - 2.8675, -0.1 - 3.885]);
    }

    /// `torch.optim.SGD([w], lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True)` from
    /// w = (1, −2, 0.5) in float64, with the gradients (w₀², 3 w₁, sin(step) − w₂).
    #[test]
    fn nesterov_steps_are_those_of_pytorch() {
        let expected = [
            [0.8955, -1.411, 0.54275],
            [0.76626032625, -0.7443604999999998, 0.5274403814432498],
            [0.627001593705073, -0.12200528274999975, 0.48825944112348807],
            [0.488234915825553, 0.3702066787948753, 0.5008934250447774],
            [0.3565736095002441, 0.6871518403365471, 0.6135625284667122],
        ];
        for dtype in [DType::F64, DType::F32] {
            let device = Device::flex();
            let sgd = Sgd::new(0.9, 0.1).nesterov(true);
            let mut weight = Tensor::<1>::from_data([1.0f64, -2.0, 0.5], (&device, dtype));
            let mut state = None;
            for (step, expected) in expected.iter().enumerate() {
                let w: Vec<f64> = weight.to_data().convert::<f64>().try_into_vec().unwrap();
                let gradient = [w[0] * w[0], 3.0 * w[1], (step as f64).sin() - w[2]];
                let gradient = Tensor::from_data(gradient, (&device, dtype));
                (weight, state) = sgd.step(0.05, weight, gradient, state);
                let found = weight.to_data().convert::<f64>();
                let found: Vec<f64> = found.try_into_vec().unwrap();
                let bound = if dtype == DType::F64 { 1e-14 } else { 1e-6 };
                for (found, expected) in found.iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < bound,
                        "step {step}: {found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn momentum_survives_a_record() {
        let device = Device::flex().autodiff();
        let mut optimizer = Sgd::new(0.9, 0.1).init();
        let model = linear(&device);
        let grads = gradients(&model, &device);
        let model = optimizer.step(0.5, model, grads);
        let record = optimizer.to_record().into_bytes().unwrap();
        let record = burn::optim::OptimizerRecord::from_bytes(record).unwrap();
        let mut restored = Sgd::new(0.9, 0.1).init().load_record(record);
        let a = optimizer.step(0.5, model.clone(), gradients(&model, &device));
        let b = restored.step(0.5, model.clone(), gradients(&model, &device));
        let values = |m: &Linear| m.weight.val().into_data();
        values(&a).assert_eq(&values(&b), true);
    }

    #[test]
    fn clips_by_the_global_norm() {
        let device = Device::flex().autodiff();
        let model = linear(&device);
        let clip = |max| {
            let clipped = clip_global_norm(gradients(&model, &device), &model, max);
            clipped.get::<2>(model.weight.id).unwrap()
        };
        close(clip(1.0), &[0.6, 0.8]);
        close(clip(100.0), &[3.0, 4.0]);
    }
}

//! Exponential moving average of a network's weights.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use shike_model::Shike;

/// A second set of weights that follows the trained one: after each step
/// `average ← average + (1 − d) · (weights − average)`, for parameters and running statistics alike, as
/// timm's `ModelEmaV3`. With `t` updates behind it, `d = min(decay, (1 + t) / (10 + t))` (as in
/// TensorFlow's `ExponentialMovingAverage`), so that the random weights of the start are soon
/// forgotten and short runs are averaged too.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    updates: u64,
    model: Shike,
}

impl Ema {
    /// An average that starts as the weights are.
    pub fn new(decay: f64, model: &Shike) -> Self {
        // Unlike a clone, this shares no running statistics with the original.
        Self::resumed(decay, 0, model.valid())
    }

    /// An average that goes on from [`model`](Self::model) and [`updates`](Self::updates) of an earlier
    /// one; `model` is off the autodiff device.
    pub fn resumed(decay: f64, updates: u64, model: Shike) -> Self {
        Self {
            decay,
            updates,
            model,
        }
    }

    /// Takes in the weights after a step.
    pub fn update(&mut self, model: &Shike) {
        let updates = self.updates as f64;
        let decay = self.decay.min((1.0 + updates) / (10.0 + updates));
        self.updates += 1;
        let mut weights = Collect { tensors: vec![] };
        model.visit(&mut weights);
        let mut average = Average {
            decay,
            weights: weights.tensors.into_iter(),
        };
        let previous = self.model.clone();
        self.model = previous.map(&mut average);
    }

    /// The average with its network changed, as the trained one's was.
    pub(crate) fn map(self, change: impl FnOnce(Shike) -> Shike) -> Self {
        Self {
            model: change(self.model),
            ..self
        }
    }

    /// As [`map`](Self::map), of a change that may fail.
    pub(crate) fn try_map<E>(
        self,
        change: impl FnOnce(Shike) -> Result<Shike, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            model: change(self.model)?,
            ..self
        })
    }

    /// The averaged network, off the autodiff device, ready to be scored.
    pub fn model(&self) -> &Shike {
        &self.model
    }

    /// How many steps were taken in.
    pub fn updates(&self) -> u64 {
        self.updates
    }
}

/// Flat copies of all tensors, in module order.
struct Collect {
    tensors: Vec<Tensor<1>>,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let value = match value.is_autodiff() {
            true => value.inner(),
            false => value,
        };
        let count = value.shape().num_elements();
        self.tensors.push(value.reshape([count]));
    }
}

struct Average<I> {
    decay: f64,
    weights: I,
}

impl<I: Iterator<Item = Tensor<1>>> ModuleMapper for Average<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let weights = self.weights.next();
        let weights = weights.expect("the average has the network's own structure");
        param.map(|average| {
            let weights = weights.reshape(average.dims());
            // In this form a weight that does not change has itself as its average.
            average.clone() + (weights - average).mul_scalar(1.0 - self.decay)
        })
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use shike_model::{Head, ShikeConfig, weights};

    fn values(model: &Shike) -> Vec<Vec<f32>> {
        let state = weights::state_dict(model).into_iter();
        state
            .map(|(_, data)| data.try_into_vec().unwrap())
            .collect()
    }

    #[test]
    fn follows_parameters_and_statistics() {
        let device = Device::flex().autodiff();
        device.seed(1);
        let model = ShikeConfig::cifar(8, 4).unwrap().init(&device).unwrap();
        let mut ema = Ema::new(0.5, &model);
        let start = values(&model);
        assert_eq!(values(ema.model()), start);

        // A forward pass moves the running statistics of the network, and not the average's.
        model.forward(Tensor::ones([2, 3, 16, 16], &device), Head::Stage1);
        let moved = values(&model);
        assert_ne!(moved, start);
        assert_eq!(values(ema.model()), start);

        // (1 + t) / (10 + t) is 0.1, then 2/11.
        let mut expected = start;
        for decay in [0.1f64, 2.0 / 11.0] {
            ema.update(&model);
            for (expected, moved) in expected.iter_mut().zip(&moved) {
                for (e, m) in expected.iter_mut().zip(moved) {
                    *e = (f64::from(*e) * decay + f64::from(*m) * (1.0 - decay)) as f32;
                }
            }
            let found = values(ema.model());
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0));
            }
        }
        assert_eq!(values(&model), moved);
        assert_eq!(ema.updates(), 2);
    }
}

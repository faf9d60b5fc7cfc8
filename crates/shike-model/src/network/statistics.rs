//! The running statistics of all batch normalisations of a network, taken out and put back.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::Shike;

/// Whether the module that a walk is in is a running mean or variance, `[channels]`.
fn is_running(path: &[String]) -> bool {
    let last = path.last().map(String::as_str);
    matches!(last, Some("running_mean" | "running_var"))
}

struct Take {
    path: Vec<String>,
    taken: Vec<Tensor<1>>,
}

impl ModuleVisitor for Take {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if is_running(&self.path) {
            let value = param.val().detach();
            let [channels] = [value.shape().num_elements()];
            self.taken.push(value.reshape([channels]));
        }
    }
}

struct Put<I> {
    path: Vec<String>,
    values: I,
}

impl<I: Iterator<Item = Tensor<1>>> ModuleMapper for Put<I> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !is_running(&self.path) {
            return param;
        }
        let value = self.values.next();
        let value = value.expect("as many as were taken of this network");
        param.map(|before| value.reshape(before.dims()))
    }
}

impl Shike {
    /// Running means and variances of all batch normalisations, `[channels]` each, in module order.
    pub fn running_statistics(&self) -> Vec<Tensor<1>> {
        let mut take = Take {
            path: vec![],
            taken: vec![],
        };
        self.visit(&mut take);
        take.taken
    }

    /// Puts other values in the place of [`running_statistics`](Self::running_statistics), which clones share.
    ///
    /// # Panics
    /// If there are fewer than it has.
    pub fn set_running_statistics(&self, values: Vec<Tensor<1>>) {
        // A clone has the same statistics, and a mapper changes them where they are.
        self.clone().map(&mut Put {
            path: vec![],
            values: values.into_iter(),
        });
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{Head, ShikeConfig, weights};

    #[test]
    fn statistics_are_taken_out_and_put_back() {
        let device = Device::flex().autodiff();
        let model = ShikeConfig::cifar(8, 4).unwrap().init(&device).unwrap();
        let state = |model: &Shike| weights::state_dict(model);
        let (before, start) = (state(&model), model.running_statistics());
        let named = before.iter().filter(|(name, _)| name.contains("running_"));
        assert_eq!(named.count(), start.len());
        model.forward(Tensor::ones([2, 3, 16, 16], &device), Head::Stage1);
        let (moved, after) = (model.running_statistics(), state(&model));
        assert_ne!(after, before);
        model.set_running_statistics(start);
        assert_eq!(state(&model), before);
        model.set_running_statistics(moved);
        assert_eq!(state(&model), after);
    }
}

//! What the batches of a step add up, as one row of numbers: gradients, and how far running statistics move.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData, Transaction};
use shike_model::Shike;

/// The gradient of each parameter that is trained, in module order (zeros where there is none), for each 1 if there is
/// one, and statistics.
pub(super) fn pack(
    model: &Shike,
    gradients: GradientsParams,
    statistics: Vec<Tensor<1>>,
) -> Vec<f32> {
    struct Pack {
        gradients: GradientsParams,
        read: Vec<Result<Tensor<1>, usize>>,
    }
    impl ModuleVisitor for Pack {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                let count = param.lazy_shape().num_elements();
                let gradient = self.gradients.remove::<D>(param.id);
                self.read
                    .push(gradient.map(|g| g.reshape([count])).ok_or(count));
            }
        }
    }
    let mut pack = Pack {
        gradients,
        read: vec![],
    };
    model.visit(&mut pack);
    // As gradients are.
    let statistics = statistics
        .into_iter()
        .map(|value| match value.is_autodiff() {
            true => value.inner(),
            false => value,
        });
    let found = pack.read.iter().flatten().cloned().chain(statistics);
    let read = found.fold(Transaction::default(), Transaction::register);
    let mut read = read.execute().into_iter();
    let mut all = vec![];
    let mut take = |all: &mut Vec<f32>| {
        let Some(data) = read.next() else {
            return false;
        };
        let values = data.convert::<f32>().try_into_vec::<f32>();
        all.append(&mut values.expect("float32, as it was converted"));
        true
    };
    for gradient in &pack.read {
        match gradient {
            Ok(_) => _ = take(&mut all),
            Err(count) => all.resize(all.len() + count, 0.0),
        }
    }
    let is_there = |gradient: &Result<_, _>| f32::from(u8::from(gradient.is_ok()));
    all.extend(pack.read.iter().map(is_there));
    while take(&mut all) {}
    all
}

/// How many numbers [`pack`] gives with so shaped statistics, and how many of them are gradients.
pub(super) fn length(model: &Shike, statistics: &[Tensor<1>]) -> (usize, usize) {
    #[derive(Default)]
    struct Count {
        values: usize,
        parameters: usize,
    }
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.values += param.lazy_shape().num_elements();
                self.parameters += 1;
            }
        }
    }
    let mut count = Count::default();
    model.visit(&mut count);
    let statistics: usize = statistics.iter().map(|s| s.shape().num_elements()).sum();
    (count.values + count.parameters + statistics, count.values)
}

/// The gradients and the statistics of such a row; the latter in the shapes and types of those `before`.
pub(super) fn unpack(
    model: &Shike,
    all: &[f32],
    before: &[Tensor<1>],
) -> (GradientsParams, Vec<Tensor<1>>) {
    struct Unpack<'a> {
        gradients: GradientsParams,
        values: &'a [f32],
        is_there: &'a [f32],
    }
    impl ModuleVisitor for Unpack<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.is_require_grad() {
                return;
            }
            let shape = param.lazy_shape();
            let (mine, rest) = self.values.split_at(shape.num_elements());
            self.values = rest;
            let (is_there, rest) = self.is_there.split_at(1);
            self.is_there = rest;
            if is_there[0] > 0.0 {
                let value = param.val().inner();
                let data = TensorData::new(mine.to_vec(), shape);
                let gradient = Tensor::<D>::from_data(data, (&value.device(), value.dtype()));
                self.gradients.register(param.id, gradient);
            }
        }
    }
    let mut unpack = Unpack {
        gradients: GradientsParams::new(),
        values: all,
        is_there: &all[length(model, before).1..],
    };
    model.visit(&mut unpack);
    let mut rest = unpack.is_there;
    let statistics = before.iter().map(|before| {
        let (mine, after) = rest.split_at(before.shape().num_elements());
        rest = after;
        Tensor::from_data(mine, (&before.device(), before.dtype()))
    });
    let statistics = statistics.collect();
    (unpack.gradients, statistics)
}

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

#[cfg(all(test, feature = "flex", feature = "mpi"))]
mod tests {
    use std::time::Instant;

    use burn::tensor::Device;
    use shike_model::ShikeConfig;

    use super::*;
    use crate::ranks::Sums;
    use crate::ranks::mpi::Job;

    /// Each gradient is its parameter.
    fn gradients(model: &Shike) -> GradientsParams {
        struct Fill(GradientsParams);
        impl ModuleVisitor for Fill {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.register(param.id, param.val().inner());
            }
        }
        let mut fill = Fill(GradientsParams::new());
        model.visit(&mut fill);
        fill.0
    }

    /// What a step pays for having several processes; docs/TESTING.md says how it is run.
    #[test]
    #[ignore = "mpirun starts it"]
    fn cost_of_the_collective() {
        let job = Job::join().unwrap_or_else(|| panic!("MPI"));
        let ranks = job.ranks();
        let networks = [
            (ShikeConfig::cifar(32, 100), 50),
            (ShikeConfig::resnet(50, 1000), 5),
        ];
        for (config, rounds) in networks {
            let config = config.unwrap_or_else(|error| panic!("{error}"));
            let model = config.init_seeded(&Device::flex().autodiff(), 1);
            let model = model.unwrap_or_else(|error| panic!("{error}"));
            let before = model.running_statistics();
            let (length, parameters) = length(&model, &before);
            let mut times = [const { vec![] }; 3];
            for _ in 0..=rounds {
                let (gradients, statistics) = (gradients(&model), before.clone());
                ranks.barrier();
                let began = Instant::now();
                let mine = pack(&model, gradients, statistics);
                let packed = Instant::now();
                let mut sums = Sums::new(&*ranks, length);
                sums.add(mine, ranks.size());
                let all = sums.finish();
                let summed = Instant::now();
                let unpacked = unpack(&model, &all, &before);
                let spans = [packed - began, summed - packed, summed.elapsed()];
                drop(unpacked);
                for (times, span) in times.iter_mut().zip(spans) {
                    times.push(span.as_secs_f64() * 1e3);
                }
            }
            if ranks.writes() {
                println!("{} processes, {parameters} parameters, ms", ranks.size());
                for (what, times) in ["pack", "exchange and sum", "unpack"].iter().zip(times) {
                    // The first one warms up.
                    let mut times = times[1..].to_vec();
                    times.sort_by(f64::total_cmp);
                    let (least, median) = (times[0], times[rounds / 2]);
                    println!("{what}: least {least:.1}, median {median:.1}");
                }
            }
        }
    }
}

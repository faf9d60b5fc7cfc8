//! Running statistics of networks that weights are read into.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use shike_model::{Head, Shike, ShikeConfig, weights};

#[test]
fn weights_that_are_read_into_a_clone_leave_the_others_alone() {
    let device = Device::flex();
    let config = ShikeConfig::cifar(8, 3).unwrap();
    let base = config.init(&device).unwrap();
    // Another network, with statistics of its own.
    let training = config.init(&device.clone().autodiff()).unwrap();
    let images = Tensor::<4>::ones([2, 3, 16, 16], &device.clone().autodiff());
    training.forward(images, Head::Stage1);
    let state = |model: &Shike| weights::state_dict(model).into_iter().collect();
    let (first, second) = (state(&base), state(&training.valid()));

    let before = weights::state_dict(&base);
    let load = |state| weights::load_state_dict(base.clone(), state, "state".as_ref()).unwrap();
    let a = load(first);
    let b = load(second);
    assert!(weights::state_dict(&base) == before);
    assert!(weights::state_dict(&a) == before);
    assert!(weights::state_dict(&b) == weights::state_dict(&training.valid()));
}

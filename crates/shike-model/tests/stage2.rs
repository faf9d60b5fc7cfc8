//! Stage 2 computes features and statistics of the frozen network, and nothing to differentiate.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Int, Tensor};
use shike_kernels::{Stats, stats};
use shike_model::loss::{BalancedSoftmaxLossConfig, Loss as _, LossContext};
use shike_model::{Head, ShikeConfig};

#[test]
fn stage2_builds_no_graph_for_the_frozen_network() {
    shike_kernels::set_enabled(true);
    let device = Device::flex().autodiff();
    let model = ShikeConfig::cifar(8, 10).unwrap().init(&device).unwrap();
    let images = Tensor::<4>::random([4, 3, 32, 32], Distribution::Default, &device);
    let labels = Tensor::<1, Int>::from_ints([0, 3, 9, 9], &device);
    let loss = BalancedSoftmaxLossConfig::default()
        .init(&LossContext::new(&[50, 40, 30, 20, 10, 9, 8, 7, 6, 5]))
        .unwrap();
    for freeze_batch_norm in [false, true] {
        let model = model.clone().freeze_for_stage2(freeze_batch_norm);
        let before = stats();
        let logits = model.forward(images.clone(), Head::Stage2);
        let gradients = loss.forward(&logits, labels.clone()).total().backward();
        let after = stats();
        let convolutions = |stats: &Stats| stats.conv2d + stats.conv2d_norm;
        let ran = convolutions(&after) > convolutions(&before);
        assert!(ran, "the kernels did not run");
        assert_eq!(after.conv2d_backward, before.conv2d_backward);
        assert_eq!(after.batch_norm_backward, before.batch_norm_backward);
        assert_eq!(
            after.batch_norm_train > before.batch_norm_train,
            !freeze_batch_norm
        );
        let gradients = GradientsParams::from_grads(gradients, &model);
        let heads = model.experts.iter().map(|e| e.head2.as_ref().unwrap());
        let trained: usize = heads.map(Module::num_params).sum();
        assert_eq!(gradients.len(), 3);
        assert_eq!(trained, model.trainable_params());
    }
}

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How often each kernel ran, and how often Burn's own module was called instead; see
/// [`stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Convolutions.
    pub conv2d: u64,
    /// Backward passes of convolutions.
    pub conv2d_backward: u64,
    /// Batch normalisations with the batch's statistics.
    pub batch_norm_train: u64,
    /// Batch normalisations with given statistics.
    pub batch_norm: u64,
    /// Backward passes of both kinds.
    pub batch_norm_backward: u64,
    /// Losses.
    pub loss: u64,
    /// Optimizer steps, one for each parameter.
    pub sgd: u64,
    /// Calls that Burn's own module answered.
    pub fallback: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    #[cfg(feature = "flex")]
    Conv2d,
    #[cfg(feature = "flex")]
    Conv2dBackward,
    #[cfg(feature = "flex")]
    BatchNormTrain,
    #[cfg(feature = "flex")]
    BatchNorm,
    #[cfg(feature = "flex")]
    BatchNormBackward,
    #[cfg(feature = "flex")]
    Loss,
    #[cfg(feature = "flex")]
    Sgd,
    Fallback,
}

static COUNTS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

fn index(kernel: Kernel) -> usize {
    match kernel {
        #[cfg(feature = "flex")]
        Kernel::Conv2d => 0,
        #[cfg(feature = "flex")]
        Kernel::Conv2dBackward => 1,
        #[cfg(feature = "flex")]
        Kernel::BatchNormTrain => 2,
        #[cfg(feature = "flex")]
        Kernel::BatchNorm => 3,
        #[cfg(feature = "flex")]
        Kernel::BatchNormBackward => 4,
        #[cfg(feature = "flex")]
        Kernel::Loss => 5,
        #[cfg(feature = "flex")]
        Kernel::Sgd => 6,
        Kernel::Fallback => 7,
    }
}

pub(crate) fn count(kernel: Kernel) {
    COUNTS[index(kernel)].fetch_add(1, Relaxed);
}

/// The counts since the program began.
pub fn stats() -> Stats {
    let count = |i: usize| COUNTS[i].load(Relaxed);
    Stats {
        conv2d: count(0),
        conv2d_backward: count(1),
        batch_norm_train: count(2),
        batch_norm: count(3),
        batch_norm_backward: count(4),
        loss: count(5),
        sgd: count(6),
        fallback: count(7),
    }
}

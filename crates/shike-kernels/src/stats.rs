use std::cell::Cell;

/// How often each kernel ran, and how often Burn's own module was called instead; see
/// [`stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Convolutions.
    pub conv2d: u64,
    /// Backward passes of convolutions.
    pub conv2d_backward: u64,
    /// Convolutions with batch normalisation in the same pass.
    pub conv2d_norm: u64,
    /// Batch normalisations with the batch's statistics.
    pub batch_norm_train: u64,
    /// Batch normalisations with given statistics.
    pub batch_norm: u64,
    /// Backward passes of both kinds.
    pub batch_norm_backward: u64,
    /// Maximum poolings.
    pub max_pool2d: u64,
    /// Losses.
    pub loss: u64,
    /// Optimizer steps, one for each parameter.
    pub sgd: u64,
    /// Linear layers.
    pub linear: u64,
    /// Layer normalisations.
    pub layer_norm: u64,
    /// GELUs by themselves.
    pub gelu: u64,
    /// Attentions.
    pub attention: u64,
    /// Calls that Burn's own module answered.
    pub fallback: u64,
}

thread_local! {
    static COUNTS: Cell<Stats> = Cell::default();
}

/// Counts a call, by `|stats| &mut stats.conv2d`.
pub(crate) fn count(kernel: impl FnOnce(&mut Stats) -> &mut u64) {
    let mut counts = COUNTS.get();
    *kernel(&mut counts) += 1;
    COUNTS.set(counts);
}

/// What was called on this thread since it began. (A kernel's own threads call nothing.)
pub fn stats() -> Stats {
    COUNTS.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_threads_count_for_themselves() {
        let before = stats();
        count(|stats| &mut stats.fallback);
        std::thread::scope(|scope| {
            scope.spawn(|| count(|stats| &mut stats.sgd));
        });
        let fallback = before.fallback + 1;
        assert_eq!(stats(), Stats { fallback, ..before });
    }
}

//! Whether a run's steps fit into the memory that there is.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use shike_data::panic_text;
use shike_model::Shike;
use shike_model::network::ModelSummary;

use super::Learner;
use crate::config::TrainConfigError;
use crate::error::TrainError;
use shike_infer::device::memory::{self, StepMemory};

impl Learner {
    /// Parameters and multiply-adds at the size of the training images.
    pub(super) fn summary(&self, model: &Shike) -> ModelSummary {
        let size = self.config.train_pipeline.output_size();
        model.describe(size.unwrap_or(224.into()).height_width())
    }

    /// Memory of a step of stage 1, which is the larger one.
    pub(super) fn step_memory(&self, model: &Shike) -> StepMemory {
        let summary = self.summary(model);
        let trained = stage1_params(model, &summary);
        let mut memory = StepMemory::estimate(
            &summary,
            trained,
            self.config.loader.batch_size,
            self.config.ema_decay.is_some(),
            memory::kept_per_value(&self.device, self.config.precision),
        );
        memory.momentum *= self.config.optimizer.values_per_weight();
        memory
    }

    /// Refuses a batch that cannot fit, where the memory can be known: a process that the operating
    /// system kills for its memory says nothing.
    pub(super) fn check_memory(&self, model: &Shike) -> Result<(), TrainError> {
        self.check(&self.step_memory(model))
    }

    fn check(&self, needed: &StepMemory) -> Result<(), TrainError> {
        match memory::available(&self.device) {
            Some(available) if needed.total() > available => {
                Err(out_of_memory(needed, available, None))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a network whose weights alone cannot fit, before they are drawn.
    pub(super) fn check_weights(&self) -> Result<(), TrainError> {
        let values = self.config.model.num_values();
        let needed = StepMemory {
            weights: 4 * values.map_err(TrainConfigError::from)?,
            gradients: 0,
            momentum: 0,
            activations: 0,
            batch_size: self.config.loader.batch_size,
        };
        self.check(&needed)
    }

    /// Refuses features of training images, `[images, width]`, that heads cannot be fitted on here: before they are
    /// embedded.
    pub(super) fn check_features(&self, width: usize) -> Result<(), TrainError> {
        match memory::of_machine() {
            Some(available) => features_fit(&self.train_counts, width, available),
            None => Ok(()),
        }
    }

    /// Turns a backend's panic over its memory into an error; any other panic goes on.
    pub(super) fn catch_out_of_memory<T>(
        &self,
        needed: &StepMemory,
        work: impl FnOnce() -> Result<T, TrainError>,
    ) -> Result<T, TrainError> {
        let panic = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => return result,
            Err(panic) => panic,
        };
        let message = panic_text(panic.as_ref());
        if !memory::tells_of_memory(&message) {
            resume_unwind(panic);
        }
        // What the backend's pools came to hold is about what the device has.
        let available = memory::peak(&self.device).unwrap_or_default();
        let cause = message.lines().next().map(str::to_owned);
        Err(out_of_memory(needed, available, cause))
    }
}

/// Floats that heads hold at their peak for each feature: 2.95 were measured.
const COPIES: u64 = 3;

fn features_fit(counts: &[usize], width: usize, available: u64) -> Result<(), TrainError> {
    let images_of = |most: usize| counts.iter().map(|count| *count.min(&most)).sum();
    let needed = |images: usize| COPIES * 4 * (images * width) as u64;
    let largest = counts.iter().copied().max().unwrap_or(0);
    let images = images_of(largest);
    if needed(images) <= available {
        return Ok(());
    }
    let (mut fits, mut too_many) = (0, largest);
    while too_many - fits > 1 {
        let most = usize::midpoint(fits, too_many);
        match needed(images_of(most)) <= available {
            true => fits = most,
            false => too_many = most,
        }
    }
    Err(TrainError::TooManyFeatures {
        images,
        needed: needed(images),
        available,
        fits,
    })
}

/// Parameters that get gradients in stage 1.
pub(super) fn stage1_params(model: &Shike, summary: &ModelSummary) -> usize {
    let trainable = model.trainable_params();
    trainable.saturating_sub(summary.stage2_head_params())
}

fn out_of_memory(needed: &StepMemory, available: u64, cause: Option<String>) -> TrainError {
    TrainError::OutOfMemory {
        batch_size: needed.batch_size,
        needed: needed.total(),
        available,
        fits: needed.batch_that_fits(available),
        cause,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn features_that_do_not_fit_name_the_most_of_a_class_that_does() {
        // An image of 10 values takes 120 bytes.
        let fit = |available| features_fit(&[50, 20, 3], 10, available);
        assert!(fit(73 * 120).is_ok());
        let fits = |available| match fit(available).unwrap_err() {
            TrainError::TooManyFeatures {
                images: 73,
                needed: 8760,
                fits,
                ..
            } => fits,
            other => panic!("{other}"),
        };
        assert_eq!(fits(73 * 120 - 1), 49);
        assert_eq!(fits((20 + 20 + 3) * 120), 20);
        assert_eq!(fits((4 + 4 + 3) * 120), 4);
        assert_eq!(fits(2 * 120), 0);
    }
}

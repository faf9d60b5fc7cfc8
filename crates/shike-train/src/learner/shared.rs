//! What several processes that train together ask one another.

use serde_json::{Value, json};
use shike_data::Loader;
use shike_infer::Scorer;
use shike_infer::metrics::{Evaluation, Evaluator};

use super::{Learner, State};
use crate::error::TrainError;
use crate::run::receipt::{SplitReceipt, class_order, settings_of};

impl Learner {
    /// Refuses a process with other settings, other images or another version.
    pub(super) fn check_ranks(&self) -> Result<(), TrainError> {
        let split = |data: Option<&_>| data.map(SplitReceipt::new).transpose();
        let mine = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "settings": settings_of(&self.config),
            "seed": self.config.seed,
            "class names": class_order(self.data.train.class_names()),
            "training images": split(Some(&self.data.train))?,
            "validation images": split(self.data.val.as_ref())?,
            "test images": split(self.data.test.as_ref())?,
        });
        self.same("has", &mine)
    }

    /// Refuses to begin where a process stands elsewhere.
    pub(super) fn same_state(&self, state: &State) -> Result<(), TrainError> {
        let at = &state.position;
        self.same(
            "begins with",
            &json!({ "position in the run": [at.stage as u64, at.epoch as u64, at.batch as u64, at.step] }),
        )
    }

    /// Refuses to go on where weights are not equal bit for bit: processors of two kinds may round in two ways.
    pub(super) fn same_weights(&self, sum: f32) -> Result<(), TrainError> {
        self.same("has", &json!({ "weights": sum.to_bits() }))
    }

    fn same(&self, verb: &str, mine: &Value) -> Result<(), TrainError> {
        self.ranks.same(verb, mine).map_err(TrainError::Mismatch)
    }

    /// Each process knows all training images that any of them could not read.
    pub(super) fn gather_bad_images(&self) -> Result<(), TrainError> {
        if !self.ranks.is_alone() {
            let all = self.ranks.gather_json(&self.bad_images.entries());
            let all = all.map_err(TrainError::Mismatch)?;
            all.into_iter()
                .flatten()
                .for_each(|image| self.bad_images.add(image));
        }
        Ok(())
    }

    /// Scores a network as one process does: its batches go round, and all logits to each.
    pub(super) fn score_shared(
        &self,
        scorer: &Scorer,
        loader: &Loader,
        mut evaluator: Evaluator,
    ) -> Result<Evaluation, TrainError> {
        let ranks = &*self.ranks;
        let (labels, classes) = (loader.dataset().labels(), self.train_counts.len());
        let batch_size = self.config.loader.batch_size;
        let experts = self.config.model.experts;
        // Logits of each expert for a whole batch.
        let room = batch_size * classes;
        let mut batches = loader.sequential_part(ranks.rank(), ranks.size());
        for round in labels.chunks(batch_size * ranks.size()) {
            let mut mine = Vec::with_capacity(experts * room);
            if let Some(batch) = batches.next() {
                for mut logits in scorer.batch_logits(&batch?) {
                    logits.resize(room, 0.0);
                    mine.append(&mut logits);
                }
            }
            mine.resize(experts * room, 0.0);
            let all = ranks.gather(&mine);
            let parts = all.chunks_exact(experts * room);
            for (labels, logits) in round.chunks(batch_size).zip(parts) {
                let of_expert = logits.chunks_exact(room);
                let of_expert: Vec<&[f32]> = of_expert
                    .map(|all| &all[..labels.len() * classes])
                    .collect();
                evaluator
                    .add_batch(&of_expert, labels)
                    .map_err(shike_infer::InferError::from)?;
            }
        }
        Ok(evaluator.finish().map_err(shike_infer::InferError::from)?)
    }
}

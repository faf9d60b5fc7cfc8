//! Where a run stands, in and out of a checkpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::OptimizerRecord;
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::{Bytes, Tensor};
use burn_store::burn_pack::{Reader, Writer};
use serde::{Deserialize, Serialize};
use shike_data::Dataset;
use shike_model::ShikeConfig;
use xxhash_rust::xxh3::Xxh3;

use super::step::{TOTAL, Trained};
use super::{Learner, Session, State};
use crate::config::TrainConfig;
use crate::config::diff::differing;
use crate::config::optimizer::gather;
use crate::error::TrainError;
use crate::learner::ema::Ema;
use crate::run::RunDir;
use crate::run::checkpoint::{Checkpoint, CheckpointError};
use shike_infer::metrics::nullable;

/// Position of a run, to the batch, and what it has summed up so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Stage from 1; 3 once all is done.
    pub stage: usize,
    /// Epoch within the stage, from 0.
    pub epoch: usize,
    /// Batches of the epoch that are done.
    pub batch: usize,
    /// Optimizer steps over both stages.
    pub step: u64,
    pub sums: EpochSums,
    pub best: Option<BestEpoch>,
    /// Steps that the averaged weights have taken in.
    #[serde(default)]
    pub ema_updates: u64,
    /// The power that the stage-2 heads were made with, where that is how they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Epochs of stage 1, where it ended before its last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage1_epochs: Option<usize>,
    /// Of the training set: other images, or another order, would make another run.
    pub data: String,
}

/// Sums over the images of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EpochSums {
    pub images: usize,
    pub total: f64,
    pub terms: BTreeMap<String, f64>,
    pub seconds: f64,
}

/// The best epoch, judged on the validation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BestEpoch {
    /// Stage, from 1.
    pub stage: usize,
    /// Epoch within the stage, from 0.
    pub epoch: usize,
    /// The weights that were better.
    pub weights: Weights,
    /// Cross-entropy on the validation set, averaged over classes, by which it was chosen.
    #[serde(deserialize_with = "nullable::number")]
    pub class_averaged_loss: f64,
    /// Class-averaged accuracy on the validation set, in percent.
    pub accuracy: f64,
}

/// One of the two sets of weights that a run has with [`Ema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Those that are trained.
    Trained,
    /// Their moving average.
    Averaged,
}

impl fmt::Display for BestEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let averaged = match self.weights {
            Weights::Trained => "",
            Weights::Averaged => ", averaged weights",
        };
        write!(
            f,
            "best: epoch {} of stage {}{averaged}, class-averaged loss {:.4}, accuracy {:.2} %",
            self.epoch + 1,
            self.stage,
            self.class_averaged_loss,
            self.accuracy
        )
    }
}

impl Position {
    pub fn start(data: String) -> Self {
        Self {
            stage: 1,
            epoch: 0,
            batch: 0,
            step: 0,
            sums: EpochSums::default(),
            best: None,
            ema_updates: 0,
            tau: None,
            stage1_epochs: None,
            data,
        }
    }

    /// Epochs of the stage that are done since its best one, this one included.
    pub fn since_best(&self) -> usize {
        match &self.best {
            Some(best) if best.stage == self.stage => self.epoch.saturating_sub(best.epoch),
            _ => self.epoch + 1,
        }
    }

    pub fn next_epoch(&mut self) {
        self.epoch += 1;
        self.batch = 0;
        self.sums = EpochSums::default();
    }

    pub fn next_stage(&mut self) {
        self.stage += 1;
        self.epoch = 0;
        self.batch = 0;
        self.sums = EpochSums::default();
    }
}

impl EpochSums {
    pub fn add(&mut self, images: usize, values: &[(&str, f64)]) {
        self.images += images;
        for (name, value) in values {
            let sum = value * images as f64;
            match *name {
                TOTAL => self.total += sum,
                name => *self.terms.entry(name.to_owned()).or_default() += sum,
            }
        }
    }
}

/// XXH3 over the labels and the names of a data set's files.
pub(super) fn fingerprint(data: &Dataset) -> String {
    let mut hash = Xxh3::new();
    for i in 0..data.len() {
        hash.update(&data.label(i).to_le_bytes());
        // Where a file lies may differ between machines; its name may not.
        let origin = data.origin(i);
        let name = origin.rsplit(['/', '\\']).next().unwrap_or_default();
        hash.update(name.as_bytes());
        hash.update(b"\n");
    }
    format!("{:032x}", hash.digest128())
}

/// A record of an optimizer with its tensors in the order of their names: Burn's comes out of a hash map.
fn in_order(record: Bytes) -> Result<Bytes, RecordError> {
    let reader = Reader::from_bytes(record)?;
    let (scalars, metadata) = (reader.scalars().clone(), reader.metadata().clone());
    let mut tensors = reader.into_tensors()?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let writer = scalars
        .iter()
        .fold(Writer::new(tensors), |writer, (name, value)| {
            writer.with_scalar(name, *value)
        });
    let writer = metadata.iter().fold(writer, |writer, (name, value)| {
        writer.with_metadata(name, value)
    });
    Ok(writer.into_bytes()?)
}

/// A record of a network with the names that its tensors have now: the first version called layers `stages`, and
/// had a stem of one kind.
fn renamed(record: Bytes) -> Result<Bytes, RecordError> {
    let tensors = Reader::from_bytes(record)?.into_tensors()?.into_iter();
    let tensors = tensors.map(|mut tensor| {
        tensor.name = tensor.name.replace(".stages.", ".layers.");
        for part in ["conv.", "bn."] {
            if let Some(rest) = tensor
                .name
                .strip_prefix("stem.")
                .filter(|n| n.starts_with(part))
            {
                tensor.name = format!("stem.blocks.0.Stem.{rest}");
            }
        }
        tensor
    });
    Ok(Writer::new(tensors.collect()).into_bytes()?)
}

/// The sum of all weights: NaN or infinite where one of them is, on the device until it is read.
struct FiniteSum {
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for FiniteSum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let sum = param.val().detach().sum();
        self.sum = Some(match self.sum.take() {
            Some(before) => before + sum,
            None => sum,
        });
    }
}

const MODEL: &str = "model";
pub(super) const EMA: &str = "ema";
const OPTIMIZER: &str = "optimizer";
pub(super) const POSITION: &str = "position";
const SETTINGS: &str = "settings";

impl Learner {
    /// Everything that the run needs to go on, as one file. Burn's records keep the identity of
    /// each parameter, which ties its momentum to it.
    pub(super) fn checkpoint(&self, state: &State) -> Result<Checkpoint, TrainError> {
        let failed = |source: RecordError| TrainError::Record {
            path: "the new checkpoint".into(),
            source,
        };
        // The optimizer first: while its record is put in order there are two of it.
        let optimizer = state.trained.optimizer.to_record().into_bytes();
        let optimizer = in_order(optimizer.map_err(failed)?).map_err(failed)?;
        let model = state.trained.model.clone().into_record().into_bytes();
        let mut records = BTreeMap::from([
            (MODEL.to_owned(), model.map_err(failed)?),
            (OPTIMIZER.to_owned(), optimizer),
        ]);
        let mut position = state.position.clone();
        if let Some(ema) = &state.trained.ema {
            let record = ema.model().clone().into_record().into_bytes();
            records.insert(EMA.to_owned(), record.map_err(failed)?);
            position.ema_updates = ema.updates();
        }
        Ok(Checkpoint {
            records,
            state: serde_json::json!({ POSITION: position, SETTINGS: self.config }),
        })
    }

    /// As [`save`](Self::save); of several processes one may be lost at any time, and where to go on then is told before.
    pub(super) fn save_and_tell(
        &self,
        session: &mut Session<'_>,
        state: &State,
    ) -> Result<(), TrainError> {
        self.save(session.run, state)?;
        if !self.ranks.is_alone() {
            let written = session.run.paths().step_checkpoint(state.position.step);
            session.message(&format!("checkpoint: {}", written.display()));
        }
        Ok(())
    }

    /// Writes a checkpoint, of which a run can go on: a step may spoil the weights by gradients that
    /// are not finite where its loss was, and the next loss, which would tell, is not there yet.
    pub(super) fn save(&self, run: &RunDir, state: &State) -> Result<(), TrainError> {
        let mut sum = FiniteSum { sum: None };
        state.trained.model.visit(&mut sum);
        let sum = sum.sum.map_or(0.0, |sum| sum.into_scalar::<f32>());
        if !sum.is_finite() {
            let position = &state.position;
            let stage = self.config.stage(position.stage);
            return Err(TrainError::NonFinite {
                term: "the sum of all weights".into(),
                value: sum.into(),
                step: position.step,
                stage: position.stage,
                epoch: position.epoch,
                lr: stage.map_or(0.0, |stage| stage.schedule.lr(position.epoch)),
            });
        }
        self.same_weights(sum)?;
        // A run that goes on from here does not meet them again.
        self.gather_bad_images()?;
        if !run.writes() {
            return Ok(());
        }
        self.list_bad_images(run)?;
        run.save_checkpoint(state.position.step, &self.checkpoint(state)?)?;
        Ok(())
    }

    /// The state that a checkpoint of this run holds.
    pub(super) fn restore(&self, checkpoint: Checkpoint, path: &Path) -> Result<State, TrainError> {
        let mut settings = checkpoint.state[SETTINGS].clone();
        settings.as_object_mut().map(gather);
        let settings = TrainConfig::deserialize(settings);
        let settings = settings.map_err(|error| CheckpointError::Foreign {
            path: path.to_owned(),
            reason: format!("its `{SETTINGS}` entry: {error}"),
        })?;
        let differ = differing(&settings, &self.config);
        if !differ.is_empty() {
            return Err(TrainError::Mismatch(format!(
                "{}: it was trained with other settings ({} differ): config.json was edited or damaged; \
                 put it back, for a run goes on with the settings that it began with",
                path.display(),
                differ.join(", ")
            )));
        }
        self.restore_from(checkpoint, path, &self.config.model)
    }

    /// The state that a checkpoint holds whose network had this configuration: that of the run, but for
    /// stage-2 heads, which are new where it has none.
    pub(super) fn restore_from(
        &self,
        checkpoint: Checkpoint,
        path: &Path,
        network: &ShikeConfig,
    ) -> Result<State, TrainError> {
        let foreign = |reason: String| {
            TrainError::from(CheckpointError::Foreign {
                path: path.to_owned(),
                reason,
            })
        };
        let failed = |source: RecordError| TrainError::Record {
            path: path.to_owned(),
            source,
        };
        // Layers were called stages when names in records were others.
        let former = checkpoint.state[SETTINGS]["model"]
            .get("shared_stages")
            .is_some();
        let network_record = |bytes: Bytes| {
            let bytes = if former { renamed(bytes) } else { Ok(bytes) };
            bytes.and_then(ModuleRecord::from_bytes).map_err(failed)
        };
        let mut records = checkpoint.records;
        let mut take = |name: &str| {
            let record = records.remove(name);
            record.ok_or_else(|| foreign(format!("it has no `{name}` entry")))
        };
        let position: Position = serde_json::from_value(checkpoint.state[POSITION].clone())
            .map_err(|error| foreign(format!("its `{POSITION}` entry: {error}")))?;
        if position.data != fingerprint(&self.data.train) {
            return Err(TrainError::Mismatch(format!(
                "{}: the training images, their labels or their order are not those that the run \
                 began with; resume with the same data",
                path.display()
            )));
        }
        let record = network_record(take(MODEL)?)?;
        let model = self.init_model(network)?;
        // Until its first step, a stage has the heads that it was given.
        let begun = position.epoch > 0 || position.batch > 0;
        let model = match begun {
            true => self.begin(model, position.stage)?,
            false => self.prepare(model, position.stage),
        };
        let mut model = model.try_load_record(record).map_err(failed)?;
        if self.config.model.stage2_heads && !network.stage2_heads {
            let new = self.new_model()?.experts;
            for (expert, new) in model.experts.iter_mut().zip(new) {
                expert.head2 = new.head2;
            }
            model = self.prepare(model, position.stage);
        }
        let record = OptimizerRecord::from_bytes(take(OPTIMIZER)?).map_err(failed)?;
        let ema = match (self.config.ema_decay, take(EMA).ok()) {
            (Some(decay), Some(record)) => {
                let record = network_record(record)?;
                let average = model.valid().try_load_record(record).map_err(failed)?;
                Some(Ema::resumed(decay, position.ema_updates, average))
            }
            // Another run's stage 1, which had none.
            _ => self.ema(&model),
        };
        Ok(State {
            trained: Trained {
                ema,
                model,
                optimizer: self.optimizer().load_record(record),
            },
            position,
        })
    }
}

//! Processes that train one network together, each with a device of its own.
//!
//! The batches of a step are dealt out: process `k` of `n` computes batches `k`, `k + n`, … of it. Sums run over the
//! batches in their order, whatever the number of processes, so that it changes no bit of a run: several processes are
//! one that accumulates.

mod features;
#[cfg(feature = "mpi")]
pub mod mpi;

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use features::embed;

/// What a process that differs says.
const ALIKE: &str = "start the same program with the same arguments, where it finds the same files";

/// What a process knows of the others, and how they put together what each has. All have to call the same in the same
/// order; a process that is lost ends all of them.
pub trait Ranks: fmt::Debug + Send + Sync {
    /// The number of this process, from 0. Number 0 writes the run and talks to people.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// As many pieces of equal length as there are processes go one to each; what comes is the piece of each for this
    /// one, one after another.
    fn exchange(&self, pieces: &[f32]) -> Vec<f32>;

    /// What each has, one after another; all have the same length.
    fn gather(&self, values: &[f32]) -> Vec<f32>;

    /// What each has, of any length.
    fn gather_bytes(&self, bytes: &[u8]) -> Vec<Vec<u8>>;
}

/// One process, and no other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, pieces: &[f32]) -> Vec<f32> {
        pieces.to_vec()
    }

    fn gather(&self, values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        vec![bytes.to_vec()]
    }
}

impl dyn Ranks + '_ {
    /// Whether this process writes the run.
    pub fn writes(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there is no other.
    pub fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Waits until all are here.
    pub fn barrier(&self) {
        self.gather_bytes(&[]);
    }

    /// Each bit that any of them has set.
    pub(crate) fn any(&self, flags: u8) -> u8 {
        let all = self.gather_bytes(&[flags]);
        all.iter().flatten().fold(0, |all, flags| all | flags)
    }

    /// What each has; or what is wrong, where another program says something else.
    pub(crate) fn gather_json<T: Serialize + DeserializeOwned>(
        &self,
        value: &T,
    ) -> Result<Vec<T>, String> {
        let all = serde_json::to_vec(value).map(|mine| self.gather_bytes(&mine));
        let all = all.and_then(|all| all.iter().map(|of| serde_json::from_slice(of)).collect());
        all.map_err(|error| format!("another process says something else: {error}: {ALIKE}"))
    }

    /// Says which fields of an object others have otherwise.
    pub(crate) fn same(&self, verb: &str, mine: &Value) -> Result<(), String> {
        let all = self.gather_json(mine)?;
        for (rank, other) in all.iter().enumerate() {
            let fields = mine.as_object().into_iter().flatten();
            let differ = fields.filter(|(name, value)| other.get(name) != Some(value));
            let differ: Vec<&str> = differ.map(|(name, _)| name.as_str()).collect();
            if !differ.is_empty() {
                return Err(format!(
                    "process {rank} of {} {verb} other {} than process {}: {ALIKE}",
                    all.len(),
                    differ.join(", "),
                    self.rank(),
                ));
            }
        }
        Ok(())
    }
}

/// Sums of what several batches have, in the order of the batches: this process's piece of them.
pub(crate) struct Sums<'a> {
    ranks: &'a dyn Ranks,
    length: usize,
    piece: Option<Vec<f32>>,
}

impl<'a> Sums<'a> {
    /// Nothing yet of `length` numbers.
    pub fn new(ranks: &'a dyn Ranks, length: usize) -> Self {
        Self {
            ranks,
            length,
            piece: None,
        }
    }

    /// Adds the batches of the first `active` processes, one each; `mine` counts where this is one of them.
    pub fn add(&mut self, mut mine: Vec<f32>, active: usize) {
        let size = self.ranks.size();
        let piece = self.length.div_ceil(size).max(1);
        mine.resize(piece * size, 0.0);
        let all = self.ranks.exchange(&mine);
        for other in all.chunks_exact(piece).take(active) {
            match &mut self.piece {
                None => self.piece = Some(other.to_vec()),
                Some(sum) => sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x),
            }
        }
    }

    /// All sums.
    pub fn finish(self) -> Vec<f32> {
        let mut all = self.ranks.gather(&self.piece.unwrap_or_default());
        all.truncate(self.length);
        all
    }
}

//! Processes that `mpirun` has started.

use std::fmt;
use std::sync::Arc;

use mpi::Threading;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use super::{Alone, Ranks};

/// This process's part in a job of MPI's; at its end it waits for the others.
pub struct Job {
    ranks: Arc<Mpi>,
    here: (usize, usize),
    _universe: Universe,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("ranks", &self.ranks)
            .field("here", &self.here)
            .finish_non_exhaustive()
    }
}

impl Job {
    /// Joins the job; none if this process has done so before. All calls of [`Ranks`] have to come from this thread.
    pub fn join() -> Option<Self> {
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)?;
        let world = universe.world();
        let here = world.split_shared(world.rank());
        Some(Self {
            ranks: Arc::new(Mpi {
                rank: world.rank() as usize,
                size: world.size() as usize,
            }),
            here: (here.rank() as usize, here.size() as usize),
            _universe: universe,
        })
    }

    /// All processes.
    pub fn ranks(&self) -> Arc<dyn Ranks> {
        match self.ranks.size {
            1 => Arc::new(Alone),
            _ => self.ranks.clone(),
        }
    }

    /// The number of this process among those on its machine, from 0, and how many these are.
    pub fn here(&self) -> (usize, usize) {
        self.here
    }

    /// Ends all processes at once.
    pub fn abort(&self, status: i32) -> ! {
        SimpleCommunicator::world().abort(status)
    }
}

#[derive(Debug)]
struct Mpi {
    rank: usize,
    size: usize,
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, pieces: &[f32]) -> Vec<f32> {
        let mut all = vec![0.0; pieces.len()];
        SimpleCommunicator::world().all_to_all_into(pieces, &mut all[..]);
        all
    }

    fn gather(&self, values: &[f32]) -> Vec<f32> {
        let mut all = vec![0.0; values.len() * self.size];
        SimpleCommunicator::world().all_gather_into(values, &mut all[..]);
        all
    }

    fn gather_bytes(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let mut counts = vec![0i32; self.size];
        world.all_gather_into(&(bytes.len() as i32), &mut counts[..]);
        let starts: Vec<i32> = counts
            .iter()
            .scan(0, |end, count| {
                let start = *end;
                *end += count;
                Some(start)
            })
            .collect();
        if counts.iter().all(|count| *count == 0) {
            // MPI takes no buffer without an address.
            return vec![vec![]; self.size];
        }
        let mut all = vec![0u8; counts.iter().sum::<i32>() as usize];
        let mut parts = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
        world.all_gather_varcount_into(bytes, &mut parts);
        let counts = counts.into_iter().zip(starts);
        counts
            .map(|(count, start)| all[start as usize..][..count as usize].to_vec())
            .collect()
    }
}

//! The processes of a job, each with a device of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use shike_train::ranks::{Alone, Ranks};

use super::{CliError, Status, say};

/// What launchers tell of the number of processes.
#[cfg(not(feature = "mpi"))]
const SIZES: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

/// This process among those of its job.
#[derive(Debug)]
pub(super) struct Processes {
    pub ranks: Arc<dyn Ranks>,
    /// Its number among those on this machine, from 0, and how many these are.
    here: (usize, usize),
    #[cfg(feature = "mpi")]
    job: Option<shike_train::ranks::mpi::Job>,
}

impl Processes {
    /// Joins the job that this process was started in. Those of one machine share its cores.
    pub fn join() -> Result<Self, CliError> {
        let processes = Self::found()?;
        let (_, of) = processes.here;
        if of > 1 {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let pool = rayon::ThreadPoolBuilder::new().num_threads((cores / of).max(1));
            // One that is there already stays.
            let _ = pool.build_global();
        }
        Ok(processes)
    }

    /// One, and no other.
    pub fn alone() -> Self {
        Self {
            ranks: Arc::new(Alone),
            here: (0, 1),
            #[cfg(feature = "mpi")]
            job: None,
        }
    }

    #[cfg(feature = "mpi")]
    fn found() -> Result<Self, CliError> {
        let job = shike_train::ranks::mpi::Job::join();
        Ok(Self {
            ranks: job
                .as_ref()
                .map_or_else(|| Arc::new(Alone) as _, |job| job.ranks()),
            here: job.as_ref().map_or((0, 1), |job| job.here()),
            job,
        })
    }

    #[cfg(not(feature = "mpi"))]
    fn found() -> Result<Self, CliError> {
        let several = |name: &&&str| {
            let size = std::env::var(name).ok().and_then(|n| n.parse().ok());
            size.is_some_and(|size: usize| size > 1)
        };
        match SIZES.iter().find(several) {
            Some(name) => Err(CliError::Usage(format!(
                "several processes were started together ({name}), and this program was built without the feature \
                 `mpi`: each would work alone"
            ))),
            None => Ok(Self::alone()),
        }
    }

    /// The name of this process's device: a backend whose devices have numbers has one for each.
    pub fn device(&self, name: &str) -> String {
        let (number, of) = self.here;
        let backend = match name {
            "auto" => shike_infer::device::available().first().copied(),
            name => Some(name),
        };
        match backend {
            Some(backend)
                if of > 1 && !backend.contains(':') && !["flex", "cpu"].contains(&backend) =>
            {
                format!("{backend}:{number}")
            }
            _ => name.to_owned(),
        }
    }

    /// A line for people, which process 0 says for all.
    pub fn say(&self, text: &str) {
        if self.ranks.writes() {
            say(text);
        }
    }

    /// Does what all do; where it fails for one of them, all end.
    pub fn together(
        &self,
        run: impl FnOnce() -> Result<Status, CliError>,
    ) -> Result<Status, CliError> {
        if self.ranks.is_alone() {
            return run();
        }
        let status = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(status)) => return Ok(status),
            Ok(Err(error)) => {
                let rank = self.ranks.rank();
                if rank > 0 {
                    // Where all fail alike, number 0 says so for all.
                    std::thread::sleep(Duration::from_secs(1));
                    say(&format!("error in process {rank}: {}", error.explain()));
                } else {
                    say(&format!("error: {}", error.explain()));
                }
                error.status()
            }
            Err(_) => Status::Failure,
        };
        self.abort(status)
    }

    #[cfg(feature = "mpi")]
    fn abort(&self, status: Status) -> ! {
        if let Some(job) = &self.job {
            job.abort(status as i32);
        }
        std::process::exit(status as i32)
    }

    #[cfg(not(feature = "mpi"))]
    fn abort(&self, status: Status) -> ! {
        std::process::exit(status as i32)
    }
}

//! How much memory a training step needs, and how much there is.

use std::fmt;

use burn::tensor::Device;
use serde::Serialize;
use shike_model::kernels;
use shike_model::network::ModelSummary;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::device::batch::Precision;
use crate::device::is_host;

/// What a float32 value takes.
const FLOAT: u64 = 4;

/// Bytes that training keeps for each value that a convolution puts out: that value, which batch
/// normalisation needs again, and the activation behind; where the two are separate operations, also
/// what lies between them.
pub fn kept_per_value(device: &Device, precision: Precision) -> u64 {
    let fused = is_host(device) && kernels::enabled();
    let bytes = match precision {
        Precision::Bf16 if !is_host(device) => FLOAT / 2,
        _ => FLOAT,
    };
    bytes * if fused { 2 } else { 3 }
}

/// An estimate of what one training step holds at its peak, in bytes. It counts what has to be
/// kept; scratch space of single operations comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StepMemory {
    /// Parameters, running statistics and, where there are any, averaged weights.
    pub weights: u64,
    /// Gradients of the trained parameters.
    pub gradients: u64,
    /// Momentum of the trained parameters.
    pub momentum: u64,
    /// Activations kept for the backward pass, of the whole batch.
    pub activations: u64,
    /// Images of a batch.
    pub batch_size: usize,
}

impl StepMemory {
    /// Estimates a step of the network that `summary` describes at its image size, with
    /// `trained` parameters that get gradients and `kept_per_value` bytes for each value that a
    /// convolution puts out.
    pub fn estimate(
        summary: &ModelSummary,
        trained: usize,
        batch_size: usize,
        averaged: bool,
        kept_per_value: u64,
    ) -> Self {
        let params = summary.params() as u64;
        let copies = 1 + u64::from(averaged);
        let [height, width] = summary.image_size;
        let images = FLOAT * (3 * height * width) as u64;
        let kept = kept_per_value * summary.activations() + images;
        Self {
            weights: FLOAT * params * copies,
            gradients: FLOAT * trained as u64,
            momentum: FLOAT * trained as u64,
            activations: kept * batch_size as u64,
            batch_size,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.momentum + self.activations
    }

    /// The largest batch whose step stays within `available` bytes; 0 where not even one image
    /// does.
    pub fn batch_that_fits(&self, available: u64) -> usize {
        let fixed = self.total() - self.activations;
        let image = (self.activations / self.batch_size.max(1) as u64).max(1);
        usize::try_from(available.saturating_sub(fixed) / image).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for StepMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (weights {}, gradients {}, momentum {}, activations {})",
            gib(self.total()),
            gib(self.weights),
            gib(self.gradients),
            gib(self.momentum),
            gib(self.activations)
        )
    }
}

/// An estimate of what scoring one image takes, in bytes: all activations of float32, of which a few are
/// there at a time.
pub fn of_scoring(summary: &ModelSummary) -> u64 {
    let [height, width] = summary.image_size;
    FLOAT * (summary.activations() + (3 * height * width) as u64)
}

/// Bytes as people read them.
pub fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1u32 << 30);
    format!("{gib:.2} GiB")
}

/// Bytes that a device could still take, where that can be known: what the machine and the control
/// group of this process have left, for a device in the machine's own memory.
pub fn available(device: &Device) -> Option<u64> {
    is_host(device).then(of_machine).flatten()
}

/// Bytes that the machine and the control group of this process have left, where that can be known.
pub fn of_machine() -> Option<u64> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory));
    let machine = system.available_memory();
    let group = system.cgroup_limits().map(|limits| limits.free_memory);
    let available = group.map_or(machine, |group| group.min(machine));
    // 0: an operating system that sysinfo does not know.
    (available > 0).then_some(available)
}

/// The most bytes held so far, where that can be known: by the process for a device in the
/// machine's own memory (on Linux), by the backend's pools otherwise.
pub fn peak(device: &Device) -> Option<u64> {
    if let Some(usage) = device.memory_pool_usage() {
        return Some(usage.bytes_reserved);
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Whether this is what a backend says when a device's memory is used up.
pub fn tells_of_memory(message: &str) -> bool {
    let message = message.to_lowercase();
    ["out of memory", "out_of_memory", "outofmemory"]
        .iter()
        .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_that_fits_uses_the_memory_and_no_more() {
        let memory = |batch_size| StepMemory {
            weights: 1000,
            gradients: 900,
            momentum: 900,
            activations: 50 * batch_size as u64,
            batch_size,
        };
        assert_eq!(memory(8).total(), 3200);
        assert_eq!(memory(8).batch_that_fits(3000), 4);
        assert_eq!(memory(8).batch_that_fits(2849), 0);
        assert_eq!(memory(8).batch_that_fits(100), 0);
        let fits = memory(64).batch_that_fits(4321);
        assert!(memory(fits).total() <= 4321 && memory(fits + 1).total() > 4321);
    }

    #[test]
    #[cfg(all(feature = "flex", target_os = "linux"))]
    fn this_machine_has_memory_and_uses_some() {
        let device = Device::flex();
        let peak = peak(&device).expect("Linux tells");
        assert!(peak > 1 << 20);
        assert!(available(&device).is_some_and(|bytes| bytes > 1 << 20));
    }
}

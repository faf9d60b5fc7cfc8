//! Devices by name.

pub mod batch;
pub mod burn_loader;
#[cfg(feature = "cubecl")]
mod kept;
pub mod memory;

use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::tensor::{Device, FloatDType, Tensor};
use thiserror::Error;

/// A device that this binary does not have, or that cannot be used on this machine.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{name}: {reason}; this binary has {}", available().join(", "))]
pub struct DeviceError {
    name: String,
    reason: String,
}

impl DeviceError {
    /// Why, on one line.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Every backend by its cargo feature, and whether it is compiled in.
const BACKENDS: [(&str, bool); 7] = [
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
    ("metal", cfg!(feature = "metal")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("cpu", cfg!(feature = "cpu")),
    ("flex", cfg!(feature = "flex")),
];

/// Names of the backends compiled into this binary, fastest kind first.
pub fn available() -> Vec<&'static str> {
    let compiled = BACKENDS.iter().filter(|(_, compiled)| *compiled);
    compiled.map(|(name, _)| *name).collect()
}

/// The device that a name such as `flex`, `cuda`, `cuda:1` or `vulkan:0` stands for; `auto` is the
/// first of [`available`].
///
/// # Errors
/// If no such backend is compiled in, the index is no number, or the machine has no such device.
/// The message lists what there is.
pub fn parse(name: &str) -> Result<Device, DeviceError> {
    let error = |reason: String| DeviceError {
        name: name.to_owned(),
        reason,
    };
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => {
            let index = index
                .parse::<usize>()
                .map_err(|_| error(format!("`{index}` is no device number")))?;
            (backend, Some(index))
        }
        None => (name, None),
    };
    let backend = match backend {
        "auto" => available()
            .first()
            .copied()
            .ok_or_else(|| error("no backend is compiled in".into()))?,
        other => other,
    };
    match BACKENDS.iter().find(|(known, _)| *known == backend) {
        None => return Err(error("there is no such backend".into())),
        Some((_, false)) => {
            let hint = format!("build with the feature `{backend}` to have it");
            return Err(error(format!("it is not compiled in ({hint})")));
        }
        Some((_, true)) => {}
    }
    if index.is_some() && matches!(backend, "flex" | "cpu") {
        return Err(error(format!("`{backend}` has no device numbers")));
    }
    #[cfg(feature = "cubecl")]
    kept::keep_kernels();
    let device = open(backend, index);
    attempt(backend, || probe(&device)).map_err(error)?;
    Ok(device)
}

/// A name for a device, for records.
pub fn name(device: &Device) -> String {
    format!("{:?}", device.clone().without_autodiff()).to_lowercase()
}

/// Computes one number on a device.
fn probe(device: &Device) -> Result<(), String> {
    // This opens the device. A tensor would do that under a lock of all backends (of fusion), which a
    // panic would leave locked for good.
    device.supports_dtype(FloatDType::F32);
    let number = Tensor::<1>::ones([1], device).try_into_data();
    number.map(|_| ()).map_err(|error| format!("{error:?}"))
}

/// Runs what may fail on a device of this backend, and gives the first cause of a failure on one line.
///
/// Backends panic where there is no driver or no such device: one of their threads first, and then
/// whoever waits for it. So no thread's panic is printed meanwhile, and the first one counts.
///
/// # Errors
/// If anything panics, or `run` fails.
pub fn attempt<R>(backend: &str, run: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    /// Only one caller at a time may exchange the hook.
    static HOOK: Mutex<()> = Mutex::new(());
    // On plain CPU code a panic is a bug, and is to be seen as one.
    if backend == "flex" {
        return run();
    }
    let _alone = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let first = Arc::new(OnceLock::new());
    let before = panic::take_hook();
    let seen = first.clone();
    panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        let _ = seen.set(panic.payload_as_str().unwrap_or_default().to_owned());
    }));
    let result = catch_unwind(AssertUnwindSafe(run));
    panic::set_hook(before);
    let message = match (result, first.get()) {
        (Ok(Ok(result)), _) => return Ok(result),
        (_, Some(first)) => first.as_str(),
        (Ok(Err(error)), None) => return Err(cause(backend, &error)),
        (Err(_), None) => "",
    };
    Err(cause(backend, message))
}

/// The cause of a failure in a person's words where it is a usual one, else the message's first line.
fn cause(backend: &str, message: &str) -> String {
    let no_device = format!("no {backend} device: there is no such GPU, or no driver for it");
    let usual = [
        (
            "dynamically load the \"cuda\"",
            "no NVIDIA driver: libcuda.so.1 is not found",
        ),
        (
            "dynamically load the \"nvrtc\"",
            "no CUDA toolkit: libnvrtc.so is not found",
        ),
        ("CUDA_ERROR_NO_DEVICE", "the NVIDIA driver finds no GPU"),
        (
            "CUDA_ERROR_INVALID_DEVICE",
            "there is no GPU of this number",
        ),
        ("AdapterUnavailable", &no_device),
        ("Unable to acquire wgpu device", &no_device),
    ];
    let known = usual.iter().find(|(sign, _)| message.contains(sign));
    match (known, message.lines().find(|line| !line.trim().is_empty())) {
        (Some((_, words)), _) => (*words).to_owned(),
        (None, Some(line)) => line.trim().to_owned(),
        (None, None) => no_device,
    }
}

#[allow(unused_variables)]
fn open(backend: &str, index: Option<usize>) -> Device {
    #[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
    let kind = index.map_or(burn::tensor::DeviceKind::DefaultDevice, |index| {
        burn::tensor::DeviceKind::DiscreteGpu(index)
    });
    #[cfg(any(feature = "cuda", feature = "rocm"))]
    let number = index.map_or(
        burn::tensor::DeviceIndex::Default,
        burn::tensor::DeviceIndex::new,
    );
    match backend {
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(number),
        #[cfg(feature = "rocm")]
        "rocm" => Device::rocm(number),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(kind),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(kind),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(kind),
        #[cfg(feature = "cpu")]
        "cpu" => Device::cpu(),
        #[cfg(feature = "flex")]
        "flex" => {
            shike_model::kernels::keep_memory();
            Device::flex()
        }
        other => unreachable!("`{other}` was checked against the compiled backends"),
    }
}

/// Whether a device computes in the machine's own memory: a backend with memory of its own reports
/// its pools.
pub fn is_host(device: &Device) -> bool {
    device.memory_pool_usage().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_absent_devices_say_what_there_is() {
        for name in ["gpu", "flex:0", "cuda:x"] {
            let error = parse(name).map(|_| ()).expect_err(name).to_string();
            assert!(error.contains("this binary has"), "{error}");
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    #[cfg(not(feature = "rocm"))]
    fn an_absent_backend_names_its_feature() {
        let error = parse("rocm").map(|_| ()).expect_err("rocm").to_string();
        assert!(error.contains("the feature `rocm`"), "{error}");
    }

    #[test]
    fn the_first_panic_of_any_thread_is_the_cause() {
        // As the backends do it: a thread of theirs fails, and then those that wait for it.
        let fails = |first: &'static str| {
            attempt("cuda", move || -> Result<(), String> {
                let _ = std::thread::spawn(move || panic!("{first}")).join();
                panic!("Should have handle for tensor TensorId {{ value: 0 }}")
            })
        };
        let driver = "Unable to dynamically load the \"cuda\" shared library - searched for …";
        let said = fails(driver).expect_err("it panicked");
        assert_eq!(said, "no NVIDIA driver: libcuda.so.1 is not found");
        assert_eq!(fails("one line\nand more"), Err("one line".to_owned()));
        let error = attempt("vulkan", || {
            Err::<(), _>("\n AdapterUnavailable { .. }".into())
        });
        assert!(
            error
                .expect_err("it failed")
                .starts_with("no vulkan device")
        );
        assert_eq!(attempt("cuda", || Ok(1)), Ok(1));
    }

    #[test]
    #[cfg(feature = "flex")]
    fn flex_is_there() {
        assert_eq!(parse("flex"), Ok(Device::flex()));
    }
}

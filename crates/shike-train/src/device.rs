//! Devices by name.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, Tensor};
use thiserror::Error;

use crate::error::panic_message;

/// A device that this binary does not have.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "--device {name}: {reason}; this binary has {}",
    available().join(", ")
)]
pub struct DeviceError {
    name: String,
    reason: String,
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
            let hint = format!("build with `--features {backend}` to have it");
            return Err(error(format!("it is not compiled in ({hint})")));
        }
        Some((_, true)) => {}
    }
    if index.is_some() && matches!(backend, "flex" | "cpu") {
        return Err(error(format!("`{backend}` has no device numbers")));
    }
    let device = open(backend, index);
    probe(&device).map_err(|reason| error(format!("it cannot be used here ({reason})")))?;
    Ok(device)
}

/// A name for a device, for records.
pub fn name(device: &Device) -> String {
    format!("{:?}", device.clone().without_autodiff()).to_lowercase()
}

/// Computes one number on a device. Backends panic where there is no driver or no such device, and
/// only when they are first used.
fn probe(device: &Device) -> Result<(), String> {
    let number = || Tensor::<1>::ones([1], device).try_into_data();
    match catch_unwind(AssertUnwindSafe(number)) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{error:?}")),
        Err(panic) => Err(match panic_message(panic.as_ref()) {
            "" => "no driver, or no such device".into(),
            message => message.to_owned(),
        }),
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
        "flex" => Device::flex(),
        other => unreachable!("`{other}` was checked against the compiled backends"),
    }
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
        assert!(error.contains("--features rocm"), "{error}");
    }

    #[test]
    #[cfg(feature = "flex")]
    fn flex_is_there() {
        assert_eq!(parse("flex"), Ok(Device::flex()));
    }
}

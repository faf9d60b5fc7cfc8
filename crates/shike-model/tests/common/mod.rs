//! Reading the golden values, which lie beside the project where it is developed.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{ModuleMapper, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// `shared/golden`, or `None` (said in the output) where there is no `shared`.
pub fn golden(test: &str) -> Option<PathBuf> {
    let shared = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    if !shared.exists() {
        // Past the test harness, which shows what a test that passes has printed only on demand.
        let line = format!("SKIPPED {test}: shared/ is not here\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        return None;
    }
    Some(shared.join("golden"))
}

pub fn json(path: PathBuf) -> Value {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A tensor of any type, as f64.
#[derive(Clone, Debug)]
pub struct Values {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Values {
    pub fn tensor<const D: usize>(&self, device: &Device, dtype: DType) -> Tensor<D> {
        let data = TensorData::new(self.data.clone(), self.shape.clone());
        Tensor::from_data(data, (device, dtype))
    }

    pub fn labels(&self, device: &Device) -> Tensor<1, burn::tensor::Int> {
        let data: Vec<i64> = self.data.iter().map(|&x| x as i64).collect();
        Tensor::from_data(TensorData::new(data, self.shape.clone()), device)
    }
}

pub fn safetensors(path: PathBuf) -> BTreeMap<String, Values> {
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |(name, view): (&str, safetensors::tensor::TensorView)| {
        let raw = view.data();
        let data: Vec<f64> = match view.dtype() {
            Dtype::F32 => chunks(raw, |b| f32::from_le_bytes(b).into()),
            Dtype::F64 => chunks(raw, f64::from_le_bytes),
            Dtype::I64 => chunks(raw, |b| i64::from_le_bytes(b) as f64),
            Dtype::I32 => chunks(raw, |b| i32::from_le_bytes(b).into()),
            other => panic!("{name}: {other:?}"),
        };
        let shape = view.shape().to_vec();
        (name.to_owned(), Values { shape, data })
    };
    file.iter().map(read).collect()
}

fn chunks<const N: usize>(raw: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    raw.chunks_exact(N)
        .map(|bytes| read(bytes.try_into().unwrap()))
        .collect()
}

pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().convert::<f64>().try_into_vec().unwrap()
}

/// ‖found − expected‖ / ‖expected‖, or ‖found‖ where nothing is expected.
pub fn relative_l2(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    if size == 0.0 {
        difference
    } else {
        difference / size
    }
}

pub fn max_abs(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let each = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // `max` would let NaN through.
    each.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

#[track_caller]
pub fn assert_rel(what: &str, found: f64, expected: f64, tolerance: f64) {
    let scale = if expected == 0.0 { 1.0 } else { expected.abs() };
    let relative = (found - expected).abs() / scale;
    assert!(
        relative <= tolerance,
        "{what}: {found} instead of {expected}, relative {relative:.2e} > {tolerance:.0e}"
    );
}

#[track_caller]
pub fn assert_below(what: &str, found: f64, tolerance: f64) {
    assert!(found <= tolerance, "{what}: {found:.3e} > {tolerance:.0e}");
}

/// The next of a linear congruence: numbers that are the same everywhere.
pub fn random(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state
}

/// Casts every tensor of a network to float64.
pub struct ToF64;

impl ModuleMapper for ToF64 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let grad = param.is_require_grad();
        param
            .map(|t| match t.is_autodiff() {
                true => Tensor::from_inner(t.inner().cast(FloatDType::F64)),
                false => t.cast(FloatDType::F64),
            })
            .set_require_grad(grad)
    }
}

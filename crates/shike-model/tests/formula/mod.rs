//! Weights by the formula of `formula.py`.

use burn::tensor::TensorData;

/// `count` numbers in [0, 1) that depend on the name alone.
fn uniform(name: &str, count: usize) -> Vec<f64> {
    let seed = name.bytes().fold(0x811C_9DC5u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (0..count as u32)
        .map(|i| {
            let mut x = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
            for _ in 0..2 {
                x = (x ^ (x >> 16)).wrapping_mul(0x045D_9F3B);
            }
            f64::from(x ^ (x >> 16)) / 2f64.powi(32)
        })
        .collect()
}

/// The tensor of this name.
pub fn values(name: &str, shape: &[usize]) -> TensorData {
    let u = uniform(name, shape.iter().product());
    let fan_in: usize = shape.iter().skip(1).product();
    let gain = if shape.len() == 4 { 6.0 } else { 3.0 };
    let f: Box<dyn Fn(f64) -> f64> = match name {
        "input" => Box::new(|u| 3.4 * u - 1.7),
        _ if shape.len() > 1 => Box::new(|u| (2.0 * u - 1.0) * (gain / fan_in as f64).sqrt()),
        _ if name.ends_with("running_var") => Box::new(|u| 0.5 + u),
        _ if name.ends_with("running_mean") => Box::new(|u| 0.4 * u - 0.2),
        _ if name.ends_with("bn2.weight") || name.ends_with("bn3.weight") => {
            Box::new(|u| 0.1 + 0.2 * u)
        }
        _ if name.ends_with("weight") => Box::new(|u| 0.5 + u),
        _ => Box::new(|u| u - 0.5),
    };
    TensorData::new(u.into_iter().map(f).collect(), shape.to_vec())
}

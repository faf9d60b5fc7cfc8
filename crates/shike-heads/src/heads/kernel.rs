//! Class-weighted ridge regression with a Gaussian kernel.

use faer::Mat;

use super::ridge::{Decomposition, SCALE, Weighted};
use super::{Head, Strength};
use crate::error::{HeadError, Result};
use crate::linalg;
use crate::prepare::{Rows, Training};
use crate::scorer::{Scorer, gaussian};

/// A weight of each picture, by their likeness.
pub const KERNEL_RIDGE: Head = Head {
    most_pictures: Some(MOST),
    usual_strength: 1e-3,
    path,
    ..Head::new(
        "kernel-ridge",
        "class-weighted ridge regression, Gaussian kernel",
        Rows::UnitLength,
        fit,
    )
};

/// Of the kernel exp(−γ ‖a − b‖²).
const GAMMA: f32 = 0.5;

/// Its matrices have a row and a column for every picture.
const MOST: usize = 4000;

/// √w_i k(x_i, x_j) √w_j.
fn products(training: &Training, data: &Weighted) -> Mat<f64> {
    let n = training.pictures();
    let mut products = vec![0.0; n * n];
    linalg::times_transposed(
        &training.values,
        &training.values,
        training.width,
        &mut products,
    );
    gaussian(&mut products, GAMMA);
    Mat::from_fn(n, n, |i, j| {
        data.root(i) * data.root(j) * f64::from(products[i * n + j])
    })
}

fn path(training: &Training) -> Result<Vec<Strength>> {
    let data = Weighted::of(training);
    let products = products(training, &data);
    Decomposition::of_products(&data, products)
        .and_then(|decomposition| decomposition.path(&data, false))
        .ok_or(HeadError::Decomposition(KERNEL_RIDGE.name))
}

fn fit(training: &Training, strength: f64) -> Result<Scorer> {
    let data = Weighted::of(training);
    let (n, classes) = (training.pictures(), training.classes());
    let solution = data
        .solve_products(products(training, &data), strength * n as f64)
        .ok_or(HeadError::Decomposition(KERNEL_RIDGE.name))?;
    let coefficient = |at: usize| {
        let (picture, class) = (at / classes, at % classes);
        (SCALE * data.root(picture) * solution[(picture, class)]) as f32
    };
    Ok(Scorer::Kernel {
        gamma: GAMMA,
        pictures: n,
        support: training.values.clone(),
        coefficients: (0..n * classes).map(coefficient).collect(),
    })
}

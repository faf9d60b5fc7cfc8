//! Class-weighted ridge regression on one-hot labels.
//!
//! It minimises Σ_i w_i ‖W x_i + b − e_{y_i}‖² + λ n ‖W‖², where w_i is one over the pictures of i's class, with mean 1,
//! and n the number of pictures. One decomposition gives every strength λ, and what each picture would be given by
//! a fit without it: (f_i − h_i e_{y_i}) / (1 − h_i), with i's own leverage h_i, the weights left as they are. For
//! pictures that belong together it is (1 − H)⁻¹ (f − H e), with their block H of the hat matrix.

use faer::{Mat, MatMut};

use super::{Head, Strength};
use crate::error::{HeadError, Result};
use crate::linalg::{self, CHUNK};
use crate::prepare::{Rows, Training};
use crate::scorer::Scorer;
use crate::softmax::best_scale;

/// With the usual strength. Classes of one picture have no say in a choice, so that it takes too weak a penalty
/// where there are many of them.
pub const USUAL: Head = Head {
    usual_strength: 4e-3,
    ..Head::new(
        "ridge-usual",
        "class-weighted ridge regression, usual strength",
        Rows::UnitLength,
        |training, strength| fit("ridge-usual", training, strength),
    )
};

/// With the strength that leaving out one picture at a time chooses.
pub const RIDGE: Head = Head {
    name: "ridge",
    about: "class-weighted ridge regression",
    path,
    fit: |training, strength| fit("ridge", training, strength),
    ..USUAL
};

/// What outputs, 0 to 1, are multiplied with before a softmax.
pub(super) const SCALE: f64 = 30.0;

/// The strengths that are tried: 1, 2 and 4 of each power of ten.
pub(super) const STRENGTHS: [f64; 15] = [
    1e-5, 2e-5, 4e-5, 1e-4, 2e-4, 4e-4, 1e-3, 2e-3, 4e-3, 1e-2, 2e-2, 4e-2, 1e-1, 2e-1, 4e-1,
];

fn path(training: &Training) -> Result<Vec<Strength>> {
    let data = Weighted::of(training);
    let (n, d, classes) = (training.pictures(), training.width, training.classes());
    let decomposition = if n < d {
        let rows = data.rows(0..n);
        let rows = linalg::rows(&rows, n, d);
        let mut gram = Mat::zeros(n, n);
        linalg::times64(rows, rows.transpose(), gram.as_mut());
        Decomposition::of_products(&data, gram)
    } else {
        let (values, vectors) =
            linalg::eigen(data.gram().as_ref()).ok_or(HeadError::Decomposition(RIDGE.name))?;
        let mut targets = Mat::zeros(d, classes);
        linalg::times64(
            vectors.transpose(),
            data.targets().as_ref(),
            targets.as_mut(),
        );
        // Rows turned into the directions of the eigenvectors.
        let mut turned = vec![0.0; n * d];
        for (at, into) in turned.chunks_mut(CHUNK * d).enumerate() {
            let pictures = into.len() / d;
            let rows = data.rows(at * CHUNK..at * CHUNK + pictures);
            let rows = linalg::rows(&rows, pictures, d);
            let into = MatMut::from_row_major_slice_mut(into, pictures, d);
            linalg::times64(rows, vectors.as_ref(), into);
        }
        Some(Decomposition {
            values,
            rows: turned,
            targets,
        })
    };
    let path = decomposition.and_then(|decomposition| decomposition.path(&data, true));
    path.ok_or(HeadError::Decomposition(RIDGE.name))
}

fn fit(name: &'static str, training: &Training, strength: f64) -> Result<Scorer> {
    let data = Weighted::of(training);
    let (n, d, classes) = (training.pictures(), training.width, training.classes());
    let penalty = strength * n as f64;
    let solution = if n < d {
        let rows = data.rows(0..n);
        let rows = linalg::rows(&rows, n, d);
        let mut gram = Mat::zeros(n, n);
        linalg::times64(rows, rows.transpose(), gram.as_mut());
        data.solve_products(gram, penalty).map(|dual| {
            let mut solution = Mat::zeros(d, classes);
            linalg::times64(rows.transpose(), dual.as_ref(), solution.as_mut());
            solution
        })
    } else {
        let mut gram = data.gram();
        (0..d).for_each(|i| gram[(i, i)] += penalty);
        let mut solution = data.targets();
        linalg::solve(gram, solution.as_mut()).map(|()| solution)
    };
    let solution = solution.ok_or(HeadError::Decomposition(name))?;
    let mut weights = Vec::with_capacity(classes * d);
    let mut bias = Vec::with_capacity(classes);
    for class in 0..classes {
        let column = solution.col(class);
        weights.extend(column.iter().map(|w| (w * SCALE) as f32));
        let at_centre: f64 = column.iter().zip(&data.centre).map(|(w, m)| w * m).sum();
        bias.push(((1.0 / classes as f64 - at_centre) * SCALE) as f32);
    }
    Ok(Scorer::linear(Rows::UnitLength, weights, bias))
}

/// Training pictures of which every class counts the same.
pub(super) struct Weighted<'a> {
    training: &'a Training,
    /// The square root of each picture's weight.
    roots: Vec<f64>,
    /// The class means' mean, `[width]`.
    centre: Vec<f64>,
    /// `[classes, width]`.
    means: Vec<f32>,
}

impl<'a> Weighted<'a> {
    pub fn of(training: &'a Training) -> Self {
        let (n, classes) = (training.pictures() as f64, training.classes() as f64);
        let root = |&label: &u32| {
            let count = training.counts[label as usize] as f64;
            (n / (classes * count)).sqrt()
        };
        let means = training.class_means();
        let mut centre = vec![0.0; training.width];
        for row in means.chunks_exact(training.width) {
            let share = row.iter().map(|v| f64::from(*v) / classes);
            centre.iter_mut().zip(share).for_each(|(m, v)| *m += v);
        }
        Self {
            roots: training.labels.iter().map(root).collect(),
            centre,
            means,
            training,
        }
    }

    /// Rows without the centre, times the roots of their weights.
    fn rows(&self, pictures: std::ops::Range<usize>) -> Vec<f64> {
        let width = self.training.width;
        let values = &self.training.values[pictures.start * width..pictures.end * width];
        let row = |(row, root): (&[f32], &f64)| -> Vec<f64> {
            let pairs = row.iter().zip(&self.centre);
            pairs.map(|(v, m)| (f64::from(*v) - m) * root).collect()
        };
        let rows = values.chunks_exact(width).zip(&self.roots[pictures]);
        rows.flat_map(row).collect()
    }

    /// The weighted covariance times the number of pictures, in the lower triangle.
    fn gram(&self) -> Mat<f64> {
        let (n, d) = (self.training.pictures(), self.training.width);
        let mut gram = Mat::zeros(d, d);
        for start in (0..n).step_by(CHUNK) {
            let pictures = start..(start + CHUNK).min(n);
            let height = pictures.len();
            let rows = self.rows(pictures);
            linalg::add_gram(linalg::rows(&rows, height, d), gram.as_mut());
        }
        gram
    }

    /// Σ_i w_i (x_i − centre) e_{y_i}ᵀ, `[width, classes]`: class means alone matter.
    fn targets(&self) -> Mat<f64> {
        let (width, classes) = (self.training.width, self.training.classes());
        let weight = self.training.pictures() as f64 / classes as f64;
        Mat::from_fn(width, classes, |column, class| {
            weight * (f64::from(self.means[class * width + column]) - self.centre[column])
        })
    }

    /// Labels without their mean, times the roots of the weights, `[pictures, classes]`.
    fn labels(&self) -> Mat<f64> {
        let classes = self.training.classes();
        Mat::from_fn(self.training.pictures(), classes, |picture, class| {
            let own = self.training.labels[picture] as usize == class;
            self.roots[picture] * (f64::from(own) - 1.0 / classes as f64)
        })
    }

    /// Solves (products + penalty) x = labels, for products of pictures `[pictures, pictures]`.
    pub fn solve_products(&self, mut products: Mat<f64>, penalty: f64) -> Option<Mat<f64>> {
        (0..products.nrows()).for_each(|i| products[(i, i)] += penalty);
        let mut solution = self.labels();
        linalg::solve(products, solution.as_mut()).map(|()| solution)
    }

    /// The root of a picture's weight.
    pub fn root(&self, picture: usize) -> f64 {
        self.roots[picture]
    }
}

/// What every strength's fit is read off.
pub(super) struct Decomposition {
    /// Eigenvalues.
    values: Vec<f64>,
    /// Weighted rows in the directions of the eigenvectors, `[pictures, values]`.
    rows: Vec<f64>,
    /// What the labels are in these directions, `[values, classes]`.
    targets: Mat<f64>,
}

impl Decomposition {
    /// Of the weighted products of pictures with each other.
    pub fn of_products(data: &Weighted, products: Mat<f64>) -> Option<Self> {
        let n = products.nrows();
        let (values, vectors) = linalg::eigen(products.as_ref())?;
        let roots: Vec<f64> = values.iter().map(|v| v.max(0.0).sqrt()).collect();
        let labels = data.labels();
        let mut targets = Mat::zeros(n, labels.ncols());
        linalg::times64(vectors.transpose(), labels.as_ref(), targets.as_mut());
        for column in targets.col_iter_mut() {
            column
                .iter_mut()
                .zip(&roots)
                .for_each(|(t, root)| *t *= root);
        }
        let mut rows = vec![0.0; n * n];
        for (i, row) in rows.chunks_exact_mut(n).enumerate() {
            let pairs = vectors.row(i).iter().zip(&roots);
            row.iter_mut()
                .zip(pairs)
                .for_each(|(into, (v, root))| *into = v * root);
        }
        Some(Self {
            values,
            rows,
            targets,
        })
    }

    /// The class-averaged log-loss of every strength, leaving out one picture or group at a time; empty if no class
    /// has a say, none if a system has no solution.
    pub fn path(&self, data: &Weighted, bias: bool) -> Option<Vec<Strength>> {
        let training = data.training;
        let weights = &training.weights;
        if weights.iter().all(|w| *w == 0.0) {
            return Some(vec![]);
        }
        let one = |&strength: &f64| {
            let scores = self.left_out(data, strength, bias)?;
            let best = best_scale(&scores, &training.labels, weights, training.classes());
            Some(Strength {
                strength,
                log_loss: best.loss,
            })
        };
        STRENGTHS.iter().map(one).collect()
    }

    /// The scores of every picture from a fit without it and its group, `[pictures, classes]`.
    fn left_out(&self, data: &Weighted, strength: f64, bias: bool) -> Option<Vec<f32>> {
        let training = data.training;
        let (n, r, classes) = (training.pictures(), self.values.len(), training.classes());
        let inverse = |value: &f64| 1.0 / (value.max(0.0) + strength * n as f64);
        let inverse: Vec<f64> = self.values.iter().map(inverse).collect();
        let solution = Mat::from_fn(r, classes, |i, class| inverse[i] * self.targets[(i, class)]);
        let mut outputs = vec![0.0; n * classes];
        linalg::times64(
            linalg::rows(&self.rows, n, r),
            solution.as_ref(),
            MatMut::from_row_major_slice_mut(&mut outputs, n, classes),
        );
        let mut scores = Vec::with_capacity(n * classes);
        for (i, (row, output)) in self
            .rows
            .chunks_exact(r)
            .zip(outputs.chunks_exact(classes))
            .enumerate()
        {
            let root = data.roots[i];
            let mut leverage: f64 = row
                .iter()
                .zip(&inverse)
                .map(|(v, inverse)| v * v * inverse)
                .sum();
            if bias {
                leverage += root * root / n as f64;
            }
            let rest = (1.0 - leverage).max(1e-9);
            for (class, output) in output.iter().enumerate() {
                let fitted = output / root + 1.0 / classes as f64;
                let own = f64::from(training.labels[i] as usize == class);
                scores.push((SCALE * (fitted - leverage * own) / rest) as f32);
            }
        }
        for group in &training.groups {
            let size = group.len();
            let row = |&i: &usize| &self.rows[i * r..][..r];
            let rows: Vec<f64> = group.iter().flat_map(row).copied().collect();
            let scaled: Vec<f64> = rows
                .iter()
                .zip(inverse.iter().cycle())
                .map(|(v, inverse)| v * inverse)
                .collect();
            let mut hat = Mat::zeros(size, size);
            let scaled = linalg::rows(&scaled, size, r);
            linalg::times64(
                linalg::rows(&rows, size, r),
                scaled.transpose(),
                hat.as_mut(),
            );
            let root = |at: usize| data.roots[group[at]];
            if bias {
                for (a, b) in (0..size).flat_map(|a| (0..size).map(move |b| (a, b))) {
                    hat[(a, b)] += root(a) * root(b) / n as f64;
                }
            }
            let own = |at: usize, class: usize| {
                root(at) * f64::from(training.labels[group[at]] as usize == class)
            };
            let mut solution = Mat::from_fn(size, classes, |at, class| {
                let known: f64 = (0..size).map(|of| hat[(at, of)] * own(of, class)).sum();
                outputs[group[at] * classes + class] + root(at) / classes as f64 - known
            });
            let rest = Mat::from_fn(size, size, |a, b| {
                f64::from(a == b) * (1.0 + 1e-9) - hat[(a, b)]
            });
            linalg::solve(rest, solution.as_mut())?;
            for (at, &i) in group.iter().enumerate() {
                for class in 0..classes {
                    scores[i * classes + class] = (SCALE * solution[(at, class)] / root(at)) as f32;
                }
            }
        }
        Some(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::tests_support::{fixed, numbers};

    /// Weights `[classes, width]` and bias of the minimum, by Gauss's elimination on the normal equations of (W, b).
    fn directly(training: &Training, weights: &[f64], penalty: f64) -> Vec<Vec<f64>> {
        let (d, classes) = (training.width, training.classes());
        let row = |i: usize| -> Vec<f64> {
            let values = &training.values[i * d..][..d];
            values.iter().map(|v| f64::from(*v)).chain([1.0]).collect()
        };
        let mut system = vec![vec![0.0; d + 1 + classes]; d + 1];
        for (i, weight) in weights.iter().enumerate() {
            let x = row(i);
            for (a, line) in system.iter_mut().enumerate() {
                (0..=d).for_each(|b| line[b] += weight * x[a] * x[b]);
                line[d + 1 + training.labels[i] as usize] += weight * x[a];
            }
        }
        (0..d).for_each(|a| system[a][a] += penalty);
        for a in 0..=d {
            let lead = system[a].clone();
            for (b, line) in system.iter_mut().enumerate() {
                let factor = if a == b {
                    1.0 - 1.0 / lead[a]
                } else {
                    line[a] / lead[a]
                };
                line.iter_mut()
                    .zip(&lead)
                    .for_each(|(v, l)| *v -= factor * l);
            }
        }
        let column = |class: usize| system.iter().map(|line| line[d + 1 + class]).collect();
        (0..classes).map(column).collect()
    }

    fn weights_of(training: &Training) -> Vec<f64> {
        Weighted::of(training).roots.iter().map(|r| r * r).collect()
    }

    /// Training sets with more pictures than columns, and fewer.
    fn both() -> [Training; 2] {
        let labels = [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 0];
        [(4, 12), (20, 12)].map(|(d, n)| fixed(&numbers(n * d), &labels, 4))
    }

    /// The same, in which some belong together.
    fn grouped() -> [Training; 2] {
        let groups = vec![vec![0, 5], vec![2, 3, 11]];
        both().map(|training| Training {
            groups: groups.clone(),
            ..training
        })
    }

    #[test]
    fn the_minimum_is_the_one_of_the_normal_equations() {
        for training in both() {
            let strength = 1e-2;
            let expected = directly(&training, &weights_of(&training), strength * 12.0);
            let fitted = (RIDGE.fit)(&training, strength);
            let Ok(Scorer::Linear { weights, bias, .. }) = fitted else {
                panic!("{fitted:?}")
            };
            for class in 0..4 {
                let row = &weights[class * training.width..][..training.width];
                let found = row
                    .iter()
                    .chain([&bias[class]])
                    .map(|v| f64::from(*v) / SCALE);
                for (found, expected) in found.zip(&expected[class]) {
                    assert!((found - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn leaving_out_is_what_a_fit_without_the_picture_gives() {
        for training in both().into_iter().chain(grouped()) {
            let (strength, d) = (1e-2, training.width);
            let data = Weighted::of(&training);
            let gram = if training.pictures() < d {
                None
            } else {
                linalg::eigen(data.gram().as_ref())
            };
            // The path's own scores, by both ways where both are open.
            let rows = data.rows(0..12);
            let rows = linalg::rows(&rows, 12, d);
            let mut products = Mat::zeros(12, 12);
            linalg::times64(rows, rows.transpose(), products.as_mut());
            let mut ways = vec![Decomposition::of_products(&data, products)];
            if let Some((values, vectors)) = gram {
                let mut turned = vec![0.0; 12 * d];
                let into = MatMut::from_row_major_slice_mut(&mut turned, 12, d);
                linalg::times64(rows, vectors.as_ref(), into);
                let mut targets = Mat::zeros(d, 4);
                linalg::times64(
                    vectors.transpose(),
                    data.targets().as_ref(),
                    targets.as_mut(),
                );
                ways.push(Some(Decomposition {
                    values,
                    rows: turned,
                    targets,
                }));
            }
            for way in ways.into_iter().flatten() {
                let scores = way.left_out(&data, strength, true);
                let scores = scores.unwrap_or_default();
                for i in 0..12 {
                    let mut weights = weights_of(&training);
                    let own = training.groups.iter().find(|group| group.contains(&i));
                    let together = own.map_or(vec![i], Vec::clone);
                    together.into_iter().for_each(|i| weights[i] = 0.0);
                    let without = directly(&training, &weights, strength * 12.0);
                    let x = &training.values[i * d..][..d];
                    for class in 0..4 {
                        let (w, b) = without[class].split_at(d);
                        let expected: f64 =
                            w.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum::<f64>() + b[0];
                        let found = f64::from(scores[i * 4 + class]) / SCALE;
                        assert!(
                            (found - expected).abs() < 1e-5,
                            "{i} {class}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_class_of_two_there_is_no_path() {
        let training = fixed(&numbers(6), &[0, 1, 2], 3);
        assert_eq!((RIDGE.path)(&training), Ok(vec![]));
        assert!((RIDGE.fit)(&training, RIDGE.usual_strength).is_ok());
    }
}

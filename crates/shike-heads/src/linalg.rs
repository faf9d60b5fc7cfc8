//! Products and decompositions whose results do not depend on the number of threads.
//!
//! Every sum is parted in the same way whatever the number of threads: into pieces of [`CHUNK`] rows that are added
//! up in order, and within a matrix operation into the [`PARTS`] of faer.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt;
use faer::linalg::evd::{self, ComputeEigenvectors};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// Rows that are worked on at a time.
pub const CHUNK: usize = 1024;

/// Pieces that a matrix operation is parted into: enough for the cores of a desktop.
const PARTS: usize = 8;

fn par() -> Par {
    Par::rayon(PARTS)
}

/// A matrix of rows one after another.
pub fn rows<T>(values: &[T], height: usize, width: usize) -> MatRef<'_, T> {
    MatRef::from_row_major_slice(values, height, width)
}

/// `into = a · bᵀ`, with `a` `[n, k]`, `b` `[m, k]` and `into` `[n, m]`, all with rows one after another.
pub fn times_transposed(a: &[f32], b: &[f32], width: usize, into: &mut [f32]) {
    let (n, m) = (a.len() / width, b.len() / width);
    matmul(
        MatMut::from_row_major_slice_mut(into, n, m),
        Accum::Replace,
        rows(a, n, width),
        rows(b, m, width).transpose(),
        1.0,
        par(),
    );
}

/// `into = aᵀ · b`, with `a` `[n, m]`, `b` `[n, k]` and `into` `[m, k]`, all with rows one after another.
pub fn transposed_times(a: &[f32], b: &[f32], pictures: usize, into: &mut [f32]) {
    let (m, k) = (a.len() / pictures, b.len() / pictures);
    matmul(
        MatMut::from_row_major_slice_mut(into, m, k),
        Accum::Replace,
        rows(a, pictures, m).transpose(),
        rows(b, pictures, k),
        1.0,
        par(),
    );
}

/// `into = a · b`, with `a` `[n, k]`, `b` `[k, m]` and `into` `[n, m]`, all with rows one after another.
pub fn times(a: &[f32], b: &[f32], inner: usize, into: &mut [f32]) {
    let (n, m) = (a.len() / inner, b.len() / inner);
    matmul(
        MatMut::from_row_major_slice_mut(into, n, m),
        Accum::Replace,
        rows(a, n, inner),
        rows(b, inner, m),
        1.0,
        par(),
    );
}

/// `into = a · b` in 64 bits.
pub fn times64(a: MatRef<'_, f64>, b: MatRef<'_, f64>, into: MatMut<'_, f64>) {
    matmul(into, Accum::Replace, a, b, 1.0, par());
}

/// Adds `aᵀ · a` to the lower triangle of `into`.
pub fn add_gram(a: MatRef<'_, f64>, into: MatMut<'_, f64>) {
    triangular::matmul(
        into,
        BlockStructure::TriangularLower,
        Accum::Add,
        a.transpose(),
        BlockStructure::Rectangular,
        a,
        BlockStructure::Rectangular,
        1.0,
        par(),
    );
}

/// Eigenvalues (rising) and eigenvectors (columns) of a symmetric matrix, of which the lower triangle is read.
pub fn eigen(of: MatRef<'_, f64>) -> Option<(Vec<f64>, Mat<f64>)> {
    let n = of.nrows();
    let mut values = faer::diag::Diag::zeros(n);
    let mut vectors = Mat::zeros(n, n);
    let scratch = evd::self_adjoint_evd_scratch::<f64>(
        n,
        ComputeEigenvectors::Yes,
        par(),
        Default::default(),
    );
    evd::self_adjoint_evd(
        of,
        values.as_mut(),
        Some(vectors.as_mut()),
        par(),
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .ok()?;
    let values: Vec<f64> = (0..n).map(|i| values[i]).collect();
    values
        .iter()
        .all(|v| v.is_finite())
        .then_some((values, vectors))
}

/// Solves `matrix · x = rhs` in place of `rhs`, for a symmetric and positive matrix of which the lower triangle is read
/// and overwritten.
pub fn solve(mut matrix: Mat<f64>, mut rhs: MatMut<'_, f64>) -> Option<()> {
    let (n, columns) = (matrix.nrows(), rhs.ncols());
    let scratch = llt::factor::cholesky_in_place_scratch::<f64>(n, par(), Default::default())
        .or(llt::solve::solve_in_place_scratch::<f64>(n, columns, par()));
    let mut memory = MemBuffer::new(scratch);
    llt::factor::cholesky_in_place(
        matrix.as_mut(),
        Default::default(),
        par(),
        MemStack::new(&mut memory),
        Default::default(),
    )
    .ok()?;
    llt::solve::solve_in_place(
        matrix.as_ref(),
        rhs.as_mut(),
        par(),
        MemStack::new(&mut memory),
    );
    Some(())
}

/// `a · b` in 64 bits, for vectors of any length.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let of = |(a, b): (&[f32], &[f32])| -> f64 {
        // Eight sums beside each other are what the compiler makes vectors of.
        let mut sums = [0.0f64; 8];
        let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
        let rest: f64 = (a8.remainder().iter().zip(b8.remainder()))
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        for (a, b) in a8.zip(b8) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += f64::from(*a) * f64::from(*b);
            }
        }
        sums.iter().sum::<f64>() + rest
    };
    a.chunks(1 << 16).zip(b.chunks(1 << 16)).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, the same each time.
    fn numbers(count: usize) -> Vec<f64> {
        let mut state = 1u64;
        let next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// A decomposition, a solution and a product, of matrices that are large enough to be worked on by several threads.
    fn all(threads: usize) -> (Vec<f64>, Vec<f64>, Vec<f32>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.unwrap_or_else(|e| panic!("{e}"));
        pool.install(|| {
            let (n, d) = (700, 300);
            let a = numbers(n * d);
            let mut gram = Mat::zeros(d, d);
            add_gram(rows(&a, n, d), gram.as_mut());
            let (mut values, vectors) = eigen(gram.as_ref()).unwrap_or_else(|| panic!());
            values.extend((0..d).map(|i| vectors[(i, d / 2)]));
            let mut x = Mat::from_fn(d, 2, |i, j| a[2 * i + j]);
            assert_eq!(solve(gram, x.as_mut()), Some(()));
            let single: Vec<f32> = a.iter().map(|v| *v as f32).collect();
            let mut product = vec![0.0; n * 9];
            times_transposed(&single, &single[..9 * d], d, &mut product);
            let mut second = vec![0.0; 9 * d];
            transposed_times(&product, &single, n, &mut second);
            product.extend(second);
            (values, (0..d).map(|i| x[(i, 1)]).collect(), product)
        })
    }

    #[test]
    fn threads_change_nothing() {
        let one = all(1);
        for threads in [2, 3, 16] {
            assert!(all(threads) == one, "{threads} threads");
        }
    }

    #[test]
    fn eigenvalues_and_solutions_are_right() {
        // (2 1; 1 2) has the eigenvalues 1 and 3; (2 1; 1 2) x = (3, 0) has x = (2, -1).
        let mut matrix = Mat::zeros(2, 2);
        (matrix[(0, 0)], matrix[(1, 0)], matrix[(1, 1)]) = (2.0, 1.0, 2.0);
        let (values, _) = eigen(matrix.as_ref()).unwrap_or_else(|| panic!());
        assert!((values[0] - 1.0).abs() < 1e-12 && (values[1] - 3.0).abs() < 1e-12);
        let mut x = Mat::zeros(2, 1);
        x[(0, 0)] = 3.0;
        assert_eq!(solve(matrix, x.as_mut()), Some(()));
        assert!((x[(0, 0)] - 2.0).abs() < 1e-12 && (x[(1, 0)] + 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_matrix_that_is_not_positive_has_no_solution() {
        let mut x = Mat::zeros(2, 1);
        assert_eq!(solve(Mat::from_fn(2, 2, |_, _| -1.0), x.as_mut()), None);
    }

    #[test]
    fn products_of_every_length() {
        for n in [0, 1, 7, 8, 9, 70_001] {
            let ones = vec![1.0f32; n];
            assert_eq!(dot(&ones, &ones), n as f64);
        }
    }
}

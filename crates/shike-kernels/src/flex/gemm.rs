//! One register-blocked kernel that everything else is made of:
//! `C[m, n] (+)= Σ_k A[m, k] · B[k, n]`, where a row of B need not lie in memory as such: the
//! element of column group `v` and row `k` starts at `base + rows[k] + columns[v]`. With tables of
//! offsets into a padded image this is a convolution without an im2col matrix.

use std::ops::Range;

use super::bf16;
use super::buffer::SharedMut;
use super::norm::{self, Affine};
use super::shuffle::{interleave, transpose};
use super::simd::{Simd, Vector, product_entry};

/// Vectors in a tile's row, for every path.
pub(crate) const TILE_VECTORS: usize = 3;

/// Vectors of rows in a panel of A, and columns in a tile, for [`Source::Turned`]: 28 sums of 32 registers.
pub(crate) const TURNED: usize = 2;
pub(crate) const TURNED_COLUMNS: usize = 14;

/// Splits `k` into blocks of nearly equal length, at most [`Simd::longest`].
pub(crate) fn k_blocks(simd: Simd, k: usize) -> impl Iterator<Item = Range<usize>> {
    let count = k.div_ceil(simd.longest()).max(1);
    let length = k.div_ceil(count);
    (0..count).map(move |i| i * length..k.min((i + 1) * length))
}

/// A group of columns that is one vector: where it starts in B and in C, and how many of its lanes
/// are columns of C.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Columns {
    pub source: usize,
    pub target: usize,
    pub lanes: usize,
}

/// How B is read.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Vectors straight from the source. All lanes of each must be readable.
    Direct(&'a [Columns]),
    /// Vectors copied to a panel first, which pays when there are many rows of A.
    Packed(&'a [Columns]),
    /// Panels that lie in packed order already, `[panel][k][3 · LANES]`, the last as wide as its
    /// columns; panels are this many floats apart, and the offsets of k are not used.
    Panels(&'a [Columns], usize),
    /// Columns one by one, with rows of A in the lanes: panels of A have [`TURNED`] vectors of rows, and a group has
    /// at most [`TURNED_COLUMNS`] columns. Columns lie side by side, and so many floats are readable after the first.
    /// For vectors of 16 alone. Nothing is packed, and no lane idles on a map that is narrower than a vector.
    Turned(&'a [Columns]),
    /// Pixels `(row, column)` of a grid at `row · row_stride + column`, numbered row by row and
    /// copied to a panel first. Only pixels of the grid are read. C has its columns in that order.
    Grid {
        height: usize,
        width: usize,
        row_stride: usize,
    },
}

/// One product; see the module. What is called floats here are pairs of bfloat16 on such a path, neighbours along k.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    /// A in panels of `MR` rows ([`Source::Turned`] has more): `[panel][k][MR]`, zero where there is no row.
    pub a: *const f32,
    /// Floats between panels of A.
    pub a_stride: usize,
    /// Panels of A to work on.
    pub panels: Range2,
    /// Rows of A and C.
    pub m: usize,
    /// Where B begins.
    pub b: *const f32,
    /// Offset of each k in B.
    pub rows: &'a [u32],
    pub source: Source<'a>,
    /// C, `m` rows.
    pub c: *mut f32,
    /// Floats between rows of C.
    pub c_stride: usize,
    /// Add to C; else overwrite it.
    pub add: bool,
    /// Room for a panel of B: `rows.len() · 3 + 1` vectors.
    pub panel: *mut f32,
    /// What becomes of a sum that is complete.
    pub finish: Option<Finish<'a>>,
}

/// `[relu]((sum − mean) · scale + shift [+ residual])`: batch normalisation, or a bias, in the same pass.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub affine: &'a Affine,
    /// Whether a row of C has a value of the affine, or a column.
    pub by: By,
    /// Which of its values comes first.
    pub first: usize,
    /// In the order of C.
    pub residual: Option<*const f32>,
    /// The ceiling of ReLU, if there is one.
    pub relu: Option<f32>,
}

/// See [`Finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Row,
    Column,
}

impl Finish<'_> {
    /// The affine's values for a row or a column of C: one, or those of `lanes` columns.
    ///
    /// # Safety
    /// There are so many, and the processor has the instructions.
    #[inline(always)]
    pub unsafe fn constants<V: Vector>(&self, at: usize, lanes: Option<usize>) -> [V; 3] {
        let Affine { mean, scale, shift } = self.affine;
        let at = self.first + at;
        // SAFETY: the caller's promise.
        unsafe {
            match lanes {
                Some(lanes) => [
                    load(mean[at..at + lanes].as_ptr(), lanes),
                    load(scale[at..at + lanes].as_ptr(), lanes),
                    load(shift[at..at + lanes].as_ptr(), lanes),
                ],
                None => [V::splat(mean[at]), V::splat(scale[at]), V::splat(shift[at])],
            }
        }
    }

    /// The output for a sum `at` floats after C's start, of which `lanes` are columns.
    ///
    /// # Safety
    /// The residual has so many floats, and the processor has the instructions.
    #[inline(always)]
    // A closure would not be inlined where the instructions are allowed.
    #[allow(clippy::manual_map)]
    pub unsafe fn apply<V: Vector>(&self, constants: [V; 3], sum: V, at: usize, lanes: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let residual = match self.residual {
                Some(residual) => Some(load(residual.add(at), lanes)),
                None => None,
            };
            let ceiling = match self.relu {
                Some(ceiling) => Some(V::splat(ceiling)),
                None => None,
            };
            norm::finish(constants, sum, residual, ceiling)
        }
    }
}

/// `lanes` floats.
///
/// # Safety
/// They can be read, and the processor has the instructions.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector>(from: *const f32, lanes: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        match lanes == V::LANES {
            true => V::load(from),
            false => V::load_part(from, lanes),
        }
    }
}

/// Writes the first `lanes` floats of a vector.
///
/// # Safety
/// They can be written.
#[inline(always)]
pub(crate) unsafe fn store<V: Vector>(value: V, to: *mut f32, lanes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match lanes == V::LANES {
            true => value.store(to),
            false => value.store_part(to, lanes),
        }
    }
}

/// What follows a convolution or a product of matrices in the same pass; see `Finish`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// A value for each filter, or each column.
    pub(crate) affine: &'a Affine,
    /// In the output's order.
    pub residual: Option<&'a [f32]>,
    /// The ceiling of ReLU, if there is one.
    pub relu: Option<f32>,
}

impl<'a> Epilogue<'a> {
    /// Panics where the affine has another number of values, or the residual is not as long as the output.
    pub(crate) fn check(&self, values: usize, output: usize) {
        let Affine { mean, scale, shift } = self.affine;
        assert_eq!([mean.len(), scale.len(), shift.len()], [values; 3]);
        assert_eq!(self.residual.map_or(output, <[f32]>::len), output);
    }

    /// For the part of the output that starts `at` floats after its start.
    pub(crate) fn at(&self, by: By, first: usize, at: usize) -> Finish<'a> {
        Finish {
            affine: self.affine,
            by,
            first,
            residual: self.residual.map(|residual| residual[at..].as_ptr()),
            relu: self.relu,
        }
    }
}

/// B in panels, for [`Source::Panels`]: `[block of k][panel][k][as wide as its vectors]`.
pub(crate) struct Panels {
    k: usize,
    columns: Vec<Columns>,
    simd: Simd,
    lanes: usize,
}

impl Panels {
    pub fn new(simd: Simd, k: usize, n: usize) -> Self {
        let lanes = simd.lanes();
        let columns = (0..n).step_by(lanes).map(|target| Columns {
            source: 0,
            target,
            lanes: lanes.min(n - target),
        });
        Self {
            k,
            columns: columns.collect(),
            simd,
            lanes,
        }
    }

    /// Floats of all panels.
    pub fn len(&self) -> usize {
        self.k * self.width()
    }

    /// Columns, with those that fill the last vector.
    pub fn width(&self) -> usize {
        self.columns.len() * self.lanes
    }

    /// How many panels there are.
    pub fn count(&self) -> usize {
        self.columns.len().div_ceil(TILE_VECTORS)
    }

    /// Fills a panel: `fill(to, width, columns, k)` for each block of k.
    ///
    /// # Safety
    /// No one else uses this panel.
    pub unsafe fn pack(
        &self,
        to: SharedMut<'_>,
        panel: usize,
        fill: impl Fn(&mut [f32], usize, Range<usize>, Range<usize>),
    ) {
        let first = panel * TILE_VECTORS;
        let vectors = &self.columns[first..self.columns.len().min(first + TILE_VECTORS)];
        let width = vectors.len() * self.lanes;
        let count: usize = vectors.iter().map(|columns| columns.lanes).sum();
        let first = first * self.lanes;
        for block in k_blocks(self.simd, self.k) {
            let at = block.start * self.width() + first * block.len();
            // SAFETY: the part is this panel's, of this block; the caller's promise.
            let to = unsafe { to.slice(at, width * block.len()) };
            fill(to, width, first..first + count, block);
        }
    }

    /// Fills a panel from a matrix whose rows, one for each k, are `stride` floats apart.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack).
    pub unsafe fn pack_rows(&self, to: SharedMut<'_>, panel: usize, from: &[f32], stride: usize) {
        let fill = |to: &mut [f32], width: usize, columns: Range<usize>, block: Range<usize>| {
            for (to, k) in to.chunks_exact_mut(width).zip(block) {
                let from = &from[k * stride..][columns.clone()];
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(0.0);
            }
        };
        // SAFETY: the caller's promise.
        unsafe { self.pack(to, panel, fill) };
    }

    /// Fills a panel from a matrix as [`pack_rows`](Self::pack_rows) does, with two of its rows for each k, in pairs of
    /// bfloat16.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack).
    pub unsafe fn pack_row_pairs(
        &self,
        to: SharedMut<'_>,
        panel: usize,
        from: &[f32],
        stride: usize,
    ) {
        let fill = |to: &mut [f32], width: usize, columns: Range<usize>, block: Range<usize>| {
            let rows = from[2 * block.start * stride..].chunks(2 * stride);
            for (to, from) in to.chunks_exact_mut(width).zip(rows) {
                let (low, high) = from.split_at(stride);
                let high = high.get(columns.clone()).unwrap_or_default();
                to[columns.len()..].fill(0.0);
                bf16::pair(
                    self.simd,
                    &mut to[..columns.len()],
                    &low[columns.clone()],
                    high,
                );
            }
        };
        // SAFETY: the caller's promise.
        unsafe { self.pack(to, panel, fill) };
    }

    /// Fills a panel from the transposed matrix, whose rows, one for each column, are `stride` floats apart.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack).
    pub unsafe fn pack_columns(
        &self,
        to: SharedMut<'_>,
        panel: usize,
        from: &[f32],
        stride: usize,
    ) {
        let fill = |to: &mut [f32], width: usize, columns: Range<usize>, block: Range<usize>| {
            let from = &from[columns.start * stride + block.start..];
            interleave(to, width, from, stride, columns.len(), block.len());
        };
        // SAFETY: the caller's promise.
        unsafe { self.pack(to, panel, fill) };
    }

    /// B from a block of k on, and how it is read.
    pub fn source(&self, data: &[f32], block: &Range<usize>) -> (*const f32, Source<'_>) {
        let apart = TILE_VECTORS * self.lanes * block.len();
        let at = block.start * self.width();
        let length = block.len() * self.width();
        (
            data[at..at + length].as_ptr(),
            Source::Panels(&self.columns, apart),
        )
    }
}

/// A block of k of `rows` rows, `stride` floats apart, as panels of A.
pub(crate) fn pack_a(
    to: &mut [f32],
    mr: usize,
    from: &[f32],
    stride: usize,
    rows: usize,
    k: &Range<usize>,
) {
    for (i, to) in to.chunks_exact_mut(mr * k.len()).enumerate() {
        let first = i * mr;
        if first >= rows {
            break;
        }
        let from = &from[first * stride + k.start..];
        interleave(to, mr, from, stride, mr.min(rows - first), k.len());
    }
}

/// The longest block of k.
pub(crate) fn longest_block(simd: Simd, k: usize) -> usize {
    k_blocks(simd, k)
        .map(|block| block.len())
        .max()
        .unwrap_or(0)
}

/// `start..end`, but `Copy`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range2 {
    pub start: usize,
    pub end: usize,
}

impl From<Range<usize>> for Range2 {
    fn from(range: Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// The widths of the tiles that so many vectors fill: as even as can be, for a narrow tile waits for its loads.
fn tile_widths(vectors: usize) -> impl Iterator<Item = usize> {
    let tiles = vectors.div_ceil(TILE_VECTORS);
    (0..tiles).map(move |i| (vectors + tiles - 1 - i) / tiles)
}

/// Cuts a table into tiles of these widths.
fn tiles(mut columns: &[Columns]) -> impl Iterator<Item = &[Columns]> {
    tile_widths(columns.len()).map(move |width| {
        let (tile, rest) = columns.split_at(width);
        columns = rest;
        tile
    })
}

product_entry! {
    /// Works out a product. On a path of bfloat16 the elements of A and B are pairs.
    ///
    /// # Safety
    /// Pointers, strides and tables must describe memory that can be read (A, B) and written (C,
    /// panel), and no other thread may touch the written part meanwhile.
    pub(crate) unsafe fn multiply(product: &Product<'_>) = multiply_with
}

#[inline(always)]
unsafe fn multiply_with<V: Vector, const MR: usize, const PAIRS: bool>(p: &Product<'_>) {
    // SAFETY: passed on to the caller.
    unsafe {
        match p.source {
            Source::Direct(columns) => {
                for group in tiles(columns) {
                    match group.len() {
                        3 => sweep::<V, MR, 3, false, PAIRS>(p, group, p.b),
                        2 => sweep::<V, MR, 2, false, PAIRS>(p, group, p.b),
                        _ => sweep::<V, MR, 1, false, PAIRS>(p, group, p.b),
                    }
                }
            }
            Source::Packed(columns) => {
                for group in tiles(columns) {
                    match group.len() {
                        3 => pack_vectors::<V, 3>(p, group),
                        2 => pack_vectors::<V, 2>(p, group),
                        _ => pack_vectors::<V, 1>(p, group),
                    }
                    packed_sweep::<V, MR, PAIRS>(p, group, p.panel);
                }
            }
            Source::Panels(columns, apart) => {
                for (i, group) in columns.chunks(TILE_VECTORS).enumerate() {
                    packed_sweep::<V, MR, PAIRS>(p, group, p.b.add(i * apart));
                }
            }
            Source::Turned(columns) => {
                if V::LANES == 16 {
                    turned::<V, PAIRS>(p, columns);
                }
            }
            Source::Grid {
                height,
                width,
                row_stride,
            } => {
                let pixels = height * width;
                let mut first = 0;
                for vectors in tile_widths(pixels.div_ceil(V::LANES)) {
                    let count = (vectors * V::LANES).min(pixels - first);
                    pack_grid::<V>(p, first, count, vectors * V::LANES, width, row_stride);
                    let mut group = [Columns::default(); TILE_VECTORS];
                    for (v, columns) in group.iter_mut().enumerate() {
                        let done = v * V::LANES;
                        *columns = Columns {
                            source: 0,
                            target: first + done,
                            lanes: V::LANES.min(count.saturating_sub(done)),
                        };
                    }
                    packed_sweep::<V, MR, PAIRS>(p, &group[..vectors], p.panel);
                    first += count;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn packed_sweep<V: Vector, const MR: usize, const PAIRS: bool>(
    p: &Product<'_>,
    group: &[Columns],
    b: *const f32,
) {
    // SAFETY: passed on to the caller; the panel was filled for this group.
    unsafe {
        match group.len() {
            3 => sweep::<V, MR, 3, true, PAIRS>(p, group, b),
            2 => sweep::<V, MR, 2, true, PAIRS>(p, group, b),
            _ => sweep::<V, MR, 1, true, PAIRS>(p, group, b),
        }
    }
}

/// Copies `N` vectors of every k to the panel, `[k][N · LANES]`.
#[inline(always)]
unsafe fn pack_vectors<V: Vector, const N: usize>(p: &Product<'_>, group: &[Columns]) {
    // SAFETY: `multiply`'s caller made every vector readable and the panel large enough.
    unsafe {
        let mut from = [p.b; N];
        for v in 0..N {
            from[v] = p.b.add(group[v].source);
        }
        let mut to = p.panel;
        for &row in p.rows {
            for (v, from) in from.iter().enumerate() {
                V::load(from.add(row as usize)).store(to.add(v * V::LANES));
            }
            to = to.add(N * V::LANES);
        }
    }
}

/// Copies `count` pixels from `first` on of every k to the panel, `[k][length]`; the rest of a row
/// of the panel is zero.
#[inline(always)]
unsafe fn pack_grid<V: Vector>(
    p: &Product<'_>,
    first: usize,
    count: usize,
    length: usize,
    width: usize,
    row_stride: usize,
) {
    // SAFETY: only pixels of the grid are read, which `multiply`'s caller made readable; a row of
    // the panel has `length ≤ 3 · LANES` floats, and behind the last one is room for a vector.
    unsafe {
        let (y, x) = (first / width, first % width);
        let start = y * row_stride + x;
        let contiguous = row_stride == width || x + count <= width;
        if contiguous && count == TILE_VECTORS * V::LANES {
            let from = p.b.add(start);
            let mut to = p.panel;
            for &row in p.rows {
                let from = from.add(row as usize);
                for v in 0..TILE_VECTORS {
                    V::load(from.add(v * V::LANES)).store(to.add(v * V::LANES));
                }
                to = to.add(TILE_VECTORS * V::LANES);
            }
            return;
        }
        // Runs of pixels that lie together: at most one for each pixel of the panel's row.
        let mut runs = [(0usize, 0usize); TILE_VECTORS * 16];
        let mut used = 0;
        let (mut y, mut x, mut left) = (y, x, count);
        while left > 0 {
            let run = if row_stride == width {
                left
            } else {
                left.min(width - x)
            };
            runs[used] = (y * row_stride + x, run);
            used += 1;
            left -= run;
            y += 1;
            x = 0;
        }
        let mut to = p.panel;
        for &row in p.rows {
            let from = p.b.add(row as usize);
            let mut at = 0;
            for &(offset, run) in &runs[..used] {
                // What a vector writes behind its run, the next run or row writes over.
                for done in (0..run).step_by(V::LANES) {
                    let lanes = V::LANES.min(run - done);
                    load::<V>(from.add(offset + done), lanes).store(to.add(at + done));
                }
                at += run;
            }
            to = to.add(length);
        }
    }
}

/// All panels of A against one group of columns.
#[inline(always)]
unsafe fn sweep<
    V: Vector,
    const MR: usize,
    const N: usize,
    const PACKED: bool,
    const PAIRS: bool,
>(
    p: &Product<'_>,
    group: &[Columns],
    b: *const f32,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut from = [b; N];
        for v in 0..N {
            from[v] = b.add(if PACKED {
                v * V::LANES
            } else {
                group[v].source
            });
        }
        let whole = group.iter().all(|columns| columns.lanes == V::LANES);
        for panel in p.panels.start..p.panels.end {
            let mut sum = [[V::splat(0.0); N]; MR];
            let a = p.a.add(panel * p.a_stride);
            V::rounds::<MR, N, PACKED, PAIRS>(&mut sum, a, from, p.rows);
            let first = panel * MR;
            match whole && first + MR <= p.m {
                true => write::<V, MR, N, true>(p, group, &sum, first),
                false => write::<V, MR, N, false>(p, group, &sum, first),
            }
        }
    }
}

/// A product with rows of A in the lanes.
#[inline(always)]
unsafe fn turned<V: Vector, const PAIRS: bool>(p: &Product<'_>, columns: &[Columns]) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sums = [[0.0; 16 * TURNED * 16]; 2];
        for panel in p.panels.start..p.panels.end {
            for group in columns {
                match group.lanes <= 8 {
                    true => turned_tile::<V, 8, PAIRS>(p, panel, group, &mut sums),
                    false => turned_tile::<V, TURNED_COLUMNS, PAIRS>(p, panel, group, &mut sums),
                }
            }
        }
    }
}

/// One tile; `sums` holds it by column, and then by row, 16 columns wide.
#[inline(always)]
unsafe fn turned_tile<V: Vector, const N: usize, const PAIRS: bool>(
    p: &Product<'_>,
    panel: usize,
    group: &Columns,
    [by_column, by_row]: &mut [[f32; 16 * TURNED * 16]; 2],
) {
    const ROWS: usize = TURNED * 16;
    // SAFETY: passed on to the caller; both buffers hold 16 columns of all rows.
    unsafe {
        let mut sum = [[V::splat(0.0); TURNED]; N];
        let mut a = p.a.add(panel * p.a_stride);
        let b = p.b.add(group.source);
        for &row in p.rows {
            let b = b.add(row as usize);
            let factors = [V::load(a), V::load(a.add(16))];
            for (i, sums) in sum.iter_mut().enumerate() {
                let column = V::splat(*b.add(i));
                for v in 0..TURNED {
                    sums[v] = column.product::<PAIRS>(factors[v], sums[v]);
                }
            }
            a = a.add(ROWS);
        }
        for (i, sums) in sum.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                sum.store(by_column[i * ROWS + v * 16..].as_mut_ptr());
            }
        }
        transpose(by_row, 16, by_column, ROWS, N.next_multiple_of(8), ROWS);
        let first = panel * ROWS;
        for row in first..p.m.min(first + ROWS) {
            let value = V::load(by_row[(row - first) * 16..].as_ptr());
            write::<V, 1, 1, false>(p, &[*group], &[[value]], row);
        }
    }
}

/// Writes a tile of C from the row `first` on. With `WHOLE`, none of its rows and lanes lies outside C: then
/// the loops have constant ends, and the sums stay in registers.
#[inline(always)]
unsafe fn write<V: Vector, const MR: usize, const N: usize, const WHOLE: bool>(
    p: &Product<'_>,
    group: &[Columns],
    sum: &[[V; N]; MR],
    first: usize,
) {
    // SAFETY: passed on to the caller.
    unsafe {
        for (i, sums) in sum.iter().enumerate() {
            let row = first + i;
            if !WHOLE && row >= p.m {
                break;
            }
            let of_row = match &p.finish {
                Some(finish) if finish.by == By::Row => Some(finish.constants(row, None)),
                _ => None,
            };
            for v in 0..N {
                let Columns { target, lanes, .. } = group[v];
                let lanes = if WHOLE { V::LANES } else { lanes };
                let at = row * p.c_stride + target;
                let mut value = sums[v];
                if p.add {
                    value = load::<V>(p.c.add(at), lanes).add(value);
                }
                if let Some(finish) = &p.finish {
                    let constants = match of_row {
                        Some(constants) => constants,
                        None => finish.constants(target, Some(lanes)),
                    };
                    value = finish.apply(constants, value, at, lanes);
                }
                store(value, p.c.add(at), lanes);
            }
        }
    }
}

//! Floats in another order: transpositions and every second one.

/// `to[x · channels + c] = from[c · stride + x]`
pub(super) fn transpose(
    to: &mut [f32],
    channels: usize,
    from: &[f32],
    stride: usize,
    count: usize,
) {
    let whole = channels / 4 * 4;
    for c in (0..whole).step_by(4) {
        let rows: [&[f32]; 4] = core::array::from_fn(|i| &from[(c + i) * stride..][..count]);
        transpose4(&mut to[c..], channels, rows, count);
    }
    for c in whole..channels {
        let from = &from[c * stride..][..count];
        for (x, &value) in from.iter().enumerate() {
            to[x * channels + c] = value;
        }
    }
}

/// `to[k · mr + row] = from[row · stride + k]` for `rows ≤ mr` rows; the others become zero.
pub(super) fn interleave(
    to: &mut [f32],
    mr: usize,
    from: &[f32],
    stride: usize,
    rows: usize,
    length: usize,
) {
    if rows < mr {
        to.fill(0.0);
    }
    let whole = rows / 4 * 4;
    for r in (0..whole).step_by(4) {
        let four: [&[f32]; 4] = core::array::from_fn(|i| &from[(r + i) * stride..][..length]);
        transpose4(&mut to[r..], mr, four, length);
    }
    for r in whole..rows {
        for (k, &value) in from[r * stride..][..length].iter().enumerate() {
            to[k * mr + r] = value;
        }
    }
}

/// `to[i] = from[2 · i]`
pub(super) fn every_second(to: &mut [f32], from: &[f32]) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::*;
        while done + 4 <= to.len() && 2 * done + 8 <= from.len() {
            // SAFETY: SSE is part of every x86-64; the condition keeps both accesses inside.
            unsafe {
                let from = from.as_ptr().add(2 * done);
                let low = _mm_loadu_ps(from);
                let high = _mm_loadu_ps(from.add(4));
                let even = _mm_shuffle_ps::<0b10_00_10_00>(low, high);
                _mm_storeu_ps(to.as_mut_ptr().add(done), even);
            }
            done += 4;
        }
    }
    for (to, from) in to[done..]
        .iter_mut()
        .zip(from[2 * done..].iter().step_by(2))
    {
        *to = *from;
    }
}

/// `to[k · step + i] = rows[i][k]`
#[inline]
fn transpose4(to: &mut [f32], step: usize, rows: [&[f32]; 4], count: usize) {
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::*;
        assert!(rows.iter().all(|row| row.len() >= count));
        assert!(count == 0 || to.len() >= (count - 1) * step + 4);
        while done + 4 <= count {
            // SAFETY: SSE is part of every x86-64; the two assertions keep all accesses inside.
            unsafe {
                let mut a = _mm_loadu_ps(rows[0].as_ptr().add(done));
                let mut b = _mm_loadu_ps(rows[1].as_ptr().add(done));
                let mut c = _mm_loadu_ps(rows[2].as_ptr().add(done));
                let mut d = _mm_loadu_ps(rows[3].as_ptr().add(done));
                _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
                let to = to.as_mut_ptr().add(done * step);
                _mm_storeu_ps(to, a);
                _mm_storeu_ps(to.add(step), b);
                _mm_storeu_ps(to.add(2 * step), c);
                _mm_storeu_ps(to.add(3 * step), d);
            }
            done += 4;
        }
    }
    for k in done..count {
        for (i, row) in rows.iter().enumerate() {
            to[k * step + i] = row[k];
        }
    }
}

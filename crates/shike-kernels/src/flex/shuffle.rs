//! Floats in another order: transpositions and every second one.

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
    transpose(to, mr, from, stride, rows, length);
}

/// `to[k · step + row] = from[row · stride + k]` for `rows` rows of `length` floats.
pub(super) fn transpose(
    to: &mut [f32],
    step: usize,
    from: &[f32],
    stride: usize,
    rows: usize,
    length: usize,
) {
    let mut done = 0;
    let row = |r: usize| &from[r * stride..][..length];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        while done + 8 <= rows {
            let eight = core::array::from_fn(|i| row(done + i));
            // SAFETY: the processor has AVX.
            unsafe { transpose8(&mut to[done..], step, eight, length) };
            done += 8;
        }
    }
    while done + 4 <= rows {
        transpose4(
            &mut to[done..],
            step,
            core::array::from_fn(|i| row(done + i)),
            length,
        );
        done += 4;
    }
    for r in done..rows {
        for (k, &value) in row(r).iter().enumerate() {
            to[k * step + r] = value;
        }
    }
}

/// [`transpose4`] of eight rows.
///
/// # Safety
/// The processor has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn transpose8(to: &mut [f32], step: usize, rows: [&[f32]; 8], count: usize) {
    use core::arch::x86_64::*;
    assert!(rows.iter().all(|row| row.len() >= count));
    assert!(count == 0 || to.len() >= (count - 1) * step + 8);
    let mut done = 0;
    while done + 8 <= count {
        // SAFETY: the two assertions keep all accesses inside.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                r[i] = _mm256_loadu_ps(rows[i].as_ptr().add(done));
            }
            // Pairs of rows, then fours, in each half; then the halves.
            let mut pairs = r;
            for i in 0..4 {
                pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut fours = r;
            for i in 0..2 {
                let p = [
                    pairs[4 * i],
                    pairs[4 * i + 1],
                    pairs[4 * i + 2],
                    pairs[4 * i + 3],
                ];
                fours[4 * i] = _mm256_shuffle_ps::<0b01_00_01_00>(p[0], p[2]);
                fours[4 * i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(p[0], p[2]);
                fours[4 * i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(p[1], p[3]);
                fours[4 * i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(p[1], p[3]);
            }
            let to = to.as_mut_ptr().add(done * step);
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]);
                let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]);
                _mm256_storeu_ps(to.add(i * step), low);
                _mm256_storeu_ps(to.add((4 + i) * step), high);
            }
        }
        done += 8;
    }
    for k in done..count {
        for (i, row) in rows.iter().enumerate() {
            to[k * step + i] = row[k];
        }
    }
}

/// `to[i] = from[stride · i]`
pub(super) fn strided(to: &mut [f32], from: &[f32], stride: usize) {
    match stride {
        1 => to.copy_from_slice(&from[..to.len()]),
        2 => every_second(to, from),
        _ => {
            for (to, from) in to.iter_mut().zip(from.iter().step_by(stride)) {
                *to = *from;
            }
        }
    }
}

/// `to[i] = from[2 · i]`
fn every_second(to: &mut [f32], from: &[f32]) {
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

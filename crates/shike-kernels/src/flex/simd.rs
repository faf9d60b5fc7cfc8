use std::cell::Cell;
use std::sync::OnceLock;

/// A path through the kernels that this processor can run: its instructions exist wherever a value
/// of this type does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simd(Path);

/// The instruction sets that the kernels are compiled for; one is chosen when the program runs.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Plain Rust, for every processor.
    Portable,
    /// Plain Rust in vectors of 16 and the tile of AVX-512: lets tests reach that path's
    /// partitions on a processor without AVX-512.
    Wide,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512F.
    Avx512,
    /// As `Wide`, with the operands of products in bfloat16: lets tests reach that path everywhere.
    WideBf16,
    /// As `Avx512`, with the operands of products in bfloat16.
    Bf16,
}

impl Simd {
    /// Every path that this processor can run; the last is the one that it takes by itself.
    pub fn available() -> Vec<Self> {
        let mut paths = vec![Self(Path::Wide), Self(Path::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            paths.push(Self(Path::Avx2));
            // Scalar code between the vectors uses AVX2 and FMA there, too.
            if is_x86_feature_detected!("avx512f") {
                let at = paths.len() - usize::from(!has_fast_avx512());
                paths.insert(at, Self(Path::Avx512));
            }
        }
        paths
    }

    /// This path with the operands of products in bfloat16, where the processor has instructions for that. It is taken by
    /// choice alone: see [`with`](Self::with).
    pub fn in_bf16(self) -> Option<Self> {
        match self.0 {
            Path::Portable | Path::Wide | Path::WideBf16 => Some(Self(Path::WideBf16)),
            #[cfg(target_arch = "x86_64")]
            _ if is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma") =>
            {
                Some(Self(Path::Bf16))
            }
            _ => None,
        }
    }

    /// This path with float32 throughout.
    pub(crate) fn in_f32(self) -> Self {
        match self.0 {
            Path::Bf16 => Self(Path::Avx512),
            Path::WideBf16 => Self(Path::Wide),
            _ => self,
        }
    }

    /// Values of k in an element of a product's operands: two of bfloat16, or one.
    pub(crate) fn values(self) -> usize {
        match self.0 {
            Path::Bf16 | Path::WideBf16 => 2,
            _ => 1,
        }
    }

    /// The path that the calling thread's next operation takes.
    pub(crate) fn current() -> Self {
        FORCED.get().unwrap_or_else(|| {
            *CHOSEN.get_or_init(|| Self::available().pop().unwrap_or(Self(Path::Portable)))
        })
    }

    /// Makes a path that of the whole program, unless one was taken already.
    #[cfg(feature = "flex")]
    pub(crate) fn choose(self) {
        let _ = CHOSEN.set(self);
    }

    /// As many multiplications and additions in registers alone as fit, so many rounds: the limit that `shapes` shows.
    /// Gives the operations of a round.
    pub fn spin(self, rounds: usize) -> f64 {
        let mut sum = 0.0;
        // SAFETY: it reads and writes nothing else.
        unsafe { spin(self, rounds, &mut sum) };
        std::hint::black_box(sum);
        (2 * SUMS * self.lanes() * self.values()) as f64
    }

    /// Its name: `portable`, `wide`, `avx2` or `avx512`, or of the paths of bfloat16 `widebf16` or `avx512bf16`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Path::Portable => "portable",
            Path::Wide => "wide",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
            Path::WideBf16 => "widebf16",
            Path::Bf16 => "avx512bf16",
        }
    }

    /// Runs `f` with this path for every operation that the calling thread begins in it (a hook
    /// for tests; the backward pass takes the path of its forward pass).
    pub fn with<R>(self, f: impl FnOnce() -> R) -> R {
        /// Puts back what was before, after a panic too.
        struct Before(Option<Simd>);
        impl Drop for Before {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        let _before = Before(FORCED.replace(Some(self)));
        f()
    }

    pub(crate) fn path(self) -> Path {
        self.0
    }

    /// Floats in a vector.
    pub(crate) fn lanes(self) -> usize {
        match self.0 {
            Path::Portable | Path::Avx2 => 8,
            _ => 16,
        }
    }

    /// Longest run of k between two updates of C. With 8 lanes, so many rows of B in a tile stay in a first-level cache of
    /// 32 KiB; wide vectors are fed from the second level, and gain from fewer updates.
    pub(crate) fn longest(self) -> usize {
        match self.lanes() {
            16 => 576,
            _ => 288,
        }
    }

    /// Rows of the register tile.
    pub(crate) fn rows(self) -> usize {
        match self.0 {
            Path::Portable | Path::Avx2 => 4,
            _ => 8,
        }
    }
}

static CHOSEN: OnceLock<Simd> = OnceLock::new();

/// Whether vectors of 512 bits gain on this processor: on those where they were measured to
/// (docs/BENCHMARKS.md), AMD's from Zen 5 on and Intel's servers of the kinds Skylake and Cascade Lake, most of which
/// have two units for them. Where they are made of two halves (Zen 4) nothing is won.
#[cfg(target_arch = "x86_64")]
fn has_fast_avx512() -> bool {
    use core::arch::x86_64::__cpuid;
    // Every x86-64 has both leaves.
    let (vendor, signature) = (__cpuid(0), __cpuid(1).eax);
    let vendor = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
    let family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
    let model = (signature >> 4 & 0xf) + (signature >> 12 & 0xf0);
    match vendor.as_flattened() {
        b"AuthenticAMD" => family >= 0x1a,
        b"GenuineIntel" => (family, model) == (6, 85),
        _ => false,
    }
}

thread_local! {
    static FORCED: Cell<Option<Simd>> = const { Cell::new(None) };
}

/// A vector of floats. A value exists only where the processor has the instructions: the two
/// functions that make one ask for that, and the others may rely on it.
pub(crate) trait Vector: Copy {
    const LANES: usize;

    /// # Safety
    /// The processor has the instructions.
    unsafe fn splat(value: f32) -> Self;

    /// # Safety
    /// `LANES` floats can be read from `from`, and the processor has the instructions.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `LANES` floats can be written at `to`.
    unsafe fn store(self, to: *mut f32);

    fn add(self, other: Self) -> Self;

    fn sub(self, other: Self) -> Self;

    /// The larger of the two; NaN in `self` stays NaN.
    fn max(self, other: Self) -> Self;

    /// The smaller of the two; NaN in `self` stays NaN.
    fn min(self, other: Self) -> Self;

    /// `self` where `of > 0`, 0 elsewhere.
    fn where_positive(self, of: Self) -> Self;

    /// Fetches what lies at an address, which may be outside every buffer, into the caches.
    #[inline(always)]
    fn prefetch(_: *const f32) {}

    /// Of `self` and then `other`, every lane of even number, and every lane of odd number.
    #[inline(always)]
    fn unzip(self, other: Self) -> (Self, Self) {
        let [mut lanes, mut parts] = [[0.0f32; 32]; 2];
        // SAFETY: there is room for two of the widest vectors.
        unsafe {
            self.store(lanes.as_mut_ptr());
            other.store(lanes[Self::LANES..].as_mut_ptr());
            for i in 0..Self::LANES {
                parts[i] = lanes[2 * i];
                parts[Self::LANES + i] = lanes[2 * i + 1];
            }
            (
                Self::load(parts.as_ptr()),
                Self::load(parts[Self::LANES..].as_ptr()),
            )
        }
    }

    /// Lanes of `self` and `other` in turns: the opposite of [`unzip`](Self::unzip).
    #[inline(always)]
    fn zip(self, other: Self) -> (Self, Self) {
        let [mut lanes, mut parts] = [[0.0f32; 32]; 2];
        // SAFETY: there is room for two of the widest vectors.
        unsafe {
            self.store(parts.as_mut_ptr());
            other.store(parts[Self::LANES..].as_mut_ptr());
            for i in 0..Self::LANES {
                lanes[2 * i] = parts[i];
                lanes[2 * i + 1] = parts[Self::LANES + i];
            }
            (
                Self::load(lanes.as_ptr()),
                Self::load(lanes[Self::LANES..].as_ptr()),
            )
        }
    }

    /// `2^self` of a whole number from −126 to 127; anything of others.
    fn power_of_two(self) -> Self;

    /// The inner loop of a product: adds `a[k, i] · column[k, v]` for every k to `sum[i][v]`. `a` is
    /// `[k][MR]`; vector `v` of k is at `from[v] + rows[k]`, or in packed order at
    /// `from[v] + k · N · LANES`. With `PAIRS` an element is a pair of bfloat16: see [`Vector::dot`].
    ///
    /// # Safety
    /// All of that must be readable, and the processor have the instructions.
    #[inline(always)]
    unsafe fn rounds<const MR: usize, const N: usize, const PACKED: bool, const PAIRS: bool>(
        sum: &mut [[Self; N]; MR],
        a: *const f32,
        from: [*const f32; N],
        rows: &[u32],
    ) {
        // SAFETY: the caller's promise.
        unsafe { plain_rounds::<Self, MR, N, PACKED, PAIRS>(sum, a, from, rows) }
    }

    /// Sum of the lanes, on a path always in the same order.
    #[inline(always)]
    fn sum(self) -> f64 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: there is room for the widest vector.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes.iter().map(|&lane| f64::from(lane)).sum()
    }

    /// The first `count < LANES` floats, then zeros.
    ///
    /// # Safety
    /// `count` floats can be read from `from`, and the processor has the instructions.
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0f32; 16];
        // SAFETY: `count` floats are readable; the array holds the widest vector.
        unsafe {
            for (i, lane) in lanes[..count].iter_mut().enumerate() {
                *lane = *from.add(i);
            }
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `count < LANES` floats.
    ///
    /// # Safety
    /// `count` floats can be written at `to`.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; 16];
        // SAFETY: as in `load_part`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for (i, &lane) in lanes[..count].iter().enumerate() {
                *to.add(i) = lane;
            }
        }
    }

    /// `self · factor + addend`
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// `self · factor + addend` of lanes that are pairs of bfloat16: both of their products are added, in float32.
    #[inline(always)]
    fn dot(self, factor: Self, addend: Self) -> Self {
        let [mut a, mut b, mut sum] = [[0.0f32; 16]; 3];
        // SAFETY: there is room for the widest vector.
        unsafe {
            self.store(a.as_mut_ptr());
            factor.store(b.as_mut_ptr());
            addend.store(sum.as_mut_ptr());
            for i in 0..Self::LANES {
                let [a, b] = [a[i].to_bits(), b[i].to_bits()];
                let high = f32::from_bits(a & !0xffff) * f32::from_bits(b & !0xffff);
                sum[i] += f32::from_bits(a << 16) * f32::from_bits(b << 16) + high;
            }
            Self::load(sum.as_ptr())
        }
    }

    /// A term of a product whose elements are pairs, or floats.
    #[inline(always)]
    fn product<const PAIRS: bool>(self, factor: Self, addend: Self) -> Self {
        match PAIRS {
            true => self.dot(factor, addend),
            false => self.mul_add(factor, addend),
        }
    }
}

/// Rounds from the fetch of a vector to its use: a panel of wide vectors comes from the second-level cache.
const AHEAD: usize = 8;

/// [`Vector::rounds`] in plain Rust.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn plain_rounds<
    V: Vector,
    const MR: usize,
    const N: usize,
    const PACKED: bool,
    const PAIRS: bool,
>(
    sum: &mut [[V; N]; MR],
    mut a: *const f32,
    from: [*const f32; N],
    rows: &[u32],
) {
    let mut packed = 0;
    for &row in rows {
        let offset = if PACKED { packed } else { row as usize };
        // SAFETY: the caller's promise.
        unsafe {
            let mut columns = [V::splat(0.0); N];
            for v in 0..N {
                if PACKED && N > 1 {
                    V::prefetch(from[v].wrapping_add(offset + AHEAD * N * V::LANES));
                }
                columns[v] = V::load(from[v].add(offset));
            }
            for (i, sums) in sum.iter_mut().enumerate() {
                let factor = V::splat(*a.add(i));
                for v in 0..N {
                    sums[v] = factor.product::<PAIRS>(columns[v], sums[v]);
                }
            }
            a = a.add(MR);
        }
        packed += N * V::LANES;
    }
}

/// Plain Rust; the compiler makes of it what the target's baseline has.
#[derive(Clone, Copy)]
pub(crate) struct Plain<const L: usize>([f32; L]);

impl<const L: usize> Vector for Plain<L> {
    const LANES: usize = L;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; L])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller answers for `L` floats; the read asks for no alignment beyond f32's.
        Self(unsafe { from.cast::<[f32; L]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<[f32; L]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        for i in 0..L {
            self.0[i] += other.0[i];
        }
        self
    }

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        for i in 0..L {
            self.0[i] -= other.0[i];
        }
        self
    }

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for i in 0..L {
            if self.0[i] < other.0[i] {
                self.0[i] = other.0[i];
            }
        }
        self
    }

    #[inline(always)]
    fn min(mut self, other: Self) -> Self {
        for i in 0..L {
            if self.0[i] > other.0[i] {
                self.0[i] = other.0[i];
            }
        }
        self
    }

    #[inline(always)]
    fn where_positive(mut self, of: Self) -> Self {
        for i in 0..L {
            if of.0[i] > 0.0 {
                continue;
            }
            self.0[i] = 0.0;
        }
        self
    }

    #[inline(always)]
    fn power_of_two(mut self) -> Self {
        for i in 0..L {
            self.0[i] = f32::from_bits(((self.0[i] as i32).wrapping_add(127) << 23) as u32);
        }
        self
    }

    #[inline(always)]
    fn mul_add(mut self, factor: Self, addend: Self) -> Self {
        // Two roundings: `f32::mul_add` would call a library function where FMA is not baseline.
        for i in 0..L {
            self.0[i] = self.0[i] * factor.0[i] + addend.0[i];
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use core::arch::x86_64::*;

    use super::Vector;

    /// 8 floats, where the processor has AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256);

    // SAFETY (for every block in this impl): `splat` and `load` ask for a processor with AVX2 and
    // FMA, and every other value comes from theirs; pointers are the caller's promise. (All of it
    // is inlined into functions that enable the instructions.)
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for Avx2 {
        const LANES: usize = 8;

        // A full tile takes all 16 registers. The compiler then spills a sum in every round, which
        // halves the speed; hence the loop is spelt out.
        #[inline(always)]
        unsafe fn rounds<const MR: usize, const N: usize, const PACKED: bool, const PAIRS: bool>(
            sum: &mut [[Self; N]; MR],
            a: *const f32,
            from: [*const f32; N],
            rows: &[u32],
        ) {
            if MR != 4 || N != 3 || PAIRS || rows.is_empty() {
                // SAFETY: the caller's promise.
                return unsafe {
                    super::plain_rounds::<Self, MR, N, PACKED, PAIRS>(sum, a, from, rows)
                };
            }
            // SAFETY: MR is 4 and N is 3, so that the types are the same; the caller's promise.
            unsafe {
                let sum = &mut *core::ptr::from_mut(sum).cast::<[[Self; 3]; 4]>();
                if PACKED {
                    packed_rounds(sum, a, from[0], rows.len());
                } else {
                    table_rounds(sum, a, [from[0], from[1], from[2]], rows);
                }
            }
        }

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm256_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        fn sum(self) -> f64 {
            unsafe {
                let low = _mm256_cvtps_pd(_mm256_castps256_ps128(self.0));
                let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(self.0));
                let four = _mm256_add_pd(low, high);
                let high = _mm256_extractf128_pd::<1>(four);
                let two = _mm_add_pd(_mm256_castpd256_pd128(four), high);
                _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
            }
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            const MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
            Self(unsafe {
                let mask = _mm256_loadu_si256(MASKS[8 - count..].as_ptr().cast());
                _mm256_maskload_ps(from, mask)
            })
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // The second operand comes out where one is NaN.
            Self(unsafe { _mm256_max_ps(other.0, self.0) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            // As above.
            Self(unsafe { _mm256_min_ps(other.0, self.0) })
        }

        #[inline(always)]
        fn where_positive(self, of: Self) -> Self {
            Self(unsafe {
                let mask = _mm256_cmp_ps::<_CMP_GT_OQ>(of.0, _mm256_setzero_ps());
                _mm256_and_ps(self.0, mask)
            })
        }

        #[inline(always)]
        fn prefetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }

        #[inline(always)]
        fn unzip(self, other: Self) -> (Self, Self) {
            unsafe {
                let low = _mm256_permute2f128_ps::<0x20>(self.0, other.0);
                let high = _mm256_permute2f128_ps::<0x31>(self.0, other.0);
                // Of each half, two of `self` or `other` below and two above.
                let even = _mm256_shuffle_ps::<0b10_00_10_00>(low, high);
                let odd = _mm256_shuffle_ps::<0b11_01_11_01>(low, high);
                (Self(even), Self(odd))
            }
        }

        #[inline(always)]
        fn zip(self, other: Self) -> (Self, Self) {
            unsafe {
                let low = _mm256_unpacklo_ps(self.0, other.0);
                let high = _mm256_unpackhi_ps(self.0, other.0);
                (
                    Self(_mm256_permute2f128_ps::<0x20>(low, high)),
                    Self(_mm256_permute2f128_ps::<0x31>(low, high)),
                )
            }
        }

        #[inline(always)]
        fn power_of_two(self) -> Self {
            Self(unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
        }
    }

    /// [`Vector::rounds`] of a full tile and a packed panel.
    ///
    /// # Safety
    /// As there; `k` must not be 0.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn packed_rounds(s: &mut [[Avx2; 3]; 4], a: *const f32, b: *const f32, k: usize) {
        // SAFETY: the loop reads k · 4 floats of `a` and k · 24 of `b`, and writes to registers
        // alone.
        unsafe {
            core::arch::asm!(
            "2:",
            "vmovups {x0}, ymmword ptr [{b}]",
            "vmovups {x1}, ymmword ptr [{b} + 32]",
            "vmovups {x2}, ymmword ptr [{b} + 64]",
            "vbroadcastss {f}, dword ptr [{a} + 0]",
            "vfmadd231ps {s00}, {f}, {x0}",
            "vfmadd231ps {s01}, {f}, {x1}",
            "vfmadd231ps {s02}, {f}, {x2}",
            "vbroadcastss {f}, dword ptr [{a} + 4]",
            "vfmadd231ps {s10}, {f}, {x0}",
            "vfmadd231ps {s11}, {f}, {x1}",
            "vfmadd231ps {s12}, {f}, {x2}",
            "vbroadcastss {f}, dword ptr [{a} + 8]",
            "vfmadd231ps {s20}, {f}, {x0}",
            "vfmadd231ps {s21}, {f}, {x1}",
            "vfmadd231ps {s22}, {f}, {x2}",
            "vbroadcastss {f}, dword ptr [{a} + 12]",
            "vfmadd231ps {s30}, {f}, {x0}",
            "vfmadd231ps {s31}, {f}, {x1}",
            "vfmadd231ps {s32}, {f}, {x2}",
            "add {b}, 96",
            "add {a}, 16",
            "dec {k}",
            "jnz 2b",
            s00 = inout(ymm_reg) s[0][0].0,
            s01 = inout(ymm_reg) s[0][1].0,
            s02 = inout(ymm_reg) s[0][2].0,
            s10 = inout(ymm_reg) s[1][0].0,
            s11 = inout(ymm_reg) s[1][1].0,
            s12 = inout(ymm_reg) s[1][2].0,
            s20 = inout(ymm_reg) s[2][0].0,
            s21 = inout(ymm_reg) s[2][1].0,
            s22 = inout(ymm_reg) s[2][2].0,
            s30 = inout(ymm_reg) s[3][0].0,
            s31 = inout(ymm_reg) s[3][1].0,
            s32 = inout(ymm_reg) s[3][2].0,
            f = out(ymm_reg) _,
            x0 = out(ymm_reg) _,
            x1 = out(ymm_reg) _,
            x2 = out(ymm_reg) _,
            a = inout(reg) a => _,
            k = inout(reg) k => _,
            b = inout(reg) b => _,
            options(readonly, nostack),
            );
        }
    }

    /// [`Vector::rounds`] of a full tile through a table.
    ///
    /// # Safety
    /// As there; the table must not be empty.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn table_rounds(
        s: &mut [[Avx2; 3]; 4],
        a: *const f32,
        from: [*const f32; 3],
        rows: &[u32],
    ) {
        // SAFETY: the loop reads the table, 4 floats of `a` for each entry and three vectors at the
        // entry's offset, and writes to registers alone.
        unsafe {
            core::arch::asm!(
            "2:",
            "mov {row:e}, dword ptr [{rows}]",
            "vmovups {x0}, ymmword ptr [{b0} + {row} * 4]",
            "vmovups {x1}, ymmword ptr [{b1} + {row} * 4]",
            "vmovups {x2}, ymmword ptr [{b2} + {row} * 4]",
            "vbroadcastss {f}, dword ptr [{a} + 0]",
            "vfmadd231ps {s00}, {f}, {x0}",
            "vfmadd231ps {s01}, {f}, {x1}",
            "vfmadd231ps {s02}, {f}, {x2}",
            "vbroadcastss {f}, dword ptr [{a} + 4]",
            "vfmadd231ps {s10}, {f}, {x0}",
            "vfmadd231ps {s11}, {f}, {x1}",
            "vfmadd231ps {s12}, {f}, {x2}",
            "vbroadcastss {f}, dword ptr [{a} + 8]",
            "vfmadd231ps {s20}, {f}, {x0}",
            "vfmadd231ps {s21}, {f}, {x1}",
            "vfmadd231ps {s22}, {f}, {x2}",
            "vbroadcastss {f}, dword ptr [{a} + 12]",
            "vfmadd231ps {s30}, {f}, {x0}",
            "vfmadd231ps {s31}, {f}, {x1}",
            "vfmadd231ps {s32}, {f}, {x2}",
            "add {rows}, 4",
            "add {a}, 16",
            "dec {k}",
            "jnz 2b",
            s00 = inout(ymm_reg) s[0][0].0,
            s01 = inout(ymm_reg) s[0][1].0,
            s02 = inout(ymm_reg) s[0][2].0,
            s10 = inout(ymm_reg) s[1][0].0,
            s11 = inout(ymm_reg) s[1][1].0,
            s12 = inout(ymm_reg) s[1][2].0,
            s20 = inout(ymm_reg) s[2][0].0,
            s21 = inout(ymm_reg) s[2][1].0,
            s22 = inout(ymm_reg) s[2][2].0,
            s30 = inout(ymm_reg) s[3][0].0,
            s31 = inout(ymm_reg) s[3][1].0,
            s32 = inout(ymm_reg) s[3][2].0,
            f = out(ymm_reg) _,
            x0 = out(ymm_reg) _,
            x1 = out(ymm_reg) _,
            x2 = out(ymm_reg) _,
            a = inout(reg) a => _,
            k = inout(reg) rows.len() => _,
            rows = inout(reg) rows.as_ptr() => _,
            row = out(reg) _,
            b0 = in(reg) from[0],
            b1 = in(reg) from[1],
            b2 = in(reg) from[2],
            options(readonly, nostack),
            );
        }
    }

    /// 16 floats, where the processor has AVX-512F.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // SAFETY: as for `Avx2`, with AVX-512F.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Vector for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm512_loadu_ps(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        fn sum(self) -> f64 {
            unsafe {
                let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self.0));
                let low = _mm512_cvtps_pd(_mm512_castps512_ps256(self.0));
                let high = _mm512_cvtps_pd(_mm256_castpd_ps(high));
                _mm512_reduce_add_pd(_mm512_add_pd(low, high))
            }
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            Self(unsafe { _mm512_maskz_loadu_ps((1u16 << count) - 1, from) })
        }

        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, (1u16 << count) - 1, self.0) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // The second operand comes out where one is NaN.
            Self(unsafe { _mm512_max_ps(other.0, self.0) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            // As above.
            Self(unsafe { _mm512_min_ps(other.0, self.0) })
        }

        #[inline(always)]
        fn where_positive(self, of: Self) -> Self {
            Self(unsafe {
                let mask = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(of.0, _mm512_setzero_ps());
                _mm512_maskz_mov_ps(mask, self.0)
            })
        }

        #[inline(always)]
        fn prefetch(at: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }

        #[inline(always)]
        fn unzip(self, other: Self) -> (Self, Self) {
            unsafe {
                let even =
                    _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
                let odd =
                    _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
                (
                    Self(_mm512_permutex2var_ps(self.0, even, other.0)),
                    Self(_mm512_permutex2var_ps(self.0, odd, other.0)),
                )
            }
        }

        #[inline(always)]
        fn zip(self, other: Self) -> (Self, Self) {
            unsafe {
                let first =
                    _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let second =
                    _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
                (
                    Self(_mm512_permutex2var_ps(self.0, first, other.0)),
                    Self(_mm512_permutex2var_ps(self.0, second, other.0)),
                )
            }
        }

        #[inline(always)]
        fn power_of_two(self) -> Self {
            Self(unsafe {
                let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
            })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
        }

        // Called on the path of bfloat16 alone, whose entry stands for AVX512-BF16.
        #[inline(always)]
        fn dot(self, factor: Self, addend: Self) -> Self {
            use core::mem::transmute;
            // Bits become bits of the same vector.
            Self(unsafe {
                let a = transmute::<__m512, __m512bh>(self.0);
                let b = transmute::<__m512, __m512bh>(factor.0);
                _mm512_dpbf16_ps(addend.0, a, b)
            })
        }
    }
}

/// Makes a function that calls a generic function's instance for a path, inside a wrapper that
/// enables its instructions. The generic function takes the vector and the rows of the register
/// tile as parameters and must be `#[inline(always)]`, as all that it calls.
macro_rules! simd_entry {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $generic:ident) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(simd: $crate::flex::simd::Simd, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: the caller's promise is passed on.
                unsafe { $generic::<$crate::flex::simd::x86::Avx2, 4>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: the caller's promise is passed on.
                unsafe { $generic::<$crate::flex::simd::x86::Avx512, 8>($($arg),*) }
            }
            use $crate::flex::simd::{Path, Plain};
            // SAFETY: a `Simd` with a path other than the plain ones exists only where the
            // processor has the instructions (`Simd::available`); the rest is the caller's promise.
            unsafe {
                match simd.path() {
                    #[cfg(target_arch = "x86_64")]
                    Path::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Path::Avx512 | Path::Bf16 => avx512($($arg),*),
                    Path::Wide | Path::WideBf16 => $generic::<Plain<16>, 8>($($arg),*),
                    _ => $generic::<Plain<8>, 4>($($arg),*),
                }
            }
        }
    };
}
pub(crate) use simd_entry;

/// As [`simd_entry`], of a generic function with another parameter: whether elements of a product are pairs of bfloat16.
macro_rules! product_entry {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $generic:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name(simd: $crate::flex::simd::Simd, $($arg: $ty),*) {
            $crate::flex::simd::simd_entry! {
                unsafe fn floats($($arg: $ty),*) = floats_with
            }
            #[inline(always)]
            unsafe fn floats_with<V: $crate::flex::simd::Vector, const MR: usize>($($arg: $ty),*) {
                // SAFETY: the caller's promise is passed on.
                unsafe { $generic::<V, MR, false>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512bf16,avx512f,avx2,fma")]
            unsafe fn bf16($($arg: $ty),*) {
                // SAFETY: the caller's promise is passed on.
                unsafe { $generic::<$crate::flex::simd::x86::Avx512, 8, true>($($arg),*) }
            }
            use $crate::flex::simd::{Path, Plain};
            // SAFETY: the path of bfloat16 exists only where the processor has the instructions (`Simd::in_bf16`);
            // the rest is the caller's promise.
            unsafe {
                match simd.path() {
                    #[cfg(target_arch = "x86_64")]
                    Path::Bf16 => bf16($($arg),*),
                    Path::WideBf16 => $generic::<Plain<16>, 8, true>($($arg),*),
                    _ => floats(simd, $($arg),*),
                }
            }
        }
    };
}
pub(crate) use product_entry;

/// Independent sums that hide the latency of each addition.
const SUMS: usize = 12;

product_entry! {
    /// See [`Simd::spin`].
    unsafe fn spin(rounds: usize, sum: &mut f64) = spin_with
}

#[inline(always)]
unsafe fn spin_with<V: Vector, const MR: usize, const PAIRS: bool>(rounds: usize, sum: &mut f64) {
    // SAFETY: the entry stands for the instructions.
    unsafe {
        let [factor, addend] = [0.999, 1.001].map(|value| V::splat(std::hint::black_box(value)));
        let mut sums = [V::splat(0.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = factor.product::<PAIRS>(addend, *sum);
            }
        }
        for one in sums {
            *sum += one.sum();
        }
    }
}

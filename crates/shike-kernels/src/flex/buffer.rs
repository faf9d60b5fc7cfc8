//! Memory: results that are written exactly once, and scratch space that is kept.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// A vector of `len` floats whose contents `fill` writes.
///
/// # Safety
/// `fill` must write every float before it returns, and read none that it has not written.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(Target<'_>)) -> Vec<f32> {
    let mut data = with_capacity(len);
    fill(Target {
        start: data.as_mut_ptr(),
        len,
        lent: PhantomData,
    });
    // SAFETY: the capacity is `len` and the caller answers for the contents.
    unsafe { data.set_len(len) };
    data
}

/// A vector of `len` zeros.
pub(crate) fn zeroed(len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    // Fresh memory of the system is zero: it is touched only when it is written to.
    prefer_huge_pages(&mut data);
    data
}

/// An empty vector with room for `len` floats, in large pages if it is large.
pub(crate) fn with_capacity(len: usize) -> Vec<f32> {
    let mut data = Vec::with_capacity(len);
    prefer_huge_pages(&mut data);
    data
}

/// Asks the system for large pages behind a large buffer. Buffers of many megabytes come fresh from
/// the system each time, and touching them page by page of 4 KiB takes longer than filling them.
fn prefer_huge_pages(data: &mut Vec<f32>) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let start = (data.as_mut_ptr() as usize).next_multiple_of(HUGE);
        let end = (data.as_mut_ptr() as usize + data.capacity() * size_of::<f32>()) / HUGE * HUGE;
        if start < end {
            // SAFETY: the range lies inside the buffer. The call is advice: it changes no contents,
            // and its failure nothing at all.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = data;
}

/// Asks the C library to keep memory that is freed, and not to fetch it from the system again for each tensor. For
/// the whole program, which takes as much memory as its largest moment needs, until it ends. Only glibc takes it.
#[cfg(feature = "flex")]
pub(crate) fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both are settings of the allocator, which it takes at any time and from any thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

/// Floats that threads share to read.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *const f32,
    len: usize,
    lent: PhantomData<&'a [f32]>,
}

/// Floats, perhaps not initialised, that threads share, each of which writes to a part of its own.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    start: *mut f32,
    len: usize,
    lent: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

/// A [`Target`] whose floats are initialised.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a>(Target<'a>);

// SAFETY: it stands for a `&[f32]`, which is `Send`.
unsafe impl Send for Shared<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared<'_> {}
// SAFETY: it is a plain address; every use of it is `unsafe` and answers for disjoint parts.
unsafe impl Send for Target<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for Target<'_> {}

impl<'a> Shared<'a> {
    pub fn new(data: &'a [f32]) -> Self {
        Self {
            start: data.as_ptr(),
            len: data.len(),
            lent: PhantomData,
        }
    }

    pub fn len(self) -> usize {
        self.len
    }

    /// The address `offset` floats on, for reads.
    ///
    /// # Safety
    /// `offset` must lie inside the floats or at their end.
    pub unsafe fn at(self, offset: usize) -> *const f32 {
        debug_assert!(offset <= self.len);
        // SAFETY: the caller's promise.
        unsafe { self.start.add(offset) }
    }
}

impl<'a> Target<'a> {
    /// Floats to write over.
    pub fn new(data: &'a mut [f32]) -> Self {
        Self {
            start: data.as_mut_ptr(),
            len: data.len(),
            lent: PhantomData,
        }
    }

    pub fn len(self) -> usize {
        self.len
    }

    /// The address `offset` floats on.
    ///
    /// # Safety
    /// `offset` must lie inside the floats or at their end.
    pub unsafe fn at(self, offset: usize) -> *mut f32 {
        debug_assert!(offset <= self.len);
        // SAFETY: the caller's promise.
        unsafe { self.start.add(offset) }
    }
}

impl<'a> SharedMut<'a> {
    pub fn new(data: &'a mut [f32]) -> Self {
        Self(Target::new(data))
    }

    /// To be written to.
    pub fn target(self) -> Target<'a> {
        self.0
    }

    /// To be read, where what is written is written over what was read.
    pub fn shared(self) -> Shared<'a> {
        Shared {
            start: self.0.start,
            len: self.0.len,
            lent: PhantomData,
        }
    }

    /// The part `offset..offset + len`.
    ///
    /// # Panics
    /// If it does not lie inside.
    ///
    /// # Safety
    /// No one else may use the part as long as the reference lives.
    pub unsafe fn slice(self, offset: usize, len: usize) -> &'a mut [f32] {
        assert!(offset <= self.0.len && len <= self.0.len - offset);
        // SAFETY: the part is inside and initialised; the rest is the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.0.start.add(offset), len) }
    }
}

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Floats in a line of the caches.
const LINE: usize = 16;

/// Lends a scratch buffer of `len` floats with arbitrary (initialised) contents, which begins with a line of the
/// caches. Buffers stay with their thread, so that no step allocates or clears them anew.
pub(crate) fn scratch<R>(len: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out while in use: a task that rayon runs on this thread in between takes another. The
    // smallest that is large enough, so that nested uses do not swap theirs; else the largest is
    // replaced.
    let room = len + LINE - 1;
    let mut buffer = KEPT.with_borrow_mut(|kept| {
        let fits = (0..kept.len()).filter(|&i| kept[i].len() >= room);
        let best = fits.min_by_key(|&i| kept[i].len());
        let best = best.or_else(|| (0..kept.len()).max_by_key(|&i| kept[i].len()));
        best.map(|i| kept.swap_remove(i)).unwrap_or_default()
    });
    if buffer.len() < room {
        // Growing in place would copy contents that no one needs.
        drop(buffer);
        buffer = vec![0.0; room];
    }
    // Miri may not tell.
    let at = buffer.as_ptr().align_offset(4 * LINE).min(LINE - 1);
    let lent = &mut buffer[at..at + len];
    // What others left there must not reach a result. Miri would take an hour for it.
    #[cfg(all(test, not(miri)))]
    lent.fill(f32::NAN);
    let result = use_it(lent);
    // Very large buffers go back to the system: they belong to the largest of pictures.
    if buffer.len() <= 1 << 24 {
        KEPT.with_borrow_mut(|kept| kept.push(buffer));
    }
    result
}

//! Memory: results that are written exactly once, and scratch space that is kept.

use std::cell::RefCell;

/// A vector of `len` floats whose contents `fill` writes.
///
/// # Safety
/// `fill` must write every float before it returns, and read none that it has not written.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(SharedMut)) -> Vec<f32> {
    let mut data = with_capacity(len);
    fill(SharedMut(data.as_mut_ptr()));
    // SAFETY: the capacity is `len` and the caller answers for the contents.
    unsafe { data.set_len(len) };
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

/// A pointer that threads share, each of which writes to a part of its own.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(*mut f32);

// SAFETY: it is a plain address; every use of it is `unsafe` and answers for disjoint parts.
unsafe impl Send for SharedMut {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub fn new(data: &mut [f32]) -> Self {
        Self(data.as_mut_ptr())
    }

    /// For an operation that may read from one place and write to the same or another: the floats
    /// of a slice that is only read.
    pub fn of(data: &[f32]) -> Self {
        Self(data.as_ptr().cast_mut())
    }

    /// The address `offset` floats on.
    ///
    /// # Safety
    /// `offset` must lie inside the allocation or at its end.
    pub unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }

    /// The part `offset..offset + len`.
    ///
    /// # Safety
    /// The part must lie inside the allocation, hold initialised floats, and be used by no one
    /// else meanwhile.
    pub unsafe fn slice<'a>(self, offset: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.0.add(offset), len) }
    }
}

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends a scratch buffer of at least `len` floats with arbitrary (initialised) contents. Buffers
/// stay with their thread, so that no step allocates or clears them anew.
pub(crate) fn scratch<R>(len: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out while in use: a task that rayon runs on this thread in between takes another. The
    // smallest that is large enough, so that nested uses do not swap theirs; else the largest is
    // replaced.
    let mut buffer = KEPT.with_borrow_mut(|kept| {
        let fits = (0..kept.len()).filter(|&i| kept[i].len() >= len);
        let best = fits.min_by_key(|&i| kept[i].len());
        let best = best.or_else(|| (0..kept.len()).max_by_key(|&i| kept[i].len()));
        best.map(|i| kept.swap_remove(i)).unwrap_or_default()
    });
    if buffer.len() < len {
        // Growing in place would copy contents that no one needs.
        drop(buffer);
        buffer = vec![0.0; len];
    }
    let result = use_it(&mut buffer[..len]);
    // Very large buffers go back to the system: they belong to the largest of pictures.
    if buffer.len() <= 1 << 24 {
        KEPT.with_borrow_mut(|kept| kept.push(buffer));
    }
    result
}

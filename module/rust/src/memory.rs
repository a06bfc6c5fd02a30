//! Memory that the shim has allocated, as slices: an island of unsafe code.
//!
//! Two pieces come from outside, both zeroed: the region, which is the store's, and one block for all the tables beside
//! it. The block is cut by the same code that first says how long it has to be, so that the two can't disagree.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Cuts a block into slices; without a block, only counts.
#[derive(Debug)]
pub(crate) struct Cutter {
    /// Where the block begins; `None` while counting.
    base: Option<NonNull<u8>>,
    bytes: usize,
    used_bytes: usize,
}

/// What the shim aligns its memory to.
const ALIGNMENT_BYTES: usize = 4096;

impl Cutter {
    /// For [`Cutter::used_bytes`] alone.
    pub(crate) const fn counting() -> Cutter {
        Cutter { base: None, bytes: usize::MAX, used_bytes: 0 }
    }

    /// # Safety
    /// `base` is page-aligned and good for `bytes` bytes, which nobody else uses, until the core is given up.
    pub(crate) unsafe fn new(base: NonNull<u8>, bytes: usize) -> Cutter {
        Cutter { base: Some(base), bytes, used_bytes: 0 }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// The next place for `count` values of T; `None` when the block is too short, or there is none.
    pub(crate) fn reserve<T: 'static>(&mut self, count: usize) -> Option<Reserved<T>> {
        const { assert!(align_of::<T>() <= ALIGNMENT_BYTES) };
        let start = self.used_bytes.checked_next_multiple_of(align_of::<T>())?;
        let end = start.checked_add(size_of::<T>().checked_mul(count)?)?;
        if end > self.bytes {
            return None;
        }
        self.used_bytes = end;
        // SAFETY: `start <= end <= bytes`, which `base` is good for.
        let place = self.base.map(|base| unsafe { base.add(start) }.cast());
        // INVARIANT: aligned, inside the block, and handed out once, because `used_bytes` only grows.
        place.map(|place| Reserved { place, count })
    }

    /// `count` bytes of 0.
    pub(crate) fn zeroes(&mut self, count: usize) -> Option<&'static mut [u8]> {
        let reserved = self.reserve::<u8>(count)?;
        // SAFETY: the block came zeroed, and this part of it was not handed out before.
        Some(unsafe { core::slice::from_raw_parts_mut(reserved.place.as_ptr(), count) })
    }
}

/// A place for values that are made later.
///
/// # Invariants
/// It is aligned, inside the block, and nobody else has it.
#[derive(Debug)]
pub(crate) struct Reserved<T> {
    place: NonNull<T>,
    count: usize,
}

impl<T: 'static> Reserved<T> {
    /// The values, made one after another in their place; `None` as soon as one can't be made.
    // Always inlined, so that they are made in their place indeed, and not on the stack.
    #[inline(always)]
    pub(crate) fn try_fill(self, mut make: impl FnMut(usize) -> Option<T>) -> Option<&'static mut [T]> {
        for index in 0..self.count {
            // SAFETY: the place has room for `count` (Invariants).
            unsafe { self.place.add(index).write(make(index)?) };
        }
        // SAFETY: all were written above. The place lives as long as the core, beyond whose life nothing of it is used
        // (`core.h`, unbuckle_core_make).
        Some(unsafe { core::slice::from_raw_parts_mut(self.place.as_ptr(), self.count) })
    }

    /// As [`Reserved::try_fill`], for what is too large to be made anywhere else than in its place.
    pub(crate) fn try_fill_places(
        self,
        mut make: impl for<'p> FnMut(usize, &'p mut MaybeUninit<T>) -> Option<&'p mut T>,
    ) -> Option<&'static mut [T]> {
        for index in 0..self.count {
            // SAFETY: the place has room for `count` (Invariants).
            let place = unsafe { self.place.add(index) };
            // SAFETY: likewise, and nobody else has it.
            let made = make(index, unsafe { place.cast().as_mut() })?;
            if !core::ptr::eq(made, place.as_ptr()) {
                return None;
            }
        }
        // SAFETY: each of them was seen behind a reference above. For how long, see `try_fill`.
        Some(unsafe { core::slice::from_raw_parts_mut(self.place.as_ptr(), self.count) })
    }

    /// As [`Reserved::try_fill`], with what can always be made.
    #[inline(always)]
    pub(crate) fn fill(self, mut make: impl FnMut(usize) -> T) -> &'static mut [T] {
        self.try_fill(|index| Some(make(index))).unwrap_or_default()
    }

    /// The one value of a place for one.
    #[inline(always)]
    pub(crate) fn fill_one(self, make: impl FnOnce() -> Option<T>) -> Option<&'static mut T> {
        let mut make = Some(make);
        self.try_fill(|_| make.take()?())?.first_mut()
    }
}

/// `len` bytes at `start`; nothing for a null pointer.
///
/// # Safety
/// `start` is null or good for reading `len` bytes that nobody writes for as long as `'a`.
pub(crate) unsafe fn bytes<'a>(start: *const u8, len: usize) -> &'a [u8] {
    if start.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// `len` bytes at `start`, to write to; nothing for a null pointer.
///
/// # Safety
/// `start` is null or good for `len` bytes that nobody else touches for as long as `'a`.
pub(crate) unsafe fn bytes_mut<'a>(start: *mut u8, len: usize) -> &'a mut [u8] {
    if start.is_null() || len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(start, len) }
}

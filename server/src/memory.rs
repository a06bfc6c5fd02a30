//! Address space for the store: an island of unsafe code.
//!
//! Memory is reserved here and committed by the kernel when it is first touched, so what is reserved and not used
//! costs nothing. It is handed out as slices of atomics, which is how the store may share it between threads.
//! What is reserved stays for the life of the process: that is why the slices are `'static`.

#![allow(unsafe_code)]

use rustix::io;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

mod sealed {
    /// # Safety
    /// Implementors are valid when all their bytes are zero, and may be changed through a shared reference.
    pub unsafe trait ZeroedAtomic {}
}
use sealed::ZeroedAtomic;

// SAFETY: an atomic integer is valid for every bit pattern.
unsafe impl ZeroedAtomic for AtomicU8 {}
// SAFETY: as above.
unsafe impl ZeroedAtomic for AtomicU16 {}
// SAFETY: as above.
unsafe impl ZeroedAtomic for AtomicU32 {}
// SAFETY: as above.
unsafe impl ZeroedAtomic for AtomicU64 {}

/// What to ask of the kernel for the memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Huge pages where the kernel has them to give.
    pub huge_pages: bool,
}

/// A slice of `count` zeroes, page-aligned, of which only what is touched takes memory.
pub fn reserve<T: ZeroedAtomic>(count: usize, wishes: Wishes) -> io::Result<&'static [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let bytes = count.checked_mul(size_of::<T>()).filter(|bytes| *bytes <= isize::MAX as usize);
    let bytes = bytes.ok_or(io::Errno::NOMEM)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choosing changes no memory that exists.
    let address = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)?
    };
    if wishes.huge_pages {
        // Advice only: a kernel without huge pages refuses, and the memory serves all the same.
        // SAFETY: the range is the mapping made above; this advice changes no content.
        let _ = unsafe { rustix::mm::madvise(address, bytes, Advice::LinuxHugepage) };
    }
    // SAFETY: the mapping is page-aligned, `bytes` long, zeroed, never unmapped, and only reachable through this
    // slice; T is valid when zeroed (ZeroedAtomic).
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<T>(), count) })
}

/// The store, on memory of its own.
pub(crate) fn store(options: &crate::options::Options, seed: [u64; 2]) -> Result<unbuckle_store::Store<'static>, crate::options::Refusal> {
    let _ = seed;
    Ok(unbuckle_store::Store::toy(options.memory_bytes, options.item_bytes_max))
}

/// Physical memory of the machine in bytes.
pub fn physical_bytes() -> u64 {
    // SAFETY: sysconf only reads its argument.
    let (pages, page_bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    (pages.max(0) as u64).saturating_mul(page_bytes.max(0) as u64)
}

/// `-k`: keeps everything that is mapped, now and later, from being paged out.
pub fn lock_all() -> io::Result<()> {
    // ONFAULT: what is reserved and never touched must not be filled in.
    rustix::mm::mlockall(
        rustix::mm::MlockAllFlags::CURRENT
            | rustix::mm::MlockAllFlags::FUTURE
            | rustix::mm::MlockAllFlags::ONFAULT,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn reserves_far_more_than_it_takes() {
        let words: &[AtomicU64] = reserve((1 << 40) / 8, Wishes { huge_pages: true }).unwrap();
        assert_eq!(words.len(), 1 << 37);
        words[words.len() - 1].store(7, Ordering::Relaxed);
        assert_eq!(words[0].load(Ordering::Relaxed), 0);
        assert_eq!(words.as_ptr() as usize % 4096, 0);
        assert!(reserve::<AtomicU8>(0, Wishes::default()).unwrap().is_empty());
        assert!(reserve::<AtomicU64>(usize::MAX, Wishes::default()).is_err());
        assert!(physical_bytes() > 0);
    }
}

//! Address space for the store: an island of unsafe code.
//!
//! Memory is reserved here and committed by the kernel when it is first touched, so what is reserved and not used
//! costs nothing. A region may also be shared: with a file, or with whatever else has a descriptor that can be mapped;
//! the store does not know the kinds apart. All of it is handed out as slices of atomics, which is how the store may share it between threads.
//! What is reserved stays for the life of the process: that is why the slices are `'static`.

#![allow(unsafe_code)]

use crate::admin::Classes;
use crate::clock::Clock;
use crate::fastpath::FastPath;
use crate::options::{Options, Refusal, exit};
use crate::restart::{self, MemoryFile};
use rustix::io;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use unbuckle_store::{Page, Parts, STRIPES, Store, Stripe, Unusable, WorkerCounts};

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
// SAFETY: its fields are atomic integers, and its derived default, a page that was never used, is all zeroes.
unsafe impl ZeroedAtomic for Page {}

/// Who else has to do with the memory of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody, or a file.
    Ours,
    /// BPF maps: they are all there from the beginning, and programs read them.
    Maps,
}

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

/// The first `bytes` of a file or of a BPF map, shared with it: a multiple of 8, and no more than it has.
pub(crate) fn map_shared(file: impl AsFd, bytes: u64) -> io::Result<&'static [AtomicU64]> {
    let bytes = usize::try_from(bytes).map_err(|_| io::Errno::NOMEM)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choosing changes no memory that exists.
    let address =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)? };
    // SAFETY: as above: advice only, on the mapping just made.
    let _ = unsafe { rustix::mm::madvise(address, bytes, Advice::LinuxHugepage) };
    // SAFETY: the mapping is page-aligned, `bytes` long and never unmapped. Others who have the file open may change it:
    // atomics are valid whatever their bits, and the store believes none of them. (Who cuts the file short ends the
    // process by a signal.)
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>(), bytes / 8) })
}

/// Has these words of a mapped file read and mapped, where the kernel knows how (5.14). A hint.
pub(crate) fn read_ahead(words: Option<&'static [AtomicU64]>) {
    let Some(words) = words.filter(|words| !words.is_empty()) else { return };
    // SAFETY: the range is part of a mapping of ours; populating it for reading changes no content.
    let _ = unsafe {
        rustix::mm::madvise(words.as_ptr().cast_mut().cast(), size_of_val(words), Advice::LinuxPopulateRead)
    };
}

/// Writes these words of a mapped file back to its medium, and waits for it.
pub(crate) fn write_back(words: Option<&'static [AtomicU64]>) -> io::Result<()> {
    let Some(words) = words.filter(|words| !words.is_empty()) else { return Ok(()) };
    // SAFETY: the range is part of a mapping of ours, from its first page on; msync changes no memory.
    unsafe {
        rustix::mm::msync(words.as_ptr().cast_mut().cast(), size_of_val(words), rustix::mm::MsyncFlags::SYNC)
    }
}

/// Has the kernel take the memory under these words back: anonymous ones read as zeroes from then on, those of a file as
/// before (the file keeps its length and its room). False: it won't, as with memory that is locked (`-k`).
fn give_back(words: &[AtomicU64]) -> bool {
    let (start, bytes) = (words.as_ptr().cast_mut(), size_of_val(words));
    // Where the kernel's pages are larger than ours, a part of one would be cut.
    let whole = |number: usize| number.is_multiple_of(rustix::param::page_size());
    if !whole(start.addr()) || !whole(bytes) {
        return false;
    }
    // SAFETY: the range is that of the words, to the byte: it begins and ends between pages of the kernel. It becomes
    // zeroes, or what the file under it has. To whoever looks at the words that is a store to atomics, which are valid
    // whatever their bits.
    unsafe { rustix::mm::madvise(start.cast(), bytes, Advice::LinuxDontNeed) }.is_ok()
}

/// A store, its clock, and the file that it is in, if it is in one (`-e`). With a fast path it is in that one's maps.
pub(crate) fn store(
    options: &Options,
    classes: &Classes,
    seed: [u64; 2],
    fast_path: Option<&FastPath>,
    say: &mut dyn FnMut(&str),
) -> Result<(Store<'static>, Clock, Option<MemoryFile>), Refusal> {
    if let Some(fast_path) = fast_path {
        let (store, clock) = store_in_maps(options, classes, seed, fast_path, say)?;
        return Ok((store, clock, None));
    }
    let Some(path) = &options.memory_file else {
        let words = anonymous_words(options)?;
        return Ok((new_store(options, classes, words, seed, Kind::Ours)?, Clock::start(), None));
    };
    let opened = MemoryFile::open(path, options, say)?;
    let words = opened.file.words();
    let adopted = opened.kept.and_then(|(left, clock)| {
        let parts = parts(options, classes, words, 1 << left.page_bytes_log2);
        let adopted =
            parts.map(|parts| Store::adopt(parts, &settings(options, seed, Kind::Ours), clock.now_s()));
        match adopted {
            Ok(Ok((store, adopted))) => {
                restart::tell(&path.display().to_string(), &left, &adopted, options.verbosity, say);
                Some((store, clock))
            }
            _ => {
                say(&restart::damaged(&path.display().to_string()));
                None
            }
        }
    });
    let (store, clock) = match adopted {
        Some(adopted) => adopted,
        None => {
            opened.file.empty()?;
            (new_store(options, classes, words, seed, Kind::Ours)?, Clock::start())
        }
    };
    store.life_set(&clock.life(restart::boot_id().unwrap_or_default()));
    Ok((store, clock, Some(opened.file)))
}

/// A store in memory that programs in the kernel read. They pass everything meanwhile.
fn store_in_maps(
    options: &Options,
    classes: &Classes,
    seed: [u64; 2],
    fast_path: &FastPath,
    say: &mut dyn FnMut(&str),
) -> Result<(Store<'static>, Clock), Refusal> {
    fast_path.switch_off();
    let words = fast_path.words();
    let adopted = match restart::left_in_maps(words, options) {
        _ if !fast_path.was_found() => None,
        Ok((left, clock)) => {
            let parts = parts(options, classes, words, 1 << left.page_bytes_log2)?;
            match Store::adopt(parts, &settings(options, seed, Kind::Maps), clock.now_s()) {
                Ok((store, adopted)) => {
                    restart::tell("the pinned cache", &left, &adopted, options.verbosity, say);
                    Some((store, clock))
                }
                Err(_) => {
                    say(&restart::damaged("the pinned cache"));
                    None
                }
            }
        }
        Err(why) => {
            say(&format!("the pinned cache: {why}; it starts empty"));
            None
        }
    };
    let (store, clock) = match adopted {
        Some(adopted) => adopted,
        None => {
            if fast_path.was_found() {
                words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
            (new_store(options, classes, words, seed, Kind::Maps)?, Clock::start())
        }
    };
    store.life_set(&clock.life(restart::boot_id().unwrap_or_default()));
    Ok((store, clock))
}

/// Address space for all the memory of the machine, so that the limit can be raised while the server runs.
fn anonymous_words(options: &Options) -> Result<&'static [AtomicU64], Refusal> {
    // Lookups are two jumps into this memory: small pages would add a walk of the page table to each.
    let wishes = Wishes { huge_pages: true };
    let page_bytes = 1u64 << unbuckle_store::page_bytes_log2(options.memory_bytes);
    let reserve_words = |bytes: u64| reserve(to_count(bytes.div_ceil(page_bytes) * page_bytes / 8), wishes);
    // Where address space is rationed, the limit can't be raised later.
    reserve_words(options.memory_bytes.max(physical_bytes()))
        .or_else(|_: io::Errno| reserve_words(options.memory_bytes))
        .map_err(|error| refusal(options, &error))
}

/// A store over memory that holds none, of whatever kind it is: zeroes.
pub(crate) fn new_store(
    options: &Options,
    classes: &Classes,
    words: &'static [AtomicU64],
    seed: [u64; 2],
    kind: Kind,
) -> Result<Store<'static>, Refusal> {
    let page_bytes = 1 << unbuckle_store::page_bytes_log2(options.memory_bytes);
    let parts = parts(options, classes, words, page_bytes)?;
    Store::new(parts, &settings(options, seed, kind)).map_err(|error| match error {
        Unusable::Limit => {
            refusal(options, &format_args!("at least {} MB is needed", unbuckle_store::LIMIT_BYTES_MIN >> 20))
        }
        Unusable::Tables | Unusable::Damaged => refusal(options, &"its tables do not fit"),
    })
}

/// What a store needs beside its region.
fn parts(
    options: &Options,
    classes: &Classes,
    words: &'static [AtomicU64],
    page_bytes: usize,
) -> Result<Parts<'static>, Refusal> {
    let pages = reserve((words.len() * 8).div_ceil(page_bytes), Wishes::default())
        .map_err(|error| refusal(options, &error))?;
    let stripes = Vec::leak(std::iter::repeat_with(Stripe::default).take(STRIPES).collect());
    let workers = Vec::leak(std::iter::repeat_with(WorkerCounts::default).take(options.threads).collect());
    let classes = Vec::leak(classes.iter().map(|(_, bytes)| bytes).collect());
    Ok(Parts { words, pages, stripes, workers, classes })
}

fn settings(options: &Options, seed: [u64; 2], kind: Kind) -> unbuckle_store::Options {
    unbuckle_store::Options {
        limit_bytes: options.memory_bytes,
        item_bytes_max: options.item_bytes_max,
        evict: options.evict,
        seed,
        relax: std::thread::yield_now,
        give_back: (kind == Kind::Ours).then_some(give_back),
        read_from_outside: kind == Kind::Maps,
    }
}

fn refusal(options: &Options, error: &dyn std::fmt::Display) -> Refusal {
    let megabytes = options.memory_bytes >> 20;
    Refusal::new(exit::FAILURE, format!("cannot make a cache of {megabytes} MB (-m): {error}"))
}

/// What does not fit is refused by the kernel when it is reserved.
fn to_count(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Physical memory of the machine in bytes.
pub fn physical_bytes() -> u64 {
    // SAFETY: sysconf only reads its argument.
    let (pages, page_bytes) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
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

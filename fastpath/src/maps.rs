//! What the maps hold, mapped into this process: an island of unsafe code.
//!
//! The mappings stay for the life of the process, so that the store may live in them; that is why they are `'static`.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use unbuckle_fastpath_abi::{Config, Counters, VERSION};

/// The memory that is shared with the programs. A handle: copies mean the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    region: &'static [AtomicU64],
    /// A [`Config`], word by word: both sides read and write single words.
    config: &'static [AtomicU64],
    /// A [`Counters`] for each possible processor.
    counters: &'static [AtomicU64],
}

const WORD_BYTES: usize = 8;
const CONFIG_WORDS: usize = size_of::<Config>() / WORD_BYTES;
const COUNTERS_WORDS: usize = size_of::<Counters>() / WORD_BYTES;
const _: () = assert!(size_of::<Config>().is_multiple_of(WORD_BYTES));
const _: () = assert!(size_of::<Counters>().is_multiple_of(WORD_BYTES));

/// The word of the configuration that a field begins.
macro_rules! word_of {
    ($field:ident) => {
        std::mem::offset_of!(Config, $field) / WORD_BYTES
    };
}

impl Maps {
    /// Maps the three maps' contents: `elements` of 1 MiB, the configuration, and the counters of `processors`.
    pub(crate) fn map(
        region: BorrowedFd<'_>,
        elements: usize,
        config: BorrowedFd<'_>,
        counters: BorrowedFd<'_>,
        processors: usize,
    ) -> io::Result<Maps> {
        Ok(Maps {
            region: words(region, elements * (unbuckle_fastpath_abi::ELEMENT_BYTES / WORD_BYTES))?,
            config: words(config, CONFIG_WORDS)?,
            counters: words(counters, processors * COUNTERS_WORDS)?,
        })
    }

    /// The memory for the store: a whole number of MiB, page-aligned, zeroed unless it was pinned before.
    pub fn region(&self) -> &'static [AtomicU64] {
        self.region
    }

    /// Says that the daemon lives. `now_ns` is CLOCK_BOOTTIME.
    pub fn heartbeat(&self, now_ns: u64) {
        self.config[word_of!(heartbeat_ns)].store(now_ns, Ordering::Release);
    }

    /// CLOCK_BOOTTIME, in nanoseconds, at which the region's count of seconds was 0 (wrapping, if that was before boot).
    pub fn second_zero_set(&self, ns: u64) {
        self.config[word_of!(second_zero_ns)].store(ns, Ordering::Release);
    }

    /// From now on everything is passed, or is not.
    pub(crate) fn enable(&self, on: bool) {
        self.config[word_of!(enabled)].store(if on { VERSION } else { 0 }, Ordering::SeqCst);
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config[word_of!(enabled)].load(Ordering::SeqCst) != 0
    }

    pub(crate) fn heartbeat_ns(&self) -> u64 {
        self.config[word_of!(heartbeat_ns)].load(Ordering::Acquire)
    }

    pub(crate) fn grace_ns(&self) -> u64 {
        self.config[word_of!(grace_ns)].load(Ordering::Relaxed)
    }

    /// Switches programs off by their configuration's map alone.
    pub(crate) fn disable(config: BorrowedFd<'_>) -> io::Result<()> {
        words(config, CONFIG_WORDS)?[word_of!(enabled)].store(0, Ordering::SeqCst);
        Ok(())
    }

    /// The version of whoever made the maps; 0 if they are new.
    pub(crate) fn version(&self) -> u64 {
        self.config[word_of!(version)].load(Ordering::Acquire)
    }

    /// Writes a whole configuration. The programs are to be switched off meanwhile.
    pub(crate) fn config_set(&self, config: &Config) {
        // SAFETY: Config is repr(C) without padding (its size is the sum of its fields, asserted below), so that all its
        // bytes are initialised; it is aligned for words, and borrowed for as long as the slice.
        let from =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(config).cast::<u64>(), CONFIG_WORDS) };
        for (to, word) in self.config.iter().zip(from) {
            to.store(*word, Ordering::Relaxed);
        }
    }

    /// What all processors have counted.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for counted in self.counters.chunks_exact(COUNTERS_WORDS) {
            let mut words = counted.iter().map(|word| word.load(Ordering::Relaxed));
            let mut add = |to: &mut u64| *to = to.wrapping_add(words.next().unwrap_or(0));
            add(&mut sum.served);
            add(&mut sum.hits);
            add(&mut sum.bytes_read);
            add(&mut sum.bytes_written);
            sum.passed.iter_mut().for_each(add);
        }
        sum
    }
}

/// What [`Maps::config_set`] relies on: fields fill the structure, but for the alignment at its end, which is counted here.
const _: () = {
    use unbuckle_fastpath_abi::{
        INTERFACES_MAX, Interface, LOCALS_MAX, Local4, Local6, RANGES_MAX, Range4, Range6,
    };
    let fields = 6 * 8
        + 4 * 2
        + 4 * 4
        + LOCALS_MAX * (size_of::<Local4>() + size_of::<Local6>())
        + RANGES_MAX * (size_of::<Range4>() + size_of::<Range6>())
        + INTERFACES_MAX * size_of::<Interface>();
    assert!(size_of::<Config>() == fields + unbuckle_fastpath_abi::CONFIG_SPARE_BYTES);
    assert!(size_of::<Local4>() == 16 && size_of::<Local6>() == 32 && size_of::<Range6>() == 32);
    assert!(size_of::<Interface>() == 16 + 8 * unbuckle_fastpath_abi::VLAN_WORDS);
};

/// The contents of a mappable array, as words.
fn words(map: BorrowedFd<'_>, count: usize) -> io::Result<&'static [AtomicU64]> {
    let bytes = count * WORD_BYTES;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choosing changes no memory that exists.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, at least `bytes` long (the kernel refuses to map more than the map has), never
    // unmapped, and atomics are valid for every bit pattern and may be changed by others.
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>(), count) })
}

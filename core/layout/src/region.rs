//! The region: a run of words, and safe access to what lies in it.
//!
//! The door gives the memory; nothing here knows whether it is anonymous, a file, BPF maps or vmalloc.
//! Offsets out of range read as nothing: a reader that lost a race meets garbage and must survive it.

#![allow(unsafe_code)] // the island: byte-wide marks, prefetch

use crate::hash::Seed;
use crate::header;
use crate::item::HEAD_WORDS;
use crate::line::{LINE_BYTES, LINE_WORDS, Line, MARKS, OFFSET_BITS};
use crate::sync::{AtomicU64, Ordering};

/// All memory of one store.
#[derive(Clone, Copy, Debug)]
pub struct Region<'r> {
    words: &'r [AtomicU64],
    page_words_log2: u32,
    seed: Seed,
}

impl<'r> Region<'r> {
    /// A region over `words`, in pages of `1 << page_bytes_log2` bytes. The seed is kept beside it: it never changes.
    pub fn new(words: &'r [AtomicU64], page_bytes_log2: u32, seed: Seed) -> Region<'r> {
        let log2 = page_bytes_log2.clamp(header::PAGE_BYTES_LOG2_MIN, header::PAGE_BYTES_LOG2_MAX);
        Region { words, page_words_log2: log2 - 3, seed }
    }

    /// Words in a page.
    #[inline(always)]
    pub fn page_words(&self) -> u32 {
        1 << self.page_words_log2
    }

    /// log2 of the words in a page.
    #[inline(always)]
    pub fn page_words_log2(&self) -> u32 {
        self.page_words_log2 & 31
    }

    /// Whole pages that the address space holds.
    #[inline(always)]
    pub fn pages(&self) -> u32 {
        (self.words.len().min(1 << OFFSET_BITS) >> self.page_words_log2()) as u32
    }

    /// The hash seed.
    #[inline(always)]
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// One word; 0 out of range.
    #[inline(always)]
    pub fn load(&self, at: u64) -> u64 {
        self.words.get(at as usize).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// One word, ordered before whatever is read next.
    #[inline(always)]
    pub fn load_acquire(&self, at: u64) -> u64 {
        self.words.get(at as usize).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes one word; out of range it does nothing.
    #[inline(always)]
    pub fn store(&self, at: u64, value: u64) {
        if let Some(word) = self.words.get(at as usize) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Writes one word after everything written before.
    #[inline(always)]
    pub fn store_release(&self, at: u64, value: u64) {
        if let Some(word) = self.words.get(at as usize) {
            word.store(value, Ordering::Release);
        }
    }

    /// `len` words from `at`; `None` unless all are in range.
    #[inline(always)]
    pub fn run(&self, at: u64, len: usize) -> Option<&'r [AtomicU64]> {
        self.words.get(at as usize..)?.get(..len)
    }

    /// The words from `at` to the end of its page.
    #[inline(always)]
    pub fn rest_of_page(&self, at: u64) -> &'r [AtomicU64] {
        let page_words = self.page_words() as usize;
        let len = page_words - (at as usize & (page_words - 1));
        self.run(at, len).unwrap_or(&[])
    }

    /// The words that hold a record's metadata. Near the region's end the missing ones read as 0.
    #[inline(always)]
    pub fn head(&self, at: u64) -> [u64; HEAD_WORDS] {
        match self.words.get(at as usize..).and_then(|run| run.first_chunk::<HEAD_WORDS>()) {
            Some(head) => head.each_ref().map(|word| word.load(Ordering::Relaxed)),
            None => core::array::from_fn(|i| self.load(at.wrapping_add(i as u64))),
        }
    }

    /// First word of index line number `line`, by the directory.
    #[inline(always)]
    pub fn line_at(&self, line: u64) -> u64 {
        let log2 = self.page_words_log2() - 3; // lines in a page
        let page = self.load(header::DIRECTORY + (line >> log2));
        (page << self.page_words_log2()) + (line & ((1 << log2) - 1)) * LINE_WORDS as u64
    }

    /// Index line number `line`.
    #[inline(always)]
    pub fn line(&self, line: u64) -> Option<Line<'r>> {
        let at = self.line_at(line);
        self.words.get(at as usize..)?.first_chunk::<LINE_WORDS>().map(Line)
    }

    /// Hints that the word at `at` will be read soon.
    #[inline(always)]
    pub fn prefetch(&self, at: u64) {
        if let Some(word) = self.words.get(at as usize) {
            prefetch(core::ptr::from_ref(word).cast());
        }
    }
}

const _: () = assert!(LINE_BYTES == LINE_WORDS * 8);

#[inline(always)]
fn prefetch(_at: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(any(miri, loom, shuttle))))]
    // SAFETY: prefetching is a hint, reads nothing that the program can see, and never faults.
    unsafe {
        core::arch::asm!("prefetcht0 [{}]", in(reg) _at, options(nostack, preserves_flags, readonly));
    }
}

impl Line<'_> {
    /// The access mark of `slot`.
    #[inline(always)]
    pub fn mark(self, slot: usize) -> u8 {
        marks::load(&self.0[MARKS], slot & 7)
    }

    /// Sets the access mark of `slot`. Readers do so too, without a lock: marks are hints, and the last one stands.
    #[inline(always)]
    pub fn mark_set(self, slot: usize, mark: u8) {
        marks::store(&self.0[MARKS], slot & 7, mark);
    }
}

/// Marks as bytes. Their word is never accessed whole, so accesses of different sizes never meet.
#[cfg(not(any(loom, shuttle, target_arch = "bpf")))]
mod marks {
    use crate::sync::AtomicU64;
    use core::sync::atomic::{AtomicU8, Ordering};

    #[inline(always)]
    fn byte(word: &AtomicU64, slot: usize) -> &AtomicU8 {
        // SAFETY: an AtomicU64 is 8 bytes, each of which is a valid AtomicU8 (alignment 1, any bits); `slot & 7`
        // stays inside it; both types allow shared mutation, and the lifetime is that of the word.
        unsafe { &*core::ptr::from_ref(word).cast::<AtomicU8>().add(slot & 7) }
    }

    #[inline(always)]
    pub(super) fn load(word: &AtomicU64, slot: usize) -> u8 {
        byte(word, slot).load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn store(word: &AtomicU64, slot: usize, mark: u8) {
        byte(word, slot).store(mark, Ordering::Relaxed);
    }
}

/// Rust knows no byte-wide atomics for BPF. A volatile byte access is one instruction there, which the machine does not
/// tear.
#[cfg(target_arch = "bpf")]
mod marks {
    use crate::sync::AtomicU64;

    #[inline(always)]
    fn byte(word: &AtomicU64, slot: usize) -> *mut u8 {
        word.as_ptr().cast::<u8>().wrapping_add(slot & 7)
    }

    #[inline(always)]
    pub(super) fn load(word: &AtomicU64, slot: usize) -> u8 {
        // SAFETY: `slot & 7` stays inside the word, which is valid for reads and writes as long as the reference.
        unsafe { core::ptr::read_volatile(byte(word, slot)) }
    }

    #[inline(always)]
    pub(super) fn store(word: &AtomicU64, slot: usize, mark: u8) {
        // SAFETY: as above; an atomic's memory may be written through a shared reference.
        unsafe { core::ptr::write_volatile(byte(word, slot), mark) }
    }
}

/// Model checkers' atomics have no bytes: the same by compare-and-swap.
#[cfg(any(loom, shuttle))]
mod marks {
    use crate::sync::{AtomicU64, Ordering};

    pub(super) fn load(word: &AtomicU64, slot: usize) -> u8 {
        (word.load(Ordering::Relaxed) >> (8 * slot)) as u8
    }

    pub(super) fn store(word: &AtomicU64, slot: usize, mark: u8) {
        let put = |old: u64| Some((old & !(0xff << (8 * slot))) | u64::from(mark) << (8 * slot));
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, put);
    }
}

//! The store's memory, in elements of a map: the same words as [`unbuckle_layout::region::Region`] gives, under bounds
//! that the verifier sees.

use crate::REGION;
use crate::scratch::{Scratch, WINDOW_BYTES};
use crate::verifier::{self, is_constant, opaque};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use unbuckle_fastpath_abi::{ELEMENT_BYTES_LOG2, flag};
use unbuckle_layout::line::{LINE_WORDS, Line};
use unbuckle_layout::sync::AtomicU64;
use unbuckle_layout::{hash, header};

/// log2 of the words in an element.
const ELEMENT_WORDS_LOG2: u32 = ELEMENT_BYTES_LOG2 - 3;
const ELEMENT_WORDS_MASK: u64 = (1 << ELEMENT_WORDS_LOG2) - 1;

/// More than a value that fits a reply: what [`Place::copy_block`] may copy. A power of two.
pub(crate) const BLOCK_BYTES: u64 = 2048;

/// A word of the region, by the element that holds it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    element: *mut u8,
    /// Its number in the region, of which the low bits are that in the element.
    pub(crate) at: u64,
}

/// The place of word `at` of the region; `None` beyond its end.
#[inline(always)]
pub(crate) fn place(at: u64) -> Option<Place> {
    let element = REGION.get_ptr_mut((at >> ELEMENT_WORDS_LOG2) as u32)?;
    Some(Place { element: element.cast(), at })
}

/// A record's words, by number.
pub(crate) trait Words: Copy {
    fn word(self, number: u64) -> u64;
}

/// [`WINDOW_BYTES`] of the region. As with a [`Window`](crate::scratch::Window), the verifier is to see that a number is inside.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*const u64);

impl Words for Shared {
    #[inline(always)]
    fn word(self, number: u64) -> u64 {
        // SAFETY: inside the window, or the verifier refuses the program.
        unsafe { self.0.wrapping_add(number as usize).read_volatile() }
    }
}

/// Those from a word on, wherever it is in its element.
#[derive(Clone, Copy)]
pub(crate) struct Anywhere(pub(crate) Place, pub(crate) u64);

impl Words for Anywhere {
    #[inline(always)]
    fn word(self, number: u64) -> u64 {
        self.0.load(self.1.wrapping_add(number))
    }
}

impl Place {
    /// The word that is `ahead` words on; behind the element's end it begins again, which no record does.
    #[inline(always)]
    pub(crate) fn load(self, ahead: u64) -> u64 {
        let word = self.at.wrapping_add(ahead);
        let word = if is_constant(word) { word } else { opaque(word) } & ELEMENT_WORDS_MASK;
        // SAFETY: the masked word is inside the element.
        unsafe { self.element.wrapping_add((word << 3) as usize).cast::<u64>().read_volatile() }
    }

    /// The words from the one that is `ahead` words on, if a window of them is left in the element. Others write to them.
    #[inline(always)]
    pub(crate) fn window(self, ahead: u64) -> Option<Shared> {
        const LAST: u64 = (1 << ELEMENT_BYTES_LOG2) - WINDOW_BYTES as u64;
        let byte = opaque((self.at.wrapping_add(ahead) & ELEMENT_WORDS_MASK) << 3);
        // SAFETY: there are that many bytes behind the last place.
        (byte <= LAST).then(|| Shared(self.element.wrapping_add(byte as usize).cast()))
    }

    /// Copies the `len` bytes that begin `ahead` bytes on to `to`, if they are not at the very end of the element.
    ///
    /// # Safety
    /// `to` must have room for [`BLOCK_BYTES`].
    #[inline(always)]
    pub(crate) unsafe fn copy_block(self, ahead: u64, len: u64, to: *mut u8) -> bool {
        const MASK: u64 = (1 << ELEMENT_BYTES_LOG2) - 1;
        let byte = opaque((self.at << 3).wrapping_add(ahead)) & MASK;
        if byte > MASK + 1 - BLOCK_BYTES {
            return false;
        }
        let len = opaque(len) & (BLOCK_BYTES - 1);
        let from = self.element.wrapping_add(byte as usize);
        // SAFETY: the bytes are inside the element, and there is room for them.
        unsafe { bpf_probe_read_kernel(to.cast(), len as u32, from.cast()) == 0 }
    }

    /// Writes one byte, `byte` bytes into the element.
    #[inline(always)]
    pub(crate) fn store_byte(self, byte: u64, value: u64) {
        let byte = opaque(byte) & ((1 << ELEMENT_BYTES_LOG2) - 1);
        // SAFETY: the masked byte is inside the element.
        unsafe { verifier::store1_shared(self.element.wrapping_add(byte as usize), value) }
    }

    /// The index line that begins here.
    #[inline(always)]
    fn line(self) -> Line<'static> {
        let word = opaque(self.at) & ELEMENT_WORDS_MASK & !(LINE_WORDS as u64 - 1);
        let line = self.element.wrapping_add((word << 3) as usize).cast::<[AtomicU64; LINE_WORDS]>();
        // SAFETY: a multiple of 8 words inside the element has 8 words behind it; they are atomics, valid for all bits.
        Line(unsafe { &*line })
    }
}

/// The region's header. It stands in one or two lines of cache that every lookup reads: a field costs less to load than to
/// keep.
#[derive(Clone, Copy)]
pub(crate) struct Header(Place);

impl Header {
    /// None if there is no region of this format.
    #[inline(always)]
    pub(crate) fn read() -> Option<Header> {
        let first = place(0)?;
        let is_ours = first.load(header::MAGIC_AT) == header::MAGIC
            && first.load(header::FORMAT) & 0xffff_ffff == header::FORMAT_VERSION;
        is_ours.then_some(Header(first))
    }

    #[inline(always)]
    pub(crate) fn seed(self) -> hash::Seed {
        [self.0.load(header::SEED), self.0.load(header::SEED + 1)]
    }

    #[inline(always)]
    pub(crate) fn lines(self) -> u64 {
        self.0.load(header::LINES)
    }

    #[inline(always)]
    pub(crate) fn sweeps(self) -> u64 {
        self.0.load(header::SWEEPS)
    }

    /// Whether a flush is set to a time: then the clock decides.
    #[inline(always)]
    pub(crate) fn flush_is_timed(self) -> bool {
        self.0.load(header::FLUSH_AT) != 0
    }

    /// The stamp that live items are above, at second `now_s`.
    #[inline(always)]
    pub(crate) fn flushed(self, now_s: u64) -> u64 {
        let at = self.0.load(header::FLUSH_AT);
        let flushed = self.0.load(header::FLUSHED);
        let due = (at << unbuckle_layout::item::SEQUENCE_BITS).wrapping_sub(1);
        if at != 0 && at <= now_s && due > flushed { due } else { flushed }
    }

    /// Index line number `number`, and its word offset in the region.
    #[inline(always)]
    pub(crate) fn line(self, number: u64) -> Option<(Line<'static>, u64)> {
        let at = self.line_at(number);
        Some((place(at)?.line(), at))
    }

    /// Begins to bring an index line into this processor's cache: BPF has no prefetch, but nothing waits for a load whose
    /// result nothing uses.
    #[inline(always)]
    pub(crate) fn ask_for_line(self, number: u64) {
        if let Some(place) = place(self.line_at(number)) {
            place.load(0);
        }
    }

    #[inline(always)]
    fn line_at(self, number: u64) -> u64 {
        let page_words_log2 = ((self.0.load(header::FORMAT) >> 32) - 3) & 31;
        let lines_log2 = page_words_log2.wrapping_sub(3) & 31;
        let page = self.0.load(header::DIRECTORY + (number >> lines_log2));
        let in_page = number & ((1 << lines_log2) - 1);
        (page << page_words_log2).wrapping_add(in_page * LINE_WORDS as u64)
    }
}

/// Orders what was read before, against what is read next, on machines that would not.
#[inline(always)]
pub(crate) fn fence(scratch: &mut Scratch) {
    if scratch.flags & flag::FENCES != 0 {
        // SAFETY: an aligned word of this processor's map element.
        unsafe { verifier::barrier(&raw mut scratch.fence) };
    }
}

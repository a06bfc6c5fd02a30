//! Large values: chains of 4 KiB chunks, outside the log. What the log holds of such an item describes its chain, so
//! that moving the item moves a few dozen bytes.
//!
//! A chunk's first word is the number of the next chunk plus 1. The last one's is the first: a chain is a ring, so that it can
//! be lengthened at both ends ([`crate::join`]) and freed by whoever knows any chunk of it. The chunk that was its first one
//! when it was made stays its *anchor*: the second word there says who holds the chain. Whoever lets go last frees it.
//! Chunks are only ever read under a pin or before the chain is linked, so their bytes are never validated.
//!
//! Here are chunks and chains. [`crate::upload`] fills them, [`crate::pin`] reads them, [`crate::join`] makes new ones of old.

use crate::lock::Lock;
use crate::pages::{NONE, Page, RESERVE, Use};
use crate::{Item, Store};
use unbuckle_layout::bytes;
use unbuckle_layout::item::Head;
use unbuckle_layout::sync::{AtomicU32, AtomicU64, Ordering};

/// Words in a chunk.
pub(crate) const CHUNK_WORDS: usize = 512;
const CHUNK_WORDS_LOG2: u32 = 9;
/// Bytes in a chunk.
pub(crate) const CHUNK_BYTES: u64 = CHUNK_WORDS as u64 * 8;
/// Words before a chunk's data: the next chunk, and the holders.
pub(crate) const CHUNK_HEAD_WORDS: usize = 2;
/// Bytes of a value that a chunk holds.
pub(crate) const CHUNK_DATA_BYTES: usize = (CHUNK_WORDS - CHUNK_HEAD_WORDS) * 8;
/// Bytes that describe a chain in an item's record.
const CHAIN_BYTES: usize = 24;
/// Chunks of freed chains that one step gives back.
const CHUNKS_PER_STEP: u32 = 64;

/// A chain as an item's record describes it: so much of a ring as the item's value fills. What lies in front of it in the
/// first chunk, behind it in the last one, and between the last and the first is nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) value_len: u64,
    /// Bytes of the first chunk in front of the value; less than a chunk's data.
    pub(crate) skipped: u32,
    /// Number of the first chunk plus 1; 0 if there is none.
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// The chunk that knows who holds the chain.
    pub(crate) anchor: u32,
}

/// Lengths take less than this many bits, and numbers of chunks less than 32: the words of a region are numbered with 37.
const LEN_BITS: u32 = 48;

impl Chain {
    pub(crate) fn encode(self) -> [u8; CHAIN_BYTES] {
        let mut out = [0; CHAIN_BYTES];
        let (words, _) = out.as_chunks_mut::<8>();
        // Nothing for an anchor in its usual place: such a description is the one that earlier versions wrote.
        let anchor = if self.anchor == self.first { 0 } else { self.anchor };
        let described = [
            self.value_len | u64::from(self.skipped) << LEN_BITS,
            u64::from(self.first) | u64::from(anchor) << 32,
            u64::from(self.last),
        ];
        for (to, word) in words.iter_mut().zip(described) {
            *to = word.to_le_bytes();
        }
        out
    }

    fn decode(bytes: &[u8]) -> Chain {
        let word = |i: usize| bytes.as_chunks::<8>().0.get(i).map_or(0, |word| u64::from_le_bytes(*word));
        let (first, anchor) = (word(1) as u32, (word(1) >> 32) as u32);
        Chain {
            value_len: word(0) & ((1 << LEN_BITS) - 1),
            skipped: (word(0) >> LEN_BITS) as u32,
            first,
            last: u32::try_from(word(2)).unwrap_or(0),
            anchor: if anchor == 0 { first } else { anchor },
        }
    }

    /// Chunks that the value lies in.
    pub(crate) fn chunks(&self) -> u64 {
        self.value_len.saturating_add(self.skipped.into()).div_ceil(CHUNK_DATA_BYTES as u64)
    }

    /// Where in the last chunk's data the value ends: 1 to all of it.
    pub(crate) fn end(&self) -> u32 {
        let end = self.value_len.saturating_add(self.skipped.into()) % CHUNK_DATA_BYTES as u64;
        if end == 0 { CHUNK_DATA_BYTES as u32 } else { end as u32 }
    }
}

/// Chunk pages and chains on their way back.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    lock: Lock,
    /// Pages with a free chunk: a list.
    partial: AtomicU32,
    /// Freed chains, rings no longer, linked through the second word of their first chunks.
    returned: AtomicU64,
    pub(crate) in_uploads: AtomicU64,
    pub(crate) pinned_bytes: AtomicU64,
}

impl Chunks {
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes.load(Ordering::Relaxed)
    }
}

impl<'r> Store<'r> {
    pub(crate) fn chunk(&self, number: u32) -> Option<&'r [AtomicU64]> {
        let index = u64::from(number.checked_sub(1)?);
        self.region.run(index << CHUNK_WORDS_LOG2, CHUNK_WORDS)
    }

    pub(crate) fn chunk_word(&self, number: u32, word: usize) -> Option<&'r AtomicU64> {
        self.chunk(number)?.get(word)
    }

    pub(crate) fn next_chunk(&self, number: u32) -> u32 {
        self.chunk_word(number, 0).map_or(0, number_in)
    }

    /// The chunk behind `number`, if there is one of that number, is `next` from now on.
    pub(crate) fn link_chunks(&self, number: u32, next: u32) {
        if let Some(link) = self.chunk_word(number, 0) {
            link.store(next.into(), Ordering::Relaxed);
        }
    }

    pub(crate) fn chunk_page(&self, number: u32) -> Option<(u32, &Page, usize)> {
        let index = number.checked_sub(1)?;
        let log2 = self.region.page_words_log2() - CHUNK_WORDS_LOG2;
        let page = index >> log2;
        Some((page, self.page(page)?, (index & ((1 << log2) - 1)) as usize))
    }

    /// Takes a chunk: from a chain on its way back, from a page that has some, from a new page.
    pub(crate) fn take_chunk(&self) -> Option<u32> {
        let _guard = self.chunks.lock.lock(self.relax);
        if let Some(number) = self.take_returned() {
            return Some(number);
        }
        let mut page_number = self.chunks.partial.load(Ordering::Relaxed);
        if page_number == NONE {
            page_number = self.pool.take(self.pages, Use::Chunks, RESERVE, self.relax)?;
            self.begin_chunk_page(page_number)?;
        }
        let page = self.page(page_number)?;
        for (word, bits) in page.free_chunks.iter().enumerate() {
            let free = bits.load(Ordering::Relaxed);
            if free == 0 {
                continue;
            }
            bits.store(free & (free - 1), Ordering::Relaxed);
            let index = word as u32 * 64 + free.trailing_zeros();
            page.filled.store(page.filled.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            if page.free_chunks.iter().all(|bits| bits.load(Ordering::Relaxed) == 0) {
                self.unlist_chunk_page(page_number, page);
            }
            let log2 = self.region.page_words_log2() - CHUNK_WORDS_LOG2;
            return Some((page_number << log2 | index) + 1);
        }
        None
    }

    fn begin_chunk_page(&self, number: u32) -> Option<()> {
        let page = self.page(number)?;
        self.note_page(number, Use::Chunks);
        self.free_all_chunks(page);
        self.list_chunk_page(number, page);
        Some(())
    }

    /// What chunks in use take.
    pub(crate) fn chunk_bytes(&self) -> u64 {
        let pages = self.pages.iter().filter(|page| page.used_for() == Use::Chunks);
        pages.map(|page| u64::from(page.filled.load(Ordering::Relaxed)) * CHUNK_BYTES).sum()
    }

    /// Chunks that a page holds.
    pub(crate) fn chunks_a_page(&self) -> u32 {
        self.region.page_words() >> CHUNK_WORDS_LOG2
    }

    /// Marks all chunks of a page as free.
    pub(crate) fn free_all_chunks(&self, page: &Page) {
        let mut left = self.chunks_a_page() as usize;
        for bits in &page.free_chunks {
            let here = left.min(64);
            bits.store(if here == 64 { u64::MAX } else { (1 << (here & 63)) - 1 }, Ordering::Relaxed);
            left -= here;
        }
    }

    pub(crate) fn list_chunk_page(&self, number: u32, page: &Page) {
        let head = self.chunks.partial.load(Ordering::Relaxed);
        page.next.store(head, Ordering::Relaxed);
        page.previous.store(NONE, Ordering::Relaxed);
        if let Some(head) = self.page(head).filter(|_| head != NONE) {
            head.previous.store(number, Ordering::Relaxed);
        }
        self.chunks.partial.store(number, Ordering::Relaxed);
    }

    fn unlist_chunk_page(&self, number: u32, page: &Page) {
        let (previous, next) = (page.previous.load(Ordering::Relaxed), page.next.load(Ordering::Relaxed));
        if let Some(next) = self.page(next).filter(|_| next != NONE) {
            next.previous.store(previous, Ordering::Relaxed);
        }
        if previous != NONE {
            if let Some(previous) = self.page(previous) {
                previous.next.store(next, Ordering::Relaxed);
            }
        } else if self.chunks.partial.load(Ordering::Relaxed) == number {
            self.chunks.partial.store(next, Ordering::Relaxed);
        }
    }

    /// The next chunk of the chains on their way back. The chunks' lock is held.
    fn take_returned(&self) -> Option<u32> {
        let number = number_in(&self.chunks.returned);
        let chunk = self.chunk(number)?;
        let (next, other) = (number_in(chunk.first()?), number_in(chunk.get(1)?));
        let following = match self.chunk_word(next, 1) {
            Some(word) => {
                // The rest of this chain stands first now.
                word.store(other.into(), Ordering::Relaxed);
                next
            }
            None => other,
        };
        self.chunks.returned.store(following.into(), Ordering::Relaxed);
        Some(number)
    }

    /// A chain that nobody holds any more: its chunks are free, in the end. Who returns it may know less of it than there
    /// is: the ring is cut behind its anchor.
    pub(crate) fn return_chain(&self, chain: &Chain) {
        let Some(link) = self.chunk_word(chain.anchor, 0) else { return };
        let front = number_in(link);
        let Some(second) = self.chunk_word(front, 1) else { return };
        let _guard = self.chunks.lock.lock(self.relax);
        link.store(0, Ordering::Relaxed);
        second.store(self.chunks.returned.load(Ordering::Relaxed), Ordering::Relaxed);
        self.chunks.returned.store(front.into(), Ordering::Relaxed);
    }

    /// Gives back chunks of freed chains, and pages that have become empty. True if there are more.
    pub(crate) fn free_returned_chunks(&self) -> bool {
        if self.chunks.returned.load(Ordering::Relaxed) == 0 {
            return false;
        }
        for _ in 0..CHUNKS_PER_STEP {
            let guard = self.chunks.lock.lock(self.relax);
            let Some(number) = self.take_returned() else { return false };
            self.free_chunk(number);
            drop(guard);
        }
        true
    }

    fn free_chunk(&self, number: u32) {
        let Some((page_number, page, index)) = self.chunk_page(number) else { return };
        let was_full = page.free_chunks.iter().all(|bits| bits.load(Ordering::Relaxed) == 0);
        if let Some(bits) = page.free_chunks.get(index / 64) {
            bits.store(bits.load(Ordering::Relaxed) | 1 << (index % 64), Ordering::Relaxed);
        }
        let filled = page.filled.load(Ordering::Relaxed).saturating_sub(1);
        page.filled.store(filled, Ordering::Relaxed);
        if was_full {
            self.list_chunk_page(page_number, page);
        }
        if filled == 0 {
            self.unlist_chunk_page(page_number, page);
            self.note_page(page_number, Use::Free);
            self.pool.give(self.pages, page_number, self.relax);
        }
    }

    /// The chain that a large item's record describes.
    pub(crate) fn chain_at(&self, offset: u64, head: &Head) -> Chain {
        let mut bytes = [0; CHAIN_BYTES + bytes::SPARE_BYTES];
        bytes::copy_out(self.region.rest_of_page(offset), head.value_start(), CHAIN_BYTES, &mut bytes);
        Chain::decode(&bytes)
    }

    /// Some chunk can be had without evicting.
    pub(crate) fn has_chunk(&self) -> bool {
        self.chunks.returned.load(Ordering::Relaxed) != 0
            || self.chunks.partial.load(Ordering::Relaxed) != NONE
            || self.pool.free() > RESERVE
    }
}

/// The number in a link: none if it can't be one.
fn number_in(link: &AtomicU64) -> u32 {
    u32::try_from(link.load(Ordering::Relaxed)).unwrap_or(0)
}

/// The value's length as the item's reader is to see it.
pub(crate) fn large_value_len(item: &Item<'_>) -> usize {
    let mut bytes = [0; CHAIN_BYTES + bytes::SPARE_BYTES];
    bytes::copy_out(item.words, item.head.value_start(), CHAIN_BYTES, &mut bytes);
    Chain::decode(&bytes).value_len as usize
}

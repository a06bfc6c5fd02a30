//! Who holds a chain: the index, and pins. A large value that is pinned stays as it is, whatever becomes of its item, until
//! it is unpinned; whoever lets go last frees it.
//!
//! A chain may be longer than its holder knows: what is appended to a value goes behind its end, what is prepended in front
//! (see [`crate::join`]). So a pin begins where its value began, and reads as many bytes as that had.

use crate::chunks::{CHUNK_BYTES, CHUNK_DATA_BYTES, CHUNK_HEAD_WORDS, Chain};
use crate::{Item, Key, Mark, Store, Worker};
use unbuckle_layout::access::Access;
use unbuckle_layout::bytes;
use unbuckle_layout::item::option;
use unbuckle_layout::sync::{AtomicU64, Ordering};

/// The second word of a chain's anchor: the index holds it.
pub(crate) const LINKED: u64 = 1 << 63;
/// The same word: how many pins hold it.
const PINS: u64 = (1 << 32) - 1;
/// The same word, from this bit on: chunks that count as pinned while there are pins.
const CHUNKS_SHIFT: u32 = 32;

/// A large value that stays readable until unpinned. Must be given back to `unpin`.
#[derive(Debug)]
pub struct Pin {
    pub(crate) chain: Chain,
    /// Where the last read ended: a chunk (number plus 1) and its position in the chain.
    chunk: u32,
    index: u64,
}

impl Pin {
    /// Reads a chain that somebody else holds.
    pub(crate) fn reader(chain: Chain) -> Pin {
        Pin { chain, chunk: chain.first, index: 0 }
    }

    /// Length of the value, bytes.
    pub fn value_len(&self) -> u64 {
        self.chain.value_len
    }
}

fn pinned_chunks(holders: u64) -> u64 {
    (holders & !LINKED) >> CHUNKS_SHIFT
}

/// What of a chain is pinned, in the form of its holders.
fn chunks_of(chain: &Chain) -> u64 {
    chain.chunks().min(pinned_chunks(u64::MAX)) << CHUNKS_SHIFT
}

impl Store<'_> {
    /// Pins a chain that is linked. The stripe is locked.
    pub(crate) fn pin_chain(&self, chain: Chain) -> Option<Pin> {
        // However many read it, a value takes its memory once.
        let pin = |holders: u64| {
            let chunks = if holders & PINS == 0 { chunks_of(&chain) } else { 0 };
            Some((holders + 1) | chunks)
        };
        let holders = self.chunk_word(chain.anchor, 1)?;
        let before = holders.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pin).unwrap_or(0);
        if before & PINS == 0 {
            let pinned_bytes = pinned_chunks(chunks_of(&chain)) * CHUNK_BYTES;
            self.chunks.pinned_bytes.fetch_add(pinned_bytes, Ordering::Relaxed);
        }
        Some(Pin::reader(chain))
    }

    /// A chain has become longer: whoever has it pinned keeps all of it. The stripe is locked.
    pub(crate) fn lengthen_pins(&self, chain: &Chain) {
        let lengthen =
            |holders: u64| (holders & PINS != 0).then(|| (holders & (LINKED | PINS)) | chunks_of(chain));
        let Some(holders) = self.chunk_word(chain.anchor, 1) else { return };
        if let Ok(before) = holders.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lengthen) {
            let more = pinned_chunks(chunks_of(chain)).saturating_sub(pinned_chunks(before));
            self.chunks.pinned_bytes.fetch_add(more * CHUNK_BYTES, Ordering::Relaxed);
        }
    }

    /// The index lets go of a chain.
    pub(crate) fn release_chain(&self, chain: &Chain) {
        let Some(holders) = self.chunk_word(chain.anchor, 1) else { return };
        if holders.fetch_sub(LINKED, Ordering::AcqRel) & PINS == 0 {
            self.return_chain(chain);
        }
    }

    fn unpin_chain(&self, chain: &Chain) {
        let unpin = |holders: u64| {
            let others = (holders & PINS).saturating_sub(1);
            Some(if others == 0 { holders & LINKED } else { (holders & !PINS) | others })
        };
        let Some(holders) = self.chunk_word(chain.anchor, 1) else { return };
        let before = holders.fetch_update(Ordering::AcqRel, Ordering::Relaxed, unpin).unwrap_or(0);
        if before & PINS == 1 {
            self.chunks.pinned_bytes.fetch_sub(pinned_chunks(before) * CHUNK_BYTES, Ordering::Relaxed);
            if before & LINKED == 0 {
                self.return_chain(chain);
            }
        }
    }
}

impl Worker<'_, '_> {
    /// Pins the large item's value if `key` holds one now. `read` sees the item's header in the same step.
    pub fn pin<T>(
        &mut self,
        key: &Key<'_>,
        mark: Mark,
        read: impl FnOnce(&Item<'_>) -> T,
    ) -> Option<(Pin, T)> {
        let store = self.store;
        let epoch = store.epoch(self.now_s);
        let _guard = store.lock_stripe(key.hash);
        let place = store.find_locked(key)?;
        if epoch.judge(&place.head).is_some() || !place.head.has(option::LARGE) {
            return None;
        }
        let chain = store.chain_at(place.offset, &place.head);
        let pin = store.pin_chain(chain)?;
        let access = Access(place.line.mark(place.slot));
        let words = store.region.rest_of_page(place.offset);
        let value = read(&Item { words, head: place.head, access, now_s: self.now_s });
        self.leave_mark(place.line, place.slot, access, mark);
        Some((pin, value))
    }

    /// Copies from `offset` of the pinned value into `out`; returns how many bytes (0 at the end). Reading on from where the
    /// last call ended is cheap.
    pub fn read_pinned(&self, pin: &mut Pin, offset: u64, out: &mut [u8]) -> usize {
        let (mut offset, mut done) = (offset, 0);
        while done < out.len() && offset < pin.chain.value_len {
            let at = offset.saturating_add(pin.chain.skipped.into());
            let (index, within) = (at / CHUNK_DATA_BYTES as u64, (at % CHUNK_DATA_BYTES as u64) as usize);
            self.seek(pin, index);
            let left = usize::try_from(pin.chain.value_len - offset).unwrap_or(usize::MAX);
            let len = left.min(CHUNK_DATA_BYTES - within).min(out.len() - done);
            let Some(chunk) = self.store.chunk(pin.chunk) else { break };
            let Some(to) = out.get_mut(done..done + len) else { break };
            copy_exact(chunk.get(CHUNK_HEAD_WORDS..).unwrap_or(&[]), within, to);
            offset += len as u64;
            done += len;
        }
        done
    }

    fn seek(&self, pin: &mut Pin, index: u64) {
        if index < pin.index {
            (pin.chunk, pin.index) = (pin.chain.first, 0);
        }
        while pin.index < index {
            pin.chunk = self.store.next_chunk(pin.chunk);
            pin.index += 1;
        }
    }

    /// Lets go of a pinned value.
    pub fn unpin(&mut self, pin: Pin) {
        self.store.unpin_chain(&pin.chain);
    }
}

/// Copies exactly `out.len()` bytes from byte `start` of `words` on.
pub(crate) fn copy_exact(words: &[AtomicU64], start: usize, out: &mut [u8]) {
    // All but the last bytes need no room of their own to spill into.
    let whole = out.len().saturating_sub(bytes::SPARE_BYTES);
    bytes::copy_out(words, start, whole, out);
    let mut last = [0; 2 * bytes::SPARE_BYTES];
    let rest = out.get_mut(whole..).unwrap_or_default();
    bytes::copy_out(words, start + whole, rest.len(), &mut last);
    for (to, from) in rest.iter_mut().zip(last) {
        *to = from;
    }
}

//! Large values: chains of 4 KiB chunks, outside the log. What the log holds of such an item describes its chain, so
//! that moving the item moves a few dozen bytes.
//!
//! A chunk's first word is the number of the next chunk plus 1 (0 at the end); in the chain's first chunk the second
//! word counts who holds the chain: the index (one bit) and the pins. Whoever lets go last frees it. Chunks are only
//! ever read under a pin or before the chain is linked, so their bytes are never validated.

use crate::counts::Count;
use crate::lock::Lock;
use crate::log::{Body, Need, Staged};
use crate::pages::{NONE, Page, RESERVE, Use};
use crate::read::Place;
use crate::write::{Committed, Read};
use crate::{Condition, Item, Key, Mark, NewItem, Refused, Rewrite, Rewritten, Store, Stored, Worker};
use unbuckle_layout::bytes::{self, Writer};
use unbuckle_layout::item::{Head, option};
use unbuckle_layout::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Words in a chunk.
const CHUNK_WORDS: usize = 512;
const CHUNK_WORDS_LOG2: u32 = 9;
/// Words before a chunk's data: the next chunk, and the holders.
const CHUNK_HEAD_WORDS: usize = 2;
/// Bytes of a value that a chunk holds.
pub(crate) const CHUNK_DATA_BYTES: usize = (CHUNK_WORDS - CHUNK_HEAD_WORDS) * 8;
/// Bytes that describe a chain in an item's record.
const CHAIN_BYTES: usize = 24;
/// Holder: the index.
pub(crate) const LINKED: u64 = 1 << 63;
/// Chunks of freed chains that one step gives back.
const CHUNKS_PER_STEP: u32 = 64;
/// Uploads under way and pinned values that are no longer linked may take one part in this many of the limit.
const SHARE: u64 = 4;

/// A chain as an item's record describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) value_len: u64,
    /// Number of the first chunk plus 1; 0 if there is none.
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Chain {
    fn encode(self) -> [u8; CHAIN_BYTES] {
        let mut out = [0; CHAIN_BYTES];
        let (words, _) = out.as_chunks_mut::<8>();
        for (to, word) in words.iter_mut().zip([self.value_len, self.first, self.last]) {
            *to = word.to_le_bytes();
        }
        out
    }

    fn decode(bytes: &[u8]) -> Chain {
        let word = |i: usize| bytes.as_chunks::<8>().0.get(i).map_or(0, |word| u64::from_le_bytes(*word));
        Chain { value_len: word(0), first: word(1), last: word(2) }
    }
}

/// A large value being received: takes chunks as its bytes arrive. Must be given to `finish_upload` or `abort_upload`.
#[derive(Debug)]
pub struct Upload {
    chain: Chain,
    received: u64,
    chunks: u32,
    /// Bytes of the last chunk that do not make a word yet.
    partial: [u8; 8],
}

impl Upload {
    /// Length of the whole value, bytes.
    pub fn value_len(&self) -> u64 {
        self.chain.value_len
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.chain.value_len - self.received
    }
}

/// Where [`Worker::finish_join`] puts the uploaded value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// A large value that stays readable until unpinned. Must be given back to `unpin`.
#[derive(Debug)]
pub struct Pin {
    chain: Chain,
    /// Where the last read ended: a chunk (number plus 1) and its position in the chain.
    chunk: u64,
    index: u64,
}

impl Pin {
    /// Length of the value, bytes.
    pub fn value_len(&self) -> u64 {
        self.chain.value_len
    }
}

/// Chunk pages and chains on their way back.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    lock: Lock,
    /// Pages with a free chunk: a list.
    partial: AtomicU32,
    /// Freed chains, linked through the second word of their first chunks.
    returned: AtomicU64,
    in_uploads: AtomicU64,
    pinned_bytes: AtomicU64,
}

impl Chunks {
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes.load(Ordering::Relaxed)
    }
}

impl<'r> Store<'r> {
    fn chunk(&self, number: u64) -> Option<&'r [AtomicU64]> {
        let index = number.checked_sub(1)?;
        self.region.run(index << CHUNK_WORDS_LOG2, CHUNK_WORDS)
    }

    pub(crate) fn chunk_word(&self, number: u64, word: usize) -> Option<&'r AtomicU64> {
        self.chunk(number)?.get(word)
    }

    pub(crate) fn next_chunk(&self, number: u64) -> u64 {
        self.chunk_word(number, 0).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    pub(crate) fn chunk_page(&self, number: u64) -> Option<(u32, &Page, usize)> {
        let index = number.checked_sub(1)?;
        let log2 = self.region.page_words_log2() - CHUNK_WORDS_LOG2;
        let page = (index >> log2) as u32;
        Some((page, self.page(page)?, (index & ((1 << log2) - 1)) as usize))
    }

    /// Takes a chunk: from a chain on its way back, from a page that has some, from a new page.
    fn take_chunk(&self) -> Option<u64> {
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
            let index = word as u64 * 64 + u64::from(free.trailing_zeros());
            page.filled.store(page.filled.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            if page.free_chunks.iter().all(|bits| bits.load(Ordering::Relaxed) == 0) {
                self.unlist_chunk_page(page_number, page);
            }
            let log2 = self.region.page_words_log2() - CHUNK_WORDS_LOG2;
            return Some((u64::from(page_number) << log2 | index) + 1);
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
    fn take_returned(&self) -> Option<u64> {
        let number = self.chunks.returned.load(Ordering::Relaxed);
        let chunk = self.chunk(number)?;
        let (next, other) = (chunk.first()?.load(Ordering::Relaxed), chunk.get(1)?.load(Ordering::Relaxed));
        let following = match self.chunk_word(next, 1) {
            Some(word) => {
                // The rest of this chain stands first now.
                word.store(other, Ordering::Relaxed);
                next
            }
            None => other,
        };
        self.chunks.returned.store(following, Ordering::Relaxed);
        Some(number)
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

    fn free_chunk(&self, number: u64) {
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

    /// Pins a chain that is linked. The stripe is locked.
    fn pin_chain(&self, chain: Chain) -> Option<Pin> {
        // However many read it, a value takes its memory once.
        if self.chunk_word(chain.first, 1)?.fetch_add(1, Ordering::Relaxed) == LINKED {
            self.chunks.pinned_bytes.fetch_add(chain.value_len, Ordering::Relaxed);
        }
        Some(Pin { chain, chunk: chain.first, index: 0 })
    }

    /// The index lets go of a chain.
    pub(crate) fn release_chain(&self, chain: &Chain) {
        self.let_go(chain, LINKED);
    }

    fn let_go(&self, chain: &Chain, hold: u64) {
        let Some(holders) = self.chunk_word(chain.first, 1) else { return };
        let left = holders.fetch_sub(hold, Ordering::AcqRel).wrapping_sub(hold);
        if hold != LINKED && left & !LINKED == 0 {
            self.chunks.pinned_bytes.fetch_sub(chain.value_len, Ordering::Relaxed);
        }
        if left == 0 {
            let _guard = self.chunks.lock.lock(self.relax);
            holders.store(self.chunks.returned.load(Ordering::Relaxed), Ordering::Relaxed);
            self.chunks.returned.store(chain.first, Ordering::Relaxed);
        }
    }

    /// The chain that a large item's record describes.
    pub(crate) fn chain_at(&self, offset: u64, head: &Head) -> Chain {
        let mut bytes = [0; CHAIN_BYTES + bytes::SPARE_BYTES];
        bytes::copy_out(self.region.rest_of_page(offset), head.value_start(), CHAIN_BYTES, &mut bytes);
        Chain::decode(&bytes)
    }

    /// Some chunk can be had without evicting.
    fn has_chunk(&self) -> bool {
        self.chunks.returned.load(Ordering::Relaxed) != 0
            || self.chunks.partial.load(Ordering::Relaxed) != NONE
            || self.pool.free() > RESERVE
    }
}

/// The value's length as the item's reader is to see it.
pub(crate) fn large_value_len(item: &Item<'_>) -> usize {
    let mut bytes = [0; CHAIN_BYTES + bytes::SPARE_BYTES];
    bytes::copy_out(item.words, item.head.value_start(), CHAIN_BYTES, &mut bytes);
    Chain::decode(&bytes).value_len as usize
}

impl<'s, 'r> Worker<'s, 'r> {
    /// Begins to receive a value of `value_len` bytes. Nothing is taken before its bytes arrive.
    pub fn begin_upload(&mut self, key_len: usize, value_len: u64) -> Result<Upload, Refused> {
        if !self.store.fits(key_len, value_len) {
            return Err(Refused::TooLarge);
        }
        Ok(Upload { chain: Chain { value_len, first: 0, last: 0 }, received: 0, chunks: 0, partial: [0; 8] })
    }

    /// Appends to the value. After `Refused` the upload must be aborted.
    pub fn upload(&mut self, upload: &mut Upload, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.len() as u64 > upload.remaining() {
            return Err(Refused::TooLarge);
        }
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let within = (upload.received % CHUNK_DATA_BYTES as u64) as usize;
            if within == 0 {
                self.add_chunk(upload).inspect_err(|_| self.count(Count::OutOfMemory))?;
            }
            let (now, later) = bytes.split_at_checked(CHUNK_DATA_BYTES - within).unwrap_or((bytes, &[]));
            self.fill_chunk(upload, within, now);
            upload.received += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Writes `bytes` at byte `within` of the last chunk's data: whole words, the begun one from `partial`.
    fn fill_chunk(&self, upload: &mut Upload, within: usize, bytes: &[u8]) {
        let Some(chunk) = self.store.chunk(upload.chain.last) else { return };
        let run = chunk.get(CHUNK_HEAD_WORDS + within / 8..).unwrap_or(&[]);
        let begun = within % 8;
        let mut writer = Writer::new(run);
        writer.bytes(upload.partial.get(..begun).unwrap_or(&[]));
        writer.bytes(bytes);
        let _ = writer.finish();
        // The bytes of the word that is begun now.
        let end = begun + bytes.len();
        let keep = end % 8;
        let mut partial = [0; 8];
        for (i, byte) in partial.iter_mut().enumerate().take(keep) {
            let at = end - keep + i;
            let from = if at < begun { upload.partial.get(at) } else { bytes.get(at - begun) };
            *byte = from.copied().unwrap_or(0);
        }
        upload.partial = partial;
    }

    fn add_chunk(&mut self, upload: &mut Upload) -> Result<(), Refused> {
        let share = self.store.limit_bytes() / SHARE / (CHUNK_WORDS as u64 * 8);
        let uploads = &self.store.chunks.in_uploads;
        // One upload may always go on by itself: a value larger than the share must be storable.
        if uploads.load(Ordering::Relaxed) >= share
            && uploads.load(Ordering::Relaxed) > u64::from(upload.chunks)
        {
            return Err(Refused::OutOfMemory);
        }
        let number = self.take_chunk()?;
        // It may have held what a late reader still looks at: see `stage`.
        fence(Ordering::Release);
        for word in 0..CHUNK_HEAD_WORDS {
            if let Some(word) = self.store.chunk_word(number, word) {
                word.store(0, Ordering::Relaxed);
            }
        }
        match self.store.chunk_word(upload.chain.last, 0) {
            Some(link) => link.store(number, Ordering::Relaxed),
            None => {
                upload.chain.first = number;
                if let Some(holders) = self.store.chunk_word(number, 1) {
                    holders.store(LINKED, Ordering::Relaxed);
                }
            }
        }
        upload.chain.last = number;
        upload.chunks += 1;
        uploads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn take_chunk(&mut self) -> Result<u64, Refused> {
        loop {
            if let Some(number) = self.store.take_chunk() {
                return Ok(number);
            }
            self.reclaim_until(|store| store.has_chunk())?;
        }
    }

    /// Stores what was uploaded. `item.value` is ignored: the uploaded bytes are the value.
    pub fn finish_upload(
        &mut self,
        upload: Upload,
        key: &Key<'_>,
        item: &NewItem<'_>,
        condition: Condition,
    ) -> Result<Stored, Refused> {
        if upload.remaining() != 0 {
            self.abort_upload(upload);
            return Err(Refused::TooLarge);
        }
        self.settle(&upload);
        let mut head = self.head_of(item);
        head.options |= option::LARGE;
        let stored = self.store_record(key, head, &upload.chain.encode(), condition);
        if !matches!(stored, Ok(Stored::Stored { .. })) {
            self.store.release_chain(&upload.chain);
        }
        stored
    }

    /// Gives up an upload.
    pub fn abort_upload(&mut self, upload: Upload) {
        self.settle(&upload);
        self.store.release_chain(&upload.chain);
    }

    fn settle(&self, upload: &Upload) {
        self.store.chunks.in_uploads.fetch_sub(u64::from(upload.chunks), Ordering::Relaxed);
    }

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
        let access = unbuckle_layout::access::Access(place.line.mark(place.slot));
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
            let (index, within) =
                (offset / CHUNK_DATA_BYTES as u64, (offset % CHUNK_DATA_BYTES as u64) as usize);
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
        self.store.let_go(&pin.chain, 1);
    }

    /// A rewrite whose outcome, or whose old value, is large.
    pub(crate) fn rewrite_large(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        mut head: Head,
        rewrite: &Rewrite<'_>,
    ) -> Result<Committed, Refused> {
        let old = if rewrite.keep { self.old_value(key, read) } else { Some(Old::None) };
        let Some(old) = old else { return Ok(Committed::Changed) };
        let total = rewrite.before.len() as u64 + old.len() + rewrite.after.len() as u64;
        let upload = self.begin_upload(key.bytes.len(), total);
        let copied = upload.and_then(|upload| self.copy_parts(upload, rewrite, &old));
        if let Old::Large(pin) = old {
            self.unpin(pin);
        }
        let upload = copied?;
        self.settle(&upload);
        head.options |= option::LARGE;
        let committed = self.commit_chain(key, read, head, &upload.chain);
        if !matches!(committed, Ok(Committed::Done { .. })) {
            self.store.release_chain(&upload.chain);
        }
        committed
    }

    /// Stores what was uploaded together with the value that `key` has now: append and prepend of large values.
    /// `fits` sees the old item and may decline. The CAS becomes `cas`, or the next. Like an append or prepend of small
    /// values, this makes a new item, without the old one's meta marks.
    pub fn finish_join(
        &mut self,
        upload: Upload,
        key: &Key<'_>,
        side: Side,
        cas: Option<u64>,
        mut fits: impl FnMut(&Item<'_>) -> bool,
    ) -> Rewritten<()> {
        let joined = if upload.remaining() == 0 {
            self.join(&upload, key, side, cas, &mut fits)
        } else {
            Rewritten::Declined(())
        };
        self.abort_upload(upload);
        joined
    }

    fn join(
        &mut self,
        upload: &Upload,
        key: &Key<'_>,
        side: Side,
        cas: Option<u64>,
        fits: &mut impl FnMut(&Item<'_>) -> bool,
    ) -> Rewritten<()> {
        loop {
            let Some(read) = self.read_for_rewrite(key) else { return Rewritten::NotFound };
            let fits = fits(&self.item_at(&read.place));
            if !read.place.line.unchanged(read.state) {
                continue;
            }
            if !fits {
                return Rewritten::Declined(());
            }
            let Some(old) = self.old_value(key, &read) else { continue };
            let joined = self.copy_joined(upload, key, side, &old);
            if let Old::Large(pin) = old {
                self.unpin(pin);
            }
            let joined = match joined {
                Ok(joined) => joined,
                Err(refused) => return Rewritten::Refused(refused),
            };
            match self.commit_joined(key, &read, cas, &joined) {
                Ok(Committed::Done { cas }) => {
                    self.count(Count::TotalItems);
                    return Rewritten::Done { cas };
                }
                other => {
                    self.store.release_chain(&joined.chain);
                    if let Err(refused) = other {
                        return Rewritten::Refused(refused);
                    }
                }
            }
        }
    }

    #[inline(never)]
    fn commit_joined(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        cas: Option<u64>,
        joined: &Upload,
    ) -> Result<Committed, Refused> {
        self.settle(joined);
        let mut head = read.place.head;
        head.stamp = self.draw_stamp(head.stamp);
        head.cas = cas.unwrap_or(head.stamp);
        head.options &= !(option::CAS | option::STALE | option::WIN_TOKEN_SENT);
        head.options |= option::LARGE | if cas.is_some() { option::CAS } else { 0 };
        self.commit_chain(key, read, head, &joined.chain)
    }

    #[inline(never)]
    fn copy_joined(
        &mut self,
        upload: &Upload,
        key: &Key<'_>,
        side: Side,
        old: &Old,
    ) -> Result<Upload, Refused> {
        let new = Old::Large(Pin { chain: upload.chain, chunk: upload.chain.first, index: 0 });
        let mut joined = self.begin_upload(key.bytes.len(), old.len().saturating_add(new.len()))?;
        let (first, second) = match side {
            Side::Before => (&new, old),
            Side::After => (old, &new),
        };
        match self.copy_old(&mut joined, first).and_then(|()| self.copy_old(&mut joined, second)) {
            Ok(()) => Ok(joined),
            Err(refused) => {
                self.abort_upload(joined);
                Err(refused)
            }
        }
    }

    fn commit_chain(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        head: Head,
        chain: &Chain,
    ) -> Result<Committed, Refused> {
        let description = chain.encode();
        let body = Body { key: key.bytes, before: &description, kept: None, after: &[] };
        let lane = self.store.lane_of(read.place.offset);
        let staged: Staged = self.stage(lane, head, &body, Need::Request)?;
        self.commit(key, staged, read.expect())
    }

    /// The value that was read, to be copied; `None` if the item has changed since.
    #[inline(never)]
    fn old_value(&mut self, key: &Key<'_>, read: &Read<'r>) -> Option<Old> {
        let Place { offset, head, .. } = read.place;
        if !head.has(option::LARGE) {
            let (start, len) = (head.value_start(), head.value_len as usize);
            return Some(Old::Inline { offset, start, len });
        }
        let _guard = self.store.lock_stripe(key.hash);
        let found = self.store.find_locked(key);
        if !read.is_current(self.store, found.as_ref()) {
            return None;
        }
        self.store.pin_chain(self.store.chain_at(offset, &head)).map(Old::Large)
    }

    fn copy_parts(
        &mut self,
        mut upload: Upload,
        rewrite: &Rewrite<'_>,
        old: &Old,
    ) -> Result<Upload, Refused> {
        let done = self
            .upload(&mut upload, rewrite.before)
            .and_then(|()| self.copy_old(&mut upload, old))
            .and_then(|()| self.upload(&mut upload, rewrite.after));
        match done {
            Ok(()) => Ok(upload),
            Err(refused) => {
                self.abort_upload(upload);
                Err(refused)
            }
        }
    }

    fn copy_old(&mut self, upload: &mut Upload, old: &Old) -> Result<(), Refused> {
        let mut piece = [0; 128];
        let mut offset = 0;
        let mut reader = match old {
            Old::Large(pin) => Some(Pin { chain: pin.chain, chunk: pin.chain.first, index: 0 }),
            _ => None,
        };
        while offset < old.len() {
            let left = (old.len() - offset).min(piece.len() as u64) as usize;
            let Some(to) = piece.get_mut(..left) else { break };
            match (old, &mut reader) {
                (Old::Inline { offset: from, start, .. }, _) => {
                    copy_exact(self.store.region.rest_of_page(*from), start + offset as usize, to);
                }
                (Old::Large(_), Some(reader)) => {
                    self.read_pinned(reader, offset, to);
                }
                _ => break,
            }
            self.upload(upload, to)?;
            offset += left as u64;
        }
        Ok(())
    }
}

/// The old value of a rewrite.
enum Old {
    None,
    Inline { offset: u64, start: usize, len: usize },
    Large(Pin),
}

impl Old {
    fn len(&self) -> u64 {
        match self {
            Old::None => 0,
            Old::Inline { len, .. } => *len as u64,
            Old::Large(pin) => pin.value_len(),
        }
    }
}

/// Copies exactly `out.len()` bytes from byte `start` of `words` on.
fn copy_exact(words: &[AtomicU64], start: usize, out: &mut [u8]) {
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

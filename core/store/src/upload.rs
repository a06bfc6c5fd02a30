//! A large value on its way in: it takes chunks as its bytes arrive, never before.
//!
//! What is not here: where chunks come from ([`crate::chunks`]), and what joins an upload to a value that is there
//! ([`crate::join`]).

use crate::chunks::{CHUNK_BYTES, CHUNK_DATA_BYTES, CHUNK_HEAD_WORDS, Chain};
use crate::counts::Count;
use crate::pin::LINKED;
use crate::{Condition, Key, NewItem, Refused, Stored, Worker};
use unbuckle_layout::bytes::Writer;
use unbuckle_layout::item::option;
use unbuckle_layout::sync::{AtomicU64, Ordering, fence};

/// Uploads under way may take one part in this many of the limit.
const SHARE: u64 = 4;

/// A large value being received: takes chunks as its bytes arrive. Must be given to `finish_upload` or `abort_upload`.
#[derive(Debug)]
pub struct Upload {
    pub(crate) chain: Chain,
    received: u64,
    chunks: u32,
    /// Where in the last chunk's data the next byte goes.
    at: u32,
}

impl Upload {
    /// `len` bytes in chunks of their own.
    pub(crate) fn of(len: u64) -> Upload {
        let chain = Chain { value_len: len, ..Chain::default() };
        Upload { chain, received: 0, chunks: 0, at: CHUNK_DATA_BYTES as u32 }
    }

    /// The same, with the last chunk full: something else follows there.
    pub(crate) fn before(len: u64) -> Upload {
        let whole = CHUNK_DATA_BYTES as u64;
        let mut upload = Upload::of(len);
        upload.chain.skipped = ((whole - len % whole) % whole) as u32;
        upload
    }

    /// `len` bytes that go behind the end of a chain, all into its last chunk.
    pub(crate) fn behind(chain: &Chain, len: u64) -> Upload {
        let (received, at) = (chain.value_len, chain.end());
        let chain = Chain { value_len: received.saturating_add(len), ..*chain };
        Upload { chain, received, chunks: 0, at }
    }

    /// `len` bytes that go in front of a chain, all into its first chunk.
    pub(crate) fn in_front(chain: &Chain, len: u64) -> Upload {
        let skipped = chain.skipped.saturating_sub(len as u32);
        let chain = Chain { value_len: len, skipped, last: chain.first, ..*chain };
        Upload { chain, received: 0, chunks: 0, at: skipped }
    }

    /// Length of the whole value, bytes.
    pub fn value_len(&self) -> u64 {
        self.chain.value_len
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.chain.value_len - self.received
    }
}

impl Worker<'_, '_> {
    /// Begins to receive a value of `value_len` bytes. Nothing is taken before its bytes arrive.
    pub fn begin_upload(&mut self, key_len: usize, value_len: u64) -> Result<Upload, Refused> {
        if !self.store.fits(key_len, value_len) {
            return Err(Refused::TooLarge);
        }
        Ok(Upload::of(value_len))
    }

    /// Appends to the value. After `Refused` the upload must be aborted.
    pub fn upload(&mut self, upload: &mut Upload, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.len() as u64 > upload.remaining() {
            return Err(Refused::TooLarge);
        }
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if upload.at as usize >= CHUNK_DATA_BYTES {
                self.add_chunk(upload).inspect_err(|_| self.count(Count::OutOfMemory))?;
            }
            let room = CHUNK_DATA_BYTES.saturating_sub(upload.at as usize);
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            let chunk = self.store.chunk(upload.chain.last).unwrap_or(&[]);
            splice(chunk.get(CHUNK_HEAD_WORDS..).unwrap_or(&[]), upload.at as usize, now);
            upload.at += now.len() as u32;
            upload.received += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    fn add_chunk(&mut self, upload: &mut Upload) -> Result<(), Refused> {
        let share = self.store.limit_bytes() / SHARE / CHUNK_BYTES;
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
        let chain = &mut upload.chain;
        upload.at = 0;
        if chain.last == 0 {
            (chain.first, chain.anchor) = (number, number);
            upload.at = chain.skipped;
            if let Some(holders) = self.store.chunk_word(number, 1) {
                holders.store(LINKED, Ordering::Relaxed);
            }
        }
        self.store.link_chunks(number, chain.first);
        self.store.link_chunks(chain.last, number);
        chain.last = number;
        upload.chunks += 1;
        uploads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn take_chunk(&mut self) -> Result<u32, Refused> {
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

    pub(crate) fn settle(&self, upload: &Upload) {
        self.store.chunks.in_uploads.fetch_sub(u64::from(upload.chunks), Ordering::Relaxed);
    }
}

/// Writes `bytes` at byte `start` of the words. Others' bytes in the first and the last word stay what they are, at every
/// moment: whoever has them pinned reads them meanwhile.
fn splice(words: &[AtomicU64], start: usize, bytes: &[u8]) {
    let words = words.get(start / 8..).unwrap_or(&[]);
    let before = start % 8;
    let end = before + bytes.len();
    let word_at =
        |byte: usize| words.get(byte / 8).map_or(0, |word| word.load(Ordering::Relaxed)).to_le_bytes();
    let (first, last) = (word_at(0), word_at(end));
    let mut writer = Writer::new(words);
    writer.bytes(first.get(..before).unwrap_or(&[]));
    writer.bytes(bytes);
    if !end.is_multiple_of(8) {
        writer.bytes(last.get(end % 8..).unwrap_or(&[]));
    }
    let _ = writer.finish();
}

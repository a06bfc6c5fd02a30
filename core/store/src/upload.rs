//! A large value on its way in: it takes chunks as its bytes arrive, never before.
//!
//! What is not here: where chunks come from ([`crate::chunks`]), and what joins an upload to a value that is there
//! ([`crate::join`]).

use crate::chunks::{CHUNK_BYTES, CHUNK_DATA_BYTES, CHUNK_HEAD_WORDS, Chain};
use crate::counts::Count;
use crate::pin::LINKED;
use crate::{Condition, Key, NewItem, Refused, Store, Stored, Worker};
use unbuckle_layout::bytes::Writer;
use unbuckle_layout::item::option;
use unbuckle_layout::sync::{Ordering, fence};

/// Uploads under way may take one part in this many of the limit.
const SHARE: u64 = 4;

/// A large value being received: takes chunks as its bytes arrive. Must be given to `finish_upload` or `abort_upload`.
#[derive(Debug)]
pub struct Upload {
    pub(crate) chain: Chain,
    received: u64,
    chunks: u32,
    /// Bytes of the last chunk that do not make a word yet.
    partial: [u8; 8],
}

impl Upload {
    /// `len` bytes that go behind the end of a chain, all into its last chunk.
    pub(crate) fn behind(chain: &Chain, len: u64, store: &Store<'_>) -> Upload {
        let within = (chain.value_len % CHUNK_DATA_BYTES as u64) as usize;
        let begun = store.chunk_word(chain.last, CHUNK_HEAD_WORDS + within / 8);
        Upload {
            chain: Chain { value_len: chain.value_len + len, ..*chain },
            received: chain.value_len,
            chunks: 0,
            partial: begun.map_or(0, |word| word.load(Ordering::Relaxed)).to_le_bytes(),
        }
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

    pub(crate) fn settle(&self, upload: &Upload) {
        self.store.chunks.in_uploads.fetch_sub(u64::from(upload.chunks), Ordering::Relaxed);
    }
}

//! An item as a reader is shown it: a view of a record in the region, good only while its reader looks.

use crate::{Expiry, ITEM_OVERHEAD_BYTES, chunks};
use unbuckle_layout::access::Access;
use unbuckle_layout::bytes;
use unbuckle_layout::item::{Head, option};
use unbuckle_layout::sync::AtomicU64;

/// A live item as a reader sees it, before validation. Only good inside the closure that it is handed to.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    pub(crate) words: &'a [AtomicU64],
    pub(crate) head: Head,
    pub(crate) access: Access,
    pub(crate) now_s: u32,
}

impl Item<'_> {
    #[inline]
    pub fn flags(&self) -> u32 {
        self.head.flags
    }

    #[inline]
    pub fn cas(&self) -> u64 {
        self.head.cas
    }

    /// Length of the value, bytes.
    #[inline]
    pub fn value_len(&self) -> usize {
        if self.is_large() { chunks::large_value_len(self) } else { self.head.value_len as usize }
    }

    /// Its size as memcached counts it, the 8 bytes of a CAS included.
    pub fn memcached_bytes(&self) -> u64 {
        let optional = if self.head.flags == 0 { 0 } else { 4 };
        (self.value_len() as u64).wrapping_add(ITEM_OVERHEAD_BYTES + optional + u64::from(self.head.key_len))
    }

    pub fn key_len(&self) -> usize {
        usize::from(self.head.key_len)
    }

    #[inline]
    pub fn expiry(&self) -> Expiry {
        Expiry(self.head.expiry)
    }

    /// When it was stored, seconds since the region was made.
    pub fn stored_s(&self) -> u32 {
        self.head.stored_s()
    }

    /// When it was last fetched (stored, if never), to 64 s, for a quarter of an hour back.
    pub fn accessed_s(&self) -> u32 {
        self.access.accessed_s(self.head.stored_s(), self.now_s)
    }

    /// Whether it was ever fetched, not counting now.
    pub fn fetched(&self) -> bool {
        self.access.fetched()
    }

    pub fn stale(&self) -> bool {
        self.head.has(option::STALE)
    }

    pub fn win_token_sent(&self) -> bool {
        self.head.has(option::WIN_TOKEN_SENT)
    }

    /// Its key was given in base64, and is to be told so.
    pub fn key_binary(&self) -> bool {
        self.head.has(option::KEY_BINARY)
    }

    /// Kept in chunks: read through [`Worker::pin`], never by `copy_value`.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.head.has(option::LARGE)
    }

    /// Copies the whole value to the front of `out`, which must have 8 bytes more than the value (copies are whole words).
    /// Returns false (and nothing usable) if it has not, or if the item is large.
    #[inline]
    pub fn copy_value(&self, out: &mut [u8]) -> bool {
        !self.is_large()
            && bytes::copy_out(self.words, self.head.value_start(), self.head.value_len as usize, out)
    }

    /// Copies the key to the front of `out`, likewise.
    pub fn copy_key(&self, out: &mut [u8]) -> bool {
        bytes::copy_out(self.words, self.head.key_start(), self.key_len(), out)
    }
}

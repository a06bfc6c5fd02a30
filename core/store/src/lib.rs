//! The storage engine over the region: log, index, eviction, expiry, CAS.
//!
//! CONTRACT (signatures are what the engine builds on; bodies follow).
#![no_std]
#![allow(unused, dead_code, clippy::unimplemented, clippy::todo)]

use core::marker::PhantomData;

/// What a store is made with. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything in the region counts against this (`-m`).
    pub limit_bytes: u64,
    /// Largest item (`-I`), key, value and metadata together, as memcached counts.
    pub item_bytes_max: u64,
    /// False is `-M`: a full store answers `OutOfMemory` instead of evicting.
    pub evict: bool,
    /// Worker threads that will call [`Store::worker`].
    pub workers: usize,
    /// Drawn at random by the door.
    pub seed: [u64; 2],
}

/// Shared by all workers. `Sync`.
#[derive(Debug)]
pub struct Store<'r>(PhantomData<&'r ()>);

impl<'r> Store<'r> {
    /// A worker of its own for each thread: spans, CAS range and counters that no other thread touches.
    pub fn worker(&self, index: usize) -> Worker<'_, 'r> { unimplemented!() }
    /// A key of 1..=250 bytes with its hash; `None` for other lengths.
    pub fn key<'k>(&self, bytes: &'k [u8]) -> Option<Key<'k>> { unimplemented!() }
    pub fn gauges(&self) -> Gauges { unimplemented!() }
    /// `cache_memlimit`; `Err` when the region's reserved address space is smaller.
    pub fn limit_bytes_set(&self, bytes: u64) -> Result<(), ()> { unimplemented!() }
    pub fn item_bytes_max(&self) -> u64 { unimplemented!() }
}

/// Levels, read for `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    pub limit_bytes: u64,
    /// Keys, values and metadata of live items.
    pub item_bytes: u64,
    pub items: u64,
    pub index_bytes: u64,
    /// log2 of the number of index slots, rounded down.
    pub index_power: u32,
    pub pages_total: u64,
    pub pages_free: u64,
    pub page_bytes: u64,
    pub pinned_bytes: u64,
}

/// What the store counts, summed over workers. All u64, monotone; cleared by `stats reset` (the door keeps the base).
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub total_items: u64,
    pub evictions: u64,
    pub evicted_unfetched: u64,
    pub evicted_active: u64,
    pub expired_unfetched: u64,
    pub reclaimed: u64,
    pub crawler_reclaimed: u64,
    pub crawler_items_checked: u64,
    pub index_evictions: u64,
    pub relocated: u64,
    pub read_retries: u64,
    pub corrupt: u64,
    pub out_of_memory: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Key<'k> {
    bytes: &'k [u8],
    hash: u64,
}
impl<'k> Key<'k> {
    /// 1..=250 of them.
    pub fn bytes(&self) -> &'k [u8] { self.bytes }
}

/// Expiry in whole seconds since the region was made; `NEVER` is no expiry. The engine converts from the wire's forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(pub u32);
impl Expiry {
    pub const NEVER: Expiry = Expiry(0);
    /// Already past: stored and at once dead, as memcached does with a negative exptime.
    pub const PAST: Expiry = Expiry(1);
}

/// A live item as a reader sees it, before validation. Only valid inside the closure that it is handed to.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a>(PhantomData<&'a ()>);
impl Item<'_> {
    pub fn flags(&self) -> u32 { 0 }
    pub fn cas(&self) -> u64 { 0 }
    pub fn value_len(&self) -> usize { 0 }
    pub fn expiry(&self) -> Expiry { Expiry::NEVER }
    /// Seconds since the region was made.
    pub fn stored_s(&self) -> u32 { 0 }
    pub fn accessed_s(&self) -> u32 { 0 }
    pub fn fetched(&self) -> bool { false }
    pub fn stale(&self) -> bool { false }
    pub fn win_token_sent(&self) -> bool { false }
    /// Kept in chunks: read through [`Worker::pin`], never by `copy_value`.
    pub fn is_large(&self) -> bool { false }
    /// Copies the whole value to the front of `out`. `out` must have 8 spare bytes beyond the value
    /// (copies are whole words); returns false (and nothing usable) if it has not, or if the item is large.
    pub fn copy_value(&self, out: &mut [u8]) -> bool { false }
}

/// What a hit does to the item's usage mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Counts as use: raises its frequency, sets fetched and last access.
    Used,
    /// Leaves no trace (meta `k`eep-LRU reads, metadump).
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Always,
    /// add
    Absent,
    /// replace
    Present,
    /// cas
    Cas(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Stored { cas: u64 },
    /// Condition Absent or Present did not hold.
    NotStored,
    /// Condition Cas: there, but with another CAS.
    Exists,
    /// Condition Cas: not there.
    NotFound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TooLarge,
    OutOfMemory,
}

#[derive(Clone, Copy, Debug)]
pub struct NewItem<'a> {
    pub flags: u32,
    pub expiry: Expiry,
    pub value: &'a [u8],
    /// `Some` sets the CAS to exactly this (meta `E`); `None` draws the next.
    pub cas: Option<u64>,
    /// Meta `I` stores can leave an item stale.
    pub stale: bool,
    pub win_token_sent: bool,
}

/// How [`Worker::rewrite`] changes an item: the new value is `before` + (the old value if `keep`) + `after`.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    pub before: &'a [u8],
    pub keep: bool,
    pub after: &'a [u8],
    /// `None` leaves it.
    pub expiry: Option<Expiry>,
    pub flags: Option<u32>,
    pub cas: RewriteCas,
    pub stale: bool,
    pub win_token_sent: bool,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewriteCas {
    /// Touch and the meta marks: the item keeps its CAS.
    Keep,
    /// Draw the next.
    Next,
    Exactly(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewritten<T> {
    Done { cas: u64 },
    NotFound,
    /// The closure declined, with its reason; nothing changed.
    Declined(T),
    Refused(Refused),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    Deleted,
    NotFound,
    /// A CAS was given and differs.
    Exists,
}

/// A large value being received: takes chunks as its bytes arrive. Must be given to `finish_upload` or `abort_upload`.
#[derive(Debug)]
pub struct Upload(());
impl Upload {
    /// Bytes still to come.
    pub fn remaining(&self) -> u64 { 0 }
}

/// A large value that stays readable until unpinned. Must be given back to `unpin`.
#[derive(Debug)]
pub struct Pin(());
impl Pin {
    pub fn value_len(&self) -> u64 { 0 }
}

/// One thread's hands on the store. Not `Sync`.
#[derive(Debug)]
pub struct Worker<'s, 'r>(PhantomData<(&'s (), &'r ())>);

impl<'s, 'r> Worker<'s, 'r> {
    /// Values up to this many bytes are inline: `set` takes them whole. Longer ones go through an [`Upload`].
    pub fn inline_value_bytes_max(&self) -> usize { 16 << 10 }
    /// See [`Store::item_bytes_max`].
    pub fn item_bytes_max(&self) -> u64 { unimplemented!() }
    /// Seconds since the region was made; the door calls it once a batch.
    pub fn now_set(&mut self, now_s: u32) { unimplemented!() }
    pub fn now_s(&self) -> u32 { unimplemented!() }
    pub fn key<'k>(&self, bytes: &'k [u8]) -> Option<Key<'k>> { unimplemented!() }

    /// Hints for a batch: first the index line of every key, then the item of every key, then `get` of every key.
    pub fn prefetch_line(&self, key: &Key<'_>) {}
    pub fn prefetch_item(&self, key: &Key<'_>) {}

    /// Looks `key` up and hands the live item to `read`; what `read` returned stands only if the item was not
    /// changed meanwhile, otherwise `read` is called again (so it must start over each time). `None` is a miss.
    /// A hit leaves `mark` behind. No locked instruction is executed on the common path.
    pub fn get<T>(&mut self, key: &Key<'_>, mark: Mark, read: impl FnMut(&Item<'_>) -> T) -> Option<T> { unimplemented!() }

    pub fn set(&mut self, key: &Key<'_>, item: &NewItem<'_>, condition: Condition) -> Result<Stored, Refused> { unimplemented!() }
    /// Read, decide, replace as one step (append, prepend, incr, decr, touch, meta marks). `change` may run more than once.
    /// It sees the item (whose value it may copy out) and returns the change, or declines with a reason.
    /// The slices of the returned `Rewrite` may borrow from a buffer outside that `change` fills: hence the two lifetimes
    /// are kept apart by passing `scratch` through.
    pub fn rewrite<T>(
        &mut self,
        key: &Key<'_>,
        scratch: &mut [u8],
        change: impl for<'x> FnMut(&Item<'_>, &'x mut [u8]) -> Result<Rewrite<'x>, T>,
    ) -> Rewritten<T> { unimplemented!() }
    /// Deletes; with `cas`, only the item that has it.
    pub fn delete(&mut self, key: &Key<'_>, cas: Option<u64>) -> Deleted { unimplemented!() }
    /// Everything stored before now is dead (`at` None), or will be when `at` (seconds since the region was made) comes.
    pub fn flush(&mut self, at: Option<u32>) {}

    pub fn begin_upload(&mut self, key_len: usize, value_len: u64) -> Result<Upload, Refused> { unimplemented!() }
    /// Appends as much as it may; on `Refused` the caller aborts and swallows the rest.
    pub fn upload(&mut self, upload: &mut Upload, bytes: &[u8]) -> Result<(), Refused> { unimplemented!() }
    /// `item.value` is ignored: the uploaded bytes are the value.
    pub fn finish_upload(&mut self, upload: Upload, key: &Key<'_>, item: &NewItem<'_>, condition: Condition) -> Result<Stored, Refused> { unimplemented!() }
    pub fn abort_upload(&mut self, upload: Upload) { unimplemented!() }

    /// Pins the large item's value if `key` holds one now. Takes the stripe's lock. `read` sees the item's header
    /// in the same step.
    pub fn pin<T>(&mut self, key: &Key<'_>, mark: Mark, read: impl FnOnce(&Item<'_>) -> T) -> Option<(Pin, T)> { unimplemented!() }
    /// Copies from `offset` of the pinned value into `out`; returns how many bytes (0 at the end).
    pub fn read_pinned(&self, pin: &Pin, offset: u64, out: &mut [u8]) -> usize { unimplemented!() }
    pub fn unpin(&mut self, pin: Pin) { unimplemented!() }

    /// One bounded step of background work (expiry crawl, index growth and shrinking, returning memory). True if there is more now.
    pub fn maintain(&mut self) -> bool { unimplemented!() }
    pub fn counts(&self) -> Counts { unimplemented!() }
}

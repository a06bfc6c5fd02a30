//! The storage engine over the region: log, index, eviction, expiry, CAS.
//!
//! What it promises: a read takes no lock and executes no locked instruction; a write holds one stripe's lock for a
//! bounded time and never while memory is taken; no request does unbounded work; nothing here panics, allocates or
//! knows a clock, a thread or a socket. All memory comes from the door, as do the time and the way to wait.
//!
//! One module, one subject: [`log`] where records are written, [`read`] and [`write`] what requests do, [`insert`] and
//! [`grow`] the index, [`reclaim`] eviction, [`crawl`] expiry and upkeep, [`chunks`] (with [`upload`], [`pin`] and
//! [`join`]) large values, [`pages`] and
//! [`queue`] the memory beneath, [`spare`] its way back, [`adopt`] and [`repair`] what a store before this one has left in it;
//! [`walk`] and [`observe`] are for those who look on. [`request`] and [`item`] are what requests are made of, and shown.
#![no_std]

mod adopt;
mod chunks;
mod classes;
mod counts;
mod crawl;
mod grow;
mod insert;
mod item;
mod join;
mod lock;
mod log;
mod observe;
mod pages;
mod pin;
mod queue;
mod read;
mod reclaim;
mod repair;
mod request;
mod spare;
mod upload;
mod walk;
mod write;

pub use adopt::{Adopted, Left, Life, Unreadable, left, pages_noted, unseal};
pub use classes::{CLASSES_MAX, ClassGauges};
pub use counts::{Counts, WorkerCounts};
pub use item::Item;
pub use join::Side;
pub use observe::{Missing, Observer};
pub use pages::Page;
pub use pin::Pin;
pub use request::{
    Condition, Deleted, Expiry, Mark, NewItem, Refused, Rewrite, RewriteCas, Rewritten, Stored,
};
pub use upload::Upload;
pub use walk::Walk;

use lock::{Guard, Lock};
use unbuckle_layout::access::Access;
use unbuckle_layout::region::Region;
use unbuckle_layout::sync::{AtomicU32, AtomicU64, Ordering};
use unbuckle_layout::{KEY_BYTES_MAX, hash, header, index};

/// What a store is made with. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything in the region counts against this (`-m`).
    pub limit_bytes: u64,
    /// Largest item (`-I`), key, value and metadata together, as memcached counts them.
    pub item_bytes_max: u64,
    /// False is `-M`: a full store answers `OutOfMemory` instead of evicting.
    pub evict: bool,
    /// The hash seed, drawn at random by the door.
    pub seed: [u64; 2],
    /// What a thread does that has waited a while for another: yield the processor, or nothing.
    pub relax: fn(),
    /// Takes the memory of some words back until they are touched again; then they read as zeroes, or as before. False:
    /// that can't be done. Called by [`Worker::maintain`], a page at a time, with no lock held that a request waits for.
    /// `None`: memory is never given back.
    pub give_back: Option<fn(&[AtomicU64]) -> bool>,
    /// Others than workers read the index, at any time (programs in the kernel): then its pages stay its own.
    pub read_from_outside: bool,
}

/// The memory that a store is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'r> {
    /// The region: zeroed, at least `limit_bytes`, page-aligned or not. More allows a higher limit later.
    pub words: &'r [AtomicU64],
    /// One for each page of the region: see [`page_bytes`].
    pub pages: &'r [Page],
    /// Exactly [`STRIPES`] of them.
    pub stripes: &'r [Stripe],
    /// One for each worker.
    pub workers: &'r [WorkerCounts],
    /// The largest item of each size class that statistics tell apart, bytes as memcached counts, ascending.
    pub classes: &'r [u32],
}

/// What memcached adds to key and value: 48 bytes of header, 8 of CAS, the key's terminator, the value's line end.
const ITEM_OVERHEAD_BYTES: u64 = 48 + 8 + 1 + 2;

/// How many [`Stripe`]s a store has.
pub const STRIPES: usize = index::STRIPES as usize;

/// Why a store can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The limit is below [`LIMIT_BYTES_MIN`] or beyond the region.
    Limit,
    /// A side table has the wrong length.
    Tables,
    /// [`Store::adopt`]: what the header says of the index can't be.
    Damaged,
}

/// Smallest limit: sixteen of the smallest pages.
pub const LIMIT_BYTES_MIN: u64 = 1 << 20;

/// Fewest pages.
const PAGES_MIN: u64 = LIMIT_BYTES_MIN >> header::PAGE_BYTES_LOG2_MIN;

/// log2 of the page size of a store with this limit: a 256th of it, between 64 KiB and 1 MiB, so that
/// half-filled pages don't eat a small cache.
pub fn page_bytes_log2(limit_bytes: u64) -> u32 {
    let log2 = 63u32.saturating_sub(limit_bytes.max(1).leading_zeros());
    log2.saturating_sub(8).clamp(header::PAGE_BYTES_LOG2_MIN, header::PAGE_BYTES_LOG2_MAX)
}

/// A part of the index: its lock, and what it holds. Its fields change under the lock.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Stripe {
    lock: Lock,
    items: AtomicU32,
    record_words: AtomicU64,
}

impl Stripe {
    #[inline]
    fn items(&self) -> u32 {
        self.items.load(Ordering::Relaxed)
    }

    fn account_words(&self, linked_words: u32, dropped_words: u32) {
        let words = self.record_words.load(Ordering::Relaxed);
        let words = words.wrapping_add(u64::from(linked_words)).wrapping_sub(u64::from(dropped_words));
        self.record_words.store(words, Ordering::Relaxed);
    }
}

/// The store, shared by all workers.
#[derive(Debug)]
pub struct Store<'r> {
    region: Region<'r>,
    pages: &'r [Page],
    stripes: &'r [Stripe; STRIPES],
    workers: &'r [WorkerCounts],
    classes: &'r [u32],
    evict: bool,
    relax: fn(),
    give_back: Option<fn(&[AtomicU64]) -> bool>,
    index_pages_return: bool,
    item_bytes_max: u64,
    inline_value_bytes_max: usize,
    record_words_max: u32,
    span_words: u32,
    pool: pages::Pool,
    queues: [queue::Queue; 2],
    reclaim: reclaim::Reclaim,
    crawl: crawl::Crawl,
    sweep: crawl::Sweep,
    chunks: chunks::Chunks,
    spare: spare::Spare,
    grow_lock: Lock,
    flush_lock: Lock,
    next_stamp: AtomicU64,
    index_pages: AtomicU32,
    /// Items, to ITEMS_STEP a stripe.
    items_rough: AtomicU64,
    /// Counts up with every page that is put to use: see [`Store::note_page`].
    pages_taken: AtomicU64,
}

impl<'r> Store<'r> {
    /// Makes a store over memory that holds none yet.
    pub fn new(parts: Parts<'r>, options: &Options) -> Result<Store<'r>, Unusable> {
        let log2 = page_bytes_log2(options.limit_bytes);
        // Looked at where it lies: a store is large for a stack to hold twice.
        let mut made = Store::assemble(parts, options, log2, options.seed);
        let begun = made.as_ref().map_or(Ok(()), |store| store.begin(options.limit_bytes, log2));
        if let Err(unusable) = begun {
            made = Err(unusable);
        }
        made
    }

    fn begin(&self, limit_bytes: u64, page_bytes_log2: u32) -> Result<(), Unusable> {
        self.pool.begin(self.pages, (limit_bytes >> page_bytes_log2) as u32);
        self.write_header(page_bytes_log2);
        self.make_index()
    }

    /// The store's hands and settings, over memory that it has not looked at yet.
    #[inline(never)]
    fn assemble(
        parts: Parts<'r>,
        options: &Options,
        log2: u32,
        seed: hash::Seed,
    ) -> Result<Store<'r>, Unusable> {
        let region = Region::new(parts.words, log2, seed);
        let limit = options.limit_bytes >> log2;
        if options.limit_bytes < LIMIT_BYTES_MIN || limit > u64::from(region.pages()) {
            return Err(Unusable::Limit);
        }
        let stripes = parts.stripes.first_chunk::<STRIPES>().ok_or(Unusable::Tables)?;
        if parts.pages.len() < region.pages() as usize || parts.workers.is_empty() {
            return Err(Unusable::Tables);
        }
        let page_bytes = 1usize << log2;
        Ok(Store {
            region,
            pages: parts.pages.get(..region.pages() as usize).unwrap_or(&[]),
            stripes,
            workers: parts.workers,
            classes: parts.classes,
            evict: options.evict,
            relax: options.relax,
            give_back: options.give_back,
            index_pages_return: !options.read_from_outside,
            item_bytes_max: options.item_bytes_max,
            inline_value_bytes_max: (page_bytes / 8).min(16 << 10),
            record_words_max: region.page_words() / 4,
            span_words: region.page_words() / 16,
            pool: pages::Pool::default(),
            queues: Default::default(),
            reclaim: Default::default(),
            crawl: Default::default(),
            sweep: Default::default(),
            chunks: Default::default(),
            spare: Default::default(),
            grow_lock: Lock::default(),
            flush_lock: Lock::default(),
            next_stamp: AtomicU64::new(1 << unbuckle_layout::item::SEQUENCE_BITS),
            index_pages: AtomicU32::new(0),
            items_rough: AtomicU64::new(0),
            pages_taken: AtomicU64::new(0),
        })
    }

    fn write_header(&self, page_bytes_log2: u32) {
        let region = &self.region;
        let [seed0, seed1] = region.seed();
        region.store(header::FORMAT, header::FORMAT_VERSION | u64::from(page_bytes_log2) << 32);
        region.store(header::REGION_WORDS, u64::from(region.pages()) << region.page_words_log2());
        region.store(header::SEED, seed0);
        region.store(header::SEED + 1, seed1);
        region.store_release(header::MAGIC_AT, header::MAGIC);
    }

    /// The first lines. They fit one page of any size.
    fn make_index(&self) -> Result<(), Unusable> {
        let page = self.pool.take(self.pages, pages::Use::Index, 0, self.relax).ok_or(Unusable::Limit)?;
        self.note_page(page, pages::Use::Index);
        self.region.store(header::DIRECTORY, u64::from(page));
        self.index_pages.store(1, Ordering::Relaxed);
        self.region.store_release(header::LINES, index::LINES_MIN);
        Ok(())
    }

    /// A worker of its own for each thread: spans, a range of CAS values and counters that no other touches.
    /// `index` must be below the number of workers, and used once.
    pub fn worker(&self, index: usize) -> Option<Worker<'_, 'r>> {
        let counts = self.workers.get(index)?;
        self.enter_era(counts);
        Some(Worker {
            store: self,
            counts,
            spans: Default::default(),
            stamps: (0, 0),
            now_s: 2,
            tick_code: Access::tick_code(2),
            rested_s: 2,
            stored_since: false,
            observer: None,
        })
    }

    /// A key of 1 to 250 bytes with its hash; `None` for other lengths.
    #[inline]
    pub fn key<'k>(&self, bytes: &'k [u8]) -> Option<Key<'k>> {
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return None;
        }
        Some(Key { bytes, hash: hash::hash(self.region.seed(), bytes) })
    }

    /// Levels, for `stats`.
    pub fn gauges(&self) -> Gauges {
        let sum = |value: fn(&Stripe) -> u64| {
            self.stripes.iter().fold(0u64, |sum, stripe| sum.wrapping_add(value(stripe)))
        };
        let page_bytes = 1u64 << (self.region.page_words_log2() + 3);
        let lines = self.region.load(header::LINES);
        Gauges {
            limit_bytes: self.limit_bytes(),
            item_bytes: sum(|stripe| stripe.record_words.load(Ordering::Relaxed)) * 8,
            items: sum(|stripe| u64::from(stripe.items())),
            index_lines: lines,
            index_bytes: u64::from(self.index_pages.load(Ordering::Relaxed)) * page_bytes,
            pages_total: u64::from(self.pool.target()),
            pages_free: u64::from(self.pool.free()),
            pages_small: u64::from(self.queues[0].pages()),
            pages_main: u64::from(self.queues[1].pages()),
            page_bytes,
            chunk_bytes: self.chunk_bytes(),
            pinned_bytes: self.pinned_bytes(),
        }
    }

    /// Chunks of values that are pinned. Costs nothing to ask, unlike the other gauges.
    pub fn pinned_bytes(&self) -> u64 {
        self.chunks.pinned_bytes()
    }

    /// What was counted so far, by all workers.
    pub fn counts(&self) -> Counts {
        Counts::sum(self.workers)
    }

    /// The limit, bytes: whole pages.
    pub fn limit_bytes(&self) -> u64 {
        u64::from(self.pool.target()) << (self.region.page_words_log2() + 3)
    }

    /// Moves the limit (`cache_memlimit`); memory in use above it is given back by [`Worker::maintain`].
    pub fn limit_bytes_set(&self, bytes: u64) -> Result<(), Unusable> {
        let pages = bytes >> (self.region.page_words_log2() + 3);
        if bytes < LIMIT_BYTES_MIN || pages > u64::from(self.region.pages()) {
            return Err(Unusable::Limit);
        }
        self.pool.limit_set(pages as u32, self.relax);
        Ok(())
    }

    /// Whether [`Worker::maintain`] looks for expired items; it does from the start.
    pub fn crawler_is_enabled(&self) -> bool {
        self.crawl.is_enabled()
    }

    /// Without the crawler an expired item goes when it is met: by a request for its key, or by eviction.
    pub fn crawler_enabled_set(&self, enabled: bool) {
        self.crawl.enable(enabled);
    }

    /// Has the crawler look at every page once, whatever it believes to be there. It does so in [`Worker::maintain`].
    pub fn crawl_everything(&self) {
        self.crawl.restart();
    }

    /// A crawl over every page is under way.
    pub fn is_crawling(&self) -> bool {
        self.crawler_is_enabled() && self.crawl.everything.load(Ordering::Relaxed) != 0
    }

    /// Largest item, bytes, as memcached counts.
    pub fn item_bytes_max(&self) -> u64 {
        self.item_bytes_max
    }

    /// Whether an item of these lengths is allowed: the sum is memcached's, so that the same items fit.
    pub fn fits(&self, key_len: usize, value_len: u64) -> bool {
        value_len.saturating_add(key_len as u64 + ITEM_OVERHEAD_BYTES) <= self.item_bytes_max
    }

    #[inline(always)]
    fn stripe(&self, number: u64) -> &'r Stripe {
        &self.stripes[(number & (index::STRIPES - 1)) as usize]
    }

    #[inline]
    fn lock_stripe(&self, hash: u64) -> Guard<'r> {
        self.stripe(hash).lock.lock(self.relax)
    }

    /// Notes that a record was linked in a stripe, dropped from it, or both. The stripe is locked.
    #[inline]
    fn account(&self, stripe: u64, linked_words: u32, dropped_words: u32) {
        let stripe = self.stripe(stripe);
        stripe.account_words(linked_words, dropped_words);
        let before = stripe.items();
        let items = match (linked_words != 0, dropped_words != 0) {
            (true, false) => before.wrapping_add(1),
            (false, true) => before.wrapping_sub(1),
            _ => return,
        };
        stripe.items.store(items, Ordering::Relaxed);
        // The sum over all stripes is kept in steps, so that stripes don't meet at it for every item.
        if items / ITEMS_STEP > before / ITEMS_STEP {
            self.items_rough.fetch_add(u64::from(ITEMS_STEP), Ordering::Relaxed);
        } else if items / ITEMS_STEP < before / ITEMS_STEP {
            self.items_rough.fetch_sub(u64::from(ITEMS_STEP), Ordering::Relaxed);
        }
    }

    /// The index has become full enough for more lines: all of it, or the key's stripe. `beyond`: so many half items a
    /// line fuller than that.
    #[inline]
    fn index_is_dense(&self, hash: u64, beyond: u64) -> bool {
        let lines = self.region.load(header::LINES);
        let target = Fullness::of(lines);
        let stripe_items = u64::from(self.stripe(index::stripe(hash)).items());
        self.items_estimate() * 2 > lines * (target.items_a_line * 2 + beyond)
            || stripe_items * index::STRIPES * 2 > lines * (target.items_a_line_of_a_stripe * 2 + beyond)
    }

    /// Items; half a step a stripe is what the rough sum misses on average.
    #[inline]
    fn items_estimate(&self) -> u64 {
        self.items_rough.load(Ordering::Relaxed) + index::STRIPES * u64::from(ITEMS_STEP) / 2
    }

    fn index_is_sparse(&self) -> bool {
        let lines = self.region.load(header::LINES);
        lines > index::LINES_MIN && self.items_estimate() * 2 < lines * Fullness::of(lines).items_a_line
    }
}

/// An index of fewer lines is the smallest kind, one of as many or more is a large one: see [`Fullness::of`].
const SMALL_LINES: u64 = 2 * index::LINES_MIN;
const LARGE_LINES: u64 = 8 * index::LINES_MIN;

/// How full the index may become before it grows.
struct Fullness {
    /// On average over all lines. Six is three quarters of the slots: more would make more lookups touch a second
    /// line, fewer cost memory.
    items_a_line: u64,
    /// On average over the lines of one stripe.
    items_a_line_of_a_stripe: u64,
}

impl Fullness {
    /// The stripes of a small index differ much, and have few slots to make up for it: it is kept emptier. (With eight lines a
    /// stripe and five items a line, one fill in forty would leave some stripe full.)
    #[inline]
    fn of(lines: u64) -> Fullness {
        let items_a_line = match lines {
            ..SMALL_LINES => 4,
            SMALL_LINES..LARGE_LINES => 5,
            _ => 6,
        };
        Fullness { items_a_line, items_a_line_of_a_stripe: items_a_line + 1 }
    }
}

/// Steps in which the number of items is summed over the stripes.
const ITEMS_STEP: u32 = 16;

/// Levels, read for `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    pub limit_bytes: u64,
    /// Keys, values and metadata of live items, rounded up to words; the chunks of large values not included.
    pub item_bytes: u64,
    /// Chunks of large values: of live items, on their way in, pinned, or on their way back.
    pub chunk_bytes: u64,
    pub items: u64,
    /// Lines of eight slots each.
    pub index_lines: u64,
    pub index_bytes: u64,
    pub pages_total: u64,
    pub pages_free: u64,
    /// Log pages of the small queue, and of the main one.
    pub pages_small: u64,
    pub pages_main: u64,
    pub page_bytes: u64,
    pub pinned_bytes: u64,
}

/// A key and its hash.
#[derive(Clone, Copy, Debug)]
pub struct Key<'k> {
    bytes: &'k [u8],
    hash: u64,
}

impl<'k> Key<'k> {
    /// The key's bytes.
    #[inline]
    pub fn bytes(&self) -> &'k [u8] {
        self.bytes
    }

    /// For [`Worker::key_hashed`].
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// One thread's hands on the store. Not `Sync`.
#[derive(Debug)]
pub struct Worker<'s, 'r> {
    store: &'s Store<'r>,
    counts: &'r WorkerCounts,
    spans: [log::Span; log::SPANS],
    /// Stamps drawn and not used yet.
    stamps: (u64, u64),
    now_s: u32,
    tick_code: u8,
    /// When spans were last looked at, and whether anything was stored since.
    rested_s: u32,
    stored_since: bool,
    /// Whom evictions are told to.
    observer: Option<&'s dyn Observer>,
}

impl<'s, 'r> Worker<'s, 'r> {
    /// Seconds since the region was made, counted from 2; the door sets it once a batch.
    #[inline]
    pub fn now_set(&mut self, now_s: u32) {
        self.now_s = now_s.max(2);
        self.tick_code = Access::tick_code(self.now_s);
    }

    #[inline]
    pub fn now_s(&self) -> u32 {
        self.now_s
    }

    /// See [`Store::key`].
    #[inline]
    pub fn key<'k>(&self, bytes: &'k [u8]) -> Option<Key<'k>> {
        self.store.key(bytes)
    }

    /// A key that [`Worker::key`] has taken before, with the hash that it had then. With another hash, it is not found.
    #[inline]
    pub fn key_hashed<'k>(&self, bytes: &'k [u8], hash: u64) -> Key<'k> {
        Key { bytes, hash }
    }

    /// The store that this worker works on.
    pub fn store(&self) -> &'s Store<'r> {
        self.store
    }

    /// Values up to this many bytes are inline: `set` takes them whole. Longer ones go through an [`Upload`].
    #[inline]
    pub fn inline_value_bytes_max(&self) -> usize {
        self.store.inline_value_bytes_max
    }

    /// See [`Store::item_bytes_max`].
    pub fn item_bytes_max(&self) -> u64 {
        self.store.item_bytes_max
    }

    #[inline(always)]
    fn count(&self, count: counts::Count) {
        self.counts.add(count);
    }
}

#[cfg(test)]
extern crate std;

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

#[cfg(test)]
use crate as crate_under_test;

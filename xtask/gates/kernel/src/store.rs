//! The store's entries that a door calls by itself. What serves requests is reached through the engine.

use unbuckle_layout::sync::AtomicU64;
use unbuckle_store::{Adopted, Left, Life, Unreadable, left, pages_noted, unseal};
use unbuckle_store::{Counts, Gauges, Item, Options, Parts, Store, Unusable, Walk, Worker};

#[unsafe(no_mangle)]
fn gate_store_new<'r>(parts: Parts<'r>, options: &Options) -> Result<Store<'r>, Unusable> { Store::new(parts, options) }

#[unsafe(no_mangle)]
fn gate_store_worker<'s, 'r>(store: &'s Store<'r>, index: usize) -> Option<Worker<'s, 'r>> { store.worker(index) }

#[unsafe(no_mangle)]
fn gate_store_gauges(store: &Store<'_>) -> Gauges { store.gauges() }

#[unsafe(no_mangle)]
fn gate_store_counts(store: &Store<'_>) -> Counts { store.counts() }

#[unsafe(no_mangle)]
fn gate_store_limit_bytes_set(store: &Store<'_>, bytes: u64) -> bool { store.limit_bytes_set(bytes).is_ok() }

#[unsafe(no_mangle)]
fn gate_store_fits(store: &Store<'_>, key_len: usize, value_len: u64) -> bool { store.fits(key_len, value_len) }

#[unsafe(no_mangle)]
fn gate_worker_flush(worker: &mut Worker<'_, '_>, at: Option<u32>) { worker.flush(at); }

#[unsafe(no_mangle)]
fn gate_store_adopt<'r>(parts: Parts<'r>, options: &Options, now_s: u32) -> Result<(Store<'r>, Adopted), Unusable> {
    Store::adopt(parts, options, now_s)
}

#[unsafe(no_mangle)]
fn gate_store_left(words: &[AtomicU64]) -> Result<Left, Unreadable> { left(words) }

#[unsafe(no_mangle)]
fn gate_store_unseal(words: &[AtomicU64]) { unseal(words); }

#[unsafe(no_mangle)]
fn gate_store_pages_noted(words: &[AtomicU64], page_bytes_log2: u32) -> usize { pages_noted(words, page_bytes_log2).count() }

#[unsafe(no_mangle)]
fn gate_store_life_set(store: &Store<'_>, life: &Life) { store.life_set(life); }

#[unsafe(no_mangle)]
fn gate_store_seal(store: &Store<'_>, now_s: u32, unix_s: u64) { store.seal(now_s, unix_s); }

#[unsafe(no_mangle)]
fn gate_worker_walk(worker: &mut Worker<'_, '_>, walk: &mut Walk, see: fn(&Item<'_>)) { worker.walk(walk, see); }

#[unsafe(no_mangle)]
fn gate_store_crawl(store: &Store<'_>) -> bool {
    store.crawl_everything();
    store.is_crawling()
}

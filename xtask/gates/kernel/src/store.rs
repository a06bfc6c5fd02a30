//! The store's entries that a door calls by itself. What serves requests is reached through the engine.

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
fn gate_worker_walk(worker: &mut Worker<'_, '_>, walk: &mut Walk, see: fn(&Item<'_>)) { worker.walk(walk, see); }

#[unsafe(no_mangle)]
fn gate_store_crawl(store: &Store<'_>) -> bool {
    store.crawl_everything();
    store.is_crawling()
}

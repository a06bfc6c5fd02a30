//! The store's entries that a door calls by itself.

use unbuckle_store::{Counts, Gauges, Store, Worker};

#[unsafe(no_mangle)]
fn gate_store_gauges(store: &Store<'_>) -> Gauges { store.gauges() }

#[unsafe(no_mangle)]
fn gate_store_limit_bytes_set(store: &Store<'_>, bytes: u64) -> bool { store.limit_bytes_set(bytes).is_ok() }

#[unsafe(no_mangle)]
fn gate_worker_counts(worker: &Worker<'_, '_>) -> Counts { worker.counts() }

#[unsafe(no_mangle)]
fn gate_worker_flush(worker: &mut Worker<'_, '_>, at: Option<u32>) { worker.flush(at); }

//! What one worker's engine is watched by: notes events for watchers, and counts by prefix for `stats detail`.

use super::log::What;
use super::{Hub, Kinds};
use crate::prefixes::Prefixes;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use unbuckle_engine::{Event, Facts};
use unbuckle_store::Item;

#[derive(Debug)]
pub(crate) struct Reporter {
    hub: Arc<Hub>,
    worker: usize,
    /// Whose requests are being served.
    descriptor: AtomicI32,
    /// See the server's clock.
    now_s: AtomicU32,
    pub(crate) prefixes: Prefixes,
}

impl Reporter {
    pub(crate) fn new(hub: Arc<Hub>, worker: usize, delimiter: char) -> Reporter {
        let prefixes = Prefixes::new(delimiter);
        Reporter { hub, worker, descriptor: AtomicI32::new(0), now_s: AtomicU32::new(0), prefixes }
    }

    /// Requests of this descriptor's client follow.
    pub(crate) fn begin(&self, descriptor: i32, now_s: u32) {
        self.descriptor.store(descriptor, Ordering::Relaxed);
        self.now_s.store(now_s, Ordering::Relaxed);
    }

    /// Notes something of a connection at `address`.
    pub(crate) fn connection(&self, what: What, address: &str) {
        if self.hub.wanted().meets(Kinds::CONNECTIONS) {
            self.hub.note(self.worker, Kinds::CONNECTIONS, what, address.as_bytes());
        }
    }

    fn count_prefix(&self, event: &Event<'_>) {
        match *event {
            Event::LookedUp { key, found, retrieval: true } => self.prefixes.got(key, found.is_ok()),
            Event::LookedUp { .. } => {}
            Event::Stored { key, .. } => self.prefixes.set(key),
            Event::Deleted { key, .. } => self.prefixes.deleted(key),
        }
    }
}

impl unbuckle_engine::Observer for Reporter {
    fn saw(&self, event: &Event<'_>) {
        let wanted = self.hub.wanted();
        if wanted.meets(Kinds::PREFIXES) {
            self.count_prefix(event);
        }
        let descriptor = self.descriptor.load(Ordering::Relaxed);
        let (kind, key, what) = match *event {
            Event::LookedUp { key, found, .. } => {
                (Kinds::FETCHERS, key, What::LookedUp { found, descriptor })
            }
            Event::Stored { key, command, outcome, facts } => {
                let now_s = self.now_s.load(Ordering::Relaxed);
                // What has expired already wraps around 2^32, as in the original.
                let ttl_s = if facts.expiry_s == 0 { 0 } else { facts.expiry_s.wrapping_sub(now_s) };
                (Kinds::MUTATIONS, key, What::Stored { command, outcome, facts, ttl_s, descriptor })
            }
            Event::Deleted { key, item: Some(facts), meta } => {
                (Kinds::DELETIONS, key, What::Deleted { facts, meta })
            }
            Event::Deleted { item: None, .. } => return,
        };
        if wanted.meets(kind) {
            self.hub.note(self.worker, kind, what, key);
        }
    }
}

impl unbuckle_store::Observer for Reporter {
    fn evicted(&self, item: &Item<'_>, key: &[u8]) {
        if !self.hub.wanted().meets(Kinds::EVICTIONS) {
            return;
        }
        let now_s = self.now_s.load(Ordering::Relaxed);
        let expiry_s = item.expiry().0;
        let facts =
            Facts { value_len: item.value_len() as u64, memcached_bytes: item.memcached_bytes(), expiry_s };
        let ttl_s = (expiry_s != 0).then(|| i64::from(expiry_s) - i64::from(now_s));
        let idle_s = now_s.saturating_sub(item.accessed_s());
        let what = What::Evicted { facts, fetched: item.fetched(), ttl_s, idle_s };
        self.hub.note(self.worker, Kinds::EVICTIONS, what, key);
    }
}

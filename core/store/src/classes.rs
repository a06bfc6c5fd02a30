//! Size classes, for statistics alone: memory here has none, but whoever watches a memcached expects to see how many
//! items of which size there are. The door names the classes' sizes; each worker counts what it links and drops.

use crate::Store;
use unbuckle_layout::item::{Head, option};
use unbuckle_layout::sync::{AtomicU64, Ordering};

/// Most classes that are told apart; what is larger than all of them counts to the last.
pub const CLASSES_MAX: usize = 64;

/// What one class holds, and what it has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassGauges {
    /// Items that are there now.
    pub items: u64,
    /// Their bytes, as memcached would count them.
    pub bytes: u64,
    /// Items evicted so far.
    pub evictions: u64,
    /// Of these, the ones that would have expired some day.
    pub evictions_of_expiring: u64,
    /// Items removed because they had expired or been flushed, whoever found them: a request, eviction, the crawler.
    pub reclaimed: u64,
    /// Of these, the ones that the crawler found.
    pub crawler_reclaimed: u64,
}

#[derive(Debug)]
struct Slot([AtomicU64; 6]);

/// One worker's sums. Differences: only the sum over all workers means anything.
#[derive(Debug)]
pub(crate) struct ClassCounts([Slot; CLASSES_MAX]);

impl Default for ClassCounts {
    fn default() -> ClassCounts {
        ClassCounts(core::array::from_fn(|_| Slot(core::array::from_fn(|_| AtomicU64::new(0)))))
    }
}

/// What happened to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Linked,
    Dropped,
    /// Alive, with or without an expiry to come.
    Evicted {
        expiring: bool,
    },
    /// Expired or flushed.
    Reclaimed,
    /// Likewise, found by the crawler.
    Crawled,
}

impl ClassCounts {
    /// Only the owner calls this.
    #[inline]
    pub(crate) fn note(&self, class: usize, bytes: u64, event: Event) {
        let Some(Slot([items, total, evictions, evictions_of_expiring, reclaimed, crawled])) =
            self.0.get(class)
        else {
            return;
        };
        let change = |sum: &AtomicU64, by: u64| {
            sum.store(sum.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        };
        if event == Event::Linked {
            change(items, 1);
            change(total, bytes);
        } else {
            change(items, 1u64.wrapping_neg());
            change(total, bytes.wrapping_neg());
        }
        match event {
            Event::Linked | Event::Dropped => {}
            Event::Evicted { expiring } => {
                change(evictions, 1);
                change(evictions_of_expiring, u64::from(expiring));
            }
            Event::Reclaimed => change(reclaimed, 1),
            Event::Crawled => {
                change(reclaimed, 1);
                change(crawled, 1);
            }
        }
    }
}

impl Store<'_> {
    /// Bytes of an item as memcached counts them.
    #[inline]
    pub(crate) fn item_bytes(&self, offset: u64, head: &Head) -> u64 {
        let value_len = if head.has(option::LARGE) {
            self.chain_at(offset, head).value_len
        } else {
            u64::from(head.value_len)
        };
        crate::ITEM_OVERHEAD_BYTES + u64::from(head.key_len) + value_len + if head.flags == 0 { 0 } else { 4 }
    }

    /// The class of an item of this size, counted from 0.
    #[inline]
    pub fn class_of(&self, bytes: u64) -> usize {
        let last = self.classes.len().min(CLASSES_MAX).saturating_sub(1);
        self.classes.partition_point(|&largest| u64::from(largest) < bytes).min(last)
    }

    /// What class number `class` (counted from 0, in the order in which the door named them) holds.
    pub fn class(&self, class: usize) -> ClassGauges {
        let sum = |which: usize| {
            let value = |slot: &Slot| slot.0.get(which).map_or(0, |sum| sum.load(Ordering::Relaxed));
            let slots = self.workers.iter().filter_map(|worker| worker.classes.0.get(class));
            slots.fold(0u64, |sum, slot| sum.wrapping_add(value(slot)))
        };
        ClassGauges {
            items: sum(0),
            bytes: sum(1),
            evictions: sum(2),
            evictions_of_expiring: sum(3),
            reclaimed: sum(4),
            crawler_reclaimed: sum(5),
        }
    }
}

//! What the store counts: one table of names, one slot a worker, no shared writes.

use crate::classes::ClassCounts;
use unbuckle_layout::sync::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident / $variant:ident,)+) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum Count { $($(#[$doc])* $variant,)+ }

        const COUNTS: usize = [$(stringify!($field)),+].len();

        /// The sums over all workers, since the store was made. All only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$doc])* pub $field: u64,)+ }

        impl Counts {
            pub(crate) fn sum(slots: &[WorkerCounts]) -> Counts {
                let total = |count: Count| slots.iter().fold(0u64, |sum, slot| sum.wrapping_add(slot.read(count)));
                Counts { $($field: total(Count::$variant),)+ }
            }
        }
    };
}

counts! {
    /// Items stored, replacements included.
    total_items / TotalItems,
    /// Live items that gave way to others.
    evictions / Evictions,
    /// Of these, never fetched.
    evicted_unfetched / EvictedUnfetched,
    /// Of these, fetched lately.
    evicted_active / EvictedActive,
    /// Expired items that had never been fetched.
    expired_unfetched / ExpiredUnfetched,
    /// Expired or flushed items whose memory a store request reused.
    reclaimed / Reclaimed,
    /// Expired or flushed items that the crawler removed.
    crawler_reclaimed / CrawlerReclaimed,
    /// Items that the crawler looked at.
    crawler_items_checked / CrawlerItemsChecked,
    /// Gets that found an expired item.
    get_expired / GetExpired,
    /// Gets that found a flushed item.
    get_flushed / GetFlushed,
    /// Items evicted because all three lines of a new key were full.
    index_evictions / IndexEvictions,
    /// Records copied to another place in the log.
    relocated / Relocated,
    /// Reads that met a writer and started over.
    read_retries / ReadRetries,
    /// Reads that took the lock after too many retries.
    locked_reads / LockedReads,
    /// Items promoted on arrival because their key had been evicted a short while ago.
    ghost_hits / GhostHits,
    /// Invariants found broken; the item was treated as a miss.
    corrupt / Corrupt,
    /// Requests refused for want of memory.
    out_of_memory / OutOfMemory,
    /// Free pages whose memory was given back to whoever the region is from.
    pages_given_back / PagesGivenBack,
}

/// One worker's counters. Only their owner writes them.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerCounts {
    counts: [AtomicU64; COUNTS],
    pub(crate) classes: ClassCounts,
    /// The era in which the worker last held on to nothing: see [`crate::spare`]. 0: there is no worker.
    era: AtomicU64,
}

impl Default for WorkerCounts {
    fn default() -> WorkerCounts {
        WorkerCounts {
            counts: core::array::from_fn(|_| AtomicU64::new(0)),
            classes: ClassCounts::default(),
            era: AtomicU64::new(0),
        }
    }
}

impl WorkerCounts {
    #[inline(always)]
    pub(crate) fn add(&self, count: Count) {
        if let Some(slot) = self.counts.get(count as usize) {
            // Load and store instead of an atomic addition: no other thread writes here.
            slot.store(slot.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    pub(crate) fn era_set(&self, era: u64) {
        self.era.store(era, Ordering::Release);
    }

    fn read(&self, count: Count) -> u64 {
        self.counts.get(count as usize).map_or(0, |slot| slot.load(Ordering::Relaxed))
    }
}

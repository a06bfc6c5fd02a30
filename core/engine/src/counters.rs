//! One thread's counters, under the names that `stats` gives them.
//!
//! The owner adds with a relaxed load and a relaxed store: no locked instruction, because nobody else writes. Anyone
//! may load; a sum over threads is as consistent as memcached's, whose threads are also read one after another.
//! Never reset: a door that offers `stats reset` remembers what to subtract.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// For the owning thread only: two adders could lose counts.
    #[inline(always)]
    pub(crate) fn add(&self, by: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(by), Relaxed);
    }

    #[inline]
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What the requests of one thread came to.
        #[derive(Debug, Default)]
        #[repr(align(128))] // no other thread's counters in the same pair of cache lines
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)+
        }

        impl Counters {
            /// Names, in the order of `stats`.
            pub const NAMES: [&'static str; Self::COUNT] = [$(stringify!($name)),+];
            pub const COUNT: usize = [$(stringify!($name)),+].len();

            /// Values, in the order of [`Self::NAMES`].
            #[must_use]
            pub fn values(&self) -> [u64; Self::COUNT] {
                [$(self.$name.value()),+]
            }
        }
    };
}

counters! {
    /// Keys asked for by `get` and `gets`.
    cmd_get,
    /// Storage commands whose value was taken in, whatever became of it.
    cmd_set,
    cmd_flush,
    /// Keys of `touch`, `gat` and `gats`.
    cmd_touch,
    cmd_meta,
    get_hits,
    get_misses,
    delete_misses,
    delete_hits,
    incr_misses,
    incr_hits,
    decr_misses,
    decr_hits,
    cas_misses,
    cas_hits,
    cas_badval,
    touch_hits,
    touch_misses,
    store_too_large,
    store_no_memory,
    /// Attempts to authenticate, and those that failed.
    auth_cmds,
    auth_errors,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_go_together() {
        let counters = Counters::default();
        counters.get_misses.add(3);
        let at = Counters::NAMES.iter().position(|name| *name == "get_misses").expect("is named");
        assert_eq!(counters.values()[at], 3);
        assert_eq!(counters.values().iter().sum::<u64>(), 3);
    }
}

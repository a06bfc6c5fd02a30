//! A spin lock: held for at most a few hundred nanoseconds, never across I/O, allocation or a caller's code.
//!
//! The door says how to wait when the holder does not run (`relax`): the server yields the processor, the module
//! (softirqs off, so the holder runs) only spins.

use unbuckle_layout::sync::{AtomicU32, Ordering, spin_hint};

/// Spins before `relax` is called.
const SPINS: u32 = 64;

/// The lock alone: what it guards are relaxed atomics beside it.
#[derive(Debug, Default)]
pub(crate) struct Lock(AtomicU32);

/// Unlocks when dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a>(&'a AtomicU32);

impl Lock {
    /// Takes the lock if it is free.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_>> {
        if self.0.load(Ordering::Relaxed) == 0 && self.0.swap(1, Ordering::Acquire) == 0 {
            return Some(Guard(&self.0));
        }
        None
    }

    /// Waits for the lock.
    #[inline]
    pub(crate) fn lock(&self, relax: fn()) -> Guard<'_> {
        let mut spins = 0;
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            spin_hint();
            spins += 1;
            if spins % SPINS == 0 {
                relax();
            }
        }
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

//! The atomics that the region is made of: core's, or a model checker's under test.
//!
//! `--cfg loom` proves the version protocol on a few words, `--cfg shuttle` runs the whole store; nothing else in
//! the project names an atomic type of its own. `--cfg crash` tells a test of every store to a 64-bit word, so that it can
//! look at the region as a process that dies there would leave it.

#[cfg(not(any(loom, shuttle, crash, target_arch = "bpf")))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(crash)]
pub use core::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(crash)]
pub use crashing::{AtomicU64, on_store};

#[cfg(target_arch = "bpf")]
pub use crate::bpf::{AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(all(shuttle, not(loom)))]
pub use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor (or the model checker's scheduler) that this thread waits for another.
#[inline]
pub fn spin_hint() {
    #[cfg(not(any(loom, shuttle)))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(all(shuttle, not(loom)))]
    shuttle::thread::yield_now();
}

/// Words that tell a test before they change.
#[cfg(crash)]
mod crashing {
    extern crate std;

    use core::cell::RefCell;
    use core::sync::atomic::{self, Ordering};
    use std::boxed::Box;

    std::thread_local! {
        static HOOK: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    /// Calls `hook` before each store of this thread, until it is given another one. What the hook stores itself is not told.
    pub fn on_store(hook: Option<Box<dyn FnMut()>>) {
        HOOK.with(|cell| *cell.borrow_mut() = hook);
    }

    fn tell() {
        HOOK.with(|cell| {
            if let Ok(mut hook) = cell.try_borrow_mut()
                && let Some(hook) = hook.as_mut()
            {
                hook();
            }
        });
    }

    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct AtomicU64(atomic::AtomicU64);

    impl AtomicU64 {
        pub const fn new(value: u64) -> AtomicU64 {
            AtomicU64(atomic::AtomicU64::new(value))
        }

        pub fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        pub fn store(&self, value: u64, order: Ordering) {
            tell();
            self.0.store(value, order);
        }

        pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            tell();
            self.0.fetch_add(value, order)
        }

        pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            tell();
            self.0.fetch_sub(value, order)
        }

        pub fn fetch_update(
            &self,
            set: Ordering,
            fetch: Ordering,
            change: impl FnMut(u64) -> Option<u64>,
        ) -> Result<u64, u64> {
            tell();
            self.0.fetch_update(set, fetch, change)
        }
    }
}

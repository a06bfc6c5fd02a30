//! The atomics that the region is made of: core's, or a model checker's under test.
//!
//! `--cfg loom` proves the version protocol on a few words, `--cfg shuttle` runs the whole store; nothing else in
//! the project names an atomic type of its own.

#[cfg(not(any(loom, shuttle, target_arch = "bpf")))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

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

//! Atomics for BPF programs, where Rust and the older kernels have none that order.
//!
//! Words are 64 bits wide. The instruction sets that kernels before 6.15 load have neither atomic loads nor acquire and
//! release, and LLVM refuses to select them: here an access is a volatile one, which is one instruction that the machine
//! does not tear, and an ordered access stands beside a barrier for the compiler. That is all that x86 needs, whose
//! loads and stores keep their order. A program for a machine that reorders adds a value-returning atomic of its own.

#![allow(unsafe_code)] // the island: volatile access to words that others write

use core::sync::atomic::{AtomicU64 as Word, compiler_fence};

pub use core::sync::atomic::Ordering;

/// A word of the region.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtomicU64(Word);

impl AtomicU64 {
    pub const fn new(value: u64) -> AtomicU64 {
        AtomicU64(Word::new(value))
    }

    #[inline(always)]
    pub fn load(&self, order: Ordering) -> u64 {
        // SAFETY: the pointer comes from a reference to a whole, aligned word.
        let value = unsafe { core::ptr::read_volatile(self.0.as_ptr()) };
        if !matches!(order, Ordering::Relaxed) {
            fence(order);
        }
        value
    }

    #[inline(always)]
    pub fn store(&self, value: u64, order: Ordering) {
        if !matches!(order, Ordering::Relaxed) {
            fence(order);
        }
        // SAFETY: as in `load`; an atomic's memory may be written through a shared reference.
        unsafe { core::ptr::write_volatile(self.0.as_ptr(), value) };
    }

    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut u64 {
        self.0.as_ptr()
    }
}

#[inline(always)]
pub fn fence(order: Ordering) {
    compiler_fence(order);
}

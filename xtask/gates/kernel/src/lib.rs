//! Every public entry of the core as a root for the linker, for a target without an operating system.
//!
//! `cargo xtask gates` links this with `--gc-sections` from the `gate_*` functions and reads what is left: a call of
//! `unbuckle_panic_is_reachable` means that some input panics, one of `unbuckle_allocation_is_reachable` that something
//! allocates. Neither symbol exists anywhere. All arguments come from outside, so that nothing can be folded away.
//! This is never run.
#![no_std]

mod engine;
mod planted;
mod store;
mod wire;

use core::alloc::{GlobalAlloc, Layout};

unsafe extern "C" {
    safe fn unbuckle_panic_is_reachable() -> !;
    safe fn unbuckle_allocation_is_reachable() -> *mut u8;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { unbuckle_panic_is_reachable() }

struct NoAllocator;

// SAFETY: never linked into anything that runs; it only names a symbol.
unsafe impl GlobalAlloc for NoAllocator {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 { unbuckle_allocation_is_reachable() }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: NoAllocator = NoAllocator;

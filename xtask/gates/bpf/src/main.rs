//! The layout's lookup as a BPF program that nobody loads: BPF has no 64x64->128 multiply, no calls through pointers, five
//! arguments a function and no panic. `cargo xtask gates` builds it and looks for symbols that nothing defines.
#![no_std]
#![no_main]

mod lookup;
mod planted;

unsafe extern "C" {
    safe fn unbuckle_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { unbuckle_panic_is_reachable() }

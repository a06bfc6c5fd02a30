//! Why there is no panic in the kernel: the handler calls a function that exists nowhere.
//!
//! If optimisation leaves one path to it, the symbol stays undefined in the object, and neither the gate of
//! `cargo xtask module build` nor modpost lets the module through.

#![allow(unsafe_code)] // the island: naming a symbol

unsafe extern "C" {
    safe fn unbuckle_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unbuckle_panic_is_reachable()
}

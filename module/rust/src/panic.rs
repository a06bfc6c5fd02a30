//! Why there is no panic in the kernel: the handler calls a function that exists nowhere.
//!
//! If optimisation leaves one path to it, the symbol stays undefined in the object, and neither the gate of
//! `cargo xtask module build` nor modpost lets the module through.
//!
//! The debug build, which is compiled with assertions, keeps the paths: there a panic says where it was, and stops the
//! machine.

#![allow(unsafe_code)] // the island: naming symbols, and calling the debug build's

#[cfg(not(debug_assertions))]
unsafe extern "C" {
    safe fn unbuckle_panic_is_reachable() -> !;
}

#[cfg(not(debug_assertions))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unbuckle_panic_is_reachable()
}

#[cfg(debug_assertions)]
unsafe extern "C" {
    fn unbuckle_debug_panic(file: *const u8, len: usize, line: u32) -> !;
}

#[cfg(debug_assertions)]
#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    let (file, line) = information.location().map_or(("?", 0), |place| (place.file(), place.line()));
    // SAFETY: the function is the shim's (`shim/debug.c`); it reads the name before it stops the machine.
    unsafe { unbuckle_debug_panic(file.as_ptr(), file.len(), line) }
}

//! What the kernel's verifier and LLVM have to be told: the only place with assembly.
//!
//! - The verifier knows of a number only what it has seen in the same register; LLVM removes or moves checks that it
//!   has proved needless. [`opaque`] hides a number's origin from LLVM, so that a mask behind it stays where it is.
//! - LLVM splits an access that may be unaligned into bytes. Here an access is one instruction of the size that is
//!   named, whatever the alignment: every machine whose kernel allows it to us takes that.
//! - Loads of memory that others write must not be doubled or left out: these are not.

use core::arch::asm;

/// The same number, about which LLVM knows nothing.
#[inline(always)]
pub(crate) fn opaque(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: copies a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}

/// The same number, if it is from 1 to 2,048, so that the verifier sees that it is: before 6.8 it learns nothing from a number
/// not being 0.
#[inline(always)]
pub(crate) fn length(number: u64) -> u64 {
    (opaque(number).wrapping_sub(1) & 0x7ff) + 1
}

/// `end - start` in 64 bits: LLVM would narrow it to 32, which the verifier refuses for pointers.
#[inline(always)]
pub(crate) fn distance(start: u64, end: u64) -> u64 {
    let mut distance = end;
    // SAFETY: register arithmetic.
    unsafe {
        asm!("{0} -= {1}", inout(reg) distance, in(reg) start, options(nomem, nostack, preserves_flags))
    };
    distance
}

/// 1 if the number is 0, else 0, without a branch: the verifier follows both sides of each, in every turn of a loop.
#[inline(always)]
pub(crate) fn is_zero(number: u64) -> u64 {
    !opaque(number | number.wrapping_neg()) >> 63
}

macro_rules! loads {
    ($($(#[$doc:meta])* $name:ident $text:literal,)+) => { $(
        $(#[$doc])*
        /// # Safety
        /// The bytes at `at` must be readable.
        #[inline(always)]
        pub(crate) unsafe fn $name(at: *const u8) -> u64 {
            let value: u64;
            // SAFETY: the caller's promise; besides, the verifier proves it or refuses the program.
            unsafe {
                asm!(concat!("{0} = *(", $text, " *)({1} + 0)"), out(reg) value, in(reg) at,
                    options(nostack, readonly, preserves_flags));
            }
            value
        }
    )+ };
}

loads! {
    load1 "u8",
    load2 "u16",
    load4 "u32",
    load8 "u64",
}

macro_rules! stores {
    ($($name:ident $text:literal,)+) => { $(
        /// # Safety
        /// The bytes at `at` must be writable.
        #[inline(always)]
        pub(crate) unsafe fn $name(at: *mut u8, value: u64) {
            // SAFETY: as for the loads.
            unsafe {
                asm!(concat!("*(", $text, " *)({0} + 0) = {1}"), in(reg) at, in(reg) value,
                    options(nostack, preserves_flags));
            }
        }
    )+ };
}

stores! {
    store1 "u8",
    store2 "u16",
    store4 "u32",
    store8 "u64",
}

/// A full barrier on every machine: an addition that returns the old value.
///
/// # Safety
/// `at` must be an aligned word in a map.
#[inline(always)]
pub(crate) unsafe fn barrier(at: *mut u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) at, inout(reg) 0u64 => _,
            options(nostack, preserves_flags));
    }
}

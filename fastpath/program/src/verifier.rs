//! What the kernel's verifier and LLVM have to be told: the only place with assembly.
//!
//! - The verifier knows of a number only what it has seen in the same register; LLVM removes or moves checks that it
//!   has proved needless. [`opaque`] hides a number's origin from LLVM, so that a mask behind it stays where it is.
//! - The build says that accesses may be unaligned, so that LLVM does not split them into bytes: every machine whose
//!   kernel allows it to us takes that.
//! - Accesses to memory that others use must not be doubled or left out: those named `shared` are not.

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

/// The same pointer, with whatever memory behind it that LLVM knew forgotten.
#[inline(always)]
pub(crate) fn opaque_pointer<T>(pointer: *mut T) -> *mut T {
    let mut pointer = pointer;
    // SAFETY: copies a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) pointer, options(nostack, preserves_flags)) };
    pointer
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
    // Of what is known to be 0 or 1, LLVM makes branches again.
    opaque(!opaque(number | number.wrapping_neg()) >> 63)
}

/// Whether LLVM knows the number, after everything is inlined. It may say no.
#[inline(always)]
pub(crate) fn is_constant(number: u64) -> bool {
    core::intrinsics::is_val_statically_known(number)
}

macro_rules! accesses {
    ($($load:ident $store:ident $type:ty,)+) => { $(
        /// # Safety
        /// The bytes at `at` must be readable, and this program's own.
        #[inline(always)]
        pub(crate) unsafe fn $load(at: *const u8) -> u64 {
            // SAFETY: the caller's promise; besides, the verifier proves it or refuses the program.
            u64::from(unsafe { at.cast::<$type>().read_unaligned() })
        }

        /// # Safety
        /// The bytes at `at` must be writable.
        #[inline(always)]
        pub(crate) unsafe fn $store(at: *mut u8, value: u64) {
            // SAFETY: as for the loads.
            unsafe { at.cast::<$type>().write_unaligned(value as $type) };
        }
    )+ };
}

accesses! {
    load1 store1 u8,
    load2 store2 u16,
    load4 store4 u32,
    load8 store8 u64,
}

/// One store to memory that others read.
///
/// # Safety
/// The byte at `at` must be writable.
#[inline(always)]
pub(crate) unsafe fn store1_shared(at: *mut u8, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("*(u8 *)({0} + 0) = {1}", in(reg) at, in(reg) value, options(nostack, preserves_flags));
    }
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

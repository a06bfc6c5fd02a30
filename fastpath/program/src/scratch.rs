//! A processor's working memory: the request's copy, the reply, and what one step hands to the next.
//!
//! It stands in a per-CPU map, because a program has 512 bytes of stack. Steps are functions of their own, verified
//! apart, and numbers that go through this memory are unknown to the verifier again: that keeps it from following every
//! length through everything that comes after.
//!
//! Positions are the same in both buffers: the payload (UDP frame first) begins at [`PAYLOAD`], whatever headers stand
//! in front of it.

use crate::SCRATCH;
use crate::verifier::{self, is_constant, opaque};

/// Where the payload begins in either buffer.
pub(crate) const PAYLOAD: u64 = 64;
/// Positions are masked with this.
const POSITIONS: u64 = 0xfff;
/// Room behind the last position for a [`Window`] of [`WINDOW_BYTES`], and for [`Bytes::forget`].
const SPARE_BYTES: usize = WINDOW_BYTES + 8;
/// What a window shows: the longest key, and what stands around it in its first and last word.
pub(crate) const WINDOW_BYTES: usize = 264;
const FORGOTTEN: usize = POSITIONS as usize + 1 + SPARE_BYTES - 8;
/// Keys in a request: more than fit a reply, of which each takes 16 bytes at least.
pub(crate) const KEYS_MAX: u64 = 88;
/// Room for them: a power of two.
const MARKS: usize = 128;

/// Bytes by position.
#[repr(C, align(8))]
pub(crate) struct Buffer([u8; POSITIONS as usize + 1 + SPARE_BYTES]);

#[repr(C, align(64))]
pub(crate) struct Scratch {
    pub(crate) frame: Buffer,
    pub(crate) reply: Buffer,
    /// A number's digits, written from the end.
    pub(crate) digits: [u8; 64],
    /// For each hit: where its access mark is in the region (bytes), shifted by 8, and the new mark; 0 for none.
    pub(crate) marks: [u64; MARKS],
    /// For fences.
    pub(crate) fence: u64,
    /// The clock as it was read last: when, in ticks of the kernel; CLOCK_BOOTTIME in nanoseconds; the seconds' zero.
    pub(crate) read_at: u64,
    pub(crate) now_ns: u64,
    pub(crate) second_zero_ns: u64,
    /// Where the next key, or flag, begins in `frame`.
    pub(crate) cursor: u64,
    /// The key in front of it: where, of how many bytes, whether the line ends with it, and its hash.
    pub(crate) key_at: u64,
    pub(crate) key_len: u64,
    pub(crate) key_is_last: u64,
    pub(crate) hash: u64,
    /// Behind the request's last byte in `frame`.
    pub(crate) end: u64,
    /// Behind the last byte written in `reply`.
    pub(crate) filled: u64,
    /// Keys answered.
    pub(crate) hits: u64,
    /// The time, as the region counts it, and its code in access marks.
    pub(crate) now_s: u64,
    pub(crate) tick_code: u64,
    /// `fence` is needed; CAS values are told.
    pub(crate) flags: u64,
    /// An `mg`: where its flags begin, which there are, and the item as they tell it.
    pub(crate) letters_at: u64,
    pub(crate) letters: u64,
    pub(crate) value_len: u64,
    pub(crate) item_flags: u64,
    pub(crate) item_cas: u64,
    pub(crate) item_expiry: u64,
}

impl Scratch {
    /// This processor's. Programs here run with softirqs off, one at a time.
    #[inline(always)]
    pub(crate) fn current() -> Option<&'static mut Scratch> {
        let scratch = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: the map's element is a Scratch, valid for every bit pattern; nothing else runs on this processor that
        // uses it before the program ends. Steps get it anew, and their caller uses nothing borrowed across the call.
        Some(unsafe { &mut *scratch })
    }

    /// The same memory after a step that got it anew: nothing of it is as it was.
    #[inline(always)]
    pub(crate) fn again(&mut self) -> &'static mut Scratch {
        let scratch = verifier::opaque_pointer(self);
        // SAFETY: as above; the caller has borrowed nothing across the step.
        unsafe { &mut *scratch }
    }
}

/// A buffer's memory. Every access is inside it, for the position is masked.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(*mut u8);

impl Buffer {
    #[inline(always)]
    pub(crate) fn bytes(&mut self) -> Bytes {
        Bytes(self.0.as_mut_ptr())
    }
}

impl Bytes {
    /// The same number, of which the verifier knows nothing any more. A loop whose turns leave different numbers behind would
    /// have it walk all that follows once for each, as would what a branch has shown of a length: kernels before 6.3 compare
    /// every number that they know.
    #[inline(always)]
    pub(crate) fn forget(self, number: u64) -> u64 {
        let at = self.0.wrapping_add(FORGOTTEN).cast::<u64>();
        // SAFETY: the place is inside the buffer, behind all positions.
        unsafe {
            at.write_volatile(number);
            at.read_volatile()
        }
    }

    /// The memory from a constant position on, for helpers.
    #[inline(always)]
    pub(crate) fn from(self, position: u64) -> *mut u8 {
        self.0.wrapping_add((position & POSITIONS) as usize)
    }

    /// The bytes from a position on.
    #[inline(always)]
    pub(crate) fn window(self, position: u64) -> Window {
        Window(self.place(position))
    }

    /// A constant position needs no mask in the program: that is one instruction instead of four.
    #[inline(always)]
    fn place(self, position: u64) -> *mut u8 {
        let position = if is_constant(position) { position } else { opaque(position) };
        self.0.wrapping_add((position & POSITIONS) as usize)
    }

    #[inline(always)]
    pub(crate) fn load1(self, position: u64) -> u64 {
        // SAFETY: the masked position and the access's width are within the buffer. So for all the others.
        unsafe { verifier::load1(self.place(position)) }
    }

    #[inline(always)]
    pub(crate) fn load2(self, position: u64) -> u64 {
        // SAFETY: as above.
        unsafe { verifier::load2(self.place(position)) }
    }

    #[inline(always)]
    pub(crate) fn load4(self, position: u64) -> u64 {
        // SAFETY: as above.
        unsafe { verifier::load4(self.place(position)) }
    }

    #[inline(always)]
    pub(crate) fn load8(self, position: u64) -> u64 {
        // SAFETY: as above.
        unsafe { verifier::load8(self.place(position)) }
    }

    #[inline(always)]
    pub(crate) fn store1(self, position: u64, value: u64) {
        // SAFETY: as above.
        unsafe { verifier::store1(self.place(position), value) }
    }

    #[inline(always)]
    pub(crate) fn store2(self, position: u64, value: u64) {
        // SAFETY: as above.
        unsafe { verifier::store2(self.place(position), value) }
    }

    #[inline(always)]
    pub(crate) fn store4(self, position: u64, value: u64) {
        // SAFETY: as above.
        unsafe { verifier::store4(self.place(position), value) }
    }

    #[inline(always)]
    pub(crate) fn store8(self, position: u64, value: u64) {
        // SAFETY: as above.
        unsafe { verifier::store8(self.place(position), value) }
    }
}

/// [`WINDOW_BYTES`] of memory. An index needs no mask, so that an access is one instruction; the verifier is to see that it
/// is inside.
#[derive(Clone, Copy)]
pub(crate) struct Window(*mut u8);

impl Window {
    #[inline(always)]
    pub(crate) fn load8(self, word: u64) -> u64 {
        // SAFETY: inside the window, or the verifier refuses the program. So for the store.
        unsafe { verifier::load8(self.0.wrapping_add(8 * word as usize)) }
    }

    #[inline(always)]
    pub(crate) fn store8(self, word: u64, value: u64) {
        // SAFETY: as above.
        unsafe { verifier::store8(self.0.wrapping_add(8 * word as usize), value) }
    }
}

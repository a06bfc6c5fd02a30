//! What a step came to.

use unbuckle_fastpath_abi::Reason;

/// The packet is passed on: the number of a [`Reason`].
pub(crate) struct Pass(pub(crate) u64);

const _: () = assert!(Reason::COUNT.is_power_of_two());

impl From<Reason> for Pass {
    #[inline(always)]
    fn from(reason: Reason) -> Pass {
        Pass(reason as u64)
    }
}

/// As a number that the verifier lets through: there may be more keys.
pub(crate) const MORE: u64 = 0;
/// That was the line's end.
pub(crate) const DONE: u64 = 1;
/// From here on: pass, for this reason.
pub(crate) const PASS: u64 = 2;

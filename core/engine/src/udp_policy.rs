//! Who may ask how much over UDP, so that a server is of no use for flooding others. The same for every door that has a
//! request in its hands.
//!
//! Sources in the allowed ranges are served without limit. Any other gets a rate, and replies that are at most three
//! times as long as the request: less than the cheapest other way to multiply traffic. (Programs in the kernel that only
//! answer the allowed ones have no use for the rate: they pass the others on to the door.)

use crate::sources::{Rate, Set, source_key, spend};

/// Requests that a limited source may send in one second, and at once after it was silent.
pub const REQUESTS_PER_S: u32 = 100;
/// Reply bytes for each request byte, frame headers included on both sides.
const REPLY_FACTOR: usize = 3;

/// Addresses with the same prefix. C has it as `struct unbuckle_range`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Range {
    /// IPv4 in its mapped form.
    pub address: [u8; 16],
    /// Of the 128 bits.
    pub prefix_len: u8,
}

impl Range {
    fn contains(&self, address: u128) -> bool {
        let differing = u128::from_be_bytes(self.address) ^ address;
        differing.leading_zeros() >= u32::from(self.prefix_len)
    }
}

/// What is to be done with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unlimited,
    /// Serve it, with replies of so many bytes together.
    Limited {
        reply_bytes_max: usize,
    },
    /// Over its rate.
    Drop,
}

/// For a datagram of `request_bytes` from `source` (IPv4 in its mapped form) at second `now_s`. `seed` is for the table.
pub fn judge(
    allowed: &[Range],
    table: &mut [Set],
    seed: u64,
    source: u128,
    request_bytes: usize,
    now_s: u32,
) -> Verdict {
    if allowed.iter().any(|range| range.contains(source)) {
        return Verdict::Unlimited;
    }
    let rate = Rate { per_s: REQUESTS_PER_S, most: REQUESTS_PER_S };
    if !spend(table, rate, seed, source_key(source), now_s) {
        return Verdict::Drop;
    }
    Verdict::Limited { reply_bytes_max: request_bytes.saturating_mul(REPLY_FACTOR) }
}
